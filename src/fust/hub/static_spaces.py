"""Static spaces: the pages of a repo as a browser shows them, in an origin of their own.

The pages are a stranger's: they must not act as whoever reads them. Every answer is sandboxed without
`allow-same-origin` (html.spec.whatwg.org, "sandboxing"; CSP3, 6.3.2), so its origin is opaque: no cookie of ours goes
along with what it asks, and it reads neither our storage nor our answers. No cookie opens it either. What opens it is a
ticket in its path, sealed, for one reader, one repo and one commit; the reader's rights are looked at with each file.
"""

from __future__ import annotations

import mimetypes
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import quote

import msgspec
from cryptography.fernet import InvalidToken

from fust.accounts.rights import Identity
from fust.core.clock import now
from fust.core.errors import Denied, InvalidInput
from fust.hub.cards import parse_card
from fust.hub.file_routes import bytes_reply, is_known
from fust.hub.http import AnyReply, Headers, Reply, Request, Surface, header
from fust.hub.routing import Route
from fust.hub.service import Hub
from fust.hub.types import RepoInfo

TICKET_LIFE = timedelta(hours=4)
SANDBOX = "allow-scripts allow-forms allow-modals allow-popups allow-downloads allow-pointer-lock"
_KINDS = mimetypes.MimeTypes()  # the library's own: what a machine adds to them does not count
for _ending, _kind in {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
}.items():
    _KINDS.add_type(_kind, _ending)
_TEXTS = ("text/", "application/json", "application/xml", "image/svg+xml")


class Ticket(msgspec.Struct, array_like=True, frozen=True):
    """What a ticket says; sealed, because the pages that it opens read it in their own address."""

    key: str
    """Of the reader (``Identity.key``): when that ends, so does this."""
    repo_id: str
    oid: str


@dataclass(frozen=True, slots=True)
class App:
    """Where a reader's browser finds the pages of a static space, below the root."""

    path: str
    oid: str
    expires: datetime


def open_app(hub: Hub, identity: Identity, info: RepoInfo) -> App:
    """Returns where a reader, whose rights were checked, finds the pages of a static space as `main` is now.

    Raises:
        InvalidInput: the space is not static.
        EntryNotFound: its first page is not there.

    """
    if info.sdk != "static":
        raise InvalidInput(
            "{repo} is not a static space.",
            hint="Write `sdk: static` into its card to have its pages shown.",
            repo=info.repo_id,
        )
    oid = hub.resolve_revision(info, "main")
    first = parse_card(hub.read_card(info, oid) or "").data.get("app_file")
    first = first if isinstance(first, str) and first else "index.html"
    hub.content.find_file(info, oid, first, "main")
    ticket = hub.tickets.encrypt(msgspec.json.encode(Ticket(identity.key, info.id, oid))).decode()
    return App(f"static/{ticket}/{quote(first)}", oid, now() + TICKET_LIFE)


def show(surface: Surface, request: Request, ticket: str, path: str) -> AnyReply:
    """`GET` and `HEAD /static/{ticket}/{path}`: a file of a static space, sandboxed; a folder is its `index.html`."""
    hub = surface.hub
    said = _read_ticket(hub, ticket)
    info = hub.repos.find_by_row_id(said.repo_id)
    if info is None or not hub.may_still(said.key, said.repo_id, "repo.read"):
        raise _over()
    if not path or path.endswith("/"):
        path += "index.html"
    file = hub.content.find_file(info, said.oid, path, "main")
    headers = _headers(path, file.etag)
    if is_known(request, file.etag):
        return Reply(304, b"", headers)
    if request.method == "GET":
        reader = surface.accounts.by_key(said.key)
        hub.gates.note_download(reader, info, "file", path=path, commit=said.oid)
    return bytes_reply(surface, request, info, file, headers)


def _read_ticket(hub: Hub, ticket: str) -> Ticket:
    try:
        said = hub.tickets.decrypt(ticket.encode(), ttl=int(TICKET_LIFE.total_seconds()))
        return msgspec.json.decode(said, type=Ticket)
    except (InvalidToken, msgspec.DecodeError):
        raise _over() from None


def _over() -> Denied:
    return Denied(
        "This address of a space's pages is over its time, or its reader may no longer read it.",
        hint="Open the space again.",
    )


def _headers(path: str, etag: str) -> Headers:
    kind, packed = _KINDS.guess_type(path.rpartition("/")[2])
    if kind is None or packed:
        kind = "application/octet-stream"
    return [
        header("content-type", f"{kind}; charset=utf-8" if kind.startswith(_TEXTS) else kind),
        header("etag", f'"{etag}"'),
        header("content-security-policy", f"sandbox {SANDBOX}; frame-ancestors 'self'"),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        # Modules, fonts and fetch of an opaque origin need it; the ticket, not a cookie, is what opens a file.
        (b"access-control-allow-origin", b"*"),
        (b"accept-ranges", b"bytes"),
        (b"cache-control", b"private, no-cache"),
    ]


ROUTES = tuple(Route(m, "/static/{ticket}/{path*}", show, errors="page") for m in ("GET", "HEAD"))
