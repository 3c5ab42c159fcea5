"""What a first start makes (administrator, token, starter model), and who hears which event."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import threading
from pathlib import Path

import psutil

from fust.accounts.rights import SYSTEM
from fust.accounts.seed import Seed, apply_seed
from fust.app.services import Chosen, Services
from fust.core.errors import Conflict, FustError
from fust.core.files import write_atomic
from fust.core.units import show_size
from fust.hub.types import RepoInfo

log = logging.getLogger(__name__)

STARTER = Path(__file__).parent / "starter"
STARTER_REPO = "fust/starter"
STARTER_ALIAS = "starter"
_NOT_IN_REPO = frozenset({"prompts.json", "__init__.py"})


def first_start(services: Services, seed: Seed | None = None) -> None:
    """Makes the administrator and its token (file 0600) in an empty home, then what the seed file asks for.

    What was chosen is noted with its reason.
    """
    accounts, home = services.accounts, services.settings.home
    if not accounts.users.list():
        accounts.users.create("admin", is_admin=True)
    token_file = home / "token"
    if not token_file.exists():
        made = accounts.tokens.create("admin", f"first start ({token_file.name} file)", "admin")
        write_atomic(token_file, made.secret.encode() + b"\n", mode=0o600)
        services.chosen.append(
            Chosen("token", str(token_file), "made at the first start; only you can read the file")
        )
    if seed is not None:
        changes = apply_seed(accounts, seed)
        for change in changes:
            log.info("seed", extra={"change": change})
        services.chosen.append(
            Chosen(
                "seed",
                str(len(changes)),
                "changes that the seed file asked for" if changes else "nothing new",
            )
        )
    services.chosen += _choices(services)


def _choices(services: Services) -> list[Chosen]:
    settings = services.settings
    physical = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    threads = settings.serve.threads or physical
    try:
        engine = f"xllamacpp {importlib.metadata.version('xllamacpp')}"
        why = "GGUF on the CPU, installed"
    except importlib.metadata.PackageNotFoundError:
        engine, why = "none", "xllamacpp is not installed: pip install xllamacpp"
    database = "SQLite" if services.database.is_sqlite else "PostgreSQL"
    return [
        Chosen("engine", engine, why),
        Chosen(
            "threads", str(threads), "set in the settings" if settings.serve.threads else "the physical cores"
        ),
        Chosen(
            "memory",
            show_size(psutil.virtual_memory().available),
            "free now; models that would not fit are refused",
        ),
        Chosen("database", database, "set in the settings" if settings.store.database_url else "in the home"),
        Chosen("home", str(settings.home), settings.sources.get("home", "FUST_HOME or default")),
    ]


def install_starter(services: Services) -> None:
    """Puts the starter model into a new home, once, beside the server's work; someone who deletes it keeps it deleted."""
    mark = services.settings.home / "starter-installed"
    if not services.settings.serve.starter or mark.exists() or not (STARTER / "config.json").exists():
        return

    def work() -> None:
        try:
            push_starter(services)
            write_atomic(mark, b"")
        except Exception:
            log.exception("the starter model could not be installed")

    threading.Thread(target=work, name="fust-starter", daemon=True).start()


def push_starter(services: Services) -> None:
    """Commits the wheel's starter model like any user's model, and serves it."""
    files = {
        path.name: path
        for path in sorted(STARTER.iterdir())
        if path.is_file() and path.name not in _NOT_IN_REPO
    }
    services.hub.import_files(SYSTEM, STARTER_REPO, "model", files, message="The starter model of this Fust")
    try:
        services.serve.deploy(SYSTEM, STARTER_REPO, alias=STARTER_ALIAS)
    except Conflict:
        return
    except FustError as error:
        log.warning("the starter model is not served", extra={"reason": error.message()})


def wire_rooms(services: Services) -> None:
    """Wires events to the rooms that act on them, and lets the hub's lists say what serves a repo."""
    services.hub.find_deployment = lambda repo: _deployment_of(services, repo)
    services.hub.webhooks.subscribe(services.outbox)
    services.hub.safety.start(services.outbox)
    services.outbox.subscribe("repo_moved", lambda body: services.serve.on_repo_moved(body))
    services.outbox.subscribe("repo_deleted", lambda body: services.serve.on_repo_deleted(body))


def _deployment_of(services: Services, repo: RepoInfo) -> object | None:
    for found in services.serve.list_deployments(SYSTEM):
        if found.repo_id == repo.repo_id:
            return {"id": found.id, "name": found.alias or found.name, "state": found.state}
    return None
