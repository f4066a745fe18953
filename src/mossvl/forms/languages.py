"""From the form of an answer to a grammar in llguidance's syntax.

Each function takes the value of the option of its name (see `SamplingParams`), and raises a ValueError if the value is
invalid.
"""

import json
import re
from collections.abc import Collection, Sequence

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import gbnf_to_lark

from mossvl.forms.closing import closed

JSON_SPACE = " ?"
"""White space between tokens of JSON: one space at most, so that no answer is endless white space."""
RULE_OF_GBNF = re.compile(r"^[ \t]*[A-Za-z][\w-]*[ \t]*::=", re.MULTILINE)
MOST_RULES = 1000
"""Most rules of a grammar in GBNF, whose translation takes time quadratic in their number."""
TAG = re.compile(r'^(\w+): "(<[^<>\s"\\]+>)"$', re.MULTILINE)
"""A rule in Lark's syntax that is one tag."""
META = re.compile(r"([\\.+*?()|\[\]{}^$#&~-])")
"""Metacharacters of regular expressions."""


def json_schema(schema: str) -> str:
    """JSON that matches a schema, given as JSON; its objects are closed (see `closed`)."""
    given = json.dumps(closed(json.loads(schema)))
    return str(LLMatcher.grammar_from_json_schema(given, {"whitespace_pattern": JSON_SPACE}))


def regex(pattern: str) -> str:
    """Text that matches a regular expression in Rust's syntax."""
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
        except Exception as error:  # llguidance raises no narrower type.
            raise ValueError(str(error)) from error
    return str(LLMatcher.grammar_from_lark(rules))


def with_tokens(form: str, added: Collection[str]) -> str:
    """Let rules that are one tag mean the tokenizer's added token of this text, where there is one.

    llguidance takes added tokens that look like tags for special ones, which no text in a grammar means.

    Args:
        form: a grammar in llguidance's syntax.
        added: texts of the tokenizer's added tokens.
    """
    return TAG.sub(lambda rule: f"{rule[1]}: {rule[2]}" if rule[2] in added else rule[0], form)
