"""Sessions over HTTP: seen, ended one by one and everywhere; sign-in from another site; Retry-After."""

from __future__ import annotations

import json

import pytest

from tests.conftest import RunningFust


@pytest.fixture(scope="module")
def server(server_of_each: RunningFust) -> RunningFust:
    return server_of_each


OWN = {"sec-fetch-site": "same-origin"}


def sign_in(
    server: RunningFust, name: str = "eva", password: str = "a sentence is good", **headers: str
) -> str:
    body = {"name": name, "password": password}
    status, fields, answer = server.request("POST", "/fust/v1/session", body, token=None, headers=headers)
    assert status == 200, answer
    return fields["set-cookie"].partition(";")[0]


def test_sessions_are_seen_and_ended(server: RunningFust) -> None:
    body = {"name": "eva", "password": "a sentence is good"}
    assert server.request("POST", "/fust/v1/users", body)[0] == 201
    agent = "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0"
    here, there = sign_in(server, **{"user-agent": agent}), sign_in(server)

    def call(method: str, path: str, cookie: str = here, **headers: str) -> tuple[int, dict[str, str], bytes]:
        fields = {"cookie": cookie, **OWN, **headers}
        return server.request(method, f"/fust/v1/{path}", token=None, headers=fields)

    found = json.loads(call("GET", "sessions")[2])["items"]
    assert [(s["current"], s["device"], s["how"]) for s in found].count(
        (True, "Firefox, Linux", "password")
    ) == 1
    assert len(found) == 2 and found[0]["address"] == "127.0.0.1"
    (other,) = [session for session in found if not session["current"]]
    assert call("DELETE", f"sessions/{other['id']}", **{"sec-fetch-site": "cross-site"})[0] == 403
    assert call("DELETE", f"sessions/{other['id']}")[0] == 204
    assert call("DELETE", f"sessions/{other['id']}")[0] == 404
    assert call("GET", "sessions", there)[0] == 401
    third = sign_in(server)
    assert json.loads(call("DELETE", "sessions?others=true")[2]) == {"ended": 1}
    assert call("GET", "sessions", third)[0] == 401 and call("GET", "sessions")[0] == 200
    status, fields, _ = call("DELETE", "sessions")
    assert status == 200 and "Max-Age=0" in fields["set-cookie"] and call("GET", "sessions")[0] == 401
    fourth = sign_in(server)
    assert json.loads(server.request("POST", "/fust/v1/users/eva/sign-out")[2]) == {"ended": 1}
    assert call("GET", "sessions", fourth)[0] == 401
    assert call("POST", "users/admin/sign-out", sign_in(server))[0] == 403


def test_another_site_signs_nobody_in(server: RunningFust) -> None:
    for headers in ({"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example"}, {"origin": "null"}):
        body = {"token": server.token}
        status, fields, _ = server.request("POST", "/fust/v1/session", body, token=None, headers=headers)
        assert status == 403 and "set-cookie" not in fields


def test_guessing_is_told_when_to_try_again(server: RunningFust) -> None:
    for _ in range(10):
        body = {"name": "nobody", "password": "wrong guess"}
        assert server.request("POST", "/fust/v1/session", body, token=None)[0] == 401
    status, fields, _ = server.request("POST", "/fust/v1/session", body, token=None)
    assert status == 429 and 0 < int(fields["retry-after"]) <= 60
    told = json.loads(server.request("GET", "/fust/v1/audit?action=session.refuse")[2])["items"]
    assert len(told) == 10 and told[0]["detail"]["stopped"] is True and "nobody" not in str(told)
