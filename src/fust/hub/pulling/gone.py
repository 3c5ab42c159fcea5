"""What another hub has deleted since it was pulled last: its own list of that time is asked for and compared.

Only files that a pull brought and that nobody changed here go: what was added or changed here is not in that list.
"""

from __future__ import annotations

import re

from fust.core.errors import FustError
from fust.hub.git_repo import Entry
from fust.hub.paths import is_commit_oid
from fust.hub.pulling.forms import HubForm
from fust.hub.pulling.types import UpstreamFile, UpstreamRepo
from fust.hub.service import Hub
from fust.hub.types import RepoInfo

_LOOK_BACK = 200
"""Commits among which the last pull is looked for."""


def pull_message(source: object, repo_id: str, revision: str, *, is_part: bool = False) -> str:
    """Returns the message of a pull's commit, by which the next pull knows what was there; a part tells nothing."""
    return f"Pulled from {source}/{repo_id} at {revision}" + (", in part" if is_part else "")


def gone_upstream(hub: Hub, repo: RepoInfo, branch: str, form: HubForm, there: UpstreamRepo) -> list[str]:
    """Returns the paths on a branch that are to be deleted; none when the hub does not know its old list any more."""
    revision = _pulled_revision(hub, repo, branch, there)
    if revision is None or revision == there.revision:
        return []
    try:
        before = form.read_repo(there.repo_id, repo.type, revision)
    except FustError:
        return []
    left = {file.path for file in there.files}
    here = {e.path: e for e in hub.list_tree(repo, branch, recursive=True) if not e.is_folder}
    return [
        file.path
        for file in before.files
        if file.path not in left and file.path != ".gitattributes" and _is(here.get(file.path), file)
    ]


def _pulled_revision(hub: Hub, repo: RepoInfo, branch: str, there: UpstreamRepo) -> str | None:
    """Returns the commit of the other hub that the last pull brought to a branch."""
    form = re.compile(pull_message(r"\S+", re.escape(there.repo_id), r"(\S+)"))
    for commit in hub.list_commits(repo, branch, limit=_LOOK_BACK):
        match = form.fullmatch(commit.title)
        if match:
            return match[1] if is_commit_oid(match[1]) else None
    return None


def _is(entry: Entry | None, file: UpstreamFile) -> bool:
    """Returns whether a file here is the one that was pulled."""
    if entry is None:
        return False
    return entry.sha256 == file.sha256 if file.is_large else entry.oid == file.oid and not entry.sha256
