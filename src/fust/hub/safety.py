"""Whether files run code when they are loaded: pickles scanned once by content, in the background or when asked for.

Rows are keyed by a file's content, so that a file in ten repos is scanned once, and by the scanner's version, so that a
better one looks again. What was not scanned yet is `queued`, never `safe`.
"""

from __future__ import annotations

import io
import logging
import queue
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO, Literal, cast

from sqlalchemy import JSON, select
from sqlalchemy.orm import Mapped, mapped_column

from fust.core.clock import utc_naive
from fust.core.errors import FustError
from fust.formats.pickles import may_be_pickle, scan
from fust.hub.content import Content
from fust.hub.git_repo import Entry
from fust.hub.repos import Repos
from fust.hub.types import RepoInfo, StoredFile
from fust.store.database import Base, Database
from fust.store.outbox import Outbox

log = logging.getLogger(__name__)

VERSION = 1
"""Of the scanner: rows of an older one count as not scanned."""
_BLOCK = 2**18
_QUEUE = 10_000

Level = Literal["safe", "caution", "suspicious", "unsafe", "queued"]


class FileScan(Base):
    """What a scan found in bytes."""

    __tablename__ = "file_scans"

    key: Mapped[str] = mapped_column(primary_key=True)
    """SHA-256 of a large file, git oid of a small one."""
    version: Mapped[int]
    level: Mapped[str]
    imports: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    """`{"module", "name", "safety"}`, the worst first."""
    doubts: Mapped[list[str]]
    scanned_at: Mapped[datetime] = mapped_column(default=utc_naive)


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known of a file that may be loaded as a pickle."""

    level: Level
    imports: list[dict[str, Any]]
    doubts: list[str]


_WEIGHT = {"dangerous": 0, "suspicious": 1, "innocuous": 2}
_QUEUED = Finding("queued", [], [])


class Safety:
    """Scans of a home's files."""

    def __init__(self, database: Database, repos: Repos, content: Content) -> None:
        self._database = database
        self._repos = repos
        self._content = content
        self._waiting: queue.Queue[tuple[str, str, StoredFile] | None] = queue.Queue(_QUEUE)
        self._queued: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="fust-safety", daemon=True)

    def start(self, outbox: Outbox) -> None:
        """Begins to scan what is asked for, and what commits bring."""
        outbox.subscribe("refs_changed", self._hear)
        self._thread.start()

    def stop(self) -> None:
        """Ends after the file at hand; what waits is asked for again."""
        while not self._waiting.empty():
            self._waiting.get_nowait()
        self._waiting.put(None)

    def look(self, info: RepoInfo, oid: str, entries: Iterable[Entry]) -> dict[str, Finding]:
        """Returns what is known of those files at a commit that may be pickles, by path; scans the rest soon."""
        asked = [entry for entry in entries if not entry.is_folder and may_be_pickle(entry.path)]
        known = self._known([entry.sha256 or entry.oid for entry in asked])
        found: dict[str, Finding] = {}
        for entry in asked:
            finding = known.get(entry.sha256 or entry.oid)
            if finding is None:
                self._enqueue(info, oid, entry)
            found[entry.path] = finding or _QUEUED
        return found

    def _known(self, keys: Sequence[str]) -> dict[str, Finding]:
        found: dict[str, Finding] = {}
        with self._database.read() as session:
            for start in range(0, len(keys), 500):
                query = select(FileScan).where(
                    FileScan.key.in_(keys[start : start + 500]), FileScan.version == VERSION
                )
                for row in session.scalars(query):
                    found[row.key] = Finding(cast("Level", row.level), list(row.imports), list(row.doubts))
        return found

    def _hear(self, body: dict[str, Any]) -> None:
        """Scans the files of every branch and tag that moved."""
        info = self._repos.find_by_row_id(body.get("id", ""))
        if info is None:
            return
        for update in body["updates"]:
            if update["new"] is None:
                continue
            try:
                oid = self._content.resolve(info, update["ref"])
                self.look(info, oid, self._content.open_repo(info).iter_tree(oid, recursive=True))
            except FustError as error:  # gone again
                log.info("files were not scanned", extra={"reason": error.message()})

    def _enqueue(self, info: RepoInfo, oid: str, entry: Entry) -> None:
        key = entry.sha256 or entry.oid
        if key in self._queued or self._waiting.full():
            return  # what finds no room is asked for again
        try:
            file = self._content.find_file(info, oid, entry.path, oid)
        except FustError:
            return
        self._queued.add(key)
        self._waiting.put((key, info.id, file))

    def _run(self) -> None:
        while (task := self._waiting.get()) is not None:
            key, repo_row, file = task
            try:
                self._scan(key, repo_row, file)
            except Exception:
                log.exception("a file could not be scanned", extra={"path": file.path})
            finally:
                self._queued.discard(key)

    def _scan(self, key: str, repo_row: str, file: StoredFile) -> None:
        info = self._repos.find_by_row_id(repo_row)
        if info is None:
            return
        reader = cast("BinaryIO", io.BufferedReader(_Bytes(self._content, info, file), _BLOCK))
        found = scan(reader)
        imports = sorted(found.imports, key=lambda it: (_WEIGHT[it.safety], it.module, it.name))
        with self._database.write() as session:
            session.merge(
                FileScan(
                    key=key,
                    version=VERSION,
                    level=found.level,
                    imports=[{"module": it.module, "name": it.name, "safety": it.safety} for it in imports],
                    doubts=found.doubts,
                    scanned_at=utc_naive(),
                )
            )


class _Bytes(io.RawIOBase):
    """A stored file as a seekable one, read in blocks from whatever form is here."""

    def __init__(self, content: Content, info: RepoInfo, file: StoredFile) -> None:
        self._content, self._info, self._file = content, info, file
        self._at = 0
        self._small = None if file.sha256 else content.read_small(info, file)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        if base + offset < 0:
            raise OSError(22, "Invalid argument")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        end = min(self._at + len(view), self._file.size)
        if end <= self._at:
            return 0
        if self._small is not None:
            data = self._small[self._at : end]
        else:
            data = b"".join(self._content.iter_bytes(self._info, self._file, self._at, end))
        view[: len(data)] = data
        self._at += len(data)
        return len(data)


def draw_file_status(finding: Finding | None) -> dict[str, object]:
    """Returns `securityFileStatus` of a file, as the Hub gives it; nothing here looks for viruses, and it says so."""
    level = finding.level if finding else "safe"
    scanned = finding is not None and finding.level != "queued"
    pickles: dict[str, object] = {
        "status": finding.level if finding else "unscanned",
        "pickleImports": finding.imports if finding else [],
        "version": str(VERSION) if scanned else "",
        "message": ", ".join(finding.doubts) if finding else "",
    }
    return {
        "status": level,
        "avScan": {"status": "unscanned", "message": "", "version": ""},
        "pickleImportScan": pickles,
    }


def draw_repo_status(findings: dict[str, Finding]) -> dict[str, object]:
    """Returns `securityRepoStatus`."""
    issues = [
        {"path": path, "level": finding.level}
        for path, finding in findings.items()
        if finding.level not in ("safe", "queued")
    ]
    done = all(finding.level != "queued" for finding in findings.values())
    return {"scansDone": done, "filesWithIssues": issues}
