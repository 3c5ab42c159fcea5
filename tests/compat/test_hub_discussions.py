"""Discussions and pull requests, by huggingface_hub and git unmodified; several people, and what they may not."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.compat.test_hub_clients import run_client
from tests.compat.test_hub_contract import START
from tests.conftest import RunningFust


@pytest.fixture(scope="module")
def maria(server: RunningFust) -> str:
    """A key of somebody who owns nothing here."""
    word = "a long password"
    assert server.request("POST", "/fust/v1/users", {"name": "maria", "password": word})[0] in (200, 201)
    _, headers, _ = server.request(
        "POST", "/fust/v1/session", {"name": "maria", "password": word}, token=None
    )
    cookie = {"cookie": headers["set-cookie"].partition(";")[0], "origin": server.url}
    wish = {"name": "her key", "scope": "write"}
    status, _, body = server.request("POST", "/fust/v1/tokens", wish, token=None, headers=cookie)
    assert status == 201, body
    return json.loads(body)["token"]


def test_talking(server: RunningFust, maria: str, tmp_path: Path) -> None:
    run_client(
        server,
        tmp_path,
        START
        + f"""
her = HfApi(token={maria!r})
api.create_repo("admin/talk")
first = her.create_discussion("admin/talk", "How is it trained?", description="Please say.")
assert (first.num, first.status, first.author, first.is_pull_request) == (1, "open", "maria", False)
said = api.comment_discussion("admin/talk", 1, "On **two** GPUs.")
edited = api.edit_discussion_comment("admin/talk", 1, said.id, "On four GPUs.")
assert edited.edited and edited.content == "On four GPUs." and len(edited.edit_history) == 2
fails(403, lambda: her.edit_discussion_comment("admin/talk", 1, said.id, "mine"))
fails(403, lambda: her.hide_discussion_comment("admin/talk", 1, said.id))
hers = her.comment_discussion("admin/talk", 1, "a secret")
hidden = api.hide_discussion_comment("admin/talk", 1, hers.id)
assert hidden.hidden and "secret" not in str(api.get_discussion_details("admin/talk", 1).events)
title = her.rename_discussion("admin/talk", 1, "How was it trained?")
assert (title.old_title, title.new_title) == ("How is it trained?", "How was it trained?")
closed = her.change_discussion_status("admin/talk", 1, "closed", comment="thanks")
assert closed.new_status == "closed"
details = api.get_discussion_details("admin/talk", 1)
assert details.title == "How was it trained?" and details.status == "closed"
assert [e.type for e in details.events] == ["comment", "comment", "comment", "title-change", "comment", "status-change"]
for i in range(35):
    api.create_discussion("admin/talk", f"number {{i}}", description="不是 100 % sure_yet" if i == 7 else "")
found = list(api.get_repo_discussions("admin/talk"))
assert len(found) == 36 and found[0].num == 36, "pages are followed"
assert [d.num for d in api.get_repo_discussions("admin/talk", author="maria")] == [1]
assert [d.num for d in api.get_repo_discussions("admin/talk", discussion_status="closed")] == [1]
assert list(api.get_repo_discussions("admin/talk", discussion_type="pull_request")) == []
fails(404, lambda: api.get_discussion_details("admin/talk", 99))
fails(400, lambda: api.create_discussion("admin/talk", "ab"))
api.create_repo("admin/hush", private=True)
fails(404, lambda: her.create_discussion("admin/hush", "May I?"))
fails(401, lambda: HfApi(token=False).create_discussion("admin/talk", "May I?"))
""",
    )
    for words, nums in (
        ("trained", [1]),
        ("on FOUR gpus.", [1]),  # a comment, as it reads now, and not as it did
        ("two", []),
        ("secret", []),
        ("不是", [9]),
        ("100 % sure_yet", [9]),
        ("sure%yet", []),
        ("number sure_yet", [9]),  # one word in the title, one in a comment
        ("history raw", []),
    ):
        path = f"/api/models/admin/talk/discussions?search={quote(words)}"
        found = json.loads(server.request("GET", path)[2])["discussions"]
        assert [talk["num"] for talk in found] == nums, words


def test_pull_requests(server: RunningFust, maria: str, tmp_path: Path) -> None:
    run_client(
        server,
        tmp_path,
        START
        + f"""
her = HfApi(token={maria!r})
api.create_repo("admin/prs")
api.create_commit("admin/prs", [add("a.txt", b"one\\ntwo\\n"), add("README.md", b"# Hi\\n")], commit_message="start")
data = os.urandom(400_000)
made = her.create_commit("admin/prs", [add("w.bin", data), add("b.txt", b"b")], commit_message="Add weights",
    commit_description="They are good.", create_pr=True)
