"""Pull, the whole of it: ranges, mirrors, ModelScope's form, organisations, bandwidth, patience, redirects, tokens."""

import contextlib
import email.utils
import gzip
import json
import shutil
import time

import pytest
from bad_hub import SHA, Bad, BadHub
from jobs_home import ADMIN, BOB
from model_scope import COMMIT, ModelScopeServer
from pull_world import BIG, SMALL, rng

from fust.core.errors import (
    Denied,
    InvalidInput,
    NotFound,
    RateLimited,
    StorageFull,
    UpstreamFailed,
)
from fust.hub.pulling import fetch, parts, web
from fust.hub.pulling import repo as pull_repo
from fust.hub.pulling.pace import Pace, parse_limit
from fust.hub.pulling.parts import Extent, Part, parts_folder

pytestmark = pytest.mark.faults


@pytest.fixture
def scope():
    server = ModelScopeServer(
        {
            "org/model": {"README.md": SMALL, "big.gguf": BIG, "deep/a.txt": b"a"},
            "org/two": {"x.json": b"{}"},
        },
        {"org/rows": {f"data/{n:03}.json": b"%d" % n for n in range(150)}},
    )
    yield server
    server.close()


# Ranges


def test_a_large_file_comes_in_ranges_on_several_connections(world, hub_of, monkeypatch):
    monkeypatch.setattr(fetch, "SEGMENT_BYTES", 400_000)
    hub = hub_of(big__gguf=Bad(pause_s=0.01))
    world.pull(hub.url)
    assert world.read("big.gguf") == BIG and hub.sent_bytes == len(BIG) + len(SMALL)
    ranges = {asked for _, path, asked, _ in hub.requests if path.endswith("big.gguf")}
    assert len(ranges) == 8 and "bytes=400000-799999" in ranges


def test_a_hub_without_ranges_is_found_out_before_many_ask(world, hub_of, monkeypatch):
    monkeypatch.setattr(fetch, "SEGMENT_BYTES", 400_000)
    hub = hub_of(big__gguf=Bad(no_ranges=True))
    world.pull(hub.url)
    assert world.read("big.gguf") == BIG
    assert len([1 for _, path, _, _ in hub.requests if path.endswith("big.gguf")]) == 2


def test_cuts_in_many_ranges_cost_no_byte(world, hub_of, monkeypatch):
    monkeypatch.setattr(fetch, "SEGMENT_BYTES", 500_000)
    hub = hub_of(big__gguf=Bad(cut_after=150_000))
    world.pull(hub.url)
    assert world.read("big.gguf") == BIG and hub.sent_bytes == len(BIG) + len(SMALL)


def test_bytes_that_changed_on_the_disk_are_fetched_again_and_no_others(world, hub_of, monkeypatch):
    monkeypatch.setattr(parts, "EXTENT_BYTES", 100_000)
    hub = hub_of(big__gguf=Bad(cut_after=2_000_000, cuts=1))
    with monkeypatch.context() as patch:
        patch.setattr(web, "MAX_ATTEMPTS", 0)
        with pytest.raises(UpstreamFailed):
            world.pull(hub.url)
    part = next(parts_folder(world.home).glob("*.part"))
    with part.open("r+b") as file:
        file.seek(1_234_567)
        file.write(b"rot")
    before = hub.sent_bytes
    world.pull(hub.url)
    assert world.read("big.gguf") == BIG
    again = hub.sent_bytes - before - (len(BIG) - 2_000_000) - len(SMALL)
    assert -len(SMALL) <= again < 400_000  # the extent with the change, and no more
    assert not list(parts_folder(world.home).glob("*"))


def test_a_part_survives_half_a_record(tmp_path):
    part = Part(tmp_path / "x.part", 1000)
    extent = Extent(part, 100)
    extent.write(b"a" * 300)
    extent.flush()
    extent.write(b"b" * 50)  # never recorded, as when killed
    part.close()
    extent.write(b"late")  # a thread that comes too late
    with (tmp_path / "x.extents").open("ab") as file:
        file.write(b"torn")
    again = Part(tmp_path / "x.part", 1000)
    assert again.missing() == [(0, 100), (400, 1000)] and again.have_bytes == 300
    again.close()


