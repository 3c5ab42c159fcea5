"""Tokens that a caller gives for one pull: kept in files of their own, so that no row, no params and no log holds them.

$FUST_HOME/pull-tokens/<random name>     0600; whose it is, for which hub, and the token; gone when its pull has ended
"""

from __future__ import annotations

import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from fust.core.errors import InvalidInput
from fust.core.files import write_atomic

KEEP_S = 7 * 86400.0


class _Kept(msgspec.Struct):
    owner: str
    source: str
    token: str


def keep_token(home: Path, owner: str, source: str, token: str) -> str:
    """Writes a token down and returns the name by which the run finds it again.

    Raises:
        InvalidInput: it could not be sent as a header.

    """
    if not token.isascii() or not token.isprintable() or " " in token or len(token) > 4000:
        raise InvalidInput(
            "The token holds characters that no token has.", hint="Copy it again, without spaces."
        )
    folder = home / "pull-tokens"
    folder.mkdir(mode=0o700, exist_ok=True)
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > KEEP_S:
                path.unlink()
    name = secrets.token_hex(16)
    write_atomic(folder / name, msgspec.json.encode(_Kept(owner, source, token)), mode=0o600)
    return name


def read_token(home: Path, owner: str, source: str, name: str) -> str:
    """Returns a kept token to its owner, for the hub it was given for; empty when it is gone."""
    if len(name) != 32 or not name.isalnum():
        return ""
    try:
        kept = msgspec.json.decode((home / "pull-tokens" / name).read_bytes(), type=_Kept)
    except (OSError, msgspec.MsgspecError):
        return ""
    return kept.token if (kept.owner, kept.source) == (owner, source) else ""


def drop_token(home: Path, name: str) -> None:
    """Forgets a token."""
    if len(name) == 32 and name.isalnum():
        with suppress(FileNotFoundError):
            os.unlink(home / "pull-tokens" / name)
