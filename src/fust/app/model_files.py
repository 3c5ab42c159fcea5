"""The hub as ``serve`` sees it: model files of repos, by path. Rights were asked before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fust.accounts.service import SYSTEM
from fust.hub.service import Hub
from fust.serve.files import TreeFile


class HubModelFiles:
    """Implements ``fust.serve.files.ModelFiles`` on the hub."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def resolve_revision(self, repo_id: str, revision: str) -> str:
        """Returns the commit of a branch, tag or commit."""
        return self._hub.resolve_revision(self._hub.get_repo(SYSTEM, repo_id), revision)

    def list_files(self, repo_id: str, revision: str) -> Sequence[TreeFile]:
        """Returns all files of a revision."""
        entries = self._hub.list_tree(self._hub.get_repo(SYSTEM, repo_id), revision, recursive=True)
        return [TreeFile(entry.path, entry.size) for entry in entries if not entry.is_folder]

    def materialise(self, repo_id: str, revision: str, path: str) -> Path:
        """Returns a real path that holds the file's bytes."""
        return self._hub.materialise(repo_id, "model", revision, path)

    def is_private(self, repo_id: str) -> bool:
        """Returns whether only its owner may see the repo."""
        return self._hub.get_repo(SYSTEM, repo_id).private
