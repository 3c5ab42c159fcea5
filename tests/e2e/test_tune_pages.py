"""Tuning as one meets it on the page: the wizard, the curves, the choices, what is learned."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import Axe
from tests.support.tiny_bases import write_base, write_rows

pytest.importorskip("peft", reason="peft is not installed (pip install 'fust[tune]')")
pytestmark = pytest.mark.e2e

OpenPage = Callable[..., Any]


@pytest.fixture(scope="module")
def base(page_server: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A base model and rows; returns its id."""
    folder = tmp_path_factory.mktemp("tune-pages")
    page_server.cli("push", str(write_base(folder / "base")), "admin/page-base")
    page_server.cli("push", str(write_rows(folder / "rows.jsonl")), "admin/page-rows", "--type", "dataset")
    return "admin/page-base"


def wait_for_run(server: Any, run_id: str, timeout_s: float = 120) -> dict[str, Any]:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        run = json.loads(server.request("GET", f"/fust/v1/runs/{run_id}")[2])
        if run["state"] in ("failed", "succeeded", "cancelled"):
            assert run["state"] == "succeeded", run["error"]
            return run
        time.sleep(0.3)
    raise AssertionError("the run did not end")


def start_tuning(server: Any, base: str, to: str, **more: Any) -> str:
    params = {"base": base, "data": "admin/page-rows", "to": to, "steps": 6, "learning_rate": 0.01, **more}
    status, _, body = server.request("POST", "/fust/v1/runs", {"kind": "tune", "params": params})
    assert status == 201, body
    return json.loads(body)["id"]


def test_the_wizard_plans_and_starts(open_page: OpenPage, page_server: Any, base: str, axe: Axe) -> None:
    page = open_page("tune")
    expect(page.locator("h1")).to_have_text("Tune a model")
    expect(page.get_by_role("button", name="Make the plan")).to_be_disabled()
    page.get_by_role("radio", name=base).check()
    page.get_by_label("Data set").select_option("admin/page-rows")
    expect(page.get_by_role("region", name="2. Data").get_by_role("table")).to_contain_text("Say moon 0")
    expect(page.get_by_label("Repo for the result")).to_have_value("admin/page-base-tuned")
    page.get_by_role("button", name="Make the plan").click()
    plan = page.get_by_role("region", name="4. Plan and start")
    expect(plan.get_by_text("less work than training such a model from nothing")).to_be_visible(
        timeout=90_000
    )
    expect(plan.locator("mark").first).to_be_visible()
    expect(plan.get_by_role("table")).to_contain_text("row_tokens")
    assert axe(page) == []
    page.get_by_role("button", name="Start tuning").click()
    page.get_by_role("button", name="Start now and write to admin/page-base-tuned").click()
    page.wait_for_url("**/jobs/*")
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Save and pause now").click()
    expect(page.get_by_role("button", name="Resume")).to_be_visible(timeout=60_000)
    page.get_by_role("button", name="End early").click()
    page.get_by_role("button", name="End at the next step and publish what it has learned").click()
    expect(page.get_by_role("button", name="Pause")).to_be_visible()  # it goes on, to publish what it has
    page_server.request("POST", f"/fust/v1/runs/{page.url.rsplit('/', 1)[1]}/cancel")


def test_a_run_shows_its_curves_beside_another(
    open_page: OpenPage, page_server: Any, base: str, axe: Axe
) -> None:
    runs = [start_tuning(page_server, base, f"admin/page-tuned-{i}", seed=i) for i in range(2)]
    for run_id in runs:
        wait_for_run(page_server, run_id)
    page = open_page(f"jobs/{runs[1]}")
    loss = page.get_by_role("region", name="Loss")
    expect(loss.get_by_role("img", name="Loss against step: from")).to_be_visible()
    expect(loss.get_by_role("img", name="Loss against step: from")).to_contain_text("held out")
    for curve in ("Learning rate", "Gradient norm", "Tokens a second", "Memory"):
        expect(loss.get_by_role("img", name=curve)).to_be_visible()
    expect(page.get_by_role("region", name="What it writes")).to_contain_text("After 6 steps")
    loss.get_by_label("Beside").select_option(runs[0])
    expect(loss.get_by_role("img", name="Loss against step: from")).to_contain_text("other run")
    row = page.get_by_role("region", name="What the runs decided differently").get_by_role("row", name="seed")
    expect(row.get_by_role("cell")).to_have_text(["1", "0"])
    with page.expect_download() as download:
        page.get_by_role("link", name="All steps as CSV").click()
    assert download.value.path().read_text().startswith("step,loss,")
    expect(page.get_by_role("region", name="What is learned").locator("mark").first).to_be_visible()
    expect(page.get_by_text("/ 6 steps")).to_be_visible()
    assert axe(page) == []
    _is_chinese_all_through(open_page, runs[1])
    more = page.get_by_role("region", name="Train on")
    more.get_by_label("Time or tokens to train").select_option("10Mtok")
    more.get_by_role("button", name="Train on").click()
    page.get_by_role("button", name="Train on and write a new revision of admin/page-tuned-1").click()
    page.wait_for_url(lambda url: runs[1] not in url)
    expect(page.get_by_role("heading", level=1)).to_have_text("Go on with admin/page-tuned-1")
    page_server.request("POST", f"/fust/v1/runs/{page.url.rsplit('/', 1)[1]}/cancel")


def _is_chinese_all_through(open_page: OpenPage, run_id: str) -> None:
    """What Fust says of a run: reasons, log, spans, units; the pager beside its heading, and nothing wider than the page."""
    page = open_page(f"jobs/{run_id}", lang="zh-CN", width=360)
    log = page.get_by_role("region", name="日志")
    expect(log).to_contain_text(re.compile("每步 .* 秒：共 .*\\d 秒"))
    for part in (
        log,
        page.get_by_role("region", name="做出的选择"),
        page.get_by_role("region", name="数据行"),
    ):
        said = re.sub(r"--set \S+|[a-z-]+/[a-z0-9-]+", "", part.inner_text())
        assert not re.search("[a-z]+ [a-z]+ [a-z]+", said), said
    heading, button = (
        page.get_by_role("heading", name="学习的内容"),
        page.get_by_role("button", name="下一个"),
    )
    assert abs(heading.bounding_box()["y"] - button.bounding_box()["y"]) < 24
    assert page.evaluate("document.documentElement.scrollWidth") == 360
