"""What serving a repo would mean on this machine, before anything is started: each model file, its engine, what it would take."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from fust.accounts.rights import Identity, may
from fust.core.errors import FustError
from fust.core.ids import split_repo_id
from fust.core.settings import ServeSettings
from fust.serve.adapters import bases_named, is_adapter
from fust.serve.engines.kinds import KINDS, Kind, choose_kind
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
from fust.serve.notes import Note
from fust.serve.plan import Plan, need_of, plan_engine

log = logging.getLogger(__name__)

_MOST = 64
"""Models of one repo that are looked at."""
_KEPT = 256
"""Headers that are remembered."""

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

    def _choose(
        self, repo_id: str, commit: str, tree: Sequence[TreeFile], room: int, items: tuple[Offer, ...]
    ) -> Offers:
        kind, models = choose_kind(tree, None)
        if not models:
            return Offers(commit, room, items, None, (), refusal=nothing_to_serve(repo_id, tree))
        try:
            kind.check()
            model, reason = choose_file(
                repo_id, models, None, room, lambda it: self.need(kind, repo_id, commit, it)
            )
        except FustError as refusal:
            return Offers(commit, room, items, None, (), refusal=refusal)
        chosen = next((it for it in items if (it.engine, it.model) == (kind.name, model)), None)
        if chosen is None or chosen.refusal or chosen.fits(room) == "no":
            refusal = chosen.refusal if chosen else None
            return Offers(commit, room, items, None, (reason,), refusal=refusal)
        why = [it for it in (reason, kind.why) if it] + list(chosen.plan.why if chosen.plan else ())
        return Offers(commit, room, items, chosen, tuple(why))

    def _offers(self, repo_id: str, commit: str, tree: Sequence[TreeFile], room: int) -> list[Offer]:
        listed = [(kind, model) for kind in KINDS.values() for model in kind.list_models(tree)]
        return [self._offer(kind, repo_id, commit, model, room) for kind, model in listed[:_MOST]]

    def _offer(self, kind: Kind, repo_id: str, commit: str, model: ModelFile, room: int) -> Offer:
        facts = self._facts(kind, repo_id, commit, model)
        if not isinstance(facts, ModelFacts):
            return Offer(model, kind.name, guess_need(model), None, facts)
        plan = plan_engine(facts, "embed" if facts.is_encoder else "generate", self._settings, room)
        return Offer(model, kind.name, need_of(facts, self._settings), plan, None)

    def _facts(
        self, kind: Kind, repo_id: str, commit: str, model: ModelFile
    ) -> ModelFacts | FustError | None:
        """Returns what a header says, or why the model cannot be served; None when it cannot be read now."""
        key = (repo_id, commit, f"{kind.name}:{model.path}")
        with self._lock:
            if key in self._seen:
                return self._seen[key]
        try:
            kind.check()
            with heads(self._files, repo_id, commit, model) as path:
                found: ModelFacts | FustError = kind.look(path, model)
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
            link.symlink_to(stack.enter_context(files.head(repo_id, commit, path)).resolve())
        yield folder / PurePosixPath(model.path).name
