"""`fust access`: gating, asking, deciding, and what the verbs say."""

from __future__ import annotations

import json

from tests.conftest import RunningFust

FIELDS = ["--field", "Organisation=Goods", "--field", "I agree=yes"]
CARD = (
    "---\nextra_gated_prompt: Be kind.\nextra_gated_fields:\n  Organisation: text\n  I agree: checkbox\n---\n"
)


def test_a_gate_from_the_terminal(server: RunningFust) -> None:
    lines = [
        {"key": "header", "value": {"summary": "x"}},
        {"key": "file", "value": {"path": "README.md", "content": CARD, "encoding": "utf-8"}},
    ]
    make = {"name": "admin/rows", "type": "dataset"}
    assert server.request("POST", "/api/repos/create", make)[0] == 200
    body = "\n".join(json.dumps(line) for line in lines).encode()
    assert server.request("POST", "/api/datasets/admin/rows/commit/main", body)[0] == 200
    server.cli("users", "new", "maria", "--no-password")
    made = server.cli("tokens", "new", "hers", "--user", "maria", "--scope", "write", "--json")
    hers = ["--token", json.loads(made.stdout)["token"]]

    def run(*arguments: str, fails: bool = False) -> str:
        done = server.cli("access", *arguments, check=False)
        assert (done.returncode != 0) is fails, done.stdout + done.stderr
        return done.stderr if fails else done.stdout

    rows = ["admin/rows", "--type", "dataset"]
    assert "admin/rows is not gated" in run("list", *rows, fails=True)
    assert run("gate", "admin/rows", "manual", "--type", "dataset") == "admin/rows is gated: manual.\n"
    assert "add --yes" in run("request", *rows, *hers, fails=True)
    assert "'Organisation' is not filled in" in run("request", *rows, "--yes", *hers, fails=True)
    wrong = run("request", *rows, "--yes", "--field", "Firm=x", *hers, fails=True)
    assert "no field 'Firm'; it has: Organisation, I agree" in wrong
    assert "waits for its owners" in run("request", *rows, "--yes", *FIELDS, *hers)
    mine = json.loads(run("--json", *hers))
    assert [(line["repo_id"], line["type"], line["standing"]) for line in mine["items"]] == [
        ("admin/rows", "dataset", "pending")
    ]
    assert run().split("\n")[1].split() == ["admin/rows", "dataset", "1"], "what waits comes first"
    [asked] = json.loads(run("list", *rows, "--json"))["items"]
    assert (asked["user"]["user"], asked["fields"]) == ("maria", {"Organisation": "Goods", "I agree": True})
    assert run("approve", "admin/rows", "maria", "--type", "dataset", "--until", "2999-01-31") == (
        "maria has access to admin/rows until 2999-01-31.\n"
    )
    assert "You have access to admin/rows already." in run("request", *rows, *hers)
    assert "2999-01-31" in run("list", *rows, "--state", "accepted")
    assert "is over already" in run(
        "approve", "admin/rows", "maria", "--type", "dataset", "--until", "2001-01-01", fails=True
    )
    assert "first" in run("ask-again", *rows)
    assert json.loads(run("--json", *hers))["items"][0]["standing"] == "outdated"
    assert "no access to admin/rows any more" in run(
        "revoke", "admin/rows", "maria", "--type", "dataset", "--reason", "Over."
    )
    assert "Over." in run("list", *rows, "--state", "rejected") and "Over." in run(*hers)
    assert "rejected by the repo's authors: Over." in run(
        "request", *rows, "--yes", *FIELDS, *hers, fails=True
    )
    assert "did not ask" in run("approve", "admin/rows", "admin", "--type", "dataset", fails=True)
    run("revoke", "admin/rows", "maria", "--type", "dataset", "--pending")
    assert "is rejected" in run("reject", "admin/rows", "maria", "--type", "dataset")
    assert "maria has access to admin/rows." in run("grant", "admin/rows", "maria", "--type", "dataset")
    assert (
        run("gate", "admin/rows", "no", "--type", "dataset") == "admin/rows is open to all who may see it.\n"
    )
