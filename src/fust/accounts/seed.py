"""The seed file: a team's users, organisations, roles and tokens as code.

```toml
[[users]]
name = "maria"
full_name = "Maria Silva"
admin = true                     # of this Fust; left away: stays as it is
password = "a sentence is good"  # for the first sign-in; one that is set already stays

[[users.tokens]]
name = "laptop"
scope = "write"
value = "maria-laptop-0123456789abcdef"
repos = ["lab/*"]                # as `fust tokens new --repo`, likewise `models` and `expires_at`

[[organisations]]
name = "lab"
display_name = "The Language Lab"
members = { maria = "owner", ben = "write" }
```

Applied as often as one likes: what is there and says the same is left alone, what differs is brought to what the file
says, and what the file does not name stays. Nothing is ever removed by leaving it away.
"""

from __future__ import annotations

import tomllib
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any, cast

import msgspec

from fust.accounts.models import Token
from fust.accounts.rights import SYSTEM, check_role, check_scope, make_grants
from fust.accounts.service import Accounts
from fust.accounts.tokens import check_chosen, digest_of
from fust.core.clock import utc_naive
from fust.core.decode_words import words_of
from fust.core.errors import FustError, InvalidInput
from fust.core.i18n import Words
from fust.core.ids import check_name


class SeedToken(msgspec.Struct, forbid_unknown_fields=True):
    """A token of a user, by its name."""

    name: str
    value: str
    scope: str = "read"
    repos: list[str] | None = None
    models: list[str] | None = None
    expires_at: datetime | None = None

    @property
    def ends(self) -> datetime | None:
        """UTC, naive."""
        moment = self.expires_at
        return moment.astimezone(UTC).replace(tzinfo=None) if moment and moment.tzinfo else moment


class SeedUser(msgspec.Struct, forbid_unknown_fields=True):
    """A user."""

    name: str
    full_name: str | None = None
    admin: bool | None = None
    password: str | None = None
    tokens: list[SeedToken] = []


class SeedOrganisation(msgspec.Struct, forbid_unknown_fields=True):
    """An organisation and the roles in it."""

    name: str
    display_name: str | None = None
    members: dict[str, str] = {}


class Seed(msgspec.Struct, forbid_unknown_fields=True):
    """The whole file."""

    users: list[SeedUser] = []
    organisations: list[SeedOrganisation] = []


