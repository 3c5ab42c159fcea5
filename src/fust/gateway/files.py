"""`/v1/files`: batches and what they write, and images that requests name. Each user's own; bytes in `files/` of the home.

Anthropic's form of a file: https://platform.claude.com/docs/en/api/beta/files.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, cast

from multipart import (  # pyright: ignore[reportMissingTypeStubs]
    MultipartError,
    MultipartSegment,
    PushMultipartParser,
    parse_options_header,  # pyright: ignore[reportUnknownVariableType]
)
from sqlalchemy import delete, func, select

from fust.accounts.rights import Identity
from fust.core.clock import iso, utc_naive
from fust.core.errors import InvalidInput, NotFound, StorageFull, TooLarge, Unsupported
from fust.core.files import atomic_file
from fust.core.ids import new_id
from fust.core.settings import GatewaySettings
from fust.core.units import show_size
from fust.gateway.image_header import read_size
from fust.gateway.models import BatchRow, FileRow
from fust.gateway.owned import find_own, is_own, user_id_of
from fust.store.database import Database

PURPOSES = ("assistants", "batch", "evals", "fine-tune", "user_data", "vision")
_OFFERED = ("batch", "user_data", "vision")
"""A file of the last two is an image that a request names by its id."""
_MOST_FILES = 10
"""How many of the largest files one user's files may take together."""
_FIELD_BYTES = 4096
_HEAD_BYTES = 256 * 1024
"""Of an image, in which its size stands."""
_LEFTOVER_S = 3600.0
_LAST_STATES = ("completed", "failed", "cancelled", "expired")


