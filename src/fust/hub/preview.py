"""The beginning of a file as a table or as text: bounded in bytes, rows, columns and cells, whatever the file holds.

Rows of JSON keep their values as they are written (`1.10` stays `1.10`): nothing here is computed with.
"""

from __future__ import annotations

import csv
import io
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from fust.core.decode_words import words_of

MAX_READ_BYTES = 2 * 2**20
"""Of a text file, unpacked."""
MAX_ROWS = 100
MAX_COLUMNS = 100
MAX_CELL = 2_000
"""Characters of one cell; the rest is cut off, which the cell's last character says."""
MAX_CHARACTERS = 400_000
"""Of all cells together, or of a text."""
CUT = "…"

_TABLES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv"}
_KINDS = {ord("{"): "object", ord("["): "list", ord("t"): "bool", ord("f"): "bool"}
Row = dict[str, msgspec.Raw]
Cell = str | None


@dataclass(frozen=True, slots=True)
class Column:
    """A column, and of what kind its values are, as the file says or as the rows shown let think."""

    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class Look:
    """What can be shown of a file."""

    kind: Literal["table", "text", "none"]
    format: str
    columns: list[Column]
    rows: list[list[Cell]]
    text: str = ""
    more: bool = False
    """Whether the file holds more than is shown."""
    rows_total: int | None = None
    """Rows of the whole file, where its header tells."""
    reason: str = ""
    """Template of why nothing, or not all, is shown as a table."""
    params: dict[str, object] | None = None


def nothing(format: str, reason: str, **params: object) -> Look:
    """Returns a look at a file of which nothing can be shown."""
    return Look("none", format, [], [], reason=reason, params=params)


def format_of(path: str) -> str:
    """Returns `jsonl`, `json`, `csv`, `tsv`, `parquet` or `text` by a file's name; `.gz` is looked through."""
    name = path.lower().removesuffix(".gz")
    if name.endswith(".parquet"):
        return "parquet" if not path.lower().endswith(".gz") else "text"
    return next((found for end, found in _TABLES.items() if name.endswith(end)), "text")


def look_at_text(path: str, pieces: Iterable[bytes], size: int) -> Look:
    """Returns the rows, or the text, at the beginning of a file of ``size`` bytes; reads no more than it must."""
    packed = path.lower().endswith(".gz")
    try:
        data, whole = _unpack(pieces) if packed else _take(pieces, size)
    except zlib.error:
        return nothing("gzip", "It is not the gzip file that its name says.")
    found = format_of(path)
    text = _decode(data)
    if text is None:
        return nothing("binary", "It holds bytes, not text.")
    try:
        if found == "jsonl":
            return _rows(found, _json_lines(text, whole), whole)
        if found == "json" and whole and text.lstrip("\ufeff \t\r\n").startswith("["):
            return _rows(found, msgspec.json.decode(text.lstrip("\ufeff"), type=list[Row]), whole)
        if found in ("csv", "tsv"):
            return _csv_rows(found, text, whole)
    except (msgspec.MsgspecError, csv.Error, RecursionError, ValueError) as error:
        shown, more = _clip_text(text)
        reason = "It is shown as text: it cannot be read as {format} ({error})."
        params: dict[str, object] = {"format": found.upper(), "error": words_of(error)}
        return Look("text", found, [], [], shown, more or not whole, None, reason, params)
    shown, more = _clip_text(text)
    return Look("text", found, [], [], shown, more or not whole)


def cell_of(value: object) -> Cell:
    """Returns a value as a cell shows it: text as it is, the rest as JSON, bytes as their number."""
    if value is None:
        return None
    if isinstance(value, str):
        return _clip(value)
    if isinstance(value, bytes):
        return f"<{len(value):,} bytes>"
    return _clip(json.dumps(value, ensure_ascii=False, default=cell_of))


def fill_rows(rows: Iterable[Sequence[Cell]]) -> tuple[list[list[Cell]], bool]:
    """Returns as many rows as the bounds allow, and whether some were left out."""
    kept: list[list[Cell]] = []
    room = MAX_CHARACTERS
    for row in rows:
        room -= sum(len(cell or "") for cell in row)
        if len(kept) == MAX_ROWS or (room < 0 and kept):
            return kept, True
        kept.append(list(row))
    return kept, False


