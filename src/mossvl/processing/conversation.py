"""`apply_chat_template` of transformers' processors: from conversations with media to model inputs, in one call."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers.processing_utils import ProcessorMixin

from mossvl.errors import CheckpointError, OptionError, PromptError
from mossvl.options.checks import check_names
from mossvl.options.rendering import OF_PROMPT, Rendering
from mossvl.processing.chat_template import render_chat, variables_of
from mossvl.processing.labels import IGNORED_LABEL, answer_spans
from mossvl.processing.messages import Message, check_messages, cleaned, media_of, template_turns, without_special
from mossvl.processing.model_inputs import ModelInputs
from mossvl.processing.prompt import IMAGE, VIDEO
from mossvl.processing.system_prompt import SYSTEM_PROMPT_KEYS, SystemPrompt, with_system_turn
from mossvl.processing.unnamed import mark_unnamed, media_for
from mossvl.tools.definitions import Function, Tools
from mossvl.tools.turns import TAGS, has_calls, with_tools_as_text

Conversation = list[Message]
PROBE = Function("probe").definition
"""A function by which a template shows whether it writes functions at all."""
TOOL_TEMPLATE = "tool_use"
"""Name of the chat template with tools, where a checkpoint has several."""


MARK = "END_OF_THE_FINAL_MESSAGE "
"""Stands at the end of a message that goes on, to be found in the prompt; its space tells whether a template trims."""


class ConversationMixin(ProcessorMixin):
    """A processor's methods for conversations: the chat template, then a call of the processor."""

    def render(
        self, messages: Sequence[Message], answer_follows: bool = True, template: str | None = None, **names: Any
    ) -> str:
        """Render messages as a prompt, with the checkpoint's chat template.

        Special tokens and placeholders are removed from the texts, so that only real media get a placeholder; in a
        conversation with tools, the tags of calls and of their results are, too. A template that knows no tools gets
        them as text.

        Args:
            answer_follows: end the prompt with the beginning of the assistant's turn (`add_generation_prompt`).
            template: replaces the checkpoint's template.
            names: the template's other variables.

        Raises:
            CheckpointError: there is no chat template, or it is broken.
            PromptError: the template refuses these messages, or a role is unknown.
        """
        tools = list(names.get("tools") or ())
        special, source = self.removed, template or self._template()
        if with_tools := bool(tools) or has_calls(messages):
            special, source = [*special, *TAGS], template or self._tool_template
        turns, tools = template_turns(messages, special), cleaned(tools, special)
        if with_tools and "tools" not in variables_of(source):
            turns, tools = with_tools_as_text(turns, tools), []
        variables = {**self.tokenizer.special_tokens_map, "documents": None, **names, "tools": tools or None}
        return render_chat(source, turns, add_generation_prompt=answer_follows, **variables)

    @property
    def knows_tools(self) -> bool:
        """Whether the chat template tells the model of the functions that it may call."""
        return self._tells_tools(self._tool_template)

    def _tells_tools(self, source: Any) -> bool:
        """Whether a chat template writes anything of functions."""
        if "tools" not in variables_of(source):
            return False
        question = [{"role": "user", "content": "?"}]
        return self.render(question, template=source) != self.render(question, template=source, tools=[PROBE])

    @property
    def _tool_template(self) -> Any:
        """The chat template for conversations with tools: that of `TOOL_TEMPLATE` among several, else the default."""
        template = self._template(TOOL_TEMPLATE)
        return self._template() if template == TOOL_TEMPLATE else template

    @property
    def template_variables(self) -> frozenset[str]:
        """Names that the chat template asks for."""
        return variables_of(self._template())

    @property
    def removed(self) -> list[str]:
        """Special tokens and placeholders, which are removed from the texts of messages."""
        added = self.tokenizer.added_tokens_decoder.values()
        return [*(token.content for token in added if token.special), IMAGE, VIDEO]

    def without_special(self, text: str) -> str:
        """A text without special tokens and placeholders, as a prompt holds it."""
        return without_special(text, self.removed)

    def continuation(self, text: str) -> torch.Tensor:
        """Tokens (tokens,) int64 of the text of an answer, without special tokens."""
        encoded = self.tokenizer(self.without_special(text), add_special_tokens=False, verbose=False)
        return torch.tensor(encoded["input_ids"], dtype=torch.long)

    def _template(self, given: str | None = None) -> Any:
        """The chat template: `given` (its name among several, or its source), else the default one."""
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
        """Render a conversation, or a batch of conversations; with `tokenize`, make model inputs and load the media.

        Args:
            conversation: messages whose content is a text or a list of parts (see docs/offline.md); `{"type": "image"}`
                alone takes the next of the `images` in `processor_kwargs`.
            chat_template: another template, or the name of one of several.
            return_assistant_tokens_mask: add `assistant_masks` (batch, text) int64, 1 for tokens of assistants' turns.
            return_tensors: "pt", "np", or None for lists of unpadded `input_ids`. By default "pt"; but None for a batch
                without `padding` or `padding_side`, as in transformers.
            return_dict: return all inputs, not `input_ids` alone.
            processor_kwargs, kwargs: arguments of a call of the processor. In `kwargs`, the template's variables go to
                the template, and keys of `SystemPrompt` choose the system prompt of conversations without one.

        Returns:
            Without `tokenize`, the text, or a text for each conversation. With it, `input_ids` (batch, text), or a
            `ModelInputs` as from a call, but without `cross_attention_mask`, which follows from `input_ids`.

        Raises:
            CheckpointError: the chat template is broken or missing.
            InputError: a message, a medium or an option cannot be used.
        """
        template = self._template(chat_template)
        known = variables_of(template)
        render = {name: kwargs.pop(name) for name in list(kwargs) if name in known}
        for name, value in (("tools", tools), ("documents", documents)):
            if value:
                if name not in known or (name == "tools" and not self._tells_tools(template)):
                    raise OptionError(f"{name} is not supported by this chat template; leave it out")
                render[name] = value
        render["template"] = template
        conversations, batch = conversations_of(conversation)
        system = SystemPrompt.of({name: kwargs.pop(name) for name in SYSTEM_PROMPT_KEYS if name in kwargs})
        conversations = [with_system(messages, system) for messages in conversations]
        if not isinstance(continue_final_message, bool):
            raise OptionError(
                "{continue_final_message=} must be true or false",
                given={"continue_final_message": continue_final_message},
            )
        texts = [
            prompt_of(self, messages, add_generation_prompt, continue_final_message, **render)
            for messages in conversations
        ]
        if not tokenize:
            return texts if batch else texts[0]
        call = {**(processor_kwargs or {}), **kwargs}
        images, videos = media_for(conversations, call.pop("images", None), call.pop("videos", None))
        if return_tensors == "auto":
            padded = call.get("padding") or call.get("padding_side")
            return_tensors = call.pop("return_tensors", None if batch and not padded else "pt")
        if return_tensors not in ("pt", "np", None):
            raise OptionError(
                "{return_tensors=} is not supported; give 'pt', 'np' or None",
                given={"return_tensors": return_tensors},
            )
        call |= {"images": images, "videos": videos}
        out = assistant_masks(self, texts, call) if return_assistant_tokens_mask else self(texts, **call)
        inputs = converted(out, return_tensors)
        return inputs if return_dict else inputs["input_ids"]


