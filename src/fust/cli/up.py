"""`fust up`, `down`, `open`, `status`, `doctor`, `config`, `logs`, `passwd`: the server of this machine."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from fust.cli.context import CLI, find_running_server, pass_cli, running_server
from fust.core.errors import FustError, Unavailable
from fust.core.i18n import t
from fust.core.locks import is_held
from fust.core.settings import Settings, describe_settings, load_settings
from fust.core.units import show_size

if TYPE_CHECKING:
    from fust.accounts.seed import Seed
    from fust.app.services import Services

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 20.0


@click.command(epilog="Example: fust up -d")
@click.option("-d", "--detach", is_flag=True, help=t("Run in the background."))
@click.option("--host", help=t("Address to listen on; anything but loopback demands a password first."))
@click.option("--port", type=int, help=t("Port to listen on; without it 8787 or the next free one."))
@click.option("--no-backup", is_flag=True, help=t("Upgrade the database without a copy of it."))
@click.option(
    "--seed",
    "seed_path",
    type=click.Path(path_type=Path),
    help=t("A file of users, organisations, roles and keys to bring about; may be given again and again."),
)
@pass_cli
def up(
    cli: CLI, detach: bool, host: str | None, port: int | None, no_backup: bool, seed_path: Path | None
) -> None:
    """Start Fust: hub, model API and page."""
    seed = _read_seed(seed_path) if seed_path else None
    url = find_running_server(cli.home)
    if url is not None:
        if seed is not None:
            _seed_running(cli, seed)
        link = cli.client().open_link().url
        cli.result(
            {"url": url, "link": link, "already": True}, t("Fust runs already. Open {link}", link=link)
        )
        return
    flags = {"server.host": host, "server.port": port}
    settings = load_settings(cli.home, flags=flags)
    if detach:
        _start_detached(cli, settings, host, port, no_backup, seed_path)
    else:
        _start_here(cli, settings, no_backup, seed)


def _read_seed(path: Path) -> Seed:
    from fust.accounts.seed import read_seed

    return read_seed(path)


def _seed_running(cli: CLI, seed: Seed) -> None:
    """Applies a seed file to the home of a server that runs; it sees the change within a second."""
    from fust.accounts.seed import apply_seed
    from fust.accounts.service import Accounts
    from fust.store.database import Database

    settings = load_settings(cli.home)
    database = Database(settings.database_url)
    try:
        changes = apply_seed(Accounts(database, settings), seed)
    finally:
        database.close()
    if not cli.json:
        click.echo("\n".join(changes) or t("The seed file asks for nothing new."))


def _start_here(cli: CLI, settings: Settings, no_backup: bool, seed: Seed | None = None) -> None:
    started = time.monotonic()
    from fust.app.server import run_server

    def ready(services: Services, link: str) -> None:
        took_s = time.monotonic() - started
        chosen = [{"what": c.what, "value": c.value, "why": c.why} for c in services.chosen]
        if cli.json:
            cli.result(
                {
                    "url": services.settings.public_url,
                    "link": link,
                    "ready_s": round(took_s, 2),
                    "chosen": chosen,
                }
            )
        else:
            click.echo(_banner(services, link, took_s))
        sys.stdout.flush()

    run_server(settings, ready=ready, copy_before_upgrade=not no_backup, seed=seed)


def _banner(services: Services, link: str, took_s: float) -> str:
    rows = [f"  {t(c.what):<10} {c.value}  ({t(c.why)})" for c in services.chosen]
    url = services.settings.public_url
    return "\n".join(
        [
            t("Fust is ready in {seconds} s at {url}", seconds=f"{took_s:.1f}", url=url),
            *rows,
            t("Open {link}", link=link),
            t(
                "The link signs one browser in, once, within 10 minutes; `fust open` prints a new one. Ctrl-C stops."
            ),
        ]
    )


def _start_detached(
    cli: CLI,
    settings: Settings,
    host: str | None,
    port: int | None,
    no_backup: bool,
    seed_path: Path | None,
) -> None:
    home = settings.home
    try:
        (home / "log").mkdir(parents=True, exist_ok=True)
        out = (home / "log" / "up.out").open("w+b")
    except OSError:
        # The foreground start says exactly what is wrong with the home.
        _start_here(cli, settings, no_backup)
        return
    command = [sys.executable, "-m", "fust.cli.main", "--home", str(home), "up"]
    command += ["--host", host] if host else []
    command += ["--port", str(port)] if port else []
    command += ["--no-backup"] if no_backup else []
    command += ["--seed", str(seed_path.absolute())] if seed_path else []
    with out:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd="/",
        )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline:
            if child.poll() is not None:
                out.seek(0)
                click.echo(out.read().decode(errors="replace").strip(), err=True)
                raise SystemExit(child.returncode or 1)
            url = find_running_server(home)
            if url is not None:
                break
            time.sleep(0.05)
        else:
            raise Unavailable("Fust did not start within a minute.", hint="`fust logs` has the reason.")
    link = cli.client().open_link().url
    text = t("Fust runs at {url} (stop it with `fust down`).", url=url) + "\n" + t("Open {link}", link=link)
    cli.result({"url": url, "link": link, "pid": child.pid}, text)


@click.command(epilog="Example: fust down")
@pass_cli
def down(cli: CLI) -> None:
    """Stop the running server; runs go on and are found again at the next start."""
    import json
    import signal

    running_server(cli.home)
    document = json.loads((cli.home / "server.json").read_text(encoding="utf-8"))
    pid = int(document["pid"])
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while is_held(cli.home / "server.lock"):
        if time.monotonic() > deadline:
            raise Unavailable(
                "The server (process {pid}) did not stop within {seconds} s.",
                hint="`kill -9 {pid}` ends it; nothing acknowledged is lost by that.",
                pid=pid,
                seconds=round(_STOP_TIMEOUT_S),
            )
        time.sleep(0.05)
    cli.result({"stopped": True, "pid": pid}, t("Fust has stopped."))


@click.command("open", epilog="Example: fust open")
@pass_cli
def open_(cli: CLI) -> None:
    """Print a link that signs the browser in (one use, 10 minutes)."""
    link = cli.client().open_link()
    cli.result(link, link.url)


@click.command(epilog="Example: fust status --json")
@pass_cli
def status(cli: CLI) -> None:
    """Show what runs, what the machine has free, and what needs you."""
    client = cli.client()
    found = client.status()
    lines = [
        t(
            "Fust {version} at {url}, since {since}",
            version=found.version,
            url=found.base_url,
            since=found.started_at,
        ),
        t(
            "Memory {free} free of {total}; disk {disk} free",
            free=show_size(found.machine.memory_available_bytes),
            total=show_size(found.machine.memory_total_bytes),
            disk=show_size(found.machine.disk_free_bytes),
        ),
        t(
            "Models: {models}; datasets: {datasets}; served: {deployments}; active runs: {runs}",
            models=found.counts.models,
            datasets=found.counts.datasets,
            deployments=found.counts.deployments,
            runs=found.counts.runs_active,
        ),
    ]
    lines += [f"! {need.message} {need.hint}" for need in found.needs]
    cli.result(found, "\n".join(lines))


@click.command(epilog="Example: fust doctor")
@pass_cli
def doctor(cli: CLI) -> None:
    """Check disk, ports, CPU and parts, and say how to mend what is wrong."""
    from fust.app.doctor import run_checks
    from fust.core.i18n import terminal_language

    language = terminal_language()
    settings, url = load_settings(cli.home), find_running_server(cli.home)
    if url is not None:
        parts = urlsplit(url)
        server = dataclasses.replace(settings.server, host=parts.hostname or "", port=parts.port or 0)
        settings = dataclasses.replace(settings, server=server)
    checks = run_checks(settings, serving=url is not None)
    drawn = [check.drawn(language) for check in checks]
    marks = {"ok": "✓", "warn": "!", "fail": "✗"}
    lines = [
        f"{marks[c['state']]} {c['name']}: {c['value']}" + (f"\n    {c['mend']}" if c["mend"] else "")
        for c in drawn
    ]
    cli.result({"checks": drawn}, "\n".join(lines))
    if any(check.state == "fail" for check in checks):
        raise SystemExit(1)


@click.group()
def config() -> None:
    """Show every setting and where it came from."""


@config.command("show", epilog="Example: FUST_SERVER__PORT=9000 fust config show")
@pass_cli
def config_show(cli: CLI) -> None:
    """Print every value and where it came from: a flag, the environment, fust.toml or the default."""
    rows = describe_settings(load_settings(cli.home))
    width = max(len(key) for key, _, _ in rows)
    lines = [f"{key:<{width}}  {value!s:<24}  {source}" for key, value, source in rows]
    cli.result([{"key": k, "value": v, "source": s} for k, v, s in rows], "\n".join(lines))


@click.command(epilog="Example: fust logs -n 50 --follow")
@click.option("-n", "--lines", default=100, show_default=True, help=t("How many lines to begin with."))
@click.option("-f", "--follow", is_flag=True, help=t("Go on with new lines until Ctrl-C."))
@click.option("--engine", help=t("The log of an engine instead: part of its file's name."))
@pass_cli
def logs(cli: CLI, lines: int, follow: bool, engine: str | None) -> None:
    """Show the server's log (JSON lines), or an engine's."""
    folder = cli.home / "log"
    path = folder / "server.log"
    if engine is not None:
        matches = sorted(p for p in folder.glob("engine-*.log") if engine in p.name)
        if not matches:
            raise FustError(
                "There is no engine log with {part!r} in its name.",
                hint="See {folder}.",
                part=engine,
                folder=folder,
            )
        path = matches[-1]
    if not path.exists():
        raise Unavailable(
            "There is no log at {path} yet.", hint="Start the server with `fust up`.", path=path
        )
    _show_tail(path, lines, follow)


def _show_tail(path: Path, lines: int, follow: bool) -> None:
    from collections import deque

    with path.open(encoding="utf-8", errors="replace") as file:
        for line in deque(file, maxlen=max(0, lines)):
            click.echo(line, nl=False)
        while follow:
            line = file.readline()
            if line:
                click.echo(line, nl=False)
            else:
                time.sleep(0.3)


@click.command(epilog="Example: fust passwd admin")
@click.argument("name", default="admin")
@click.option("--stdin", is_flag=True, help=t("Read the password from standard input, for scripts."))
@pass_cli
def passwd(cli: CLI, name: str, stdin: bool) -> None:
    """Set a password for the page; works with the server running or not."""
    if stdin:
        password = sys.stdin.readline().rstrip("\n")
    else:
        password = click.prompt(t("New password"), hide_input=True, confirmation_prompt=True)
    if find_running_server(cli.home) is not None:
        cli.client().set_password(name, password)
    else:
        _set_password_offline(cli.home, name, password)
    cli.result({"name": name, "changed": True}, t("The password of {name} is set.", name=name))


def _set_password_offline(home: Path, name: str, password: str) -> None:
    from fust.accounts.service import Accounts
    from fust.app.home import open_home, prepare_schema
    from fust.store.database import Database

    settings = load_settings(home)
    lock = open_home(home)
    try:
        database = Database(settings.database_url)
        prepare_schema(database, home / "backups")
        accounts = Accounts(database, settings)
        if name == "admin" and not accounts.users.list():
            accounts.users.create("admin", is_admin=True)
        accounts.users.set_password(name, password)
        database.close()
    finally:
        lock.release()
