"""A team on a real server: organisations by huggingface_hub and by our routes, fine-grained keys on every surface."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from fust.client import Client, ClientError
from tests.conftest import RunningFust, start_fust

TEAM = """
[[users]]
name = "olga"
full_name = "Olga O."
[[users.tokens]]
name = "t"
scope = "write"
value = "olga-0123456789abcdefghijkl"

[[users]]
name = "will"
[[users.tokens]]
name = "t"
scope = "write"
value = "will-0123456789abcdefghijkl"
[[users.tokens]]
name = "news only"
scope = "write"
value = "will-news-0123456789abcdefg"
repos = ["lab/news"]
[[users.tokens]]
name = "one model"
value = "will-model-0123456789abcdef"
models = ["helper"]

[[users]]
name = "rita"
[[users.tokens]]
name = "t"
scope = "write"
value = "rita-0123456789abcdefghijkl"

[[organisations]]
name = "lab"
display_name = "The Lab"
members = { olga = "owner", will = "write", rita = "read" }
"""
OLGA, WILL, RITA = (f"{name}-0123456789abcdefghijkl" for name in ("olga", "will", "rita"))
NEWS, ONE_MODEL = "will-news-0123456789abcdefg", "will-model-0123456789abcdef"


@pytest.fixture(scope="module")
def team(server: RunningFust, tmp_path_factory: pytest.TempPathFactory) -> RunningFust:
    path = tmp_path_factory.mktemp("seed") / "team.toml"
    path.write_text(TEAM)
    first = server.cli("up", "--seed", str(path)).stdout
    assert "+ organisation lab" in first and "Fust runs already" in first
    assert "nothing new" in server.cli("up", "--seed", str(path)).stdout
    return server


def hub(team: RunningFust, token: str) -> HfApi:
    return HfApi(endpoint=team.url, token=token)


def push(api: HfApi, repo_id: str, **files: bytes) -> None:
    api.create_commit(
        repo_id,
        [CommitOperationAdd(name.replace("_", "."), data) for name, data in files.items()],
        commit_message="files",
    )


@pytest.fixture(scope="module")
def repos(team: RunningFust) -> RunningFust:
    """Two private repos of the organisation, each with a small and a large file."""
    api = hub(team, WILL)
    for name in ("news", "other"):
        api.create_repo(f"lab/{name}", private=True)
        push(api, f"lab/{name}", config_json=b'{"a": 1}', model_bin=os.urandom(200_000))
    return team


def test_whoami_and_overviews(team: RunningFust) -> None:
    me = hub(team, WILL).whoami()
    assert [(o["name"], o["fullname"], o["roleInOrg"]) for o in me["orgs"]] == [("lab", "The Lab", "write")]
    assert me["auth"]["accessToken"]["displayName"] == "t" and me["auth"]["accessToken"]["role"] == "write"
    fine = hub(team, NEWS).whoami()
    assert [o["name"] for o in fine["orgs"]] == ["lab"]
    access = fine["auth"]["accessToken"]
    assert access["role"] == "fineGrained" and access["displayName"] == "news only"
    assert access["fineGrained"]["scoped"][0]["entity"]["name"] == "lab/news"
    assert hub(team, ONE_MODEL).whoami()["orgs"] == []
    api = hub(team, OLGA)
    assert api.get_organization_overview("lab").num_users == 3
    assert [u.username for u in api.list_organization_members("lab")] == ["olga", "rita", "will"]
    assert [o.name for o in api.get_user_overview("will").orgs] == ["lab"]
    assert api.get_user_overview("olga").fullname == "Olga O."


def test_roles_by_the_hub_s_own_client(repos: RunningFust) -> None:
    olga, will, rita = hub(repos, OLGA), hub(repos, WILL), hub(repos, RITA)
    assert {m.id for m in rita.list_models(author="lab")} == {"lab/news", "lab/other"}
    assert (
        Path(rita.hf_hub_download("lab/news", "config.json", force_download=True)).read_bytes() == b'{"a": 1}'
    )
    for refused in (
        lambda: rita.create_repo("lab/mine"),
        lambda: push(rita, "lab/news", x_txt=b"x"),
        lambda: will.delete_repo("lab/news"),
        lambda: will.update_repo_settings("lab/news", private=False),
        lambda: rita.create_branch("lab/news", branch="b"),
    ):
        with pytest.raises(HfHubHTTPError) as caught:
            refused()
        assert caught.value.response.status_code == 403
    will.create_repo("lab/short")
    olga.update_repo_settings("lab/short", private=True)
    olga.delete_repo("lab/short")
    with pytest.raises(RepositoryNotFoundError):
        hub(repos, repos.token).repo_info("lab/short")


def surfaces(repos: RunningFust, repo_id: str, token: str) -> dict[str, int]:
    """Returns each surface's answer for a repo by a key."""
    base = {
        "info": ("GET", f"/api/models/{repo_id}", None),
        "tree": ("GET", f"/api/models/{repo_id}/tree/main", None),
        "resolve": ("GET", f"/{repo_id}/resolve/main/config.json", None),
        "git": ("GET", f"/{repo_id}.git/info/refs?service=git-upload-pack", None),
        "lfs": ("POST", f"/{repo_id}.git/info/lfs/objects/batch", {"operation": "download", "objects": []}),
        "xet read": ("GET", f"/api/models/{repo_id}/xet-read-token/main", None),
        "xet write": ("GET", f"/api/models/{repo_id}/xet-write-token/main", None),
        "page": ("GET", f"/fust/v1/repos/model/{repo_id}", None),
        "write check": ("GET", f"/api/models/{repo_id}/auth-check/write", None),
    }
    return {name: repos.request(m, path, body, token=token)[0] for name, (m, path, body) in base.items()}


