"""Time, in UTC."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> datetime:
    """Returns the present instant, aware, in UTC."""
    return datetime.now(UTC)


def iso(moment: datetime | None) -> str | None:
    """Returns ``2026-11-22T04:05:06.789Z`` (RFC 3339); naive values are taken as UTC, which is how rows hold them."""
    if moment is None:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return aware.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def utc_naive() -> datetime:
    """Returns the present instant as database rows hold it: UTC without a zone."""
    return now().replace(tzinfo=None)
