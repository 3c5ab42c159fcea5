"""The Fust surface against its own OpenAPI document, by schemathesis: every answer is one that the document names.

Every route meets values inside and outside its schema, other methods, other bodies, as an administrator, as a user and
as nobody: no 5xx, no answer later than ten seconds, no status, type or body that is not documented.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import RunningFust, start_fust
from tests.support.small_models import write_llama

pytestmark = pytest.mark.faults
pytest.importorskip("schemathesis", reason="schemathesis is not installed (extra test)")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningFust]:
    """A server for each test: an administrator's requests may sign everybody out."""
    running = start_fust(tmp_path / "home")
    yield running
    running.stop()


@pytest.fixture
def known(server: RunningFust, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Things that exist, by the name of the path parameter that means them: routes are to be passed, not only 404."""
    model = write_llama(tmp_path_factory.mktemp("model") / "tiny.gguf", context=128)
    deployment = json.loads(server.cli("serve", str(model), "--json").stdout)
    params = {"repo_id": "nobody/nothing", "source": server.url}
    status, _, body = server.request("POST", "/fust/v1/runs", {"kind": "pull", "params": params})
    assert status == 201, body
    run_id = json.loads(body)["id"]
    end = time.monotonic() + 30
    while json.loads(server.request("GET", f"/fust/v1/runs/{run_id}")[2])["state"] != "failed":
        assert time.monotonic() < end
        time.sleep(0.1)
    owner, name = deployment["repo_id"].split("/")
    return {
        "repo_type": "model",
        "owner": owner,
        "name": name,
        "run_id": run_id,
        "deployment_id": deployment["id"],
        "chat_id": json.loads(server.request("POST", "/fust/v1/chats", {"title": "A chat"})[2])["id"],
    }


def check(
    server: RunningFust,
    folder: Path,
    token: str | None,
    examples: int,
    *,
    phases: str = "coverage,fuzzing",
    parameters: dict[str, str] | None = None,
    only: str = "",
) -> None:
    """Runs schemathesis; a failure carries its report, with the curl line of each finding."""
    config = folder / "schemathesis.toml"
    lines = [f'"path.{name}" = {json.dumps(value)}' for name, value in (parameters or {}).items()]
    # As they come, and a body over the limit, which schemathesis makes now and then.
    refusals = [400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429, "5xx"]
    checks = ["[checks.negative_data_rejection]", f"expected-statuses = {json.dumps(refusals)}"]
    config.write_text("\n".join(["[parameters]", *lines, *checks]) + "\n")
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(config)),
        *("run", server.url + "/fust/v1/schema/openapi.json", "--no-color", "--seed", "1455"),
        *(
            "--max-examples",
            str(examples),
            "--phases",
            phases,
            "--generation-database",
            "none",
            "--continue-on-failure",
        ),
        *("--request-timeout", "10", "--suppress-health-check", "all"),
        # A text may be no name, no cursor, no password: the refusal is documented, the grammar is not.
        *("--exclude-checks", "positive_data_acceptance"),
    ]
    command += ["--include-path-regex", only] if only else []
    command += ["--header", f"Authorization: Bearer {token}"] if token else []
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=900 + 9 * examples)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Tested: 0" not in done.stdout


def user_key(server: RunningFust) -> str:
    """Makes a user who is no administrator, and a key with which it may write."""
    assert server.request("POST", "/fust/v1/users", {"name": "visitor", "password": "a long password"})[
        0
    ] in (
        201,
        409,
    )
    answer = server.request("POST", "/fust/v1/session", {"name": "visitor", "password": "a long password"})
    cookie = answer[1]["set-cookie"].split(";")[0]
    made = server.request(
        "POST",
        "/fust/v1/tokens",
        {"name": "w", "scope": "write"},
        token=None,
        headers={"cookie": cookie, "origin": server.url},
    )
    assert made[0] == 201, made
    return json.loads(made[2])["token"]


@pytest.mark.parametrize("role", ["administrator", "user", "nobody"])
def test_every_answer_is_documented(server: RunningFust, tmp_path: Path, role: str) -> None:
    token = {"administrator": lambda: server.token, "user": lambda: user_key(server), "nobody": lambda: None}[
        role
    ]()
    check(server, tmp_path, token, examples=15 if token else 3)


def test_what_exists_answers_as_documented(
    server: RunningFust, known: dict[str, str], tmp_path: Path
) -> None:
    check(server, tmp_path, server.token, examples=15, parameters=known, only=r"runs/|deployments/|repos/")


@pytest.mark.slow
@pytest.mark.parametrize("role", ["administrator", "user"])
def test_every_answer_is_documented_at_length(server: RunningFust, tmp_path: Path, role: str) -> None:
    token = server.token if role == "administrator" else user_key(server)
    check(server, tmp_path, token, examples=300, phases="coverage,fuzzing,stateful")
