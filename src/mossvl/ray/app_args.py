"""Arguments of the Ray Serve application, as a command, a YAML file or Python gives them."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from mossvl.checkpoints.default import CHECKPOINT, NAME
from mossvl.errors import OptionError
from mossvl.options.engine import EngineConfig
from mossvl.server.config import TEXTS, ServerConfig
from mossvl.server.service import Place


def _parsed(given: Any) -> Any:
    """A dict or a list that the command line gives as JSON."""
    if isinstance(given, str) and given.lstrip()[:1] in ("{", "["):
        return json.loads(given)
    return given


def _listed(given: Any) -> Any:
    given = _parsed(given)
    return [given] if isinstance(given, str) else given


Options = Annotated[dict[str, Any], BeforeValidator(_parsed)]
Texts = Annotated[list[str], BeforeValidator(_listed)]


class AppArgs(BaseModel):
    """What is served and how; the words of Ray Serve mean what they mean there.

    Attributes:
        model: the checkpoint: a folder that every node has, or a repository on the model hub; by default mossvl-tiny.
        device, dtype, quantization, tensor_parallel_size, lora: of `mossvl.EngineConfig`; adapters by name.
        engine: other options of `mossvl.EngineConfig`.
        api_keys, origins: of the server; a key may also be in MOSSVL_API_KEY. Without keys, requests must name this
            machine as their host, unless `server` has `open_to_all`.
        server: other options of the server, by the names of its flags with underscores (`max_tokens`, `media_dirs`);
            where it listens, Serve's `http_options` say.
        num_replicas, autoscaling_config: how many engines there are.
        max_ongoing_requests: of a replica; by default as many as its engine runs at a time.
        health_check_period_s, health_check_timeout_s: how a replica whose device has failed is found, and replaced.
        num_cpus: of a replica, for each rank if it computes on CPUs.
        accelerator_type: kind of GPU, as Ray names it.
        shared_folder: of uploaded files and stored responses, which all replicas then know; a folder of the one machine
            that the replicas are on. Without it, they are on the replica that took them.
        sticky: requests with the same header `x-session-id` go to one replica, as long as there is room.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str | None = None
    device: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    tensor_parallel_size: int = 1
    lora: Options = Field(default_factory=dict)
    engine: Options = Field(default_factory=dict)
    api_keys: Texts = Field(default_factory=list)
    origins: Texts = Field(default_factory=list)
    server: Options = Field(default_factory=dict)
    num_replicas: int | None = Field(None, ge=1)
    autoscaling_config: Options | None = None
    max_ongoing_requests: int | None = Field(None, ge=1)
    health_check_period_s: float = Field(10.0, gt=0)
    health_check_timeout_s: float = Field(30.0, gt=0)
    num_cpus: int = Field(1, ge=1)
    accelerator_type: str | None = None
    shared_folder: str | None = None
    sticky: bool = False

    def server_config(self) -> ServerConfig:
        """The settings of a replica's server.

        Raises:
            OptionError: an option is unknown or out of range, or belongs to Serve.
        """
        for name in ("host", "port"):
            if name in self.server:
                raise OptionError(f"server: {name} is Serve's to say (http_options, or serve start --http-{name})")
        keys = [*self.api_keys, *filter(None, [os.environ.get("MOSSVL_API_KEY")])]
        given: dict[str, Any] = {
            name: tuple(one) if isinstance(one, list) else one for name, one in self.server.items()
        }
        host = "0.0.0.0" if keys or given.get("open_to_all") else "127.0.0.1"
        return ServerConfig(**given, host=host, api_keys=tuple(keys), origins=tuple(self.origins))

    @property
    def place(self) -> Place:
        """Where a replica keeps what clients name later.

        Raises:
            OptionError: the folder cannot be made.
        """
        if self.shared_folder is None:
            return Place()
        folder = Path(self.shared_folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OptionError(
                f"{{shared_folder=}} cannot be made ({error.strerror})", given={"shared_folder": self.shared_folder}
            ) from error
        return Place(folder)

    def engine_config(self) -> EngineConfig:
        """The settings of a replica's engine.

        Raises:
            OptionError: an option is unknown or out of range, or is given twice.
        """
        own = {
            name: getattr(self, name) for name in ("device", "dtype", "quantization", "tensor_parallel_size", "lora")
        }
        if twice := [name for name in own if name in self.engine]:
            raise OptionError(f"engine: {twice[0]} is an argument of its own; give it beside engine")
        # Requests that wait for a decoder process must not delay requests without media.
        workers = {"media_workers": self.server_config().decoders + TEXTS}
        return EngineConfig(**workers | self.engine | own)

    @property
    def name(self) -> str:
        """The model's name in responses."""
        if given := self.server.get("model_name"):
            return str(given)
        if self.model is None or self.model == str(CHECKPOINT):
            return NAME
        return Path(self.model).resolve().name if Path(self.model).is_dir() else self.model
