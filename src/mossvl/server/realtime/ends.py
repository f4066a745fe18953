"""How sessions end: codes of closing, and with what another session goes on."""

from collections.abc import Mapping, Sequence

NORMAL, POLICY, STOPPING, TRY_LATER, FAILED = 1000, 1008, 1012, 1013, 1011
"""Codes with which connections are closed."""
MOST_PREFILL, MOST_PREFILL_TEXT = 64, 131_072
"""Most messages from which a session goes on, and characters of all together."""


def shortened(messages: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """The newest messages, and the system prompt, of which a new session may be configured."""
    begin = list(messages[:1]) if messages and messages[0]["role"] == "system" else []
    rest = list(messages[len(begin) :])[-(MOST_PREFILL - len(begin)) :]
    while len(rest) > 1 and sum(len(one["content"]) for one in [*begin, *rest]) > MOST_PREFILL_TEXT:
        rest.pop(0)
    return [*begin, *rest]
