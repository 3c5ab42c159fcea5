"""Events written in the transaction of the change they tell of, delivered at least once after it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Mapped, Session, mapped_column

from fust.core.clock import now
from fust.store.database import EVENT, Base, Database

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 100
"""At about one a second: a full disk or a locked database is waited out, an event that nobody can bear is not."""
_GATHER_S = 0.02
"""Events come in bursts: so many are told in one go."""
Subscriber = Callable[[dict[str, Any]], None]


class OutboxRow(Base):
    """An event that waits for, or has had, its delivery."""

    __tablename__ = "outbox"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    name: Mapped[str]
    body: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    delivered_at: Mapped[datetime | None] = mapped_column(default=None, index=True)
    attempts: Mapped[int] = mapped_column(default=0)


def emit(session: Session, name: str, **body: object) -> None:
    """Adds an event to the transaction: ``revision_created``, ``repo_deleted``, ``run_finished`` and so on."""
    session.info[EVENT] = True
    session.add(OutboxRow(name=name, body=msgspec.to_builtins(body), created_at=now().replace(tzinfo=None)))


class Outbox:
    """Delivers events to subscribers, in order, on one thread."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._subscribers: dict[str, list[Subscriber]] = {}
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        database.on_event = self._wake.set

    def subscribe(self, name: str, subscriber: Subscriber) -> None:
        """Calls ``subscriber(body)`` for every event of that name; it must bear being called twice.

        ``body["event_id"]`` is the same each time; ``body["event_at"]`` is when it happened, a naive UTC datetime.
        """
        self._subscribers.setdefault(name, []).append(subscriber)

    def start(self) -> None:
        """Begins to deliver."""
        self._thread = threading.Thread(target=self._run, name="fust-outbox", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Looks for events now, not at the next second."""
        self._wake.set()

    def stop(self) -> None:
        """Ends delivery after the event at hand."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stopping:
            try:
                delivered = self.deliver_once()
            except Exception:
                log.exception("events could not be delivered; trying again")
                delivered = 0
            if not delivered:
                self._wake.wait(timeout=1.0)
                self._wake.clear()
                time.sleep(_GATHER_S)

    def deliver_once(self) -> int:
        """Delivers what waits; returns how many events are done with."""
        with self._database.read() as session:
            query = select(OutboxRow).where(OutboxRow.delivered_at.is_(None)).order_by(OutboxRow.id).limit(50)
            rows = list(session.scalars(query))
        if not rows:
            return 0
        borne = {row.id for row in rows if self._deliver(row)}
        with self._database.write() as session:
            for row in rows:
                fresh = session.get(OutboxRow, row.id)
                if fresh is not None:
                    fresh.attempts += 1
                    if row.id in borne or fresh.attempts >= MAX_ATTEMPTS:
                        fresh.delivered_at = now().replace(tzinfo=None)
        return len(borne)

    def _deliver(self, row: OutboxRow) -> bool:
        """Tells an event to its subscribers; returns whether all of them bore it."""
        borne = True
        for subscriber in self._subscribers.get(row.name, []):
            try:
                subscriber({**row.body, "event_id": row.id, "event_at": row.created_at})
            except Exception:
                borne = False
                log.exception("a subscriber failed", extra={"event": row.name, "event_id": row.id})
        return borne
