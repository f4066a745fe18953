"""Errors as OpenAI's clients know them: a status, and a body that says what was wrong."""

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
"""Characters of a message; those that say what was given may be as long as that."""
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
"""After which a client may try again that was refused because there was too much to do."""


class RequestError(MossVLError):
    """A request is refused.

    Attributes:
        status: of HTTP.
        code: what went wrong, for programs.
        param: the part of the request that is wrong, if it is one.
        retry_after: seconds after which to try again.
    """

    def __init__(
        self, status: int, code: str, message: str, param: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.retry_after = status, code, param, retry_after


def unavailable(code: str, message: str) -> RequestError:
    """A refusal for now; the same request may be answered later."""
    return RequestError(HTTPStatus.SERVICE_UNAVAILABLE, code, message, retry_after=RETRY_SECONDS)


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
"""Status and code of each kind of error, the more special ones first."""
GONE = 499
"""The client has left; nobody will see it but the log."""
UNREAD = (401, 403, 408, 413)
"""After these, there may be more of the request's body to come."""
TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


def refusal(error: BaseException) -> RequestError:
    """What an error is to a client, who knows settings by their flags. An unexpected error is not told in detail."""
    if isinstance(error, RequestError):
        return error
    for kind, status, code in KINDS:
        if isinstance(error, kind):
            later = RETRY_SECONDS if kind is ResourceError else None
            return RequestError(int(status), code, message_of(error, FLAGS), retry_after=later)
    message = (
        error.told(FLAGS) if isinstance(error, MossVLError) else "the server has failed at this request; see its log"
    )
    return RequestError(HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", message)


def error_response(error: RequestError) -> JSONResponse:
    """With the headers that belong to it. What was not read of the request is not waited for."""
    headers = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    if error.status in UNREAD:
        headers["connection"] = "close"
    return JSONResponse(error_body(error), error.status, headers)


def error_body(error: RequestError) -> dict[str, Any]:
    """{"error": …} in OpenAI's form."""
    kind = TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    message = str(error)
    if len(message) > LONGEST_MESSAGE:
        message = f"{message[: LONGEST_MESSAGE - 1]}…"
    return {"error": {"message": message, "type": kind, "code": error.code, "param": error.param}}
