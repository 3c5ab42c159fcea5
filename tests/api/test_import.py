"""`fust import`: a real Hugging Face cache, written by huggingface_hub, and an Ollama store as Ollama lays it out."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download

from tests.conftest import start_fust

GGUF = b"GGUF" + hashlib.shake_256(b"weights").digest(3_000_000)


@pytest.fixture(scope="module")
def cache(server, tmp_path_factory):
    """A cache that huggingface_hub filled from a first server: main, an older revision, a tag."""
    folder = tmp_path_factory.mktemp("hub")
    api = HfApi(endpoint=server.url, token=server.token)
    api.create_repo("admin/source")
    first = api.upload_file(path_or_fileobj=b"# One\n", path_in_repo="notes.txt", repo_id="admin/source").oid
    api.upload_file(path_or_fileobj=GGUF, path_in_repo="deep/m.gguf", repo_id="admin/source")
    api.create_tag("admin/source", tag="v1")
    api.upload_file(path_or_fileobj=b"# Two\n", path_in_repo="notes.txt", repo_id="admin/source")
    for revision in ("main", "v1", first):
        snapshot_download(
            "admin/source", revision=revision, cache_dir=folder, endpoint=server.url, token=server.token
        )
    return folder


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    running = start_fust(tmp_path_factory.mktemp("import") / "home")
    yield running
    running.stop()


def read(running, repo_id, path, revision="main"):
    status, _, body = running.request("GET", f"/{repo_id}/resolve/{revision}/{path}")
    assert status == 200, body
    return body


def test_a_cache_becomes_repos_with_their_revisions(here, cache):
    listed = json.loads(here.cli("import", "--cache", str(cache), "--dry-run", "--json").stdout)
    assert [(r["repo_id"], len(r["files"])) for r in listed][:2] == [("admin/source", 3), ("admin/source", 3)]
    assert "admin/source" not in here.cli("ls").stdout
    done = here.cli("import", "--cache", str(cache), "--yes")
    assert "1 repos were imported." in done.stdout
    assert read(here, "admin/source", "notes.txt") == b"# Two\n"
    assert read(here, "admin/source", "notes.txt", "v1") == b"# One\n"
    assert read(here, "admin/source", "deep/m.gguf", "v1") == GGUF
    title = HfApi(endpoint=here.url, token=here.token).list_repo_commits("admin/source")[0].title
    assert title.startswith("Imported from a Hugging Face cache at ")
    heads = here.request("GET", "/api/models/admin/source/refs")[2]
    again = json.loads(here.cli("import", "--cache", str(cache), "--yes", "--json").stdout)
    assert all(result["uploaded"] == 0 for result in again), again
    assert here.request("GET", "/api/models/admin/source/refs")[2] == heads
    got = hf_hub_download(
        "admin/source", "deep/m.gguf", endpoint=here.url, token=here.token, cache_dir=here.home / "c"
    )
    assert Path(got).read_bytes() == GGUF


def test_what_is_damaged_outside_or_unfinished_is_left_out_and_said(here, cache, tmp_path):
    import shutil

    shutil.copytree(cache, tmp_path / "hub", symlinks=True)
    repo = tmp_path / "hub" / "models--admin--source"
    snapshot = repo / "snapshots" / (repo / "refs" / "main").read_text()
    (tmp_path / "secret").write_text("not yours")
    (snapshot / "out.txt").symlink_to(tmp_path / "secret")
    (snapshot / "out").symlink_to("/etc")
    (snapshot / "gone.txt").symlink_to("../../blobs/none")
    (repo / "blobs" / ("f" * 64 + ".incomplete")).write_bytes(b"half")
    blob = (snapshot / "notes.txt").resolve()
    blob.unlink()
    blob.write_bytes(b"# Too\n")
    done = here.cli("import", "--cache", str(tmp_path / "hub"), "--to", "admin2", "--yes", check=False)
    assert done.returncode == 1
    assert "notes.txt of admin2/source is damaged and was left out." in done.stderr
    assert "out.txt of admin/source, it leads out of the store" in done.stderr
    assert "Left out: out of admin/source, it leads out of the store" in done.stderr
    assert "gone.txt of admin/source, it is not complete" in done.stderr
    assert "fffff" in done.stderr
    files = here.request("GET", "/api/models/admin2/source/tree/main?recursive=true")[2].decode()
    assert "out" not in files and "notes" not in files and "m.gguf" in files


def ollama_store(folder, *, model=GGUF, tags=("1b", "latest")):
    def blob(data):
        digest = hashlib.sha256(data).hexdigest()
        (folder / "blobs").mkdir(parents=True, exist_ok=True)
        (folder / "blobs" / f"sha256-{digest}").write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    layers = {
        "model": model,
        "template": b"{{ .Prompt }}",
        "license": b"                  Apache License\n            Version 2.0\n",
        "params": b'{"stop": ["<end>"]}',
    }
    for tag in tags:
        path = folder / "manifests" / "registry.ollama.ai" / "library" / "tiny" / tag
        path.parent.mkdir(parents=True, exist_ok=True)
        named = [{"mediaType": f"application/vnd.ollama.image.{k}", **blob(v)} for k, v in layers.items()]
        path.write_text(json.dumps({"schemaVersion": 2, "config": blob(b"{}"), "layers": named}))
    return folder


def test_an_ollama_store_becomes_repos_with_cards(here, tmp_path):
    store = ollama_store(tmp_path / "models")
    done = here.cli("import", "--ollama", str(store), "--yes")
    assert "ollama/tiny" in done.stderr
    assert read(here, "ollama/tiny", "tiny-1b.gguf") == GGUF == read(here, "ollama/tiny", "tiny-latest.gguf")
    assert read(here, "ollama/tiny", "1b/template.txt") == b"{{ .Prompt }}"
    card = read(here, "ollama/tiny", "README.md").decode()
    assert (
        "license: apache-2.0" in card
        and f"| 1b | tiny-1b.gguf | {hashlib.sha256(GGUF).hexdigest()} |" in card
    )
    again = json.loads(here.cli("import", "--ollama", str(store), "--yes", "--json").stdout)
    assert [result["uploaded"] for result in again] == [0]


def test_hostile_manifests(here, tmp_path):
    store = ollama_store(tmp_path / "models", tags=("1b",))
    folder = store / "manifests" / "registry.ollama.ai" / "library"
    model = "application/vnd.ollama.image.model"
    bad = {
        "nojson": b"{",
        "escape": json.dumps(
            {"layers": [{"mediaType": model, "digest": "sha256:../../../etc/passwd"}]}
        ).encode(),
        "short": json.dumps({"layers": [{"mediaType": model, "digest": f"sha256:{'a' * 64}"}]}).encode(),
    }
    for name, body in bad.items():
        (folder / name).mkdir()
        (folder / name / "latest").write_bytes(body)
    link = store / "blobs" / f"sha256-{'b' * 64}"
    os.symlink("/etc/passwd", link)
    size = os.stat(link).st_size
    layer = {"mediaType": model, "digest": f"sha256:{'b' * 64}", "size": size}
    (folder / "linked").mkdir()
    (folder / "linked" / "latest").write_text(json.dumps({"layers": [layer]}))
    listed = json.loads(here.cli("import", "--ollama", str(store), "--dry-run", "--json").stdout)
    by_name = {entry["repo_id"]: entry for entry in listed}
    assert by_name["ollama/tiny"]["files"]
    for name in (*bad, "linked"):
        assert by_name[f"ollama/{name}"]["files"] == [] and by_name[f"ollama/{name}"]["skipped"]


def test_a_public_url_that_does_not_lead_back_here(cache, tmp_path):
    """Push and import on the machine itself, behind a proxy's name that the machine cannot reach, below a sub-path."""
    server = start_fust(tmp_path / "home", server__public_url="https://fust.invalid/sub")
    try:
        big = tmp_path / "big.bin"
        big.write_bytes(os.urandom(12_000_000))
        pushed = server.cli("push", str(big), "admin/near", "--json")
        assert json.loads(pushed.stdout)["url"] == "https://fust.invalid/sub/admin/near"
        assert "big.bin" in server.cli("ls", "admin/near").stdout
        done = json.loads(server.cli("import", "--cache", str(cache), "--yes", "--json").stdout)
        assert [one["error"] for one in done] == [""] * len(done) and sum(one["uploaded"] for one in done) > 0
        # Who does not ask is sent to the public name, whatever host is named.
        status, _, body = server.request("GET", "/api/models/admin/near/xet-write-token/main")
        assert status == 200 and json.loads(body)["casUrl"].startswith("https://fust.invalid/sub/xet/")
        headers = {"x-fust-near": "1", "host": "evil.example"}
        body = server.request("GET", "/api/models/admin/near/xet-write-token/main", headers=headers)[2]
        assert b"evil" not in body and b"https://fust.invalid/sub/xet/" in body
    finally:
        server.stop()


