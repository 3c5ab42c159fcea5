"""Invitations: who may invite where, and that a link works once, for as long as it and its maker stand."""

from __future__ import annotations

import json
import threading
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy import text

from fust.accounts.rights import SYSTEM
from fust.accounts.service import Accounts
from fust.core.settings import Settings, load_settings
from fust.store.database import Database
from tests.conftest import RunningFust

PASSWORD = "a sentence is good"


def call(
    server: RunningFust,
    method: str,
    path: str,
    body: object = None,
    *,
    token: str | None = "",
    cookie: str = "",
) -> tuple[int, dict[str, object]]:
    headers = {"cookie": cookie, "sec-fetch-site": "same-origin"} if cookie else {}
    status, fields, answer = server.request(method, f"/fust/v1/{path}", body, token=token, headers=headers)
    document = json.loads(answer) if answer else {}
    return status, {**document, "cookie": fields.get("set-cookie", "").partition(";")[0]}


def invite(server: RunningFust, token: str = "", **body: object) -> str:
    status, made = call(server, "POST", "invitations", body, token=token)
    assert status == 201, made
    assert str(made["url"]).startswith(server.url + "/join?code=")
    return parse_qs(urlsplit(str(made["url"])).query)["code"][0]


def accept(server: RunningFust, code: str, cookie: str = "", **body: str) -> tuple[int, dict[str, object]]:
    return call(server, "POST", "invitations/accept", {"code": code, **body}, token=None, cookie=cookie)


@pytest.fixture(scope="module")
def server(server_of_each: RunningFust) -> RunningFust:
    return server_of_each


def settings_of(server: RunningFust) -> Settings:
    return load_settings(server.home, environ=server.environ)


def database_of(server: RunningFust) -> Database:
    return Database(settings_of(server).database_url)


def in_database(server: RunningFust, statement: str) -> None:
    database = database_of(server)
    with database.write() as session:
        session.execute(text(statement))
    database.close()


@pytest.fixture(scope="module")
def olga(server: RunningFust) -> str:
    """The token of somebody who administers the organisation lab, and nothing else."""
    database = database_of(server)
    accounts = Accounts(database, settings_of(server))
    accounts.users.create("olga", password=PASSWORD)
    accounts.organisations.create("lab", by=SYSTEM, owner="admin")
    accounts.organisations.set_member("lab", "olga", "admin", by=SYSTEM)
    secret = accounts.tokens.create("olga", "t", "write").secret
    database.close()
    return secret


def members(server: RunningFust, organisation: str = "lab") -> dict[str, str]:
    database = database_of(server)
    query = "SELECT name, role FROM members JOIN users ON users.id = user_id WHERE organisation = :name"
    with database.read() as session:
        found = {str(row[0]): str(row[1]) for row in session.execute(text(query), {"name": organisation})}
    database.close()
    return found


def test_somebody_new_joins_once(server: RunningFust, olga: str) -> None:
    code = invite(server, organisation="lab", role="write", note="for the new teacher")
    status, offer = call(server, "POST", "invitations/look", {"code": code}, token=None)
    assert status == 200 and (offer["organisation"], offer["role"], offer["invited_by"]) == (
        "lab",
        "write",
        "admin",
    )
    assert accept(server, code, name="maria", password="short")[0] == 400
    assert accept(server, code, name="olga", password=PASSWORD)[0] == 409
    assert accept(server, code, name="../x", password=PASSWORD)[0] == 400
    status, joined = accept(server, code, name="maria", password=PASSWORD)
    assert status == 200 and joined["organisation"] == "lab" and members(server)["maria"] == "write"
    assert (
        call(server, "GET", "session", token=None, cookie=str(joined["cookie"]))[1]["user"]["name"] == "maria"
    )  # type: ignore[index]
    assert accept(server, code, name="eve", password=PASSWORD)[0] == 404
    assert call(server, "POST", "invitations/look", {"code": code}, token=None)[0] == 404
    told = json.loads(server.request("GET", "/fust/v1/audit?text=maria")[2])["items"]
    assert {"user.create", "org.member", "invitation.accept", "session.create"} <= {e["action"] for e in told}
    assert code not in server.cli("audit", "export").stdout
    assert code.encode() not in b"".join(p.read_bytes() for p in server.home.glob("fust.db*"))