def test_what_the_hub_has_in_another_readable_repo_is_not_fetched(world, hub_of):
    hub = hub_of()
    world.pull(hub.url, to="ada/first")
    hub.sent_bytes = 0
    settings = world.with_settings(pull__allow_private_addresses=True)
    world.pull(hub.url, identity=BOB, settings=settings, to="bob/second")
    assert hub.sent_bytes == len(SMALL) and world.read("big.gguf", "bob/second") == BIG


def test_what_only_others_may_read_is_fetched(world, hub_of):
    """Knowing a hash is no proof of having the bytes: else a hub could be made up to learn and take them."""
    hub = hub_of()
    hub.info = {"private": True}
    world.pull(hub.url, to="ada/secret")
    hub.info, hub.sent_bytes = {}, 0
    settings = world.with_settings(pull__allow_private_addresses=True)
    world.pull(hub.url, identity=BOB, settings=settings, to="bob/mine")
    assert hub.sent_bytes == len(BIG) + len(SMALL)


def test_only_what_changed_is_fetched_of_a_moved_branch(world, hub_of):
    hub = hub_of({"README.md": SMALL, "a.json": b"{}", "big.gguf": BIG})
    world.pull(hub.url)
    hub.files["a.json"] = b'{"n": 1}'
    hub.sent_bytes = 0
    assert world.pull(hub.url).fetched_bytes == 8 == hub.sent_bytes
    assert world.read("a.json") == b'{"n": 1}' and world.read("README.md") == SMALL


def test_a_named_revision_has_a_branch_of_its_own(world, hub_of):
    hub = hub_of()
    world.pull(hub.url)
    hub.files = {"README.md": b"# v2\n", "big.gguf": BIG}
    assert world.pull(hub.url, revision="v2").branch == "v2"
    assert (world.read("README.md"), world.read("README.md", revision="v2")) == (SMALL, b"# v2\n")
    fresh = world.pull(hub.url, revision="v2", to="ada/fresh")
    assert fresh.branch == "main" and world.read("README.md", "ada/fresh", "v2") == b"# v2\n"
    hub.files["README.md"] = b"# v2.1\n"
    assert world.pull(hub.url, revision="v2", to="ada/fresh").branch == "v2"


def test_patterns_are_those_of_huggingface_hub(world, hub_of):
    files = {"a.json": b"1", "data/b.json": b"2", "data/c.txt": b"3", "README.md": SMALL}
    hub = hub_of(files, lfs=())

    def names(to):
        tree = world.hub.list_tree(world.hub.get_repo(ADMIN, to), recursive=True)
        return sorted(e.path for e in tree if not e.is_folder and e.path != ".gitattributes")

    world.pull(hub.url, include=["*.json"], exclude=["a*"], to="ada/one")
    assert names("ada/one") == ["data/b.json"]
    world.pull(hub.url, include=["data/"], to="ada/two")
    assert names("ada/two") == ["data/b.json", "data/c.txt"]
    world.pull(hub.url, exclude=["data/*"], to="ada/three")
    assert names("ada/three") == ["README.md", "a.json"]
    with pytest.raises(NotFound, match="--exclude matches all of it"):
        world.pull(hub.url, exclude=["*"])


# Bandwidth


def test_a_limit_is_shared_by_all_connections(world, hub_of, monkeypatch):
    monkeypatch.setattr(fetch, "SEGMENT_BYTES", 500_000)
    hub = hub_of()
    started = time.monotonic()
    world.pull(hub.url, limit="2MB/s")
    took = time.monotonic() - started
    assert 1.3 < took < 6, took


def test_the_homes_limit_is_shared_by_its_processes(tmp_path):
    import threading

    stop = threading.Event()
    one, two = Pace(1_000_000, tmp_path / "clock"), Pace(1_000_000, tmp_path / "clock")
    started = time.monotonic()
    for _ in range(4):
        one.take(100_000, stop)
        two.take(100_000, stop)
    assert 0.6 < time.monotonic() - started < 2
    one.close()
    two.close()


@pytest.mark.parametrize(
    ("text", "rate"), [("10MB/s", 10**7), ("512 kB", 512_000), ("", 0), ("1.5MiB/s", 3 * 2**19)]
)
def test_limits_are_read_as_people_write_them(text, rate):
    assert parse_limit(text) == rate