def conversations_of(given: Any) -> tuple[list[Conversation], bool]:
    """Check one conversation or a batch; return a list of conversations, and whether `given` was a batch.

    Raises:
        InputError: a message is malformed (see `check_messages`).
    """
    first = given[0] if isinstance(given, list | tuple) and given else None
    batch = isinstance(first, list | tuple) or hasattr(first, "messages")
    listed = given if batch else [given]
    return [check_messages(mark_unnamed(getattr(one, "messages", one))) for one in listed], batch


def with_system(messages: Conversation, system: SystemPrompt) -> Conversation:
    """Prepend the system prompt that `system` chooses for a conversation.

    Raises:
        OptionError: the mode's fixed prompt is not known.
    """
    own = messages[0]["role"] == "system"
    return with_system_turn(messages, system.text(bool(media_of(messages)[1]), own))


def prompt_of(
    processor: ConversationMixin, messages: Conversation, answer_follows: bool, goes_on: bool, **render: Any
) -> str:
    """Render a conversation; with `goes_on` (`continue_final_message`), end the prompt with the last message's text.

    Raises:
        OptionError: `answer_follows` and `goes_on` are both given.
        PromptError: the last message does not end with a text, or the template changes that text.
    """
    if not goes_on:
        return processor.render(messages, answer_follows, **render)
    if answer_follows:
        raise OptionError("continue_final_message and add_generation_prompt exclude each other; give one of them")
    content = messages[-1]["content"]
    last = content if isinstance(content, str) else (content[-1].get("text") if content else None)
    if not isinstance(last, str) or not last.strip():
        raise PromptError("continue_final_message: the last message does not end with a text; end it with one")
    marked = last + MARK
    ended = marked if isinstance(content, str) else [*content[:-1], {**content[-1], "text": marked}]
    whole: str = processor.render([*messages[:-1], {**messages[-1], "content": ended}], False, **render)
    before, found, after = whole.rpartition(MARK.rstrip())
    if not found or not before.rstrip().endswith(processor.without_special(last).rstrip()):
        raise PromptError("continue_final_message: the chat template does not render the last message's text unchanged")
    trims = not after.startswith(" ")
    return before.rstrip() if trims else before


