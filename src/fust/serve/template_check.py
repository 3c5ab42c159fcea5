"""Chat templates of strangers are tried in a process with bounds before an engine gets them.

An engine renders the template of a model while it loads and with every chat, in its own process and without bounds: a
loop of a thousand million rounds would keep a core busy until the load times out. So a template that could do more
than write its messages is rendered once here, by Jinja's sandbox in a child with a little time and memory. What fails
there for another reason (a filter that Jinja has not) is the engine's to judge.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys

from fust.core.errors import InvalidInput

MAX_BYTES = 1_000_000
CPU_S = 5
MEMORY_BYTES = 512 * 2**20
OUTPUT_BYTES = 4_000_000
"""Of a conversation of four short turns."""
_WALL_S = 60
"""For a busy machine; the processor's time is the bound that counts."""
ENDS, TOO_MUCH, NOT_JINJA = 0, 3, 4
"""Exit statuses of the child; any other, a signal among them, counts as too much."""
_STRINGS = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
_BUSY = re.compile(r"\b(?:set|range|macro|call|namespace|recursive|lipsum|cycler)\b|[|*(]|(?<!\{)%(?!\})")


def check_template(template: str, file: str) -> None:
    """Returns when a template may go to an engine.

    Raises:
        InvalidInput: it takes more time, memory or depth than a conversation can need.

    """
    if _ends(template):
        return
    raise InvalidInput(
        "The chat template of {file} does not come to an end, or takes far too much time or memory.",
        hint="Mend the template in the file, or serve a copy of the model from somebody you trust.",
        code="bad_chat_template",
        file=file,
    )


@functools.lru_cache(maxsize=256)
def _ends(template: str) -> bool:
    if len(template) > MAX_BYTES:
        return False
    if _is_plain(template):
        return True
    try:
        done = subprocess.run(
            [sys.executable, "-m", "fust.serve.template_probe"],
            input=template.encode("utf-8", "replace"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_WALL_S,
            env={name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ},
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode in (ENDS, NOT_JINJA)


def _is_plain(template: str) -> bool:
    """Returns whether it only goes over the messages and writes their fields: most do, and the child takes 0.2 s."""
    code = _STRINGS.sub("''", template)
    return (
        len(template) < 10_000
        and template.count("{%") < 40
        and code.count("for ") <= 2
        and not _BUSY.search(code)
    )
