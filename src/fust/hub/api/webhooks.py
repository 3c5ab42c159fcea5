"""`/api/settings/webhooks`: webhooks as `HfApi.create_webhook` and its neighbours speak of them."""

from __future__ import annotations

import msgspec

from fust.core.errors import NotOffered
from fust.hub.draw import Json
from fust.hub.hooks.service import Hook, Watched, Wish
from fust.hub.http import Reply, Request, Surface, json_reply
from fust.hub.routing import BODY, Route


class WatchedItem(msgspec.Struct):
    """What a webhook watches."""

    type: str
    name: str


class WebhookBody(msgspec.Struct):
    """Body of making and changing; an empty ``watched`` says nothing (the client sends one when it changes the rest)."""

    url: str | None = None
    jobSourceId: str | None = None
    watched: list[WatchedItem] | None = None
    domains: list[str] | None = None
    secret: str | None = None


def _wish(request: Request) -> Wish:
    asked = request.decode(WebhookBody)
    if asked.jobSourceId is not None:
        raise NotOffered(
            "A webhook that starts a job is not offered by this hub.",
            hint="Give it a url; what listens there can start a run (POST /fust/v1/runs).",
        )
    watched = [Watched(item.type, item.name) for item in asked.watched or ()] or None
    return Wish(asked.url, watched, asked.domains, asked.secret)


def _draw(hook: Hook) -> Json:
    return {
        "id": hook.id,
        "url": hook.url,
        "watched": [{"type": item.type, "name": item.name} for item in hook.watched],
        "domains": hook.domains,
        "secret": hook.secret,
        "disabled": hook.disabled,
    }


def list_webhooks(surface: Surface, request: Request) -> Reply:
    """`GET /api/settings/webhooks`."""
    return json_reply([_draw(hook) for hook in surface.hub.webhooks.list(request.identity)])


def create_webhook(surface: Surface, request: Request) -> Reply:
    """`POST /api/settings/webhooks`."""
    return json_reply({"webhook": _draw(surface.hub.webhooks.create(request.identity, _wish(request)))})


def get_webhook(surface: Surface, request: Request, webhook: str) -> Reply:
    """`GET /api/settings/webhooks/{id}`."""
    return json_reply({"webhook": _draw(surface.hub.webhooks.get(request.identity, webhook))})


def update_webhook(surface: Surface, request: Request, webhook: str) -> Reply:
    """`POST /api/settings/webhooks/{id}`."""
    changed = surface.hub.webhooks.change(request.identity, webhook, _wish(request))
    return json_reply({"webhook": _draw(changed)})


def enable_webhook(surface: Surface, request: Request, webhook: str) -> Reply:
    """`POST /api/settings/webhooks/{id}/enable`."""
    switched = surface.hub.webhooks.switch(request.identity, webhook, disabled=False)
    return json_reply({"webhook": _draw(switched)})


def disable_webhook(surface: Surface, request: Request, webhook: str) -> Reply:
    """`POST /api/settings/webhooks/{id}/disable`."""
    switched = surface.hub.webhooks.switch(request.identity, webhook, disabled=True)
    return json_reply({"webhook": _draw(switched)})


def delete_webhook(surface: Surface, request: Request, webhook: str) -> Reply:
    """`DELETE /api/settings/webhooks/{id}`."""
    surface.hub.webhooks.remove(request.identity, webhook)
    return json_reply({"success": True})


_ALL = "/api/settings/webhooks"
_ONE = _ALL + "/{webhook}"
ROUTES = (
    Route("GET", _ALL, list_webhooks),
    Route("POST", _ALL, create_webhook, BODY),
    Route("GET", _ONE, get_webhook),
    Route("POST", _ONE, update_webhook, BODY),
    Route("PUT", _ONE, update_webhook, BODY),
    Route("DELETE", _ONE, delete_webhook),
    Route("POST", _ONE + "/enable", enable_webhook, BODY),
    Route("POST", _ONE + "/disable", disable_webhook, BODY),
)
