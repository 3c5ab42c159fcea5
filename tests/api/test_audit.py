"""The audit over HTTP and on the command line: who may see it, what it holds, how it leaves."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from huggingface_hub import HfApi

from tests.conftest import RunningFust, start_fust


def entries(server: RunningFust, query: str = "") -> list[dict[str, object]]:
    status, _, body = server.request("GET", f"/fust/v1/audit?limit=200&{query}")
    assert status == 200, body
    return json.loads(body)["items"]


def test_what_people_do_is_in_it(server: RunningFust) -> None:
    hub = HfApi(endpoint=server.url, token=server.token)
    hub.create_repo("lab/one", private=True)
    oid = hub.upload_file(path_or_fileobj=b"1", path_in_repo="a.txt", repo_id="lab/one").oid
    hub.update_repo_settings("lab/one", private=False)
    hub.delete_repo("lab/one")
    found = {entry["action"]: entry for entry in entries(server, "subject=model:lab/one")}
    assert list(found) == ["repo.delete", "repo.settings", "repo.push", "repo.create"]
    assert found["repo.push"]["detail"] == {"oid": oid, "ref": "refs/heads/main"}
    assert found["repo.create"]["detail"] == {"private": True}
    assert found["repo.settings"]["detail"] == {"private": False}
    for entry in found.values():
        assert (entry["actor"], entry["via"], entry["address"]) == ("admin", "token", "127.0.0.1")
        assert str(entry["token_id"]).startswith("t")
    (started,) = entries(server, "action=server.start")
    assert started["via"] == "system"
    assert "server.port" in started["detail"]["set"] and "8787" not in str(started["detail"])  # type: ignore[index]


def test_only_administrators_see_it(server: RunningFust) -> None:
    server.request("POST", "/fust/v1/users", {"name": "paul", "password": "a long sentence"})
    read_only = json.loads(server.request("POST", "/fust/v1/tokens", {"name": "r", "scope": "read"})[2])[
        "token"
    ]
    for path in ("", "/export", "/verify"):
        assert server.request("GET", f"/fust/v1/audit{path}", token=None)[0] == 401
        assert server.request("GET", f"/fust/v1/audit{path}", token=read_only)[0] == 403
    assert server.request("GET", "/fust/v1/audit?cursor=x")[0] == 400
    assert server.request("GET", "/fust/v1/audit?since=x")[0] == 400
    assert server.request("GET", "/fust/v1/audit/export?since=x")[0] == 400
    assert server.request("GET", "/fust/v1/audit?limit=501")[0] == 400


def test_pages_and_actions(server: RunningFust) -> None:
    server.request("POST", "/fust/v1/users", {"name": "anna", "password": "a long sentence"})
    whole = entries(server)
    first = json.loads(server.request("GET", "/fust/v1/audit?limit=1")[2])
    rest = json.loads(server.request("GET", f"/fust/v1/audit?limit=500&cursor={first['next']}")[2])
    assert first["items"] + rest["items"] == whole and rest["next"] is None
    body = server.request("GET", "/fust/v1/audit/actions", headers={"accept-language": "zh"})[2]
    assert {"action": "repo.create", "title": "创建仓库"} in json.loads(body)["items"]


def test_an_export_is_noted_and_can_be_checked(server: RunningFust, tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    assert server.cli("audit", "export", "-o", str(file)).returncode == 0
    assert json.loads(file.read_text().splitlines()[-1])["action"] == "audit.export"
    assert "none changed" in server.cli("audit", "verify").stdout
    assert "still holds" in server.cli("audit", "verify", str(file)).stdout
    file.write_text(file.read_text().replace('"actor":"fust"', '"actor":"eva"', 1))
    changed = server.cli("audit", "verify", str(file), check=False)
    assert changed.returncode == 1 and "Entry 1 is not what was written" in changed.stderr
    table = server.cli("audit", "export", "--format", "csv", "--action", "audit").stdout.splitlines()
    assert table[0].startswith("seq,at,actor,") and "audit.export" in table[1]
    status, headers, _ = server.request("GET", "/fust/v1/audit/export?format=csv")
    assert status == 200 and headers["content-disposition"].endswith('.csv"')
    assert "audit.export" in server.cli("--json", "audit", "list", "--action", "audit.export").stdout


def test_a_cut_off_end_shows_beside_an_earlier_export(tmp_path: Path) -> None:
    running = start_fust(tmp_path / "home")
    try:
        running.cli("audit", "export", "-o", str(tmp_path / "kept.jsonl"))
        with sqlite3.connect(tmp_path / "home" / "fust.db") as database:
            database.execute("DROP TRIGGER audit_entries_delete")
            database.execute("DELETE FROM audit_entries WHERE action = 'audit.export'")
        database.close()
        assert running.cli("audit", "verify").returncode == 0  # the chain alone cannot know
        told = running.cli("audit", "verify", str(tmp_path / "kept.jsonl"), check=False)
        assert told.returncode == 1 and "cut off" in told.stderr
    finally:
        running.stop()
