"""A home, its hub, and pulls run in this process."""

import random

import pytest
from bad_hub import BadHub
from jobs_home import ADMIN

from fust.accounts.rights import Asked
from fust.accounts.service import Accounts
from fust.core.settings import load_settings
from fust.hub import pull
from fust.hub.pulling import web
from fust.hub.service import Hub
from fust.jobs.folder import RunFolder, Spec
from fust.jobs.worker import JobContext
from fust.store.database import Base, Database

rng = random.Random(7)
BIG = rng.randbytes(3_000_000)
SMALL = b"# A model\n"


class World:
    """A home, its hub, and pulls run in this process."""

    def __init__(self, home):
        self.home = home
        home.mkdir()
        self.count = 0
        self.settings = load_settings(home, environ={})
        self.database = Database(self.settings.database_url)
        Base.metadata.create_all(self.database.engine)
        self.accounts = Accounts(self.database, self.settings)
        self.accounts.users.create("ada", is_admin=True)
        self.accounts.users.create("bob")
        self.hub = Hub(self.database, self.accounts, self.settings)

    def with_settings(self, **flags):
        return load_settings(
            self.home, flags={key.replace("__", "."): v for key, v in flags.items()}, environ={}
        )

    def pull(self, source, *, identity=ADMIN, run_id="", settings=None, **params):
        return self.run("pull", {"repo_id": "org/model", **params}, source, identity, run_id, settings)

    def pull_owner(self, source, owner, *, identity=ADMIN, settings=None, **params):
        return self.run("pull_owner", {"owner": owner, **params}, source, identity, "", settings)

    def run(self, kind, params, source, identity, run_id, settings):
        self.count += 1
        settings = settings or self.settings
        kinds = {"pull": pull.pull_kind, "pull_owner": pull.pull_owner_kind}
        functions = {"pull": pull.run_pull, "pull_owner": pull.run_pull_owner}
        asked = {**params, "source": source} if source else params
        self.params = kinds[kind](self.accounts, settings).prepare(identity, asked)
        folder = RunFolder(self.home, run_id or f"r{self.count}")
        folder.create()
        self.context = JobContext(
            Spec("r", kind, identity.user, Asked.of(identity), self.params, 1, 1), folder, settings
        )
        return functions[kind](self.context)

    def read(self, path, repo_id="org/model", revision="main", repo_type="model"):
        return self.hub.read_file(self.hub.get_repo(ADMIN, repo_id, repo_type), path, revision)

    def is_empty(self):
        return self.hub.list_repos(ADMIN).total == 0

    def said(self):
        return [e.draw("en").message for _, e in self.context.folder.iter_events() if e.kind == "log"]

    def progressed(self):
        return [e.draw("en").message for _, e in self.context.folder.iter_events() if e.kind == "progress"]


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setattr(web, "BACKOFF_S", 0.01)
    monkeypatch.setattr(web, "READ_TIMEOUT_S", 1.0)
    world = World(tmp_path / "home")
    yield world
    world.database.close()


@pytest.fixture
def hub_of():
    hubs = []

    def make(files=None, lfs=("big.gguf",), **bad):
        named = {name.replace("__", "."): value for name, value in bad.items()}
        hub = BadHub(files or {"README.md": SMALL, "big.gguf": BIG}, lfs=lfs, bad=named)
        hubs.append(hub)
        return hub

    yield make
    for hub in hubs:
        hub.close()
