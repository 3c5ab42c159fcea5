"""Checks a home: the database, the hub's repos and bytes, runs and leftovers; mends what can be mended on a stopped one."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import delete, func, select, text, update
from sqlalchemy.orm import Session

from fust.accounts.service import Accounts
from fust.app.home import head_revision, open_home, schema_revision
from fust.core.errors import Conflict, NotFound
from fust.core.settings import Settings
from fust.hub.blobs import LocalBlobs
from fust.hub.cache import WholeFiles
from fust.hub.check import FRESH_S, Finding, HubCheck, leftover
from fust.hub.git_store import GitStore
from fust.hub.models import (
    Bucket,
    BucketFile,
    LargeFile,
    LargeFileOwner,
    Repo,
    RepoFile,
    XetFile,
    Xorb,
    XorbOwner,
)
from fust.hub.repos import to_info
from fust.hub.service import Hub, blobs_folder
from fust.hub.xet.shard import unpack_segments
from fust.jobs.models import RunRow
from fust.store.database import Database, sqlite_path

log = logging.getLogger(__name__)


class SchemaDiffers(Conflict):
    """The home's schema is not this version's."""

    code = "schema_differs"


def open_database(settings: Settings) -> Database:
    """Returns the database of a home whose schema is this version's.

    Raises:
        NotFound: there is none.
        SchemaDiffers: an older or newer Fust wrote it.

    """
    path = sqlite_path(settings.database_url)
    database = Database(settings.database_url)
    current = schema_revision(database) if path is None or path.exists() else None
    if current is None:
        raise NotFound(
            "There is no Fust home at {home}.",
            hint="Name it with --home or FUST_HOME.",
            home=settings.home,
        )
    if current != head_revision():
        raise SchemaDiffers(
            "The home {home} is of schema {current}; this version works with {head}.",
            hint="Start this version's server on it once (`fust up`), or use the version that wrote it.",
            home=settings.home,
            current=current,
            head=head_revision(),
        )
    return database


def check_home(settings: Settings, *, deep: bool = False) -> Iterator[Finding]:
    """Yields what does not fit in a home; only looks, and a server may run on it.

    Args:
        settings: of the home.
        deep: read every byte and every commit, not only sizes and the newest trees.

    """
    database = open_database(settings)
    try:
        damaged = list(_check_database(database, deep=deep))
        yield from damaged
        if any(finding.kind == "database_damaged" for finding in damaged):
            return  # nothing that it says can be relied on
        hub = HubCheck(
            database,
            GitStore(settings.home / "git"),
            LocalBlobs(blobs_folder(settings.blobs_url)),
            WholeFiles(settings.home / "cache" / "files", settings.hub.whole_file_cache_bytes),
            deep=deep,
        )
        yield from hub.run()
        yield from _check_runs(database, settings.home)
        yield from _leftovers(settings.home)
    finally:
        database.close()


def _check_database(database: Database, *, deep: bool) -> Iterator[Finding]:
    if not database.is_sqlite:
        return  # PostgreSQL checks its pages itself (data checksums), and enforces foreign keys
    with database.engine.connect() as connection:
        pragma = "integrity_check" if deep else "quick_check"
        try:
            found = [str(row[0]) for row in connection.execute(text(f"PRAGMA {pragma}(10)"))]
        except Exception as error:  # a page that cannot be read at all
            found = [str(error)]
        if found != ["ok"]:
            yield Finding(
                "database_damaged",
                "fust.db",
                "The database is damaged: {reason}.",
                "Restore the home from a backup (`fust restore`).",
                {"reason": "; ".join(found)[:500]},
            )
            return
        for table, rowid, parent, _ in connection.execute(text("PRAGMA foreign_key_check")):
            yield Finding(
                "row_dangling",
                f"{table}:{rowid}",
                "Row {row} of {table} points to a row of {parent} that is not there.",
                "`fust fsck --repair` removes it.",
                {"row": rowid, "table": table, "parent": parent},
            )


def _check_runs(database: Database, home: Path) -> Iterator[Finding]:
    folders = [path for path in (home / "runs").glob("r*") if path.is_dir() and _is_old(path)]
    with database.read() as session:
        known = set(session.scalars(select(RunRow.id)))
    for path in folders:
        if path.name not in known:
            yield Finding(
                "run_orphan",
                str(path),
                "The folder {path} belongs to no run.",
                "`fust fsck --repair` removes it.",
                {"path": path},
            )


def _leftovers(home: Path) -> Iterator[Finding]:
    for pattern in (
        ".probe-*",
        ".*.tmp",
        "cache/files/.*.tmp",
        "runs/*/.*.tmp",
        "backups/.*.tmp",
        "log/.*.tmp",
    ):
        yield from (leftover(path) for path in home.glob(pattern) if _is_old(path))


def _is_old(path: Path) -> bool:
    try:
        return path.stat().st_mtime < time.time() - FRESH_S
    except FileNotFoundError:
        return False


# Mending


def repair_home(settings: Settings, *, deep: bool = False) -> Iterator[tuple[Finding, bool]]:
    """Checks a stopped home and mends what can be mended; yields each finding and whether it was.

    Bytes that are not what their name says are moved to `damaged/` in the home, not deleted.

    Raises:
        AlreadyRunning: a server holds the home.

    """
    open_database(settings).close()  # a home, and of this schema, before anything is made in it
    lock = open_home(settings.home)
    try:
        database = open_database(settings)
        hub = Hub(database, Accounts(database, settings), settings)
        try:
            for finding in list(check_home(settings, deep=deep)):
                mended = _mend(finding, database, hub, settings.home)
                if mended:
                    log.info("mended", extra={"kind": finding.kind, "subject": finding.subject})
                yield finding, mended
        finally:
            database.close()
    finally:
        lock.release()


def _mend(finding: Finding, database: Database, hub: Hub, home: Path) -> bool:
    path = finding.params.get("path")
    match finding.kind:
        case "leftover" | "upload_half" | "cache_corrupt" | "bytes_orphan" | "repo_orphan" | "run_orphan":
            assert isinstance(path, Path)
            _remove(path)
        case "repo_behind":
            _read_again(finding.subject, database, hub)
        case "bucket_sums":
            _count_bucket(finding.subject, database)
        case "pointer_closed":
            return _open_pointer(finding, database)
        case "row_dangling":
            table, _, row = finding.subject.partition(":")
            with database.write() as session:  # a name of our own schema, as SQLite gave it
                session.execute(text(f'DELETE FROM "{table}" WHERE rowid = :row'), {"row": int(row)})
        case "blob_missing" | "blob_corrupt":
            assert isinstance(path, Path)
            _put_aside(path, home)
            with database.write() as session:
                change = update(LargeFile).where(LargeFile.sha256 == finding.subject).values(has_blob=False)
                session.execute(change)
        case "xorb_missing" | "xorb_corrupt":
            assert isinstance(path, Path)
            _put_aside(path, home)
            hub.blobs.begin_generation()
            with database.write() as session:
                _forget_xorb(session, finding.subject)
        case "recipe_broken":
            with database.write() as session:
                _forget_recipe(session, finding.subject)
        case "file_lost":
            with database.write() as session:  # so that an upload brings it anew
                session.execute(delete(LargeFileOwner).where(LargeFileOwner.sha256 == finding.subject))
                session.execute(delete(LargeFile).where(LargeFile.sha256 == finding.subject))
            return False  # the bytes are still wanted
        case _:
            return False
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _put_aside(path: Path, home: Path) -> None:
    if path.exists():
        (home / "damaged").mkdir(mode=0o700, exist_ok=True)
        shutil.move(path, home / "damaged" / f"{int(time.time())}-{path.name}")


def _read_again(subject: str, database: Database, hub: Hub) -> None:
    kind, _, name = subject.partition(":")
    with database.read() as session:
        row = session.scalars(select(Repo).where(Repo.type == kind, Repo.key == name.lower())).one()
    hub.ref_writer.recover(to_info(row))


def _count_bucket(subject: str, database: Database) -> None:
    key = subject.removeprefix("bucket:").lower()
    with database.write() as session:
        row = session.scalars(select(Bucket).where(Bucket.key == key).with_for_update()).one()
        sums = select(func.count(), func.coalesce(func.sum(BucketFile.size), 0))
        row.files, row.size_bytes = session.execute(sums.where(BucketFile.bucket_id == row.id)).one()


def _open_pointer(finding: Finding, database: Database) -> bool:
    kind, _, name = str(finding.params["subject"]).partition(":")
    with database.write() as session:
        row = session.scalars(select(Repo).where(Repo.type == kind, Repo.key == name.lower())).one()
        session.add(RepoFile(repo_id=row.id, sha256=str(finding.params["sha256"])))
    return True


def _forget_xorb(session: Session, name: str) -> None:
    for row in session.scalars(select(XetFile)):
        if any(segment.xorb == name for segment in unpack_segments(row.segments)):
            _forget_recipe(session, row.xet_hash)
    session.execute(delete(XorbOwner).where(XorbOwner.hash == name))
    session.execute(delete(Xorb).where(Xorb.hash == name))


def _forget_recipe(session: Session, xet_hash: str) -> None:
    session.execute(update(LargeFile).where(LargeFile.xet_hash == xet_hash).values(xet_hash=None))
    session.execute(delete(XetFile).where(XetFile.xet_hash == xet_hash))
