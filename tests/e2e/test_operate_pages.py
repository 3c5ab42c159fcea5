"""The places of an administrator, as one meets them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import make_repo

pytestmark = pytest.mark.e2e

OpenPage = Callable[..., Any]
PASSWORD = "a sentence is good"


def signed_in_as(open_page: OpenPage, server: Any, name: str) -> Any:
    """Returns a page of a browser in which somebody with the usual password is signed in."""
    page = open_page(None, signed_in=False)
    body = {"name": name, "password": PASSWORD}
    answer = page.context.request.post(
        server.url + "/fust/v1/session", data=body, headers={"origin": server.url}
    )
    assert answer.ok, answer.text()
    return page


def test_the_audit_is_searched_exported_and_checked(open_page: OpenPage, page_server: Any) -> None:
    make_repo(page_server, "admin/audited", "dataset", "# Audited\n")
    page = open_page("audit")
    page.get_by_role("searchbox", name="Anywhere in the entry").fill("admin/audited")
    page.get_by_role("button", name="Search").click()
    rows = page.get_by_role("table").get_by_role("row")
    expect(rows).to_have_count(3)  # the head, the commit, the repo
    expect(rows.last).to_contain_text("Repo made")
    page.get_by_label("What was done").select_option("repo.create")
    expect(rows).to_have_count(2)
    with page.expect_download() as download:
        page.get_by_role("link", name="Export JSONL").click()
    lines = download.value.path().read_text().splitlines()
    assert [json.loads(line)["subject"] for line in lines] == ["dataset:admin/audited"]
    page.get_by_role("button", name="Check the chain").click()
    expect(page.get_by_text(re.compile(r"All \d+ entries are whole\."))).to_be_visible()
    page.get_by_role("link", name="dataset:admin/audited").click()
    expect(page.locator("h1")).to_have_text("audited")


def test_a_search_without_a_match_says_what_to_try(open_page: OpenPage) -> None:
    page = open_page("audit?text=nothing-of-this-kind", lang="zh-CN")
    expect(page.get_by_text("没有匹配的记录。")).to_be_visible()
    page.get_by_role("link", name="清除").click()
    expect(page.get_by_role("table")).to_be_visible()


def test_an_organisation_is_made_and_gets_members(open_page: OpenPage, page_server: Any) -> None:
    for name in ("maria", "otieno"):
        page_server.request("POST", "/fust/v1/users", {"name": name, "full_name": f"Full {name}"})
    page = open_page("organisations")
    page.get_by_label("Name in addresses").fill("linden-school")
    page.get_by_label("Name as shown").fill("Linden <b>School</b>")
    page.get_by_role("button", name="Make it").click()
    expect(page.locator("h1")).to_have_text("Linden <b>School</b>")
    page.get_by_label("Add someone who has an account").fill("maria")
    page.get_by_role("button", name="Add", exact=True).click()
    row = page.get_by_role("row", name="maria")
    row.get_by_label("Role of maria").select_option("write")
    page.reload()
    expect(row.get_by_label("Role of maria")).to_have_value("write")
    row.get_by_role("button", name="Remove").click()
    row.get_by_role("button", name="Remove maria now").click()
    expect(row).to_have_count(0)
    page.get_by_role("button", name="Leave").click()  # the last owner may not
    page.get_by_role("button", name="Leave now").click()
    expect(page.get_by_text("would be left without an owner")).to_be_visible()
    page.get_by_role("textbox", name="Name as shown").fill("Lindenschule")
    page.get_by_role("button", name="Save the name").click()
    expect(page.locator("h1")).to_have_text("Lindenschule")
    page.get_by_role("button", name="Delete the organisation").click()
    page.get_by_role("button", name="Delete linden-school for good").click()
    expect(page.locator("h1")).to_have_text("Organisations")
    expect(page.get_by_role("link", name="linden-school")).to_have_count(0)
    assert page_server.request("GET", "/fust/v1/organisations/linden-school")[0] == 404


def test_somebody_is_added_and_suspended(open_page: OpenPage, page_server: Any) -> None:
    page = open_page("people")
    page.get_by_label("Name", exact=True).fill("zhang.wei")
    page.get_by_label("Name in full").fill("张伟")
    page.get_by_label("First password (may be left out)").fill("a long password 1")
    page.get_by_role("button", name="Add", exact=True).click()
    row = page.get_by_role("row", name="zhang.wei")
    expect(row).to_contain_text("张伟")
    row.get_by_text("Change", exact=True).click()
    row.get_by_role("button", name="Suspend").click()
    expect(row).to_contain_text("Suspended")
    body = {"name": "zhang.wei", "password": "a long password 1"}
    assert page_server.request("POST", "/fust/v1/session", body, token=None)[0] in (401, 403)


def test_somebody_is_promoted_signed_out_and_removed(open_page: OpenPage, page_server: Any) -> None:
    page_server.request("POST", "/fust/v1/users", {"name": "amina", "password": PASSWORD})
    theirs = signed_in_as(open_page, page_server, "amina")
    page = open_page("people")
    row = page.get_by_role("row", name="amina")
    row.get_by_text("Change", exact=True).click()
    row.get_by_role("button", name="Make administrator").click()
    expect(row).to_contain_text("Administrator")
    theirs.goto("/people")
    expect(theirs.get_by_role("row", name="amina")).to_be_visible()
    row.get_by_role("button", name="Take administration away").click()
    expect(row).to_contain_text("User")
    row.get_by_role("button", name="Sign out everywhere").click()
    expect(page.get_by_text("amina is signed out of one browser.").last).to_be_visible()
    theirs.reload()
    expect(theirs.get_by_role("heading", name="Sign in to Fust")).to_be_visible()
    row.get_by_role("button", name="Remove", exact=True).click()
    row.get_by_role("button", name="Remove amina now").click()
    expect(row).to_have_count(0)
    users = json.loads(page_server.request("GET", "/fust/v1/users")[2])["items"]
    assert "amina" not in [user["name"] for user in users]


def test_nobody_takes_their_own_rank_away(open_page: OpenPage) -> None:
    page = open_page("people")
    row = page.get_by_role("row", name="(you)")
    expect(row).to_contain_text("Administrator")
    expect(row.get_by_text("Change", exact=True)).to_have_count(0)


def test_an_invitation_is_made_shown_once_and_withdrawn(open_page: OpenPage) -> None:
    page = open_page("people")
    page.get_by_label("Note to yourself").fill("for the new teacher")
    page.get_by_role("button", name="Make a link").click()
    link = page.locator("code.token").inner_text()
    assert "code=" in link
    page.reload()
    row = page.get_by_role("row", name="for the new teacher")
    expect(row).to_contain_text("Open")
    assert link not in page.content()
    row.get_by_role("button", name="Withdraw").click()
    row.get_by_role("button", name="Withdraw it now").click()
    expect(row).to_have_count(0)
    late = open_page(None, signed_in=False)
    late.goto(link)
    expect(late.get_by_role("button", name="Join")).to_have_count(0)


def test_a_fine_grained_key_opens_only_what_it_lists(open_page: OpenPage, page_server: Any) -> None:
    make_repo(page_server, "admin/opened", "dataset", "# Opened\n")
    page = open_page("keys")
    page.get_by_label("Name", exact=True).fill("narrow")
    page.get_by_label("Only what I list").check()
    page.get_by_label("Repos, one a line").fill("dataset:admin/opened")
    page.get_by_role("combobox", name="Valid until").select_option("7")
    page.get_by_role("button", name="Make a key").click()
    token = page.locator("code.token").inner_text()
    row = page.get_by_role("row", name="narrow")
    expect(row).to_contain_text("repos: dataset:admin/opened")
    expect(row).not_to_contain_text("until revoked")
    assert page_server.request("GET", "/fust/v1/repos/dataset/admin/opened", token=token)[0] == 200
    assert page_server.request("GET", "/fust/v1/tokens", token=token)[0] == 403


def test_a_pull_is_asked_for_with_all_that_it_takes(open_page: OpenPage) -> None:
    page = open_page("jobs")
    page.get_by_label("Name", exact=True).fill("nobody/nothing")
    page.get_by_text("Files, revision, bandwidth, source").click()
    page.get_by_label("Only what matches").fill("*.json, onnx/*")
    page.get_by_label("But not what matches").fill("*.bin *.pt")
    page.get_by_label("Branch, tag or commit").fill("v1")
    page.get_by_label("Bandwidth at most").fill("fast")
    page.get_by_label("From (address of a hub)").fill("http://127.0.0.1:9")
    page.get_by_role("button", name="Start the pull").click()
    expect(page.get_by_role("alert")).to_contain_text("fast")  # what is wrong is said, and stays to be mended
    page.get_by_label("Bandwidth at most").fill("5MB/s")
    with page.expect_request("**/fust/v1/runs") as asked:
        page.get_by_role("button", name="Start the pull").click()
    params = asked.value.post_data_json["params"]
    assert (params["include"], params["exclude"]) == (["*.json", "onnx/*"], ["*.bin", "*.pt"])
    assert (params["revision"], params["limit"]) == ("v1", "5MB/s")
    expect(page.locator("h1")).to_contain_text("nobody/nothing")
