"""Settings in, every room's service out: the composition root."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from prometheus_client import CollectorRegistry

from fust.accounts.devices import Devices
from fust.accounts.invitations import Invitations
from fust.accounts.oidc import Oidc
from fust.accounts.service import Accounts
from fust.app.prune import Pruner
from fust.core.clock import now
from fust.core.settings import Settings
from fust.feedback.chats import Chats
from fust.hub.hooks.delivery import Deliverer
from fust.hub.pull import pull_kind, pull_owner_kind
from fust.hub.service import Hub
from fust.jobs.service import Jobs
from fust.records.usage import UsageWriter
from fust.serve.build import build_kind
from fust.serve.hub_files import HubFiles
from fust.serve.service import Serve
from fust.store.database import Database
from fust.store.outbox import Outbox
from fust.tune.export import export_kind
from fust.tune.job import Desk, tune_kind
from fust.wire.asgi import RequestPool


@dataclass(frozen=True, slots=True)
class Chosen:
    """Something that Fust chose at start, and why."""

    what: str
    value: str
    why: str


@dataclass(slots=True)
class Services:
    """Everything that runs in one server process."""

    settings: Settings
    database: Database
    accounts: Accounts
    invitations: Invitations
    oidc: Oidc
    devices: Devices
    outbox: Outbox
    hub: Hub
    deliverer: Deliverer
    jobs: Jobs
    serve: Serve
    usage: UsageWriter
    pruner: Pruner
    chats: Chats
    pool: RequestPool
    registry: CollectorRegistry
    started_at: datetime = field(default_factory=now)
    chosen: list[Chosen] = field(default_factory=lambda: [])
    stopping: bool = False


def build_services(settings: Settings, database: Database) -> Services:
    """Returns the services of a home whose schema is ready; nothing runs yet."""
    accounts = Accounts(database, settings)
    outbox = Outbox(database)
    hub = Hub(database, accounts, settings)
    jobs = Jobs(database, settings)
    jobs.register(pull_kind(accounts, settings))
    jobs.register(pull_owner_kind(accounts, settings))
    jobs.register(tune_kind(Desk(hub, accounts, jobs)))
    jobs.register(export_kind(hub, accounts))
    jobs.register(build_kind(accounts))
    serve = Serve(database, HubFiles(hub), settings, accounts)
    return Services(
        settings=settings,
        database=database,
        accounts=accounts,
        invitations=Invitations(database, accounts),
        devices=Devices(database, accounts),
        oidc=Oidc(database, accounts, settings),
        outbox=outbox,
        hub=hub,
        deliverer=Deliverer(hub.webhooks, settings.webhooks),
        jobs=jobs,
        serve=serve,
        usage=UsageWriter(database),
        pruner=Pruner(settings, database, hub),
        chats=Chats(database, accounts),
        pool=RequestPool(settings.server.blocking_threads, thread_name_prefix="fust-blocking"),
        registry=CollectorRegistry(),
    )
