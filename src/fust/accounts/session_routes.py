"""`/fust/v1/sessions`: where one is signed in, and how to end it, here or everywhere."""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec
from litestar import Response, delete, get, post
from litestar.params import Parameter

from fust.accounts.cookies import session_cookie
from fust.accounts.rights import Identity
from fust.accounts.service import Accounts
from fust.core.clock import iso
from fust.core.settings import Settings


class SessionInfo(msgspec.Struct):
    """A signed-in browser."""

    id: str
    current: bool
    device: str
    """Made from ``agent``: `Firefox, Linux`; empty when it says nothing."""
    agent: str
    address: str
    how: str
    created_at: str | None
    last_used_at: str | None
    expires_at: str | None


class SessionList(msgspec.Struct):
    """The caller's signed-in browsers, the one used last first."""

    items: list[SessionInfo]


class SessionsEnded(msgspec.Struct):
    """How many browsers were signed out."""

    ended: int


_BROWSERS = (
    ("Edg", "Edge"),
    ("OPR", "Opera"),
    ("Firefox", "Firefox"),
    ("FxiOS", "Firefox"),
    ("HeadlessChrome", "Chrome"),
    ("CriOS", "Chrome"),
    ("Chrome", "Chrome"),
    ("Safari", "Safari"),
    ("curl", "curl"),
)
_SYSTEMS = (
    ("HarmonyOS", "HarmonyOS"),
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Windows", "Windows"),
    ("Mac OS X", "macOS"),
    ("CrOS", "ChromeOS"),
    ("Linux", "Linux"),
)


def device_of(agent: str) -> str:
    """Returns browser and system out of a User-Agent (RFC 9110, 10.1.5), as far as they are known."""
    browser = next((name for mark, name in _BROWSERS if re.search(rf"\b{mark}[a-zA-Z]*/", agent)), "")
    system = next((name for mark, name in _SYSTEMS if mark in agent), "")
    return ", ".join(part for part in (browser, system) if part)


@get("/fust/v1/sessions", sync_to_thread=True)
def list_sessions(accounts: Accounts, identity: Identity) -> SessionList:
    """The caller's signed-in browsers."""
    accounts.require_whole(identity, "write")
    return SessionList(
        [
            SessionInfo(
                row.id,
                row.secret_hash == identity.session_id,
                device_of(row.agent),
                row.agent,
                row.address,
                row.how,
                iso(row.created_at),
                iso(row.last_used_at),
                iso(row.expires_at),
            )
            for row in accounts.sessions.list(identity.user or "")
        ]
    )


@delete("/fust/v1/sessions/{session_id:str}", status_code=204, sync_to_thread=True)
def end_session(
    session_id: Annotated[str, Parameter(max_length=64)], accounts: Accounts, identity: Identity
) -> None:
    """Signs one of the caller's browsers out."""
    accounts.require_whole(identity, "write")
    accounts.sessions.end(identity, session_id)


@delete("/fust/v1/sessions", status_code=200, sync_to_thread=True)
def end_sessions(
    accounts: Accounts, settings: Settings, identity: Identity, others: bool = False
) -> Response[SessionsEnded]:
    """Signs the caller out everywhere; ``others`` keeps the browser that asks. Unused sign-in links end too."""
    accounts.require_whole(identity, "write")
    keep = identity.session_id if others else None
    count = accounts.sessions.end_all(identity.user or "", by=identity, keep=keep)
    gone = identity.session_id is not None and not others
    return Response(
        SessionsEnded(count), headers={"set-cookie": session_cookie(settings, "")} if gone else {}
    )


@post("/fust/v1/users/{user:str}/sign-out", status_code=200, sync_to_thread=True)
def sign_user_out(
    user: Annotated[str, Parameter(max_length=100)], accounts: Accounts, identity: Identity
) -> SessionsEnded:
    """Signs somebody out everywhere; for administrators."""
    accounts.check_admin(identity)
    return SessionsEnded(accounts.sessions.end_all(user, by=identity))


handlers: list[Any] = [list_sessions, end_session, end_sessions, sign_user_out]
