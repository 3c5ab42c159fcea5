"""Pull from a hub that misbehaves: every fault is one clear error, and nothing half is left behind."""

import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

SUPPORT = Path(__file__).parent.parent / "support"
sys.path.insert(0, str(SUPPORT))

from bad_hub import SHA, Bad, BadHub  # noqa: E402
from jobs_home import ADMIN, BOB  # noqa: E402
from pull_world import BIG, SMALL, rng  # noqa: E402

from fust.core.errors import (  # noqa: E402
    Denied,
    FustError,
    Gated,
    InvalidInput,
    NotFound,
    RateLimited,
    StorageFull,
    UpstreamFailed,
)
from fust.core.settings import load_settings  # noqa: E402
from fust.hub import guard  # noqa: E402
from fust.hub.pulling import line, web  # noqa: E402
from fust.hub.pulling import repo as pull_repo  # noqa: E402
from fust.hub.pulling.parts import claim_part, parts_folder, sweep_parts  # noqa: E402
from fust.hub.types import AddFile  # noqa: E402

pytestmark = pytest.mark.faults


def test_a_pull_brings_all_in_one_commit(world, hub_of):
    hub = hub_of()
    result = world.pull(hub.url)
    assert (result.repo_id, result.files, result.upstream_revision) == ("org/model", 2, SHA)
    assert world.read("README.md") == SMALL
    assert world.read("big.gguf") == BIG
    repo = world.hub.get_repo(ADMIN, "org/model")
    commits = world.hub.list_commits(repo)
    assert len(commits) == 2 and commits[0].oid == result.revision
    assert commits[0].title == f"Pulled from {hub.url}/org/model at {SHA}"
    assert not world.context.folder.work.exists()


def test_a_second_pull_fetches_nothing_large(world, hub_of):
    hub = hub_of()
    world.pull(hub.url)
    hub.files["README.md"] = b"# Changed\n"
    hub.sent_bytes = 0
    result = world.pull(hub.url)
    assert hub.sent_bytes < 100 and world.read("README.md") == b"# Changed\n"
    repo = world.hub.get_repo(ADMIN, "org/model")
    assert len(world.hub.list_commits(repo)) == 3
    assert world.pull(hub.url).revision == result.revision
    assert len(world.hub.list_commits(repo)) == 3


def test_what_was_deleted_there_is_deleted_here(world, hub_of):
    files = {
        "README.md": SMALL,
        "big.gguf": BIG,
        "old.txt": b"old",
        "mine.txt": b"theirs",
        "deep/old.bin": b"x" * 99,
    }
    hub = hub_of(files, lfs=("big.gguf", "deep/old.bin"))
    world.pull(hub.url)
    repo = world.hub.get_repo(ADMIN, "org/model", "model")
    changes = [AddFile("mine.txt", b"changed here"), AddFile("notes.md", b"added here")]
    world.hub.commit(ADMIN, repo, changes, "Ours")

    hub.history[hub.sha], hub.sha = dict(files), "b" * 40
    hub.files["README.md"] = b"# A newer model\n"
    for path in ("old.txt", "mine.txt", "deep/old.bin"):
        del hub.files[path]
    paths = lambda: {e.path for e in world.hub.list_tree(repo, recursive=True) if not e.is_folder}  # noqa: E731
    world.pull(hub.url, include=["*.md"])  # a part says nothing of the rest
    assert "old.txt" in paths()
    world.pull(hub.url)
    assert paths() == {".gitattributes", "README.md", "big.gguf", "mine.txt", "notes.md"}
    assert "deep/old.bin was deleted there and is deleted here." in world.said()
    assert world.read("mine.txt") == b"changed here"
    commits = world.hub.list_commits(repo)
    world.pull(hub.url)
    assert world.hub.list_commits(repo) == commits  # nothing new, nothing written


def test_cut_connections_are_taken_up_where_they_broke(world, hub_of):
    hub = hub_of(big__gguf=Bad(cut_after=400_000))
    world.pull(hub.url)
    assert world.read("big.gguf") == BIG
    assert hub.sent_bytes == len(BIG) + len(SMALL)


