"""Who a caller is, and the one table of what which role may do. Pure: every surface asks here, none decides itself.

Three things bound a caller, and each only narrows: the role in the organisation, the scope of the key (`read`,
`write`, `admin`), and, for a fine-grained key, what it was made for. Outside of that a key is worth as much as none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, cast, get_args

import msgspec

from fust.core.errors import InvalidInput
from fust.core.ids import REPO_TYPES, check_name

Scope = Literal["read", "write", "admin"]
SCOPES: dict[str, frozenset[str]] = {
    "read": frozenset({"read"}),
    "write": frozenset({"read", "write"}),
    "admin": frozenset({"read", "write", "admin"}),
}

Role = Literal["read", "write", "admin", "owner"]
ROLES: tuple[Role, ...] = get_args(Role)
"""From the least to the most; each may what those before it may."""

Action = Literal[
    "repo.read",
    "repo.open",
    "repo.push",
    "repo.create",
    "repo.delete",
    "repo.settings",
    "org.settings",
    "org.members",
    "org.owners",
    "org.delete",
]
_READING = frozenset({"repo.read", "repo.open"})
"""What a key of the scope `read` may; everything else wants `write`."""
LEAST_ROLE: dict[Action, Role] = {
    "repo.read": "read",  # private repos: their files, their models at the API, their place in lists
    "repo.open": "write",  # files of a gated repo without asking for access
    "repo.push": "write",  # commits, branches, tags, large files; taking its model off the API
    "repo.create": "write",
    "repo.delete": "admin",
    "repo.settings": "admin",  # private or not, gated or not
    "org.settings": "admin",  # the name that is shown
    "org.members": "admin",  # those with the roles read and write
    "org.owners": "owner",  # those with the roles admin and owner
    "org.delete": "owner",
}


@dataclass(frozen=True, slots=True)
class Grants:
    """What a fine-grained key was made for; what it does not name it does not open."""

    repos: tuple[str, ...] = ()
    """`owner/name` (of any type), `dataset:owner/name`, `bucket:owner/name`, `owner/*` or `*`; in lower case."""
    models: tuple[str, ...] = ()
    """Names or aliases at `/v1`, `owner/*` or `*`."""

    def covers_repo(self, repo_type: str, repo_id: str) -> bool:
        """Returns whether the key was made for the repo."""
        return any(_matches(rest, repo_id.lower()) for rest in self.patterns_for(repo_type))

    def patterns_for(self, repo_type: str) -> list[str]:
        """Returns the patterns that speak of a type, without it."""
        split = [pattern.rpartition(":") for pattern in self.repos]
        return [rest for kind, _, rest in split if kind in ("", repo_type)]

    def covers_model(self, names: Iterable[str]) -> bool:
        """Returns whether the key was made for a model with one of these names."""
        return any(_matches(pattern, name) for name in names for pattern in self.models)

    def names_owner(self, owner: str) -> bool:
        """Returns whether some repo of the owner is named."""
        return any(
            rest == "*" or rest.partition("/")[0] == owner.lower()
            for rest in (pattern.rpartition(":")[2] for pattern in self.repos)
        )


def _matches(pattern: str, name: str) -> bool:
    return pattern in ("*", name) or (pattern.endswith("/*") and name.startswith(pattern[:-1]))


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller: a user through a token or a browser session, or nobody."""

    user: str | None
    is_admin: bool
    """An administrator of this Fust, with a key of that scope: owner of everything."""
    scopes: frozenset[str]
    token_id: str | None
    via: Literal["anonymous", "token", "session"]
    roles: Mapping[str, Role] = field(default_factory=lambda: {})
    """Organisation, in lower case, to the user's role there."""
    grants: Grants | None = None
    """Of a fine-grained key; none: everything that the user may."""
    session_id: str | None = None

    @property
    def key(self) -> str:
        """What signed the caller in, as short-lived tokens and URLs name it: `t:…`, `s:…`, or empty."""
        if self.token_id:
            return f"t:{self.token_id}"
        return f"s:{self.session_id}" if self.session_id else ""


ANONYMOUS = Identity(None, False, frozenset(), None, "anonymous")
SYSTEM = Identity("fust", True, SCOPES["admin"], None, "session")


class Asked(msgspec.Struct, frozen=True):
    """With which rights a run was asked for; kept with it."""

    by_admin: bool = False
    token_id: str | None = None
    repos: list[str] | None = None
    models: list[str] | None = None

    @classmethod
    def of(cls, identity: Identity) -> Asked:
        """Returns the rights of a caller."""
        grants = identity.grants
        return cls(
            identity.is_admin,
            identity.token_id,
            [*grants.repos] if grants else None,
            [*grants.models] if grants else None,
        )


