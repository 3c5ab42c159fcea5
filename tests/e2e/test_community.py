"""Discussions and pull requests as people meet them: opened, talked about, read line by line, merged or refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import Axe, commit_file, make_person, make_repo

pytestmark = pytest.mark.e2e

OpenPage = Callable[..., Any]
REPO = "admin/tutor"
PLACE = f"models/{REPO}"
TEXT = "# Tutor\n\nFor grade 7.\n\nIn four regions.\n"


@pytest.fixture(scope="module")
def repo(page_server: Any) -> str:
    make_repo(page_server, REPO, "model", TEXT)
    return REPO


@pytest.fixture(scope="module")
def maria(page_server: Any) -> str:
    """The key of somebody who may read the repo and not write to it."""
    return make_person(page_server, "maria")


def ask(server: Any, path: str) -> Any:
    status, _, body = server.request("GET", path)
    assert status == 200, body
    return json.loads(body)


def text_of(server: Any, path: str, revision: str = "main") -> str:
    return server.request("GET", f"/{REPO}/resolve/{revision}/{path}")[2].decode()


def test_a_discussion_is_opened_talked_about_and_closed(open_page: OpenPage, repo: str) -> None:
    page = open_page(f"{PLACE}?tab=community")
    page.get_by_role("link", name="New discussion").click()
    page.get_by_label("Title").fill("Which pupils?")
    page.get_by_label("What it is about", exact=True).fill("Is it for **grade 9** too?")
    page.get_by_role("tab", name="Look").click()
    expect(page.locator(".prose strong")).to_have_text("grade 9")
    page.get_by_role("button", name="Open the discussion").click()
    expect(page.locator("h1")).to_have_text("Which pupils?")
    first = page.get_by_role("article", name="Comment by admin").first
    expect(first.locator("strong")).to_have_text("grade 9")

    first.get_by_role("button", name="Edit").click()
    first.get_by_label("Your comment", exact=True).fill("Is it for grade 10?")
    first.get_by_role("button", name="Save").click()
    expect(first).to_contain_text("edited")
    first.get_by_text("One earlier version").click()
    expect(first.get_by_role("group", name="Earlier version")).to_have_text("Is it for **grade 9** too?")

    reply = page.get_by_role("form", name="Your comment")
    reply.get_by_label("Your comment", exact=True).fill("No.")
    reply.get_by_role("button", name="Comment and close").click()
    expect(page.locator(".head")).to_contain_text("Closed")
    second = page.get_by_role("article", name="Comment by admin").nth(1)
    second.get_by_role("button", name="Hide").click()
    second.get_by_role("button", name="Hide it for good").click()
    expect(second).to_contain_text("admin hid this comment.")
    page.get_by_role("button", name="Rename").click()
    page.get_by_label("Title").fill("For which pupils?")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("h1")).to_have_text("For which pupils?")
    expect(page.locator(".events")).to_contain_text("renamed it:")
    page.get_by_role("button", name="Open again").click()
    expect(page.locator(".head")).to_contain_text("Open")


def test_the_list_is_searched_filtered_and_paged(open_page: OpenPage, page_server: Any) -> None:
    make_repo(page_server, "admin/asked", "dataset", "# Asked\n")
    for number in range(32):
        body = {"title": f"Question {number} of many", "description": "x"}
        page_server.request("POST", "/api/datasets/admin/asked/discussions", body)
    page_server.request("POST", "/api/datasets/admin/asked/discussions/7/status", {"status": "closed"})
    page = open_page("datasets/admin/asked/discussions")
    rows = page.locator(".talks li")
    expect(page.get_by_role("tab", name="Community 31")).to_have_attribute("aria-selected", "true")
    expect(rows).to_have_count(30)
    page.get_by_role("button", name="Older").click()
    expect(rows).to_have_count(1)
    expect(page.get_by_text("31 to 31 of 31")).to_be_visible()
    page.get_by_label("Show").select_option("closed")
    expect(rows.get_by_role("link")).to_have_text("Question 6 of many")
    page.get_by_label("Show").select_option("all")
    page.get_by_role("searchbox", name="Search in titles and comments").fill("question 12")
    page.get_by_role("searchbox", name="Search in titles and comments").press("Enter")
    expect(rows).to_have_count(1)
    page.reload()
    expect(rows.get_by_role("link")).to_have_text("Question 12 of many")
    page.get_by_role("searchbox", name="Search in titles and comments").fill("nothing like it")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.get_by_text("No discussion matches.")).to_be_visible()


def test_somebody_proposes_an_edit_and_a_writer_merges_it(
    open_page: OpenPage, page_server: Any, repo: str, maria: str
) -> None:
    page = open_page(f"{PLACE}/blob/main/README.md", token=maria)
    page.get_by_role("link", name="Edit").click()
    expect(page.get_by_text("You may not write here directly")).to_be_visible()
    page.get_by_label("Text").fill(TEXT.replace("four", "six"))
    page.get_by_label("What changed, in a line").fill("Six regions were tried")
    page.get_by_role("button", name="Open the pull request").click()
    expect(page.locator("h1")).to_have_text("Six regions were tried")
    expect(page.get_by_role("button", name="Merge into main")).to_have_count(0)
    page.get_by_role("tab", name="Files changed").click()
    diff = page.get_by_role("group", name="Changed lines of README.md")
    expect(diff.locator("del")).to_have_text("-In four regions.")
    expect(diff.locator("ins")).to_have_text("+In six regions.")
    assert diff.locator("ins").get_attribute("data-o") == ""
    assert diff.locator("ins i").get_attribute("data-n") == "5"
    page.get_by_role("tab", name="Commits").click()
    expect(page.get_by_role("link", name="Six regions were tried")).to_be_visible()
    address = page.url

    owner = open_page(None)
    owner.goto(address.partition("?")[0])
    expect(owner.get_by_text("It fits onto main without conflicts.")).to_be_visible()
    owner.get_by_label("A word with it").fill("Thank you.")
    owner.get_by_role("button", name="Merge into main").click()
    expect(owner.get_by_text("Merged as")).to_be_visible()
    expect(owner.locator(".events")).to_contain_text("Thank you.")
    assert "six regions" in text_of(page_server, "README.md")
    owner.get_by_role("tab", name="Files changed").click()  # what it changed is still to be read
    expect(owner.locator("ins").first).to_contain_text("In six regions.")
    owner.goto(f"/{PLACE}?tab=community&status=merged")
    expect(owner.locator(".talks")).to_contain_text("Six regions were tried")


def propose(server: Any, path: str, text: str, title: str) -> int:
    """Opens a pull request by the API; returns its number."""
    lines = [
        {"key": "header", "value": {"summary": title}},
        {"key": "file", "value": {"path": path, "content": text, "encoding": "utf-8"}},
    ]
    body = "\n".join(json.dumps(line) for line in lines).encode()
    status, _, answer = server.request("POST", f"/api/models/{REPO}/commit/main?create_pr=1", body)
    assert status == 200, answer
    return int(json.loads(answer)["pullRequestUrl"].rpartition("/")[2])


def test_a_conflict_is_said_plainly_and_settled(open_page: OpenPage, page_server: Any, repo: str) -> None:
    commit_file(page_server, REPO, "model", "plan.md", "one\ntwo\nthree\n")
    num = propose(page_server, "plan.md", "one\nTWO of the request\nthree\n", "Two, louder")
    page = open_page(f"{PLACE}/discussions/{num}")
    page.get_by_text("It fits onto main without conflicts.").wait_for()
    commit_file(page_server, REPO, "model", "plan.md", "one\ntwo of main\nthree\n")
    page.get_by_role("button", name="Merge into main").click()  # main has moved since the page was drawn
    expect(page.get_by_role("alert")).to_contain_text("changed the same: plan.md")
    expect(page.get_by_text("One file was changed on main in the same place:")).to_be_visible()
    expect(page.get_by_role("button", name="Merge into main")).to_be_disabled()
    expect(page.get_by_text(f"git push origin pr/{num}:refs/pr/{num}")).to_be_visible()
    page.get_by_role("button", name="Take main's version").click()
    page.get_by_role("button", name="Drop this request's changes to plan.md").click()
    expect(page.get_by_text("It fits onto main without conflicts.")).to_be_visible()
    page.get_by_role("button", name="Merge into main").click()
    expect(page.get_by_text("Merged as")).to_be_visible()
    assert text_of(page_server, "plan.md") == "one\ntwo of main\nthree\n"


def test_a_writer_commits_and_is_told_when_the_branch_moved(
    open_page: OpenPage, page_server: Any, repo: str
) -> None:
    commit_file(page_server, REPO, "model", "dos.txt", "a\r\nb\r\n")
    page = open_page(f"{PLACE}/edit/main/dos.txt")
    page.get_by_label("Text").fill("a\nc\n")
    commit_file(page_server, REPO, "model", "other.txt", "somebody else")
    page.get_by_role("button", name="Commit", exact=True).click()
    expect(page.get_by_text("Your text is still here")).to_be_visible()
    page.get_by_label("Open a pull request").check()
    page.get_by_role("button", name="Open the pull request").click()
    expect(page.locator("h1")).to_have_text("Update dos.txt")
    num = int(page.url.rpartition("/")[2])
    assert text_of(page_server, "dos.txt", f"refs%2Fpr%2F{num}") == "a\r\nc\r\n"  # the ends of lines are kept

    page.goto(f"/{PLACE}/new/main")
    page.get_by_label("Path of the file").fill("notes/new.md")
    page.get_by_label("Text").fill("# New\n")
    page.get_by_role("button", name="Commit", exact=True).click()
    expect(page.locator("h1")).to_have_text("notes/new.md")
    assert text_of(page_server, "notes/new.md") == "# New\n"


def test_a_draft_is_started_filled_and_made_ready(
    open_page: OpenPage, page_server: Any, repo: str, maria: str
) -> None:
    page = open_page(f"{PLACE}/discussions/propose", token=maria)
    page.get_by_label("Title").fill("Add Swahili")
    page.get_by_label("What it is about", exact=True).fill("In steps.")
    page.get_by_role("button", name="Start the draft").click()
    expect(page.locator(".head")).to_contain_text("Draft")
    page.get_by_role("link", name="Add files to it").click()
    page.get_by_label("Choose files").set_input_files(
        [{"name": "words.csv", "mimeType": "text/csv", "buffer": b"maji,water\n"}]
    )
    page.get_by_role("button", name="Add the commit").click()
    expect(page.locator("h1")).to_have_text("Add Swahili")
    expect(page.locator(".events")).to_contain_text("Upload words.csv")
    page.get_by_role("button", name="Ready for review").click()
    expect(page.locator(".head")).to_contain_text(re.compile("#[0-9]+ Open"))
    page.get_by_role("tab", name="Files changed").click()
    expect(page.locator("ins")).to_have_text("+maji,water")


def test_the_pages_of_a_request_are_accessible(
    open_page: OpenPage, page_server: Any, repo: str, axe: Axe
) -> None:
    num = propose(page_server, "README.md", "# Other\n", "Another text")
    found: list[str] = []
    for lang, width in (("en-GB", 1280), ("zh-CN", 360)):
        page = open_page(None, lang=lang, width=width)
        for path in (
            f"{PLACE}?tab=community",
            f"{PLACE}/discussions/new",
            f"{PLACE}/discussions/propose",
            f"{PLACE}/discussions/{num}",
            f"{PLACE}/discussions/{num}?view=files",
            f"{PLACE}/discussions/99999",
            f"{PLACE}/edit/main/README.md",
            f"{PLACE}/upload/main",
        ):
            page.goto("/" + path)
            page.locator("main h1").wait_for()
            expect(page.locator(".waiting")).to_have_count(0)
            if page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
                found.append(f"{path} is too wide at {width}")
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                found += [f"{path}, {lang}, {scheme}: {fault}" for fault in axe(page)]
    assert found == []
    assert ask(page_server, f"/api/models/{REPO}/discussions/{num}")["status"] == "open"
