"""huggingface_hub of the line 1, unmodified, through the calls that everybody makes."""

from __future__ import annotations

import json
import os
import subprocess
import textwrap
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, RunningFust

PYTHON = REPOSITORY / ".venv-hub1" / "bin" / "python"

SCRIPT = """
import os, pathlib, huggingface_hub
from huggingface_hub import HfApi, hf_hub_download, snapshot_download, CommitOperationAdd, CommitOperationDelete
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, EntryNotFoundError
assert huggingface_hub.__version__.startswith("1."), huggingface_hub.__version__
api = HfApi()
assert api.whoami()["name"] == "admin"
url = api.create_repo("admin/line-one", private=True)
assert url.repo_id == "admin/line-one" and api.model_info("admin/line-one").private
weights = os.urandom(2_500_000)
os.makedirs("up/sub")
pathlib.Path("up/model.safetensors").write_bytes(weights)
pathlib.Path("up/sub/a.json").write_text("{}")
pathlib.Path("up/README.md").write_text("---\\nlicense: mit\\n---\\n# One\\n")
one = api.upload_file(path_or_fileobj=b"hello", path_in_repo="hello.txt", repo_id="admin/line-one")
two = api.upload_folder(folder_path="up", repo_id="admin/line-one")
assert one.oid != two.oid and api.model_info("admin/line-one").sha == two.oid
assert open(hf_hub_download("admin/line-one", "model.safetensors"), "rb").read() == weights
folder = pathlib.Path(snapshot_download("admin/line-one"))
assert (folder / "sub/a.json").read_text() == "{}" and (folder / "hello.txt").read_bytes() == b"hello"
assert {f.path for f in api.list_repo_tree("admin/line-one", recursive=True)} >= {"hello.txt", "sub", "sub/a.json"}
assert "model.safetensors" in api.list_repo_files("admin/line-one")
assert [m.id for m in api.list_models(author="admin", search="line-one")] == ["admin/line-one"]
assert [c.commit_id for c in api.list_repo_commits("admin/line-one")][:2] == [two.oid, one.oid]
api.create_branch("admin/line-one", branch="dev")
api.create_tag("admin/line-one", tag="v1")
refs = api.list_repo_refs("admin/line-one")
assert {b.name for b in refs.branches} == {"main", "dev"} and [t.name for t in refs.tags] == ["v1"]
api.create_commit("admin/line-one", commit_message="x", revision="dev",
    operations=[CommitOperationAdd("new.txt", b"n"), CommitOperationDelete("hello.txt")])
assert api.file_exists("admin/line-one", "new.txt", revision="dev") and not api.file_exists("admin/line-one", "new.txt")
talk = api.create_discussion("admin/line-one", "A question", description="Why?")
assert talk.num == 1
api.comment_discussion("admin/line-one", 1, "Because.")
assert len(api.get_discussion_details("admin/line-one", 1).events) == 2
assert [d.num for d in api.get_repo_discussions("admin/line-one")] == [1]
request = api.create_commit("admin/line-one", [CommitOperationAdd("p.txt", b"p")], commit_message="p", create_pr=True)
assert request.pr_num == 2
api.merge_pull_request("admin/line-one", 2)
assert api.file_exists("admin/line-one", "p.txt")
api.update_repo_settings("admin/line-one", private=False)
api.move_repo("admin/line-one", "admin/line-1")
assert api.model_info("admin/line-one").id == "admin/line-1"
hook = api.create_webhook(url="https://hooks.example/x", watched=[{"type": "user", "name": "admin"}])
assert api.get_webhook(hook.id).url == "https://hooks.example/x"
api.delete_webhook(hook.id)
api.create_repo("admin/rows", repo_type="dataset")
api.upload_file(path_or_fileobj=b"a,b\\n1,2\\n", path_in_repo="rows.csv", repo_id="admin/rows", repo_type="dataset")
assert [d.id for d in api.list_datasets(author="admin")] == ["admin/rows"]
try:
    hf_hub_download("admin/line-1", "none.txt"); raise SystemExit("found")
except EntryNotFoundError:
    pass
api.delete_repo("admin/line-1")
try:
    api.model_info("admin/line-1"); raise SystemExit("found")
except RepositoryNotFoundError:
    pass
print("DONE")
"""

