"""The form of the Hugging Face Hub, which Fust itself speaks: revision, tree, resolve, and Xet where it is offered.

Paths as https://huggingface.co/docs/hub/api and huggingface_hub 2.4 have them.
"""

from __future__ import annotations

import importlib
import logging
import re
import threading
import time
from collections.abc import Generator, Sequence
from typing import Any, TypeVar, cast
from urllib.parse import quote, urlencode, urlsplit

import httpx2
import msgspec

from fust.core.errors import FustError, UpstreamFailed
from fust.core.ids import RepoType
from fust.hub.guard import check_host
from fust.hub.pulling.types import RepoName, UpstreamFile, UpstreamRepo, origin
from fust.hub.pulling.web import Clear, Piece, Refused, Stalled, Web

log = logging.getLogger(__name__)

MAX_FILES = 200_000
MAX_REPOS = 5_000
_PREFIX: dict[str, str] = {"model": "", "dataset": "datasets/", "space": "spaces/"}
_T = TypeVar("_T")
_SHA1 = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NEXT = re.compile(r'<([^<>]{1,2000})>\s*;\s*rel="?next"?')


class _Info(msgspec.Struct):
    sha: str | None = None
    id: str = ""
    private: bool = False
    gated: bool | str | None = False


class _Lfs(msgspec.Struct):
    oid: str
    size: int


class _Entry(msgspec.Struct):
    type: str
    path: str
    size: int = 0
    oid: str = ""
    lfs: _Lfs | None = None
    xetHash: str | None = None


class _Listed(msgspec.Struct):
    id: str
    private: bool = False


class _XetToken(msgspec.Struct):
    casUrl: str
    exp: int
    accessToken: str


