"""The form of ModelScope, as the source of its own Python client has it (modelscope/hub/api.py, file_download.py).

Every answer is an envelope `{"Code": 200, "Data": …, "Message": …, "Success": true}`. The default branch is `master`; an
unknown revision is an answer without files, not an error. Each file comes with the SHA-256 of its bytes.
This form was written against the client's source and is tested against a server that answers as it expects; the real
site was not asked.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from typing import TypeVar
from urllib.parse import quote, urlencode

import msgspec

from fust.core.decode_words import words_of
from fust.core.errors import FustError, UpstreamFailed
from fust.core.ids import RepoType
from fust.hub.pulling.types import RepoName, UpstreamFile, UpstreamRepo
from fust.hub.pulling.web import Clear, Piece, Refused, Web

_SHA256 = re.compile(r"[0-9a-f]{64}")
_PAGE = 100
_T = TypeVar("_T")
MAX_PAGES = 2000


class _File(msgspec.Struct, rename="pascal"):
    path: str
    type: str = "blob"
    size: int = 0
    sha256: str | None = None
    revision: str | None = None
    is_lfs: bool = msgspec.field(default=False, name="IsLFS")


class _Committer(msgspec.Struct, rename="pascal"):
    id: str | None = None
    short_id: str | None = None


class _Listing(msgspec.Struct, rename="pascal"):
    files: list[_File] | None = None
    latest_committer: _Committer | None = None


class _Envelope(msgspec.Struct, rename="pascal"):
    code: int | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")
    message: str | None = None


class _Dataset(msgspec.Struct, rename="pascal"):
    id: int


class _Model(msgspec.Struct, rename="pascal"):
    path: str
    name: str


class _Models(msgspec.Struct, rename="pascal"):
    models: list[_Model] | None = None
    total_count: int = 0


class ModelScope:
    """A hub of ModelScope form."""

    def __init__(self, web: Web) -> None:
        self.web = web
        self._api = web.source.url + "/api/v1"

    def read_repo(self, repo_id: str, repo_type: RepoType, revision: str) -> UpstreamRepo:
        """Returns what a repo holds at a revision; `main` is taken as `master`."""
        wanted = "master" if revision == "main" else revision

        def clear(refused: Refused) -> FustError | None:
            if refused.status in (401, 403):
                return self.web.refused(repo_id, refused.status)
            return self.web.no_repo(repo_id, repo_type) if refused.status == 404 else None

        if repo_type == "space":
            raise self.web.no_repo(repo_id, repo_type)
        if repo_type == "dataset":
            listing = self._dataset_listing(repo_id, wanted, clear)
        else:
            query = urlencode({"Revision": wanted, "Recursive": "true"})
            listing = self._ask(f"/models/{quote(repo_id)}/repo/files?{query}", _Listing, clear)
        if not listing.files:
            raise self.web.no_revision(repo_id, wanted)
        files = [self._file(file) for file in listing.files if file.type != "tree"]
        return UpstreamRepo(repo_id, _commit_of(listing) or wanted, False, False, files)

    def _dataset_listing(self, repo_id: str, revision: str, clear: Clear) -> _Listing:
        number = self._ask(f"/datasets/{quote(repo_id)}", _Dataset, clear).id
        whole = _Listing([])
        for page in range(1, MAX_PAGES):
            fields = {"Revision": revision, "Root": "/", "Recursive": "True"}
            query = urlencode(fields | {"PageNumber": page, "PageSize": _PAGE})
            part = self._ask(f"/datasets/{number}/repo/tree?{query}", _Listing, clear)
            whole.latest_committer = whole.latest_committer or part.latest_committer
            whole.files = [*(whole.files or []), *(part.files or [])]
            if len(part.files or []) < _PAGE:
                break
        return whole

    def _file(self, file: _File) -> UpstreamFile:
        sha256 = (file.sha256 or "").lower()
        if file.size < 0 or not _SHA256.fullmatch(sha256):
            raise UpstreamFailed(
                "{source} gives no size and hash for {path!r}.",
                hint="Nothing that cannot be checked is taken. Name another hub with --from.",
                code="upstream_nonsense",
                source=self.web.source,
                path=file.path[:200],
            )
        return UpstreamFile(file.path, file.size, "", sha256, file.is_lfs)

    def list_repos(self, owner: str, types: Sequence[RepoType]) -> list[RepoName]:
        """Returns the models of an owner (`PUT /api/v1/models/`); data sets cannot be listed in this form."""
        found: list[RepoName] = []
        if "model" not in types:
            return found
        for page in range(1, MAX_PAGES):
            body = msgspec.json.encode({"Path": owner, "PageNumber": page, "PageSize": _PAGE})
            models = self._ask("/models/", _Models, method="PUT", content=body).models or []
            found += [RepoName(f"{model.path}/{model.name}", "model", False) for model in models]
            if len(models) < _PAGE:
                break
        return [name for name in found if name.repo_id.lower().startswith(f"{owner.lower()}/")]

    def stream(
        self, repo: UpstreamRepo, repo_type: RepoType, file: UpstreamFile, start: int, end: int
    ) -> Generator[Piece]:
        """Yields a file's bytes from `…/repo?FilePath=`."""
        fields = {"Revision": repo.revision, "FilePath": file.path}
        if repo_type == "dataset":
            fields = {"Source": "SDK", **fields, "View": "False"}
        url = f"{self._api}/{repo_type}s/{quote(repo.repo_id)}/repo?{urlencode(fields)}"
        yield from self.web.stream(url, file, start, end)

    def _ask(
        self,
        path: str,
        kind: type[_T],
        clear: Clear = lambda _: None,
        *,
        method: str = "GET",
        content: bytes | None = None,
    ) -> _T:
        """Returns what is in the envelope.

        Raises:
            UpstreamFailed: it is no envelope, or it tells of an error.

        """

        def ask() -> _Envelope:
            envelope, headers = self.web.get_json(self._api + path, _Envelope, method=method, content=content)
            if envelope.code not in (None, 200):
                # ModelScope tells of some refusals in the envelope of a good answer.
                status = envelope.code if 400 <= (envelope.code or 0) < 600 else 404
                raise Refused(status or 404, headers, self._api + path)
            return envelope

        envelope = self.web.patiently(ask, clear=clear)
        try:
            return msgspec.json.decode(envelope.data, type=kind)
        except msgspec.MsgspecError as error:
            raise UpstreamFailed(
                "{source} answers {path} with something else than the list it should be ({reason}).",
                hint="Is it a hub of that form? Name another with --from.",
                code="upstream_nonsense",
                source=self.web.source,
                path=path.partition("?")[0],
                reason=words_of(error),
            ) from error


def _commit_of(listing: _Listing) -> str:
    """Returns the commit that was listed: in full when a file was last changed by it, else as short as it is told."""
    committer = listing.latest_committer
    if committer is None:
        return ""
    if committer.id:
        return committer.id[:64]
    short = committer.short_id or ""
    full = (f.revision for f in listing.files or [] if f.revision and f.revision.startswith(short))
    return next(full, "") if short else ""
