"""Calls in an answer's text, in the form of Hermes: <tool_call>, a JSON object with name and arguments, </tool_call>.

Text is read piece by piece, and how it is cut into pieces changes nothing. What looks like a call, but is none, stays
text: half a tag, broken JSON, a function that is not defined.
"""

import json
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Self

from mossvl.tools.definitions import Tools

BEGIN, END = "<tool_call>", "</tool_call>"
HEAD = re.compile(r'\s*<tool_call>\n\{"name": ("(?:[^"\\]|\\.)*"), "arguments": ')
"""What stands before the arguments of a call, as the grammar of forced calls writes it."""
MOST_BROKEN = 128
"""Broken calls of an answer, after which all is text: each is read again from its beginning."""


@dataclass(frozen=True)
class Content:
    """A piece of text."""

    text: str


@dataclass(frozen=True)
class CallBegun:
    """A call begins: the first is of index 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True)
class CallArguments:
    """A piece of the arguments of a call, as JSON."""

    index: int
    text: str


Piece = Content | CallBegun | CallArguments


class CallReader:
    """Reads one answer.

    Attributes:
        count: number of calls so far.

    Args:
        names: functions that may be called; None if there are none, so that all is text.
        forced: the answer has the grammar of forced calls, so that arguments are told as they come; otherwise a call is
            told at its end, since only then it is certain to be one.
    """

    def __init__(self, names: Collection[str] | None, forced: bool = False) -> None:
        self.count = 0
        self._names, self._forced = names, forced
        self._held = ""
        """Text that is not told yet."""
        self._object: _Object | None = None
        """The JSON object of the call that is being read."""
        self._start = self._fed = 0
        """Where in `_held` that object begins, and how far it was read."""
        self._call: tuple[str, str] | None = None
        """Name and arguments of a call that lacks but its closing tag."""
        self._broken = 0

    @classmethod
    def of(cls, tools: Tools | None) -> Self:
        """For an answer to a query with these tools."""
        return cls(None) if tools is None else cls(tools.names, tools.forced)

    def push(self, text: str) -> list[Piece]:
        """Add text; return what is now certain."""
        if self._names is None:
            return _joined([Content(text)])
        self._held += text
        return _joined(self._forced_pieces() if self._forced else self._free_pieces(ended=False))

    def finish(self) -> list[Piece]:
        """The answer has ended; return the rest. A forced call that was cut before its arguments is dropped."""
        return [] if self._forced else _joined(self._free_pieces(ended=True))

    # --- forced calls --------------------------------------------------------------------------------------------

    def _forced_pieces(self) -> list[Piece]:
        pieces: list[Piece] = []
        while True:
            if self._object is None:
                head = HEAD.match(self._held, max(0, self._held.find(BEGIN)))
                if head is None:
                    return pieces
                pieces.append(self._begun(json.loads(head[1])))
                self._held, self._object = self._held[head.end() :], _Object()
            end = self._object.feed(self._held)
            text, self._held = self._held[:end], "" if end is None else self._held[end:]
            pieces += [CallArguments(self.count - 1, text)] if text else []
            if end is None:
                return pieces
            self._object = None

    # --- free answers --------------------------------------------------------------------------------------------

    def _free_pieces(self, ended: bool) -> list[Piece]:
        pieces: list[Piece] = []
        while self._object is not None or self._find_call(pieces, ended):
            if not self._read_call(pieces, ended):
                break
        return pieces

    def _find_call(self, pieces: list[Piece], ended: bool) -> bool:
        """Tell the text before the next call; return whether there is one."""
        start = self._held.find(BEGIN) if self._broken < MOST_BROKEN else -1
        told = self._held[:start].rstrip() if start >= 0 else self._certain(ended)
        pieces.append(Content(told))
        self._held = "" if ended and start < 0 else self._held[len(told) :]
        if start < 0:
            return False
        self._object, self._call = _Object(), None
        self._start = self._fed = start - len(told) + len(BEGIN)
        return True

    def _certain(self, ended: bool) -> str:
        """Text without an end that may belong to a call: white space, and the beginning of a tag."""
        if ended:
            return self._held.rstrip() if self.count else self._held
        kept = next((n for n in range(len(BEGIN) - 1, 0, -1) if self._held.endswith(BEGIN[:n])), 0)
        return self._held[: len(self._held) - kept].rstrip()

    def _read_call(self, pieces: list[Piece], ended: bool) -> bool:
        """Read on in a call; return whether it has ended, or has turned out to be none."""
        assert self._object is not None
        if self._call is None:
            body = self._held[self._start :].lstrip()
            end = self._object.feed(self._held[self._fed :]) if body.startswith("{") else None
            if end is None and not ended and body[:1] in ("", "{"):
                self._fed = len(self._held) if body else self._fed
                return False
            self._fed += end or 0
            self._call = call_of(self._held[self._start : self._fed], self._names or ()) if end else None
        if self._call is None:
            self._broken += 1
            pieces.append(Content(self._held[: self._start]))
            self._held, self._object = self._held[self._start :], None
            return True
        closing = self._held[self._fed :].lstrip()
        if not ended and len(closing) < len(END) and END.startswith(closing):
            return False
        whole = closing.startswith(END) or END.startswith(closing)  # An answer may end within the tag.
        self._held = closing[len(END) :] if whole else self._held[self._fed :]
        name, arguments = self._call
        pieces += [self._begun(name), CallArguments(self.count - 1, arguments)]
        self._object = None
        return True

    def _begun(self, name: str) -> CallBegun:
        self.count += 1
        return CallBegun(self.count - 1, f"call_{secrets.token_hex(12)}", name)


class _Object:
    """Finds the end of a JSON object that comes in pieces."""

    OUTSIDE, INSIDE = re.compile(r'["{}\[\]]'), re.compile(r'["\\]')

    def __init__(self) -> None:
        self._depth = self._skipped = 0
        self._in_text = False

    def feed(self, text: str) -> int | None:
        """Return where in `text` the object ends; None if it goes on."""
        position, self._skipped = self._skipped, 0
        while found := (self.INSIDE if self._in_text else self.OUTSIDE).search(text, position):
            position, character = found.end(), found[0]
            if character == "\\":
                position += 1
            elif character == '"':
                self._in_text = not self._in_text
            else:
                self._depth += 1 if character in "{[" else -1
                if self._depth == 0:
                    return position
        self._skipped = max(0, position - len(text))
        return None


def call_of(text: str, names: Collection[str]) -> tuple[str, str] | None:
    """Return the name and the arguments (as JSON) of a call; None if the text is no call of a known function."""
    try:
        given = json.loads(text, parse_constant=_refused)
        arguments = given.get("arguments", {})
        if isinstance(arguments, str):
            arguments = json.loads(arguments, parse_constant=_refused)
        if given.get("name") not in names or not isinstance(arguments, dict):
            return None
        written = json.dumps(arguments, ensure_ascii=False)
        return given["name"], written if _is_text(written) else json.dumps(arguments)
    except (TypeError, ValueError, RecursionError):
        return None


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _is_text(written: str) -> bool:
    try:
        return bool(written.encode())
    except UnicodeEncodeError:
        return False


def _joined(pieces: list[Piece]) -> list[Piece]:
    """Pieces without empty texts, adjacent texts joined."""
    joined: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, Content) and joined and isinstance(joined[-1], Content):
            joined[-1] = Content(joined[-1].text + piece.text)
        elif not isinstance(piece, Content) or piece.text:
            joined.append(piece)
    return joined


def message_of(pieces: list[Piece]) -> dict[str, Any]:
    """Return what an answer's pieces make as a message: `content` (None beside calls, if empty) and `tool_calls`."""
    content = "".join(piece.text for piece in pieces if isinstance(piece, Content))
    begun = [piece for piece in pieces if isinstance(piece, CallBegun)]
    arguments = [
        "".join(one.text for one in pieces if isinstance(one, CallArguments) and one.index == call.index)
        for call in begun
    ]
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": given}}
        for call, given in zip(begun, arguments, strict=True)
    ]
    message: dict[str, Any] = {"role": "assistant", "content": content if content or not calls else None}
    return message | ({"tool_calls": calls} if calls else {})


def answer_message(text: str, tools: Any) -> dict[str, Any]:
    """Return a whole answer as a message of the assistant, with its calls.

    Args:
        tools: the functions that the query could call, in OpenAI's form, or as `Tools`.

    Raises:
        OptionError: a function's definition is invalid.
    """
    reader = CallReader.of(tools if isinstance(tools, Tools) else Tools.of(tools))
    return message_of([*reader.push(text), *reader.finish()])
