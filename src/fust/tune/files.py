"""Rows out of files: JSONL, JSON, CSV, TSV, Parquet and plain text, each row by itself, so that one bad row costs one row."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast

import msgspec

from fust.core.errors import InvalidInput, NotOffered
from fust.core.extras import install_command

MAX_ROW_BYTES = 16 * 2**20
"""A row that is larger is not even parsed; none so long would fit a context."""
MAX_JSON_BYTES = 2**30
"""Of a file that is one JSON array, which is read as a whole."""
ENDINGS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".txt": "text",
    ".md": "text",
}
_HELD_OUT = ("test", "validation", "valid", "val", "dev", "eval", "heldout", "held-out", "held_out")
_NOT_DATA = (
    "readme.md",
    "license.txt",
    "licence.txt",
    "license.md",
    "dataset_info.json",
    "dataset_infos.json",
)
Part = Literal["train", "held_out"]


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file of rows: its name in the data set, where its bytes are, and whether its name says held out."""

    name: str
    path: Path

    @property
    def part(self) -> Part | None:
        """Returns `held_out` for `test.jsonl`, `validation-00000.parquet`, `eval/…`; `train` for names that say so."""
        words = [piece.lower() for piece in PurePosixPath(self.name).with_suffix("").parts]
        first = [word.replace("_", "-").split("-")[0] for word in words]
        if any(word in _HELD_OUT for word in (*words, *first)):
            return "held_out"
        return "train" if any(word == "train" for word in first) else None


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row as the file has it: ``values``, or the code of what is wrong with it."""

    file: str
    number: int
    """From 1: the line of JSONL and text, else the count of the row."""
    values: dict[str, Any]
    wrong: str = ""


def is_data(name: str) -> bool:
    """Returns whether a file of a data set holds rows, by its name."""
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") for part in path.parts)
    return path.suffix.lower() in ENDINGS and path.name.lower() not in _NOT_DATA and not hidden


def choose_files(files: Iterable[DataFile]) -> list[DataFile]:
    """Returns the files to read: prose beside tables (a card, notes) is no data.

    Raises:
        InvalidInput: none of them holds rows.

    """
    found = [file for file in files if is_data(file.name)]
    tables = [file for file in found if ENDINGS[PurePosixPath(file.name).suffix.lower()] != "text"]
    chosen = sorted(tables or found, key=lambda file: file.name)
    if not chosen:
        raise InvalidInput(
            "The data holds no file of rows.",
            hint="Give files that end in .jsonl, .json, .csv, .tsv, .parquet or .txt.",
        )
    return chosen


def iter_rows(file: DataFile) -> Iterator[RawRow]:
    """Yields every row of a file, the unreadable ones with what is wrong with them.

    Raises:
        InvalidInput: the file as a whole cannot be read.
        NotOffered: Parquet, and no reader for it is installed.

    """
    kind = ENDINGS[PurePosixPath(file.name).suffix.lower()]
    if kind == "jsonl":
        yield from _lines(file)
    elif kind == "json":
        yield from _array(file)
    elif kind == "parquet":
        yield from _parquet(file)
    elif kind == "text":
        yield _whole_text(file)
    else:
        yield from _table(file, "\t" if kind == "tsv" else ",")


def _lines(file: DataFile) -> Iterator[RawRow]:
    with file.path.open("rb") as stream:
        number = 0
        while line := stream.readline(MAX_ROW_BYTES + 1):
            number += 1
            if len(line) > MAX_ROW_BYTES:
                while line and not line.endswith(b"\n"):
                    line = stream.readline(MAX_ROW_BYTES)
                yield RawRow(file.name, number, {}, "too_large")
            elif line.strip():
                yield _parse(file.name, number, line)


def _parse(name: str, number: int, line: bytes) -> RawRow:
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError:
        return RawRow(name, number, {}, "not_utf8")
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return RawRow(name, number, {}, "not_json")
    return _object(name, number, value)


def _object(name: str, number: int, value: object) -> RawRow:
    if isinstance(value, str):
        return RawRow(name, number, {"text": value})
    if not isinstance(value, dict):
        return RawRow(name, number, {}, "not_object")
    try:
        msgspec.json.encode(value)
    except (
        UnicodeEncodeError
    ):  # half of a character, escaped (\ud83d): wherever it is, it cannot be written again
        return RawRow(name, number, {}, "not_utf8")
    return RawRow(name, number, cast("dict[str, Any]", value))


def _array(file: DataFile) -> Iterator[RawRow]:
    if file.path.stat().st_size > MAX_JSON_BYTES:
        raise InvalidInput(
            "{file} is one JSON array of more than 1 GiB.",
            hint="Write it as JSONL, one row a line.",
            file=file.name,
        )
    data = file.path.read_bytes()
    try:
        value: object = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        # Many files called .json hold a row on each line.
        yield from _lines(file)
        return
    rows = cast("list[object]", value) if isinstance(value, list) else [value]
    for number, row in enumerate(rows, 1):
        yield _object(file.name, number, row)


def _table(file: DataFile, delimiter: str) -> Iterator[RawRow]:
    csv.field_size_limit(MAX_ROW_BYTES)
    # Bytes that are no UTF-8 become lone surrogates, which the row is then refused for, and not the file.
    with file.path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        head = stream.readline(MAX_ROW_BYTES)
        # Where the comma is for decimals, tables are written with semicolons.
        delimiter = ";" if delimiter == "," and ";" in head and "," not in head else delimiter
        stream.seek(0)
        reader = csv.DictReader(stream, delimiter=delimiter)
        number = 0
        while True:
            number += 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error:
                yield RawRow(file.name, number, {}, "not_csv")
                continue
            values = {key: value for key, value in row.items() if isinstance(key, str) and value is not None}
            if None in row:
                yield RawRow(file.name, number, {}, "not_csv")
            elif any("\udc80" <= c <= "\udcff" for cell in (*values, *values.values()) for c in cell):
                yield RawRow(file.name, number, {}, "not_utf8")
            else:
                yield RawRow(file.name, number, dict(values))


def _parquet(file: DataFile) -> Iterator[RawRow]:
    try:
        import importlib

        arrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise NotOffered(
            "Reading Parquet needs pyarrow, which is not installed.",
            hint="Install it: {command}",
            command=install_command("data"),
        ) from None
    number = 0
    try:
        with parquet.ParquetFile(file.path) as opened:
            for batch in opened.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    number += 1
                    yield RawRow(file.name, number, {name: _without_nulls(value) for name, value in row.items()})  # fmt: skip
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise InvalidInput(
            "{file} cannot be read as Parquet ({reason}).",
            hint="Write it again, or give the rows as JSONL.",
            file=file.name,
            reason=str(error)[:200],
        ) from None


def _without_nulls(value: Any) -> Any:
    """Returns a cell without fields that are null: each object of a column has the fields of all others."""
    if isinstance(value, list):
        return [_without_nulls(entry) for entry in cast("list[Any]", value)]
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return {key: _without_nulls(entry) for key, entry in fields.items() if entry is not None}
    return value


def _whole_text(file: DataFile) -> RawRow:
    if file.path.stat().st_size > MAX_JSON_BYTES:
        return RawRow(file.name, 1, {}, "too_large")
    try:
        return RawRow(file.name, 1, {"text": file.path.read_bytes().decode("utf-8-sig")})
    except UnicodeDecodeError:
        return RawRow(file.name, 1, {}, "not_utf8")
