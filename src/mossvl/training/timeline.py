"""A live record as a timeline: a line for each frame, with what the assistant does then, and for each prompt."""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from mossvl.processing.labels import IGNORED_LABEL
from mossvl.processing.pixels import num_vision_tokens
from mossvl.processing.processor import MossVLProcessor
from mossvl.processing.prompt import VISION_END, VISION_START
from mossvl.processing.stream import RESPONSE, SILENCE, StateTokens
from mossvl.training.examples import Example
from mossvl.training.weighting import alphas_of, state_counts

FEW = 3
"""Lines alike that are all drawn; of more, the first and the last."""


def timeline(processor: MossVLProcessor, example: Example[Any]) -> str:
    """Draw the example of a live record.

    The line of a frame begins with its time, and its number of vision tokens in brackets; the frame and its marks have
    no loss. Tokens with loss stand between ⟦ and ⟧. The heading tells α of the stream's state tokens, as if it were a
    step of its own.
    """
    tokens = StateTokens.of(processor.tokenizer)
    counts = state_counts(example.labels, tokens)
    alphas, _ = alphas_of(counts)
    decisions = ", ".join(
        f"{count} × {name}" + (f" (α {alpha:.2f})" if count else "")
        for name, count, alpha in zip((SILENCE, RESPONSE), counts.tolist(), alphas.tolist(), strict=False)
    )
    span = f", {example.times[0]:.1f} to {example.times[-1]:.1f} s" if example.times else ""
    lines = [f"stream of {len(example.times)} frames{span}; with loss: {decisions}, {int(counts[2])} tokens in all"]
    for _, group in groupby(_lines(processor, example), key=lambda line: line[1]):
        alike = list(group)
        shown = alike if len(alike) <= FEW else [alike[0], ("", f"… {len(alike) - 2} × the same"), alike[-1]]
        lines += [f"{time:>10}  {text}" for time, text in shown]
    return "\n".join(lines)


def _lines(processor: MossVLProcessor, example: Example[Any]) -> list[tuple[str, str]]:
    """(time, text) of each line; the time of a line without a frame is ""."""
    lines: list[tuple[str, str]] = []
    times, grids = iter(example.times), iter(example.grids)
    decided = True
    for kind, text in _runs(processor, example):
        if kind == "frame":
            size = num_vision_tokens([next(grids)], processor.image_processor.merge_size)
            lines.append((f"{next(times):.1f} s", f"[{size}]"))
            decided = False
        elif kind == "learned" and not decided:
            time, frame = lines[-1]
            lines[-1] = time, f"{frame} ⟦{text}⟧"
            decided = True
        else:
            lines.append(("", f"⟦{text}⟧" if kind == "learned" else text))
    return lines


def _runs(processor: MossVLProcessor, example: Example[Any]) -> Iterator[tuple[str, str]]:
    """(kind, text) of runs of tokens: a "frame" with its marks, "learned" ones, or "masked" ones."""
    start, end = (processor.tokenizer.convert_tokens_to_ids(mark) for mark in (VISION_START, VISION_END))
    kinds: list[tuple[str, int]] = []
    frames, inside = 0, False
    for token, label in zip(example.input_ids.tolist(), example.labels.tolist(), strict=True):
        if token == start:
            frames, inside = frames + 1, True
        kinds.append(("frame", frames) if inside else ("masked" if label == IGNORED_LABEL else "learned", 0))
        inside &= token != end
    pairs = zip(kinds, example.input_ids.tolist(), strict=True)
    for (kind, _), run in groupby(pairs, key=lambda pair: pair[0]):
        text = processor.tokenizer.decode([token for _, token in run], clean_up_tokenization_spaces=False)
        yield kind, text.replace("\n", "⏎")
