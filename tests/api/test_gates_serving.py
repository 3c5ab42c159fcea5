"""A gated model at the model API: served by, and used by, those who may have its files."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.compat.test_hub_clients import run_client
from tests.conftest import RunningFust
from tests.support.small_models import write_llama

pytest.importorskip("xllamacpp", reason="xllamacpp is not installed")
REPO = "admin/guarded"


def test_who_uses_a_gated_model(server: RunningFust, tmp_path: Path) -> None:
    write_llama(tmp_path / "tiny.gguf")
    run_client(
        server,
        tmp_path,
        f"""
from huggingface_hub import HfApi
api = HfApi()
api.create_repo({REPO!r})
api.upload_file(path_or_fileobj="tiny.gguf", path_in_repo="tiny.gguf", repo_id={REPO!r})
api.update_repo_settings({REPO!r}, gated="manual")
""",
    )
    keys: dict[str, dict[str, str]] = {}
    for name, more in (("in", {}), ("out", {}), ("in, for this model", {"repos": [], "models": [REPO]})):
        user = "user-" + name.partition(",")[0]
        assert server.request("POST", "/fust/v1/users", {"name": user})[0] in (201, 409)
        wish = {"name": "k", "scope": "write", **more}
        status, _, body = server.request("POST", f"/fust/v1/users/{user}/tokens", wish)
        assert status == 201, body
        keys[name] = {"authorization": f"Bearer {json.loads(body)['token']}"}

    def call(who: str, method: str, path: str, body: object = None) -> tuple[int, dict]:
        status, _, answer = server.request(method, path, body, token=None, headers=keys[who])
        return status, json.loads(answer)

    def use(who: str) -> tuple[int, dict]:
        return call(who, "POST", "/v1/completions", {"model": REPO, "prompt": "a", "max_tokens": 1})

    def listed(who: str) -> list[str]:
        return [model["id"] for model in call(who, "GET", "/v1/models")[1]["data"]]

    requests = f"/api/models/{REPO}/user-access-request"
    assert server.request("POST", requests + "/grant", {"user": "user-in"})[0] == 200
    status, answer = call("out", "POST", "/fust/v1/deployments", {"repo_id": REPO})
    assert (status, answer["code"]) == (403, "gated") and "authorized list" in answer["detail"], answer
    assert call("in", "POST", "/fust/v1/deployments", {"repo_id": REPO})[0] == 201
    deadline = time.monotonic() + 60
    while use("in")[0] != 200:
        assert time.monotonic() < deadline, use("in")
        time.sleep(0.2)
    assert use("in, for this model")[0] == 200
    assert listed("in") == listed("in, for this model") == [REPO] and listed("out") == []
    status, answer = use("out")
    assert (status, answer["error"]["code"], answer["error"]["type"]) == (403, "gated", "permission_error")
    # What was given is taken away: the next request is refused, though the engine is loaded.
    handle = {"user": "user-in", "status": "rejected"}
    assert server.request("POST", requests + "/handle", handle)[0] == 200
    assert use("in")[0] == 403 and use("in, for this model")[0] == 403 and listed("in") == []
    # Without the gate it is everybody's again, at most a second later.
    assert server.request("PUT", f"/api/models/{REPO}/settings", {"gated": False})[0] == 200
    time.sleep(1.1)
    assert use("out")[0] == 200 and listed("out") == [REPO]
