"""From a chat request to the engine's sampling parameters, within the server's limits."""

from typing import Any

from mossvl.errors import OptionError
from mossvl.options import SamplingParams
from mossvl.server.config import ServerConfig
from mossvl.server.errors import check_limit
from mossvl.server.schemas.chat import ChatRequest
from mossvl.server.schemas.completions import CompletionRequest
from mossvl.server.schemas.sampling import SamplingFields
from mossvl.server.structured import form_of

OF_QUERIES = ("timeout",)
"""Fields of requests that are no sampling parameters."""


def sampling_of(request: ChatRequest, config: ServerConfig) -> SamplingParams:
    """Return the sampling parameters of a chat request.

    Raises:
        OptionError: an option is out of range, or two options exclude each other.
        RequestError: an option exceeds a limit.
    """
    if request.prompt_logprobs is not None and request.stream:
        raise OptionError("{prompt_logprobs} come with a whole answer; leave out stream", option="prompt_logprobs")
    if request.top_logprobs is not None and not request.logprobs:
        raise OptionError("{top_logprobs} needs logprobs: true", option="top_logprobs")
    name = "max_completion_tokens" if request.max_completion_tokens else "max_tokens"
    return params_of(
        request,
        config,
        name,
        n=request.n,
        stop=request.stop,
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        prompt_logprobs=request.prompt_logprobs,
    )


def params_of(
    request: ChatRequest | CompletionRequest, config: ServerConfig, length: str, **own: Any
) -> SamplingParams:
    """Return sampling parameters: the fields that requests share, and a request's own.

    Args:
        length: the request's field for the most tokens of an answer.

    Raises:
        OptionError: an option is out of range, or two options exclude each other; it is named as in the request.
        RequestError: an option exceeds a limit.
    """
    check_limit("n", own.get("n") or 1, config.max_answers, "--max-answers")
    wanted = getattr(request, length) or config.max_tokens
    check_limit(length, wanted, config.max_tokens, "--max-tokens")
    shared = {name: getattr(request, name) for name in SamplingFields.model_fields if name not in OF_QUERIES}
    names, given = {"max_new_tokens": length}, {**shared, **own, "max_new_tokens": wanted}
    if (form := form_of(request)) is not None:
        names[form.option], given[form.option] = form.field, form.value
    try:
        return SamplingParams.from_dict(given, top_k=0)
    except OptionError as error:
        raise error.named(names) from error
