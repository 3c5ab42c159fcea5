"""`python -m fust.hub.preview_parquet`: the first rows of a Parquet file, read in a process that may die of it.

Parquet is read by a large C++ library, and the file comes from a stranger: the process has bounds on memory and time,
no file but its pipes, and asks its parent for the byte ranges that it needs. On standard output it writes 16 bytes,
offset and length (little-endian), and reads as many bytes from standard input; offset 2^64-1 announces the answer,
JSON of that length.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import resource
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import IO, Any

import msgspec

from fust.core.errors import Unavailable
from fust.core.extras import install_command
from fust.hub.preview import MAX_COLUMNS, MAX_ROWS, Column, Look, cell_of, fill_rows, nothing

ReadRange = Callable[[int, int], bytes]

_ASK = struct.Struct("<QQ")
_ANSWER = 2**64 - 1
_MAX_ANSWER_BYTES = 8 * 2**20
_MAX_READ_BYTES = 64 * 2**20
_MAX_ASKS = 2_000
_MAX_ROW_GROUPS = 50
_MEMORY_BYTES = 3 * 2**30
"""Address space, of which Arrow's libraries map most."""
_TIME_S = 15
_AT_ONCE = threading.BoundedSemaphore(2)


class Answer(msgspec.Struct):
    """What the child found."""

    columns: list[tuple[str, str]] = []
    rows: list[list[str | None]] = []
    more: bool = False
    rows_total: int = 0
    error: str = ""


def look_at_parquet(size: int, read: ReadRange) -> Look:
    """Returns the first rows of a Parquet file of ``size`` bytes, whose bytes [start, end) ``read`` gives.

    Raises:
        Unavailable: other files are being looked at for long.

    """
    if importlib.util.find_spec("pyarrow") is None:
        return nothing(
            "parquet", "Rows of Parquet files need one more part: {command}", command=install_command("data")
        )
    if not _AT_ONCE.acquire(timeout=_TIME_S):
        raise Unavailable(
            "Other files are being looked at.", hint="Try again in a few seconds.", retry_after_s=5
        )
    try:
        answer = _ask_child(size, read)
    finally:
        _AT_ONCE.release()
    if answer is None:
        return nothing("parquet", "It asks for more memory or time than a look may take.")
    if answer.error:
        return nothing("parquet", "It cannot be read as Parquet ({error}).", error=answer.error)
    columns = [Column(name, kind) for name, kind in answer.columns]
    return Look("table", "parquet", columns, answer.rows, more=answer.more, rows_total=answer.rows_total)


def _ask_child(size: int, read: ReadRange) -> Answer | None:
    environ = {key: os.environ[key] for key in ("PATH", "PYTHONPATH", "HOME", "LANG") if key in os.environ}
    environ |= {"OMP_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}
    child = subprocess.Popen(
        [sys.executable, "-m", "fust.hub.preview_parquet", str(size)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environ,
        start_new_session=True,
    )
    assert child.stdin is not None and child.stdout is not None
    alarm = threading.Timer(_TIME_S, child.kill)
    alarm.start()
    try:
        return _serve(child.stdout, child.stdin, size, read)
    except (OSError, ValueError, msgspec.MsgspecError):  # it died, or spoke nonsense
        return None
    finally:
        alarm.cancel()
        child.kill()
        child.stdout.close()
        with contextlib.suppress(OSError):
            child.stdin.close()
        child.wait()


def _serve(asks: IO[bytes], answers: IO[bytes], size: int, read: ReadRange) -> Answer | None:
    given = 0
    for _ in range(_MAX_ASKS):
        head = asks.read(_ASK.size)
        if len(head) < _ASK.size:
            return None
        offset, length = _ASK.unpack(head)
        if offset == _ANSWER:
            return (
                msgspec.json.decode(asks.read(length), type=Answer) if length <= _MAX_ANSWER_BYTES else None
            )
        given += length
        if given > _MAX_READ_BYTES or offset + length > size:
            return None
        answers.write(read(offset, offset + length))
        answers.flush()
    return None


class _Ranges(io.RawIOBase):
    """The parent's file, as pyarrow reads it."""

    def __init__(self, asks: IO[bytes], answers: IO[bytes], size: int) -> None:
        self._asks, self._answers, self._size, self._at = asks, answers, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._at)
        wanted = left if size < 0 else min(size, left)
        if wanted == 0:
            return b""
        self._asks.write(_ASK.pack(self._at, wanted))
        self._asks.flush()
        data = self._answers.read(wanted)
        self._at += len(data)
        return data


def _bound() -> None:
    wishes = {
        resource.RLIMIT_AS: _MEMORY_BYTES,
        resource.RLIMIT_CPU: _TIME_S,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
    }
    for what, limit in wishes.items():
        with contextlib.suppress(OSError, ValueError):  # macOS knows no bound on address space
            resource.setrlimit(what, (limit, limit))


def _read_rows(file: _Ranges) -> Answer:
    # Any: Arrow comes without types of its own, and is an extra.
    arrow: Any = importlib.import_module("pyarrow")
    parquet: Any = importlib.import_module("pyarrow.parquet")
    arrow.set_cpu_count(1)
    table = parquet.ParquetFile(
        arrow.PythonFile(file, mode="r"),
        buffer_size=64 * 1024,
        pre_buffer=False,
        thrift_string_size_limit=16 * 2**20,
        thrift_container_size_limit=200_000,
    )
    schema = table.schema_arrow
    fields = [schema.field(index) for index in range(min(len(schema), MAX_COLUMNS))]
    total = int(table.metadata.num_rows)
    rows, cut = fill_rows(_iter_rows(table, [field.name for field in fields]))
    columns = [(field.name[:2000], str(field.type)[:200]) for field in fields]
    return Answer(columns, rows, cut or len(fields) < len(schema) or len(rows) < total, total)


def _iter_rows(table: Any, names: list[str]) -> Iterator[list[str | None]]:
    groups: list[int] = []
    held = 0
    for index in range(min(table.metadata.num_row_groups, _MAX_ROW_GROUPS)):
        groups.append(index)
        held += table.metadata.row_group(index).num_rows
        if held >= MAX_ROWS:
            break
    given = 0
    for batch in table.iter_batches(batch_size=10, row_groups=groups, columns=names, use_threads=False):
        columns = [column.to_pylist() for column in batch.columns]
        for row in zip(*columns, strict=True):
            yield [cell_of(value) for value in row]
            given += 1
        if given >= MAX_ROWS:
            return


def main() -> None:
    """Reads the file that the parent holds and answers."""
    _bound()
    asks = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not get between
    file = _Ranges(asks, sys.stdin.buffer, int(sys.argv[1]))
    try:
        answer = _read_rows(file)
    except Exception as error:
        answer = Answer(error=" ".join(str(error).split())[:200] or type(error).__name__)
    body = msgspec.json.encode(answer)
    asks.write(_ASK.pack(_ANSWER, len(body)) + body)
    asks.flush()


if __name__ == "__main__":
    main()
