"""Tasks, what is asked and what answers are worth; the plug-in of lmms-eval; reports of benchmarks."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mossvl.evaluation.tasks import ExactAnswers as ExactAnswers
    from mossvl.evaluation.tasks import Tally as Tally
    from mossvl.evaluation.tasks import Task as Task
    from mossvl.evaluation.tasks import ask as ask
    from mossvl.evaluation.tasks import tallied as tallied

__all__ = ["ExactAnswers", "Tally", "Task", "ask", "tallied"]


def __getattr__(name: str) -> Any:
    """Names of `tasks` are imported when they are first used: reports and the plug-in's name need no model."""
    if name in __all__:
        return getattr(import_module("mossvl.evaluation.tasks"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
