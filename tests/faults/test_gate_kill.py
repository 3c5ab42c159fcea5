"""`kill -9` of the server between gate decisions: what was acknowledged holds, what was not is whole or absent."""

from __future__ import annotations

import json
import random
import threading
import time
from pathlib import Path

import pytest

from tests.conftest import RunningFust, start_fust

pytestmark = pytest.mark.faults

REPO = "admin/guarded"
USERS = [f"user{i}" for i in range(6)]
ROUNDS = 8


class Decider(threading.Thread):
    """Accepts and rejects users one after another, until the server is gone; keeps what was acknowledged."""

    def __init__(self, server: RunningFust, said: dict[str, str], seed: int) -> None:
        super().__init__(daemon=True)
        self.server, self.said = server, said
        self.asked: tuple[str, str] = ("", "")
        self.rng = random.Random(seed)

    def run(self) -> None:
        while True:
            user = self.rng.choice(USERS)
            status = "rejected" if self.said[user] == "accepted" else "accepted"
            self.asked = (user, status)
            body = {"user": user, "status": status}
            try:
                answer = self.server.request("POST", f"/api/models/{REPO}/user-access-request/handle", body)
            except OSError:
                return
            assert answer[0] == 200, answer
            self.said[user] = status
            self.asked = ("", "")


def standings(server: RunningFust) -> dict[str, str]:
    found: dict[str, str] = {}
    for status in ("pending", "accepted", "rejected"):
        _, _, body = server.request("GET", f"/api/models/{REPO}/user-access-request/{status}")
        found |= {request["user"]["user"]: request["status"] for request in json.loads(body)}
    return found


def decisions(server: RunningFust) -> dict[str, str]:
    """What the audit says was decided last of each."""
    _, _, body = server.request("GET", f"/fust/v1/audit?subject=model:{REPO}&limit=500")
    last: dict[str, str] = {}
    for entry in json.loads(body)["items"]:
        if entry["action"] in ("access.grant", "access.accept", "access.revoke"):
            kept = "rejected" if entry["action"] == "access.revoke" else "accepted"
            last.setdefault(entry["detail"]["user"], kept)
    return last


def test_killed_while_an_owner_decides(tmp_path: Path) -> None:
    home, rng = tmp_path / "home", random.Random(11)
    server = start_fust(home)
    said: dict[str, str] = {}
    try:
        assert server.request("POST", "/api/repos/create", {"name": REPO})[0] == 200
        assert server.request("PUT", f"/api/models/{REPO}/settings", {"gated": "manual"})[0] == 200
        for user in USERS:
            assert server.request("POST", "/fust/v1/users", {"name": user})[0] == 201
            body = {"user": user}
            assert server.request("POST", f"/api/models/{REPO}/user-access-request/grant", body)[0] == 200
            said[user] = "accepted"
        decided = 0
        for turn in range(ROUNDS):
            before = dict(said)
            decider = Decider(server, said, turn)
            decider.start()
            time.sleep(0.05 + rng.random() * 0.4)
            server.kill()
            decider.join(timeout=30)
            assert not decider.is_alive()
            decided += said != before
            server = start_fust(home)
            now = standings(server)
            user, status = decider.asked
            for name in USERS:
                right = {said[name], status} if name == user else {said[name]}
                assert now[name] in right, f"{name}: {now[name]}, acknowledged was {said[name]}"
            assert decisions(server) == now, "the audit tells of what holds, and of nothing else"
            said.update(now)
        assert decided > ROUNDS // 2, "nothing was decided between the kills"
        _, _, body = server.request("GET", "/fust/v1/audit/verify")
        assert json.loads(body)["ok"]
    finally:
        server.kill()
