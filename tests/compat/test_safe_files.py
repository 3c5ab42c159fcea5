"""Safe files: pickles and what they import, licences that change, secrets in commits, as unmodified clients meet them."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from fust.formats.secrets import find_secrets
from tests.compat.test_hub_clients import run_client
from tests.compat.test_hub_contract import START
from tests.conftest import RunningFust

# Never written whole, so that this file itself holds none.
TOKEN = "hf" + "_" + "QwErTyUiOpAsDfGhJkLzXcVbNmQwErTyUi"
AWS = "AKIA" + "QYLPMN5HHHFPZAM2"
KEY = (
    "-----BEGIN OPENSSH "
    + "PRIVATE KEY-----\n"
    + "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW"
    + "\n"
)


def details(server: RunningFust, repo: str, token: str = "") -> dict[str, Any]:
    status, _, body = server.request("GET", f"/fust/v1/repos/model/{repo}", token=token)
    assert status == 200, body
    return json.loads(body)


def test_pickles_are_read_not_loaded(server: RunningFust, tmp_path: Path) -> None:
    run_client(
        server,
        tmp_path,
        START
        + """
import collections, io, pickle, time, zipfile
class Evil:
    def __reduce__(self):
        return (os.system, ("touch pwned",))
class Odd:
    def __reduce__(self):
        import fractions, random
        return (random.Random, (1,))
box = io.BytesIO()
with zipfile.ZipFile(box, "w") as archive:
    archive.writestr("archive/data.pkl", pickle.dumps(Evil()))
    archive.writestr("archive/data/0", os.urandom(3_000_000))
api.create_repo("admin/pickled")
api.create_commit("admin/pickled", commit_message="x", operations=[
    add("pytorch_model.bin", box.getvalue()), add("good.pkl", pickle.dumps(collections.OrderedDict(a=1))),
    add("odd.pt", pickle.dumps(Odd())), add("plain.txt", b"text"), add("weights.bin", b"\\0" * 100)])
for _ in range(100):
    status = api.model_info("admin/pickled", securityStatus=True).security_repo_status
    if status["scansDone"]:
        break
    time.sleep(0.1)
assert status["scansDone"], status
assert sorted((f["path"], f["level"]) for f in status["filesWithIssues"]) == [
    ("odd.pt", "suspicious"), ("pytorch_model.bin", "unsafe")], status
files = {f.path: f for f in api.list_repo_tree("admin/pickled", expand=True)}
bad = files["pytorch_model.bin"].security
assert not bad.safe and bad.status == "unsafe"
found = bad.pickle_import_scan["pickleImports"]
assert {"module": "posix", "name": "system", "safety": "dangerous"} in found
assert files["good.pkl"].security.safe and files["plain.txt"].security.safe and files["weights.bin"].security.safe
assert files["good.pkl"].security.pickle_import_scan["pickleImports"][0]["name"] == "OrderedDict"
assert files["plain.txt"].security.pickle_import_scan["status"] == "unscanned"
assert files["plain.txt"].security.av_scan["status"] == "unscanned"
one, = api.get_paths_info("admin/pickled", ["odd.pt"], expand=True)
assert one.security.status == "suspicious"
assert not os.path.exists("pwned")
""",
    )
    lines = {line["path"]: line["safety"] for line in details(server, "admin/pickled")["files"]}
    assert lines["pytorch_model.bin"]["level"] == "unsafe" and lines["pytorch_model.bin"]["imports"] == [
        "posix.system"
    ]
    assert lines["plain.txt"] is None and lines["good.pkl"]["imports"] == []


def test_licence_changes_are_told(server: RunningFust, tmp_path: Path) -> None:
    out = run_client(
        server,
        tmp_path,
        START
        + """
api.create_repo("admin/licensed")
card = lambda licence: f"---\\nlicense: {licence}\\n---\\n# A model\\n".encode()
oids = []
for name, data in (("README.md", card("apache-2.0")), ("a.txt", b"a"), ("README.md", card("apache-2.0") + b"more"),
                   ("README.md", card("mit")), ("README.md", b"# none any more\\n")):
    oids.append(api.create_commit("admin/licensed", [add(name, data)], commit_message=name).oid)
