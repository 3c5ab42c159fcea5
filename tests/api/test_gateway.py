"""The model surface over real engines: answers, streams, errors, who may, what is counted."""

from __future__ import annotations

import base64
import json
import socket
import sqlite3
import struct
import threading
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tests.support.model_house import House, running_house
from tests.support.small_models import write_llama, write_repos

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("gateway")
    with running_house(folder / "home", write_repos(folder / "models"), "serve.threads=1") as house:
        for name in ("acme/chat", "acme/plain", "acme/pooled", "private/secret"):
            assert house.serve(name)["state"] == "ready"
        house.serve("acme/chat", alias="tiny")
        yield house


def ask(house: House, **fields: Any) -> dict[str, Any]:
    return house.json(
        "POST", "/v1/chat/completions", {"model": "tiny", "messages": HELLO, "max_tokens": 5, **fields}
    )


def refused(house: House, path: str = "/v1/chat/completions", **fields: Any) -> tuple[int, dict[str, Any]]:
    body = {"model": "tiny", "messages": HELLO, **fields} if "chat" in path else {"model": "tiny", **fields}
    status, headers, answer = house.request("POST", path, body)
    assert headers["x-request-id"]
    error = json.loads(answer)["error"]
    assert error["request_id"] == headers["x-request-id"]
    return status, error


def stream(house: House, path: str = "/v1/chat/completions", **fields: Any) -> list[dict[str, Any]]:
    body = {"model": "tiny", "max_tokens": 5, "stream": True, **fields}
    if "chat" in path:
        body.setdefault("messages", HELLO)
    status, headers, answer = house.request("POST", path, body)
    assert status == 200, answer
    assert headers["content-type"].startswith("text/event-stream")
    events = [line[6:] for line in answer.decode().split("\n\n") if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    return [json.loads(event) for event in events[:-1]]


def usage_rows(house: House) -> list[dict[str, Any]]:
    time.sleep(1.3)
    with sqlite3.connect(house.home / "fust.db") as connection:
        connection.row_factory = sqlite3.Row
        rows = [dict(row) for row in connection.execute("SELECT * FROM usage ORDER BY created_at")]
    connection.close()
    return rows


def test_models(house: House) -> None:
    listed = {entry["id"]: entry for entry in house.json("GET", "/v1/models")["data"]}
    assert {"acme/chat", "tiny", "acme/plain", "private/secret"} <= set(listed)
    assert listed["acme/chat"]["owned_by"] == "acme"
    assert house.json("GET", "/v1/models/acme/chat")["id"] == "acme/chat"
    assert house.json("GET", "/v1/models/acme%2Fchat")["id"] == "acme/chat"
    assert house.json("GET", "/v1/models/tiny")["id"] == "tiny"
    status, _, answer = house.request("GET", "/v1/models/no/such")
    assert (status, json.loads(answer)["error"]["code"]) == (404, "model_not_found")


def test_a_chat(house: House) -> None:
    answer = ask(house, temperature=0)
    assert answer["model"] == "tiny"
    assert answer["object"] == "chat.completion"
    assert answer["usage"]["completion_tokens"] == 5
    assert answer["choices"][0]["finish_reason"] == "length"
    again = ask(house, model="acme/chat", temperature=0)
    assert again["model"] == "acme/chat"
    assert again["choices"][0]["message"] == answer["choices"][0]["message"]


def test_seed_and_stop(house: House) -> None:
    one, same = (
        ask(house, seed=3, temperature=1, max_tokens=20)["choices"][0]["message"]["content"] for _ in "ab"
    )
    assert one == same
    assert one != ask(house, seed=4, temperature=1, max_tokens=20)["choices"][0]["message"]["content"]
    word = one.strip()[2:4]
    cut = ask(house, seed=3, temperature=1, max_tokens=20, stop=[word])["choices"][0]
    assert cut["finish_reason"] == "stop"
    assert cut["message"]["content"] == one[: one.index(word)]


def test_logit_bias_is_honoured(house: House) -> None:
    forced = ask(house, logit_bias={"400": 100}, temperature=0, logprobs=True)["choices"][0]
    assert len({token["token"] for token in forced["logprobs"]["content"]}) == 1
    first = forced["logprobs"]["content"][0]["token"]
    banned = ask(house, logit_bias={"400": -100}, temperature=0)["choices"][0]["message"]["content"]
    assert first.strip() not in banned.split()


def test_a_stream_with_and_without_usage(house: House) -> None:
    whole = ask(house, temperature=0)["choices"][0]["message"]["content"]
    chunks = stream(house, temperature=0, stream_options={"include_usage": True})
    text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])
    assert text == whole
    assert {chunk["model"] for chunk in chunks} == {"tiny"}
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 5
    assert all(chunk["choices"] for chunk in stream(house, temperature=0))


