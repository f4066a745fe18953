"""Jinja for untrusted chat templates: rendering ends, and its memory is bounded.

Templates render as in transformers, within a budget of characters that grows with the messages. Each step of a loop,
each call, and each value that is made, compared or written is charged by its size. Products, joins, replacements and
indentation are charged before they are computed; padding and formats with a width are refused.
"""

import json
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import wraps
from typing import Any

from jinja2 import TemplateError, Undefined, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import do_indent, sync_do_join
from jinja2.parser import Parser
from jinja2.runtime import LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Cycler, Joiner
from jinja2.visitor import NodeTransformer

BUDGET = 2**22
"""Budget of a rendering, in characters, whatever its messages."""
PER_CHARACTER = 64
"""Further budget for each character of the messages."""
STEP = 16
"""Cost, in characters, of a run of a loop or macro, an item of a list, or a number."""
FILTERS = (
    "abs", "attr", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "groupby",
    "int", "items", "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "reverse",
    "safe", "select", "selectattr", "sort", "string", "title", "trim", "unique", "upper", "urlencode", "wordcount",
)  # fmt: skip
STRING_METHODS = (
    "capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha", "isascii", "isdecimal",
    "isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper", "join", "lower", "lstrip", "partition",
    "removeprefix", "removesuffix", "replace", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "split",
    "splitlines", "startswith", "strip", "swapcase", "title", "upper",
)  # fmt: skip
METHODS = {
    str: STRING_METHODS,
    dict: ("get", "items", "keys", "values"),
    list: ("count", "index"),
    tuple: ("count", "index"),
    LoopContext: ("changed", "cycle"),
    Cycler: ("next", "reset"),
}
"""Methods that a template may call, by the type of the value."""
CONSTANT_TIME_TESTS = (
    "boolean", "callable", "defined", "false", "float", "integer", "iterable", "mapping", "none", "number",
    "sequence", "string", "true", "undefined",
)  # fmt: skip
"""Tests that take constant time; they are not charged."""
JINJA_ARGUMENTS = ("_loop_vars", "_block_vars")
"""Arguments that Jinja adds to calls within loops and blocks."""
CHARGED, SEARCHED, STEPPED, CONCATENATED = "(charged)", "(searched)", "(stepped)", "(concatenated)"
"""Filters that `Metering` inserts; no template can name them."""
FORMAT_WIDTH = re.compile(r"%[^%a-zA-Z]*[\d*]")


class Refusal(TemplateError):
    """A template called `raise_exception`."""


class BudgetExceeded(Exception):
    """A rendering costs more than its budget."""


