"""Archives of strangers: what is unpacked, with Python's own guard and without it."""

from __future__ import annotations

import contextlib
import io
import tarfile
from pathlib import Path

import pytest

from fust.core.archives import unpack


def made(path: Path, *members: tuple[str, bytes, str]) -> tarfile.TarFile:
    with tarfile.open(path, "w") as archive:
        for name, kind, link in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, link, 2 if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(b"hi"))
    return tarfile.open(path)


@pytest.fixture(params=["guard", "none"])
def guard(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "none":
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
    elif not hasattr(tarfile, "data_filter"):
        pytest.skip("this Python has no guard of its own")


@pytest.mark.usefixtures("guard")
def test_files_and_folders_are_unpacked(tmp_path: Path) -> None:
    with made(tmp_path / "a.tar", ("a", tarfile.DIRTYPE, ""), ("a/b.txt", tarfile.REGTYPE, "")) as archive:
        unpack(archive, tmp_path / "out")
    assert (tmp_path / "out/a/b.txt").read_bytes() == b"hi"


@pytest.mark.usefixtures("guard")
@pytest.mark.parametrize("name", ["../b.txt", "a/../../b.txt"])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    with made(tmp_path / "a.tar", (name, tarfile.REGTYPE, "")) as archive, pytest.raises(tarfile.TarError):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "b.txt").exists()


@pytest.mark.usefixtures("guard")
def test_no_file_is_written_through_a_link(tmp_path: Path) -> None:
    link, file = ("out", tarfile.SYMTYPE, str(tmp_path)), ("out/b.txt", tarfile.REGTYPE, "")
    with made(tmp_path / "a.tar", link, file) as archive, contextlib.suppress(tarfile.TarError):
        unpack(archive, tmp_path / "into")
    assert not (tmp_path / "b.txt").exists()