assert made.pr_num == 1 and made.pr_revision == "refs/pr/1" and made.pr_url.endswith("/admin/prs/discussions/1")
assert "w.bin" not in api.list_repo_files("admin/prs")
assert open(hf_hub_download("admin/prs", "w.bin", revision="refs/pr/1"), "rb").read() == data
assert api.list_repo_refs("admin/prs", include_pull_requests=True).pull_requests[0].target_commit == made.oid
her.upload_file(path_or_fileobj=b"c", path_in_repo="c.txt", repo_id="admin/prs", revision="refs/pr/1")
fails(403, lambda: her.upload_file(path_or_fileobj=b"c", path_in_repo="c.txt", repo_id="admin/prs"))
fails(403, lambda: her.merge_pull_request("admin/prs", 1))
details = api.get_discussion_details("admin/prs", 1)
assert details.is_pull_request and details.title == "Add weights" and details.status == "open"
assert [e.type for e in details.events] == ["comment", "commit", "commit"]
assert details.conflicting_files == [] and details.target_branch == "refs/heads/main" and "+++ b/b.txt" in details.diff
api.upload_file(path_or_fileobj=b"other", path_in_repo="other.txt", repo_id="admin/prs")
api.merge_pull_request("admin/prs", 1, comment="Thank you")
details = api.get_discussion_details("admin/prs", 1)
assert details.status == "merged" and details.merge_commit_oid == api.model_info("admin/prs").sha
assert set(api.list_repo_files("admin/prs")) >= {{"a.txt", "b.txt", "c.txt", "w.bin", "other.txt"}}
assert api.list_repo_commits("admin/prs")[0].title == "Add weights (#1)"
assert open(hf_hub_download("admin/prs", "w.bin"), "rb").read() == data
fails(400, lambda: her.upload_file(path_or_fileobj=b"d", path_in_repo="d.txt", repo_id="admin/prs", revision="refs/pr/1"))
fails(400, lambda: api.merge_pull_request("admin/prs", 1))

draft = her.create_pull_request("admin/prs", "An empty one")
assert draft.status == "draft" and draft.git_reference == "refs/pr/2"
her.create_commit("admin/prs", [add("a.txt", b"one\\nhers\\n")], commit_message="hers", revision="refs/pr/2")
api.create_commit("admin/prs", [add("a.txt", b"one\\nours\\n")], commit_message="ours")
assert api.get_discussion_details("admin/prs", 2).conflicting_files == ["a.txt"]
fails(409, lambda: api.merge_pull_request("admin/prs", 2))
assert her.change_discussion_status("admin/prs", 2, "open").new_status == "open"
her.change_discussion_status("admin/prs", 2, "closed")
fails(400, lambda: her.create_commit("admin/prs", [add("x", b"x")], commit_message="x", revision="refs/pr/2"))

# Her bytes count for her requests, not for the owner's other repos.
api.create_repo("admin/elsewhere")
kept = os.urandom(300_000)
her.create_commit("admin/prs", [add("kept.bin", kept)], commit_message="Keep this", create_pr=True)
readme = api.create_commit("admin/prs", [add("README.md", b"---\\nlicense: mit\\n---\\n# Hi\\n")], commit_message="Card", create_pr=True)
assert readme.pr_num == 4
""",
    )
    run_client(
        server,
        tmp_path,
        START
        + f"""
her = HfApi(token={maria!r})
data = os.urandom(300_000)
made = her.create_commit("admin/prs", [add("lfs.bin", data)], commit_message="By LFS", create_pr=True)
assert open(hf_hub_download("admin/prs", "lfs.bin", revision=made.pr_revision), "rb").read() == data
""",
        HF_HUB_DISABLE_XET="1",
    )


def test_git_pushes_to_a_pull_request(server: RunningFust, maria: str, tmp_path: Path) -> None:
    out = run_client(
        server,
        tmp_path,
        START
        + f"""
api.create_repo("admin/gitpr")
out["num"] = HfApi(token={maria!r}).create_pull_request("admin/gitpr", "By git").num
api.create_pull_request("admin/gitpr", "Not hers")
""",
    )
    assert out["num"] == 1
    environ = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "HOME": str(tmp_path), "GIT_LFS_SKIP_SMUDGE": "1"}

    def git(*arguments: str, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        command = ["git", "-c", "user.name=M", "-c", "user.email=m@example.org", *arguments]
        return subprocess.run(
            command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=60, check=False
        )

    url = server.url.replace("http://", f"http://maria:{maria}@") + "/admin/gitpr"
    assert git("clone", url, "clone").returncode == 0
    clone = tmp_path / "clone"
    (clone / "hers.txt").write_text("hers")
    git("add", "-A", cwd=clone)
    git("commit", "-m", "from git", cwd=clone)
    done = git("push", "origin", "HEAD:refs/pr/1", cwd=clone)
    assert done.returncode == 0, done.stderr
    for ref, words in (
        ("refs/heads/main", "may not write"),
        ("refs/pr/2", "may not write"),
        ("refs/pr/9", "no discussion 9"),
    ):
        done = git("push", "origin", f"HEAD:{ref}", cwd=clone)
        assert done.returncode != 0 and words in done.stderr, (ref, done.stderr)
    _, _, body = server.request("GET", "/api/models/admin/gitpr/discussions/1")
    events = json.loads(body)["events"]
    assert [(e["type"], e["data"].get("subject"), e["author"]["name"]) for e in events][1:] == [
        ("commit", "from git", "maria")
    ]
    assert server.request("POST", "/api/models/admin/gitpr/discussions/1/merge")[0] == 200
    assert server.request("GET", "/admin/gitpr/resolve/main/hers.txt")[2] == b"hers"
