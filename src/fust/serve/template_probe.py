"""Renders one chat template within bounds: `python -m fust.serve.template_probe < TEMPLATE`; its exit status says how that went."""

from __future__ import annotations

import contextlib
import resource
import sys
from typing import Any

from fust.serve.template_check import CPU_S, ENDS, MEMORY_BYTES, NOT_JINJA, OUTPUT_BYTES, TOO_MUCH

_TEXT = "A message of ordinary length, with words."
_CONVERSATIONS: tuple[list[dict[str, Any]], ...] = (
    [{"role": "user", "content": _TEXT}],
    [
        {"role": "system", "content": _TEXT},
        {"role": "user", "content": _TEXT},
        {"role": "assistant", "content": _TEXT},
        {"role": "user", "content": _TEXT},
    ],
)


def main() -> int:
    """Returns the exit status (`template_check`)."""
    for what, limit in (
        (resource.RLIMIT_CPU, CPU_S),
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        with contextlib.suppress(OSError, ValueError):  # macOS knows no bound on address space
            resource.setrlimit(what, (limit, limit))
    source = sys.stdin.buffer.read().decode("utf-8", "replace")
    try:
        for messages in _CONVERSATIONS:
            with contextlib.suppress(_Refused):
                if _length(source, messages) > OUTPUT_BYTES:
                    return TOO_MUCH
    except (MemoryError, RecursionError, OverflowError, SyntaxError):  # Python's own: nested too deep
        return TOO_MUCH
    except Exception:
        return NOT_JINJA
    return ENDS


class _Refused(Exception):
    """`raise_exception` of the template: it does not take such a conversation."""


def _refuse(message: str = "") -> None:
    raise _Refused(message)


def _today(pattern: str) -> str:
    return f"22 November 2026 {pattern[:100]}"


def _length(source: str, messages: list[dict[str, Any]]) -> int:
    from fust.serve.template_bounds import Bounded

    environment = Bounded(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do"]
    )
    template = environment.from_string(source)
    pieces = template.generate(
        messages=messages,
        add_generation_prompt=True,
        bos_token="<s>",
        eos_token="</s>",
        tools=None,
        raise_exception=_refuse,
        strftime_now=_today,
    )
    length = 0
    for piece in pieces:
        length += len(piece)
        if length > OUTPUT_BYTES:
            break
    return length


if __name__ == "__main__":
    sys.exit(main())