def allows(role: Role, action: Action) -> bool:
    """Returns whether a role is enough."""
    return ROLES.index(role) >= ROLES.index(LEAST_ROLE[action])


def role_in(identity: Identity, owner: str) -> Role | None:
    """Returns the caller's role under a name: `owner` of its own and for administrators."""
    if identity.is_admin or (identity.user is not None and identity.user.lower() == owner.lower()):
        return "owner"
    return identity.roles.get(owner.lower())


def may(
    identity: Identity, action: Action, repo_id: str, repo_type: str = "model", *, private: bool = True
) -> bool:
    """Returns whether the caller may do something with a repo; anybody reads a public one."""
    if action == "repo.read" and not private:
        return True
    if ("read" if action in _READING else "write") not in identity.scopes:
        return False
    if identity.grants is not None and not identity.grants.covers_repo(repo_type, repo_id):
        return False
    role = role_in(identity, repo_id.partition("/")[0])
    return role is not None and allows(role, action)


def may_use(identity: Identity, names: Iterable[str], repo_id: str, *, private: bool) -> bool:
    """Returns whether the caller may use a model at `/v1` that is known by ``names``."""
    if identity.user is None:
        return False
    if identity.grants is not None and not identity.grants.covers_model(names):
        return False
    role = role_in(identity, repo_id.partition("/")[0])
    return not private or (role is not None and allows(role, "repo.read"))


def may_use_with(
    identity: Identity,
    names: Iterable[str],
    repo_id: str,
    adapter_repo_id: str,
    *,
    private: bool,
    adapter_private: bool,
) -> bool:
    """Returns whether the caller may use a model with an adapter: both repos count.

    A fine-grained key has to cover both too; a pattern that covers the base does not cover the adapter, its whole name does.
    """
    names = tuple(names)
    grants = identity.grants
    exact = [name for name in names if grants is not None and name in grants.models]
    return may_use(identity, names, repo_id, private=private) and may_use(
        identity, (adapter_repo_id, *exact), adapter_repo_id, private=adapter_private
    )


def may_see_model(identity: Identity, names: Iterable[str], repo_id: str, *, private: bool) -> bool:
    """Returns whether a deployment is shown: who may use it, or a key that was made for its repo."""
    if may_use(identity, names, repo_id, private=private):
        return True
    covered = identity.grants is not None and identity.grants.covers_repo("model", repo_id)
    return covered and may(identity, "repo.read", repo_id, private=private)


def may_in(identity: Identity, action: Action, organisation: str) -> bool:
    """Returns whether the caller may do something with an organisation itself; fine-grained keys may nothing."""
    role = role_in(identity, organisation)
    return (
        "write" in identity.scopes and identity.grants is None and role is not None and allows(role, action)
    )


def check_role(value: str) -> Role:
    """Returns the role, or raises InvalidInput."""
    if value not in ROLES:
        raise InvalidInput(
            "{value!r} is not a role.", hint="Use read, write, admin or owner.", value=value[:50]
        )
    return value


def check_scope(value: str) -> Scope:
    """Returns the scope, or raises InvalidInput."""
    if value not in SCOPES:
        raise InvalidInput("{scope!r} is not a scope.", hint="Use read, write or admin.", scope=value[:50])
    return cast("Scope", value)


def make_grants(repos: Iterable[str] | None, models: Iterable[str] | None) -> Grants | None:
    """Returns what two lists say; None when both are none: a key without limits of its own.

    Raises:
        InvalidInput: something in them is not a pattern; says which.

    """
    if repos is None and models is None:
        return None
    return Grants(
        tuple(dict.fromkeys(_check_repo_pattern(pattern) for pattern in repos or ())),
        tuple(dict.fromkeys(_check_model_pattern(pattern) for pattern in models or ())),
    )


def _check_repo_pattern(pattern: str) -> str:
    kind, colon, rest = pattern.partition(":") if ":" in pattern else ("", "", pattern)
    owner, slash, name = rest.partition("/")
    well = rest == "*" or (slash == "/" and _is_name(owner) and (name == "*" or _is_name(name)))
    if not well or (colon and kind not in (*REPO_TYPES, "bucket")) or len(pattern) > 250:
        raise InvalidInput(
            "{value!r} names no repos.",
            hint="Write owner/name, dataset:owner/name, owner/* or *.",
            value=pattern[:250],
        )
    return pattern.lower()


def _is_name(text: str) -> bool:
    try:
        check_name(text)
    except InvalidInput:
        return False
    return True


def _check_model_pattern(pattern: str) -> str:
    if not 0 < len(pattern) <= 500 or pattern != pattern.strip() or not pattern.isprintable():
        raise InvalidInput(
            "{value!r} names no models.",
            hint="Write a name or an alias as /v1/models has it, owner/* or *.",
            value=pattern[:250],
        )
    return pattern
