"""`/api/whoami-v2`, and what the hub says of users and organisations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from fust.accounts.models import Token, User
from fust.accounts.organisations import Organisation
from fust.accounts.rights import Grants, Identity, Role, make_grants
from fust.core.clock import iso
from fust.core.errors import Unauthenticated
from fust.core.ids import REPO_TYPES
from fust.hub.api.common import next_link
from fust.hub.draw import Json
from fust.hub.follows import Kind
from fust.hub.http import Reply, Request, Surface, json_reply, number
from fust.hub.routing import Route

_PAGE = 100
_ROLES: dict[Role, str] = {"read": "read", "write": "write", "admin": "admin", "owner": "admin"}
"""Our roles as the Hub names them; it has no owner above the admin."""


def whoami(surface: Surface, request: Request) -> Reply:
    """`GET /api/whoami-v2`: the user, its organisations, and what the key is for."""
    identity = request.identity
    if identity.user is None:
        raise Unauthenticated(
            "Invalid username or password.", hint="Set HF_TOKEN to a key from `fust tokens new`."
        )
    user = surface.accounts.users.find(identity.user)
    token = surface.accounts.tokens.find(identity.token_id)
    drawn: Json = {
        "type": "user",
        "id": user.id if user else "",
        "name": identity.user,
        "fullname": (user.full_name if user else "") or identity.user,
        "isPro": False,
        "canPay": False,
        "email": None,
        "emailVerified": False,
        "avatarUrl": "",
        "orgs": [
            {**_draw_organisation(found), "roleInOrg": _ROLES[role]}
            for found, role in _organisations_of(surface, identity)
        ],
        "auth": {"type": "access_token", "accessToken": _draw_token(identity, token)},
    }
    return json_reply(drawn)


def _organisations_of(surface: Surface, identity: Identity) -> list[tuple[Organisation, Role]]:
    """Returns those that the caller belongs to; a fine-grained key knows those of its repos only."""
    grants = identity.grants
    names = [name for name in identity.roles if grants is None or grants.names_owner(name)]
    found = surface.accounts.organisations.list(names)
    return [(organisation, identity.roles[organisation.name.lower()]) for organisation in found]


def _draw_organisation(found: Organisation) -> Json:
    return {
        "type": "org",
        "id": found.name.lower(),
        "name": found.name,
        "fullname": found.display_name or found.name,
        "isEnterprise": False,
        "canPay": False,
        "avatarUrl": "",
    }


def _draw_token(identity: Identity, token: Token | None) -> Json:
    write = "write" if "write" in identity.scopes else "read"
    if token is None:
        return {"displayName": "session", "role": write, "createdAt": None}
    drawn: Json = {"displayName": token.name, "role": write, "createdAt": iso(token.created_at)}
    grants = make_grants(token.repos, token.models)
    if grants is not None:
        drawn["role"] = "fineGrained"
        drawn["fineGrained"] = _draw_grants(grants, write)
    return drawn


def _draw_grants(grants: Grants, scope: str) -> Json:
    permissions = ["repo.content.read", *(["repo.write"] if scope == "write" else [])]
    scoped: list[object] = []
    for pattern in grants.repos:
        kind, _, name = pattern.rpartition(":")
        owner, _, rest = name.partition("/")
        entity = (
            {"_id": owner, "type": "org", "name": owner}
            if rest == "*"
            else {"_id": name, "type": kind or "model", "name": name}
        )
        scoped.append({"entity": entity, "permissions": permissions})
    for name in grants.models:
        entity = {"_id": name, "type": "model", "name": name}
        scoped.append({"entity": entity, "permissions": ["inference.serverless.write"]})
    return {"canReadGatedRepos": bool(grants.repos), "global": [], "scoped": scoped}


def user_overview(surface: Surface, request: Request, name: str) -> Reply:
    """`GET /api/users/{name}/overview`: a person and how many repos of theirs the caller may see."""
    user = surface.accounts.users.get(name)
    return json_reply(
        {
            "_id": user.id,
            "user": user.name,
            "fullname": user.full_name or user.name,
            "type": "user",
            "avatarUrl": "",
            "isPro": False,
            "createdAt": iso(user.created_at),
            **_counts(surface, request.identity, user.name),
            "numFollowers": surface.hub.follows.count_followers(user.name),
            "numFollowing": surface.hub.follows.count_following(user.name),
            **_follows(surface, request.identity, user.name),
            "orgs": [_draw_organisation(found) for found in _shared_organisations(surface, request, user.id)],
        }
    )


def _shared_organisations(surface: Surface, request: Request, user_id: str) -> list[Organisation]:
    """Returns a user's organisations; who has not signed in sees none."""
    if request.identity.user is None or request.identity.grants is not None:
        return []
    return surface.accounts.organisations.list_of(user_id)


