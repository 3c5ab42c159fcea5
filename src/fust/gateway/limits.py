"""How much one key may ask for in a minute, and the headers that tell clients of it.

Two buckets for each key, of requests and of tokens, filled evenly. A request is let in while both hold something; its
tokens are taken when it has ended, so the second may be overdrawn by the requests in flight. Each server process counts
for itself.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from datetime import timedelta

from fust.accounts.rights import Identity
from fust.core.clock import iso, now
from fust.core.errors import RateLimited
from fust.core.settings import GatewaySettings

_MOST_KEYS = 10_000
_MINUTE_S = 60.0

Headers = list[tuple[bytes, bytes]]


@dataclass(slots=True)
class _Bucket:
    limit: int
    left: float
    at: float

    def fill(self, moment: float) -> None:
        self.left = min(self.limit, self.left + (moment - self.at) * self.limit / _MINUTE_S)
        self.at = moment

    def wait_s(self, wanted: float) -> float:
        """Returns the seconds until the bucket holds as much."""
        return max(0.0, (wanted - self.left) * _MINUTE_S / self.limit)


class Limits:
    """The buckets of all keys."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._rates = {
            kind: rate
            for kind, rate in (
                ("requests", settings.requests_per_minute),
                ("tokens", settings.tokens_per_minute),
            )
            if rate
        }
        self._keys: dict[str, dict[str, _Bucket]] = {}

    def take(self, identity: Identity) -> None:
        """Counts a request.

        Raises:
            RateLimited: the key has used its minute up.
        """
        if not self._rates:
            return
        buckets = self._of(identity)
        for kind, bucket in buckets.items():
            if bucket.left < 1:
                raise RateLimited(
                    "This key has used up its {limit} requests a minute."
                    if kind == "requests"
                    else "This key has used up its {limit} tokens a minute.",
                    hint="Try again in {seconds} s.",
                    limit=bucket.limit,
                    seconds=math.ceil(bucket.wait_s(1)),
                    retry_after_s=bucket.wait_s(1),
                )
        if "requests" in buckets:
            buckets["requests"].left -= 1

    def spend(self, identity: Identity, tokens: int) -> None:
        """Takes the tokens of a request that has ended."""
        if "tokens" in self._rates:
            self._of(identity)["tokens"].left -= tokens

    def headers(self, identity: Identity, *, anthropic: bool = False) -> Headers:
        """Returns what tells the client how much is left, in its vendor's words."""
        if not self._rates:
            return []
        made: Headers = []
        for kind, bucket in self._of(identity).items():
            full_s = bucket.wait_s(bucket.limit)
            if anthropic:
                names = [f"anthropic-ratelimit-{kind}-{what}" for what in ("limit", "remaining", "reset")]
                reset = iso(now() + timedelta(seconds=full_s)) or ""
            else:
                names = [f"x-ratelimit-{what}-{kind}" for what in ("limit", "remaining", "reset")]
                reset = f"{full_s:.3f}s"
            values = (str(bucket.limit), str(max(0, math.floor(bucket.left))), reset)
            made += [(name.encode(), value.encode()) for name, value in zip(names, values, strict=True)]
        return made

    def _of(self, identity: Identity) -> dict[str, _Bucket]:
        moment = time.monotonic()
        key = identity.key or identity.user or ""
        buckets = self._keys.get(key)
        if buckets is None:
            if len(self._keys) >= _MOST_KEYS:
                self._keys = {
                    k: b for k, b in self._keys.items() if any(_is_used(x, moment) for x in b.values())
                }
            buckets = {kind: _Bucket(rate, rate, moment) for kind, rate in self._rates.items()}
            self._keys[key] = buckets
        for bucket in buckets.values():
            bucket.fill(moment)
        return buckets


def _is_used(bucket: _Bucket, moment: float) -> bool:
    bucket.fill(moment)
    return bucket.left < bucket.limit
