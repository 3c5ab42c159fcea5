"""What lets programs in and tells them: the page of `hf auth login`, and webhooks in the settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import expect

from tests.conftest import RunningFust, start_fust
from tests.e2e.conftest import commit_file, make_repo, pages_of
from tests.support.receiver import Receiver, is_signed, say

pytestmark = pytest.mark.e2e

OpenPage = Callable[..., Any]
PROGRAM = "a program <b>"
GRANT = "urn:ietf:params:oauth:grant-type:device_code"


@pytest.fixture(scope="module")
def fust(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFust]:
    """A server that sends to this machine too, and gives up soon."""
    home = tmp_path_factory.mktemp("programs") / "home"
    running = start_fust(
        home, webhooks__internal_hosts="127.0.0.1", webhooks__retry_s=0.1, webhooks__patience_s=0.5
    )
    yield running
    running.stop()


@pytest.fixture
def visit(browser: Any, fust: RunningFust) -> Iterator[OpenPage]:
    with pages_of(browser, fust) as start:
        yield start


def form(fust: RunningFust, path: str, **fields: str) -> tuple[int, dict[str, Any]]:
    headers = {"content-type": "application/x-www-form-urlencoded", "user-agent": PROGRAM}
    status, _, answer = fust.request("POST", path, urlencode(fields).encode(), token=None, headers=headers)
    return status, json.loads(answer)


def test_a_program_is_let_in_by_its_code(visit: OpenPage, fust: RunningFust) -> None:
    _, given = form(fust, "/oauth/device", client_id="hf auth login")
    page = visit("device")
    page.get_by_label("Code").fill("BCDF-BCDF")
    page.get_by_role("button", name="Look who asks").click()
    expect(page.get_by_role("alert")).to_be_visible()
    page.get_by_label("Code").fill(given["user_code"].lower().replace("-", ""))
    page.get_by_role("button", name="Look who asks").click()
    about = page.get_by_role("region", name="Who asks")
    expect(about.get_by_role("group", name="Code")).to_have_text(given["user_code"])
    expect(about).to_contain_text("127.0.0.1")
    about.get_by_role("radio", name="Read").check()
    about.get_by_label("For how long").select_option("30")
    about.get_by_label("Name").fill("the laptop")
    about.get_by_role("button", name="Allow").click()
    expect(page.locator("h1")).to_have_text("It is let in")
    status, got = form(
        fust, "/oauth/token", grant_type=GRANT, device_code=given["device_code"], client_id="hf auth login"
    )
    assert status == 200, got
    who = json.loads(fust.request("GET", "/api/whoami-v2", token=got["access_token"])[2])
    assert who["auth"]["accessToken"]["role"] == "read"
    page.get_by_role("main").get_by_role("link", name="Keys").click()
    expect(page.get_by_role("row").filter(has_text="the laptop")).to_be_visible()


def test_a_program_is_turned_away(visit: OpenPage, fust: RunningFust) -> None:
    _, given = form(fust, "/oauth/device", client_id="me")
    page = visit("device?code=" + given["user_code"], width=360)
    expect(page.get_by_label("Code")).to_have_value(given["user_code"])
    page.get_by_role("button", name="Look who asks").click()
    expect(page.get_by_role("region", name="Who asks")).to_contain_text(PROGRAM)
    page.get_by_role("button", name="Deny").click()
    expect(page.locator("h1")).to_have_text("It was turned away")
    fields = {"grant_type": GRANT, "device_code": given["device_code"], "client_id": "me"}
    assert form(fust, "/oauth/token", **fields)[1]["error"] == "access_denied"


def test_a_webhook_is_made_hears_gives_up_and_goes(visit: OpenPage, fust: RunningFust) -> None:
    receiver = Receiver()
    try:
        make_repo(fust, "admin/told", "model", "# Told\n")
        page = visit("settings")
        hooks = page.get_by_role("region", name="Webhooks")
        expect(hooks.get_by_text("You have no webhooks.")).to_be_visible()
        hooks.get_by_role("button", name="Make a webhook").click()
        hooks.get_by_label("Address").fill(receiver.url)
        hooks.get_by_label("What to watch").select_option("model")
        hooks.get_by_label("Its name").fill("admin/nothing-here")
        hooks.get_by_label("Discussions, pull requests, comments").uncheck()
        hooks.get_by_label("Secret").fill("between us")
        hooks.get_by_role("button", name="Make it").click()
        expect(hooks.get_by_role("alert")).to_contain_text("admin/nothing-here")
        hooks.get_by_label("Its name").fill("admin/told")
        hooks.get_by_role("button", name="Make it").click()
        row = hooks.get_by_role("row").filter(has_text=receiver.url)
        expect(row).to_contain_text("repositories · signed")
        commit_file(fust, "admin/told", "model", "a.txt", "x")
        receiver.wait(1)
        assert is_signed(receiver.heard[0], "between us") and receiver.heard[0].what == "update repo.content"
        row.get_by_role("button", name="Messages").click()
        sent = hooks.get_by_role("row").filter(has_text="admin/told").last
        expect(sent).to_contain_text("delivered")
        sent.get_by_role("button", name="repo.content update").click()
        expect(hooks.get_by_role("group", name="What is sent")).to_contain_text('"admin/told"')
        receiver.answer = say(500)
        commit_file(fust, "admin/told", "model", "b.txt", "x")
        dead = hooks.get_by_role("row").filter(has_text="given up").last
        expect(dead).to_contain_text("answered 500", timeout=15_000)
        receiver.answer = say(200)
        dead.get_by_role("button", name="Send again").click()
        expect(hooks.get_by_text("given up")).to_have_count(0, timeout=15_000)
        row.get_by_role("button", name="Switch off").click()
        expect(row).to_contain_text("switched off")
        row.get_by_role("button", name="Delete").click()
        row.get_by_role("button", name="Delete it and its messages").click()
        expect(hooks.get_by_text("You have no webhooks.")).to_be_visible()
    finally:
        receiver.close()
