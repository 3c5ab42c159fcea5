"""Passwords: argon2id (RFC 9106), and a brake on guessing."""

from __future__ import annotations

import base64
import binascii
import functools
import threading
import time
from typing import TYPE_CHECKING

from fust.core.errors import InvalidInput, RateLimited

if TYPE_CHECKING:
    from argon2 import PasswordHasher

MIN_LENGTH = 8
_WINDOW_S = 60.0
_ALLOWED = 10


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
    """At most ten wrong passwords a minute for a name from one address."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures: dict[str, list[float]] = {}

    def check(self, name: str) -> None:
        """Raises RateLimited when there were too many wrong passwords lately."""
        with self._lock:
            recent = self._recent(name)
            if len(recent) >= _ALLOWED:
                wait_s = max(1.0, _WINDOW_S - (time.monotonic() - recent[0]))
                raise RateLimited(
                    "Too many wrong passwords for this name.",
                    hint="Wait {wait} seconds and try again.",
                    retry_after_s=wait_s,
                    wait=round(wait_s),
                )

    def failed(self, name: str) -> None:
        """Counts a wrong password."""
        with self._lock:
            if len(self._failures) > 10_000:
                self._failures.clear()
            self._failures[name.lower()] = [*self._recent(name), time.monotonic()]

    def _recent(self, name: str) -> list[float]:
        edge = time.monotonic() - _WINDOW_S
        return [moment for moment in self._failures.get(name.lower(), []) if moment > edge]
