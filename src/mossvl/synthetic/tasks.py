"""All tasks by name, and in groups, one for each module; those of live streams are `STREAMS` of `streaming`."""

from collections.abc import Sequence

from mossvl.synthetic import clips, conversations, pictures, several
from mossvl.synthetic.streaming import STREAMS
from mossvl.synthetic.wording import Task

TASKS: dict[str, Task] = {**pictures.TASKS, **clips.TASKS, **several.TASKS, **conversations.TASKS}
GROUPS: dict[str, Sequence[str]] = {
    "pictures": tuple(pictures.TASKS),
    "clips": tuple(clips.TASKS),
    "several": tuple(several.TASKS),
    "conversations": tuple(conversations.TASKS),
    "streams": tuple(STREAMS),
}
