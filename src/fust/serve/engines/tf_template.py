"""A stranger's chat template among the threads of an engine: ended when it takes too long, refused when it writes too much.

transformers renders it in Jinja's sandbox, here with bounds (`template_bounds`). What runs is Python's own bytecode, so an
exception can be put into its thread from another one.
"""

from __future__ import annotations

import ctypes
import importlib
import threading
from collections.abc import Callable
from typing import Any

from fust.serve.engines.child_http import Refused
from fust.serve.template_bounds import MOST_CHARACTERS, Bounded

MOST_S = 8.0
"""It takes milliseconds. Less than the gateway waits before it takes the whole engine for one that hangs."""
_AGAIN_S = 0.5


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
