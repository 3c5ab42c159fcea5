"""The contract beyond files: names, lists, likes, collections, large files, by huggingface_hub unmodified."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from tests.compat.test_hub_clients import run_client
from tests.conftest import RunningFust

START = """
import os, pathlib
from huggingface_hub import *
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete
from huggingface_hub.utils import HfHubHTTPError, RepositoryNotFoundError, EntryNotFoundError
api = HfApi()
add = lambda p, d: CommitOperationAdd(path_in_repo=p, path_or_fileobj=d)
def fails(status, call):
    try:
        call()
    except HfHubHTTPError as error:
        assert error.response.status_code == status, error
    else:
        raise SystemExit(f"not refused with {status}")
"""


def test_a_moved_repo_is_found_by_its_old_name(server: RunningFust, tmp_path: Path) -> None:
    run_client(
        server,
        tmp_path,
        START
        + """
api.create_repo("admin/before")
data = os.urandom(300_000)
oid = api.create_commit("admin/before", [add("w.bin", data), add("a.txt", b"a")], commit_message="x").oid
api.create_repo("admin/taken")
fails(409, lambda: api.move_repo("admin/before", "admin/taken"))
api.move_repo("admin/before", "team/After")
assert api.model_info("admin/before").id == "team/After"
assert api.model_info("team/after").sha == oid
assert open(hf_hub_download("admin/before", "w.bin"), "rb").read() == data
assert open(hf_hub_download("admin/before", "a.txt"), "rb").read() == b"a"
new = api.upload_file(path_or_fileobj=b"b", path_in_repo="b.txt", repo_id="admin/before").oid
assert api.list_repo_commits("admin/before")[0].commit_id == new
assert snapshot_download("admin/before")
api.move_repo("team/After", "team/third")
assert api.model_info("admin/before").id == api.model_info("team/After").id == "team/third"
api.create_repo("admin/before")  # the name is free: what is made under it answers from now on
assert api.model_info("admin/before").id == "admin/before"
api.update_repo_settings("team/third", private=True)
try:
    HfApi(token=False).model_info("team/After"); raise SystemExit("a private repo's new name was told")
except RepositoryNotFoundError as error:
    assert "third" not in str(error)
""",
    )
    url = server.url.replace("http://", f"http://me:{server.token}@")
    done = subprocess.run(
        ["git", "clone", "-q", f"{url}/team/After", str(tmp_path / "clone")],
        env={**os.environ, "GIT_LFS_SKIP_SMUDGE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and (tmp_path / "clone/b.txt").exists(), done.stderr


def test_copies_squash_and_large_files(server: RunningFust, tmp_path: Path) -> None:
    run_client(
        server,
        tmp_path,
        START
        + """
api.create_repo("admin/original")
one, two = os.urandom(250_000), os.urandom(260_000)
api.create_commit("admin/original", [add("one.bin", one), add("x/two.bin", two), add("t.txt", b"t")], commit_message="1")
api.create_commit("admin/original", [CommitOperationDelete("one.bin")], commit_message="2")
api.create_tag("admin/original", tag="v1")
url = api.duplicate_repo("admin/original", "admin/copied", private=True)
assert url.repo_id == "admin/copied"
fails(409, lambda: api.duplicate_repo("admin/original", "admin/copied"))
assert api.duplicate_repo("admin/original", "admin/copied", exist_ok=True).repo_id == "admin/copied"
assert api.model_info("admin/copied").private and api.list_repo_refs("admin/copied").tags[0].name == "v1"
assert open(hf_hub_download("admin/copied", "x/two.bin"), "rb").read() == two
new = api.upload_file(path_or_fileobj=b"n", path_in_repo="n.txt", repo_id="admin/copied").oid
assert "n.txt" not in api.list_repo_files("admin/original")
files = {f.filename: f for f in api.list_lfs_files("admin/copied")}
assert set(files) == {"one.bin", "x/two.bin"} and files["one.bin"].size == 250_000, files
api.permanently_delete_lfs_files("admin/copied", [files["one.bin"]])
assert [f.filename for f in api.list_lfs_files("admin/copied")] == ["x/two.bin"]
history = api.list_repo_commits("admin/copied")
assert history[0].title == "Upload n.txt with huggingface_hub" and history[0].commit_id != new
for commit in history:
    assert "one.bin" not in api.list_repo_files("admin/copied", revision=commit.commit_id)
