"""`mossvl serve`: an OpenAI-compatible server with a web page."""

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mossvl.cli.checkpoint import check_checkpoint, name_of, prepare
from mossvl.cli.extras import need
from mossvl.cli.options import (
    Checkpoint,
    Device,
    Dtype,
    EngineFlags,
    Quantization,
    ServerFlags,
    TensorParallel,
    with_flags,
)
from mossvl.options.engine import EngineConfig
from mossvl.server.config import ServerConfig

if TYPE_CHECKING:
    from mossvl.llm import MossVL

TEXTS = 64
"""Requests without media that load at the same time, beside those that a decoder process loads."""


@with_flags
def serve(
    *,
    server: ServerFlags,
    engine: EngineFlags,
    checkpoint: Checkpoint = None,
    device: Device = None,
    dtype: Dtype = None,
    quantization: Quantization = None,
    ranks: TensorParallel = 1,
) -> None:
    """Serve OpenAI-compatible requests and a web page, until Ctrl-C or SIGTERM."""
    need("serve")
    if key := os.environ.get("MOSSVL_API_KEY"):
        server["api_keys"] = [*server.get("api_keys", []), key]
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in server.items()}
    config = ServerConfig(**given)
    # Requests that wait for a decoder process must not delay requests without media.
    engine.setdefault("media_workers", config.decoders + TEXTS)
    settings = EngineConfig(device=device, dtype=dtype, quantization=quantization, tensor_parallel_size=ranks, **engine)
    folder = check_checkpoint(checkpoint)
    from mossvl.server.run import run

    def load() -> "MossVL":
        prepare()
        from mossvl.llm import MossVL

        return MossVL(folder, config=settings)

    with suppress(KeyboardInterrupt):  # The server has stopped at a signal.
        run(config, load, config.model_name or name_of(folder))