@pytest.mark.parametrize("text", ["fast", "1kB/s", "-5MB/s", "10MB/h"])
def test_other_limits_are_refused_before_the_run(world, text):
    with pytest.raises(InvalidInput):
        world.pull("http://127.0.0.1:9", limit=text)


# Patience


def test_retry_after_may_be_a_date(world, hub_of):
    hub = hub_of()
    hub.info_statuses = [(503, {"retry-after": email.utils.formatdate(time.time() + 2, usegmt=True)})]
    started = time.monotonic()
    world.pull(hub.url)
    assert time.monotonic() - started > 0.5
    assert any("asks us to wait" in line for line in world.said())


def test_a_wait_that_one_file_is_asked_for_holds_all_connections(world, hub_of):
    files = {f"{n}.bin": rng.randbytes(200_000) for n in range(6)}
    hub = hub_of(files, lfs=files)
    hub.bad["0.bin"] = Bad(statuses=[(429, {"retry-after": "1"})])
    for n in range(1, 6):
        hub.bad[f"{n}.bin"] = Bad(pause_s=0.05)
    world.pull(hub.url)
    assert f"{hub.url} asks us to wait 1 s." in world.progressed()
    assert world.said().count(f"{hub.url} asks us to wait 1 s.") == 1


def test_a_storm_of_429_ends_when_patience_does(world, hub_of):
    hub = hub_of()
    hub.info_statuses = [(429, {"retry-after": "0"})] * 500
    with pytest.raises(RateLimited):
        world.pull(hub.url, settings=world.with_settings(pull__patience_s=1))
    hub.info_statuses = [(429, {})] * 500
    with pytest.raises(RateLimited):
        world.pull(hub.url)
    assert len(hub.info_statuses) == 495


# Answers


def revision_path(revision="main"):
    return f"/api/models/org/model/revision/{revision}"


def endless(wfile):
    with contextlib.suppress(OSError):
        while True:
            wfile.write(b" " * 65536)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"[]",
        b'{"sha": 5}',
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"sha": "main"}',
        b'{"id": "x"}',
    ],
)
def test_answers_that_are_no_list_are_said(world, hub_of, body):
    hub = hub_of()
    hub.info_bodies[revision_path()] = body
    with pytest.raises(UpstreamFailed):
        world.pull(hub.url)
    assert world.is_empty()


def test_a_list_without_hashes_is_refused(world, hub_of):
    hub = hub_of()
    for entry in (
        {"type": "file", "path": "a", "size": 5, "oid": ""},
        {"type": "file", "path": "a", "size": -5, "oid": "a" * 40},
        {"type": "file", "path": "a", "size": 5, "oid": "a" * 40, "lfs": {"oid": "../../x", "size": 5}},
    ):
        hub.info_bodies[f"/api/models/org/model/tree/{SHA}"] = json.dumps([entry]).encode()
        with pytest.raises(UpstreamFailed, match="gives no size and hash for 'a'"):
            world.pull(hub.url)


def test_a_list_without_end_is_left(world, hub_of, monkeypatch):
    monkeypatch.setattr(web, "MAX_JSON_BYTES", 10**6)
    hub = hub_of()
    hub.info_bodies[revision_path()] = endless
    with pytest.raises(UpstreamFailed, match="does not end"):
        world.pull(hub.url)


def test_a_list_of_pages_without_end_is_left(world, hub_of, monkeypatch):
    from fust.hub.pulling import huggingface

    monkeypatch.setattr(huggingface, "MAX_FILES", 100)
    hub = hub_of()
    tree = f"/api/models/org/model/tree/{SHA}"
    hub.info_headers[tree] = {"link": f'<{hub.url}{tree}?cursor=1>; rel="next"'}
    with pytest.raises(UpstreamFailed, match="lists more than 100 entries"):
        world.pull(hub.url)
    hub.info_headers[tree] = {"link": '<http://127.0.0.2:1/x>; rel="next"'}
    with pytest.raises(UpstreamFailed, match=r"goes on at another place, 127\.0\.0\.2"):
        world.pull(hub.url)


