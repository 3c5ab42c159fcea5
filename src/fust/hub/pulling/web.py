"""Requests to another hub: bounded, patient, and never led astray.

Redirects are followed by hand: at most ten, never from https down to http, and the token goes to the hub's own origin
only. Private addresses are kept out where the connection is made (``hub.guard``). Bodies are read as they come over
the wire, so that a compressed answer costs what it sends, and JSON has a limit. A hub that asks for time
(429 or 503 with `Retry-After`, RFC 9110 10.2.3) gets it, on all connections at once.
"""

from __future__ import annotations

import logging
import random
import threading
import time
import zlib
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

import httpx2
import msgspec

from fust import __version__
from fust.core.clock import now
from fust.core.decode_words import words_of
from fust.core.errors import Denied, FustError, Gated, NotFound, RateLimited, UpstreamFailed
from fust.core.i18n import Words
from fust.core.units import read_number, span_words
from fust.hub.guard import PrivateAddress
from fust.hub.pulling.pace import PIECE_BYTES, Pace
from fust.hub.pulling.types import Source, UpstreamFile, origin

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 5
"""Tries in a row that bring nothing before we give up."""
PROGRESS_BYTES = 2**15
"""A try that brings less has brought nothing: else a hub could drip for ever."""
BACKOFF_S, LONGEST_BACKOFF_S = 1.0, 30.0
CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 15.0, 30.0
SLOWEST_BYTES_PER_S, SLOW_WINDOW_S = 512, 60.0
"""Less than this over the window counts as a stalled connection."""
MAX_JSON_BYTES = 64 * 2**20
MAX_REDIRECTS = 10
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_T = TypeVar("_T")
Say = Callable[..., None]
Piece = tuple[int, bytes]


class Stalled(Exception):
    """The connection lives and brings next to nothing, or ended early."""


class NoRanges(Exception):
    """The hub sends a file from its start, whatever part it is asked for."""


class Stopped(Exception):
    """The pull ends, for whatever reason; said to its threads."""


class Refused(Exception):
    """The hub answered with a status that is no success."""

    def __init__(self, status: int, headers: Mapping[str, str], url: str) -> None:
        super().__init__(f"{status} for {urlsplit(url).path}")
        self.status = status
        self.headers = headers


Clear = Callable[[Refused], FustError | None]
"""Puts a refusal into better words, or returns None."""