def test_a_key_for_one_repo_sees_no_other(repos: RunningFust) -> None:
    assert set(surfaces(repos, "lab/news", NEWS).values()) == {200}
    assert set(surfaces(repos, "lab/other", NEWS).values()) == {404}
    listed = json.loads(repos.request("GET", "/fust/v1/repos", token=NEWS)[2])
    assert {r["repo_id"] for r in listed["items"]} == {"lab/news"} and listed["total"] == 1
    assert {m.id for m in hub(repos, NEWS).list_models()} == {"lab/news"}
    push(hub(repos, NEWS), "lab/news", note_txt=b"by a narrow key", more_bin=os.urandom(100_000))
    for refused in (
        lambda: hub(repos, NEWS).create_repo("lab/new"),
        lambda: hub(repos, NEWS).create_repo("will/new"),
    ):
        with pytest.raises(HfHubHTTPError):
            refused()
    # As without a key: what is public is read, and no more.
    hub(repos, WILL).create_repo("lab/open", exist_ok=True)
    got = surfaces(repos, "lab/open", NEWS)
    assert got["info"] == got["tree"] == got["xet read"] == 200
    assert got["xet write"] == got["write check"] == 403
    assert json.loads(repos.request("GET", "/v1/models", token=NEWS)[2])["data"] == []


def test_a_narrow_key_does_not_reach_other_bytes_by_their_hash(repos: RunningFust) -> None:
    """Knowing the SHA-256 of a file in another repo of the same owner opens nothing: not by LFS, not by a commit."""
    secret = hub(repos, WILL).get_paths_info("lab/other", ["model.bin"])[0]
    sha256, size = secret.lfs.sha256, secret.size
    batch = {"operation": "download", "objects": [{"oid": sha256, "size": size}]}
    for repo_id, token in (("lab/news", NEWS), ("lab/news", RITA), ("lab/open", None)):
        hub(repos, WILL).create_repo("lab/open", exist_ok=True)
        body = json.loads(
            repos.request("POST", f"/{repo_id}.git/info/lfs/objects/batch", batch, token=token)[2]
        )
        assert "actions" not in body["objects"][0], (repo_id, token)
    lines = [
        {"key": "header", "value": {"summary": "take"}},
        {"key": "lfsFile", "value": {"path": "taken.bin", "algo": "sha256", "oid": sha256, "size": size}},
    ]
    ndjson = "\n".join(map(json.dumps, lines)).encode()
    assert repos.request("POST", "/api/models/lab/news/commit/main", ndjson, token=NEWS)[0] == 400
    # Whoever may read it anyway may also point to it.
    assert repos.request("POST", "/api/models/lab/news/commit/main", ndjson, token=WILL)[0] == 200


