"""`mossvl ask`: questions about images and videos."""

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mossvl.cli.checkpoint import open_engine
from mossvl.cli.media_arguments import MediaArgument, parse_media
from mossvl.cli.options import (
    Checkpoint,
    GenerationFlags,
    LimitFlags,
    Lora,
    MediaFlags,
    SystemFlags,
    WeightFlags,
    check_effect,
    only_adapter,
)
from mossvl.cli.places import ASKED
from mossvl.errors import PromptError
from mossvl.media.limits import MediaLimits
from mossvl.options import GenerationOptions, MediaOptions
from mossvl.processing.system_prompt import SystemPrompt

if TYPE_CHECKING:
    from mossvl.queries.handle import Handle
    from mossvl.queries.results import Result, SeenMedium

Media = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="MEDIA",
        help="Images and videos, in the order of the prompt: files or http(s) URLs. video.mp4#t=10,20 is a segment, "
        "video.mp4#t=4.5 one frame (seconds).",
        show_default=False,
    ),
    ASKED,
]
Question = Annotated[str, typer.Argument(metavar="QUESTION", help="Question about the media.")]
Then = Annotated[
    list[str] | None,
    typer.Option(metavar="QUESTION", help="Follow-up question in the same conversation; repeatable."),
]


def ask(
    *,
    files: Media = None,
    question: Question,
    generation: GenerationFlags,
    media: MediaFlags,
    system: SystemFlags,
    limits: LimitFlags,
    weights: WeightFlags,
    checkpoint: Checkpoint = None,
    lora: Lora = None,
    then: Then = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object for each question, once its answer is complete.")
    ] = False,
) -> None:
    """Ask a question about images and videos; the answer is streamed to stdout."""
    questions = [question, *(then or [])]
    check_question(question, "the last argument")
    for text in then or []:
        check_question(text, "--then")
    seen = [parse_media(file) for file in files or []]
    GenerationOptions.from_dict(generation)
    check_effect(generation)
    MediaOptions.from_dict(media)
    SystemPrompt(**system).text(video=False)  # Check before loading.
    allowed = MediaLimits(**limits)

    parts: list[Any] = [one.part for one in seen]
    messages: list[dict[str, Any]] = []
    adapter = only_adapter(lora)
    options = {**system, "generate_kwargs": generation, "media_kwargs": media, "lora": next(iter(adapter or ()), None)}
    with open_engine(checkpoint, allowed, **weights, lora=adapter) as llm:
        for text in questions:
            messages.append({"role": "user", "content": [*parts, {"type": "text", "text": text}]})
            handle = llm.submit({"messages": messages, **options})
            if not as_json:
                _stream(handle)
            result = handle.result()
            if as_json:
                print(json.dumps({"question": text, **report(result, seen)}, ensure_ascii=False), flush=True)
            messages.append({"role": "assistant", "content": result.text})
            parts = []


def check_question(question: str, what: str) -> None:
    """Refuse a question that is empty or a file, and so hardly meant; `what` names the argument in messages.

    Raises:
        PromptError: the question is empty, or a file.
    """
    if not question.strip():
        raise PromptError(f"{what} is a question, but it is empty")
    if os.path.isfile(question):  # `Path.is_file` raises where a text is too long for a name.
        raise PromptError(f"{what} is a question, but {question!r} is a file; add the question after it")


def _stream(handle: "Handle") -> None:
    """Stream the answer to stdout; end its line also when the query fails."""
    begun = False
    try:
        for chunk in handle:
            begun = True
            print(chunk, end="", flush=True)
    except BrokenPipeError:
        raise
    except BaseException:
        if begun:
            print(flush=True)
        raise
    print(flush=True)


def report(result: "Result", media: list[MediaArgument]) -> dict[str, Any]:
    """Return the object of --json; sizes are [width, height] in pixels, times in seconds."""
    seen = [
        {"source": one.source, "kind": one.kind, **describe(medium)}
        for one, medium in zip(media, result.media, strict=True)
    ]
    timings = {name: value and round(value, 3) for name, value in asdict(result.timings).items()}
    return {
        "answer": result.text,
        "finish": result.finish_reason,
        "media": seen,
        **asdict(result.usage),
        "timings": timings,
        "seconds": timings["total"],
    }


def describe(medium: "SeenMedium") -> dict[str, Any]:
    """Return a medium's original size, size for the model, vision tokens and timestamps."""
    described: dict[str, Any] = {
        "size": [medium.width, medium.height],
        "model_size": [medium.model_width, medium.model_height],
        "vision_tokens": medium.vision_tokens,
    }
    if medium.timestamps is not None:
        described["timestamps"] = [round(time, 6) for time in medium.timestamps]
    return described