MORE = """
import os, pathlib
from huggingface_hub import HfApi, CommitOperationAdd, CommitOperationCopy, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, GatedRepoError
api, nobody, friend = HfApi(), HfApi(token=False), HfApi(token=os.environ["FRIEND"])
add = lambda path, data: CommitOperationAdd(path, data)
def fails(status, call):
    try:
        call()
    except HfHubHTTPError as error:
        assert error.response.status_code == status, error
    else:
        raise SystemExit(f"not refused with {status}")
api.create_repo("admin/older")
weights = os.urandom(600_000)
api.create_commit("admin/older", [add("w.bin", weights), add("a.txt", b"a")], commit_message="x")
api.create_commit("admin/older", [CommitOperationCopy("w.bin", "copy.bin")], commit_message="y")
[one, two] = api.get_paths_info("admin/older", ["w.bin", "copy.bin"])
assert one.lfs.sha256 == two.lfs.sha256 and one.size == 600_000
api.super_squash_history("admin/older")
assert len(api.list_repo_commits("admin/older")) == 1
assert [f.size for f in api.list_lfs_files("admin/older")] == [600_000]
assert [u.username for u in api.list_repo_likers("admin/older")] == []
assert [r for r in api.list_liked_repos("admin").models] == []
made = api.create_collection("Old things", namespace="admin")
made = api.add_collection_item(made.slug, "admin/older", "model", note="n")
assert [i.item_id for i in api.get_collection(made.slug).items] == ["admin/older"]
assert [c.slug for c in api.list_collections(owner="admin")] == [made.slug]
api.delete_collection(made.slug)
api.update_repo_settings("admin/older", gated="manual")
fails(403, lambda: friend.auth_check("admin/older"))
try:
    hf_hub_download("admin/older", "a.txt", token=os.environ["FRIEND"], cache_dir="friend"); raise SystemExit("opened")
except GatedRepoError:
    pass
api.grant_access("admin/older", "friend")
friend.auth_check("admin/older")
assert [r.username for r in api.list_accepted_access_requests("admin/older")] == ["friend"]
api.reject_access_request("admin/older", "friend", rejection_reason="no")
fails(403, lambda: friend.auth_check("admin/older"))
assert api.get_user_overview("admin").num_followers == 0
assert list(api.list_user_followers("admin")) == list(api.list_user_following("friend")) == []
api.create_repo("admin/older-app", repo_type="space", space_sdk="static")
assert [s.id for s in api.list_spaces(author="admin")] == ["admin/older-app"]
fails(501, lambda: api.get_space_runtime("admin/older-app"))
api.delete_repo("admin/older")
print("DONE")
"""


def run_script(server: RunningFust, folder: Path, script: str, **more: str) -> None:
    """Runs a script by the client of the line 1; skips where that is not installed."""
    if not PYTHON.is_file():
        pytest.skip("huggingface_hub 1.x is not installed in .venv-hub1 (make test-install does it)")
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "FUST_", "PYTHON"))}
    environ |= {"HF_ENDPOINT": server.url, "HF_TOKEN": server.token, "HF_HOME": str(folder / "hf")}
    environ |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", **more}
    done = subprocess.run(
        [str(PYTHON), "-W", "ignore", "-c", textwrap.dedent(script)],
        env=environ, cwd=folder, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and "DONE" in done.stdout, done.stderr[-4000:]


@pytest.mark.parametrize("xet", ["with xet", "without xet"])
def test_the_calls_that_everybody_makes(server: RunningFust, tmp_path: Path, xet: str) -> None:
    run_script(server, tmp_path, SCRIPT, HF_HUB_DISABLE_XET="1" if xet == "without xet" else "0")
    server.request("DELETE", "/api/repos/delete", {"name": "admin/rows", "type": "dataset"})
    assert json.loads(server.request("GET", "/api/models?author=admin")[2]) == []


def test_the_rest_of_the_contract(server: RunningFust, tmp_path: Path) -> None:
    server.cli("users", "new", "friend", "--no-password")
    made = server.cli("--json", "tokens", "new", "k", "--user", "friend", "--scope", "write").stdout
    run_script(server, tmp_path, MORE, FRIEND=json.loads(made)["token"])
