"""What serving a repo would mean on this machine, before anything is started: each model file, its engine, what it would take."""

from __future__ import annotations

import contextlib
import logging
import sys
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import msgspec

from fust.accounts.rights import Identity, may
from fust.core.errors import FustError
from fust.core.ids import split_repo_id
from fust.core.settings import ServeSettings
from fust.core.units import show_size
from fust.formats.ggml_types import FileType
from fust.serve.adapters import bases_named, is_adapter
from fust.serve.conversion import FORMS, ConvertWish, facts_as, is_faster
from fust.serve.engines.kinds import KINDS, Kind, choose_kind, get_kind
from fust.serve.engines.safetensors import list_safetensors
from fust.serve.facts import ModelFacts
from fust.serve.files import (
    PROJECTOR,
    ModelFile,
    ModelFiles,
    Need,
    TreeFile,
    choose_file,
    guess_need,
    no_repo,
    nothing_to_serve,
)
from fust.serve.keeper import Keeper
from fust.serve.notes import Note, note
from fust.serve.plan import Plan, need_of, plan_engine

log = logging.getLogger(__name__)

_MOST = 64
"""Models of one repo that are looked at."""
_KEPT = 256
"""Headers that are remembered."""

_LLAMA, _OTHER = "llamacpp", "transformers"
Fits = Literal["yes", "smaller", "no"]
"""`smaller`: with fewer requests at a time or a shorter context than the settings want."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One model of a repo, and what serving it would take."""

    model: ModelFile
    engine: str
    need: Need
    plan: Plan | None
    """None when its header could not be read; the need is then a guess by the file's size."""
    refusal: FustError | None
    """Why it cannot be served at all; memory apart."""

    def fits(self, room_bytes: int) -> Fits:
        """Returns whether it fits into what an engine may take."""
        if self.need.whole_bytes <= room_bytes:
            return "yes"
        return "smaller" if self.need.least_bytes <= room_bytes else "no"


