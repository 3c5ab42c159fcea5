"""What lets a receiver know that a message is ours: the Hub's header, and a signature of Standard Webhooks.

`X-Webhook-Secret` holds the secret itself, as on the Hugging Face Hub. `webhook-signature` is
`v1,` + base64(HMAC-SHA256(secret, "{webhook-id}.{webhook-timestamp}.{body}")), as Standard Webhooks 1.0.0 has it, so that
its libraries check it; it proves the body, and a receiver that looks at the time refuses old messages. The key is the
secret's UTF-8 bytes, or, when it begins with `whsec_`, what the base64 after that decodes to.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac


def key_of(secret: str) -> bytes:
    """Returns the bytes that sign."""
    if secret.startswith("whsec_"):
        try:
            return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except (binascii.Error, ValueError):
            return secret.encode()
    return secret.encode()


def headers_for(secret: str | None, message_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """Returns the headers that tell of a message who sent it, and when."""
    headers = {"webhook-id": message_id, "webhook-timestamp": str(timestamp_s)}
    if secret:
        signed = f"{message_id}.{timestamp_s}.".encode() + body
        digest = hmac.new(key_of(secret), signed, hashlib.sha256).digest()
        headers["webhook-signature"] = "v1," + base64.b64encode(digest).decode()
        headers["x-webhook-secret"] = secret
    return headers
