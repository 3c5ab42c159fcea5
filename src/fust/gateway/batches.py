"""`/v1/batches`: rows, what may be done with them, and their input; `batch_runner` works on them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import select, update

from fust.accounts.models import User
from fust.accounts.rights import Asked, Identity
from fust.core.clock import utc_naive
from fust.core.errors import Conflict, FustError, InvalidInput, NotFound, RateLimited
from fust.core.ids import new_id
from fust.gateway.files import Files, stamp
from fust.gateway.models import BatchRow, FileRow
from fust.gateway.owned import find_own, is_own, user_id_of
from fust.store.database import Database
from fust.wire.batches import BatchLine, BatchRequest, ExpiresAfter
from fust.wire.body import decode_request

WINDOW = timedelta(hours=24)
MOST_LINES = 50_000
MOST_OPEN = 100
"""Batches of one user that have not ended."""
OPEN = ("validating", "in_progress", "finalizing", "cancelling")
_MOST_ERRORS = 100
_LINE = msgspec.json.Decoder(BatchLine)


class Batches:
    """The batches of one home."""

    def __init__(self, database: Database, files: Files) -> None:
        self._database = database
        self.files = files

    def create(self, identity: Identity, request: BatchRequest) -> BatchRow:
        """Queues a batch.

        Raises:
            InvalidInput: the input is no file of the caller's, or not one for batches.
            RateLimited: too many batches of the caller's have not ended.
        """
        try:
            file = self.files.get(identity, request.input_file_id)
        except NotFound as error:
            raise InvalidInput(
                error.template,
                hint=error.hint_template,
                param="input_file_id",
                id=request.input_file_id[:100],
            ) from None
        if file.purpose != "batch":
            raise InvalidInput(
                "{param} has a value that is not allowed: {reason}.",
                param="input_file_id",
                reason="a file of purpose batch is wanted",
            )
        kept = request.output_expires_after
        with self._database.write() as session:
            mine = select(BatchRow.id).where(is_own(BatchRow, session, identity), BatchRow.state.in_(OPEN))
            if len(session.scalars(mine.limit(MOST_OPEN)).all()) == MOST_OPEN:
                raise RateLimited(
                    "{limit} of your batches have not ended.",
                    hint="Wait until one has.",
                    limit=MOST_OPEN,
                    retry_after_s=60,
                )
            row = BatchRow(
                id=new_id("batch_"),
                user_id=user_id_of(session, identity),
                token_id=identity.token_id,
                asked=msgspec.to_builtins(Asked.of(identity)),
                endpoint=request.endpoint,
                state="validating",
                input_file_id=file.id,
                output_file_id=new_id("file-"),
                error_file_id=new_id("file-"),
                kept_s=kept.seconds if isinstance(kept, ExpiresAfter) else None,
                labels=request.metadata or {},
            )
            session.add(row)
        return row

    def get(self, identity: Identity, batch_id: str) -> BatchRow:
        """Returns a batch of the caller's.

        Raises:
            NotFound: the caller has none of that id.
        """
        with self._database.read() as session:
            row = find_own(BatchRow, session, identity, batch_id)
        if row is None:
            raise NotFound(
                "There is no batch {id!r}.", hint="GET /v1/batches lists yours.", id=batch_id[:100]
            )
        return row

    def list_batches(self, identity: Identity, limit: int, after: str | None) -> list[BatchRow]:
        """Returns batches of the caller's, the newest first, one more than ``limit`` when there are more."""
        with self._database.read() as session:
            query = select(BatchRow).where(is_own(BatchRow, session, identity))
            if after:
                query = query.where(BatchRow.id < after)
            return list(session.scalars(query.order_by(BatchRow.id.desc()).limit(limit + 1)))

    def cancel(self, identity: Identity, batch_id: str) -> BatchRow:
        """Asks for the end of a batch; what is answered by then stays.

        Raises:
            NotFound: the caller has none of that id.
            Conflict: it has ended already.
        """
        row = self.get(identity, batch_id)
        if row.state not in OPEN:
            raise Conflict("The batch {id} has ended already ({state}).", id=batch_id, state=row.state)
        self.change(row.id, only=("validating", "in_progress"), state="cancelling", cancelling_at=utc_naive())
        return self.get(identity, batch_id)

    # For the runner

    def next_open(self) -> tuple[BatchRow, str] | None:
        """Returns the batch that has waited longest, and its user's name."""
        with self._database.read() as session:
            query = select(BatchRow, User.name).join(User, User.id == BatchRow.user_id)
            found = session.execute(
                query.where(BatchRow.state.in_(OPEN)).order_by(BatchRow.created_at).limit(1)
            ).first()
        return (found[0], found[1]) if found else None

    def state_of(self, batch_id: str) -> str:
        """Returns where a batch stands; `cancelled` when its user is gone."""
        with self._database.read() as session:
            return session.scalar(select(BatchRow.state).where(BatchRow.id == batch_id)) or "cancelled"

    def change(self, batch_id: str, *, only: tuple[str, ...] = OPEN, **values: Any) -> None:
        """Changes a row when its state is one of ``only``."""
        with self._database.write() as session:
            session.execute(
                update(BatchRow).where(BatchRow.id == batch_id, BatchRow.state.in_(only)).values(**values)
            )

    def end(self, row: BatchRow, state: str, **values: Any) -> None:
        """Ends a batch: its files, as far as they hold anything, and its state become known together."""
        with self._database.write() as session:
            for file_id, name in ((row.output_file_id, "output"), (row.error_file_id, "errors")):
                path = self.files.path(file_id)
                if not path.exists() or session.get(FileRow, file_id) is not None:
                    continue
                moment = utc_naive()
                session.add(
                    FileRow(
                        id=file_id,
                        user_id=row.user_id,
                        token_id=row.token_id,
                        filename=f"{row.id}_{name}.jsonl",
                        purpose="batch_output",
                        size_bytes=path.stat().st_size,
                        created_at=moment,
                        expires_at=moment + timedelta(seconds=row.kept_s) if row.kept_s else None,
                    )
                )
            session.execute(
                update(BatchRow)
                .where(BatchRow.id == row.id, BatchRow.state.in_(OPEN))
                .values(state=state, ended_at=utc_naive(), **values)
            )


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yields the number and the bytes of each line that holds something."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line


