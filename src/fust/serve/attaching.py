"""Adds adapters to deployments and takes them off: by hand, by a request that names one, and when their repos go or move."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain

from sqlalchemy import delete, select

from fust.accounts.audit import note_action
from fust.accounts.rights import SYSTEM, Identity, may
from fust.accounts.service import Accounts
from fust.core.clock import utc_naive
from fust.core.errors import Conflict, FustError, Gated, InvalidInput, NotFound, Unsupported
from fust.core.ids import new_id, split_repo_id
from fust.core.settings import Settings
from fust.core.units import show_size
from fust.serve.adapters import (
    Attached,
    bases_named,
    check_named,
    choose_adapter,
    discard_adapters,
    discard_strays,
    holds_lora,
    is_adapter,
    preparing,
)
from fust.serve.files import ModelFiles
from fust.serve.hosted import Hosted, State
from fust.serve.keeper import Keeper
from fust.serve.models import AdapterRow
from fust.serve.swap import failure_of_adapter
from fust.store.database import Database
from fust.wire.targets import AdapterEntry, Mode, ModelEntry

_NAME = re.compile(r"^[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?$")
_MOST_BY_REQUEST = 16
"""Of one deployment; the one that was not used for longest makes room for the next."""


@dataclass(frozen=True, slots=True)
class AdapterView:
    """An adapter as it is now."""

    name: str
    repo_id: str
    file: str
    revision: str
    size_bytes: int
    state: State
    error: FustError | None
    by_request: bool


@dataclass(frozen=True, slots=True)
class Found:
    """What a model's name means: a deployment, with an adapter that is attached, or with a repo that may become one."""

    hosted: Hosted
    adapter: Attached | None = None
    wanted: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether the base is meant, without any adapter."""
        return self.adapter is None and not self.wanted


class Attaching:
    """The adapters of all deployments."""

    def __init__(
        self,
        database: Database,
        files: ModelFiles,
        settings: Settings,
        accounts: Accounts,
        keeper: Keeper,
        all_hosted: Callable[[], Iterable[Hosted]],
    ) -> None:
        self._database = database
        self._files = files
        self._settings = settings
        self._accounts = accounts
        self._keeper = keeper
        self._lock = keeper.lock
        self._all_hosted = all_hosted

    def load(self) -> None:
        """Brings the adapters of all deployments back from the database."""
        with self._database.read() as session:
            rows = list(session.scalars(select(AdapterRow)))
        hosted = {found.id: found for found in self._all_hosted()}
        for row in rows:
            if row.deployment_id in hosted:
                hosted[row.deployment_id].adapters[row.name] = Attached.of(row)
        discard_strays(self._settings, [row.id for row in rows])

    # Finding

    def find(self, word: str, lookup: Callable[[str], Hosted | None]) -> Found | None:
        """Returns what `base:adapter`, or an adapter's repo id, means; never blocks."""
        base, colon, adapter = word.rpartition(":")
        hosted = lookup(base) if colon else None
        if hosted is not None:
            attached = hosted.find_adapter(adapter)
            wanted = adapter if attached is None and adapter.count("/") == 1 else ""
            return Found(hosted, attached, wanted) if attached or wanted else None
        if colon or word.count("/") != 1:
            return None
        return next((Found(h, a) for h, a in self._attached() if a.repo_id == word), None)

    def find_slowly(self, word: str, lookup: Callable[[str], Hosted | None]) -> Found | None:
        """As `find`, but asks the hub: for names that repos had before, and for the base of an adapter's repo."""
        base, colon, adapter = word.rpartition(":")
        now = self._files.find_new_name(adapter) if adapter.count("/") == 1 else None
        word = base + colon + (now or adapter)
        return self.find(word, lookup) or (None if colon else self._find_base(word))

    def _find_base(self, repo_id: str) -> Found | None:
        """Returns the deployment that a repo's adapter is for, when it is one and there is such a deployment."""
        try:
            split_repo_id(repo_id)
            commit = self._files.resolve_revision(repo_id, "main")
            tree = self._files.list_files(repo_id, commit)
            named = bases_named(self._files, repo_id, commit, tree)
            # One that takes none is found too: whoever asks hears that, and not that there is no such model.
            hosted = next(chain(self.deployments_of(named), self.deployments_of(named, taking=False)), None)
            # A model made of that base names it as well, so a GGUF file is asked what it is.
            if hosted is None or not (is_adapter(tree) or holds_lora(self._files, repo_id, commit, tree)):
                return None
        except (NotFound, InvalidInput):
            return None
        return Found(hosted, None, repo_id)

    def deployments_of(self, named: Iterable[str], *, taking: bool = True) -> Iterator[Hosted]:
        """Yields the deployments that are, or were made of, one of these repos, and take adapters or do not."""
        wanted = {name.lower() for name in named}
        for hosted in tuple(self._all_hosted()):
            if hosted.kind.takes_adapters is taking and wanted & self._names_of(hosted):
                yield hosted

    def _names_of(self, hosted: Hosted) -> set[str]:
        try:
            made_of = self._files.named_bases(hosted.repo_id, hosted.revision)
        except NotFound:
            made_of = ()
        return {name.lower() for name in (hosted.repo_id, *made_of)}

    def _attached(self) -> Iterator[tuple[Hosted, Attached]]:
        for hosted in tuple(self._all_hosted()):
            for adapter in tuple(hosted.adapters.values()):
                yield hosted, adapter

    def entry(self, found: Found, word: str) -> ModelEntry | None:
        """Returns the entry of a base with an adapter, or None when the adapter's repo is gone. May block."""
        if found.adapter is not None:
            return found.hosted.attached_entry(found.adapter) if self.refresh(found.adapter) else None
        try:
            private, gated = self._files.is_private(found.wanted), self._files.is_gated(found.wanted)
        except (NotFound, InvalidInput):
            return None
        names = (f"{found.hosted.name}:{found.wanted}", found.wanted)
        return found.hosted.entry_of(word, AdapterEntry(found.wanted, private, gated), aliases=names)

    def entries(self, hosted: Hosted) -> list[ModelEntry]:
        """Returns the entries of a deployment's adapters. May block."""
        adapters = tuple(hosted.adapters.values())
        return [hosted.attached_entry(adapter) for adapter in adapters if self.refresh(adapter)]

    def refresh(self, adapter: Attached) -> bool:
        """Looks up whether an adapter's repo is private or gated; returns False when the repo is gone."""
        if adapter.has_fresh_visibility():
            return True
        try:
            private, gated = self._files.is_private(adapter.repo_id), self._files.is_gated(adapter.repo_id)
        except NotFound:
            return False
        with self._lock:
            adapter.private, adapter.gated, adapter.visibility_s = private, gated, time.monotonic()
        return True

    def views(self, identity: Identity, hosted: Hosted) -> tuple[AdapterView, ...]:
        """Returns the adapters of a deployment that the caller may read."""
        with self._lock:
            adapters = sorted(hosted.adapters.values(), key=lambda adapter: adapter.name)
        return tuple(
            AdapterView(
                a.name, a.repo_id, a.file, a.revision, a.size_bytes, hosted.state_of(a), a.error, a.by_request
            )
            for a in adapters
            if self._may_read(identity, a)
        )

    def _may_read(self, identity: Identity, adapter: Attached) -> bool:
        if not self.refresh(adapter):
            return identity.is_admin
        if not may(identity, "repo.read", adapter.repo_id, private=adapter.private):
            return False
        try:
            if adapter.gated:
                self._files.check_open(identity, adapter.repo_id)
        except (Gated, NotFound):  # not let in; or its repo has gone or moved within the last second
            return False
        return True

    # Adding

    def add(
        self,
        identity: Identity,
        hosted: Hosted,
        repo_id: str,
        *,
        file: str | None = None,
        revision: str | None = None,
        name: str | None = None,
    ) -> None:
        """Puts an adapter beside a deployment; the same repo again brings it to the commit of now.

        Raises:
            NotFound: no such repo, revision or file, or the caller may not read it.
            Gated: the caller was not let in to its files.
            InvalidInput, NotOffered: it is for another base, cannot be applied, or does not fit; says why.
            Conflict: the name is another adapter's.
        """
        split_repo_id(repo_id)
        repo_id = self._files.find_new_name(repo_id) or repo_id
        try:
            private = self._files.is_private(repo_id)
        except NotFound:
            raise _no_adapter(repo_id) from None
        if not may(identity, "repo.read", repo_id, private=private):
            raise _no_adapter(repo_id)
        self._accounts.check_made_for(identity, repo_id)
        self._files.check_open(identity, repo_id)
        if name is not None and (not _NAME.match(name) or name.lower().endswith(".gguf")):
            raise InvalidInput(
                "{name!r} cannot be an adapter's name.",
                hint="Use 1 to 96 letters, digits, '.', '_' or '-'.",
                name=name[:150],
            )
        self._attach(identity, hosted, repo_id, file, revision, name, by_request=False)

    def ready(self, found: Found, model: str, mode: Mode) -> Attached | None:
        """Returns the adapter that a request names, its file ready: attached now when it was not; None for none.

        Whoever calls has asked for the rights of the request's sender.

        Raises:
            InvalidInput, NotOffered: it is for another base, cannot be applied, or does not fit; says why.
            Unsupported: an adapter has no part in what is asked for.
            Unavailable: it cannot be used any more.
        """
        if found.is_plain:
            return None
        if mode == "embed":
            raise Unsupported(
                "{model} names an adapter, and embeddings are made without adapters.",
                hint="Use the base model's name with /v1/embeddings.",
                model=model[:200],
                param="model",
                code="model_not_supported",
            )
        adapter = found.adapter
        if adapter is None:
            adapter = self._attach(SYSTEM, found.hosted, found.wanted, None, None, None, by_request=True)
        if adapter.path is None:
            self._keeper.swaps.bring(found.hosted)
        if adapter.error is not None:
            raise failure_of_adapter(adapter)
        return adapter

    def _attach(
        self,
        identity: Identity,
        hosted: Hosted,
        repo_id: str,
        file: str | None,
        revision: str | None,
        name: str | None,
        *,
        by_request: bool,
    ) -> Attached:
        with hosted.attaching:
            known = next((a for a in hosted.adapters.values() if a.repo_id == repo_id), None)
            if known is not None and by_request:
                return known
            name = name or (known.name if known else self._free_name(hosted, repo_id, by_request=by_request))
            self._check_name(hosted, name, known)
            adapter = self._make(identity, hosted, repo_id, file, revision, name, by_request=by_request)
            if known is not None and _same(known, adapter) and known.error is None:
                return known
            self._keep(identity, hosted, adapter, known)
            if by_request:
                self._make_room(hosted, adapter)
        self._keeper.swaps.settle(hosted)
        return adapter

    def _make(
        self,
        identity: Identity,
        hosted: Hosted,
        repo_id: str,
        file: str | None,
        revision: str | None,
        name: str,
        *,
        by_request: bool,
    ) -> Attached:
        """Returns an adapter whose file is ready and fits, or raises."""
        commit = self._files.resolve_revision(repo_id, revision or "main")
        tree = self._files.list_files(repo_id, commit)
        live = hosted.kind.live_adapters
        chosen = choose_adapter(repo_id, tree, file, only_peft=live)
        none_here = live and not self._settings.serve.gpu_adapters
        if none_here or not hosted.kind.takes_adapters or self._keeper.facts_of(hosted).is_encoder:
            raise takes_no_adapters(hosted, by_setting=none_here)
        named = bases_named(self._files, repo_id, commit, tree)
        check_named(self._files, repo_id, named, hosted.repo_id, hosted.revision)
        adapter = Attached(
            new_id("a"), name, repo_id, chosen.path, commit, chosen.size_bytes, by_request,
            "" if by_request else identity.user or "", utc_naive(),
        )  # fmt: skip
        assert hosted.path is not None
        try:
            adapter.path = preparing(self._settings, self._files, hosted.path, hosted.repo_id, live=live)(
                adapter
            )
            self._check_room(hosted, adapter)
        except BaseException:
            discard_adapters(self._settings, [adapter.id])
            raise
        return adapter

    def _check_room(self, hosted: Hosted, adapter: Attached) -> None:
        facts, room = self._keeper.facts_of(hosted), self._keeper.room_bytes(besides=hosted)
        running = hosted.engines.get("generate")
        context, slots = (running.spec.context, running.spec.slots) if running and running.info else (0, 1)
        base = facts.memory_bytes("generate", context, slots)
        others = sum(each.taken_bytes for each in hosted.adapters.values() if each.repo_id != adapter.repo_id)
        need = base + others + adapter.taken_bytes
        if need > room:
            raise InvalidInput(
                "{model} with the adapter {adapter} needs about {need}, and {room} can be used for it.",
                hint="One of {left} would fit. Take another adapter off it, unpin another model, or raise the setting serve.memory_bytes.",
                left=show_size(max(0, room - base - others)),
                model=hosted.name,
                adapter=adapter.repo_id,
                need=show_size(need),
                room=show_size(room),
                code="does_not_fit",
            )

    def _free_name(self, hosted: Hosted, repo_id: str, *, by_request: bool) -> str:
        short = repo_id.partition("/")[2]
        taken = short in hosted.adapters or short.lower().endswith(".gguf")
        return repo_id if taken and by_request else short

    def _check_name(self, hosted: Hosted, name: str, known: Attached | None) -> None:
        other = hosted.adapters.get(name)
        if other is not None and other is not known:
            raise Conflict(
                "The name {name!r} is taken by another adapter of {model}.",
                hint="Give this one another name.",
                name=name,
                model=hosted.name,
            )

    def _keep(self, identity: Identity, hosted: Hosted, adapter: Attached, known: Attached | None) -> None:
        with self._database.write() as session:
            if known is not None:
                session.execute(delete(AdapterRow).where(AdapterRow.id == known.id))
                session.flush()
            session.add(
                AdapterRow(
                    id=adapter.id,
                    deployment_id=hosted.id,
                    name=adapter.name,
                    repo_id=adapter.repo_id,
                    file=adapter.file,
                    revision=adapter.revision,
                    size_bytes=adapter.size_bytes,
                    by_request=adapter.by_request,
                    created_by=adapter.created_by,
                    created_at=adapter.created_at,
                )
            )
            note_action(
                session, identity, "deployment.adapter", f"deployment:{hosted.name}",
                adapter=adapter.repo_id, revision=adapter.revision,
            )  # fmt: skip
        with self._lock:
            if known is not None:
                hosted.adapters.pop(known.name, None)
            hosted.adapters[adapter.name] = adapter
        if known is not None:
            self._keeper.swaps.discard(hosted, known)

    def _make_room(self, hosted: Hosted, fresh: Attached) -> None:
        """Takes off what requests attached and nobody used for longest, beyond a bound."""
        with self._lock:
            lazy = [a for a in hosted.adapters.values() if a.by_request and a is not fresh]
        for adapter in sorted(lazy, key=lambda a: a.used_s)[: max(0, len(lazy) + 1 - _MOST_BY_REQUEST)]:
            self._drop(SYSTEM, hosted, adapter)

    # Taking off

    def remove(self, identity: Identity, hosted: Hosted, name: str) -> None:
        """Takes an adapter off; what is being answered with it goes on.

        Raises:
            NotFound: the deployment has no such adapter that the caller may see.
            Denied: neither the adapter nor the deployment is the caller's.
        """
        adapter = hosted.find_adapter(name)
        if adapter is None or not self._may_read(identity, adapter):
            raise NotFound(
                "{model} has no adapter {name!r}.",
                hint="`fust ps` lists them.",
                model=hosted.name,
                name=name[:200],
                code="adapter_not_found",
            )
        mine = identity.user in (adapter.created_by, hosted.created_by) and identity.grants is None
        if not mine and not may(identity, "repo.push", hosted.repo_id):
            self._accounts.check(identity, "repo.push", adapter.repo_id)
        self._drop(identity, hosted, adapter)
        self._keeper.swaps.settle(hosted)

    def _drop(self, identity: Identity, hosted: Hosted, adapter: Attached) -> None:
        with self._database.write() as session:
            session.execute(delete(AdapterRow).where(AdapterRow.id == adapter.id))
            note_action(
                session,
                identity,
                "deployment.adapter_off",
                f"deployment:{hosted.name}",
                adapter=adapter.repo_id,
            )
        with self._lock:
            if hosted.adapters.get(adapter.name) is adapter:
                del hosted.adapters[adapter.name]
        self._keeper.swaps.discard(hosted, adapter)

    def discard_all(self, hosted: Hosted) -> None:
        """Removes the files of a deployment that is gone."""
        discard_adapters(self._settings, [adapter.id for adapter in hosted.adapters.values()])

    def on_repo_deleted(self, repo_id: str) -> None:
        """Takes off the adapters of a repo that is gone."""
        for hosted, adapter in list(self._attached()):
            if adapter.repo_id == repo_id:
                self._drop(SYSTEM, hosted, adapter)
                self._keeper.swaps.settle(hosted)

    def on_repo_moved(self, old: str, new: str) -> None:
        """Lets adapters follow their repo to its new name; their own names stay."""
        with self._database.write() as session:
            for row in session.scalars(select(AdapterRow).where(AdapterRow.repo_id == old)).all():
                row.repo_id = new
        with self._lock:
            for _, adapter in self._attached():
                if adapter.repo_id == old:
                    adapter.repo_id, adapter.visibility_s = new, -1e9