def test_narrow_keys_leave_the_account_alone(team: RunningFust) -> None:
    for token in (NEWS, ONE_MODEL):
        for method, path, body in (
            ("GET", "/fust/v1/tokens", None),
            ("POST", "/fust/v1/tokens", {"name": "wide", "scope": "read"}),
            ("DELETE", "/fust/v1/tokens/t_x", None),
            ("POST", "/fust/v1/open", {}),
            ("GET", "/fust/v1/organisations", None),
            ("POST", "/fust/v1/organisations", {"name": "mine"}),
            ("PUT", "/fust/v1/organisations/lab/members/will", {"role": "owner"}),
            ("PATCH", "/fust/v1/users/will", {"full_name": "W"}),
            ("PUT", "/fust/v1/users/will/password", {"password": "a sentence is good"}),
        ):
            status, _, answer = team.request(method, path, body, token=token)
            assert status == 403, (path, answer)
        assert team.request("POST", "/fust/v1/session", {"token": token}, token=None)[0] == 403


def test_organisations_by_the_command_line(team: RunningFust, tmp_path: Path) -> None:
    team.cli("users", "new", "nina", "--no-password", "--full-name", "Nina N.")
    team.cli("orgs", "new", "school", "--display-name", "A School")
    team.cli("orgs", "add", "school", "nina", "--role", "write")
    shown = json.loads(team.cli("orgs", "show", "school", "--json").stdout)
    assert {m["name"]: m["role"] for m in shown["members"]} == {"admin": "owner", "nina": "write"}
    assert shown["organisation"]["may"] == ["settings", "members", "owners", "delete"]
    last = team.cli("orgs", "remove", "school", "admin", check=False)
    assert last.returncode == 1 and "without an owner" in last.stderr
    team.cli("orgs", "rename", "school", "The School")
    assert "The School" in team.cli("orgs").stdout
    key = team.cli(
        "tokens", "new", "ci", "--user", "nina", "--scope", "write", "--repo", "school/*", "--expires", "90d"
    )
    api = hub(team, key.stdout.strip())
    api.create_repo("school/x")
    listed = team.cli("tokens", "list", "--user", "nina").stdout
    assert "school/*" in listed and "just now" in listed
    full = team.cli("orgs", "delete", "school", check=False)
    assert full.returncode == 1 and "keeps 1 repos" in full.stderr
    team.cli("users", "suspend", "nina")
    with pytest.raises(HfHubHTTPError):
        api.whoami()
    team.cli("users", "resume", "nina")
    assert api.whoami()["name"] == "nina"
    team.cli("rm", "school/x", "--yes")
    team.cli("orgs", "delete", "school")
    team.cli("users", "remove", "nina")
    assert "nina" not in team.cli("users").stdout


def test_a_key_makes_none_that_outlives_or_outdoes_it(team: RunningFust) -> None:
    olga = Client(team.url, OLGA)
    ending = olga.create_token("ending", "write", expires_at="2999-01-01T00:00:00Z")
    assert ending.expires_at and not ending.expired
    with pytest.raises(ClientError):
        Client(team.url, ending.token).create_token("longer", "read")
    with pytest.raises(ClientError):
        Client(team.url, olga.create_token("r", "read").token).create_token("w", "write")
    with pytest.raises(ClientError):
        olga.create_token("for will", "read", user="will")