@dataclass(frozen=True, slots=True)
class Offers:
    """All models of a repo, and the one that would be taken."""

    revision: str
    room_bytes: int
    items: tuple[Offer, ...]
    chosen: Offer | None
    why: tuple[Note, ...]
    bases: tuple[str, ...] = ()
    """Of an adapter: what it calls its base; serving it puts it beside that."""
    refusal: FustError | None = None
    """Why nothing would be taken."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What serves a repo."""

    kind: Kind
    model: ModelFile
    reason: Note
    options: bytes = b"{}"
    """Of a model that is converted on the way (`ConvertWish`)."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """What safetensors would be converted to."""

    form: FileType
    facts: ModelFacts


class Offering:
    """Looks at repos as a deployment would, and remembers headers."""

    def __init__(self, files: ModelFiles, settings: ServeSettings, keeper: Keeper) -> None:
        self._files = files
        self._settings = settings
        self._keeper = keeper
        self._lock = threading.Lock()
        self._seen: OrderedDict[tuple[str, str, str], ModelFacts | FustError] = OrderedDict()

    def open_tree(
        self, identity: Identity, repo_id: str, revision: str | None
    ) -> tuple[str, Sequence[TreeFile]]:
        """Returns the commit of a revision (`main` when None) and its files.

        Raises:
            InvalidInput: that cannot be a repo's name.
            NotFound: no such repo or revision, or the caller may not read it.
            Gated: the caller was not let in to its files.
        """
        split_repo_id(repo_id)
        if not may(identity, "repo.read", repo_id, private=self._files.is_private(repo_id)):
            raise no_repo(repo_id)
        self._files.check_open(identity, repo_id)
        commit = self._files.resolve_revision(repo_id, revision or "main")
        return commit, self._files.list_files(repo_id, commit)

    def need(self, kind: Kind, repo_id: str, commit: str, model: ModelFile) -> Need:
        """Returns what a model takes by its header, or by its size where the header cannot be read."""
        facts = self._facts(kind, repo_id, commit, model)
        return need_of(facts, self._settings) if isinstance(facts, ModelFacts) else guess_need(model)

    def of_repo(self, identity: Identity, repo_id: str, revision: str | None) -> Offers:
        """See `Serve.offers`."""
        commit, tree = self.open_tree(identity, repo_id, revision)
        room = self._keeper.room_bytes()
        items = tuple(self._offers(repo_id, commit, tree, room))
        if not items and is_adapter(tree):
            bases = tuple(bases_named(self._files, repo_id, commit, tree))
            return Offers(commit, room, (), None, (), bases)
        return self._choose(repo_id, commit, tree, room, items)

    def choose(
        self, repo_id: str, commit: str, tree: Sequence[TreeFile], *, file: str | None, engine: str | None
    ) -> Choice:
        """Returns what serves a repo, and why.

        Args:
            repo_id: whose files they are.
            commit: the revision of the files.
            tree: the files.
            file: the model that was asked for, else the largest that fits.
            engine: the engine that was asked for, else the first that opens what is there, llama.cpp before transformers
                where it can be given the same model.

        Raises:
            FustError: nothing can be served, or nothing fits; says what to do.
        """
        kind, models = choose_kind(tree, engine, self._settings)
        room, refusal = self._keeper.room_bytes(), None
        if engine in (None, _LLAMA) and (kind.name == _OTHER or not models):
            converted = self._converted(repo_id, commit, tree, file, room)
            if isinstance(converted, Choice) and (is_faster() or engine):
                return converted
            refusal = converted if isinstance(converted, FustError) else None
            if refusal is not None and engine:
                raise refusal
        if not models:
            raise nothing_to_serve(repo_id, tree)
        kind.check(self._settings)
        model, reason = choose_file(
            repo_id, models, file, room, lambda it: self.need(kind, repo_id, commit, it)
        )
        if refusal is not None:
            reason = note(
                "{file} is not converted for llama.cpp: {reason}", file=model.label, reason=refusal.message()
            )
        return Choice(kind, model, reason)

    def _converted(
        self, repo_id: str, commit: str, tree: Sequence[TreeFile], file: str | None, room: int
    ) -> Choice | FustError | None:
        """Returns how a repo's safetensors would be served by llama.cpp, or why not; None when there are none."""
        models = list_safetensors(tree)
        if not models:
            return None
        model, _ = choose_file(repo_id, models, file, sys.maxsize)
        found = self._form(repo_id, commit, model, room)
        if not isinstance(found, Conversion):
            return found
        reason = note(
            "{file} is converted to {form} ({size}): llama.cpp writes faster here than transformers.",
            file=model.label,
            form=found.form,
            size=show_size(found.facts.weights_bytes),
        )
        return Choice(get_kind(_LLAMA), model, reason, msgspec.json.encode(ConvertWish(found.form)))

    def _form(self, repo_id: str, commit: str, model: ModelFile, room: int) -> Conversion | FustError | None:
        """Returns what safetensors would be converted to: the first form that fits, or else the smallest.

        An error says why llama.cpp would not read it the same; None: it cannot be looked at now.
        """
        kept: list[Conversion] = []
        for form in FORMS:
            found = self._look(
                (repo_id, commit, f"{form}:{model.path}"),
                model,
                lambda path, form=form: facts_as(path, model, form),
            )
            if not isinstance(found, ModelFacts):
                return kept[-1] if kept else found
            kept.append(Conversion(form, found))
            if need_of(found, self._settings).whole_bytes <= room:
                return kept[-1]
        return next((it for it in kept if need_of(it.facts, self._settings).least_bytes <= room), kept[-1])

    def _choose(
        self, repo_id: str, commit: str, tree: Sequence[TreeFile], room: int, items: tuple[Offer, ...]
    ) -> Offers:
        try:
            choice = self.choose(repo_id, commit, tree, file=None, engine=None)
        except FustError as refusal:
            return Offers(commit, room, items, None, (), refusal=refusal)
        kind, model, reason = choice.kind, choice.model, choice.reason
        chosen = next((it for it in items if (it.engine, it.model) == (kind.name, model)), None)
        if chosen is None or chosen.refusal or chosen.fits(room) == "no":
            refusal = chosen.refusal if chosen else None
            return Offers(commit, room, items, None, (reason,), refusal=refusal)
        why = [it for it in (reason, kind.why) if it] + list(chosen.plan.why if chosen.plan else ())
        return Offers(commit, room, items, chosen, tuple(why))

    def _offers(self, repo_id: str, commit: str, tree: Sequence[TreeFile], room: int) -> list[Offer]:
        kinds = [kind for kind in KINDS.values() if kind.is_wanted(self._settings)]
        listed = [(kind, model) for kind in kinds for model in kind.list_models(tree)]
        found = [self._offer(kind, repo_id, commit, model, room) for kind, model in listed[:_MOST]]
        has_gguf = any(kind.name == _LLAMA for kind, _ in listed)
        for model in list_safetensors(tree)[:_MOST] if is_faster() and not has_gguf else ():
            form = self._form(repo_id, commit, model, room)
            if isinstance(form, Conversion):
                plan = plan_engine(form.facts, "generate", self._settings, room)
                found.append(Offer(model, _LLAMA, need_of(form.facts, self._settings), plan, None))
        return found

    def _offer(self, kind: Kind, repo_id: str, commit: str, model: ModelFile, room: int) -> Offer:
        facts = self._facts(kind, repo_id, commit, model)
        if not isinstance(facts, ModelFacts):
            return Offer(model, kind.name, guess_need(model), None, facts)
        try:
            plan = kind.plan(facts, "embed" if facts.is_encoder else "generate", self._settings, room, 0)
        except FustError as refusal:
            return Offer(model, kind.name, guess_need(model), None, refusal)
        return Offer(model, kind.name, need_of(facts, self._settings), plan, None)

    def _facts(
        self, kind: Kind, repo_id: str, commit: str, model: ModelFile
    ) -> ModelFacts | FustError | None:
        """Returns what a header says, or why the model cannot be served; None when it cannot be read now."""

        def look(path: Path) -> ModelFacts:
            kind.check(self._settings)
            return kind.look(path, model)

        return self._look((repo_id, commit, f"{kind.name}:{model.path}"), model, look)

    def _look(
        self, key: tuple[str, str, str], model: ModelFile, look: Callable[[Path], ModelFacts]
    ) -> ModelFacts | FustError | None:
        """Returns what a look at a model's headers finds, which is remembered; None when they cannot be read now."""
        repo_id, commit, _ = key
        with self._lock:
            if key in self._seen:
                return self._seen[key]
        try:
            with heads(self._files, repo_id, commit, model) as path:
                found: ModelFacts | FustError = look(path)
        except FustError as error:
            found = error
        except OSError as error:
            log.info("unreadable header", extra={"repo": repo_id, "reason": str(error)})
            return None
        with self._lock:
            self._seen[key] = found
            while len(self._seen) > _KEPT:
                self._seen.popitem(last=False)
        return found


@contextlib.contextmanager
def heads(files: ModelFiles, repo_id: str, commit: str, model: ModelFile) -> Generator[Path]:
    """Yields a path at which a model's files begin as they are in the repo, beside one another, for reading headers only."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fust-heads-")))
        top = PurePosixPath(model.path).parent
        places = {path: str(PurePosixPath(path).relative_to(top)) for path in model.paths}
        if model.projector is not None:
            places[model.projector.path] = PROJECTOR
        for path, place in places.items():
            link = folder / place
            link.parent.mkdir(parents=True, exist_ok=True)
            whole = not path.endswith((".gguf", ".safetensors"))  # a tokenizer is read to its end
            real = (
                files.materialise(repo_id, commit, path)
                if whole
                else stack.enter_context(files.head(repo_id, commit, path))
            )
            link.symlink_to(real.resolve())
        yield folder / PurePosixPath(model.path).name
