"""Counts the tokens of a prompt without an answer."""

from contextlib import ExitStack

from mossvl.processing.conversation import query_prompt
from mossvl.processing.messages import check_messages, media_of
from mossvl.processing.pixels import num_vision_tokens
from mossvl.processing.processor import MossVLProcessor
from mossvl.queries.query import Message, Query


def count_tokens(processor: MossVLProcessor, query: Query, messages: list[Message]) -> int:
    """Return the text and vision tokens of a query's prompt; its media are opened, but not decoded.

    Raises:
        MediaError: a medium cannot be read.
        PromptError: the chat template refuses the messages.
    """
    checked = check_messages(messages)
    text = query_prompt(processor, checked, query.rendering, query.tools)
    with ExitStack() as stack:
        plans = processor.plan_media(text, *media_of(checked), query.media, stack)
        planned = processor.lay_out(text, plans)
    grids = [(int(frames), int(rows), int(columns)) for frames, rows, columns in planned.grid_thw.tolist()]
    return len(planned.input_ids) + num_vision_tokens(grids, processor.image_processor.layout.merge_size)
