"""Another hub, any that speaks the Hugging Face protocol: what a repo holds, and its bytes from any offset on.

huggingface_hub asks the questions, hf-xet or plain HTTP bring the bytes. Waits when the hub asks for it (429,
`Retry-After`), tries again when a connection breaks, and turns every other refusal into one clear error.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar, cast
from urllib.parse import quote

import httpx2
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import get_session, hf_raise_for_status
from huggingface_hub.utils._xet import (
    get_xet_session,
    parse_xet_file_data_from_response,
    refresh_xet_connection_info,
)

from fust import __version__
from fust.core.errors import Denied, FustError, Gated, NotFound, RateLimited, UpstreamFailed
from fust.core.ids import RepoType
from fust.core.units import show_span

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 5
"""Tries in a row that bring nothing before we give up."""
LONGEST_WAIT_S = 300.0
"""A hub that asks for more patience than this is not waited for."""
BACKOFF_S = 1.0
CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 15.0, 30.0
SLOWEST_BYTES_PER_S, SLOW_WINDOW_S = 512, 60.0
"""Less than this over the window counts as a stalled connection."""
_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
_T = TypeVar("_T")
Say = Callable[..., None]


@dataclass(frozen=True, slots=True)
class UpstreamFile:
    """A file of the other hub."""

    path: str
    size: int
    oid: str
    """Git's SHA-1 of the file, or of its pointer when it is large."""
    sha256: str
    """Empty for a small file that git itself holds."""


@dataclass(frozen=True, slots=True)
class UpstreamRepo:
    """A repo of the other hub at one commit."""

    repo_id: str
    revision: str
    private: bool
    gated: bool
    files: list[UpstreamFile]


class Stalled(Exception):
    """The connection lives and brings next to nothing."""


