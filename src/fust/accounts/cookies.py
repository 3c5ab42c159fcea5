"""The session cookie (RFC 6265bis)."""

from __future__ import annotations

from fust.accounts.sessions import COOKIE, SESSION_LIFE
from fust.core.settings import Settings


def session_cookie(settings: Settings, secret: str) -> str:
    """Returns the Set-Cookie value for a session; an empty secret ends it."""
    life_s = int(SESSION_LIFE.total_seconds()) if secret else 0
    secure = "; Secure" if settings.public_url.startswith("https://") else ""
    return (
        f"{COOKIE}={secret}; Path={settings.base_path}/; Max-Age={life_s}; HttpOnly; SameSite=Strict{secure}"
    )