class Files:
    """The files of one home."""

    def __init__(self, database: Database, home: Path, settings: GatewaySettings) -> None:
        self._database = database
        self.folder = home / "files"
        self._most_bytes = settings.max_file_bytes

    def path(self, file_id: str) -> Path:
        """Returns where the bytes of a file are."""
        return self.folder / file_id

    def check_room(self, identity: Identity) -> None:
        """Raises StorageFull when the caller's files take all that one user's may."""
        with self._database.read() as session:
            query = select(func.coalesce(func.sum(FileRow.size_bytes), 0)).where(
                is_own(FileRow, session, identity)
            )
            taken = int(session.scalar(query) or 0)
        if taken >= self._most_bytes * _MOST_FILES:
            raise StorageFull(
                "Your files take {size}, which is all that one user's may.",
                hint="Delete some: DELETE /v1/files/{{id}}.",
                size=show_size(taken),
            )

    def add(
        self, identity: Identity, file_id: str, filename: str, purpose: str, kept_s: int | None
    ) -> FileRow:
        """Makes a file known whose bytes are in place."""
        size = self.path(file_id).stat().st_size
        moment = utc_naive()
        with self._database.write() as session:
            row = FileRow(
                id=file_id,
                user_id=user_id_of(session, identity),
                token_id=identity.token_id,
                filename=filename,
                purpose=purpose,
                size_bytes=size,
                created_at=moment,
                expires_at=moment + timedelta(seconds=kept_s) if kept_s else None,
            )
            session.add(row)
        return row

    def get(self, identity: Identity, file_id: str) -> FileRow:
        """Returns a file of the caller's.

        Raises:
            NotFound: the caller has none of that id, or it has expired.
        """
        with self._database.read() as session:
            row = find_own(FileRow, session, identity, file_id)
        if row is None or (row.expires_at is not None and row.expires_at < utc_naive()):
            raise NotFound("There is no file {id!r}.", hint="GET /v1/files lists yours.", id=file_id[:100])
        return row

    def list_files(
        self,
        identity: Identity,
        purpose: str | None,
        limit: int,
        after: str | None,
        *,
        oldest_first: bool = False,
    ) -> list[FileRow]:
        """Returns files of the caller's, one more than ``limit`` when there are more."""
        with self._database.read() as session:
            query = select(FileRow).where(is_own(FileRow, session, identity))
            query = query.where((FileRow.expires_at.is_(None)) | (FileRow.expires_at > utc_naive()))
            if purpose:
                query = query.where(FileRow.purpose == purpose)
            if after:
                query = query.where(FileRow.id > after if oldest_first else FileRow.id < after)
            order = FileRow.id.asc() if oldest_first else FileRow.id.desc()
            return list(session.scalars(query.order_by(order).limit(limit + 1)))

    def delete(self, identity: Identity, file_id: str) -> None:
        """Deletes a file of the caller's.

        Raises:
            NotFound: the caller has none of that id.
        """
        row = self.get(identity, file_id)
        with self._database.write() as session:
            session.execute(delete(FileRow).where(FileRow.id == row.id))
        self.path(row.id).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Removes files that have expired, and bytes that no row names: of users who are gone, of broken uploads."""
        if not self.folder.is_dir():
            return
        with self._database.write() as session:
            session.execute(delete(FileRow).where(FileRow.expires_at < utc_naive()))
            named = set(session.scalars(select(FileRow.id)))
            open_batches = select(BatchRow.output_file_id, BatchRow.error_file_id).where(
                BatchRow.state.not_in(_LAST_STATES)
            )
            for ids in session.execute(open_batches):
                named.update(ids)
        old = time.time() - _LEFTOVER_S
        for path in self.folder.iterdir():
            if path.name not in named and path.stat().st_mtime < old:
                path.unlink(missing_ok=True)

    @contextlib.asynccontextmanager
    async def receive(
        self, pieces: AsyncIterator[bytes], content_type: str, identity: Identity
    ) -> AsyncGenerator[Upload]:
        """Takes an upload (RFC 7578) into the folder; its file is gone again when the block fails.

        Raises:
            InvalidInput, Unsupported: not a form, a field that is missing or not known, another purpose.
            TooLarge: the file is larger than one may be.
        """
        kind, options = cast("tuple[str, dict[str, str]]", parse_options_header(content_type))
        if kind != "multipart/form-data" or "boundary" not in options:
            raise InvalidInput("A file is uploaded as multipart/form-data.", code="invalid_form")
        upload = Upload(new_id("file-"), self._most_bytes)
        path = self.path(upload.id)
        try:
            with contextlib.ExitStack() as stack:
                file = stack.enter_context(atomic_file(path, mode=0o600))
                await upload.take(pieces, options["boundary"], file)
                # What waits for the disk waits in a thread.
                await asyncio.get_running_loop().run_in_executor(None, stack.pop_all().close)
            yield upload
        except BaseException:
            path.unlink(missing_ok=True)
            raise


class Upload:
    """One upload while it is read."""

    def __init__(self, file_id: str, most_bytes: int) -> None:
        self.id = file_id
        self.filename = ""
        self.fields: dict[str, str] = {}
        self._most_bytes = most_bytes
        self._left = most_bytes

    async def take(self, pieces: AsyncIterator[bytes], boundary: str, file: BinaryIO) -> None:
        """Reads the form: the file goes into ``file``, the fields into ``fields``."""
        segment: MultipartSegment | None = None
        value = b""
        try:
            with PushMultipartParser(boundary, max_segment_count=16) as parser:
                async for piece in pieces:
                    for part in parser.parse(piece):
                        if isinstance(part, MultipartSegment):
                            segment, value = part, b""
                            self._begin(part)
                        elif part is None:
                            if segment is not None and segment.name and segment.name != "file":
                                self.fields[segment.name] = value.decode("utf-8", "replace")
                        elif segment is not None and segment.name == "file":
                            self._write(file, bytes(part))
                        else:
                            value = (value + bytes(part))[:_FIELD_BYTES]
        except MultipartError as error:
            raise InvalidInput(
                "The form is not valid: {reason}.", reason=error, code="invalid_form"
            ) from None
        if not self.filename:
            raise InvalidInput("The parameter {param!r} is missing.", param="file")

    def _begin(self, part: MultipartSegment) -> None:
        if part.name == "file":
            if self.filename:
                raise InvalidInput("The form holds two files.", param="file")
            self.filename = (part.filename or "upload")[:300]

    def _write(self, file: BinaryIO, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            raise TooLarge(
                "The file is larger than {limit}.",
                hint="Cut it in pieces.",
                limit=show_size(self._most_bytes),
            )
        file.write(data)

    def purpose_and_kept_s(self, *, anthropic: bool = False) -> tuple[str, int | None]:
        """Returns what the file is for, and how long it is kept; None for no end. Anthropic's clients say neither.

        Raises:
            InvalidInput, Unsupported: as above.
        """
        for name in self.fields:
            if name not in ("purpose", "expires_after[anchor]", "expires_after[seconds]"):
                raise InvalidInput(
                    "There is no parameter {param!r}.",
                    hint="Check its spelling, or leave it out.",
                    param=name[:100],
                    code="unknown_parameter",
                )
        purpose = self.fields.get("purpose", "vision" if anthropic else None)
        if purpose is None:
            raise InvalidInput("The parameter {param!r} is missing.", param="purpose")
        if purpose in PURPOSES and purpose not in _OFFERED:
            raise Unsupported(
                "Files are for batches and images here, not for {purpose!r}.",
                hint="Datasets and models go into repos of the hub.",
                purpose=purpose,
                param="purpose",
            )
        if purpose not in _OFFERED:
            raise InvalidInput(
                "{param} has a value that is not allowed: {reason}.",
                param="purpose",
                reason="one of " + ", ".join(_OFFERED),
            )
        seconds = self.fields.get("expires_after[seconds]")
        return purpose, check_kept_s(seconds, "expires_after.seconds") if seconds else None


def check_kept_s(seconds: object, param: str) -> int:
    """Returns how long a file is to be kept: an hour to 30 days, as the vendor has it."""
    text = str(seconds)
    if not text.isdecimal() or not 3600 <= int(text[:9]) <= 2_592_000:
        raise InvalidInput(
            "{param} has a value that is not allowed: {reason}.",
            param=param,
            reason="3600 to 2592000 is wanted",
        )
    return int(text)


def draw_file(row: FileRow) -> dict[str, Any]:
    """Returns a file as the API shows it."""
    return {
        "id": row.id,
        "object": "file",
        "bytes": row.size_bytes,
        "created_at": stamp(row.created_at),
        "expires_at": stamp(row.expires_at),
        "filename": row.filename,
        "purpose": row.purpose,
        "status": "processed",
    }


def draw_anthropic_file(row: FileRow, path: Path) -> dict[str, Any]:
    """Returns the same as Anthropic's API shows it."""
    try:
        with path.open("rb") as file:
            size = read_size(file.read(_HEAD_BYTES))
    except OSError:
        size = None
    return {
        "id": row.id,
        "type": "file",
        "filename": row.filename,
        "mime_type": f"image/{size.kind}" if size else "application/octet-stream",
        "size_bytes": row.size_bytes,
        "created_at": iso(row.created_at.replace(tzinfo=UTC)),
        "downloadable": True,
    }


def stamp(moment: datetime | None) -> int | None:
    """Returns a row's time as seconds since 1970; None stays."""
    return None if moment is None else int(moment.replace(tzinfo=UTC).timestamp())
