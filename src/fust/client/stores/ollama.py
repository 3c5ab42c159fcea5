"""The store of Ollama: manifests as in a container registry (OCI image manifest), blobs by SHA-256.

models/manifests/<host>/<namespace>/<model>/<tag>    JSON: layers with a media type, a digest and a size
       blobs/sha256-<digest>
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from fust.client.stores.types import LocalFile, LocalRevision, regular_file_within

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_MEDIA = "application/vnd.ollama.image."
_MAX_MANIFEST_BYTES = 4 * 2**20
_MAX_TEXT_BYTES = 2**20
_LICENCES = (("Apache License", "apache-2.0"), ("MIT License", "mit"), ("GNU GENERAL PUBLIC", "gpl-3.0"))


class _Layer(msgspec.Struct, rename={"media_type": "mediaType"}):
    media_type: str
    digest: str
    size: int = 0


class _Manifest(msgspec.Struct):
    layers: list[_Layer] = []


def default_stores(environ: Mapping[str, str]) -> list[Path]:
    """Returns where Ollama keeps models: as its variable says, else below the user's or the service's home."""
    if environ.get("OLLAMA_MODELS"):
        return [Path(environ["OLLAMA_MODELS"]).expanduser()]
    return [Path("~/.ollama/models").expanduser(), Path("/usr/share/ollama/.ollama/models")]


def scan_store(folder: Path) -> Iterator[LocalRevision]:
    """Yields every model that the store holds, all of its tags together."""
    store = Path(os.path.realpath(folder))
    manifests = store / "manifests"
    models: dict[tuple[str, str], list[Path]] = {}
    for path in sorted(manifests.rglob("*")):
        parts = path.relative_to(manifests).parts
        if len(parts) == 4 and path.is_file() and not path.is_symlink():
            models.setdefault((parts[1], parts[2]), []).append(path)
    for (namespace, name), paths in models.items():
        owner = "ollama" if namespace == "library" else namespace
        revision = LocalRevision(f"{owner}/{name}", "model", "main", "an Ollama store")
        rows = [row for path in paths for row in _read_tag(store, path, name, revision)]
        if rows:
            card = _card(name, namespace, rows, revision)
            revision.files.append(LocalFile("README.md", card, len(card), ""))
        yield revision


def _read_tag(store: Path, path: Path, name: str, revision: LocalRevision) -> list[tuple[str, str, str]]:
    """Adds the files of a tag; returns (tag, file, digest) of its weights."""
    tag = path.name
    try:
        if path.stat().st_size > _MAX_MANIFEST_BYTES:
            raise ValueError(path)
        manifest = msgspec.json.decode(path.read_bytes(), type=_Manifest)
    except (OSError, ValueError):
        revision.skipped.append((f"{name}:{tag}", "broken"))
        return []
    layers = [(layer, _find_blob(store, layer, f"{name}:{tag}", revision)) for layer in manifest.layers]
    if not any(found and layer.media_type == _MEDIA + "model" for layer, found in layers):
        return []  # without its weights the rest is of no use
    rows: list[tuple[str, str, str]] = []
    counts: dict[str, int] = {}
    for layer, found in layers:
        if found is None:
            continue
        kind = layer.media_type.removeprefix(_MEDIA)
        counts[kind] = counts.get(kind, 0) + 1
        target = _path_in_repo(kind, name, tag, counts[kind])
        if target is None:
            continue
        digest = layer.digest.removeprefix("sha256:")
        if all(file.path != target for file in revision.files):
            revision.files.append(LocalFile(target, found, found.stat().st_size, digest))
        if kind == "model":
            rows.append((tag, target, digest))
    return rows


def _find_blob(store: Path, layer: _Layer, label: str, revision: LocalRevision) -> Path | None:
    match = _DIGEST.fullmatch(layer.digest)
    kind = layer.media_type.removeprefix(_MEDIA)
    if match is None:
        revision.skipped.append((label, "broken"))
        return None
    try:
        found = regular_file_within(store / "blobs" / f"sha256-{match[1]}", store)
        if found is None:
            revision.skipped.append((f"{label} {kind}", "outside"))
            return None
        if found.stat().st_size != layer.size:
            raise FileNotFoundError(found)
        if kind in ("model", "projector", "adapter"):
            with open(found, "rb") as file:
                if file.read(4) != b"GGUF":
                    revision.skipped.append((f"{label} {kind}", "no_gguf"))
                    return None
        elif layer.size > _MAX_TEXT_BYTES:
            return None
    except OSError:
        revision.skipped.append((f"{label} {kind}", "broken"))
        return None
    return found


def _path_in_repo(kind: str, name: str, tag: str, number: int) -> str | None:
    more = "" if number == 1 else f"-{number}"
    return {
        "model": f"{name}-{tag}{more}.gguf",
        "projector": f"mmproj-{name}-{tag}{more}.gguf",
        "adapter": f"{name}-{tag}-adapter{more}.gguf",
        "template": f"{tag}/template.txt",
        "system": f"{tag}/system.txt",
        "params": f"{tag}/params.json",
        "messages": f"{tag}/messages.json",
        "license": f"LICENSE{more}",
    }.get(kind)


def _card(name: str, namespace: str, rows: list[tuple[str, str, str]], revision: LocalRevision) -> bytes:
    """Returns README.md: the licence as far as its text names one, and which tag is which file."""
    licence = "unknown"
    for file in revision.files:
        if file.path.startswith("LICENSE") and isinstance(file.source, Path):
            text = file.source.read_bytes()[:2000].decode("utf-8", "replace")
            licence = next((spdx for words, spdx in _LICENCES if words in text), "other")
            break
    shown = name if namespace == "library" else f"{namespace}/{name}"
    lines = ["---", f"license: {licence}", "tags:", "- gguf", "- ollama", "---", f"# {shown}", ""]
    lines += ["Taken over from an Ollama store.", "", "| tag | file | SHA-256 |", "|---|---|---|"]
    lines += [f"| {tag} | {path} | {digest} |" for tag, path, digest in rows]
    return ("\n".join(lines) + "\n").encode()
