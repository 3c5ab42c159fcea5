"""Every page in both languages and themes: accessible, narrow enough, quiet to the outside, and safe to read."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import Axe, make_repo

pytestmark = pytest.mark.e2e

OpenPage = Callable[..., Any]

WANTED = "main h1"


@pytest.fixture(scope="module")
def hub(page_server: Any, dataset: str) -> dict[str, str]:
    """A space and a collection."""
    make_repo(page_server, "admin/app", "space", "---\nsdk: static\n---\n# App\n")
    body = {"title": "Things", "namespace": "admin"}
    slug = json.loads(page_server.request("POST", "/api/collections", body)[2])["slug"]
    item = {"item": {"id": dataset, "type": "dataset"}, "note": "To begin with."}
    assert page_server.request("POST", f"/api/collections/{slug}/items", item)[0] in (200, 409)
    return {"space": "admin/app", "collection": slug}


@pytest.fixture(scope="module")
def places(
    model: dict[str, Any], hostile: str, dataset: str, failed_run: str, hub: dict[str, str]
) -> dict[str, str]:
    """Every kind of page, by name."""
    starter = model["repo_id"]
    return {
        "home": "",
        "models": "models",
        "card": f"models/{starter}",
        "hostile card": f"models/{hostile}",
        "files": f"models/{starter}?tab=files",
        "versions": f"models/{starter}?tab=versions",
        "use": f"models/{starter}?tab=use",
        "missing model": "nobody/nothing",
        "datasets": "datasets",
        "dataset": f"datasets/{dataset}",
        "rows": f"datasets/{dataset}?tab=rows",
        "dataset versions": f"datasets/{dataset}?tab=versions",
        "file": f"datasets/{dataset}/blob/main/data/train.jsonl",
        "commit": f"datasets/{dataset}/commit/main",
        "missing commit": f"datasets/{dataset}/commit/{'0' * 40}",
        "spaces": "spaces",
        "space": f"spaces/{hub['space']}?tab=app",
        "new repository": "new?type=space",
        "collections": "collections",
        "collection": f"collections/{hub['collection']}",
        "profile": "admin",
        "search": "search?q=admin",
        "repo settings": f"datasets/{dataset}?tab=settings",
        "branches": f"datasets/{dataset}/refs",
        "comparison": f"datasets/{dataset}/compare/main...main",
        "history of a file": f"datasets/{dataset}/history/main/README.md",
        "collect": f"datasets/{dataset}/collect",
        "chat": "chat",
        "jobs": "jobs",
        "tune": "tune",
        "job": f"jobs/{failed_run}",
        "keys": "keys",
        "health": "health",
        "deployments": "deployments",
        "deployment": f"deployments/{model['id']}",
        "people": "people",
        "organisations": "organisations",
        "audit": "audit",
        "settings": "settings",
        "reference": "reference",
        "not found": "no/such/page/here",
    }


def settle(page: Any) -> None:
    """Waits until the page has its heading and nothing is awaited."""
    page.locator(WANTED).first.wait_for()
    expect(page.locator(".waiting")).to_have_count(0)


@pytest.mark.parametrize("lang", ["en-GB", "zh-CN"])
def test_axe_finds_nothing_serious(open_page: OpenPage, axe: Axe, places: dict[str, str], lang: str) -> None:
    page = open_page(None, lang=lang)
    found: list[str] = []
    for name, path in places.items():
        page.goto("/" + path)
        settle(page)
        assert page.evaluate("document.documentElement.lang") == ("en" if lang == "en-GB" else "zh-CN")
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme)
            # In the dark, after a look at everything, only colours are new.
            rules = ("color-contrast", "link-in-text-block") if theme == "dark" else ()
            found += [f"{name}, {theme}: {fault}" for fault in axe(page, *rules)]
    assert found == []


@pytest.mark.parametrize("lang", ["en-GB", "zh-CN"])
def test_axe_finds_nothing_serious_at_sign_in(open_page: OpenPage, axe: Axe, lang: str) -> None:
    page = open_page("?code_error=1", lang=lang, signed_in=False)
    settle(page)
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        assert axe(page) == []


@pytest.mark.parametrize(("lang", "width"), [("en-GB", 360), ("zh-CN", 360), ("en-GB", 768)])
def test_no_page_scrolls_sideways(open_page: OpenPage, places: dict[str, str], lang: str, width: int) -> None:
    page = open_page(None, lang=lang, width=width)
    wide: list[str] = []
    for name, path in places.items():
        page.goto("/" + path)
        settle(page)
        if page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
            wide.append(name)
    assert wide == []


def test_a_hostile_card_runs_nothing(open_page: OpenPage, hostile: str) -> None:
    page = open_page(f"models/{hostile}")
    card = page.locator(".prose")
    expect(card).to_contain_text("The end of the card.")
    page.wait_for_timeout(300)
    assert page.evaluate("window.pwned") is None
    assert page.evaluate("document.baseURI").startswith(page.evaluate("location.origin"))
    forbidden = "script,style,link,meta,base,form,input,button,iframe,object,svg,math,[style],[onclick],[onerror],[id]"
    assert card.locator(forbidden).count() == 0
    addresses = card.locator("a").evaluate_all("all => all.map(it => it.href)")
    assert all(it.startswith(("http:", "https:", "mailto:")) for it in addresses), addresses
    sources = card.locator("img").evaluate_all("all => all.map(it => new URL(it.src).pathname)")
    assert all(it.startswith(f"/{hostile}/resolve/") for it in sources), sources
    for link in card.locator("a").all():
        if "evil.example" in (link.get_attribute("href") or ""):
            assert "noopener" in (link.get_attribute("rel") or "")


def test_language_and_theme_persist(open_page: OpenPage) -> None:
    page = open_page("models")
    expect(page.locator("h1")).to_have_text("Models")
    page.get_by_role("button", name="中文").click()
    expect(page.locator("h1")).to_have_text("模型")
    page.get_by_role("button", name="主题").click()  # the system's, then light
    page.get_by_role("button", name="主题").click()  # then dark
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.reload()
    expect(page.locator("h1")).to_have_text("模型")
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == "rgb(22, 23, 25)"
    page.get_by_role("button", name="English").click()
    expect(page.locator("h1")).to_have_text("Models")


def test_the_server_speaks_the_chosen_language(open_page: OpenPage) -> None:
    page = open_page("jobs/nothing", lang="zh-CN")
    english = open_page("jobs/nothing")
    words = [it.get_by_role("alert").locator("p").first.inner_text() for it in (page, english)]
    assert words[0] != words[1]


def test_keys_are_made_shown_once_and_revoked(open_page: OpenPage, page_server: Any) -> None:
    page = open_page("keys")
    page.get_by_label("Name", exact=True).fill("e2e key")
    page.get_by_role("button", name="Make a key").click()
    token = page.locator("code.token").inner_text()
    assert page_server.request("GET", "/v1/models", token=token)[0] == 200
    page.reload()
    row = page.get_by_role("row", name="e2e key")
    row.wait_for()
    assert token not in page.content()
    row.get_by_role("button", name="Revoke").click()
    page.get_by_role("button", name="Revoke e2e key now").click()
    expect(row).to_have_count(0)
    assert page_server.request("GET", "/v1/models", token=token)[0] == 401


def test_the_snippet_carries_a_key_that_works(
    open_page: OpenPage, page_server: Any, model: dict[str, Any]
) -> None:
    page = open_page(f"models/{model['repo_id']}?tab=use")
    page.get_by_role("button", name="Make a key for this model").click()
    token = page.locator("code.token").inner_text()
    code = page.locator("[role=tabpanel] pre:visible")
    expect(code).to_contain_text(token)
    assert page_server.url + "/v1/chat/completions" in code.inner_text()
    page.get_by_role("tab", name="curl").press("ArrowRight")
    expect(page.get_by_role("tab", name="Python")).to_have_attribute("aria-selected", "true")
    assert page_server.request("GET", "/v1/models", token=token)[0] == 200


def test_a_job_is_found_again_after_a_reload(open_page: OpenPage, failed_run: str) -> None:
    page = open_page("jobs")
    page.locator("table a").first.wait_for()
    page.goto(f"/jobs/{failed_run}")
    page.get_by_role("alert").first.wait_for()
    said = page.get_by_role("alert").locator("p").first.inner_text()
    page.reload()
    expect(page.get_by_role("alert").locator("p").first).to_have_text(said)


def test_a_pull_starts_from_the_form(open_page: OpenPage, page_server: Any, hostile: str) -> None:
    page = open_page("jobs")
    page.get_by_label("Name", exact=True).fill("nobody/nothing")
    page.get_by_text("Files, revision, bandwidth, source").click()
    page.get_by_label("From (address of a hub)").fill(page_server.url)
    page.get_by_role("button", name="Start the pull").click()
    page.wait_for_url("**/jobs/*")
    expect(page.locator("h1")).to_contain_text("nobody/nothing")


def test_the_keyboard_reaches_the_content_and_the_tabs(open_page: OpenPage, model: dict[str, Any]) -> None:
    page = open_page(f"models/{model['repo_id']}")
    settle(page)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.get_by_role("tab", name="Card").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Files")).to_be_focused()
    expect(page.get_by_role("tabpanel")).to_contain_text(".gguf")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.type") == "search"


def test_the_page_works_below_a_path(browser: Any, fust_factory: Callable[..., Any]) -> None:
    """A proxy that strips the prefix is stood in for by a route; the page itself asks below the prefix only."""
    server = fust_factory("below", server__public_url="http://fust.example/tools/fust")
    context = browser.new_context(locale="en-GB", base_url="http://fust.example")
    asked: list[str] = []

    def forward(route: Any) -> None:
        path = route.request.url.removeprefix("http://fust.example")
        asked.append(path)
        if not path.startswith("/tools/fust/"):
            route.abort()
            return
        answer = context.request.fetch(
            server.url + path,
            method=route.request.method,
            data=route.request.post_data,
            headers={"authorization": f"Bearer {server.token}", "content-type": "application/json"},
        )
        route.fulfill(response=answer)

    context.route("**/*", forward)
    page = context.new_page()
    page.goto("/tools/fust/models")
    expect(page.locator("h1")).to_have_text("Models")
    page.get_by_role("link", name="Jobs").first.click()
    assert page.url == "http://fust.example/tools/fust/jobs"
    expect(page.locator("h1")).to_have_text("Jobs")
    context.unroute_all(behavior="ignoreErrors")
    context.close()
    assert [path for path in asked if not path.startswith("/tools/fust/")] == []
