"""Adapters of the hub beside a deployment: which file of a repo, whether it is for this base, and the file for the engine.

An adapter lies in `engines/adapters/<id>.gguf` of the home while it is attached: a link to the hub's own file, or what
was made of PEFT's two files. Where the engine reads PEFT's form, links to the two lie in `engines/adapters/<id>/`. Ids are
of one repo at one commit, so a file never changes under an engine.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from fust.core.errors import FustError, InvalidInput, NotFound
from fust.core.ids import split_repo_id
from fust.core.settings import Settings
from fust.formats.gguf import read_gguf
from fust.formats.gguf_lora import BaseShape, check_lora, read_base, write_lora
from fust.formats.peft import check_for_vllm, named_base, read_matrices
from fust.serve.files import ModelFile, ModelFiles, TreeFile, bring, discard, list_models
from fust.serve.models import AdapterRow

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
VISIBILITY_S = 1.0


@dataclass(slots=True, eq=False)
class Attached:
    """An adapter beside a deployment, with what is known of it at run time; guarded by the keeper's lock."""

    id: str
    name: str
    repo_id: str
    file: str
    revision: str
    size_bytes: int
    by_request: bool
    """Attached by a request that named it; the oldest of these make room for new ones."""
    created_by: str
    created_at: datetime
    path: Path | None = None
    """Its file for the engine, after it was checked against the base."""
    error: FustError | None = None
    """Why it is not used."""
    private: bool = True
    gated: bool = True
    visibility_s: float = -1e9
    used_s: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, row: AdapterRow) -> Attached:
        """Returns the run-time side of a row."""
        return cls(
            row.id, row.name, row.repo_id, row.file, row.revision, row.size_bytes, row.by_request, row.created_by,
            row.created_at,
        )  # fmt: skip

    @property
    def taken_bytes(self) -> int:
        """What it takes in an engine's memory: its file as the engine reads it, which 16 bits of a kind make twice as long."""
        return self.path.stat().st_size if self.path is not None and self.path.is_file() else self.size_bytes

    def has_fresh_visibility(self) -> bool:
        """Whether `private` and `gated` were looked up within the last second."""
        return time.monotonic() - self.visibility_s < VISIBILITY_S


def folder_of(settings: Settings) -> Path:
    """Returns where adapters lie that engines use."""
    return settings.home / "engines" / "adapters"


def is_adapter(files: Sequence[TreeFile]) -> bool:
    """Returns whether a repo holds an adapter in PEFT's form."""
    return CONFIG in {file.path for file in files}


def holds_lora(files: ModelFiles, repo_id: str, revision: str, tree: Sequence[TreeFile]) -> bool:
    """Returns whether the GGUF file that a repo would be asked for is an adapter, by its header.

    Raises:
        InvalidInput: it is damaged.
    """
    found = list_models(tree)
    if not found:
        return False
    with files.head(repo_id, revision, found[0].path) as path:
        return read_gguf(path).kind == "adapter"


def choose_adapter(
    repo_id: str, files: Sequence[TreeFile], wanted: str | None, *, only_peft: bool = False
) -> TreeFile:
    """Returns the adapter of a repo: the wanted file, else PEFT's, else the largest GGUF unless only PEFT's will do.

    Raises:
        NotFound: no file of the wanted name.
        InvalidInput: nothing in the repo can be an adapter.
    """
    by_path = {file.path: file for file in files}
    found = [by_path[m.path] for m in list_models(files) if len(m.paths) == 1 and not only_peft]
    if CONFIG in by_path and WEIGHTS in by_path:
        found.insert(0, by_path[WEIGHTS])
    if not found:
        raise InvalidInput(
            "{repo_id} holds no adapter that can be served.",
            hint="An adapter is {config} with {weights} as PEFT saves them."
            if only_peft
            else "An adapter is {config} with {weights} as PEFT saves them, or a GGUF file.",
            repo_id=repo_id,
            config=CONFIG,
            weights=WEIGHTS,
            code="needs_adapter",
        )
    if not wanted:
        return found[0]
    chosen = next((file for file in found if wanted == file.path), None)
    if chosen is None:
        raise NotFound(
            "{repo_id} has no adapter file {file!r}.",
            hint="It has: {files}.",
            repo_id=repo_id,
            file=wanted[:200],
            files=", ".join(file.path for file in found[:20]),
            code="file_not_found",
        )
    return chosen


