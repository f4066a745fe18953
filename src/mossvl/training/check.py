"""What data hold, before anything is trained on them: numbers, what is bad, and texts as a model will see them."""

import re
import statistics
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from typing import Any, Self

from torch.utils.data import DataLoader, Dataset

from mossvl.data.records import unread_keys
from mossvl.errors import DataError
from mossvl.processing.labels import IGNORED_LABEL
from mossvl.processing.processor import MossVLProcessor
from mossvl.processing.prompt import VISION_START
from mossvl.training.dataset import FileExamples
from mossvl.training.examples import Example

SHOWN = 20
"""Bad records that are kept with their lines."""
DETAIL = re.compile(r"(?<!\w)'[^']*'|\"[^\"]*\"|\S*/\S*|[^\s(]*\d[^\s):]*")
"""What differs between messages of the same reason: quoted texts, paths, numbers."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Of one example, or of many.

    Attributes:
        learned: tokens that are learned.
        images, videos: each segment of a video counts.
        frames: of videos.
        vision_tokens: what the vision tower gives to the language model, separators of frames included.
        cut: examples of which tokens were cut off.
    """

    learned: int
    images: int
    videos: int
    frames: int
    vision_tokens: int
    cut: int


@dataclass(frozen=True, kw_only=True)
class Measure(Counts):
    """One example: its text's `tokens`, and the keys of its record that were not read."""

    tokens: int
    unread: tuple[str, ...]

    @classmethod
    def of(cls, processor: MossVLProcessor, example: Example[Any], unread: Sequence[str] = ()) -> Self:
        ids = example.input_ids
        videos = int((ids == processor.tokenizer.convert_tokens_to_ids(VISION_START)).sum())
        images = len(example.grids) - videos
        return cls(
            tokens=len(ids),
            unread=tuple(unread),
            learned=int((example.labels != IGNORED_LABEL).sum()),
            images=images,
            videos=videos,
            frames=sum(frames for frames, _, _ in example.grids) - images,
            vision_tokens=sum(t * (h * w // processor.image_processor.merge_size**2 + 1) for t, h, w in example.grids),
            cut=int(example.cut > 0),
        )


@dataclass(frozen=True)
class Tokens:
    """Tokens of the texts; all 0 where there is no example."""

    least: int = 0
    median: int = 0
    most: int = 0
    total: int = 0

    @classmethod
    def of(cls, lengths: Sequence[int]) -> Self:
        return cls(min(lengths), statistics.median_low(lengths), max(lengths), sum(lengths)) if lengths else cls()


@dataclass(frozen=True, kw_only=True)
class Statistics(Counts):
    """What all examples are together.

    Attributes:
        records: good and bad ones.
        bad: how many records cannot be used, by reason, most frequent first; details in reasons are "…".
        bad_lines: "FILE: line 3: why" of the first of them.
        samples: places of the first good record and another one; if any has media, one of the two does.
        tokens: of the texts of good examples, which `Counts` are of, too.
        unread: how many of these have a key that is not read, by key.
    """

    records: int
    bad: dict[str, int]
    bad_lines: tuple[str, ...]
    samples: tuple[int, ...]
    tokens: Tokens
    unread: dict[str, int]

    @classmethod
    def gather(cls, examples: FileExamples, workers: int = 0) -> Self:
        """Encode every record, media included.

        Args:
            workers: processes that do so; 0 for this one.

        Raises:
            DataError: a file has changed since it was indexed.
        """
        reasons: Counter[str] = Counter()
        lines: list[str] = []
        lengths = array("q")
        sums: Counter[str] = Counter()
        unread: Counter[str] = Counter()
        samples: list[int] = []
        seeing = False
        for place, result in enumerate(DataLoader(_Measures(examples), batch_size=None, num_workers=workers)):
            if isinstance(result, Measure):
                if len(samples) < 2 or (result.vision_tokens and not seeing):
                    samples = [*samples[:1], place]
                    seeing |= result.vision_tokens > 0
                lengths.append(result.tokens)
                unread.update(result.unread)
                sums.update({one.name: getattr(result, one.name) for one in fields(Counts)})
            else:
                line, reason = result
                reasons[reason] += 1
                if len(lines) < SHOWN:
                    lines.append(line)
        return cls(
            records=len(examples),
            bad=dict(reasons.most_common()),
            bad_lines=tuple(lines),
            samples=tuple(samples),
            tokens=Tokens.of(lengths),
            unread=dict(unread.most_common()),
            **{one.name: sums[one.name] for one in fields(Counts)},
        )


class _Measures(Dataset[Measure | tuple[str, str]]):
    """The measure of each record, or (line, reason) of a bad one."""

    def __init__(self, examples: FileExamples) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Measure | tuple[str, str]:
        record = self.examples.index.read(index)
        try:
            example = self.examples.encode(record)
            unread = unread_keys(record.value) if isinstance(record.value, dict) else []
            return Measure.of(self.examples.processor, example, unread)
        except DataError as error:
            return str(error), reason_of(str(error).removeprefix(f"{record.where}: "))


def reason_of(message: str) -> str:
    """A message without what is particular to one record, so that messages alike can be counted."""
    return DETAIL.sub("…", message)


def rendered(processor: MossVLProcessor, example: Example[Any]) -> str:
    """The text of an example's tokens, special ones included, with ⟦ and ⟧ around what is learned."""
    pairs = zip(example.input_ids.tolist(), (example.labels != IGNORED_LABEL).tolist(), strict=True)
    parts = []
    for learned, group in groupby(pairs, key=lambda pair: pair[1]):
        text = processor.tokenizer.decode([token for token, _ in group], clean_up_tokenization_spaces=False)
        parts.append(f"⟦{text}⟧" if learned else text)
    return "".join(parts)