def without_doubles(entries: Iterable[ModelEntry]) -> list[ModelEntry]:
    """Returns entries of which each name is one's only: an adapter's repo may stand beside several bases."""
    seen: set[str] = set()
    kept: list[ModelEntry] = []
    for entry in entries:
        aliases = tuple(name for name in entry.aliases if name not in seen)
        seen |= {entry.name, *aliases}
        kept.append(replace(entry, aliases=aliases))
    return kept


def _same(one: Attached, other: Attached) -> bool:
    return (one.name, one.file, one.revision) == (other.name, other.file, other.revision)


def _no_adapter(repo_id: str) -> NotFound:
    return NotFound(
        "There is no model {repo_id!r} in the hub.",
        hint="`fust ls` lists those that are; `fust pull {repo_id}` brings one.",
        repo_id=repo_id[:200],
        code="repo_not_found",
    )


def takes_no_adapters(hosted: Hosted, *, by_setting: bool = False) -> InvalidInput:
    """Returns the error for a deployment that adapters cannot go with, by its engine, its settings or what the model is."""
    if by_setting:
        hint = "Let vLLM take some: raise the setting serve.gpu_adapters, then serve it again."
    elif hosted.kind.takes_adapters or hosted.kind.bare:
        hint = "Adapters go with models that write text, on llamacpp or vllm."
    else:
        hint = "Its engine is {engine}; with `fust serve {model} --engine llamacpp` it takes some."
    return InvalidInput(
        "{model} takes no adapters.",
        hint=hint,
        model=hosted.name,
        engine=hosted.kind.name,
        code="no_adapters",
    )
