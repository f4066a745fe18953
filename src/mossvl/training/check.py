"""Preflight of training data: statistics, bad records, and samples as the model will see them."""

import re
import statistics
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import groupby
from typing import Any, Self

from torch.utils.data import DataLoader, Dataset

from mossvl.data.forms import form_of
from mossvl.data.records import unread_keys
from mossvl.errors import DataError
from mossvl.processing.labels import IGNORED_LABEL
from mossvl.processing.pixels import num_vision_tokens
from mossvl.processing.processor import MossVLProcessor
from mossvl.processing.prompt import VISION_START
from mossvl.processing.stream import StateTokens
from mossvl.training.dataset import FileExamples
from mossvl.training.examples import Example
from mossvl.training.timeline import timeline
from mossvl.training.weighting import state_counts

SHOWN = 20
"""Bad records whose lines are kept."""
DETAIL = re.compile(r"(?<!\w)'[^']*'|\"[^\"]*\"|\S*/\S*|[^\s(]*\d[^\s):]*")
"""Details that differ between messages with the same reason: quoted texts, paths, numbers."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Counts of one example, or their sums over many.

    Attributes:
        learned: tokens with loss.
        images, videos: number of images and of videos; each segment of a video counts.
        frames: sampled frames of videos.
        streams, stream_frames: live records, and their frames.
        silences, responses: state tokens with loss.
        vision_tokens: rows of the vision sequence, separators of frames included.
        cut: number of truncated examples.
    """

    learned: int
    images: int
    videos: int
    frames: int
    streams: int
    stream_frames: int
    silences: int
    responses: int
    vision_tokens: int
    cut: int


@dataclass(frozen=True, kw_only=True)
class Measure(Counts):
    """Counts of one example, its number of text `tokens`, and the `form` and the `unread` keys of its record."""

    tokens: int
    unread: tuple[str, ...]
    form: str

    @classmethod
    def of(cls, processor: MossVLProcessor, example: Example[Any], unread: Sequence[str] = (), form: str = "") -> Self:
        ids, watched = example.input_ids, len(example.times)
        videos = int((ids == processor.tokenizer.convert_tokens_to_ids(VISION_START)).sum()) - watched
        images = len(example.grids) - watched - videos
        states = StateTokens.find(processor.tokenizer)
        silences, responses, _ = state_counts(example.labels, states).tolist() if states else (0, 0, 0)
        return cls(
            tokens=len(ids),
            unread=tuple(unread),
            form=form,
            learned=int((example.labels != IGNORED_LABEL).sum()),
            images=images,
            videos=videos,
            frames=sum(frames for frames, _, _ in example.grids) - images - watched,
            streams=int(silences + responses > 0),
            stream_frames=watched,
            silences=silences,
            responses=responses,
            vision_tokens=num_vision_tokens(example.grids, processor.image_processor.merge_size),
            cut=int(example.cut > 0),
        )


@dataclass(frozen=True)
class Tokens:
    """Lengths of the examples' texts, in tokens; all 0 without examples."""

    least: int = 0
    median: int = 0
    most: int = 0
    total: int = 0

    @classmethod
    def of(cls, lengths: Sequence[int]) -> Self:
        return cls(min(lengths), statistics.median_low(lengths), max(lengths), sum(lengths)) if lengths else cls()


@dataclass(frozen=True, kw_only=True)
class Statistics(Counts):
    """Statistics of all records; counts are sums over the good ones.

    Attributes:
        records: number of records, good and bad.
        bad: number of bad records by reason, most frequent first; details in reasons are "…".
        bad_lines: "FILE: line 3: why" of the first `SHOWN` bad records.
        samples: indices of the first good record and another one; one of them has media if any good record has.
        tokens: lengths of the good examples' texts.
        unread: number of good records with an unread key, by key.
        forms: number of good records of each form, by file.
    """

    records: int
    bad: dict[str, int]
    bad_lines: tuple[str, ...]
    samples: tuple[int, ...]
    tokens: Tokens
    unread: dict[str, int]
    forms: dict[str, dict[str, int]]

    @classmethod
    def gather(cls, examples: FileExamples, workers: int = 0) -> Self:
        """Encode every record, media included.

        Args:
            workers: number of DataLoader workers; 0 for this process.

        Raises:
            DataError: a file has changed since it was indexed.
        """
        reasons: Counter[str] = Counter()
        lines: list[str] = []
        lengths = array("q")
        sums: Counter[str] = Counter()
        unread: Counter[str] = Counter()
        forms: dict[str, Counter[str]] = {}
        samples: list[int] = []
        media_sampled = False
        for index, result in enumerate(DataLoader(_Measures(examples), batch_size=None, num_workers=workers)):
            if isinstance(result, Measure):
                if len(samples) < 2 or (result.vision_tokens and not media_sampled):
                    samples = [*samples[:1], index]
                    media_sampled |= result.vision_tokens > 0
                lengths.append(result.tokens)
                unread.update(result.unread)
                forms.setdefault(str(examples.index.file_of(index)), Counter())[result.form] += 1
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
            forms={file: dict(counts.most_common()) for file, counts in forms.items()},
            **{one.name: sums[one.name] for one in fields(Counts)},
        )


class _Measures(Dataset[Measure | tuple[str, str]]):
    """The `Measure` of each good record, or ("FILE: line 3: why", reason) of a bad one."""

    def __init__(self, examples: FileExamples) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Measure | tuple[str, str]:
        record = self.examples.index.read(index)
        try:
            example = self.examples.encode(record)
            assert isinstance(record.value, dict)
            form = form_of(record.value)
            found = Measure.of(
                self.examples.processor, example, unread_keys(record.value), form.name if form else "unknown"
            )
            return replace(found, form=f"live records as {found.form}") if found.streams else found
        except DataError as error:
            return str(error), reason_of(str(error).removeprefix(f"{record.where}: "))


def reason_of(message: str) -> str:
    """A message with its details replaced by "…", so that messages can be counted by reason."""
    return DETAIL.sub("…", message)


def rendered(processor: MossVLProcessor, example: Example[Any]) -> str:
    """The text of an example's tokens, special tokens included, with ⟦ and ⟧ around tokens with loss.

    A live record is drawn as a timeline.
    """
    if example.times:
        return timeline(processor, example)
    pairs = zip(example.input_ids.tolist(), (example.labels != IGNORED_LABEL).tolist(), strict=True)
    parts = []
    for with_loss, group in groupby(pairs, key=lambda pair: pair[1]):
        text = processor.tokenizer.decode([token for token, _ in group], clean_up_tokenization_spaces=False)
        parts.append(f"⟦{text}⟧" if with_loss else text)
    return "".join(parts)
