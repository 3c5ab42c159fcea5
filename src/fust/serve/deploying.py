"""Makes deployments and brings them up to date: of a model of the hub, or of an engine that needs no file."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from sqlalchemy import select

from fust.accounts.audit import note_action
from fust.accounts.rights import Identity
from fust.accounts.service import Accounts
from fust.core.clock import utc_naive
from fust.core.errors import Conflict, InvalidInput, NotFound
from fust.core.ids import new_id
from fust.core.settings import Settings
from fust.serve.adapters import bases_named, is_adapter
from fust.serve.attaching import Attaching, takes_no_adapters
from fust.serve.engines.kinds import Kind, choose_kind, get_kind
from fust.serve.files import ModelFiles
from fust.serve.hosted import Hosted
from fust.serve.keeper import Keeper
from fust.serve.models import DeploymentRow
from fust.serve.offering import Offering
from fust.serve.register import Register
from fust.serve.unfiled import Unfiled
from fust.store.database import Database

log = logging.getLogger(__name__)


class Deploying:
    """Writes the rows of deployments and puts what runs in step with them."""

    def __init__(
        self,
        database: Database,
        files: ModelFiles,
        settings: Settings,
        accounts: Accounts,
        register: Register,
        keeper: Keeper,
        attaching: Attaching,
        unfiled: Unfiled,
        offering: Offering,
    ) -> None:
        self._database = database
        self._files = files
        self._settings = settings
        self._accounts = accounts
        self._register = register
        self._keeper = keeper
        self._attaching = attaching
        self._unfiled = unfiled
        self._offering = offering

    def deploy(
        self,
        identity: Identity,
        repo_id: str,
        *,
        file: str | None,
        revision: str | None,
        alias: str | None,
        engine: str | None,
        pin: bool,
    ) -> Hosted:
        """See `Serve.deploy`."""
        self._accounts.require(identity, "write")
        self._accounts.check_made_for(identity, repo_id)
        commit, tree = self._offering.open_tree(identity, repo_id, revision)
        if is_adapter(tree) and not choose_kind(tree, engine, self._settings.serve)[1]:
            named = bases_named(self._files, repo_id, commit, tree)
            base = self._base_for(identity, repo_id, named, engine=engine, pin=pin)
            self._attaching.add(identity, base, repo_id, file=file, revision=commit, name=alias)
            return base
        chosen = self._offering.choose(repo_id, commit, tree, file=file, engine=engine)
        kind, model = chosen.kind, chosen.model

        def fill(row: DeploymentRow) -> dict[str, str]:
            row.file, row.revision, row.size_bytes = model.path, commit, model.size_bytes
            row.reason, row.options = msgspec.json.encode(chosen.reason).decode(), chosen.options.decode()
            return {"revision": commit, "file": model.path}

        name = f"{repo_id}:{model.label}" if file else repo_id
        return self._keep(identity, name, repo_id, kind, fill, alias=alias, pin=pin)

    def deploy_bare(
        self,
        identity: Identity,
        name: str,
        engine: str,
        options: object,
        *,
        alias: str | None,
        pin: bool,
    ) -> Hosted:
        """See `Serve.deploy_bare`."""
        self._accounts.require(identity, "write")
        repo_id = self._unfiled.check_name(identity, name)
        wish = self._unfiled.read_wish(identity, engine, options)
        other = self._register.by_name(name)
        if other is not None and other.name != name:
            raise _name_taken(name)

        def fill(row: DeploymentRow) -> dict[str, str]:
            row.file = row.revision = ""
            row.options, row.sealed = wish.options.decode(), self._unfiled.seal(wish.secret)
            return {"engine": engine}

        return self._keep(identity, name, repo_id, get_kind(engine), fill, alias=alias, pin=pin)

    def _keep(
        self,
        identity: Identity,
        name: str,
        repo_id: str,
        kind: Kind,
        fill: Callable[[DeploymentRow], dict[str, str]],
        *,
        alias: str | None,
        pin: bool,
    ) -> Hosted:
        """Writes the row of a name and begins to load what it asks for.

        Args:
            identity: who asks for it.
            name: of the deployment.
            repo_id: whose readers may use it; empty for everybody.
            kind: of its engine.
            fill: sets what the row is about, and returns what the audit log says of it.
            alias: another name; None keeps the one that it has.
            pin: keeps it loaded from now on.

        Raises:
            InvalidInput, Conflict: the alias cannot be one or is taken, or the name is a deployment's of another kind.
        """
        with self._database.write() as session:
            row = session.scalars(select(DeploymentRow).where(DeploymentRow.name == name)).first()
            self._register.check_alias(alias, name)
            before = row and _served(row)
            if row is None:
                row = DeploymentRow(
                    id=new_id("d"), name=name, repo_id=repo_id, created_by=identity.user or ""
                )
                row.created_at = utc_naive()
                session.add(row)
            elif row.engine != kind.name and (kind.bare or get_kind(row.engine).bare):
                raise _name_taken(name)
            row.alias, row.engine = alias or row.alias, kind.name
            row.pinned = pin or bool(row.pinned)
            noted: dict[str, Any] = fill(row)
            note_action(session, identity, "deployment.start", f"deployment:{name}", **noted)
            session.flush()
            fresh, changed = Hosted.of(row), kind.bare is not None or before != _served(row)
        hosted = self._adopt(fresh, changed=changed)
        self._register.refresh_visibility(hosted)
        self._keeper.load_soon(hosted)
        return hosted

    def _adopt(self, fresh: Hosted, *, changed: bool) -> Hosted:
        """Puts a row's new values in place of what runs under its id, ending engines that hold an older file."""
        with self._register.lock:
            known = self._register.by_id(fresh.id)
            if known is None:
                self._register.put(fresh)
                return fresh
            if not changed:
                known.forgive()
                self._register.change(known, fresh.pinned, fresh.alias)
                return known
            fresh.adapters = dict(known.adapters)
            for adapter in fresh.adapters.values():
                adapter.path = adapter.error = None  # looked at again: it has to fit the new file
            self._register.replace(known, fresh)
        self._keeper.unload(known)
        return fresh

    def _base_for(
        self, identity: Identity, adapter: str, named: Sequence[str], *, engine: str | None, pin: bool
    ) -> Hosted:
        """Returns the deployment of what an adapter calls its base; serves it when it is not served.

        Raises:
            InvalidInput: it names none, or none that is here, or that is served by an engine that takes no adapters.
            NotOffered: the base cannot be served.
        """
        served = self._attaching.deployments_of(named)
        hosted = next((found for found in served if self._register.may_read(identity, found)), None)
        if hosted is not None:
            return hosted
        others = self._attaching.deployments_of(named, taking=False)
        if engine is None and (
            other := next((it for it in others if self._register.may_read(identity, it)), None)
        ):
            raise takes_no_adapters(
                other
            )  # whoever is served by it would hear nothing while another engine loads
        for repo_id in named:
            with contextlib.suppress(NotFound):
                return self.deploy(
                    identity, repo_id, file=None, revision=None, alias=None, engine=engine, pin=pin
                )
        raise InvalidInput(
            "{repo_id} is an adapter, and its base is not here: {base}.",
            hint="Pull the base, or name the one that is here: `fust serve BASE --adapter {repo_id}`.",
            repo_id=adapter,
            base=", ".join(named)[:200] or "?",
            code="no_base",
        )


def _served(row: DeploymentRow) -> tuple[str, str, str, str]:
    return row.revision, row.file, row.engine, row.options or "{}"


def _name_taken(name: str) -> Conflict:
    return Conflict(
        "The name {name!r} is taken by another deployment.",
        hint="Choose another, or stop that one first: `fust stop {name}`.",
        name=name,
    )
