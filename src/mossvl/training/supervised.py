"""The spans of a conversation that have loss: the assistant's answers, each with its closing `<|im_end|>`."""

from collections.abc import Sequence

from mossvl.errors import DataError, PromptError
from mossvl.processing.labels import Span, answer_spans
from mossvl.processing.messages import Message, check_characters
from mossvl.processing.processor import MossVLProcessor


def supervised_text(processor: MossVLProcessor, messages: Sequence[Message]) -> tuple[str, list[Span]]:
    """Render a checked conversation → its text, and the character spans of it that have loss (`labels_spans`).

    Raises:
        DataError: there is no answer, or only empty ones; or the text holds a lone surrogate.
    """
    text = processor.render(messages, answer_follows=False)
    try:
        check_characters(text)
    except PromptError as error:
        raise DataError(str(error)) from error
    spans = answer_spans(text)
    if all(text[start:end] == "<|im_end|>" for start, end in spans):
        raise DataError("there is nothing to learn: the assistant says nothing")
    return text, spans
