"""Makes xorbs of files that arrived whole (by git-lfs), so that Xet's clients fetch them too and versions share chunks.

hf-xet itself cuts and packs, into a folder of this run; its xorbs and shard are then taken in like any client's, every
hash verified. The whole file becomes one of the evictable cache: large files are kept once.
"""

from __future__ import annotations

import importlib
import logging
import queue
import shutil
import threading
from pathlib import Path
from typing import Any

from sqlalchemy import delete, select

from fust.core.errors import FustError
from fust.hub.blobs import LocalBlobs
from fust.hub.cache import SPARE_BYTES, WholeFiles
from fust.hub.models import ChunkWish, LargeFile
from fust.hub.xet.cas import Cas
from fust.store.database import Database

log = logging.getLogger(__name__)

_ATTEMPTS = 5


class Chunker:
    """Converts one file at a time, on a thread that begins with the first.

    What waits is a row: a server that ends, or is killed, goes on with it at its next start.
    """

    def __init__(self, database: Database, blobs: LocalBlobs, cas: Cas, cache: WholeFiles) -> None:
        self._database = database
        self._blobs = blobs
        self._cas = cas
        self._cache = cache
        self._waiting: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, namespace: str, sha256: str) -> None:
        """Asks for a file of a namespace to be converted."""
        with self._database.write() as session:
            session.merge(ChunkWish(sha256=sha256, namespace=namespace, attempts=0))
        self._enqueue(namespace, sha256)

    def resume(self) -> int:
        """Goes on with what an earlier server left; returns how many files wait."""
        with self._database.read() as session:
            waiting = [(row.namespace, row.sha256) for row in session.scalars(select(ChunkWish))]
        for namespace, sha256 in waiting:
            self._enqueue(namespace, sha256)
        return len(waiting)

    def _enqueue(self, namespace: str, sha256: str) -> None:
        self._waiting.put((namespace, sha256))
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="fust-chunker", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            namespace, sha256 = self._waiting.get()
            try:
                if self._begin(sha256):
                    self.convert(namespace, sha256)
                    self._forget(sha256)
            except (FustError, OSError, RuntimeError) as error:
                # The file stays as it came and downloads over plain HTTP; the next start tries again.
                log.warning("a file was not cut into chunks", extra={"sha256": sha256, "reason": str(error)})

    def _begin(self, sha256: str) -> bool:
        """Counts an attempt; returns whether to make it: a file that ends the server each time is left alone."""
        with self._database.write() as session:
            wish = session.get(ChunkWish, sha256)
            if wish is None or wish.attempts >= _ATTEMPTS:
                return False
            wish.attempts += 1
            return True

    def _forget(self, sha256: str) -> None:
        with self._database.write() as session:
            session.execute(delete(ChunkWish).where(ChunkWish.sha256 == sha256))

    def convert(self, namespace: str, sha256: str) -> bool:
        """Makes xorbs of a whole file and keeps them in its stead; returns False when there is nothing to do.

        Raises:
            FustError, OSError, RuntimeError: no room, or hf-xet failed; the file is as it was.

        """
        path = self._blobs.find("lfs", sha256)
        with self._database.read() as session:
            row = session.get(LargeFile, sha256)
        if path is None or row is None or row.xet_hash is not None or not row.size:
            return False
        if shutil.disk_usage(self._blobs.root).free < 2 * row.size + SPARE_BYTES:
            return False  # others need the room more
        folder = self._blobs.new_temporary()
        try:
            self._pack(namespace, sha256, path, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self._retire(sha256, path, row.size)
        return True

    def _pack(self, namespace: str, sha256: str, path: Path, folder: Path) -> None:
        hf_xet: Any = importlib.import_module(
            "hf_xet"
        )  # here: a server that converts nothing starts without it
        commit = hf_xet.XetSession().new_upload_commit(endpoint=f"local://{folder}")
        commit.start_upload_file(str(path), sha256=sha256)
        commit.wait_to_finish()
        store = folder / "xet" / "xorbs"
        for xorb in (store / "xorbs").glob("default.*"):
            if xorb.suffix != ".tagset":
                self._cas.add_xorb(namespace, xorb.name.removeprefix("default."), xorb)
        for shard in (store / "shards").glob("*.mdb"):
            self._cas.add_shard(namespace, shard.read_bytes())

    def _retire(self, sha256: str, path: Path, size: int) -> None:
        """Turns a whole blob into a file of the cache; readers that opened it keep it."""
        with self._blobs.alone():
            with self._database.write() as session:
                row = session.get(LargeFile, sha256)
                if row is None or row.xet_hash is None:
                    return
                row.has_blob = False
            if self._cache.adopt(sha256, path, size):
                return
            self._blobs.remove("lfs", sha256)
