"""The process that writes a GGUF file of safetensors: `python -m fust.serve.convert_child`, its order on standard input.

It says how far it is, and at the end what was wrong, in lines of JSON (`ConvertWord`), and ends with its parent.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import msgspec

from fust.core.children import die_with_parent
from fust.core.errors import FustError
from fust.core.machine import physical_cores
from fust.formats.ggml_types import FileType
from fust.formats.gguf_write import write_gguf

_STEPS = 200


class ConvertOrder(msgspec.Struct):
    """What is to be made of which folder."""

    folder: str
    target: str
    form: FileType
    name: str
    parent_pid: int = 0


class ConvertWord(msgspec.Struct, omit_defaults=True):
    """How far it is, in bytes, or why it ended."""

    done: int = 0
    total: int = 0
    error: str = ""
    full: bool = False
    """Whether the disk is."""


def main() -> int:
    """Writes the file that standard input names."""
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=ConvertOrder)
    die_with_parent(order.parent_pid)
    os.nice(10)
    told = ConvertWord()

    def tell(done: int, total: int) -> None:
        nonlocal told
        if done == total or (done - told.done) * _STEPS > total:
            told = ConvertWord(done, total)
            _say(told)

    try:
        write_gguf(
            Path(order.folder),
            Path(order.target),
            order.form,
            name=order.name,
            threads=physical_cores(),
            tell=tell,
        )
    except FustError as error:
        _say(ConvertWord(error=error.message()))
        return 1
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        _say(ConvertWord(told.done, told.total, str(error), full))
        return 1
    return 0


def _say(word: ConvertWord) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(word) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
