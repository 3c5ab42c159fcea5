"""A served model whose repo is renamed goes on answering, by its new name, its old one and its alias."""

from __future__ import annotations

import json
import time
from pathlib import Path

from tests.conftest import RunningFust, start_fust


def ask(server: RunningFust, model: str) -> int:
    return server.request("POST", "/v1/completions", {"model": model, "prompt": "x", "max_tokens": 1})[0]


def deployments(server: RunningFust) -> list[tuple[str, str]]:
    items = json.loads(server.request("GET", "/fust/v1/deployments")[2])["items"]
    return [(item["repo_id"], item["name"]) for item in items]


def wait_for(server: RunningFust, wanted: list[tuple[str, str]]) -> None:
    until = time.monotonic() + 60
    while deployments(server) != wanted:
        assert time.monotonic() < until, deployments(server)
        time.sleep(0.1)


def test_a_deployment_follows_its_repo(tmp_path: Path) -> None:
    server = start_fust(tmp_path / "home", starter=True)
    try:
        wait_for(server, [("fust/starter", "fust/starter")])
        body = {"fromRepo": "fust/starter", "toRepo": "admin/renamed"}
        status, _, answer = server.request("POST", "/api/repos/move", body)
        assert status == 200, answer
        wait_for(server, [("admin/renamed", "admin/renamed")])
        assert [ask(server, name) for name in ("admin/renamed", "fust/starter", "starter")] == [200] * 3
        assert ask(server, "fust/none") == 404
        server.stop()
        server = start_fust(tmp_path / "home", starter=True)
        assert deployments(server) == [("admin/renamed", "admin/renamed")]
        assert [ask(server, name) for name in ("fust/starter", "admin/renamed")] == [200] * 2
    finally:
        server.stop()
