"""Rows of a dataset as queries, and results as columns."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from mossvl.errors import OptionError, message_of
from mossvl.options import SamplingParams
from mossvl.options.checks import check_names, mapping, present
from mossvl.queries.query import KEYS
from mossvl.queries.results import Result

Row = Mapping[str, Any]

ERROR = "__inference_error__"
SAMPLING = "sampling_params"
NAMES = {"max_tokens": "max_new_tokens"}
"""Options of `SamplingParams` by the names that they have elsewhere."""
FORMS = {"json": "json_schema", "regex": "regex", "choice": "choice", "grammar": "grammar"}
"""Options of `SamplingParams` by the keys of `structured_outputs`."""
WITHOUT_EFFECT = ("detokenize",)
"""An answer always has both its text and its tokens."""


def query_of(row: Row, adapters: Collection[str] = ()) -> tuple[dict[str, Any], SamplingParams | None]:
    """Return the query of a row, and its sampling parameters if it has any; other columns are left out.

    Args:
        adapters: names that a row's `model` may have, as in a request to the server.

    Raises:
        OptionError: a sampling parameter is unknown or out of range, or stands beside `generate_kwargs`.
    """
    query = {name: plain(row[name]) for name in KEYS if row.get(name) is not None}
    model = row.get("model")  # Without a meaning here, it may be anything.
    if isinstance(model, str) and model in adapters:
        query.setdefault("lora", model)
    given = row.get(SAMPLING)
    if given is None:
        return query, None
    if query.get("generate_kwargs"):
        raise OptionError(f"a row has either {SAMPLING} or generate_kwargs, but this one has both")
    return query, sampling_of(plain(mapping(SAMPLING, given)))


def sampling_of(given: Mapping[str, Any]) -> SamplingParams:
    """Return sampling parameters of those that users of other engines give; without a temperature, greedy ones.

    Raises:
        OptionError: one is unknown or out of range.
    """
    found = {name: value for name, value in present(given).items() if name not in WITHOUT_EFFECT}
    form = present(mapping("structured_outputs", found.pop("structured_outputs", {})))
    check_names(form, FORMS, "key of structured_outputs")
    found |= {FORMS[name]: value for name, value in form.items()}
    found |= {NAMES[name]: found.pop(name) for name in NAMES.keys() & found.keys()}
    return SamplingParams.from_dict(found, top_k=0)


def plain(value: Any) -> Any:
    """Return a value of a column without what tables add: null keys, and lists as arrays. Pixels stay arrays."""
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items() if one is not None}
    if isinstance(value, np.ndarray) and (value.ndim == 1 or value.dtype == object):
        value = value.tolist()
    return [plain(one) for one in value] if isinstance(value, list) else value


def columns_of(results: Sequence[Result], names: Mapping[str, str] | None = None) -> dict[str, list[Any]]:
    """Return the columns that answers add to their rows, by name.

    Of a row that has failed, the text and the tokens are empty and the error is not.

    Args:
        names: of settings, for the messages of errors.
    """
    results = [result if result.error is None else Result.of_error(result.error) for result in results]
    return {
        "generated_text": [result.text for result in results],
        "generated_tokens": [result.token_ids for result in results],
        "num_input_tokens": [result.usage.prompt_tokens for result in results],
        "num_generated_tokens": [len(result.token_ids) for result in results],
        "time_taken_llm": [result.timings.total or 0.0 for result in results],
        ERROR: ["" if result.error is None else message_of(result.error, names) for result in results],
    }
