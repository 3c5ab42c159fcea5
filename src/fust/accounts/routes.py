"""`/fust/v1/session` and `/open`: signing in and out; and every other route of the accounts."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
from litestar import Request, Response, delete, get, post
from litestar.datastructures import State
from litestar.types import ControllerRouterHandler

from fust import __version__
from fust.accounts.cookies import session_cookie
from fust.accounts.organisation_routes import handlers as organisation_handlers
from fust.accounts.people_routes import handlers as people_handlers
from fust.accounts.rights import Identity, Role
from fust.accounts.service import Accounts
from fust.accounts.sessions import check_not_cross_site
from fust.accounts.token_routes import handlers as token_handlers
from fust.core.clock import iso, now
from fust.core.errors import InvalidInput
from fust.core.settings import Settings


class SessionOrganisation(msgspec.Struct):
    """An organisation that the signed-in user belongs to."""

    name: str
    display_name: str
    role: Role


class SessionUser(msgspec.Struct):
    """The signed-in user."""

    name: str
    full_name: str
    is_admin: bool
    has_password: bool
    language: str | None
    theme: str | None
    """As chosen in the page; none: nothing was."""
    organisations: list[SessionOrganisation]


class SessionState(msgspec.Struct):
    """Who is signed in, if anyone."""

    user: SessionUser | None
    version: str = __version__


class SignIn(msgspec.Struct, forbid_unknown_fields=True):
    """One of: a code from a link; a token; name and password."""

    code: str | None = None
    token: str | None = None
    name: str | None = None
    password: str | None = None


class OpenLink(msgspec.Struct):
    """A link that signs a browser in once."""

    url: str
    expires_at: str


def _session_user(accounts: Accounts, identity: Identity) -> SessionUser | None:
    user = accounts.users.find(identity.user)
    if user is None:
        return None
    own = [] if identity.grants else accounts.organisations.list([*identity.roles])
    return SessionUser(
        user.name,
        user.full_name,
        user.is_admin,
        user.password_hash is not None,
        user.language,
        user.theme,
        [
            SessionOrganisation(found.name, found.display_name, identity.roles[found.name.lower()])
            for found in own
        ],
    )


@get("/fust/v1/session", sync_to_thread=True)
def get_session(accounts: Accounts, identity: Identity) -> SessionState:
    """Who is signed in."""
    return SessionState(_session_user(accounts, identity))


@post("/fust/v1/session", status_code=200, sync_to_thread=True)
def sign_in(
    request: Request[Any, Any, State], data: SignIn, accounts: Accounts, settings: Settings
) -> Response[SessionState]:
    """Signs a browser in by code, token, or name and password; the answer sets the cookie."""
    check_not_cross_site(settings, request.headers)
    if data.code:
        secret = accounts.sessions.redeem_code(data.code)
    elif data.token:
        secret = accounts.sessions.sign_in_by_token(data.token)
    elif data.name and data.password:
        secret = accounts.sessions.sign_in_by_password(data.name, data.password)
    else:
        raise InvalidInput(
            "Nothing to sign in with was sent.", hint="Send a code, a token, or name and password."
        )
    identity = accounts.identify({"cookie": f"fust_session={secret}"})
    state = SessionState(_session_user(accounts, identity))
    return Response(
        state, headers={"set-cookie": session_cookie(settings, secret), "cache-control": "no-store"}
    )


@delete("/fust/v1/session", status_code=204, sync_to_thread=True)
def sign_out(
    request: Request[Any, Any, State], accounts: Accounts, settings: Settings, identity: Identity
) -> Response[None]:
    """Signs this browser out."""
    accounts.sessions.sign_out({"cookie": request.headers.get("cookie", "")})
    return Response(None, status_code=204, headers={"set-cookie": session_cookie(settings, "")})


@post("/fust/v1/open", status_code=200, sync_to_thread=True)
def open_link(accounts: Accounts, settings: Settings, identity: Identity) -> OpenLink:
    """A new sign-in link for the caller (one use, ten minutes)."""
    accounts.require_whole(identity, "write")
    code, life_s = accounts.sessions.create_code(identity.user or "", by=identity)
    expires = now() + timedelta(seconds=life_s)
    return OpenLink(f"{settings.public_url}/?code={code}", iso(expires) or "")


handlers: list[ControllerRouterHandler] = [
    get_session,
    sign_in,
    sign_out,
    open_link,
    *token_handlers,
    *people_handlers,
    *organisation_handlers,
]
