"""One server process: opens the home, starts every room, listens, and ends in order."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ipaddress
import logging
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from fust import __version__
from fust.accounts.audit import note_action
from fust.accounts.proxies import trusted_networks
from fust.accounts.rights import SYSTEM
from fust.accounts.seed import Seed
from fust.app.asgi import Dispatcher
from fust.app.doctor import port_is_free
from fust.app.fust_api import fust_app
from fust.app.home import open_home, prepare_schema
from fust.app.http_server import HttpServer, listen, port_taken
from fust.app.page import Page
from fust.app.services import Chosen, Services, build_services
from fust.app.start import first_start, install_starter, wire_rooms
from fust.core.clock import iso, now
from fust.core.errors import Conflict, Denied, FustError
from fust.core.files import full_disk_is_clear, write_atomic
from fust.core.i18n import t
from fust.core.logs import configure_logs
from fust.core.settings import Settings
from fust.gateway.routes import gateway_app
from fust.hub.routes import hub_app
from fust.store.database import Database

log = logging.getLogger(__name__)

_PORTS_TRIED = 50
_MAX_FILES = 65_536


class ServerFile(msgspec.Struct):
    """`server.json`: where the server of a home is. Believed only while `server.lock` is held."""

    url: str
    pid: int
    started_at: str
    version: str


def run_server(
    settings: Settings,
    *,
    ready: Callable[[Services, str], None],
    copy_before_upgrade: bool = True,
    seed: Seed | None = None,
) -> None:
    """Runs until SIGTERM or SIGINT.

    Args:
        settings: of the home to open.
        ready: called once it answers, with the services and a sign-in link.
        copy_before_upgrade: whether the database is copied to `backups/` before its schema is upgraded.
        seed: users, organisations and tokens to bring about first.

    Raises:
        FustError: the home, the port or the schema does not allow a start; nothing was changed.
    """
    lock = open_home(settings.home)
    try:
        with full_disk_is_clear(settings.home):
            trusted_networks(settings.server.trusted_proxies)
            configure_logs(settings.log.level, settings.home / "log" / "server.log")
            settings, port_note = choose_port(settings)
            database = Database(settings.database_url)
            prepare_schema(database, settings.home / "backups" if copy_before_upgrade else None)
            services = build_services(settings, database)
            services.chosen += port_note
            first_start(services, seed)
            check_binding(services)
            _run_loop(_serve(services, ready))
    finally:
        (settings.home / "server.json").unlink(missing_ok=True)
        lock.release()


def _run_loop(main: Coroutine[Any, Any, None]) -> None:
    """Runs on uvloop, which costs a quarter less CPU a streamed token than asyncio's own loop."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


def choose_port(settings: Settings) -> tuple[Settings, list[Chosen]]:
    """Returns the settings with a port that is free, and what to say of it.

    Raises:
        Conflict: the port was named and is taken, or fifty in a row are.
    """
    host, port = settings.server.host, settings.server.port
    if port_is_free(host, port):
        return settings, []
    if settings.sources.get("server.port") == "flag":
        raise port_taken(host, port)
    for other in range(port + 1, port + 1 + _PORTS_TRIED):
        if port_is_free(host, other):
            server = dataclasses.replace(settings.server, port=other)
            why = t("port {port} is taken by another program", port=port)
            return dataclasses.replace(settings, server=server), [Chosen("port", str(other), why)]
    raise Conflict(
        "Ports {first} to {last} of {host} are all taken.",
        hint="Name a free one: `fust up --port N`.",
        first=port,
        last=port + _PORTS_TRIED,
        host=host,
    )


def is_loopback(host: str) -> bool:
    """Returns whether an address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_binding(services: Services) -> None:
    """Raises Denied when others could reach the server and no administrator has a password."""
    host = services.settings.server.host
    if not is_loopback(host) and not services.accounts.users.has_admin_password():
        raise Denied(
            "Fust will not listen on {host}, where others reach it, before an administrator has a password.",
            hint="Set one with `fust passwd`, then start again.",
            host=host,
        )


async def _serve(services: Services, ready: Callable[[Services, str], None]) -> None:
    settings = services.settings
    listener = listen(settings.server.host, settings.server.port)
    app = compose(services)
    server = HttpServer(app, listener, most_connections=raise_file_limit() * 3 // 4, find_hot=app.find_hot)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    start_rooms(services)
    app.start()
    serving = asyncio.create_task(server.run_until_stopped())
    try:
        write_atomic(
            settings.home / "server.json",
            msgspec.json.encode(ServerFile(settings.local_url, os.getpid(), iso(now()) or "", __version__)),
            mode=0o600,
        )
        code, _ = services.accounts.sessions.create_code(first_admin(services))
        log.info("ready", extra={"url": settings.public_url, "pid": os.getpid(), "version": __version__})
        ready(services, f"{settings.public_url}/?code={code}")
        install_starter(services)
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({stopped, serving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        services.stopping = True
        log.info("stopping")
        server.stop()
        with contextlib.suppress(asyncio.TimeoutError, asyncio.CancelledError):
            await asyncio.wait_for(serving, timeout=5)
        await app.close()
        await loop.run_in_executor(None, stop_rooms, services)


def raise_file_limit() -> int:
    """Lets this process open as many files and connections as the system allows, 65,536 at most; returns how many."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    with contextlib.suppress(ValueError, OSError):  # macOS refuses more than its own limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft


def compose(services: Services) -> Dispatcher:
    """Returns the ASGI application of all surfaces."""
    settings, pool = services.settings, services.pool
    return Dispatcher(
        fust=fust_app(services),
        model=gateway_app(
            services.serve.targets,
            services.accounts,
            settings,
            pool,
            services.hub.gates.check_use,
            services.usage,
            services.database,
            services.registry,
        ),
        hub=hub_app(services.hub, services.accounts, services.devices, settings, pool),
        page=Page(services.accounts, settings, pool),
        base_path=settings.base_path,
        trusted_proxies=settings.server.trusted_proxies,
        registry=services.registry,
        healthy=lambda: not services.stopping,
        accounts=services.accounts,
        pool=pool,
    )


def first_admin(services: Services) -> str:
    """Returns the name of the oldest administrator."""
    admin = services.accounts.users.first_admin()
    if admin is None:
        raise FustError("There is no administrator in this home.", hint="Restore it from a backup.")
    return admin.name


def start_rooms(services: Services) -> None:
    """Mends what a killed server left, then starts what works in the background."""
    services.hub.recover()
    wire_rooms(services)
    services.outbox.start()
    services.deliverer.start()
    services.hub.chunker.resume()
    services.jobs.start()
    services.serve.start()
    services.usage.start()
    services.pruner.start()
    with services.database.write() as session:
        # Which settings are set, never to what: a changed list shows who starts it otherwise.
        names = " ".join(sorted(services.settings.sources))
        note_action(session, SYSTEM, "server.start", "server", version=__version__, set=names)


def stop_rooms(services: Services) -> None:
    """Ends engines and background work; runs go on in their own processes."""
    for stop in (
        services.pruner.stop,
        services.serve.stop,
        services.jobs.stop,
        services.usage.stop,
        services.hub.flush_downloads,
        services.outbox.stop,
        services.deliverer.stop,
        services.hub.safety.stop,
        lambda: services.pool.shutdown(wait=False, cancel_futures=True),
        services.database.close,
    ):
        try:
            stop()
        except Exception:
            log.exception("a room did not stop well")
