"""The hub as `serve` sees it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import cast

from fust.accounts.rights import SYSTEM, Identity
from fust.hub.cards import parse_card
from fust.hub.formats import open_head
from fust.hub.service import Hub
from fust.serve.files import TreeFile
from fust.serve.projector import mark_projectors


class HubFiles:
    """Implements `ModelFiles` over the hub, with the server's own rights."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def resolve_revision(self, repo_id: str, revision: str) -> str:
        """See `ModelFiles.resolve_revision`."""
        return self._hub.resolve_revision(self._hub.get_repo(SYSTEM, repo_id, "model"), revision)

    def list_files(self, repo_id: str, revision: str) -> Sequence[TreeFile]:
        """See `ModelFiles.list_files`."""
        repo = self._hub.get_repo(SYSTEM, repo_id, "model")
        entries = self._hub.list_tree(repo, revision, recursive=True)
        files = [
            TreeFile(entry.path, entry.size, content=entry.sha256 or entry.oid)
            for entry in entries
            if not entry.is_folder
        ]
        return mark_projectors(files, lambda path: open_head(self._hub, repo, revision, path))

    def materialise(self, repo_id: str, revision: str, path: str) -> Path:
        """See `ModelFiles.materialise`."""
        return self._hub.materialise(repo_id, "model", revision, path)

    def head(self, repo_id: str, revision: str, path: str) -> AbstractContextManager[Path]:
        """See `ModelFiles.head`."""
        return open_head(self._hub, self._hub.get_repo(SYSTEM, repo_id, "model"), revision, path)

    def find_new_name(self, repo_id: str) -> str | None:
        """See `ModelFiles.find_new_name`."""
        moved = self._hub.repos.find_moved("model", repo_id)
        return moved.repo_id if moved else None

    def is_private(self, repo_id: str) -> bool:
        """See `ModelFiles.is_private`."""
        return self._hub.get_repo(SYSTEM, repo_id, "model").private

    def is_gated(self, repo_id: str) -> bool:
        """See `ModelFiles.is_gated`."""
        return bool(self._hub.get_repo(SYSTEM, repo_id, "model").gated)

    def named_bases(self, repo_id: str, revision: str) -> Sequence[str]:
        """See `ModelFiles.named_bases`."""
        card = parse_card(self._hub.read_card(self._hub.get_repo(SYSTEM, repo_id, "model"), revision) or "")
        named = card.data.get("base_model")
        listed = cast("list[object]", named) if isinstance(named, list) else [named]
        return [name for name in listed if isinstance(name, str)]

    def check_open(self, identity: Identity, repo_id: str) -> None:
        """See `ModelFiles.check_open`."""
        self._hub.gates.check(identity, self._hub.get_repo(SYSTEM, repo_id, "model"))
