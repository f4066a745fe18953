"""`mossvl ask`: one question about images and videos."""

import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mossvl.cli.checkpoint import check_checkpoint, open_checkpoint
from mossvl.cli.media_arguments import MediaArgument, parse_media
from mossvl.cli.memory import tokens_per_frame
from mossvl.cli.options import (
    Checkpoint,
    Device,
    Dtype,
    GenerationFlags,
    LimitFlags,
    MediaFlags,
    System,
    check_effect,
    with_flags,
)
from mossvl.errors import PromptError
from mossvl.media.limits import MediaLimits
from mossvl.options import GenerationOptions, MediaOptions

if TYPE_CHECKING:
    from mossvl.offline.interface import MossVLForConditionalGeneration
    from mossvl.offline.request import Request
    from mossvl.processing.pixels import PatchLayout
    from mossvl.processing.plan import MediumPlan
    from mossvl.processing.processor import MossVLProcessor

Media = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="MEDIA",
        help="Images and videos, in the order in which the model sees them: files or http(s) URLs. "
        "video.mp4#t=10,20 is a part of a video, video.mp4#t=4.5 a single frame.",
        show_default=False,
    ),
]
Question = Annotated[str, typer.Argument(metavar="QUESTION", help="What to ask.")]


@with_flags
def ask(
    *,
    files: Media = None,
    question: Question,
    generation: GenerationFlags,
    media: MediaFlags,
    limits: LimitFlags,
    checkpoint: Checkpoint = None,
    device: Device = None,
    dtype: Dtype = None,
    system: System = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object with everything known.")] = False,
) -> None:
    """Ask a question about images and videos; the answer appears on stdout as it is generated."""
    check_question(question)
    seen = [parse_media(file) for file in files or []]
    query = {
        "messages": [{"role": "user", "content": [*(one.part for one in seen), {"type": "text", "text": question}]}],
        "system_prompt": system,
        "generate_kwargs": generation,
        "media_kwargs": media,
    }
    check_effect(generation)
    GenerationOptions.from_dict(generation)
    MediaOptions.from_dict(media)
    allowed = MediaLimits(**limits)
    folder = check_checkpoint(checkpoint)

    model, processor = open_checkpoint(folder, device, dtype, allowed)
    request = new_request(query, processor)
    begun = time.monotonic()
    with closing(request):
        if not as_json:
            _stream(model, request)
            return
        for _ in answer(model, request):
            pass
    result = {"question": question, **report(request, seen), "seconds": round(time.monotonic() - begun, 3)}
    print(json.dumps(result, ensure_ascii=False))


def check_question(question: str) -> None:
    """Refuse what is hardly meant as one.

    Raises:
        PromptError: it is empty, or a file.
    """
    if not question.strip():
        raise PromptError("the last argument is the question, but it is empty")
    if Path(question).is_file():
        raise PromptError(f"the last argument is the question, but {question!r} is a file; add the question after it")


def new_request(query: dict[str, Any], processor: "MossVLProcessor") -> "Request":
    from mossvl.offline.query import Query
    from mossvl.offline.request import Request

    checked = Query.from_dict(query)
    return Request(0, checked, checked.messages([]), processor)


def answer(model: "MossVLForConditionalGeneration", request: "Request") -> Iterator[str]:
    """The answer as it is generated; raises what the request failed of."""
    from mossvl.offline.batch import run

    for _, chunk, _ in run(model, [request]):
        yield chunk
    if request.error is not None:
        raise request.error


def _stream(model: "MossVLForConditionalGeneration", request: "Request") -> None:
    """Write the answer to stdout piece by piece; a line that was begun is ended, whatever happens."""
    begun = False
    try:
        for chunk in answer(model, request):
            if chunk:
                begun = True
                print(chunk, end="", flush=True)
    except BrokenPipeError:
        raise
    except BaseException:
        if begun:
            print(flush=True)
        raise
    print(flush=True)


def report(request: "Request", media: list[MediaArgument]) -> dict[str, Any]:
    """Everything known about an answer."""
    assert request.planned is not None
    layout = request.processor.image_processor.layout
    seen = [
        {"source": one.source, "kind": one.kind, **describe(plan, layout)}
        for one, plan in zip(media, request.planned.plans, strict=True)
    ]
    return {
        "answer": request.text.text,
        "finish": request.finish_reason,
        "media": seen,
        "vision_tokens": sum(one["vision_tokens"] for one in seen),
        "prompt_tokens": request.prompt_tokens,
        "new_tokens": len(request.tokens),
    }


def describe(plan: "MediumPlan", layout: "PatchLayout") -> dict[str, Any]:
    """An image or video as it was and as the model sees it; sizes are [width, height] in pixels."""
    described: dict[str, Any] = {
        "size": [plan.source.width, plan.source.height],
        "model_size": [plan.width, plan.height],
        "vision_tokens": plan.num_frames * tokens_per_frame(plan, layout),
    }
    if plan.timestamps is not None:
        described["timestamps"] = [round(time, 6) for time in plan.timestamps]
    return described
