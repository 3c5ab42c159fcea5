"""Passwords: argon2id (RFC 9106), and a brake on guessing."""

from __future__ import annotations

import base64
import binascii
import functools
import ipaddress
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from fust.core.errors import InvalidInput, RateLimited

if TYPE_CHECKING:
    from argon2 import PasswordHasher

MIN_LENGTH = 8
_WINDOW_S = 60.0
_PER_NAME = 10
_PER_ADDRESS = 50
_MOST_KEPT = 50_000


@functools.cache
def _hasher() -> PasswordHasher:
    from argon2 import PasswordHasher

    return PasswordHasher()


def hash_password(password: str) -> str:
    """Returns the argon2id hash.

    Raises:
        InvalidInput: shorter than 8 or longer than 1,000 characters.

    """
    if not MIN_LENGTH <= len(password) <= 1000:
        raise InvalidInput(
            "A password has at least {least} and at most 1000 characters.",
            hint="A sentence is a good one.",
            least=MIN_LENGTH,
        )
    return _hasher().hash(password)


@functools.cache
def _decoy() -> str:
    return _hasher().hash("no such user")


def verify_password(hashed: str | None, password: str) -> bool:
    """Returns whether the password is the one of the hash; without a hash it takes as long and says no."""
    from argon2.exceptions import InvalidHashError, VerificationError

    try:
        matches = _hasher().verify(hashed or _decoy(), password[:1000])
    except (VerificationError, InvalidHashError):
        return False
    return matches and hashed is not None


def password_of_basic(encoded: str) -> str | None:
    """Returns the password part of a Basic login (RFC 7617), which git uses for tokens; None when it is not one."""
    try:
        decoded = base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    name, _, password = decoded.partition(":")
    return password or name or None


class Limiter:
    """A brake on guessing: ten wrong passwords a minute for a name from one address, fifty for all names from there.

    A name is never stopped everywhere, or anyone could lock anyone out. An IPv6 address counts as its /64, of which
    one guesser holds all.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._failures: OrderedDict[tuple[str, str], deque[float]] = OrderedDict()

    def check(self, name: str, address: str) -> None:
        """Raises RateLimited when there were too many wrong passwords lately."""
        with self._lock:
            waits = [self._wait_s(key, most) for key, most in _brakes(name, address)]
        if max(waits) > 0:
            raise RateLimited(
                "Too many wrong passwords from here.",
                hint="Wait {wait} seconds and try again.",
                retry_after_s=max(waits),
                wait=math.ceil(max(waits)),
            )

    def failed(self, name: str, address: str) -> bool:
        """Counts a wrong password; returns whether the next try from there would be refused."""
        with self._lock:
            for key, most in _brakes(name, address):
                kept = self._failures.setdefault(key, deque(maxlen=most))
                kept.append(self._clock())
                self._failures.move_to_end(key)
            while len(self._failures) > _MOST_KEPT:
                self._failures.popitem(last=False)  # the one that was quiet for the longest
            return any(self._wait_s(key, most) > 0 for key, most in _brakes(name, address))

    def _wait_s(self, key: tuple[str, str], most: int) -> float:
        kept = self._failures.get(key)
        if kept is None or len(kept) < most:
            return 0.0
        return max(0.0, kept[0] + _WINDOW_S - self._clock())


def _brakes(name: str, address: str) -> tuple[tuple[tuple[str, str], int], ...]:
    place = _network_of(address)
    return ((name.lower()[:100], place), _PER_NAME), (("", place), _PER_ADDRESS)


def _network_of(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else address
