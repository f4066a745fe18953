"""`mossvl serve`: an OpenAI-compatible server with a web page."""

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mossvl.checkpoints.default import tell_default
from mossvl.cli.checkpoint import check_checkpoint, name_of, prepare
from mossvl.cli.extras import need
from mossvl.cli.options import (
    Checkpoint,
    DataParallel,
    EngineFlags,
    ServerFlags,
    WeightFlags,
)
from mossvl.options.checks import whole
from mossvl.options.engine import EngineConfig, check_apart
from mossvl.server.config import DECODERS, TEXTS, ServerConfig

if TYPE_CHECKING:
    from mossvl.llm import MossVL


def serve(
    *,
    server: ServerFlags,
    weights: WeightFlags,
    engine: EngineFlags,
    checkpoint: Checkpoint = None,
    data_parallel_size: DataParallel = 1,
) -> None:
    """Serve OpenAI-compatible requests and a web page, until Ctrl-C or SIGTERM.

    With several replicas, SIGHUP restarts them one after the other, while the others answer.
    """
    need("serve")
    if key := os.environ.get("MOSSVL_API_KEY"):
        server["api_keys"] = [*server.get("api_keys", []), key]
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in server.items()}
    replicas = whole("data_parallel_size", data_parallel_size)
    given.setdefault("decoders", max(1, DECODERS // replicas))
    config = ServerConfig(**given)
    # Requests that wait for a decoder process must not delay requests without media.
    engine.setdefault("media_workers", config.decoders + TEXTS)
    settings = EngineConfig(**weights, **engine)
    folder = check_checkpoint(checkpoint)
    name = config.model_name or name_of(folder)
    check_apart(settings.lora, name)  # Before the model is loaded.
    with suppress(KeyboardInterrupt):  # The server has stopped at a signal.
        if replicas > 1:
            from mossvl.replicas.shares import shares
            from mossvl.server.front.run import run_front

            tell_default(checkpoint)
            parts = shares(replicas, settings.tensor_parallel_size, settings.device)
            run_front(config, parts, Loading(folder, settings), name, settings.max_batch)
        else:
            from mossvl.sources import fork_server

            fork_server.start()  # It imports PyTorch while this process does.
            from mossvl.server.run import run

            run(config, Loading(checkpoint, settings), name)


@dataclass(frozen=True)
class Loading:
    """Loads a checkpoint for a server, in this process or another."""

    checkpoint: str | None
    settings: EngineConfig

    def __call__(self) -> "MossVL":
        prepare()
        from mossvl.llm import MossVL

        return MossVL(self.checkpoint, config=self.settings)
