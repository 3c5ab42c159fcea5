"""Secrets stay where they belong: real flows with marked ones, then everything that others could read is searched."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psutil
import pytest

from tests.conftest import RunningFust, start_fust
from tests.support.small_models import write_llama

pytestmark = pytest.mark.faults
UPSTREAM = "hf_UpstreamSecretThatMustNotShow0123456789"
PASSWORD = "Passphrase-that-must-not-show-4711"
WRONG = "fust_WrongTokenThatMustNotShow0123456789abc"
PROMPT = "PromptThatMustNotShow of somebody"


@dataclass
class Flows:
    """What was done: the secrets used, the answers that came, the command lines that were seen."""

    server: RunningFust
    secrets: dict[str, str] = field(default_factory=dict)
    answers: list[bytes] = field(default_factory=list)
    commands: set[str] = field(default_factory=set)

    def ask(
        self, method: str, path: str, body: object = None, **more: Any
    ) -> tuple[int, dict[str, str], bytes]:
        """Sends a request and keeps its answer, unless it is the one that hands a secret over."""
        status, headers, answer = self.server.request(method, path, body, **more)
        if not (status < 300 and method == "POST" and path.endswith(("/tokens", "/open"))):
            self.answers.append(json.dumps(headers).encode() if "set-cookie" not in headers else b"")
            self.answers.append(answer)
        return status, headers, answer

    def leaked(self, text: str | bytes) -> list[str]:
        """Returns the names of the secrets that stand in a text, as they are or in base64."""
        data = text.encode() if isinstance(text, str) else text
        return [
            name
            for name, secret in self.secrets.items()
            if secret.encode() in data or base64.b64encode(secret.encode()).rstrip(b"=") in data
        ]


@pytest.fixture(scope="module")
def flows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flows]:
    home = tmp_path_factory.mktemp("secrets") / "home"
    server = start_fust(home, pull__token=UPSTREAM, log__level="debug")
    done = Flows(server, {"administrator's token": server.token, "upstream token": UPSTREAM})
    done.secrets |= {"password": PASSWORD, "wrong token": WRONG, "prompt": PROMPT}
    stop = threading.Event()
    watcher = threading.Thread(target=watch, args=(done, stop))
    watcher.start()
    try:
        work(done, tmp_path_factory.mktemp("work"))
        stop.set()
        watcher.join()
        yield done
    finally:
        stop.set()
        server.stop()


def watch(flows: Flows, stop: threading.Event) -> None:
    process = psutil.Process(flows.server.process.pid)
    while not stop.wait(0.02):
        for each in [process, *process.children(recursive=True)]:
            try:
                flows.commands.add(" ".join(each.cmdline()))
            except psutil.Error:
                continue


def work(flows: Flows, folder: Path) -> None:
    """Signs in every way, makes keys, pulls, clones, serves, chats, and fails at all of it too."""
    server, ask = flows.server, flows.ask
    assert ask("POST", "/fust/v1/users", {"name": "eve", "password": PASSWORD})[0] == 201
    _, headers, _ = ask("POST", "/fust/v1/session", {"name": "eve", "password": PASSWORD}, token=None)
    cookie = headers["set-cookie"].split(";")[0]
    flows.secrets["session"] = cookie.partition("=")[2]
    own = {"cookie": cookie, "origin": server.url}
    made = json.loads(
        ask("POST", "/fust/v1/tokens", {"name": "k", "scope": "write"}, token=None, headers=own)[2]
    )
    flows.secrets["user's token"] = made["token"]
    flows.secrets["sign-in code"] = parse_qs(urlsplit(server.open_link()).query)["code"][0]
    code = parse_qs(urlsplit(server.open_link()).query)["code"][0]
    flows.secrets["used sign-in code"] = code
    ask("POST", "/fust/v1/session", {"code": code}, token=None)
    for _ in range(2):  # spent by now: its refusal must not repeat it
        ask("POST", "/fust/v1/session", {"code": code}, token=None)
        ask("GET", f"/?code={code}", token=None)
    for body in (
        {"token": WRONG},
        {"token": server.token, "more": PASSWORD},
        {"name": "eve", "password": PASSWORD + "x"},
        {"name": PASSWORD, "password": PASSWORD},
        {"password": [PASSWORD]},
        {"name": "eve", "password": PASSWORD, "code": {"x": server.token}},
        f'{{"password": "{PASSWORD}", oops'.encode(),
    ):
        ask("POST", "/fust/v1/session", body, token=None)
    for path in ("/fust/v1/status", "/api/whoami-v2", "/v1/models", "/metrics", "/admin/x/resolve/main/y"):
        ask("GET", path, token=WRONG)
        ask("GET", path, token=None, headers={"x-api-key": WRONG})
        ask("GET", path, token=None, headers={"authorization": WRONG})
        ask("GET", path, token=None, headers={"cookie": f"fust_session={WRONG}"})
    ask("GET", "/fust/v1/config")
    ask("GET", "/fust/v1/doctor")
    ask("GET", "/fust/v1/status")
    ask("GET", "/metrics")
    # Jobs with the upstream's token: one that fails, one that works.
    model = write_llama(folder / "tiny.gguf", context=128)
    assert server.cli("serve", str(model), "--json").returncode == 0
    for params in (
        {"repo_id": "nobody/nothing", "source": server.url},
        {"repo_id": "local/tiny", "source": server.url, "to": "admin/copy"},
    ):
        _, _, answer = ask("POST", "/fust/v1/runs", {"kind": "pull", "params": params})
        run = json.loads(answer)["id"]
        end = time.monotonic() + 60
        while json.loads(ask("GET", f"/fust/v1/runs/{run}")[2])["state"] in ("queued", "running"):
            assert time.monotonic() < end
            time.sleep(0.1)
        ask("GET", f"/fust/v1/runs/{run}/log")
        ask("GET", f"/fust/v1/runs/{run}/events")
    host = server.url.removeprefix("http://")
    for secret in (server.token, WRONG):
        git = [
            "git",
            "clone",
            "-q",
            f"http://x:{secret}@{host}/local/tiny.git",
            str(folder / f"c{secret[-4:]}"),
        ]
        subprocess.run(git, capture_output=True, env={**server.environ, "GIT_TERMINAL_PROMPT": "0"})
    chat = {"model": "local/tiny", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 3}
    ask("POST", "/v1/chat/completions", chat)
    ask("POST", "/v1/chat/completions", {**chat, "stream": True})
    ask("POST", "/v1/chat/completions", {**chat, "model": "none/such"})
    ask("POST", "/v1/chat/completions", chat, token=WRONG)


def test_logs_and_run_folders(flows: Flows) -> None:
    searched = 0
    for root in ("log", "runs", "engines"):
        for path in (flows.server.home / root).rglob("*"):
            if path.is_file():
                searched += 1
                data = path.read_bytes()
                if (
                    root == "runs"
                ):  # the run's own folder is its owner's: only secrets of others are none of its
                    assert path.stat().st_mode & 0o077 == 0 or not flows.leaked(data), path
                assert not flows.leaked(data), path
    assert searched > 3


def test_answers(flows: Flows) -> None:
    assert len(flows.answers) > 60
    for answer in flows.answers:
        found = flows.leaked(answer)
        assert not found, (found, answer[:300])


def test_command_lines(flows: Flows) -> None:
    assert any("fust.app.worker" in command for command in flows.commands)
    assert any("llamacpp_child" in command for command in flows.commands)
    for command in flows.commands:
        assert not flows.leaked(command), command


def test_the_home(flows: Flows) -> None:
    """The database holds hashes; what holds a secret can be read by its owner only."""
    for path in flows.server.home.rglob("*"):
        if not path.is_file() or path.is_symlink():
            continue
        found = flows.leaked(path.read_bytes())
        assert not set(found) - {"administrator's token"}, (path, found)
        if found:
            assert path.name == "token" and path.stat().st_mode & 0o077 == 0


def test_environments_are_the_owner_s(flows: Flows) -> None:
    """Linux shows a process's environment to its owner only; engines, which read strangers' files, get no secret."""
    process = psutil.Process(flows.server.process.pid)
    for child in process.children(recursive=True):
        if "llamacpp_child" in " ".join(child.cmdline()):
            assert not flows.leaked(json.dumps(child.environ()))


@pytest.mark.e2e
def test_the_page_keeps_none(flows: Flows, browser: Any) -> None:
    server = flows.server
    link = server.open_link()
    flows.secrets["code of the link"] = parse_qs(urlsplit(link).query)["code"][0]
    for enter in (by_link(link), by_token(server.token), by_password):
        context = browser.new_context(base_url=server.url, locale="en-GB")
        page = context.new_page()
        asked: list[str] = []
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        enter(page)
        page.get_by_role("navigation", name="Sections").wait_for()
        (cookie,) = (it for it in context.cookies() if it["name"] == "fust_session")
        assert cookie["httpOnly"] and cookie["sameSite"] == "Strict"
        flows.secrets["this session"] = cookie["value"]
        for place in ("/", "/models", "/chat", "/jobs", "/keys"):
            page.goto(place)
            page.locator("main h1").first.wait_for()
            assert not flows.leaked(kept_by(page)), (place, kept_by(page)[:500])
            assert not flows.leaked(page.content()), place
            assert not flows.leaked(page.url)
        first = link if enter is not by_password else ""
        assert not [url for url in asked if url != first and flows.leaked(url)]
        page.go_back()
        assert not flows.leaked(page.url)
        context.close()


def by_link(link: str) -> Callable[[Any], None]:
    return lambda page: page.goto(link)


def by_token(token: str) -> Callable[[Any], None]:
    def enter(page: Any) -> None:
        page.goto("/")
        page.get_by_label("Access token").fill(token)
        page.get_by_label("Access token").press("Enter")

    return enter


def by_password(page: Any) -> None:
    page.goto("/")
    page.get_by_label("Name", exact=True).fill("eve")
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_label("Password", exact=True).press("Enter")


def kept_by(page: Any) -> str:
    """Returns all that the page keeps in the browser and that its scripts can read."""
    return page.evaluate(
        """async () => {
            const kept = {local: {...localStorage}, session: {...sessionStorage}, cookie: document.cookie,
                          name: window.name, state: history.state, databases: [], caches: []};
            for (const {name} of await indexedDB.databases()) kept.databases.push(name);
            if (window.caches) for (const name of await caches.keys()) kept.caches.push(name);
            return JSON.stringify(kept); }"""
    )
