"""The recipe of mossvl-tiny: stages of training, as `recipe.toml` has them."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mossvl.errors import OptionError
from mossvl.options.checks import whole
from mossvl.synthetic.tasks import GROUPS
from mossvl.training.synthetic import Phase

RECIPE = Path(__file__).with_name("recipe.toml")


@dataclass(frozen=True)
class Stage:
    """A run of training: its learning rate rises, stays, and falls to 0.

    Attributes:
        seed: of its examples and, in the first stage, of the weights.
        steps, warmup, decay: of the optimizer, in all, at the beginning and at the end.
        phases: (step, tasks) from which step on which tasks or groups of tasks are asked how often.
    """

    name: str
    seed: int
    steps: int
    learning_rate: float
    warmup: int
    decay: int
    phases: Sequence[tuple[int, Mapping[str, float]]]

    def examples(self, batch: int) -> list[Phase]:
        """The phases, for examples instead of steps of `batch` examples; groups divide their part among their tasks."""
        return [Phase(step * batch, single_tasks(tasks)) for step, tasks in self.phases]


@dataclass(frozen=True)
class Recipe:
    """See recipe.toml for what the numbers mean."""

    batch: int
    evaluate_every: int
    questions: int
    weight_decay: float
    adam_beta2: float
    stages: Sequence[Stage]

    @classmethod
    def read(cls, path: Path = RECIPE) -> "Recipe":
        """From a TOML file.

        Raises:
            OptionError: something is missing, unknown or not a positive number.
        """
        try:
            given: dict[str, Any] = tomllib.loads(path.read_text())
            stages = []
            for stage in given.pop("stages"):
                phases = [(phase["step"], phase["tasks"]) for phase in stage.pop("phases")]
                stages.append(Stage(**stage, phases=phases))
            recipe = cls(**given, stages=stages)
        except (KeyError, TypeError, ValueError) as error:
            raise OptionError(f"{path} is no recipe ({error}); compare it with {RECIPE}") from error
        for name in ("batch", "evaluate_every", "questions"):
            whole(name, getattr(recipe, name))
        if not stages:
            raise OptionError(f"{path} has no stages")
        return recipe


def single_tasks(tasks: Mapping[str, float]) -> dict[str, float]:
    single: dict[str, float] = {}
    for name, part in tasks.items():
        members = GROUPS.get(name, (name,))
        for task in members:
            single[task] = single.get(task, 0.0) + part / len(members)
    return single