def gone_after_s(call: Callable[[], int], refused: tuple[int, ...]) -> float:
    """Returns how long something went on working."""
    start = time.monotonic()
    while time.monotonic() - start < 5:
        if call() in refused:
            return time.monotonic() - start
        time.sleep(0.02)
    raise AssertionError("still works after 5 s")


@pytest.fixture(scope="module")
def second(repos: RunningFust, tmp_path_factory: pytest.TempPathFactory):
    """A second server process on the same database and files: what it remembers, nobody tells it to forget."""
    home = tmp_path_factory.mktemp("second") / "home"
    home.mkdir(mode=0o700)
    for name in ("token", "signing-key"):
        (home / name).write_bytes((repos.home / name).read_bytes())
    (home / "git").symlink_to(repos.home / "git")
    running = start_fust(
        home,
        store__database_url=f"sqlite:///{repos.home / 'fust.db'}",
        store__blobs_url=(repos.home / "blobs").as_uri(),
    )
    yield running
    running.stop()


def xorb_url(server: RunningFust, token: str) -> str:
    """Returns a signed URL of bytes of lab/other's large file, as a client gets it."""
    said = json.loads(server.request("GET", "/api/models/lab/other/xet-read-token/main", token=token)[2])
    info = json.loads(
        server.request(
            "POST", "/api/models/lab/other/paths-info/main", {"paths": ["model.bin"]}, token=token
        )[2]
    )
    path = said["casUrl"].removeprefix(server.url) + f"/v1/reconstructions/{info[0]['xetHash']}"
    drawn = json.loads(server.request("GET", path, token=said["accessToken"])[2])
    return next(iter(drawn["fetch_info"].values()))[0]["url"].removeprefix(server.url)


def kept_line(server: RunningFust) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=30)


def test_a_revoked_key_is_refused_by_every_process_within_two_seconds(
    repos: RunningFust, second: RunningFust
) -> None:
    """Revoked through one process, used at the other, on every surface, busy all the while."""
    made = Client(repos.url, WILL).create_token("short", "write")
    sha = hub(repos, WILL).get_paths_info("lab/other", ["model.bin"])[0].lfs
    said = json.loads(second.request("GET", "/api/models/lab/other/xet-read-token/main", token=made.token)[2])
    info = json.loads(
        second.request(
            "POST", "/api/models/lab/other/paths-info/main", {"paths": ["model.bin"]}, token=made.token
        )[2]
    )
    cas = said["casUrl"].removeprefix(second.url) + f"/v1/reconstructions/{info[0]['xetHash']}"
    batch = {"operation": "download", "objects": [{"oid": sha.sha256, "size": sha.size}]}
    lfs = json.loads(
        second.request("POST", "/lab/other.git/info/lfs/objects/batch", batch, token=made.token)[2]
    )["objects"][0]["actions"]["download"]["href"].removeprefix(second.url)
    xorb = xorb_url(second, made.token)
    lines = {server.url: kept_line(server) for server in (repos, second)}

    def ranged(server: RunningFust) -> int:
        """By a connection that is kept: only there the short way is taken."""
        headers = {"authorization": f"Bearer {made.token}", "range": "bytes=0-9"}
        lines[server.url].request("GET", "/lab/other/resolve/main/model.bin", headers=headers)
        answer = lines[server.url].getresponse()
        answer.read()
        return answer.status

    def ask(server: RunningFust, path: str, token: str | None) -> int:
        return server.request("GET", path, token=token)[0]

    calls: dict[str, Callable[[], int]] = {
        "session": lambda: ask(second, "/fust/v1/tokens", made.token),
        "models": lambda: ask(second, "/v1/models", made.token),
        "info": lambda: ask(second, "/api/models/lab/other", made.token),
        "range": lambda: ranged(second),
        "git": lambda: ask(second, "/lab/other.git/info/refs?service=git-upload-pack", made.token),
        "xet": lambda: ask(second, cas, said["accessToken"]),
        "xorb": lambda: ask(second, xorb, None),
        "lfs url": lambda: ask(second, lfs, None),
        "own process": lambda: ranged(repos),
    }
    for server in (
        repos,
        second,
    ):  # a whole download keeps the file, and ranges of it take the short way from then on
        assert len(server.request("GET", "/lab/other/resolve/main/model.bin", token=made.token)[2]) == 200_000
    for name, call in calls.items():
        for _ in range(3):
            assert call() in (200, 206), name
    Client(repos.url, WILL).revoke_token(made.id)
    start = time.monotonic()
    took: dict[str, float] = {}
    while len(took) < len(calls) and time.monotonic() - start < 5:
        for name, call in calls.items():
            if name not in took:
                status = call()
                if status in (401, 403, 404):
                    took[name] = time.monotonic() - start
                else:
                    assert status in (200, 206), (name, status)
    assert set(took) == set(calls) and max(took.values()) < 2, took
    assert took["own process"] < 1
    for line in lines.values():
        line.close()


