"""`kill -9` at any moment between a commit and its delivery: every acknowledged commit is told, under one id each."""

from __future__ import annotations

import json
import random
import time
import urllib.error
from pathlib import Path
from threading import Thread

import pytest

from tests.conftest import RunningFust, free_port, start_fust
from tests.support.receiver import Receiver, in_turn, say

pytestmark = pytest.mark.faults
SETTINGS = {"webhooks__internal_hosts": "127.0.0.1", "webhooks__timeout_s": 1, "webhooks__retry_s": 0.3}


def write_until_dead(server: RunningFust, told: list[str], first: int) -> None:
    for i in range(first, first + 10_000):
        lines = [
            {"key": "header", "value": {"summary": f"commit {i}"}},
            {"key": "file", "value": {"path": f"{i}.txt", "content": str(i), "encoding": "utf-8"}},
        ]
        body = "\n".join(json.dumps(line) for line in lines).encode()
        try:
            status, _, answer = server.request("POST", "/api/models/admin/killed/commit/main", body)
        except (urllib.error.URLError, OSError):
            return
        if status == 200:
            told.append(json.loads(answer)["commitOid"])


def test_no_acknowledged_commit_goes_untold(tmp_path: Path) -> None:
    rng = random.Random(7)
    port = free_port()
    receiver = Receiver(in_turn(*[say(rng.choice((200, 500))) for _ in range(40)], say(200)))
    told: list[str] = []
    server = start_fust(tmp_path / "home", port=port, **SETTINGS)
    try:
        server.request("POST", "/api/repos/create", {"name": "admin/killed"})
        watched = [{"type": "model", "name": "admin/killed"}]
        wish = {"url": receiver.url, "watched": watched, "domains": ["repo"]}
        assert server.request("POST", "/api/settings/webhooks", wish)[0] == 200
        for round_ in range(5):
            writer = Thread(target=write_until_dead, args=(server, told, round_ * 10_000))
            writer.start()
            time.sleep(rng.uniform(0.2, 0.9))
            server.kill()
            writer.join()
            server = start_fust(tmp_path / "home", port=port, **SETTINGS)
        assert len(told) > 10
        until = time.monotonic() + 90
        while True:
            by_oid: dict[str, set[str]] = {}
            for heard in list(receiver.heard):
                for ref in heard.json.get("updatedRefs", ()):
                    by_oid.setdefault(ref["newSha"], set()).add(heard.headers["webhook-id"])
            missing = [oid for oid in told if oid not in by_oid]
            if not missing:
                break
            assert time.monotonic() < until, f"{len(missing)} of {len(told)} commits were never told"
            time.sleep(0.2)
        assert all(len(ids) == 1 for ids in by_oid.values()), (
            "one event is one message, however often it is sent"
        )
    finally:
        server.stop()
        receiver.close()
