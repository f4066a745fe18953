"""Errors in OpenAI's format: an HTTP status, and a JSON body with message, type, code and param."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse

from mossvl.errors import (
    ContextLengthError,
    EngineError,
    GenerationCancelled,
    GenerationTimeout,
    InputError,
    MediaError,
    MossVLError,
    OptionError,
    PromptError,
    ResourceError,
    message_of,
)

LONGEST_MESSAGE = 1000
"""Characters of a message, after which it is cut: it may quote the client's input."""
FLAGS = {
    "MediaLimits.image_pixels": "--max-image-pixels",
    "MediaLimits.download_bytes": "--max-download",
    "MediaLimits.duration": "--max-duration",
    "MediaLimits.timeout": "--media-timeout",
    "SourcePolicy.public_only": "--allow-private-media",
    "EngineConfig.memory": "--memory",
}
"""Flags of `mossvl serve`, by the settings that errors name."""
RETRY_SECONDS = 5
"""Retry-After of refusals that may succeed later."""


class RequestError(MossVLError):
    """A request is refused.

    Attributes:
        status: HTTP status.
        code: kind of error, for programs.
        param: the field of the request that is wrong, if one is.
        retry_after: seconds until the client may retry.
    """

    def __init__(
        self, status: int, code: str, message: str, param: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.retry_after = status, code, param, retry_after

    def within(self, names: Mapping[str, str], param: str) -> "RequestError":
        """Return this refusal in the words of another API: what is wrong within a field is told of the field.

        Args:
            names: that API's names for fields.
            param: the field that is wrong, where the refusal names none.
        """
        field, message = self.param or "", str(self)
        name = names.get(field.partition(".")[0], self.param or param)
        if message.startswith(f"{field}: "):
            message = name + message.removeprefix(field)
        return RequestError(self.status, self.code, message, name, self.retry_after)


def unavailable(code: str, message: str) -> RequestError:
    """Return a refusal with status 503 and Retry-After."""
    return RequestError(HTTPStatus.SERVICE_UNAVAILABLE, code, message, retry_after=RETRY_SECONDS)


def stopping() -> RequestError:
    return unavailable("stopping", "the server is being stopped")


KINDS: list[tuple[type[Exception], int, str]] = [
    (ContextLengthError, HTTPStatus.BAD_REQUEST, "context_length_exceeded"),
    (MediaError, HTTPStatus.BAD_REQUEST, "invalid_media"),
    (OptionError, HTTPStatus.BAD_REQUEST, "invalid_option"),
    (PromptError, HTTPStatus.BAD_REQUEST, "invalid_prompt"),
    (InputError, HTTPStatus.BAD_REQUEST, "invalid_input"),
    (GenerationTimeout, HTTPStatus.GATEWAY_TIMEOUT, "timeout"),
    (GenerationCancelled, 499, "cancelled"),
    (ResourceError, HTTPStatus.SERVICE_UNAVAILABLE, "out_of_resources"),
    (EngineError, HTTPStatus.SERVICE_UNAVAILABLE, "engine_failed"),
]
"""Status and code of each kind of error, subclasses before their bases."""
GONE = 499
"""Status in log and metrics of a request whose client has disconnected."""
UNREAD = (401, 403, 408, 413)
"""Statuses that may leave the request's body unread, so that the connection is closed."""
TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}

ANTHROPIC = "/v1/messages"
ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    503: "overloaded_error",
    504: "timeout_error",
}


def refusal(error: BaseException) -> RequestError:
    """Return an error as a refusal, with settings named by their flags; an unexpected error's details are hidden."""
    if isinstance(error, RequestError):
        return error
    for kind, status, code in KINDS:
        if isinstance(error, kind):
            later = RETRY_SECONDS if kind is ResourceError else None
            return RequestError(int(status), code, message_of(error, FLAGS), retry_after=later)
    message = error.told(FLAGS) if isinstance(error, MossVLError) else "internal error; see the server's log"
    return RequestError(HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", message)


def error_response(error: RequestError, path: str) -> JSONResponse:
    """Return the response to a refused request, with its headers; the rest of an unread body is not awaited.

    Args:
        path: of the request, which tells the API.
    """
    headers = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    if error.status in UNREAD:
        headers["connection"] = "close"
    body = anthropic_body(error) if is_anthropic(path) else error_body(error)
    return JSONResponse(body, error.status, headers)


def error_body(error: RequestError) -> dict[str, Any]:
    """Return {"error": …} in OpenAI's format."""
    kind = TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    message = str(error)
    if len(message) > LONGEST_MESSAGE:
        message = f"{message[: LONGEST_MESSAGE - 1]}…"
    return {"error": {"message": message, "type": kind, "code": error.code, "param": error.param}}


def is_anthropic(path: str) -> bool:
    """Return whether a path is one of Anthropic's API."""
    return path == ANTHROPIC or path.startswith(f"{ANTHROPIC}/")


def anthropic_body(error: RequestError) -> dict[str, Any]:
    """Return an error in Anthropic's format, with `code` and `param` beside it."""
    told = error_body(error)["error"]
    kind = ANTHROPIC_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    return {"type": "error", "error": told | {"type": kind}}


def check_limit(what: str, given: int, most: int, flag: str, param: str | None = None) -> None:
    """Raise a RequestError if `given` exceeds `most`; `param` is the request's field, by default `what`."""
    if given > most:
        message = f"{what}: {given} is more than this server allows, {most} ({flag}); ask for less"
        raise RequestError(400, "invalid_option", message, param or what)
