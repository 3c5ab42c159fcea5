"""A Fust home: one folder, one server at a time, a schema of a known version."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path

from sqlalchemy import inspect, text
from sqlalchemy.exc import DatabaseError

from fust.core.errors import Conflict, FustError, StorageFull
from fust.core.locks import FileLock
from fust.store.database import Database, protect_file

MIGRATIONS = Path(__file__).parent / "migrations"
_LEAST_FREE_BYTES = 50_000_000


class HomeUnusable(FustError):
    """The home cannot be written."""

    status = 500
    code = "home_unusable"


class NewerHome(Conflict):
    """A newer Fust wrote the home; nothing is touched."""

    code = "newer_home"


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


def prepare_schema(database: Database) -> None:
    """Brings the schema to this version's, or refuses.

    Raises:
        NewerHome: the schema is of a version that this one does not know; nothing was changed.
        HomeUnusable: the file is not a database.
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
    migrate(database)


def migrate(database: Database) -> None:
    """Runs the missing migrations, each in a transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with database.engine.connect() as connection:
        config.attributes["connection"] = connection
        with contextlib.redirect_stdout(None):
            command.upgrade(config, "head")
