"""`/fust/v1/oidc`: to the sign-in provider and back; `/fust/v1/sign-in`: which ways in there are."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get
from litestar.datastructures import Cookie, State
from litestar.params import Parameter

from fust.accounts.cookies import session_cookie
from fust.accounts.oidc import COOKIE, LIFE_S, Oidc, SignInFailed
from fust.accounts.rights import Identity
from fust.core.errors import FustError, NotFound
from fust.core.settings import Settings


class OidcWay(msgspec.Struct):
    """The provider's name, as the button shows it."""

    label: str
    linked: bool
    """Whether the caller's account here has one there."""


class SignInWays(msgspec.Struct):
    """Ways in beside link, key and password."""

    oidc: OidcWay | None


@get("/fust/v1/sign-in", sync_to_thread=True)
def list_ways(oidc: Oidc, identity: Identity) -> SignInWays:
    """Which ways in there are."""
    if oidc.label is None:
        return SignInWays(None)
    return SignInWays(OidcWay(oidc.label, identity.user is not None and oidc.is_linked(identity.user)))


@get("/fust/v1/oidc/start", sync_to_thread=True, include_in_schema=False)  # for browsers, not programs
def start(
    oidc: Oidc,
    settings: Settings,
    identity: Identity,
    next_path: Annotated[str, Parameter(query="next", max_length=300)] = "",
    link: bool = False,
) -> Response[None]:
    """Sends the browser to the provider. ``next``: path below the root to come back to; ``link``: joins the
    provider's account to the one that is signed in.
    """
    try:
        started = oidc.start(by=identity, next_path=next_path, link=link)
    except NotFound:
        raise
    except FustError:
        return _go(settings, "?oidc_error=provider")
    return _go(settings, started.url, cookie=started.cookie)


@get("/fust/v1/oidc/callback", sync_to_thread=True, include_in_schema=False)  # for browsers, not programs
def callback(request: Request[Any, Any, State], oidc: Oidc, settings: Settings) -> Response[None]:
    """Where the provider sends the browser back; signs it in and goes on to the page."""
    query = {name: value for name, value in request.query_params.items() if isinstance(value, str)}
    try:
        secret, next_path = oidc.finish(query, request.cookies.get(COOKIE, ""))
    except SignInFailed as error:
        return _go(settings, f"?oidc_error={error.code}")
    return _go(settings, next_path, session=session_cookie(settings, secret))


def _go(settings: Settings, to: str, *, cookie: str = "", session: str = "") -> Response[None]:
    """Redirects to a URL, or to a path below the root; the cookie of the way there and back is set or ended."""
    place = to if to.startswith(("https://", "http://")) else f"{settings.base_path}/{to}"
    headers = {"location": place, "cache-control": "no-store", "referrer-policy": "no-referrer"}
    if session:
        headers["set-cookie"] = session
    kept = Cookie(
        key=COOKIE,
        value=cookie,
        path=f"{settings.base_path}/fust/v1/oidc",
        max_age=LIFE_S if cookie else 0,
        httponly=True,
        samesite="lax",  # it has to come along when the provider sends the browser back
        secure=settings.public_url.startswith("https://"),
    )
    return Response(None, status_code=303, headers=headers, cookies=[kept])


handlers: list[Any] = [list_ways, start, callback]
