"""Questions whose answers are JSON of a schema."""

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from mossvl.synthetic import clips, pictures
from mossvl.synthetic.palettes import COLOURS
from mossvl.synthetic.scene import Scene
from mossvl.synthetic.shapes import KINDS
from mossvl.synthetic.watching import Watched
from mossvl.synthetic.wording import Exchange, Sample, Task, asked, exchange, from_left
from mossvl.synthetic.world import World


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


SCHEMAS: Mapping[str, dict[str, Any]] = {
    "json_describe": _object(
        things={"type": "array", "items": _object(colour={"enum": list(COLOURS)}, kind={"enum": list(KINDS)})}
    ),
    "json_read": _object(text={"type": ["string", "null"]}),
    "json_when": _object(seconds={"type": ["number", "null"]}),
}
"""The schema of each task's answers."""


def described(world: World, scene: Scene) -> Exchange | None:
    """Ask for all shapes, from left to right."""
    things = from_left(scene.things)
    if things is None or len(things) > 4 or any(thing.word for thing in things):
        return None
    listed = [{"colour": thing.colour, "kind": thing.kind} for thing in things]
    return exchange(world, "json_describe", json=json.dumps({"things": listed}))


def read(world: World, scene: Scene) -> Exchange:
    """Ask for the word of a picture, which may have none."""
    words = [thing.word for thing in scene.things if thing.word]
    return exchange(world, "json_read", json=json.dumps({"text": words[0] if words else None}))


def when(world: World, clip: Watched) -> Exchange | None:
    """Ask for the time of an event, which may never happen."""
    event = clips.event_asked(world, clip)
    if event is None:
        return None
    whom, what, time, do = event
    answer = json.dumps({"seconds": float(time.split()[0]) if time else None})
    return exchange(world, "json_when", do=do, whom=whom, what=what, bare=clips.BARE.get(what, what), json=answer)


def _described(world: World) -> Sample:
    scene, turn = asked(world, partial(pictures.some, least=0), described)
    return Sample([scene], [turn])


def _read(world: World) -> Sample:
    scene = pictures.some(world) if world.chance(0.1) else pictures.written(world)
    return Sample([scene], [read(world, scene)])


def _when(world: World) -> Sample:
    watched, turn = asked(world, partial(clips.story, ask=clips.when), when)
    return Sample([watched.clip], [turn], watched.video_fps)


TASKS: dict[str, Task] = {"json_describe": _described, "json_read": _read, "json_when": _when}