def test_nothing_to_import(here, tmp_path):
    done = here.cli("import", "--cache", str(tmp_path), "--yes", check=False)
    assert done.returncode == 1 and "There is nothing to import." in done.stderr


def test_an_organisation_by_the_cli(here, server, cache):
    preview = here.cli("pull", "admin", "--from", server.url)
    assert "admin/source" in preview.stderr and "Say --yes" in preview.stdout
    done = here.cli("pull", "admin", "--from", server.url, "--to", "copies", "--yes", "--limit", "50MB/s")
    assert "1 repos are here" in done.stdout
    assert read(here, "copies/source", "deep/m.gguf") == GGUF
    refused = here.cli("pull", "admin", "--revision", "v1", check=False)
    assert refused.returncode == 2 and "go with one repo" in refused.stderr


def test_a_token_by_the_cli_is_seen_nowhere(here, server):
    api = HfApi(endpoint=server.url, token=server.token)
    api.create_repo("admin/closed", private=True)
    api.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id="admin/closed")
    bare = here.cli("pull", "admin/closed", "--from", server.url, check=False)
    assert bare.returncode == 1 and "fust pull --token" in bare.stderr
    done = here.cli(
        "pull", "admin/closed", "--from", server.url, "--token", "--json", stdin=server.token + "\n"
    )
    assert json.loads(done.stdout)["state"] == "succeeded" and server.token not in done.stdout
    assert server.token.encode() not in here.request("GET", "/fust/v1/runs")[2]
    for path in here.home.rglob("*"):
        assert not path.is_file() or server.token.encode() not in path.read_bytes(), path
