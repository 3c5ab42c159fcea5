"""What hostile clients send: raw requests with a deadline each, and strategies for nasty values."""

from __future__ import annotations

import http.client
import json
import os
import time
from urllib.parse import quote, urlsplit

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from tests.conftest import RunningFust

DEADLINE_S = 10.0
"""No request of a fuzzer may take longer."""


def bounded(examples: int) -> settings:
    """Settings of a fuzzer: the same examples everywhere, or `FUST_FUZZ` times as many by chance (`make test-slow`)."""
    times = int(os.environ.get("FUST_FUZZ", "1"))
    return settings(
        max_examples=examples * times,
        derandomize=times == 1,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


class Line:
    """A kept connection to a server, on which paths and headers go out byte by byte as given."""

    def __init__(self, server: RunningFust, token: str | None = "") -> None:
        parts = urlsplit(server.url)
        self._address = (parts.hostname or "", parts.port or 0)
        self._token = server.token if token == "" else token
        self._connection: http.client.HTTPConnection | None = None

    def ask(
        self, method: str, target: str | bytes, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Returns status, headers and body; fails on 5xx (but 501 and 507) and on a late answer."""
        path = target if isinstance(target, str) else target.decode("latin-1")
        started = time.monotonic()
        for again in (True, False):
            connection = self._connection or http.client.HTTPConnection(*self._address, timeout=DEADLINE_S)
            self._connection = connection
            try:
                found = self._once(connection, method, path, body, headers or {})
                break
            except (http.client.RemoteDisconnected, ConnectionError):
                self.close()
                if not again:
                    raise
            except BaseException:
                self.close()
                raise
        took = time.monotonic() - started
        status = found[0]
        assert took < DEADLINE_S, (method, path, took)
        assert status < 500 or status in (501, 507), (method, path, status, body[:500], found[2][:500])
        return found

    def _once(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes,
        headers: dict[str, str],
    ) -> tuple[int, dict[str, str], bytes]:
        connection.putrequest(method, "/", skip_accept_encoding=True)
        # The library forbids control characters in a target; a hostile client does not ask it.
        connection._buffer[0] = f"{method} {path} HTTP/1.1".encode("latin-1")  # type: ignore[attr-defined]
        if self._token:
            connection.putheader("authorization", f"Bearer {self._token}")
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.putheader("content-length", str(len(body)))
        connection.endheaders(body or None)
        answer = connection.getresponse()
        data = answer.read()
        if answer.will_close:
            self.close()
        return answer.status, {k.lower(): v for k, v in answer.headers.items()}, data

    def close(self) -> None:
        """Ends the connection; the next request makes a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


# Values

NASTY_TEXTS = [
    "",
    " ",
    ".",
    "..",
    "../..",
    "/",
    "//",
    "a//b",
    ".git",
    ".git/config",
    ".GIT",
    "git~1",
    ".gitmodules",
    "a\\b",
    "a\x00b",
    "a\nb",
    "\r\n",
    "%00",
    "%2e%2e",
    "%",
    "%zz",
    "{x}",
    "{0.__class__}",
    "${x}",
    "'; drop table repo; --",
    "<script>alert(1)</script>",
    "﷽" * 30,
    "e\u0301",
    "\u202egnp.exe",
    "\ufeff",
    "\uffff",
    "\U0001f4a3",
    "con",
    "aux.txt",
    "nul",
    "README.md",
    "-rf",
    "--upload-pack=x",
    "refs/heads/main",
    "refs/pr/1",
    "HEAD",
    "main",
    "main^",
    "main~1",
    "@{1}",
    "main:README.md",
    "0" * 40,
    "f" * 64,
    "x" * 300,
    "a/" * 200,
    "9" * 5000,
    "-1",
    "1e999",
    "NaN",
    "null",
    "true",
    "٣",
    "²",
]
texts = st.one_of(st.sampled_from(NASTY_TEXTS), st.text(max_size=40))
numbers = st.one_of(
    st.integers(),
    st.sampled_from([0, -1, 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**30]),
    st.floats(allow_nan=False, allow_infinity=False),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=8,
)
"""JSON values, nasty ones among them."""
segments = st.one_of(
    texts.map(lambda text: quote(text, safe="")),
    st.sampled_from(["..", "%2e%2e", "%2f", "%5c", "%00", "%ff", "%c0%ae", ";", "*", ":", "@", "~", "$", ""]),
)
"""Parts of a path, as they stand in a request."""


def as_json(value: object) -> bytes:
    """Returns JSON; what UTF-8 cannot hold stays escaped."""
    return json.dumps(value, allow_nan=True).encode()


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes with a few of them changed, cut out, doubled or added."""
    out = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(out) - 1)))
        kind = draw(st.integers(0, 4))
        if kind == 0 and out:
            out[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == 1:
            del out[at:]
        elif kind == 2:
            out[at:at] = draw(st.binary(max_size=12))
        elif kind == 3 and out:
            out[at : at + 8] = draw(
                st.sampled_from([b"\xff" * 8, bytes(8), b"\xff\xff\xff\x7f", (2**63).to_bytes(8, "little")])
            )
        else:
            del out[at : at + draw(st.integers(1, 64))]
    return bytes(out)
