"""Jinja for templates that nobody has looked at: they can neither hang nor fill the memory.

A template means what it means to transformers, but each step of a loop, each call, and each value that is made,
compared or written costs what it weighs, of a budget that grows with the messages. What makes much of little at once
(padding, formats with a width) is not there, and products are paid for before they are made. So every template ends.
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
"""Characters that a template may make of short messages."""
PER_CHARACTER = 64
"""And of each character of the messages."""
STEP = 16
"""What a step of a loop, a call, or an item of a list costs, in characters."""
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
"""What may be called of a value, by its type."""
QUICK_TESTS = (
    "boolean", "callable", "defined", "false", "float", "integer", "iterable", "mapping", "none", "number",
    "sequence", "string", "true", "undefined",
)  # fmt: skip
"""Tests that take no time, whatever is tested."""
JINJAS_OWN = ("_loop_vars", "_block_vars")
"""Arguments that Jinja adds to calls within loops and blocks."""
WEIGHED, SEARCHED, STEPPED, CONCATENATED = "(weighed)", "(searched)", "(stepped)", "(concatenated)"
"""Filters that no template can name."""
FORMAT_WIDTH = re.compile(r"%[^%a-zA-Z]*[\d*]")


class Refusal(TemplateError):
    """A template's own `raise_exception`."""


class Spent(Exception):
    """The budget is used up."""


