"""All tasks by name, and in groups, one for each module; those of live streams are `STREAMS` of `streaming`."""

from collections.abc import Mapping, Sequence
from functools import partial

from mossvl.synthetic import clips, conversations, doubts, pictures, schemas, several, unknown
from mossvl.synthetic.editions import FIRST, Edition
from mossvl.synthetic.streaming import STREAMS
from mossvl.synthetic.styles import styled
from mossvl.synthetic.wording import Sample, Task
from mossvl.synthetic.world import World

_PLAIN: Mapping[str, Mapping[str, Task]] = {
    "pictures": pictures.TASKS,
    "clips": clips.TASKS,
    "several": several.TASKS,
    "conversations": conversations.TASKS,
    "counts": pictures.COUNTS,
    "unknown": unknown.TASKS,
    "schemas": schemas.TASKS,
}


def _sample(task: Task, doubt: Task | None, world: World) -> Sample:
    """Return a sample of a task, with the doubt and the styles of the world's edition."""
    edition = world.edition
    doubtful = doubt is not None and edition.doubted and world.chance(edition.doubted)
    sample = doubt(world) if doubt and doubtful else task(world)
    return styled(world, sample) if edition.styled else sample


GROUPS: dict[str, Sequence[str]] = {
    **{group: tuple(tasks) for group, tasks in _PLAIN.items()},
    "streams": tuple(STREAMS),
}
ALL: dict[str, Task] = {
    name: partial(_sample, task, doubts.TASKS.get(name)) for tasks in _PLAIN.values() for name, task in tasks.items()
}


def tasks_of(edition: Edition) -> dict[str, Task]:
    """Return the tasks of an edition by name."""
    return {name: ALL[name] for group in edition.groups for name in GROUPS[group]}


TASKS: dict[str, Task] = tasks_of(FIRST)
"""The tasks of the first edition."""
