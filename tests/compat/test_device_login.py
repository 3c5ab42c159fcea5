"""`hf auth login` of huggingface_hub, unmodified: a code in the terminal, a person in a browser, an ordinary key."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from fust.accounts.devices import INTERVAL_S
from tests.conftest import RunningFust

GRANT = "urn:ietf:params:oauth:grant-type:device_code"


@pytest.fixture(scope="module")
def cookie(server: RunningFust) -> dict[str, str]:
    """Headers of a signed-in browser."""
    _, headers, _ = server.request("POST", "/fust/v1/session", {"token": server.token}, token=None)
    return {"cookie": headers["set-cookie"].partition(";")[0], "origin": server.url}


@pytest.fixture
def login(server: RunningFust, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The real command, waiting for its person."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "FUST_"))}
    environ |= {
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path / "hf"),
        "PYTHONUNBUFFERED": "1",
        "BROWSER": "true",
    }
    command = [str(Path(sys.executable).parent / "hf"), "auth", "login"]
    running = subprocess.Popen(
        command,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    yield running
    if running.poll() is None:
        running.kill()
    assert running.stdout is not None
    running.stdout.close()
    running.wait()


def read_code(login: subprocess.Popen[str], server: RunningFust) -> str:
    assert login.stdout is not None
    text = ""
    for line in login.stdout:
        text += line
        found = re.search(r"\b[BCDFGHJKLMNPQRSTVWXZ]{4}-[BCDFGHJKLMNPQRSTVWXZ]{4}\b", text)
        if found:
            assert f"{server.url}/device" in text
            return found[0]
    raise AssertionError(text)


def ask(server: RunningFust, word: str, cookie: dict[str, str], **body: object) -> tuple[int, Any]:
    status, _, answer = server.request("POST", f"/fust/v1/device/{word}", body, token=None, headers=cookie)
    return status, json.loads(answer) if answer else None


def form(server: RunningFust, path: str, **fields: str) -> tuple[int, dict[str, Any]]:
    headers = {"content-type": "application/x-www-form-urlencoded"}
    status, _, answer = server.request("POST", path, urlencode(fields).encode(), token=None, headers=headers)
    return status, json.loads(answer)


def poll(server: RunningFust, code: str, client: str = "me") -> tuple[int, dict[str, Any]]:
    return form(server, "/oauth/token", grant_type=GRANT, device_code=code, client_id=client)


def test_hf_auth_login(
    server: RunningFust, cookie: dict[str, str], login: subprocess.Popen[str], tmp_path: Path
) -> None:
    code = read_code(login, server)
    status, asking = ask(server, "look", cookie, code=code.lower().replace("-", " "))
    assert status == 200 and asking["code"] == code and asking["program"] == "hf auth login", asking
    assert asking["address"] == "127.0.0.1"
    assert ask(server, "allow", cookie, code=code, scope="write", name="my laptop", days=30)[0] == 204
    rest, _ = login.communicate(timeout=30)
    assert login.returncode == 0 and "Login successful" in rest, rest
    secret = (tmp_path / "hf" / "token").read_text().strip()
    assert secret.startswith("fust_")
    who = json.loads(server.request("GET", "/api/whoami-v2", token=secret)[2])
    assert who["name"] == "admin" and who["auth"]["accessToken"]["displayName"] == "my laptop"
    keys = json.loads(server.request("GET", "/fust/v1/tokens")[2])["items"]
    mine = next(key for key in keys if key["name"] == "my laptop")
    assert mine["scope"] == "write" and mine["expires_at"] and not mine["expired"]
    server.request("DELETE", f"/fust/v1/tokens/{mine['id']}")
    time.sleep(1.1)
    assert server.request("GET", "/api/whoami-v2", token=secret)[0] == 401, (
        "an ordinary key, revoked like one"
    )
    audit = server.request("GET", "/fust/v1/audit?action=device")[2].decode()
    assert "device.allow" in audit and code not in audit


def test_denied(server: RunningFust, cookie: dict[str, str], login: subprocess.Popen[str]) -> None:
    code = read_code(login, server)
    assert ask(server, "deny", cookie, code=code)[0] == 204
    rest, _ = login.communicate(timeout=30)
    assert login.returncode != 0 and "denied" in rest.lower()
    assert ask(server, "allow", cookie, code=code)[0] == 404


def test_codes_are_spent_once_and_only_by_who_holds_them(server: RunningFust, cookie: dict[str, str]) -> None:
    status, given = form(server, "/oauth/device", client_id="me")
    assert status == 200 and given["interval"] == INTERVAL_S and given["expires_in"] == 600
    assert given["verification_uri_complete"].endswith("/device?code=" + given["user_code"])
    code = given["device_code"]
    assert poll(server, code) == (
        400,
        {"error": "authorization_pending", "error_description": "Nobody has allowed it yet."},
    )
    assert poll(server, code)[1]["error"] == "slow_down"
    assert poll(server, code, "another")[1]["error"] == "expired_token"
    assert poll(server, given["user_code"])[1]["error"] == "expired_token", "what is shown opens nothing"
    # A key, even an administrator's, is no person in a browser.
    assert server.request("POST", "/fust/v1/device/allow", {"code": given["user_code"]})[0] == 403
    evil = {**cookie, "origin": "https://evil.example", "sec-fetch-site": "cross-site"}
    assert ask(server, "allow", evil, code=given["user_code"])[0] == 403
    assert ask(server, "allow", cookie, code=given["user_code"], scope="admin")[0] == 400
    assert ask(server, "allow", cookie, code=given["user_code"], scope="read")[0] == 204
    assert ask(server, "allow", cookie, code=given["user_code"])[0] == 404, "allowed once"
    status, got = poll(server, code)
    assert (
        status == 200 and got["token_type"] == "bearer" and got["scope"] == "read" and "expires_in" not in got
    )
    assert poll(server, code)[1]["error"] == "expired_token", "fetched once"
    assert (
        server.request("POST", "/api/repos/create", {"name": "admin/no"}, token=got["access_token"])[0] == 403
    )
    assert form(server, "/oauth/token", grant_type="refresh_token")[1]["error"] == "invalid_grant"
    assert form(server, "/oauth/token", grant_type="password")[1]["error"] == "unsupported_grant_type"
    raw = (server.home / "fust.db").read_bytes() + (server.home / "fust.db-wal").read_bytes()
    assert code.encode() not in raw and got["access_token"].encode() not in raw
    status, _, about = server.request("GET", "/.well-known/oauth-authorization-server", token=None)
    assert (
        status == 200 and json.loads(about)["device_authorization_endpoint"] == server.url + "/oauth/device"
    )


def test_guessing_and_flooding_are_slowed(server: RunningFust, cookie: dict[str, str]) -> None:
    found = [ask(server, "look", cookie, code=f"BBBB-BBB{letter}")[0] for letter in "BCDFGHJKLMNP"]
    assert found[0] == 404 and found[-1] == 429
    answers = [form(server, "/oauth/device", client_id="flood")[0] for _ in range(25)]
    assert answers[-1] == 429 and 200 in answers
