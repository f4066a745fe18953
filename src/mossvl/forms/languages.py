"""The languages in which the form of an answer is given → llguidance's.

Each function takes the value of the option of its name (see `SamplingParams`), and raises a ValueError if it is none.
"""

import json
import re
from collections.abc import Sequence

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import gbnf_to_lark

from mossvl.forms.closing import closed

JSON_SPACE = " ?"
"""Between the parts of JSON: a space at most, so that no answer runs on in white space."""
RULE_OF_GBNF = re.compile(r"^[ \t]*[A-Za-z][\w-]*[ \t]*::=", re.MULTILINE)
MOST_RULES = 1000
"""Rules of a grammar in GBNF: to translate it takes time that grows with their square."""
META = re.compile(r"([\\.+*?()|\[\]{}^$#&~-])")
"""What means something in a regular expression."""


def json_schema(schema: str) -> str:
    """JSON of a schema, given as JSON. Objects have the properties that it lists, unless it says otherwise."""
    given = json.dumps(closed(json.loads(schema)))
    return str(LLMatcher.grammar_from_json_schema(given, {"whitespace_pattern": JSON_SPACE}))


def regex(pattern: str) -> str:
    """A regular expression in Rust's syntax."""
    return str(LLMatcher.grammar_from_regex(pattern))


def choice(texts: Sequence[str]) -> str:
    """One of these texts."""
    if not texts:
        raise ValueError("there is nothing to choose from")
    return regex("|".join(META.sub(r"\\\1", text) for text in texts))


def grammar(rules: str) -> str:
    """Rules in Lark's syntax, or in GBNF, which other servers call EBNF."""
    if count := len(RULE_OF_GBNF.findall(rules)):
        if count > MOST_RULES:
            raise ValueError(f"it has {count} rules; at most {MOST_RULES} are allowed")
        try:
            rules = gbnf_to_lark(rules)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        except Exception as error:  # Of the library, which raises nothing more special.
            raise ValueError(str(error)) from error
    return str(LLMatcher.grammar_from_lark(rules))