def test_a_hub_without_ranges_is_read_from_the_start_again(world, hub_of):
    hub = hub_of(big__gguf=Bad(cut_after=2_000_000, cuts=1, no_ranges=True))
    world.pull(hub.url)
    assert world.read("big.gguf") == BIG


def test_an_interrupted_pull_continues_without_fetching_a_verified_byte_again(world, hub_of, monkeypatch):
    hub = hub_of({"a.gguf": BIG, "b.gguf": BIG[::-1], "c.json": b"{}"}, lfs=("a.gguf", "b.gguf"))
    hub.bad["b.gguf"] = Bad(cut_after=1_000_000, cuts=1)
    one = load_settings(
        world.home, flags={"pull.connections": 1}, environ={}
    )  # then nothing is on its way besides
    with monkeypatch.context() as patch:
        patch.setattr(web, "MAX_ATTEMPTS", 0)  # the first break ends the run, as a kill would
        with pytest.raises(UpstreamFailed, match=r"broke off in the middle of b\.gguf"):
            world.pull(hub.url, all=True, settings=one)
    assert world.is_empty()
    assert hub.sent_bytes == len(BIG) + 1_000_000 + 2
    hub.sent_bytes = 0
    result = world.pull(hub.url, all=True)  # another run: parts belong to the home
    assert hub.sent_bytes == len(BIG) - 1_000_000 + 2 == result.fetched_bytes
    assert world.read("b.gguf") == BIG[::-1]


@pytest.mark.parametrize(
    "bad", [Bad(send_instead=BIG[:-1] + b"!"), Bad(send_instead=BIG[:-1] + b"!", no_length=True)]
)
def test_a_wrong_hash_keeps_nothing(world, hub_of, bad):
    with pytest.raises(UpstreamFailed, match=r"big\.gguf is not what it announced") as caught:
        world.pull(hub_of(big__gguf=bad).url)
    assert caught.value.code == "wrong_hash"
    assert world.is_empty() and not list(world.home.rglob("*.part"))
    assert "big.gguf arrived damaged; fetching it again." in world.said()


def test_a_wrong_small_file_is_refused_too(world, hub_of):
    with pytest.raises(UpstreamFailed, match=r"README\.md is not what it announced"):
        world.pull(hub_of(README__md=Bad(send_instead=b"# A motel\n")).url)
    assert world.is_empty()


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (Bad(announced_size=len(BIG) - 5), "sends more bytes"),
        (Bad(announced_size=len(BIG) - 5, no_length=True), "sends more bytes"),
        (Bad(announced_size=len(BIG) + 5), "sends fewer bytes"),
        (Bad(announced_size=len(BIG) + 5, no_length=True), "sends fewer bytes"),
        (Bad(endless=True), "sends more bytes"),
        (Bad(send_instead=b""), "sends fewer bytes"),
    ],
)
def test_lies_about_length_end_the_pull(world, hub_of, bad, words):
    hub = hub_of(big__gguf=bad)
    with pytest.raises(UpstreamFailed, match=words) as caught:
        world.pull(hub.url)
    assert caught.value.code == "wrong_length"
    assert world.is_empty() and not list(world.home.rglob("*.part"))


def test_a_stall_is_tried_again_and_then_given_up(world, hub_of, monkeypatch):
    monkeypatch.setattr(web, "READ_TIMEOUT_S", 0.3)
    monkeypatch.setattr(web, "MAX_ATTEMPTS", 3)
    hub = hub_of(big__gguf=Bad(stall_s=2))
    with pytest.raises(UpstreamFailed, match=r"broke off in the middle of big\.gguf"):
        world.pull(hub.url)


