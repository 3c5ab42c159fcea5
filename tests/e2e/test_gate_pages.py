"""A gated repo in the page: the form before it, the owner's word, and what the person who asked sees then."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.compat.test_hub_gates import CARD
from tests.e2e.conftest import Axe, commit_file, make_person, make_repo

pytestmark = pytest.mark.e2e

OpenPage = Callable[..., Any]
REPO = "admin/careful"
SHOTS = os.environ.get("FUST_SHOTS", "")
"""A folder for pictures to look at; none are taken without it."""


def shoot(page: Any, name: str) -> None:
    if SHOTS:
        page.screenshot(path=str(Path(SHOTS) / f"{name}.png"), full_page=True)


@pytest.fixture(scope="module")
def gated(page_server: Any) -> dict[str, str]:
    """A gated model, and the keys of those who meet it."""
    keys = {name: make_person(page_server, name) for name in ("maria", "ben", "chen", "dora")}
    make_repo(page_server, REPO, "model", CARD)
    commit_file(page_server, REPO, "model", "secret.txt", "what only some may read")
    body = {"gated": "manual"}
    assert page_server.request("PUT", f"/api/models/{REPO}/settings", body)[0] == 200
    return keys


def fill(page: Any, *, zh: bool = False) -> None:
    page.get_by_label("Company").fill("Goods & Co")
    page.get_by_label("Country").select_option(label="德国" if zh else "Germany")
    page.get_by_label("Born").fill("1990-05-01")
    page.get_by_label("I want to use it for").select_option(label="Something else")


def test_asking_and_deciding(open_page: OpenPage, page_server: Any, gated: dict[str, str]) -> None:
    page = open_page(f"models/{REPO}", token=gated["maria"])
    expect(page.get_by_role("heading", name="Before you get it")).to_be_visible()
    expect(page.get_by_role("heading", name="A careful model")).to_be_visible()  # the card is everybody's
    assert page.get_by_text("not", exact=True).evaluate("it => it.tagName") == "STRONG"
    page.get_by_role("tab", name="Files").click()
    expect(page.get_by_text("secret.txt")).to_be_visible()
    expect(page.get_by_role("link", name=re.compile("secret.txt"))).to_have_count(0)
    expect(page.get_by_role("tab", name="Access")).to_have_count(0)
    # Nothing is sent before all of it is filled in.
    page.get_by_role("button", name="I do").click()
    expect(page.get_by_label("Company")).to_be_focused()
    fill(page)
    page.get_by_label("I agree").check()
    shoot(page, "form")
    page.get_by_role("button", name="I do").click()
    expect(page.get_by_text("Your request waits for the owners.")).to_be_visible()
    # The owner is told at home, looks, and accepts until a day.
    owner = open_page("")
    expect(owner.get_by_text(f"Somebody asks for access to {REPO}.")).to_be_visible()
    owner.get_by_role("link", name=f"Look at {REPO}").click()
    expect(owner.get_by_role("tab", name="Pending 1")).to_be_visible()
    row = owner.get_by_role("row", name=re.compile("^maria"))
    for words in ("Goods & Co", "DE", "1990-05-01", "other", "ticked", "version 1"):
        expect(row).to_contain_text(words)
    row.get_by_text("Decide").click()
    shoot(owner, "decide")
    row.get_by_label("Until (may stay empty)").fill("2099-01-31")
    row.get_by_role("button", name="Accept").click()
    expect(owner.get_by_text("No request waits.")).to_be_visible()
    owner.get_by_role("tab", name="Accepted 1").click()
    expect(owner.get_by_role("row", name=re.compile("^maria"))).to_contain_text("2099")
    # She reads that it opened, and opens it.
    page.goto("/")
    page.get_by_role("button", name=re.compile("Notifications")).click()
    page.get_by_role("link", name=f"You have access to {REPO} now.").click()
    expect(page.get_by_text("You have access until")).to_be_visible()
    page.get_by_role("tab", name="Files").click()
    page.get_by_role("link", name="secret.txt", exact=True).click()
    expect(page.get_by_text("what only some may read")).to_be_visible()
    # It is taken away, with the reason that she is told.
    row = owner.get_by_role("row", name=re.compile("^maria"))
    row.get_by_text("Decide").click()
    row.get_by_label("Reason (they read it)").fill("The project is over.")
    row.get_by_role("button", name="Take access away").click()
    expect(owner.get_by_role("tab", name="Rejected 1")).to_be_visible()
    page.goto(f"/models/{REPO}")
    expect(page.get_by_text("They say: The project is over.")).to_be_visible()
    page.goto(f"/models/{REPO}/blob/main/secret.txt")
    expect(page.get_by_role("alert")).to_contain_text("The project is over.")


def test_what_is_not_offered_in_the_union_says_so(open_page: OpenPage, page_server: Any) -> None:
    card = "---\nextra_gated_eu_disallowed: true\nextra_gated_fields: {Country: country}\n---\n# Not there\n"
    make_repo(page_server, "admin/not-there", "model", card)
    assert page_server.request("PUT", "/api/models/admin/not-there/settings", {"gated": "auto"})[0] == 200
    page = open_page("models/admin/not-there", token=make_person(page_server, "elin"))
    expect(page.get_by_text("do not offer it to people in the European Union")).to_be_visible()
    page.get_by_label("Country").select_option(label="Sweden")
    page.locator(".gate").get_by_role("button").click()
    expect(page.get_by_role("alert")).to_contain_text("SE belongs to it")
    page.get_by_label("Country").select_option(label="Norway")
    page.locator(".gate").get_by_role("button").click()
    expect(page.locator(".gate")).to_have_count(0)


def test_letting_in_and_asking_again(open_page: OpenPage, gated: dict[str, str]) -> None:
    owner = open_page(f"models/{REPO}?tab=access")
    owner.get_by_label("Add someone who has an account").fill("ben")
    owner.get_by_role("button", name="Give access").click()
    owner.get_by_role("tab", name=re.compile("Accepted")).click()
    expect(owner.get_by_role("row", name=re.compile("^ben"))).to_contain_text("not agreed")
    owner.get_by_role("button", name="Ask again").click()
    owner.get_by_role("button", name="Close it until they agree").click()
    expect(owner.get_by_text("Last asked")).to_be_visible()
    with owner.expect_download() as download:
        owner.get_by_role("link", name="Download as JSON").click()
    assert '"ben"' in download.value.path().read_text()
    page = open_page(f"models/{REPO}", token=gated["ben"])
    expect(page.get_by_text("The owners ask everybody to agree to the terms again.")).to_be_visible()
    fill(page)
    page.get_by_label("I agree").check()
    page.get_by_role("button", name="I do").click()
    expect(page.get_by_role("heading", name="Before you get it")).to_have_count(0)
    # Who owns the repo decides whether it is gated at all.
    owner.get_by_label("Whoever may see it").click()
    expect(owner.get_by_text("Nobody has to ask for this repo.")).to_be_visible()
    owner.get_by_label("Whom the owners accept").click()
    expect(owner.get_by_role("heading", name="Access requests")).to_be_visible()


@pytest.mark.parametrize("lang", ["en-GB", "zh-CN"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
def test_in_every_look(
    open_page: OpenPage, gated: dict[str, str], axe: Axe, lang: str, scheme: str, width: int
) -> None:
    for who, path in (("dora", f"models/{REPO}"), ("", f"models/{REPO}?tab=access")):
        page = open_page(path, token=gated.get(who, ""), lang=lang, scheme=scheme, width=width)
        if who:
            expect(page.get_by_label("Company")).to_be_visible()
        else:
            words = re.compile("Accepted|已批准")
            page.get_by_role("tab", name=words).click()
            page.get_by_role("row", name=re.compile("^ben")).locator("summary").click()
        shoot(page, f"{who or 'owner'}-{lang}-{scheme}-{width}")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "scrolls sideways"
        assert axe(page) == []
