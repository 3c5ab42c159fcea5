"""Hugging Face's clients, git and git-lfs, unmodified, against a real server: only HF_ENDPOINT and HF_TOKEN are set."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import RunningFust, start_fust


def client_environ(server: RunningFust, folder: Path, token: str | None = None) -> dict[str, str]:
    """Returns an environment in which Hugging Face's clients know this server alone."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "FUST_"))}
    environ |= {"HF_ENDPOINT": server.url, "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    environ["HF_TOKEN"] = server.token if token is None else token
    return environ


def run_client(
    server: RunningFust, folder: Path, script: str, *, token: str | None = None, **more: str
) -> dict[str, object]:
    """Runs a script in a process of its own; returns what it put into `out`."""
    environ = client_environ(server, folder, token) | more
    source = "import json\nout = {}\n" + textwrap.dedent(script) + "\nprint('OUT' + json.dumps(out))\n"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", source],
        env=environ,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("OUT"))
    return json.loads(line[3:])


UPLOAD = """
import os, pathlib, random
from huggingface_hub import HfApi, hf_hub_download, snapshot_download, CommitOperationAdd, CommitOperationDelete
from huggingface_hub import CommitOperationCopy
api = HfApi()
me = api.whoami()["name"]
rid = f"{me}/REPO"
"""


def test_a_model_goes_up_and_comes_down(server: RunningFust, tmp_path: Path) -> None:
    out = run_client(
        server,
        tmp_path,
        UPLOAD.replace("REPO", "round-trip")
        + """
url = api.create_repo(rid)
assert url.repo_id == rid, url
assert api.create_repo(rid, exist_ok=True).repo_id == rid
random.seed(1)
weights = random.randbytes(3_000_000) + b"abc" * 400_000
os.makedirs("up/sub")
pathlib.Path("up/model.safetensors").write_bytes(weights)
pathlib.Path("up/config.json").write_text('{"a": 1}')
pathlib.Path("up/sub/ünïcode 名.bin").write_bytes(b"x" * 5000)
pathlib.Path("up/README.md").write_text(
    "---\\nlicense: mit\\nlanguage: [en, zh]\\npipeline_tag: text-generation\\n---\\n# T\\n\\nA small one.\\n")
one = api.upload_file(path_or_fileobj="up/model.safetensors", path_in_repo="model.safetensors", repo_id=rid)
two = api.upload_folder(folder_path="up", repo_id=rid)
assert one.oid != two.oid
info = api.model_info(rid, files_metadata=True)
assert info.sha == two.oid and info.card_data.license == "mit" and info.pipeline_tag == "text-generation"
big = next(s for s in info.siblings if s.rfilename == "model.safetensors")
assert big.size == len(weights) and big.lfs.size == len(weights)
names = {f.path for f in api.list_repo_tree(rid, recursive=True)}
assert "sub/ünïcode 名.bin" in names and "sub" in names, names
tree = {f.path: f for f in api.list_repo_tree(rid, recursive=True, expand=True)}
assert tree["model.safetensors"].last_commit.oid == one.oid and tree["model.safetensors"].xet_hash
assert {f.path for f in api.get_paths_info(rid, ["config.json", "sub", "gone"], expand=True)} == {"config.json", "sub"}
got = hf_hub_download(rid, "model.safetensors")
assert open(got, "rb").read() == weights
snap = snapshot_download(rid, revision=two.oid)
assert sorted(p.relative_to(snap).as_posix() for p in pathlib.Path(snap).rglob("*") if p.is_file()) == sorted(
    [".gitattributes", "README.md", "config.json", "model.safetensors", "sub/ünïcode 名.bin"])
assert [c.commit_id for c in api.list_repo_commits(rid)][:2] == [two.oid, one.oid]
api.auth_check(rid)
assert rid in [m.id for m in api.list_models(author=me)]
assert rid in [m.id for m in api.list_models(search="round-tr", full=True)]
assert rid in [m.id for m in api.list_models(filter="license:mit")]
assert api.file_exists(rid, "config.json") and not api.file_exists(rid, "nope")
assert api.repo_exists(rid) and not api.repo_exists(f"{me}/nope") and not api.revision_exists(rid, "nope")
again = api.upload_folder(folder_path="up", repo_id=rid)
assert again.oid == two.oid, "nothing changed, no new commit"
out = {"sha": two.oid}
""",
    )
    assert len(str(out["sha"])) == 40