def bases_named(files: ModelFiles, repo_id: str, revision: str, tree: Sequence[TreeFile]) -> tuple[str, ...]:
    """Returns the repos that an adapter's card and configuration call its base, by the names they have today."""
    named = [*files.named_bases(repo_id, revision)]
    if is_adapter(tree):
        named.append(named_base(files.materialise(repo_id, revision, CONFIG)))
    return _repos(files, named)


def check_named(
    files: ModelFiles, adapter: str, named: Sequence[str], base_repo: str, base_revision: str
) -> None:
    """Looks whether a deployment's repo is what an adapter calls its base, or was made of it.

    Who says nothing is believed: an adapter that names no repo, and a base whose card does not say what it was made of
    while the hub does not hold what the adapter names.

    Raises:
        InvalidInput: the adapter is for another base; names both.
    """
    if not named:
        return
    made_of = _repos(files, files.named_bases(base_repo, base_revision))
    mine = {repo.lower() for repo in (base_repo, *made_of)}
    if mine & {repo.lower() for repo in named}:
        return
    if not made_of and not any(_is_here(files, repo) for repo in named):
        return
    raise InvalidInput(
        "The adapter {adapter} is for {named}, not for {base}.",
        hint="Serve it with its own base; if {base} was made of that, say so in its card: `base_model: {named}`.",
        adapter=adapter,
        named=", ".join(named)[:200],
        base=base_repo,
        code="other_base",
    )


def _repos(files: ModelFiles, named: Iterable[str]) -> tuple[str, ...]:
    found: list[str] = []
    for name in named:
        with contextlib.suppress(InvalidInput):  # a folder on the disk of whoever trained it
            split_repo_id(name)
            found.append(files.find_new_name(name) or name)
    return tuple(dict.fromkeys(found))


def _is_here(files: ModelFiles, repo_id: str) -> bool:
    try:
        files.is_private(repo_id)
    except NotFound:
        return False
    return True


def preparing(
    settings: Settings, files: ModelFiles, model: Path, base: str, *, live: bool
) -> Callable[[Attached], Path]:
    """Returns what brings adapters for a base: made or linked when they are not there, and checked against it.

    Args:
        settings: of the home.
        files: of the hub.
        model: the base's file.
        base: what it is called in messages.
        live: whether its engine is one of `LiveAdapters`, which read PEFT's form.

    Raises, as what it returns does:
        NotFound: a repo or file is gone.
        InvalidInput, NotOffered: it is damaged, for another base, or holds what the engine cannot apply; says what.
        StorageFull, OSError: the file cannot be written.
    """
    if not live:
        shape = read_base(model, base)
        return lambda adapter: _prepare_gguf(settings, files, adapter, shape)
    matrices = read_matrices(model.parent)

    def prepare_peft(adapter: Attached) -> Path:
        folder = folder_of(settings) / adapter.id
        if not folder.exists():
            links = folder.with_suffix(".files")
            bring(
                files,
                adapter.repo_id,
                adapter.revision,
                ModelFile((CONFIG, WEIGHTS), adapter.size_bytes),
                links,
            )
            links.rename(folder)
        most = settings.serve.gpu_adapter_rank
        check_for_vllm(folder / CONFIG, folder / WEIGHTS, adapter.repo_id, base, matrices, most)
        return folder

    return prepare_peft


def _prepare_gguf(settings: Settings, files: ModelFiles, adapter: Attached, base: BaseShape) -> Path:
    target = folder_of(settings) / f"{adapter.id}.gguf"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        links = target.with_suffix(".files")
        peft = adapter.file == WEIGHTS
        wanted = (CONFIG, WEIGHTS) if peft else (adapter.file,)
        try:
            first = bring(
                files, adapter.repo_id, adapter.revision, ModelFile(wanted, adapter.size_bytes), links
            )
            if peft:
                write_lora(first, links / WEIGHTS, target, adapter.repo_id, base)
            else:
                os.replace(first, target)
        finally:
            discard(links)
    check_lora(target, adapter.repo_id, base)
    return target


def discard_adapters(settings: Settings, ids: Iterable[str]) -> None:
    """Removes the files of adapters that nothing uses any more; what an engine has read it keeps."""
    for id_ in ids:
        with contextlib.suppress(OSError):
            (folder_of(settings) / f"{id_}.gguf").unlink()
        discard(folder_of(settings) / id_)


def discard_strays(settings: Settings, known: Iterable[str]) -> None:
    """Removes whatever lies in the folder of adapters and is no known one's."""
    folder = folder_of(settings)
    names = {name for id_ in known for name in (id_, f"{id_}.gguf")}
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name in names:
            continue
        if path.is_dir():
            discard(path)
        else:
            with contextlib.suppress(OSError):
                path.unlink()
