"""Keeps a process off private addresses, whatever a name resolves to and wherever a redirect points.

The check stands where the connection is made (the audit event ``socket.connect`` carries the address itself), so a
name that resolves differently the second time gains nothing. Libraries that connect outside Python are not held:
they are used for trusted sources only, and the hosts they are first sent to are checked here.
"""

from __future__ import annotations

import ipaddress
import socket
import sys
import urllib.request
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from urllib.parse import urlsplit

from fust.core.errors import Denied


class PrivateAddress(Denied, OSError):
    """A connection that was not made. An OSError too, so that whoever tried it closes its socket."""

    code = "private_address"


_state = {"active": False, "installed": False}
_allowed: set[str] = set()


def is_private(address: str) -> bool:
    """Returns whether an IP address is not one of the public internet; True for what is no address at all."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return True
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is None and ip in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            ip = inner
    return not ip.is_global or ip.is_multicast


def resolve(host: str, port: int) -> list[str]:
    """Returns the addresses of a host; raises OSError when it has none."""
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


@contextmanager
def public_addresses_only(besides: Iterable[str] = ()) -> Generator[None]:
    """Lets this process connect to public addresses only, to ``besides``, and to the proxies of its environment.

    Raises:
        Denied: from within, where a connection to a private address is tried.

    """
    if not _state["installed"]:
        sys.addaudithook(_hook)  # cannot be taken out again, therefore the switch
        _state["installed"] = True
    _allowed.clear()
    _allowed.update(besides)
    for proxy in urllib.request.getproxies().values():
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        if parts.hostname:
            try:
                _allowed.update(resolve(parts.hostname, parts.port or 80))
            except OSError:
                continue
    _state["active"] = True
    try:
        yield
    finally:
        _state["active"] = False


def check_host(url: str) -> None:
    """Raises Denied for a URL whose host lives on an address that may not be reached now; for what native libraries
    connect to.
    """
    if not _state["active"]:
        return
    parts = urlsplit(url)
    try:
        addresses = resolve(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    except OSError:
        return  # then nobody connects
    for address in addresses:
        _check(address)


def _hook(event: str, args: tuple[object, ...]) -> None:
    if event != "socket.connect" or not _state["active"]:
        return
    address = args[1]
    if isinstance(address, tuple) and address and isinstance(address[0], str):
        _check(address[0])


def _check(address: str) -> None:
    if address not in _allowed and is_private(address):
        raise PrivateAddress(
            "The hub led to the private address {address}, which was not followed.",
            hint="If that is meant, let an administrator set pull.allow_private_addresses.",
            address=address,
        )