def test_commits_change_branches_and_history(server: RunningFust, tmp_path: Path) -> None:
    run_client(
        server,
        tmp_path,
        UPLOAD.replace("REPO", "changes")
        + """
from huggingface_hub.utils import HfHubHTTPError, EntryNotFoundError, RevisionNotFoundError
api.create_repo(rid, private=True)
add = lambda p, d: CommitOperationAdd(path_in_repo=p, path_or_fileobj=d)
a = api.create_commit(rid, [add("a.txt", b"1"), add("d/b.txt", b"2"), add("d/big.bin", b"\\0" * 300_000)],
    commit_message="first", commit_description="with\\nwords")
b = api.create_commit(rid, [CommitOperationDelete("a.txt"), add("c.txt", b"3"),
    CommitOperationCopy("d/big.bin", "e/big.bin")], commit_message="second", parent_commit=a.oid)
names = api.list_repo_files(rid)
assert names == [".gitattributes", "c.txt", "d/b.txt", "d/big.bin", "e/big.bin"], names
try:
    api.create_commit(rid, [add("z", b"z")], commit_message="late", parent_commit=a.oid)
    raise SystemExit("a stale parent was taken")
except HfHubHTTPError as error:
    assert error.response.status_code == 412, error
asked = api.create_commit(rid, [add("p", b"p")], commit_message="from there", create_pr=True, parent_commit=a.oid)
assert api.list_repo_files(rid, revision=asked.pr_revision) == [".gitattributes", "a.txt", "d/b.txt", "d/big.bin", "p"]
c = api.create_commit(rid, [CommitOperationDelete("d/")], commit_message="third")
assert api.list_repo_files(rid) == [".gitattributes", "c.txt", "e/big.bin"]
assert open(hf_hub_download(rid, "d/b.txt", revision=a.oid)).read() == "2"
try:
    hf_hub_download(rid, "d/b.txt"); raise SystemExit("found")
except EntryNotFoundError: pass
try:
    api.create_commit(rid, [CommitOperationDelete("nope.txt")], commit_message="x"); raise SystemExit("deleted")
except EntryNotFoundError: pass
api.create_branch(rid, branch="dev/one", revision=a.oid)
api.create_tag(rid, tag="v1", tag_message="hello", revision=b.oid)
api.create_tag(rid, tag="v2")
refs = api.list_repo_refs(rid)
assert {r.name: r.target_commit for r in refs.branches} == {"main": c.oid, "dev/one": a.oid}
assert {r.name: r.target_commit for r in refs.tags} == {"v1": b.oid, "v2": c.oid}
d = api.upload_file(path_or_fileobj=b"dev", path_in_repo="dev.txt", repo_id=rid, revision="dev/one")
assert open(hf_hub_download(rid, "dev.txt", revision="dev/one")).read() == "dev"
assert "c.txt" in api.list_repo_files(rid, revision="v1") and "dev.txt" not in api.list_repo_files(rid)
api.delete_tag(rid, tag="v2"); api.delete_branch(rid, branch="dev/one")
try:
    api.model_info(rid, revision="dev/one"); raise SystemExit("found")
except RevisionNotFoundError: pass
try:
    api.create_branch(rid, branch="main"); raise SystemExit("twice")
except HfHubHTTPError as error:
    assert error.response.status_code == 409
api.update_repo_settings(rid, private=False)
assert api.model_info(rid).private is False
api.delete_repo(rid)
assert not api.repo_exists(rid)
api.delete_repo(rid, missing_ok=True)
""",
    )


