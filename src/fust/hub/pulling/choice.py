"""Which files of a repo a pull takes: those that were named, or of several GGUFs the largest that fits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import msgspec

from fust.core.errors import NotFound, StorageFull
from fust.core.units import show_size
from fust.hub.pulling.types import UpstreamFile

_PART = re.compile(r"(?P<stem>.+)-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)
_WEIGHTS = re.compile(r"\.(safetensors|bin|pt|pth|ckpt|h5|msgpack|onnx|npz|gguf|dat|imatrix)$", re.IGNORECASE)
_BESIDE = re.compile(r"(^|/)(mmproj|imatrix)[^/]*\.gguf$", re.IGNORECASE)
_OVERHEAD, _BASE_BYTES = 1.15, 300 * 10**6
"""What a model of some size takes in memory: the file, a share for the cache, and the engine itself."""


class GGUFChoice(msgspec.Struct):
    """One GGUF of a repo, all parts of it."""

    file: str
    size_bytes: int
    fits: bool
    taken: bool = False


@dataclass(frozen=True, slots=True)
class Selection:
    """What is taken, and between what was chosen."""

    files: list[UpstreamFile]
    choices: list[GGUFChoice]
    """Empty when there was nothing to choose."""


def choose(
    files: Sequence[UpstreamFile],
    *,
    named: Sequence[str],
    patterns: Sequence[str],
    excluded: Sequence[str] = (),
    take_all: bool,
    memory_bytes: int,
    repo_id: str,
) -> Selection:
    """Returns the files to take. Patterns are huggingface_hub's: `*` crosses `/`, and `data/` means `data/*`.

    Raises:
        NotFound: a named file or a pattern matches nothing, or everything is excluded.
        StorageFull: none of several GGUFs fits into the memory.

    """
    if not files:
        raise NotFound("{repo_id} holds no files.", hint="Check the name and --revision.", repo_id=repo_id)
    if excluded:
        files = [file for file in files if not any(_matches(file.path, pattern) for pattern in excluded)]
        if not files:
            raise NotFound(
                "Nothing of {repo_id} is left: --exclude matches all of it.",
                hint="Patterns are like '*.json' or 'data/*'.",
                repo_id=repo_id,
            )
    if named or patterns:
        return Selection(_matching(files, named, patterns, repo_id), [])
    groups = _gguf_groups(files)
    if take_all or len(groups) < 2:
        return Selection(list(files), [])
    choices = sorted(
        (
            GGUFChoice(
                group[0].path,
                size := sum(f.size for f in group),
                size * _OVERHEAD + _BASE_BYTES <= memory_bytes,
            )
            for group in groups
        ),
        key=lambda choice: choice.size_bytes,
    )
    best = next((choice for choice in reversed(choices) if choice.fits), None)
    if best is None:
        raise StorageFull(
            "None of the {count} GGUF files of {repo_id} fits into this machine's {memory}; the smallest has {smallest}.",
            hint="Take one all the same with --file {file}.",
            code="does_not_fit",
            count=len(choices),
            repo_id=repo_id,
            memory=show_size(memory_bytes),
            smallest=show_size(choices[0].size_bytes),
            file=choices[0].file,
        )
    best.taken = True
    taken = next(group for group in groups if group[0].path == best.file)
    beside = [file for file in files if not _WEIGHTS.search(file.path)]
    return Selection([*taken, *beside], choices)


def _gguf_groups(files: Sequence[UpstreamFile]) -> list[list[UpstreamFile]]:
    groups: dict[str, list[UpstreamFile]] = {}
    for file in sorted(files, key=lambda file: file.path):
        if file.path.lower().endswith(".gguf") and not _BESIDE.search(file.path):
            part = _PART.match(file.path)
            groups.setdefault(part["stem"] if part else file.path, []).append(file)
    return list(groups.values())


def _matching(
    files: Sequence[UpstreamFile], named: Sequence[str], patterns: Sequence[str], repo_id: str
) -> list[UpstreamFile]:
    taken: dict[str, UpstreamFile] = {}
    for name in named:
        part = _PART.match(name)
        stem = part["stem"] if part else None
        found = [
            file
            for file in files
            if file.path == name or (stem and (other := _PART.match(file.path)) and other["stem"] == stem)
        ]
        if not found:
            near = [file.path for file in files if file.path.lower().endswith(name[-5:].lower())][:8]
            raise NotFound(
                "{repo_id} has no file {name!r}.",
                hint="It has, among others: {files}.",
                repo_id=repo_id,
                name=name[:200],
                files=", ".join(near or [file.path for file in files[:8]]),
            )
        taken.update({file.path: file for file in found})
    for pattern in patterns:
        found = [file for file in files if _matches(file.path, pattern)]
        if not found:
            raise NotFound(
                "Nothing in {repo_id} matches {pattern!r}.",
                hint="Patterns are like '*.json' or 'data/*'.",
                repo_id=repo_id,
                pattern=pattern[:200],
            )
        taken.update({file.path: file for file in found})
    return list(taken.values())


def _matches(path: str, pattern: str) -> bool:
    return fnmatchcase(path, pattern + "*" if pattern.endswith("/") else pattern)