class Upstream:
    """One repo of another hub."""

    def __init__(
        self, source: str, token: str, repo_id: str, repo_type: RepoType, *, use_xet: bool, say: Say
    ) -> None:
        self.source = source
        self._token: str | bool = token or False
        self._repo_id = repo_id
        self._type = repo_type
        self._use_xet = use_xet
        self._say = say
        self._headers = {"user-agent": f"fust/{__version__}", "accept-encoding": "identity"}
        if token:
            self._headers["authorization"] = f"Bearer {token}"

    def read_repo(self, revision: str) -> UpstreamRepo:
        """Returns what the repo holds at a revision, with sizes and hashes.

        Raises:
            NotFound, Gated, RateLimited, UpstreamFailed: as the hub, or the network, has it.

        """
        api = HfApi(endpoint=self.source, token=self._token)
        info: Any = self.patiently(
            lambda: api.repo_info(
                self._repo_id,
                repo_type=self._type,
                revision=revision,
                files_metadata=True,
                timeout=READ_TIMEOUT_S,
            ),
            revision=revision,
        )
        siblings: list[Any] = info.siblings or []
        files = [
            UpstreamFile(
                str(file.rfilename),
                int((file.lfs.size if file.lfs else file.size) or 0),
                str(file.blob_id or ""),
                str(file.lfs.sha256) if file.lfs else "",
            )
            for file in siblings
        ]
        if not info.sha:
            raise UpstreamFailed(
                "{source} does not say which commit {revision} is.", source=self.source, revision=revision
            )
        gated = bool(getattr(info, "gated", False))
        return UpstreamRepo(info.id or self._repo_id, info.sha, bool(info.private), gated, files)

    def fetch(
        self,
        file: UpstreamFile,
        revision: str,
        offset: Callable[[], int],
        write: Callable[[int, bytes], None],
    ) -> None:
        """Brings a file's bytes from ``offset()`` on; ``write(position, bytes)`` gets them in order.

        A broken connection is taken up again where it broke. ``write`` is called with position 0 again when the hub
        cannot continue in the middle.

        Raises:
            UpstreamFailed: the hub breaks off, stalls, or sends fewer or more bytes than it announced.

        """

        def once() -> None:
            for position, piece in self._stream(file, revision, offset()):
                if position + len(piece) > file.size:
                    raise self._sent_more(file)
                write(position, piece)
            if offset() < file.size:
                raise Stalled(f"the connection ended {file.size - offset()} bytes early")

        if offset() < file.size:
            self.patiently(once, progressed=offset, revision=revision, path=file.path)

    def _stream(self, file: UpstreamFile, revision: str, offset: int) -> Generator[tuple[int, bytes]]:
        url = f"{self.source}/{_PREFIX[self._type]}{self._repo_id}/resolve/{revision}/{quote(file.path)}"
        if self._use_xet and file.sha256:
            try:
                xet = self._xet_stream(url, file, offset)
                if xet is not None:
                    yield from xet
                    return
            except (RuntimeError, OSError, ValueError) as error:
                if isinstance(error, (HfHubHTTPError, httpx2.HTTPError)):
                    raise
                # Native errors have many types and no contract; plain HTTP says more, and continues where this broke.
                log.warning("xet failed, going on over plain HTTP: %s", error)
                self._use_xet = False
                raise Stalled(str(error)[:200]) from error
        yield from self._http_stream(url, file, offset)

    def _xet_stream(self, url: str, file: UpstreamFile, offset: int) -> Generator[tuple[int, bytes]] | None:
        """Yields a file's bytes out of xorbs; None when the hub does not offer that."""
        headers = self._headers
        response = get_session().request(
            "HEAD", url, headers=headers, follow_redirects=False, timeout=self._timeout()
        )
        while response.is_redirect and response.headers.get("location", "").startswith("/"):
            url = str(response.url.join(response.headers["location"]))
            response = get_session().request(
                "HEAD", url, headers=headers, follow_redirects=False, timeout=self._timeout()
            )
        hf_raise_for_status(response)
        data = parse_xet_file_data_from_response(response, endpoint=self.source)
        if data is None:
            return None
        connection = refresh_xet_connection_info(file_data=data, headers=self._headers)
        session = cast("Any", get_xet_session())
        group = session.new_download_stream_group(
            endpoint=connection.endpoint,
            token=connection.access_token,
            token_expiry_unix_secs=connection.expiration_unix_epoch,
            token_refresh_url=data.refresh_route,
            token_refresh_headers=self._headers,
        )
        hf_xet: Any = importlib.import_module("hf_xet")  # native, without type information
        stream = group.download_stream(hf_xet.XetFileInfo(data.file_hash, file.size), start=offset)
        return _positioned(stream, offset)

    def _http_stream(self, url: str, file: UpstreamFile, offset: int) -> Generator[tuple[int, bytes]]:
        headers = dict(self._headers)
        if offset:
            headers["range"] = f"bytes={offset}-"
        with get_session().stream("GET", url, headers=headers, timeout=self._timeout()) as response:
            self._check_length(response, file, offset)
            hf_raise_for_status(response)
            start = offset if _continues_at(response, offset) else 0
            window, seen = time.monotonic(), start
            for position, piece in _positioned(response.iter_bytes(), start):
                yield position, piece
                elapsed = time.monotonic() - window
                if elapsed > SLOW_WINDOW_S:
                    if position - seen < SLOWEST_BYTES_PER_S * elapsed:
                        raise Stalled("next to nothing arrives")
                    window, seen = time.monotonic(), position

    def _check_length(self, response: httpx2.Response, file: UpstreamFile, offset: int) -> None:
        """Raises when the answer's own length says that the file is not the announced one."""
        whole = response.headers.get("content-range", "").rpartition("/")[2]
        if not whole and response.status_code == 200 and "content-encoding" not in response.headers:
            whole = response.headers.get("content-length", "")
        if response.status_code in (200, 206, 416) and whole.isdecimal() and int(whole) != file.size:
            raise self._sent_more(file) if int(whole) > file.size else self._sent_fewer(file)
        if response.status_code == 416:
            raise self._sent_fewer(file)

    def _timeout(self) -> httpx2.Timeout:
        return httpx2.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)

    def _sent_more(self, file: UpstreamFile) -> UpstreamFailed:
        return UpstreamFailed(
            "{source} sends more bytes for {path} than the {size} it announced.",
            hint="Nothing was kept. Tell the owner of that hub, or name another with --from.",
            code="wrong_length",
            source=self.source,
            path=file.path,
            size=file.size,
        )

    def _sent_fewer(self, file: UpstreamFile) -> UpstreamFailed:
        return UpstreamFailed(
            "{source} sends fewer bytes for {path} than the {size} it announced.",
            hint="Nothing was kept. Tell the owner of that hub, or name another with --from.",
            code="wrong_length",
            source=self.source,
            path=file.path,
            size=file.size,
        )

    # Patience and errors

    def patiently(
        self,
        action: Callable[[], _T],
        *,
        progressed: Callable[[], int] = lambda: 0,
        revision: str = "",
        path: str = "",
    ) -> _T:
        """Returns what ``action`` returns; tries again after waits, as long as some try brings something.

        Raises:
            FustError: what is left when patience has not helped.

        """
        seen, attempt = progressed(), 0
        while True:
            try:
                return action()
            except (HfHubHTTPError, httpx2.HTTPError, Stalled) as error:
                if progressed() > seen:
                    seen, attempt = progressed(), 0
                attempt += 1
                wait_s = BACKOFF_S * 2 ** (attempt - 1)
                asked_s = self._asked_wait(error)
                if not _may_try_again(error) or attempt >= MAX_ATTEMPTS or (asked_s or 0) > LONGEST_WAIT_S:
                    raise self._clear(error, revision, path, asked_s) from error
                log.info("trying again: %s", error)
                if asked_s is not None:
                    self._say("{source} asks us to wait {span}.", source=self.source, span=show_span(asked_s))
                time.sleep(max(wait_s, asked_s or 0))

    def _asked_wait(self, error: Exception) -> float | None:
        if not isinstance(error, HfHubHTTPError) or error.response.status_code not in (429, 503):
            return None
        value = error.response.headers.get("retry-after", "")
        return float(value) if value.isdecimal() else None

    def _clear(self, error: Exception, revision: str, path: str, asked_s: float | None) -> FustError:
        """Returns the error in our words."""
        if isinstance(error, GatedRepoError):
            return Gated(
                "{repo_id} at {source} is gated: its owner wants to be asked first.",
                hint="Ask at {source}/{repo_id}, then put a token of that account into the setting pull.token.",
                repo_id=self._repo_id,
                source=self.source,
            )
        if isinstance(error, RevisionNotFoundError):
            return NotFound(
                "{repo_id} at {source} has no revision {revision!r}.",
                hint="Check --revision.",
                repo_id=self._repo_id,
                source=self.source,
                revision=revision,
            )
        if isinstance(error, RepositoryNotFoundError):
            return NotFound(
                "There is no {type} {repo_id} at {source}, or it is private.",
                hint="Check the name and --type; for a private one put a token into the setting pull.token.",
                type=self._type,
                repo_id=self._repo_id,
                source=self.source,
            )
        if isinstance(error, HfHubHTTPError):
            return self._clear_status(error.response.status_code, path, asked_s)
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
                span=show_span(asked_s or 60),
            )
        if status in (401, 403):
            return Denied(
                "{source} refuses us {repo_id} ({status}).",
                hint="Put a token that may read it into the setting pull.token; one that is there may be wrong or expired.",
                code="upstream_refused",
                source=self.source,
                repo_id=self._repo_id,
                status=status,
            )
        return UpstreamFailed(
            "{source} answered {status} for {what}.",
            hint="Try again later, or name another hub with --from.",
            source=self.source,
            status=status,
            what=path or self._repo_id,
        )


def _positioned(pieces: Iterable[bytes], start: int) -> Generator[tuple[int, bytes]]:
    for piece in pieces:
        yield start, bytes(piece)
        start += len(piece)


_PREFIX: dict[str, str] = {"model": "", "dataset": "datasets/", "space": "spaces/"}


def _may_try_again(error: Exception) -> bool:
    return not isinstance(error, HfHubHTTPError) or error.response.status_code in _AGAIN


def _continues_at(response: httpx2.Response, offset: int) -> bool:
    """Returns whether the hub honoured our range; one that starts elsewhere is taken as a whole new file."""
    if response.status_code != 206 or "content-encoding" in response.headers:
        return False
    return response.headers.get("content-range", "").startswith(f"bytes {offset}-")
