"""Model files of a repo: which one to serve, and bringing it to a real path that an engine can map."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from fust.accounts.rights import Identity
from fust.core.errors import FustError, InvalidInput, NotFound, NotOffered
from fust.core.units import show_size
from fust.serve.notes import Note, note

PROJECTOR = ".projector/mmproj.gguf"
"""Where `bring` puts what a model sees by, in its folder."""
_PROJECTORS = ("f16", "bf16", "q8_0", "f32")
"""Of several forms of the same projector: half precision costs nothing that could be seen, quantised ones do."""
_SPLIT = re.compile(r"^(?P<stem>.*)-(?P<part>\d{5})-of-(?P<parts>\d{5})\.gguf$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class TreeFile:
    """A file in a repo, with its real size."""

    path: str
    size_bytes: int
    projector: bool = False
    """Whether it is a GGUF file that sees, and goes with a model's."""
    content: str = ""
    """Names its bytes: the same in another repo has the same."""


class ModelFiles(Protocol):
    """What `serve` needs of the hub. No rights are asked here; callers did."""

    def resolve_revision(self, repo_id: str, revision: str) -> str:
        """Returns the commit (hex) of a branch, tag or commit. Raises NotFound."""
        ...

    def list_files(self, repo_id: str, revision: str) -> Sequence[TreeFile]:
        """Returns all files of a revision, in all folders."""
        ...

    def materialise(self, repo_id: str, revision: str, path: str) -> Path:
        """Returns a real local path that holds the file's bytes."""
        ...

    def head(self, repo_id: str, revision: str, path: str) -> AbstractContextManager[Path]:
        """Gives a path whose file begins as a repo's and is as long, for whoever reads its header only."""
        ...

    def is_private(self, repo_id: str) -> bool:
        """Returns whether only its owner may see the repo. Raises NotFound."""
        ...

    def is_gated(self, repo_id: str) -> bool:
        """Returns whether its files open only to those who were let in. Raises NotFound."""
        ...

    def find_new_name(self, repo_id: str) -> str | None:
        """Returns what a repo is called today that once had this name, or None."""
        ...

    def named_bases(self, repo_id: str, revision: str) -> Sequence[str]:
        """Returns what a repo's card calls its base models: repo ids as they are written there."""
        ...

    def check_open(self, identity: Identity, repo_id: str) -> None:
        """Raises Gated unless the caller, who may see the repo, may have its files."""
        ...


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model in a repo: one file, or the parts of a split one in order."""

    paths: tuple[str, ...]
    size_bytes: int
    projector: TreeFile | None = None
    """What it sees by."""

    @property
    def path(self) -> str:
        """The file that an engine opens."""
        return self.paths[0]

    @property
    def label(self) -> str:
        """The name that people use: the file's, without the part's number."""
        match = _SPLIT.match(self.path)
        return f"{match['stem']}.gguf" if match else self.path


def list_models(files: Sequence[TreeFile]) -> list[ModelFile]:
    """Returns the GGUF models among files, largest first; projectors and adapters are not models.

    Split models whose parts are not all there are left out.
    """
    single: list[ModelFile] = []
    split: dict[tuple[str, int], dict[int, TreeFile]] = {}
    for file in files:
        name = file.path.rsplit("/", 1)[-1].lower()
        if not name.endswith(".gguf") or sees(file) or "imatrix" in name:
            continue
        match = _SPLIT.match(file.path)
        if match:
            split.setdefault((match["stem"], int(match["parts"])), {})[int(match["part"])] = file
        else:
            single.append(ModelFile((file.path,), file.size_bytes, _projector_of(file.path, files)))
    for (_, count), parts in split.items():
        if sorted(parts) == list(range(1, count + 1)):
            ordered = [parts[number] for number in sorted(parts)]
            size, projector = sum(p.size_bytes for p in ordered), _projector_of(ordered[0].path, files)
            single.append(ModelFile(tuple(p.path for p in ordered), size, projector))
    return sorted(single, key=lambda model: (-model.size_bytes, model.path))


def sees(file: TreeFile) -> bool:
    """Returns whether a file is a projector, as its header or its name says."""
    name = PurePosixPath(file.path).name.lower()
    return file.projector or (name.endswith(".gguf") and "mmproj" in name)


def _projector_of(model: str, files: Sequence[TreeFile]) -> TreeFile | None:
    """Returns the projector that goes with a model's file: of its own folder, else of the repo's top, or None."""
    for place in (PurePosixPath(model).parent, PurePosixPath(".")):
        beside = [f for f in files if sees(f) and PurePosixPath(f.path).parent == place]
        if beside:
            return min(beside, key=_projector_rank)
    return None


def _projector_rank(file: TreeFile) -> tuple[int, int, str]:
    words = PurePosixPath(file.path).stem.lower().replace(".", "-").split("-")
    rank = next((i for i, form in enumerate(_PROJECTORS) if form in words), len(_PROJECTORS))
    return rank, -file.size_bytes, file.path


@dataclass(frozen=True, slots=True)
class Need:
    """What a model takes: with the context and slots of the settings, and with the least of both."""

    whole_bytes: int
    least_bytes: int


def choose_file(
    repo_id: str,
    models: list[ModelFile],
    wanted: str | None,
    room_bytes: int,
    need_of: Callable[[ModelFile], Need] | None = None,
) -> tuple[ModelFile, Note]:
    """Returns the model to serve and why: the wanted one, else the largest that fits into `room_bytes`.

    One that fits only with a shorter context or fewer slots is taken when none fits with those of the settings.

    Args:
        repo_id: whose models they are.
        models: at least one, largest first.
        wanted: a file's path, or the end of its name.
        room_bytes: what a model may take.
        need_of: estimates a model's memory; without it the size of the file decides.

    Raises:
        NotFound: no file of the wanted name.
        InvalidInput: none fits.
    """
    if wanted:
        found = _named(models, wanted)
        if found is None:
            raise NotFound(
                "{repo_id} has no model file {file!r}.",
                hint="It has: {files}.",
                repo_id=repo_id,
                file=wanted[:200],
                files=", ".join(model.label for model in models[:20]),
                code="file_not_found",
            )
        return found, note("{file} was asked for.", file=found.label)
    if len(models) == 1:
        return models[0], note("{file} is the only model file.", file=models[0].label)
    needs: list[Need] = []
    at = -1
    while at < 0 and len(needs) < len(models):  # the header of one that is smaller than need be is not read
        needs.append((need_of or guess_need)(models[len(needs)]))
        if needs[-1].whole_bytes <= room_bytes:
            at = len(needs) - 1
    if at < 0:
        at = next((i for i, need in enumerate(needs) if need.least_bytes <= room_bytes), -1)
    if at >= 0:
        if at == 0:
            return models[at], note(
                "{file} ({size}) is the largest of {count} that fits into {room}.",
                file=models[at].label,
                size=show_size(models[at].size_bytes),
                count=len(models),
                room=show_size(room_bytes),
            )
        return models[at], note(
            "{file} ({size}) is the largest of {count} that fits into {room}; {larger} would need about {need}.",
            file=models[at].label,
            size=show_size(models[at].size_bytes),
            count=len(models),
            room=show_size(room_bytes),
            larger=models[at - 1].label,
            need=show_size(needs[at - 1].whole_bytes),
        )
    raise InvalidInput(
        "None of the {count} model files of {repo_id} fits: the smallest, {file}, needs about {need}, and {room} can be used.",
        hint="Push a smaller quantisation, or raise the setting serve.memory_bytes.",
        count=len(models),
        repo_id=repo_id,
        file=models[-1].label,
        need=show_size(needs[-1].least_bytes),
        room=show_size(room_bytes),
        code="does_not_fit",
    )


def needed_bytes(size_bytes: int) -> int:
    """Returns a first guess of the memory for a file whose header was not read: a fifth more, and a base."""
    return size_bytes + size_bytes // 5 + 60_000_000


def guess_need(model: ModelFile) -> Need:
    """Returns a first guess for a model whose header was not read."""
    return Need(needed_bytes(model.size_bytes), needed_bytes(model.size_bytes))


def _named(models: list[ModelFile], wanted: str) -> ModelFile | None:
    exact = [m for m in models if wanted in (m.path, m.label) or wanted in m.paths]
    if exact:
        return exact[0]
    folded = wanted.lower().removesuffix(".gguf")
    close = [m for m in models if m.label.lower().removesuffix(".gguf").endswith(folded)]
    return close[0] if len(close) == 1 else None


def no_repo(repo_id: str) -> NotFound:
    """Returns the error for a repo that is not there, or that the caller may not know of."""
    return NotFound(
        "There is no model {repo_id!r} in the hub.",
        hint="`fust ls` lists those that are; `fust pull {repo_id}` brings one.",
        repo_id=repo_id[:200],
        code="repo_not_found",
    )


def nothing_to_serve(repo_id: str, files: Sequence[TreeFile]) -> FustError:
    """Returns the error for a repo in which no engine finds a model: what it lacks."""
    names = [file.path.lower() for file in files]
    if any("-of-" in name and name.endswith(".gguf") for name in names):
        return InvalidInput(
            "{repo_id} holds parts of a split GGUF model, but not all of them.",
            hint="Push the missing parts.",
            repo_id=repo_id,
            code="split_incomplete",
        )
    if any(name.endswith((".safetensors", ".bin", ".pt", ".pth")) for name in names):
        return NotOffered(
            "{repo_id} holds neither a GGUF file nor a whole model of safetensors with its config.json.",
            hint="Weights that are pickles (.bin, .pt) are never loaded: save the model as safetensors, or pull a GGUF build of it.",
            repo_id=repo_id,
            code="needs_gguf",
        )
    return InvalidInput(
        "{repo_id} holds no model file.",
        hint="Push a .gguf file into it: `fust push {repo_id} ./model.gguf`.",
        repo_id=repo_id,
        code="needs_gguf",
    )


def bring(source: ModelFiles, repo_id: str, revision: str, model: ModelFile, folder: Path) -> Path:
    """Returns a path that an engine can open; the model's other files lie about it as they do in the repo.

    `folder` is emptied and holds links to the hub's files, since the hub may keep them under other names.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    first: Path | None = None
    top = PurePosixPath(model.path).parent
    for path in model.paths:
        real = source.materialise(repo_id, revision, path)
        link = folder / PurePosixPath(path).relative_to(top)
        _link(real, link)
        first = first or link
    assert first is not None
    if model.projector is not None:
        _link(source.materialise(repo_id, revision, model.projector.path), folder / PROJECTOR)
    return first


def _link(real: Path, link: Path) -> None:
    link.parent.mkdir(exist_ok=True)
    # A hard link keeps the bytes when the hub's cache evicts its name; another disk has to do with a symbolic one.
    try:
        os.link(real, link)
    except OSError:
        os.symlink(real.resolve(), link)


def discard(folder: Path) -> None:
    """Removes the links again."""
    with contextlib.suppress(OSError):
        shutil.rmtree(folder)
