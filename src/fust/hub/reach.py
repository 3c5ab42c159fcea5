"""An HTTP connection to an address that somebody named: never a private one, bounded in time, no redirect followed.

The name is resolved once, every address of it is judged by the rules of ``hub.guard``, and the connection goes to the
very address that was judged, so that a name that resolves differently the next moment gains nothing.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Generator
from typing import Literal
from urllib.parse import urlsplit

from fust.hub.guard import is_private, resolve

Fault = Literal["timeout", "refused", "no_address", "private_address", "tls", "nonsense"]
"""`nonsense`: answered with something that is not HTTP."""


class NotReached(Exception):
    """What came of a connection that gave no answer."""

    def __init__(self, fault: Fault) -> None:
        self.fault: Fault = fault
        super().__init__(fault)


class Internal:
    """The private addresses that may be reached all the same (`webhooks.internal_hosts`, `gateway.image_hosts`)."""

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


class Line:
    """A connection to one URL's host."""

    def __init__(self, connection: http.client.HTTPConnection, url: str) -> None:
        self._connection = connection
        self._parts = urlsplit(url)
        self._answer: http.client.HTTPResponse | None = None

    def ask(
        self, method: str, headers: dict[str, str], body: bytes | None = None
    ) -> http.client.HTTPResponse:
        """Sends the one request to the URL; returns the answer, whose body is not read."""
        parts = self._parts
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        host = parts.netloc.rpartition("@")[2]
        self._connection.request(method, path, body, {**headers, "host": host, "connection": "close"})
        self._answer = self._connection.getresponse()
        return self._answer

    def close(self) -> None:
        """Ends it, read to its end or not."""
        if self._answer is not None:
            self._answer.close()
        self._connection.close()


@contextlib.contextmanager
def reach(url: str, *, timeout_s: float, internal: Internal) -> Generator[Line]:
    """Connects to a URL's host for one request, which with its answer takes ``timeout_s`` at most from then on.

    Raises:
        NotReached: also from within, where the other side does not answer as HTTP says, or not in time.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        addresses = resolve(host, port)
    except (OSError, ValueError):
        raise NotReached("no_address") from None
    if not addresses:
        raise NotReached("no_address")
    if not all(internal.allows(host, address) for address in addresses):
        raise NotReached("private_address")
    try:
        raw = _connect(addresses, port, timeout_s)
    except TimeoutError:
        raise NotReached("timeout") from None
    except OSError:
        raise NotReached("refused") from None
    deadline = threading.Event()

    def end() -> None:
        deadline.set()
        with contextlib.suppress(OSError):
            raw.shutdown(socket.SHUT_RDWR)

    # Whoever sends a byte now and then would never meet a timeout of the socket.
    timer = threading.Timer(timeout_s, end)
    timer.daemon = True
    timer.start()
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    line = Line(connection, url)
    try:
        connection.sock = (
            ssl.create_default_context().wrap_socket(raw, server_hostname=host)
            if parts.scheme == "https"
            else raw
        )
        yield line
        if deadline.is_set():
            raise NotReached("timeout")  # what was read looks like the end, and is none
    except NotReached:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        late = deadline.is_set() or isinstance(error, TimeoutError)
        kind: Fault = "tls" if isinstance(error, ssl.SSLError) else "refused"
        kind = kind if isinstance(error, OSError) else "nonsense"
        raise NotReached("timeout" if late else kind) from None
    finally:
        timer.cancel()
        line.close()
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
