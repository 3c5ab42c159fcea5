"""Homes of released versions still open, and hold what they held."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from huggingface_hub.utils import RepositoryNotFoundError

from tests.conftest import REPOSITORY, start_fust
from tests.support.archives import unpack

HOMES = sorted((REPOSITORY / "tests" / "fixtures").glob("home-v*.tar.gz"))


def test_there_is_a_kept_home() -> None:
    assert HOMES


@pytest.mark.parametrize("archive", HOMES, ids=lambda path: path.name)
def test_a_kept_home_opens(archive: Path, tmp_path: Path) -> None:
    unpack(archive, tmp_path)
    home = tmp_path / "home"
    facts = json.loads((home / "facts.json").read_text())
    running = start_fust(home)
    try:
        assert running.token == facts["admin_token"]
        admin = HfApi(endpoint=running.url, token=running.token)
        cache = tmp_path / "cache"
        assert admin.model_info(facts["model"]).sha == facts["head"]
        note = admin.hf_hub_download(facts["model"], "notes/note.txt", cache_dir=cache)
        assert Path(note).read_bytes() == b"kept by the first version\n"
        large = admin.hf_hub_download(facts["private"], "large.bin", cache_dir=cache)
        assert Path(large).read_bytes() == bytes(range(256)) * 4000
        rows = admin.hf_hub_download(facts["dataset"], "rows.csv", repo_type="dataset", cache_dir=cache)
        assert Path(rows).read_bytes() == b"a,b\n1,2\n"
        assert [tag.name for tag in admin.list_repo_refs(facts["model"]).tags] == ["v1"]
        with pytest.raises(RepositoryNotFoundError):
            HfApi(endpoint=running.url, token=False).model_info(facts["private"])
        body = {"model": facts["alias"], "prompt": "a", "max_tokens": 2}
        status, _, answer = running.request("POST", "/v1/completions", body, token=facts["read_token"])
        assert status == 200, answer
        assert facts["user"] in running.cli("users").stdout
        upload = admin.upload_file(path_or_fileobj=b"new", path_in_repo="new.txt", repo_id=facts["model"])
        assert upload.oid
    finally:
        running.stop()
