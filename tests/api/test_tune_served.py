"""A tuning whose base answers chats all the while: its adapter joins the running engine, and no request fails."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import RunningFust, start_fust
from tests.support.tiny_bases import write_base, write_rows

pytest.importorskip("peft", reason="peft is not installed (pip install 'fust[tune]')")
pytest.importorskip("xllamacpp", reason="xllamacpp is not installed")
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is deprecated:FutureWarning"
)  # peft and transformers, of one another
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


def push_adapter(house: RunningFust, folder: Path, name: str) -> None:
    """Pushes a new base and an adapter of it that PEFT saved from a folder."""
    from tests.support.hf_models import adapter_of

    base, adapter = write_base(folder / "base", seed=3), folder / "adapter"
    house.cli("push", str(base), f"admin/{name}-base")
    adapter_of(base, adapter)
    config = adapter / "adapter_config.json"
    said = json.loads(config.read_text()) | {"base_model_name_or_path": f"admin/{name}-base"}
    config.write_text(json.dumps(said))
    done = house.cli("push", str(adapter), f"admin/{name}", check=False)
    assert done.returncode == 1 and "README.md" in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert str(base) in done.stderr, "the folder that PEFT wrote into the card"
    (adapter / "README.md").unlink()
    house.cli("push", str(adapter), f"admin/{name}")


def test_serving_an_adapter_converts_its_base_and_waits_for_it(house, tmp_path):
    """The base is safetensors and not served: one command, and both answer."""
    push_adapter(house, tmp_path, "alone")
    done = house.cli("serve", "admin/alone", check=False)
    assert done.returncode == 0, done.stderr
    with Chats(house, []) as chats:
        assert chats.say("admin/alone") != chats.say("admin/alone-base")
    house.cli("stop", "admin/alone-base")


def test_a_base_on_an_engine_without_adapters_says_so_and_goes_on_answering(house, tmp_path):
    push_adapter(house, tmp_path, "exact")
    house.cli("serve", "admin/exact-base", "--engine", "transformers")
    with Chats(house, ["admin/exact-base"]) as chats:
        chats.wait("admin/exact-base", 1)
        for name in ("admin/exact", "admin/exact-base:admin/exact"):
            with pytest.raises(openai.BadRequestError, match="--engine llamacpp") as caught:
                chats.say(name)
            assert caught.value.code == "no_adapters" and "Its engine is transformers" in caught.value.message
        done = house.cli("serve", "admin/exact", check=False)
        assert done.returncode == 1 and "admin/exact-base takes no adapters" in done.stderr
        chats.wait("admin/exact-base", 2)
    assert chats.failures == []
    house.cli("serve", "admin/exact-base", "--engine", "llamacpp")
    with Chats(house, []) as chats:
        assert chats.say("admin/exact") != chats.say("admin/exact-base")
    house.cli("stop", "admin/exact-base")