api.super_squash_history("admin/copied", commit_message="squashed")
history = api.list_repo_commits("admin/copied")
assert [c.title for c in history] == ["squashed"]
assert open(hf_hub_download("admin/copied", "x/two.bin"), "rb").read() == two
api.create_repo("team/target")
api.create_commit("team/target", [
    CommitOperationCopy("x/two.bin", "got.bin", src_repo_id="admin/original", src_repo_type="model"),
    CommitOperationCopy("t.txt", "got.txt", src_repo_id="admin/original", src_repo_type="model"),
], commit_message="copied")
assert open(hf_hub_download("team/target", "got.bin"), "rb").read() == two
assert open(hf_hub_download("team/target", "got.txt")).read() == "t"
api.create_commit("team/target", [add(f"f{i}", b"x") for i in range(3)], commit_message="f")
for i in range(60):
    last = api.create_commit("team/target", [add("n", str(i).encode())], commit_message=str(i))
assert len(api.list_repo_commits("team/target")) == 63, "three pages of commits"
api.create_branch("team/target", branch="empty-ish", revision="main", exist_ok=True)
api.create_branch("team/target", branch="empty-ish", exist_ok=True)
""",
    )


def test_lists_by_filters_and_orders(server: RunningFust, tmp_path: Path) -> None:
    run_client(
        server,
        tmp_path,
        START
        + """
import struct, json
def weights(n):
    head = json.dumps({"w": {"dtype": "F16", "shape": [n], "data_offsets": [0, 2 * n]}}).encode()
    return struct.pack("<Q", len(head)) + head + b"\\0" * (2 * n)
card = "---\\nlicense: {}\\nlanguage: {}\\npipeline_tag: text-generation\\nlibrary_name: transformers\\ntags: [tiny]\\nbase_model: a/b\\ndatasets: [c/d]\\n---\\n# M\\n"
for i in range(5):
    rid = f"listed/m{i}"
    api.create_repo(rid)
    api.create_commit(rid, [add("README.md", card.format("mit" if i % 2 else "apache-2.0", "zh" if i < 2 else "en").encode()),
        add("model.safetensors", weights(1000 * (i + 1))),
        add("config.json", json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}).encode()),
        add("tokenizer_config.json", json.dumps({"mask_token": "<m>", "eos_token": "</s>"}).encode())], commit_message="x")
ids = lambda **k: [m.id for m in api.list_models(author="listed", **k)]
assert len(ids()) == 5 and len(ids(limit=3)) == 3
assert ids(filter="license:mit", sort="created_at") == ["listed/m3", "listed/m1"]
assert set(ids(filter=["zh", "tiny"])) == {"listed/m0", "listed/m1"}
assert len(ids(filter="base_model:a/b", trained_dataset="c/d", pipeline_tag="text-generation")) == 5
assert ids(filter="nothing") == []
assert set(ids(num_parameters="min:2K,max:4K")) == {"listed/m1", "listed/m2", "listed/m3"}
assert len(ids(apps="vllm")) == 5 and ids(apps=["ollama"]) == []
assert ids(gated=True) == [] and len(ids(gated=False)) == 5
api._session = None
import httpx2
for rid in ("listed/m2", "listed/m4"):
    r = httpx2.post(f"{os.environ['HF_ENDPOINT']}/api/models/{rid}/like", headers={"authorization": f"Bearer {os.environ['HF_TOKEN']}"})
    assert r.status_code == 200, r.text
