"""Several writers on one branch: of those who saw the same head one wins, the others are told so, and their retry lands."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import RunningFust

pytestmark = pytest.mark.faults
REPO = "admin/contended"
WRITERS = 4


def head(server: RunningFust) -> str:
    return json.loads(server.request("GET", f"/api/models/{REPO}")[2])["sha"]


def commit(server: RunningFust, path: str, parent: str | None) -> tuple[int, dict[str, object]]:
    value = {"path": path, "content": base64.b64encode(path.encode()).decode(), "encoding": "base64"}
    top = {"summary": path} | ({"parentCommit": parent} if parent else {})
    lines = [{"key": "header", "value": top}, {"key": "file", "value": value}]
    body = "\n".join(json.dumps(line) for line in lines).encode()
    status, _, answer = server.request("POST", f"/api/models/{REPO}/commit/main", body)
    return status, json.loads(answer)


def test_one_of_those_who_saw_the_same_head_wins(server: RunningFust) -> None:
    assert server.request("POST", "/api/repos/create", {"name": "contended"})[0] == 200
    expected: set[str] = set()
    with ThreadPoolExecutor(WRITERS) as pool:
        for turn in range(5):
            seen = head(server)
            names = [f"turn-{turn}/writer-{n}.txt" for n in range(WRITERS)]
            answers = dict(
                zip(
                    names,
                    pool.map(lambda name, parent=seen: commit(server, name, parent), names),
                    strict=True,
                )
            )
            won = [name for name, (status, _) in answers.items() if status == 200]
            assert len(won) == 1, answers
            assert {status for status, _ in answers.values()} - {200} <= {409, 412}, answers
            for name in set(names) - set(won):  # as a client does: look again, then try again
                status, said = commit(server, name, head(server))
                assert status == 200 and said["commitOid"] == head(server)
            expected |= set(names)
        # Who names no parent is never refused: the commits line up.
        loose = [f"loose-{n}.txt" for n in range(2 * WRITERS)]
        assert {s for s, _ in pool.map(lambda name: commit(server, name, None), loose)} == {200}
    _, _, body = server.request("GET", f"/api/models/{REPO}/tree/main?recursive=true")
    paths = {line["path"] for line in json.loads(body) if line["type"] == "file"}
    assert expected | set(loose) <= paths
    _, _, body = server.request("GET", f"/api/models/{REPO}/commits/main?limit=1000")
    assert len(json.loads(body)) == 1 + len(expected) + len(loose)


def test_of_two_pushes_one_has_to_fetch_first(server: RunningFust, tmp_path: Path) -> None:
    assert server.request("POST", "/api/repos/create", {"name": "pushed-twice"})[0] == 200
    url = server.url.replace("http://", f"http://me:{server.token}@") + "/admin/pushed-twice"
    environ = {**os.environ, "HOME": str(tmp_path), "GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_NOSYSTEM": "1"}

    def git(where: str, *words: str) -> subprocess.CompletedProcess[str]:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        return subprocess.run(
            ["git", *who, *words],
            cwd=tmp_path / where,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )

    for where in ("one", "two"):
        assert git("", "clone", "-q", url, where).returncode == 0
        (tmp_path / where / f"{where}.txt").write_text(where)
        git(where, "add", "-A")
        assert git(where, "commit", "-qm", where).returncode == 0
    with ThreadPoolExecutor(2) as pool:
        done = dict(
            zip(
                ("one", "two"),
                pool.map(lambda where: git(where, "push", "-q"), ("one", "two")),
                strict=True,
            )
        )
    lost = [where for where, push in done.items() if push.returncode]
    assert len(lost) == 1, done
    assert git(lost[0], "pull", "-q", "--rebase").returncode == 0
    again = git(lost[0], "push", "-q")
    assert again.returncode == 0, again.stderr
    _, _, body = server.request("GET", "/api/models/admin/pushed-twice/tree/main")
    assert {"one.txt", "two.txt"} <= {line["path"] for line in json.loads(body)}
