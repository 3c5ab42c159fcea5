"""Serves models of the hub: deployments are rows, their engines child processes that come and go.

`Serve` implements `fust.wire.targets.Targets`, by which the gateway reaches engines without knowing this package.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import select, update

from fust.accounts.audit import note_action
from fust.accounts.rights import SYSTEM, Identity, may, may_see_model
from fust.accounts.service import Accounts
from fust.core.clock import utc_naive
from fust.core.errors import Conflict, FustError, InvalidInput, NotFound, NotOffered, Unsupported
from fust.core.ids import new_id, split_repo_id
from fust.core.settings import Settings
from fust.serve.adapters import Attached, bases_named, is_adapter
from fust.serve.attaching import AdapterView, Attaching, Found, without_doubles
from fust.serve.engines.base import MODES, Mode
from fust.serve.engines.child import end_orphans, log_name, read_tail
from fust.serve.engines.kinds import Kind, choose_kind, get_kind
from fust.serve.facts import ModelFacts
from fust.serve.files import (
    ModelFile,
    ModelFiles,
    Need,
    choose_file,
    discard,
    guess_need,
    nothing_to_serve,
)
from fust.serve.hosted import Hosted, Running, State
from fust.serve.keeper import Keeper, failure_of
from fust.serve.models import DeploymentRow
from fust.serve.notes import Note, note
from fust.serve.plan import need_of
from fust.serve.unfiled import ALIAS, Unfiled
from fust.store.database import Database
from fust.wire.targets import ModelEntry, Target

log = logging.getLogger(__name__)

_SWEEP_S = 2.0
_THOROUGH_EVERY = 3


@dataclass(frozen=True, slots=True)
class Deployment:
    """A deployment as it is now."""

    id: str
    name: str
    alias: str | None
    repo_id: str
    file: str
    revision: str
    state: State
    pinned: bool
    private: bool
    engine: str
    mode: Mode | None
    """Of the engine that is loaded; None when none is."""
    context: int
    slots: int
    threads: int
    size_bytes: int
    memory_bytes: int
    started_at: datetime | None
    created_at: datetime
    created_by: str
    last_used_at: datetime | None
    error: FustError | None
    note: Note | None
    pooling: str
    facts: ModelFacts | None
    why: tuple[Note, ...]
    tokens_per_s: float
    busy: int
    """Requests that are on its engines now; more than `slots` wait inside the engine."""
    options: bytes
    """What an engine without a file was told, as JSON."""
    adapters: tuple[AdapterView, ...]
    """Those that the caller may read."""


class Serve:
    """All deployments of one home."""

    def __init__(self, database: Database, files: ModelFiles, settings: Settings, accounts: Accounts) -> None:
        self._database = database
        self._files = files
        self._accounts = accounts
        self.settings = settings
        self._hosted: dict[str, Hosted] = {}
        self._by_name: dict[str, Hosted] = {}
        self._unfiled = Unfiled(accounts)
        self._keeper = Keeper(settings, files, lambda: tuple(self._hosted.values()), self._unfiled.unseal)
        self._lock = self._keeper.lock
        self._attaching = Attaching(
            database, files, settings, accounts, self._keeper, lambda: tuple(self._hosted.values())
        )
        self._suspects: list[tuple[Hosted, Running]] = []
        self._by_engine: dict[str, tuple[Hosted, Running]] = {}
        self._wake = threading.Event()
        self._stopping = False
        self._sweeper: threading.Thread | None = None

    # Life

    def start(self) -> None:
        """Ends engines of a former server, brings deployments back (pinned ones are loaded) and begins to look after them."""
        end_orphans(self.settings.home)
        with self._database.read() as session:
            rows = list(session.scalars(select(DeploymentRow).order_by(DeploymentRow.created_at)))
        links = self.settings.home / "engines" / "files"
        for folder in links.iterdir() if links.is_dir() else ():
            discard(folder)  # made anew at the first load; those of deployments that are gone must not stay
        for row in rows:
            self._put(Hosted.of(row))
        self._attaching.load(self._hosted)
        for hosted in self._hosted.values():
            if hosted.pinned:
                self._keeper.load_soon(hosted)
        self._sweeper = threading.Thread(target=self._look_after, name="fust-serve", daemon=True)
        self._sweeper.start()

    def stop(self) -> None:
        """Ends all engines and keeps when each was used last."""
        self._stopping = True
        self._wake.set()
        if self._sweeper is not None:
            self._sweeper.join(timeout=15)
        self._keeper.stop()
        self._keep_use()

    def _look_after(self) -> None:
        turns = 0
        while not self._wake.wait(_SWEEP_S):
            turns += 1
            with self._lock:
                suspects, self._suspects = self._suspects, []
            try:
                self._keeper.sweep(suspects, thorough=turns % _THOROUGH_EVERY == 0)
                self._keep_use()
            except Exception:
                log.exception("looking after engines failed; trying again")

    def _keep_use(self) -> None:
        with self._lock:
            dirty = [hosted for hosted in self._hosted.values() if hosted.dirty]
            values = [(hosted.id, hosted.last_used_at) for hosted in dirty]
            for hosted in dirty:
                hosted.dirty = False
        if values:
            with self._database.write() as session:
                for id_, used_at in values:
                    query = update(DeploymentRow).where(DeploymentRow.id == id_).values(last_used_at=used_at)
                    session.execute(query)

    def _put(self, hosted: Hosted) -> None:
        with self._lock:
            self._hosted[hosted.id] = hosted
            self._by_name[hosted.name] = hosted
            if hosted.alias:
                self._by_name[hosted.alias] = hosted

    # Deployments

    def deploy(
        self,
        identity: Identity,
        repo_id: str,
        *,
        file: str | None = None,
        revision: str | None = None,
        alias: str | None = None,
        engine: str | None = None,
        pin: bool = False,
    ) -> Deployment:
        """Serves a model from now on and begins to load it; the same name again brings it up to date.

        An adapter's repo is put beside its base, which is served when it is not; its alias is its name there.

        Raises:
            Unauthenticated, Denied: the key may not write.
            NotFound: no such repo, revision or file, or the caller may not read it.
            Gated: the caller was not let in to its files.
            NotOffered, InvalidInput: nothing in it can be served, or nothing fits, or no such engine; says what to do.
            Conflict: the alias is another deployment's.
        """
        self._accounts.require(identity, "write")
        split_repo_id(repo_id)
        private = self._files.is_private(repo_id)
        if not may(identity, "repo.read", repo_id, private=private):
            raise no_repo(repo_id)
        self._accounts.check_made_for(identity, repo_id)
        self._files.check_open(identity, repo_id)
        commit = self._files.resolve_revision(repo_id, revision or "main")
        tree = self._files.list_files(repo_id, commit)
        kind, models = choose_kind(tree, engine)
        if not models and is_adapter(tree):
            named = bases_named(self._files, repo_id, commit, tree)
            base = self._base_for(identity, repo_id, named, engine=engine, pin=pin)
            return self.add_adapter(identity, base, repo_id, file=file, revision=commit, name=alias)
        if not models:
            raise nothing_to_serve(repo_id, tree)
        kind.check()
        need = self._need_of(kind, repo_id, commit, models)
        model, reason = choose_file(repo_id, models, file, self._keeper.room_bytes(), need)
        name = f"{repo_id}:{model.label}" if file else repo_id
        with self._database.write() as session:
            row = session.scalars(select(DeploymentRow).where(DeploymentRow.name == name)).first()
            self._check_alias(alias, name)
            changed = row is None or (row.revision, row.file, row.engine) != (commit, model.path, kind.name)
            if row is None:
                row = _new_row(name, repo_id, identity)
                session.add(row)
            elif get_kind(row.engine).bare is not None:
                raise _name_taken(name)
            row.alias, row.engine = alias or row.alias, kind.name
            row.file, row.revision, row.size_bytes = model.path, commit, model.size_bytes
            row.pinned = pin or bool(row.pinned)
            row.reason = msgspec.json.encode(reason).decode()
            note_action(
                session, identity, "deployment.start", f"deployment:{name}", revision=commit, file=model.path
            )
            session.flush()
            fresh = Hosted.of(row)
        hosted = self._adopt(fresh, changed=changed)
        self._refresh_visibility(hosted)
        self._keeper.load_soon(hosted)
        return self._view(identity, hosted)

    def _need_of(
        self, kind: Kind, repo_id: str, revision: str, models: Sequence[ModelFile]
    ) -> Callable[[ModelFile], Need] | None:
        """Returns what estimates each of several quantisations by its header; None when there is no choice."""
        if len(models) < 2:
            return None

        def need(model: ModelFile) -> Need:
            try:
                with self._files.head(repo_id, revision, model.path) as path:
                    return need_of(kind.read_facts(path, model.size_bytes), self.settings.serve)
            except (FustError, OSError) as error:
                log.info("unreadable header", extra={"repo": repo_id, "reason": str(error)})
                return guess_need(model)

        return need

    def _base_for(
        self, identity: Identity, adapter: str, named: Sequence[str], *, engine: str | None, pin: bool
    ) -> str:
        """Returns the deployment (id) of what an adapter calls its base; serves it when it is not served.

        Raises:
            InvalidInput: it names none, or none that is here.
            NotOffered: the base cannot be served.
        """
        served = (h for h in self._attaching.deployments_of(named) if self._may_read(identity, h))
        hosted = next(served, None)
        if hosted is not None:
            return hosted.id
        for repo_id in named:
            with contextlib.suppress(NotFound):
                return self.deploy(identity, repo_id, engine=engine, pin=pin).id
        raise InvalidInput(
            "{repo_id} is an adapter, and its base is not here: {base}.",
            hint="Pull the base, or name the one that is here: `fust serve BASE --adapter {repo_id}`.",
            repo_id=adapter,
            base=", ".join(named)[:200] or "?",
            code="no_base",
        )

    def deploy_bare(
        self,
        identity: Identity,
        name: str,
        engine: str,
        options: object,
        *,
        alias: str | None = None,
        pin: bool = False,
    ) -> Deployment:
        """Serves an engine that needs no file of the hub; the same name again gives it other options.

        A name without an owner is for everybody here, and only administrators give one; `owner/name` is for those who
        may read the owner's private repos, and made by those who may write them.

        Raises:
            Unauthenticated, Denied: the caller may not.
            InvalidInput: no such engine, or a name or options that cannot be.
            Conflict: the name or the alias is another deployment's.
        """
        self._accounts.require(identity, "write")
        repo_id = self._unfiled.check_name(identity, name)
        wish = self._unfiled.read_wish(identity, engine, options)
        with self._lock:
            other = self._by_name.get(name)
        if other is not None and other.name != name:
            raise _name_taken(name)
        with self._database.write() as session:
            row = session.scalars(select(DeploymentRow).where(DeploymentRow.name == name)).first()
            self._check_alias(alias, name)
            if row is None:
                row = _new_row(name, repo_id, identity)
                session.add(row)
            elif row.engine != engine:
                raise _name_taken(name)
            row.file = row.revision = ""
            row.alias, row.engine = alias or row.alias, engine
            row.pinned = pin or bool(row.pinned)
            row.options = wish.options.decode()
            row.sealed = self._unfiled.seal(wish.secret)
            note_action(session, identity, "deployment.start", f"deployment:{name}", engine=engine)
            session.flush()
            fresh = Hosted.of(row)
        hosted = self._adopt(fresh, changed=True)
        self._refresh_visibility(hosted)
        self._keeper.load_soon(hosted)
        return self._view(identity, hosted)

    def _check_alias(self, alias: str | None, name: str) -> None:
        if alias is None:
            return
        if not ALIAS.match(alias):
            raise InvalidInput(
                "{alias!r} cannot be an alias.",
                hint="Use 1 to 128 letters, digits, '.', '_' or '-'.",
                alias=alias[:150],
            )
        with self._lock:
            other = self._by_name.get(alias)
        if other is not None and other.name != name:
            raise Conflict(
                "The alias {alias!r} is taken by another model.",
                hint="Choose another, or stop that one first: `fust stop {alias}`.",
                alias=alias,
            )

    def _adopt(self, fresh: Hosted, *, changed: bool) -> Hosted:
        """Puts a row's new values in place of what runs under its id, ending engines that hold an older file."""
        with self._lock:
            known = self._hosted.get(fresh.id)
            if known is not None and not changed:
                known.forgive()
                self._set(known, fresh.pinned, fresh.alias)
                return known
            if known is not None:
                known.deleted = True
                fresh.adapters = dict(known.adapters)
                for adapter in fresh.adapters.values():
                    adapter.path = adapter.error = None  # looked at again: it has to fit the new file
                self._by_name = {key: value for key, value in self._by_name.items() if value is not known}
            self._put(fresh)
        if known is not None:
            self._keeper.unload(known)
        return fresh

    def remove(self, identity: Identity, deployment: str) -> None:
        """Ends a deployment for good.

        Raises:
            NotFound: no such deployment that the caller may see.
            Denied: it is neither the caller's nor of a repo of theirs.
        """
        self._end(identity, self._own(identity, deployment))

    def change(
        self, identity: Identity, deployment: str, *, pinned: bool | None = None, alias: str | None = None
    ) -> Deployment:
        """Pins a deployment or lets it go; gives it another alias (an empty one takes it away). None changes nothing.

        Raises:
            NotFound, Denied: as `remove`.
            InvalidInput, Conflict: the alias cannot be one, or is taken.
        """
        hosted = self._own(identity, deployment)
        with self._database.write() as session:
            self._check_alias(alias or None, hosted.name)
            row = session.get_one(DeploymentRow, hosted.id)
            if pinned is not None:
                row.pinned = pinned
            if alias is not None:
                row.alias = alias or None
            note_action(
                session,
                identity,
                "deployment.change",
                f"deployment:{hosted.name}",
                pinned=row.pinned,
                alias=row.alias or "",
            )
            now = (row.pinned, row.alias)
        with self._lock:
            self._set(hosted, *now)
        return self._view(identity, hosted)

    def _set(self, hosted: Hosted, pinned: bool, alias: str | None) -> None:
        if hosted.alias and hosted.alias != alias:
            self._by_name.pop(hosted.alias, None)
        hosted.pinned, hosted.alias = pinned, alias
        self._put(hosted)

    def load(self, identity: Identity, deployment: str) -> Deployment:
        """Begins to load a model that is unloaded or failed.

        Raises:
            NotFound, Denied: as `remove`.
        """
        hosted = self._own(identity, deployment)
        hosted.forgive()
        if hosted.state != "ready":
            self._keeper.load_soon(hosted)
        return self._view(identity, hosted)

    def unload(self, identity: Identity, deployment: str) -> Deployment:
        """Ends a deployment's engines, those that work too; the next request loads it again.

        Raises:
            NotFound, Denied: as `remove`.
        """
        hosted = self._own(identity, deployment)
        self._keeper.unload(hosted)
        return self._view(identity, hosted)

    def read_logs(self, identity: Identity, deployment: str) -> dict[Mode, str]:
        """Returns the end of what its engines wrote, for those who may stop it: prompts can stand in it.

        Raises:
            NotFound, Denied: as `remove`.
        """
        hosted = self._own(identity, deployment)
        logs: dict[Mode, str] = {}
        for mode in MODES:
            if text := read_tail(self.settings.home / "log" / f"{log_name(hosted.id, mode)}.log"):
                logs[mode] = text
        return logs

    def _own(self, identity: Identity, deployment: str) -> Hosted:
        """Returns a deployment that the caller may change: theirs, or of a repo that they may write to."""
        self._accounts.require(identity, "write")
        hosted = self._readable(identity, deployment)
        if hosted.created_by != identity.user or identity.grants is not None:
            if hosted.repo_id:
                self._accounts.check(identity, "repo.push", hosted.repo_id)
            else:
                self._accounts.check_admin(identity)
        return hosted

    def _end(self, identity: Identity, hosted: Hosted) -> None:
        with self._database.write() as session:
            row = session.get(DeploymentRow, hosted.id)
            if row is not None:
                session.delete(row)
                note_action(session, identity, "deployment.stop", f"deployment:{hosted.name}")
        with self._lock:
            hosted.deleted = True
            self._hosted.pop(hosted.id, None)
            self._by_name = {key: value for key, value in self._by_name.items() if value is not hosted}
        self._keeper.unload(hosted)
        discard(self.settings.home / "engines" / "files" / hosted.id)
        self._attaching.discard_all(hosted)

    def get_deployment(self, identity: Identity, deployment: str) -> Deployment:
        """Returns a deployment by id, name or alias.

        Raises:
            NotFound: no such deployment that the caller may see.
        """
        return self._view(identity, self._readable(identity, deployment))

    def list_deployments(self, identity: Identity) -> Sequence[Deployment]:
        """Returns the deployments that the caller may see, the newest last."""
        with self._lock:
            known = list(self._hosted.values())
        return [self._view(identity, hosted) for hosted in known if self._may_read(identity, hosted)]

    def _may_read(self, identity: Identity, hosted: Hosted) -> bool:
        if not self._refresh_visibility(hosted):
            return identity.is_admin  # the repo is gone; someone has to be able to stop it
        names = [hosted.name, *([hosted.alias] if hosted.alias else [])]
        return may_see_model(identity, names, hosted.repo_id, private=hosted.private)

    def _readable(self, identity: Identity, deployment: str) -> Hosted:
        with self._lock:
            hosted = self._hosted.get(deployment) or self._by_name.get(deployment)
        if hosted is None or not self._may_read(identity, hosted):
            raise NotFound(
                "There is no deployment {name!r}.",
                hint="`fust ps` lists them; `fust serve OWNER/NAME` makes one.",
                name=deployment[:200],
            )
        return hosted

    def add_adapter(
        self,
        identity: Identity,
        deployment: str,
        repo_id: str,
        *,
        file: str | None = None,
        revision: str | None = None,
        name: str | None = None,
    ) -> Deployment:
        """Puts an adapter beside a deployment (id, name or alias), where it answers as `deployment:name`.

        Returns when the adapter was checked; a running engine takes it in meanwhile. The same repo again brings it to
        the commit of now.

        Raises:
            Unauthenticated, Denied: the key may not write.
            NotFound: no such deployment, repo, revision or file, or the caller may not read it.
            Gated: the caller was not let in to its files.
            InvalidInput, NotOffered: it is for another base, cannot be applied, or does not fit; says why.
            Conflict: the name is another adapter's.
        """
        self._accounts.require(identity, "write")
        hosted = self._readable(identity, deployment)
        self._attaching.add(identity, hosted, repo_id, file=file, revision=revision, name=name)
        return self._view(identity, hosted)

    def remove_adapter(self, identity: Identity, deployment: str, name: str) -> Deployment:
        """Takes an adapter (name or repo id) off a deployment; what is being answered with it goes on.

        Raises:
            NotFound: no such deployment or adapter that the caller may see.
            Denied: neither the adapter nor the deployment is the caller's.
        """
        self._accounts.require(identity, "write")
        hosted = self._readable(identity, deployment)
        self._attaching.remove(identity, hosted, name)
        return self._view(identity, hosted)

    def on_repo_deleted(self, body: dict[str, Any]) -> None:
        """Ends the deployments of a repo that is gone (event `repo_deleted`)."""
        if body.get("type", "model") != "model":
            return
        with self._lock:
            gone = [
                h for h in self._hosted.values() if h.repo_id == body.get("repo_id") and h.kind.bare is None
            ]
        for hosted in gone:
            self._end(SYSTEM, hosted)
        self._attaching.on_repo_deleted(str(body.get("repo_id")))

    def on_repo_moved(self, body: dict[str, Any]) -> None:
        """Lets deployments follow a repo that has a new name (event `repo_moved`); the old name goes on answering."""
        if body.get("type", "model") != "model":
            return
        old, new = str(body["from_id"]), str(body["repo_id"])
        with self._database.write() as session:
            for row in session.scalars(select(DeploymentRow).where(DeploymentRow.repo_id == old)).all():
                if get_kind(row.engine).bare is not None:
                    continue
                row.repo_id, row.name = new, new + row.name.removeprefix(old)
        with self._lock:
            for hosted in self._hosted.values():
                if hosted.repo_id == old and hosted.kind.bare is None:
                    self._by_name.pop(hosted.name, None)
                    hosted.repo_id, hosted.name = new, new + hosted.name.removeprefix(old)
                    hosted.visibility_s = -1e9
                    self._by_name[hosted.name] = hosted
        self._attaching.on_repo_moved(old, new)

    def _view(self, identity: Identity, hosted: Hosted) -> Deployment:
        adapters = self._attaching.views(identity, hosted)
        with self._lock:
            loaded = next((r for r in hosted.engines.values() if r.spec.engine_id), None)
            spec = loaded.spec if loaded else None
            started = loaded.started_at if loaded else None
            pooling = next((r.spec.pooling for r in hosted.engines.values() if r.spec.pooling), "")
            if not pooling and hosted.facts is not None:
                pooling = hosted.facts.embed_pooling()
            engine = (hosted.kind.why,) if hosted.kind.why else ()
            why = (hosted.reason, *engine, *hosted.chosen.get("generate", ()))
            if "generate" in hosted.chosen and "embed" in hosted.chosen:
                why += (note("A second engine of the same file answers embeddings:"),)
            why += hosted.chosen.get("embed", ())
            if "score" in hosted.chosen:
                why += (
                    note("Another engine gives log-likelihoods:"),
                    *hosted.chosen["score"],
                )
            return Deployment(
                id=hosted.id,
                name=hosted.name,
                alias=hosted.alias,
                repo_id=hosted.repo_id,
                file=hosted.file,
                revision=hosted.revision,
                state=hosted.state,
                pinned=hosted.pinned,
                private=hosted.private,
                engine=hosted.kind.name,
                mode=spec.mode if spec else None,
                context=loaded.info.context if loaded and loaded.info else spec.context if spec else 0,
                slots=spec.slots if spec else 0,
                threads=spec.threads if spec else 0,
                size_bytes=hosted.size_bytes,
                memory_bytes=hosted.memory_bytes,
                started_at=started,
                created_at=hosted.created_at,
                created_by=hosted.created_by,
                last_used_at=hosted.last_used_at,
                error=hosted.error,
                note=hosted.note,
                pooling=pooling,
                facts=hosted.facts,
                why=tuple(item for item in why if item.template),
                tokens_per_s=round(hosted.tokens_per_s, 1),
                busy=sum(running.busy for running in hosted.all_engines),
                adapters=adapters,
                options=hosted.options,
            )

    # Targets

    def _lookup(self, model: str) -> Hosted | None:
        """Finds a deployment by name or alias, else by its repo when that has just one."""
        hosted = self._by_name.get(model)
        if hosted is None and ":" not in model:
            of_repo = [known for known in tuple(self._hosted.values()) if known.repo_id == model]
            hosted = of_repo[0] if len(of_repo) == 1 else None
        return hosted

    def _lookup_moved(self, model: str) -> Hosted | None:
        """Finds a deployment by a name that its repo had before; asks the database, so only when nothing else helps."""
        repo_id, colon, file = model.partition(":")
        now = self._files.find_new_name(repo_id) if repo_id.count("/") == 1 else None
        return self._lookup(now + colon + file) if now else None

    def _find(self, model: str) -> Found | None:
        """Finds what a name means: a deployment, or one with an adapter; never blocks."""
        hosted = self._lookup(model)
        return Found(hosted) if hosted is not None else self._attaching.find(model, self._lookup)

    def _find_anyhow(self, model: str) -> Found | None:
        """As `_find`, but asks the database and the hub when nothing else helps."""
        found = self._find(model)
        if found is not None and not found.wanted:
            return found
        hosted = self._lookup_moved(model)
        if hosted is not None:
            return Found(hosted)
        return self._attaching.find_slowly(model, lambda name: self._lookup(name) or self._lookup_moved(name))

    def peek(self, model: str) -> ModelEntry | None:
        """See `Targets.peek`."""
        found = self._find(model)
        if found is None or found.wanted or not found.hosted.has_fresh_visibility():
            return None
        if found.adapter is None:
            return found.hosted.entry()
        return found.hosted.attached_entry(found.adapter) if found.adapter.has_fresh_visibility() else None

    def find(self, model: str) -> ModelEntry | None:
        """See `Targets.find`."""
        found = self._find_anyhow(model)
        if found is None or not self._refresh_visibility(found.hosted):
            return None
        return found.hosted.entry() if found.is_plain else self._attaching.entry(found, model)

    def list_models(self) -> Sequence[ModelEntry]:
        """See `Targets.list_models`."""
        with self._lock:
            known = list(self._hosted.values())
        listed: list[ModelEntry] = []
        for hosted in known:
            if self._refresh_visibility(hosted):
                listed += [hosted.entry(), *self._attaching.entries(hosted)]
        return without_doubles(listed)

    def acquire_now(self, model: str, mode: Mode = "generate") -> Target | None:
        """See `Targets.acquire_now`."""
        found = self._find(model)
        if found is None or not (found.is_plain or (found.adapter and mode == "generate")):
            return None
        facts = found.hosted.facts
        if mode != "embed" and facts is not None and facts.is_encoder:
            return None  # `acquire` says why
        running = self._keeper.take_ready(found.hosted, mode, found.adapter)
        return self._lend(found.hosted, running, model, found.adapter) if running is not None else None

    def acquire(self, model: str, mode: Mode = "generate") -> Target:
        """See `Targets.acquire`."""
        found = self._find_anyhow(model)
        if found is None:
            raise NotFound(
                "There is no model {model!r} here.",
                hint="GET /v1/models lists those that are served; `fust serve OWNER/NAME` serves another.",
                model=model[:200],
                param="model",
                code="model_not_found",
            )
        hosted = found.hosted
        if hosted.failed:
            raise failure_of(hosted)
        if mode != "embed" and self._keeper.facts_of(hosted).is_encoder:
            raise Unsupported(
                "{model} only makes embeddings; it cannot write text.",
                hint="Use it with /v1/embeddings, or choose another model.",
                model=model,
                param="model",
                code="model_not_supported",
            )
        if mode not in hosted.kind.processes:
            raise NotOffered(
                "{model} is served by {engine}, which does not offer this.",
                hint="Serve it with another engine: `fust serve {model} --engine NAME`.",
                model=model,
                engine=hosted.kind.name,
                code="not_offered_by_engine",
            )
        adapter = self._attaching.ready(found, model, mode)
        return self._lend(hosted, self._keeper.ensure(hosted, mode, adapter), model, adapter)

    def _lend(self, hosted: Hosted, running: Running, model: str, adapter: Attached | None) -> Target:
        with self._lock:
            hosted.last_used_at, hosted.dirty = utc_naive(), True
            if adapter is not None:
                adapter.used_s = time.monotonic()
            self._by_engine[running.spec.engine_id] = (hosted, running)
            return hosted.target(running, model, adapter)

    def release(self, target: Target, *, failed: bool = False, tokens: int = 0, seconds: float = 0.0) -> None:
        """See `Targets.release`."""
        with self._lock:
            known = self._by_engine.get(target.engine_id)
            if known is None:
                return
            hosted, running = known
            self._keeper.give_back(hosted, running)
            if running.doomed and not running.busy:
                del self._by_engine[target.engine_id]
            if failed:
                self._suspects.append(known)
            if tokens > 1 and seconds > 0:
                rate = tokens / seconds
                hosted.tokens_per_s = 0.7 * hosted.tokens_per_s + 0.3 * rate if hosted.tokens_per_s else rate

    def end(self, target: Target) -> None:
        """See `Targets.end`."""
        with self._lock:
            known = self._by_engine.get(target.engine_id)
        if known is not None:
            self._keeper.end(*known, "its chat template did not come to an end")

    def _refresh_visibility(self, hosted: Hosted) -> bool:
        """Looks up whether the repo is private or gated; returns False when the repo is gone."""
        if hosted.has_fresh_visibility():
            return True
        if hosted.kind.bare is not None:
            with self._lock:
                hosted.private, hosted.gated, hosted.visibility_s = (
                    bool(hosted.repo_id),
                    False,
                    time.monotonic(),
                )
            return True
        try:
            private, gated = self._files.is_private(hosted.repo_id), self._files.is_gated(hosted.repo_id)
        except NotFound:
            return False
        with self._lock:
            hosted.private, hosted.gated, hosted.visibility_s = private, gated, time.monotonic()
        return True


def _new_row(name: str, repo_id: str, identity: Identity) -> DeploymentRow:
    row = DeploymentRow(id=new_id("d"), name=name, repo_id=repo_id, created_by=identity.user or "")
    row.created_at = utc_naive()
    return row


def _name_taken(name: str) -> Conflict:
    return Conflict(
        "The name {name!r} is taken by another deployment.",
        hint="Choose another, or stop that one first: `fust stop {name}`.",
        name=name,
    )


def no_repo(repo_id: str) -> NotFound:
    """Returns the error for a repo that is not there, or that the caller may not know of."""
    return NotFound(
        "There is no model {repo_id!r} in the hub.",
        hint="`fust ls` lists those that are; `fust pull {repo_id}` brings one.",
        repo_id=repo_id[:200],
        code="repo_not_found",
    )
