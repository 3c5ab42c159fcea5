"""The built page: one document for every place, immutable assets, a strict content policy; and sign-in by link."""

from __future__ import annotations

import asyncio
import html
import mimetypes
from collections.abc import Mapping
from concurrent.futures import Executor
from pathlib import Path
from urllib.parse import parse_qs

from fust.accounts.cookies import session_cookie
from fust.accounts.service import Accounts
from fust.accounts.sessions import cookie_in
from fust.app.asgi import answer
from fust.core.errors import FustError
from fust.core.settings import Settings
from fust.wire.asgi import Receive, Scope, Send, headers_of

WEB = Path(__file__).parent / "web"
_SECURITY = [
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'self'; frame-ancestors 'none'; "
        b"form-action 'self'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
]


class Page:
    """Serves what `ui/` built. All of it is read once: it is small."""

    def __init__(self, accounts: Accounts, settings: Settings, pool: Executor, web: Path = WEB) -> None:
        self._accounts = accounts
        self._settings = settings
        self._pool = pool
        self._files = {
            "/" + path.relative_to(web).as_posix(): path.read_bytes()
            for path in sorted(web.rglob("*"))
            if path.is_file()
        }
        base = html.escape(settings.base_path + "/", quote=True)
        index = self._files.get("/index.html", b'<!doctype html><base href="/"><title>Fust</title>')
        self._index = index.replace(b'<base href="/">', f'<base href="{base}">'.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request (ASGI 3)."""
        if scope["method"] not in ("GET", "HEAD"):
            await answer(
                send, 405, b"method not allowed\n", b"text/plain", headers=[(b"allow", b"GET, HEAD")]
            )
            return
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        if scope["path"] == "/" and "code" in query:
            await self._sign_in(query["code"][0], send)
            return
        head = scope["method"] == "HEAD"
        file = self._files.get(scope["path"])
        if file is not None and scope["path"] != "/index.html":
            kind = mimetypes.guess_type(scope["path"])[0] or "application/octet-stream"
            immutable = scope["path"].startswith("/assets/")
            cache = b"public, max-age=31536000, immutable" if immutable else b"no-cache"
            await answer(
                send,
                200,
                b"" if head else file,
                kind.encode(),
                headers=[*_SECURITY, (b"cache-control", cache)],
            )
            return
        if scope["path"].startswith("/assets/"):
            await answer(send, 404, b"not found\n", b"text/plain", headers=_SECURITY)
            return
        index = await self._index_for(headers_of(scope))
        cache = [(b"cache-control", b"private, no-cache"), (b"vary", b"cookie")]
        kind = b"text/html; charset=utf-8"
        await answer(send, 200, b"" if head else index, kind, headers=[*_SECURITY, *cache])

    async def _index_for(self, headers: Mapping[str, str]) -> bytes:
        """Returns the document with the language and the theme of whoever is signed in, so that its first paint is
        right in any of their browsers (`ui/public/early.js` reads them).
        """
        if not cookie_in(headers):
            return self._index
        loop = asyncio.get_running_loop()
        try:
            looks = await loop.run_in_executor(self._pool, self._looks_of, headers)
        except FustError:
            return self._index  # the page says itself what is wrong
        return self._index.replace(b'<html lang="en">', f'<html lang="en"{looks}>'.encode(), 1)

    def _looks_of(self, headers: Mapping[str, str]) -> str:
        user = self._accounts.users.find(self._accounts.identify(headers).user)
        chosen = {"language": user.language, "theme": user.theme} if user else {}
        return "".join(f' data-{name}="{html.escape(value)}"' for name, value in chosen.items() if value)

    async def _sign_in(self, code: str, send: Send) -> None:
        home = (self._settings.base_path + "/").encode()
        loop = asyncio.get_running_loop()
        try:
            secret = await loop.run_in_executor(self._pool, self._accounts.sessions.redeem_code, code)
        except FustError:
            fields = [(b"location", home + b"?code_error=1"), (b"cache-control", b"no-store"), *_SECURITY]
        else:
            fields = [
                (b"location", home),
                (b"cache-control", b"no-store"),
                (b"set-cookie", session_cookie(self._settings, secret).encode()),
                *_SECURITY,
            ]
        await answer(send, 303, b"", b"text/plain", headers=fields)