assert set(ids(sort="likes")[:2]) == {"listed/m2", "listed/m4"}
assert api.model_info("listed/m2").likes == 1
likes = api.list_liked_repos()
assert likes.total == 2 and likes.models == ["listed/m4", "listed/m2"], likes
assert [u.username for u in api.list_repo_likers("listed/m2")] == ["admin"]
api.unlike("listed/m4")
assert api.list_liked_repos("admin").models == ["listed/m2"]
one = next(iter(api.list_models(author="listed", search="m3", expand=["safetensors", "config", "cardData", "likes", "siblings", "author", "mask_token"])))
assert one.safetensors.total == 4000 and one.config["model_type"] == "llama" and one.card_data.license == "mit"
assert one.likes == 0 and len(one.siblings) == 5 and one.author == "listed" and one.sha is None and one.mask_token == "<m>"
assert api.model_info("listed/m3", expand=["usedStorage", "transformersInfo"]).transformers_info.auto_model == "LlamaForCausalLM"
assert all(m.siblings for m in api.list_models(author="listed", full=True, cardData=True, fetch_config=True))
fails(400, lambda: list(api.list_models(sort="nonsense")))
tags = api.get_model_tags()
assert "license:mit" in [t["id"] for t in tags["license"]]
repos = {r.id: r for r in api.list_user_repos(namespace="listed")}
assert len(repos) == 5 and repos["listed/m4"].storage > 10_000
pages = list(__import__("huggingface_hub.utils._pagination", fromlist=["x"]).paginate(
    f"{os.environ['HF_ENDPOINT']}/api/models", params={"author": "listed", "limit": 2}, headers={}))
assert len(pages) == 5, "Link leads through the pages"
meta = api.get_safetensors_metadata("listed/m3")
assert meta.parameter_count == {"F16": 4000}
index = {"metadata": {"total_size": 6000}, "weight_map": {"w": "s1.safetensors"}}
api.create_commit("listed/m0", [add("s1.safetensors", weights(10)), add("model.safetensors.index.json", json.dumps(index).encode())], commit_message="s")
sharded = api.get_sharded_safetensors_metadata("listed/m0")
assert sharded.metadata == {"total_size": 6000} and sharded.weight_map == {"w": "s1.safetensors"}
""",
    )


def test_collections(server: RunningFust, tmp_path: Path) -> None:
    run_client(
        server,
        tmp_path,
        START
        + """
api.create_repo("admin/c1"); api.create_repo("admin/c2", repo_type="dataset"); api.create_repo("admin/c3", private=True)
made = api.create_collection("My picks!", namespace="admin", description="good ones")
assert made.slug.startswith("admin/my-picks-"), made.slug
assert api.create_collection("My picks!", namespace="admin", exists_ok=True).slug == made.slug
fails(409, lambda: api.create_collection("My picks!", namespace="admin"))
for item, kind in (("admin/c1", "model"), ("admin/c2", "dataset"), ("admin/c3", "model")):
    got = api.add_collection_item(made.slug, item, kind, note=f"note on {item}")
