"""`/fust/v1/audit`: the audit for administrators, to search, to export and to check."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, get
from litestar.datastructures import State
from litestar.openapi.spec import OpenAPIMediaType, OpenAPIResponse, OpenAPIType, Operation, Schema
from litestar.params import Parameter
from litestar.response import Stream

from fust.accounts.audit import Filters, iter_entries, note_action, search
from fust.accounts.audit_actions import ACTIONS, action_title
from fust.accounts.audit_chain import Entry, reason_text, verify_chain
from fust.accounts.rights import Identity
from fust.accounts.service import Accounts
from fust.core.clock import now
from fust.core.errors import InvalidInput
from fust.core.i18n import accepted_language
from fust.store.database import Database

COLUMNS = Entry.__struct_fields__
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
Text = Annotated[str, Parameter(max_length=200)]


class AuditPage(msgspec.Struct):
    """Entries, newest first; ``next`` is the cursor of older ones."""

    items: list[Entry]
    next: str | None


class AuditAction(msgspec.Struct):
    """An action and what it is called."""

    action: str
    title: str


class AuditActions(msgspec.Struct):
    """All actions."""

    items: list[AuditAction]


class Head(msgspec.Struct):
    """The last good entry of a chain."""

    seq: int
    hash: str


class Break(msgspec.Struct):
    """The first entry that is not what was written."""

    seq: int
    reason: str


class AuditVerdict(msgspec.Struct):
    """What walking the chain found."""

    ok: bool
    entries: int
    head: Head | None
    broken: Break | None


@get("/fust/v1/audit", sync_to_thread=True)
def list_audit(
    accounts: Accounts,
    identity: Identity,
    database: Database,
    actor: Text = "",
    action: Text = "",
    subject: Text = "",
    text: Text = "",
    since: Text = "",
    until: Text = "",
    limit: Annotated[int, Parameter(ge=1, le=500)] = 50,
    cursor: Text = "",
) -> AuditPage:
    """Entries that the filters want, newest first; for administrators."""
    accounts.check_admin(identity)
    if cursor and not (cursor.isascii() and cursor.isdigit()):
        raise InvalidInput("{cursor!r} is not a cursor.", hint="Start at the first page.", cursor=cursor[:50])
    filters = Filters(actor, action, subject, text, since, until)
    found = search(database, filters, before=int(cursor[:18]) if cursor else None, limit=limit + 1)
    page = found[:limit]
    return AuditPage(page, str(page[-1].seq) if len(found) > limit else None)


@get("/fust/v1/audit/actions", sync_to_thread=False)
def list_actions(request: Request[Any, Any, State]) -> AuditActions:
    """What the actions are called, in the reader's language."""
    language = accepted_language(request.headers.get("accept-language"))
    return AuditActions([AuditAction(action, action_title(action, language)) for action in ACTIONS])


@dataclass
class _Export(Operation):
    """Says in the OpenAPI document which two forms an export has."""

    def __post_init__(self) -> None:
        answer = (self.responses or {}).get("200")
        if isinstance(answer, OpenAPIResponse):
            text = OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING))
            answer.content = {"application/jsonl": text, "text/csv": text}


@get("/fust/v1/audit/export", sync_to_thread=True, operation_class=_Export)
def export_audit(
    accounts: Accounts,
    identity: Identity,
    database: Database,
    format: Literal["jsonl", "csv"] = "jsonl",
    actor: Text = "",
    action: Text = "",
    subject: Text = "",
    text: Text = "",
    since: Text = "",
    until: Text = "",
) -> Stream:
    """A download of the entries that the filters want, oldest first; for administrators. The audit notes it."""
    accounts.check_admin(identity)
    filters = Filters(actor, action, subject, text, since, until)
    search(database, filters, before=None, limit=1)  # says what is wrong with a filter while it still can
    wanted = {name: getattr(filters, name) for name in Filters.__slots__ if getattr(filters, name)}
    with database.write() as session:
        note_action(session, identity, "audit.export", "audit", format=format, **wanted)
    entries = iter_entries(database, filters)
    name = f"fust-audit-{now():%Y-%m-%d}.{format}"
    return Stream(
        _csv_lines(entries) if format == "csv" else _json_lines(entries),
        media_type="text/csv; charset=utf-8" if format == "csv" else "application/jsonl",
        headers={"content-disposition": f'attachment; filename="{name}"', "cache-control": "no-store"},
    )


def _json_lines(entries: Iterator[Entry]) -> Iterator[bytes]:
    for entry in entries:
        yield msgspec.json.encode(entry) + b"\n"


def _csv_lines(entries: Iterator[Entry]) -> Iterator[bytes]:
    line = io.StringIO()
    writer = csv.writer(line)
    writer.writerow(COLUMNS)
    for entry in entries:
        values = [getattr(entry, name) for name in COLUMNS]
        values[COLUMNS.index("detail")] = json.dumps(entry.detail, ensure_ascii=False, sort_keys=True)
        writer.writerow([_no_formula(value) for value in values])
        yield line.getvalue().encode()
        line.seek(0)
        line.truncate()
    yield line.getvalue().encode()


def _no_formula(value: object) -> object:
    """Keeps a spreadsheet from running what somebody put into a name (OWASP, CSV injection)."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


@get("/fust/v1/audit/verify", sync_to_thread=True)
def verify_audit(
    request: Request[Any, Any, State], accounts: Accounts, identity: Identity, database: Database
) -> AuditVerdict:
    """Walks the whole chain and names the first entry that is not what was written; for administrators."""
    accounts.check_admin(identity)
    verdict = verify_chain(iter_entries(database))
    language = accepted_language(request.headers.get("accept-language"))
    head = Head(verdict.head.seq, verdict.head.hash) if verdict.head else None
    broken = None
    if verdict.broken_seq is not None:
        broken = Break(verdict.broken_seq, reason_text(verdict.reason, language))
    return AuditVerdict(verdict.ok, verdict.entries, head, broken)


handlers: list[Any] = [list_audit, list_actions, export_audit, verify_audit]
