"""What of an example is learned: the assistant's words, and the token that ends them."""

from collections.abc import Sequence

from mossvl.errors import DataError, PromptError
from mossvl.processing.labels import Span, answer_spans
from mossvl.processing.messages import Message, check_characters, check_messages
from mossvl.processing.processor import MossVLProcessor


def supervised_text(processor: MossVLProcessor, messages: Sequence[Message]) -> tuple[str, list[Span]]:
    """Messages → the text of the whole conversation, and the spans of it that are learned (for `labels_spans`).

    Raises:
        DataError: there is nothing to learn: no answer, or only empty ones.
        PromptError: the messages are malformed.
    """
    text = processor.render(check_messages(messages), answer_follows=False)
    try:
        check_characters(text)
    except PromptError as error:
        raise DataError(str(error)) from error
    spans = answer_spans(text)
    if all(text[start:end] == "<|im_end|>" for start, end in spans):
        raise DataError("there is nothing to learn: the assistant says nothing")
    return text, spans