class Bounded(ImmutableSandboxedEnvironment):
    """Jinja as transformers sets it up, with a budget for each thread's rendering."""

    intercepted_binops = frozenset({"+", "*", "%", "**"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=[Generation, loopcontrols])
        self._thread = threading.local()
        self._thread.left = BUDGET
        self.filters = {name: self._charged(self.filters[name]) for name in FILTERS}
        self.filters |= {"join": self._join, "replace": self._replace, "indent": self._indent, "tojson": self._json}
        self.filters |= {
            WEIGHED: pass_context(lambda _, value: self._weighed(value)),
            SEARCHED: pass_context(lambda _, value: value if isinstance(value, dict) else self._weighed(value)),
            STEPPED: pass_context(lambda _, cost: self._step(cost)),
            CONCATENATED: pass_context(lambda _, values: "".join(map(str, self._weighed(values)))),
        }
        self.globals = {name: self.globals[name] for name in ("range", "dict", "namespace", "cycler", "joiner")}
        self.globals |= {"raise_exception": raise_exception, "strftime_now": strftime_now}
        self._functions = list(self.globals.values())

    # --- the budget ----------------------------------------------------------------------------------------------

    def begin(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """A new budget for this thread."""
        self._thread.left = most = 2**62
        self._charge(messages)
        self._thread.left = BUDGET + PER_CHARACTER * (most - self._thread.left)

    def _spend(self, cost: int) -> None:
        self._thread.left = left = self._thread.left - cost
        if left < 0:
            raise Spent

    def _step(self, cost: int) -> bool:
        self._spend(cost)
        return True

    def _charge(self, value: Any) -> None:
        """Spend what a value weighs, with all that is in it."""
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

    def _weighed(self, value: Any) -> Any:
        if type(value) is str:  # nearly always
            self._spend(len(value))
        else:
            self._charge(value)
        return value

    # --- what is paid for before it is made ------------------------------------------------------------------------

    def _charged(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter whose arguments and result are paid for."""

        @wraps(function)
        def charged(*args: Any, **kwargs: Any) -> Any:
            self._charge((*args, *kwargs.values()))
            return self._weighed(function(*args, **kwargs))

        return charged

    def _join(self, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
        values = self._weighed(list(value))
        self._spend(len(values) * len(str(d)))
        context = nodes.EvalContext(self)
        return self._weighed(sync_do_join(context, values, str(d), attribute))

    def _replace(self, s: Any, old: Any, new: Any, count: int | None = None) -> str:
        text, before, after = (str(self._weighed(one)) for one in (s, old, new))
        self._spend((1 + text.count(before)) * len(after))
        return text.replace(before, after, -1 if count is None else count)

    def _indent(self, s: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
        text = str(self._weighed(s))
        self._spend((1 + len(text.splitlines())) * (width if isinstance(width, int) else len(width)))
        return do_indent(text, width, first, blank)

    def _json(
        self, value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: Any = False
    ) -> str:
        before = self._thread.left
        self._charge(value)
        width = len(str(separators)) + (len(indent) if isinstance(indent, str) else indent or 0) * _depth(value)
        self._spend((before - self._thread.left) // STEP * width)
        return self._weighed(
            json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
        )

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "+" and type(left) is type(right) is str:
            self._spend(len(left) + len(right))
            return left + right
        self._charge((left, right))
        if operator == "%" and isinstance(left, str) and FORMAT_WIDTH.search(left):
            raise SecurityError(f"{left!r:.80} has a width; chat templates have none")
        if operator == "*":
            for one, times in ((left, right), (right, left)):
                if isinstance(one, str | list | tuple) and isinstance(times, int):
                    self._spend(max(times, 0) * (len(one) + 1))
            self._check_digits(_bits(left) + _bits(right))
        if operator == "**":
            self._check_digits(_bits(left) * abs(right) if isinstance(right, int) else 0)
        return self._weighed(super().call_binop(context, operator, left, right))

    @staticmethod
    def _check_digits(bits: int) -> None:
        if bits > 256:
            raise SecurityError("a number has too many digits")

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call what chat templates call."""
        self, function = __self, __obj
        own = {name: kwargs.pop(name) for name in JINJAS_OWN if name in kwargs}
        self._charge((*args, *kwargs.values()))
        owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
        known = isinstance(function, Macro | LoopContext | Joiner | Undefined) or any(
            function is one for one in self._functions
        )
        if not known and not any(isinstance(owner, kind) and name in names for kind, names in METHODS.items()):
            raise SecurityError(f"{name or function!r:.80} is not called in chat templates")
        if isinstance(owner, str):
            self._charge(owner)
            if name == "join":
                return self._join(args[0], owner)
            if name == "replace":
                return self._replace(owner, *args, **kwargs)
        elif isinstance(owner, list | tuple):
            self._charge(owner)
        return self._weighed(super().call(__context, function, *args, **kwargs, **own))

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        return super()._generate(Metering().visit(source), *args, **kwargs)


class Metering(NodeTransformer):
    """Puts what is paid for into a template's syntax tree."""

    def visit_Output(self, node: nodes.Output) -> nodes.Output:
        self.generic_visit(node)
        node.nodes = [one if isinstance(one, nodes.TemplateData) else _filtered(one, WEIGHED) for one in node.nodes]
        return node

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        if node.test is not None:
            node.test = nodes.And(_step(node, 0), node.test, lineno=node.lineno)
        return self.visit_Macro(node, visited=True)

    def visit_Macro(self, node: Any, visited: bool = False) -> Any:
        """What is done many times: a step, and the text that stands in it."""
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
        return _filtered(node, WEIGHED) if node.ctx == "load" else node

    def visit_List(self, node: nodes.List | nodes.Dict) -> nodes.Expr:
        self.generic_visit(node)
        return _filtered(node, WEIGHED)

    visit_Dict = visit_List

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        return _filtered(node, WEIGHED) if isinstance(node.arg, nodes.Slice) else node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:
        """Comparing for equality with what stands in the template is quick, whatever is compared."""
        self.generic_visit(node)
        if len(node.ops) == 1 and node.ops[0].op in ("eq", "ne") and isinstance(node.ops[0].expr, nodes.Const):
            return node
        node.expr = node.expr if isinstance(node.expr, nodes.Const) else _filtered(node.expr, WEIGHED)
        for operand in node.ops:
            operand.expr = _filtered(operand.expr, SEARCHED if operand.op in ("in", "notin") else WEIGHED)
        return node

    def visit_Test(self, node: nodes.Test) -> nodes.Test:
        self.generic_visit(node)
        if node.name not in QUICK_TESTS:
            node.node = _filtered(node.node, WEIGHED)
            node.args = [_filtered(one, WEIGHED) for one in node.args or ()]
        return node


class Generation(Extension):
    """`{% generation %}`, in which templates put answers for those who learn from them; its content is written."""

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
        raise SecurityError(f"{format!r:.80} has a width; chat templates have none")
    return datetime.now().strftime(format)
