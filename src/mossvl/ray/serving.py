"""The server's routes as a Ray Serve application: each replica has an engine."""

import asyncio
import time
from functools import partial
from typing import Any

import anyio.to_thread
from ray import serve
from ray._private.worker import global_worker
from ray.serve import Application
from ray.serve.config import RequestRouterConfig

from mossvl.errors import OptionError
from mossvl.options.engine import check_apart
from mossvl.ray.app_args import AppArgs
from mossvl.ray.cluster import actor_resources
from mossvl.server.app import create_app
from mossvl.server.errors import RequestError
from mossvl.server.listening import LAST_SECONDS
from mossvl.server.service import Service

POLL_SECONDS = 0.05
BY_SESSION = "ray.serve.experimental.consistent_hash_router:ConsistentHashRouter"
MODEL_ID = "serve_multiplexed_model_id"
"""The header that names an adapter, and that Serve routes by."""


def draining() -> bool:
    """Whether this replica is to go, once its requests have ended: Serve's own actor knows, but tells no deployment."""
    actor = next(iter(global_worker.actors.values()), None)
    return getattr(getattr(actor, "_replica_impl", None), "_shutting_down", False)


async def end_with(service: Service) -> None:
    """When the replica is to go, end live sessions at once, and what still runs after `shutdown_timeout` seconds.

    Until then, requests are answered: a proxy that does not know it yet may send some.
    """
    while not draining():
        await asyncio.sleep(POLL_SECONDS)
    until = time.monotonic() + service.config.shutdown_timeout
    while time.monotonic() < until:
        for end in service.endings:
            await end()
        await asyncio.sleep(POLL_SECONDS)
    service.stopping = True
    await anyio.to_thread.run_sync(service.cancel_all)


class ReplicaService(Service):
    """A service whose requests may name their adapter in a header instead of in their body."""

    def lora_of(self, model: str | None) -> str | None:
        """The adapter that a request names as its `model` or, if that is none, in Serve's header.

        Raises:
            RequestError: the header names none.
        """
        found = super().lora_of(model)
        wanted = serve.get_multiplexed_model_id()
        if found is not None or not wanted or wanted == self.name:
            return found
        found = super().lora_of(wanted)
        if found is None:
            raise RequestError(404, "model_not_found", f"{MODEL_ID}: {wanted!r:.100} is no adapter of this server")
        return found


@serve.ingress()
class Replica:
    """One engine, and the server's application before it, which Serve gives its requests."""

    def __init__(self, args: AppArgs) -> None:
        from mossvl.llm import MossVL

        engine = args.engine_config()
        load = partial(MossVL, args.model, config=engine)
        self.service = ReplicaService(args.server_config(), load, args.name, args.place)
        self.ending: asyncio.Task[None] | None = None
        """Of `end_with`; there is one once Serve has been told which adapters there are."""

    def __serve_build_asgi_app__(self) -> Any:
        return create_app(self.service)

    async def check_health(self) -> None:
        """Wait until the model is loaded: Serve sends requests only after the first check. Later, raise what is broken.

        Raises:
            Exception: the model cannot be loaded, or the device has failed; Serve then replaces the replica.
        """
        while not self.service.is_ready and self.service.broken is None:
            await asyncio.sleep(POLL_SECONDS)
        if self.service.broken is not None:
            raise self.service.broken
        if self.ending is None:
            for name in self.service.ready.llm.engine.adapters.names:
                await self.adapter(name)
            self.ending = asyncio.create_task(end_with(self.service))

    @serve.multiplexed(max_num_models_per_replica=-1)  # type: ignore[untyped-decorator]
    async def adapter(self, name: str) -> str:
        """An adapter, which the engine has from its start on; that it was asked for tells Serve's router of it."""
        return name


def build_app(args: AppArgs) -> Application:
    """Return the application: `serve run mossvl.ray:build_app model=…`, or by a YAML file (`serve deploy`).

    Raises:
        OptionError: an option is unknown or out of range, or no node has what a replica needs.
    """
    engine, server = args.engine_config(), args.server_config()
    check_apart(engine.lora, args.name)
    _ = args.place  # Check before a replica starts.
    resources = actor_resources(engine, args.num_cpus, args.accelerator_type)
    options: dict[str, Any] = {
        "ray_actor_options": resources | _kind(args.accelerator_type),
        "max_ongoing_requests": args.max_ongoing_requests or engine.max_batch,
        "health_check_period_s": args.health_check_period_s,
        "health_check_timeout_s": args.health_check_timeout_s,
        "graceful_shutdown_timeout_s": server.shutdown_timeout + LAST_SECONDS,
    }
    if args.autoscaling_config is not None and args.num_replicas is not None:
        raise OptionError("num_replicas and autoscaling_config exclude each other; give one of them")
    if args.autoscaling_config is not None:
        half = max(1, options["max_ongoing_requests"] // 2)
        options["autoscaling_config"] = {"target_ongoing_requests": half} | args.autoscaling_config
    else:
        options["num_replicas"] = args.num_replicas or 1
    if args.sticky:
        options["request_router_config"] = RequestRouterConfig(request_router_class=BY_SESSION)
    if engine.tensor_parallel_size > 1:  # The ranks are processes of one machine.
        bundle = {"CPU": float(resources.get("num_cpus", 1)), "GPU": float(resources.get("num_gpus", 0))}
        options["placement_group_bundles"] = [{name: count for name, count in bundle.items() if count}]
        options["placement_group_strategy"] = "STRICT_PACK"
    return serve.deployment(Replica, name="MossVL", **options).bind(args)


def _kind(accelerator_type: str | None) -> dict[str, str]:
    return {} if accelerator_type is None else {"accelerator_type": accelerator_type}
