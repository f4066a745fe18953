"""Why a form cannot be used, in terms of what the user gave; llguidance's errors are about its own grammar."""

import re

LONGEST = 200
"""Most characters of a message."""
TOO_LARGE = "it is too large; give a simpler form"
NOTHING = "nothing can match it"
REASONS = [
    (r"regex parse error:.*\nerror: (?P<what>[^\n]+)", "{what} (in a regular expression)"),
    (r"lookarounds not supported", r"look-around, such as \b, is not supported (in a regular expression)"),
    (r"Unsatisfiable schema: (?!Regex is empty)(?P<what>[^\n]+)", NOTHING + ": {what}"),
    (r"NoExtension|[Uu]nsatisfiable|Regex is empty|no .*match", NOTHING),
    (r"[Tt]oo (big|large|many|complex)|TooComplex|limit|exceed|fuel", TOO_LARGE),
    (r"Unimplemented keys: \[(?P<what>[^\n]+)\]", "its keys {what} are not supported"),
    (r"oneOf constraints", "oneOf is not supported where its choices could overlap; use anyOf"),
    (
        r"Resource '(?P<what>[^\n]*)' is not present",
        "$ref '{what}' is not within it, and nothing else is read",
    ),
    (r"Pointer '(?P<what>[^\n]*)' does not exist", "$ref names '{what}', which it does not have"),
]
"""(pattern of llguidance's error, message), the more specific patterns first."""


def told(reason: str) -> str:
    """The message for an error of llguidance: by `REASONS`, or else the error without positions in its grammar."""
    for pattern, message in REASONS:
        if found := re.search(pattern, reason, re.DOTALL):
            return _line(message.format_map(found.groupdict()))
    return _line(re.sub(r"^at \d+\(\d+\): |\n *\d+ \|.*", "", reason, flags=re.DOTALL))


def _line(text: str) -> str:
    return f"{' '.join(text.split()):.{LONGEST}}"
