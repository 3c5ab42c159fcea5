"""Checkpoints that are whole or not there: written beside, hashed, synced, then renamed; read only when every hash fits.

checkpoints/step-000120/    weights.safetensors, optimizer.safetensors, state.json
                            manifest.json: size and SHA-256 of each, written last
"""

# torch, transformers and peft type their functions only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from fust.core.files import fsync_folder, full_disk_is_clear, link_or_copy
from fust.tune.tensor_file import write_tensors

_KEPT = 2
_MANIFEST = "manifest.json"
_STATE = "state.json"
_WEIGHTS = "weights.safetensors"
_OPTIMIZER = "optimizer.safetensors"
Tensors = dict[str, torch.Tensor]


class State(msgspec.Struct):
    """What a run knows besides its tensors. The order of the rows and all random numbers follow from ``step``."""

    step: int = 0
    tokens: int = 0
    """Read so far, padding not counted."""
    learned_tokens: int = 0
    spent_s: float = 0.0
    """Of training, over all attempts."""
    mean_loss: float = 0.0
    """Moving average of the loss; 0 before the first step."""
    best_loss: float = 0.0
    first_loss: float = 0.0
    """Of the first step."""
    early_loss: float = 0.0
    """What ``mean_loss`` was after a few steps: a loss that stays there is stuck."""
    first_held_out_loss: float | None = None
    """Before the first step."""
    held_out_loss: float | None = None
    held_out_accuracy: float | None = None
    """Of preferences."""
    rate_scale: float = 1.0
    """Of the learning rate; halved by a roll-back."""
    rolled_back_at: int = 0
    """Step at which the loss broke and the run went back; 0: it did not."""


class _File(msgspec.Struct):
    size_bytes: int
    sha256: str


class _Manifest(msgspec.Struct):
    step: int
    recipe: str
    files: dict[str, _File]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint whose hashes were checked."""

    path: Path
    state: State

    @classmethod
    def at(cls, path: Path) -> Checkpoint:
        """Returns one that another process of the run has found whole."""
        return cls(path, msgspec.json.decode((path / _STATE).read_bytes(), type=State))

    def weights(self) -> Tensors:
        """Returns the tensors that are trained."""
        return load_file(self.path / _WEIGHTS)

    def optimizer(self) -> Tensors:
        """Returns the optimizer's tensors."""
        return load_file(self.path / _OPTIMIZER)


def checkpoint_path(folder: Path, step: int) -> Path:
    """Returns where the checkpoint of a step is."""
    return folder / f"step-{step:08d}"


def save_checkpoint(
    folder: Path, recipe_key: str, weights: Mapping[str, torch.Tensor], optimizer: Tensors, state: State
) -> Path:
    """Writes a checkpoint, and then removes all but the newest two.

    Raises:
        StorageFull: no room; what was there before is untouched.

    """
    final = checkpoint_path(folder, state.step)
    part = final.with_suffix(".tmp")
    shutil.rmtree(part, ignore_errors=True)
    try:
        with full_disk_is_clear(folder):
            if not folder.exists():
                folder.mkdir(parents=True)
                fsync_folder(folder.parent)
            part.mkdir()
            files = {
                name: _File(*write_tensors(part / name, tensors))
                for name, tensors in ((_WEIGHTS, weights), (_OPTIMIZER, optimizer))
            }
            files[_STATE] = _write(part / _STATE, state)
            _write(part / _MANIFEST, _Manifest(state.step, recipe_key, files))
            fsync_folder(part)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    _put(part, final)
    for old in _folders(folder)[_KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
    return final


@contextlib.contextmanager
def disk_errors() -> Generator[None]:
    """Turns what safetensors says of the operating system's errors back into OSError."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), str(error)) from error


def find_checkpoint(folder: Path, recipe_key: str) -> tuple[Checkpoint | None, list[str]]:
    """Returns the newest whole checkpoint of a recipe, and the names of newer ones that are damaged."""
    damaged: list[str] = []
    for path in _folders(folder):
        state = _read(path, recipe_key)
        if state is not None:
            return Checkpoint(path, state), damaged
        damaged.append(path.name)
    return None, damaged


def adopt_checkpoint(source: Path, source_key: str, folder: Path, recipe_key: str) -> bool:
    """Makes the newest whole checkpoint of one recipe the first of another; False when there is none.

    Its files are linked, or copied where they cannot be; one that is there already stays.
    """
    if find_checkpoint(folder, recipe_key)[0] is not None:
        return True
    found, _ = find_checkpoint(source, source_key)
    if found is None:
        return False
    final = folder / found.path.name
    part = final.with_suffix(".tmp")
    shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(final, ignore_errors=True)
    with full_disk_is_clear(folder):
        part.mkdir(parents=True)
        manifest = msgspec.json.decode((found.path / _MANIFEST).read_bytes(), type=_Manifest)
        for name in manifest.files:
            link_or_copy(found.path / name, part / name)
        _write(part / _MANIFEST, msgspec.structs.replace(manifest, recipe=recipe_key))
        fsync_folder(part)
    part.rename(final)
    fsync_folder(folder)
    return True


def _put(part: Path, final: Path) -> None:
    """Renames; where a checkpoint of the same step is in the way (after a roll-back) it goes once the new one is on the disk."""
    old = final.with_suffix(".old")
    if final.exists():
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
    part.rename(final)
    fsync_folder(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def _write(path: Path, said: msgspec.Struct) -> _File:
    """Writes a small file and brings it to the disk; returns its size and hash."""
    data = msgspec.json.encode(said)
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return _File(len(data), hashlib.sha256(data).hexdigest())


def _look(path: Path) -> _File:
    """Returns the size and hash of what lies on the disk."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return _File(file.tell(), digest.hexdigest())


def _folders(folder: Path) -> list[Path]:
    """Returns checkpoint folders, newest first."""
    return sorted((path for path in folder.glob("step-*") if not path.suffix), reverse=True)


def _read(path: Path, recipe_key: str) -> State | None:
    try:
        manifest = msgspec.json.decode((path / _MANIFEST).read_bytes(), type=_Manifest)
        if manifest.recipe != recipe_key or any(
            _look(path / name) != file for name, file in manifest.files.items()
        ):
            return None
        return msgspec.json.decode((path / _STATE).read_bytes(), type=State)
    except (OSError, msgspec.MsgspecError):
        return None
