"""Runs over HTTP: who sees them, server-sent events with replay, cancel, log, and the client that follows."""

import json
import sys
import threading
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))

from bad_hub import Bad, BadHub

from fust.client import Client, ClientError
from fust.wire.runs import LogLine, Progress, Run

BIG = bytes(range(256)) * 8000


@pytest.fixture(scope="module")
def client(server):
    return Client(server.url, server.token)


@pytest.fixture
def hub():
    hub = BadHub({"README.md": b"# Hi\n", "big.gguf": BIG}, lfs=["big.gguf"])
    yield hub
    hub.close()


def slow(hub, pause_s=0.05):
    hub.bad["big.gguf"] = Bad(pause_s=pause_s)


def pull(client, hub, to="admin/pulled", **params):
    return client.create_run("pull", {"repo_id": "org/model", "source": hub.url, "to": to, **params})


def events(server, run_id, last=None):
    headers = {"last-event-id": str(last)} if last is not None else {}
    status, fields, body = server.request("GET", f"/fust/v1/runs/{run_id}/events", headers=headers)
    assert status == 200 and fields["content-type"].startswith("text/event-stream")
    found = []
    for block in body.decode().split("\n\n"):
        entry = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if entry:
            found.append((int(entry["id"]), entry["event"], json.loads(entry["data"])))
    return found


def test_a_run_s_whole_life(server, client, hub):
    run = pull(client, hub)
    assert (run.kind, run.title, run.owner) == ("pull", "Pull org/model", "admin")
    news = list(client.follow_run(run.id))
    last = news[-1]
    assert isinstance(last, Run) and last.state == "succeeded" and last.result
    assert last.result["repo_id"] == "admin/pulled" and last.result["fetched_bytes"] == len(BIG) + 5
    assert any(isinstance(n, Progress) and n.done == n.total > 0 for n in news)
    assert last.progress and last.progress.done == len(BIG) + 5
    assert client.get_repo("admin/pulled").files
    assert client.list_runs()[0].id == run.id
    assert client.list_runs(state="active") == []


def test_events_replay_from_any_id_and_end(server, client, hub):
    run = pull(client, hub)
    list(client.follow_run(run.id))
    all_events = events(server, run.id)
    assert all_events[-1][1] == "state" and all_events[-1][2]["state"] == "succeeded"
    ids = [i for i, _, _ in all_events]
    assert ids == sorted(ids)
    middle = ids[len(ids) // 2]
    assert (
        events(server, run.id, middle) == [e for e in all_events if e[0] > middle]
        or events(server, run.id, middle)[-1] == all_events[-1]
    )
    assert len(events(server, run.id, ids[-1])) == 1
    assert events(server, run.id, 10**12)[-1] == all_events[-1]


def test_events_and_errors_are_in_the_reader_s_language(server, client, hub):
    run = pull(client, hub, revision="main", files=["none.gguf"])
    last = list(client.follow_run(run.id))[-1]
    assert isinstance(last, Run) and last.error
    assert last.error.message == "org/model has no file 'none.gguf'."
    status, _, body = server.request("GET", f"/fust/v1/runs/{run.id}", headers={"accept-language": "zh"})
    assert status == 200
    assert json.loads(body)["error"]["message"] == "org/model 中没有文件 'none.gguf'。"
    assert json.loads(body)["title"] == "拉取 org/model"


def test_live_progress_and_cancel(server, client, hub):
    slow(hub)
    hub.files["big.gguf"] = BIG[::-1]  # bytes that no earlier pull brought
    run = pull(client, hub, to="admin/never")
    seen = []

    def look():
        seen.extend(client.follow_run(run.id))

    thread = threading.Thread(target=look)
    thread.start()
    deadline = time.monotonic() + 20
    while not any(isinstance(n, Progress) and 0 < n.done < n.total for n in seen):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert client.get_run(run.id).state == "running"
    client.cancel_run(run.id)
    thread.join(timeout=20)
    assert isinstance(seen[-1], Run) and seen[-1].state == "cancelled"
    with pytest.raises(ClientError) as caught:
        client.get_repo("admin/never")
    assert caught.value.status == 404
    with pytest.raises(ClientError, match="has ended already") as caught:
        client.cancel_run(run.id)
    assert caught.value.status == 409


def test_who_sees_what(server, client, hub):
    client.create_user("runa", password="quite-a-long-word")
    run = pull(client, hub)
    list(client.follow_run(run.id))
    status, headers, _ = server.request(
        "POST", "/fust/v1/session", {"name": "runa", "password": "quite-a-long-word"}, token=None
    )
    assert status in (200, 201)
    cookie = {"cookie": headers["set-cookie"].split(";")[0], "sec-fetch-site": "same-origin"}
    assert json.loads(server.request("GET", "/fust/v1/runs", token=None, headers=cookie)[2])["items"] == []
    for method, path in [
        ("GET", f"/fust/v1/runs/{run.id}"),
        ("GET", f"/fust/v1/runs/{run.id}/log"),
        ("GET", f"/fust/v1/runs/{run.id}/events"),
        ("POST", f"/fust/v1/runs/{run.id}/cancel"),
    ]:
        assert server.request(method, path, token=None, headers=cookie)[0] == 404
        assert server.request(method, path, token=None)[0] in (401, 404)
    status, _, body = server.request(
        "POST",
        "/fust/v1/runs",
        {"kind": "pull", "params": {"repo_id": "org/model", "source": hub.url}},
        token=None,
        headers=cookie,
    )
    assert status == 201 and json.loads(body)["params"]["to"] == "runa/model"
    mine = Client(server.url, server.token)
    last = list(mine.follow_run(json.loads(body)["id"]))[-1]
    assert isinstance(last, Run) and last.error and last.error.code == "private_address"
    read_only = client.create_token("reader", "read").token
    assert server.request("POST", "/fust/v1/runs", {"kind": "pull", "params": {}}, token=read_only)[0] == 403
    assert server.request("POST", f"/fust/v1/runs/{run.id}/cancel", token=read_only)[0] == 403


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"kind": "nonsense"}, 400),
        ({"kind": "pull", "params": {}}, 400),
        ({"kind": "pull", "params": {"repo_id": "../x"}}, 400),
        ({"kind": "pull", "params": {"repo_id": "a/b", "type": "thing"}}, 400),
        ({"kind": "pull", "params": {"repo_id": "a/b", "source": "file:///etc/passwd"}}, 400),
        ({"kind": "pull", "params": {"repo_id": "a/b", "files": "x"}}, 400),
        ({"kind": "pull", "params": {"repo_id": "a/b"}, "owner": "bob"}, 400),
        ({}, 400),
    ],
)
def test_what_is_wrong_is_refused_with_words(server, body, status):
    code, fields, answer = server.request("POST", "/fust/v1/runs", body)
    assert code == status and fields["content-type"] == "application/problem+json"
    assert json.loads(answer)["detail"]


