"""Adapters beside a base: names, rights, isolation, swaps under traffic, restarts. Over real engines."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fust.serve.facts import read_facts
from tests.conftest import RunningFust
from tests.support.model_house import House, running_house
from tests.support.small_adapters import write_lora_gguf, write_peft
from tests.support.small_models import write_llama

pytest.importorskip("xllamacpp", reason="xllamacpp is not installed")
PROMPT = "ba be bi bo"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("adapters") / "models"
    for name in ("acme/base", "acme/alone", "acme/with-one", "acme/with-two"):
        write_llama(root / name / "m.gguf", chat_template=None)
    write_llama(root / "acme/embeds/m.gguf", pooling=3)
    write_lora_gguf(root / "acme/one/one.gguf", seed=1)
    write_peft(root / "acme/two", seed=2, base=None)
    write_peft(root / "acme/three", seed=3, base="acme/base")
    write_lora_gguf(root / "acme/four/four.gguf", seed=5)
    write_llama(root / "acme/made-of-it/m.gguf")
    for name in ("acme/four", "acme/made-of-it"):
        (root / name / "BASE").write_text("acme/base")
    write_peft(root / "acme/unlike", base="acme/base", width=32)
    write_peft(root / "acme/foreign", base="acme/embeds")
    write_peft(root / "private/secret", seed=4, base="acme/base")
    return root


@pytest.fixture(scope="module")
def house(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with running_house(
        tmp_path_factory.mktemp("house") / "home", models, "serve.threads=1", "serve.slots=1"
    ) as house:
        for number, name in enumerate(("acme/base", "acme/alone", "acme/with-one", "acme/with-two")):
            house.serve(name, alias=("tiny", "alone", "first", "second")[number])
        yield house


def ask(house: House, model: str, count: int = 8, **more: Any) -> dict[str, Any]:
    body = {"model": model, "prompt": PROMPT, "max_tokens": count, "temperature": 0, **more}
    return house.json("POST", "/v1/completions", body)


def refused(house: House, model: str, token: str = "") -> tuple[int, str, str]:
    body = {"model": model, "prompt": PROMPT, "max_tokens": 1}
    status, _, answer = house.request("POST", "/v1/completions", body, token=token)
    error = json.loads(answer)["error"]
    return status, error["code"], error["message"]


def find(house: House, name: str) -> dict[str, Any]:
    return next(
        d for d in house.json("GET", "/fust/v1/deployments")["items"] if name in (d["name"], d["alias"])
    )


def add(house: House, model: str, repo_id: str, **more: Any) -> dict[str, Any]:
    path = f"/fust/v1/deployments/{find(house, model)['id']}/adapters"
    return house.json("POST", path, {"repo_id": repo_id, **more})


def remove(house: House, name: str, adapter: str) -> None:
    house.json("DELETE", f"/fust/v1/deployments/{find(house, name)['id']}/adapters/{adapter}")


def listed(house: House, token: str = "") -> list[str]:
    return [model["id"] for model in house.json("GET", "/v1/models", token=token)["data"]]


def places(answer: dict[str, Any]) -> tuple[str, list[float]]:
    choice = answer["choices"][0]
    return choice["text"], choice["logprobs"]["token_logprobs"]


def test_one_after_another_each_answers_as_alone(house: House) -> None:
    """None, one, none, two, one on one slot with the prompt cache: each as in an engine that never had another."""
    add(house, "first", "acme/one")
    add(house, "second", "acme/two")
    solo = {
        name: places(ask(house, model, logprobs=1))
        for name, model in (("none", "alone"), ("one", "first:one"), ("two", "second:two"))
    }
    assert len({text for text, _ in solo.values()}) == 3
    add(house, "tiny", "acme/one")
    add(house, "tiny", "acme/two", name="zwei")
    names = {"none": "tiny", "one": "tiny:one", "two": "tiny:zwei"}
    for name in ("none", "one", "none", "two", "one", "two", "none"):
        text, logprobs = places(ask(house, names[name], logprobs=1))
        assert text == solo[name][0]
        assert logprobs == pytest.approx(solo[name][1], abs=1e-4)
    assert ask(house, "tiny")["usage"]["prompt_tokens_details"]["cached_tokens"] > 3  # the cache is on
    assert len(find(house, "tiny")["adapters"]) == 2


def test_log_likelihoods_are_the_adapters_own(house: House) -> None:
    add(house, "tiny", "acme/one")

    def scored(model: str) -> list[float]:
        answer = ask(house, model, 0, echo=True, logprobs=1)
        return answer["choices"][0]["logprobs"]["token_logprobs"][1:]

    bare, one = scored("alone"), scored("tiny:one")
    assert max(abs(a - b) for a, b in zip(bare, one, strict=True)) > 0.5
    assert scored("tiny") == pytest.approx(bare, abs=1e-6)
    assert scored("tiny:one") == one
    written = ask(house, "tiny:one", 3, echo=True, logprobs=1)["choices"][0]
    assert written["text"] == PROMPT + ask(house, "tiny:one", 3)["choices"][0]["text"]


def test_names_and_the_list(house: House) -> None:
    add(house, "tiny", "acme/one")
    for model in ("acme/base:one", "tiny:one", "tiny:acme/one"):
        assert ask(house, model)["model"] == model
    shown = listed(house)
    assert {"acme/base:one", "tiny:one", "acme/one"} <= set(shown) and len(shown) == len(set(shown))
    assert house.json("GET", "/v1/models/tiny:one")["owned_by"] == "acme"
    for model in ("tiny:nothing", "tiny:acme/nothing", "nothing:one", "tiny:one:one", "tiny:", ":one"):
        assert refused(house, model)[:2] == (404, "model_not_found"), model
    status, _, answer = house.request("POST", "/v1/embeddings", {"model": "tiny:one", "input": "a"})
    assert (status, json.loads(answer)["error"]["code"]) == (400, "model_not_supported")
    path = f"/fust/v1/deployments/{find(house, 'tiny')['id']}/adapters"
    for body, code in (
        ({"repo_id": "acme/two", "name": "one"}, "conflict"),
        ({"repo_id": "acme/two", "name": "no good"}, "invalid_input"),
        ({"repo_id": "acme/one", "file": "other.gguf"}, "file_not_found"),
        ({"repo_id": "acme/nothing"}, "repo_not_found"),
        ({"repo_id": "acme/base", "name": "base"}, "adapter_not_supported"),
    ):
        assert json.loads(house.request("POST", path, body)[2])["code"] == code, body


def test_a_request_attaches_what_it_names(house: House) -> None:
    assert "tiny:three" not in listed(house)
    answers: list[dict[str, Any]] = []
    threads = [
        threading.Thread(target=lambda: answers.append(ask(house, "tiny:acme/three"))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({answer["choices"][0]["text"] for answer in answers}) == 1 and len(answers) == 6
    adapter = next(a for a in find(house, "tiny")["adapters"] if a["name"] == "three")
    assert (adapter["state"], adapter["by_request"], adapter["repo_id"]) == ("ready", True, "acme/three")
    assert "tiny:three" in listed(house)
    remove(house, "tiny", "three")
    assert refused(house, "tiny:three")[0] == 404
    # Its own name is enough: its configuration names the base.
    assert ask(house, "acme/three")["choices"][0]["text"] == answers[0]["choices"][0]["text"]


def test_a_gguf_adapter_by_its_own_name(house: House) -> None:
    """Its card names the base; a whole model whose card does so too is not taken for an adapter."""
    assert ask(house, "acme/four")["choices"][0]["text"] != ask(house, "tiny")["choices"][0]["text"]
    assert refused(house, "acme/made-of-it")[:2] == (404, "model_not_found")
    assert "BASE:OWNER/NAME" in refused(house, "acme/one-that-is-not")[2]


def test_an_adapter_for_another_base_is_refused(house: House) -> None:
    status, code, message = refused(house, "tiny:acme/unlike")
    assert (status, code) == (400, "other_base") and "acme/unlike" in message and "acme/base" in message
    status, code, message = refused(house, "tiny:acme/foreign")
    assert (status, code) == (400, "other_base") and "acme/embeds" in message and "acme/base" in message
    assert [a["name"] for a in find(house, "tiny")["adapters"] if a["state"] == "failed"] == []


def test_serving_an_adapter_serves_its_base(models: Path, tmp_path: Path) -> None:
    with running_house(tmp_path / "home", models, "serve.threads=1") as house:
        for _ in range(2):  # the base is not there, then it is
            served = house.json("POST", "/fust/v1/deployments", {"repo_id": "acme/three", "alias": "voice"})
            assert served["repo_id"] == "acme/base" and [a["name"] for a in served["adapters"]] == ["voice"]
        assert ask(house, "acme/base:voice")["choices"] and len(house.engine_pids()) == 1
        for repo_id, code in (("acme/two", "no_base"), ("acme/unlike", "other_base")):
            answer = house.request("POST", "/fust/v1/deployments", {"repo_id": repo_id})[2]
            assert json.loads(answer)["code"] == code, answer


def test_who_may_not_read_both_hears_nothing(house: House) -> None:
    add(house, "tiny", "private/secret")
    add(house, "tiny", "acme/one")
    assert ask(house, "tiny:secret")["choices"]
    assert "private/secret" in listed(house)
    unknown = refused(house, "tiny:nothing", house.reader)
    for model in ("tiny:secret", "tiny:private/secret", "private/secret", "acme/base:secret"):
        status, code, message = refused(house, model, house.reader)
        assert (status, code, message.replace(model, "tiny:nothing")) == unknown
    for answer in (
        house.request("GET", "/v1/models", token=house.reader)[2],
        house.request("GET", "/fust/v1/deployments", token=house.reader)[2],
    ):
        assert b"secret" not in answer and b"acme/base" in answer
    # A key that was made for the base alone does not open its adapters.
    assert refused(house, "tiny:one", house.tokens["tiny only"])[0] == 404
    path = f"/fust/v1/deployments/{find(house, 'tiny')['id']}/adapters"
    assert house.request("POST", path, {"repo_id": "acme/one"}, token=house.reader)[0] == 403
    assert house.request("DELETE", f"{path}/one", token=house.reader)[0] == 403
    status, _, answer = house.request(
        "POST", path, {"repo_id": "private/secret"}, token=house.tokens["repo only"]
    )
    assert status == 404, answer
    remove(house, "tiny", "secret")


class Traffic:
    """Clients that stream without a pause and count what failed."""

    def __init__(self, house: House | RunningFust, models: list[str], tokens: int = 500) -> None:
        self.house, self.tokens = house, tokens
        self.failures: list[str] = []
        self.answered = 0
        self.longest_s = 0.0
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(model,)) for model in models]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, model: str) -> None:
        while not self._stop.is_set():
            body = {
                "model": model, "prompt": PROMPT, "max_tokens": self.tokens, "temperature": 0, "stream": True,
                "ignore_eos": True, "stream_options": {"include_usage": True},
            }  # fmt: skip
            began = time.monotonic()
            status, _, answer = self.house.request("POST", "/v1/completions", body)
            lines = answer.decode().strip().split("\n\n")
            whole = status == 200 and lines[-1] == "data: [DONE]"
            done = json.loads(lines[-2].removeprefix("data: "))["usage"]["completion_tokens"] if whole else 0
            with self._lock:
                self.answered += 1
                self.longest_s = max(self.longest_s, time.monotonic() - began)
                if done != self.tokens:
                    self.failures.append(f"{model}: {status} {answer[-300:]!r}")


def until(true: Callable[[], bool], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def has(house: House, name: str, *adapters: str) -> Callable[[], bool]:
    return lambda: [a["name"] for a in find(house, name)["adapters"] if a["state"] == "ready"] == [*adapters]


def test_adapters_come_and_go_under_traffic(models: Path, tmp_path: Path) -> None:
    with running_house(tmp_path / "home", models, "serve.threads=1", "serve.slots=4") as house:
        house.serve("acme/base", alias="tiny")
        add(house, "tiny", "acme/one")
        until(has(house, "tiny", "one"))
        before = house.engine_pids()
        with Traffic(house, ["tiny", "tiny:one", "tiny", "tiny:one", "tiny", "tiny:one"]) as traffic:
            for _ in range(2):
                add(house, "tiny", "acme/two")
                until(has(house, "tiny", "one", "two"))
                assert ask(house, "tiny:two")["choices"]
                remove(house, "tiny", "two")
                until(has(house, "tiny", "one"))
            assert ask(house, "tiny:acme/three")["choices"]
        assert traffic.failures == [] and traffic.answered > 6
        until(lambda: len(house.engine_pids()) == 1)
        assert house.engine_pids() != before


def test_where_two_do_not_fit_requests_wait(models: Path, tmp_path: Path) -> None:
    path = models / "acme/base/m.gguf"
    need = read_facts(path, path.stat().st_size).memory_bytes("generate", 2048, 2)
    flags = ("serve.threads=1", "serve.slots=2", f"serve.memory_bytes={int(need * 1.4)}")
    with running_house(tmp_path / "home", models, *flags) as house:
        house.serve("acme/base", alias="tiny")
        with Traffic(house, ["tiny"] * 4, tokens=300) as traffic:
            until(lambda: traffic.answered > 0)
            pids = house.engine_pids()
            add(house, "tiny", "acme/one")
            assert ask(house, "tiny:one")["choices"]
            assert len(house.engine_pids()) == 1 and house.engine_pids() != pids
        assert traffic.failures == [] and traffic.answered > 4


def test_an_adapter_that_does_not_fit_is_refused_and_left_out(models: Path, tmp_path: Path) -> None:
    path, adapter = models / "acme/base/m.gguf", models / "acme/one/one.gguf"
    need = read_facts(path, path.stat().st_size).memory_bytes("generate", 1024, 1)
    flags = ("serve.threads=1", "serve.slots=1", "serve.context=1024")
    one = need + adapter.stat().st_size + 1000
    with running_house(tmp_path / "home", models, *flags, f"serve.memory_bytes={one}") as house:
        house.serve("acme/base", alias="tiny")
        add(house, "tiny", "acme/one")
        assert ask(house, "tiny:one")["choices"]
        path_ = f"/fust/v1/deployments/{find(house, 'tiny')['id']}/adapters"
        status, _, answer = house.request("POST", path_, {"repo_id": "acme/two"})
        assert (status, json.loads(answer)["code"]) == (400, "does_not_fit"), answer
        assert "One of 1 kB would fit" in json.loads(answer)["hint"], answer
        assert ask(house, "tiny:one")["choices"]
    # With less memory than both take the base is served, and the adapter says why it is not.
    with running_house(tmp_path / "home", models, *flags, f"serve.memory_bytes={need + 1000}") as house:
        assert ask(house, "tiny")["choices"]
        status, code, message = refused(house, "tiny:one")
        assert (status, code) == (503, "adapter_failed") and "with its adapters" in message


def test_adapters_come_back_after_a_restart_and_go_with_their_repo(models: Path, tmp_path: Path) -> None:
    own = tmp_path / "models"
    for name in ("acme/base", "acme/one", "acme/three"):
        (own / name).mkdir(parents=True)
        for file in (models / name).iterdir():
            (own / name / file.name).hardlink_to(file)
    home = tmp_path / "home"
    with running_house(home, own, "serve.threads=1") as house:
        house.serve("acme/base", alias="tiny")
        add(house, "tiny", "acme/one")
        words = ask(house, "tiny:one")["choices"][0]["text"]
        assert ask(house, "tiny:acme/three")["choices"]
    # A damaged file (a disk's fault) takes its adapter away, never the base or another adapter.
    made = next(path for path in (home / "engines/adapters").iterdir() if path.stat().st_nlink == 1)
    made.write_bytes(made.read_bytes()[:2000])
    with running_house(home, own, "serve.threads=1") as house:
        states = {a["name"]: a["state"] for a in find(house, "tiny")["adapters"]}
        assert states == {"one": "idle", "three": "idle"}
        assert refused(house, "tiny:three")[:2] == (503, "adapter_failed")
        assert ask(house, "tiny:one")["choices"][0]["text"] == words
        assert ask(house, "tiny")["choices"] and len(house.engine_pids()) == 1
        # The repo is gone: its adapter is no model any more, and the base goes on.
        for file in (own / "acme/one").iterdir():
            file.unlink()
        (own / "acme/one").rmdir()
        time.sleep(1.1)
        assert refused(house, "tiny:one")[0] == 404 and "tiny:one" not in listed(house)
        assert ask(house, "tiny")["choices"]


def test_an_adapter_taken_off_while_it_answers_answers_to_its_end(models: Path, tmp_path: Path) -> None:
    with running_house(tmp_path / "home", models, "serve.threads=1") as house:
        house.serve("acme/base", alias="tiny")
        add(house, "tiny", "acme/one")
        assert ask(house, "tiny:one")["choices"]
        found: list[dict[str, Any]] = []
        long = threading.Thread(target=lambda: found.append(ask(house, "tiny:one", 1800, ignore_eos=True)))
        long.start()
        until(lambda: find(house, "tiny")["busy"] > 0)
        remove(house, "tiny", "one")
        assert refused(house, "tiny:one")[:2] == (404, "model_not_found")
        assert long.is_alive()
        long.join(60)
        assert found[0]["usage"]["completion_tokens"] == 1800


def test_transformers_takes_no_adapters_and_says_what_does(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the transformers engine is an extra")
    from tests.support.hf_models import causal_model

    causal_model(tmp_path / "models/acme/torch", "Llama", max_position_embeddings=256, intermediate_size=96)
    write_peft(tmp_path / "models/acme/one", base="acme/torch")
    with running_house(tmp_path / "home", tmp_path / "models", "serve.threads=1") as house:
        assert house.serve("acme/torch", alias="torch", engine="transformers")["state"] == "ready"
        status, code, message = refused(house, "torch:acme/one")
        assert (status, code) == (400, "no_adapters") and "llamacpp" in message and "acme/torch" in message


def test_fifty_adapters_on_one_base_answer_each_as_itself(models: Path, tmp_path: Path) -> None:
    own = tmp_path / "models"
    write_llama(own / "acme/base/m.gguf", chat_template=None)
    for number in range(50):
        write_lora_gguf(own / f"acme/a{number}/a.gguf", seed=number)
    with running_house(tmp_path / "home", own, "serve.threads=1") as house:
        house.serve("acme/base", alias="tiny")
        for number in range(50):
            add(house, "tiny", f"acme/a{number}")
        said = {ask(house, f"tiny:a{number}")["choices"][0]["text"] for number in range(50)}
        assert len(said) == 50 and ask(house, "tiny")["choices"][0]["text"] not in said
        until(lambda: len(house.engine_pids()) == 1)
