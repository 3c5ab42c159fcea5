"""Backups of a home while it is in use: incremental, verified as they are copied, whole or absent.

DEST/fust-backup.json        whose backups these are
     blobs/                  large files and xorbs of all snapshots, by their hash (as in a home)
     git/<id of the repo>/   git objects of all snapshots, by their hash
     snapshots/<time>/       what changes: the database, refs, run folders, files of the model API, fust.toml, and
                             manifest.json, written last

The order makes it consistent. A commit writes its objects, then the rows of its large files, then its ref. So first the
refs of each repo are read and the objects copied, then the database is copied as of one moment, which knows every large
file that those refs need, and then the large files that it names; the keep lock holds pruning off meanwhile. A repo made
during the backup has a row and no refs, and is restored empty. A kill leaves finished files, which the next run
does not copy again, and a folder `.partial`, which it removes.

Secrets stay at home: `token`, `signing-key` and any other key file are not copied, and settings that hold secrets or
name other places (`store.*`, `pull.token`) are left out of `fust.toml`. The database holds hashes of keys and passwords.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import sqlite3
import tomllib
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pygit2
from sqlalchemy import Connection, create_engine, text

from fust import __version__
from fust.app.home import head_revision, schema_revision
from fust.app.prune import kept_alone
from fust.core.clock import iso, now
from fust.core.errors import Conflict, InvalidInput, NotFound
from fust.core.files import fsync_folder, full_disk_is_clear, write_atomic
from fust.core.locks import FileLock
from fust.core.settings import SECRET_KEYS, Settings
from fust.hub.blobs import Kind, LocalBlobs
from fust.hub.check import xorb_is_good
from fust.hub.check_git import raw_refs
from fust.hub.git_repo import GitRepo
from fust.hub.git_store import GitStore
from fust.hub.service import blobs_folder
from fust.store.copies import copy_database, copy_suffix
from fust.store.database import Database, sqlite_path

MARKER = "fust-backup.json"
SNAPSHOTS_KEPT = 10
_FORMAT = 1
FOLDERS = ("runs", "files")
"""What a home holds beside the database, repos and large files: folders of runs, files of the model API."""
_NOT_OF_RUNS = frozenset({"lock", "process.json", "supervisor.lock"})


class NotABackup(Conflict):
    """A folder holds something else, or the backups of another home."""

    code = "not_a_backup"


class Marker(msgspec.Struct):
    """`fust-backup.json`."""

    format: int
    home_id: str


class Manifest(msgspec.Struct):
    """`manifest.json` of a snapshot, written when all of it is on the disk."""

    made_at: str
    version: str
    schema: str
    database: str
    """Name of the database's copy."""
    files: dict[str, str]
    """SHA-256 of every other file of the snapshot."""
    repos: int
    blobs: int
    size_bytes: int
    """Of all large files and xorbs that belong to it."""
    damaged: list[str] = []
    """Large files and xorbs that were missing or damaged in the home."""


class RepoRefs(msgspec.Struct):
    """The refs of one repo."""

    id: str
    name: str
    refs: dict[str, str]


@dataclass(slots=True)
class Backup:
    """What a run of ``back_up`` did."""

    snapshot: str
    copied_files: int = 0
    copied_bytes: int = 0
    damaged: list[str] = field(default_factory=lambda: [])
    manifest: Manifest | None = None


def back_up(settings: Settings, dest: Path) -> Backup:
    """Adds a snapshot of a home to ``dest``; a server may run and take writes meanwhile.

    Raises:
        NotFound: there is no home.
        NotABackup: ``dest`` holds something else, or another home's backups.
        Unavailable: another backup, or a pruning, is under way.
        StorageFull: no room in ``dest``; what was copied stays for the next run.

    """
    source = sqlite_path(settings.database_url)
    if source is not None and not source.exists():
        raise NotFound(
            "There is no Fust home at {home}.",
            hint="Name it with --home or FUST_HOME.",
            home=settings.home,
        )
    if dest == settings.home or settings.home in dest.parents:
        raise InvalidInput(
            "{dest} lies inside the home.", hint="Choose a folder elsewhere, best on another disk.", dest=dest
        )
    with kept_alone(settings.home, _claim(settings.home, dest)), full_disk_is_clear(dest):
        return _Run(settings, dest).run()


