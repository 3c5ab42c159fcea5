"""Durable runs: rows that are asked for, admitted in order, watched, cancelled and kept."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import select, update

from fust.accounts.audit import note_action
from fust.accounts.rights import Asked, Identity
from fust.core.clock import iso, utc_naive
from fust.core.errors import Conflict, InvalidInput, NotFound, Unauthenticated
from fust.core.i18n import Language, fill
from fust.core.ids import new_id
from fust.core.settings import Settings
from fust.core.units import show_size
from fust.jobs.folder import Event, Fault, RunFolder
from fust.jobs.kinds import Kind
from fust.jobs.models import RunRow, get_asked, put_asked, visible_params
from fust.jobs.supervisor import Budget, Supervisor, budget_of
from fust.store.database import Database
from fust.wire.runs import FINAL_STATES, Progress, Run


class Jobs:
    """Runs of one home. ``start`` adopts what still runs from before; ``stop`` leaves processes running."""

    def __init__(self, database: Database, settings: Settings, *, worker: str = "fust.app.worker") -> None:
        self._database = database
        self._settings = settings
        self._kinds: dict[str, Kind] = {}
        self._supervisor = Supervisor(database, settings, self._kinds, worker)

    def register(self, kind: Kind) -> None:
        """Makes a kind of run known; before ``start``."""
        self._kinds[kind.name] = kind

    def start(self) -> None:
        """Begins to admit and to watch; adopts living runs and settles dead ones first."""
        self._supervisor.start()

    def stop(self) -> None:
        """Ends watching. The processes of runs go on, and the next ``start`` finds them."""
        self._supervisor.stop()

    @property
    def budget(self) -> Budget:
        """Returns what runs may take together."""
        return budget_of(self._settings)

    def create(self, identity: Identity, kind_name: str, params: dict[str, Any]) -> RunRow:
        """Queues a run and returns its row.

        Raises:
            Unauthenticated: nobody calls.
            InvalidInput: no such kind, or params that it refuses, or more memory than runs may have.

        """
        if identity.user is None:
            raise Unauthenticated("Starting a run needs a key.", hint="`fust tokens new` makes one.")
        kind = self._kinds.get(kind_name)
        if kind is None:
            raise InvalidInput(
                "There is no kind of run {kind!r}.",
                hint="There are: {kinds}.",
                kind=kind_name[:50],
                kinds=", ".join(sorted(self._kinds)),
            )
        checked = kind.prepare(identity, params)
        memory_bytes = kind.memory_for(checked)
        self.check_memory(kind.name, memory_bytes)
        row = RunRow(
            id=new_id("r"),
            kind=kind.name,
            owner=identity.user,
            state="queued",
            params=put_asked(checked, Asked.of(identity)),
            memory_bytes=memory_bytes,
            cores=min(kind.cores, self.budget.cores),
        )
        with self._database.write() as session:
            session.add(row)
            note_action(session, identity, "run.create", f"run:{row.id}", kind=row.kind)
        self._supervisor.wake()
        return row

    def check_memory(self, kind_name: str, memory_bytes: int) -> None:
        """Raises InvalidInput when a run takes more memory than runs may have."""
        allowed = self.budget.memory_bytes
        if memory_bytes > allowed:
            raise InvalidInput(
                "A run of kind {kind} takes {needed}, and runs may take {allowed} together.",
                hint="Raise the setting jobs.memory_bytes, or use a machine with more memory.",
                kind=kind_name,
                needed=show_size(memory_bytes),
                allowed=show_size(allowed),
            )

    def get(self, identity: Identity, run_id: str) -> RunRow:
        """Returns a run that the caller may see: its own, or anybody's for an administrator.

        Raises:
            NotFound: there is none.

        """
        with self._database.read() as session:
            row = session.get(RunRow, run_id)
        if row is None or not _may_see(identity, row):
            raise NotFound("There is no run {id!r}.", hint="`fust jobs` lists yours.", id=run_id[:50])
        return row

    def list_runs(self, identity: Identity, *, state: str | None = None, limit: int = 50) -> list[RunRow]:
        """Returns the runs that the caller may see, newest first.

        ``state`` is one of the states, `active` for queued and running, or none for all.
        """
        if identity.user is None:
            raise Unauthenticated("Seeing runs needs a key.", hint="`fust tokens new` makes one.")
        query = select(RunRow).order_by(RunRow.id.desc()).limit(max(1, min(limit, 500)))
        if state == "active":
            query = query.where(RunRow.state.in_(("queued", "running")))
        elif state:
            query = query.where(RunRow.state == state)
        if not identity.is_admin:
            query = query.where(RunRow.owner == identity.user)
        with self._database.read() as session:
            return [row for row in session.scalars(query) if _may_see(identity, row)]

    def cancel(self, identity: Identity, run_id: str) -> RunRow:
        """Asks for the end of a run; a queued one ends at once and never starts.

        Raises:
            NotFound: there is none that the caller may see.
            Conflict: it has ended already.

        """
        row = self.get(identity, run_id)
        if row.state in FINAL_STATES:
            raise Conflict("The run {id} has ended already ({state}).", id=run_id, state=row.state)
        with self._database.write() as session:
            session.execute(
                update(RunRow)
                .where(
                    RunRow.id == run_id, RunRow.state.in_(("queued", "running")), RunRow.cancel_at.is_(None)
                )
                .values(cancel_at=utc_naive())
            )
            note_action(session, identity, "run.cancel", f"run:{run_id}", kind=row.kind)
        self._supervisor.wake()
        return self.get(identity, run_id)

    def resume(self, identity: Identity, run_id: str) -> RunRow:
        """Queues a run again that was cancelled or failed; it goes on from what its folder holds.

        It works with the rights that it was asked for with, as they are now.

        Raises:
            NotFound: there is none that the caller may see.
            Conflict: it has not ended, or succeeded, or is of a kind that begins anew.

        """
        row = self._resumable(identity, run_id)
        self.folder(run_id).ask_for_early_end(False)
        return self._queue_again(identity, row, "run.resume")

    def end_early(self, identity: Identity, run_id: str) -> RunRow:
        """Asks a run to end now with what it has; one that was paused or failed goes on for it.

        Raises:
            NotFound: there is none that the caller may see.
            Conflict: it has ended, has not begun, or is of a kind that is whole or nothing.

        """
        row = self.get(identity, run_id)
        kind = self._kinds.get(row.kind)
        if kind is None or not kind.ends_early or row.state == "succeeded" or row.started_at is None:
            raise Conflict(
                "The run {id} cannot end early ({state}).",
                hint="Only tunings that have begun and not ended do.",
                id=run_id,
                state=row.state,
            )
        self.folder(run_id).ask_for_early_end(True)
        if row.state in FINAL_STATES:
            return self._queue_again(identity, row, "run.end_early")
        with self._database.write() as session:
            note_action(session, identity, "run.end_early", f"run:{run_id}", kind=row.kind)
        return self.get(identity, run_id)

    def _resumable(self, identity: Identity, run_id: str) -> RunRow:
        row = self.get(identity, run_id)
        kind = self._kinds.get(row.kind)
        if row.state not in ("cancelled", "failed") or kind is None or not kind.resumable:
            raise Conflict(
                "The run {id} cannot go on ({state}).",
                hint="Only runs that were cancelled or failed do, of kinds that keep what they did.",
                id=run_id,
                state=row.state,
            )
        return row

    def _queue_again(self, identity: Identity, row: RunRow, action: str) -> RunRow:
        again = {"state": "queued", "cancel_at": None, "ended_at": None, "error": None, "attempts": 0}
        with self._database.write() as session:
            session.execute(
                update(RunRow).where(RunRow.id == row.id, RunRow.state == row.state).values(**again)
            )
            note_action(session, identity, action, f"run:{row.id}", kind=row.kind)
        self._supervisor.wake()
        return self.get(identity, row.id)

    def folder(self, run_id: str) -> RunFolder:
        """Returns the folder of a run that was found by ``get``."""
        return RunFolder(self._settings.home, run_id)

    def draw(self, row: RunRow, language: Language = "en") -> Run:
        """Returns a run as the wire shows it, in a language."""
        kind = self._kinds.get(row.kind)
        waits = msgspec.convert(row.waits_for, Fault) if row.waits_for and row.state == "queued" else None
        return Run(
            id=row.id,
            kind=row.kind,
            title=fill(kind.title_for(row.params), row.params, language) if kind else row.kind,
            owner=row.owner,
            state=row.state,  # type: ignore[arg-type] # rows hold nothing else
            progress=self._progress(row, language),
            params=visible_params(row.params),
            result=row.result,
            error=msgspec.convert(row.error, Fault).draw(language) if row.error else None,
            memory_bytes=row.memory_bytes,
            cores=row.cores,
            created_at=iso(row.created_at) or "",
            started_at=iso(row.started_at),
            ended_at=iso(row.ended_at),
            waits_for=waits.draw(language).message if waits else "",
        )

    def _progress(self, row: RunRow, language: Language) -> Progress | None:
        # A running run's truth is its folder; nothing is written to the database while it works.
        event = (
            self.folder(row.id).find_progress()
            if row.state == "running"
            else msgspec.convert(row.progress, Event)
            if row.progress
            else None
        )
        drawn = event.draw(language) if event else None
        return drawn if isinstance(drawn, Progress) else None


def _may_see(identity: Identity, row: RunRow) -> bool:
    """A fine-grained key sees the runs that it asked for, anybody else its own, administrators all."""
    if identity.user is None:
        return False
    if identity.grants is not None:
        return get_asked(row.params).token_id == identity.token_id
    return identity.is_admin or row.owner == identity.user
