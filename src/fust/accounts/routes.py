"""`/fust/v1/session`, `/tokens`, `/users`: signing in, keys, people."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, delete, get, post, put
from litestar.datastructures import State
from litestar.params import Parameter

from fust import __version__
from fust.accounts.cookies import session_cookie
from fust.accounts.models import User
from fust.accounts.proxies import client_address
from fust.accounts.rights import Identity
from fust.accounts.service import Accounts
from fust.core.clock import iso, now
from fust.core.errors import Denied, InvalidInput
from fust.core.settings import Settings


class SessionUser(msgspec.Struct):
    """The signed-in user."""

    name: str
    is_admin: bool
    has_password: bool


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


class TokenInfo(msgspec.Struct):
    """A token as it can be shown again."""

    id: str
    name: str
    scope: str
    prefix: str
    created_at: str | None
    last_used_at: str | None


class TokenList(msgspec.Struct):
    """A user's tokens."""

    items: list[TokenInfo]


class TokenRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What a new token is for and what it may."""

    name: str
    scope: str = "read"


class TokenMade(msgspec.Struct):
    """A new token; shown this once."""

    id: str
    name: str
    scope: str
    token: str


class UserInfo(msgspec.Struct):
    """A user."""

    name: str
    is_admin: bool
    has_password: bool
    created_at: str | None


class UserList(msgspec.Struct):
    """All users."""

    items: list[UserInfo]


class UserRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A user to make."""

    name: str
    password: str | None = None
    is_admin: bool = False


class PasswordRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A new password."""

    password: str


def _user_info(user: User) -> UserInfo:
    return UserInfo(user.name, user.is_admin, user.password_hash is not None, iso(user.created_at))


def _session_user(accounts: Accounts, name: str | None) -> SessionUser | None:
    user = accounts.users.find(name) if name else None
    return SessionUser(user.name, user.is_admin, user.password_hash is not None) if user else None


@get("/fust/v1/session", sync_to_thread=True)
def get_session(accounts: Accounts, identity: Identity) -> SessionState:
    """Who is signed in."""
    return SessionState(_session_user(accounts, identity.user))


@post("/fust/v1/session", status_code=200, sync_to_thread=True)
def sign_in(
    request: Request[Any, Any, State], data: SignIn, accounts: Accounts, settings: Settings
) -> Response[SessionState]:
    """Signs a browser in by code, token, or name and password; the answer sets the cookie."""
    if data.code:
        secret = accounts.sessions.redeem_code(data.code)
    elif data.token:
        secret = accounts.sessions.sign_in_by_token(data.token)
    elif data.name and data.password:
        peer = request.client.host if request.client else ""
        forwarded = request.headers.get("x-forwarded-for", "")
        address = client_address(peer, forwarded, settings.server.trusted_proxies)
        secret = accounts.sessions.sign_in_by_password(data.name, data.password, address=address)
    else:
        raise InvalidInput(
            "Nothing to sign in with was sent.", hint="Send a code, a token, or name and password."
        )
    identity = accounts.identify({"cookie": f"fust_session={secret}"})
    state = SessionState(_session_user(accounts, identity.user))
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
    code, life_s = accounts.sessions.create_code(identity.user or "")
    expires = now() + timedelta(seconds=life_s)
    return OpenLink(f"{settings.public_url}/?code={code}", iso(expires) or "")


@get("/fust/v1/tokens", sync_to_thread=True)
def list_tokens(accounts: Accounts, identity: Identity) -> TokenList:
    """The caller's tokens."""
    accounts.require_whole(identity)
    rows = accounts.tokens.list(identity.user or "")
    return TokenList(
        [TokenInfo(t.id, t.name, t.scope, t.prefix, iso(t.created_at), iso(t.last_used_at)) for t in rows]
    )


@post("/fust/v1/tokens", sync_to_thread=True)
def create_token(data: TokenRequest, accounts: Accounts, identity: Identity) -> TokenMade:
    """Makes a token with at most the caller's own rights; its secret is in this answer only."""
    accounts.require_whole(identity)
    if data.scope in ("write", "admin") and data.scope not in identity.scopes:
        raise Denied("A key cannot make one with more rights than it has.", hint="Use a key with that scope.")
    made = accounts.tokens.create(identity.user or "", data.name, data.scope)
    return TokenMade(made.id, made.name, made.scope, made.secret)


@delete("/fust/v1/tokens/{token_id:str}", status_code=204, sync_to_thread=True)
def revoke_token(
    token_id: Annotated[str, Parameter(max_length=64)], accounts: Accounts, identity: Identity
) -> None:
    """Revokes a token; it is refused everywhere within two seconds."""
    accounts.require_whole(identity, "write")
    accounts.tokens.revoke(identity, token_id)


@get("/fust/v1/users", sync_to_thread=True)
def list_users(accounts: Accounts, identity: Identity) -> UserList:
    """All users; for administrators."""
    accounts.check_admin(identity)
    return UserList([_user_info(user) for user in accounts.users.list()])


@post("/fust/v1/users", sync_to_thread=True)
def create_user(data: UserRequest, accounts: Accounts, identity: Identity) -> UserInfo:
    """Makes a user; for administrators."""
    accounts.check_admin(identity)
    return _user_info(accounts.users.create(data.name, is_admin=data.is_admin, password=data.password))


@put("/fust/v1/users/{name:str}/password", status_code=204, sync_to_thread=True)
def set_password(name: str, data: PasswordRequest, accounts: Accounts, identity: Identity) -> None:
    """Sets a password: one's own, or anyone's for administrators."""
    accounts.require_whole(identity, "write")
    if identity.user != name:
        accounts.check_admin(identity)
    accounts.users.set_password(name, data.password)


handlers = [
    get_session,
    sign_in,
    sign_out,
    open_link,
    list_tokens,
    create_token,
    revoke_token,
    list_users,
    create_user,
    set_password,
]
