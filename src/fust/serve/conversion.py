"""Safetensors on the way to llama.cpp: which form of GGUF fits, and the cache in which each is made once.

A converted file is named by what it was made of: the same weights in the same form are made once, whatever the repo
calls them. It appears whole or not at all; what a kill leaves is swept at the next start.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
from sqlalchemy import select

from fust.core.errors import FustError, InvalidInput, NotOffered, StorageFull, Unavailable, UpstreamFailed
from fust.core.settings import Settings
from fust.core.units import show_size
from fust.formats.ggml_types import FileType
from fust.formats.gguf_write import check_gguf
from fust.serve.convert_child import ConvertOrder, ConvertWord
from fust.serve.engines.safetensors import list_safetensors, read_safetensors_facts
from fust.serve.facts import ModelFacts
from fust.serve.files import ModelFile, ModelFiles, TreeFile, bring, discard, nothing_to_serve
from fust.serve.models import DeploymentRow
from fust.serve.notes import Note, note
from fust.store.database import Database

log = logging.getLogger(__name__)

FORMS: tuple[FileType, ...] = ("F16", "Q8_0", "Q6_K", "Q4_K_M")
"""In the order of preference: the first that fits is taken."""
_REPACKED = {"Q4_K_M": 0.6}
"""Share of the weights that llama.cpp lays out a second time; of a random mixture, before it is made."""
_WRITER = 1
"""Raised when the same weights would be written otherwise."""
_SPARE_BYTES = 50_000_000
_GPU = Path("/dev/nvidiactl")


def is_faster() -> bool:
    """Returns whether llama.cpp writes faster than transformers here: on a processor it does."""
    return not _GPU.exists() or importlib.util.find_spec("torch") is None


def facts_as(path: Path, model: ModelFile, form: FileType) -> ModelFacts:
    """Returns the shape of a model that would be made of safetensors, from their headers.

    Raises:
        FustError: it writes no text, or llama.cpp would not read it the same; says why.
    """
    facts = read_safetensors_facts(path, model.size_bytes)
    if facts.is_encoder:
        raise NotOffered("Only models that write text are converted.")
    shape: dict[str, Any] = {field.name: getattr(facts, field.name) for field in fields(ModelFacts)}
    shape["weights_bytes"], shape["repacked"] = check_gguf(path.parent, form), _REPACKED.get(form, 0.0)
    return ModelFacts(**shape)


class ConvertWish(msgspec.Struct, forbid_unknown_fields=True):
    """What a deployment's options say of one that is converted."""

    file_type: FileType


def form_of(engine: str, file: str, options: bytes) -> FileType | None:
    """Returns what a deployment's file is converted to; None when it is served as it is."""
    if engine != "llamacpp" or not file.endswith(".safetensors"):
        return None
    return msgspec.json.decode(options, type=ConvertWish).file_type


def key_of(model: ModelFile, tree: Sequence[TreeFile], form: FileType) -> str:
    """Returns the name of what is made: of the contents that go into it, and of the form."""
    contents = {file.path: file.content for file in tree}
    top = PurePosixPath(model.path).parent
    parts = sorted((str(PurePosixPath(path).relative_to(top)), contents[path]) for path in model.paths)
    return hashlib.sha256(msgspec.json.encode([_WRITER, form, parts])).hexdigest()[:32]