class HuggingFace:
    """A hub of Hugging Face form."""

    def __init__(self, web: Web, *, use_xet: bool) -> None:
        self.web = web
        self._base = web.source.url
        self._use_xet = use_xet and not web.is_limited  # its own connections know no limit of ours
        self._lock = threading.Lock()
        self._group: Any = None
        self._group_ends = 0

    def read_repo(self, repo_id: str, repo_type: RepoType, revision: str) -> UpstreamRepo:
        """Returns what a repo holds at a revision; the tree is read at the commit that the revision is now."""
        api = f"{self._base}/api/{repo_type}s/{quote(repo_id)}"

        def clear(refused: Refused) -> FustError | None:
            return self._clear(refused, repo_id, repo_type, revision)

        def ask() -> _Info:
            return self.web.get_json(f"{api}/revision/{quote(revision, safe='')}", _Info)[0]

        info = self.web.patiently(ask, clear=clear)
        if not info.sha or not _SHA1.fullmatch(info.sha):
            raise UpstreamFailed(
                "{source} does not say which commit {revision} is.", source=self._base, revision=revision
            )
        url = f"{api}/tree/{info.sha}?recursive=true&expand=false"
        files: list[UpstreamFile] = []
        for entry in self._pages(url, _Entry, MAX_FILES, clear):
            if entry.type == "file":
                files.append(self._file(entry))
        return UpstreamRepo(repo_id, info.sha, info.private, bool(info.gated), files)

    def _file(self, entry: _Entry) -> UpstreamFile:
        size = entry.lfs.size if entry.lfs else entry.size
        sha256 = entry.lfs.oid.removeprefix("sha256:") if entry.lfs else ""
        good = _SHA256.fullmatch(sha256) if entry.lfs else _SHA1.fullmatch(entry.oid)
        if size < 0 or not good:
            raise UpstreamFailed(
                "{source} gives no size and hash for {path!r}.",
                hint="Nothing that cannot be checked is taken. Name another hub with --from.",
                code="upstream_nonsense",
                source=self._base,
                path=entry.path[:200],
            )
        oid = "" if entry.lfs else entry.oid
        return UpstreamFile(entry.path, size, oid, sha256, bool(entry.lfs), entry.xetHash or "")

    def _pages(self, url: str, kind: type[_T], limit: int, clear: Clear = lambda _: None) -> list[_T]:
        """Returns the items of a list whose pages are joined by `Link: rel="next"`."""
        found: list[_T] = []
        page = url
        while page:

            def ask(page: str = page) -> tuple[list[_T], httpx2.Headers]:
                return self.web.get_json(page, list[kind])

            items, headers = self.web.patiently(ask, clear=clear)
            found += items
            if len(found) > limit:
                raise UpstreamFailed(
                    "{source} lists more than {count} entries.",
                    hint="Take a part of it: name the files or repos.",
                    code="upstream_nonsense",
                    source=self._base,
                    count=limit,
                )
            following = _NEXT.search(headers.get("link", ""))
            page = str(httpx2.URL(page).join(following[1])) if following and items else ""
            if page and origin(page) != self.web.source.origin:
                raise UpstreamFailed(
                    "{source} goes on at another place, {host}; that was not followed.",
                    hint="Set pull.source to the address by which the hub calls itself.",
                    source=self._base,
                    host=urlsplit(page).hostname,
                )
        return found

    def list_repos(self, owner: str, types: Sequence[RepoType]) -> list[RepoName]:
        """Returns the models and data sets of an owner."""
        found: list[RepoName] = []
        for repo_type in types:
            query = urlencode({"author": owner, "limit": 500})
            items = self._pages(f"{self._base}/api/{repo_type}s?{query}", _Listed, MAX_REPOS)
            for item in items:
                if repo_type != "space" and item.id.lower().startswith(f"{owner.lower()}/"):
                    found.append(RepoName(item.id, repo_type, item.private))
        return found

    def _clear(self, refused: Refused, repo_id: str, repo_type: str, revision: str) -> FustError | None:
        code = refused.headers.get("x-error-code", "")
        if code == "GatedRepo":
            return self.web.gated(repo_id)
        if code == "RevisionNotFound":
            return self.web.no_revision(repo_id, revision)
        if refused.status == 404 or code == "RepoNotFound":
            return self.web.no_repo(repo_id, repo_type)
        if refused.status in (401, 403, 451):
            return self.web.refused(repo_id, refused.status)
        return None

    # Bytes

    def stream(
        self, repo: UpstreamRepo, repo_type: RepoType, file: UpstreamFile, start: int, end: int
    ) -> Generator[Piece]:
        """Yields bytes out of xorbs when the hub offers that, else by `resolve`."""
        if self._use_xet and file.is_large and file.xet_hash:
            try:
                yield from self._xet_stream(repo, repo_type, file, start, end)
                return
            except (RuntimeError, OSError, ValueError) as error:
                if isinstance(error, httpx2.HTTPError):
                    raise
                # Native errors have many types and no contract; plain HTTP says more, and continues where this broke.
                log.warning("xet failed, going on over plain HTTP: %s", error)
                self._use_xet = False
                raise Stalled(str(error)[:200]) from error
        prefix = _PREFIX[repo_type]
        url = f"{self._base}/{prefix}{quote(repo.repo_id)}/resolve/{repo.revision}/{quote(file.path)}"
        yield from self.web.stream(url, file, start, end)

    def _xet_stream(
        self, repo: UpstreamRepo, repo_type: RepoType, file: UpstreamFile, start: int, end: int
    ) -> Generator[Piece]:
        group = self._xet_group(repo, repo_type)
        hf_xet: Any = importlib.import_module("hf_xet")  # native, without type information
        position = start
        for piece in group.download_stream(
            hf_xet.XetFileInfo(file.xet_hash, file.size), start=start, end=end
        ):
            yield position, piece
            position += len(piece)

    def _xet_group(self, repo: UpstreamRepo, repo_type: RepoType) -> Any:
        """Returns the connection to the hub's Xet store; made once, and again when its token ends."""
        from huggingface_hub.utils._xet import get_xet_session

        url = f"{self._base}/api/{repo_type}s/{quote(repo.repo_id)}/xet-read-token/{repo.revision}"
        with self._lock:
            if self._group is None or self._group_ends < time.time() + 60:
                token = self.web.get_json(url, _XetToken)[0]
                check_host(token.casUrl)
                session = cast("Any", get_xet_session())
                self._group = session.new_download_stream_group(
                    endpoint=token.casUrl,
                    token=token.accessToken,
                    token_expiry_unix_secs=token.exp,
                    token_refresh_url=url,
                    token_refresh_headers=self.web.authorization,
                )
                self._group_ends = token.exp
            return self._group