def test_several_choices_count_every_token(house: House) -> None:
    answer = ask(house, n=3, seed=1, temperature=1)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert len({choice["message"]["content"] for choice in answer["choices"]}) > 1
    assert answer["usage"]["completion_tokens"] == 15
    single = ask(house, seed=1, temperature=1)["usage"]["prompt_tokens"]
    assert answer["usage"]["prompt_tokens"] == single
    chunks = stream(house, n=3, seed=1, temperature=1, stream_options={"include_usage": True})
    assert {c["choices"][0]["index"] for c in chunks[:-1]} == {0, 1, 2}
    assert len({c["id"] for c in chunks}) == 1
    assert chunks[-1]["usage"]["completion_tokens"] == 15


def test_log_probabilities(house: House) -> None:
    content = ask(house, temperature=0, logprobs=True, top_logprobs=3)["choices"][0]["logprobs"]["content"]
    assert len(content) == 5
    for token in content:
        assert len(token["top_logprobs"]) == 3
        assert token["top_logprobs"][0]["logprob"] == pytest.approx(token["logprob"])
        assert token["logprob"] < 0
    old = house.json(
        "POST",
        "/v1/completions",
        {"model": "tiny", "prompt": "ba be", "max_tokens": 4, "temperature": 0, "logprobs": 2},
    )["choices"][0]
    assert len(old["logprobs"]["tokens"]) == len(old["logprobs"]["token_logprobs"]) == 4
    assert all(len(top) == 2 for top in old["logprobs"]["top_logprobs"])
    chunks = stream(house, "/v1/completions", prompt="ba be", max_tokens=4, temperature=0, logprobs=2)
    streamed = [
        t for c in chunks if c["choices"][0].get("logprobs") for t in c["choices"][0]["logprobs"]["tokens"]
    ]
    assert streamed == old["logprobs"]["tokens"]


def test_json_schema_is_kept(house: House) -> None:
    schema = {
        "type": "object",
        "properties": {
            "n": {"type": "integer", "minimum": 0, "maximum": 9},
            "city": {"enum": ["Oslo", "Lima"]},
        },
        "required": ["n", "city"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    for seed in range(3):
        answer = ask(house, response_format=form, max_tokens=60, seed=seed)["choices"][0]["message"][
            "content"
        ]
        value = json.loads(answer)
        assert set(value) == {"n", "city"}
        assert value["city"] in ("Oslo", "Lima")
    status, error = refused(
        house,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}},
    )
    assert (status, error["type"]) == (400, "invalid_request_error")


def test_tools_pass_through(house: House) -> None:
    tool = {
        "type": "function",
        "function": {"name": "now", "parameters": {"type": "object", "properties": {}}},
    }
    assert ask(house, tools=[tool], tool_choice="auto")["choices"]
    forced = ask(house, tools=[tool], tool_choice="required", max_tokens=100)["choices"][0]
    assert forced["finish_reason"] == "tool_calls"
    assert forced["message"]["tool_calls"][0]["function"]["name"] == "now"
    assert refused(house, tool_choice="required")[1]["param"] == "tool_choice"


def test_completions_of_text_tokens_and_lists(house: House) -> None:
    def complete(prompt: Any, **more: Any) -> dict[str, Any]:
        body = {"model": "tiny", "prompt": prompt, "max_tokens": 3, "temperature": 0, **more}
        return house.json("POST", "/v1/completions", body)

    one, other = complete("ba be"), complete("ra ra")
    both = complete(["ba be", "ra ra"])
    assert [c["text"] for c in both["choices"]] == [one["choices"][0]["text"], other["choices"][0]["text"]]
    assert both["usage"]["prompt_tokens"] == one["usage"]["prompt_tokens"] + other["usage"]["prompt_tokens"]
    assert both["usage"]["completion_tokens"] == 6
    assert complete([1, 300, 301])["usage"]["prompt_tokens"] == 3
    assert len(complete([[1, 300], [1, 301]])["choices"]) == 2


