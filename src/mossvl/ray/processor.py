"""`build_processor`: answers the rows of Ray's datasets, with the words of `ray.data.llm`."""

import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mossvl.errors import OptionError, message_of
from mossvl.ray.answering import Answering, Read
from mossvl.ray.cluster import resources_of
from mossvl.ray.config import ProcessorConfig
from mossvl.ray.rows import ERROR, Row

if TYPE_CHECKING:
    from ray.data import Dataset

RETRIES = 5
"""How often a block is asked again whose actor has died: what ends every actor must not be asked for ever."""
Change = Callable[[dict[str, Any]], Mapping[str, Any]]


def build_processor(
    config: ProcessorConfig | None = None,
    preprocess: Change | None = None,
    postprocess: Change | None = None,
    **options: Any,
) -> "Processor":
    """Return a processor: call it with a dataset for the dataset of answers.

    Rows in have `messages` and `sampling_params`, or keys of a query of `MossVL` (`prompt`, `images`, `videos`,
    `generate_kwargs`, …). Rows out have in addition `generated_text`, `generated_tokens`, `num_input_tokens`,
    `num_generated_tokens`, `time_taken_llm` (seconds) and `__inference_error__` ("" where there is none). Media are
    paths that every node can read, or URLs; an actor reads them.

    Args:
        preprocess: takes a row, returns the columns to add to it.
        postprocess: takes a row with its answer, returns the row to keep; rows with errors pass it by.
        options: options of `ProcessorConfig` one by one, in place of `config`.

    Raises:
        OptionError: an option is unknown or out of range.
    """
    if config is not None and options:
        raise OptionError(f"give either config or {', '.join(options)}, not both")
    if not isinstance(config, ProcessorConfig | None):
        raise OptionError("{config=} must be a ProcessorConfig; give its options by name", given={"config": config})
    return Processor(config or ProcessorConfig(**options), preprocess, postprocess)


class Processor:
    """Answers datasets; see `build_processor`."""

    def __init__(
        self, config: ProcessorConfig, preprocess: Change | None = None, postprocess: Change | None = None
    ) -> None:
        self.config, self.preprocess, self.postprocess = config, preprocess, postprocess

    def __call__(self, dataset: "Dataset") -> "Dataset":
        """Return the dataset of answers; Ray computes it when it is read.

        Raises:
            OptionError: no node of the cluster has what an actor needs.
        """
        keep = self.config.should_continue_on_error
        if self.preprocess is not None:
            dataset = dataset.map(_Before(self.preprocess, keep))
        dataset = answered(dataset, self.config)
        return dataset if self.postprocess is None else dataset.map(_After(self.postprocess, keep))


def answered(
    dataset: "Dataset", config: ProcessorConfig, read: Read | None = None, names: Mapping[str, str] | None = None
) -> "Dataset":
    """Return a dataset with the columns of answers.

    Args:
        read, names: see `Answering`.
    """
    from ray.data import ActorPoolStrategy

    least, most = config.pool
    pool = ActorPoolStrategy(
        min_size=least, max_size=most, max_concurrent_calls_per_actor=config.max_concurrent_batches
    )
    with warnings.catch_warnings():  # Ray has no other name for `max_task_retries` yet.
        warnings.filterwarnings("ignore", message=".*ray_remote_args")
        return dataset.map_batches(
            Answering,
            fn_constructor_kwargs={"config": config, "read": read, "names": names},
            batch_size=config.batch_size,
            batch_format="pyarrow",
            compute=pool,
            accelerator_type=config.accelerator_type,
            runtime_env=None if config.runtime_env is None else dict(config.runtime_env),
            udf_modifying_row_count=False,
            max_task_retries=RETRIES,
            **resources_of(config),
        )


class _Before:
    """Adds the columns of `preprocess` to a row; with `keep`, its error is the row's."""

    def __init__(self, change: Change, keep: bool) -> None:
        self.change, self.keep = change, keep

    def __call__(self, row: Row) -> dict[str, Any]:
        told = {ERROR: ""} if self.keep else {}
        try:
            return {**row, **told, **self.change(dict(row))}
        except Exception as error:
            if not self.keep:
                raise
            return {**row, ERROR: f"preprocess: {message_of(error)}"}


class _After:
    """Makes a row of an answered one by `postprocess`; with `keep`, it keeps the column of errors."""

    def __init__(self, change: Change, keep: bool) -> None:
        self.change, self.keep = change, keep

    def __call__(self, row: Row) -> dict[str, Any]:
        if row[ERROR]:
            return dict(row)
        told = {ERROR: ""} if self.keep else {}
        return {**self.change(dict(row)), **told}
