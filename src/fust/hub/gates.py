"""Gated repos: everybody who sees one sees its card and its tree; its files open to those who asked and were let in.

Whoever may write to the repo, with any key, is never asked (`repo.open`). The rest send the form of its card
(``gate_form``): with the gate `auto` that is enough, with `manual` somebody who may write to it decides. An answer here
is at most a second old in another process, and never older in this one.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
import time
from typing import Literal

from fust.accounts.models import User
from fust.accounts.rights import Identity, may
from fust.accounts.service import Accounts
from fust.core.ids import RepoType
from fust.hub.content import Content
from fust.hub.errors import GatedRepo
from fust.hub.gate_errors import made_for, refusal
from fust.hub.gate_form import GateForm, read_form
from fust.hub.gate_models import AccessRequest, GateTerms
from fust.hub.gate_rows import Request, Standing, select_requests
from fust.hub.git_store import GitStore
from fust.hub.repos import Repos
from fust.hub.summary import read_card
from fust.hub.types import RepoInfo
from fust.store.database import Database

_CACHE_S = 1.0
_ONE_DOWNLOAD_S = 60.0
"""Requests for one file that are less apart than this are one download: clients fetch a file in many ranges."""
_NOTED = 10_000

How = Literal["file", "git-lfs", "xet", "git", "preview", "copy", "tune"]


class Gates:
    """The gates of a home."""

    def __init__(
        self,
        database: Database,
        repos: Repos,
        git: GitStore,
        content: Content,
        accounts: Accounts,
        public_url: str,
    ) -> None:
        self._database = database
        self._repos = repos
        self._git = git
        self._content = content
        self._accounts = accounts
        self._public_url = public_url
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], tuple[float, int, Request | None]] = {}
        self._noted: dict[tuple[str, str, str], float] = {}
        self._form = functools.lru_cache(maxsize=500)(self._load_form)

    # Who may pass

    def opens(self, identity: Identity, info: RepoInfo) -> bool:
        """Returns whether the caller, who may see the repo, may have its files."""
        return not info.gated or self.standing(identity, info)[0] in ("free", "accepted")

    def check(self, identity: Identity, info: RepoInfo) -> None:
        """Raises GatedRepo unless ``opens``; the message is the Hub's, so that clients print the help they know."""
        if self.opens(identity, info):
            return
        standing, request = self.standing(identity, info)
        raise self.refusal(identity, info, standing, request)

    def check_use(self, identity: Identity, repo_id: str) -> None:
        """Raises GatedRepo unless the caller may use a model of a repo at `/v1`: whoever may have its files.

        What a fine-grained key was made for is asked by the model's name, before this.
        """
        info = self._repos.find_row("model", repo_id)
        if info is not None:
            self.check(dataclasses.replace(identity, grants=None), info)

    def standing(self, identity: Identity, info: RepoInfo) -> tuple[Standing, Request | None]:
        """Returns where a caller stands before the gate, and the caller's request when there is one."""
        if may(identity, "repo.open", info.repo_id, info.type):
            return "free", None
        if identity.user is None or not made_for(identity, info):
            return "none", None
        request = self._find(identity.user, info)
        if request is None:
            return "none", None
        if request.status != "accepted":
            return request.status, request
        if request.is_over:
            return "expired", request
        since = request.agreed_at or request.decided_at
        if info.agree_since is not None and (since is None or since < info.agree_since):
            return "outdated", request
        return "accepted", request

    def _find(self, user: str, info: RepoInfo) -> Request | None:
        key, generation = (info.id, user), self._repos.generation + self._accounts.generation
        known = self._known.get(key)
        if known and known[1] == generation and time.monotonic() < known[0]:
            return known[2]
        began = time.monotonic()
        with self._database.read() as session:
            found = select_requests(session, AccessRequest.repo_id == info.id, User.name == user)
        request = found[0] if found else None
        with self._lock:
            if len(self._known) > 10_000:
                self._known.clear()
            self._known[key] = (began + _CACHE_S, generation, request)
        return request

    def refusal(
        self, identity: Identity, info: RepoInfo, standing: Standing, request: Request | None
    ) -> GatedRepo:
        """Returns the error for a caller who stands before the closed gate."""
        return refusal(identity, info, standing, request, self._public_url)

    def note_download(self, identity: Identity, info: RepoInfo, how: How, /, **what: str) -> None:
        """Writes a download of a gated repo's files into the audit, before any byte of it leaves.

        Raises:
            StorageFull, Unavailable: it cannot be written down; then nothing may leave.

        """
        if not info.gated:
            return
        key = (identity.key or identity.user or "", info.id, "\n".join((how, *what.values())))
        moment = time.monotonic()
        with self._lock:
            last = self._noted.get(key)
            if last is not None and moment - last < _ONE_DOWNLOAD_S:
                self._noted[key] = moment
                return
        self._accounts.note(identity, "access.download", f"{info.type}:{info.repo_id}", how=how, **what)
        with self._lock:
            if len(self._noted) >= _NOTED:
                self._noted = {k: at for k, at in self._noted.items() if moment - at < _ONE_DOWNLOAD_S}
            self._noted[key] = moment

    # What it asks

    def form(self, info: RepoInfo) -> GateForm:
        """Returns what the gate asks, as the card on `main` has it now."""
        oid = self._content.resolve(info, "main")
        return self._form(info.id, info.type, info.owner, info.name, oid)

    def _load_form(self, _: str, repo_type: RepoType, owner: str, name: str, oid: str) -> GateForm:
        # Keyed by the row's id too: a repo made anew under an old name shares nothing with it.
        return read_form(read_card(self._git.open(repo_type, owner, name), oid).data)

    def version_of(self, info: RepoInfo, terms: str) -> int | None:
        """Returns the number of a version of the terms; None: nobody agreed to it yet."""
        with self._database.read() as session:
            row = session.get(GateTerms, (info.id, terms))
            return row.version if row else None
