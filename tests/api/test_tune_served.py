"""A tuning whose base answers chats all the while: its adapter joins the running engine, and no request fails."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator

import pytest

from tests.conftest import RunningFust, start_fust
from tests.support.tiny_bases import write_base, write_rows

pytest.importorskip("peft", reason="peft is not installed (pip install 'fust[tune]')")
pytest.importorskip("xllamacpp", reason="xllamacpp is not installed")
openai = pytest.importorskip("openai", reason="openai is not installed")


class Chats:
    """Programs that chat through the openai client, one answer after the other, and note what went wrong."""

    def __init__(self, house: RunningFust, models: list[str]) -> None:
        self.failures: list[str] = []
        self.answers: dict[str, list[str]] = {model: [] for model in models}
        self._client = openai.OpenAI(base_url=house.url + "/v1", api_key=house.token, max_retries=0)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(model,)) for model in models]

    def __enter__(self) -> Chats:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._client.close()

    def say(self, model: str) -> str:
        """Returns a whole answer, streamed."""
        messages = [{"role": "user", "content": "Say moon 0"}]
        stream = self._client.chat.completions.create(
            model=model, messages=messages, stream=True, temperature=0, max_tokens=24
        )
        said, ended = "", ""
        for chunk in stream:
            said += chunk.choices[0].delta.content or ""
            ended = chunk.choices[0].finish_reason or ended
        assert ended in ("stop", "length"), ended
        return said

    def wait(self, model: str, count: int) -> None:
        """Waits until so many more answers came."""
        wanted, deadline = len(self.answers[model]) + count, time.monotonic() + 60
        while len(self.answers[model]) < wanted and not self.failures:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def _run(self, model: str) -> None:
        while not self._stop.is_set():
            try:
                self.answers[model].append(self.say(model))
            except Exception as error:  # whatever a program would see
                self.failures.append(f"{model}: {error!r}")
                return


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFust]:
    """A server with a base that answers, and rows."""
    folder = tmp_path_factory.mktemp("served")
    running = start_fust(folder / "home", jobs__cores=1, serve__slots=4)
    running.cli("push", str(write_base(folder / "base")), "admin/base")
    running.cli("push", str(write_rows(folder / "rows.jsonl")), "admin/rows", "--type", "dataset")
    running.cli("serve", "admin/base", "--alias", "helper")
    yield running
    running.stop()


def deployment_ids(house: RunningFust) -> list[str]:
    return [it["id"] for it in json.loads(house.request("GET", "/fust/v1/deployments")[2])["items"]]


def tune(house: RunningFust, to: str, *more: str) -> None:
    dials = ("--set", "steps=40", "--set", "learning_rate=0.01")
    house.cli("tune", "admin/base", "--data", "admin/rows", "--to", to, *dials, *more)


def test_an_adapter_joins_while_chats_go_on_and_none_fails(house):
    before = deployment_ids(house)
    with Chats(house, ["helper", "admin/base"]) as chats:
        for model in ("helper", "admin/base"):
            chats.wait(model, 2)
        tuning = threading.Thread(target=tune, args=(house, "admin/voice"))
        tuning.start()
        answer = ""
        while not answer:  # asked for from before there is one, until there is
            over = not tuning.is_alive()
            try:
                answer = chats.say("helper:admin/voice")
            except openai.APIStatusError as error:  # no repository yet, or one that holds no files yet
                assert error.status_code == 404 or "holds no adapter" in str(error)
                assert not over, "it is in the hub and does not answer"
                time.sleep(0.05)
        tuning.join()
        for model in ("helper", "admin/base"):
            chats.wait(model, 5)
        for name in ("helper:voice", "admin/base:voice", "admin/voice"):
            assert chats.say(name) == answer, name
    assert chats.failures == []
    assert {said for answers in chats.answers.values() for said in answers} == {chats.answers["helper"][0]}
    assert answer != chats.answers["helper"][0]
    assert deployment_ids(house) == before