api.add_collection_item(made.slug, "admin/c1", "model", exists_ok=True)
assert [(i.item_id, i.item_type, i.position, i.note) for i in got.items][1] == ("admin/c2", "dataset", 1, "note on admin/c2")
api.update_collection_item(made.slug, got.items[2].item_object_id, position=0, note="first")
got = api.get_collection(made.slug)
assert [i.item_id for i in got.items] == ["admin/c3", "admin/c1", "admin/c2"] and got.items[0].note == "first"
api.move_repo("admin/c1", "admin/c1-renamed")
assert "admin/c1-renamed" in [i.item_id for i in api.get_collection(made.slug).items]
assert [i.item_id for i in HfApi(token=False).get_collection(made.slug).items] == ["admin/c1-renamed", "admin/c2"]
changed = api.update_collection_metadata(made.slug, title="Renamed", private=True, theme="pink")
assert changed.title == "Renamed" and changed.private and api.get_collection(made.slug).theme == "pink"
fails(404, lambda: HfApi(token=False).get_collection(made.slug))
assert [c.slug for c in api.list_collections(owner="admin")] == [changed.slug]
assert [c.slug for c in api.list_collections(item="datasets/admin/c2")] == [changed.slug]
assert list(HfApi(token=False).list_collections(owner="admin")) == []
api.delete_collection_item(made.slug, got.items[0].item_object_id)
api.delete_collection_item(made.slug, got.items[0].item_object_id, missing_ok=True)
api.delete_collection(made.slug)
fails(404, lambda: api.get_collection(made.slug))
api.delete_collection(made.slug, missing_ok=True)
""",
    )


def test_followers(server: RunningFust, tmp_path: Path) -> None:
    """The client lists; following is a button of the Hub's page, whose requests are sent here as it sends them."""
    for name in ("flo", "guy"):
        assert server.cli("users", "new", name).returncode == 0
    keys = {
        name: json.loads(
            server.cli("--json", "tokens", "new", "k", "--scope", "write", "--user", name).stdout
        )["token"]
        for name in ("flo", "guy")
    }
    assert server.cli("orgs", "new", "flock").returncode == 0

    def follow(who: str, path: str, method: str = "POST") -> tuple[int, dict[str, object]]:
        status, _, body = server.request(method, f"/api/{path}/follow", token=keys[who])
        return status, json.loads(body)

    assert follow("flo", "users/Admin") == (200, {"isFollowing": True, "numFollowers": 1})
    assert follow("flo", "users/admin") == (200, {"isFollowing": True, "numFollowers": 1}), "once is enough"
    assert follow("guy", "users/admin")[1]["numFollowers"] == 2
    assert follow("flo", "organizations/flock")[1]["numFollowers"] == 1
    assert follow("flo", "users/flo")[0] == 400
    assert follow("flo", "users/nobody-here")[0] == follow("flo", "users/flock")[0] == 404
    seen = """
names = lambda people: [person.username for person in people]
assert names(api.list_user_followers("admin")) == ["guy", "flo"]
assert names(api.list_organization_followers("flock")) == ["flo"]
assert names(api.list_user_following("flo")) == ["admin"] and names(api.list_user_followers("flo")) == []
about = api.get_user_overview("admin")
assert (about.num_followers, about.num_following, about.is_following) == (2, 0, False)
assert api.get_organization_overview("flock").num_followers == 1
assert HfApi(token=os.environ["FLO"]).get_user_overview("admin").is_following is True
assert HfApi(token=False).get_user_overview("admin").is_following is None
fails(404, lambda: list(api.list_user_followers("flock")))
fails(404, lambda: list(api.list_organization_followers("admin")))
"""
    run_client(server, tmp_path, START + f"os.environ['FLO'] = {keys['flo']!r}\n" + seen)
    status, headers, body = server.request("GET", "/api/users/admin/followers?limit=1")
    assert status == 200 and [one["user"] for one in json.loads(body)] == ["guy"]
    _, headers, body = server.request(
        "GET", headers["link"].partition(">")[0].lstrip("<").removeprefix(server.url)
    )
    assert [one["user"] for one in json.loads(body)] == ["flo"] and "link" not in headers
    assert follow("guy", "users/admin", "DELETE") == (200, {"isFollowing": False, "numFollowers": 1})
    assert server.cli("users", "remove", "flo").returncode == 0
    _, _, body = server.request("GET", "/api/users/admin/overview")
    assert json.loads(body)["numFollowers"] == 0, "who is gone follows nobody"


def test_what_is_not_offered_says_so(server: RunningFust) -> None:
    for method, path in (
        ("GET", "/api/papers/1"),
        ("POST", "/api/jobs/admin"),
        ("GET", "/api/spaces/templates"),
    ):
        status, _, body = server.request(method, path)
        assert status == 501 and "not offered" in json.loads(body)["error"], (path, status)


