"""Routes that describe the served model."""

from typing import Any

from fastapi import FastAPI

from mossvl.checkpoints.default import NAME
from mossvl.server.description import responses
from mossvl.server.errors import RequestError
from mossvl.server.samples import SAMPLES
from mossvl.server.service import Service
from mossvl.version import __version__


def add_models(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models", responses=responses(401, 503))
    async def models() -> dict[str, Any]:
        """List the served model, and its adapters after it."""
        names = [service.name, *service.ready.llm.engine.adapters.names]
        return {"object": "list", "data": [described(service, name) for name in names]}

    @app.get("/v1/models/{name:path}", responses=responses(401, 404, 503))
    async def model(name: str) -> dict[str, Any]:
        """Describe the model, or the adapter, of this name."""
        if name not in (service.name, *service.ready.llm.engine.adapters.names):
            raise RequestError(404, "model_not_found", f"there is no model {name!r:.80}; this is {service.name!r}")
        return described(service, name)


def described(service: Service, name: str) -> dict[str, Any]:
    """Describe the model or an adapter of it, the limits of requests, and the samples of the web page.

    Raises:
        RequestError: the model is not loaded.
    """
    llm, config = service.ready.llm, service.config
    images, videos = llm.processor.image_processor, llm.processor.video_processor
    media = {
        "fps": videos.video_fps,
        "min_frames": videos.min_frames,
        "max_frames": videos.max_frames,
        "min_pixels": images.size["shortest_edge"],
        "max_pixels": videos.size["longest_edge"],
        "video_max_pixels": videos.video_max_pixels,
    }
    caps = {
        "max_media": config.max_media,
        "max_frames": config.max_frames,
        "max_pixels": config.max_pixels,
        "max_tokens": config.max_tokens,
        "max_duration": config.max_duration,
        "max_upload_bytes": config.max_download,
    }
    context = llm.model.config.text_config.max_position_embeddings
    samples = [
        {"name": one["name"], "url": f"/samples/{one['file']}", "questions": one["questions"]}
        for one in (SAMPLES if service.name == NAME else [])
    ]
    return {
        "id": name,
        "object": "model",
        "created": service.created,
        "owned_by": "mossvl",
        **({} if name == service.name else {"parent": service.name}),
        "mossvl": {"version": __version__, "context": context, "media": media, "caps": caps, "samples": samples},
    }
