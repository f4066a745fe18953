"""Forms of records that other tools write, converted to `messages`, `images`, `videos` and `system_prompt`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mossvl.errors import DataError
from mossvl.options.checks import present
from mossvl.processing.parts import Message
from mossvl.processing.system_prompt import SYSTEM_PROMPT_KEYS

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
}
TOOL_ROLES = ("tool", "tool_call", "tool_response", "function", "function_call", "observation")
OF_TOOLS = ("tool_calls", "function_call", "tool_call_id")
"""Keys of a turn that calls a tool, or answers a call."""
TOLD = "fine-tuning on tool calls is not supported; leave such records out"


@dataclass(frozen=True)
class Form:
    """A form of records, recognised by its first key.

    Attributes:
        name: as `--check` tells it.
        question, answer: keys; without an answer's key, the answers are turns under `question`.
        others: other keys that only this form has.
    """

    name: str
    question: str
    answer: str | None = None
    others: tuple[str, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.question, *filter(None, [self.answer]), *self.others)


CONVERSATIONS = Form("conversations (ShareGPT, LLaVA)", "conversations")
MESSAGES = Form("messages (OpenAI)", "messages")
PROMPT = Form("prompt and response", "prompt", "response")
COMPLETION = Form("prompt and completion (TRL)", "prompt", "completion")
QUERY = Form("query and response (ms-swift)", "query", "response", ("history",))
INSTRUCTION = Form("instruction and output (Alpaca)", "instruction", "output", ("input", "history"))
OWN = (CONVERSATIONS, MESSAGES, PROMPT)
"""The forms that are read as they are; a record has one of them at most."""
OTHERS = (COMPLETION, QUERY, INSTRUCTION)

COMMON_KEYS = (
    *(name for form in OWN for name in form.keys),
    *("images", "videos", "image", "video"),
    *("system", *SYSTEM_PROMPT_KEYS),
)
"""Keys that are read in every form, or that no record may have beside its form."""
PREFERENCES = ("rejected", "rejected_response", "rejected_messages", "chosen")
"""Keys of preference data."""
READ_KEYS = frozenset(
    (*COMMON_KEYS, *(name for form in OTHERS for name in form.keys), *PREFERENCES, "tools", "id"),
)
"""Keys of whose values anything depends."""


def form_of(record: Mapping[str, Any]) -> Form | None:
    """The form of a record, None if it has none that is known."""
    found = present(record)
    if "prompt" in found and "completion" in found and "response" not in found:
        return COMPLETION
    return next((form for form in (*OWN, QUERY, INSTRUCTION) if form.question in found), None)


def known_record(record: Mapping[str, Any], answered: bool = True) -> dict[str, Any]:
    """Convert a record to one with a form of `OWN`, `images`, `videos` and `system_prompt`; null keys are dropped.

    Args:
        answered: whether the record is to be learned: it needs an answer, and has neither preferences nor tools.

    Raises:
        DataError: a key has a value of another kind, both of two keys with one meaning are given, or the record is not
            to be learned.
    """
    found = present(record)
    if answered:
        _check_supervised(found)
    for other, name in (("image", "images"), ("video", "videos"), ("system", "system_prompt")):
        value = found.pop(other, None)
        if value not in ("", [], None):
            if found.get(name):
                raise DataError(f"a record has either {other} or {name}, but this one has both")
            found[name] = value
            if other == "system" and not isinstance(value, str):
                raise DataError(f"system={value!r:.80} must be a text")
    form = form_of(found)
    if form in OTHERS:
        assert form is not None
        given = {name: found.pop(name, None) for name in form.keys}
        found["messages"] = _dialogue(form, given, answered)
    return found


def _check_supervised(record: Mapping[str, Any]) -> None:
    for name in PREFERENCES:
        if record.get(name):
            raise DataError(
                f"{name!r} makes this a record of preferences, which is not for supervised fine-tuning; train on it "
                "with TRL's DPOTrainer, or keep the chosen answer as the response"
            )
    if record.get("tools"):
        raise DataError(f"the record has 'tools': {TOLD}")


def _dialogue(form: Form, given: Mapping[str, Any], answered: bool) -> list[Message]:
    """The turns of a question and its answer, each a text or, for TRL, turns; earlier questions come first."""
    asked, said = given[form.question], given[str(form.answer)]
    if said is None and answered:
        raise DataError(f"a record with {form.question!r} needs {form.answer!r}, too")
    if form is COMPLETION and isinstance(asked, list) and isinstance(said, list):
        return turns_of([*asked, *said])
    for name, value in ((form.question, asked), (form.answer, said)):
        if value is not None and not isinstance(value, str):
            raise DataError(f"{name}={value!r:.80} must be a text")
    more = given.get("input")
    if more is not None and not isinstance(more, str):
        raise DataError(f"input={more!r:.80} must be a text")
    pairs = [*_history(given.get("history")), (f"{asked}\n{more}" if more else asked, said)]
    turns = [
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    return [turn for turn in turns if turn["content"] is not None]


def _history(history: Any) -> list[Sequence[str]]:
    """Check earlier questions and answers, [[question, answer], …]."""
    pairs = [] if history is None else history
    if not isinstance(pairs, list):
        raise DataError(f"history={history!r:.80} must be a list of pairs of a question and an answer")
    for number, pair in enumerate(pairs, 1):
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(one, str) for one in pair):
            raise DataError(f"history: item {number} must be a question and an answer, both texts, but is {pair!r:.80}")
    return pairs


def turns_of(conversations: Any) -> list[Message]:
    """Turn [{"from": …, "value": …}] or [{"role": …, "content": …}], or an object of columns, into messages.

    Raises:
        DataError: it is no list of turns, or empty; a turn has no known role or no content, or is of a tool.
    """
    if isinstance(conversations, dict):
        columns = {name: values for name, values in conversations.items() if isinstance(values, list)}
        if len(set(map(len, columns.values()))) == 1:
            conversations = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if not isinstance(conversations, list) or not conversations:
        raise DataError(f"conversations must be a list of turns, and not empty, but is {conversations!r:.200}")
    return [_turn(turn, number) for number, turn in enumerate(conversations, 1)]


def _turn(turn: Any, number: int) -> Message:
    if not isinstance(turn, dict):
        raise DataError(f"turn {number} must be an object, but is {turn!r:.200}")
    turn = present(turn)
    given = turn.get("from", turn.get("role"))
    role = ROLES.get(given) if isinstance(given, str) else None
    content = turn.get("value", turn.get("content"))
    of_tool = next((name for name in OF_TOOLS if turn.get(name)), None)
    if given in TOOL_ROLES or of_tool:
        raise DataError(f"turn {number} has {repr(of_tool) if of_tool else f'the role {given!r}'}: {TOLD}")
    if role is None:
        raise DataError(f"turn {number} is from {given!r}; known: {', '.join(ROLES)}")
    if content is None:
        raise DataError(f'turn {number} has neither "value" nor "content"')
    return {"role": role, "content": content}
