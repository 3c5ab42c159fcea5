"""Texts from strangers in every place that shows them, in a real browser: nothing runs, nothing is fetched from elsewhere."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import make_repo, serve_model, sign_in
from tests.support.small_models import write_llama

pytestmark = [pytest.mark.e2e, pytest.mark.faults]

EVIL = "https://evil.example"
PAYLOADS = [
    "<img src=x onerror=window.pwned=1>",
    '"><svg onload=window.pwned=2>',
    "'-window.pwned=3-'",
    "</title></textarea></script><script>window.pwned=4</script>",
    "<iframe srcdoc='<script>parent.pwned=5</script>'></iframe>",
    f"<img src={EVIL}/a.png>",
    f"[x](javascript:window.pwned=6) ![y]({EVIL}/b.png) <{EVIL}/c>",
    "{{constructor.constructor('window.pwned=7')()}}${window.pwned=8}",
    "&lt;img src=x onerror=window.pwned=9&gt;",
    "<a href=javascript:window.pwned=10>x</a><form action=//evil.example><button>y</button></form>",
    "\u202e<b onmouseover=window.pwned=11>z</b>",
    "<math><mi//xlink:href='data:x,<script>window.pwned=12</script>'>",
]
CARD = (
    '---\nlicense: "' + PAYLOADS[0] + "\"\ntags: ['" + PAYLOADS[3].replace("'", "") + "']\n"
    'pipeline_tag: "<svg onload=window.pwned=20>"\n---\n# Card\n\n'
    + "\n\n".join(PAYLOADS)
    + f"""

```mermaid
graph TD; A["<img src=x onerror=window.pwned=21>"] --> B; click A "javascript:window.pwned=22"
```

```html
<script>window.pwned = 23</script>
```

<svg xmlns="http://www.w3.org/2000/svg"><a xlink:href="javascript:window.pwned=24"><text>t</text></a>
<foreignObject><iframe src="{EVIL}"></iframe></foreignObject><use href="data:image/svg+xml,x"/></svg>
<img src="data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' onload='window.pwned=25'/>">
<a href="data:text/html,<script>window.pwned=26</script>" id=click>data</a>
<a href="&#106;avascript:window.pwned=27">entity</a> <a href="java\tscript:window.pwned=28">tab</a>
<video src={EVIL}/v onerror=window.pwned=29></video><audio autoplay src={EVIL}/a></audio>
<input autofocus onfocus=window.pwned=30><template><script>window.pwned=31</script></template>
<noscript><p title="</noscript><img src=x onerror=window.pwned=32>"></noscript>
<style>@import '{EVIL}/x.css'; * {{ background: url({EVIL}/y) }}</style>
[ref]: javascript:window.pwned=33 "t"
[by reference][ref] <javascript:window.pwned=34>