def _claim(home: Path, dest: Path) -> FileLock:
    """Makes ``dest`` ours, or checks that it is; returns its lock."""
    id_file = home / "home-id"
    if not id_file.exists():
        write_atomic(id_file, secrets.token_hex(16).encode())
    home_id = id_file.read_text(encoding="ascii").strip()
    dest.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not any(path.name != "lost+found" for path in dest.iterdir()):
        write_atomic(dest / MARKER, msgspec.json.encode(Marker(_FORMAT, home_id)))
    if read_marker(dest).home_id != home_id:
        raise NotABackup(
            "{dest} holds backups of another home.",
            hint="Choose another folder; nothing was changed.",
            dest=dest,
        )
    return FileLock(dest / ".lock")


def read_marker(dest: Path) -> Marker:
    """Returns whose backups a folder holds.

    Raises:
        NotABackup: it holds none, or of a newer version.

    """
    try:
        marker = msgspec.json.decode((dest / MARKER).read_bytes(), type=Marker)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        raise NotABackup(
            "{dest} is not a folder of Fust backups.",
            hint="Name an empty folder, or one that `fust backup` made; nothing was changed.",
            dest=dest,
        ) from None
    if marker.format > _FORMAT:
        raise NotABackup(
            "The backups in {dest} were made by a newer Fust.",
            hint="Use that version or a newer one.",
            dest=dest,
        )
    return marker


def list_snapshots(dest: Path) -> list[tuple[str, Manifest]]:
    """Returns (name, manifest) of every finished snapshot, oldest first."""
    read_marker(dest)
    found: list[tuple[str, Manifest]] = []
    for path in sorted((dest / "snapshots").glob("2*")):
        with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
            found.append(
                (path.name, msgspec.json.decode((path / "manifest.json").read_bytes(), type=Manifest))
            )
    return found


def iter_blobs(folder: Path) -> Iterator[tuple[Kind, str, int]]:
    """Yields (kind, name, size) of what belongs to a snapshot."""
    with open(folder / "blobs.txt", encoding="ascii") as file:
        for line in file:
            kind, name, size = line.split()
            yield ("lfs" if kind == "lfs" else "xorbs"), name, int(size)