class Web:
    """One hub, as all threads of a pull talk to it."""

    def __init__(
        self,
        source: Source,
        token: str = "",
        *,
        patience_s: float = 900.0,
        paces: tuple[Pace, ...] = (),
        stop: threading.Event | None = None,
        say: Say = lambda *_, **__: None,
    ) -> None:
        self.source = source
        self._token = token
        self._patience_s = patience_s
        self._paces = paces
        self.stop = stop or threading.Event()
        self._say = say
        self._client = httpx2.Client(
            follow_redirects=False,
            timeout=httpx2.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S, pool=None),
            limits=httpx2.Limits(max_connections=64, max_keepalive_connections=16),
            headers={"user-agent": f"fust/{__version__}", "accept-encoding": "identity"},
        )
        self._lock = threading.Lock()
        self._hold_until = 0.0
        self._waited_s = 0.0
        self.waiting: dict[str, object] | None = None
        """Who asks us to wait and for how long, as the fields of a message, while we do."""

    def close(self) -> None:
        """Closes all connections."""
        self._client.close()

    # Requests

    @property
    def authorization(self) -> dict[str, str]:
        """Headers that the hub's own origin gets, and no other."""
        return {"authorization": f"Bearer {self._token}"} if self._token else {}

    @contextmanager
    def open(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        follow: bool = True,
    ) -> Generator[httpx2.Response]:
        """Gives a good answer whose body is still to be read.

        Raises:
            Refused: its status is no success.
            UpstreamFailed: it leads in circles, or from https to http.

        """
        for _ in range(MAX_REDIRECTS):
            sent = dict(headers or {})
            if origin(url) == self.source.origin:
                sent |= self.authorization
            with self._client.stream(method, url, headers=sent, content=content) as response:
                if response.status_code not in _REDIRECTS or not follow:
                    if response.status_code >= 400:
                        raise Refused(response.status_code, response.headers, url)
                    yield response
                    return
                url = self._next(url, response.headers.get("location", ""))
        raise UpstreamFailed(
            "{source} redirects in circles.",
            hint="Tell the owner of that hub, or name another with --from.",
            source=self.source,
        )

    def _next(self, url: str, location: str) -> str:
        target = location
        try:
            target = urljoin(url, location)
            parts = urlsplit(target)
            good = parts.scheme in ("http", "https") and parts.hostname and not parts.username
        except ValueError:
            good = False
        if not location or not good:
            raise UpstreamFailed(
                "{source} redirects to {target!r}, which is no address.",
                hint="Tell the owner of that hub, or name another with --from.",
                source=self.source,
                target=target[:200],
            )
        if urlsplit(url).scheme == "https" and urlsplit(target).scheme == "http":
            raise Denied(
                "{source} redirects from https to http, to {host}; that was not followed.",
                hint="Tell the owner of that hub, or name another with --from.",
                code="redirect_downgrade",
                source=self.source,
                host=urlsplit(target).hostname,
            )
        return target

    def get_json(
        self, url: str, kind: type[_T], *, method: str = "GET", content: bytes | None = None
    ) -> tuple[_T, httpx2.Headers]:
        """Returns an answer decoded, and its headers; 64 MiB at most.

        Raises:
            UpstreamFailed: it is no JSON of that form, or longer.
            Refused, httpx2.HTTPError, Stalled: as it went; see ``patiently``.

        """
        headers = {"content-type": "application/json"} if content else {}
        with self.open(method, url, headers=headers, content=content) as response:
            body = bytearray()
            for piece in _decoded(response):
                body += piece
                if len(body) > MAX_JSON_BYTES:
                    raise self._nonsense(url, Words("it does not end"))
            answered = response.headers
        try:
            return msgspec.json.decode(bytes(body), type=kind), answered
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise self._nonsense(url, words_of(error)) from error

    def _nonsense(self, url: str, reason: str | Words) -> UpstreamFailed:
        return UpstreamFailed(
            "{source} answers {path} with something else than the list it should be ({reason}).",
            hint="Is it a hub of that form? Name another with --from.",
            code="upstream_nonsense",
            source=self.source,
            path=urlsplit(url).path[:200],
            reason=reason,
        )

    def stream(self, url: str, file: UpstreamFile, start: int, end: int) -> Generator[Piece]:
        """Yields (position, bytes) of a file in [start, end).

        Raises:
            NoRanges: the hub can only send the whole file.
            UpstreamFailed: what it announces or sends is not as long as the file.

        """
        headers = {} if (start, end) == (0, file.size) else {"range": f"bytes={start}-{end - 1}"}
        try:
            with self.open("GET", url, headers=headers) as response:
                self._check_length(response.status_code, response.headers, file)
                if headers and not _continues_at(response, start):
                    raise NoRanges
                position = start
                window, seen = time.monotonic(), position
                for piece in _decoded(response):
                    yield position, piece
                    position += len(piece)
                    elapsed = time.monotonic() - window
                    if elapsed > SLOW_WINDOW_S:
                        if position - seen < SLOWEST_BYTES_PER_S * elapsed:
                            raise Stalled("next to nothing arrives")
                        window, seen = time.monotonic(), position
        except Refused as refused:
            if refused.status == 416:
                self._check_length(416, refused.headers, file)
            raise

    def throttle(self, size: int) -> None:
        """Waits as the limits of bandwidth ask, after ``size`` bytes came."""
        for pace in self._paces:
            pace.take(size, self.stop)
        if self.stop.is_set():
            raise Stopped

    @property
    def is_limited(self) -> bool:
        """Whether some limit of bandwidth holds."""
        return any(pace.is_limiting for pace in self._paces)

    def _check_length(self, status: int, headers: Mapping[str, str], file: UpstreamFile) -> None:
        """Raises when the answer's own length says that the file is not the announced one."""
        whole = headers.get("content-range", "").rpartition("/")[2]
        if not whole and status == 200 and "content-encoding" not in headers:
            whole = headers.get("content-length", "")
        length = read_number(whole)
        if status in (200, 206, 416) and length is not None and length != file.size:
            raise self.wrong_length(file, more=length > file.size)
        if status == 416:
            raise self.wrong_length(file, more=False)

    def wrong_length(self, file: UpstreamFile, *, more: bool) -> UpstreamFailed:
        """Returns the error for a file that is longer, or shorter, than the hub's list says."""
        return UpstreamFailed(
            "{source} sends more bytes for {path} than the {size} it announced."
            if more
            else "{source} sends fewer bytes for {path} than the {size} it announced.",
            hint="Nothing was kept. Tell the owner of that hub, or name another with --from.",
            code="wrong_length",
            source=self.source,
            path=file.path,
            size=file.size,
        )

    # Patience

    def patiently(
        self,
        action: Callable[[], _T],
        *,
        progressed: Callable[[], int] = lambda: 0,
        clear: Clear = lambda _: None,
        path: str = "",
    ) -> _T:
        """Returns what ``action`` returns; tries again after waits, as long as some try brings something.

        Waits that the hub asks for hold every connection, and are counted apart: all of them together may last as
        long as the setting `pull.patience_s`, from the last byte that came.

        Raises:
            FustError: what is left when patience has not helped; ``clear`` may put a refusal into better words.
            Stopped: the pull ends.

        """
        seen, attempt = progressed(), 0
        while True:
            self._wait_out_hold()
            try:
                return action()
            except (Refused, httpx2.HTTPError, Stalled) as error:
                if self.stop.is_set():
                    raise Stopped from error
                if led := _led_astray(error):
                    raise led from None
                if progressed() - seen >= PROGRESS_BYTES:
                    seen, attempt = progressed(), 0
                    self._waited_s = 0.0
                asked_s = _asked_wait(error)
                attempt += asked_s is None
                if isinstance(error, Refused) and error.status not in _AGAIN:
                    raise clear(error) or self._clear(error, path, None) from error
                too_long = asked_s is not None and self._waited_s + asked_s > self._patience_s
                if attempt >= MAX_ATTEMPTS or too_long:
                    raise self._clear(error, path, asked_s) from error
                log.info("trying again: %s", error)
                if asked_s is None:
                    wait_s = min(LONGEST_BACKOFF_S, BACKOFF_S * 2 ** (attempt - 1))
                    if self.stop.wait(wait_s * random.uniform(0.75, 1.25)):
                        raise Stopped from error
                else:
                    self._hold(asked_s)

    def _hold(self, asked_s: float) -> None:
        """Keeps every connection of this pull back for as long as the hub asks."""
        fields: dict[str, object] = {"source": str(self.source), "span": span_words(asked_s)}
        with self._lock:
            until = time.monotonic() + asked_s + random.uniform(0, min(1.0, asked_s / 4))
            if until <= self._hold_until:
                return
            self._waited_s += max(asked_s, 0.05)
            self._hold_until = until
            self.waiting = fields
        self._say("{source} asks us to wait {span}.", **fields)

    def _wait_out_hold(self) -> None:
        while (left := self._hold_until - time.monotonic()) > 0:
            if self.stop.wait(left):
                break
        self.waiting = None
        if self.stop.is_set():
            raise Stopped

    def _clear(self, error: Exception, path: str, asked_s: float | None) -> FustError:
        """Returns the error in our words."""
        if isinstance(error, Refused):
            return self._clear_status(error.status, path, asked_s)
        reason = str(error) or type(error).__name__
        if path:
            return UpstreamFailed(
                "{source} broke off in the middle of {path} ({reason}).",
                hint="Pull again: it continues where this one ended. `--from` names another hub.",
                source=self.source,
                path=path,
                reason=reason,
            )
        return UpstreamFailed(
            "{source} cannot be reached ({reason}).",
            hint="Check the network, or name another hub with --from.",
            source=self.source,
            reason=reason,
        )

    def _clear_status(self, status: int, path: str, asked_s: float | None) -> FustError:
        if status == 429:
            return RateLimited(
                "{source} asks for {span} of patience before it answers again.",
                hint="Try again then; a token in the setting pull.token often raises the limit.",
                retry_after_s=asked_s,
                source=self.source,
                span=span_words(asked_s or 60),
            )
        return UpstreamFailed(
            "{source} answered {status} for {what}.",
            hint="Try again later, or name another hub with --from.",
            source=self.source,
            status=status,
            what=path or "/",
        )

    # Refusals that both forms share

    def gated(self, repo_id: str) -> FustError:
        """Returns the error for a repo whose owner wants to be asked first."""
        return Gated(
            "{repo_id} at {source} is gated: its owner wants to be asked first.",
            hint="Ask at {source}/{repo_id}, then give a token of that account: `fust pull --token`, or the setting pull.token.",
            repo_id=repo_id,
            source=self.source,
        )

    def refused(self, repo_id: str, status: int) -> FustError:
        """Returns the error for a hub that does not let us read a repo."""
        return Denied(
            "{source} refuses us {repo_id} ({status}).",
            hint="Give a token that may read it: `fust pull --token`, or the setting pull.token; one that is there may be wrong or expired.",
            code="upstream_refused",
            source=self.source,
            repo_id=repo_id,
            status=status,
        )

    def no_revision(self, repo_id: str, revision: str) -> FustError:
        """Returns the error for a revision that the repo has not."""
        return NotFound(
            "{repo_id} at {source} has no revision {revision!r}.",
            hint="Check --revision.",
            repo_id=repo_id,
            source=self.source,
            revision=revision,
        )

    def no_repo(self, repo_id: str, repo_type: str) -> FustError:
        """Returns the error for a repo that is not there, or that we may not see."""
        return NotFound(
            "There is no {type} {repo_id} at {source}, or it is private.",
            hint="Check the name and --type; for a private one give a token: `fust pull --token`, or the setting pull.token.",
            type=repo_type,
            repo_id=repo_id,
            source=self.source,
        )


