"""The history of conversations: kept, found, exported, deleted, switched off; and nobody else's."""

from __future__ import annotations

import json
import sqlite3
import threading
from typing import Any

import pytest

from tests.conftest import RunningFust

SAME_SITE = {"sec-fetch-site": "same-origin"}


def ask(server: RunningFust, method: str, path: str, body: object = None, *, token: str = "") -> Any:
    """Sends a request that is to succeed; returns its JSON."""
    status, _, answer = server.request(method, f"/fust/v1/chats{path}", body, token=token)
    assert status < 300, answer
    return json.loads(answer) if answer else None


def begin(server: RunningFust, title: str = "Ice", *, token: str = "", **settings: Any) -> str:
    return ask(server, "POST", "", {"title": title, "settings": settings}, token=token)["id"]


def say(
    server: RunningFust,
    chat: str,
    turn: str,
    text: str,
    parent: str | None = None,
    *,
    token: str = "",
    **more: Any,
) -> Any:
    role = more.pop("role", "user")
    body = {"role": role, "text": text, "parent": parent, **more}
    return ask(server, "PUT", f"/{chat}/turns/{turn}", body, token=token)


@pytest.fixture(scope="module")
def other(server: RunningFust) -> str:
    """A write key of another user."""
    return make_user(server, "asha")


def make_user(server: RunningFust, name: str, scope: str = "write") -> str:
    password = "a long enough pass phrase"
    status, _, body = server.request("POST", "/fust/v1/users", {"name": name, "password": password})
    assert status == 201, body
    status, headers, body = server.request(
        "POST", "/fust/v1/session", {"name": name, "password": password}, token=None
    )
    assert status == 200, body
    cookie = {"cookie": headers["set-cookie"].split(";")[0], **SAME_SITE}
    status, _, body = server.request(
        "POST", "/fust/v1/tokens", {"name": "tests", "scope": scope}, token=None, headers=cookie
    )
    assert status == 201, body
    return json.loads(body)["token"]


def test_a_conversation_is_kept_with_its_branches_and_settings(server: RunningFust) -> None:
    chat = begin(server, system="Be brief.", temperature=0.3, stop=["END"], seed=7)
    files = [{"name": "notes.txt", "text": "cold\nwater"}]
    say(server, chat, "a", "Why does ice float?", files=files)
    stats = {"tokens": 3, "tokens_per_s": 2.5, "ttft_s": 0.1, "prompt_tokens": 9}
    say(server, chat, "b", "It is light.", "a", role="assistant", model="starter", stats=stats)
    say(server, chat, "c", "Why does ice float on water?")  # an edit of the first message
    kept = ask(server, "GET", f"/{chat}")
    assert kept["settings"] == {"system": "Be brief.", "temperature": 0.3, "stop": ["END"], "seed": 7}
    assert [(it["id"], it["parent"]) for it in kept["turns"]] == [("a", None), ("b", "a"), ("c", None)]
    assert kept["turns"][0]["files"] == files
    assert kept["turns"][1]["stats"] == stats
    assert kept["leaf"] == "c"
    ask(server, "PATCH", f"/{chat}", {"leaf": "b", "title": "Ice and water"})
    again = ask(server, "GET", f"/{chat}")
    assert (again["leaf"], again["title"]) == ("b", "Ice and water")
    assert again["settings"] == kept["settings"]


def test_an_answer_grows_and_is_never_put_back(server: RunningFust) -> None:
    chat = begin(server)
    say(server, chat, "a", "Hello")
    say(server, chat, "b", "On", "a", role="assistant", state="growing")
    say(server, chat, "b", "Once upon", "a", role="assistant", state="stopped")
    say(server, chat, "b", "On", "a", role="assistant", state="growing")  # overtaken on its way
    turns = ask(server, "GET", f"/{chat}")["turns"]
    assert [(it["text"], it["state"]) for it in turns] == [("Hello", "done"), ("Once upon", "stopped")]


@pytest.mark.parametrize(
    ("turn", "body"),
    [
        ("x", {"role": "user", "text": "no such parent", "parent": "nowhere"}),
        ("a", {"role": "assistant", "text": "another role than before"}),
        ("x", {"role": "user", "text": "x" * 1_000_001}),
        ("x", {"role": "system", "text": "no such role"}),
        ("x", {"role": "user", "text": "", "files": [{"name": "a", "text": "x" * 256_001}]}),
        ("x", {"role": "user", "text": "", "files": [{"name": "a", "text": "x"}] * 6}),
        ("x", {"role": "user", "text": "", "unknown": 1}),
        ("../x", {"role": "user", "text": "a path"}),
        ("x" * 41, {"role": "user", "text": "a long id"}),
    ],
)
def test_what_is_wrong_is_refused(server: RunningFust, turn: str, body: dict[str, Any]) -> None:
    chat = begin(server)
    say(server, chat, "a", "Hello")
    status, _, answer = server.request("PUT", f"/fust/v1/chats/{chat}/turns/{turn}", body)
    assert status in (400, 404), answer
    assert len(ask(server, "GET", f"/{chat}")["turns"]) == 1


