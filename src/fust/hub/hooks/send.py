"""One POST to an address that somebody named: see ``hub.reach`` for where it may go.

What is answered beyond the status line is not read: a receiver may send what it likes, and nobody sees it here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Literal

from fust.core.clock import now
from fust.hub.reach import Fault, Internal, NotReached, reach

Word = Literal["ok", "status", "redirect"] | Fault
"""`status`: answered, but not with 2xx; `redirect`: with 3xx."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an attempt."""

    word: Word
    status: int | None = None
    retry_after_s: float | None = None
    took_ms: int = 0


def post(
    url: str, body: bytes, headers: Mapping[str, str], *, timeout_s: float, internal: Internal
) -> Outcome:
    """Sends the body and returns what came of it, after ``timeout_s`` at most from the connection on; never raises for
    what the other side does.
    """
    started = time.monotonic()

    def outcome(word: Word, status: int | None = None, retry_after_s: float | None = None) -> Outcome:
        return Outcome(word, status, retry_after_s, round((time.monotonic() - started) * 1000))

    try:
        with reach(url, timeout_s=timeout_s, internal=internal) as line:
            answer = line.ask("POST", dict(headers), body)
            status = answer.status
            if 200 <= status < 300:
                return outcome("ok", status)
            if 300 <= status < 400:
                return outcome("redirect", status)
            return outcome("status", status, _retry_after(answer.getheader("retry-after", "")))
    except NotReached as error:
        return outcome(error.fault)


def _retry_after(value: str) -> float | None:
    """Returns the seconds that a `Retry-After` asks for (RFC 9110, 10.2.3), or None."""
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, (parsedate_to_datetime(value) - now()).total_seconds())
    except (TypeError, ValueError):
        return None
