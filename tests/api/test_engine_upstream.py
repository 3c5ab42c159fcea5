"""APIs elsewhere as models of this Fust: what passes, what is translated, what is refused, and where the key may be seen."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import openai
import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from openai import OpenAI
from sqlalchemy import create_engine, text

from fust.core.errors import InvalidInput
from fust.serve.engines.upstream import read_wish
from fust.serve.engines.upstream_words import Estimate, events_of, request_of, usage_in_words
from tests.support.leaving import leave_midstream, wait_until_idle
from tests.support.model_house import House, running_house

SAY: list[Any] = [{"role": "user", "content": "Say 你好, please."}]
KEY = "sk-never-to-be-seen-0123456789"
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "strict": True,
        "parameters": {
            "type": "object", "properties": {"city": {"enum": ["Oslo"]}}, "required": ["city"], "additionalProperties": False,
        },
    },
}  # fmt: skip


class Odd(BaseHTTPRequestHandler):
    """An API with the oddities of many: what it does is in the model's name."""

    protocol_version = "HTTP/1.1"
    seen: ClassVar[list[tuple[str, dict[str, str], dict[str, Any]]]] = []

    def do_GET(self) -> None:
        self._say(200, {"data": [{"id": "plain", "context_length": 777, "supported_parameters": ["tools"]}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        model = body["model"]
        if self.headers["authorization"] != f"Bearer {KEY}":
            self._say(401, {"error": {"message": f"bad key {self.headers['authorization']}"}})
        elif model == "newer" and "max_tokens" in body:
            self._say(
                400,
                {
                    "error": {
                        "message": "Use 'max_completion_tokens' instead of 'max_tokens'.",
                        "param": "max_tokens",
                    }
                },
            )
        elif model == "old" and "stream_options" in body:
            self._say(400, {"detail": "unknown field stream_options"})
        elif model == "moved":
            self._say(302, {}, {"location": f"http://127.0.0.1:{self.server.server_address[1]}/v1/elsewhere"})
        elif model == "limited":
            self._say(
                429, {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}, {"retry-after": "7"}
            )
        elif model == "gone":
            self._say(404, {"error": {"message": "no such model"}})
        elif model == "long":
            self._say(400, {"error": {"message": "too long", "code": "context_length_exceeded"}})
        elif model == "leaky":
            self._say(500, {"error": f"my key is {KEY}"})
        elif model == "ghastly":
            self._say(200, {"choices": [1, None], "usage": {"prompt_tokens": "many"}})
        elif body.get("stream"):
            self._stream(model)
        else:
            choice = {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": "hello there"},
            }
            self._say(
                200,
                {
                    "id": "x",
                    "object": "chat.completion",
                    "created": 1,
                    "model": "plain-2026",
                    "choices": [choice],
                },
            )

    def _say(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {
            "content-type": "application/json",
            "content-length": str(len(raw)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw)

    def _stream(self, model: str) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        self.wfile.write(b': PROCESSING\r\n\r\ndata:{"choices":[],"prompt_filter_results":[]}\r\n\r\n')
        for word in ("hello", " there"):
            chunk = {
                "id": "x",
                "model": "m",
                "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}],
            }
            self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\r\n\r\n")
        if model == "cut":
            return
        if model == "rude":
            self.wfile.write(b'data: {"error": {"message": "overloaded", "code": 529}}\n\n')
            return
        end = {"id": "x", "model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        self.wfile.write(b"data: " + json.dumps(end).encode() + b"\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def odd() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Odd)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("upstream")
    (folder / "models").mkdir()
    with running_house(folder / "home", folder / "models") as house:
        made = house.json("POST", "/fust/v1/deployments", {"name": "parrot", "engine": "echo"})
        house.settled(made["id"])
        serve(house, "far", house.base_url, "parrot", key=house.token)
        yield house


@pytest.fixture(scope="module")
def gpt(house: House) -> Iterator[OpenAI]:
    with OpenAI(base_url=house.base_url, api_key=house.token, max_retries=0) as client:
        yield client


def serve(house: House, name: str, url: str, model: str, **options: Any) -> dict[str, Any]:
    body = {
        "name": name,
        "engine": "upstream",
        "options": {"url": url, "model": model, "key": KEY, **options},
    }
    return house.settled(house.json("POST", "/fust/v1/deployments", body)["id"])


def ask(client: OpenAI, model: str, **more: Any) -> Any:
    return client.chat.completions.create(model=model, messages=SAY, **more)


def streamed(client: OpenAI, model: str, **more: Any) -> str:
    return "".join(
        c.choices[0].delta.content or "" for c in ask(client, model, stream=True, **more) if c.choices
    )


def test_another_fust_answers_through_this_one(house: House, gpt: OpenAI) -> None:
    near, far = ask(gpt, "parrot"), ask(gpt, "far")
    assert far.choices[0].message.content == near.choices[0].message.content
    assert (far.model, far.usage.completion_tokens) == ("far", near.usage.completion_tokens)
    assert "estimated" not in far.usage.model_dump()
    assert streamed(gpt, "far") == near.choices[0].message.content
    last = list(ask(gpt, "far", stream=True, stream_options={"include_usage": True}))[-1]
    assert last.usage.total_tokens == near.usage.total_tokens
    assert gpt.completions.create(model="far", prompt="ba").choices[0].text == "ba"
    assert (
        gpt.embeddings.create(model="far", input="a").data
        == gpt.embeddings.create(model="parrot", input="a").data
    )
    assert gpt.responses.create(model="far", input="Hello!").output_text == "Hello!"
    for choice in ("auto", "required", {"type": "function", "function": {"name": "weather"}}):
        called = gpt.chat.completions.create(
            model="far", tools=[TOOL], tool_choice=choice,  # type: ignore[arg-type]
            messages=[{"role": "user", "content": "the weather"}],
        )  # fmt: skip
        (call,) = called.choices[0].message.tool_calls or ()
        assert json.loads(call.function.arguments) == {"city": "Oslo"}  # type: ignore[union-attr]
    ranked = {"model": "far", "query": "fox", "documents": ["fox"]}
    assert json.loads(house.request("POST", "/v1/rerank", ranked)[2])["error"]["code"] == "not_a_reranker"
    assert house.request("POST", "/v1/tokenize", {"model": "far", "prompt": "a"})[0] == 501


def test_its_words_are_learnt(house: House, gpt: OpenAI, odd: str) -> None:
    plain = serve(house, "plain", odd, "plain")
    assert plain["context"] == 777
    answer = ask(gpt, "plain", max_tokens=5, reasoning_effort="low", top_p=0.5)
    assert answer.choices[0].message.content == "hello there"
    assert answer.usage.model_dump()["estimated"] is True
    assert answer.usage.completion_tokens == 3
    path, headers, sent = Odd.seen[-1]
    assert (path, headers["authorization"]) == ("/v1/chat/completions", f"Bearer {KEY}")
    wanted = {"model": "plain", "max_tokens": 5, "reasoning_effort": "low", "top_p": 0.5, "messages": SAY}
    assert sent == wanted
    with pytest.raises(openai.APIStatusError, match="does not offer logprobs"):
        ask(gpt, "plain", logprobs=True)
    serve(house, "newer", odd, "newer")
    assert ask(gpt, "newer", max_tokens=5).choices[0].message.content
    assert Odd.seen[-1][2]["max_completion_tokens"] == 5
    before = len(Odd.seen)
    assert ask(gpt, "newer", max_tokens=5).choices[0].message.content
    assert len(Odd.seen) == before + 1  # it was learnt
    serve(house, "old", odd, "old")
    chunks = list(ask(gpt, "old", stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].usage.model_dump()["estimated"] is True
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "hello there"


def test_its_faults_are_ours_or_the_clients(house: House, gpt: OpenAI, odd: str) -> None:
    def refused(model: str, **more: Any) -> tuple[int, str]:
        with pytest.raises(openai.APIStatusError) as caught:
            ask(gpt, model, **more)
        assert KEY not in str(caught.value)
        return caught.value.status_code, str(caught.value.code)

    for name in ("moved", "limited", "gone", "long", "leaky", "cut", "rude", "ghastly"):
        serve(house, name, odd, name)
    assert refused("moved") == (502, "upstream_redirect")
    assert Odd.seen[-1][0] == "/v1/chat/completions"
    assert refused("limited") == (429, "engine_busy")
    assert refused("gone") == (502, "upstream_no_model")
    assert refused("long") == (400, "context_length_exceeded")
    with pytest.raises(openai.BadRequestError, match="longer than the context of long"):
        ask(gpt, "long")  # whose length nobody knows here
    assert refused("leaky") == (502, "upstream_error")
    assert refused("ghastly")[0] == 502
    for name in ("cut", "rude"):
        with pytest.raises(openai.APIError):
            streamed(gpt, name)
    asked = {"model": "rude", "input": "hello", "stream": True}
    events = [json.loads(line[6:]) for line in house.request("POST", "/v1/responses", asked)[2].splitlines() if line.startswith(b"data: {")]  # fmt: skip
    assert [it["sequence_number"] for it in events] == list(range(len(events)))
    assert events[-1]["type"] == "error" and "overloaded" in events[-1]["message"]
    serve(house, "off", "http://127.0.0.1:9/v1", "x")
    assert refused("off") == (502, "upstream_unreachable")
    with pytest.raises(openai.RateLimitError) as busy:
        ask(gpt, "limited")
    assert busy.value.response.headers["retry-after"] == "7"


def test_a_key_that_is_refused_is_told_and_mended(house: House, gpt: OpenAI, odd: str) -> None:
    serve(house, "locked", odd, "plain", key="wrong-key")
    with pytest.raises(openai.APIStatusError, match="refuses Fust's key") as caught:
        ask(gpt, "locked")
    assert (caught.value.status_code, "wrong-key" in str(caught.value)) == (502, False)
    serve(house, "locked", odd, "plain")
    assert ask(gpt, "locked").choices[0].message.content
    wrong = serve(house, "far-locked", house.base_url, "parrot", key="nonsense")  # it says so at the start
    assert (wrong["state"], "nonsense" in str(wrong)) == ("failed", False)


def test_the_key_is_seen_nowhere(house: House) -> None:
    for path in ("/fust/v1/deployments", "/v1/models"):
        answer = house.request("GET", path)[2].decode()
        assert KEY not in answer and "has_key" in answer + "has_key"
    (listed,) = [d for d in house.json("GET", "/fust/v1/deployments")["items"] if d["name"] == "plain"]
    assert listed["options"]["has_key"] is True and "key" not in listed["options"]
    for file in house.home.rglob("*"):
        if file.is_file():
            assert KEY.encode() not in file.read_bytes(), file
    with create_engine(f"sqlite:///{house.home / 'fust.db'}").connect() as connection:
        deadline = time.monotonic() + 5
        marks: list[Any] = []
        while not marks and time.monotonic() < deadline:
            marks = list(
                connection.execute(text("SELECT model FROM usage WHERE estimated AND completion_tokens > 0"))
            )
            connection.rollback()
            time.sleep(0.1)
        assert {mark[0] for mark in marks} >= {"plain"}


def test_private_addresses_are_for_administrators(house: House) -> None:
    def asked(name: str, url: str, token: str = "") -> tuple[int, str]:
        body = {"name": name, "engine": "upstream", "options": {"url": url, "model": "m"}}
        status, _, raw = house.request("POST", "/fust/v1/deployments", body, token=token or house.token)
        return status, json.loads(raw).get("code", "")

    writer = house.writer
    for url in (
        "http://127.0.0.1:1/v1",
        "http://localhost:1/v1",
        "http://[::1]:1/v1",
        "http://169.254.169.254/v1",
        "http://[::ffff:10.0.0.1]/v1",
    ):
        assert asked("reader/x", url, writer) == (403, "private_address"), url
    for url in (
        "ftp://h/v1",
        "http://8.8.8.8/v1",
        "https://u:p@h.example/v1",
        "https:///v1",
        "https://h/v1?a=b",
        "https://[/",
    ):
        assert asked("x", url)[0] == 400, url


@pytest.mark.faults
def test_a_certificate_that_nobody_vouches_for_is_refused(house: House, gpt: OpenAI, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")]), datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    both = tmp_path / "both.pem"
    both.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Odd)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    before = len(Odd.seen)
    try:
        serve(house, "masked", f"https://127.0.0.1:{server.server_address[1]}/v1", "plain")
        with pytest.raises(openai.APIStatusError) as caught:
            ask(gpt, "masked")
    finally:
        server.shutdown()
        server.server_close()
    assert caught.value.code == "upstream_tls"
    assert len(Odd.seen) == before


def test_options_are_checked() -> None:
    for wrong in (
        {"url": "https://h.example/v1"}, {"url": 1, "model": "m"}, {"url": "https://h.example", "model": ""},
        {"url": "https://h.example", "model": "m", "can": ["fly"]}, {"url": "https://h.example", "model": "m", "key": "a\nb"},
        {"url": "https://h.example", "model": "m", "colour": 1},
    ):  # fmt: skip
        with pytest.raises(InvalidInput):
            read_wish(wrong)
    wish = read_wish({"url": "http://127.0.0.1:8000/v1/", "model": "m", "key": KEY})
    assert (wish.secret, wish.hosts) == (KEY, ("127.0.0.1",))
    assert KEY.encode() not in wish.options


async def _pieces(*pieces: bytes) -> Any:
    for piece in pieces:
        yield piece


async def _read(*pieces: bytes) -> list[bytes]:
    return [data async for data in events_of(_pieces(*pieces))]


def test_events_are_read_however_they_are_cut() -> None:
    with ThreadPoolExecutor(1) as apart:  # a browser's tests may have left this thread a running loop
        apart.submit(asyncio.run, check_events()).result()


async def check_events() -> None:
    raw = b': hi\r\n\r\nevent: x\r\ndata: {"a":\r\ndata: 1}\r\n\r\ndata:[DONE]\n\n'
    wanted = [b'{"a":\n1}', b"[DONE]"]
    assert await _read(raw) == wanted
    for cut in range(1, len(raw)):
        assert await _read(raw[:cut], raw[cut:]) == wanted, cut
    assert await _read(b"data: last") == [b"last"]


def test_words_and_counts() -> None:
    body = {
        "model": "x",
        "messages": SAY,
        "cache_prompt": True,
        "chat_template_kwargs": {"reasoning_effort": "none", "enable_thinking": False},
    }
    made = request_of(body, "m", newer_limit=False, no_stream_options=False)
    assert made == {"model": "m", "messages": SAY, "reasoning_effort": "none"}
    assert usage_in_words({"prompt_tokens": 3, "completion_tokens": None, "cost": 0.1, "prompt_tokens_details": {"cached_tokens": None}}) == {
        "prompt_tokens": 3, "completion_tokens": 0, "cost": 0.1, "prompt_tokens_details": {},
    }  # fmt: skip
    assert usage_in_words({}) is usage_in_words(None) is None
    estimate = Estimate(body)
    estimate.add(
        {"choices": [{"delta": {"content": "12345", "tool_calls": [{"function": {"arguments": "{}"}}]}}]}
    )
    assert estimate.usage()["completion_tokens"] == 2


@pytest.mark.faults
def test_64_clients_that_leave_are_left_by_the_upstream_too(house: House) -> None:
    made = house.json("POST", "/fust/v1/deployments", {"name": "tireless", "engine": "echo", "options": {"misbehave": ["endless"]}})  # fmt: skip
    house.settled(made["id"])
    serve(house, "far-tireless", house.base_url, "tireless", key=house.token)
    port = int(house.url.rsplit(":", 1)[1])

    def open_streams() -> int:
        """Connections of the upstream's process to the API elsewhere, and requests that are counted at either end; a few idle
        connections stay in its pool."""
        found = [psutil.Process(pid) for pid in house.engine_pids()]
        far = [process for process in found if "fust.serve.engines.upstream_child" in process.cmdline()]
        held = sum(c.status == "ESTABLISHED" and bool(c.raddr) and c.raddr.port == port for p in far for c in p.net_connections("tcp"))  # fmt: skip
        listed = house.json("GET", "/fust/v1/deployments")["items"]
        return max(0, held - 4) + sum(d["busy"] for d in listed if d["name"].endswith("tireless"))

    leave_midstream(house, "far-tireless")
    wait_until_idle(open_streams)
