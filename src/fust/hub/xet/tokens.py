"""Short-lived signed tokens: who may do what to which repo's large files, and which bytes a URL opens."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from typing import Literal
from urllib.parse import quote

import msgspec

from fust.core.errors import Unauthenticated
from fust.core.units import read_number

Right = Literal["read", "write"]
TOKEN_LIFE_S = 1800
URL_LIFE_S = 3600


class XetToken(msgspec.Struct, array_like=True, frozen=True):
    """What a Xet access token says; bound to one repo and one right."""

    key: str
    """Of the caller (``Identity.key``): when that ends, so does this."""
    repo_id: str
    namespace: str
    right: Right
    expires_s: int


class Signer:
    """Signs and checks with one key; purposes keep one kind of signature from passing as another."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def sign(self, purpose: str, text: str) -> str:
        """Returns 32 hex digits."""
        return self.key_for(purpose, text).hex()[:32]

    def key_for(self, purpose: str, text: str) -> bytes:
        """Returns a key of 32 bytes that nobody else can make."""
        return hmac.new(self._key, f"{purpose}\0{text}".encode(), hashlib.sha256).digest()

    def check(self, purpose: str, text: str, signature: str) -> bool:
        """Returns whether the signature is ours; takes the same time either way."""
        return hmac.compare_digest(self.sign(purpose, text).encode(), signature.encode())

    def make_token(self, key: str, repo_id: str, namespace: str, right: Right) -> tuple[str, int]:
        """Returns a token and when it ends (Unix seconds)."""
        expires = int(time.time()) + TOKEN_LIFE_S
        body = base64.urlsafe_b64encode(
            msgspec.json.encode(XetToken(key, repo_id, namespace, right, expires))
        ).decode()
        return f"xet.{body}.{self.sign('xet', body)}", expires

    def read_token(self, token: str) -> XetToken:
        """Returns what a token says.

        Raises:
            Unauthenticated: not ours, changed, or over its time.

        """
        kind, _, rest = token.partition(".")
        body, _, signature = rest.partition(".")
        try:
            if kind == "xet" and self.check("xet", body, signature):
                said = msgspec.json.decode(base64.urlsafe_b64decode(body), type=XetToken)
                if said.expires_s > time.time():
                    return said
        except (msgspec.DecodeError, binascii.Error, UnicodeError, ValueError):
            pass
        raise Unauthenticated(
            "The Xet token is not valid or is over its time.",
            hint="Ask the hub for a new one; the client does so by itself when it runs again.",
        )

    def xorb_query(self, xorb: str, start: int, end: int, said: XetToken) -> str:
        """Returns the query of a URL that opens bytes [start, end] of a xorb for an hour, to whom a token was given."""
        expires = int(time.time()) + URL_LIFE_S
        text = f"{xorb}:{start}-{end}:{expires}:{said.key}:{said.repo_id}"
        key = quote(said.key, safe="")
        return f"r={start}-{end}&e={expires}&k={key}&p={said.repo_id}&s={self.sign('xorb', text)}"

    def xorb_window(self, xorb: str, query: dict[str, str]) -> tuple[int, int] | None:
        """Returns the bytes [start, end] that a signed query opens, or None."""
        window, expires, signature = query.get("r", ""), query.get("e", ""), query.get("s", "")
        text = f"{xorb}:{window}:{expires}:{query.get('k', '')}:{query.get('p', '')}"
        if not self.check("xorb", text, signature):
            return None
        if (read_number(expires) or 0) < time.time():
            return None
        start, _, end = window.partition("-")
        return int(start), int(end)