def test_spaces_checks_and_what_the_client_is_refused(server: RunningFust, tmp_path: Path) -> None:
    run_client(
        server,
        tmp_path,
        START
        + """
from huggingface_hub import get_hf_file_metadata, hf_hub_url
api.create_repo("admin/app", repo_type="space", space_sdk="static")
api.create_commit("admin/app", [add("README.md", b"---\\nsdk: static\\ntags: [quiz]\\n---\\n"), add("index.html", b"<h1>Quiz</h1>"),
    add("old/a.txt", b"a"), add("old/b.txt", b"b"), add("c.txt", b"c")], commit_message="x", repo_type="space")
info = api.space_info("admin/app", files_metadata=True)
assert info.sdk == "static" and info.card_data["tags"] == ["quiz"]
assert {f.rfilename: f.size for f in info.siblings}["index.html"] == 13
assert [s.id for s in api.list_spaces(author="admin", filter="quiz")] == ["admin/app"]
api.delete_folder("old", repo_id="admin/app", repo_type="space")
api.delete_file("c.txt", repo_id="admin/app", repo_type="space")
left = set(api.list_repo_files("admin/app", repo_type="space"))
assert not left & {"old/a.txt", "old/b.txt", "c.txt"} and "index.html" in left, left
api.duplicate_repo("admin/app", "admin/app-copy", repo_type="space", exist_ok=True)
assert api.space_info("admin/app-copy").sdk == "static"

api.create_repo("admin/checked")
data = os.urandom(1_500_000)
operation = add("w.bin", data)
api.preupload_lfs_files("admin/checked", [operation])
api.create_commit("admin/checked", [operation, add("a.json", b"{}")], commit_message="x")
file = get_hf_file_metadata(hf_hub_url("admin/checked", "w.bin", endpoint=api.endpoint))
assert file.size == len(data) and file.commit_hash == api.model_info("admin/checked").sha and file.xet_file_data
folder = pathlib.Path(snapshot_download("admin/checked", local_dir="checked"))
assert not api.verify_repo_checksums("admin/checked", local_dir=folder).mismatches
(folder / "a.json").write_text("[]")
assert [m["path"] for m in api.verify_repo_checksums("admin/checked", local_dir=folder).mismatches] == ["a.json"]
assert isinstance(api.get_dataset_tags(), dict)

for refused in (
    lambda: api.get_space_runtime("admin/app"), lambda: api.get_space_variables("admin/app"),
    lambda: api.add_space_secret("admin/app", "KEY", "x"), lambda: api.restart_space("admin/app"),
    lambda: api.list_spaces_hardware(), lambda: list(api.search_spaces("a quiz about trees")),
    lambda: list(api.list_jobs(namespace="admin")), lambda: list(api.list_papers(query="x")),
    lambda: list(api.list_daily_papers()), lambda: api.get_dataset_leaderboard("admin/checked"),
    lambda: api.kernel_info("admin/kernel"),
):
    fails(501, refused)
""",
    )


def test_cards_are_checked(server: RunningFust, tmp_path: Path) -> None:
    run_client(
        server,
        tmp_path,
        START
        + """
import warnings
api.create_repo("admin/cards")
good = RepoCard("---\\nlicense: apache-2.0\\nlanguage: [en, zh]\\ntags: [a]\\n---\\n# Fine\\n")
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    good.validate(repo_type="model")
    api.upload_file(path_or_fileobj=b"---\\nlicense: mit\\n---\\n# Fine\\n", path_in_repo="README.md", repo_id="admin/cards")
    assert not [w for w in told if "metadata" in str(w.message)]
    api.upload_file(path_or_fileobj=b"---\\nlicense: My Own\\nlanguage: English\\n---\\n", path_in_repo="README.md", repo_id="admin/cards")
    assert any("My Own" in str(w.message) and "English" in str(w.message) for w in told), [str(w.message) for w in told]
for bad in (b"---\\nlanguage: no\\n---\\n", b"---\\ntags: [1]\\n---\\n", b"---\\nbase_model: not an id\\n---\\n",
            b"---\\nmodel-index: x\\n---\\n", b"---\\na: [\\n---\\n"):
    try:
        api.upload_file(path_or_fileobj=bad, path_in_repo="README.md", repo_id="admin/cards"); raise SystemExit(bad)
    except ValueError as error:
        assert "Invalid metadata" in str(error), error
""",
    )
    status, _, body = server.request("GET", "/api/models/admin/cards/compare/main^..main")
    assert status == 404, "a revision is a branch, a tag or a commit"
    _, _, body = server.request("GET", "/api/models/admin/cards/commits/main")
    first = json.loads(body)[-1]["id"]
    status, headers, body = server.request("GET", f"/api/models/admin/cards/compare/{first}..main")
    assert status == 200 and b"+license: My Own" in body and headers["content-type"].startswith("text/plain")
