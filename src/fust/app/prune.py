"""Removes what has had its time: unreferenced large files, converted models, folders of old runs, delivered events, expired sign-ins."""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pygit2
from sqlalchemy import delete, select

from fust.accounts.devices import DeviceCode
from fust.accounts.models import BrowserSession, SignInCode
from fust.core.clock import utc_naive
from fust.core.errors import FustError, Unavailable
from fust.core.ids import check_repo_type
from fust.core.locks import FileLock
from fust.core.settings import Settings
from fust.hub.git_store import GitStore
from fust.hub.hooks.service import prune_deliveries
from fust.hub.pulling.parts import sweep_parts
from fust.hub.service import Hub
from fust.hub.sweep import Swept, sweep
from fust.jobs.folder import RunFolder
from fust.jobs.models import RunRow
from fust.serve.conversion import list_unused
from fust.serve.hub_files import HubFiles
from fust.store.database import Database
from fust.store.outbox import OutboxRow
from fust.wire.runs import FINAL_STATES

log = logging.getLogger(__name__)

_FIRST_S, _EVERY_S = 600.0, 86400.0
_EVENTS_KEPT = timedelta(days=7)


@dataclass(slots=True)
class Pruned:
    """What was, or with ``dry_run`` would be, removed."""

    large: Swept = field(default_factory=Swept)
    runs: int = 0
    converted: int = 0
    """Models in another form that no deployment is made of."""
    packed: int = 0
    """Repos whose objects were packed; none with ``dry_run``."""
    size_bytes: int = 0
    """Of all of it."""


@contextlib.contextmanager
def kept_alone(home: Path, *more: FileLock) -> Generator[None]:
    """Holds the lock that backups and pruning take, so that nothing vanishes while it is copied, and ``more``.

    Raises:
        Unavailable: a backup, or a pruning, is under way; none is held then.
    """
    with contextlib.ExitStack() as held:
        for lock in (FileLock(home / "keep.lock"), *more):
            if not lock.acquire():
                raise Unavailable(
                    "A backup or a cleaning of {home} is under way.",
                    hint="Try again when it is done.",
                    home=home,
                )
            held.callback(lock.release)
        yield


def prune(settings: Settings, database: Database, hub: Hub, *, dry_run: bool = False) -> Pruned:
    """Removes what has had its time; safe beside a server and its uploads.

    Raises:
        Unavailable: a backup, or another pruning, is under way.

    """
    with kept_alone(settings.home):
        blobs = hub.blobs
        done = Pruned(sweep(database, blobs, settings.hub.keep_unreferenced_s, dry_run=dry_run))
        done.size_bytes = done.large.size_bytes
        if settings.jobs.keep_s:
            _prune_runs(settings, database, done, dry_run)
        for path in list_unused(settings, database, HubFiles(hub)):
            done.converted += 1
            done.size_bytes += path.stat().st_size
            if not dry_run:
                path.unlink(missing_ok=True)
        if not dry_run:
            _prune_rows(database)
            done.packed = pack_repos(GitStore(settings.home / "git"))
            sweep_parts(settings.home)
            blobs.clean_parts()
        return done


def pack_repos(git: GitStore) -> int:
    """Packs repos that grew many small files; returns how many."""
    packed = 0
    for plural, owner, name in list(git.iter_repos()):
        try:
            packed += git.repack(check_repo_type(plural), owner, name)
        except (OSError, FustError, pygit2.GitError):  # deleted or renamed meanwhile, or its disk is full
            log.warning("a repo was not packed", exc_info=True, extra={"repo": f"{owner}/{name}"})
    return packed


def _prune_runs(settings: Settings, database: Database, done: Pruned, dry_run: bool) -> None:
    before = utc_naive() - timedelta(seconds=settings.jobs.keep_s)
    with database.read() as session:
        query = select(RunRow.id).where(RunRow.state.in_(FINAL_STATES), RunRow.ended_at < before)
        ended = list(session.scalars(query))
    for run_id in ended:
        folder = RunFolder(settings.home, run_id)
        if folder.path.is_dir() and not folder.is_alive():
            done.runs += 1
            done.size_bytes += sum(path.stat().st_size for path in folder.path.rglob("*") if path.is_file())
            if not dry_run:
                shutil.rmtree(folder.path, ignore_errors=True)


def _prune_rows(database: Database) -> None:
    now = utc_naive()
    with database.write() as session:
        session.execute(delete(OutboxRow).where(OutboxRow.delivered_at < now - _EVENTS_KEPT))
        prune_deliveries(session)
        session.execute(delete(BrowserSession).where(BrowserSession.expires_at < now))
        session.execute(delete(DeviceCode).where(DeviceCode.expires_at < now))
        session.execute(delete(SignInCode).where(SignInCode.expires_at < now))


class Pruner:
    """Prunes ten minutes after a start and then daily, on a thread of its own."""

    def __init__(self, settings: Settings, database: Database, hub: Hub) -> None:
        self._settings, self._database, self._hub = settings, database, hub
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fust-prune", daemon=True)

    def start(self) -> None:
        """Begins to wait."""
        self._thread.start()

    def stop(self) -> None:
        """Ends after the batch at hand."""
        self._stopping.set()

    def _run(self) -> None:
        wait_s = _FIRST_S
        while not self._stopping.wait(wait_s):
            wait_s = _EVERY_S
            started = time.monotonic()
            try:
                done = prune(self._settings, self._database, self._hub)
            except Unavailable:
                wait_s = _FIRST_S  # a backup is under way
                continue
            except Exception:
                log.exception("what is old could not be removed")
                continue
            log.info(
                "removed what is old",
                extra={
                    "files": done.large.files,
                    "xorbs": done.large.xorbs,
                    "runs": done.runs,
                    "converted": done.converted,
                    "size_bytes": done.size_bytes,
                    "took_s": round(time.monotonic() - started, 1),
                },
            )
