"""`/fust/v1/runs`: ask for runs, look at them, follow them, end them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from typing import Annotated

import msgspec
from litestar import Request, get, post
from litestar.datastructures import State
from litestar.params import Parameter
from litestar.response import Stream
from litestar.types import ControllerRouterHandler

from fust.accounts.rights import Identity
from fust.accounts.service import Accounts
from fust.core.errors import NotFound, Unauthenticated
from fust.core.i18n import Language, accepted_language
from fust.jobs.folder import RunFolder
from fust.jobs.service import Jobs
from fust.wire.runs import FINAL_STATES, NewRun, Run, RunList

_POLL_S = 0.2
_ROW_EVERY = 2
"""The row is looked at with every second look at the file."""
_HEARTBEAT_EVERY = 75
"""A comment after so many looks without news, so that proxies keep the connection (15 s)."""

AnyRequest = Request[object, object, State]


def _language(request: AnyRequest) -> Language:
    return accepted_language(request.headers.get("accept-language"))


@get("/fust/v1/runs", sync_to_thread=True, tags=["runs"])
def list_runs(
    request: AnyRequest,
    jobs: Jobs,
    identity: Identity,
    run_state: Annotated[str | None, Parameter(query="state")] = None,
    limit: Annotated[int, Parameter(ge=1, le=500)] = 50,
) -> RunList:
    """Runs that the caller may see, newest first; `state=active` gives the queued and the running ones."""
    language = _language(request)
    return RunList(
        [jobs.draw(row, language) for row in jobs.list_runs(identity, state=run_state, limit=limit)]
    )


@post("/fust/v1/runs", sync_to_thread=True, tags=["runs"])
def create_run(request: AnyRequest, jobs: Jobs, accounts: Accounts, identity: Identity, data: NewRun) -> Run:
    """Queues a run."""
    accounts.require(identity, "write")
    return jobs.draw(jobs.create(identity, data.kind, data.params), _language(request))


@get("/fust/v1/runs/{run_id:str}", sync_to_thread=True, tags=["runs"])
def get_run(request: AnyRequest, jobs: Jobs, identity: Identity, run_id: str) -> Run:
    """One run."""
    return jobs.draw(jobs.get(identity, run_id), _language(request))


@post("/fust/v1/runs/{run_id:str}/cancel", status_code=200, sync_to_thread=True, tags=["runs"])
def cancel_run(request: AnyRequest, jobs: Jobs, accounts: Accounts, identity: Identity, run_id: str) -> Run:
    """Asks for the end of a run; it answers at once, the end follows within seconds."""
    accounts.require(identity, "write")
    return jobs.draw(jobs.cancel(identity, run_id), _language(request))


@post("/fust/v1/runs/{run_id:str}/resume", status_code=200, sync_to_thread=True, tags=["runs"])
def resume_run(request: AnyRequest, jobs: Jobs, accounts: Accounts, identity: Identity, run_id: str) -> Run:
    """Queues a run again that was cancelled or failed; it goes on where it stopped."""
    accounts.require(identity, "write")
    return jobs.draw(jobs.resume(identity, run_id), _language(request))


@post("/fust/v1/runs/{run_id:str}/end-early", status_code=200, sync_to_thread=True, tags=["runs"])
def end_run_early(
    request: AnyRequest, jobs: Jobs, accounts: Accounts, identity: Identity, run_id: str
) -> Run:
    """Asks a tuning to end at its next step and to publish what it has learned by then."""
    accounts.require(identity, "write")
    return jobs.draw(jobs.end_early(identity, run_id), _language(request))


@get("/fust/v1/runs/{run_id:str}/log", media_type="text/plain", sync_to_thread=True, tags=["runs"])
def get_log(jobs: Jobs, identity: Identity, run_id: str) -> str:
    """The end of what the run's process printed (1 MiB at most)."""
    return jobs.folder(jobs.get(identity, run_id).id).read_log()


@get("/fust/v1/runs/{run_id:str}/events", media_type="text/event-stream", tags=["runs"])
async def follow_run(
    request: AnyRequest,
    jobs: Jobs,
    accounts: Accounts,
    identity: Identity,
    run_id: str,
    last_event_id: Annotated[str | None, Parameter(header="last-event-id")] = None,
) -> Stream:
    """What the run says, from `Last-Event-ID` on, then live until its end (server-sent events)."""
    await asyncio.to_thread(jobs.get, identity, run_id)  # refuses before the stream begins
    stream = _events(jobs, accounts, identity, run_id, _offset(last_event_id), _language(request))
    return Stream(
        stream,
        media_type="text/event-stream",
        headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
    )


def _offset(last_event_id: str | None) -> int:
    """Returns the offset that a client saw last; anything that no event had starts at the beginning."""
    known = last_event_id is not None and re.fullmatch(r"[0-9]{1,18}", last_event_id)
    return int(last_event_id or 0) if known else 0


async def _events(
    jobs: Jobs, accounts: Accounts, identity: Identity, run_id: str, offset: int, language: Language
) -> AsyncGenerator[bytes]:
    """Yields events: `state` from the row, `progress` and `log` from the file, whose offset is the id.

    It ends when the caller's key does, or its right to see the run: who asks again is told.
    """

    def look() -> Run | None:
        try:
            return jobs.draw(jobs.get(accounts.fresh(identity), run_id), language)
        except (Unauthenticated, NotFound):
            return None

    folder = jobs.folder(run_id)
    offset = min(offset, folder.events_size())
    shown: tuple[str, str] | None = None
    quiet = 0
    looks = 0
    while True:
        run = None
        if looks % _ROW_EVERY == 0:
            run = await asyncio.to_thread(look)
            if run is None:
                return
        looks += 1
        # The row is read before the file: once it says the end, the file has nothing more to come.
        if run and run.state not in FINAL_STATES and (run.state, run.waits_for) != shown:
            shown = (run.state, run.waits_for)
            yield _frame(offset, "state", run)
        block, offset = _new_events(folder, offset, language)
        if block:
            quiet = 0
            yield block
            continue
        if run and run.state in FINAL_STATES:
            yield _frame(offset, "state", run)
            return
        quiet += 1
        if quiet % _HEARTBEAT_EVERY == 0:
            yield b": alive\n\n"
        await asyncio.sleep(_POLL_S)


def _new_events(folder: RunFolder, offset: int, language: Language) -> tuple[bytes, int]:
    if folder.events_size() <= offset:
        return b"", offset
    frames: list[bytes] = []
    for position, event in folder.iter_events(offset, 256 * 1024):
        offset = position
        frames.append(_frame(offset, event.kind, event.draw(language)))
    return b"".join(frames), offset


def _frame(offset: int, name: str, body: object) -> bytes:
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (offset, name.encode(), msgspec.json.encode(body))


handlers: list[ControllerRouterHandler] = [
    list_runs,
    create_run,
    get_run,
    cancel_run,
    resume_run,
    end_run_early,
    get_log,
    follow_run,
]
