"""The model surface of a real `fust up`, with the clients people use: openai (sync and async), LangChain, curl."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.conftest import RunningFust
from tests.support.small_models import write_llama

CHAT = "admin/small-chat"
PLAIN = "admin/small-plain"
HELLO: list[dict[str, str]] = [{"role": "user", "content": "hello"}]


def push(server: RunningFust, repo_id: str, file: Path, *, private: bool = False) -> None:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=server.url, token=server.token)
    api.create_repo(repo_id, private=private, exist_ok=True)
    api.upload_file(path_or_fileobj=str(file), path_in_repo=file.name, repo_id=repo_id)


@pytest.fixture(scope="module")
def served(server: RunningFust, tmp_path_factory: pytest.TempPathFactory) -> RunningFust:
    folder = tmp_path_factory.mktemp("models")
    push(server, CHAT, write_llama(folder / "chat.gguf"))
    push(server, PLAIN, write_llama(folder / "plain.gguf", chat_template=None))
    server.cli("serve", CHAT, "--alias", "tiny")
    server.cli("serve", PLAIN)
    return server


@pytest.fixture(scope="module")
def client(served: RunningFust) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{served.url}/v1", api_key=served.token, max_retries=0) as client:
        yield client


def test_models(client: OpenAI) -> None:
    assert {CHAT, PLAIN, "tiny"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve(CHAT).owned_by == "admin"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no/such")


def test_chat_and_stream_say_the_same(client: OpenAI) -> None:
    whole = client.chat.completions.create(
        model=CHAT, messages=HELLO, max_tokens=8, temperature=0, user="u", store=False
    )
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 8
    stream = client.chat.completions.create(
        model=CHAT, messages=HELLO, max_completion_tokens=8, temperature=0, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 8
    assert {chunk.model for chunk in chunks} == {CHAT}


def test_the_helper_that_gathers_a_stream(client: OpenAI) -> None:
    with client.chat.completions.stream(model="tiny", messages=HELLO, stop=["w", "o"], seed=1) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].finish_reason == "stop"


def test_log_probabilities(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=CHAT, messages=HELLO, max_tokens=3, logprobs=True, top_logprobs=2, temperature=0
    )
    assert answer.choices[0].logprobs is not None
    content = answer.choices[0].logprobs.content
    assert content is not None
    assert [len(token.top_logprobs) for token in content] == [2, 2, 2]
    old = client.completions.create(model=PLAIN, prompt="ba", max_tokens=3, logprobs=2, temperature=0)
    assert old.choices[0].logprobs is not None
    assert len(old.choices[0].logprobs.token_logprobs or []) == 3


def test_json_schema(client: OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Oslo", "Lima"]}, "n": {"type": "integer"}},
        "required": ["city", "n"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model=CHAT,
        messages=HELLO,
        max_tokens=60,
        seed=1,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "place", "schema": schema, "strict": True},
        },
    )
    assert json.loads(answer.choices[0].message.content or "")["city"] in ("Oslo", "Lima")


def test_embeddings(client: OpenAI) -> None:
    packed = client.embeddings.create(model=CHAT, input=["ba be", "ra"])  # base64 on the wire
    plain = client.embeddings.create(model=CHAT, input=["ba be", "ra"], encoding_format="float")
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-5)


def test_errors_are_the_clients_own_classes(client: OpenAI, served: RunningFust) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="no/such", messages=HELLO)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as unknown:
        client.chat.completions.create(model=CHAT, messages=HELLO, extra_body={"colour": "red"})
    assert (unknown.value.code, unknown.value.param) == ("unknown_parameter", "colour")
    with pytest.raises(openai.BadRequestError) as untold:
        client.chat.completions.create(model=PLAIN, messages=HELLO)
    assert untold.value.code == "no_chat_template"
    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(model=PLAIN, prompt="ba " * 9000)
    assert long.value.code == "context_length_exceeded"
    assert long.value.request_id
    stranger = client.with_options(api_key="fust_wrong")
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()


def test_async_streams_can_be_left(served: RunningFust) -> None:
    async def run() -> None:
        async with AsyncOpenAI(base_url=f"{served.url}/v1", api_key=served.token, max_retries=0) as client:
            stream = await client.chat.completions.create(
                model=CHAT, messages=HELLO, stream=True, max_tokens=1900, extra_body={"ignore_eos": True}
            )
            async for _ in stream:
                break
            await stream.close()
            answers = await asyncio.gather(
                *(client.chat.completions.create(model=CHAT, messages=HELLO, max_tokens=3) for _ in range(6))
            )
            assert all(answer.choices for answer in answers)

    with ThreadPoolExecutor(1) as thread:  # a browser of other tests may have its loop in this one
        thread.submit(asyncio.run, run()).result()


def test_private_models_are_for_their_owner(served: RunningFust, client: OpenAI, tmp_path: Path) -> None:
    push(served, "admin/secret", write_llama(tmp_path / "secret.gguf"), private=True)
    served.cli("serve", "admin/secret")
    assert client.completions.create(model="admin/secret", prompt="ba", max_tokens=1).choices
    status, _, _ = served.request(
        "POST", "/fust/v1/users", {"name": "guest", "password": "long enough it is"}
    )
    assert status == 201
    status, headers, _ = served.request(
        "POST", "/fust/v1/session", {"name": "guest", "password": "long enough it is"}, token=None
    )
    assert status in (200, 201)
    cookie = headers["set-cookie"].split(";")[0]
    same = {"cookie": cookie, "sec-fetch-site": "same-origin"}
    body = {"model": "admin/secret", "prompt": "ba", "max_tokens": 1}
    assert served.request("POST", "/v1/completions", body, token=None, headers=same)[0] == 404
    body["model"] = CHAT
    assert served.request("POST", "/v1/completions", body, token=None, headers=same)[0] == 200
    across = {"cookie": cookie, "sec-fetch-site": "cross-site"}
    assert served.request("POST", "/v1/completions", body, token=None, headers=across)[0] == 403
    models = json.loads(served.request("GET", "/v1/models", token=None, headers=same)[2])
    assert "admin/secret" not in [model["id"] for model in models["data"]]


def test_a_deployment_ends_with_its_repo(served: RunningFust, client: OpenAI, tmp_path: Path) -> None:
    from huggingface_hub import HfApi

    push(served, "admin/brief", write_llama(tmp_path / "brief.gguf"))
    served.cli("serve", "admin/brief")
    assert client.completions.create(model="admin/brief", prompt="ba", max_tokens=1).choices
    HfApi(endpoint=served.url, token=served.token).delete_repo("admin/brief")
    for _ in range(50):
        names = [d["name"] for d in json.loads(served.request("GET", "/fust/v1/deployments")[2])["items"]]
        if "admin/brief" not in names:
            break
        import time

        time.sleep(0.1)
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="admin/brief", prompt="ba", max_tokens=1)


def test_langchain(served: RunningFust) -> None:
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings

    model = ChatOpenAI(
        model=CHAT,
        base_url=f"{served.url}/v1",
        api_key=served.token,
        max_tokens=5,
        temperature=0,
        max_retries=0,
    )  # type: ignore[call-arg, arg-type]
    answer = model.invoke("hello")
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == 5
    assert "".join(str(chunk.content) for chunk in model.stream("hello")) == answer.content
    embeddings = OpenAIEmbeddings(
        model=CHAT, base_url=f"{served.url}/v1", api_key=served.token, check_embedding_ctx_length=False
    )  # type: ignore[call-arg, arg-type]
    assert len(embeddings.embed_query("ba be")) == 64


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(served: RunningFust) -> None:
    body = json.dumps({"model": CHAT, "messages": HELLO, "max_tokens": 3, "stream": True})
    done = subprocess.run(
        ["curl", "-sN", f"{served.url}/v1/chat/completions", "-H", f"Authorization: Bearer {served.token}",
         "-H", "Content-Type: application/json", "-d", body],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.rstrip().endswith("data: [DONE]")


def test_the_real_stories_begin_as_published(served: RunningFust, client: OpenAI, shared_dir: Path) -> None:
    """llama2.c's doc/stories260K.md: greedy decoding, word for word."""
    push(served, "admin/stories", shared_dir / "weights/stories260K-ctx4k-f32.gguf")
    served.cli("serve", "admin/stories")
    answer = client.completions.create(
        model="admin/stories", prompt="Once upon a time", max_tokens=60, temperature=0
    )
    assert answer.choices[0].text.startswith(
        ", there was a little girl named Lily. She loved to play outside in the park."
    )