class Conversions:
    """The converted files of one home."""

    def __init__(self, settings: Settings, files: ModelFiles) -> None:
        self.folder = folder_of(settings)
        self._files = files
        self._one = threading.Lock()  # each takes memory and a core
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = False

    def path_of(self, key: str) -> Path:
        """Returns where a converted file is, or will be."""
        return self.folder / f"{key}.gguf"

    def make(
        self,
        repo_id: str,
        revision: str,
        model: ModelFile,
        form: FileType,
        key: str,
        tell: Callable[[Note], None],
    ) -> Path:
        """Returns the converted file; makes it when it is not there, which takes seconds a gigabyte.

        Raises:
            StorageFull: it does not fit onto the disk; nothing is left of it.
            InvalidInput, NotOffered: it cannot be converted.
            UpstreamFailed: the process that writes it ended.
        """
        target = self.path_of(key)
        with self._one:
            if target.exists():
                return target
            source = self.folder / f"{key}.source"
            try:
                first = bring(self._files, repo_id, revision, model, source)
                need = check_gguf(first.parent, form)
                self._check_room(need)
                self._run(ConvertOrder(str(first.parent), str(target), form, repo_id.partition("/")[2]), tell)
            finally:
                discard(source)
        log.info("a model was converted", extra={"repo": repo_id, "form": form, "bytes": need})
        return target

    def _check_room(self, need_bytes: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if free < need_bytes + _SPARE_BYTES:
            raise _full(need_bytes, free)

    def _run(self, order: ConvertOrder, tell: Callable[[Note], None]) -> None:
        command = [sys.executable, "-m", "fust.serve.convert_child"]
        order.parent_pid = os.getpid()
        if self._stopping:
            raise Unavailable("The server is stopping.")
        tell(note("Converted to {form}: {percent} %.", form=order.form, percent=0))
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            self._process = process
            assert process.stdin is not None and process.stdout is not None
            last = ConvertWord()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(msgspec.json.encode(order) + b"\n")
                process.stdin.close()
            for line in process.stdout:
                last = msgspec.json.decode(line, type=ConvertWord)
                if last.total:
                    percent = 100 * last.done // last.total
                    tell(note("Converted to {form}: {percent} %.", form=order.form, percent=percent))
        self._process = None
        Path(order.target + ".part").unlink(missing_ok=True)
        if last.full:
            raise _full(last.total, shutil.disk_usage(self.folder).free)
        if last.error:
            raise InvalidInput("It cannot be converted: {reason}.", reason=last.error.rstrip("."))
        if process.returncode or not Path(order.target).exists():
            raise UpstreamFailed(
                "Converting ended with status {status}.",
                hint="Serve it again, or take the other engine: --engine transformers.",
                status=process.returncode,
            )

    def stop(self) -> None:
        """Ends what is being written; nothing is left of it."""
        self._stopping = True
        if self._process is not None:
            self._process.kill()

    def discard_halves(self) -> None:
        """Removes what a killed server left half made; called before anything is converted."""
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path.is_dir():
                discard(path)
            elif path.suffix == ".part":
                path.unlink(missing_ok=True)


def folder_of(settings: Settings) -> Path:
    """Returns where converted files lie."""
    return settings.home / "engines" / "converted"


def find_converted(files: ModelFiles, row: DeploymentRow) -> str:
    """Returns the name of what a deployment is converted to, empty for none and for one whose repo is gone."""
    form = form_of(row.engine, row.file, (row.options or "{}").encode())
    if form is None:
        return ""
    with contextlib.suppress(FustError):
        return find_model(files, row.repo_id, row.revision, row.file, form)[1]
    return ""


def find_model(
    files: ModelFiles, repo_id: str, revision: str, file: str, form: FileType
) -> tuple[ModelFile, str]:
    """Returns the safetensors of a file's name in a repo, and the name of what is made of them.

    Raises:
        NotFound, InvalidInput: they are not there.
    """
    tree = files.list_files(repo_id, revision)
    model = next((m for m in list_safetensors(tree) if file in m.paths), None)
    if model is None:
        raise nothing_to_serve(repo_id, tree)
    return model, key_of(model, tree, form)


def list_unused(settings: Settings, database: Database, files: ModelFiles) -> list[Path]:
    """Returns the converted files that no deployment is made of, and none was for `hub.keep_unreferenced_s`."""
    before = time.time() - settings.hub.keep_unreferenced_s
    folder = folder_of(settings)
    old = [path for path in folder.glob("*.gguf") if path.stat().st_mtime <= before]
    if not old:
        return []
    with database.read() as session:
        rows = list(session.scalars(select(DeploymentRow)))
    wanted = {find_converted(files, row) for row in rows}
    return [path for path in old if path.stem not in wanted]


def _full(need_bytes: int, free_bytes: int) -> FustError:
    return StorageFull(
        "Converting takes {need} of the disk, and {free} are free.",
        hint="Free some room, or take the other engine: --engine transformers.",
        need=show_size(need_bytes),
        free=show_size(free_bytes),
    )
