"""Routes that answer prompts: OpenAI's APIs, and Anthropic's."""

from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from mossvl.server.answering import answered
from mossvl.server.chat import ChatExchange
from mossvl.server.completions import CompletionExchange
from mossvl.server.description import STREAM, body_of, responses
from mossvl.server.errands import Errands
from mossvl.server.errors import RequestError
from mossvl.server.messages import MessageExchange, counted
from mossvl.server.problems import check_query
from mossvl.server.responses import ResponseExchange
from mossvl.server.schemas.chat import ChatRequest
from mossvl.server.schemas.completions import CompletionRequest
from mossvl.server.schemas.messages import CountRequest, MessagesRequest
from mossvl.server.schemas.responses import ResponsesRequest
from mossvl.server.service import Service

ERRORS = 400, 401, 408, 413, 503, 504
RETRIEVED_BY = ("include", "include[]", "include_obfuscation", "starting_after", "stream")
"""Parameters of stored responses, as OpenAI's clients write them; all but `stream` change nothing here."""


def add_apis(app: FastAPI, service: Service, errands: Errands) -> None:
    _add_openai(app, service)
    _add_stored(app, service)
    _add_anthropic(app, service, errands)


def _add_openai(app: FastAPI, service: Service) -> None:
    @app.post("/v1/chat/completions", openapi_extra=body_of(ChatRequest), responses=responses(404, *ERRORS) | STREAM)
    async def chat(request: Request) -> Response:
        """Answer a conversation with texts, images and videos, whole or as server-sent events."""
        return await answered(service, request, ChatExchange)

    @app.post("/v1/completions", openapi_extra=body_of(CompletionRequest), responses=responses(*ERRORS) | STREAM)
    async def complete(request: Request) -> Response:
        """Continue prompts as they are, without a chat template, whole or as server-sent events."""
        return await answered(service, request, CompletionExchange)

    @app.post("/v1/responses", openapi_extra=body_of(ResponsesRequest), responses=responses(404, *ERRORS) | STREAM)
    async def respond(request: Request) -> Response:
        """Answer a conversation in the form of OpenAI's Responses API, whole or as server-sent events."""
        return await answered(service, request, ResponseExchange)


def _add_stored(app: FastAPI, service: Service) -> None:
    # In threads: the index of responses may wait for another process.
    @app.get("/v1/responses/{response_id}", responses=responses(400, 401, 404))
    def response(request: Request, response_id: str) -> dict[str, Any]:
        """Return a stored response."""
        check_query(request.query_params, RETRIEVED_BY)
        if request.query_params.get("stream", "").lower() in ("true", "1"):
            message = "a stored response is not streamed again; leave out stream"
            raise RequestError(400, "unsupported", message, "stream")
        return service.responses.get(request.state.key, response_id).content

    @app.delete("/v1/responses/{response_id}", responses=responses(401, 404))
    def delete_response(request: Request, response_id: str) -> dict[str, Any]:
        """Delete a stored response."""
        service.responses.remove(request.state.key, response_id)
        return {"id": response_id, "object": "response", "deleted": True}


def _add_anthropic(app: FastAPI, service: Service, errands: Errands) -> None:
    @app.post("/v1/messages", openapi_extra=body_of(MessagesRequest), responses=responses(404, *ERRORS) | STREAM)
    async def message(request: Request) -> Response:
        """Answer a conversation in the form of Anthropic's Messages API, whole or as server-sent events."""
        return await answered(service, request, MessageExchange)

    @app.post("/v1/messages/count_tokens", openapi_extra=body_of(CountRequest), responses=responses(404, *ERRORS))
    async def count_tokens(request: Request) -> dict[str, int]:
        """Count the text and vision tokens of a conversation, Anthropic's."""
        return {"input_tokens": await errands.run(request, partial(counted, service))}
