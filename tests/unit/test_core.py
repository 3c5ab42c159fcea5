"""Core: settings, names, sizes, whole files, locks, languages."""

from __future__ import annotations

import multiprocessing
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fust.core.errors import FustError, InvalidInput, NotFound, StorageFull
from fust.core.files import atomic_file, write_atomic
from fust.core.i18n import accepted_language
from fust.core.ids import check_name, new_id, split_repo_id
from fust.core.locks import FileLock, is_held
from fust.core.logs import redact
from fust.core.settings import describe_settings, load_settings
from fust.core.units import (
    hours_words,
    parse_size,
    read_number,
    show_seconds,
    show_size,
    show_span,
    span_words,
)


def test_settings_order_is_flag_env_file_default(tmp_path: Path) -> None:
    (tmp_path / "fust.toml").write_text("[server]\nport = 1111\nhost = '127.0.0.2'\n[serve]\nslots = 2\n")
    environ = {"FUST_SERVER__PORT": "2222", "FUST_SERVE__SLOTS": "3"}
    settings = load_settings(tmp_path, flags={"server.port": 3333, "server.host": None}, environ=environ)
    assert (settings.server.port, settings.serve.slots, settings.server.host) == (3333, 3, "127.0.0.2")
    sources = {key: source for key, _, source in describe_settings(settings)}
    assert sources["server.port"] == "flag"
    assert sources["serve.slots"] == "FUST_SERVE__SLOTS"
    assert sources["server.host"] == str(tmp_path / "fust.toml")
    assert sources["hub.max_file_bytes"] == "default"


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"FUST_SERVER__PORT": "many"}, "server.port"),
        ({"FUST_SERVER__PROT": "1"}, "server.prot"),
        ({"FUST_SERVE__STARTER": "perhaps"}, "serve.starter"),
    ],
)
def test_a_wrong_setting_names_key_value_and_source(
    tmp_path: Path, environ: dict[str, str], named: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        load_settings(tmp_path, environ=environ)
    assert named in str(caught.value)
    assert next(iter(environ)) in str(caught.value)


def test_a_secret_setting_is_never_shown(tmp_path: Path) -> None:
    settings = load_settings(tmp_path, environ={"FUST_PULL__TOKEN": "hf_verysecret"})
    assert "verysecret" not in str(describe_settings(settings))


def test_lists_and_paths_in_settings(tmp_path: Path) -> None:
    environ = {
        "FUST_SERVER__TRUSTED_PROXIES": "10.0.0.1, 10.0.0.2",
        "FUST_SERVER__PUBLIC_URL": "https://x.org/fust/",
    }
    settings = load_settings(tmp_path, environ=environ)
    assert settings.server.trusted_proxies == ("10.0.0.1", "10.0.0.2")
    assert (settings.public_url, settings.base_path) == ("https://x.org/fust", "/fust")


@pytest.mark.parametrize("name", ["a", "A-b_c.d", "qwen2.5-0.5b", "_x", "0" * 96])
def test_good_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "-a",
        "a-",
        ".a",
        "a.",
        "a--b",
        "a..b",
        "a/b",
        "a b",
        "模型",
        "a.git",
        "a\n",
        "a\0",
        "0" * 97,
        "..",
        "A.GIT",
    ],
)
def test_bad_names(name: str) -> None:
    with pytest.raises(InvalidInput):
        check_name(name)


@given(st.text(max_size=200))
def test_a_name_that_passes_is_safe_in_a_path(name: str) -> None:
    try:
        check_name(name)
    except InvalidInput:
        return
    assert "/" not in name and "\0" not in name and name not in ("", ".", "..") and name.isascii()


def test_repo_ids() -> None:
    assert split_repo_id("a/b") == ("a", "b")
    for bad in ("a", "/b", "a/", "a/b/c", "a/../b"):
        with pytest.raises(InvalidInput):
            split_repo_id(bad)


def test_ids_sort_by_time_and_differ() -> None:
    ids = [new_id() for _ in range(100)]
    assert len(set(ids)) == 100
    assert [i[:9] for i in ids] == sorted(i[:9] for i in ids)


