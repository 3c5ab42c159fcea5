"""A small server of the model surface over a folder of models: gateway, engines and accounts, without the hub.

`python tests/model_house.py HOME MODELS [section.key=value …]` prints one JSON line with its URL and a token. MODELS holds
`owner/name/FILE…`; an owner whose name begins with `private` has private repos.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fust.accounts.rights import Identity
from fust.accounts.service import Accounts
from fust.core.errors import NotFound
from fust.core.settings import Settings, load_settings
from fust.serve.files import TreeFile
from fust.serve.projector import mark_projectors
from fust.serve.service import Serve
from fust.store.database import Base, Database, protect_file


class FolderFiles:
    """Implements `fust.serve.files.ModelFiles` over a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def _repo(self, repo_id: str) -> Path:
        folder = self.root / repo_id
        if not folder.is_dir():
            raise NotFound("There is no repo {repo_id}.", repo_id=repo_id)
        return folder

    def resolve_revision(self, repo_id: str, revision: str) -> str:
        names = sorted(str((p.name, p.stat().st_size)) for p in self._repo(repo_id).rglob("*") if p.is_file())
        return hashlib.sha1("".join(names).encode()).hexdigest()

    def list_files(self, repo_id: str, revision: str) -> Sequence[TreeFile]:
        folder = self._repo(repo_id)
        found = [
            TreeFile(str(p.relative_to(folder)), p.stat().st_size, content=str(p.stat().st_mtime_ns))
            for p in sorted(folder.rglob("*"))
            if p.is_file()
        ]
        return mark_projectors(found, lambda path: contextlib.nullcontext(folder / path))

    def materialise(self, repo_id: str, revision: str, path: str) -> Path:
        return self._repo(repo_id) / path

    def is_private(self, repo_id: str) -> bool:
        self._repo(repo_id)
        return repo_id.startswith("private")

    def find_new_name(self, repo_id: str) -> str | None:
        return None

    def head(self, repo_id: str, revision: str, path: str) -> contextlib.AbstractContextManager[Path]:
        return contextlib.nullcontext(self._repo(repo_id) / path)

    def named_bases(self, repo_id: str, revision: str) -> Sequence[str]:
        card = self._repo(repo_id) / "BASE"
        return card.read_text().split() if card.is_file() else ()

    def is_gated(self, repo_id: str) -> bool:
        return False

    def check_open(self, identity: Identity, repo_id: str) -> None:
        self._repo(repo_id)


def open_house(
    home: Path, models: Path, flags: dict[str, object]
) -> tuple[Settings, Database, Accounts, Serve]:
    """Returns the parts of a house; nothing runs yet."""
    import fust.gateway.models
    import fust.records.models  # noqa: F401  (their tables)

    settings = load_settings(home, flags=flags, environ={})
    home.mkdir(parents=True, exist_ok=True)
    protect_file(settings.database_url)
    database = Database(settings.database_url)
    Base.metadata.create_all(database.engine)
    accounts = Accounts(database, settings)
    return settings, database, accounts, Serve(database, FolderFiles(models), settings, accounts)


