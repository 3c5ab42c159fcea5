"""Fixtures for the page: one Chromium, a signed-in page, a repository whose card attacks."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.conftest import start_fust
from tests.support.small_models import write_llama

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

AXE = Path(__file__).resolve().parents[2] / "ui/node_modules/axe-core/axe.min.js"

HOSTILE_CARD = """---
license: apache-2.0
---
# A card that attacks

<script>window.pwned = "script"</script>
<img src=x onerror="window.pwned = 'onerror'">
<svg onload="window.pwned = 'svg'"><animate onbegin="window.pwned = 'animate'" /></svg>
<style>body { display: none } @import url(https://evil.example/x.css);</style>
<link rel=stylesheet href="https://evil.example/x.css"><base href="https://evil.example/">
<meta http-equiv=refresh content="0;url=https://evil.example/">
<form action="https://evil.example/"><input name=token><button id=bait>Sign in</button></form>
<iframe src="https://evil.example/"></iframe><object data="https://evil.example/"></object>
<div style="position:fixed;inset:0;background:red" onclick="window.pwned='click'" id=main class=skip>styled</div>
<details open ontoggle="window.pwned='toggle'"><summary>s</summary></details>
<math><mtext><style><img src=x onerror="window.pwned='mxss'"></style></mtext></math>
[a trap](javascript:window.pwned=1) [data](data:text/html,<script>1</script>)
<a href="jAvAsCrIpT:window.pwned=1" target=_self>mixed</a> <a href="//evil.example/x">other host</a>
![remote](https://evil.example/logo.png) ![up](../../../../fust/v1/session)

| a | b |
|---|---:|
| a wide cell that goes on and on and on and on and on and on and on | 1 |

The end of the card.
"""


@pytest.fixture(scope="session")
def page_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server for all tests of the page."""
    running = start_fust(tmp_path_factory.mktemp("page") / "home")
    yield running
    running.stop()


Axe = Callable[..., list[str]]


@pytest.fixture(scope="session")
def axe() -> Axe:
    """What axe calls serious or critical in a page, as lines; with names of rules only these are looked at."""
    if not AXE.is_file():
        pytest.skip("axe-core is not installed (cd ui && npm ci)")
    source = AXE.read_text()

    def faults_of(page: Any, *rules: str) -> list[str]:
        page.evaluate(source)
        chosen = {"runOnly": list(rules)} if rules else {}
        found = page.evaluate("chosen => axe.run({resultTypes: ['violations'], ...chosen})", chosen)
        return [
            f"{fault['id']} at {[node['target'] for node in fault['nodes'][:3]]}"
            for fault in found["violations"]
            if fault["impact"] in ("serious", "critical")
        ]

    return faults_of


class Watch:
    """What a page did that it must not: requests to other origins, script errors, refusals of the content policy."""

    def __init__(self, page: Any, origin: str) -> None:
        self.outside: list[str] = []
        self.faults: list[str] = []
        page.on("request", lambda request: self._request(request.url, origin))
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", lambda message: self._console(message, page))

    def _request(self, url: str, origin: str) -> None:
        if not url.startswith((origin + "/", "data:", "blob:")):
            self.outside.append(url)

    def _console(self, message: Any, page: Any) -> None:
        # Answers of 4xx are logged by the browser as well; they are part of some tests. So is what the browser refuses of
        # the hostile card while the cleaner reads it, in a document that runs nothing.
        text = message.text
        refused = "Content Security Policy" in text or "was not explicitly set" in text
        if (
            message.type != "error"
            or "Failed to load resource" in text
            or (refused and "hostile" in page.url)
        ):
            return
        self.faults.append(text)

    def check(self) -> None:
        """Fails when the page did any of it."""
        assert self.outside == [], "the page asked another origin"
        assert self.faults == [], "the page had errors"


@contextlib.contextmanager
def pages_of(browser: Any, server: Any) -> Iterator[Callable[..., Any]]:
    """Opens pages of a server: `start("models", lang="zh-CN", width=360)`. Checks at the end what they did."""
    contexts: list[Any] = []
    watches: list[Watch] = []

    def start(
        path: str | None = "",
        *,
        lang: str = "en-GB",
        width: int = 1280,
        scheme: str = "light",
        signed_in: bool = True,
        token: str = "",
    ) -> Any:
        context = browser.new_context(
            locale=lang,
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            reduced_motion="reduce",
            base_url=server.url,
        )
        contexts.append(context)
        context.set_default_timeout(15_000)
        page = context.new_page()
        watches.append(Watch(page, server.url))
        if signed_in:
            sign_in(context, server, token)
        if not token:  # an earlier test may have chosen others, which are kept with the account
            looks = {"language": "zh-CN" if lang.startswith("zh") else "en", "theme": "system"}
            assert server.request("PATCH", "/fust/v1/users/admin", looks)[0] == 200
        if path is not None:
            page.goto("/" + path)
        return page

    yield start
    for context in contexts:
        context.close()
    for watch in watches:
        watch.check()


@pytest.fixture
def open_page(browser: Any, page_server: Any) -> Iterator[Callable[..., Any]]:
    """Opens signed-in pages of the module's server; see `pages_of`."""
    with pages_of(browser, page_server) as start:
        yield start


def sign_in(context: Any, server: Any, token: str = "") -> None:
    """Gives the browser a session, as the sign-in form would: the administrator's, or that of a key."""
    answer = context.request.post(
        server.url + "/fust/v1/session",
        data={"token": token or server.token},
        headers={"origin": server.url},
    )
    assert answer.ok, answer.text()


def make_person(server: Any, name: str) -> str:
    """Makes a user and returns a key of theirs that may write."""
    status, _, answer = server.request("POST", "/fust/v1/users", {"name": name})
    assert status in (201, 409), answer
    body = {"name": "page", "scope": "write"}
    status, _, answer = server.request("POST", f"/fust/v1/users/{name}/tokens", body)
    assert status == 201, answer
    return json.loads(answer)["token"]


def commit_file(server: Any, repo_id: str, kind: str, path: str, text: str, revision: str = "main") -> None:
    """Commits one text file through the hub's interface."""
    lines = [
        {"key": "header", "value": {"summary": f"Add {path}", "description": ""}},
        {
            "key": "file",
            "value": {
                "path": path,
                "encoding": "base64",
                "content": base64.b64encode(text.encode()).decode(),
            },
        },
    ]
    body = "\n".join(json.dumps(line) for line in lines).encode()
    status, _, answer = server.request(
        "POST",
        f"/api/{kind}s/{repo_id}/commit/{quote(revision, safe='')}",
        body,
        headers={"content-type": "application/x-ndjson"},
    )
    assert status == 200, answer


def make_repo(server: Any, repo_id: str, kind: str, card: str) -> None:
    """Makes a repository with a card."""
    owner, name = repo_id.split("/")
    status, _, answer = server.request(
        "POST", "/api/repos/create", {"name": name, "organization": owner, "type": kind, "private": False}
    )
    assert status in (200, 201, 409), answer
    commit_file(server, repo_id, kind, "README.md", card)


@pytest.fixture(scope="session")
def hostile(page_server: Any) -> str:
    """A model whose card attacks; returns its id."""
    make_repo(page_server, "admin/hostile", "model", HOSTILE_CARD)
    return "admin/hostile"


def rows_of_questions() -> str:
    """Rows as a tuning set has them, and one that attacks."""
    turns = [
        {"role": "user", "content": "冰为什么会浮?"},
        {"role": "assistant", "content": "Less dense. " * 40},
    ]
    rows: list[dict[str, Any]] = [{"id": i, "messages": turns, "checked": i % 2 == 0} for i in range(120)]
    rows[1] = {
        "id": "<img src=x onerror='window.pwned=1'>",
        "<script>window.pwned=2</script>": "javascript:x",
    }
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.fixture(scope="session")
def dataset(page_server: Any) -> str:
    """A dataset with a card and rows, hostile ones among them; returns its id."""
    make_repo(page_server, "admin/questions", "dataset", "# Questions\n\nOf pupils.\n")
    commit_file(page_server, "admin/questions", "dataset", "data/train.jsonl", rows_of_questions())
    commit_file(
        page_server, "admin/questions", "dataset", "data/words.csv", "word,meaning\nice,solid water\n"
    )
    card = "# Questions\n\nOf pupils of grade 7.\n"
    commit_file(page_server, "admin/questions", "dataset", "README.md", card)
    return "admin/questions"


@pytest.fixture(scope="session")
def failed_run(page_server: Any) -> str:
    """A pull of something that does not exist, ended; returns its id."""
    params = {"repo_id": "nobody/nothing", "source": page_server.url}
    status, _, body = page_server.request("POST", "/fust/v1/runs", {"kind": "pull", "params": params})
    assert status == 201, body
    run_id = json.loads(body)["id"]
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        run = json.loads(page_server.request("GET", f"/fust/v1/runs/{run_id}")[2])
        if run["state"] in ("failed", "succeeded", "cancelled"):
            return run_id
        time.sleep(0.1)
    raise AssertionError("the pull did not end")


def serve_model(server: Any, file: Path) -> dict[str, Any]:
    """Serves a file as a user would; returns the deployment once it is loaded."""
    return json.loads(server.cli("serve", str(file), "--json").stdout)


@pytest.fixture(scope="session")
def model(page_server: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A model of random weights that never finds an end by itself: its context ends it."""
    return serve_model(
        page_server, write_llama(tmp_path_factory.mktemp("talker") / "talker.gguf", context=512)
    )


@pytest.fixture(scope="session")
def mute_model(page_server: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A model without a chat template."""
    file = tmp_path_factory.mktemp("mute") / "mute.gguf"
    return serve_model(page_server, write_llama(file, context=256, chat_template=None))
