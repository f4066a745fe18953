"""Tasks (queries in, scores out), the plug-in of lmms-eval, and reports of benchmarks."""

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
    """Import names of `tasks` on first use: reports, and the look-up of the plug-in, need no model."""
    if name in __all__:
        return getattr(import_module("mossvl.evaluation.tasks"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
