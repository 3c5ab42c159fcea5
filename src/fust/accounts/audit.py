"""The audit: entries written in the transaction of what they tell of, and found again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import Select, func, insert, or_, select, text
from sqlalchemy.orm import Session

from fust.accounts.audit_chain import GENESIS, Entry, Value, canonical, hash_of
from fust.accounts.audit_models import AuditEntry
from fust.accounts.proxies import caller_address
from fust.core.clock import utc_naive
from fust.core.errors import InvalidInput
from fust.store.database import Database, at_end

if TYPE_CHECKING:
    from fust.accounts.rights import Identity

_LOCK_KEY = 0x46757374  # of PostgreSQL's advisory lock: one appends at a time ("Fust")
_PENDING = "fust.audit"
_MAX_TEXT = 500
_PAGE = 1000
# Anything that looks like a key of ours or of a provider, should one ever slip into a name or a note.
_SECRET = re.compile(
    r"fust_[A-Za-z0-9]{20,}|hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}"
    r"|ey[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*|(?i:bearer|basic)\s+[A-Za-z0-9+/=._-]{16,}"
)


@dataclass(frozen=True, slots=True)
class Filters:
    """Which entries are wanted; an empty field wants all."""

    actor: str = ""
    action: str = ""
    """One action (`repo.create`) or all of a kind (`repo`)."""
    subject: str = ""
    text: str = ""
    """Found in any field, in any case."""
    since: str = ""
    until: str = ""


# Writing


def note_action(
    session: Session, identity: Identity | None, action: str, subject: str, /, **detail: Value
) -> None:
    """Adds an entry to the audit as the last thing of the transaction of what it tells of: both are kept or neither.

    Args:
        session: of ``Database.write()``.
        identity: who did it; None for nobody.
        action: one of ``audit_actions.ACTIONS``.
        subject: what it was done to, as `model:owner/name`, `user:maria`, `token:t_…`.
        detail: a few short values. Never a secret: what looks like one is blotted out.
    """
    pending: list[dict[str, Any]] | None = session.info.get(_PENDING)
    if pending is None:
        pending = session.info[_PENDING] = []
        at_end(session, _append)
    kept = {key: _clean(value) for key, value in detail.items() if value is not None}
    pending.append(
        {
            "actor": _clean((identity and identity.user) or ""),
            "token_id": identity.token_id if identity else None,
            "via": _via(identity),
            "action": action,
            "subject": _clean(subject),
            "detail": kept,
        }
    )


def _via(identity: Identity | None) -> str:
    if identity is None:
        return "anonymous"
    return "system" if identity.user == "fust" else identity.via  # no person can have that name


def _clean(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    storable = value.encode("utf-8", "replace").decode().replace("\0", "")  # PostgreSQL keeps no NUL
    return _SECRET.sub("[secret]", storable)[:_MAX_TEXT]


def _append(session: Session) -> None:
    session.flush()
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
    query = select(AuditEntry.seq, AuditEntry.hash).order_by(AuditEntry.seq.desc()).limit(1)
    last = session.execute(query).first()
    seq, previous = (last.seq, last.hash) if last else (0, GENESIS)
    address = caller_address()
    rows: list[dict[str, Any]] = []
    for values in session.info.pop(_PENDING):
        seq += 1
        row = seal({"seq": seq, "at": utc_naive(), "address": address, "prev_hash": previous, **values})
        previous = row["hash"]
        rows.append(row)
    session.execute(insert(AuditEntry), rows)


def seal(values: dict[str, Any]) -> dict[str, Any]:
    """Returns the row of an entry: its hash added, its detail as text."""
    fields: dict[str, Any] = {**values, "at": show_time(values["at"])}
    entry = Entry(**fields)
    return {**values, "detail": canonical(entry.detail).decode(), "hash": hash_of(entry)}


def show_time(moment: datetime) -> str:
    """Returns a naive UTC time to the microsecond, as it goes into the hash."""
    return moment.isoformat(timespec="microseconds") + "Z"


# Reading


def to_entry(row: AuditEntry) -> Entry:
    """Returns a row as it is shown."""
    return Entry(
        seq=row.seq,
        at=show_time(row.at),
        actor=row.actor,
        token_id=row.token_id,
        via=row.via,
        address=row.address,
        action=row.action,
        subject=row.subject,
        detail=_read_detail(row.detail),
        prev_hash=row.prev_hash,
        hash=row.hash,
    )


def _read_detail(value: str) -> dict[str, Value]:
    try:
        return msgspec.json.decode(value, type=dict[str, Value])
    except msgspec.MsgspecError:
        return {
            "unreadable": value[:_MAX_TEXT]
        }  # somebody wrote into the table; verify_chain names the entry


def search(database: Database, filters: Filters, *, before: int | None, limit: int) -> list[Entry]:
    """Returns entries that the filters want, newest first, with a number below ``before``."""
    query = _wanted(filters).order_by(AuditEntry.seq.desc()).limit(limit)
    if before is not None:
        query = query.where(AuditEntry.seq < before)
    with database.read() as session:
        return [to_entry(row) for row in session.scalars(query)]


def did_ever(database: Database, actor: str, action: str) -> bool:
    """Returns whether somebody ever did something."""
    query = select(AuditEntry.seq).where(AuditEntry.actor == actor, AuditEntry.action == action)
    with database.read() as session:
        return session.scalars(query.limit(1)).first() is not None


def iter_entries(database: Database, filters: Filters | None = None) -> Iterator[Entry]:
    """Yields all entries that the filters want, oldest first; holds no transaction between pages."""
    after = 0
    while True:
        query = _wanted(filters or Filters()).where(AuditEntry.seq > after).order_by(AuditEntry.seq)
        with database.read() as session:
            rows = list(session.scalars(query.limit(_PAGE)))
        yield from map(to_entry, rows)
        if len(rows) < _PAGE:
            return
        after = rows[-1].seq


def _wanted(filters: Filters) -> Select[AuditEntry]:
    query = select(AuditEntry)
    if filters.actor:
        query = query.where(func.lower(AuditEntry.actor) == filters.actor.lower())
    if filters.action:
        kind = filters.action.rstrip(".")
        query = query.where(
            or_(AuditEntry.action == kind, AuditEntry.action.startswith(kind + ".", autoescape=True))
        )
    if filters.subject:
        query = query.where(func.lower(AuditEntry.subject) == filters.subject.lower())
    if filters.text:
        columns = (
            AuditEntry.actor,
            AuditEntry.action,
            AuditEntry.subject,
            AuditEntry.detail,
            AuditEntry.address,
            AuditEntry.token_id,
        )
        query = query.where(or_(*(column.icontains(filters.text, autoescape=True) for column in columns)))
    if filters.since:
        query = query.where(AuditEntry.at >= parse_time(filters.since))
    if filters.until:
        query = query.where(AuditEntry.at < parse_time(filters.until))
    return query


def parse_time(value: str) -> datetime:
    """Returns a date or time (ISO 8601; UTC when it names no zone) as rows hold it.

    Raises:
        InvalidInput: it is neither.

    """
    try:
        moment = datetime.fromisoformat(value)
        return (moment.astimezone(UTC) if moment.tzinfo else moment).replace(tzinfo=None)
    except (ValueError, OverflowError):
        raise InvalidInput(
            "{value!r} is not a date or a time.",
            hint="Write it like 2026-11-22 or 2026-11-22T10:00:00Z.",
            value=value[:50],
        ) from None