def test_embeddings(house: House) -> None:
    def embed(model: str, text: Any, form: str | None = None) -> list[Any]:
        body = {"model": model, "input": text, **({"encoding_format": form} if form else {})}
        answer = house.json("POST", "/v1/embeddings", body)
        assert answer["model"] == model
        return [item["embedding"] for item in answer["data"]]

    (vector,) = embed("tiny", "ba be")
    assert len(vector) == 64
    assert sum(x * x for x in vector) == pytest.approx(1, abs=1e-3)
    (packed,) = embed("tiny", "ba be", "base64")
    assert struct.unpack("<64f", base64.b64decode(packed)) == pytest.approx(vector, abs=1e-5)
    assert embed("tiny", ["ba be", "ra"])[0] == pytest.approx(vector, abs=1e-3)
    embed("acme/pooled", "ba be")
    states = {d["name"]: d for d in house.json("GET", "/fust/v1/deployments")["items"]}
    assert (states["acme/chat"]["pooling"], states["acme/pooled"]["pooling"]) == ("mean", "last")
    assert any("the file does not say how" in why for why in states["acme/chat"]["why"])
    status, error = refused(house, "/v1/embeddings", input="ba " * 5000)
    assert (status, error["code"]) == (400, "context_length_exceeded")


def test_errors_have_the_vendors_form(house: House) -> None:
    assert refused(house, model="no/such")[1]["code"] == "model_not_found"
    assert refused(house, model="no/such")[0] == 404
    status, error = refused(house, messages=[{"role": "user", "content": "ba " * 9000}])
    assert (status, error["code"], error["param"]) == (400, "context_length_exceeded", "messages")
    assert refused(house, foo=1)[1]["param"] == "foo"
    status, error = refused(house, model="acme/plain")
    assert (status, error["code"]) == (400, "no_chat_template")
    assert "/v1/completions" in error["message"]
    body = {"model": "acme/plain", "prompt": "ba", "max_tokens": 2}
    assert house.json("POST", "/v1/completions", body)["choices"][0]["text"]
    assert house.request("POST", "/v1/chat/completions", raw=b"{")[0] == 400
    assert house.request("POST", "/v1/chat/completions", raw=b"")[0] == 400
    assert house.request("GET", "/v1/chat/completions")[0] == 405
    assert house.request("POST", "/v1/nothing", {})[0] == 404


def test_errors_in_chinese(house: House) -> None:
    request = urllib.request.Request(
        house.url + "/v1/models/no/such",
        headers={"authorization": f"Bearer {house.token}", "accept-language": "zh-CN"},
    )
    with pytest.raises(urllib.error.HTTPError) as caught, urllib.request.urlopen(request):
        pass
    with caught.value as error:
        assert "这里没有模型" in json.loads(error.read())["error"]["message"]


def test_who_may(house: House) -> None:
    body = {"model": "private/secret", "messages": HELLO, "max_tokens": 1}
    for token, status in ((None, 401), ("fust_wrong", 401), (house.reader, 404), (house.token, 200)):
        assert house.request("POST", "/v1/chat/completions", body, token=token)[0] == status
    assert house.request("GET", "/v1/models", token=None)[0] == 401
    names = [entry["id"] for entry in house.json("GET", "/v1/models", token=house.reader)["data"]]
    assert "private/secret" not in names
    assert "acme/chat" in names
    assert house.request("GET", "/v1/models/private/secret", token=house.reader)[0] == 404
    missing = house.request(
        "POST", "/v1/chat/completions", {**body, "model": "private/nothing"}, token=house.reader
    )
    hidden = house.request("POST", "/v1/chat/completions", body, token=house.reader)
    strip = [json.loads(a[2])["error"]["message"].replace("nothing", "secret") for a in (missing, hidden)]
    assert strip[0] == strip[1]
    request = urllib.request.Request(house.url + "/v1/models", headers={"x-api-key": house.reader})
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200


def test_deployments_follow_the_rights(house: House) -> None:
    names = [d["name"] for d in house.json("GET", "/fust/v1/deployments", token=house.reader)["items"]]
    assert "private/secret" not in names
    assert house.request("GET", "/fust/v1/deployments", token=None)[0] == 401
    assert (
        house.request("POST", "/fust/v1/deployments", {"repo_id": "acme/chat"}, token=house.reader)[0] == 403
    )
    found = next(
        d for d in house.json("GET", "/fust/v1/deployments")["items"] if d["name"] == "private/secret"
    )
    assert house.request("GET", f"/fust/v1/deployments/{found['id']}", token=house.reader)[0] == 404
    assert house.request("DELETE", f"/fust/v1/deployments/{found['id']}", token=house.reader)[0] == 403


