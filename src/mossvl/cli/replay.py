"""`mossvl replay`: repeat a recorded session, and compare what the model says."""

import threading
from pathlib import Path
from typing import Annotated

import typer

from mossvl.cli.checkpoint import open_engine
from mossvl.cli.options import (
    Checkpoint,
    LimitFlags,
    Lora,
    WeightFlags,
    only_adapter,
)
from mossvl.cli.places import FILE
from mossvl.errors import OptionError
from mossvl.media.limits import MediaLimits


def replay(
    *,
    recording: Annotated[
        Path, typer.Argument(metavar="FILE", help="A session that `mossvl watch --record` has recorded."), FILE
    ],
    limits: LimitFlags,
    weights: WeightFlags,
    checkpoint: Checkpoint = None,
    lora: Lora = None,
    as_events: Annotated[bool, typer.Option("--json", help="Print every event as a JSON object, one a line.")] = False,
) -> None:
    """Repeat a recorded session: the same inputs after the same tokens, as fast as possible.

    The exit code is 1 if the model does not say the same.
    """
    from mossvl.cli.speech import Speech, warn
    from mossvl.live.recording import Recording

    recorded = Recording(recording)
    adapter, name = only_adapter(lora), recorded.options.lora
    if next(iter(adapter or ()), None) != name:
        advice = "leave out --lora" if name is None else f"give --lora {name}=PATH"
        raise OptionError(f"{recording}: recorded {f'with the adapter {name!r}' if name else 'without one'}; {advice}")
    allowed = MediaLimits(**limits)
    speech, raw = Speech(as_events), ""
    with (
        open_engine(checkpoint, allowed, **weights, lora=adapter) as llm,
        llm.replay(recorded) as session,
    ):
        failed: list[Exception] = []

        def feed() -> None:
            try:
                session.feed()
            except Exception as error:
                failed.append(error)

        threading.Thread(target=feed, daemon=True).start()
        for event in session:
            speech.tell(event)
            raw += event.raw
        speech.end()
        for error in [*failed, *([session.error] if session.error is not None else [])]:
            raise error
    expected = recorded.raw
    if raw == expected or (raw.startswith(expected) and not recorded.complete):
        end = "" if recorded.complete else "; its end was not recorded"
        warn(f"the same {len(expected)} characters as recorded{end}")
        return
    same = next((place for place, (a, b) in enumerate(zip(raw, expected, strict=False)) if a != b), None)
    place = min(len(raw), len(expected)) if same is None else same
    warn(f"not as recorded after {place} characters: {raw[place : place + 40]!r}, not {expected[place : place + 40]!r}")
    raise typer.Exit(1)