def check_input(path: Path, endpoint: str) -> tuple[int, list[dict[str, Any]]]:
    """Returns how many requests an input holds, and what is wrong with it, as the API tells."""
    seen: set[str] = set()
    errors: list[dict[str, Any]] = []
    count = 0

    def fault(code: str, message: str, line: int | None, param: str | None = None) -> None:
        errors.append({"code": code, "message": message, "line": line, "param": param})

    try:
        for number, raw in read_lines(path):
            count += 1
            if count > MOST_LINES:
                fault("too_many_requests", f"The input holds more than {MOST_LINES} lines.", None)
            if len(errors) >= _MOST_ERRORS or count > MOST_LINES:
                break
            try:
                line = decode_request(_LINE, raw)
            except FustError as error:
                param = error.params.get("param")
                fault("invalid_json_line", str(error), number, param if isinstance(param, str) else None)
                continue
            if line.url != endpoint:
                fault("mismatched_url", f"The url is not the batch's endpoint, {endpoint}.", number, "url")
            if line.custom_id in seen:
                fault("duplicate_custom_id", "The custom_id was used before.", number, "custom_id")
            seen.add(line.custom_id)
    except FileNotFoundError:
        fault("input_file_missing", "The input file was deleted.", None, "input_file_id")
    if not count and not errors:
        fault("empty_file", "The input holds no request.", None)
    return count, errors


def draw_batch(row: BatchRow) -> dict[str, Any]:
    """Returns a batch as the API shows it."""
    ended, state = stamp(row.ended_at), row.state
    closed = state not in OPEN
    return {
        "id": row.id,
        "object": "batch",
        "endpoint": row.endpoint,
        "errors": {"object": "list", **row.errors} if row.errors else None,
        "input_file_id": row.input_file_id,
        "completion_window": "24h",
        "status": state,
        "output_file_id": row.output_file_id if closed and row.completed else None,
        "error_file_id": row.error_file_id if closed and row.failed else None,
        "created_at": stamp(row.created_at),
        "in_progress_at": stamp(row.begun_at),
        "expires_at": stamp(row.created_at + WINDOW),
        "finalizing_at": ended if state == "completed" else None,
        "completed_at": ended if state == "completed" else None,
        "failed_at": ended if state == "failed" else None,
        "expired_at": ended if state == "expired" else None,
        "cancelling_at": stamp(row.cancelling_at),
        "cancelled_at": ended if state == "cancelled" else None,
        "request_counts": {"total": row.total, "completed": row.completed, "failed": row.failed},
        "metadata": row.labels or None,
    }
