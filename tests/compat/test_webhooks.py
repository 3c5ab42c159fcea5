"""Webhooks: made by huggingface_hub unmodified, parsed by its own payload types, sent to real receivers of every manner."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import WebhookPayload

from fust.core.settings import WebhooksSettings
from fust.hub.hooks.delivery import Deliverer
from fust.hub.hooks.send import Outcome, post
from fust.hub.reach import Internal
from tests.compat.test_hub_clients import run_client
from tests.compat.test_hub_contract import START
from tests.conftest import RunningFust, start_fust
from tests.support.receiver import Receiver, in_turn, is_signed, say

SETTINGS = "/api/settings/webhooks"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFust]:
    running = start_fust(
        tmp_path_factory.mktemp("fust") / "home",
        webhooks__internal_hosts="127.0.0.1",
        webhooks__timeout_s=1.5,
        webhooks__retry_s=0.2,
        webhooks__patience_s=3,
    )
    yield running
    running.stop()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    listening = Receiver()
    yield listening
    listening.close()


def make_key(server: RunningFust, user: str) -> str:
    assert server.request("POST", "/fust/v1/users", {"name": user})[0] in (200, 201, 409)
    status, _, body = server.request("POST", f"/fust/v1/users/{user}/tokens", {"name": "k", "scope": "write"})
    assert status == 201, body
    return json.loads(body)["token"]


def make_hook(
    server: RunningFust, url: str, *watched: tuple[str, str], token: str = "", **more: object
) -> str:
    body = {"url": url, "watched": [{"type": kind, "name": name} for kind, name in watched], **more}
    status, _, answer = server.request("POST", SETTINGS, body, token=token)
    assert status == 200, answer
    return json.loads(answer)["webhook"]["id"]


def make_repo(server: RunningFust, name: str, **more: object) -> None:
    status, _, body = server.request("POST", "/api/repos/create", {"name": name, **more})
    assert status == 200, body


def commit(server: RunningFust, name: str, path: str = "a.txt", content: str = "x") -> str:
    lines = [
        {"key": "header", "value": {"summary": "x"}},
        {"key": "file", "value": {"path": path, "content": content, "encoding": "utf-8"}},
    ]
    body = "\n".join(json.dumps(line) for line in lines).encode()
    status, _, answer = server.request("POST", f"/api/models/{name}/commit/main", body)
    assert status == 200, answer
    return json.loads(answer)["commitOid"]


def deliveries(server: RunningFust, hook: str, token: str = "") -> list[dict[str, Any]]:
    status, _, body = server.request("GET", f"/fust/v1/webhooks/{hook}/deliveries", token=token)
    assert status == 200, body
    return json.loads(body)["items"]


def wait_for(
    server: RunningFust, hook: str, state: str, *, token: str = "", within_s: float = 15
) -> dict[str, Any]:
    until = time.monotonic() + within_s
    while True:
        found = deliveries(server, hook, token)
        if found and found[0]["state"] == state:
            return found[0]
        assert time.monotonic() < until, found
        time.sleep(0.05)


def test_made_and_changed_by_the_client(server: RunningFust, tmp_path: Path) -> None:
    run_client(
        server,
        tmp_path,
        START
        + """
api.create_repo("admin/watched")
hook = api.create_webhook(url="https://hooks.example/x", watched=[{"type": "user", "name": "admin"},
    WebhookWatchedItem(type="model", name="admin/watched")], domains=["repo"], secret="my secret")
assert hook.url == "https://hooks.example/x" and hook.secret == "my secret" and not hook.disabled
assert hook.domains == ["repo"] and [w.name for w in hook.watched] == ["admin", "admin/watched"]
assert api.get_webhook(hook.id) == hook and api.list_webhooks() == [hook]
changed = api.update_webhook(hook.id, url="https://other.example/y")
assert changed.url == "https://other.example/y" and changed.watched == hook.watched and changed.secret == "my secret"
assert api.disable_webhook(hook.id).disabled and not api.enable_webhook(hook.id).disabled
fails(400, lambda: api.create_webhook(url="ftp://x.example", watched=[{"type": "user", "name": "admin"}]))
fails(400, lambda: api.create_webhook(url="https://a@x.example", watched=[{"type": "user", "name": "admin"}]))
fails(403, lambda: api.create_webhook(url="http://10.0.0.1/", watched=[{"type": "user", "name": "admin"}]))
fails(404, lambda: api.create_webhook(url="https://x.example", watched=[{"type": "user", "name": "nobody-here"}]))
fails(404, lambda: api.create_webhook(url="https://x.example", watched=[{"type": "model", "name": "admin/none"}]))
fails(400, lambda: api.create_webhook(url="https://x.example", watched=[{"type": "user", "name": "admin"}], secret="a\\nb"))
fails(501, lambda: api.create_webhook(job_id="j", watched=[{"type": "user", "name": "admin"}]))
api.delete_webhook(hook.id)
assert api.list_webhooks() == []
fails(404, lambda: api.get_webhook(hook.id))
""",
    )


def test_every_event_arrives_as_the_hub_words_it(
    server: RunningFust, receiver: Receiver, tmp_path: Path
) -> None:
    make_repo(server, "admin/first")  # the address is told of what comes, not of what was
    hook = make_hook(server, receiver.url + "/in?a=b", ("user", "admin"), secret="s3cret")
    out = run_client(
        server,
        tmp_path,
        START
        + f"HOOK = {hook!r}\n"
        + """
