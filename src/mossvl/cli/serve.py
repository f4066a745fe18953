"""`mossvl serve`: an OpenAI-compatible server, and a page."""

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mossvl.checkpoints.default import CHECKPOINT, NAME
from mossvl.cli.checkpoint import check_checkpoint, prepare
from mossvl.cli.extras import need
from mossvl.cli.options import Checkpoint, Device, Dtype, EngineFlags, ServerFlags, with_flags
from mossvl.options.engine import EngineConfig
from mossvl.server.config import ServerConfig

if TYPE_CHECKING:
    from mossvl.llm import MossVL

TEXTS = 64
"""Prompts without media that are read at a time, however many media are being loaded."""


@with_flags
def serve(
    *,
    server: ServerFlags,
    engine: EngineFlags,
    checkpoint: Checkpoint = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Answer requests of OpenAI's clients, and of people, on a page; until Ctrl-C or SIGTERM."""
    need("serve")
    if key := os.environ.get("MOSSVL_API_KEY"):
        server["api_keys"] = [*server.get("api_keys", []), key]
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in server.items()}
    config = ServerConfig(**given)
    # Requests that wait for a decoder hold up none that needs no decoder.
    engine.setdefault("media_workers", config.decoders + TEXTS)
    settings = EngineConfig(device=device, dtype=dtype, **engine)
    folder = check_checkpoint(checkpoint)
    from mossvl.server.run import run

    def load() -> "MossVL":
        prepare()
        from mossvl.llm import MossVL

        return MossVL(folder, config=settings)

    with suppress(KeyboardInterrupt):  # It was told to stop, and has.
        run(config, load, config.model_name or name_of(folder))


def name_of(folder: str) -> str:
    """What a model is called: as its checkpoint's folder, or its repository."""
    return NAME if folder == str(CHECKPOINT) else Path(folder).resolve().name if Path(folder).is_dir() else folder
