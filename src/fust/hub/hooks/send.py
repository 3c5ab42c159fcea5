"""One POST to an address that somebody named: bounded in time, never to a private address, no redirect followed.

The name is resolved once, every address of it is judged by the rules of ``hub.guard``, and the connection goes to the
very address that was judged, so that a name that resolves differently the next moment gains nothing. What is answered
beyond the status line is not read: a receiver may send what it likes, and nobody sees it here.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Literal
from urllib.parse import urlsplit

from fust.core.clock import now
from fust.hub.guard import is_private, resolve

Word = Literal[
    "ok", "status", "redirect", "timeout", "refused", "no_address", "private_address", "tls", "nonsense"
]
"""`status`: answered, but not with 2xx; `redirect`: with 3xx; `nonsense`: with something that is not HTTP."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an attempt."""

    word: Word
    status: int | None = None
    retry_after_s: float | None = None
    took_ms: int = 0


class Internal:
    """The private addresses that may be reached all the same (the setting `webhooks.internal_hosts`)."""

    def __init__(self, hosts: tuple[str, ...]) -> None:
        self._names = {host.lower().rstrip(".") for host in hosts}
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        for host in hosts:
            with contextlib.suppress(ValueError):
                self._networks.append(ipaddress.ip_network(host.strip("[]"), strict=False))

    def allows(self, host: str, address: str) -> bool:
        """Returns whether a connection to ``address``, which is what ``host`` resolved to, may be made."""
        if not is_private(address) or host.lower().rstrip(".") in self._names:
            return True
        try:
            ip = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        return any(ip in network for network in self._networks)


def post(
    url: str, body: bytes, headers: Mapping[str, str], *, timeout_s: float, internal: Internal
) -> Outcome:
    """Sends the body and returns what came of it, after ``timeout_s`` at most from the connection on; never raises for
    what the other side does.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    started = time.monotonic()

    def outcome(word: Word, status: int | None = None, retry_after_s: float | None = None) -> Outcome:
        return Outcome(word, status, retry_after_s, round((time.monotonic() - started) * 1000))

    try:
        addresses = resolve(host, port)
    except (OSError, UnicodeError):
        return outcome("no_address")
    if not addresses:
        return outcome("no_address")
    if not all(internal.allows(host, address) for address in addresses):
        return outcome("private_address")
    deadline = threading.Event()
    try:
        raw = _connect(addresses, port, timeout_s)
    except TimeoutError:
        return outcome("timeout")
    except OSError:
        return outcome("refused")

    def end() -> None:
        deadline.set()
        with contextlib.suppress(OSError):
            raw.shutdown(socket.SHUT_RDWR)

    # A receiver that sends a byte now and then would never meet a timeout of the socket.
    timer = threading.Timer(timeout_s, end)
    timer.daemon = True
    timer.start()
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.sock = (
            ssl.create_default_context().wrap_socket(raw, server_hostname=host)
            if parts.scheme == "https"
            else raw
        )
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", path, body, {**headers, "host": parts.netloc, "connection": "close"})
        answer = connection.getresponse()
        status = answer.status
        if 200 <= status < 300:
            return outcome("ok", status)
        if 300 <= status < 400:
            return outcome("redirect", status)
        return outcome("status", status, _retry_after(answer.getheader("retry-after", "")))
    except ssl.SSLError:
        return outcome("timeout" if deadline.is_set() else "tls")
    except TimeoutError:
        return outcome("timeout")
    except (OSError, http.client.HTTPException, ValueError) as error:
        if deadline.is_set():
            return outcome("timeout")
        return outcome("refused" if isinstance(error, OSError) else "nonsense")
    finally:
        timer.cancel()
        connection.close()
        raw.close()


def _connect(addresses: list[str], port: int, timeout_s: float) -> socket.socket:
    """Returns a connection to the first address that answers; raises OSError when none does."""
    last: OSError = OSError("no address")
    until = time.monotonic() + timeout_s
    for address in addresses:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        try:
            return socket.create_connection((address, port), timeout=left)
        except OSError as error:
            last = error
    raise last


def _retry_after(value: str) -> float | None:
    """Returns the seconds that a `Retry-After` asks for (RFC 9110, 10.2.3), or None."""
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, (parsedate_to_datetime(value) - now()).total_seconds())
    except (TypeError, ValueError):
        return None
