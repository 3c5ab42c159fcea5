"""The database: one schema for SQLite (laptop) and PostgreSQL (cluster)."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Generator
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, DateTime, Engine, create_engine, event
from sqlalchemy.exc import OperationalError, StatementError
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

from fust.core.errors import InvalidInput, StorageFull, Unavailable

_LAST = "fust.at_end"
EVENT = "fust.event"
"""Set in the ``info`` of a session whose transaction leaves an event."""


class Base(DeclarativeBase):
    """Parent of every table; each package declares its own in ``models.py``."""

    type_annotation_map = {datetime: DateTime(timezone=False), dict[str, Any]: JSON, list[str]: JSON}  # noqa: RUF012


class Database:
    """Opens transactions. Threads may share it; a transaction belongs to one thread."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.is_sqlite = url.startswith("sqlite")
        options: dict[str, Any] = {}
        if self.is_sqlite:
            options["connect_args"] = {"timeout": 30, "check_same_thread": False}
        else:
            options.update(pool_size=16, max_overflow=16, pool_pre_ping=True)
        self.engine: Engine = create_engine(url, **options)
        if self.is_sqlite:
            event.listen(self.engine, "connect", _on_sqlite_connect)
            event.listen(self.engine, "begin", _on_sqlite_begin)
        self.on_event: Callable[[], None] = lambda: None
        """Called after a transaction that left an event; set by the outbox."""
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)

    @contextlib.contextmanager
    def write(self) -> Generator[Session]:
        """A transaction that is committed when the block ends well, and durable by then (`synchronous=FULL`).

        Raises:
            StorageFull: the disk of the database is full; nothing of the block was kept.
            Unavailable: the database stayed locked, is read-only or does not answer.

        """
        session = self._sessions()
        session.info["write"] = True
        try:
            with errors_are_clear():
                if self.is_sqlite:
                    session.connection(execution_options={"fust_immediate": True})
                yield session
                for finish in session.info.pop(_LAST, ()):
                    finish(session)
                session.commit()
            if session.info.pop(EVENT, False):
                self.on_event()
        except BaseException:
            session.rollback()
            raise
        finally:
            session.close()

    @contextlib.contextmanager
    def read(self) -> Generator[Session]:
        """A transaction for looking; nothing is kept of it."""
        session = self._sessions()
        try:
            with errors_are_clear():
                yield session
        finally:
            session.close()  # lets go of the rows before it rolls back, so that they stay readable

    def close(self) -> None:
        """Closes all connections."""
        self.engine.dispose()


def at_end(session: Session, finish: Callable[[Session], None]) -> None:
    """Calls ``finish`` as the last thing of a write transaction, when its block ended well: for what takes a lock that
    all writers want, and therefore must be held as short as possible.
    """
    session.info.setdefault(_LAST, []).append(finish)


@contextlib.contextmanager
def errors_are_clear() -> Generator[None]:
    """Turns the database's own words for a full disk, a lock, a lost connection or a NUL into ours."""
    try:
        yield
    except OperationalError as error:
        words = str(error.orig).lower()
        if "disk is full" in words or "no space left" in words or "disk i/o error" in words:
            raise StorageFull(
                "The disk of the database is full; nothing of this change was kept.",
                hint="Free some room (`fust doctor` shows where it went) and try again.",
            ) from error
        if "locked" in words or "readonly" in words or "read-only" in words:
            raise Unavailable(
                "The database cannot be written now ({words}).",
                hint="Check the rights of the home and that no other program holds it, then try again.",
                words=words,
                retry_after_s=1,
            ) from error
        if error.connection_invalidated or "connection failed" in words:
            raise Unavailable(
                "The database does not answer.",
                hint="Check that PostgreSQL runs and that store.database_url leads to it, then try again.",
                retry_after_s=2,
            ) from error
        raise
    except StatementError as error:
        # PostgreSQL keeps no NUL in a text (postgresql.org/docs, 8.3) and SQLite does: both refuse the request alike
        # where a text has rules of its own; this is for those that have none.
        if "NUL" in str(error.orig):
            raise InvalidInput(
                "A text of this request holds the character NUL, which cannot be kept.",
                hint="Leave it out.",
            ) from error
        raise


def _on_sqlite_connect(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # we begin ourselves, so that a write takes its lock at once
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "busy_timeout=30000",
        "cache_size=-4000",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _on_sqlite_begin(connection: Any) -> None:
    immediate = connection.get_execution_options().get("fust_immediate")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def sqlite_path(url: str) -> Path | None:
    """Returns the file of a SQLite URL, or None for another database."""
    return Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None


def protect_file(url: str) -> None:
    """Creates a SQLite file readable by its owner only, when it is not there yet."""
    path = sqlite_path(url)
    if path is not None and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
