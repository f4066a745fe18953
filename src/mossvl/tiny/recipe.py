"""The training recipe of mossvl-tiny, read from `recipe.toml`."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mossvl.errors import OptionError
from mossvl.options.checks import choice, whole
from mossvl.synthetic.editions import EDITIONS
from mossvl.synthetic.tasks import GROUPS
from mossvl.training.synthetic import Phase

RECIPE = Path(__file__).with_name("recipe.toml")
"""The recipe of the package's weights; `second.toml`, beside it, is that of their second edition."""


@dataclass(frozen=True)
class Stage:
    """A training run with a warmup-stable-decay schedule of the learning rate.

    Attributes:
        seed: seed of the examples and, in the first stage, of the weights.
        steps, warmup, decay: optimizer steps: in all, of the warmup, of the decay to 0.
        phases: (first step, weights of tasks or groups of tasks).
    """

    name: str
    seed: int
    steps: int
    learning_rate: float
    warmup: int
    decay: int
    phases: Sequence[tuple[int, Mapping[str, float]]]

    def examples(self, batch: int) -> list[Phase]:
        """Return the phases by first example instead of first step (of `batch` examples), by single tasks."""
        return [Phase(step * batch, single_tasks(tasks)) for step, tasks in self.phases]


@dataclass(frozen=True)
class Recipe:
    """A recipe; recipe.toml explains its numbers.

    Attributes:
        same_size: number of consecutive examples whose pictures have one size; None for all of a batch.
        edition: of the world, by name.
        start: "random" weights, those of the "package", or a checkpoint's folder.
    """

    batch: int
    evaluate_every: int
    questions: int
    weight_decay: float
    adam_beta2: float
    stages: Sequence[Stage]
    same_size: int | None = None
    edition: str = "first"
    start: str = "random"

    @classmethod
    def read(cls, path: Path = RECIPE) -> "Recipe":
        """Read a TOML file.

        Raises:
            OptionError: a key is missing or unknown, a count is not a positive integer, or a name is unknown.
        """
        try:
            given: dict[str, Any] = tomllib.loads(path.read_text())
            stages = []
            for stage in given.pop("stages"):
                phases = [(phase["step"], phase["tasks"]) for phase in stage.pop("phases")]
                stages.append(Stage(**stage, phases=phases))
            recipe = cls(**given, stages=stages)
        except (KeyError, TypeError, ValueError) as error:
            raise OptionError(f"{path} is not a recipe ({error}); compare it with {RECIPE}") from error
        for name in ("batch", "evaluate_every", "questions"):
            whole(name, getattr(recipe, name))
        choice("edition", recipe.edition, tuple(EDITIONS))
        if not Path(recipe.start).is_dir():
            choice("start", recipe.start, ("random", "package"))
        if not stages:
            raise OptionError(f"{path} has no stages")
        return recipe


def single_tasks(tasks: Mapping[str, float]) -> dict[str, float]:
    """Divide the weight of each group equally among its tasks."""
    single: dict[str, float] = {}
    for name, part in tasks.items():
        members = GROUPS.get(name, (name,))
        for task in members:
            single[task] = single.get(task, 0.0) + part / len(members)
    return single
