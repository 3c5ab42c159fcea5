"""`/fust/v1/organisations`: names that several people share, and who belongs to them."""

from __future__ import annotations

from typing import Literal

import msgspec
from litestar import delete, get, patch, post, put
from litestar.types import ControllerRouterHandler

from fust.accounts.organisations import Membership, Organisation
from fust.accounts.rights import LEAST_ROLE, Identity, Role, may_in, role_in
from fust.accounts.service import Accounts
from fust.core.clock import iso

_Shown = Literal["settings", "members", "owners", "delete"]


class OrganisationInfo(msgspec.Struct):
    """An organisation."""

    name: str
    display_name: str
    created_at: str | None
    members: int
    role: Role | None
    """The caller's; administrators of this Fust count as owners everywhere."""
    may: list[_Shown]
    """What the caller may do with it: change its settings, its members, its admins and owners, delete it."""


class OrganisationList(msgspec.Struct):
    """Organisations by name."""

    items: list[OrganisationInfo]


class OrganisationRequest(msgspec.Struct, forbid_unknown_fields=True):
    """An organisation to make."""

    name: str
    display_name: str = ""


class OrganisationChange(msgspec.Struct, forbid_unknown_fields=True):
    """A new name to show; the one in repo ids stays."""

    display_name: str


class MemberInfo(msgspec.Struct):
    """A member of an organisation."""

    name: str
    full_name: str
    role: Role
    since: str | None


class MemberList(msgspec.Struct):
    """Members by name."""

    items: list[MemberInfo]


class MemberRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A member's role: `read`, `write`, `admin` or `owner`."""

    role: str


def _info(identity: Identity, found: Organisation) -> OrganisationInfo:
    shown: list[_Shown] = ["settings", "members", "owners", "delete"]
    allowed = {
        action.removeprefix("org.")
        for action in LEAST_ROLE
        if action.startswith("org.") and may_in(identity, action, found.name)
    }
    return OrganisationInfo(
        found.name,
        found.display_name,
        iso(found.created_at),
        found.members,
        role_in(identity, found.name),
        [name for name in shown if name in allowed],
    )


def _member(found: Membership) -> MemberInfo:
    return MemberInfo(found.name, found.full_name, found.role, iso(found.since))


@get("/fust/v1/organisations", sync_to_thread=True, tags=["organisations"])
def list_organisations(accounts: Accounts, identity: Identity, mine: bool = False) -> OrganisationList:
    """All organisations, or those that the caller belongs to."""
    accounts.require_whole(identity)
    names = [*identity.roles] if mine else None
    return OrganisationList([_info(identity, found) for found in accounts.organisations.list(names)])


@post("/fust/v1/organisations", sync_to_thread=True, tags=["organisations"])
def create_organisation(
    data: OrganisationRequest, accounts: Accounts, identity: Identity
) -> OrganisationInfo:
    """Makes an organisation; the caller is its first owner."""
    accounts.require_whole(identity, "write")
    made = accounts.organisations.create(data.name, by=identity, display_name=data.display_name)
    return _info(accounts.fresh(identity), made)


@get("/fust/v1/organisations/{organisation:str}", sync_to_thread=True, tags=["organisations"])
def get_organisation(organisation: str, accounts: Accounts, identity: Identity) -> OrganisationInfo:
    """One organisation."""
    accounts.require_whole(identity)
    return _info(identity, accounts.organisations.get(organisation))


@patch("/fust/v1/organisations/{organisation:str}", sync_to_thread=True, tags=["organisations"])
def rename_organisation(
    organisation: str, data: OrganisationChange, accounts: Accounts, identity: Identity
) -> OrganisationInfo:
    """Changes the name that is shown; needs the role admin."""
    accounts.require_whole(identity, "write")
    renamed = accounts.organisations.rename(organisation, data.display_name, by=identity)
    return _info(identity, renamed)


@delete(
    "/fust/v1/organisations/{organisation:str}", status_code=204, sync_to_thread=True, tags=["organisations"]
)
def delete_organisation(organisation: str, accounts: Accounts, identity: Identity) -> None:
    """Deletes an organisation that keeps no repos; needs the role owner."""
    accounts.require_whole(identity, "write")
    accounts.organisations.remove(organisation, by=identity)


@get("/fust/v1/organisations/{organisation:str}/members", sync_to_thread=True, tags=["organisations"])
def list_members(organisation: str, accounts: Accounts, identity: Identity) -> MemberList:
    """Who belongs to an organisation."""
    accounts.require_whole(identity)
    return MemberList([_member(found) for found in accounts.organisations.list_members(organisation)])


@put(
    "/fust/v1/organisations/{organisation:str}/members/{user:str}",
    sync_to_thread=True,
    tags=["organisations"],
)
def set_member(
    organisation: str, user: str, data: MemberRequest, accounts: Accounts, identity: Identity
) -> MemberInfo:
    """Gives a user a role, whether it belonged or not; an admin up to `write`, an owner any."""
    accounts.require_whole(identity, "write")
    return _member(accounts.organisations.set_member(organisation, user, data.role, by=identity))


@delete(
    "/fust/v1/organisations/{organisation:str}/members/{user:str}",
    status_code=204,
    sync_to_thread=True,
    tags=["organisations"],
)
def remove_member(organisation: str, user: str, accounts: Accounts, identity: Identity) -> None:
    """Ends a membership; anybody may end its own, the last owner excepted."""
    accounts.require_whole(identity, "write")
    accounts.organisations.remove_member(organisation, user, by=identity)


handlers: list[ControllerRouterHandler] = [
    list_organisations,
    create_organisation,
    get_organisation,
    rename_organisation,
    delete_organisation,
    list_members,
    set_member,
    remove_member,
]
