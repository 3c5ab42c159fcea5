"""Static spaces in a real browser: their pages draw, and are nobody here."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import commit_file, make_repo, sign_in

pytestmark = pytest.mark.e2e

INDEX = """<!doctype html><html lang=en><meta charset=utf-8><title>Quiz</title>
<link rel=stylesheet href=look/style.css><h1>Quiz – 测验</h1><img id=pic src=pic.svg alt=""><p id=said></p>
<script>window.classic = 1</script><script type=module src=app.js></script>"""

APP = """import { word } from "./part.js";
const said = { word, classic: window.classic };
const attempt = async (name, work) => {
  try { said[name] = await work(); } catch (error) { said[name] = error.name; }
};
const post = (path, body) => fetch(path, { method: "POST", mode: "no-cors", credentials: "include", body });
await attempt("data", async () => (await (await fetch("data.json")).json()).rows);
await attempt("picture", async () => (await document.getElementById("pic").decode(), "drawn"));
await attempt("cookie", () => document.cookie);
await attempt("storage", () => localStorage.length);
await attempt("parent", () => top === window ? "SecurityError" : parent.document.title);
await attempt("top", () => { if (top === window) throw new DOMException("", "SecurityError"); top.location.href = "/keys"; });
await attempt("session", async () => (await fetch("/fust/v1/session", { credentials: "include" })).text());
await attempt("page", async () => (await fetch("/", { credentials: "include" })).text());
await attempt("like", async () => (await post("/api/spaces/admin/quiz/like", "")).type);
await attempt("key", async () => (await post("/fust/v1/tokens", '{"name":"stolen","scope":"admin"}')).type);
await attempt("form", () => {
  const form = document.createElement("form");
  const sink = document.createElement("iframe");
  sink.name = form.target = "sink";
  Object.assign(form, { method: "post", action: "/api/spaces/admin/quiz/like" });
  document.body.append(form, sink);
  form.submit();
  return new Promise((done) => setTimeout(done, 300, "sent"));
});
document.getElementById("said").textContent = JSON.stringify(said);
"""


@pytest.fixture(scope="module")
def quiz(page_server: Any) -> str:
    """A static space of several files, whose script tries what it must not."""
    make_repo(page_server, "admin/quiz", "space", "---\nsdk: static\n---\n# A quiz\n")
    for path, text in (
        ("index.html", INDEX),
        ("app.js", APP),
        ("part.js", "export const word = 'module';"),
        ("look/style.css", "h1 { color: rgb(1, 2, 3) }"),
        ("data.json", '{"rows": 3}'),
        (
            "pic.svg",
            "<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'><rect width='9' height='9'/></svg>",
        ),
        ("sub/index.html", "<p>a folder</p>"),
    ):
        commit_file(page_server, "admin/quiz", "space", path, text)
    return "admin/quiz"


@pytest.fixture
def page(browser: Any, page_server: Any) -> Any:
    """A page of the administrator's. Not `open_page`: what this space tries is told in the console."""
    context = browser.new_context(base_url=page_server.url, viewport={"width": 1280, "height": 900})
    sign_in(context, page_server)
    yield context.new_page()
    context.close()


def keys_of(server: Any) -> set[str]:
    return {item["name"] for item in json.loads(server.request("GET", "/fust/v1/tokens")[2])["items"]}


@pytest.mark.parametrize("way", ["in its page", "in a tab"])
def test_pages_of_a_static_space_draw_and_are_nobody(
    page: Any, page_server: Any, quiz: str, way: str
) -> None:
    page.goto(f"/spaces/{quiz}?tab=app")
    expect(page.locator(".app iframe")).to_be_visible()
    if way == "in a tab":
        page.goto(page.locator(".app iframe").get_attribute("src"))
        shown = page
    else:
        shown = page.frame_locator(".app iframe")
    expect(shown.locator("h1")).to_have_text("Quiz – 测验")
    expect(shown.locator("h1")).to_have_css("color", "rgb(1, 2, 3)")
    expect(shown.locator("#said")).not_to_be_empty()
    said = json.loads(shown.locator("#said").inner_text())
    assert said == {
        "word": "module",
        "classic": 1,
        "data": 3,
        "picture": "drawn",
        "cookie": "SecurityError",
        "storage": "SecurityError",
        "parent": "SecurityError",
        "top": "SecurityError",
        "session": "TypeError",  # no other origin reads our answers
        "page": "TypeError",
        "like": "opaque",  # sent, and refused: nobody sent it
        "key": "opaque",
        "form": "sent",
    }
    assert page.url.endswith("?tab=app" if way == "in its page" else "/index.html"), "it did not lead us away"
    found = json.loads(page_server.request("GET", f"/api/spaces/{quiz}")[2])
    assert found["likes"] == 0 and "stolen" not in keys_of(page_server)


def test_what_opens_the_pages_is_the_address_alone(page: Any, page_server: Any, quiz: str) -> None:
    def app() -> str:
        return "/" + json.loads(page_server.request("GET", f"/fust/v1/repos/space/{quiz}/app")[2])["path"]

    address = app()
    status, headers, body = page_server.request("GET", address, token=None)
    assert status == 200 and body.decode() == INDEX
    assert headers["content-security-policy"].startswith("sandbox allow-scripts ")
    assert "allow-same-origin" not in headers["content-security-policy"]
    assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
    folder = address.removesuffix("index.html")
    assert page_server.request("GET", folder, token=None)[2].decode() == INDEX
    assert page_server.request("GET", folder + "sub/", token=None)[2] == b"<p>a folder</p>"
    assert page_server.request("HEAD", folder + "app.js", token=None)[1]["content-type"].startswith(
        "text/javascript"
    )
    same = page_server.request("GET", address, token=None, headers={"if-none-match": headers["etag"]})
    assert same[0] == 304 and "sandbox" in same[1]["content-security-policy"]
    for wrong in (
        address.replace("/static/", "/static/x"),
        "/static/x/index.html",
        "/static/%C3%A9/index.html",
        folder + "none.html",
        folder + "../x",
    ):
        status, headers, _ = page_server.request("GET", wrong, token=None)
        assert status in (403, 404) and headers["content-type"].startswith("text/plain"), wrong
    commit_file(page_server, quiz, "space", "index.html", INDEX + "<p>newer</p>")
    assert page_server.request("GET", address, token=None)[2].decode() == INDEX, "a ticket is for one commit"
    assert b"newer" in page_server.request("GET", app(), token=None)[2]
    # Whose key ends loses what it opened.
    made = json.loads(page_server.request("POST", "/fust/v1/tokens", {"name": "brief", "scope": "read"})[2])
    path = f"/fust/v1/repos/space/{quiz}/app"
    brief = "/" + json.loads(page_server.request("GET", path, token=made["token"])[2])["path"]
    assert page_server.request("GET", brief, token=None)[0] == 200
    assert page_server.request("DELETE", f"/fust/v1/tokens/{made['id']}")[0] == 204
    assert page_server.request("GET", brief, token=None)[0] == 403


def test_a_space_without_a_first_page_says_what_to_do(
    open_page: Callable[..., Any], page_server: Any
) -> None:
    make_repo(page_server, "admin/empty-space", "space", "---\nsdk: static\napp_file: start.html\n---\n")
    page = open_page("spaces/admin/empty-space?tab=app")
    expect(page.get_by_text("The first page is not here yet.")).to_be_visible()
    commit_file(page_server, "admin/empty-space", "space", "start.html", "<h1>Begun</h1>")
    page.reload()
    expect(page.frame_locator(".app iframe").locator("h1")).to_have_text("Begun")
