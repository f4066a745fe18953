"""How tools constrain an answer: the grammar of calls."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from mossvl.errors import OptionError
from mossvl.forms.closing import closed
from mossvl.forms.grammar import problem_of
from mossvl.forms.languages import JSON_SPACE, grammar
from mossvl.options import SamplingParams
from mossvl.tools.bounding import bounded
from mossvl.tools.calls import BEGIN, END
from mossvl.tools.definitions import Function, Tools

Params = TypeVar("Params", bound=SamplingParams)
MOST_CALLS = 16
"""Calls of one answer whose form is forced."""
LONGEST_SCHEMAS = 50_000
"""Characters of all schemas of a grammar."""


def constrained(params: Params, tools: Tools, short: bool) -> Params:
    """Return parameters for an answer that may call these functions, or must.

    A forced answer is nothing but calls, so that its own form and stop strings do not apply. A free one that calls may
    have a JSON schema for its text.

    Args:
        short: a forced answer is one call, whose arguments are bounded (see `bounded`): the model knows no tools.

    Raises:
        OptionError: the schema of a function's parameters cannot be used, or an option excludes tools.
    """
    calls = _calls(tools.parallel and not short)
    if tools.forced:
        if params.ignore_eos:
            raise OptionError(
                "{ignore_eos} excludes a tool_choice that forces a call; leave one of them out", option="ignore_eos"
            )
        rules = f"start: {calls}\n{_rules(tools, short)}"
        _check(rules, tools, short)
        return replace(params, json_schema=None, regex=None, choice=None, grammar=rules, stop=())
    if params.json_schema is not None:
        rules = f"start: answer | {calls}\nanswer: %json {_json(json.loads(str(params.json_schema)))}"
        rules = f"{rules}\n{_rules(tools, short)}"
        _check(rules, tools, short)
        return replace(params, json_schema=None, grammar=rules)
    if not params.free:
        raise OptionError(
            "{tools} and an answer's form exclude each other, unless it is a JSON schema; leave one of them out, or "
            'set tool_choice to "none"',
            option="tools",
        )
    return params


def _calls(parallel: bool) -> str:
    return f'call ("\\n" call){{0,{MOST_CALLS - 1}}}' if parallel else "call"


def _rules(tools: Tools, short: bool) -> str:
    """Rules in Lark's syntax for a call of each function; the tags have rules of their own (see `with_tokens`)."""
    names = " | ".join(f"function{number}" for number in range(len(tools.functions)))
    lines = [f"call: begin ({names}) end", f'begin: "{BEGIN}"', f'end: "{END}"']
    for number, function in enumerate(tools.functions):
        head = f'\n{{"name": {json.dumps(function.name)}, "arguments": '
        lines.append(f'function{number}: {json.dumps(head)} arguments{number} "}}\\n"')
        lines.append(f"arguments{number}: %json {_json(_schema(function, short))}")
    return "\n".join(lines)


def _schema(function: Function, short: bool) -> Mapping[str, Any]:
    return bounded(function.schema) if short else function.schema


def _json(schema: Mapping[str, Any]) -> str:
    return json.dumps({**closed(schema), "x-guidance": {"whitespace_pattern": JSON_SPACE}})


def _check(rules: str, tools: Tools, short: bool) -> None:
    """Raise an `OptionError` for the first function whose schema cannot be used."""
    if len(rules) > LONGEST_SCHEMAS:
        raise OptionError(
            f"{{tools}}: the schemas of the functions have {len(rules)} characters; at most {LONGEST_SCHEMAS} are "
            "allowed where they constrain the answer",
            option="tools",
        )
    if not problem_of(grammar(rules)):
        return
    for function in tools.functions:
        alone = f"start: call\n{_rules(Tools((function,)), short)}"
        if reason := problem_of(grammar(alone)):
            raise OptionError(
                f"{{tools}}: the parameters of {function.name!r} cannot be used: {reason}", option="tools"
            )