def test_missing_runs(server):
    for path in ("nope", "nope/events", "nope/log", "..%2f..%2fetc"):
        assert server.request("GET", f"/fust/v1/runs/{path}")[0] == 404


def test_the_log_is_text(server, client, hub):
    run = pull(client, hub, all=True)
    list(client.follow_run(run.id))
    status, fields, body = server.request("GET", f"/fust/v1/runs/{run.id}/log")
    assert status == 200 and fields["content-type"].startswith("text/plain")
    assert b"Traceback" not in body


def test_a_follower_outlives_a_restart_of_the_server(fust_factory, hub):
    """kill -9 of the server in the middle of a pull: the run goes on, the follower finds it again."""
    slow(hub, 0.1)
    first = fust_factory("home")
    port = int(first.url.rpartition(":")[2])
    client = Client(first.url, first.token)
    run = pull(client, hub)
    seen = []
    thread = threading.Thread(target=lambda: seen.extend(client.follow_run(run.id)))
    thread.start()
    while not any(isinstance(n, Progress) and n.done for n in seen):
        time.sleep(0.02)
    first.kill()
    fust_factory("home", port=port)
    thread.join(timeout=30)
    assert isinstance(seen[-1], Run) and seen[-1].state == "succeeded"
    assert hub.sent_bytes == len(BIG) + 5
    marks = [n.done for n in seen if isinstance(n, Progress)]
    assert marks == sorted(marks), "nothing is told twice"
    assert not [n for n in seen if isinstance(n, LogLine)]


def test_a_follower_is_let_go_when_its_key_ends(server, client, hub):
    slow(hub, 0.1)
    hub.files["big.gguf"] = BIG[5:] + BIG[:5]  # bytes that no earlier pull brought
    key = client.create_token("follower", "admin")
    run = pull(Client(server.url, key.token), hub, to="admin/followed")
    ended = []

    def look():
        try:
            ended.extend(Client(server.url, key.token).follow_run(run.id))
        except ClientError as error:
            ended.append(error.status)

    thread = threading.Thread(target=look)
    thread.start()
    deadline = time.monotonic() + 20
    while not any(isinstance(n, Progress) and n.done > 0 for n in ended):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    client.revoke_token(key.id)
    begin = time.monotonic()
    thread.join(timeout=20)
    assert ended[-1] == 401 and time.monotonic() - begin < 3
    assert client.get_run(run.id).state == "running", "the run is the user's, not the key's"
    client.cancel_run(run.id)


def test_a_fine_grained_key_sees_the_runs_that_it_asked_for(server, client, hub):
    before = client.list_runs()
    narrow = Client(server.url, client.create_token("n", "write", repos=["admin/narrow"]).token)
    with pytest.raises(ClientError) as caught:
        pull(narrow, hub, to="admin/elsewhere")
    assert caught.value.status == 403
    run = pull(narrow, hub, to="admin/narrow")
    assert "asked" not in run.params
    assert [r.id for r in narrow.list_runs()] == [run.id]
    if before:
        with pytest.raises(ClientError):
            narrow.get_run(before[0].id)
    last = list(narrow.follow_run(run.id))[-1]
    assert isinstance(last, Run)
    # It is a loopback address, and the key is not an administrator's: it may not pull from there, and it is told so.
    assert last.error and last.error.code == "private_address"
