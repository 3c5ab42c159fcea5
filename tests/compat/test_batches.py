"""Files and batches with OpenAI's client: what goes in comes out once, whatever happens meanwhile."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.support.model_house import House, running_house
from tests.support.small_models import write_llama, write_repos

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("batches")
    flags = ("serve.threads=1", "gateway.max_file_bytes=100000")
    with running_house(folder / "home", write_repos(folder / "models"), *flags) as house:
        house.serve("acme/chat", alias="tiny")
        yield house


@pytest.fixture(scope="module")
def client(house: House) -> Iterator[OpenAI]:
    with OpenAI(base_url=house.base_url, api_key=house.token, max_retries=0) as client:
        yield client


def request(number: int, **body: Any) -> dict[str, Any]:
    said = {
        "model": "tiny",
        "messages": [{"role": "user", "content": f"ba {number}"}],
        "max_tokens": 3,
        **body,
    }
    return {"custom_id": f"r{number}", "method": "POST", "url": CHAT, "body": said}


def upload(client: OpenAI, lines: list[Any]) -> str:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    return client.files.create(file=("in.jsonl", text.encode()), purpose="batch").id


def start(client: OpenAI, lines: list[Any], endpoint: Any = CHAT, **more: Any) -> str:
    return client.batches.create(
        input_file_id=upload(client, lines), endpoint=endpoint, completion_window="24h", **more
    ).id


def settled(client: OpenAI, batch_id: str, timeout_s: float = 60) -> Any:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        batch = client.batches.retrieve(batch_id)
        if batch.status not in ("validating", "in_progress", "finalizing", "cancelling"):
            return batch
        time.sleep(0.05)
    raise AssertionError("the batch did not end")


def lines_of(client: OpenAI, file_id: str | None) -> dict[str, Any]:
    assert file_id is not None
    found = [json.loads(line) for line in client.files.content(file_id).text.splitlines()]
    assert len({line["custom_id"] for line in found}) == len(found), "an answer came twice"
    return {line["custom_id"]: line for line in found}


def test_files(client: OpenAI, house: House) -> None:
    made = client.files.create(
        file=("a b.jsonl", b"{}\n"), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert (made.bytes, made.filename, made.purpose) == (3, "a b.jsonl", "batch")
    assert made.expires_at == made.created_at + 3600
    assert client.files.content(made.id).read() == b"{}\n"
    assert made.id in [file.id for file in client.files.list(purpose="batch")]
    assert client.files.retrieve(made.id) == made
    other = client.with_options(api_key=house.reader)
    for look in (other.files.retrieve, other.files.content, other.files.delete):
        with pytest.raises(openai.NotFoundError):
            look(made.id)
    assert list(other.files.list()) == []
    assert client.files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.content(made.id)
    assert not (house.home / "files" / made.id).exists()


def test_files_are_bounded(client: OpenAI, house: House) -> None:
    kept = set((house.home / "files").iterdir())
    with pytest.raises(openai.APIStatusError) as large:
        client.files.create(file=("x", b"x" * 100_001), purpose="batch")
    assert large.value.status_code == 413
    with pytest.raises(openai.BadRequestError) as purpose:
        client.files.create(file=("x", b"x"), purpose="assistants")
    assert (purpose.value.code, purpose.value.param) == ("unsupported_parameter", "purpose")
    for body, kind in ((b"x", "text/plain"), (b"--b\r\nbroken", "multipart/form-data; boundary=b")):
        status, _, _ = house.request("POST", "/v1/files", raw=body)
        assert status == 400, kind
    assert set((house.home / "files").iterdir()) == kept, "what was refused left something behind"


def test_a_batch(client: OpenAI) -> None:
    lines = [request(i, temperature=0) for i in range(6)]
    lines.append(request(6, model="no/such"))
    lines.append(request(7, colour="red"))
    lines.append(request(8, stream=True))
    batch = settled(client, start(client, lines, metadata={"why": "test"}))
    assert batch.status == "completed" and batch.metadata == {"why": "test"}
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (9, 6, 3)
    good, bad = lines_of(client, batch.output_file_id), lines_of(client, batch.error_file_id)
    assert set(good) == {f"r{i}" for i in range(6)}
    said = good["r2"]["response"]
    direct = client.chat.completions.create(**lines[2]["body"])
    assert said["status_code"] == 200
    assert said["body"]["choices"][0]["message"]["content"] == direct.choices[0].message.content
    assert bad["r6"]["response"]["body"]["error"]["code"] == "model_not_found"
    assert bad["r7"]["response"]["body"]["error"]["param"] == "colour"
    assert bad["r8"]["response"]["status_code"] == 400
    assert batch.id in [found.id for found in client.batches.list(limit=5)]


def test_other_endpoints(client: OpenAI) -> None:
    for path, body, look in (
        ("/v1/embeddings", {"model": "tiny", "input": "ba"}, "data"),
        ("/v1/completions", {"model": "tiny", "prompt": "ba", "max_tokens": 2}, "choices"),
        ("/v1/responses", {"model": "tiny", "input": "ba", "max_output_tokens": 2}, "output"),
    ):
        line = {"custom_id": "one", "method": "POST", "url": path, "body": body}
        batch = settled(client, start(client, [line], path))
        assert lines_of(client, batch.output_file_id)["one"]["response"]["body"][look]


def test_an_input_that_is_wrong_says_where(client: OpenAI) -> None:
    lines = [request(0), "{", request(0), {**request(1), "url": "/v1/embeddings"}, {**request(2), "x": 1}]
    batch = settled(client, start(client, lines))
    assert batch.status == "failed" and batch.output_file_id is None
    assert [(error.code, error.line) for error in batch.errors.data] == [
        ("invalid_json_line", 2),
        ("duplicate_custom_id", 3),
        ("mismatched_url", 4),
        ("invalid_json_line", 5),
    ]
    assert settled(client, start(client, [])).errors.data[0].code == "empty_file"


def test_who_may(client: OpenAI, house: House) -> None:
    other = client.with_options(api_key=house.reader)
    batch_id = start(client, [request(0)])
    for look in (other.batches.retrieve, other.batches.cancel):
        with pytest.raises(openai.NotFoundError):
            look(batch_id)
    with pytest.raises(openai.BadRequestError) as foreign:
        other.batches.create(
            input_file_id=upload(client, [request(0)]), endpoint=CHAT, completion_window="24h"
        )
    assert foreign.value.param == "input_file_id"
    narrow = client.with_options(api_key=house.tokens["tiny only"])
    lines = [request(0), request(1, model="private/secret")]
    batch = settled(narrow, start(narrow, lines))
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 1)


def test_a_batch_is_cancelled(client: OpenAI) -> None:
    batch_id = start(client, [request(i, max_tokens=400, ignore_eos=True) for i in range(300)])
    while not client.batches.retrieve(batch_id).request_counts.completed:  # type: ignore[union-attr]
        time.sleep(0.05)
    assert client.batches.cancel(batch_id).status == "cancelling"
    batch = settled(client, batch_id)
    assert batch.status == "cancelled"
    assert 0 < batch.request_counts.completed < 300
    assert len(lines_of(client, batch.output_file_id)) == batch.request_counts.completed
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(batch_id)


def test_a_batch_waits_while_somebody_asks(client: OpenAI, house: House) -> None:
    file = house.models / "acme/slow/slow.gguf"
    write_llama(file, layers=8, width=512, heads=8, feed_forward=1536, vocabulary=4000, half=True)
    house.serve("acme/slow")
    stream = client.chat.completions.create(
        model="acme/slow",
        messages=[{"role": "user", "content": "x"}],
        max_tokens=1500,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    next(iter(stream))
    batch_id = start(client, [request(0)])
    time.sleep(1)
    assert client.batches.retrieve(batch_id).status in ("validating", "in_progress")
    stream.close()
    assert settled(client, batch_id).status == "completed"


@pytest.mark.faults
def test_a_killed_batch_goes_on_where_it_was(tmp_path: Path) -> None:
    models = write_repos(tmp_path / "models")
    lines = [request(i, max_tokens=60, ignore_eos=True) for i in range(120)]
    kept: dict[str, str] = {}
    batch_id = ""
    for round_ in range(4):
        with running_house(tmp_path / "home", models, "serve.threads=1") as house:
            if not round_:
                house.serve("acme/chat", alias="tiny")
            client = OpenAI(base_url=house.base_url, api_key=house.token, max_retries=0)
            batch_id = batch_id or start(client, lines)
            output = tmp_path / "home" / "files" / output_of(tmp_path / "home", batch_id)
            if round_ == 3:
                batch = settled(client, batch_id)
                assert batch.status == "completed" and batch.request_counts.completed == 120
                found = lines_of(client, batch.output_file_id)
                assert len(found) == 120
                for custom_id, answer in kept.items():
                    assert found[custom_id]["id"] == answer, "a finished line was asked again"
                client.close()
                break
            wanted = 25 * (round_ + 1)
            while not output.exists() or output.read_bytes().count(b"\n") < wanted:
                time.sleep(0.02)
            client.close()
            house.kill()
            whole = [line for line in output.read_bytes().split(b"\n")[:-1] if line]
            kept |= {json.loads(line)["custom_id"]: json.loads(line)["id"] for line in whole}
            with output.open("ab") as file:
                file.write(b'{"id": "half a line, as a cut of power leaves it')


def output_of(home: Path, batch_id: str) -> str:
    with sqlite3.connect(home / "fust.db") as connection:
        (found,) = connection.execute(
            "SELECT output_file_id FROM batches WHERE id = ?", (batch_id,)
        ).fetchone()
    connection.close()
    return found
