"""`/fust/v1/webhooks`: what was sent to the caller's webhooks, and sending it again. Changes go through `/api/settings/webhooks`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from litestar import get, post
from litestar.params import Parameter
from litestar.types import ControllerRouterHandler

from fust.accounts.rights import Identity
from fust.core.clock import iso
from fust.hub.hooks.models import WebhookDelivery
from fust.hub.service import Hub

DeliveryState = Literal["waiting", "delivered", "dead", "withheld"]
Id = Annotated[str, Parameter(max_length=64)]


class WebhookLine(msgspec.Struct):
    """A webhook, and how many messages of each state it has; its secret is not told here."""

    id: str
    url: str
    watched: list[dict[str, str]]
    domains: list[str]
    signed: bool
    disabled: bool
    created_at: str | None
    waiting: int
    delivered: int
    dead: int
    withheld: int


class WebhookList(msgspec.Struct):
    """The caller's webhooks."""

    items: list[WebhookLine]


class Delivery(msgspec.Struct):
    """A message to a webhook."""

    id: str
    scope: str
    action: str
    repo_type: str
    repo_id: str
    state: str
    """`waiting`, `delivered`, `dead`, or `withheld`: the webhook's owner may no longer see the repo."""
    attempts: int
    status: int | None
    """HTTP status of the last answer."""
    outcome: str
    """What came of the last attempt: `ok`, `status`, `redirect`, `timeout`, `refused`, `no_address`,
    `private_address`, `tls`, `nonsense`, `disabled`, `withheld`; empty before the first.
    """
    took_ms: int | None
    created_at: str | None
    tried_at: str | None
    next_at: str | None
    """When it is tried again, of one that waits."""
    payload: dict[str, Any] | None


class DeliveryList(msgspec.Struct):
    """Messages, the newest first."""

    items: list[Delivery]
    total: int


def _delivery(row: WebhookDelivery) -> Delivery:
    return Delivery(
        row.id,
        row.scope,
        row.action,
        row.type,
        row.repo_id,
        row.state,
        row.attempts,
        row.status,
        row.outcome,
        row.took_ms,
        iso(row.created_at),
        iso(row.tried_at),
        iso(row.next_at) if row.state == "waiting" else None,
        row.payload,
    )


@get("/fust/v1/webhooks", sync_to_thread=True)
def list_webhooks(hub: Hub, identity: Identity) -> WebhookList:
    """The caller's webhooks, and how their messages fared."""
    found = hub.webhooks.list(identity)
    counts = hub.webhooks.counts([hook.id for hook in found])
    return WebhookList(
        [
            WebhookLine(
                hook.id,
                hook.url,
                [{"type": item.type, "name": item.name} for item in hook.watched],
                hook.domains,
                bool(hook.secret),
                hook.disabled,
                iso(hook.created_at),
                *(counts[hook.id].get(state, 0) for state in ("waiting", "delivered", "dead", "withheld")),
            )
            for hook in found
        ]
    )


@get("/fust/v1/webhooks/{webhook_id:str}/deliveries", sync_to_thread=True)
def list_deliveries(
    webhook_id: Id,
    hub: Hub,
    identity: Identity,
    wanted: Annotated[DeliveryState | None, Parameter(query="state")] = None,
    limit: Annotated[int, Parameter(ge=1, le=200)] = 20,
    skip: Annotated[int, Parameter(ge=0, le=1_000_000)] = 0,
) -> DeliveryList:
    """What was sent to one of the caller's webhooks, and what is still to be."""
    rows, total = hub.webhooks.deliveries(identity, webhook_id, state=wanted or "", limit=limit, skip=skip)
    return DeliveryList([_delivery(row) for row in rows], total)


@post(
    "/fust/v1/webhooks/{webhook_id:str}/deliveries/{delivery_id:str}/redeliver",
    status_code=200,
    sync_to_thread=True,
)
def redeliver(webhook_id: Id, delivery_id: Id, hub: Hub, identity: Identity) -> Delivery:
    """Sends a message again."""
    return _delivery(hub.webhooks.redeliver(identity, webhook_id, delivery_id))


handlers: list[ControllerRouterHandler] = [list_webhooks, list_deliveries, redeliver]
