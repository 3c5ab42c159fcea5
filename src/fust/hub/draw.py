"""The hub's values as JSON in the shapes that huggingface_hub parses (hf_api.py: RepoFile, ModelInfo, GitRefs …)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from fust.core.clock import iso
from fust.hub.cards import Card
from fust.hub.git_repo import CommitInfo, Entry, Ref
from fust.hub.types import LargeState, RepoInfo

Json = dict[str, object]


def draw_entry(entry: Entry, states: Mapping[str, LargeState], last: CommitInfo | None = None) -> Json:
    """Returns a line of a tree (`RepoFile`, `RepoFolder`)."""
    drawn: Json = {
        "type": "directory" if entry.is_folder else "file",
        "oid": entry.oid,
        "size": entry.size,
        "path": entry.path,
    }
    if entry.sha256:
        drawn["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": entry.pointer_size}
        state = states.get(entry.sha256)
        if state and state.xet_hash:
            drawn["xetHash"] = state.xet_hash
    if last is not None:
        drawn["lastCommit"] = {"id": last.oid, "title": last.title, "date": _date(last.date)}
    return drawn


def draw_sibling(entry: Entry, *, blobs: bool) -> Json:
    """Returns a line of `siblings`."""
    drawn: Json = {"rfilename": entry.path}
    if blobs:
        drawn |= {"size": entry.size, "blobId": entry.oid}
        if entry.sha256:
            drawn["lfs"] = {"sha256": entry.sha256, "size": entry.size, "pointerSize": entry.pointer_size}
    return drawn


def draw_repo(info: RepoInfo, *, sha: str | None = None) -> Json:
    """Returns what lists show of a repo (`ModelInfo`, `DatasetInfo`, `SpaceInfo`)."""
    tags = [*info.tags]
    for extra in (info.library, info.task, *info.formats):
        if extra and extra not in tags:
            tags.append(extra)
    tags += [f"language:{language}" if info.type == "dataset" else language for language in info.languages]
    if info.licence:
        tags.append(f"license:{info.licence}")
    drawn: Json = {
        "_id": info.id,
        "id": info.repo_id,
        "author": info.owner,
        "sha": sha or info.head_oid,
        "lastModified": _date(info.updated_at),
        "createdAt": _date(info.created_at),
        "private": info.private,
        "gated": info.gated or False,
        "disabled": False,
        "downloads": info.downloads,
        "likes": info.likes,
        "tags": tags,
    }
    if info.type == "model":
        drawn["modelId"] = info.repo_id
        if info.task:
            drawn["pipeline_tag"] = info.task
        if info.library:
            drawn["library_name"] = info.library
    elif info.type == "space":
        drawn["sdk"] = info.sdk
    if info.description and info.type == "dataset":
        drawn["description"] = info.description
    return drawn


def draw_details(
    info: RepoInfo,
    *,
    sha: str,
    last: CommitInfo,
    entries: Sequence[Entry],
    card: Card,
    blobs: bool,
    formats: Json,
) -> Json:
    """Returns what `model_info` and its like give of one revision."""
    drawn = draw_repo(info, sha=sha)
    drawn["lastModified"] = _date(last.date)
    drawn["siblings"] = [draw_sibling(entry, blobs=blobs) for entry in entries if not entry.is_folder]
    drawn["usedStorage"] = info.size_bytes
    drawn["cardData"] = card.data or None
    if info.type == "model":
        drawn["spaces"] = []
    drawn |= formats
    return drawn


def draw_commit(commit: CommitInfo) -> Json:
    """Returns a line of `list_repo_commits`."""
    return {
        "id": commit.oid,
        "title": commit.title,
        "message": commit.message,
        "authors": [{"user": author} for author in commit.authors],
        "date": _date(commit.date),
    }


def draw_refs(refs: Sequence[Ref]) -> Json:
    """Returns `list_repo_refs`' answer."""

    def those(prefix: str) -> list[Json]:
        return [
            {"name": ref.ref.removeprefix(prefix), "ref": ref.ref, "targetCommit": ref.oid}
            for ref in refs
            if ref.ref.startswith(prefix)
        ]

    return {
        "branches": those("refs/heads/"),
        "tags": those("refs/tags/"),
        "converts": those("refs/convert/"),
        "pullRequests": those("refs/pr/"),
    }


def _date(moment: datetime) -> str:
    return iso(moment) or ""
