"""The HTTP routes: OpenAI's API, health and metrics, and the web page."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from mossvl.errors import MossVLError
from mossvl.server.answering import answered
from mossvl.server.background import cut_off, start, tidy_up, watch_lag
from mossvl.server.chat import ChatExchange
from mossvl.server.completions import CompletionExchange
from mossvl.server.description import STREAM, body_of, responses
from mossvl.server.errors import GONE, RequestError, error_response, unavailable
from mossvl.server.file_routes import add_files
from mossvl.server.middleware import Gate
from mossvl.server.models import add_models
from mossvl.server.responses import ResponseExchange
from mossvl.server.schemas.chat import ChatRequest
from mossvl.server.schemas.completions import CompletionRequest
from mossvl.server.schemas.frames import FramesRequest
from mossvl.server.schemas.responses import ResponsesRequest
from mossvl.server.service import Service
from mossvl.server.streams import ClientGone, while_connected
from mossvl.version import __version__

PAGE = Path(__file__).parent / "page"
MOST_WAITING = 32
"""Previews that may wait; more are refused."""
CONTENT_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob: http: https:; style-src 'self'; "
    "script-src 'self'; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


def create_app(service: Service, failed: Callable[[], None] = lambda: None) -> FastAPI:
    """Return an application that starts the service, serves its routes, and closes it.

    Args:
        failed: called when the model cannot be loaded.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        starting = asyncio.create_task(start(service, failed))
        beside = [asyncio.create_task(task(service)) for task in (watch_lag, cut_off, tidy_up)]
        yield
        service.stopping = True
        for task in beside:
            task.cancel()
        starting.cancel()
        await anyio.to_thread.run_sync(service.close)

    app = FastAPI(title="MOSS-VL", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(Gate, config=service.config, metrics=service.metrics)
    if origins := service.config.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["*"],
            allow_headers=["*"],
            allow_private_network=True,  # Public sites may call a server on the visitor's machine.
            expose_headers=["x-request-id", "retry-after"],
        )
    _answer_errors(app, service)
    _add_chat(app, service)
    add_models(app, service)
    _add_media(app, service)
    add_files(app, service)
    _add_state(app, service)
    _add_page(app)
    return app


# --- errors ----------------------------------------------------------------------------------------------------------


def _answer_errors(app: FastAPI, service: Service) -> None:
    def answered(error: BaseException) -> JSONResponse:
        refused = service.told(error)
        service.metrics.errors.labels(refused.code).inc()
        return error_response(refused)

    @app.exception_handler(MossVLError)
    async def expected(_: Request, error: MossVLError) -> JSONResponse:
        return answered(error)

    @app.exception_handler(ClientDisconnect)
    @app.exception_handler(ClientGone)
    async def gone(_: Request, __: Exception) -> Response:
        service.metrics.disconnects.labels("gone").inc()
        return Response(status_code=GONE)

    @app.exception_handler(HTTPException)
    async def routing(request: Request, error: HTTPException) -> JSONResponse:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
        asked = f"{request.method:.40} {request.url.path!r:.200}"
        response = answered(RequestError(error.status_code, code, f"{asked}: {error.detail}"))
        response.headers.update(error.headers or {})
        return response


# --- answers ---------------------------------------------------------------------------------------------------------


def _add_chat(app: FastAPI, service: Service) -> None:
    errors = 400, 401, 408, 413, 503, 504

    @app.post("/v1/chat/completions", openapi_extra=body_of(ChatRequest), responses=responses(*errors) | STREAM)
    async def chat(request: Request) -> Response:
        """Answer a conversation with texts, images and videos, whole or as server-sent events."""
        return await answered(service, request, ChatExchange)

    @app.post("/v1/completions", openapi_extra=body_of(CompletionRequest), responses=responses(*errors) | STREAM)
    async def complete(request: Request) -> Response:
        """Continue prompts as they are, without a chat template, whole or as server-sent events."""
        return await answered(service, request, CompletionExchange)

    @app.post("/v1/responses", openapi_extra=body_of(ResponsesRequest), responses=responses(404, *errors) | STREAM)
    async def respond(request: Request) -> Response:
        """Answer a conversation in the form of OpenAI's Responses API, whole or as server-sent events."""
        return await answered(service, request, ResponseExchange)

    @app.get("/v1/responses/{response_id}", responses=responses(401, 404))
    async def response(request: Request, response_id: str) -> dict[str, Any]:
        """Return a stored response."""
        return service.responses.get(request.state.key, response_id).content

    @app.delete("/v1/responses/{response_id}", responses=responses(401, 404))
    async def delete_response(request: Request, response_id: str) -> dict[str, Any]:
        """Delete a stored response."""
        service.responses.remove(request.state.key, response_id)
        return {"id": response_id, "object": "response", "deleted": True}


# --- media -----------------------------------------------------------------------------------------------------------


def _add_media(app: FastAPI, service: Service) -> None:
    previews = CapacityLimiter(service.previews)

    @app.post("/v1/media/frames", openapi_extra=body_of(FramesRequest), responses=responses(400, 401, 413, 503, 504))
    async def frames(request: Request) -> dict[str, Any]:
        """Preview an image or video: sizes and token counts, and of each frame its timestamp and thumbnail."""
        if previews.statistics().tasks_waiting >= MOST_WAITING:
            raise unavailable("overloaded", "many previews wait; try again later")
        call = await anyio.to_thread.run_sync(service.frames, await request.body())
        try:
            running = anyio.to_thread.run_sync(call.run, limiter=previews, abandon_on_cancel=True)
            return await while_connected(request, running)
        finally:
            call.stop()


# --- health and metrics ----------------------------------------------------------------------------------------------


def _add_state(app: FastAPI, service: Service) -> None:
    @app.head("/health", include_in_schema=False)
    @app.get("/health", responses=responses(503))
    async def health() -> dict[str, str]:
        """Report whether the server is alive."""
        if service.broken is not None:
            raise RequestError(503, "engine_failed", str(service.broken))
        return {"status": "alive"}

    @app.head("/ready", include_in_schema=False)
    @app.get("/ready", responses=responses(503))
    async def ready() -> dict[str, str]:
        """Report whether the model is loaded and requests are accepted."""
        _ = service.ready
        return {"status": "ready"}

    @app.get("/version")
    async def version() -> dict[str, str]:
        return {"version": __version__}

    @app.get("/metrics", response_class=Response, responses=responses(401))
    async def metrics() -> Response:
        """Metrics in Prometheus' text format."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


# --- the web page ----------------------------------------------------------------------------------------------------


def _add_page(app: FastAPI) -> None:
    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers=Checked.HEADERS | {"content-security-policy": CONTENT_POLICY})

    app.mount("/page", Checked(directory=PAGE), name="page")
    app.mount("/samples", Checked(directory=PAGE / "samples"), name="samples")


class Checked(StaticFiles):
    """Static files that browsers revalidate, so that an upgraded page mixes no old files with new ones."""

    HEADERS = {"cache-control": "no-cache"}

    def file_response(self, *given: Any, **named: Any) -> Response:
        response = super().file_response(*given, **named)
        response.headers.update(self.HEADERS)
        return response
