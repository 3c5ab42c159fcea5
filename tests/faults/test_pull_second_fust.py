"""Pull from a second Fust: over xet and plain HTTP, killed in the middle on either side."""

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import HfApi, hf_hub_download

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))

from bad_hub import Bad, BadHub

from fust.client import Client
from fust.jobs.folder import RunFolder

pytestmark = pytest.mark.faults

FILES = {
    "README.md": b"---\nlicense: mit\n---\n# Two\n",
    "config.json": b"{}",
    "a.bin": hashlib.shake_256(b"a").digest(6_000_000),
    "deep/b.bin": hashlib.shake_256(b"b").digest(11_000_000),
    "deep/small.txt": "kurz, 短\n".encode(),
    "empty.txt": b"",
}


@pytest.fixture
def upstream(fust_factory, tmp_path):
    server = fust_factory("upstream")
    folder = tmp_path / "files"
    for path, data in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    api = HfApi(endpoint=server.url, token=server.token)
    api.create_repo("admin/two")
    api.upload_folder(repo_id="admin/two", folder_path=folder)
    return server


def check_files(server, repo_id="admin/two"):
    """Every file, as the Hub's own client sees it."""
    for path, data in FILES.items():
        got = hf_hub_download(
            repo_id,
            path,
            endpoint=server.url,
            token=server.token,
            cache_dir=server.home / "test-cache",
            force_download=True,
        )
        assert Path(got).read_bytes() == data


def wait_ended(client, run_id, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        run = client.get_run(run_id)
        if run.state in ("succeeded", "failed", "cancelled"):
            return run
        time.sleep(0.05)
    raise AssertionError(client.get_run(run_id))


def kill_worker(home, run_id):
    process = RunFolder(home, run_id).find_process()
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)


def test_all_files_arrive_equal_over_xet(upstream, fust_factory):
    here = fust_factory("here")
    run = json.loads(here.cli("pull", "admin/two", "--from", upstream.url, "--json").stdout)
    assert run["result"]["fetched_bytes"] >= sum(len(d) for d in FILES.values())
    check_files(here)
    head = HfApi(endpoint=upstream.url, token=upstream.token).model_info("admin/two").sha
    assert run["result"]["upstream_revision"] == head
    commit = HfApi(endpoint=here.url, token=here.token).list_repo_commits("admin/two")[0]
    assert commit.title == f"Pulled from {upstream.url}/admin/two at {head}"
    log = RunFolder(here.home, run["id"]).read_log()
    assert "xet failed" not in log
    # By whom: a private repo, a revision, another name.
    api = HfApi(endpoint=upstream.url, token=upstream.token)
    api.create_branch("admin/two", branch="v2")
    api.upload_file(path_or_fileobj=b"new", path_in_repo="new.txt", repo_id="admin/two", revision="v2")
    here.cli("pull", "admin/two", "--from", upstream.url, "--revision", "v2", "--to", "admin/two-v2")
    assert "new.txt" in here.cli("ls", "admin/two-v2").stdout


def test_a_private_repo_needs_the_token(upstream, fust_factory):
    HfApi(endpoint=upstream.url, token=upstream.token).update_repo_settings("admin/two", private=True)
    bare = fust_factory("bare")
    refused = bare.cli("pull", "admin/two", "--from", upstream.url, check=False)
    assert refused.returncode == 1 and "or it is private" in refused.stderr
    assert "pull.token" in refused.stderr
    here = fust_factory("here", pull__source=upstream.url, pull__token=upstream.token)
    assert here.cli("pull", "admin/two").returncode == 0
    check_files(here)
    assert "(private)" in here.cli("ls").stdout


@pytest.mark.parametrize("victim", ["worker", "server", "both"])
def test_kill_9_in_the_middle_costs_no_verified_byte(fust_factory, victim):
    files = {"a.gguf": FILES["a.bin"], "README.md": b"# Hi\n", "b.bin": FILES["deep/b.bin"][:4_000_000]}
    hub = BadHub(files, lfs=("a.gguf", "b.bin"), bad={"a.gguf": Bad(pause_s=0.03)})
    here = fust_factory("here")
    port = int(here.url.rpartition(":")[2])
    client = Client(here.url, here.token)
    run = client.create_run("pull", {"repo_id": "org/model", "source": hub.url, "all": True})
    while hub.sent_bytes < 5_500_000:  # README and b.bin are here and checked, a.gguf is under way
        time.sleep(0.01)
    if victim in ("server", "both"):
        here.kill()
    if victim in ("worker", "both"):
        kill_worker(here.home, run.id)
    time.sleep(0.3)
    if victim in ("server", "both"):
        here = fust_factory("here", port=port)
    ended = wait_ended(client, run.id)
    assert ended.state == "succeeded", ended.error
    total = sum(len(data) for data in files.values())
    # What was in the connection's buffers when the worker died may come twice; nothing checked does.
    assert total <= hub.sent_bytes <= total + 2_000_000
    asked = [path for method, path, _, _ in hub.requests if method == "GET" and path.endswith("b.bin")]
    assert len(asked) == 1
    for path, data in files.items():
        assert here.request("GET", f"/org/model/resolve/main/{path}")[2] == data
    commits = HfApi(endpoint=here.url, token=here.token).list_repo_commits("org/model")
    assert len(commits) == 2
    hub.close()


def test_kill_9_again_and_again_ends_as_a_clear_failure(fust_factory):
    hub = BadHub({"a.gguf": FILES["a.bin"]}, lfs=("a.gguf",), bad={"a.gguf": Bad(pause_s=0.5)})
    here = fust_factory("here")
    client = Client(here.url, here.token)
    run = client.create_run("pull", {"repo_id": "org/model", "source": hub.url})
    for attempt in (1, 2, 3):
        folder = RunFolder(here.home, run.id)
        while not (folder.is_alive() and folder.find_process() and folder.read_spec().attempt == attempt):
            time.sleep(0.05)
        time.sleep(0.5)
        kill_worker(here.home, run.id)
    ended = wait_ended(client, run.id)
    assert ended.state == "failed" and ended.error and ended.error.code == "killed"
    assert client.list_repos(type="model").total == 0
    hub.close()


def test_upstream_dies_in_the_middle(upstream, fust_factory):
    here = fust_factory("here")
    client = Client(here.url, here.token)
    run = client.create_run("pull", {"repo_id": "admin/two", "source": upstream.url})
    upstream.kill()
    ended = wait_ended(client, run.id)
    assert ended.state == "failed" and ended.error and ended.error.code == "upstream_failed"
    assert client.list_repos(type="model").total == 0
