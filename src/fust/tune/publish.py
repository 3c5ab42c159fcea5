"""From trained weights into the hub: the result with its card, and what is made of it."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Protocol

import msgspec

from fust.accounts.rights import Identity
from fust.core.files import write_atomic
from fust.core.machine import processor_name
from fust.formats.ggml_types import FileType
from fust.hub.cards import parse_card
from fust.hub.service import Hub
from fust.hub.types import RepoInfo
from fust.jobs.worker import JobContext
from fust.tune.base import Base, is_tokenizer_file
from fust.tune.card import Record, write_card
from fust.tune.export import ExportResult, ExportWish, export
from fust.tune.progress import Point
from fust.tune.recipe import Recipe, Wish
from fust.tune.result import TuneResult


class Origin(msgspec.Struct, frozen=True):
    """What a result takes over from its base, or without one from its data, as it was when the run began."""

    licence: str
    languages: list[str]
    is_private: bool

    @classmethod
    def of(cls, hub: Hub, repo: RepoInfo, revision: str, data: RepoInfo) -> Origin:
        """Returns what a repo's card says, and whether it or the data is not for everybody.

        Weights can tell what they learned from, so what was made of closed data is private until its owner opens it.
        """
        front = hub.read_card(repo, revision)
        card = parse_card(front) if front else None
        closed = repo.private or data.private or bool(data.gated)
        return cls((card.licence or "") if card else "", card.languages if card else [], closed)


class Writes(Protocol):
    """Whoever holds the trained weights."""

    def write(self, folder: Path) -> None:
        """Writes them as the hub gets them."""
        ...


def publish(
    context: JobContext,
    hub: Hub,
    identity: Identity,
    wish: Wish,
    tuned: Writes,
    base: Base,
    origin: Origin,
    points: list[Point],
    result: TuneResult,
) -> None:
    """Puts weights, card and log into the hub, then what was wished beside them; fills the result.

    May be done again: what is in the hub already becomes no second revision.
    """
    recipe, trained = result.recipe, result.trained
    assert trained is not None
    out = context.work / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    tuned.write(out)
    for path in base.folder.iterdir():
        if is_tokenizer_file(path.name) or (not recipe.is_adapter and path.name == "generation_config.json"):
            shutil.copyfile(path, out / path.name)  # unchanged, byte by byte
    result.weights_sha256 = _hash_weights(out)
    (out / "training_log.jsonl").write_bytes(b"".join(msgspec.json.encode(p) + b"\n" for p in points))
    (out / "recipe.json").write_bytes(msgspec.json.format(msgspec.json.encode(recipe)))
    record = Record(
        wish.to,
        recipe,
        result.report,
        trained,
        points,
        result.reasons,
        licence=origin.licence,
        languages=origin.languages,
        processor=processor_name(),
        weights_sha256=result.weights_sha256,
    )
    (out / "README.md").write_text(write_card(record), encoding="utf-8")
    private = wish.private if wish.private is not None else origin.is_private
    hub.create_repo(identity, wish.to, "model", private=private, exist_ok=True)
    files = {path.relative_to(out).as_posix(): path for path in sorted(out.rglob("*")) if path.is_file()}
    done = context.work / "published"  # its bits are the same when a run that failed behind it does it again
    if not done.exists():
        revision = hub.import_files(identity, wish.to, "model", files, message=_message(recipe))
        write_atomic(done, revision.encode())
    result.revision = done.read_text()
    result.repo_id, result.files = wish.to, sorted(files)
    context.say("{repo_id} is in the hub.", repo_id=wish.to)
    result.made = _export(context, hub, identity, wish, result)


def _message(recipe: Recipe) -> str:
    if recipe.extends is not None:
        return f"Went on from step {recipe.extends.step} of run {recipe.extends.run}"
    return (
        f"Tuned {recipe.base} on {recipe.data}" if recipe.base else f"Trained from nothing on {recipe.data}"
    )


def _export(
    context: JobContext, hub: Hub, identity: Identity, wish: Wish, result: TuneResult
) -> list[ExportResult]:
    """Makes whole weights and GGUF files of the result, as wished, each in a repo of its own."""
    recipe = result.recipe
    asked: list[tuple[str, bool, list[FileType]]] = [
        *([("merged", True, [])] if wish.merge else []),
        *([("GGUF", False, wish.gguf)] if wish.gguf else []),
    ]
    return [
        export(
            context,
            hub,
            identity,
            ExportWish(
                source=wish.to,
                revision=result.revision,
                base=recipe.base if recipe.is_adapter else "",
                base_revision=recipe.base_revision if recipe.is_adapter else "",
                to=types,
                merge=merge,
                into=f"{wish.to}-{ending}",
                private=wish.private,
            ),
        )
        for ending, merge, types in asked
    ]


def _hash_weights(folder: Path) -> str:
    """Returns the SHA-256 over all weight files in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