def test_private_repos_look_missing(server: RunningFust, tmp_path: Path) -> None:
    server.cli("users", "new", "mallory", check=False)
    status, _, body = server.request("POST", "/fust/v1/users", {"name": "mallory"})
    assert status in (200, 201, 409), body
    run_client(
        server,
        tmp_path,
        UPLOAD.replace("REPO", "secret")
        + """
api.create_repo(rid, private=True)
api.upload_file(path_or_fileobj=b"\\0" * 200_000, path_in_repo="w.bin", repo_id=rid)
""",
    )
    run_client(
        server,
        tmp_path,
        """
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.utils import RepositoryNotFoundError
api = HfApi()
for call in (lambda: api.model_info("admin/secret"), lambda: hf_hub_download("admin/secret", "w.bin"),
             lambda: list(api.list_repo_tree("admin/secret")), lambda: api.auth_check("admin/secret"),
             lambda: api.list_repo_refs("admin/secret"), lambda: api.model_info("admin/never-was")):
    try:
        call(); raise SystemExit("seen")
    except RepositoryNotFoundError:
        pass
assert "admin/secret" not in [m.id for m in api.list_models()]
""",
        token="",
        HF_HUB_DISABLE_IMPLICIT_TOKEN="1",
    )


def test_lfs_without_xet(server: RunningFust, tmp_path: Path) -> None:
    run_client(
        server,
        tmp_path,
        UPLOAD.replace("REPO", "no-xet")
        + """
api.create_repo(rid)
data = os.urandom(2_000_000)
api.upload_file(path_or_fileobj=data, path_in_repo="w.bin", repo_id=rid)
assert open(hf_hub_download(rid, "w.bin"), "rb").read() == data
""",
        HF_HUB_DISABLE_XET="1",
    )


def test_the_same_bytes_in_two_namespaces_and_a_new_home(tmp_path: Path) -> None:
    """A client remembers which xorbs it sent; it must send them again where they are not known."""
    script = (
        UPLOAD.replace("REPO", "same")
        + """
from huggingface_hub import HfApi
random.seed(7)
data = random.randbytes(1_000_000)
import urllib.request
for name in (rid, "team/same"):
    api.create_repo(name, exist_ok=True)
    api.upload_file(path_or_fileobj=data, path_in_repo="w.bin", repo_id=name)
    assert open(hf_hub_download(name, "w.bin", force_download=True), "rb").read() == data
"""
    )
    first = start_fust(tmp_path / "one")
    port = first.url.rpartition(":")[2]
    try:
        run_client(first, tmp_path, script)
    finally:
        first.stop()
    second = start_fust(tmp_path / "two")
    try:
        # As on the same port: the endpoint that the client keys its memory by must still differ.
        assert port
        run_client(second, tmp_path, script)
        run_client(second, tmp_path, script)
    finally:
        second.stop()


def test_transformers_and_datasets(server: RunningFust, tmp_path: Path) -> None:
    run_client(
        server,
        tmp_path,
        UPLOAD.replace("REPO", "tiny-llama")
        + """
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers import PreTrainedTokenizerFast
torch.manual_seed(0)
core = Tokenizer(models.WordLevel({"<unk>": 0, "hello": 1, "world": 2}, unk_token="<unk>"))
core.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
model = LlamaForCausalLM(LlamaConfig(vocab_size=3, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
    num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=False))
model.push_to_hub(rid); tokenizer.push_to_hub(rid)
assert AutoConfig.from_pretrained(rid).hidden_size == 16
assert AutoTokenizer.from_pretrained(rid)("hello world")["input_ids"] == [1, 2]
loaded = AutoModelForCausalLM.from_pretrained(rid)
assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters()))
st = api.model_info(rid).safetensors
assert st.total == sum(p.numel() for p in model.parameters()), st

from datasets import Dataset, load_dataset
did = f"{me}/words"
Dataset.from_dict({"text": [f"row {i}" for i in range(500)], "n": list(range(500))}).push_to_hub(did)
back = load_dataset(did, split="train")
assert len(back) == 500 and back[7]["text"] == "row 7"
api.create_repo(f"{me}/csv", repo_type="dataset")
api.upload_file(path_or_fileobj=b"a,b\\n1,2\\n3,4\\n", path_in_repo="train.csv", repo_id=f"{me}/csv", repo_type="dataset")
assert load_dataset(f"{me}/csv", split="train")[1] == {"a": 3, "b": 4}
assert api.dataset_info(did).id == did and did in [d.id for d in api.list_datasets()]
""",
    )