assert [c.commit_id for c in api.list_repo_commits("admin/licensed")][:5] == oids[::-1]
out["oids"] = oids
""",
    )
    oids: Any = out["oids"]
    _, _, body = server.request("GET", "/api/models/admin/licensed/commits/main")
    found = {line["id"]: line["licenseChange"] for line in json.loads(body) if "licenseChange" in line}
    assert found == {oids[3]: {"from": "apache-2.0", "to": "mit"}, oids[4]: {"from": "mit", "to": None}}
    for path in ("/fust/v1/repos/model/admin/licensed/commits", "/fust/v1/repos/model/admin/licensed"):
        answer = json.loads(server.request("GET", path)[2])
        lines = answer.get("items") or answer["commits"]
        told = {
            c["oid"]: (c["licence_before"], c["licence_after"])
            for c in lines
            if c["licence_before"] is not None
        }
        assert told == {oids[3]: ("apache-2.0", "mit"), oids[4]: ("mit", "")}


def test_secrets_in_a_commit(server: RunningFust, tmp_path: Path) -> None:
    script = f"""
import logging, io
said = io.StringIO()
logging.getLogger("huggingface_hub").addHandler(logging.StreamHandler(said))
api.create_repo("admin/leaky")
api.create_commit("admin/leaky", [add("train.py", b"import os\\nTOKEN = '{TOKEN}'\\n"), add("ok.txt", b"hf_short")],
    commit_message="x")
out["said"] = said.getvalue()
"""
    said = str(run_client(server, tmp_path, START + script)["said"])
    assert "train.py:2 (Hugging Face token)" in said and TOKEN not in said and "ok.txt" not in said
    leak = details(server, "admin/leaky")["leaks"][0]
    assert (leak["path"], leak["line"], leak["kind"], leak["by"]) == (
        "train.py",
        2,
        "Hugging Face token",
        "admin",
    )
    _, _, audit = server.request("GET", "/fust/v1/audit?action=repo.secret")
    assert b"train.py:2" in audit and TOKEN.encode() not in audit
    _, _, body = server.request("GET", "/fust/v1/repos/model/admin/leaky", token=None)
    assert json.loads(body)["leaks"] == [], "not told to those who may only read"
    raw = (server.home / "fust.db").read_bytes() + (server.home / "fust.db-wal").read_bytes()
    assert TOKEN.encode() not in raw
    path = f"/fust/v1/repos/model/admin/leaky/leaks/{leak['id']}"
    assert server.request("DELETE", path, token=None)[0] == 401
    assert server.request("DELETE", path)[0] == 204 and server.request("DELETE", path)[0] == 404
    assert details(server, "admin/leaky")["leaks"] == []


def test_secrets_in_a_push(server: RunningFust, tmp_path: Path) -> None:
    server.request("POST", "/api/repos/create", {"name": "admin/pushed"})
    url = server.url.replace("http://", f"http://me:{server.token}@")
    environ = {
        **os.environ,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "HOME": str(tmp_path),
    }

    def git(*arguments: str) -> str:
        names = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
        done = subprocess.run(
            ["git", *names, *arguments], cwd=clone if clone.exists() else tmp_path, env=environ, text=True,
            capture_output=True, check=True,
        )  # fmt: skip
        return done.stdout + done.stderr

    clone = tmp_path / "clone"
    git("clone", "-q", f"{url}/admin/pushed", str(clone))
    (clone / "deploy.env").write_text(f"A=1\nAWS_ACCESS_KEY_ID={AWS}\n")
    (clone / "id_ed25519").write_text(KEY)
    git("add", "-A")
    git("commit", "-qm", "x")
    said = git("push", "-q", "origin", "HEAD:main")
    remote = "".join(line for line in said.splitlines() if line.startswith("remote:"))
    assert "deploy.env:2 (AWS access key)" in remote and "id_ed25519:1 (private key)" in remote, said
    assert AWS not in said.replace(str(clone), "")
    assert {leak["path"] for leak in details(server, "admin/pushed")["leaks"]} == {"deploy.env", "id_ed25519"}
    (clone / "more.txt").write_text("nothing here")
    git("add", "-A")
    git("commit", "-qm", "y")
    assert "secrets" not in git("push", "-q", "origin", "HEAD:main"), "told once"


@pytest.mark.parametrize(
    "text",
    [
        "hf_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        "AKIA" + "IOSFODNN7EXAMPLE",
        "my_hf_" + "a" * 40,
        "-----BEGIN PUBLIC KEY-----\nMIIB",
        "sk-short",
    ],
)
def test_what_is_no_secret(text: str) -> None:
    assert find_secrets("a", text.encode()) == []


def test_secrets_are_found_fast_and_bounded() -> None:
    started = time.monotonic()
    assert find_secrets("a", b"A" * 2**20) == []
    assert find_secrets("a", b"hf_" * 2**18) == []
    assert find_secrets("a", b"-----BEGIN " + b"A " * 2**18 + b"PRIVATE KEY") == []
    assert len(find_secrets("a", (TOKEN + "\n").encode() * 10_000)) == 20
    assert time.monotonic() - started < 5
