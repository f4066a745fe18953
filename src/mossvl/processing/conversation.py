"""`apply_chat_template` of transformers' processors: conversations with media in them, in one call to model inputs."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import BatchFeature
from transformers.processing_utils import ProcessorMixin

from mossvl.errors import OptionError, PromptError
from mossvl.processing.chat_template import render_chat, variables_of
from mossvl.processing.labels import answer_spans
from mossvl.processing.messages import Message, check_messages, media_of, template_turns, without_special
from mossvl.processing.prompt import IMAGE, VIDEO
from mossvl.processing.system_prompt import SYSTEM_PROMPT_KEYS, SystemPrompt, with_system_turn

Conversation = list[Message]


class ConversationMixin(ProcessorMixin):
    """What a processor makes of conversations, by its chat template and by a call of itself."""

    def render(
        self, messages: Sequence[Message], answer_follows: bool = True, template: str | None = None, **names: Any
    ) -> str:
        """Messages → prompt text by the checkpoint's chat template, ready for an answer if one follows.

        Special tokens and placeholders are removed from the texts, so that only real media get a placeholder.

        Args:
            template: in place of the checkpoint's.
            names: what the template knows beside the messages.

        Raises:
            CheckpointError: there is no chat template, or it is broken.
            PromptError: it refuses these messages, or a role is unknown.
        """
        turns = template_turns(messages, self._special)
        known = {**self.tokenizer.special_tokens_map, "tools": None, "documents": None, **names}
        return render_chat(template or self._template(), turns, add_generation_prompt=answer_follows, **known)

    @property
    def _special(self) -> list[str]:
        """What no text of a message may hold."""
        added = self.tokenizer.added_tokens_decoder.values()
        return [*(token.content for token in added if token.special), IMAGE, VIDEO]

    def harmless(self, text: str) -> str:
        """A text as it stands in a prompt: without special tokens and placeholders."""
        return without_special(text, self._special)

    def _template(self, given: str | None = None) -> Any:
        """A chat template: the one that is named or given, else the one for conversations without tools."""
        template = self.chat_template or self.tokenizer.chat_template
        if isinstance(template, dict):
            return template.get(given or "default", given)
        return given or template

    def apply_chat_template(
        self,
        conversation: Any,
        chat_template: str | None = None,
        tools: Any = None,
        documents: Any = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        return_assistant_tokens_mask: bool = False,
        tokenize: bool = False,
        return_tensors: str | None = "auto",
        return_dict: bool = False,
        processor_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """A conversation, or a list of them, as text; or with `tokenize`, as model inputs, its media loaded.

        Args:
            conversation: messages whose content is a text or a list of parts (see docs/offline.md); `{"type": "image"}`
                alone takes the next of the `images` in `processor_kwargs`.
            chat_template: another template, or the name of one of several.
            return_assistant_tokens_mask: add `assistant_masks` (batch, text), 1 for what assistants said.
            return_tensors: "pt", also by default; "np"; or None, for lists of unpadded `input_ids`.
            return_dict: give all inputs, not `input_ids` alone.
            processor_kwargs, kwargs: as for a call of the processor; what the template knows by name goes to it, and
                keys of `SystemPrompt` choose the system prompt of conversations that have none.

        Returns:
            text, or a text for each conversation; `input_ids` (batch, text); or a `BatchFeature` as from a call, but
            without `cross_attention_mask`, which follows from `input_ids`.

        Raises:
            InputError: a message, its media or an option cannot be used.
        """
        template = self._template(chat_template)
        known = variables_of(template)
        render = {name: kwargs.pop(name) for name in list(kwargs) if name in known}
        for name, value in (("tools", tools), ("documents", documents)):
            if value:
                if name not in known:
                    raise OptionError(f"{name}: this chat template knows none; leave it out")
                render[name] = value
        render["template"] = template
        conversations, batch = conversations_of(conversation)
        system = SystemPrompt.of({name: kwargs.pop(name) for name in SYSTEM_PROMPT_KEYS if name in kwargs})
        conversations = [with_system(messages, system) for messages in conversations]
        if not isinstance(continue_final_message, bool):
            raise OptionError(f"continue_final_message={continue_final_message!r} must be true or false")
        texts = [
            prompt_of(self, messages, add_generation_prompt, continue_final_message, **render)
            for messages in conversations
        ]
        if not tokenize:
            return texts if batch else texts[0]
        call = {**(processor_kwargs or {}), **kwargs}
        images, videos = media_for(conversations, call.pop("images", None), call.pop("videos", None))
        form = call.pop("return_tensors", "pt") if return_tensors == "auto" else return_tensors
        if form not in ("pt", "np", None):
            raise OptionError(f"return_tensors={form!r} is not supported; give 'pt', 'np' or None")
        call |= {"images": images, "videos": videos}
        out = assistant_masks(self, texts, call) if return_assistant_tokens_mask else self(texts, **call)
        inputs = in_form(out, form)
        return inputs if return_dict else inputs["input_ids"]


class _Later:
    """Stands for a medium that its part does not name: it is given beside the conversation."""


LATER = _Later()


def conversations_of(given: Any) -> tuple[list[Conversation], bool]:
    """Conversations as given, one or a batch → a list of them, checked; and whether they were a batch.

    Raises:
        PromptError: something is no conversation.
    """
    first = given[0] if isinstance(given, list | tuple) and given else None
    batch = isinstance(first, list | tuple) or hasattr(first, "messages")
    listed = given if batch else [given]
    return [check_messages(_with_places(getattr(one, "messages", one))) for one in listed], batch


def _with_places(messages: Any) -> Any:
    """Messages in which {"type": "image"} or {"type": "video"} alone stand for media given elsewhere."""
    if not isinstance(messages, list | tuple):
        return messages

    def placed(part: Any) -> Any:
        kind = part.get("type") if isinstance(part, dict) else None
        alone = kind in ("image", "video") and all(part[name] is None for name in part if name != "type")
        return {"type": kind, kind: LATER} if alone else part

    return [
        {**message, "content": [placed(part) for part in message["content"]]}
        if isinstance(message, dict) and isinstance(message.get("content"), list | tuple)
        else message
        for message in messages
    ]


def with_system(messages: Conversation, system: SystemPrompt) -> Conversation:
    """A conversation with the system prompt that is chosen for it.

    Raises:
        OptionError: that of the mode is not known.
    """
    own = messages[0]["role"] == "system"
    return with_system_turn(messages, system.text(bool(media_of(messages)[1]), own))


def prompt_of(
    processor: ConversationMixin, messages: Conversation, answer_follows: bool, goes_on: bool, **render: Any
) -> str:
    """A conversation as its template writes it; with `goes_on`, open after the last message's text.

    Raises:
        OptionError: an answer cannot both begin and go on.
        PromptError: the last message has no text that could go on.
    """
    if not goes_on:
        return processor.render(messages, answer_follows, **render)
    if answer_follows:
        raise OptionError("continue_final_message and add_generation_prompt exclude each other; give one of them")
    content = messages[-1]["content"]
    last = content if isinstance(content, str) else (content[-1].get("text") if content else None)
    if not isinstance(last, str) or not last.strip():
        raise PromptError("continue_final_message: the last message ends with no text that could go on")
    whole: str = processor.render(messages, False, **render)
    written = processor.harmless(last).rstrip()
    before, found, _ = whole.rpartition(written)
    if not found or not written:
        raise PromptError("continue_final_message: the chat template does not write the last message's text as it is")
    return before + written


def media_for(
    conversations: Sequence[Conversation], images: Any, videos: Any
) -> tuple[list[list[Any]], list[list[Any]]]:
    """Images and videos of each conversation; places in it are filled from those given beside it, in order.

    Raises:
        PromptError: there are more places than media, or fewer.
    """
    found = [media_of(messages) for messages in conversations]
    filled = []
    for number, (what, given) in enumerate((("images", images), ("videos", videos))):
        beside = list(_each(given))
        places = sum(one is LATER for media in found for one in media[number])
        if places != len(beside):
            raise PromptError(f"{places} parts of the messages name no source, but {len(beside)} {what} are given")
        rest = iter(beside)
        filled.append([[next(rest) if one is LATER else one for one in media[number]] for media in found])
    return filled[0], filled[1]


def _each(given: Any) -> Iterator[Any]:
    """Media given beside conversations, one by one; they may be nested by conversation."""
    for one in given if isinstance(given, list | tuple) else [] if given is None else [given]:
        if isinstance(one, list | tuple):
            yield from one
        else:
            yield one


def assistant_masks(processor: ConversationMixin, texts: Sequence[str], call: dict[str, Any]) -> BatchFeature:
    """Model inputs, with 1 in `assistant_masks` (batch, text) for what assistants said, the token that ends it
    included."""
    out = processor(texts, **call, labels_spans=[answer_spans(text) for text in texts])
    out["assistant_masks"] = (out.pop("labels") != -100).long()
    return out


def in_form(inputs: BatchFeature, return_tensors: str | None) -> BatchFeature:
    """Model inputs as tensors ("pt"), as arrays ("np") or, for text, as lists without padding (None)."""
    inputs.pop("cross_attention_mask")  # `input_ids` says the same, and what collates batches cannot pad it.
    inputs["media_nums_per_sample"] = torch.tensor(inputs["media_nums_per_sample"])
    if return_tensors == "np":
        return BatchFeature({name: value.numpy() for name, value in inputs.items()})
    if return_tensors is None:
        real = inputs["attention_mask"].bool()
        for name in ("input_ids", "attention_mask", "assistant_masks"):
            if name in inputs:
                inputs[name] = [row[own].tolist() for row, own in zip(inputs[name], real, strict=True)]
    return inputs
