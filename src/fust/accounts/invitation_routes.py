"""`/fust/v1/invitations`: letting people in by a link."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, Response, delete, get, post
from litestar.datastructures import State
from litestar.params import Parameter

from fust.accounts.cookies import session_cookie
from fust.accounts.invitations import LIFE_S, Invitations, Invited
from fust.accounts.rights import Identity
from fust.accounts.service import Accounts
from fust.accounts.sessions import check_not_cross_site
from fust.core.clock import iso
from fust.core.settings import Settings


class InvitationRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Whom to let in where; without an organisation: to this Fust."""

    organisation: str | None = None
    role: Literal["read", "write", "admin", "owner"] = "read"
    note: Annotated[str, msgspec.Meta(max_length=200)] = ""
    expires_s: int = LIFE_S


class InvitationInfo(msgspec.Struct, omit_defaults=True):
    """An invitation; ``url`` and ``code`` are in the answer that makes it only."""

    id: str
    organisation: str | None
    role: str | None
    new_user: bool
    note: str
    created_by: str
    created_at: str | None
    expires_at: str | None
    used_at: str | None
    used_by: str | None
    state: str
    url: str = ""
    code: str = ""


class InvitationList(msgspec.Struct):
    """Invitations, newest first."""

    items: list[InvitationInfo]


class InvitationCode(msgspec.Struct, forbid_unknown_fields=True):
    """The code of an invitation's link."""

    code: Annotated[str, msgspec.Meta(max_length=100)]


class InvitationOffer(msgspec.Struct):
    """What a code invites to."""

    organisation: str | None
    role: str | None
    new_user: bool
    invited_by: str
    note: str
    expires_at: str | None


class Acceptance(msgspec.Struct, forbid_unknown_fields=True):
    """The code, and who to become; without a name the signed-in user joins."""

    code: Annotated[str, msgspec.Meta(max_length=100)]
    name: str = ""
    password: str = ""


class Accepted(msgspec.Struct):
    """Who is signed in now."""

    name: str
    organisation: str | None


def _info(found: Invited, url: str = "", code: str = "") -> InvitationInfo:
    return InvitationInfo(
        found.id,
        found.organisation,
        found.role,
        found.new_user,
        found.note,
        found.created_by,
        iso(found.created_at),
        iso(found.expires_at),
        iso(found.used_at),
        found.used_by or None,
        found.state,
        url,
        code,
    )


@post("/fust/v1/invitations", sync_to_thread=True)
def create_invitation(
    data: InvitationRequest, invitations: Invitations, settings: Settings, identity: Identity
) -> InvitationInfo:
    """Makes a link that lets one person in, once."""
    made, code = invitations.create(
        identity,
        organisation=data.organisation or "",
        role=data.role,
        note=data.note,
        life_s=data.expires_s,
    )
    return _info(made, f"{settings.public_url}/join?code={code}", code)


@get("/fust/v1/invitations", sync_to_thread=True)
def list_invitations(invitations: Invitations, identity: Identity) -> InvitationList:
    """The invitations that the caller may look after."""
    return InvitationList([_info(found) for found in invitations.list(identity)])


@delete("/fust/v1/invitations/{invitation_id:str}", status_code=204, sync_to_thread=True)
def withdraw_invitation(
    invitation_id: Annotated[str, Parameter(max_length=64)], invitations: Invitations, identity: Identity
) -> None:
    """Ends an invitation that nobody used."""
    invitations.withdraw(identity, invitation_id)


@post("/fust/v1/invitations/look", status_code=200, sync_to_thread=True)
def look_at_invitation(data: InvitationCode, invitations: Invitations) -> InvitationOffer:
    """What a code invites to; whoever has it may ask."""
    found = invitations.look(data.code)
    return InvitationOffer(
        found.organisation, found.role, found.new_user, found.created_by, found.note, iso(found.expires_at)
    )


@post("/fust/v1/invitations/accept", status_code=200, sync_to_thread=True)
def accept_invitation(
    request: Request[Any, Any, State],
    data: Acceptance,
    invitations: Invitations,
    accounts: Accounts,
    settings: Settings,
    identity: Identity,
) -> Response[Accepted]:
    """Lets the invited in; the answer sets the cookie."""
    check_not_cross_site(settings, request.headers)
    organisation = invitations.look(data.code).organisation
    secret = invitations.accept(data.code, by=identity, name=data.name.strip(), password=data.password)
    user = accounts.identify({"cookie": f"fust_session={secret}"}).user or ""
    headers = {"set-cookie": session_cookie(settings, secret), "cache-control": "no-store"}
    return Response(Accepted(user, organisation), headers=headers)


handlers: list[Any] = [
    create_invitation,
    list_invitations,
    withdraw_invitation,
    look_at_invitation,
    accept_invitation,
]