def test_next_to_nothing_counts_as_a_stall(world, hub_of, monkeypatch):
    monkeypatch.setattr(web, "SLOW_WINDOW_S", -1.0)
    monkeypatch.setattr(web, "SLOWEST_BYTES_PER_S", 10**15)
    monkeypatch.setattr(web, "MAX_ATTEMPTS", 1)
    monkeypatch.setattr(web, "SLOW_WINDOW_S", 1e-9)
    with pytest.raises(UpstreamFailed, match="next to nothing arrives"):
        world.pull(hub_of().url)


def test_a_busy_hub_is_waited_for(world, hub_of):
    hub = hub_of(big__gguf=Bad(statuses=[(429, {"retry-after": "1"}), (503, {}), (500, {})]))
    hub.info_statuses = [(429, {"retry-after": "0"}), (502, {})]
    world.pull(hub.url)
    assert world.read("big.gguf") == BIG
    assert f"{hub.url} asks us to wait 1 s." in world.said()


def test_a_hub_that_asks_for_an_hour_is_not_waited_for(world, hub_of):
    hub = hub_of()
    hub.info_statuses = [(429, {"retry-after": "3600"})]
    with pytest.raises(RateLimited, match=r"1 h 0 min of patience") as caught:
        world.pull(hub.url)
    assert caught.value.retry_after_s == 3600


def test_numbers_of_thousands_of_digits_are_only_large(world, hub_of):
    endless = "9" * 5000
    hub = hub_of()
    hub.info_statuses = [(429, {"retry-after": endless})]
    with pytest.raises(RateLimited, match="of patience"):
        world.pull(hub.url)
    for fields in ({"content-range": f"bytes */{endless}"}, {"content-range": "bytes */²"}):
        hub = hub_of(big__gguf=Bad(statuses=[(416, {**fields, "content-length": "0"})]))
        with pytest.raises(UpstreamFailed) as caught:
            world.pull(hub.url)
        assert caught.value.code == "wrong_length"


@pytest.mark.parametrize(
    ("status", "headers", "error", "words"),
    [
        (404, {"x-error-code": "RepoNotFound"}, NotFound, "There is no model org/model"),
        (404, {"x-error-code": "RevisionNotFound"}, NotFound, "has no revision 'main'"),
        (403, {"x-error-code": "GatedRepo"}, Gated, "is gated"),
        (401, {}, Denied, r"refuses us org/model \(401\)"),
        (403, {}, Denied, r"refuses us org/model \(403\)"),
        (418, {}, UpstreamFailed, "answered 418"),
    ],
)
def test_refusals_say_what_to_do(world, hub_of, status, headers, error, words):
    hub = hub_of()
    hub.info_statuses = [(status, headers)]
    with pytest.raises(error, match=words) as caught:
        world.pull(hub.url)
    assert caught.value.hint()


def test_nobody_there(world):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(UpstreamFailed, match="cannot be reached"):
        world.pull(f"http://127.0.0.1:{port}")
    with pytest.raises(UpstreamFailed, match="cannot be reached"):
        world.pull("http://no-such-host.invalid")


@pytest.mark.parametrize("path", ["../evil", "/etc/passwd", "a/../../b", "a\0b", ".git/config", "x" * 5000])
def test_evil_paths_are_refused(world, hub_of, path):
    with pytest.raises(FustError) as caught:
        world.pull(hub_of({path: b"x"}, lfs=()).url)
    assert caught.value.status == 400
    assert world.is_empty()


def test_an_empty_repo_says_so(world, hub_of):
    hub = hub_of()
    hub.files = {}
    with pytest.raises(NotFound, match="holds no files"):
        world.pull(hub.url)


