"""Paths, trees, commits, cards and ranges, on a real home without a server."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pygit2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fust.accounts.rights import SYSTEM
from fust.accounts.service import Accounts
from fust.core.errors import Conflict, InvalidInput, NotFound, TooLarge
from fust.core.settings import HubSettings, Settings
from fust.hub.attributes import initial_attributes, is_ignored, is_lfs, lfs_line
from fust.hub.cards import parse_card
from fust.hub.errors import BadHash, BadPath, EntryNotFound, HeadMoved, RepoExists, RevisionNotFound
from fust.hub.git_repo import GitRepo, parse_pointer, pointer_bytes
from fust.hub.http import RangeError, parse_range
from fust.hub.paths import check_path, check_ref_part
from fust.hub.service import Hub
from fust.hub.tree_editor import TreeEditor
from fust.hub.types import AddFile, AddLargeFile, CopyFile, DeleteFile, DeleteFolder
from fust.store.database import Base, Database


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    config = Settings(home=tmp_path / "home", hub=HubSettings(whole_file_cache_bytes=1_000_000))
    config.home.mkdir()
    database = Database(config.database_url)
    Base.metadata.create_all(database.engine)
    accounts = Accounts(database, config)
    accounts.users.create("admin", is_admin=True)
    yield Hub(database, accounts, config)
    database.close()


BAD_PATHS = [
    "",
    "/etc/passwd",
    "../up",
    "a/../b",
    "a//b",
    "a/",
    "./a",
    "a/.",
    ".git/config",
    "a/.GIT/hooks/x",
    ".git ",
    ".git.",
    "git~1/x",
    ".g\u200cit/config",
    "a\\b",
    "a\0b",
    "a\nb",
    "x" * 256,
    "/".join(["y" * 200] * 6),
    "名" * 86,
    "a\udc80",
]


@pytest.mark.parametrize("path", BAD_PATHS)
def test_bad_paths_are_refused_and_leave_nothing(hub: Hub, path: str) -> None:
    repo = hub.create_repo(SYSTEM, "admin/m")
    head = hub.resolve_revision(repo)
    with pytest.raises(BadPath):
        hub.commit(SYSTEM, repo, [AddFile("ok", b"1"), AddFile(path, b"x")], "bad")
    assert hub.resolve_revision(repo) == head


@pytest.mark.parametrize(
    "path", ["a", "a b/ç.txt", "x" * 255, "..a", "a..", ".gitattributes", ".github/x", "名" * 85]
)
def test_good_paths_pass(path: str) -> None:
    assert check_path(path) == path


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40))
def test_no_accepted_path_leaves_a_folder(path: str) -> None:
    try:
        check_path(path)
    except BadPath:
        return
    assert os.path.normpath("/root/" + path) == "/root/" + path
    assert all(part.lower() not in (".git", "git~1") for part in path.split("/"))


@pytest.mark.parametrize(
    "name", ["", "-x", "a..b", "a b", "x.lock", "a/.b", "HEAD", "@", "a~1", "0" * 40, "a\0", "/a", "a/"]
)
def test_bad_branch_names(name: str) -> None:
    with pytest.raises(InvalidInput):
        check_ref_part(name, "branch")


def test_files_and_folders_do_not_take_each_others_place(hub: Hub) -> None:
    repo = hub.create_repo(SYSTEM, "admin/m")
    hub.commit(SYSTEM, repo, [AddFile("a", b"1"), AddFile("d/x", b"2")], "one")
    for path in ("a/b", "d"):
        with pytest.raises(BadPath):
            hub.commit(SYSTEM, repo, [AddFile(path, b"3")], "clash")
    with pytest.raises(BadPath):
        hub.commit(SYSTEM, repo, [AddFile("n", b"3"), AddFile("n/m", b"3")], "clash in one commit")
    hub.commit(
        SYSTEM, repo, [DeleteFile("a"), AddFile("a/b", b"3"), DeleteFolder("d"), AddFile("d", b"4")], "swap"
    )
    assert {e.path: e.is_folder for e in hub.list_tree(repo, recursive=True)} == {
        ".gitattributes": False,
        "a": True,
        "a/b": False,
        "d": False,
    }
    hub.commit(SYSTEM, repo, [CopyFile("a/b", "c/e"), DeleteFile("a/b")], "rename")
    assert [e.path for e in hub.list_tree(repo, recursive=True) if not e.is_folder] == [
        ".gitattributes",
        "c/e",
        "d",
    ]
    for operation in (DeleteFile("zz"), DeleteFolder("d"), DeleteFile("c"), CopyFile("zz", "y")):
        with pytest.raises(EntryNotFound):
            hub.commit(SYSTEM, repo, [operation], "nothing there")


_NAMES = st.sampled_from(["a", "b", "c"])
_STEP = st.tuples(
    st.sampled_from(["put", "file", "folder"]),
    st.lists(_NAMES, min_size=1, max_size=3),
    st.binary(max_size=3),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(_STEP, max_size=8), max_size=4))
def test_the_tree_editor_does_what_a_dict_does(commits: list) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        pygit2.init_repository(folder, bare=True)
        repo = GitRepo(Path(folder))
        model: dict[str, bytes] = {}
        tree = None
        for steps in commits:
            editor = TreeEditor(repo.git, tree)
            for verb, parts, data in steps:
                path = "/".join(parts)
                above = {"/".join(parts[:i]) for i in range(1, len(parts))}
                if verb == "put":
                    possible = not above & set(model) and not any(p.startswith(path + "/") for p in model)
                    try:
                        editor.put(path, repo.write_blob(data))
                        assert possible
                        model[path] = data
                    except BadPath:
                        assert not possible
                elif verb == "file":
                    assert editor.remove_file(path) == (model.pop(path, None) is not None)
                else:
                    inside = [p for p in model if p.startswith(path + "/")]
                    assert editor.remove_folder(path) == bool(inside)
                    for p in inside:
                        del model[p]
            oid = editor.write()
            tree = repo.git[oid]
            found = {e.path: repo.read_blob(e.oid) for e in repo._walk(tree, "", True) if not e.is_folder}
            assert found == model
            folders = {e.path for e in repo._walk(tree, "", True) if e.is_folder}
            assert folders == {"/".join(p.split("/")[:i]) for p in model for i in range(1, p.count("/") + 1)}


def test_two_writers_of_one_branch(hub: Hub) -> None:
    repo = hub.create_repo(SYSTEM, "admin/m")
    head = hub.resolve_revision(repo)
    results: list[object] = []

    def write(i: int) -> None:
        try:
            results.append(hub.commit(SYSTEM, repo, [AddFile(f"f{i}", b"x")], "w", parent=head))
        except HeadMoved as error:
            results.append(error)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(r, str) for r in results) == 1 and len(results) == 6
    threads = [
        threading.Thread(target=lambda i=i: hub.commit(SYSTEM, repo, [AddFile(f"g{i}", b"x")], "w"))
        for i in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(hub.list_commits(repo)) == 8
    path = hub.git.path("model", "admin", "m")
    subprocess.run(["git", "-C", str(path), "fsck", "--strict"], check=True, capture_output=True)


def test_large_files_must_have_been_brought(hub: Hub, tmp_path: Path) -> None:
    one = hub.create_repo(SYSTEM, "admin/one")
    hub._accounts.users.create("bob")
    two = hub.create_repo(SYSTEM, "bob/two")
    source = tmp_path / "w.bin"
    source.write_bytes(b"w" * 5000)
    stored = hub.put_file_from_path(one, source)
    assert stored.sha256 == hashlib.sha256(b"w" * 5000).hexdigest()
    for operation in (
        AddLargeFile("w", stored.sha256),
        AddFile("w", pointer_bytes(stored.sha256, 5000)),
        AddLargeFile("w", "0" * 64),
    ):
        with pytest.raises(BadHash):
            hub.commit(SYSTEM, two, [operation], "steal")
    with pytest.raises(BadHash):
        hub.commit(SYSTEM, one, [AddLargeFile("w", stored.sha256, 4999)], "wrong size")
    with pytest.raises(BadHash):
        hub.put_file_from_path(one, source, expected_sha256="0" * 64)
    hub.commit(SYSTEM, one, [AddLargeFile("odd name.xyz", stored.sha256, 5000)], "right")
    assert hub.read_file(one, "odd name.xyz") == b"w" * 5000
    assert is_lfs(hub.read_file(one, ".gitattributes").decode(), "odd name.xyz")
    assert hub.materialise("admin/one", path="odd name.xyz").read_bytes() == b"w" * 5000
    with pytest.raises(TooLarge):
        hub.read_file(one, "odd name.xyz", limit_bytes=10)
    with pytest.raises(TooLarge):
        hub.commit(SYSTEM, one, [AddFile("big", b"x" * 10_000_001)], "too big for git")
    assert not list((hub.blobs.root / "tmp").iterdir())


def test_rows_follow_main(hub: Hub) -> None:
    repo = hub.create_repo(SYSTEM, "admin/m")
    card = b"---\nlicense: apache-2.0\nlanguage: zh\ntags: [a, b]\n---\n# T\n\nSays *what* it is.\n"
    hub.commit(SYSTEM, repo, [AddFile("README.md", card), AddFile("m.gguf", b"GGUF" * 10)], "card")
    found = hub.get_repo(SYSTEM, "ADMIN/M")
    assert (found.licence, found.languages, found.tags) == ("apache-2.0", ["zh"], ["a", "b"])
    assert found.description == "Says what it is." and found.formats == ["gguf"]
    assert found.smallest_gguf_bytes == 40 and found.head_oid == hub.resolve_revision(found)
    with pytest.raises(RepoExists):
        hub.create_repo(SYSTEM, "Admin/M")
    assert hub.create_repo(SYSTEM, "admin/m", exist_ok=True).id == repo.id
    with pytest.raises(RevisionNotFound):
        hub.commit(SYSTEM, repo, [AddFile("x", b"")], "m", branch="nope")
    with pytest.raises(Conflict):
        hub.commit(SYSTEM, repo, [AddFile("x", b"")], "m", parent="0" * 40)
    assert hub.count_repos(SYSTEM, "model") == 1
    hub.delete_repo(SYSTEM, "admin/m")
    with pytest.raises(NotFound):
        hub.get_repo(SYSTEM, "admin/m")
    again = hub.create_repo(SYSTEM, "admin/m")
    assert [e.path for e in hub.list_tree(again)] == [".gitattributes"]


def test_pages_of_a_list(hub: Hub) -> None:
    for i in range(7):
        hub.create_repo(SYSTEM, f"admin/m{i}", private=i % 2 == 0)
    first = hub.list_repos(SYSTEM, "model", sort="name", limit=3)
    assert [r.name for r in first.items] == ["m0", "m1", "m2"] and first.total == 7
    second = hub.list_repos(SYSTEM, "model", sort="name", limit=3, cursor=first.next)
    assert [r.name for r in second.items] == ["m3", "m4", "m5"]
    from fust.accounts.rights import ANONYMOUS

    assert hub.list_repos(ANONYMOUS, "model").total == 3
    assert hub.list_repos(SYSTEM, "model", search="M_").total == 0, "an underscore is not a wildcard"
    with pytest.raises(InvalidInput):
        hub.list_repos(SYSTEM, cursor="x")


def test_the_cache_is_bounded(hub: Hub, tmp_path: Path) -> None:
    for i in range(5):
        hub.cache.build(f"{i:064d}", 400_000, iter([bytes(400_000)]))
    assert hub.cache.size_bytes() <= 1_000_000
    assert hub.cache.find(f"{4:064d}") and not hub.cache.find(f"{0:064d}")
    with pytest.raises(OSError, match="instead of"):
        hub.cache.build("f" * 64, 10, iter([b"short"]))
    assert not hub.cache.find("f" * 64) and not list(hub.cache.root.glob(".*.tmp"))


def test_cards_are_read_with_care() -> None:
    assert parse_card("no front matter").data == {}
    assert "alias" in parse_card("---\na: &a [1]\nb: [*a, *a]\n---\n").error
    assert parse_card("---\n- a\n---\n").error and parse_card("---\n[\n---\n").error
    assert parse_card("---\n!!python/object/apply:os.system ['true']\n---\n").error
    assert parse_card("---\n" + "[" * 5000 + "\n---\n").error
    assert parse_card("---\nd: 2024-01-02\nn: .nan\n---\n").data == {"d": "2024-01-02", "n": "nan"}
    assert parse_card("---\nlicense: [mit, x]\nlanguage: en\n---\ntext").licence == "mit"


def test_attributes_and_ignores() -> None:
    text = initial_attributes("model").decode()
    assert (
        is_lfs(text, "a/b.safetensors")
        and is_lfs(text, "saved_model/x/y.txt")
        and is_lfs(text, "my.tfevents.1")
    )
    assert not is_lfs(text, "config.json") and not is_lfs(text + "*.bin -filter\n", "a.bin")
    for odd in ("a b.x", "w[1].y", "q?*.z"):
        assert is_lfs(lfs_line(odd), odd) and not is_lfs(lfs_line("other"), odd)
    assert is_ignored("*.pyc\n!keep.pyc\nbuild/\n", "a/x.pyc") and is_ignored("build/", "build/y")
    assert not is_ignored("*.pyc\n!keep.pyc", "keep.pyc") and not is_ignored("/top", "a/top")
    assert parse_pointer(pointer_bytes("a" * 64, 5)) == ("a" * 64, 5)
    assert parse_pointer(b"version https://git-lfs.github.com/spec/v1\noid sha256:zz\nsize 5\n") is None


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="bytes=-, 0123456789x", max_size=24), st.integers(0, 50))
def test_ranges_stay_inside(value: str, size: int) -> None:
    try:
        window = parse_range(value, size)
    except RangeError:
        return
    assert window is None or 0 <= window[0] < window[1] <= size


def test_recover_cleans_and_reads_again(hub: Hub, tmp_path: Path) -> None:
    repo = hub.create_repo(SYSTEM, "admin/m")
    oid = hub.commit(SYSTEM, repo, [AddFile("a", b"1")], "one")
    git = hub.content.open_repo(repo)
    with hub._database.write() as session:
        hub.repos.locked_row(session, repo).pending = True
    # The ref moved, then the server died.
    editor = TreeEditor(git.git, git.tree_of(oid))
    editor.put("b", git.write_blob(b"2"))
    moved = git.write_commit(editor.write(), [oid], "two", "x")
    git.swap_ref("refs/heads/main", oid, moved)
    stale = git.path / "refs/heads/main.lock"
    stale.write_text("")
    (hub.blobs.root / "tmp" / "1-999999999-x").write_bytes(b"half")
    (hub.git.root / "models/admin/.new-x.tmp").mkdir()
    (hub.git.root / "models/admin/orphan.git").mkdir()
    done = hub.recover()
    assert len(done) == 4, done
    assert hub.get_repo(SYSTEM, "admin/m").head_oid == moved and not stale.exists()
    assert not hub.repos.pending() and hub.recover() == []
    hub.commit(SYSTEM, repo, [AddFile("c", b"3")], "three")
