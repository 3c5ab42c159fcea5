"""A Fust home: one folder, one server at a time, a schema of a known version that is upgraded whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
from collections.abc import Generator
from pathlib import Path

from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DatabaseError, OperationalError

from fust.core.clock import now
from fust.core.errors import Conflict, FustError, StorageFull
from fust.core.locks import FileLock
from fust.store.copies import CopyFailed, copy_database, copy_suffix, keep_newest
from fust.store.database import Database, protect_file

log = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).parent / "migrations"
_LEAST_FREE_BYTES = 50_000_000
_COPIES_KEPT = 5
RESTORING = "restoring"
"""File that is in a home while a backup is put into it."""


class HomeUnusable(FustError):
    """The home cannot be written."""

    status = 500
    code = "home_unusable"


class NewerHome(Conflict):
    """A newer Fust wrote the home; nothing is touched."""

    code = "newer_home"


class UpgradeFailed(FustError):
    """The schema could not be brought to this version; the home is as it was."""

    status = 500
    code = "upgrade_failed"


class AlreadyRunning(Conflict):
    """Another server holds the home."""

    code = "already_running"


def open_home(home: Path) -> FileLock:
    """Makes the home if needed, proves that it can be written, and takes its lock.

    Raises:
        HomeUnusable: read-only, not a folder, or of someone else.
        StorageFull: less than 50 MB free.
        AlreadyRunning: another server holds it.
    """
    hint = "Choose another with FUST_HOME=/path, or mend the rights of this one."
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = home / f".probe-{os.getpid()}"
        probe.write_bytes(b"fust")
        probe.unlink()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(home) from error
        raise HomeUnusable(
            "The home {home} cannot be written: {reason}.",
            hint=hint,
            home=home,
            reason=error.strerror or error,
        ) from error
    if (home / RESTORING).exists():
        raise HomeUnusable(
            "A restore into {home} was not finished.",
            hint="Run the same `fust restore` again; it goes on where it was.",
            home=home,
        )
    if shutil.disk_usage(home).free < _LEAST_FREE_BYTES:
        raise _full(home)
    lock = FileLock(home / "server.lock")
    if not lock.acquire():
        raise AlreadyRunning(
            "Fust is already running on {home}.",
            hint="`fust open` prints its link; `fust down` ends it.",
            home=home,
        )
    return lock


def _full(home: Path) -> StorageFull:
    return StorageFull(
        "The disk of {home} is full (less than 50 MB free).",
        hint="Free some room and start again; nothing was changed.",
        home=home,
    )


def head_revision() -> str:
    """Returns the newest schema revision that this version knows."""
    return max(path.name[:4] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def schema_revision(database: Database) -> str | None:
    """Returns the revision of the database's schema; None for an empty database."""
    with database.engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def prepare_schema(database: Database, copies: Path | None = None) -> None:
    """Brings the schema to this version's, or refuses.

    Args:
        database: of a home whose lock the caller holds.
        copies: folder for a copy of the database, made before an upgrade changes anything; none: no copy is made.

    Raises:
        NewerHome: the schema is of a version that this one does not know; nothing was changed.
        HomeUnusable: the file is not a database.
        UpgradeFailed, StorageFull: the copy could not be made, or a migration failed; nothing was changed.
    """
    protect_file(database.url)
    try:
        current = schema_revision(database)
    except DatabaseError as error:
        raise HomeUnusable(
            "The database {url} cannot be read: {reason}.",
            hint="Restore it from a backup, or start with another FUST_HOME.",
            url=database.engine.url.render_as_string(hide_password=True),
            reason=str(error.orig),
        ) from error
    head = head_revision()
    if current == head:
        return
    if current is not None and current > head:
        raise NewerHome(
            "This home was written by a newer Fust (schema {current}; this version knows {head}). Nothing was changed.",
            hint="Install that version or a newer one: `git pull && make up`.",
            current=current,
            head=head,
        )
    copy = _copy_before(database, current, copies) if current is not None and copies is not None else None
    try:
        migrate(database)
    except Exception as error:
        if isinstance(error, OperationalError) and "full" in str(error.orig).lower():
            raise StorageFull(
                "The disk is full: the schema was not upgraded from {current} to {head}. Nothing was changed.",
                hint="Free some room and start again.",
                current=current,
                head=head,
            ) from error
        raise UpgradeFailed(
            "The schema could not be upgraded from {current} to {head}: {reason}. Nothing was changed.",
            hint="Go on with the version that you had, and report this; a copy of the database is {copy}.",
            current=current,
            head=head,
            reason=" ".join(str(error).split())[:500],
            copy=copy or "–",
        ) from error
    log.info("schema upgraded", extra={"before": current, "after": head, "copy": str(copy)})


def _copy_before(database: Database, current: str, copies: Path) -> Path:
    """Copies the database as it is before an upgrade, and keeps the newest few such copies."""
    name = f"schema-{current}-{now():%Y%m%dT%H%M%SZ}{copy_suffix(database)}"
    try:
        copy_database(database, copies / name)
    except CopyFailed as error:
        raise UpgradeFailed(
            "The database was not copied, so its schema was not upgraded: {reason}",
            hint="Mend that, or start once with `fust up --no-backup` when you have a copy of your own.",
            reason=error.sentence(),
        ) from error
    keep_newest(copies, f"schema-*{copy_suffix(database)}", _COPIES_KEPT)
    return copies / name


def migrate(database: Database, to: str = "head") -> None:
    """Runs the missing migrations up to a revision, all in one transaction: a failure or a kill leaves the schema as it was."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with database.engine.connect() as connection, _rows_stay(database, connection):
        config.attributes["connection"] = connection
        with contextlib.redirect_stdout(None):
            command.upgrade(config, to)


@contextlib.contextmanager
def _rows_stay(database: Database, connection: Connection) -> Generator[None]:
    """Lets migrations make tables anew on SQLite without losing rows of others.

    Alembic changes a table of SQLite by copying it and dropping the old one, and a drop deletes by ON DELETE CASCADE
    in other tables while foreign keys are enforced. They cannot be switched within a transaction, so they are off for
    all of it and looked at when it is over (sqlite.org/lang_altertable.html, section 7).
    """
    if not database.is_sqlite:
        yield
        return
    raw = connection.connection.driver_connection
    assert raw is not None
    raw.execute("PRAGMA foreign_keys=OFF")
    try:
        yield
    finally:
        raw.execute("PRAGMA foreign_keys=ON")
