"""`mossvl watch`: watch a camera, the screen, a folder or a file, and say what is asked for as it happens."""

import os
import signal
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from mossvl.cli.ask import check_question
from mossvl.cli.checkpoint import open_engine
from mossvl.cli.live_options import LiveFlags
from mossvl.cli.options import (
    Checkpoint,
    LimitFlags,
    Lora,
    WeightFlags,
    check_effect,
    only_adapter,
)
from mossvl.cli.places import SOURCE
from mossvl.errors import InputError, PromptError
from mossvl.live.options import MOST_FPS, LiveOptions
from mossvl.media.limits import MediaLimits
from mossvl.options.checks import number

SOURCE_HELP = (
    "What is watched: camera[:ADDRESS], an rtsp: or http(s): URL, screen, a folder that fills, or a video file "
    "(clip.mp4#t=START,END)."
)
NO_LIMIT = ("window_seconds", "tokens_per_second")
"""Options of which 0 means no limit."""


def watch(
    *,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help=SOURCE_HELP), SOURCE],
    words: Annotated[
        list[str], typer.Argument(metavar="QUESTION", help='What is said, and when: "Tell me when a star appears."')
    ],
    live: LiveFlags,
    limits: LimitFlags,
    weights: WeightFlags,
    checkpoint: Checkpoint = None,
    lora: Lora = None,
    system_prompt: Annotated[
        str | None, typer.Option(help="System prompt. Default: the one that live checkpoints were trained with.")
    ] = None,
    fps: Annotated[float, typer.Option(help="Frames a second that the model sees; live checkpoints know 1.")] = 1.0,
    pace: Annotated[
        float,
        typer.Option(help="Of a file: its seconds in a second; 0: each when the last is decided on."),
    ] = 1.0,
    as_events: Annotated[bool, typer.Option("--json", help="Print every event as a JSON object, one a line.")] = False,
    record: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Record the session, for `mossvl replay`.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Drop what the file of --record holds.")] = False,
) -> None:
    """Watch a camera, the screen, a folder or a video, and print what the model says as it says it.

    Questions may be typed while it watches, one a line. Ctrl-C lets the model fall silent while it speaks, and ends the
    command otherwise. The exit code is 0 at the end of the source, and 130 after Ctrl-C.
    """
    question = question_of(words)
    check_effect(live)
    for name in NO_LIMIT:
        if live.get(name) == 0:
            live[name] = None
    adapter = only_adapter(lora)
    options = paced(LiveOptions(**live, lora=next(iter(adapter or ()), None)), fps, pace)
    if record is not None:
        check_record(record, overwrite)
    allowed = MediaLimits(**limits)
    from mossvl.cli.live_source import open_source
    from mossvl.cli.watching import Happenings, Watching
    from mossvl.live.record import Recorder

    happenings = Happenings()
    with (
        open_source(source, fps, pace or None, allowed, happenings.put) as frames,
        open_engine(checkpoint, allowed, **weights, lora=adapter) as llm,
        Recorder(record) if record is not None else nullcontext() as recorder,
        llm.live(question, system_prompt=system_prompt, options=options, recorder=recorder) as session,
    ):
        if Watching(session, frames, happenings, as_events, lockstep=not pace, recorder=recorder).run():
            raise typer.Exit(128 + signal.SIGINT)
    if recorder is not None and recorder.error is not None:
        raise typer.Exit(1)


def check_record(path: Path, overwrite: bool) -> None:
    """Check, before anything is loaded, that a session can be recorded in a file.

    Raises:
        InputError: the file cannot be written; or it is not empty, and is not to be overwritten.
    """
    if path.is_dir():
        raise InputError(f"--record {path} is a folder; name a file")
    if path.exists() and not path.is_file():
        return  # A pipe, which is opened once.
    try:
        with path.open("ab") as file:
            size = file.tell()
    except OSError as error:
        raise InputError(f"--record {path}: cannot be written ({error.strerror}); name another file") from error
    if size and not overwrite:
        raise InputError(f"--record {path} is not empty; --overwrite drops what it holds")


def question_of(words: Sequence[str]) -> str:
    """The question, also where it is given without quotes.

    Raises:
        PromptError: it is empty, or one of its words is a file.
    """
    for word in words if len(words) > 1 else ():
        if os.path.isfile(word):
            raise PromptError(f"one source is watched, and the question follows it, but {word!r} is a file")
    question = " ".join(words)
    check_question(question, "the last argument")
    return question


def paced(options: LiveOptions, fps: float, pace: float) -> LiveOptions:
    """Return the options of a session that watches a file at a pace, with as much speech for each of its seconds.

    Raises:
        OptionError: the pace or the rate of frames is none.
    """
    number("pace", pace, least=0)
    number("fps", fps, above=0, most=MOST_FPS)
    rate = options.tokens_per_second
    given = {name: getattr(options, name) for name in LiveOptions.__dataclass_fields__}
    if pace == 0:
        slot = None if rate is None else max(1, round(rate / fps))
        return LiveOptions(**given | {"tokens_per_second": None, "tokens_per_slot": slot, "when_behind": "block"})
    return LiveOptions(**given | {"tokens_per_second": None if rate is None else rate * pace})
