"""Talking to a model: it streams, stops, answers again, and Enter never sends half a word."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.e2e

OpenPage = Callable[..., Any]
ANSWERED = re.compile(r"tokens? · [\d.,]+ tokens/s · first after")


def finished(page: Any) -> Any:
    """The measure below the last answer, once it stands."""
    page.locator(".turn").nth(1).wait_for()  # the button says Send, too, before the answer has begun
    page.get_by_role("button", name="Send").wait_for(timeout=60_000)
    return page.locator(".turn").last.locator(".meter")


def test_an_answer_streams_and_says_its_pace(open_page: OpenPage, model: dict[str, Any]) -> None:
    page = open_page("chat")
    asked: list[str] = []
    page.on(
        "request", lambda request: asked.append(request.url) if "/chat/completions" in request.url else None
    )
    box = page.get_by_label("Your message")
    box.fill("Once upon a time")
    box.press("Enter")
    expect(page.locator(".turn")).to_have_count(2)
    expect(finished(page)).to_contain_text(ANSWERED)
    expect(page.locator(".turn .say").nth(0)).to_have_text("Once upon a time")
    answer = page.locator(".turn").nth(1).locator(".prose").inner_text()
    assert answer.strip() != ""

    with page.expect_request("**/v1/chat/completions"):
        page.get_by_role("button", name="Answer again").click()
    expect(finished(page)).to_contain_text(ANSWERED)
    assert page.locator(".turn").count() == 2
    assert len(asked) == 2

    page.reload()  # the conversation is kept on the server
    expect(page.locator(".turn")).to_have_count(2)
    expect(page.locator(".turn").nth(1)).to_contain_text(ANSWERED)


def test_stop_keeps_what_has_come(open_page: OpenPage, model: dict[str, Any]) -> None:
    page = open_page("chat")
    # Only the pace is made: the stream stays open until the page leaves it, so that a fast model cannot end first.
    page.add_init_script(
        """
        const real = window.fetch;
        window.fetch = async (url, options) => {
          if (!String(url).endsWith("/v1/chat/completions")) return real(url, options);
          const answer = await real(url, options);
          const slow = new TransformStream({
            async transform(piece, sink) {
              for (let i = 0; i < piece.length && !options.signal.aborted; i += 200) {  // however many events came at once
                sink.enqueue(piece.slice(i, i + 200));
                await new Promise((done) => setTimeout(done, 300));
              }
            },
          });
          options.signal.addEventListener("abort", () => { window.left = true; });
          return new Response(answer.body.pipeThrough(slow, { signal: options.signal }), answer);
        };
        """
    )
    page.reload()
    page.get_by_label("Your message").fill("Tell me a long story")
    page.get_by_role("button", name="Send").click()
    page.locator(".turn").nth(1).locator(".prose").wait_for()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped before the end.")).to_be_visible()
    page.get_by_role("button", name="Send").wait_for()
    assert page.evaluate("window.left") is True
    assert page.locator(".turn").nth(1).locator(".prose").inner_text().strip() != ""


def test_enter_never_sends_while_composing(open_page: OpenPage, model: dict[str, Any]) -> None:
    page = open_page("chat", lang="zh-CN")
    box = page.get_by_label("您的消息")
    box.focus()
    keys = page.context.new_cdp_session(page)
    keys.send("Input.imeSetComposition", {"text": "ni hao", "selectionStart": 6, "selectionEnd": 6})
    for kind in ("rawKeyDown", "keyUp"):  # how an input method hands on its Enter: key code 229
        keys.send("Input.dispatchKeyEvent", {"type": kind, "key": "Enter", "windowsVirtualKeyCode": 229})
    box.evaluate(
        "it => it.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', isComposing: true, bubbles: true}))"
    )
    page.wait_for_timeout(100)
    assert page.locator(".turn").count() == 0
    keys.send("Input.insertText", {"text": "你好"})
    expect(box).to_have_value("你好")
    box.press("Shift+Enter")
    expect(box).to_have_value("你好\n")
    assert page.locator(".turn").count() == 0
    box.press("Enter")
    expect(page.locator(".turn").first).to_contain_text("你好")


def test_an_error_says_what_next_and_its_number(open_page: OpenPage, model: dict[str, Any]) -> None:
    page = open_page("chat")
    # The model's name is changed on its way, so the real server refuses.
    page.route(
        "**/v1/chat/completions",
        lambda route: route.continue_(
            post_data=route.request.post_data.replace('"model":"', '"model":"no-such-')
        ),
    )
    page.get_by_label("Your message").fill("Hello")
    page.get_by_role("button", name="Send").click()
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert "no-such-" in alert.inner_text()
    assert "Request" in alert.inner_text()
    page.unroute("**/v1/chat/completions")
    page.get_by_role("button", name="Try again").click()
    expect(finished(page)).to_contain_text(ANSWERED)


def test_example_prompts_begin_a_conversation(open_page: OpenPage, model: dict[str, Any]) -> None:
    page = open_page("chat")
    page.locator(".examples button").first.click()
    expect(page.locator(".turn.me")).to_have_count(1)
    assert "c=" in page.url


def test_a_model_without_a_template_says_so(open_page: OpenPage, mute_model: dict[str, Any]) -> None:
    page = open_page(f"chat?model={mute_model['name']}")
    expect(page.get_by_text("has no chat template, so it cannot chat")).to_be_visible()
    page.get_by_label("Your message").fill("Hello")
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
    page.get_by_role("link", name="Call it through /v1/completions instead").click()
    expect(page.locator("[role=tabpanel] pre:visible")).to_contain_text("/v1/completions")


def test_the_model_changes_in_mid_thread(
    open_page: OpenPage, model: dict[str, Any], mute_model: dict[str, Any]
) -> None:
    page = open_page(f"chat?model={model['name']}")
    page.get_by_label("Your message").fill("Hello")
    page.get_by_role("button", name="Send").click()
    finished(page)
    page.locator("#model").select_option(mute_model["name"])
    expect(page.get_by_text(f"Model changed to {mute_model['name']}")).to_be_visible()
