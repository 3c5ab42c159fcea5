"""Content-addressed bytes: whole files by SHA-256, xorbs by their merkle hash. Local disk."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager
from io import FileIO
from pathlib import Path
from typing import Literal, Protocol

from fust.core.files import BlockWriter, fsync_folder, full_disk_is_clear, write_atomic
from fust.core.locks import FileLock

Kind = Literal["lfs", "xorbs"]
PARTS_LIFE_S = 24 * 3600.0


class BlobStore(Protocol):
    """What the hub asks of a place for large bytes. A name is the hash of its bytes, checked by the caller."""

    def find(self, kind: Kind, name: str) -> Path | None:
        """Returns the local file of a name, or None."""
        ...

    def new_temporary(self) -> Path:
        """Returns an unused path on the same file system, for ``keep``."""
        ...

    def keep(self, kind: Kind, name: str, temporary: Path) -> Path:
        """Moves a written temporary file under its name; durable when it returns."""
        ...

    def remove(self, kind: Kind, name: str) -> None:
        """Forgets a name."""
        ...

    def in_use(self) -> AbstractContextManager[None]:
        """While it is held, nothing is swept: from looking for bytes until the row that names them is written."""
        ...


class LocalBlobs:
    """Blobs in a folder: ``lfs/ab/cd/<sha256>``, ``xorbs/ab/<hash>``, and ``tmp``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._tmp = root / "tmp"
        self._tmp.mkdir(parents=True, exist_ok=True)

    def path(self, kind: Kind, name: str) -> Path:
        """Returns where a name lives, whether it is there or not."""
        if kind == "lfs":
            return self.root / "lfs" / name[:2] / name[2:4] / name
        return self.root / "xorbs" / name[:2] / name

    def find(self, kind: Kind, name: str) -> Path | None:
        """Returns the local file of a name, or None."""
        path = self.path(kind, name)
        return path if path.is_file() else None

    def new_temporary(self) -> Path:
        """Returns an unused path on the same file system, for ``keep``."""
        return self._tmp / f"{int(time.time())}-{os.getpid()}-{secrets.token_hex(8)}"

    def keep(self, kind: Kind, name: str, temporary: Path) -> Path:
        """Moves a written temporary file under its name; file and folders are on the disk when it returns.

        Raises:
            StorageFull: no room; the temporary file is removed.

        """
        path = self.path(kind, name)
        try:
            with full_disk_is_clear(path):
                fresh = not path.parent.is_dir()
                path.parent.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(temporary, os.O_RDWR)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
                os.replace(temporary, path)
                fsync_folder(path.parent)
                if fresh:
                    for folder in path.parent.parents:
                        fsync_folder(folder)
                        if folder == self.root:
                            break
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return path

    @contextlib.contextmanager
    def in_use(self) -> Generator[None]:
        """While it is held, nothing is swept: from looking for bytes until the row that names them is written."""
        lock = FileLock(self.root / ".sweep.lock")
        lock.acquire(wait=True, shared=True)
        try:
            yield
        finally:
            lock.release()

    def generation(self) -> str:
        """Returns a word that changes when xorbs are removed.

        Clients of Xet remember for weeks, by the URL that they were given, which xorbs they sent, and build new files
        from those without sending them again; so that URL holds this word.
        """
        try:
            return (self.root / ".generation").read_text(encoding="ascii")
        except FileNotFoundError:
            return ""

    def begin_generation(self) -> None:
        """Makes clients forget what they sent; call before xorbs are removed."""
        write_atomic(self.root / ".generation", secrets.token_hex(4).encode())

    @contextlib.contextmanager
    def alone(self) -> Generator[None]:
        """Waits until nobody uses bytes, and keeps others waiting; for moments only."""
        with FileLock(self.root / ".sweep.lock"):
            yield

    def remove(self, kind: Kind, name: str) -> None:
        """Forgets a name."""
        self.path(kind, name).unlink(missing_ok=True)

    def iter_kept(self, kind: Kind) -> Iterator[tuple[str, int, float]]:
        """Yields (name, size in bytes, time of its last change) of everything kept."""
        for folder, _, names in os.walk(self.root / kind):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    found = os.stat(os.path.join(folder, name))
                    yield name, found.st_size, found.st_mtime

    def clean_parts(self) -> int:
        """Removes uploads in parts that nobody went on with for a day; returns how many."""
        removed = 0
        for folder in (self.root / "parts").glob("*"):
            if time.time() - folder.stat().st_mtime > PARTS_LIFE_S:
                shutil.rmtree(folder, ignore_errors=True)
                removed += 1
        return removed

    def iter_left(self) -> Iterator[Path]:
        """Yields temporary files of processes that are gone."""
        for path in self._tmp.iterdir():
            _, _, rest = path.name.partition("-")
            pid = rest.partition("-")[0]
            if not (pid.isdigit() and _is_alive(int(pid))):
                yield path

    def clean_temporaries(self) -> int:
        """Removes what processes that are gone left behind; returns how many files. Live ones keep theirs."""
        removed = 0
        for path in list(self.iter_left()):
            _discard(path)
            removed += 1
        return removed


def _discard(path: Path) -> None:
    if path.is_dir():  # of a file that was being cut into chunks
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    if pid == os.getpid():
        return False  # this process has just begun: a file of that number is from one before it
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class Spool:
    """A temporary file that bytes stream into, bounded; ``discard`` is safe at any moment."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._file: FileIO | None = None
        self._blocks: BlockWriter | None = None

    def write(self, data: bytes) -> None:
        """Adds bytes.

        Raises:
            StorageFull: no room.

        """
        with full_disk_is_clear(self.path):
            if self._blocks is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = open(self.path, "xb", buffering=0)  # noqa: SIM115 closed in close()
                self._blocks = BlockWriter(self._file)
            self._blocks.write(data)
        self.size += len(data)

    def close(self) -> None:
        """Ends writing; an empty spool is an empty file."""
        if self._file is None:
            self.write(b"")
        if self._blocks is not None:
            with full_disk_is_clear(self.path):
                self._blocks.flush()
        if self._file is not None:
            self._file.close()

    def discard(self) -> None:
        """Removes the file, when it is still there."""
        if self._file is not None:
            self._file.close()
        self.path.unlink(missing_ok=True)
