"""Fixtures: a real Fust server in a process of its own, and where shared real-world data lies."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("FUST_LANG", "en")


@dataclass
class RunningFust:
    """A server that `fust up` started on a home of its own."""

    url: str
    token: str
    home: Path
    process: subprocess.Popen[bytes]
    environ: dict[str, str]

    def cli(
        self, *args: str, check: bool = True, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs `fust ARGS` on this home."""
        return subprocess.run(
            [sys.executable, "-m", "fust.cli.main", *args],
            env=self.environ,
            capture_output=True,
            text=True,
            check=check,
            input=stdin,
            timeout=120,
        )

    def open_link(self) -> str:
        """Returns a fresh sign-in link."""
        return self.cli("open").stdout.strip()

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = "",
        headers: dict[str, str] | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        """Sends one request; returns status, headers (lower case) and body. ``token`` None sends no key.

        Raises OSError where no whole answer came: refused, cut before it or in the middle of it.
        """
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        fields = {"content-type": "application/json", **(headers or {})}
        if token is not None:
            fields["authorization"] = f"Bearer {token or self.token}"
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=fields)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, {k.lower(): v for k, v in error.headers.items()}, error.read()
        except http.client.HTTPException as error:
            raise ConnectionError(f"{method} {path}: cut in the middle of its answer ({error!r})") from error

    def stop(self) -> None:
        """Ends the server in order."""
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(timeout=10)

    def kill(self) -> None:
        """Ends the server as a power cut would."""
        self.process.kill()
        self.process.wait(timeout=10)


def free_port() -> int:
    """Returns a TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_fust(
    home: Path, *, starter: bool = False, port: int = 0, arguments: Sequence[str] = (), **settings: object
) -> RunningFust:
    """Starts `fust up` on a home and waits until it is ready. ``settings`` as in `serve__slots=2`."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("FUST_", "HF_"))}
    environ |= {"FUST_HOME": str(home), "FUST_LANG": "en", "PYTHONUNBUFFERED": "1"}
    environ["FUST_SERVE__STARTER"] = "true" if starter else "false"
    environ |= {f"FUST_{key.upper()}": str(value) for key, value in settings.items()}
    port = port or free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "fust.cli.main", "--json", "up", "--port", str(port), *arguments],
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 60
    server_file = home / "server.json"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            assert process.stderr is not None
            raise AssertionError(f"fust up ended with {process.returncode}: {process.stderr.read().decode()}")
        try:
            document = json.loads(server_file.read_text())
            if document["pid"] == process.pid:
                break
        except (OSError, ValueError):
            pass
        time.sleep(0.02)
    else:
        process.kill()
        raise AssertionError("fust up was not ready within 60 s")
    if process.stderr is not None:
        process.stderr.close()
    token = (home / "token").read_text().strip()
    return RunningFust(f"http://127.0.0.1:{port}", token, home, process, environ)


@pytest.fixture
def fust_factory(tmp_path: Path) -> Iterator[Callable[..., RunningFust]]:
    """Starts servers that are stopped at the end of the test: `fust_factory("name", serve__slots=2)`."""
    started: list[RunningFust] = []

    def start(name: str = "home", **settings: object) -> RunningFust:
        running = start_fust(tmp_path / name, **settings)  # type: ignore[arg-type]
        started.append(running)
        return running

    yield start
    for running in started:
        if running.process.poll() is None:
            running.stop()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFust]:
    """A server for all tests of a module, without the starter model."""
    running = start_fust(tmp_path_factory.mktemp("fust") / "home")
    yield running
    running.stop()


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of real weights and data beside the checkout; tests that want it skip where it is absent."""
    folder = Path(os.environ.get("FUST_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set FUST_SHARED)")
    return folder


CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, once for all tests."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


_LONG = ("test_pages.py", "test_tune_pages.py", "test_community.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Browsers last, since they leave an event loop in their process, and of them the long files first.

    So of several processes none is left with a long file at the end.
    """
    order = {"api": 0, "compat": 1, "e2e": 3}
    items.sort(key=lambda item: (order.get(item.path.parent.name, 2), item.path.name not in _LONG))