def test_a_lost_role_is_lost_on_every_process_within_two_seconds(
    repos: RunningFust, second: RunningFust
) -> None:
    olga = Client(repos.url, OLGA)
    xorb = xorb_url(second, RITA)
    assert second.request("GET", xorb, token=None)[0] == 206
    olga.remove_member("lab", "rita")
    start = time.monotonic()
    for path, token in (
        ("/api/models/lab/other", RITA),
        ("/lab/other/resolve/main/config.json", RITA),
        (xorb, None),
    ):
        gone_after_s(lambda p=path, t=token: second.request("GET", p, token=t)[0], (403, 404))
    assert time.monotonic() - start < 2
    assert repos.request("GET", "/api/models/lab/other", token=RITA)[0] == 404
    olga.set_member("lab", "rita", "read")
    assert repos.request("GET", "/api/models/lab/other", token=RITA)[0] == 200


def test_a_push_that_takes_long_is_refused_when_the_key_ends_meanwhile(repos: RunningFust) -> None:
    made = Client(repos.url, WILL).create_token("slow", "write")
    line = json.dumps({"key": "file", "value": {"path": "late.txt", "content": "aGk=", "encoding": "base64"}})
    body = (json.dumps({"key": "header", "value": {"summary": "late"}}) + "\n" + line).encode()
    connection = kept_line(repos)
    connection.putrequest("POST", "/api/models/lab/news/commit/main")
    connection.putheader("authorization", f"Bearer {made.token}")
    connection.putheader("content-length", str(len(body)))
    connection.endheaders(body[:20])
    time.sleep(0.3)
    Client(repos.url, WILL).revoke_token(made.id)
    connection.send(body[20:])
    assert connection.getresponse().status == 401
    connection.close()
    assert repos.request("GET", "/lab/news/resolve/main/late.txt", token=WILL)[0] == 404


def test_a_seed_at_the_first_start(tmp_path: Path) -> None:
    """A team's set-up is code: a new home has it from the first moment on, and a restart with it changes nothing."""
    seed = tmp_path / "team.toml"
    seed.write_text(TEAM)
    running = start_fust(tmp_path / "home", arguments=["--seed", str(seed)])
    try:
        assert hub(running, OLGA).whoami()["orgs"][0]["name"] == "lab"
    finally:
        running.stop()
    running = start_fust(tmp_path / "home", arguments=["--seed", str(seed)])
    try:
        assert hub(running, OLGA).whoami()["orgs"][0]["name"] == "lab"
        applied = json.loads(running.request("GET", "/fust/v1/audit?action=seed.apply")[2])["items"]
        assert len(applied) == 1
    finally:
        running.stop()
    seed.write_text(TEAM.replace('will = "write"', 'will = "boss"'))
    done = subprocess.run(
        [*running.process.args[:3], "up", "--seed", str(seed)],  # type: ignore[index]
        env=running.environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1 and "boss" in done.stderr
