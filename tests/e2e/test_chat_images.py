"""Images in a chat: chosen, dropped or pasted, seen before they are sent, sent as they are shown, and kept."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi
from playwright.sync_api import expect

from tests.e2e.conftest import Axe
from tests.support.pictures import picture
from tests.support.projectors import write_projector
from tests.support.small_models import write_llama

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="session")
def eyes(page_server: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that sees, with random weights; returns its name."""
    folder = tmp_path_factory.mktemp("eyes")
    write_llama(folder / "eyes.gguf", context=512)
    write_projector(folder / "mmproj-eyes.gguf")
    api = HfApi(page_server.url, token=page_server.token)
    api.create_repo("admin/eyes")
    api.upload_folder(folder_path=folder, repo_id="admin/eyes")
    return json.loads(page_server.cli("serve", "admin/eyes", "--json").stdout)["name"]


def choose(page: Any, name: str, data: bytes) -> None:
    field = page.locator(".compose input[accept^='image']")
    field.set_input_files([{"name": name, "mimeType": "image/png", "buffer": data}])


def hand_over(page: Any, event: str, data: bytes) -> None:
    """Drops or pastes an image, as the browser tells the page of it."""
    page.locator("#msg").evaluate(
        """(field, [event, data]) => {
          const bytes = Uint8Array.from(atob(data), (it) => it.charCodeAt(0));
          const held = new DataTransfer();
          held.items.add(new File([bytes], `${event}.png`, { type: "image/png" }));
          const made = event === "drop"
            ? new DragEvent("drop", { dataTransfer: held, bubbles: true, cancelable: true })
            : new ClipboardEvent("paste", { clipboardData: held, bubbles: true, cancelable: true });
          field.dispatchEvent(made);
        }""",
        [event, base64.b64encode(data).decode()],
    )


def test_an_image_is_shown_sent_and_kept(open_page: Callable[..., Any], eyes: str, axe: Axe) -> None:
    page = open_page(f"chat?model={eyes}")
    page.get_by_label("Most tokens").fill("4")
    page.get_by_label("Most tokens").blur()
    choose(page, "red.png", picture("red", "PNG", (3000, 1500)))
    expect(page.locator(".chip img")).to_be_visible()
    page.get_by_role("button", name="Remove red.png").click()
    expect(page.locator(".chip")).to_have_count(0)
    choose(page, "red.png", picture("red", "PNG", (3000, 1500)))
    hand_over(page, "drop", picture("blue"))
    hand_over(page, "paste", picture("green"))
    expect(page.locator(".chip img")).to_have_count(3)
    choose(page, "no.png", b"no image at all")
    expect(page.locator(".compose [role=alert]")).to_contain_text("no.png is not an image")
    assert axe(page) == []
    page.get_by_label("Your message", exact=True).fill("What is it?")
    with page.expect_request("**/v1/chat/completions") as asked:
        page.get_by_role("button", name="Send", exact=True).click()
    parts = asked.value.post_data_json["messages"][-1]["content"]
    assert [part["type"] for part in parts] == ["image_url"] * 3 + ["text"]
    assert parts[0]["image_url"]["url"].startswith("data:image/jpeg;base64,")
    expect(page.locator(".turn")).to_have_count(2)
    page.get_by_role("button", name="Send", exact=True).wait_for(timeout=60_000)
    expect(page.locator(".turn").nth(1).locator(".meter")).to_contain_text("token")
    page.reload()
    shown = page.locator(".turn.me img.shown")
    expect(shown).to_have_count(3)
    expect(shown.first).to_have_js_property("naturalWidth", 1024)
    page.get_by_role("button", name="Edit").click()
    expect(page.locator(".inplace .chip img")).to_have_count(3)


@pytest.mark.parametrize(("lang", "width", "scheme"), [("en-GB", 1440, "light"), ("zh-CN", 360, "dark")])
def test_it_fits(
    open_page: Callable[..., Any], eyes: str, lang: str, width: int, scheme: str, tmp_path: Path
) -> None:
    page = open_page(f"chat?model={eyes}", lang=lang, width=width, scheme=scheme)
    choose(page, "photo-of-a-very-long-name-that-goes-on-and-on.png", picture("purple"))
    expect(page.locator(".chip img")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.screenshot(path=tmp_path / f"images-{lang}-{width}.png")


def test_a_model_without_eyes_offers_no_images(open_page: Callable[..., Any], model: dict[str, Any]) -> None:
    page = open_page(f"chat?model={model['name']}")
    expect(page.locator(".compose input[type=file]")).to_have_count(1)
    hand_over(page, "drop", picture("blue"))
    expect(page.locator(".compose [role=alert]")).to_contain_text("reads text only")