class Bounded(ImmutableSandboxedEnvironment):
    """Jinja as transformers sets it up, with a budget for each thread's rendering.

    A rendering raises `BudgetExceeded`, or `SecurityError` for a call or a format that is not supported.
    """

    intercepted_binops = frozenset({"+", "*", "%", "**"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=[Generation, loopcontrols])
        self._thread = threading.local()
        self._thread.left = BUDGET
        self.filters = {name: self._charged_filter(self.filters[name]) for name in FILTERS}
        self.filters |= {"join": self._join, "replace": self._replace, "indent": self._indent, "tojson": self._json}
        self.filters |= {
            CHARGED: pass_context(lambda _, value: self._charged(value)),
            SEARCHED: pass_context(lambda _, value: value if isinstance(value, dict) else self._charged(value)),
            STEPPED: pass_context(lambda _, cost: self._step(cost)),
            CONCATENATED: pass_context(lambda _, values: "".join(map(str, self._charged(values)))),
        }
        self.globals = {name: self.globals[name] for name in ("range", "dict", "namespace", "cycler", "joiner")}
        self.globals |= {"raise_exception": raise_exception, "strftime_now": strftime_now}
        self._functions = list(self.globals.values())

    # --- the budget ----------------------------------------------------------------------------------------------

    def begin(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """Set this thread's budget, for rendering these messages."""
        self._thread.left = most = 2**62
        self._charge(messages)
        self._thread.left = BUDGET + PER_CHARACTER * (most - self._thread.left)

    def _spend(self, cost: int) -> None:
        self._thread.left = left = self._thread.left - cost
        if left < 0:
            raise BudgetExceeded

    def _step(self, cost: int) -> bool:
        self._spend(cost)
        return True

    def _charge(self, value: Any) -> None:
        """Charge a value by its size, nested values included."""
        if isinstance(value, str):
            self._spend(len(value))
        elif isinstance(value, (list, tuple)):
            self._spend(STEP * len(value))
            for one in value:
                self._charge(one)
        elif isinstance(value, dict):
            self._spend(STEP * len(value))
            for name, one in value.items():
                self._charge(name)
                self._charge(one)
        else:
            self._spend(STEP * (1 + len(value)) if isinstance(value, range) else STEP)

    def _charged(self, value: Any) -> Any:
        if type(value) is str:  # the usual case
            self._spend(len(value))
        else:
            self._charge(value)
        return value

    # --- filters, operators and calls, charged before they are computed --------------------------------------------

    def _charged_filter(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The filter, with its arguments and result charged."""

        @wraps(function)
        def charged(*args: Any, **kwargs: Any) -> Any:
            self._charge((*args, *kwargs.values()))
            return self._charged(function(*args, **kwargs))

        return charged

    def _join(self, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
        values = self._charged(list(value))
        self._spend(len(values) * len(str(d)))
        context = nodes.EvalContext(self)
        return self._charged(sync_do_join(context, values, str(d), attribute))

    def _replace(self, s: Any, old: Any, new: Any, count: int | None = None) -> str:
        text, before, after = (str(self._charged(one)) for one in (s, old, new))
        self._spend((1 + text.count(before)) * len(after))
        return text.replace(before, after, -1 if count is None else count)

    def _indent(self, s: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
        text = str(self._charged(s))
        self._spend((1 + len(text.splitlines())) * (width if isinstance(width, int) else len(width)))
        return do_indent(text, width, first, blank)

    def _json(
        self, value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: Any = False
    ) -> str:
        before = self._thread.left
        self._charge(value)
        width = len(str(separators)) + (len(indent) if isinstance(indent, str) else indent or 0) * _depth(value)
        self._spend((before - self._thread.left) // STEP * width)
        return self._charged(
            json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
        )

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "+" and type(left) is type(right) is str:
            self._spend(len(left) + len(right))
            return left + right
        self._charge((left, right))
        if operator == "%" and isinstance(left, str) and FORMAT_WIDTH.search(left):
            raise SecurityError(f"the format {left!r:.80} has a width, which chat templates may not use")
        if operator == "*":
            for one, times in ((left, right), (right, left)):
                if isinstance(one, str | list | tuple) and isinstance(times, int):
                    self._spend(max(times, 0) * (len(one) + 1))
            self._check_bits(_bits(left) + _bits(right))
        if operator == "**":
            self._check_bits(_bits(left) * abs(right) if isinstance(right, int) else 0)
        return self._charged(super().call_binop(context, operator, left, right))

    @staticmethod
    def _check_bits(bits: int) -> None:
        if bits > 256:
            raise SecurityError("an integer has more than 256 bits, which chat templates may not use")

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a macro, a global function, or a method of `METHODS`; refuse all others."""
        self, function = __self, __obj
        own = {name: kwargs.pop(name) for name in JINJA_ARGUMENTS if name in kwargs}
        self._charge((*args, *kwargs.values()))
        owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
        known = isinstance(function, Macro | LoopContext | Joiner | Undefined) or any(
            function is one for one in self._functions
        )
        if not known and not any(isinstance(owner, kind) and name in names for kind, names in METHODS.items()):
            raise SecurityError(f"chat templates may not call {name or function!r:.80}")
        if isinstance(owner, str):
            self._charge(owner)
            if name == "join":
                return self._join(args[0], owner)
            if name == "replace":
                return self._replace(owner, *args, **kwargs)
        elif isinstance(owner, list | tuple):
            self._charge(owner)
        return self._charged(super().call(__context, function, *args, **kwargs, **own))

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        return super()._generate(Metering().visit(source), *args, **kwargs)


class Metering(NodeTransformer):
    """Inserts charges into a template's syntax tree."""

    def visit_Output(self, node: nodes.Output) -> nodes.Output:
        self.generic_visit(node)
        node.nodes = [one if isinstance(one, nodes.TemplateData) else _filtered(one, CHARGED) for one in node.nodes]
        return node

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        if node.test is not None:
            node.test = nodes.And(_step(node, 0), node.test, lineno=node.lineno)
        return self.visit_Macro(node, visited=True)

    def visit_Macro(self, node: Any, visited: bool = False) -> Any:
        """Charge each run of a body (of a macro or a loop): one step, and the template's own text in the body."""
        if not visited:
            self.generic_visit(node)
        written = sum(len(one.data) for part in node.body for one in part.find_all(nodes.TemplateData))
        node.body = [nodes.ExprStmt(_step(node, written), lineno=node.lineno), *node.body]
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        return _filtered(nodes.Tuple(node.nodes, "load"), CONCATENATED, node.lineno)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:
        self.generic_visit(node)
        return _filtered(node, CHARGED) if node.ctx == "load" else node

    def visit_List(self, node: nodes.List | nodes.Dict) -> nodes.Expr:
        self.generic_visit(node)
        return _filtered(node, CHARGED)

    visit_Dict = visit_List

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        return _filtered(node, CHARGED) if isinstance(node.arg, nodes.Slice) else node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:
        """Charge the operands, except of an equality with a constant, whose length bounds the time."""
        self.generic_visit(node)
        if len(node.ops) == 1 and node.ops[0].op in ("eq", "ne") and isinstance(node.ops[0].expr, nodes.Const):
            return node
        node.expr = node.expr if isinstance(node.expr, nodes.Const) else _filtered(node.expr, CHARGED)
        for operand in node.ops:
            operand.expr = _filtered(operand.expr, SEARCHED if operand.op in ("in", "notin") else CHARGED)
        return node

    def visit_Test(self, node: nodes.Test) -> nodes.Test:
        self.generic_visit(node)
        if node.name not in CONSTANT_TIME_TESTS:
            node.node = _filtered(node.node, CHARGED)
            node.args = [_filtered(one, CHARGED) for one in node.args or ()]
        return node


class Generation(Extension):
    """`{% generation %}`, which marks assistants' turns for training: only its content is rendered."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _filtered(node: nodes.Expr, name: str, line: int | None = None) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=line or node.lineno or 1)


def _step(node: nodes.Node, written: int) -> nodes.Filter:
    return _filtered(nodes.Const(STEP + written), STEPPED, node.lineno)


def _bits(value: Any) -> int:
    return value.bit_length() if isinstance(value, int) else 0


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return 1 + max(map(_depth, inner), default=0)


def raise_exception(message: Any) -> None:
    raise Refusal(str(message))


def strftime_now(format: str) -> str:
    if FORMAT_WIDTH.search(format):
        raise SecurityError(f"the format {format!r:.80} has a width, which chat templates may not use")
    return datetime.now().strftime(format)
