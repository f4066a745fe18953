"""From a chat request to the engine's sampling parameters, within the server's limits."""

import json
from typing import Any

from mossvl.errors import OptionError
from mossvl.options import SamplingParams
from mossvl.server.config import ServerConfig
from mossvl.server.errors import check_limit
from mossvl.server.schemas.chat import ChatRequest
from mossvl.server.schemas.response_format import LONGEST_FORM, ResponseFormat


def sampling_of(request: ChatRequest, config: ServerConfig) -> SamplingParams:
    """Return the sampling parameters.

    Raises:
        OptionError: an option is out of range, or two options exclude each other.
        RequestError: an option exceeds a limit.
    """
    if request.top_logprobs is not None and not request.logprobs:
        raise OptionError("top_logprobs needs logprobs: true")
    check_limit("n", request.n or 1, config.max_answers, "--max-answers")
    name = "max_completion_tokens" if request.max_completion_tokens else "max_tokens"
    wanted = getattr(request, name) or config.max_tokens
    check_limit(name, wanted, config.max_tokens, "--max-tokens")
    given: dict[str, Any] = {
        "max_new_tokens": wanted,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "min_p": request.min_p,
        "stop": request.stop,
        "stop_token_ids": request.stop_token_ids,
        "seed": request.seed,
        "n": request.n,
        "logprobs": (request.top_logprobs or 0) if request.logprobs else None,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        "repetition_penalty": request.repetition_penalty,
        "ignore_eos": request.ignore_eos,
        **_form(request.response_format),
    }
    return SamplingParams.from_dict(given, top_k=0)


def _form(wanted: ResponseFormat | None) -> dict[str, Any]:
    """Return the answer's constraint as options of `SamplingParams`."""
    match wanted:
        case ResponseFormat(type="json_object"):
            return {"json_schema": {"type": "object"}}
        case ResponseFormat(type="json_schema"):
            if wanted.json_schema is None:
                raise OptionError('response_format of type "json_schema" needs json_schema: {"schema": …}')
            schema = json.dumps(wanted.json_schema.schema_)
            if len(schema) > LONGEST_FORM:
                raise OptionError(f"the JSON schema has {len(schema)} characters; at most {LONGEST_FORM} are allowed")
            return {"json_schema": schema}
        case ResponseFormat(type="regex"):
            if wanted.pattern is None:
                raise OptionError('response_format of type "regex" needs a pattern')
            return {"regex": wanted.pattern}
    return {}