def test_a_gzip_bomb_costs_its_announced_size_at_most(world, hub_of, monkeypatch):
    bomb = gzip.compress(b"\0" * 200_000_000, 9)
    hub = hub_of(big__gguf=Bad(send_instead=bomb, encoding="gzip", no_ranges=True))
    with pytest.raises(UpstreamFailed, match="sends more bytes"):
        world.pull(hub.url)
    assert not list(parts_folder(world.home).glob("*"))
    monkeypatch.setattr(web, "MAX_JSON_BYTES", 10**6)
    hub.info_bodies[revision_path()] = bomb
    hub.info_headers[revision_path()] = {"content-encoding": "gzip"}
    with pytest.raises(UpstreamFailed, match="does not end"):
        world.pull(hub.url)


def test_an_honest_gzip_is_read(world, hub_of):
    text = b"hello " * 1000
    hub = hub_of({"a.txt": text}, lfs=())
    hub.bad["a.txt"] = Bad(send_instead=gzip.compress(text), encoding="gzip")
    world.pull(hub.url)
    assert world.read("a.txt") == text


# Redirects


def test_a_redirect_to_elsewhere_gets_no_token(world, hub_of):
    other = BadHub({"big.gguf": BIG})
    hub = hub_of(big__gguf=Bad(redirect=f"{other.url}/org/model/resolve/main/big.gguf"))
    settings = world.with_settings(pull__source=hub.url, pull__token="hf_own")
    world.pull(hub.url, settings=settings)
    assert world.read("big.gguf") == BIG
    assert all("authorization" not in {k.lower() for k in headers} for _, _, _, headers in other.requests)
    assert all(headers["authorization"] == "Bearer hf_own" for _, _, _, headers in hub.requests)
    other.close()


def test_redirects_in_circles_and_to_no_address(world, hub_of):
    hub = hub_of()
    hub.bad["big.gguf"] = Bad(redirect=f"{hub.url}/org/model/resolve/main/big.gguf")
    with pytest.raises(UpstreamFailed, match="redirects in circles"):
        world.pull(hub.url)
    for target in ("file:///etc/passwd", "gopher://x/", "http://u:p@127.0.0.1/", "http://[::1/"):
        hub.bad["big.gguf"] = Bad(redirect=target)
        with pytest.raises(UpstreamFailed, match="which is no address"):
            world.pull(hub.url)


def test_https_never_becomes_http():
    site = web.Web(web.Source("https://hub.example"))
    with pytest.raises(Denied, match="redirects from https to http") as caught:
        site._next("https://hub.example/a", "http://hub.example/a")
    assert caught.value.code == "redirect_downgrade"
    assert site._next("http://hub.example/a", "/b") == "http://hub.example/b"
    site.close()


def test_a_private_hub_leads_to_no_other_private_address(world, hub_of):
    inner = BadHub({"big.gguf": BIG}, address="127.0.0.2")
    hub = hub_of(big__gguf=Bad(redirect=f"{inner.url}/org/model/resolve/main/big.gguf"))
    with pytest.raises(Denied, match=r"led to the private address 127\.0\.0\.2"):
        world.pull(hub.url)
    assert inner.requests == []
    world.pull(hub.url, settings=world.with_settings(pull__allow_private_addresses=True))
    assert world.read("big.gguf") == BIG
    inner.close()


# Mirrors


def test_a_mirror_takes_over_and_the_reason_is_said(world, hub_of):
    first, mirror = hub_of(), hub_of()
    first.info_statuses = [(500, {})] * 50
    settings = world.with_settings(pull__source=first.url, pull__mirrors=(mirror.url,))
    result = world.pull("", settings=settings)
    assert result.source == mirror.url and world.read("big.gguf") == BIG
    assert world.said() == [f"{first.url} answered 500 for /.", f"Going on with {mirror.url}."]


def test_a_mirror_gets_its_own_token_and_no_other(world, hub_of):
    first, mirror = hub_of(), hub_of()
    first.info_statuses = [(500, {})] * 20
    settings = world.with_settings(
        pull__source=first.url,
        pull__token="hf_first",
        pull__mirrors=(mirror.url,),
        pull__mirror_tokens=(f"{mirror.url} hf_mirror",),
    )
    world.pull("", settings=settings)
    sent = [{headers.get("authorization") for _, _, _, headers in hub.requests} for hub in (first, mirror)]
    assert sent == [{"Bearer hf_first"}, {"Bearer hf_mirror"}]
    for wrong in (f"{mirror.url}", f"{mirror.url} a b", "hf_mirror"):
        with pytest.raises(InvalidInput) as caught:
            world.pull("", settings=world.with_settings(pull__mirror_tokens=(wrong,)))
        assert "hf_mirror" not in str(caught.value)


