"""Likes, collections, profiles, search and the lists, as one meets them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import commit_file, make_person, make_repo

pytestmark = pytest.mark.e2e

OpenPage = Callable[..., Any]


@pytest.fixture(scope="module")
def school(page_server: Any) -> str:
    """An organisation with a model, a dataset and a space."""
    page_server.request(
        "POST", "/fust/v1/organisations", {"name": "oak-school", "display_name": "Oak <b>School</b>"}
    )
    for kind, card in (
        ("model", "---\nlibrary_name: transformers\ntags: [physics]\n---\n# Oak tutor\n"),
        ("dataset", "# Oak questions\n"),
        ("space", "---\nsdk: static\n---\n# Oak quiz\n"),
    ):
        make_repo(page_server, f"oak-school/oak-{kind}", kind, card)
    return "oak-school"


def test_a_model_is_liked_and_the_profile_tells(open_page: OpenPage, page_server: Any, school: str) -> None:
    page = open_page("models/oak-school/oak-model", token=make_person(page_server, "liker"))
    page.get_by_role("button", name="Like 0").click()
    button = page.get_by_role("button", name="Liked 1")
    expect(button).to_have_attribute("aria-pressed", "true")
    page.goto("/liker?show=likes")
    expect(page.get_by_role("link", name="oak-school/oak-model")).to_be_visible()
    page.goto("/models/oak-school/oak-model")
    button.click()
    expect(page.get_by_role("button", name="Like 0")).to_be_visible()


def test_a_collection_is_made_filled_ordered_noted_and_deleted(open_page: OpenPage, school: str) -> None:
    page = open_page("models/oak-school/oak-model")
    page.get_by_role("link", name="Add to a collection").click()
    page.get_by_label("A note on it").fill("Begin here.")
    form = page.get_by_role("region", name="New collection")
    form.get_by_label("Title").fill("For oaks <i>")
    form.get_by_role("button", name="Make it and add").click()
    expect(page.locator("h1")).to_have_text("For oaks <i>")
    expect(page.locator(".items")).to_contain_text("Begin here.")
    page.goto("/datasets/oak-school/oak-dataset/collect")
    page.get_by_role("button", name="Add to For oaks <i>").click()
    rows = page.locator(".items li h2")
    expect(rows).to_have_text(["oak-school/oak-model", "oak-school/oak-dataset"])
    page.get_by_role("button", name="Move oak-school/oak-dataset up").click()
    expect(rows).to_have_text(["oak-school/oak-dataset", "oak-school/oak-model"])
    page.get_by_role("button", name="Note on oak-school/oak-dataset").click()
    page.get_by_label("Note", exact=True).fill("Its questions.")
    page.get_by_role("button", name="Save").first.click()
    expect(page.locator(".items li").first).to_contain_text("Its questions.")
    page.reload()
    expect(rows).to_have_text(["oak-school/oak-dataset", "oak-school/oak-model"])
    page.get_by_role("button", name="Remove").first.click()
    page.get_by_role("button", name="Remove oak-school/oak-dataset from it").click()
    expect(rows).to_have_text(["oak-school/oak-model"])
    page.get_by_label("Title").fill("For schools")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("h1")).to_have_text("For schools")
    address = page.url
    page.goto("/collections?search=schools")
    expect(page.get_by_role("link", name="For schools")).to_be_visible()
    page.goto(address)
    page.get_by_role("button", name="Delete the collection").click()
    page.get_by_role("button", name="Delete For schools for good").click()
    expect(page.locator("h1")).to_have_text("Collections")
    page.goto(address)
    expect(page.locator("h1")).to_have_text("No such collection.")


def test_what_an_organisation_has_is_on_its_page(open_page: OpenPage, school: str) -> None:
    page = open_page("models/oak-school/oak-model")
    page.get_by_role("link", name="oak-school", exact=True).click()
    expect(page.locator("h1")).to_have_text("Oak <b>School</b>")
    page.get_by_role("tab", name="Datasets 1").click()
    expect(page.get_by_role("link", name="oak-school/oak-dataset")).to_be_visible()
    page.get_by_role("tab", name="Members").click()
    expect(page.get_by_role("tabpanel").get_by_role("link", name="admin")).to_be_visible()
    page.goto("/nobody-of-this-name")
    expect(page.locator("h1")).to_have_text("Nobody is called nobody-of-this-name here.")


def test_people_and_organisations_are_followed(open_page: OpenPage, page_server: Any, school: str) -> None:
    page = open_page("oak-school", token=make_person(page_server, "fan"))
    page.get_by_role("button", name="Follow 0").click()
    expect(page.get_by_role("button", name="Following 1")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("tab", name="Followers 1").click()
    expect(page.get_by_role("tabpanel").get_by_role("link", name="fan")).to_be_visible()
    page.goto("/admin")
    page.get_by_role("button", name="Follow 0").click()
    page.goto("/fan?show=following")
    expect(page.get_by_role("tabpanel").get_by_role("link", name="admin")).to_be_visible()
    expect(page.get_by_role("button", name="Follow")).to_have_count(0)
    page.goto("/admin")
    page.get_by_role("button", name="Following 1").click()
    expect(page.get_by_role("button", name="Follow 0")).to_be_visible()


def test_a_repository_is_made_in_the_page(open_page: OpenPage, page_server: Any, school: str) -> None:
    page = open_page("datasets")
    page.get_by_role("link", name="New dataset").click()
    expect(page.get_by_role("radio", name="A dataset")).to_be_checked()
    page.get_by_role("combobox", name="Owner").select_option("oak-school")
    page.get_by_label("Name").fill("spaces are not allowed")
    page.get_by_role("button", name="Make it").click()
    assert page.evaluate("document.querySelector('input[type=text]').validity.patternMismatch")
    page.get_by_label("Name").fill("oak-leaves")
    page.get_by_label("Licence").select_option("cc-by-4.0")
    page.get_by_role("button", name="Make it").click()
    expect(page.locator("h1")).to_have_text("oak-leaves")
    made = json.loads(page_server.request("GET", "/api/datasets/oak-school/oak-leaves")[2])
    assert made["private"] and made["cardData"]["license"] == "cc-by-4.0"
    page.goto("/new?type=space")
    page.get_by_label("Name").fill("oak-pages")
    page.get_by_label("Private").uncheck()
    page.get_by_role("button", name="Make it").click()
    expect(page.locator("h1")).to_have_text("oak-pages")
    made = json.loads(page_server.request("GET", "/api/spaces/admin/oak-pages")[2])
    assert made["sdk"] == "static" and not made["private"]
    page.goto("/new?type=dataset&owner=oak-school")
    page.get_by_label("Name").fill("oak-leaves")
    page.get_by_role("button", name="Make it").click()
    expect(page.get_by_role("alert")).to_contain_text("oak-school/oak-leaves")


def test_lists_go_on(open_page: OpenPage, page_server: Any, school: str) -> None:
    """The server is asked for two rows at a time, so that few are enough."""
    for n in range(3):
        make_repo(page_server, f"admin/acorn-{n}", "model", "# An acorn\n")
        body = {"title": f"Acorns {n}", "namespace": "oak-school"}
        assert page_server.request("POST", "/api/collections", body)[0] == 200
    page = open_page(None)

    def fewer(route: Any) -> None:
        route.continue_(url=re.sub(r"\blimit=\d+", "limit=2", route.request.url))

    page.route("**/fust/v1/repos?**", fewer)
    page.route("**/api/collections?**", fewer)
    more = page.get_by_role("button", name="Show more")
    page.goto("/models?search=acorn")
    expect(page.locator(".repos > li")).to_have_count(2)
    expect(page.get_by_text("2 of 3 are here.")).to_be_visible()
    more.click()
    expect(page.locator(".repos > li")).to_have_count(3)
    expect(more).to_have_count(0)
    page.goto("/collections?search=acorns")
    expect(page.locator(".talks > li")).to_have_count(2)
    more.click()
    expect(page.locator(".talks > li")).to_have_count(3)
    expect(more).to_have_count(0)


def test_one_search_finds_every_kind(open_page: OpenPage, page_server: Any, school: str) -> None:
    body = {"title": "Oak things", "namespace": "oak-school"}
    page_server.request("POST", "/api/collections", body)
    page = open_page("")
    page.locator("main h1").wait_for()
    page.keyboard.press("/")
    page.keyboard.type("oak")
    page.keyboard.press("Enter")
    for heading, name in (
        ("Models", "oak-school/oak-model"),
        ("Datasets", "oak-school/oak-dataset"),
        ("Spaces", "oak-school/oak-space"),
        ("Collections", "Oak things"),
        ("People and organisations", "Oak <b>School</b>"),
    ):
        expect(page.get_by_role("region", name=heading).get_by_role("link", name=name)).to_be_visible()
    page.get_by_role("searchbox", name="Search everything").last.fill("nothing of the kind at all")
    page.get_by_role("main").get_by_role("button", name="Search").click()
    expect(page.get_by_text("Nothing matches.", exact=True)).to_be_visible()


def test_lists_are_filtered_and_ordered(open_page: OpenPage, page_server: Any, school: str) -> None:
    config = {"__metadata__": {}, "w": {"dtype": "F32", "shape": [1000], "data_offsets": [0, 4000]}}
    head = json.dumps(config).encode()
    weights = page_server.home.parent / "tiny.safetensors"
    weights.write_bytes(len(head).to_bytes(8, "little") + head + bytes(4000))
    page_server.cli("push", str(weights), "oak-school/oak-model")
    page = open_page("models")
    names = page.locator(".repos h2")
    page.get_by_label("transformers").check()
    expect(names).to_have_text(["oak-school/oak-model"])
    page.get_by_label("transformers").uncheck()
    page.get_by_label("physics").check()
    expect(names).to_have_text(["oak-school/oak-model"])
    page.get_by_label("physics").uncheck()
    page.get_by_role("combobox", name="Parameters").select_option("max:1B")
    expect(page.get_by_role("link", name="oak-school/oak-model")).to_be_visible()
    page.get_by_role("combobox", name="Parameters").select_option("min:14B")
    expect(page.get_by_text("No model matches.")).to_be_visible()
    page.goto("/models?sort=likes&f=owner:oak-school")
    expect(names).to_have_text(["oak-school/oak-model"])


def test_spaces_are_listed_and_looked_at(open_page: OpenPage, page_server: Any, school: str) -> None:
    make_repo(page_server, "oak-school/oak-app", "space", "# An app that runs elsewhere\n")
    page = open_page("spaces", lang="zh-CN")
    page.get_by_role("link", name="oak-school/oak-app").click()
    expect(page.locator("h1")).to_have_text("oak-app")
    page.get_by_role("tab", name="应用").click()
    expect(page.get_by_text("这里没有链接应用。")).to_be_visible()
    for app in ("javascript:window.pwned=1", "https://quiz.example/<b>"):
        card = f"---\napp_url: {app}\n---\n# Oak quiz\n"
        commit_file(page_server, "oak-school/oak-app", "space", "README.md", card)
    page.reload()
    expect(page.get_by_role("link", name="打开应用")).to_have_attribute(
        "href", "https://quiz.example/%3Cb%3E"
    )
    page.get_by_role("tab", name="社区").click()
    expect(page.get_by_role("link", name="发起讨论")).to_be_visible()
    page.get_by_role("tab", name="文件").click()
    expect(page.get_by_role("link", name="README.md", exact=True)).to_be_visible()
