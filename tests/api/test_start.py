"""Starting, stopping and signing in, as a new user would."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.conftest import RunningFust, free_port, start_fust

Factory = Callable[..., RunningFust]


def environ_of(home: Path, **more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FUST_")}
    return {**kept, "FUST_HOME": str(home), "FUST_LANG": "en", "FUST_SERVE__STARTER": "false", **more}


def fust(home: Path, *args: str, stdin: str | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fust.cli.main", *args],
        env=environ_of(home, **more),
        capture_output=True,
        text=True,
        timeout=90,
        input=stdin,
        check=False,
    )


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: object) -> None:
        return None


def get_raw(url: str) -> tuple[int, dict[str, str]]:
    try:
        with urllib.request.build_opener(NoRedirect).open(url, timeout=20) as answer:
            return answer.status, dict(answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers)


def test_background_start_status_and_down(tmp_path: Path) -> None:
    home = tmp_path / "home"
    port = str(free_port())
    up = fust(home, "up", "-d", "--port", port)
    try:
        assert up.returncode == 0, up.stderr
        assert re.search(rf"http://127\.0\.0\.1:{port}/\?code=\S{{20,}}", up.stdout)
        assert (home / "token").stat().st_mode & 0o777 == 0o600
        assert (home / "server.json").stat().st_mode & 0o777 == 0o600
        status = json.loads(fust(home, "status", "--json").stdout)
        assert status["base_url"] == f"http://127.0.0.1:{port}"
        again = fust(home, "up")
        assert again.returncode == 0 and "already" in again.stdout and "?code=" in again.stdout
    finally:
        down = fust(home, "down")
    assert down.returncode == 0, down.stderr
    assert not (home / "server.json").exists()
    ended = fust(home, "status")
    assert ended.returncode == 1 and "fust up" in ended.stderr


def test_first_start_says_what_it_chose(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "fust.cli.main", "--json", "up", "--port", str(free_port())],
        env=environ_of(tmp_path / "home"),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        text = ""
        while not text.rstrip().endswith("}") or text.count("{") != text.count("}"):
            text += process.stdout.readline()
        chosen = {item["what"]: item for item in json.loads(text)["chosen"]}
    finally:
        process.terminate()
        process.communicate(timeout=20)
    assert {"engine", "threads", "home", "token", "database"} <= set(chosen)
    assert all(item["why"] for item in chosen.values())


def test_a_taken_port_moves_on_and_says_so(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        home = tmp_path / "home"
        up = fust(home, "up", "-d", FUST_SERVER__PORT=str(port))
        try:
            assert up.returncode == 0, up.stderr
            found = int(json.loads((home / "server.json").read_text())["url"].rsplit(":", 1)[1])
            assert port < found <= port + 50
            assert f"port {port} is taken by another program" in (home / "log" / "up.out").read_text()
        finally:
            fust(home, "down")
        named = fust(tmp_path / "second", "up", "--port", str(port))
        assert named.returncode == 1
        assert named.stderr.count("\n") == 1 and str(port) in named.stderr


def test_a_second_server_on_one_home_does_not_start(fust_factory: Factory) -> None:
    running = fust_factory()
    program = "import sys; from pathlib import Path; from fust.app.home import open_home; open_home(Path(sys.argv[1]))"
    command = [sys.executable, "-c", program, str(running.home)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "already running" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
@pytest.mark.parametrize(("options", "said"), [("ro", "cannot be written"), ("size=64k", "is full")])
def test_a_read_only_and_a_full_home(tmp_path: Path, options: str, said: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", home], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs here: {mounted.stderr.decode().strip()}")
    try:
        up = fust(home, "up", "--port", str(free_port()))
        assert up.returncode == 1
        assert said in up.stderr and up.stderr.count("\n") == 1
        detached = fust(home, "up", "-d", "--port", str(free_port()))
        assert detached.returncode == 1 and said in detached.stderr
    finally:
        subprocess.run(["umount", home], check=True)


def test_a_newer_home_is_refused_and_not_touched(tmp_path: Path) -> None:
    home = tmp_path / "home"
    running = start_fust(home)
    running.stop()
    with sqlite3.connect(home / "fust.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    before = (home / "fust.db").read_bytes()
    up = fust(home, "up", "--port", str(free_port()))
    assert up.returncode == 1
    assert "newer Fust" in up.stderr and up.stderr.count("\n") == 1
    assert (home / "fust.db").read_bytes() == before


def test_a_broken_setting_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "fust.toml").write_text("[server]\nport = 'many'\n")
    up = fust(tmp_path, "up")
    assert up.returncode == 1 and "server.port" in up.stderr and up.stderr.count("\n") == 1


def test_the_link_signs_in_once_by_a_strict_cookie(server: RunningFust) -> None:
    link = server.open_link()
    status, headers = get_raw(link)
    cookie = headers["set-cookie"]
    assert status == 303 and headers["location"] == "/"
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and "Path=/" in cookie
    value = cookie.split(";")[0]
    status, _, body = server.request("GET", "/fust/v1/session", token=None, headers={"cookie": value})
    assert json.loads(body)["user"]["name"] == "admin"
    status, headers = get_raw(link)
    assert status == 303 and "code_error" in headers["location"] and "set-cookie" not in headers
    status, _, _ = server.request("DELETE", "/fust/v1/session", token=None, headers={"cookie": value})
    assert status == 403, "a change needs the page's own origin"
    same = {"cookie": value, "sec-fetch-site": "same-origin"}
    assert server.request("DELETE", "/fust/v1/session", token=None, headers=same)[0] == 204
    assert json.loads(server.request("GET", "/fust/v1/session", token=None, headers=same)[2])["user"] is None


def test_loopback_gives_no_right(server: RunningFust) -> None:
    for path in ("/fust/v1/status", "/fust/v1/tokens", "/fust/v1/runs", "/fust/v1/config", "/v1/models"):
        status, _, body = server.request("GET", path, token=None)
        assert status == 401, (path, body)
    status, headers, body = server.request("GET", "/fust/v1/status", token=None)
    assert headers["content-type"] == "application/problem+json"
    problem = json.loads(body)
    assert problem["code"] == "unauthenticated" and problem["request_id"] == headers["x-request-id"]
    chinese = server.request("GET", "/fust/v1/status", token=None, headers={"accept-language": "zh-CN"})[2]
    assert "密钥" in json.loads(chinese)["detail"]


def test_a_body_over_the_limit_is_refused_by_its_size(server: RunningFust) -> None:
    for language, said in (("en", "larger than 10 MiB"), ("zh-CN", "请求体超过 10 MiB")):
        with contextlib.closing(http.client.HTTPConnection(server.url.removeprefix("http://"))) as client:
            client.putrequest("POST", "/fust/v1/chats")
            for name, value in (
                ("authorization", f"Bearer {server.token}"),
                ("content-type", "application/json"),
                ("content-length", str((10 << 20) + 1)),
                ("accept-language", language),
            ):
                client.putheader(name, value)
            client.endheaders()  # the answer comes before the body was sent
            answer = client.getresponse()
            problem = json.loads(answer.read())
        assert (answer.status, problem["code"]) == (413, "too_large") and said in problem["detail"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/fust/v1/runs", {"kind": 5}),
        ("POST", "/fust/v1/runs", {"kind": "pull", "params": {"repo_id": 5}}),
        ("POST", "/fust/v1/runs", {"kind": "build_engine", "params": {"jobs": 0}}),
        ("GET", "/fust/v1/runs?limit=many", None),
        ("POST", "/fust/v1/deployments", {"engine": "echo", "name": "e", "options": {"misbehave": 5}}),
        ("POST", "/api/repos/create", {"name": 5}),
        ("POST", "/v1/chat/completions", {"model": 5, "messages": []}),
        ("POST", "/v1/messages", {"model": "m", "max_tokens": "5", "messages": []}),
    ],
)
def test_a_value_that_does_not_fit_is_told_in_chinese(
    server: RunningFust, method: str, path: str, body: object
) -> None:
    status, _, raw = server.request(method, path, body, headers={"accept-language": "zh-CN"})
    told = raw.decode()
    assert status in (400, 422), told
    assert "应为" in told and not re.search("Expected|got |Invalid| at ", told), told


def test_a_hostile_host_changes_no_url(server: RunningFust) -> None:
    status, _, body = server.request("POST", "/fust/v1/open", headers={"host": "evil.example"})
    assert status == 200 and json.loads(body)["url"].startswith(server.url)
    _, _, body = server.request("GET", "/fust/v1/status", headers={"x-forwarded-host": "evil.example"})
    assert "evil" not in body.decode()


def test_password_sign_in(server: RunningFust) -> None:
    done = server.cli("passwd", "admin", "--stdin", stdin="a sentence is good\n")
    assert done.returncode == 0
    status, headers, _ = server.request(
        "POST", "/fust/v1/session", {"name": "admin", "password": "a sentence is good"}, token=None
    )
    assert status == 200 and "HttpOnly" in headers["set-cookie"]
    status, _, body = server.request(
        "POST", "/fust/v1/session", {"name": "admin", "password": "wrong"}, token=None
    )
    assert status == 401 and "wrong" not in json.loads(body)["detail"].replace("is wrong", "")


def test_another_address_demands_a_password(tmp_path: Path) -> None:
    home = tmp_path / "home"
    port = str(free_port())
    up = fust(home, "up", "--host", "0.0.0.0", "--port", port)
    assert up.returncode == 1 and "fust passwd" in up.stderr and up.stderr.count("\n") == 1
    assert fust(home, "passwd", "--stdin", stdin="a sentence is good\n").returncode == 0
    up = fust(home, "up", "-d", "--host", "0.0.0.0", "--port", port)
    try:
        assert up.returncode == 0, up.stderr
    finally:
        fust(home, "down")


def test_a_sub_path(fust_factory: Factory) -> None:
    """The proxy hands the sub-path on; one that strips it works too."""
    running = fust_factory(server__public_url="https://ai.example.org/ai")
    for path in ("/ai/fust/v1/status", "/fust/v1/status"):
        status, _, body = running.request("GET", path)
        assert status == 200 and json.loads(body)["openai_base_url"] == "https://ai.example.org/ai/v1"
    assert running.request("GET", "/ai/v1/models")[0] == 200
    assert running.request("GET", "/ai/api/whoami-v2")[0] == 200
    assert b'<base href="/ai/">' in running.request("GET", "/ai/")[2]
    link = running.open_link()
    assert link.startswith("https://ai.example.org/ai/?code=")
    status, headers = get_raw(f"{running.url}/ai/?{link.partition('?')[2]}")
    assert headers["location"] == "/ai/"
    assert "Path=/ai/" in headers["set-cookie"] and "Secure" in headers["set-cookie"]


def test_the_sub_path_may_be_called_fust(fust_factory: Factory) -> None:
    running = fust_factory(server__public_url="https://school.example.org/fust")
    assert running.request("GET", "/fust/fust/v1/status")[0] == 200
    assert running.request("GET", "/fust/v1/models")[0] == 200
    assert json.loads(running.cli("status", "--json").stdout)["base_url"] == "https://school.example.org/fust"


def test_page_headers_and_unknown_paths(server: RunningFust) -> None:
    status, headers, body = server.request("GET", "/", token=None)
    assert status == 200 and b"<base href=" in body
    assert headers["content-security-policy"].startswith("default-src 'self'")
    assert headers["x-content-type-options"] == "nosniff"
    assert server.request("GET", "/assets/nothing.js", token=None)[0] == 404
    assert server.request("GET", "/models/a/b", token=None)[0] == 200
    assert server.request("GET", "/assets/../../../etc/passwd", token=None)[0] in (400, 404)
    status, headers, body = server.request("GET", "/fust/v1/nothing")
    assert status == 404 and json.loads(body)["code"] == "not_found"
    status, _, body = server.request("POST", "/fust/v1/tokens", b"{rubbish")
    assert status == 400 and json.loads(body)["code"] == "invalid_input"


def test_health_metrics_and_openapi(server: RunningFust) -> None:
    assert server.request("GET", "/healthz", token=None)[0] == 200
    assert server.request("GET", "/metrics", token=None)[0] == 401
    assert b"fust_http_requests_total" in server.request("GET", "/metrics")[2]
    document = json.loads(server.request("GET", "/fust/v1/schema/openapi.json")[2])
    assert {
        "/fust/v1/status",
        "/fust/v1/tokens",
        "/fust/v1/repos",
        "/fust/v1/deployments",
        "/fust/v1/runs",
    } <= set(document["paths"])


def test_tokens_through_api_and_cli(server: RunningFust) -> None:
    made = json.loads(server.cli("tokens", "new", "laptop", "--scope", "read", "--json").stdout)
    status, _, body = server.request(
        "POST", "/fust/v1/tokens", {"name": "more", "scope": "write"}, token=made["token"]
    )
    assert status == 403, body
    listed = server.request("GET", "/fust/v1/tokens")[2].decode()
    assert made["id"] in listed and made["token"] not in listed
    assert server.request("DELETE", f"/fust/v1/tokens/{made['id']}")[0] == 204
    assert server.request("GET", "/fust/v1/tokens", token=made["token"])[0] == 401


def test_doctor_config_and_logs(server: RunningFust) -> None:
    doctor = json.loads(server.cli("doctor", "--json", check=False).stdout)
    assert {"disk", "port", "CPU", "memory"} <= {check["name"] for check in doctor["checks"]}
    values = {v["key"]: v for v in json.loads(server.cli("config", "show", "--json").stdout)}
    assert values["serve.starter"]["source"] == "FUST_SERVE__STARTER"
    assert '"message": "ready"' in server.cli("logs", "-n", "100").stdout
    assert server.token not in server.cli("logs", "-n", "1000").stdout


def test_the_token_is_not_in_the_process_list(server: RunningFust) -> None:
    for process in [
        psutil.Process(server.process.pid),
        *psutil.Process(server.process.pid).children(recursive=True),
    ]:
        assert server.token not in " ".join(process.cmdline())


def test_a_killed_server_starts_again(tmp_path: Path) -> None:
    home = tmp_path / "home"
    first = start_fust(home)
    first.kill()
    assert (home / "server.json").exists()
    assert fust(home, "status").returncode == 1, "a stale server.json is not believed"
    second = start_fust(home)
    try:
        assert second.token == first.token
        assert second.request("GET", "/fust/v1/status")[0] == 200
    finally:
        second.stop()


def test_idle_connections_do_no_harm(server: RunningFust) -> None:
    host, port = "127.0.0.1", int(server.url.rsplit(":", 1)[1])
    idle = [socket.create_connection((host, port)) for _ in range(300)]
    try:
        started = time.monotonic()
        assert server.request("GET", "/healthz")[0] == 200
        assert time.monotonic() - started < 10
    finally:
        for connection in idle:
            connection.close()
