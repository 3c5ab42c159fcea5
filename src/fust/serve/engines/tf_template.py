"""A stranger's chat template among the threads of an engine: ended when it takes too long, refused when it writes too much.

transformers renders it in Jinja's sandbox, which bounds neither time nor size. What runs is Python's own bytecode, so an
exception can be put into its thread from another one. One step that never returns would hold the interpreter meanwhile,
so operators that can make a thing of any size look at it first (`Bounded`). What is left is the bound of the process's
memory, and the keeper of engines, who ends one that does not answer.
"""

from __future__ import annotations

import ctypes
import importlib
import re
import threading
from collections.abc import Callable
from typing import Any

from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from fust.serve.engines.child_http import Refused

MOST_S = 8.0
"""It takes milliseconds. Less than the gateway waits before it takes the whole engine for one that hangs."""
MOST_CHARACTERS = 32 << 20
_AGAIN_S = 0.5
_MOST_BITS = 1 << 20
_WIDE = re.compile(r"%[^a-zA-Z%]*(?:\d{5}|\*)")
"""A number of `%` that fills up with more than anybody would read."""


class Bounded(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, in which no operator makes what no conversation needs.

    Nothing is computed when a template is compiled either: Jinja would try each constant again with every rendering, and
    pass over in silence that there is no memory for it.
    """

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **{**named, "optimized": False})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Returns what an operator gives; raises MemoryError for what would be too large."""
        if _size_of(operator, left, right) > MOST_CHARACTERS:
            raise MemoryError
        return super().call_binop(context, operator, left, right)


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
        return times * len(of) if isinstance(times, int) and hasattr(of, "__len__") else 0
    if operator == "+" and hasattr(left, "__len__") and hasattr(right, "__len__"):
        return len(left) + len(right)
    return 0


def bound_templates() -> None:
    """Lets transformers render templates in `Bounded`, in this process."""
    module: Any = importlib.import_module("transformers.utils.chat_template_utils")
    module.ImmutableSandboxedEnvironment = Bounded


class _TooLong(BaseException):
    """Put into the thread; none of Jinja's own handlers takes it for an error of the template's."""


def rendered(render: Callable[[], str]) -> str:
    """Returns what `render` returns.

    Raises:
        Refused: the template does not come to an end, takes too much memory, writes too much, or says no.
    """
    try:
        text = _in_time(render)
    except _TooLong:
        raise Refused(400, "template_without_end", "the chat template does not come to an end") from None
    except (MemoryError, RecursionError):
        raise _too_large() from None
    except Exception as error:
        raise Refused(400, "invalid_request_error", f"the chat template: {error}"[:1000]) from None
    if len(text) > MOST_CHARACTERS:
        raise _too_large()
    return text


def _too_large() -> Refused:
    return Refused(400, "invalid_request_error", "std::bad_alloc in the chat template")


def _in_time(render: Callable[[], str]) -> str:
    thread, lock, over = threading.get_ident(), threading.Lock(), threading.Event()
    throw = ctypes.pythonapi.PyThreadState_SetAsyncExc

    def watch() -> None:
        wait_s = MOST_S
        while not over.wait(wait_s):
            with lock:
                if not over.is_set():
                    throw(ctypes.c_ulong(thread), ctypes.py_object(_TooLong))
            wait_s = _AGAIN_S

    threading.Thread(target=watch, name="fust-template", daemon=True).start()
    try:
        return render()
    finally:
        with lock:
            over.set()
            throw(ctypes.c_ulong(thread), None)  # one that is on its way is too late
