"""A checked query, and its messages in a session."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

from mossvl.errors import InputError, OptionError, PromptError
from mossvl.media.video import is_frame_list
from mossvl.options import GenerationOptions, MediaOptions
from mossvl.options.checks import check_names, present, text
from mossvl.options.rendering import Rendering
from mossvl.processing.messages import Message as Message
from mossvl.processing.messages import check_characters, check_messages, media_of, texts_of
from mossvl.processing.system_prompt import SYSTEM_PROMPT_KEYS, SystemPrompt, with_system_turn
from mossvl.tools.calls import answer_message
from mossvl.tools.definitions import Tools, strings_of
from mossvl.tools.turns import check_results

TOOL_KEYS = ("tools", "tool_choice", "parallel_tool_calls")
"""Functions that the answer may call, in OpenAI's form (see `Tools.of`)."""
KEYS = frozenset(
    {
        *("prompt", "images", "videos", "messages", "media_kwargs", "generate_kwargs", "lora"),
        *TOOL_KEYS,
        *SYSTEM_PROMPT_KEYS,
        *(option.name for option in fields(Rendering)),
    }
)


@dataclass(frozen=True)
class Query:
    """One question, with its media and options.

    Attributes:
        turn: the messages that the query adds to its session.
        explicit: whether the query was given as `messages`, which stand alone instead of continuing a session.
        rendering: how the chat template writes the conversation.
        lora: name of the adapter that answers; None for the model as it is.
        continuation: text whose tokens follow the prompt's, as if they had been drawn; see `mossvl.evaluation.scoring`.
        tools: functions that the answer may call; None for none.
        system_prompt: for a conversation that begins with the query; see `mossvl.processing.system_prompt`.
    """

    turn: tuple[Message, ...]
    explicit: bool
    system_prompt: str | None
    media: MediaOptions
    generation: GenerationOptions
    rendering: Rendering = field(default_factory=Rendering, kw_only=True)
    tools: Tools | None = field(default=None, kw_only=True)
    lora: str | None = field(default=None, kw_only=True)
    continuation: str = field(default="", kw_only=True)

    @classmethod
    def from_dict(cls, given: object, **generation_defaults: Any) -> Self:
        """Check a query.

        Args:
            given: a dict with `prompt` (and `images`, `videos`) or `messages`, and options; or a text, the prompt.
            generation_defaults: defaults of `generate_kwargs` that differ from those of `GenerationOptions`.

        Raises:
            OptionError: an option is unknown (the error names the nearest known one) or out of range, or the
                `thinking_mode` needs a `system_prompt`.
            PromptError: the query has no prompt, or its messages are malformed.
        """
        if isinstance(given, str):
            given = {"prompt": given}
        if not isinstance(given, Mapping):
            raise PromptError(f"a query must be a text or a dict, but is {given!r:.200}")
        given = present(given)
        for name, options in (("generate_kwargs", GenerationOptions), ("media_kwargs", MediaOptions)):
            for key in given:
                if key in {option.name for option in fields(options)}:
                    raise OptionError(f"{key!r} is no key of a query; write {{{name!r}: {{{key!r}: …}}}}")
        if "role" in given:
            raise PromptError("this is a message, not a query; write {'messages': [{'role': …}, …]}")
        check_names(given, cls.keys(), "key of a query")
        messages, prompt = given.get("messages"), given.get("prompt")
        if (messages is None) == (prompt is None):
            raise PromptError(
                "a query needs either a prompt or messages" + (", not both" if prompt is not None else "")
            )
        if messages is not None:
            for name in ("images", "videos"):
                if as_list(given.get(name)):
                    raise PromptError(f"a query with messages has its {name} in them; remove {name!r}")
            checked = check_messages(messages)
            turn = tuple(dict(message) for message in messages)
        else:
            turn = (_user_message(prompt, given.get("images"), given.get("videos")),)
            checked = check_messages(turn)
        system_prompt = SystemPrompt.of(given).text(
            video=bool(media_of(checked)[1]), has_own=checked[0]["role"] == "system"
        )
        tools = Tools.of(*(given.get(name) for name in TOOL_KEYS))
        definitions = tools.definitions if tools else []
        for written in (system_prompt or "", *texts_of(checked), *strings_of(definitions)):
            check_characters(written)
        return cls(
            turn=turn,
            explicit=messages is not None,
            system_prompt=system_prompt,
            media=MediaOptions.from_dict(given.get("media_kwargs")),
            generation=GenerationOptions.from_dict(given.get("generate_kwargs"), **generation_defaults),
            rendering=Rendering.of(given),
            tools=tools,
            lora=None if given.get("lora") is None else text("lora", given["lora"]),
            **cls.own_fields(given),
        )

    @classmethod
    def keys(cls) -> frozenset[str]:
        """Keys that a query may have."""
        return KEYS

    @classmethod
    def own_fields(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return values of the fields that a subclass adds; `given` is a query without null keys."""
        return {}

    @property
    def stands_alone(self) -> bool:
        """Whether the prompt leaves out the session's earlier messages."""
        return self.explicit

    @property
    def ending_calls(self) -> frozenset[str]:
        """Functions of which one call ends the answer."""
        return frozenset() if self.tools is None else self.tools.ending

    def messages(self, session: Sequence[Message]) -> list[Message]:
        """Return the conversation that the model sees: the session so far, then the query's turn.

        Raises:
            PromptError: a message is the result of a call that no message before it has.
        """
        before = [] if self.stands_alone else session
        whole = [*before, *self.turn] if before else with_system_turn(self.turn, self.system_prompt)
        check_results(whole)
        return whole

    def session_after(self, session: Sequence[Message], answer: str | None) -> list[Message]:
        """Return the session after the query was answered, calls as such; without an answer (None), unchanged."""
        if answer is None:
            return list(session)
        messages = self.messages(session)
        told = answer_message(answer, self.tools)
        if self.rendering.continue_final_message:
            return [*messages[:-1], told | continued(messages[-1], told["content"] or "")]
        return [*messages, told]


@dataclass(frozen=True)
class PlainPrompt:
    """A prompt that goes to the model as it is: without a chat template, and with the special tokens that it has.

    Attributes:
        content: a text, or token ids.
    """

    content: str | tuple[int, ...]
    generation: GenerationOptions


QueryLike = str | Mapping[str, Any] | Query | InputError
"""A query as callers may give it: a text (the prompt), a dict, a checked query, or the error of a malformed one, which
readers of files pass on."""


def _user_message(prompt: object, images: Any, videos: Any) -> Message:
    """Return the user's turn: media before the text."""
    if not isinstance(prompt, str):
        raise PromptError(f"prompt={prompt!r:.200} must be a text")
    parts: list[dict[str, Any]] = [{"type": "image", "image": image} for image in as_list(images)]
    parts += [{"type": "video", "video": video} for video in as_list(videos)]
    return {"role": "user", "content": [*parts, {"type": "text", "text": prompt}]}


def continued(message: Message, answer: str) -> Message:
    """Return a message that ends with a text, with the answer that continues it."""
    content = message["content"]
    if isinstance(content, str):
        return {**message, "content": content + answer}
    last = {**content[-1], "text": content[-1]["text"] + answer}
    return {**message, "content": [*content[:-1], last]}


def as_list(media: Any) -> list[Any]:
    """Return one medium or several as a list; a list of frames with timestamps is one video."""
    if media is None:
        return []
    return list(media) if isinstance(media, list | tuple) and not is_frame_list(media) else [media]
