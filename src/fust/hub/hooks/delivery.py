"""Sends messages to webhooks: off the path of everything else, again after failures, dead after a day.

At least once: a server that is killed between sending and noting sends again, under the same `webhook-id`. A few
threads send, at most one message a webhook at a time, so that a receiver that stalls holds up itself alone.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import msgspec

from fust import __version__
from fust.core.clock import utc_naive
from fust.core.settings import WebhooksSettings
from fust.hub.hooks.send import Outcome, post
from fust.hub.hooks.service import Message, Webhooks
from fust.hub.hooks.signing import headers_for

log = logging.getLogger(__name__)

SENDERS = 4
LONGEST_WAIT_S = 3600.0
_LOOK_S = 1.0


class Deliverer:
    """Sends what webhooks are to hear."""

    def __init__(self, webhooks: Webhooks, settings: WebhooksSettings) -> None:
        self._webhooks = webhooks
        self._settings = settings
        self._wake = threading.Event()
        self._stopping = False
        self._busy: set[str] = set()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(SENDERS, thread_name_prefix="fust-webhook")
        self._thread = threading.Thread(target=self._run, name="fust-webhooks", daemon=True)
        webhooks.wake = self._wake.set

    def start(self) -> None:
        """Begins to send."""
        self._thread.start()

    def stop(self) -> None:
        """Ends; what is on its way is sent, or sent again by the next server."""
        self._stopping = True
        self._wake.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                with self._lock:
                    busy = sorted(self._busy)
                for message in self._webhooks.claim(SENDERS - len(busy), busy) if len(busy) < SENDERS else ():
                    with self._lock:
                        self._busy.add(message.webhook_id)
                    self._pool.submit(self._deliver, message)
            except Exception:
                if self._stopping:
                    return
                log.exception("messages to webhooks could not be read; trying again")
            self._wake.wait(_LOOK_S)

    def _deliver(self, message: Message) -> None:
        try:
            self._settle(message, self._send(message))
        except Exception:
            log.exception("a message to a webhook could not be sent", extra={"message_id": message.id})
        finally:
            with self._lock:
                self._busy.discard(message.webhook_id)
            self._wake.set()

    def _send(self, message: Message) -> Outcome:
        body = msgspec.json.encode(message.payload)
        headers = {"content-type": "application/json", "user-agent": f"fust/{__version__}"}
        headers |= headers_for(message.secret, message.id, int(time.time()), body)
        return post(
            message.url,
            body,
            headers,
            timeout_s=self._settings.timeout_s,
            internal=self._webhooks.internal,
        )

    def _settle(self, message: Message, outcome: Outcome) -> None:
        again_at = None
        if (
            outcome.word != "ok" and outcome.status != 410
        ):  # 410: the receiver is gone for good (RFC 9110, 15.5.11)
            wait_s = self.wait_after(message.attempts, outcome)
            again_at = utc_naive() + timedelta(seconds=wait_s)
            if again_at > message.until:
                again_at = None
        self._webhooks.settle(
            message,
            outcome=outcome.word,
            status=outcome.status,
            took_ms=outcome.took_ms,
            again_at=again_at,
        )
        if outcome.word != "ok":
            log.info(
                "a webhook did not take its message",
                extra={"message_id": message.id, "outcome": outcome.word, "status": outcome.status},
            )

    def wait_after(self, attempts: int, outcome: Outcome) -> float:
        """Returns how many seconds to wait after so many attempts: doubled each time, scattered, at least what is asked."""
        doubled = self._settings.retry_s * 2.0 ** min(attempts - 1, 20)
        scattered = min(doubled, LONGEST_WAIT_S) * random.uniform(0.75, 1.25)
        return max(scattered, min(outcome.retry_after_s or 0.0, LONGEST_WAIT_S))
