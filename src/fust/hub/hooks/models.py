"""Tables of webhooks and of what is sent to them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from fust.core.clock import utc_naive
from fust.store.database import Base


class Webhook(Base):
    """An address that hears of what happens to repos."""

    __tablename__ = "webhooks"

    id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    by_admin: Mapped[bool] = mapped_column(default=False)
    """Made with the rights of an administrator: only then it hears of other people's private repos."""
    url: Mapped[str]
    watched: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    """`{"type": "user" | "org" | "model" | "dataset" | "space", "name": …}`."""
    domains: Mapped[list[str]]
    """`repo`, `discussion` or both."""
    secret: Mapped[str | None] = mapped_column(default=None)
    """Sealed (``accounts.seal``); none: nothing is signed."""
    disabled: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(default=utc_naive)


class WebhookDelivery(Base):
    """One message to one webhook, kept until it was taken and for some weeks after."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        UniqueConstraint("webhook_id", "event_id", name="uq_webhook_deliveries_event"),
        Index("ix_webhook_deliveries_due", "state", "next_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    event_id: Mapped[int]
    """Of the outbox: an event that is told twice makes one message."""
    scope: Mapped[str]
    action: Mapped[str]
    type: Mapped[str]
    repo_id: Mapped[str]
    """`owner/name`, as it was called then."""
    repo_row: Mapped[str]
    private: Mapped[bool]
    """Whether the repo was private then: asked when it is gone."""
    payload: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """None once it turned out that the webhook's owner may no longer see it."""
    state: Mapped[str] = mapped_column(default="waiting")
    """`waiting`, `delivered`, `dead` or `withheld`."""
    attempts: Mapped[int] = mapped_column(default=0)
    next_at: Mapped[datetime] = mapped_column(default=utc_naive)
    """When it is tried (again); while it is being tried, when another process may take it over."""
    until: Mapped[datetime]
    """After that it is dead."""
    status: Mapped[int | None] = mapped_column(default=None)
    """HTTP status of the last answer."""
    outcome: Mapped[str] = mapped_column(default="")
    """What came of the last attempt, a word of ``send.Outcome``."""
    took_ms: Mapped[int | None] = mapped_column(default=None)
    created_at: Mapped[datetime] = mapped_column(default=utc_naive)
    tried_at: Mapped[datetime | None] = mapped_column(default=None)