def read_seed(path: Path) -> Seed:
    """Returns what a seed file says, checked as far as it can be without a home.

    Raises:
        InvalidInput: it cannot be read, or something in it is wrong; says what and where.

    """
    try:
        document: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        seed = msgspec.convert(_dates_as_times(document), Seed)
    except OSError as error:
        raise InvalidInput(
            "{path} cannot be read: {reason}.", path=path, reason=error.strerror or str(error)
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput("{path} is not valid TOML: {error}.", path=path, error=words_of(error)) from None
    except msgspec.ValidationError as error:
        raise _wrong(path, words_of(error)) from None
    try:
        _check(seed)
    except FustError as error:
        raise _wrong(path, error.sentence()) from None
    return seed


def _dates_as_times(value: Any) -> Any:
    """Returns a TOML value with each date alone as its first moment in UTC."""
    if isinstance(value, dict):
        return {key: _dates_as_times(item) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_dates_as_times(item) for item in cast("list[Any]", value)]
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime.combine(value, time(), UTC)
    return value


def _wrong(path: Path, reason: str | Words) -> InvalidInput:
    return InvalidInput(
        "The seed file {path} is wrong: {reason}",
        hint="docs/manage-a-team.md shows a whole one.",
        path=path,
        reason=reason,
    )


def _check(seed: Seed) -> None:
    """Raises when the file contradicts itself or holds something that cannot be made: before anything is made."""
    names = [user.name.lower() for user in seed.users] + [o.name.lower() for o in seed.organisations]
    values = [token.value for user in seed.users for token in user.tokens]
    for kind, found in (("name", names), ("token value", values)):
        twice = next((value for value in found if found.count(value) > 1), None)
        if twice is not None:
            shown = twice if kind == "name" else twice[:4] + "…"
            raise InvalidInput("The {kind} {value} stands there twice.", kind=kind, value=shown)
    for user in seed.users:
        check_name(user.name, "user name")
        tokens = [token.name for token in user.tokens]
        for token in user.tokens:
            if tokens.count(token.name) > 1:
                raise InvalidInput("The {kind} {value} stands there twice.", kind="token", value=token.name)
            check_scope(token.scope)
            check_chosen(token.value)
            make_grants(token.repos, token.models)
    for organisation in seed.organisations:
        check_name(organisation.name, "organisation")
        for role in organisation.members.values():
            check_role(role)
        if organisation.members and "owner" not in organisation.members.values():
            raise InvalidInput(
                "{organisation} has no owner.",
                hint='Give somebody the role "owner".',
                organisation=organisation.name,
            )


def apply_seed(accounts: Accounts, seed: Seed) -> list[str]:
    """Brings a home to what a seed file says and returns what was changed; nothing when it said so already.

    Raises:
        FustError: a name is taken by something else, or reserved; what came before it in the file is done.

    """
    changes: list[str] = []
    for user in seed.users:
        changes += _apply_user(accounts, user)
    for organisation in seed.organisations:
        changes += _apply_organisation(accounts, organisation)
    if changes:
        accounts.note(SYSTEM, "seed.apply", "seed", changes=len(changes))
    return changes


def _apply_user(accounts: Accounts, wanted: SeedUser) -> list[str]:
    changes: list[str] = []
    user = accounts.users.find(wanted.name)
    if user is None:
        accounts.users.create(
            wanted.name,
            is_admin=bool(wanted.admin),
            password=wanted.password,
            full_name=wanted.full_name or "",
        )
        changes.append(f"+ user {wanted.name}")
    else:
        renamed = wanted.full_name not in (None, user.full_name)
        ranked = wanted.admin not in (None, user.is_admin)
        if renamed or ranked:
            accounts.users.update(user.name, full_name=wanted.full_name, is_admin=wanted.admin)
            changes.append(f"~ user {user.name}")
        if wanted.password is not None and user.password_hash is None:
            accounts.users.set_password(user.name, wanted.password)
            changes.append(f"~ user {user.name}: password")
    known = {
        token.name: token for token in reversed(accounts.tokens.list(user.name if user else wanted.name))
    }
    for token in wanted.tokens:
        changes += _apply_token(accounts, user.name if user else wanted.name, token, known.get(token.name))
    return changes


def _apply_token(accounts: Accounts, user: str, wanted: SeedToken, known: Token | None) -> list[str]:
    ends = wanted.ends
    if known is not None and _same(known, wanted, ends):
        return []
    if ends is not None and ends <= utc_naive() and known is None:
        return []  # it was to end, and has; a file is not changed for that
    if known is not None:
        accounts.tokens.revoke(SYSTEM, known.id)
    if ends is None or ends > utc_naive():
        accounts.tokens.create(
            user,
            wanted.name,
            wanted.scope,
            repos=wanted.repos,
            models=wanted.models,
            expires_at=ends,
            secret=wanted.value,
        )
    return [f"{'+' if known is None else '~'} token {user}/{wanted.name}"]


def _same(known: Token, wanted: SeedToken, ends: datetime | None) -> bool:
    return (
        known.secret_hash == digest_of(wanted.value)
        and known.scope == wanted.scope
        and make_grants(known.repos, known.models) == make_grants(wanted.repos, wanted.models)
        and known.expires_at == ends
    )


def _apply_organisation(accounts: Accounts, wanted: SeedOrganisation) -> list[str]:
    changes: list[str] = []
    owners = [user for user, role in wanted.members.items() if role == "owner"]
    found = {o.name.lower(): o for o in accounts.organisations.list([wanted.name.lower()])}
    known = found.get(wanted.name.lower())
    if known is None:
        first = owners[0] if owners else getattr(accounts.users.first_admin(), "name", "")
        accounts.organisations.create(
            wanted.name, by=SYSTEM, display_name=wanted.display_name or "", owner=first
        )
        changes.append(f"+ organisation {wanted.name}")
    elif wanted.display_name not in (None, known.display_name):
        accounts.organisations.rename(wanted.name, wanted.display_name or "", by=SYSTEM)
        changes.append(f"~ organisation {wanted.name}")
    roles = {m.name.lower(): m.role for m in accounts.organisations.list_members(wanted.name)}
    # Owners first: nobody can be taken out of that role while there is no other.
    for user, role in sorted(wanted.members.items(), key=lambda pair: pair[1] != "owner"):
        if roles.get(user.lower()) != role:
            accounts.organisations.set_member(wanted.name, user, role, by=SYSTEM)
            if known is not None or user != owners[0]:
                changes.append(f"~ {wanted.name}: {user} {role}")
    return changes
