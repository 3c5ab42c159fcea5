"""`/fust/v1/status`, `/doctor`, `/config`: the machine and what Fust chose on it."""

from __future__ import annotations

import os
import shutil
from typing import Any

import msgspec
import psutil
from litestar import Request, get, post
from litestar.datastructures import State

from fust import __version__
from fust.accounts.rights import Identity
from fust.accounts.service import Accounts
from fust.app.doctor import run_checks
from fust.app.needs import Need, Steps, count_things, first_steps, list_needs
from fust.app.notices import NoticeList, list_notices, mark_read
from fust.app.services import Services
from fust.core.clock import iso
from fust.core.i18n import accepted_language, fill
from fust.core.settings import Settings, describe_settings


class Machine(msgspec.Struct):
    """What the machine has and what is free of it."""

    memory_total_bytes: int
    memory_available_bytes: int
    disk_total_bytes: int
    disk_free_bytes: int
    cores: int
    load_1m: float


class ChosenValue(msgspec.Struct):
    """Something chosen at start, and why."""

    what: str
    value: str
    why: str


class Counts(msgspec.Struct):
    """How many of each."""

    models: int
    datasets: int
    deployments: int
    runs_active: int


class Status(msgspec.Struct):
    """The server in one answer."""

    version: str
    started_at: str
    home: str
    base_url: str
    reached_url: str
    """How the caller reaches the server: ``base_url``, or its local address for a program on the machine."""
    openai_base_url: str
    machine: Machine
    counts: Counts
    chosen: list[ChosenValue]
    needs: list[Need]
    steps: Steps


class CheckInfo(msgspec.Struct):
    """A finding of the doctor."""

    name: str
    state: str
    value: str
    mend: str


class Doctor(msgspec.Struct):
    """All findings."""

    checks: list[CheckInfo]


class ConfigValue(msgspec.Struct):
    """A setting and where it came from."""

    key: str
    value: Any
    source: str


class Config(msgspec.Struct):
    """All settings."""

    values: list[ConfigValue]


def _machine(settings: Settings) -> Machine:
    memory = psutil.virtual_memory()
    disk = shutil.disk_usage(settings.home)
    return Machine(
        memory.total,
        memory.available,
        disk.total,
        disk.free,
        os.cpu_count() or 1,
        round(os.getloadavg()[0], 2),
    )


@get("/fust/v1/status", sync_to_thread=True)
def get_status(request: Request[Any, Any, State], services: Services, identity: Identity) -> Status:
    """What runs, what the machine has free, what needs the caller, which first steps are done."""
    services.accounts.require(identity)
    language = accepted_language(request.headers.get("accept-language"))
    url = services.settings.public_url
    return Status(
        version=__version__,
        started_at=iso(services.started_at) or "",
        home=str(services.settings.home),
        base_url=url,
        reached_url=services.settings.url_for(request.headers),
        openai_base_url=f"{url}/v1",
        machine=_machine(services.settings),
        counts=Counts(**count_things(services, identity)),
        chosen=[
            ChosenValue(fill(c.what, {}, language), c.value, fill(c.why, {}, language))
            for c in services.chosen
        ],
        needs=list_needs(services, identity, language),
        steps=first_steps(services, identity),
    )


@get("/fust/v1/notices", sync_to_thread=True)
def get_notices(request: Request[Any, Any, State], services: Services, identity: Identity) -> NoticeList:
    """What needs the caller, and which of their runs ended lately."""
    services.accounts.require(identity)
    return list_notices(services, identity, accepted_language(request.headers.get("accept-language")))


@post("/fust/v1/notices/read", status_code=200, sync_to_thread=True)
def read_notices(request: Request[Any, Any, State], services: Services, identity: Identity) -> NoticeList:
    """Notes that the caller has seen the news; what needs them stays until it is mended."""
    services.accounts.require(identity)
    mark_read(services, identity)
    return list_notices(services, identity, accepted_language(request.headers.get("accept-language")))


@get("/fust/v1/doctor", sync_to_thread=True)
def get_doctor(
    request: Request[Any, Any, State], accounts: Accounts, settings: Settings, identity: Identity
) -> Doctor:
    """Disk, memory, CPU, port and parts, each failure with the line that mends it; for administrators."""
    accounts.check_admin(identity)
    language = accepted_language(request.headers.get("accept-language"))
    return Doctor([CheckInfo(**check.drawn(language)) for check in run_checks(settings, serving=True)])


@get("/fust/v1/config", sync_to_thread=True)
def get_config(accounts: Accounts, settings: Settings, identity: Identity) -> Config:
    """Every setting and where it came from; for administrators."""
    accounts.check_admin(identity)
    rows = describe_settings(settings)
    return Config(
        [ConfigValue(key, str(value) if key == "home" else value, source) for key, value, source in rows]
    )


handlers = [get_status, get_notices, read_notices, get_doctor, get_config]
