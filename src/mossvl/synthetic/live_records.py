"""Live streams of the procedural world as records, as files, and frame by frame as from a camera."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from mossvl.processing.processor import MossVLProcessor
from mossvl.processing.prompt import VIDEO
from mossvl.processing.stream import REALTIME, RESPONSE, SILENCE
from mossvl.synthetic.editions import FIRST, Edition
from mossvl.synthetic.files import write_clip
from mossvl.synthetic.render import render
from mossvl.synthetic.streaming import STREAMS, LiveSample
from mossvl.synthetic.world import Split, World

TOKENS_PER_SLOT = 12
"""Tokens that are drawn in a slot at most, state tokens included; as trained: 12 a second, at 1 frame a second."""
WORDS = re.compile(r"\s*(?:\w+|[^\w\s])")
Tokenise = Callable[[str], Sequence[str]]
"""Splits a text into the texts of its tokens."""


def words(text: str) -> list[str]:
    """The words and marks of a text, each with the spaces before it."""
    return WORDS.findall(text)


def tokens_by(processor: MossVLProcessor) -> Tokenise:
    """Splits texts as a processor's tokenizer does; a token must not be a part of a character."""
    return lambda text: [processor.tokenizer.decode([token]) for token in processor.continuation(text).tolist()]


def slots_of(sample: LiveSample, tokens_per_slot: int = TOKENS_PER_SLOT, tokenise: Tokenise = words) -> list[list[str]]:
    """The slots of each of the assistant's turns: the leading one, then one after each frame.

    A long reply is spread over slots, as a session of this pace speaks it: the silence that ends a reply may be left
    for a slot of its own. The next reply begins afterwards. A prompt cuts a reply.
    """
    room = max(1, tokens_per_slot - 1)
    starts = [prompt.frame for prompt in sample.prompts]
    turns = []
    for start, end in zip(starts, [*starts[1:], len(sample.times)], strict=True):
        slots = [SILENCE] * (end - start)
        free = 0
        for frame, text in sample.replies:
            if not start <= frame < end:
                continue
            tokens = tokenise(text)
            chunks = [tokens[part : part + room] for part in range(0, len(tokens), room)]
            free = max(free, frame - start)
            ends = len(chunks[-1]) < room
            for place, chunk in enumerate(chunks[: len(slots) - free], 1):
                slots[free] = f"{RESPONSE}{''.join(chunk)}{SILENCE if ends and place == len(chunks) else ''}"
                free += 1
            free += not ends
        turns.append([SILENCE, *slots])
    return turns


def record_of(
    sample: LiveSample,
    video: str,
    system_prompt: str = REALTIME,
    tokens_per_slot: int = TOKENS_PER_SLOT,
    tokenise: Tokenise = words,
) -> dict[str, Any]:
    """A live record, as `mossvl train` reads it.

    Args:
        video: the path of the clip's file.
        tokens_per_slot, tokenise: see `slots_of`.
    """
    messages = [{"role": "system", "content": system_prompt}]
    for prompt, slots in zip(sample.prompts, slots_of(sample, tokens_per_slot, tokenise), strict=True):
        messages += [{"role": "user", "content": prompt.text}, {"role": "assistant", "content": VIDEO.join(slots)}]
    return {
        "messages": messages,
        "videos": [{"video_path": video, "segments": [[time] for time in sample.times]}],
        "metadata": {"task": sample.task},
    }


def live_samples(
    split: Split,
    seed: int | str,
    count: int,
    tasks: Sequence[str] = tuple(STREAMS),
    edition: Edition = FIRST,
) -> Iterator[LiveSample]:
    """Draw streams of these tasks in turn; the same seed gives the same streams.

    What is asked for in one split is shown in no other (see `mossvl.synthetic.world`).

    Raises:
        ValueError: a task is unknown.
    """
    if unknown := sorted({*tasks} - {*STREAMS}):
        raise ValueError(f"unknown tasks {', '.join(unknown)}; known: {', '.join(STREAMS)}")
    for number in range(count):
        yield STREAMS[tasks[number % len(tasks)]](World(split, f"{seed} live {number}", edition=edition))


def write_records(samples: Iterable[LiveSample], folder: str | Path, size: int = 128, **options: Any) -> Path:
    """Write streams as live records, `live.jsonl`, with their clips beside it; return the path of the records.

    Args:
        folder: is made if it does not exist.
        size: height and width of the clips in pixels, even.
        options: see `record_of`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "live.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number, sample in enumerate(samples):
            video = f"{number:05d}.mp4"
            write_clip(sample.clip, folder / video, size, size)
            file.write(json.dumps(record_of(sample, video, **options), ensure_ascii=False) + "\n")
    return path


def camera(sample: LiveSample, fps: float | None = None, size: int = 128) -> Iterator[tuple[float, Image.Image]]:
    """The frames of a stream as from a camera: (seconds, picture), drawn one by one.

    Args:
        fps: frames a second until the end of the clip; by default, the frames of the stream's times alone.
        size: height and width in pixels.
    """
    times = sample.times if fps is None else [number / fps for number in range(int(sample.clip.seconds * fps))]
    for time in times:
        yield time, Image.fromarray(render([sample.clip.at(time)], size, size)[0].numpy())