def test_a_full_disk_is_told_before_anything_is_fetched(world, hub_of, monkeypatch):
    usage = shutil.disk_usage(world.home)
    monkeypatch.setattr(pull_repo.shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    hub = hub_of()
    with pytest.raises(StorageFull, match=r"org/model needs 203 MB, and the disk of .* has 1 MB free"):
        world.pull(hub.url)
    assert hub.sent_bytes == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_disk_that_fills_up_meanwhile_is_cleaned(world, hub_of, monkeypatch):
    """The check before was right, then somebody else took the room."""
    small = world.home / "cache" / "pull"
    small.mkdir(parents=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], capture_output=True)
    if done.returncode:
        pytest.skip(f"no tmpfs here: {done.stderr.decode().strip()}")
    try:
        hub = hub_of()
        with pytest.raises(StorageFull, match="is full; nothing was kept"):
            world.pull(hub.url)
        assert not list(world.home.rglob("*.part"))
        assert world.is_empty()
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert world.pull(hub.url).files == 2
    assert world.read("big.gguf") == BIG


def test_two_pulls_of_one_file_at_a_time_do_not_mix(world, tmp_path):
    with claim_part(world.home, tmp_path, "x", 9) as one, claim_part(world.home, tmp_path, "x", 9) as two:
        assert one.path == parts_folder(world.home) / "x.part" and two.path == tmp_path / "x.part"
    os.utime(one.path, (0, 0))
    with claim_part(world.home, tmp_path, "x", 9):
        os.utime(one.path, (0, 0))
        sweep_parts(world.home)
        assert one.path.exists()
    sweep_parts(world.home)
    assert not list(parts_folder(world.home).iterdir())


# Choosing


def ggufs(*sizes):
    return {f"m-{n}.gguf": rng.randbytes(n) for n in sizes} | {
        "README.md": SMALL,
        "model.safetensors": b"x" * 99,
    }


def test_of_several_ggufs_the_largest_that_fits_is_taken(world, hub_of, tmp_path):
    files = ggufs(1000, 50_000, 900_000)
    hub = hub_of(files, lfs=[name for name in files if name.endswith("gguf")])
    small = load_settings(world.home, flags={"serve.memory_bytes": 300 * 10**6 + 100_000}, environ={})
    result = world.pull(hub.url, settings=small)
    assert sorted(f.path for f in world.hub.list_tree(world.hub.get_repo(ADMIN, "org/model"))) == [
        ".gitattributes",
        "README.md",
        "m-50000.gguf",
    ]
    assert [(c["file"], c["fits"], c["taken"]) for c in result.choices] == [
        ("m-1000.gguf", True, False),
        ("m-50000.gguf", True, True),
        ("m-900000.gguf", False, False),
    ]
    assert world.said() == [
        "  m-1000.gguf (1 kB)",
        "* m-50000.gguf (50 kB), the largest that fits this machine",
        "  m-900000.gguf (900 kB), too large for this machine",
    ]
    tiny = load_settings(world.home, flags={"serve.memory_bytes": 1000}, environ={})
    with pytest.raises(StorageFull, match="None of the 3 GGUF files"):
        world.pull(hub.url, settings=tiny, to="ada/other")
    one = world.pull(hub.url, settings=tiny, to="ada/other", files=["m-900000.gguf"])
    assert one.files == 1
    assert world.pull(hub.url, to="ada/all", all=True).files == 5
    assert world.pull(hub.url, to="ada/some", include=["*.md", "*.safetensors"]).files == 2
    with pytest.raises(NotFound, match=r"has no file 'x\.gguf'"):
        world.pull(hub.url, files=["x.gguf"])
    with pytest.raises(NotFound, match=r"matches '\*\.zip'"):
        world.pull(hub.url, include=["*.zip"])


def test_the_parts_of_a_split_gguf_go_together(world, hub_of):
    files = {f"q8-0000{i}-of-00003.gguf": rng.randbytes(100) for i in (1, 2, 3)} | {"q4.gguf": b"x" * 50}
    hub = hub_of(files, lfs=files)
    assert world.pull(hub.url).files == 3
    assert world.pull(hub.url, to="ada/named", files=["q8-00002-of-00003.gguf"]).files == 3


def test_private_and_gated_stay_private(world, hub_of):
    hub = hub_of()
    hub.info = {"gated": "manual"}
    world.pull(hub.url)
    assert world.hub.get_repo(ADMIN, "org/model").private
    assert world.hub.find_repo(BOB, "org/model") is None