def test_strange_text_is_kept_as_text(server: RunningFust) -> None:
    strange = "<img src=x onerror=alert(1)>\x00 \u202e ‮ 🦁 \ud7ff 𠮷 '\"`; DROP TABLE chats; -- %_/"
    chat = begin(server, title=strange)
    say(server, chat, "a", strange)
    kept = ask(server, "GET", f"/{chat}")
    assert kept["turns"][0]["text"] == kept["title"] == strange.replace("\x00", "\ufffd")
    lone = rb'{"role": "user", "text": "half a letter: \ud83e"}'
    status, _, answer = server.request("PUT", f"/fust/v1/chats/{chat}/turns/b", lone)
    assert status in (200, 400), answer
    for form in ("json", "markdown"):
        status, headers, body = server.request("GET", f"/fust/v1/chats/{chat}/export?format={form}")
        assert status == 200, body
        assert "\n" not in headers["content-disposition"]


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("模型", True),  # two characters in the middle of a run of them
        ("КОТЁНОК", True),  # case of other scripts
        ("ｆｌｏａｔ", True),  # full width
        ("lion float", True),  # words of different messages
        ("title-word", True),
        ("notes.txt", True),
        ("lion elephant", False),
        ("%", False),
        ("_loat", False),
    ],
)
def test_search_finds_parts_of_words_in_any_script(server: RunningFust, search: str, found: bool) -> None:
    token = search_home(server)
    from urllib.parse import quote

    lines = ask(server, "GET", f"?search={quote(search)}", token=token)
    assert [it["title"] for it in lines["items"]] == (["A title-word here"] if found else [])
    assert lines["total"] == int(found)


_SEARCHED: dict[str, str] = {}


def search_home(server: RunningFust) -> str:
    if server.url not in _SEARCHED:
        token = _SEARCHED[server.url] = make_user(server, "searcher")
        chat = begin(server, "A title-word here", token=token)
        say(server, chat, "a", "通义千问开源大模型好吗？ Расскажи про котёнка", token=token)
        say(server, chat, "b", "The котёнок said: things float.", "a", token=token, role="assistant")
        files = [{"name": "notes.txt", "text": "x"}]
        say(server, chat, "c", "And the LION?", "b", token=token, files=files)
        begin(server, "Another", token=token)
    return _SEARCHED[server.url]


def test_a_search_shows_where_it_matched(server: RunningFust) -> None:
    token = search_home(server)
    line = ask(server, "GET", "?search=lion", token=token)["items"][0]
    assert line["found"] == "And the LION?"


