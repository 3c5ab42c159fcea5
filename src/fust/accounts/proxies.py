"""Where a request came from: the peer, or what a trusted proxy says of it."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Sequence

from fust.core.errors import InvalidInput
from fust.wire.asgi import TRUSTED_PROXIES, current_request, headers_of

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@functools.lru_cache(maxsize=64)
def trusted_networks(values: tuple[str, ...]) -> tuple[_Network, ...]:
    """Returns the addresses and networks of the setting `server.trusted_proxies`.

    Raises:
        InvalidInput: one of them is neither.
    """
    found: list[_Network] = []
    for value in values:
        try:
            found.append(ipaddress.ip_network(value, strict=False))
        except ValueError:
            raise InvalidInput(
                "{value!r} in server.trusted_proxies is not an address or a network.",
                hint="Write it like 10.0.0.5 or 10.0.0.0/8.",
                value=value[:100],
            ) from None
    return tuple(found)


def client_address(peer: str, forwarded_for: str, trusted: Sequence[str]) -> str:
    """Returns the address of the client.

    Args:
        peer: address of the other end of the connection.
        forwarded_for: the X-Forwarded-For header, or nothing. Believed only from a trusted peer, and then from the
            right: each trusted hop vouches for the one before it, the first other address is the client.
        trusted: addresses and networks of proxies.
    """
    networks = trusted_networks(tuple(trusted))
    address = peer
    for hop in reversed([part.strip() for part in forwarded_for[:2000].split(",") if part.strip()]):
        if not _is_in(address, networks):
            break
        if not _is_address(hop):
            break
        address = hop
    return address


def caller_address() -> str:
    """Returns the address of the client whose request is being answered; empty outside of one."""
    scope = current_request.get()
    if scope is None or not scope.get("client"):
        return ""
    forwarded = headers_of(scope).get("x-forwarded-for", "")
    return client_address(scope["client"][0], forwarded, scope.get(TRUSTED_PROXIES, ()))


def caller_agent() -> str:
    """Returns what the client of the request that is being answered calls itself; empty outside of one."""
    scope = current_request.get()
    return headers_of(scope).get("user-agent", "")[:300] if scope is not None else ""


def _is_address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def _is_in(value: str, networks: Sequence[_Network]) -> bool:
    return _is_address(value) and any(ipaddress.ip_address(value) in network for network in networks)
