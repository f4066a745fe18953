"""Settings of a processor: which model answers a dataset's rows, on how many actors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from mossvl.errors import OptionError
from mossvl.media.limits import MediaLimits
from mossvl.options.checks import Count, Switch, check_options, mapping, named_options, text, whole
from mossvl.options.engine import EngineConfig

Pool = tuple[int, int]
"""The least and the most actors."""


def _pool(name: str, given: Any) -> Pool:
    """Return a pool, given as it is or as one number of actors."""
    if isinstance(given, tuple | list) and len(given) == 2:
        least, most = (whole(f"{name}[{place}]", one) for place, one in enumerate(given))
        if least > most:
            raise OptionError(f"{{{name}=}}: the least number of actors comes first", given={name: given})
        return least, most
    if isinstance(given, tuple | list):
        raise OptionError(f"{{{name}=}} must be a number of actors, or (the least, the most)", given={name: given})
    count = whole(name, given)
    return count, count


@named_options("option of a processor")
@dataclass(frozen=True)
class ProcessorConfig:
    """Which model answers the rows of a dataset, and on how many actors; the words are those of `ray.data.llm`.

    Attributes:
        model_source: the checkpoint: a folder that every node has, or a repository on the model hub; by default
            mossvl-tiny.
        engine_kwargs: options of `mossvl.EngineConfig`. An actor takes `tensor_parallel_size` GPUs, or where the device
            is a CPU, `num_cpus` for each rank.
        batch_size: rows that go to an actor together.
        concurrency: the number of actors, or (m, n): from m to n of them, as there is work. Each has a whole model.
        max_concurrent_batches: batches that an actor answers at a time, so that the engine stays full.
        should_continue_on_error: the error of a row becomes its `__inference_error__`, and the other rows are answered;
            otherwise, the first error ends the run.
        limits: on media, which an actor reads.
        num_cpus: CPUs that an actor on a CPU takes; also its threads.
        accelerator_type: kind of GPU that the actors need, as Ray names it ("H100").
        runtime_env: Ray's environment of the actors.

    Raises:
        OptionError: an option is unknown or out of range.
    """

    model_source: str | Path | None = None
    engine_kwargs: Annotated[Mapping[str, Any], mapping] = field(default_factory=dict)
    batch_size: Count = 32
    concurrency: Annotated[int | Pool, _pool] = 1
    max_concurrent_batches: Count = 8
    should_continue_on_error: Switch = False
    limits: MediaLimits | None = None
    num_cpus: Count = 1
    accelerator_type: Annotated[str, text] | None = None
    runtime_env: Annotated[Mapping[str, Any], mapping] | None = None

    def __post_init__(self) -> None:
        check_options(self)
        if self.model_source is not None and not isinstance(self.model_source, str | Path):
            raise OptionError(
                "{model_source=} must be a folder or the name of a repository",
                given={"model_source": self.model_source},
            )
        if self.limits is not None and not isinstance(self.limits, MediaLimits):
            raise OptionError("{limits=} must be MediaLimits", given={"limits": self.limits})
        _ = self.engine  # Check before actors start.

    @property
    def engine(self) -> EngineConfig:
        """The settings of each actor's engine."""
        return EngineConfig(**self.engine_kwargs)

    @property
    def pool(self) -> Pool:
        return self.concurrency  # type: ignore[return-value]  # `_pool` has made it one.
