"""`/api/whoami-v2` and its like: who am I."""

from __future__ import annotations

from fust.core.errors import Unauthenticated
from fust.hub.draw import Json
from fust.hub.http import Reply, Request, Surface, json_reply
from fust.hub.routing import Route


def whoami(surface: Surface, request: Request) -> Reply:
    """`GET /api/whoami-v2`."""
    if request.identity.user is None:
        raise Unauthenticated(
            "Invalid username or password.", hint="Set HF_TOKEN to a key from `fust tokens new`."
        )
    user = surface.accounts.find_user(request.identity.user)
    spaces = surface.accounts.namespaces_of(request.identity)
    token = surface.accounts.find_token(request.identity.token_id)
    drawn: Json = {
        "type": "user",
        "id": user.id if user else "",
        "name": request.identity.user,
        "fullname": (user.full_name if user else "") or request.identity.user,
        "isPro": False,
        "canPay": False,
        "email": None,
        "emailVerified": False,
        "avatarUrl": "",
        "orgs": [
            {
                "type": "org",
                "id": space.key,
                "name": space.name,
                "fullname": space.name,
                "isEnterprise": False,
                "canPay": False,
                "avatarUrl": "",
                "roleInOrg": "admin",
            }
            for space in spaces
            if space.kind == "org"
        ],
        "auth": {
            "type": "access_token",
            "accessToken": {
                "displayName": token.name if token else "session",
                "role": "write" if "write" in request.identity.scopes else "read",
            },
        },
    }
    return json_reply(drawn)


ROUTES = (Route("GET", "/api/whoami-v2", whoami),)
