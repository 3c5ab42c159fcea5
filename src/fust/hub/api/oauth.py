"""`/oauth/device` and `/oauth/token`: signing in from a browser (RFC 8628), as `hf auth login` asks.

The client polls with what `/oauth/device` gave it; refusals are OAuth's own words (RFC 6749, 5.2; RFC 8628, 3.5).
"""

from __future__ import annotations

from urllib.parse import parse_qs

from fust.accounts.devices import INTERVAL_S, LIFE, Granted
from fust.core.clock import utc_naive
from fust.hub.http import Reply, Request, Surface, json_reply
from fust.hub.routing import Route

DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_BODY = 10_000
_WORDS = {
    "authorization_pending": "Nobody has allowed it yet.",
    "slow_down": "Ask less often.",
    "access_denied": "It was denied.",
    "expired_token": "The code is over, was spent, or was never given.",
    "unsupported_grant_type": "Only device codes are exchanged here; keys do not need to be refreshed.",
    "invalid_grant": "Keys are not refreshed here; log in again.",
}
_NO_STORE = (b"cache-control", b"no-store")


def _form(request: Request) -> dict[str, str]:
    found = parse_qs(request.body.decode("utf-8", "replace"), max_num_fields=20)
    return {name: values[0] for name, values in found.items()}


def start_device(surface: Surface, request: Request) -> Reply:
    """`POST /oauth/device`: a code for a program to show and poll with."""
    started = surface.devices.start(_form(request).get("client_id", ""))
    page = f"{surface.settings.public_url}/device"
    drawn: dict[str, object] = {
        "device_code": started.device_code,
        "user_code": started.user_code,
        "verification_uri": page,
        "verification_uri_complete": f"{page}?code={started.user_code}",
        "expires_in": int(LIFE.total_seconds()),
        "interval": INTERVAL_S,
    }
    return json_reply(drawn, headers=[_NO_STORE])


def fetch_token(surface: Surface, request: Request) -> Reply:
    """`POST /oauth/token`: the key, once somebody allowed it."""
    form = _form(request)
    grant = form.get("grant_type", "")
    if grant == "refresh_token":
        return _refused("invalid_grant")
    if grant != DEVICE_GRANT:
        return _refused("unsupported_grant_type")
    found = surface.devices.poll(form.get("device_code", ""), form.get("client_id", ""))
    if not isinstance(found, Granted):
        return _refused(found)
    drawn: dict[str, object] = {
        "access_token": found.secret,
        "token_type": "bearer",
        "scope": found.scope,
    }
    if found.expires_at is not None:
        drawn["expires_in"] = max(0, int((found.expires_at - utc_naive()).total_seconds()))
    return json_reply(drawn, headers=[_NO_STORE])


def _refused(word: str) -> Reply:
    return json_reply({"error": word, "error_description": _WORDS[word]}, 400, [_NO_STORE])


def describe_oauth(surface: Surface, request: Request) -> Reply:
    """`GET /.well-known/oauth-authorization-server` (RFC 8414)."""
    del request
    url = surface.settings.public_url
    return json_reply(
        {
            "issuer": url,
            "device_authorization_endpoint": f"{url}/oauth/device",
            "token_endpoint": f"{url}/oauth/token",
            "grant_types_supported": [DEVICE_GRANT],
            "response_types_supported": [],
            "scopes_supported": ["read", "write"],
            "token_endpoint_auth_methods_supported": ["none"],
        }
    )


ROUTES = (
    Route("POST", "/oauth/device", start_device, _BODY),
    Route("POST", "/oauth/token", fetch_token, _BODY),
    Route("GET", "/.well-known/oauth-authorization-server", describe_oauth),
)
