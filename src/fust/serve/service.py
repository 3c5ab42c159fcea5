"""Serves models of the hub: deployments are rows, their engines child processes that come and go."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select, update

from fust.accounts.audit import note_action
from fust.accounts.rights import SYSTEM, Identity
from fust.accounts.service import Accounts
from fust.core.errors import NotFound
from fust.core.settings import Settings
from fust.serve.attaching import Attaching
from fust.serve.deploying import Deploying
from fust.serve.deployment import Deployment, view
from fust.serve.engines.base import MODES, Mode
from fust.serve.engines.child import end_orphans, log_name, read_tail
from fust.serve.engines.kinds import get_kind
from fust.serve.files import ModelFiles, discard
from fust.serve.hosted import Hosted
from fust.serve.keeper import Keeper
from fust.serve.lending import Lender
from fust.serve.models import DeploymentRow
from fust.serve.offering import Offering, Offers
from fust.serve.register import Register
from fust.serve.unfiled import Unfiled
from fust.store.database import Database

log = logging.getLogger(__name__)

_SWEEP_S = 2.0
_THOROUGH_EVERY = 3


class Serve:
    """All deployments of one home."""

    def __init__(self, database: Database, files: ModelFiles, settings: Settings, accounts: Accounts) -> None:
        self._database = database
        self._files = files
        self._accounts = accounts
        self.settings = settings
        self._register = Register(files)
        unfiled = Unfiled(accounts)
        self._keeper = Keeper(settings, files, self._register, unfiled.unseal)
        self._attaching = Attaching(database, files, settings, accounts, self._keeper, self._register.all)
        self._offering = Offering(files, settings.serve, self._keeper)
        self._deploying = Deploying(
            database,
            files,
            settings,
            accounts,
            self._register,
            self._keeper,
            self._attaching,
            unfiled,
            self._offering,
        )
        self.targets = Lender(self._register, self._keeper, self._attaching)
        self._wake = threading.Event()
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
            self._register.put(Hosted.of(row))
        self._keeper.bringing.conversions.discard_halves()
        self._attaching.load()
        for hosted in self._register.all():
            if hosted.pinned:
                self._keeper.load_soon(hosted)
        self._sweeper = threading.Thread(target=self._look_after, name="fust-serve", daemon=True)
        self._sweeper.start()

    def stop(self) -> None:
        """Ends all engines and keeps when each was used last."""
        self._wake.set()
        if self._sweeper is not None:
            self._sweeper.join(timeout=15)
        self._keeper.stop()
        self._keep_use()

    def _look_after(self) -> None:
        turns = 0
        while not self._wake.wait(_SWEEP_S):
            turns += 1
            try:
                self._keeper.sweep(self.targets.take_suspects(), thorough=turns % _THOROUGH_EVERY == 0)
                self._keep_use()
            except Exception:
                log.exception("looking after engines failed; trying again")

    def _keep_use(self) -> None:
        with self._register.lock:
            dirty = [hosted for hosted in self._register.all() if hosted.dirty]
            values = [(hosted.id, hosted.last_used_at) for hosted in dirty]
            for hosted in dirty:
                hosted.dirty = False
        if values:
            with self._database.write() as session:
                for id_, used_at in values:
                    query = update(DeploymentRow).where(DeploymentRow.id == id_).values(last_used_at=used_at)
                    session.execute(query)

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
        hosted = self._deploying.deploy(
            identity, repo_id, file=file, revision=revision, alias=alias, engine=engine, pin=pin
        )
        return self._view(identity, hosted)

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
        hosted = self._deploying.deploy_bare(identity, name, engine, options, alias=alias, pin=pin)
        return self._view(identity, hosted)

    def offers(self, identity: Identity, repo_id: str, revision: str | None = None) -> Offers:
        """Returns what each model of a repo would take here, which would be served, and why; starts nothing.

        Raises:
            InvalidInput, NotFound, Gated: as `deploy`.
        """
        return self._offering.of_repo(identity, repo_id, revision)

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
            self._register.check_alias(alias or None, hosted.name)
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
        self._register.change(hosted, *now)
        return self._view(identity, hosted)

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
        self._register.drop(hosted)
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
        may_read = self._register.may_read
        return [self._view(identity, hosted) for hosted in self._register.all() if may_read(identity, hosted)]

    def _readable(self, identity: Identity, deployment: str) -> Hosted:
        hosted = self._register.by_id(deployment) or self._register.by_name(deployment)
        if hosted is None or not self._register.may_read(identity, hosted):
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
        for hosted in self._register.all():
            if hosted.repo_id == body.get("repo_id") and hosted.kind.bare is None:
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
        self._register.move(old, new)
        self._attaching.on_repo_moved(old, new)

    def _view(self, identity: Identity, hosted: Hosted) -> Deployment:
        adapters = self._attaching.views(identity, hosted)
        with self._register.lock:
            return view(hosted, adapters)
