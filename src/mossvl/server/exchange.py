"""A request and its answer in the words of one API: what differs between the APIs."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from mossvl.errors import MediaError, OptionError, PromptError
from mossvl.queries.handle import Handle
from mossvl.queries.results import Result
from mossvl.server.answers import Tokens
from mossvl.server.drafts import DraftReader
from mossvl.server.errors import RequestError, error_body, refusal
from mossvl.server.problems import first_problem
from mossvl.server.reading import Asked, Reader
from mossvl.server.schemas.structured import StructuredFields
from mossvl.server.stored import StoredResponses
from mossvl.server.streams import ALIVE

Form = TypeVar("Form", bound=BaseModel)
FORMED = (*StructuredFields.model_fields, "text", "output_config", "tools")
"""Fields of requests, of any API, that may hold a form."""


@dataclass(frozen=True)
class Caller:
    """Who asks, and whom.

    Attributes:
        request_id: of the request.
        key: stands for the API key that the request brought; "" on a server without keys.
        model: the model's name in responses.
        responses: those that are stored.
        lora: name of the adapter that is asked; None for the model as it is.
        mark: of the server among replicas, which ends the ids of responses.
    """

    request_id: str
    key: str
    model: str
    tokens: Tokens
    responses: StoredResponses
    lora: str | None = None
    mark: str = ""


def translated(form: type[Form], given: Mapping[str, Any]) -> Form:
    """Return the request of another API that a request stands for.

    Raises:
        RequestError: it is none; `param` names a field of that API.
    """
    try:
        return form.model_validate(given)
    except ValidationError as problems:
        raise first_problem(problems, form) from problems


class Exchange(ABC, Generic[Form]):
    """A request and its answer, whole or as events of a stream.

    An event is a JSON object; one with a `type` is sent under this name.

    Attributes:
        form: schema of the request's body.
        names: the API's names for fields of a chat request, in errors.
        prompt: the field that holds the prompt.
        alive: a stream's keep-alive.
        done: the end of a successful stream.
        handles: the queries of the request, once they are submitted.
    """

    form: ClassVar[type[BaseModel]]
    names: ClassVar[Mapping[str, str]] = {}
    prompt: ClassVar[str] = "messages"
    alive: ClassVar[bytes] = ALIVE
    done: ClassVar[bytes] = b""

    def __init__(self, request: Form, caller: Caller) -> None:
        self.request, self.caller = request, caller
        self.handles: Sequence[Handle] = ()

    @property
    def handle(self) -> Handle:
        """The query of a request that has one."""
        return self.handles[0]

    @cached_property
    def readers(self) -> list[DraftReader]:
        """A reader of each answer to each query."""
        return [DraftReader(handle, answer) for handle in self.handles for answer in range(len(handle.drafts))]

    @property
    @abstractmethod
    def stream(self) -> bool:
        """Whether the client wants a stream."""

    @property
    def formed(self) -> bool:
        """Whether the request may give a form, of its answer or of calls."""
        return any(getattr(self.request, name, None) is not None for name in FORMED)

    @abstractmethod
    def asked(self, reader: Reader) -> list[Asked]:
        """Return the queries of the request.

        Raises:
            InputError: a part of the request cannot be used.
            RequestError: the request exceeds a limit or needs an unsupported feature.
        """

    @abstractmethod
    def whole(self, results: Sequence[Result]) -> bytes:
        """Return the answer as JSON, when all queries have succeeded."""

    @abstractmethod
    def opening(self) -> list[dict[str, Any]]:
        """Return the first events of a stream, which have no text."""

    @abstractmethod
    def news(self) -> list[dict[str, Any]]:
        """Return events of what was generated since the last call."""

    @abstractmethod
    def closing(self, results: Sequence[Result]) -> list[dict[str, Any]]:
        """Return the last events of a successful stream."""

    def placed(self, error: Exception) -> Exception:
        """Return an error in the API's words, with the field that is wrong, if a field is."""
        return placed(error, self.request, self.names, self.prompt)

    def failed(self, refused: RequestError) -> list[dict[str, Any]]:
        """Return the last events of a stream whose query has failed."""
        return [error_body(refused)]


def placed(error: Exception, request: BaseModel, names: Mapping[str, str], prompt: str) -> Exception:
    """Return an error in the words of a request's API; for `names` and `prompt` see `Exchange`."""
    if isinstance(error, MediaError | PromptError | RequestError):
        return refusal(error).within(names, prompt)
    if isinstance(error, OptionError):
        named = error.named(names)
        if named.option and named.option.partition(".")[0] in request.model_fields_set:
            return refusal(named).within({}, named.option)
        return named
    return error