class _Run:
    def __init__(self, settings: Settings, dest: Path) -> None:
        self._settings = settings
        self._dest = dest
        self._blobs = LocalBlobs(blobs_folder(settings.blobs_url))
        self._pool = LocalBlobs(dest / "blobs")
        self._git = GitStore(settings.home / "git")
        self._snapshots = dest / "snapshots"
        self._snapshots.mkdir(exist_ok=True)
        self._previous = next((name for name, _ in reversed(list_snapshots(dest))), None)
        self._done = Backup(_unused_name(self._snapshots))
        self._partial = self._snapshots / f".{self._done.snapshot}.partial"

    def run(self) -> Backup:
        for path in self._snapshots.glob(".*.partial"):
            shutil.rmtree(path)
        self._pool.clean_temporaries()
        self._partial.mkdir(mode=0o700)
        database = Database(self._settings.database_url)
        try:
            refs = self._repos(database)
            copy = self._partial / f"database{copy_suffix(database)}"
            schema = schema_revision(database) or head_revision()
            with _as_of_one_moment(database, copy) as connection:
                ids = set(connection.execute(text("SELECT id FROM repos")).scalars())
                refs = [repo for repo in refs if repo.id in ids]
                named = _named(connection)
        finally:
            database.close()
        self._large(named)
        write_atomic(self._partial / "refs.json", msgspec.json.encode(refs))
        for name in FOLDERS:
            self._folder(name)
        self._settings_file()
        os.sync()  # git objects and run files were not synced one by one
        manifest = Manifest(
            made_at=iso(now()) or "",
            version=__version__,
            schema=schema,
            database=copy.name,
            files=dict(_hashes(self._partial)),
            repos=len(refs),
            blobs=len(named),
            size_bytes=sum(size for _, _, size in named),
            damaged=self._done.damaged,
        )
        write_atomic(self._partial / "manifest.json", msgspec.json.encode(manifest))
        os.rename(self._partial, self._snapshots / self._done.snapshot)
        fsync_folder(self._snapshots)
        self._forget_old()
        self._done.manifest = manifest
        return self._done

    def _repos(self, database: Database) -> list[RepoRefs]:
        """Reads refs, then copies the objects that are there by then: all that the refs need."""
        with database.engine.connect() as connection:
            query = text("SELECT id, type, owner, name FROM repos")
            rows = [tuple(row) for row in connection.execute(query)]
        found: list[RepoRefs] = []
        for row_id, kind, owner, name in rows:
            path = self._git.path(kind, owner, name)
            try:
                refs = dict(raw_refs(GitRepo(path)))
            except (NotFound, KeyError, pygit2.GitError):
                continue  # being made or deleted meanwhile, or damage that `fust fsck` names
            with contextlib.suppress(FileNotFoundError):
                self._copy_tree(path / "objects", self._dest / "git" / row_id / "objects")
                found.append(RepoRefs(row_id, f"{kind}:{owner}/{name}", refs))
        return found

    def _copy_tree(self, source: Path, target: Path) -> None:
        for folder, _, names in os.walk(source, onerror=_raise):
            here = target / Path(folder).relative_to(source)
            here.mkdir(parents=True, exist_ok=True)
            there = {entry.name: entry.stat().st_size for entry in os.scandir(here)}
            for name in names:
                path = Path(folder, name)
                if not name.startswith("tmp_") and there.get(name) != path.stat().st_size:
                    self._copy(path, here / name)

    def _copy(self, source: Path, target: Path) -> None:
        temporary = target.with_name(f".{target.name}.tmp")
        shutil.copy2(source, temporary)
        os.replace(temporary, target)
        self._done.copied_files += 1
        self._done.copied_bytes += target.stat().st_size

    def _large(self, named: list[tuple[Kind, str, int]]) -> None:
        """Copies large files and xorbs that the rows of one moment name."""
        with open(self._partial / "blobs.txt", "w", encoding="ascii") as listing:
            for kind, name, size in named:
                listing.write(f"{kind} {name} {size}\n")
                if not copy_blob(self._blobs, self._pool, kind, name, size, self._done):
                    self._done.damaged.append(f"{kind}/{name}")

    def _folder(self, kind: str) -> None:
        """Copies a folder of the home; what the last snapshot holds unchanged is linked."""
        source = self._settings.home / kind
        before = self._snapshots / (self._previous or "-") / kind
        for folder, folders, names in os.walk(source):
            if Path(folder).parent == source and "work" in folders:
                folders.remove("work")
            here = Path(folder).relative_to(source)
            (self._partial / kind / here).mkdir(parents=True, exist_ok=True)
            for name in names:
                if name in _NOT_OF_RUNS or name.endswith(".tmp"):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    path, old = Path(folder, name), before / here / name
                    target = self._partial / kind / here / name
                    if _same(path, old):
                        os.link(old, target)
                    else:
                        self._copy(path, target)

    def _settings_file(self) -> None:
        path = self._settings.home / "fust.toml"
        if path.exists():
            write_atomic(
                self._partial / "fust.toml", without_secrets(path.read_text(encoding="utf-8")).encode()
            )

    def _forget_old(self) -> None:
        """Removes all but the newest snapshots, and what only they needed."""
        snapshots = list_snapshots(self._dest)
        for name, _ in snapshots[:-SNAPSHOTS_KEPT]:
            shutil.rmtree(self._snapshots / name)
        if len(snapshots) <= SNAPSHOTS_KEPT:
            return
        kept = [self._snapshots / name for name, _ in snapshots[-SNAPSHOTS_KEPT:]]
        wanted = {(kind, name) for folder in kept for kind, name, _ in iter_blobs(folder)}
        kinds: tuple[Kind, ...] = ("lfs", "xorbs")
        for kind in kinds:
            for name, _, _ in list(self._pool.iter_kept(kind)):
                if (kind, name) not in wanted:
                    self._pool.remove(kind, name)
        ids = {repo.id for folder in kept for repo in read_refs(folder)}
        for path in (self._dest / "git").glob("*"):
            if path.name not in ids:
                shutil.rmtree(path)


