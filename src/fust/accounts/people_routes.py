"""`/fust/v1/users` and `/fust/v1/people`: who there is."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import delete, get, patch, post, put
from litestar.params import Parameter
from litestar.types import ControllerRouterHandler

from fust.accounts.models import User
from fust.accounts.rights import Identity
from fust.accounts.service import Accounts
from fust.accounts.users import Language, Theme
from fust.core.clock import iso


class UserInfo(msgspec.Struct):
    """A user."""

    name: str
    full_name: str
    is_admin: bool
    has_password: bool
    suspended: bool
    created_at: str | None


class UserList(msgspec.Struct):
    """All users."""

    items: list[UserInfo]


class UserRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A user to make."""

    name: str
    password: str | None = None
    is_admin: bool = False
    full_name: str = ""


class UserChange(msgspec.Struct, forbid_unknown_fields=True):
    """What to change of a user; null stays."""

    full_name: str | None = None
    is_admin: bool | None = None
    suspended: bool | None = None
    language: Language | None = None
    theme: Theme | None = None


class PasswordRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A new password."""

    password: str


class Person(msgspec.Struct):
    """A user as others see it."""

    name: str
    full_name: str


class PersonList(msgspec.Struct):
    """Users by name."""

    items: list[Person]


def _user_info(user: User) -> UserInfo:
    return UserInfo(
        user.name,
        user.full_name,
        user.is_admin,
        user.password_hash is not None,
        user.suspended,
        iso(user.created_at),
    )


@get("/fust/v1/users", sync_to_thread=True, tags=["people"])
def list_users(accounts: Accounts, identity: Identity) -> UserList:
    """All users; for administrators."""
    accounts.check_admin(identity)
    return UserList([_user_info(user) for user in accounts.users.list()])


@post("/fust/v1/users", sync_to_thread=True, tags=["people"])
def create_user(data: UserRequest, accounts: Accounts, identity: Identity) -> UserInfo:
    """Makes a user; for administrators."""
    accounts.check_admin(identity)
    made = accounts.users.create(
        data.name, is_admin=data.is_admin, password=data.password, full_name=data.full_name, by=identity
    )
    return _user_info(made)


@patch("/fust/v1/users/{user:str}", sync_to_thread=True, tags=["people"])
def update_user(user: str, data: UserChange, accounts: Accounts, identity: Identity) -> UserInfo:
    """Changes a user: one's own shown name, language and theme, or, for administrators, anybody's, its rank and whether
    it may act.
    """
    accounts.require_whole(identity, "write")
    own = identity.user is not None and identity.user.lower() == user.lower()
    if not own or data.is_admin is not None or data.suspended is not None:
        accounts.check_admin(identity)
    changed = accounts.users.update(
        user,
        full_name=data.full_name,
        is_admin=data.is_admin,
        suspended=data.suspended,
        language=data.language,
        theme=data.theme,
        by=identity,
    )
    return _user_info(changed)


@delete("/fust/v1/users/{user:str}", status_code=204, sync_to_thread=True, tags=["people"])
def delete_user(user: str, accounts: Accounts, identity: Identity) -> None:
    """Deletes a user that keeps no repos, with its keys; for administrators."""
    accounts.check_admin(identity)
    accounts.users.remove(user, by=identity)


@put("/fust/v1/users/{user:str}/password", status_code=204, sync_to_thread=True, tags=["people"])
def set_password(user: str, data: PasswordRequest, accounts: Accounts, identity: Identity) -> None:
    """Sets a password: one's own, or anyone's for administrators."""
    accounts.require_whole(identity, "write")
    if identity.user != user:
        accounts.check_admin(identity)
    accounts.users.set_password(user, data.password, by=identity)


@get("/fust/v1/people", sync_to_thread=True, tags=["people"])
def list_people(
    accounts: Accounts,
    identity: Identity,
    search: Annotated[str, Parameter(max_length=100)] = "",
    limit: Annotated[int, Parameter(ge=1, le=500)] = 50,
) -> PersonList:
    """Users by name, for whoever is signed in: to find whom to add to an organisation."""
    accounts.require_whole(identity)
    found = accounts.users.list(search, limit)
    return PersonList([Person(user.name, user.full_name) for user in found if not user.suspended])


handlers: list[ControllerRouterHandler] = [
    list_users,
    create_user,
    update_user,
    delete_user,
    set_password,
    list_people,
]
