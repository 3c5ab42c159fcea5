"""Files, branches, tags, comparisons and settings of a repository, changed in the page by who may."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.conftest import RunningFust, start_fust
from tests.e2e.conftest import commit_file, make_person, make_repo, pages_of

pytestmark = pytest.mark.e2e

OpenPage = Callable[..., Any]
PART = 1_000_000


@pytest.fixture(scope="module")
def fust(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFust]:
    """A server that takes large files in small parts."""
    running = start_fust(tmp_path_factory.mktemp("changes") / "home", hub__lfs_part_bytes=PART)
    yield running
    running.stop()


@pytest.fixture
def visit(browser: Any, fust: RunningFust) -> Iterator[OpenPage]:
    with pages_of(browser, fust) as start:
        yield start


def ask(server: Any, path: str) -> Any:
    status, _, body = server.request("GET", path)
    assert status == 200, body
    return json.loads(body)


def test_a_large_file_goes_up_in_parts_and_comes_back_equal(visit: OpenPage, fust: RunningFust) -> None:
    make_repo(fust, "admin/weights", "model", "# Weights\n")
    data = random.Random(1).randbytes(3 * PART + 500_000)
    page = visit("models/admin/weights/upload/main")
    parts: list[str] = []
    page.on("request", lambda it: parts.append(it.url) if "/parts/" in it.url else None)
    page.get_by_label("Choose files").set_input_files(
        [
            {"name": "model.safetensors", "mimeType": "application/octet-stream", "buffer": data},
            {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"small\n"},
        ]
    )
    page.get_by_label("Into the folder").fill("v2")
    page.get_by_label("What changed, in a line").fill("Second weights")
    page.get_by_role("button", name="Commit", exact=True).click()
    expect(page.get_by_role("link", name="v2/model.safetensors", exact=True)).to_be_visible()
    assert len(parts) == 4
    files = {it["path"]: it for it in ask(fust, "/fust/v1/repos/model/admin/weights")["files"]}
    assert files["v2/model.safetensors"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert fust.request("GET", "/admin/weights/resolve/main/v2/model.safetensors")[2] == data
    assert files["v2/notes.txt"]["lfs"] is False


def test_who_may_not_write_proposes_a_large_file(visit: OpenPage, fust: RunningFust) -> None:
    make_repo(fust, "admin/open", "dataset", "# Open\n")
    data = b"\0" + random.Random(2).randbytes(1_600_000)
    page = visit("datasets/admin/open/upload/main", token=make_person(fust, "otieno"))
    page.get_by_label("Choose files").set_input_files(
        [{"name": "rows.parquet", "mimeType": "application/octet-stream", "buffer": data}]
    )
    page.get_by_role("button", name="Open the pull request").click()
    expect(page.locator("h1")).to_have_text("Upload rows.parquet")
    expect(page.locator(".head")).to_contain_text("Open")
    page.get_by_role("tab", name="Files changed").click()
    expect(page.locator(".changed").filter(has_text="rows.parquet")).to_contain_text(
        hashlib.sha256(data).hexdigest()[:12]
    )


def test_branches_and_tags_are_made_compared_and_deleted(visit: OpenPage, fust: RunningFust) -> None:
    make_repo(fust, "admin/forked", "model", "# Forked\n\nOne.\n")
    page = visit("models/admin/forked?tab=files")
    page.get_by_role("link", name="Branches and tags").click()
    branch = page.get_by_role("region", name="New branch")
    branch.get_by_label("Name").fill("langs/sw")
    branch.get_by_role("button").click()
    expect(page.get_by_role("link", name="langs/sw", exact=True)).to_be_visible()
    tag = page.get_by_role("region", name="New tag")
    tag.get_by_label("Name").fill("v1.0")
    tag.get_by_label("At").select_option("langs/sw")
    tag.get_by_label("Message").fill("First")
    tag.get_by_role("button").click()
    expect(
        page.get_by_role("region", name="Tags", exact=True).get_by_role("link", name="v1.0", exact=True)
    ).to_be_visible()
    branch.get_by_label("Name").fill("langs/sw")  # taken
    branch.get_by_role("button").click()
    expect(page.get_by_role("alert")).to_contain_text("already")

    commit_file(fust, "admin/forked", "model", "README.md", "# Forked\n\nMoja.\n", revision="langs/sw")
    commit_file(fust, "admin/forked", "model", "main.txt", "on main\n")
    page.get_by_role("link", name="Compare langs/sw with main").click()
    expect(page.locator("h1")).to_have_text("langs/sw compared with main")
    expect(page.locator("ins")).to_have_text("+Moja.")
    expect(page.get_by_role("link", name="main.txt", exact=True)).to_have_count(0)
    page.get_by_label("Counted").select_option("false")
    expect(page.locator(".changed")).to_have_count(2)
    page.get_by_role("button", name="Swap").click()
    expect(page.locator("h1")).to_have_text("main compared with langs/sw")

    page.goto("/models/admin/forked?tab=files")
    page.get_by_label("Branch or tag").select_option("langs/sw")
    expect(page.get_by_text("You are looking at version langs/sw.")).to_be_visible()
    expect(page.get_by_role("link", name="main.txt", exact=True)).to_have_count(0)
    page.goto("/models/admin/forked/refs")
    row = page.get_by_role("row", name="langs/sw")
    row.get_by_role("button", name="Delete").click()
    row.get_by_role("button", name="Delete langs/sw now").click()
    expect(page.get_by_role("link", name="langs/sw", exact=True)).to_have_count(0)
    assert [it["name"] for it in ask(fust, "/fust/v1/repos/model/admin/forked/refs")["items"]] == [
        "main",
        "v1.0",
    ]


def test_a_file_has_a_history_and_is_deleted(visit: OpenPage, fust: RunningFust) -> None:
    make_repo(fust, "admin/kept", "model", "# Kept\n")
    for text in ("one\n", "two\n"):
        commit_file(fust, "admin/kept", "model", "a/b.txt", text)
    page = visit("models/admin/kept/blob/main/a/b.txt")
    page.get_by_role("link", name="History").click()
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(2)
    rows.last.get_by_role("link", name="Look at version").click()
    expect(page.locator("pre.text")).to_have_text("one\n")
    expect(page.get_by_role("link", name="Edit")).to_have_count(0)  # an old version is not changed
    page.goto("/models/admin/kept/delete/main/a/b.txt")
    page.get_by_role("button", name="Commit", exact=True).click()
    expect(page.get_by_role("link", name="README.md", exact=True)).to_be_visible()
    expect(page.get_by_role("link", name="a/b.txt", exact=True)).to_have_count(0)
    page.goto("/models/admin/kept/blob/main/a/b.txt")
    expect(page.locator("h1")).to_have_text("No file a/b.txt in this version.")


def test_settings_change_hide_move_and_delete(visit: OpenPage, fust: RunningFust) -> None:
    make_repo(fust, "admin/before", "model", "# Before\n")
    page = visit("models/admin/before?tab=settings")
    with page.expect_response(lambda it: it.url.endswith("/settings") and it.request.method == "PUT"):
        page.get_by_label("Private: its owner").check()
    expect(page.get_by_label("Private: its owner")).to_be_checked()
    assert ask(fust, "/fust/v1/repos/model/admin/before")["private"] is True
    lines = page.get_by_label("Branches whose history nobody rewrites")
    lines.fill("main\nrelease/*")
    page.get_by_role("region", name="Protected branches").get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved.")).to_be_visible()
    assert ask(fust, "/fust/v1/repos/model/admin/before")["protected"] == ["main", "release/*"]

    name = page.get_by_role("region", name="Name and owner")
    name.get_by_label("Name").fill("after")
    name.get_by_role("button", name="Move it").click()
    expect(page.locator("h1")).to_have_text("after")
    page.goto("/models/admin/before?tab=files")  # an old link
    expect(page.locator("h1")).to_have_text("after")
    assert page.url.endswith("/models/admin/after?tab=files")
    page.goto("/models/admin/before/blob/main/README.md")
    expect(page.locator("pre.text")).to_have_text("# Before\n")
    page.goto("/models/admin/before/commit/main")
    expect(page.locator("h1")).to_have_text("Add README.md")
    page.goto("/models/admin/after")

    page.get_by_role("tab", name="Settings").click()
    page.get_by_role("link", name="Duplicate it").click()
    page.get_by_label("Name").fill("twin")
    page.get_by_role("button", name="Duplicate it").click()
    expect(page.locator("h1")).to_have_text("twin")

    page.goto("/models/admin/after?tab=settings")
    gone = page.get_by_role("region", name="Delete", exact=True)
    expect(gone.get_by_role("button", name="Delete the repository")).to_be_disabled()
    gone.get_by_label("Type admin/after to confirm").fill("admin/after")
    gone.get_by_role("button", name="Delete the repository").click()
    expect(page.locator("h1")).to_have_text("Models")
    assert fust.request("GET", "/fust/v1/repos/model/admin/after")[0] == 404
    assert fust.request("GET", "/fust/v1/repos/model/admin/twin")[0] == 200


def test_large_files_are_listed_removed_and_history_is_squashed(visit: OpenPage, fust: RunningFust) -> None:
    make_repo(fust, "admin/heavy", "model", "# Heavy\n")
    blob = fust.home.parent / "old.bin"
    blob.write_bytes(b"\0" + random.Random(3).randbytes(200_000))
    fust.cli("push", str(blob), "admin/heavy")
    page = visit("models/admin/heavy?tab=settings")
    storage = page.get_by_role("region", name="Large files")
    expect(storage).to_contain_text("one file of any version")
    storage.get_by_label("old.bin").check()
    storage.get_by_role("button", name="Delete 1 file").click()
    storage.get_by_role("button", name="Delete 1 file from all versions, for good").click()
    expect(storage).to_contain_text("None. Small files live in git.")
    squash = page.get_by_role("region", name="Squash the history")
    squash.get_by_label("Its message").fill("All of it")
    squash.get_by_role("button", name="Squash").click()
    squash.get_by_role("button", name="Squash the history of main for good").click()
    expect(squash).to_contain_text("Done: commit")
    titles = [it["title"] for it in ask(fust, "/fust/v1/repos/model/admin/heavy/commits")["items"]]
    assert titles == ["All of it"]


def test_only_those_who_may_see_the_settings(visit: OpenPage, fust: RunningFust) -> None:
    make_repo(fust, "admin/public", "model", "# Public\n")
    page = visit("models/admin/public?tab=settings", token=make_person(fust, "zoe"))
    expect(page.get_by_role("tab", name="Card")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_role("tab", name="Settings")).to_have_count(0)
    page.goto("/models/admin/public/refs")
    expect(page.get_by_role("heading", name="Branches", exact=True)).to_be_visible()
    expect(page.get_by_role("button", name="New branch")).to_have_count(0)