def _take(pieces: Iterable[bytes], size: int) -> tuple[bytes, bool]:
    found = bytearray()
    for piece in pieces:
        found += piece
        if len(found) >= MAX_READ_BYTES:
            break
    return bytes(found[:MAX_READ_BYTES]), len(found) >= size and size <= MAX_READ_BYTES


def _unpack(pieces: Iterable[bytes]) -> tuple[bytes, bool]:
    # `max_length` bounds what a bomb can become; one member is enough for a look.
    unpacker = zlib.decompressobj(wbits=31)
    found = bytearray()
    for piece in pieces:
        rest = piece
        while rest and not unpacker.eof and len(found) < MAX_READ_BYTES:
            found += unpacker.decompress(rest, MAX_READ_BYTES - len(found))
            rest = unpacker.unconsumed_tail
        if unpacker.eof or len(found) >= MAX_READ_BYTES:
            break
    return bytes(found), unpacker.eof and not unpacker.unused_data


def _decode(data: bytes) -> str | None:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    if b"\0" in data[:65536]:
        return None
    text = data.decode("utf-8", "replace")
    strange = text.count("\ufffd")
    return None if strange > 16 and strange > len(text) // 10 else text.removeprefix("\ufeff")


def _json_lines(text: str, whole: bool) -> Iterable[Row]:
    lines = text.split("\n")
    if not whole:
        lines.pop()  # the last line may be half a line
    decoder = msgspec.json.Decoder(Row)
    for line in lines:
        if line.strip():
            yield decoder.decode(line)


def _rows(format: str, rows: Iterable[Row], whole: bool) -> Look:
    kept: list[Row] = []
    more = not whole
    for row in rows:
        if len(kept) == MAX_ROWS:
            more = True
            break
        kept.append(row)
    names = list(dict.fromkeys(name for row in kept for name in row))
    kinds: dict[str, set[str]] = {}
    for row in kept:
        for name, raw in row.items():
            kind = _kind(bytes(raw))
            if kind:
                kinds.setdefault(name, set()).add(kind)
    shown = names[:MAX_COLUMNS]
    filled, cut = fill_rows([[_raw_cell(row.get(name)) for name in shown] for row in kept])
    columns = [Column(_clip(name), _one(kinds.get(name, set()))) for name in shown]
    return Look("table", format, columns, filled, more=more or cut or len(shown) < len(names))


def _kind(raw: bytes) -> str:
    first = raw.lstrip()[:1]
    if first in (b"", b"n"):
        return ""
    return "text" if first == b'"' else _KINDS.get(first[0], "number")


def _one(kinds: set[str]) -> str:
    return kinds.pop() if len(kinds) == 1 else "mixed" if kinds else ""


def _raw_cell(raw: msgspec.Raw | None) -> Cell:
    data = b"" if raw is None else bytes(raw).strip()
    if data in (b"", b"null"):
        return None
    if data.startswith(b'"'):
        return _clip(msgspec.json.decode(data, type=str))
    return _clip(data[: 4 * MAX_CELL].decode("utf-8", "replace"))


def _csv_rows(format: str, text: str, whole: bool) -> Look:
    head = text[:20_000].partition("\n")[0]
    delimiter = "\t" if format == "tsv" else max(",;\t|", key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=False)
    found: list[list[str]] = []
    for row in reader:
        found.append(row)
        if len(found) > MAX_ROWS + 2:
            break
    else:
        if not whole and len(found) > 1:
            found.pop()  # the last record may be half a record
    if not found:
        return Look("table", format, [], [], more=not whole)
    names, *rows = found
    rows = [row for row in rows if row]
    width = min(max(len(names), *(len(row) for row in rows), 0) if rows else len(names), MAX_COLUMNS)
    columns = [Column(_clip(names[i]) if i < len(names) else "", "") for i in range(width)]
    cells = [[_clip(row[i]) if i < len(row) else None for i in range(width)] for row in rows]
    filled, cut = fill_rows(cells)
    return Look("table", format, columns, filled, more=cut or not whole or width < len(names))


def _clip(text: str) -> str:
    return text if len(text) <= MAX_CELL else text[:MAX_CELL] + CUT


def _clip_text(text: str) -> tuple[str, bool]:
    return text[:MAX_CHARACTERS], len(text) > MAX_CHARACTERS
