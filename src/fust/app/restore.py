"""Puts a snapshot of a backup into an empty home, every byte checked; and checks backups without a home."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pygit2
from sqlalchemy import JSON, Boolean, DateTime, column, inspect, table, text, update

from fust.app.backup import FOLDERS, Manifest, RepoRefs, copy_blob, iter_blobs, list_snapshots, read_refs
from fust.app.home import RESTORING, NewerHome, head_revision
from fust.core.clock import utc_naive
from fust.core.errors import Conflict, InvalidInput, NotFound
from fust.core.files import full_disk_is_clear, write_atomic
from fust.core.ids import check_repo_type
from fust.core.settings import Settings
from fust.hub.attributes import initial_attributes
from fust.hub.blobs import LocalBlobs
from fust.hub.check import xorb_is_good
from fust.hub.check_git import Walk, broken_objects
from fust.hub.git_repo import GitRepo
from fust.hub.git_store import GitStore
from fust.hub.service import blobs_folder
from fust.jobs.folder import Fault
from fust.store.copies import restore_postgres
from fust.store.database import Database, sqlite_path


@dataclass(slots=True)
class Restored:
    """What ``restore`` did."""

    snapshot: str
    repos: int = 0
    blobs: int = 0
    missing: list[str] = field(default_factory=lambda: [])
    """Large files, xorbs and refs that the backup lacks or holds damaged."""


def find_snapshot(source: Path, at: str = "") -> tuple[str, Manifest]:
    """Returns the newest finished snapshot, or the one named.

    Raises:
        NotFound: there is none.

    """
    found = [entry for entry in list_snapshots(source) if not at or entry[0] == at]
    if not found:
        raise NotFound(
            "{source} holds no finished backup {at}.",
            hint="`fust restore {source} --list` shows them.",
            source=source,
            at=at,
        )
    return found[-1]


def restore(settings: Settings, source: Path, at: str = "") -> Restored:
    """Puts a snapshot into the home of ``settings``, which must be empty; one that was cut off is begun again.

    Raises:
        NotABackup, NotFound: the source holds no such snapshot.
        Conflict: the home, its blobs' folder or its database is not empty.
        InvalidInput: a snapshot of SQLite is to go into PostgreSQL, or the other way.
        NewerHome: a newer Fust made it.
        StorageFull: no room; run it again when there is.

    """
    name, manifest = find_snapshot(source, at)
    if manifest.schema > head_revision():
        raise NewerHome(
            "This backup was made by a newer Fust (schema {current}; this version knows {head}). Nothing was changed.",
            hint="Install that version or a newer one: `git pull && make up`.",
            current=manifest.schema,
            head=head_revision(),
        )
    folder, home = source / "snapshots" / name, settings.home
    is_sqlite = sqlite_path(settings.database_url) is not None
    if is_sqlite is not manifest.database.endswith(".db"):
        raise InvalidInput(
            "The backup is of {kind}, and the home's database is of another kind.",
            hint="Set store.database_url (FUST_STORE__DATABASE_URL) to an empty database of that kind.",
            kind="SQLite" if manifest.database.endswith(".db") else "PostgreSQL",
        )
    _check_empty(settings)
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomic(home / RESTORING, name.encode())
    with full_disk_is_clear(home):
        done = Restored(name)
        _blobs(settings, source, folder, done)
        for kind in FOLDERS:
            if (folder / kind).is_dir():
                shutil.copytree(folder / kind, home / kind, dirs_exist_ok=True)
        if (folder / "fust.toml").exists():
            shutil.copy2(folder / "fust.toml", home / "fust.toml")
        shutil.copy2(source / "fust-backup.json", home / ".source.tmp")
        _database(settings, folder / manifest.database)
        _repos(settings, source, read_refs(folder), done)
        marker = msgspec.json.decode((home / ".source.tmp").read_bytes())
        write_atomic(home / "home-id", str(marker["home_id"]).encode())
        (home / ".source.tmp").unlink()
        os.sync()
    (home / RESTORING).unlink()
    return done


def _check_empty(settings: Settings) -> None:
    home = settings.home
    begun = (home / RESTORING).exists()
    if home.exists() and not begun:
        for path in home.iterdir():
            if path.name not in ("lost+found", "log"):
                raise Conflict(
                    "The home {home} is not empty.",
                    hint="Name an empty or new folder with --home; nothing was changed.",
                    home=home,
                )
    if begun:
        for path in home.iterdir():  # files of blobs are kept: they are the long part, and whole or absent
            if path.name not in (RESTORING, "blobs"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    if sqlite_path(settings.database_url) is None:
        database = Database(settings.database_url)
        try:
            if inspect(database.engine).get_table_names():
                raise Conflict(
                    "The PostgreSQL database of store.database_url is not empty.",
                    hint="Make a new one with createdb and name that; nothing was changed.",
                )
        finally:
            database.close()


def _blobs(settings: Settings, source: Path, folder: Path, done: Restored) -> None:
    pool = LocalBlobs(source / "blobs")
    blobs = LocalBlobs(blobs_folder(settings.blobs_url))
    blobs.clean_temporaries()  # of a restore that was killed
    for kind, name, size in iter_blobs(folder):
        if copy_blob(pool, blobs, kind, name, size):
            done.blobs += 1
        else:
            done.missing.append(f"{kind}/{name}")


def _database(settings: Settings, copy: Path) -> None:
    path = sqlite_path(settings.database_url)
    if path is None:
        restore_postgres(settings.database_url, copy)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(copy, "rb") as old, open(path, "wb", opener=lambda p, f: os.open(p, f, 0o600)) as new:
            shutil.copyfileobj(old, new)
    database = Database(settings.database_url)
    try:
        _settle(database)
    finally:
        database.close()


def _settle(database: Database) -> None:
    """Tells the rows that time has passed: repos are read again at the start, runs have ended, browsers sign in anew."""
    columns = {entry["name"] for entry in inspect(database.engine).get_columns("repos")}
    repos = table("repos", column("pending", Boolean), column("moving", JSON(none_as_null=True)))
    runs = table("runs", column("state"), column("error", JSON), column("ended_at", DateTime))
    fault = Fault(
        "restored",
        "The home was restored from a backup that was made while this run was going on.",
        "Start it again.",
    )
    with database.write() as session:
        values: dict[str, object] = {"pending": True}
        if "moving" in columns:
            values["moving"] = None
        session.execute(update(repos).values(**values))
        session.execute(
            update(runs)
            .where(runs.c.state.in_(("queued", "running")))
            .values(state="failed", error=msgspec.to_builtins(fault), ended_at=utc_naive())
        )
        session.execute(text("DELETE FROM browser_sessions"))
        session.execute(text("DELETE FROM sign_in_codes"))


def _repos(settings: Settings, source: Path, kept: list[RepoRefs], done: Restored) -> None:
    git = GitStore(settings.home / "git")
    by_id = {repo.id: repo for repo in kept}
    database = Database(settings.database_url)
    with database.engine.connect() as connection:
        rows = [tuple(row) for row in connection.execute(text("SELECT id, type, owner, name FROM repos"))]
    database.close()
    for row_id, kind, owner, name in rows:
        repo_type = check_repo_type(kind)
        git.create(repo_type, owner, name, {".gitattributes": initial_attributes(repo_type)}, owner)
        refs = by_id.get(row_id)
        if refs is not None:
            path = git.path(repo_type, owner, name)
            shutil.copytree(source / "git" / row_id / "objects", path / "objects", dirs_exist_ok=True)
            repo = GitRepo(path)
            for ref in repo.git.listall_references():
                repo.git.references.delete(ref)
            for ref, oid in refs.refs.items():
                try:
                    repo.git.create_reference_direct(ref, oid, True)
                except (ValueError, pygit2.GitError):  # its object is damaged in the backup
                    done.missing.append(f"{refs.name} {ref} {oid}")
        done.repos += 1


# Looking at a backup


def verify(source: Path, at: str = "") -> Iterator[str]:
    """Reads every byte of a snapshot; yields what is missing or is not what its name or the manifest says."""
    name, manifest = find_snapshot(source, at)
    folder = source / "snapshots" / name
    for path, digest in manifest.files.items():
        if not (folder / path).is_file() or _sha256(folder / path) != digest:
            yield f"snapshots/{name}/{path}"
    pool = LocalBlobs(source / "blobs")
    for kind, blob, size in iter_blobs(folder):
        path = pool.find(kind, blob)
        if (
            path is None
            or path.stat().st_size != size
            or not (_sha256(path) == blob if kind == "lfs" else xorb_is_good(path, blob))
        ):
            yield f"{kind}/{blob}"
    for repo in read_refs(folder):
        yield from (f"git/{repo.id} ({repo.name}): {oid}" for oid in _broken(source / "git" / repo.id, repo))


def _broken(pool: Path, repo: RepoRefs) -> Iterator[str]:
    """Yields git objects that a repo's refs need and that are not there or are damaged."""
    with tempfile.TemporaryDirectory() as folder:
        pygit2.init_repository(folder, bare=True)
        alternates = Path(folder, "objects", "info", "alternates")
        alternates.parent.mkdir(exist_ok=True)
        alternates.write_text(f"{(pool / 'objects').absolute()}\n")
        opened = GitRepo(Path(folder))
        walk = Walk(opened, deep=True)
        for oid in repo.refs.values():
            if not walk.start(oid):
                yield oid
        yield from walk.broken
        yield from (oid for oid in broken_objects(opened) if oid not in walk.broken)


def _sha256(path: Path) -> str:
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