async def serve_house(home: Path, models: Path, flags: dict[str, object]) -> None:
    from litestar import Litestar, Response, Router
    from litestar.di import Provide

    from fust.app.http_server import HttpServer, listen
    from fust.core.errors import FustError
    from fust.gateway.routes import gateway_app
    from fust.records.usage import UsageWriter
    from fust.serve.routes import handlers
    from fust.wire.problems import draw_problem

    settings, database, accounts, serve = open_house(home, models, flags)
    if accounts.users.find("admin") is None:
        accounts.users.create("admin", is_admin=True)
        accounts.users.create("reader")
    usage = UsageWriter(database)
    serve.start()
    usage.start()
    pool = ThreadPoolExecutor(16)
    gateway = gateway_app(
        serve.targets, accounts, settings, pool, lambda identity, repo_id: None, usage, database
    )

    def identity(request):  # type: ignore[no-untyped-def]
        return accounts.identify({k.lower(): v for k, v in request.headers.items()}, method=request.method)

    def draw(request, error):  # type: ignore[no-untyped-def]
        status, body = draw_problem(error, "en", "r")
        return Response(body, status_code=status, media_type="application/problem+json")

    identity.__annotations__ = {}
    from litestar import Request

    identity.__annotations__ = {"request": Request, "return": object}
    fust = Litestar(
        [Router(path="/", route_handlers=handlers)],  # see `app.fust_api`
        dependencies={
            "serve": Provide(lambda: serve, sync_to_thread=False),
            "accounts": Provide(lambda: accounts, sync_to_thread=False),
            "identity": Provide(identity, sync_to_thread=True),
        },
        exception_handlers={FustError: draw},
        openapi_config=None,
    )

    async def app(scope, receive, send):  # type: ignore[no-untyped-def]
        await (gateway if scope["path"].startswith("/v1") else fust)(scope, receive, send)

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    gateway.start()
    server = HttpServer(app, listen("127.0.0.1", port), most_connections=500)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    serving = asyncio.create_task(server.run_until_stopped())
    tokens = {
        "admin": accounts.tokens.create("admin", "test", "admin").secret,
        "reader": accounts.tokens.create("reader", "test", "read").secret,
        "writer": accounts.tokens.create("reader", "writes", "write").secret,
        "tiny only": accounts.tokens.create("reader", "model", "write", models=["tiny"]).secret,
        "repo only": accounts.tokens.create("reader", "repo", "write", repos=["acme/*"]).secret,
    }
    print(json.dumps({"url": f"http://127.0.0.1:{port}", "tokens": tokens, "pid": os.getpid()}), flush=True)
    await stop.wait()
    server.stop()
    await asyncio.wait({serving}, timeout=5)
    await gateway.close()
    await loop.run_in_executor(None, serve.stop)
    usage.stop()
    os._exit(0)


class House:
    """A house in a process of its own."""

    def __init__(self, home: Path, models: Path, *flags: str, modules: Path | None = None) -> None:
        self.home, self.models = home, models
        source = str(Path(__file__).resolve().parents[2] / "src")
        found = os.pathsep.join([*([str(modules)] if modules else []), source])  # the first one wins
        environ = {**os.environ, "PYTHONPATH": found, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(home), str(models), *flags], stdout=subprocess.PIPE, env=environ
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError("the house did not start")
        said = json.loads(line)
        self.url: str = said["url"]
        self.tokens: dict[str, str] = said["tokens"]
        self.token: str = said["tokens"]["admin"]
        self.reader: str = said["tokens"]["reader"]
        self.writer: str = said["tokens"]["writer"]

    @property
    def base_url(self) -> str:
        return self.url + "/v1"

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = "",
        raw: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, headers=headers or {}, method=method)
        if token is not None:
            request.add_header("authorization", f"Bearer {token or self.token}")
        if data is not None:
            request.add_header("content-type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, dict(answer.headers.items()), answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, {k.lower(): v for k, v in error.headers.items()}, error.read()

    def json(self, method: str, path: str, body: object = None, **more: object) -> dict:
        status, _, answer = self.request(method, path, body, **more)  # type: ignore[arg-type]
        assert status < 300, (status, answer)
        return json.loads(answer) if answer else {}

    def serve(self, repo_id: str, **more: object) -> dict:
        """Serves a model and waits until it has loaded."""
        found = self.json("POST", "/fust/v1/deployments", {"repo_id": repo_id, **more})
        return self.settled(found["id"])

    def settled(self, deployment_id: str, timeout_s: float = 30) -> dict:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            found = self.json("GET", f"/fust/v1/deployments/{deployment_id}")
            if found["state"] != "loading":
                return found
            time.sleep(0.03)
        raise AssertionError("it stayed loading")

    def engine_pids(self) -> list[int]:
        return [json.loads(p.read_text())["pid"] for p in (self.home / "engines").glob("*.json")]

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=20)
        if self.process.stdout:
            self.process.stdout.close()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(timeout=10)
        if self.process.stdout:
            self.process.stdout.close()


@contextlib.contextmanager
def running_house(home: Path, models: Path, *flags: str, modules: Path | None = None) -> Iterator[House]:
    house = House(home, models, *flags, modules=modules)
    try:
        yield house
    finally:
        house.stop()


if __name__ == "__main__":
    pairs = dict(argument.split("=", 1) for argument in sys.argv[3:])
    asyncio.run(serve_house(Path(sys.argv[1]), Path(sys.argv[2]), dict(pairs)))
