"""Brings many files at a time: a few connections take ranges of large files and small files off one list.

A large file is cut into segments; the first one asks whether the hub knows ranges at all, and one that does not is read
from its start on a single connection. Whatever was recorded in a part is never asked for again.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from fust.core.errors import FustError, UpstreamFailed
from fust.core.files import full_disk_is_clear
from fust.core.ids import RepoType
from fust.hub.errors import BadHash
from fust.hub.pulling.forms import HubForm
from fust.hub.pulling.parts import Extent, Part, claim_part
from fust.hub.pulling.types import UpstreamFile, UpstreamRepo
from fust.hub.pulling.web import NoRanges, Piece, Stalled, Stopped

SEGMENT_BYTES = 32 * 2**20
"""What one request asks for of a large file."""
_WORTHLESS = frozenset({"storage_full", "wrong_length", "wrong_hash"})
"""Errors after which a half-fetched file is of no use; after any other a later pull continues it."""


@dataclass(eq=False)
class _Large:
    """A large file under way."""

    file: UpstreamFile
    part: Part
    claim: ExitStack
    damaged: int = 0
    left: int = 0
    """Segments that are queued or under way."""
    probing: bool = True
    waiting: list[tuple[int, int]] = field(default_factory=lambda: [])
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True, eq=False)
class _Segment:
    large: _Large
    start: int
    end: int


_Task = UpstreamFile | _Segment


class Fetcher:
    """One pull's files on their way; made for one ``run``."""

    def __init__(
        self,
        form: HubForm,
        repo: UpstreamRepo,
        repo_type: RepoType,
        *,
        home: Path,
        work: Path,
        connections: int,
        keep: Callable[[UpstreamFile, Path], None],
        say: Callable[..., None],
    ) -> None:
        """``keep(file, path)`` takes a large file in and raises BadHash when its bytes are not the announced ones."""
        self._form = form
        self._web = form.web
        self._repo = repo
        self._type: RepoType = repo_type
        self._home = home
        self._work = work
        self._connections = connections
        self._keep = keep
        self._say = say
        self._tasks: deque[_Task] = deque()
        self._changed = threading.Condition()
        self._active = 0
        self._error: BaseException | None = None
        self._open: set[_Large] = set()
        self._extents: set[Extent] = set()
        self.done_bytes = 0
        """Bytes that are here, fetched now or found."""
        self.fetched_bytes = 0
        """Bytes that came over the line."""
        self.found_bytes = 0
        """Bytes that were here already."""
        self.current = ""
        """The file that was last begun."""
        self._finished = False

    def small_path(self, file: UpstreamFile) -> Path:
        """Returns where a small file lies once it was fetched and checked."""
        return self._work / f"{file.key}.small"

    def run(self, files: list[UpstreamFile], tick: Callable[[], None]) -> None:
        """Brings all files; calls ``tick`` some times a second, from the caller's thread.

        Raises:
            FustError: the first thing that went wrong; what was fetched by then stays for a later pull.

        """
        ordered = sorted(files, key=lambda file: (file.is_large, file.size))
        self._tasks.extend(ordered)
        count = max(1, min(self._connections, 64))
        threads = [threading.Thread(target=self._work_off, daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        try:
            with self._changed:
                while self._error is None and (self._tasks or self._active):
                    self._changed.wait(0.2)
                    tick()
        finally:
            with self._changed:
                if self._error is not None or self._tasks or self._active:
                    self._web.stop.set()
                self._tasks.clear()
                self._finished = True
                self._changed.notify_all()
            for thread in threads:
                thread.join(0.5)
            for extent in list(self._extents):  # of connections that are still stuck
                extent.flush()
            for large in list(self._open):
                large.claim.close()
        if self._error is not None:
            raise self._error

    # Threads

    def _work_off(self) -> None:
        while (task := self._next()) is not None:
            try:
                if isinstance(task, _Segment):
                    self._bring_segment(task)
                elif task.is_large:
                    self._begin_large(task)
                else:
                    self._bring_small(task)
            except Stopped:
                pass
            except BaseException as error:  # said by the thread that waits for all
                with self._changed:
                    self._error = self._error or error
            finally:
                with self._changed:
                    self._active -= 1
                    self._changed.notify_all()

    def _next(self) -> _Task | None:
        with self._changed:
            while not self._tasks:
                if self._finished or self._error is not None:
                    return None
                self._changed.wait(0.5)
            if self._error is not None:
                return None
            self._active += 1
            return self._tasks.popleft()

    def _add(self, tasks: list[_Task]) -> None:
        with self._changed:
            self._tasks.extendleft(reversed(tasks))
            self._changed.notify_all()

    def _count(self, size: int, *, came: bool) -> None:
        with self._changed:
            self.done_bytes += size
            self.fetched_bytes += size if came else 0

    def _found(self, size: int) -> None:
        with self._changed:
            self.done_bytes += size
            self.found_bytes += size

    # Small files

    def _bring_small(self, file: UpstreamFile) -> None:
        self.current = file.path
        target = self.small_path(file)
        if target.exists():
            self._found(file.size)
            return
        for attempt in (1, 2):
            data = self._web.patiently(lambda: self._read_small(file), path=file.path)
            if _is_right(file, data):
                temporary = target.with_suffix(f".{threading.get_ident()}")
                with full_disk_is_clear(temporary):
                    temporary.write_bytes(data)
                    temporary.replace(target)
                return
            self._count(-file.size, came=False)
            if attempt == 1:
                self._say("{path} arrived damaged; fetching it again.", path=file.path)
        raise self._wrong_hash(file)

    def _read_small(self, file: UpstreamFile) -> bytes:
        data = bytearray()
        counted = 0
        try:
            for position, piece in self._stream(file, 0, file.size):
                del data[position:]
                data += piece
                counted += len(piece)
                if len(data) > file.size:
                    raise self._web.wrong_length(file, more=True)
                self._count(len(piece), came=True)
                self._web.throttle(len(piece))
            if len(data) < file.size:
                raise Stalled(f"the connection ended {file.size - len(data)} bytes early")
        except BaseException:
            self._count(-counted, came=False)
            raise
        return bytes(data)

    def _stream(self, file: UpstreamFile, start: int, end: int) -> Iterator[Piece]:
        return self._form.stream(self._repo, self._type, file, start, end)

    # Large files

    def _begin_large(self, file: UpstreamFile) -> None:
        self.current = file.path
        claim = ExitStack()
        large = _Large(
            file, claim.enter_context(claim_part(self._home, self._work, file.sha256, file.size)), claim
        )
        with self._changed:
            self._open.add(large)
        self._found(large.part.have_bytes)
        self._plan(large)

    def _plan(self, large: _Large) -> None:
        """Queues the segments that are missing: the first one alone, until it knows whether ranges work."""
        segments = [
            (start, min(start + SEGMENT_BYTES, end))
            for first, end in large.part.missing()
            for start in range(first, end, SEGMENT_BYTES)
        ]
        if not segments:
            self._finish(large)
            return
        large.left, large.probing = len(segments), True
        large.waiting = segments[1:]
        self._add([_Segment(large, *segments[0])])

    def _bring_segment(self, segment: _Segment) -> None:
        large, file = segment.large, segment.large.file
        self.current = file.path
        extent = Extent(large.part, segment.start)
        end = segment.end
        with self._changed:
            self._extents.add(extent)

        def once() -> None:
            nonlocal end
            try:
                self._copy(large, extent, end)
            except NoRanges:
                if not large.probing and large.left > 1:
                    raise Stalled("it knew ranges before, and now does not") from None
                self._ranges_known(large, whole=True)
                self._restart(large, extent)
                end = file.size
                self._copy(large, extent, end)
            if extent.position < end:
                raise Stalled(f"the connection ended {end - extent.position} bytes early")

        try:
            self._web.patiently(once, progressed=lambda: extent.position, path=file.path)
        except FustError as error:
            if error.code in _WORTHLESS:
                large.part.reset()
                large.part.remove()
            raise
        finally:
            with self._changed:
                self._extents.discard(extent)
            with full_disk_is_clear(large.part.path):
                extent.flush()
        self._leave(large)

    def _copy(self, large: _Large, extent: Extent, end: int) -> None:
        """Copies what comes for an extent, up to ``end``."""
        file = large.file
        if extent.position >= end:
            return
        for position, piece in self._stream(file, extent.position, end):
            if position + len(piece) > end:
                if end == file.size:
                    raise self._web.wrong_length(file, more=True)
                piece = piece[: end - position]  # a hub that sends more than the range it was asked for
            if large.probing:
                self._ranges_known(large, whole=False)
            with full_disk_is_clear(large.part.path):
                extent.write(piece)
            self._count(len(piece), came=True)
            self._web.throttle(len(piece))
            if extent.position >= end != file.size:
                return

    def _restart(self, large: _Large, extent: Extent) -> None:
        """Begins a file anew that the hub sends only from its start."""
        self._count(-large.part.have_bytes - extent.unrecorded, came=False)
        extent.restart(0)
        large.part.reset()

    def _ranges_known(self, large: _Large, *, whole: bool) -> None:
        with large.lock:
            if not large.probing:
                return
            large.probing = False
            waiting, large.waiting = large.waiting, []
            if whole:
                large.left = 1
                return
        self._add([_Segment(large, start, end) for start, end in waiting])

    def _leave(self, large: _Large) -> None:
        with large.lock:
            large.left -= 1
            if large.left:
                return
        self._finish(large)

    def _finish(self, large: _Large) -> None:
        """Gives a file with all of its bytes to the hub, which checks its hash; once more from the start when wrong."""
        file = large.file
        large.part.sync()
        try:
            self._keep(file, large.part.path)
        except BadHash:
            self._count(-file.size, came=False)
            large.damaged += 1
            if large.damaged > 1:
                large.part.remove()
                raise self._wrong_hash(file) from None
            large.part.reset()
            self._say("{path} arrived damaged; fetching it again.", path=file.path)
            self._plan(large)
            return
        large.part.remove()
        with self._changed:
            self._open.discard(large)
        large.claim.close()

    def _wrong_hash(self, file: UpstreamFile) -> UpstreamFailed:
        return UpstreamFailed(
            "What {source} sends for {path} is not what it announced: its hash is not {wanted}.",
            hint="Nothing was kept. Tell the owner of that hub, or name another with --from.",
            code="wrong_hash",
            source=self._web.source,
            path=file.path,
            wanted=file.key[:16],
        )


def _is_right(file: UpstreamFile, data: bytes) -> bool:
    """Returns whether bytes have the announced hash: SHA-256 when there is one, else git's SHA-1."""
    if file.sha256:
        return hashlib.sha256(data).hexdigest() == file.sha256
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest() == file.oid
