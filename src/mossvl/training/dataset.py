"""Examples from data files, read and encoded on access."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from torch import Tensor
from torch.utils.data import Dataset

from mossvl.data.files import Record
from mossvl.data.index import RecordIndex
from mossvl.data.live import Stream, read_example
from mossvl.errors import CheckpointError, DataError, GenerationTimeout, InputError, OptionError
from mossvl.options import MediaOptions
from mossvl.options.checks import whole
from mossvl.processing.labels import IGNORED_LABEL
from mossvl.processing.processor import MossVLProcessor
from mossvl.training.examples import Example, P, encode
from mossvl.training.streams import AS_WRITTEN, Slots, encode_stream

TRIES = 100
"""Bad records in a row after which an access fails."""


class FileExamples(Dataset[Example[Tensor]]):
    """The records of an index as examples: item i is record i, or the next good record.

    Args:
        media_dir: the folder of relative paths of media.
        max_length: tokens to which examples are truncated; a live stream ends before a frame.
        bad: "skip" replaces a bad record with the next good one, and reports it in `Example.skipped`; "stop" raises.
        slots: how the slots of live streams are learned.

    Raises:
        OptionError: `max_length` or `bad` is invalid.
    """

    def __init__(
        self,
        processor: MossVLProcessor,
        index: RecordIndex,
        media_dir: Path,
        options: MediaOptions,
        max_length: int | None = None,
        bad: Literal["skip", "stop"] = "skip",
        slots: Slots = AS_WRITTEN,
    ) -> None:
        if bad not in ("skip", "stop"):
            raise OptionError("{bad=} must be 'skip' or 'stop'", given={"bad": bad})
        self.processor, self.index, self.media_dir, self.options = processor, index, media_dir, options
        self.max_length = None if max_length is None else whole("max_length", max_length)
        self.bad, self.slots = bad, slots

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> Example[Tensor]:
        """The example of record `index`, or of the next good record.

        Raises:
            DataError: the record is bad and `bad` is "stop"; too many records in a row are bad; or a file has changed.
            IndexError: there is no such record.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"there is no example {index} among {len(self)}, which are counted from 0")
        skipped: list[str] = []
        while True:
            record = self.index.read((index + len(skipped)) % len(self))
            try:
                return replace(self.encode(record), skipped=tuple(skipped))
            except DataError as error:
                if self.bad == "stop":
                    raise
                skipped.append(str(error))
                if len(skipped) == min(len(self), TRIES):
                    raise DataError(_hopeless(skipped, len(self))) from error

    def encode(self, record: Record) -> Example[Tensor]:
        """Encode one record, media included.

        Raises:
            DataError: the record is bad; "FILE: line 3: why", in one line.
        """
        try:
            if isinstance(record.value, DataError):
                raise record.value
            read = read_example(record.value, self.media_dir)
            if isinstance(read, Stream):
                read = self.slots.dropped(read, f"{record.file.name} {record.place}")
                example = encode_stream(self.processor, read, self.options, self.slots.turn_end_loss, self.max_length)
            else:
                example = encode(self.processor, read, self.options)
            return truncated(example, self.max_length, self.processor.image_token_id)
        except (InputError, CheckpointError, GenerationTimeout) as error:
            why = " ".join(str(error).split()).removeprefix(f"{record.place} ")
            raise DataError(f"{record.where}: {why}") from error


def truncated(example: Example[P], max_length: int | None, image_token_id: int) -> Example[P]:
    """Truncate an example to `max_length` tokens; pixels stay.

    Raises:
        DataError: an image token, or all tokens with loss, would be cut off.
    """
    tokens = len(example.input_ids)
    if max_length is None or tokens <= max_length:
        return example
    ids, labels = example.input_ids[:max_length], example.labels[:max_length]
    lost = None
    if (example.input_ids[max_length:] == image_token_id).any():
        lost = "images or frames"
    elif (labels[1:] == IGNORED_LABEL).all():  # The first token is never predicted.
        lost = "all tokens with loss"
    if lost is not None:
        raise DataError(
            f"{tokens} tokens are more than max_length={max_length}, and cutting would lose {lost}; "
            "raise max_length, or shorten the record"
        )
    return replace(example, input_ids=ids.clone(), labels=labels.clone(), cut=tokens - max_length)


def _hopeless(skipped: Sequence[str], records: int) -> str:
    many = f"all {records} records are bad" if len(skipped) == records else f"{len(skipped)} records in a row are bad"
    return f"{many}; expected one that can be learned from. Check the data and the folder of media. Last: {skipped[-1]}"
