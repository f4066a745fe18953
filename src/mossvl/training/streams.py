"""Examples of live streams: their tokens are those of a running session with the same events, to the byte."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from mossvl.data.live import Stream
from mossvl.errors import DataError
from mossvl.options import MediaOptions
from mossvl.processing.labels import IGNORED_LABEL
from mossvl.processing.messages import check_characters
from mossvl.processing.processor import MossVLProcessor
from mossvl.processing.prompt import VISION_START
from mossvl.processing.stream import TURN_END, StateTokens, frame_text, mentioning, opening_text, prompt_text
from mossvl.processing.tensors import grid_of
from mossvl.training.examples import Example, decoded

END = TURN_END.removesuffix("\n")
Piece = tuple[str, bool]
"""A text between special tokens, or with them at its ends; and whether it has loss."""


@dataclass(frozen=True)
class Slots:
    """How the slots of streams are learned.

    Attributes:
        leading_slot_dropout: share of the turns that begin with a frame instead of the leading `<|silence|>`.
        turn_end_loss: whether the `<|im_end|>` of each turn has loss, too.
        seed: of the choice of turns.
    """

    leading_slot_dropout: float = 0.0
    turn_end_loss: bool = False
    seed: int = 0

    def dropped(self, stream: Stream, place: str) -> Stream:
        """The stream of the record at `place`, with leading slots dropped: the same ones whenever it is read."""
        return stream.without_leading_slots(self.leading_slot_dropout, f"{self.seed} {place}")


AS_WRITTEN = Slots()


def pieces(stream: Stream, processor: MossVLProcessor, turn_end_loss: bool = False) -> Iterator[Piece]:
    """The text of a stream in pieces. Each begins or ends with a special token, so that it can be tokenised alone."""
    times = iter(stream.times)
    for number, turn in enumerate(stream.turns):
        prompt = processor.without_special(turn.prompt)
        if number == 0:
            yield opening_text(mentioning(stream.system_prompt, processor.removed), prompt), False
        else:
            yield END, turn_end_loss
            yield prompt_text(prompt).removeprefix(END), False
        for place, slot in enumerate(turn.slots):
            if place:
                yield frame_text(next(times)), False
            if slot:
                yield slot, True
    yield END, turn_end_loss
    yield TURN_END.removeprefix(END), False


def tokenised(processor: MossVLProcessor, stream: Stream, turn_end_loss: bool = False) -> tuple[Tensor, Tensor]:
    """(tokens,) int64 each: `input_ids` and `labels` of a stream; the errors of text are those of `encode_stream`."""
    StateTokens.of(processor.tokenizer)
    texts, learned = zip(*pieces(stream, processor, turn_end_loss), strict=True)
    if not any(slot for turn in stream.turns for slot in turn.slots):
        raise DataError("there is nothing to learn: the assistant has no slot")
    for text in texts:
        check_characters(text)
    encoded = processor.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    ids = torch.tensor([token for piece in encoded for token in piece], dtype=torch.long)
    with_loss = torch.tensor(learned).repeat_interleave(torch.tensor([len(piece) for piece in encoded]))
    return ids, ids.where(with_loss, IGNORED_LABEL)


def encode_stream(
    processor: MossVLProcessor,
    stream: Stream,
    options: MediaOptions,
    turn_end_loss: bool = False,
    max_length: int | None = None,
) -> Example[Tensor]:
    """Encode a live record, and decode its frames, which have the sizes of images.

    Slots have loss; system prompt, prompts and frames with their times have none.

    Args:
        turn_end_loss: whether the `<|im_end|>` of each turn has loss, too.
        max_length: tokens; a longer stream ends before a frame, after one frame at least.

    Raises:
        CheckpointError: the tokenizer has no state tokens.
        DataError: the assistant does nothing, or a text cannot be encoded.
        MediaError: a video cannot be used.
        OptionError: an option of media is invalid.
    """
    ids, labels = tokenised(processor, stream, turn_end_loss)
    frames, tokens = len(stream.times), len(ids)
    if max_length is not None and tokens > max_length:
        starts = (ids == processor.tokenizer.convert_tokens_to_ids(VISION_START)).nonzero().flatten()
        fitting = starts[1:][
            starts[1:] <= max_length
        ].tolist()  # begin of each frame but the first that may be left out
        if fitting:
            frames, ids, labels = len(fitting), ids[: fitting[-1]].clone(), labels[: fitting[-1]].clone()
    with ExitStack() as stack:
        plans = processor.plan_stream(stream.first(frames), options, stack)
        layout = processor.image_processor.layout
        grids = [(1, *grid_of(plan, layout)[1:]) for plan in plans for _ in plan.timestamps]
        pixels = decoded(processor, plans)
    return Example(ids, labels, grids, pixels, stream.times[:frames], cut=tokens - len(ids))
