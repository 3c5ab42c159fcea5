"""Gated repos by huggingface_hub, unmodified: who is refused with which help, and how an owner decides."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.compat.test_hub_clients import run_client
from tests.compat.test_hub_contract import START
from tests.conftest import RunningFust

CARD = """---
license: apache-2.0
extra_gated_heading: Before you get it
extra_gated_prompt: "You will **not** harm anybody with it."
extra_gated_fields:
  Company: text
  Country: country
  Born: date_picker
  I want to use it for:
    type: select
    options: [Research, {label: Something else, value: other}]
  I agree: checkbox
extra_gated_button_content: I do
---
# A careful model
"""
ANSWERS = {
    "Company": "  Goods & Co ",
    "Country": "DE",
    "Born": "1990-05-01",
    "I want to use it for": "other",
    "I agree": True,
}
PEOPLE = f"""
import httpx2, tempfile, time
from huggingface_hub.errors import GatedRepoError
card, answers = {CARD!r}, {ANSWERS!r}
def gate(who, repo, kind="model"):
    head = {{"authorization": f"Bearer {{who.token}}"}} if who.token else {{}}
    return httpx2.get(f"{{api.endpoint}}/fust/v1/repos/{{kind}}/{{repo}}/gate", headers=head).json()
def ask(who, repo, fields=answers, terms=None, prefix=""):
    body = {{"fields": fields, "terms": terms or gate(api, repo, prefix.rstrip("s/") or "model")["terms"]}}
    head = {{"authorization": f"Bearer {{who.token}}"}}
    return httpx2.post(f"{{api.endpoint}}/{{prefix}}{{repo}}/ask-access", json=body, headers=head)
def shut(call, *words):
    try:
        call()
    except GatedRepoError as error:
        assert all(word in str(error) for word in words), str(error)
        return error.response.status_code
    raise SystemExit("not refused")
"""


@pytest.fixture(scope="module")
def keys(server: RunningFust) -> dict[str, str]:
    """A writing key for each of some people."""
    made: dict[str, str] = {}
    for name in ("maria", "ben", "chen", "dora"):
        assert server.request("POST", "/fust/v1/users", {"name": name})[0] == 201
        _, _, body = server.request("POST", f"/fust/v1/users/{name}/tokens", {"name": "k", "scope": "write"})
        made[name] = json.loads(body)["token"]
    return made


def run(server: RunningFust, folder: Path, keys: dict[str, str], script: str) -> dict[str, object]:
    people = "".join(f"{name} = HfApi(token={key!r})\n" for name, key in keys.items())
    return run_client(
        server, folder, START + people + "api.token = os.environ['HF_TOKEN']\n" + PEOPLE + script
    )


def test_manual(server: RunningFust, keys: dict[str, str], tmp_path: Path) -> None:
    run(
        server,
        tmp_path,
        keys,
        """
api.create_repo("admin/careful")
data = os.urandom(300_000)
api.create_commit("admin/careful", [add("w.bin", data), add("a.txt", b"a"), add("README.md", card.encode())],
    commit_message="x")
fails(400, lambda: list(api.list_pending_access_requests("admin/careful")))
fails(403, lambda: maria.update_repo_settings("admin/careful", gated="manual"))
api.update_repo_settings("admin/careful", gated="manual")
# What is said of it stays to be seen; what is in it does not.
nobody = HfApi(token=False)
for who in (nobody, maria):
    seen = who.model_info("admin/careful")
    assert seen.gated == "manual" and len(seen.siblings) == 4, seen
    assert len(list(who.list_repo_tree("admin/careful"))) == 4
    assert [m.id for m in who.list_models(gated=True)] == ["admin/careful"]
get = lambda who, path="a.txt": pathlib.Path(who.hf_hub_download("admin/careful", path, cache_dir=tempfile.mkdtemp(dir="."))).read_bytes()
assert shut(lambda: get(nobody), "Access to model admin/careful is restricted", "Please log in") == 401
assert shut(lambda: get(maria), "you are not in the authorized list", "to ask for access") == 403
assert shut(lambda: get(maria, "w.bin")) == 403
assert shut(lambda: maria.snapshot_download("admin/careful")) == 403
assert shut(lambda: maria.auth_check("admin/careful")) == 403
assert shut(lambda: nobody.auth_check("admin/careful")) == 401
assert shut(lambda: list(maria.get_repo_discussions("admin/careful"))) == 403
assert shut(lambda: maria.duplicate_repo("admin/careful", "maria/mine")) == 403
assert get(api) == b"a"
# Asking.
shown = gate(maria, "admin/careful")
assert (shown["standing"], shown["heading"], shown["button"]) == ("none", "Before you get it", "I do"), shown
kinds = [(f["name"], f["type"], len(f["options"])) for f in shown["fields"]]
assert kinds == [("Company", "text", 0), ("Country", "country", 249), ("Born", "date_picker", 0),
    ("I want to use it for", "select", 2), ("I agree", "checkbox", 0)], kinds