def query_prompt(
    processor: ConversationMixin, messages: Conversation, options: Rendering, tools: Tools | None = None
) -> str:
    """Render the conversation of a query.

    Raises:
        CheckpointError: the template is broken.
        OptionError: the template has no variable of a name that is given, or cannot use its value.
        PromptError: see `prompt_of`.
    """
    given = options.chat_template_kwargs or {}
    known = processor.template_variables - {*OF_PROMPT, *processor.tokenizer.special_tokens_map}
    # A switch that is off asks for nothing of a template without it.
    try:
        check_names([name for name in given if given[name]], known, "variable of this chat template")
    except OptionError as error:
        raise OptionError(f"{{chat_template_kwargs}}: {error}", option="chat_template_kwargs") from error
    values = cleaned({name: value for name, value in given.items() if name in known}, processor.removed)
    given_tools = {"tools": tools.definitions} if tools else {}
    try:
        return prompt_of(
            processor, messages, options.answer_follows, options.continue_final_message, **values, **given_tools
        )
    except CheckpointError as error:
        if not values:
            raise
        raise OptionError(f"{{chat_template_kwargs}}: {error}", option="chat_template_kwargs") from error


def assistant_masks(processor: ConversationMixin, texts: Sequence[str], call: dict[str, Any]) -> ModelInputs:
    """Model inputs with `assistant_masks` (batch, text) int64: 1 for tokens of assistants' turns and their end."""
    out = processor(texts, **call, labels_spans=[answer_spans(text) for text in texts])
    out["assistant_masks"] = (out.pop("labels") != IGNORED_LABEL).long()
    return out


def converted(inputs: ModelInputs, return_tensors: str | None) -> ModelInputs:
    """Model inputs as tensors ("pt"), as arrays ("np") or, for text, as lists without padding (None)."""
    inputs.pop("cross_attention_mask")  # It follows from `input_ids`, and collators cannot pad it.
    inputs["media_nums_per_sample"] = torch.tensor(inputs["media_nums_per_sample"])
    if return_tensors == "np":
        return ModelInputs({name: value.numpy() for name, value in inputs.data.items()})
    if return_tensors is None:
        real = inputs["attention_mask"].bool()
        for name in ("input_ids", "attention_mask", "assistant_masks"):
            if name in inputs:
                inputs[name] = [row[own].tolist() for row, own in zip(inputs[name], real, strict=True)]
    return inputs
