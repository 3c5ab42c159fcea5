"""`/fust/v1/tokens` and `/fust/v1/users/{user}/tokens`: keys, one's own or, for administrators, anybody's."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import msgspec
from litestar import delete, get, post
from litestar.params import Parameter
from litestar.types import ControllerRouterHandler

from fust.accounts.models import Token
from fust.accounts.rights import Identity
from fust.accounts.service import Accounts
from fust.core.clock import iso, utc_naive
from fust.core.errors import Denied


class TokenInfo(msgspec.Struct, kw_only=True):
    """A token as it can be shown again."""

    id: str
    name: str
    scope: str
    prefix: str
    created_at: str | None
    last_used_at: str | None
    expires_at: str | None
    expired: bool
    repos: list[str] | None
    """Patterns of what a fine-grained token opens; null in both: everything that its user may."""
    models: list[str] | None


class TokenList(msgspec.Struct):
    """A user's tokens."""

    items: list[TokenInfo]


class TokenRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What a new token is for and what it may."""

    name: str
    scope: str = "read"
    repos: list[str] | None = None
    """`owner/name` (of any type), `dataset:owner/name`, `owner/*` or `*`."""
    models: list[str] | None = None
    """Names or aliases as `/v1/models` has them, `owner/*` or `*`."""
    expires_at: datetime | None = None
    """From then on it is refused."""


class TokenMade(TokenInfo, kw_only=True):
    """A new token; its secret is shown this once."""

    token: str


def _facts(row: Token) -> dict[str, object]:
    return {
        "id": row.id,
        "name": row.name,
        "scope": row.scope,
        "prefix": row.prefix,
        "created_at": iso(row.created_at),
        "last_used_at": iso(row.last_used_at),
        "expires_at": iso(row.expires_at),
        "expired": row.expires_at is not None and row.expires_at <= utc_naive(),
        "repos": row.repos,
        "models": row.models,
    }


def _list(accounts: Accounts, user: str) -> TokenList:
    return TokenList([msgspec.convert(_facts(row), TokenInfo) for row in accounts.tokens.list(user)])


def _make(accounts: Accounts, identity: Identity, user: str, data: TokenRequest) -> TokenMade:
    ends = data.expires_at
    if ends is not None:
        ends = (ends if ends.tzinfo else ends.replace(tzinfo=UTC)).astimezone(UTC).replace(tzinfo=None)
    made = accounts.tokens.create(
        user, data.name, data.scope, repos=data.repos, models=data.models, expires_at=ends, by=identity
    )
    return msgspec.convert({**_facts(made.row), "token": made.secret}, TokenMade)


def _check_not_more(accounts: Accounts, identity: Identity, data: TokenRequest) -> None:
    """A token may not make one with more rights, or a longer life, than its own."""
    if data.scope in ("write", "admin") and data.scope not in identity.scopes:
        raise Denied("A key cannot make one with more rights than it has.", hint="Use a key with that scope.")
    own = accounts.tokens.find(identity.token_id)
    if own is not None and own.expires_at is not None:
        raise Denied("A key that ends cannot make others.", hint="Sign in, or use a key that has no end.")


@get("/fust/v1/tokens", sync_to_thread=True, tags=["tokens"])
def list_tokens(accounts: Accounts, identity: Identity) -> TokenList:
    """The caller's tokens."""
    accounts.require_whole(identity)
    return _list(accounts, identity.user or "")


@post("/fust/v1/tokens", sync_to_thread=True, tags=["tokens"])
def create_token(data: TokenRequest, accounts: Accounts, identity: Identity) -> TokenMade:
    """Makes a token with at most the caller's own rights; its secret is in this answer only."""
    accounts.require_whole(identity)
    _check_not_more(accounts, identity, data)
    return _make(accounts, identity, identity.user or "", data)


@delete("/fust/v1/tokens/{token_id:str}", status_code=204, sync_to_thread=True, tags=["tokens"])
def revoke_token(
    token_id: Annotated[str, Parameter(max_length=64)], accounts: Accounts, identity: Identity
) -> None:
    """Revokes a token; it is refused everywhere within two seconds."""
    accounts.require_whole(identity, "write")
    accounts.tokens.revoke(identity, token_id)


@get("/fust/v1/users/{user:str}/tokens", sync_to_thread=True, tags=["tokens"])
def list_tokens_of(user: str, accounts: Accounts, identity: Identity) -> TokenList:
    """A user's tokens; for administrators."""
    accounts.check_admin(identity)
    return _list(accounts, accounts.users.get(user).name)


@post("/fust/v1/users/{user:str}/tokens", sync_to_thread=True, tags=["tokens"])
def create_token_for(user: str, data: TokenRequest, accounts: Accounts, identity: Identity) -> TokenMade:
    """Makes a token for a user, such as a program that cannot sign in; for administrators."""
    accounts.check_admin(identity)
    _check_not_more(accounts, identity, data)
    return _make(accounts, identity, user, data)


handlers: list[ControllerRouterHandler] = [
    list_tokens,
    create_token,
    revoke_token,
    list_tokens_of,
    create_token_for,
]