for wrong in ({}, {"Country": "XX"}, {"Born": "yesterday"}, {"I want to use it for": "Mischief"}, {"I agree": False}):
    refused = ask(maria, "admin/careful", {**answers, **wrong} if wrong else {})
    assert refused.status_code == 400 and next(iter(wrong), "Company") in refused.json()["error"], refused.text
assert ask(maria, "admin/careful", terms="0" * 64).status_code == 409
assert ask(api, "admin/careful").status_code == 400, "who has access need not ask"
asked = ask(maria, "admin/careful")
assert asked.status_code == 200 and asked.json()["status"] == "pending" and asked.json()["termsVersion"] == 1, asked.text
assert shut(lambda: get(maria), "awaiting a review") == 403
# Deciding.
fails(403, lambda: list(ben.list_pending_access_requests("admin/careful")))
fails(403, lambda: ben.accept_access_request("admin/careful", "maria"))
fails(403, lambda: maria.accept_access_request("admin/careful", "maria"))
[request] = api.list_pending_access_requests("admin/careful")
assert (request.username, request.status, request.email) == ("maria", "pending", None), request
assert request.fields == {**answers, "Company": "Goods & Co"}, request.fields
fails(404, lambda: api.accept_access_request("admin/careful", "ben"))
fails(404, lambda: api.cancel_access_request("admin/careful", "maria"))
fails(404, lambda: api.accept_access_request("admin/careful", request_id="none"))
api.accept_access_request("admin/careful", request_id=request.request_id)
fails(404, lambda: api.accept_access_request("admin/careful", "maria"))
assert list(api.list_pending_access_requests("admin/careful")) == []
assert [r.username for r in api.list_accepted_access_requests("admin/careful")] == ["maria"]
assert get(maria) == b"a" and get(maria, "w.bin") == data
assert list(maria.get_repo_discussions("admin/careful")) == [] and maria.auth_check("admin/careful") is None
fails(403, lambda: maria.upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id="admin/careful"))
copy = maria.duplicate_repo("admin/careful", "maria/mine")
mine = maria.model_info("maria/mine")
assert mine.private and mine.gated == "manual", "a copy is no way around the gate"
# Taken away, with a reason that she reads.
fails(400, lambda: api.reject_access_request("admin/careful", "maria", rejection_reason="x" * 201))
api.reject_access_request("admin/careful", "maria", rejection_reason="The project is over.")
assert shut(lambda: get(maria), "has been rejected", "The project is over.") == 403
refused = ask(maria, "admin/careful")
assert refused.status_code == 403 and refused.headers["x-error-code"] == "GatedRepo", "nor can she ask again"
assert [r.username for r in api.list_rejected_access_requests("admin/careful")] == ["maria"]
api.cancel_access_request("admin/careful", "maria")
assert [r.username for r in api.list_pending_access_requests("admin/careful")] == ["maria"]
assert shut(lambda: get(maria), "awaiting") == 403
# Let in unasked.
assert shut(lambda: get(ben)) == 403
fails(404, lambda: api.grant_access("admin/careful", "nobody-here"))
fails(400, lambda: api.grant_access("admin/careful", "admin"))
api.grant_access("admin/careful", "ben")
fails(400, lambda: api.grant_access("admin/careful", "ben"))
assert get(ben) == b"a"
api.cancel_access_request("admin/careful", "ben")
assert shut(lambda: get(ben)) == 403
report = httpx2.get(f"{api.endpoint}/admin/careful/user-access-report", headers={"authorization": f"Bearer {api.token}"})
assert {(r["user"], r["status"]) for r in report.json()} == {("maria", "pending"), ("ben", "pending")}
# The gate goes: everybody reads again, and what was decided is kept for when it comes back.
api.update_repo_settings("admin/careful", gated=False)
assert get(dora) == b"a"
""",
    )


def test_auto_ends_and_terms(server: RunningFust, keys: dict[str, str], tmp_path: Path) -> None:
    run(
        server,
        tmp_path,
        keys,
        """
from datetime import datetime, timedelta, UTC
api.create_repo("admin/rows", repo_type="dataset")
put = lambda path, data: api.upload_file(path_or_fileobj=data, path_in_repo=path, repo_id="admin/rows", repo_type="dataset")
put("README.md", card.encode())
put("a.csv", b"x,y")
api.update_repo_settings("admin/rows", gated="auto", repo_type="dataset")
get = lambda who: pathlib.Path(who.hf_hub_download("admin/rows", "a.csv", repo_type="dataset", cache_dir=tempfile.mkdtemp(dir="."))).read_bytes()
assert shut(lambda: get(maria), "Access to dataset admin/rows", "/datasets/admin/rows to ask") == 403
done = ask(maria, "admin/rows", prefix="datasets/").json()
assert done["status"] == "accepted" and done["decidedBy"] == "", done
assert get(maria) == b"x,y"
assert [r.username for r in api.list_accepted_access_requests("admin/rows", repo_type="dataset")] == ["maria"]
# Access until a moment.
def decide(user, status, **more):
    head = {"authorization": f"Bearer {api.token}"}
    url = f"{api.endpoint}/api/datasets/admin/rows/user-access-request/"
    if status == "grant":
        return httpx2.post(url + "grant", json={"user": user, **more}, headers=head)
    return httpx2.post(url + "handle", json={"user": user, "status": status, **more}, headers=head)
