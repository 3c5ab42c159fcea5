"""Passwords: argon2id (RFC 9106)."""

from __future__ import annotations

import base64
import binascii
import functools
from typing import TYPE_CHECKING

from fust.core.errors import InvalidInput

if TYPE_CHECKING:
    from argon2 import PasswordHasher

MIN_LENGTH = 8


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
