"""Takes a revision that another program keeps on this machine into the hub: checked, and only what is not there yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from fust.client.stores.types import LocalFile, LocalRevision
from fust.client.upload import hub_api, make_repo, speaking_clearly


@dataclass(frozen=True, slots=True)
class TakenOver:
    """What came of it."""

    uploaded: int
    uploaded_bytes: int
    same: int
    """Files that were in the hub already."""
    damaged: list[str]
    """Files whose bytes are not what the store says; left out."""


def take_over(
    base_url: str, token: str, revision: LocalRevision, repo_id: str, *, private: bool
) -> TakenOver:
    """Uploads what the hub has not, as one commit on the revision's branch.

    Raises:
        ClientError: the server refused.
        Unavailable: nobody answers.

    """
    with speaking_clearly(base_url):
        api = hub_api(base_url, token)
        make_repo(api, repo_id, revision.type, private=private)
        if revision.branch != "main":
            first = api.list_repo_commits(repo_id, repo_type=revision.type)[-1].commit_id
            api.create_branch(
                repo_id, repo_type=revision.type, branch=revision.branch, revision=first, exist_ok=True
            )
        here = _hashes(api, repo_id, revision)
        wanted = [file for file in revision.files if not _is_same(file, here.get(file.path))]
        damaged = [file.path for file in wanted if not file.is_right()]
        sent = [file for file in wanted if file.path not in damaged]
        if sent:
            from huggingface_hub import CommitOperationAdd

            api.create_commit(
                repo_id,
                [CommitOperationAdd(file.path, file.source) for file in sent],
                repo_type=revision.type,
                revision=revision.branch,
                commit_message=f"Imported from {revision.origin}",
            )
    sizes = sum(file.size for file in sent)
    return TakenOver(len(sent), sizes, len(revision.files) - len(wanted), damaged)


def _hashes(api: Any, repo_id: str, revision: LocalRevision) -> dict[str, tuple[str, str]]:
    """Returns path -> (SHA-256 or empty, git oid) of what the branch holds."""
    found: dict[str, tuple[str, str]] = {}
    tree = api.list_repo_tree(repo_id, repo_type=revision.type, revision=revision.branch, recursive=True)
    for entry in cast("list[Any]", tree):
        if hasattr(entry, "blob_id"):
            found[entry.path] = (entry.lfs.sha256 if entry.lfs else "", entry.blob_id)
    return found


def _is_same(file: LocalFile, there: tuple[str, str] | None) -> bool:
    """Returns whether the hub holds these bytes: told by the names of the hashes, without reading a large file."""
    if there is None:
        return False
    sha256, oid = there
    if file.digest and file.digest in (sha256, oid):
        return True
    if sha256 and len(file.digest) == 64:
        return False
    if file.size > 50 * 2**20 and not sha256:
        return False
    return LocalFile(file.path, file.source, file.size, sha256 or oid).is_right()
