"""Files of a revision as a folder, by links: what the hub drops meanwhile stays for the run."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from fust.core.files import link_or_copy
from fust.hub.service import Hub
from fust.hub.types import RepoInfo


def list_names(hub: Hub, repo: RepoInfo, oid: str) -> list[str]:
    """Returns the paths of a revision's files."""
    return [entry.path for entry in hub.list_tree(repo, oid, recursive=True) if not entry.is_folder]


def link_files(hub: Hub, repo: RepoInfo, oid: str, names: Iterable[str], folder: Path) -> None:
    """Makes a folder of files of a revision."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        source = hub.content.materialise(repo, hub.find_file(repo, name, oid))
        link_or_copy(source, target)