def organisation_overview(surface: Surface, request: Request, name: str) -> Reply:
    """`GET /api/organizations/{name}/overview`."""
    found = surface.accounts.organisations.get(name)
    return json_reply(
        {
            **_draw_organisation(found),
            "_id": found.name.lower(),
            "numUsers": found.members,
            "createdAt": iso(found.created_at),
            **_counts(surface, request.identity, found.name),
            "numFollowers": surface.hub.follows.count_followers(found.name),
            **_follows(surface, request.identity, found.name),
        }
    )


def organisation_members(surface: Surface, request: Request, name: str) -> Reply:
    """`GET /api/organizations/{name}/members`; for callers who signed in."""
    surface.accounts.require_whole(request.identity)
    return json_reply(
        [
            {
                **_draw_user(member.name, member.name, member.full_name),
                "role": _ROLES[member.role],
            }
            for member in surface.accounts.organisations.list_members(name)
        ]
    )


def _draw_user(row_id: str, name: str, full_name: str) -> Json:
    return {
        "_id": row_id,
        "user": name,
        "fullname": full_name or name,
        "type": "user",
        "avatarUrl": "",
        "isPro": False,
    }


# Following


def _follows(surface: Surface, identity: Identity, name: str) -> Json:
    """Returns `isFollowing`, for callers who signed in."""
    return {"isFollowing": surface.hub.follows.is_followed_by(identity, name)} if identity.user else {}


def user_followers(surface: Surface, request: Request, name: str) -> Reply:
    """`GET /api/users/{name}/followers`, the newest first."""
    return _people(surface, request, partial(surface.hub.follows.followers, name, "user"))


def organisation_followers(surface: Surface, request: Request, name: str) -> Reply:
    """`GET /api/organizations/{name}/followers`, the newest first."""
    return _people(surface, request, partial(surface.hub.follows.followers, name, "org"))


def user_following(surface: Surface, request: Request, name: str) -> Reply:
    """`GET /api/users/{name}/following`: the people whom somebody follows, the newest first."""
    return _people(surface, request, partial(surface.hub.follows.following, name))


def _people(surface: Surface, request: Request, find: Callable[..., list[User]]) -> Reply:
    skip = number(request.query.get("cursor"), 0, 0, 10**9)
    limit = number(request.query.get("limit"), _PAGE, 1, _PAGE)
    found = find(limit=limit + 1, skip=skip)
    following = str(skip + limit) if len(found) > limit else None
    drawn = [_draw_user(user.id, user.name, user.full_name) for user in found[:limit]]
    return json_reply(drawn, headers=next_link(surface, request, following))


def follow_user(surface: Surface, request: Request, name: str) -> Reply:
    """`POST` and `DELETE /api/users/{name}/follow`."""
    return _set_follow(surface, request, name, "user")


def follow_organisation(surface: Surface, request: Request, name: str) -> Reply:
    """`POST` and `DELETE /api/organizations/{name}/follow`."""
    return _set_follow(surface, request, name, "org")


def _set_follow(surface: Surface, request: Request, name: str, kind: Kind) -> Reply:
    surface.hub.follows.set(request.identity, name, kind, follows=request.method == "POST")
    return json_reply(
        {
            **_follows(surface, request.identity, name),
            "numFollowers": surface.hub.follows.count_followers(name),
        }
    )


def _counts(surface: Surface, identity: Identity, owner: str) -> Json:
    """Returns how many repos of each type the caller sees of an owner."""
    return {
        f"num{repo_type.capitalize()}s": surface.hub.list_repos(
            identity, repo_type, author=owner, limit=1
        ).total
        for repo_type in REPO_TYPES
    }


ROUTES = (
    Route("GET", "/api/whoami-v2", whoami),
    Route("GET", "/api/users/{name}/overview", user_overview),
    Route("GET", "/api/organizations/{name}/overview", organisation_overview),
    Route("GET", "/api/organizations/{name}/members", organisation_members),
    Route("GET", "/api/users/{name}/followers", user_followers),
    Route("GET", "/api/users/{name}/following", user_following),
    Route("GET", "/api/organizations/{name}/followers", organisation_followers),
    *(Route(method, "/api/users/{name}/follow", follow_user) for method in ("POST", "DELETE")),
    *(
        Route(method, "/api/organizations/{name}/follow", follow_organisation)
        for method in ("POST", "DELETE")
    ),
)