def test_a_mirror_goes_on_where_the_source_broke_off(world, hub_of):
    first, mirror = hub_of(), hub_of()
    first.bad["big.gguf"] = Bad(cut_after=1_000_000, cuts=1, statuses=[])
    settings = world.with_settings(pull__source=first.url, pull__mirrors=(mirror.url,))
    original = first.answer_file

    def broken_after_the_cut(handler, path, with_body):
        if first.sent_bytes > 900_000:
            first.bad["big.gguf"] = Bad(statuses=[(502, {})] * 20)
        original(handler, path, with_body)

    first.answer_file = broken_after_the_cut
    world.pull("", settings=settings)
    assert world.read("big.gguf") == BIG
    assert first.sent_bytes + mirror.sent_bytes <= len(BIG) + 2 * len(SMALL)
    asked = [path for _, path, _, _ in mirror.requests if "/revision/" in path]
    assert asked == [revision_path(SHA)]  # the commit that the source had announced


def test_a_mirror_with_another_file_is_refused(world, hub_of):
    first, mirror = hub_of(big__gguf=Bad(statuses=[(502, {})] * 20)), hub_of()
    mirror.files["big.gguf"] = BIG[::-1]
    settings = world.with_settings(pull__source=first.url, pull__mirrors=(mirror.url,))
    with pytest.raises(UpstreamFailed, match="is another file than at") as caught:
        world.pull("", settings=settings)
    assert caught.value.code == "mirror_differs" and world.is_empty()


def test_what_is_not_there_is_asked_of_no_mirror(world, hub_of):
    """A name that is free at the mirror could be anybody's."""
    first, mirror = hub_of(), hub_of()
    first.info_statuses = [(404, {"x-error-code": "RepoNotFound"})]
    settings = world.with_settings(pull__source=first.url, pull__mirrors=(mirror.url,))
    with pytest.raises(NotFound):
        world.pull("", settings=settings)
    assert mirror.requests == []
    with pytest.raises(UpstreamFailed):  # a hub that was named has no mirrors
        world.pull("http://127.0.0.1:9", settings=settings)


def test_the_form_of_modelscope(world, scope, hub_of):
    result = world.pull(f"modelscope+{scope.url}")
    assert (result.files, result.upstream_revision) == (3, COMMIT)
    assert world.read("README.md") == SMALL and world.read("big.gguf") == BIG
    title = world.hub.list_commits(world.hub.get_repo(ADMIN, "org/model"))[0].title
    assert title == f"Pulled from modelscope+{scope.url}/org/model at {COMMIT}"
    scope.sent_bytes = 0
    assert world.pull(f"modelscope+{scope.url}").revision == result.revision
    assert scope.sent_bytes < 100
    with pytest.raises(NotFound, match="has no revision 'v9'"):
        world.pull(f"modelscope+{scope.url}", revision="v9")
    with pytest.raises(NotFound, match="no model org/none"):
        world.pull(f"modelscope+{scope.url}", repo_id="org/none")
    rows = world.pull(f"modelscope+{scope.url}", repo_id="org/rows", type="dataset")
    assert rows.files == 150 and world.read("data/149.json", "org/rows", repo_type="dataset") == b"149"
    downed = hub_of()
    downed.info_statuses = [(503, {})] * 50
    settings = world.with_settings(pull__source=downed.url, pull__mirrors=(f"modelscope+{scope.url}",))
    assert world.pull("", settings=settings, to="ada/copy").source == f"modelscope+{scope.url}"


# Organisations


class Org(BadHub):
    """A hub with several repos of one owner."""

    def __init__(self, repos):
        super().__init__({}, lfs=("big.gguf",))
        self.repos = repos
        self.broken = set()

    def answer(self, handler, *, with_body):
        words = handler.path.split("?")[0].strip("/").split("/")
        if words[:1] == ["api"] and len(words) == 2:
            names = [name for kind, name in self.repos if kind == words[1]]
            body = json.dumps([{"id": name, "private": False} for name in names]).encode()
            self.head(handler, 200, {"content-length": len(body)})
            handler.wfile.write(body)
            return
        kind, name = ("models", words[:2]) if words[0] != "api" else (words[1], words[2:4])
        if words[0] == "datasets":
            kind, name = "datasets", words[1:3]
        name = "/".join(name)
        self.files = self.repos[kind, name]
        if name in self.broken and "resolve" in words:
            self.head(handler, 500, {"content-length": 0})
            return
        super().answer(handler, with_body=with_body)