The end of the card.
"""
)


class Trap:
    """A page with everything watched that an attack would do."""

    def __init__(self, context: Any, origin: str) -> None:
        self.outside: list[str] = []
        self.dialogs: list[str] = []
        self.page = context.new_page()
        self._origin = origin
        context.on("request", lambda request: self._seen(request.url))
        self.page.on("dialog", self._dialog)

    def _seen(self, url: str) -> None:
        if not url.startswith((self._origin + "/", "data:", "blob:", "about:")):
            self.outside.append(url)

    def _dialog(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def visit(self, path: str, wanted: str | None = None) -> None:
        """Opens a place, follows what can be clicked without leaving, and checks that nothing happened."""
        self.page.goto(path)
        self.page.locator("main h1").first.wait_for()
        if wanted:
            expect(self.page.locator("body")).to_contain_text(wanted)
        expect(self.page.locator(".waiting")).to_have_count(0)
        self.check(path)

    def check(self, where: str) -> None:
        """Fails when something ran or was asked for elsewhere."""
        self.page.wait_for_timeout(150)
        for frame in self.page.frames:
            assert frame.evaluate("window.pwned") is None, where
        assert self.outside == [], where
        assert self.dialogs == [], where
        bad = "main iframe, main script, main object, main embed, main form[action*='evil'], main [onerror], main [onload], main a[href^='javascript' i], main a[href^='data:' i]"
        assert self.page.locator(bad).count() == 0, where


@pytest.fixture
def trap(browser: Any, page_server: Any) -> Iterator[Trap]:
    context = browser.new_context(base_url=page_server.url, locale="en-GB", reduced_motion="reduce")
    context.set_default_timeout(15_000)
    sign_in(context, page_server)
    yield Trap(context, page_server.url)
    context.close()


@pytest.fixture(scope="module")
def infested(page_server: Any) -> str:
    """A repo whose card, file names, folder names, commit messages and file contents attack."""
    repo = "admin/infested"
    make_repo(page_server, repo, "model", CARD)
    make_repo(page_server, repo, "dataset", CARD)
    for number, text in enumerate(PAYLOADS):
        name = text.replace("/", "∕").replace("\\", "") + f"-{number}.md"
        for kind in ("models", "datasets"):
            lines = [
                {"key": "header", "value": {"summary": text, "description": CARD}},
                {
                    "key": "file",
                    "value": {
                        "path": f"data/{name}",
                        "encoding": "base64",
                        "content": base64.b64encode(text.encode()).decode(),
                    },
                },
                {
                    "key": "file",
                    "value": {"path": f"rows{number}.jsonl", "encoding": "utf-8", "content": rows(text)},
                },
                {"key": "file", "value": {"path": name, "encoding": "utf-8", "content": CARD}},
            ]
            body = "\n".join(json.dumps(line) for line in lines).encode()
            status, _, answer = page_server.request("POST", f"/api/{kind}/{repo}/commit/main", body)
            assert status == 200, answer
    return repo


def rows(text: str) -> str:
    return "\n".join(json.dumps({text: text, "b": [text]}) for _ in range(3))


def test_names_that_would_be_markup_are_refused(page_server: Any) -> None:
    for text in PAYLOADS:
        assert page_server.request("POST", "/api/repos/create", {"name": f"admin/{text}"})[0] == 400
        assert page_server.request("POST", "/fust/v1/users", {"name": text})[0] == 400


def test_cards_files_and_messages(trap: Trap, infested: str, page_server: Any) -> None:
    for kind in ("models", "datasets"):
        trap.visit(f"/{kind}/{infested}", "The end of the card.")
        for link in trap.page.locator(".prose a").all()[:12]:
            address = link.get_attribute("href") or ""
            assert not address.lower().replace("\t", "").strip().startswith(("javascript:", "data:")), address
        trap.page.locator(".prose").hover()
        for tab in ("files", "versions", "use", "history", "preview", "rows"):
            trap.visit(f"/{kind}/{infested}?tab={tab}")
        trap.visit(f"/{kind}/{infested}?tab=files&path={quote('data')}")
    trap.visit("/models")
    trap.visit("/models?search=" + quote(PAYLOADS[0]))


def test_discussions_and_what_requests_change(trap: Trap, infested: str, page_server: Any) -> None:
    base = f"/api/models/{infested}/discussions"
    for text in PAYLOADS:
        body = {"title": text, "description": CARD}
        status, _, answer = page_server.request("POST", base, body)
        assert status == 200, answer
        num = json.loads(answer)["num"]
        assert page_server.request("POST", f"{base}/{num}/title", {"title": text + " again"})[0] == 200
    said = page_server.request("POST", f"{base}/1/comment", {"comment": CARD})[2]
    event = json.loads(said)["newMessage"]["id"]
    edited = page_server.request("POST", f"{base}/1/comment/{event}/edit", {"content": "\n\n".join(PAYLOADS)})
    assert edited[0] == 200
    lines = [{"key": "header", "value": {"summary": PAYLOADS[0], "description": CARD}}]
    for number, text in enumerate(PAYLOADS):
        name = text.replace("/", "∕").replace("\\", "") + f"-{number}.md"
        value = {"path": name, "encoding": "utf-8", "content": CARD + text}
        lines.append({"key": "file", "value": value})
    body = "\n".join(json.dumps(line) for line in lines).encode()
    status, _, answer = page_server.request("POST", f"/api/models/{infested}/commit/main?create_pr=1", body)
    assert status == 200, answer
    num = int(json.loads(answer)["pullRequestUrl"].rpartition("/")[2])
    trap.visit(f"/models/{infested}?tab=community", PAYLOADS[0])
    trap.visit(f"/models/{infested}?tab=community&search={quote(PAYLOADS[0])}&status={quote(PAYLOADS[1])}")
    trap.visit(f"/models/{infested}/discussions/1", "The end of the card.")
    trap.page.get_by_text("One earlier version").click()
    trap.check("earlier version")
    for view in ("talk", "commits", "files"):
        trap.visit(f"/models/{infested}/discussions/{num}?view={view}")
    expect(trap.page.locator("ins").filter(has_text="window.pwned").first).to_be_visible()
    evil = quote(PAYLOADS[0].replace("/", "∕") + "-0.md", safe="")
    trap.visit(f"/models/{infested}/edit/main/{evil}")
    expect(trap.page.get_by_label("Text")).to_have_value(re.compile("window.pwned"))
    trap.visit(f"/models/{infested}/upload/{quote(PAYLOADS[1], safe='')}")


def test_collections_branches_people_and_search(trap: Trap, infested: str, page_server: Any) -> None:
    for text in PAYLOADS:
        body = {"title": text[:60], "namespace": "admin", "description": text[:150]}
        status, _, answer = page_server.request("POST", "/api/collections", body)
        assert status in (200, 409), answer
        slug = json.loads(answer)["slug"]
        item = {"item": {"id": infested, "type": "model"}, "note": text}
        assert page_server.request("POST", f"/api/collections/{slug}/items", item)[0] in (200, 409)
        ref = quote(text, safe="")
        assert page_server.request("POST", f"/api/models/{infested}/branch/{ref}", {})[0] in (200, 400)
        tag = {"tag": text, "message": CARD[:900]}
        assert page_server.request("POST", f"/api/models/{infested}/tag/main", tag)[0] in (200, 400)
    status, _, answer = page_server.request(
        "POST", "/fust/v1/users", {"name": "mallory", "full_name": PAYLOADS[0]}
    )
    assert status in (201, 409), answer
    trap.visit("/collections", PAYLOADS[0])
    trap.visit(f"/collections/{slug}")
    trap.visit("/admin?show=collections", PAYLOADS[0])
    trap.visit("/mallory", PAYLOADS[0])
    trap.visit(f"/models/{infested}/refs")
    trap.visit(f"/models/{infested}/collect")
    trap.visit(f"/models/{infested}?tab=settings")
    trap.visit(f"/search?q={quote(PAYLOADS[0][:20])}")
    for text in PAYLOADS:
        coded = quote(text, safe="")
        for path in (f"/{coded}", f"/search?q={coded}", f"/collections/{coded}/{coded}"):
            trap.page.goto(path)
        for part in ("compare", "history", "edit", "delete", "upload", "discussions"):
            trap.page.goto(f"/models/{infested}/{part}/{coded}/{coded}")
        trap.check(text)


def test_addresses(trap: Trap) -> None:
    for text in PAYLOADS:
        coded = quote(text, safe="")
        for path in (
            f"/{coded}",
            f"/models/{coded}/{coded}",
            f"/datasets/a/{coded}",
            f"/jobs/{coded}",
            f"/models?search={coded}&sort={coded}#{coded}",
            f"/chat?model={coded}#{coded}",
            f"/?code_error={coded}",
        ):
            trap.page.goto(path)
        trap.check(text)


def test_raw_files_do_not_run(trap: Trap, page_server: Any) -> None:
    page_server.request("POST", "/api/repos/create", {"name": "admin/raw"})
    for name, text in (
        ("a.html", "<script>window.pwned=1</script>"),
        ("a.svg", "<svg xmlns='http://www.w3.org/2000/svg'><script>window.pwned=1</script></svg>"),
        (
            "a.xml",
            "<?xml version='1.0'?><html xmlns='http://www.w3.org/1999/xhtml'><script>window.pwned=1</script></html>",
        ),
    ):
        lines = [
            {"key": "header", "value": {"summary": "x"}},
            {"key": "file", "value": {"path": name, "encoding": "utf-8", "content": text}},
        ]
        body = "\n".join(json.dumps(line) for line in lines).encode()
        assert page_server.request("POST", "/api/models/admin/raw/commit/main", body)[0] == 200
        for word in ("resolve", "raw"):
            address = f"/admin/raw/{word}/main/{name}"
            trap.page.goto("/models")
            found = trap.page.evaluate(
                """address => new Promise(done => {
                    const frame = document.createElement('iframe'); frame.src = address;
                    frame.onload = () => done(String(window.pwned)); document.body.append(frame);
                    setTimeout(() => done(String(window.pwned)), 700); })""",
                address,
            )
            assert found == "undefined", address
            headers = page_server.request("GET", address)[1]
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["content-disposition"].startswith("attachment")


def test_keys_and_jobs(trap: Trap, page_server: Any) -> None:
    made = [page_server.request("POST", "/fust/v1/tokens", {"name": text[:100]})[0] for text in PAYLOADS]
    assert set(made) <= {201, 400} and made.count(201) > 5
    runs: list[str] = []
    for text in PAYLOADS[:6]:
        params = {"repo_id": f"nobody/{text}", "source": page_server.url, "files": [text], "revision": text}
        status, _, body = page_server.request("POST", "/fust/v1/runs", {"kind": "pull", "params": params})
        if status == 201:
            runs.append(json.loads(body)["id"])
    params = {"repo_id": "nobody/nothing", "source": page_server.url, "revision": PAYLOADS[0]}
    status, _, body = page_server.request("POST", "/fust/v1/runs", {"kind": "pull", "params": params})
    runs += [json.loads(body)["id"]] if status == 201 else []
    assert runs
    end = time.monotonic() + 60
    for run in runs:  # what a run printed is shown as well
        log = page_server.home / "runs" / run / "log.txt"
        while json.loads(page_server.request("GET", f"/fust/v1/runs/{run}")[2])["state"] in (
            "queued",
            "running",
        ):
            assert time.monotonic() < end
            time.sleep(0.1)
        names = [p.name for p in log.parent.iterdir()]
        for name in names:
            if "log" in name:
                with (log.parent / name).open("a") as file:
                    file.write("\n".join(PAYLOADS) + "\x1b]8;;javascript:window.pwned=1\x07x\x1b]8;;\x07\n")
    trap.visit("/keys")
    trap.visit("/jobs")
    for run in runs[:3]:
        trap.visit(f"/jobs/{run}")
        for opened in trap.page.locator("summary, [role=tab]").all():
            opened.click()
        expect(trap.page.locator("main")).to_contain_text("window.pwned")
        trap.check(run)


def test_what_a_model_says(trap: Trap, page_server: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A model that says nothing but attacks; the stream is written here, since small models talk less sense than that."""
    file = write_llama(tmp_path_factory.mktemp("evil") / "evil.gguf", context=512)
    serve_model(page_server, file)

    def answer(route: Any) -> None:
        pieces = [CARD[i : i + 23] for i in range(0, len(CARD), 23)]
        chunks = [
            {"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]}
            for piece in pieces
        ]
        events = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
        route.fulfill(status=200, content_type="text/event-stream", body=events)

    trap.page.route("**/v1/chat/completions", answer)
    trap.visit("/chat")
    box = trap.page.get_by_role("textbox", name="Your message")
    box.fill(CARD[:3000])
    box.press("Enter")
    expect(trap.page.locator("main")).to_contain_text("The end of the card.", timeout=15_000)
    trap.check("chat")
    trap.page.reload()
    trap.page.locator("main h1").first.wait_for()
    trap.check("chat, again")


def shown(texts: list[str]) -> list[str]:
    """Those that may be shown as a name: on one line, of characters that can be seen."""
    return [text for text in texts if text.isprintable()]


def test_people_organisations_settings_and_the_audit(trap: Trap, page_server: Any) -> None:
    """Names that people give themselves and others, notes of invitations, what browsers call themselves."""
    names = shown(PAYLOADS)
    assert len(names) > 9
    for number, text in enumerate(names):
        user = {"name": f"evil{number}", "full_name": text, "password": "a sentence is good"}
        status, _, answer = page_server.request("POST", "/fust/v1/users", user)
        assert status == 201, answer
        page_server.request(
            "POST", "/fust/v1/users", {"name": text}
        )  # refused; the audit must not draw it either
        made = {"name": f"evil-org-{number}", "display_name": text}
        assert page_server.request("POST", "/fust/v1/organisations", made)[0] == 201
        member = f"/fust/v1/organisations/evil-org-{number}/members/evil{number}"
        assert page_server.request("PUT", member, {"role": "write"})[0] in (200, 201, 204)
        note = {"note": text, "organisation": f"evil-org-{number}", "role": "read"}
        assert page_server.request("POST", "/fust/v1/invitations", note)[0] == 201
    for text in PAYLOADS:
        body = {"name": text, "password": text}
        page_server.request("POST", "/fust/v1/session", body, token=None)
    evil = names[0]
    assert page_server.request("PATCH", "/fust/v1/users/admin", {"full_name": evil})[0] == 200
    page_server.request("PUT", "/fust/v1/users/evil0/password", {"password": "a sentence is good 2"})
    try:
        trap.visit("/people", evil)
        for opened in trap.page.locator("main summary").all():
            opened.click()
        trap.check("people, opened")
        trap.visit("/organisations", evil)
        for number in range(3):
            trap.visit(f"/organisations/evil-org-{number}", names[number])
        trap.page.get_by_label("Add someone who has an account").fill("evil")
        expect(trap.page.locator("datalist option")).not_to_have_count(0)
        trap.check("people offered")
        trap.visit("/settings")
        expect(trap.page.get_by_label("Name in full")).to_have_value(evil)
        trap.check("settings")
        trap.visit("/audit", evil)
        trap.visit("/audit?text=" + quote(evil), evil)
        trap.visit("/audit?action=session.refuse")
        trap.visit(f"/audit?user={quote(evil)}&action={quote(evil)}")
        trap.visit("/", None)
    finally:
        page_server.request("PATCH", "/fust/v1/users/admin", {"full_name": ""})


def test_what_a_browser_calls_itself(trap: Trap, page_server: Any) -> None:
    for text in PAYLOADS:
        headers = {"user-agent": text.encode("ascii", "replace").decode(), "origin": page_server.url}
        body = {"token": page_server.token}
        assert page_server.request("POST", "/fust/v1/session", body, token=None, headers=headers)[0] == 200
    trap.visit("/settings")
    rows = trap.page.get_by_role("table").get_by_role("row")
    assert rows.count() > len(PAYLOADS)
    for row in rows.all()[:6]:
        row.hover()
    trap.check("browsers")


def test_notices_and_needs(trap: Trap, page_server: Any) -> None:
    """A run that failed tells of itself at the bell and on the first page."""
    for text in PAYLOADS[:4]:
        params = {"repo_id": "nobody/nothing", "source": page_server.url, "revision": text}
        page_server.request("POST", "/fust/v1/runs", {"kind": "pull", "params": params})
    end = time.monotonic() + 60
    while any(
        run["state"] in ("queued", "running")
        for run in json.loads(page_server.request("GET", "/fust/v1/runs?limit=50")[2])["items"]
    ):
        assert time.monotonic() < end
        time.sleep(0.2)
    trap.visit("/")
    trap.page.get_by_role("button", name="Notifications").click()
    expect(trap.page.locator(".news li").first).to_be_visible()
    trap.check("the bell")
    trap.visit("/health")


def test_discussions_and_collections(trap: Trap, infested: str, page_server: Any) -> None:
    """Titles and comments of discussions, collections and what they say of their items."""
    for text in PAYLOADS:
        body = {"title": text[:190], "description": CARD, "pull_request": False}
        status, _, answer = page_server.request("POST", f"/api/models/{infested}/discussions", body)
        assert status in (200, 400), answer
        if status == 200:
            number = json.loads(answer)["num"]
            comment = f"/api/models/{infested}/discussions/{number}/comment"
            assert page_server.request("POST", comment, {"comment": f"{text}\n\n{CARD}"})[0] == 200
    found = json.loads(page_server.request("GET", f"/api/models/{infested}/discussions")[2])["discussions"]
    assert len(found) > 9
    for text in PAYLOADS[:4]:
        item = {"type": "model", "id": infested, "note": text}
        body = {"title": f"2 {text[:50]}", "description": text[:100], "namespace": "admin", "item": item}
        status, headers, answer = page_server.request("POST", "/api/collections", body)
        assert status in (200, 201, 400), answer
        assert headers["content-type"].startswith("application/json")
    trap.visit(f"/models/{infested}?tab=community")
    trap.visit(f"/models/{infested}/discussions")
    for talk in found[:4]:
        trap.visit(f"/models/{infested}/discussions/{talk['num']}", "The end of the card.")
        for opened in trap.page.locator("main summary").all():
            opened.click()
        trap.check(str(talk["num"]))
    # As documents of their own they are data, and no page: a browser that is led there draws nothing of them.
    for address in (f"/api/models/{infested}/discussions/{found[0]['num']}", "/api/collections?owner=admin"):
        headers = page_server.request("GET", address)[1]
        assert headers["content-type"].startswith("application/json")
        assert headers["x-content-type-options"] == "nosniff"
        trap.page.goto(address)
        assert trap.page.evaluate("window.pwned") is None