def read_refs(folder: Path) -> list[RepoRefs]:
    """Returns the refs of a snapshot."""
    return msgspec.json.decode((folder / "refs.json").read_bytes(), type=list[RepoRefs])


def copy_blob(
    source: LocalBlobs, target: LocalBlobs, kind: Kind, name: str, size: int, done: Backup | None = None
) -> bool:
    """Copies a large file or xorb unless it is there, and looks whether its bytes are what its name says.

    Returns:
        False when the source misses it or its bytes are wrong; nothing was kept then.

    """
    there = target.find(kind, name)
    if there is not None and there.stat().st_size == size:
        return True
    path = source.find(kind, name)
    if path is None or path.stat().st_size != size:
        return False
    temporary = target.new_temporary()
    digest = hashlib.sha256()
    try:
        with (
            full_disk_is_clear(temporary),
            open(path, "rb", buffering=0) as old,
            open(temporary, "xb") as new,
        ):
            while piece := old.read(2**20):
                digest.update(piece)
                new.write(piece)
        if not (digest.hexdigest() == name if kind == "lfs" else xorb_is_good(temporary, name)):
            return False
        target.keep(kind, name, temporary)
    finally:
        temporary.unlink(missing_ok=True)
    if done is not None:
        done.copied_files += 1
        done.copied_bytes += size
    return True


@contextlib.contextmanager
def _as_of_one_moment(database: Database, copy: Path) -> Generator[Connection]:
    """Copies the database, and gives a connection that reads the same moment."""
    if database.is_sqlite:
        copy_database(database, copy)
        name = f"{copy.as_uri()}?mode=ro&immutable=1"
        engine = create_engine("sqlite://", creator=lambda: sqlite3.connect(name, uri=True))
        try:
            with engine.connect() as connection:
                yield connection
        finally:
            engine.dispose()
        return
    with database.engine.connect() as plain:
        connection = plain.execution_options(isolation_level="REPEATABLE READ")
        snapshot = str(connection.execute(text("SELECT pg_export_snapshot()")).scalar())
        copy_database(database, copy, snapshot=snapshot)
        yield connection


def _named(connection: Connection) -> list[tuple[Kind, str, int]]:
    """Returns every large file and xorb that the rows name."""
    files = connection.execute(text("SELECT sha256, size FROM large_files WHERE has_blob"))
    found: list[tuple[Kind, str, int]] = [("lfs", str(row[0]), int(row[1])) for row in files]
    xorbs = connection.execute(text("SELECT hash, size FROM xorbs"))
    return found + [("xorbs", str(row[0]), int(row[1])) for row in xorbs]


def without_secrets(document: str) -> str:
    """Returns `fust.toml` without settings that hold secrets or name other places; empty when that cannot be done."""
    section = ""
    lines: list[str] = []
    for line in document.splitlines():
        head = re.match(r"\s*\[([\w.]+)\]", line)
        section = head[1] if head else section
        key = re.match(r"\s*([\w-]+)\s*=", line)
        secret = key is not None and (section == "store" or f"{section}.{key[1]}" in SECRET_KEYS)
        lines.append(f"# {key[1]} is left out of backups" if secret and key else line)
    try:
        left = tomllib.loads("\n".join(lines))
    except tomllib.TOMLDecodeError:
        return ""
    for dotted in SECRET_KEYS:
        section, _, name = dotted.partition(".")
        if name in left.get(section, {}):
            return ""  # written in a way that was not seen
    return "" if left.get("store") else "\n".join(lines) + "\n"


def _unused_name(folder: Path) -> str:
    name = f"{now():%Y%m%dT%H%M%SZ}"
    number = 2
    while (folder / name).exists():
        name = f"{now():%Y%m%dT%H%M%SZ}-{number}"
        number += 1
    return name


def _same(path: Path, other: Path) -> bool:
    try:
        a, b = path.stat(), other.stat()
    except FileNotFoundError:
        return False
    return a.st_size == b.st_size and a.st_mtime_ns == b.st_mtime_ns


def _hashes(folder: Path) -> Iterable[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with open(path, "rb", buffering=0) as file:
                yield path.relative_to(folder).as_posix(), hashlib.file_digest(file, "sha256").hexdigest()


def _raise(error: OSError) -> None:
    raise error