import json, os, time, urllib.request

def heard(count):  # a comment is told as it is when the message is made
    url = f"{os.environ['HF_ENDPOINT']}/fust/v1/webhooks/{HOOK}/deliveries?limit=1"
    request = urllib.request.Request(url, headers={"authorization": "Bearer " + os.environ["HF_TOKEN"]})
    while json.load(urllib.request.urlopen(request))["total"] < count:
        time.sleep(0.05)

api.create_repo("admin/told")
out["oid"] = api.create_commit("admin/told", [add("a.txt", b"a")], commit_message="x").oid
api.create_tag("admin/told", tag="v1")
api.delete_tag("admin/told", tag="v1")
api.update_repo_settings("admin/told", private=True)
talk = api.create_discussion("admin/told", "A question", description="Why?")
said = api.comment_discussion("admin/told", 1, "Because.")
heard(7)
api.edit_discussion_comment("admin/told", 1, said.id, "Just because.")
heard(8)
api.hide_discussion_comment("admin/told", 1, said.id)
heard(9)
api.rename_discussion("admin/told", 1, "An answer")
api.change_discussion_status("admin/told", 1, "closed")
api.move_repo("admin/told", "admin/renamed")
""",
    )
    receiver.wait(12)
    server.request("DELETE", "/api/repos/delete", {"name": "admin/renamed"})
    heard = receiver.wait(13)
    assert [h.what for h in heard] == [
        "create repo",
        "update repo.content",
        "update repo.content",
        "update repo.content",
        "update repo.config",
        "create discussion",
        "create discussion.comment",
        "update discussion.comment",
        "update discussion.comment",
        "update discussion",
        "update discussion",
        "move repo",
        "delete repo",
    ]
    parsed = [WebhookPayload.model_validate_json(h.body) for h in heard]
    assert all(p.webhook.id == hook and p.webhook.version == 3 for p in parsed)
    assert all(h.path == "/in?a=b" and h.headers["x-webhook-secret"] == "s3cret" for h in heard)
    assert all(is_signed(h, "s3cret") and not is_signed(h, "other") for h in heard)
    content = parsed[1]
    assert content.updatedRefs and content.updatedRefs[0].ref == "refs/heads/main"
    assert content.updatedRefs[0].newSha == out["oid"] and content.updatedRefs[0].oldSha
    assert parsed[3].updatedRefs and parsed[3].updatedRefs[0].newSha is None
    assert heard[4].json["updatedConfig"] == {"private": True}
    assert content.repo.name == "admin/told" and content.repo.url.api == f"{server.url}/api/models/admin/told"
    first = parsed[5]
    assert first.discussion and first.discussion.title == "A question" and first.discussion.num == 1
    assert first.comment and first.comment.content == "Why?" and not first.discussion.isPullRequest
    assert [p.comment.content for p in parsed[6:9] if p.comment] == ["Because.", "Just because.", None]
    assert parsed[8].comment and parsed[8].comment.hidden
    assert parsed[10].discussion and parsed[10].discussion.status == "closed"
    assert parsed[11].movedTo and parsed[11].movedTo.name == "admin/renamed"
    assert wait_for(server, hook, "delivered")["attempts"] == 1
    ids = [h.headers["webhook-id"] for h in heard]
    assert len(set(ids)) == 13
    found = deliveries(server, hook)
    server.request("POST", f"/fust/v1/webhooks/{hook}/deliveries/{found[-1]['id']}/redeliver")
    again = receiver.wait(14)[13]
    assert again.headers["webhook-id"] == found[-1]["id"] == ids[0] and again.body == heard[0].body


def test_only_what_is_watched_is_told(server: RunningFust, receiver: Receiver) -> None:
    make_repo(server, "admin/one")
    make_repo(server, "admin/two")
    make_hook(server, receiver.url + "/repo", ("model", "Admin/One"), domains=["repo"])
    make_hook(server, receiver.url + "/talk", ("model", "admin/one"), domains=["discussion"])
    commit(server, "admin/two")
    commit(server, "admin/one")
    server.request("POST", "/api/models/admin/one/discussions", {"title": "A title", "description": "x"})
    server.request("POST", "/api/repos/move", {"fromRepo": "admin/one", "toRepo": "admin/uno"})
    commit(server, "admin/uno", "b.txt")  # a watched repo is watched under its new name
    heard = receiver.wait(4)
    time.sleep(1.2)
    assert sorted((h.path, h.what, h.json["repo"]["name"]) for h in receiver.heard) == [
        ("/repo", "move repo", "admin/one"),
        ("/repo", "update repo.content", "admin/one"),
        ("/repo", "update repo.content", "admin/uno"),
        ("/talk", "create discussion", "admin/one"),
    ]
    assert len(heard) == 4


def test_a_private_repo_is_told_only_to_who_may_see_it_then(server: RunningFust) -> None:
    key = make_key(server, "eve")
    answers = in_turn(say(500), say(500), say(200))
    for_eve, for_admin = Receiver(answers), Receiver()
    try:
        make_repo(server, "admin/secret", private=True)
        make_repo(server, "admin/open")
        # She names the owner, not the repo: the owner's private repos are not hers.
        hers = make_hook(server, for_eve.url, ("user", "admin"), ("model", "admin/open"), token=key)
        make_hook(server, for_admin.url, ("user", "admin"))
        status, _, _ = server.request(
            "POST",
            SETTINGS,
            {"url": for_eve.url, "watched": [{"type": "model", "name": "admin/secret"}]},
            token=key,
        )
        assert status == 404, "that a private repo is there is not told"
        commit(server, "admin/secret")
        for_admin.wait(1)
        assert for_eve.heard == [] and deliveries(server, hers, key) == []
        commit(server, "admin/open")
        for_eve.wait(1)  # and refuses it: the repo becomes private before the next attempt
        server.request("PUT", "/api/models/admin/open/settings", {"private": True})
        withheld = wait_for(server, hers, "withheld", token=key)
        assert withheld["payload"] is None
        count = len(for_eve.heard)
        time.sleep(1)
        assert len(for_eve.heard) == count <= 2
        status, _, _ = server.request("GET", f"/fust/v1/webhooks/{hers}/deliveries")
        assert status == 404, "another's webhooks are nobody else's, administrators included"
    finally:
        for_eve.close()
        for_admin.close()


def test_before_a_gate_its_discussions_are_not_told(server: RunningFust) -> None:
    key = make_key(server, "gil")
    for_gil, for_admin = Receiver(), Receiver()
    try:
        make_repo(server, "admin/guarded")
        make_hook(server, for_gil.url, ("model", "admin/guarded"), token=key)
        make_hook(server, for_admin.url, ("model", "admin/guarded"))
        server.request("PUT", "/api/models/admin/guarded/settings", {"gated": "manual"})
        talk, talks = {"title": "A title", "description": "x"}, "/api/models/admin/guarded/discussions"
        assert server.request("POST", talks, talk)[0] == 200
        commit(server, "admin/guarded")
        for_admin.wait(3)
        for_gil.wait(2)
        assert sorted(h.what for h in for_gil.heard) == ["update repo.config", "update repo.content"]
        granted = server.request(
            "POST", "/api/models/admin/guarded/user-access-request/grant", {"user": "gil"}
        )
        assert granted[0] == 200
        assert server.request("POST", talks, talk)[0] == 200
        assert for_gil.wait(3)[-1].what == "create discussion"
    finally:
        for_gil.close()
        for_admin.close()


def test_waits_double_and_a_receiver_may_ask_for_more() -> None:
    deliverer = Deliverer(SimpleNamespace(), WebhooksSettings(retry_s=1))  # type: ignore[arg-type]
    failed = Outcome("status")
    for attempts, least, most in ((1, 0.75, 1.25), (2, 1.5, 2.5), (3, 3, 5), (40, 2700, 4500)):
        assert all(least <= deliverer.wait_after(attempts, failed) <= most for _ in range(50))
    assert deliverer.wait_after(1, Outcome("status", 429, retry_after_s=60)) == 60


def test_a_failing_receiver_is_tried_again_and_a_dead_letter_sent_by_hand(server: RunningFust) -> None:
    receiver = Receiver(in_turn(say(500), say(503), say(200)))
    try:
        make_repo(server, "admin/again")
        hook = make_hook(server, receiver.url, ("model", "admin/again"))
        commit(server, "admin/again")
        first, second, third = receiver.wait(3)
        assert wait_for(server, hook, "delivered")["attempts"] == 3
        assert first.headers["webhook-id"] == third.headers["webhook-id"] and first.body == third.body
        assert second.at - first.at > 0.1 and third.at - second.at > 0.1
        receiver.answer = say(500)
        commit(server, "admin/again", "b.txt")
        dead = wait_for(server, hook, "dead")
        assert dead["status"] == 500 and dead["outcome"] == "status" and dead["attempts"] >= 3
        receiver.answer = say(200)
        status, _, _ = server.request("POST", f"/fust/v1/webhooks/{hook}/deliveries/{dead['id']}/redeliver")
        assert status == 200
        assert wait_for(server, hook, "delivered")["id"] == dead["id"]
        receiver.answer = say(410)
        commit(server, "admin/again", "c.txt")
        assert wait_for(server, hook, "dead")["attempts"] == 1, "gone means gone"
    finally:
        receiver.close()


def test_hostile_receivers(server: RunningFust) -> None:
    def stall(handler: BaseHTTPRequestHandler, _: int) -> None:
        time.sleep(4)

    def drip(handler: BaseHTTPRequestHandler, _: int) -> None:
        for byte in b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200:
            handler.wfile.write(bytes([byte]))
            time.sleep(0.3)

    def lie(handler: BaseHTTPRequestHandler, _: int) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 999999999999\r\n\r\nnot so much")

    def babble(handler: BaseHTTPRequestHandler, _: int) -> None:
        handler.wfile.write(b"220 smtp.example ESMTP\r\n" * 100)

    def endless(handler: BaseHTTPRequestHandler, _: int) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 100_000)

    goal = Receiver()
    redirect = say(302, {"location": goal.url + "/stolen"})
    wanted = {
        "stall": (stall, "timeout"),
        "drip": (drip, "timeout"),
        "lie": (lie, "ok"),  # what follows the status line is not read
        "babble": (babble, "nonsense"),
        "endless": (endless, "nonsense"),
        "redirect": (redirect, "redirect"),
    }
    receivers = {name: Receiver(answer) for name, (answer, _) in wanted.items()}
    good = Receiver()
    try:
        make_repo(server, "admin/hostile")
        hooks = {
            name: make_hook(server, it.url, ("model", "admin/hostile")) for name, it in receivers.items()
        }
        make_hook(server, good.url, ("model", "admin/hostile"))
        started = time.monotonic()
        commit(server, "admin/hostile")
        assert time.monotonic() - started < 2, "a commit does not wait for receivers"
        good.wait(1)
        for name, (_, outcome) in wanted.items():
            until = time.monotonic() + 15
            while not (found := deliveries(server, hooks[name])) or not found[0]["outcome"]:
                assert time.monotonic() < until
                time.sleep(0.1)
            assert found[0]["outcome"] == outcome, name
        assert goal.heard == [], "a redirect is not followed"
    finally:
        for name, hook in hooks.items():
            server.request("DELETE", f"{SETTINGS}/{hook}")
            receivers[name].close()
        goal.close()
        good.close()


def test_private_addresses_are_refused(receiver: Receiver) -> None:
    """The name is what a stranger chooses; the address it resolves to is what counts."""
    nowhere, here = Internal(()), Internal(("127.0.0.0/8", "ci.school.org"))
    port = receiver.port
    for host in ("127.0.0.1", "localhost", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "127.1"):
        outcome = post(f"http://{host}:{port}/", b"x", {}, timeout_s=2, internal=nowhere)
        assert outcome.word == "private_address", host
    assert receiver.heard == []
    assert (
        post(f"http://localhost:{port}/", b"{}", {}, timeout_s=2, internal=Internal(("localhost",))).word
        == "ok"
    )
    assert post(f"http://127.0.0.1:{port}/", b"{}", {}, timeout_s=2, internal=here).word == "ok"
    assert here.allows("ci.school.org", "10.0.0.9") and not here.allows("other.org", "10.0.0.9")
    assert not here.allows("x", "169.254.169.254") and not here.allows("x", "no address")
    assert post("http://no-such-host.invalid/", b"", {}, timeout_s=2, internal=nowhere).word == "no_address"
    assert post(f"https://127.0.0.1:{port}/", b"", {}, timeout_s=2, internal=here).word == "tls"


def test_switched_off_it_hears_nothing(server: RunningFust, receiver: Receiver) -> None:
    make_repo(server, "admin/quiet")
    hook = make_hook(server, receiver.url, ("model", "admin/quiet"))
    server.request("POST", f"{SETTINGS}/{hook}/disable")
    commit(server, "admin/quiet")
    time.sleep(1.5)
    assert receiver.heard == [] and deliveries(server, hook) == []
    server.request("POST", f"{SETTINGS}/{hook}/enable")
    commit(server, "admin/quiet", "b.txt")
    receiver.wait(1)
    raw = (server.home / "fust.db").read_bytes() + (server.home / "fust.db-wal").read_bytes()
    make_hook(server, receiver.url, ("model", "admin/quiet"), secret="never-in-the-clear")
    raw += (server.home / "fust.db").read_bytes() + (server.home / "fust.db-wal").read_bytes()
    assert b"never-in-the-clear" not in raw, "secrets are sealed in the database"