# Who may


def test_a_person_pulls_into_a_name_of_their_own(world, hub_of):
    hub = hub_of()
    settings = load_settings(world.home, flags={"pull.source": hub.url, "pull.token": "hf_own"}, environ={})
    result = world.pull(hub.url, identity=BOB, settings=settings)
    assert result.repo_id == "bob/model"
    assert all(headers["authorization"] == "Bearer hf_own" for _, _, _, headers in hub.requests)
    with pytest.raises(Denied, match="bob may not write to ada"):
        world.pull(hub.url, identity=BOB, to="ada/model")


def test_the_token_goes_to_its_own_hub_only(world, hub_of):
    hub = hub_of()
    settings = load_settings(world.home, flags={"pull.token": "hf_secret"}, environ={})
    world.pull(hub.url, settings=settings)
    assert not any("authorization" in {k.lower() for k in headers} for _, _, _, headers in hub.requests)


@pytest.mark.parametrize(
    "source",
    ["file:///etc", "ftp://x", "http://", "x", "http://u:p@host", "http://host?x=1", "http://host/#a"],
)
def test_what_is_no_hub_is_refused(world, source):
    with pytest.raises(InvalidInput):
        world.pull(source)


def test_unknown_params_are_refused(world):
    with pytest.raises(InvalidInput, match="unknown field `shell`"):
        world.pull("http://x", shell="rm")


def test_private_addresses_are_for_administrators(world, hub_of):
    hub = hub_of()
    with pytest.raises(Denied, match="lives on a private address"):
        world.pull(hub.url, identity=BOB)
    with pytest.raises(Denied, match="lives on a private address"):
        world.pull(hub.url.replace("127.0.0.1", "localhost"), identity=BOB)
    assert hub.requests == []
    allowed = load_settings(world.home, flags={"pull.allow_private_addresses": True}, environ={})
    assert world.pull(hub.url, identity=BOB, settings=allowed).repo_id == "bob/model"


def test_a_public_hub_cannot_lead_us_to_a_private_address(world, hub_of, monkeypatch):
    """Even for an administrator: 127.0.0.1 plays the public hub, 127.0.0.2 the inner service."""
    inner = BadHub({"big.gguf": BIG}, address="127.0.0.2")
    hub = hub_of(big__gguf=Bad(redirect=f"{inner.url}/org/model/resolve/main/big.gguf"))
    private = guard.is_private
    monkeypatch.setattr(line, "is_private", lambda a: a != "127.0.0.1" and private(a))
    monkeypatch.setattr(guard, "is_private", lambda a: a != "127.0.0.1" and private(a))
    with pytest.raises(Denied, match=r"led to the private address 127\.0\.0\.2"):
        world.pull(hub.url)
    assert inner.requests == []
    assert world.is_empty()
    inner.close()


def test_the_guard_stands_where_connections_are_made():
    with guard.public_addresses_only():
        with pytest.raises(Denied), socket.create_connection(("127.0.0.1", 9), timeout=1):
            pass
        with pytest.raises(urllib.error.URLError, match=r"private address 127\.0\.0\.1"):
            urllib.request.urlopen("http://localhost:9", timeout=1)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", 9), timeout=1)


@pytest.mark.parametrize(
    ("address", "private"),
    [
        ("8.8.8.8", False),
        ("2606:4700::1111", False),
        ("127.0.0.1", True),
        ("10.1.2.3", True),
        ("172.16.0.1", True),
        ("192.168.1.1", True),
        ("169.254.169.254", True),
        ("100.64.0.1", True),
        ("0.0.0.0", True),
        ("224.0.0.1", True),
        ("::1", True),
        ("fe80::1%eth0", True),
        ("fd00::1", True),
        ("::ffff:10.0.0.1", True),
        ("64:ff9b::7f00:1", True),
        ("2002:7f00:1::", True),
        ("nonsense", True),
    ],
)
def test_what_counts_as_private(address, private):
    assert guard.is_private(address) is private