assert decide("maria", "accepted", until="2020-01-01").status_code == 400
assert decide("maria", "accepted", until="soon").status_code == 400
assert decide("maria", "rejected", until="2099-01-01").status_code == 400
day = decide("maria", "accepted", until="2099-01-31")
assert day.status_code == 200 and day.json()["until"] == "2099-01-31T23:59:59.000Z", "the whole day counts"
end = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
assert decide("maria", "accepted", until=end).json()["until"]
assert get(maria) == b"x,y"
time.sleep(1.1)
assert shut(lambda: get(maria), "ended at") == 403
assert gate(maria, "admin/rows", "dataset")["standing"] == "expired"
assert list(api.list_accepted_access_requests("admin/rows", repo_type="dataset")) == []
# An end that a person set is not undone by asking an automatic gate again.
assert ask(maria, "admin/rows", prefix="datasets/").json()["status"] == "pending"
api.accept_access_request("admin/rows", "maria", repo_type="dataset")
assert get(maria) == b"x,y"
# New terms ask nobody again until the owner says so; then everybody.
assert decide("ben", "grant").status_code == 200
put("README.md", card.replace("not", "never").encode())
old, new = done["terms"], gate(maria, "admin/rows", "dataset")["terms"]
assert old != new and get(maria) == b"x,y"
settings = f"{api.endpoint}/api/datasets/admin/rows/settings"
assert httpx2.put(settings, json={"askAgain": True}, headers={"authorization": f"Bearer {maria.token}"}).status_code == 403
assert httpx2.put(settings, json={"askAgain": True}, headers={"authorization": f"Bearer {api.token}"}).status_code == 200
for who in (maria, ben):
    assert shut(lambda: get(who), "agree to its terms again") == 403
    assert gate(who, "admin/rows", "dataset")["standing"] == "outdated"
assert ask(maria, "admin/rows", prefix="datasets/", terms=old).status_code == 409
again = ask(maria, "admin/rows", prefix="datasets/").json()
assert (again["status"], again["termsVersion"], again["terms"]) == ("accepted", 2, new), again
assert get(maria) == b"x,y"
shut(lambda: get(ben))
# Of the old words the version is known still.
put("README.md", card.encode())
assert ask(ben, "admin/rows", prefix="datasets/").json()["termsVersion"] == 1
assert get(ben) == b"x,y"
""",
    )


def test_what_is_done_stands_in_the_audit(server: RunningFust, keys: dict[str, str], tmp_path: Path) -> None:
    run(
        server,
        tmp_path,
        keys,
        """
api.create_repo("admin/noted")
data = os.urandom(200_000)
api.create_commit("admin/noted", [add("w.bin", data), add("a.txt", b"a")], commit_message="x")
maria.hf_hub_download("admin/noted", "a.txt")
api.update_repo_settings("admin/noted", gated="manual")
ask(chen, "admin/noted")
api.accept_access_request("admin/noted", "chen")
for _ in range(2):
    chen.hf_hub_download("admin/noted", "a.txt", cache_dir=tempfile.mkdtemp(dir="."))
chen.hf_hub_download("admin/noted", "w.bin")
try:
    maria.hf_hub_download("admin/noted", "w.bin", cache_dir=tempfile.mkdtemp(dir="."))
except GatedRepoError:
    pass
api.reject_access_request("admin/noted", "chen", rejection_reason="enough")
out["chen"] = maria.whoami()["name"] and chen.whoami()["name"]
""",
    )
    _, _, body = server.request("GET", "/fust/v1/audit?subject=model:admin/noted&limit=50")
    entries = [
        (e["action"], e["actor"], e["detail"])
        for e in reversed(json.loads(body)["items"])
        if e["action"].startswith("access.")
    ]
    told = [(action, actor, detail.get("how", detail.get("reason", ""))) for action, actor, detail in entries]
    assert told == [
        ("access.ask", "chen", ""),
        ("access.accept", "admin", ""),
        ("access.download", "chen", "file"),
        ("access.download", "chen", "xet"),
        ("access.revoke", "admin", "enough"),
    ], told
    assert entries[0][2]["version"] == 1 and len(str(entries[0][2]["terms"])) == 64
    assert entries[1][2]["user"] == "chen"
    assert entries[2][2]["path"] == "a.txt"