def _led_astray(error: BaseException | None) -> PrivateAddress | None:
    """Returns the refusal of a private address that an HTTP error was made of, if it was."""
    while error is not None and not isinstance(error, PrivateAddress):
        error = error.__cause__ or error.__context__
    return error


def _asked_wait(error: Exception) -> float | None:
    """Returns the seconds that `Retry-After` asks for, as a number or as an HTTP date; None when it does not."""
    if not isinstance(error, Refused) or error.status not in (429, 503):
        return None
    value = error.headers.get("retry-after", "").strip()
    if (seconds := read_number(value)) is not None:
        return float(seconds)
    try:
        return max(0.0, (parsedate_to_datetime(value) - now()).total_seconds())
    except (TypeError, ValueError, OverflowError):
        return None


def _continues_at(response: httpx2.Response, start: int) -> bool:
    """Returns whether the hub honoured our range."""
    if response.status_code != 206 or "content-encoding" in response.headers:
        return False
    return response.headers.get("content-range", "").startswith(f"bytes {start}-")


def _decoded(response: Any) -> Generator[bytes]:
    """Yields a body in small pieces; one that was compressed unasked is unpacked as it is read, never at once."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("identity", ""):
        yield from response.iter_raw()  # as it comes: what was read before a break is not lost
        return
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise Stalled(f"it answers in {encoding[:20]}, which was not asked for")
    unpack = zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        for piece in response.iter_raw():
            while piece:
                yield unpack.decompress(piece, PIECE_BYTES)
                piece = unpack.unconsumed_tail
    except zlib.error as error:
        raise Stalled(f"its compressed answer is damaged: {error}") from error