def test_git_clones_with_large_files(server: RunningFust, tmp_path: Path) -> None:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    run_client(
        server,
        tmp_path,
        UPLOAD.replace("REPO", "cloned")
        + """
api.create_repo(rid, private=True)
pathlib.Path("w.bin").write_bytes(b"\\1\\2\\3" * 400_000)
api.upload_file(path_or_fileobj="w.bin", path_in_repo="w.bin", repo_id=rid)
api.upload_file(path_or_fileobj=b"hi", path_in_repo="a/b.txt", repo_id=rid)
""",
    )
    url = server.url.replace("http://", f"http://user:{server.token}@")
    environ = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "HOME": str(tmp_path), "GIT_LFS_SKIP_SMUDGE": "1"}
    environ |= {"GIT_CONFIG_NOSYSTEM": "1"}

    def git(*arguments: str, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["git", *arguments], cwd=cwd, env=environ, capture_output=True, text=True, timeout=60, check=False
        )

    done = git("clone", f"{url}/admin/cloned", "cloned")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "cloned/a/b.txt").read_text() == "hi"
    assert (tmp_path / "cloned/w.bin").read_text().startswith("version https://git-lfs")
    for i in range(10):  # git may leave its input unread and closed: that must never be a fault of the server
        done = git("clone", "--depth", "1", "--filter=blob:none", f"{url}/admin/cloned", f"shallow{i}")
        assert done.returncode == 0, done.stderr
    assert git("clone", f"{server.url}/admin/cloned", "stranger").returncode != 0
    if shutil.which("git-lfs"):
        del environ["GIT_LFS_SKIP_SMUDGE"]
        assert git("lfs", "install", "--local", cwd=tmp_path / "cloned").returncode == 0
        pulled = git("lfs", "pull", cwd=tmp_path / "cloned")
        assert pulled.returncode == 0, pulled.stderr
        assert (tmp_path / "cloned/w.bin").read_bytes() == b"\1\2\3" * 400_000
    (tmp_path / "cloned/new.txt").write_text("x")
    identity = ("-c", "user.name=x", "-c", "user.email=x@x")
    git("add", "new.txt", cwd=tmp_path / "cloned")
    assert git(*identity, "commit", "-m", "x", cwd=tmp_path / "cloned").returncode == 0
    assert git("push", cwd=tmp_path / "cloned").returncode == 0


def test_hub_events_reach_the_outbox(fust_factory: Callable[..., RunningFust], tmp_path: Path) -> None:
    """Each commit tells of itself once, in the transaction that made it visible in lists."""
    import sqlite3

    server = fust_factory("events")
    run_client(
        server,
        tmp_path,
        UPLOAD.replace("REPO", "told")
        + """
api.create_repo(rid)
out["oid"] = api.upload_file(path_or_fileobj=b"1", path_in_repo="a", repo_id=rid).oid
api.delete_repo(rid)
""",
    )
    rows = (
        sqlite3.connect(server.home / "fust.db")
        .execute("select name, body from outbox order by id")
        .fetchall()
    )
    names = [name for name, body in rows if json.loads(body).get("repo_id") == "admin/told"]
    assert names == ["repo_created", "revision_created", "refs_changed", "repo_deleted"]