def test_bodies_are_bounded(house: House) -> None:
    with socket.create_connection(("127.0.0.1", int(house.url.rsplit(":", 1)[1]))) as client:
        client.sendall(
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {house.token}\r\n"
            "Content-Length: 99999999999\r\n\r\n{".encode()
        )
        client.settimeout(10)
        assert b" 413 " in client.recv(4096)
    deep = b'{"model":"tiny","messages":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}"
    assert house.request("POST", "/v1/chat/completions", raw=deep)[0] == 400
    assert ask(house)["choices"]


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_leaves_stops_the_engine(house: House, streamed: bool) -> None:
    """The engine's slots are free at once, not after thousands of tokens (this model would take many seconds)."""
    file = house.models / "acme/slow/slow.gguf"
    if not file.exists():
        write_llama(file, layers=8, width=512, heads=8, feed_forward=1536, vocabulary=4000, half=True)
    before_all = set(house.engine_pids())
    house.serve("acme/slow")
    fields = {
        "model": "acme/slow",
        "messages": HELLO,
        "stream": streamed,
        "max_tokens": 2000,
        "ignore_eos": True,
    }
    body = json.dumps(fields).encode()

    def leave_early() -> None:
        with socket.create_connection(("127.0.0.1", int(house.url.rsplit(":", 1)[1]))) as client:
            client.sendall(
                f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {house.token}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            if streamed:
                assert client.recv(1000)
            else:
                time.sleep(0.3)

    before = len([row for row in usage_rows(house) if row["status"] == 499])
    threads = [threading.Thread(target=leave_early) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    time.sleep(
        0.5 if streamed else 1.5
    )  # of whole answers the engine looks once a second whether anybody waits
    (pid,) = set(house.engine_pids()) - before_all
    engine = psutil.Process(pid)
    spent = engine.cpu_times().user
    time.sleep(0.6)
    assert engine.cpu_times().user - spent < 0.1
    assert len([row for row in usage_rows(house) if row["status"] == 499]) == before + 4
    house.json("DELETE", f"/fust/v1/deployments/{house.serve('acme/slow')['id']}")


def test_a_slow_reader_harms_nobody(house: House) -> None:
    body = json.dumps(
        {"model": "tiny", "messages": HELLO, "stream": True, "max_tokens": 1500, "ignore_eos": True}
    ).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {house.token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    clients = []
    for _ in range(6):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.connect(("127.0.0.1", int(house.url.rsplit(":", 1)[1])))
        client.sendall(head + body)
        clients.append(client)
    started = time.monotonic()
    assert ask(house)["choices"]
    assert time.monotonic() - started < 20
    for client in clients:
        client.close()


def test_usage_is_written(house: House) -> None:
    ask(house, temperature=0)
    stream(house)
    refused(house, model="no/such")
    rows = usage_rows(house)[-3:]
    assert [row["status"] for row in rows] == [200, 200, 404]
    assert [row["stream"] for row in rows] == [0, 1, 0]
    assert rows[0]["completion_tokens"] == rows[1]["completion_tokens"] == 5
    assert rows[0]["user_name"] == "admin"
    assert rows[1]["ttft_ms"] > 0
    assert rows[0]["repo_id"] == "acme/chat"
    assert "hello" not in json.dumps(rows)


def test_many_at_once(house: House) -> None:
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda: answers.append(ask(house, temperature=0))) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 24
    assert len({a["choices"][0]["message"]["content"] for a in answers}) == 1


def test_a_key_for_one_model_knows_no_other(house: House) -> None:
    key = house.tokens["tiny only"]
    listed = json.loads(house.request("GET", "/v1/models", token=key)[2])["data"]
    assert {model["id"] for model in listed} == {"tiny", "acme/chat"}, "a model and its alias are one"
    body = {"messages": HELLO, "max_tokens": 3}
    for _ in range(2):  # the second time the quick way answers, which asks no database
        for model in ("tiny", "acme/chat"):
            assert (
                house.request("POST", "/v1/chat/completions", {"model": model, **body}, token=key)[0] == 200
            )
        for model in ("acme/plain", "private/secret", "none/such"):
            status, _, answer = house.request(
                "POST", "/v1/chat/completions", {"model": model, **body}, token=key
            )
            assert status == 404 and json.loads(answer)["error"]["code"] == "model_not_found"
    assert house.request("GET", "/v1/models/acme/plain", token=key)[0] == 404
    served = json.loads(house.request("GET", "/fust/v1/deployments", token=key)[2])["items"]
    assert [d["name"] for d in served] == ["acme/chat"]
    assert house.request("DELETE", f"/fust/v1/deployments/{served[0]['id']}", token=key)[0] == 403
    assert house.request("POST", "/fust/v1/deployments", {"repo_id": "acme/plain"}, token=key)[0] == 403
    assert house.json("GET", f"/fust/v1/deployments/{served[0]['id']}")["state"] == "ready"
    gone = house.tokens["repo only"]
    assert json.loads(house.request("GET", "/v1/models", token=gone)[2])["data"] == []
    assert house.request("POST", "/v1/chat/completions", {"model": "tiny", **body}, token=gone)[0] == 404