def test_somebody_with_an_account_joins(server: RunningFust, olga: str) -> None:
    server.request("POST", "/fust/v1/users", {"name": "paul", "password": PASSWORD})
    cookie = str(
        call(server, "POST", "session", {"name": "paul", "password": PASSWORD}, token=None)[1]["cookie"]
    )
    code = invite(server, olga, organisation="LAB")
    # Who only administers an organisation lets nobody new into this Fust.
    status, problem = accept(server, code, name="mallory", password=PASSWORD)
    assert status == 403 and "account here" in str(problem["detail"])
    assert accept(server, code, cookie)[0] == 200 and members(server)["paul"] == "read"
    # A lesser role than one has takes nothing away.
    assert accept(server, invite(server, organisation="lab", role="write"), cookie)[0] == 200
    assert accept(server, invite(server, organisation="lab", role="read"), cookie)[0] == 200
    assert members(server)["paul"] == "write"


def test_who_may_invite(server: RunningFust, olga: str) -> None:
    assert call(server, "POST", "invitations", {}, token=olga)[0] == 403
    assert call(server, "POST", "invitations", {"organisation": "lab", "role": "owner"}, token=olga)[0] == 403
    assert call(server, "POST", "invitations", {"organisation": "none"}, token=olga)[0] == 404
    assert call(server, "POST", "invitations", {"organisation": "lab", "role": "king"}, token=olga)[0] == 400
    assert call(server, "POST", "invitations", {"expires_s": 59})[0] == 400
    assert call(server, "POST", "invitations", {}, token=None)[0] == 401
    ours, everybodys = invite(server, olga, organisation="lab"), invite(server)
    seen = call(server, "GET", "invitations", token=olga)[1]["items"]
    assert {i["organisation"] for i in seen} == {"lab"} and ours not in str(seen)  # type: ignore[index]
    hidden = next(i for i in call(server, "GET", "invitations")[1]["items"] if i["organisation"] is None)  # type: ignore[index]
    assert call(server, "DELETE", f"invitations/{hidden['id']}", token=olga)[0] == 404
    assert call(server, "DELETE", f"invitations/{hidden['id']}")[0] == 204
    assert accept(server, everybodys, name="late", password=PASSWORD)[0] == 404


def test_an_invitation_falls_with_its_maker_and_its_time(server: RunningFust, olga: str) -> None:
    cookie = str(
        call(server, "POST", "session", {"name": "paul", "password": PASSWORD}, token=None)[1]["cookie"]
    )
    code = invite(server, olga, organisation="lab")
    in_database(
        server, "UPDATE members SET role = 'write' WHERE user_id = (SELECT id FROM users WHERE name = 'olga')"
    )
    assert accept(server, code, cookie)[0] == 404
    in_database(
        server, "UPDATE members SET role = 'admin' WHERE user_id = (SELECT id FROM users WHERE name = 'olga')"
    )
    in_database(server, "UPDATE users SET suspended = true WHERE name = 'olga'")
    assert accept(server, code, cookie)[0] == 404
    in_database(server, "UPDATE users SET suspended = false WHERE name = 'olga'")
    in_database(server, "UPDATE invitations SET expires_at = '2001-01-01 00:00:00' WHERE used_at IS NULL")
    assert accept(server, code, cookie)[0] == 404
    assert "expired" in {i["state"] for i in call(server, "GET", "invitations")[1]["items"]}  # type: ignore[index, union-attr]


@pytest.mark.faults
def test_two_who_have_the_same_link_do_not_both_get_in(server: RunningFust) -> None:
    code = invite(server)
    results: list[int] = []

    def join(i: int) -> None:
        results.append(accept(server, code, name=f"twin{i}", password=PASSWORD)[0])

    threads = [threading.Thread(target=join, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [200, 404, 404, 404, 404, 404]


def test_another_site_accepts_nothing(server: RunningFust) -> None:
    body = {"code": invite(server), "name": "lured", "password": PASSWORD}
    headers = {"sec-fetch-site": "cross-site"}
    assert server.request("POST", "/fust/v1/invitations/accept", body, token=None, headers=headers)[0] == 403


def test_on_the_command_line(server: RunningFust, olga: str) -> None:
    link = server.cli("invite", "--org", "lab", "--role", "write", "--expires", "2d").stdout.strip()
    assert link.startswith(server.url + "/join?code=")
    listed = server.cli("invite", "list").stdout
    assert "lab (write)" in listed and "open" in listed
    first = next(line.split()[0] for line in listed.splitlines() if " open " in line)
    server.cli("invite", "withdraw", first)
    assert accept(server, link.partition("=")[2], name="late", password=PASSWORD)[0] == 404
    wrong = server.cli("invite", "--expires", "soon", check=False)
    assert wrong.returncode == 1 and "'soon' is not a span of time" in wrong.stderr