def test_pages_follow_each_other(server: RunningFust) -> None:
    token = make_user(server, "pager")
    made = [begin(server, f"Chat {i}", token=token) for i in range(7)]
    seen: list[str] = []
    cursor = ""
    while True:
        page = ask(server, "GET", f"?limit=3{cursor}", token=token)
        assert page["total"] == 7
        seen += [it["id"] for it in page["items"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert seen == made[::-1]
    assert server.request("GET", "/fust/v1/chats?cursor=nonsense")[0] == 400


def test_nobody_sees_the_conversations_of_others(server: RunningFust, other: str) -> None:
    mine = begin(server, "Mine, of an administrator")
    theirs = begin(server, "Theirs", token=other)
    say(server, theirs, "a", "a secret", token=other)
    for chat, key in ((mine, other), (theirs, "")):  # the second: the administrator's key
        turn = {"role": "user", "text": "pushed in"}
        for method, path, body in (
            ("GET", f"/{chat}", None),
            ("GET", f"/{chat}/export", None),
            ("PATCH", f"/{chat}", {"title": "taken"}),
            ("PUT", f"/{chat}/turns/z", turn),
            ("DELETE", f"/{chat}", None),
        ):
            status, _, answer = server.request(method, f"/fust/v1/chats{path}", body, token=key)
            assert status == 404, (method, path, answer)
    assert "Theirs" not in [it["title"] for it in ask(server, "GET", "")["items"]]
    assert ask(server, "GET", "?search=secret")["items"] == []
    assert "a secret" not in json.dumps(ask(server, "GET", "/export"))
    ask(server, "DELETE", "")
    assert [it["title"] for it in ask(server, "GET", "", token=other)["items"]] == ["Theirs"]


def test_who_may_only_read_or_is_nobody_sees_no_history(server: RunningFust) -> None:
    chat = begin(server)
    reader = make_user(server, "reader", "read")
    for path in ("", "/history", "/export", f"/{chat}"):
        assert server.request("GET", f"/fust/v1/chats{path}", token=reader)[0] == 403, path
        assert server.request("GET", f"/fust/v1/chats{path}", token=None)[0] == 401, path


def test_off_nothing_is_written(server: RunningFust) -> None:
    token = make_user(server, "private")
    chat = begin(server, "Before", token=token)
    assert ask(server, "GET", "/history", token=token) == {"keep": True}
    ask(server, "PUT", "/history", {"keep": False}, token=token)
    for method, path, body in (
        ("POST", "", {"title": "unseen words"}),
        ("PUT", f"/{chat}/turns/a", {"role": "user", "text": "unseen words"}),
    ):
        status, _, answer = server.request(method, f"/fust/v1/chats{path}", body, token=token)
        assert status == 409
        assert json.loads(answer)["code"] == "history_off"
    database = server.home / "fust.db"
    written = b"".join(path.read_bytes() for path in database.parent.glob("fust.db*"))
    assert b"unseen words" not in written
    assert [it["title"] for it in ask(server, "GET", "", token=token)["items"]] == ["Before"]
    ask(server, "DELETE", f"/{chat}", token=token)
    ask(server, "PUT", "/history", {"keep": True}, token=token)
    begin(server, "After", token=token)


def test_exports_hold_everything_and_can_be_read(server: RunningFust) -> None:
    token = make_user(server, "exporter")
    chat = begin(server, "年/月: “报告”\n# not a heading", token=token, system="Be brief.", top_p=0.5)
    files = [
        {"name": "code.md", "text": "```\nfence\n```"},
        {"name": "a [red] one.jpg", "text": "data:image/jpeg;base64,/9j/4AAQ"},
    ]
    say(server, chat, "a", "first", token=token, files=files)
    say(server, chat, "b", "an answer", "a", token=token, role="assistant", model="m", state="stopped")
    say(server, chat, "c", "another answer", "a", token=token, role="assistant", model="m")
    second = begin(server, "Second", token=token)
    whole = ask(server, "GET", "/export", token=token)
    assert whole["format"] == "fust-chats-1"
    assert [it["id"] for it in whole["chats"]] == [second, chat]
    assert whole["chats"][1] == ask(server, "GET", f"/{chat}", token=token)
    one = ask(server, "GET", f"/{chat}/export", token=token)
    assert one["chats"] == [whole["chats"][1]]

    _, headers, body = server.request("GET", f"/fust/v1/chats/{chat}/export?format=markdown", token=token)
    text = body.decode()
    assert headers["content-type"].startswith("text/markdown")
    assert "/" not in headers["content-disposition"].partition("filename")[2].replace("UTF-8''", "")
    assert text.startswith("# 年/月: “报告” # not a heading\n")
    assert "````\n```\nfence\n```\n````" in text
    assert "![a red one.jpg](data:image/jpeg;base64,/9j/4AAQ)" in text
    assert "another answer" in text
    assert "\nan answer" not in text  # the branch that is shown, and where the rest is
    assert "1 messages of other versions" in text
    chinese = {"accept-language": "zh-CN"}
    path = f"/fust/v1/chats/{chat}/export?format=markdown"
    assert "其他版本" in server.request("GET", path, token=token, headers=chinese)[2].decode()
    _, _, body = server.request("GET", "/fust/v1/chats/export?format=markdown", token=token)
    assert body.decode().count("\n---\n") == 1


def test_conversations_go_with_their_user(server: RunningFust) -> None:
    token = make_user(server, "leaver")
    chat = begin(server, token=token)
    say(server, chat, "a", "Hello", token=token)
    ask(server, "PUT", "/history", {"keep": True}, token=token)
    with sqlite3.connect(server.home / "fust.db") as database:
        database.execute("PRAGMA foreign_keys=ON")
        database.execute("DELETE FROM users WHERE name = 'leaver'")
        database.commit()
        for table, column in (("chats", "id"), ("chat_turns", "chat_id")):
            left = database.execute(f"SELECT count(*) FROM {table} WHERE {column} = ?", (chat,)).fetchone()
            assert left == (0,)
    database.close()


def test_two_windows_at_once_lose_nothing(server: RunningFust) -> None:
    chat = begin(server)
    say(server, chat, "root", "Hello")

    def write(window: str) -> None:
        for i in range(10):
            say(server, chat, f"{window}{i}", f"{window} {i}", f"{window}{i - 1}" if i else "root")

    threads = [threading.Thread(target=write, args=(window,)) for window in "pq"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    turns = {it["id"]: it["parent"] for it in ask(server, "GET", f"/{chat}")["turns"]}
    assert len(turns) == 21
    assert turns["p0"] == turns["q0"] == "root"
    assert turns["q9"] == "q8"
