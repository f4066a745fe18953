"""The HTTP routes: OpenAI's API, health and metrics, and the web page."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio.to_thread
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from mossvl.errors import MossVLError
from mossvl.names import nearest
from mossvl.server.apis import add_apis
from mossvl.server.background import cut_off, start, tidy_up, watch_lag
from mossvl.server.description import body_of, responses
from mossvl.server.errands import Errands
from mossvl.server.errors import GONE, RequestError, error_response
from mossvl.server.file_routes import add_files
from mossvl.server.middleware import Gate
from mossvl.server.models import add_models
from mossvl.server.realtime.routes import add_live
from mossvl.server.schemas.frames import FramesRequest
from mossvl.server.service import Service
from mossvl.server.streams import ClientGone
from mossvl.version import __version__

PAGE = Path(__file__).parent / "page"
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
    errands = Errands(service.previews)
    add_apis(app, service, errands)
    add_models(app, service)
    _add_media(app, service, errands)
    add_files(app, service)
    add_live(app, service)
    _add_state(app, service)
    _add_page(app)
    return app


# --- errors ----------------------------------------------------------------------------------------------------------


def _answer_errors(app: FastAPI, service: Service) -> None:
    def told(request: Request, error: BaseException) -> JSONResponse:
        refused = service.told(error)
        service.metrics.errors.labels(refused.code).inc()
        return error_response(refused, request.state.path)

    @app.exception_handler(MossVLError)
    async def expected(request: Request, error: MossVLError) -> JSONResponse:
        return told(request, error)

    @app.exception_handler(ClientDisconnect)
    @app.exception_handler(ClientGone)
    async def gone(_: Request, __: Exception) -> Response:
        service.metrics.disconnects.labels("gone").inc()
        return Response(status_code=GONE)

    @app.exception_handler(HTTPException)
    async def routing(request: Request, error: HTTPException) -> JSONResponse:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
        path = request.state.path
        asked, advice, headers = f"{request.method:.40} {path!r:.200}", "", dict(error.headers or {})
        routes = [route for route in app.routes if isinstance(route, APIRoute)]
        if error.status_code == 404:
            near = _near(path, {route.path for route in routes})
            advice = f"; did you mean {near!r}?" if near else "; /openapi.json has the routes of this server"
        if error.status_code == 405:
            # Each method of a path is a route of its own, and the error names those of one.
            allowed = {method for route in routes if route.path_regex.match(path) for method in route.methods or ()}
            headers["Allow"] = ", ".join(sorted(allowed)) or headers.get("Allow", "")
            advice = f"; allowed are {headers['Allow']}"
        response = told(request, RequestError(error.status_code, code, f"{asked}: {error.detail}{advice}"))
        response.headers.update(headers)
        return response


def _near(path: str, known: Collection[str]) -> str | None:
    """Return the route that a client meant: most often, its base URL lacks /v1."""
    return f"/v1{path}" if f"/v1{path}" in known else nearest(path, known)


# --- media -----------------------------------------------------------------------------------------------------------


def _add_media(app: FastAPI, service: Service, errands: Errands) -> None:
    refused = responses(400, 401, 404, 413, 503, 504)

    @app.post("/v1/media/frames", openapi_extra=body_of(FramesRequest), responses=refused)
    async def frames(request: Request) -> dict[str, Any]:
        """Preview an image or video: sizes and token counts, and of each frame its timestamp and thumbnail."""
        return await errands.run(request, service.frames)


# --- health and metrics ----------------------------------------------------------------------------------------------


def _add_state(app: FastAPI, service: Service) -> None:
    @app.head("/health", include_in_schema=False)
    @app.get("/health", responses=responses(503))
    async def health() -> dict[str, Any]:
        """Report whether the server is alive and, once its model is loaded, whether a live session is open."""
        if service.broken is not None:
            raise RequestError(503, "engine_failed", str(service.broken))
        loaded = {"model_loaded": True, "session_active": service.live_sessions > 0}
        return {"status": "alive"} | (loaded if service.is_ready else {})

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
    async def page() -> HTMLResponse:
        return _document("index.html")

    @app.get("/live", include_in_schema=False)
    async def live() -> HTMLResponse:
        return _document("live.html")

    app.mount("/page", Checked(directory=PAGE), name="page")
    app.mount("/samples", Checked(directory=PAGE / "samples"), name="samples")


def _document(name: str) -> HTMLResponse:
    """A page, with what both have in common in place of comments that name its file."""
    parts = re.split(r" *<!-- (\w+\.html) -->\n", (PAGE / name).read_text(encoding="utf-8"))
    parts[1::2] = [(PAGE / part).read_text(encoding="utf-8") for part in parts[1::2]]
    return HTMLResponse("".join(parts), headers=Checked.HEADERS | {"content-security-policy": CONTENT_POLICY})


class Checked(StaticFiles):
    """Static files that browsers revalidate, so that an upgraded page mixes no old files with new ones."""

    HEADERS = {"cache-control": "no-cache"}

    def file_response(self, *given: Any, **named: Any) -> Response:
        response = super().file_response(*given, **named)
        response.headers.update(self.HEADERS)
        return response
