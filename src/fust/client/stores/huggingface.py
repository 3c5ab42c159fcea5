"""The cache of huggingface_hub (docs: "Understand caching"): blobs by ETag, snapshots of links to them, refs by name.

hub/models--owner--name/blobs/<etag>                  SHA-256 of a large file, git's SHA-1 of a small one
                        snapshots/<commit>/<path>     links to blobs; plain files where links do not work
                        refs/<branch or tag>          a commit
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from fust.client.stores.types import LocalFile, LocalRevision, regular_file_within

_KINDS: dict[str, Literal["model", "dataset", "space"]] = {
    "models": "model",
    "datasets": "dataset",
    "spaces": "space",
}
_DIGEST = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def default_cache(environ: Mapping[str, str]) -> Path:
    """Returns where huggingface_hub keeps its cache."""
    if environ.get("HF_HUB_CACHE"):
        return Path(environ["HF_HUB_CACHE"]).expanduser()
    home = environ.get("HF_HOME") or os.path.join(environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(home).expanduser() / "hub"


def scan_cache(folder: Path) -> Iterator[LocalRevision]:
    """Yields every revision that the cache holds, that of `main` first."""
    store = Path(os.path.realpath(folder))
    for entry in sorted(store.iterdir()):
        kind, _, rest = entry.name.partition("--")
        if kind in _KINDS and rest and entry.is_dir() and not entry.is_symlink():
            yield from _scan_repo(store, entry, _KINDS[kind], rest.replace("--", "/", 1))


def _scan_repo(
    store: Path, folder: Path, kind: Literal["model", "dataset", "space"], repo_id: str
) -> Iterator[LocalRevision]:
    snapshots = folder / "snapshots"
    commits = [e for e in snapshots.iterdir() if _COMMIT.fullmatch(e.name)] if snapshots.is_dir() else []
    commits = sorted(
        (e for e in commits if not e.is_symlink()), key=lambda e: e.stat().st_mtime, reverse=True
    )
    names = _read_refs(folder / "refs")
    if "main" not in names and commits:
        names["main"] = commits[0].name
    taken = dict[str, str]()
    for name, commit in sorted(names.items(), key=lambda item: (item[0] != "main", item[0])):
        taken.setdefault(name, commit)
    for snapshot in commits:
        if snapshot.name not in taken.values():
            taken[f"snapshot-{snapshot.name[:12]}"] = snapshot.name
    unfinished = list((folder / "blobs").glob("*.incomplete"))
    known = {snapshot.name: snapshot for snapshot in commits}
    for branch, commit in taken.items():
        if commit not in known:
            continue
        revision = LocalRevision(repo_id, kind, branch, f"a Hugging Face cache at {commit}")
        _read_snapshot(store, known[commit], revision)
        for path in unfinished if branch == "main" else ():
            revision.skipped.append((path.name[:20] + "…", "broken"))
        yield revision


def _read_refs(folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        name = str(path.relative_to(folder))
        if path.is_symlink() or not path.is_file() or name.startswith("pr/") or path.stat().st_size > 100:
            continue
        commit = path.read_text("ascii", "replace").strip()
        if _COMMIT.fullmatch(commit):
            found[name] = commit
    return found


def _read_snapshot(store: Path, snapshot: Path, revision: LocalRevision) -> None:
    for folder, folders, files in os.walk(snapshot):
        for name in sorted([*files, *(f for f in folders if os.path.islink(os.path.join(folder, f)))]):
            path = Path(folder) / name
            path_in_repo = path.relative_to(snapshot).as_posix()
            try:
                real = regular_file_within(path, store)
                if real is None:
                    revision.skipped.append((path_in_repo, "outside"))
                    continue
                digest = real.name if real.parent.name == "blobs" and _DIGEST.fullmatch(real.name) else ""
                revision.files.append(LocalFile(path_in_repo, real, real.stat().st_size, digest))
            except OSError:
                revision.skipped.append((path_in_repo, "broken"))
