"""What a person should know: what needs them, which of their runs ended, and what became of their requests for access.

Nothing is copied: a notice is read from what it tells of, and one row a user says up to when they have seen the news.
What needs someone stays until it is mended; that a run ended is news until it was seen.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

import msgspec

from fust.accounts.rights import Identity
from fust.app.needs import list_needs, read_mark
from fust.app.services import Services
from fust.core.clock import iso, utc_naive
from fust.core.i18n import Language, fill
from fust.records.models import NoticeMark

_AGE = timedelta(days=30)
_LOOKED_AT = 100
"""Runs that are looked at, newest first."""
_SHOWN = 30

State = Literal["needs", "succeeded", "failed"]


class Notice(msgspec.Struct, kw_only=True):
    """One piece of news, with the place that tells more."""

    id: str
    state: State
    message: str
    hint: str
    href: str
    at: str | None
    unread: bool


class NoticeList(msgspec.Struct):
    """What needs the caller first, then ended runs, newest first, then requests for access that were decided."""

    items: list[Notice]
    unread: int


def list_notices(services: Services, identity: Identity, language: Language) -> NoticeList:
    """Returns the caller's notices."""
    mark = read_mark(services, identity)
    items = [
        Notice(
            id=f"{need.code}:{need.subject}",
            state="needs",
            message=need.message,
            hint=need.hint,
            href=need.href,
            at=None,
            unread=True,
        )
        for need in list_needs(services, identity, language)
        if need.code != "run_failed"
    ]
    items += _ended_runs(services, identity, language, mark)
    items += _decisions(services, identity, language, mark)
    return NoticeList(items, sum(it.unread for it in items))


def _ended_runs(
    services: Services, identity: Identity, language: Language, mark: datetime | None
) -> list[Notice]:
    oldest = utc_naive() - _AGE
    found: list[tuple[datetime, Notice]] = []
    for row in services.jobs.list_runs(identity, limit=_LOOKED_AT):
        if row.owner != identity.user or row.ended_at is None or row.ended_at < oldest:
            continue
        if row.state not in ("succeeded", "failed"):
            continue  # who cancelled it knows
        run = services.jobs.draw(row, language)
        failed = row.state == "failed"
        params: dict[str, object] = {
            "subject": run.title,
            "reason": run.error.message if run.error else "",
        }
        template = "{subject} failed: {reason}" if failed else "{subject} is done."
        hint = "Look at its log, mend the reason and start it again." if failed else ""
        notice = Notice(
            id=run.id,
            state="failed" if failed else "succeeded",
            message=fill(template, params, language),
            hint=fill(hint, {}, language) if hint else "",
            href=f"jobs/{run.id}",
            at=iso(row.ended_at),
            unread=mark is None or row.ended_at > mark,
        )
        found.append((row.ended_at, notice))
    found.sort(key=lambda pair: pair[0], reverse=True)
    return [notice for _, notice in found[:_SHOWN]]


def _decisions(
    services: Services, identity: Identity, language: Language, mark: datetime | None
) -> list[Notice]:
    """Returns what was decided of the caller's requests for access, and which access ended."""
    oldest, now = utc_naive() - _AGE, utc_naive()
    found: list[Notice] = []
    for info, request in services.hub.access.of_user(identity):
        at, accepted = request.decided_at, request.status == "accepted"
        if request.is_over:
            at = request.expires_at
        if at is None or not oldest < at <= now or not (request.decided_by or request.is_over):
            continue
        message = "You have access to {subject} now." if accepted else "You have no access to {subject}."
        if request.is_over:
            message = "Your access to {subject} has ended."
        params: dict[str, object] = {"subject": info.repo_id}
        found.append(
            Notice(
                id=f"access:{request.id}:{request.status}:{request.is_over}",
                state="succeeded" if accepted and not request.is_over else "failed",
                message=fill(message, params, language),
                hint=request.reason,
                href=f"{info.type}s/{info.repo_id}",
                at=iso(at),
                unread=mark is None or at > mark,
            )
        )
    return found


def mark_read(services: Services, identity: Identity) -> None:
    """Notes that the caller has seen all news up to now."""
    with services.database.write() as session:
        session.merge(NoticeMark(user_name=identity.user or "", read_at=utc_naive()))
