"""What must be read again but not by who gets the database: sealed with a key that lies beside it, outside backups."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.fernet import Fernet


def seal_for(signing_key: bytes, purpose: bytes) -> Fernet:
    """Returns the seal of one purpose, from the 32 bytes of the home (HKDF-SHA256, RFC 5869)."""
    from cryptography.fernet import Fernet
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return Fernet(base64.urlsafe_b64encode(HKDF(hashes.SHA256(), 32, None, purpose).derive(signing_key)))
