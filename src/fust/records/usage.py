"""Usage rows, written in batches off the request path: a request only puts its row into a queue."""

from __future__ import annotations

import logging
import queue
import threading
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import select

from fust.core.errors import FustError
from fust.records.models import UsageRow
from fust.store.database import Database

log = logging.getLogger(__name__)

_BATCH = 200
_EVERY_S = 1.0
_KEPT = 100_000
_CHUNK = 500


@dataclass(slots=True)
class Usage:
    """What one request took; fields as in `UsageRow`."""

    id: str
    created_at: datetime
    endpoint: str
    model: str
    request_id: str = ""
    user_name: str = ""
    token_id: str | None = None
    deployment_id: str = ""
    repo_id: str = ""
    revision: str = ""
    stream: bool = False
    status: int = 200
    error_code: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False
    ttft_ms: float | None = None
    duration_ms: float = 0.0


class UsageWriter:
    """Takes usage from the gateway and writes it on a thread of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queue: queue.SimpleQueue[Usage | None] = queue.SimpleQueue()
        self._waiting: list[Usage] = []
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins to write."""
        self._thread = threading.Thread(target=self._run, name="fust-usage", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Writes what waits, then ends."""
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join(timeout=30)

    def add(self, usage: Usage) -> None:
        """Takes a row; never blocks."""
        self._queue.put(usage)

    def has_any(self, user_name: str) -> bool:
        """Returns whether the user had an answer from a model before."""
        with self._database.read() as session:
            query = (
                select(UsageRow.id).where(UsageRow.user_name == user_name, UsageRow.status == 200).limit(1)
            )
            return session.scalars(query).first() is not None

    def _run(self) -> None:
        running = True
        while running:
            running = self._collect()
            if not self._waiting:
                continue
            try:
                self._write(self._waiting)
                self._waiting = []
            except FustError as error:
                # Kept and tried again with the next batch: a locked or full database must not lose counts at once.
                log.warning(
                    "usage was not written; trying again",
                    extra={"rows": len(self._waiting), "reason": str(error)},
                )
                self._waiting = self._waiting[-_KEPT:]
            except Exception:
                log.exception("usage could not be written")
                self._waiting = self._waiting[-_KEPT:]

    def _collect(self) -> bool:
        """Moves rows from the queue, for up to a second after the first; returns False when asked to end."""
        timeout: float | None = None if not self._waiting else _EVERY_S
        fresh = 0
        while fresh < _BATCH:
            try:
                item = self._queue.get(timeout=timeout)
            except queue.Empty:
                return True
            if item is None:
                while not self._queue.empty():
                    left = self._queue.get_nowait()
                    if left is not None:
                        self._waiting.append(left)
                return False
            self._waiting.append(item)
            fresh += 1
            timeout = _EVERY_S
        return True

    def _write(self, rows: list[Usage]) -> None:
        for start in range(0, len(rows), _CHUNK):
            chunk = {row.id: row for row in rows[start : start + _CHUNK]}
            with self._database.write() as session:
                known = set(session.scalars(select(UsageRow.id).where(UsageRow.id.in_(list(chunk)))))
                session.add_all(UsageRow(**asdict(row)) for id_, row in chunk.items() if id_ not in known)
