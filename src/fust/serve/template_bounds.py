"""Jinja's sandbox for chat templates of strangers, in which nothing is made that no conversation needs.

The sandbox of Jinja (and of transformers, which is the same) bounds neither time nor size. One step that makes a thing
of any size holds the interpreter meanwhile, so whatever can do that looks at its numbers first. Nothing is computed when
a template is compiled: Jinja would try each constant again with every rendering, and pass over in silence that there is
no memory for it. Texts that double (`~`, `join`) are left to the bounds of the process.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

MOST_CHARACTERS = 32 << 20
"""Of a text, or items of a list."""
_MOST_BITS = 1 << 20
_WIDE = re.compile(r"%[^a-zA-Z%]*(?:\d{5}|\*)")
"""A number of `%` that fills up with more than anybody would read."""


class _Generator(CodeGenerator):
    """Leaves what is constant to the rendering."""

    def _output_child_to_const(self, node: nodes.Expr, frame: Frame, finalize: Any) -> str:
        if isinstance(node, nodes.TemplateData):
            return super()._output_child_to_const(node, frame, finalize)
        raise nodes.Impossible


class Bounded(ImmutableSandboxedEnvironment):
    """The sandbox; what would be too large raises MemoryError."""

    code_generator_class = _Generator
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **{**named, "optimized": False})
        self.filters = {name: _measured(filter_) for name, filter_ in self.filters.items()}

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Returns what an operator gives."""
        if _size_of(operator, left, right) > MOST_CHARACTERS:
            raise MemoryError
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *given: Any, **named: Any) -> Any:
        """Returns what a function or method gives: Jinja's own names, since a template may have arguments of any."""
        _check_numbers(given, named)
        return super().call(__context, __obj, *given, **named)


def _measured(filter_: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a filter that looks at its arguments first, but not at what it is applied to."""
    first = 2 if hasattr(filter_, "jinja_pass_arg") else 1

    @functools.wraps(filter_)
    def measured(*given: Any, **named: Any) -> Any:
        _check_numbers(given[first:], named)
        value = given[first - 1] if len(given) >= first else None
        if filter_.__name__ == "do_format" and isinstance(value, str) and _WIDE.search(value):
            raise MemoryError
        return filter_(*given, **named)

    return measured


def _check_numbers(given: tuple[Any, ...], named: dict[str, Any]) -> None:
    for number in (*given, *named.values()):
        if isinstance(number, int) and number > MOST_CHARACTERS:
            raise MemoryError


def _size_of(operator: str, left: Any, right: Any) -> int:
    """Returns how large the outcome of an operator is at most: characters or items, and as much for too long a number."""
    too_much = MOST_CHARACTERS + 1
    if operator == "%":
        return too_much if isinstance(left, str) and _WIDE.search(left) else 0
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
        return too_much if bits > _MOST_BITS else 0
    if operator == "*":
        times, of = (left, right) if isinstance(left, int) else (right, left)
        return times * _length(of) if isinstance(times, int) else 0
    return _length(left) + _length(right) if operator == "+" else 0


def _length(thing: Any) -> int:
    return len(thing) if hasattr(thing, "__len__") else 0