@pytest.fixture
def org():
    hub = Org(
        {
            ("models", "org/a"): {"README.md": b"a"},
            ("models", "org/b"): {"README.md": b"bb"},
            ("models", "org/c"): {"c.json": b"{}", "big.gguf": BIG},
            ("datasets", "org/rows"): {"rows.json": b"[]"},
            ("models", "other/x"): {"README.md": b"x"},
        }
    )
    yield hub
    hub.close()


def test_all_of_an_organisation(world, org):
    preview = world.pull_owner(org.url, "org", preview=True)
    assert [(r.repo_id, r.type, r.size_bytes) for r in preview.repos] == [
        ("org/rows", "dataset", 2),
        ("org/a", "model", 1),
        ("org/b", "model", 2),
        ("org/c", "model", len(BIG) + 2),
    ]
    assert world.is_empty() and preview.missing_bytes == preview.size_bytes == len(BIG) + 7
    org.broken.add("org/b")
    result = world.pull_owner(org.url, "org")
    assert {r.repo_id: r.state for r in result.repos} == {
        "org/rows": "pulled",
        "org/a": "pulled",
        "org/b": "failed",
        "org/c": "pulled",
    }
    assert result.failed == 1 and "answered 500" in next(r.error for r in result.repos if r.error)
    assert world.read("big.gguf", "org/c") == BIG
    assert world.read("rows.json", "org/rows", repo_type="dataset") == b"[]"
    assert world.hub.find_repo(ADMIN, "org/b") is None
    org.broken.clear()
    org.sent_bytes = 0
    assert world.pull_owner(org.url, "org").failed == 0 and org.sent_bytes == 2
    only = world.pull_owner(org.url, "org", types=["model"], exclude=["*.gguf"], preview=True)
    assert only.size_bytes == 5 and len(only.repos) == 3
    with pytest.raises(NotFound, match="shows no model and no data set of nobody"):
        world.pull_owner(org.url, "nobody")


def test_an_organisation_that_does_not_fit_is_not_begun(world, org, monkeypatch):
    usage = shutil.disk_usage(world.home)
    monkeypatch.setattr(pull_repo.shutil, "disk_usage", lambda _: usage._replace(free=201_000_000))
    with pytest.raises(StorageFull, match="org needs 203 MB"):
        world.pull_owner(org.url, "org")
    assert world.is_empty()


def test_the_models_of_an_owner_at_modelscope(world, scope):
    result = world.pull_owner(f"modelscope+{scope.url}", "org")
    assert [(r.repo_id, r.state) for r in result.repos] == [("org/model", "pulled"), ("org/two", "pulled")]


# Tokens


def test_a_token_for_one_pull_is_kept_with_nothing(world, hub_of):
    hub = hub_of()
    world.pull(hub.url, token="hf_only_for_this")
    assert all(headers["authorization"] == "Bearer hf_only_for_this" for _, _, _, headers in hub.requests)
    assert "token" not in world.params and world.params["token_ref"]
    for path in world.home.rglob("*"):
        assert not path.is_file() or b"hf_only_for_this" not in path.read_bytes(), path
    hub.requests.clear()
    world.pull(hub.url, token_ref=world.params["token_ref"])  # gone with its run
    assert not any("authorization" in {k.lower() for k in headers} for _, _, _, headers in hub.requests)
    with pytest.raises(InvalidInput, match="characters that no token has"):
        world.pull(hub.url, token="a\r\nx: y")


def test_a_token_is_for_its_owner_and_its_hub(world):
    from fust.hub.pulling.tokens import keep_token, read_token

    name = keep_token(world.home, "ada", "http://a", "secret")
    assert read_token(world.home, "ada", "http://a", name) == "secret"
    assert read_token(world.home, "bob", "http://a", name) == ""
    assert read_token(world.home, "ada", "http://b", name) == ""
    assert read_token(world.home, "ada", "http://a", "../../etc/passwd") == ""
    assert (world.home / "pull-tokens" / name).stat().st_mode & 0o077 == 0