@pytest.mark.parametrize(
    ("text", "size"), [("512", 512), ("20GB", 20 * 10**9), ("1.5 GiB", 3 * 2**29), ("3kb", 3000)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size
    assert show_size(1_500_000_000) == "1.5 GB"
    with pytest.raises(InvalidInput):
        parse_size("big")
    with pytest.raises(InvalidInput):
        parse_size("9" * 5000)


@pytest.mark.parametrize(
    ("text", "found"),
    [("0", 0), ("007", 7), ("9" * 18, 10**18 - 1), ("9" * 5000, 10**18), ("0" * 5000 + "1", 1)]
    + [(text, None) for text in ("", "-1", "+1", "1_000", " 1", "1.5", "٣", "²", "0x1", "nan")],
)
def test_numbers_from_outside(text: str, found: int | None) -> None:
    assert read_number(text) == found


def test_an_interrupted_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")
    with pytest.raises(RuntimeError), atomic_file(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_is_storage_full_and_leaves_nothing(tmp_path: Path) -> None:
    """/dev/full would need another folder; a file size limit gives EFBIG, so the real thing is a small tmpfs."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    mount = tmp_path / "small"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mount)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no tmpfs here: {done.stderr.decode().strip()}")
    try:
        with pytest.raises(StorageFull):
            write_atomic(mount / "file", b"x" * 200_000)
        assert list(mount.iterdir()) == []
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def _hold(path: str, ready: object, end: object) -> None:
    lock = FileLock(Path(path))
    assert lock.acquire()
    ready.set()  # type: ignore[attr-defined]
    end.wait()  # type: ignore[attr-defined]


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, end = context.Event(), context.Event()
    path = tmp_path / "lock"
    process = context.Process(target=_hold, args=(str(path), ready, end))
    process.start()
    assert ready.wait(20)
    assert is_held(path)
    assert not FileLock(path).acquire()
    process.kill()
    process.join()
    assert not is_held(path)
    process.close()


def test_errors_speak_both_languages() -> None:
    error = NotFound("There is no user {name!r}.", hint="`fust users` lists them.", name="eva")
    assert error.sentence("en") == "There is no user 'eva'. `fust users` lists them."
    assert "没有" in error.message("zh") and "eva" in error.message("zh")
    assert isinstance(error, FustError) and error.status == 404


def test_braces_in_values_do_no_harm() -> None:
    error = NotFound("There is no user {name!r}.", name="{0.__class__}")
    assert "{0.__class__}" in error.message()


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-GB", "en"),
        ("de, zh;q=0.5", "zh"),
        (None, "en"),
        ("de", "en"),
        ("zh;q=x", "en"),
    ],
)
def test_accept_language(header: str | None, language: str) -> None:
    assert accepted_language(header) == language


def test_secrets_are_cut_from_logs() -> None:
    secret = "fust_" + "A" * 32
    assert secret not in redact(f"key {secret} and hf_{'b' * 30} and /?code=abcdef")
    assert "abcdef" not in redact("/?code=abcdef")


def test_help_needs_no_heavy_module() -> None:
    heavy = [
        "torch",
        "ray",
        "litestar",
        "sqlalchemy",
        "pydantic",
        "httpx",
        "aiohttp",
        "huggingface_hub",
        "xllamacpp",
        "numpy",
    ]
    program = f"import sys; sys.argv=['fust','--help']\nimport fust.cli.main as m\ntry: m.main()\nexcept SystemExit: pass\nbad=[x for x in {heavy} if x in sys.modules]; assert not bad, bad"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss > 0


@pytest.mark.parametrize(
    ("seconds", "chinese"),
    [(0.4, "不到 1 秒"), (44.6, "45 秒"), (200, "3 分 20 秒"), (7500, "2 小时 5 分"), (59.7, "1 分 0 秒")],
)
def test_a_span_is_told_in_the_readers_language(seconds: float, chinese: str) -> None:
    assert str(span_words(seconds)) == show_span(seconds)
    assert span_words(seconds).draw("zh") == chinese


def test_a_little_is_not_nothing() -> None:
    assert [str(hours_words(hours)) for hours in (0, 0.004, 0.006, 3)] == [
        "0.00",
        "under 0.01",
        "0.01",
        "3.00",
    ]
    assert hours_words(0.004).draw("zh") == "不到 0.01"
    assert [show_seconds(it) for it in (0, 0.00312, 0.099, 2.414)] == ["0.00", "0.0031", "0.099", "2.41"]
