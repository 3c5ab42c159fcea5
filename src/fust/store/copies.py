"""A consistent copy of a database in use: SQLite by its backup API, PostgreSQL by pg_dump and pg_restore."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import sqlite3
import subprocess
from pathlib import Path

from sqlalchemy import URL, make_url

from fust.core.errors import FustError, StorageFull
from fust.core.files import fsync_folder, full_disk_is_clear
from fust.store.database import Database, sqlite_path

_SPARE_BYTES = 10_000_000


class CopyFailed(FustError):
    """The database could not be copied, or a copy not put back; what was there is as it was."""

    status = 500
    code = "copy_failed"


def copy_suffix(database: Database) -> str:
    """Returns how names of copies end: `.db` for SQLite, `.pgdump` for PostgreSQL (custom format)."""
    return ".db" if database.is_sqlite else ".pgdump"


def copy_database(database: Database, target: Path, *, snapshot: str = "") -> None:
    """Writes all rows as of one moment to ``target``, which appears whole or not at all (mode 0600, synced).

    Args:
        database: may be in use by others.
        target: a new file.
        snapshot: of PostgreSQL: one exported by `pg_export_snapshot()`, so that the caller reads the same moment.

    Raises:
        StorageFull: no room; nothing is left of the copy.
        CopyFailed: pg_dump is missing or failed.

    """
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = target.parent / f".{target.name}.{secrets.token_hex(4)}.tmp"
    try:
        with full_disk_is_clear(target):
            os.close(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            source = sqlite_path(database.url)
            if source is not None:
                _copy_sqlite(source, temporary)
            else:
                _dump_postgres(make_url(database.url), temporary, snapshot)
            descriptor = os.open(temporary, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(temporary, target)
            fsync_folder(target.parent)
    finally:
        for path in (temporary, *(temporary.with_name(temporary.name + end) for end in ("-journal", "-wal"))):
            path.unlink(missing_ok=True)


def _copy_sqlite(source: Path, target: Path) -> None:
    free = shutil.disk_usage(target.parent).free
    needed = source.stat().st_size + _SPARE_BYTES
    if free < needed:
        raise StorageFull(
            "There is no room for a copy of the database: {needed} bytes are needed, {free} are free in {folder}.",
            hint="Free some room and try again; nothing was changed.",
            needed=needed,
            free=free,
            folder=target.parent,
        )
    with (
        contextlib.closing(
            sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, timeout=30)
        ) as old,
        contextlib.closing(sqlite3.connect(target)) as new,
    ):
        try:
            old.backup(new)  # one step: all pages of one moment, while others write to the log
            new.execute("PRAGMA journal_mode=DELETE")
            found = str(new.execute("PRAGMA quick_check(1)").fetchone()[0])
        except sqlite3.Error as error:
            words = str(error)
            if "full" in words or "disk I/O" in words:
                raise StorageFull(
                    "The disk of {path} is full; nothing was kept of what was being written.",
                    hint="Free some room (`fust doctor` shows where it went) and try again.",
                    path=target.parent,
                ) from error
            found = words
    if found != "ok":
        raise CopyFailed(
            "The database {path} is damaged: {reason}.",
            hint="`fust fsck` says more; restore it from a backup.",
            path=source,
            reason=found[:300],
        )


def _dump_postgres(url: URL, target: Path, snapshot: str) -> None:
    command = [_tool("pg_dump"), "--format=custom", "--no-owner", "--no-privileges", f"--file={target}"]
    command += [f"--snapshot={snapshot}"] if snapshot else []
    _run(command, url)


def restore_postgres(url_text: str, dump: Path) -> None:
    """Puts a dump into an empty PostgreSQL database, in one transaction.

    Raises:
        CopyFailed: pg_restore is missing or failed; the database is as it was.

    """
    url = make_url(url_text)
    command = [
        _tool("pg_restore"),
        "--single-transaction",
        "--exit-on-error",
        "--no-owner",
        "--no-privileges",
    ]
    _run([*command, f"--dbname={_conninfo(url)}", str(dump)], url, named=True)


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise CopyFailed(
            "{tool} is not installed, and without it a PostgreSQL database is not copied.",
            hint="Install PostgreSQL's client programs (Debian: apt-get install postgresql-client), of the server's version or newer.",
            tool=name,
        )
    return found


def _conninfo(url: URL) -> str:
    """Returns the URL for libpq's programs, without the password: arguments are seen by every user of a machine."""
    return url.set(drivername="postgresql", password=None).render_as_string(hide_password=False)


def _run(command: list[str], url: URL, *, named: bool = False) -> None:
    env = {**os.environ, "LC_ALL": "C"}
    if url.password:
        env["PGPASSWORD"] = str(url.password)
    full = command if named else [*command, f"--dbname={_conninfo(url)}"]
    done = subprocess.run(
        full, env=env, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode == 0:
        return
    words = re.sub(r"\s+", " ", done.stderr).strip()
    if "No space left" in words:
        raise StorageFull(
            "The disk of {path} is full; nothing was kept of what was being written.",
            hint="Free some room (`fust doctor` shows where it went) and try again.",
            path=command[-1].removeprefix("--file="),
        )
    raise CopyFailed(
        "{tool} failed: {reason}.",
        hint="Check that it is of the server's version or newer and that the database can be reached.",
        tool=Path(command[0]).name,
        reason=words[:500],
    )


def keep_newest(folder: Path, pattern: str, count: int) -> None:
    """Removes all but the ``count`` files whose names sort last."""
    for path in sorted(folder.glob(pattern))[:-count]:
        path.unlink(missing_ok=True)
