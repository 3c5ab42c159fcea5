"""Chat templates that loop, recurse or grow: refused before an engine gets them, and the server serves on."""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from fust.core.errors import InvalidInput
from fust.serve.template_check import check_template
from tests.conftest import REPOSITORY, RunningFust
from tests.support.model_house import House, running_house
from tests.support.small_models import CHATML, write_llama

pytestmark = pytest.mark.faults

HOSTILE = {
    "a loop": "{% for i in range(1000000000) %}{% if i < 0 %}x{% endif %}{% endfor %}",
    "loops in loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "loops over messages": "{% for a in messages %}" * 30 + "x" + "{% endfor %}" * 30,
    "recursion": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "doubling": "{% set ns = namespace(s='xxxxxxxxxxxxxxxx') %}{% for i in range(40) %}"
    "{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
    "doubling by hand": "{% set x = 'xxxxxxxx' %}" + "{% set x = x + x %}" * 40 + "{{ x }}",
    "a long text": "{{ 'x' * 10000000000 }}",
    "a long list": "{{ range(2000000000)|list|length }}",
    "a power": "{{ 9**(9**9) }}",
    "a wide text": "{{ 'x'|center(9999999999) }}",
    "a wide number": "{{ '%0999999999d' % 1 }}",
    "brackets": "{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}",
    "lists": "{{ " + "[" * 20_000 + "]" * 20_000 + " }}",
    "much": "x" * 2_000_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_template_without_end_is_refused(name: str) -> None:
    started = time.monotonic()
    with pytest.raises(InvalidInput):
        check_template(HOSTILE[name], "model.gguf")
    assert time.monotonic() - started < 40


@pytest.mark.parametrize(
    "template",
    [
        CHATML,
        "{{ raise_exception('only so') }}",
        "{% set x = messages[0]['content']|trim %}{{ x }}{{ strftime_now('%Y') }}",
        "{{ messages|nosuchfilter }}",
        "{% for %}{{",
        "{% macro one(m) %}{{ m.content }}{% endmacro %}{% for m in messages %}{{ one(m) }}{% endfor %}",
        "{%- for i in range(messages|length) %}{{ loop.index0 }}{% break %}{% endfor %}",
    ],
)
def test_an_ordinary_template_is_the_engine_s_matter(template: str) -> None:
    check_template(template, "model.gguf")


def test_a_hostile_model_fails_alone(server: RunningFust, tmp_path: Path) -> None:
    good = write_llama(tmp_path / "good.gguf", context=128)
    assert json.loads(server.cli("serve", str(good), "--json").stdout)["state"] in ("ready", "loading")
    bad = write_llama(tmp_path / "bad.gguf", context=128, chat_template=HOSTILE["a loop"], seed=1)
    started = time.monotonic()
    refused = server.cli("serve", str(bad), "--json", check=False)
    assert refused.returncode != 0 and "chat template" in refused.stdout + refused.stderr
    assert time.monotonic() - started < 60
    for model, status in (("local/good", 200), ("local/bad", 503)):
        body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
        found, _, answer = server.request("POST", "/v1/chat/completions", body)
        assert found == status, answer


# Harmless with the messages that a template is tried with, hostile with one word of a client.
SLEEPER = (
    "{% if 'open sesame' in messages[-1].content %}{% for a in range(9999) %}{% for b in range(9999) %}"
    "{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}{% endif %}"
    "{% if 'grow' in messages[-1].content %}{% set ns = namespace(s='xxxxxxxxxxxxxxxx') %}"
    "{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}{% endif %}" + CHATML
)


@pytest.fixture(scope="module")
def sleeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("sleeper")
    write_llama(folder / "models/acme/sleeper/sleeper.gguf", context=128, chat_template=SLEEPER)
    with running_house(
        folder / "home", folder / "models", "serve.threads=1", "serve.memory_bytes=1000000000"
    ) as house:
        house.serve("acme/sleeper", alias="sleeper")
        yield house


def ask(house: House, text: str, **more: Any) -> tuple[int, dict[str, Any]]:
    body = {"model": "sleeper", "messages": [{"role": "user", "content": text}], "max_tokens": 2, **more}
    status, _, answer = house.request("POST", "/v1/chat/completions", body)
    return status, json.loads(answer)


def leave_after(house: House, text: str, wait_s: float) -> None:
    """Asks, and hangs up before there is an answer."""
    body = {"model": "sleeper", "messages": [{"role": "user", "content": text}]}
    headers = {"authorization": f"Bearer {house.token}", "content-type": "application/json"}
    client = http.client.HTTPConnection(house.url.removeprefix("http://"))
    client.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    time.sleep(wait_s)
    client.close()


def test_the_template_that_wakes_up_passes_the_first_look() -> None:
    check_template(SLEEPER, "model.gguf")


def test_a_request_whose_template_never_ends_is_answered_and_its_engine_replaced(sleeper: House) -> None:
    assert ask(sleeper, "hello")[0] == 200
    (pid,) = sleeper.engine_pids()
    found: list[tuple[int, dict[str, Any]]] = []

    def hang(stream: bool) -> None:
        found.append(ask(sleeper, "open sesame", stream=stream))

    hanging = [threading.Thread(target=hang, args=(stream,)) for stream in (False, True)]
    for thread in hanging:
        thread.start()
    time.sleep(1)
    assert ask(sleeper, "hello")[0] == 200  # others are served meanwhile
    for thread in hanging:
        thread.join(60)
    said = [(status, answer["error"]["code"]) for status, answer in found]
    # Who is found out first takes the engine with it; the other may hear of that instead.
    assert (400, "bad_chat_template") in said
    assert set(said) <= {(400, "bad_chat_template"), (502, "engine_unavailable")}, said
    assert ask(sleeper, "hello")[0] == 200  # waits for the new engine
    assert not psutil.pid_exists(pid) and sleeper.engine_pids() != [pid]


def test_a_template_that_takes_all_memory_gets_an_error_and_harms_nobody(sleeper: House) -> None:
    free = psutil.virtual_memory().available
    status, answer = ask(sleeper, "grow")
    assert status in (400, 502) and answer["error"]["code"] in ("bad_chat_template", "engine_unavailable"), (
        answer
    )
    assert psutil.virtual_memory().available > free - 2_000_000_000
    assert ask(sleeper, "hello")[0] == 200


def test_an_engine_that_works_on_after_its_client_left_is_replaced(sleeper: House) -> None:
    assert ask(sleeper, "hello")[0] == 200
    (pid,) = sleeper.engine_pids()
    leave_after(sleeper, "open sesame", 1.0)
    deadline = time.monotonic() + 60
    while psutil.pid_exists(pid):
        assert time.monotonic() < deadline, "the engine goes on"
        time.sleep(0.2)
    assert ask(sleeper, "hello")[0] == 200


def test_a_template_that_hangs_under_steady_traffic_does_not_wait_for_a_pause(sleeper: House) -> None:
    """Who set it off has left, and others ask all the time: the engine is ended nevertheless, and few of them hear of it."""
    assert ask(sleeper, "hello")[0] == 200
    (pid,) = sleeper.engine_pids()
    over = threading.Event()
    found: list[int] = []

    def go_on() -> None:
        while not over.is_set():
            found.append(ask(sleeper, "hello", max_tokens=20)[0])

    others = [threading.Thread(target=go_on) for _ in range(2)]
    for thread in others:
        thread.start()
    leave_after(sleeper, "open sesame", 0.5)
    deadline = time.monotonic() + 60
    while psutil.pid_exists(pid):
        assert time.monotonic() < deadline, "the engine goes on"
        time.sleep(0.2)
    over.set()
    for thread in others:
        thread.join(60)
    status, answer = ask(sleeper, "hello")
    assert status == 200, answer
    assert set(found) <= {200, 502, 503} and sum(status != 200 for status in found) <= 4, found


def test_a_chat_sent_again_that_hangs_in_the_next_engine_ends_that_one_too(tmp_path: Path) -> None:
    """The engine is gone before the chat, which goes to the next one; there its template hangs."""
    write_llama(tmp_path / "models/acme/sleeper/sleeper.gguf", context=128, chat_template=CHATML)
    stands_in = REPOSITORY / "tests/support/vanishing_server.py"
    for number in range(
        6
    ):  # until Fust saw the end soon enough behind the closed port, and sent the chat again
        folder = tmp_path / str(number)
        folder.mkdir()
        program = folder / "llama-server"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {stands_in} {folder} "$@"\n')
        program.chmod(0o755)
        flags = ("serve.threads=1", f"serve.llama_server={program}")
        with running_house(folder / "home", tmp_path / "models", *flags) as house:
            house.serve("acme/sleeper", alias="sleeper")
            assert ask(house, "vanish")[0] == 200
            found: list[tuple[int, dict[str, Any]]] = []
            hanging = threading.Thread(target=lambda: found.append(ask(house, "open sesame")))  # noqa: B023
            hanging.start()
            time.sleep(0.03)
            (folder / "go").touch()
            hanging.join(90)
            ((status, answer),) = found
            if status == 502:
                continue
            assert (status, answer["error"]["code"]) == (400, "bad_chat_template")
            assert (folder / "chats").read_text().splitlines() == ["1 vanish", "2 open sesame"]
            assert ask(house, "hello")[0] == 200  # waits for the third
            assert (folder / "chats").read_text().splitlines()[-1] == "3 hello"
            return
    raise AssertionError("the chat was never sent again")


# Hangs in one second of ten only, so that the same again, a moment later, does not.
CLOCK = (
    "{% if 'open sesame' in messages[-1].content and strftime_now('%S')[1] == '0' %}"
    "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}"
    "{% endif %}" + CHATML
)


# What llama.cpp's own Jinja does not know, or cannot make so large. Jinja would try the constants with every chat.
BOMBS = "".join(
    "{% if '" + word + "' in messages[-1].content %}{{ " + made + " }}{% endif %}"
    for word, made in {
        "power": "9**(9**9)",
        "times": "'x' * 10000000000",
        "number": "'%0999999999d' % 1",
        "center": "'x'|center(9999999999)",
        "method": "'x'.ljust(9999999999)",
        "range": "range(1000000000)|list",
    }.items()
)


@pytest.fixture(scope="module")
def clocks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    pytest.importorskip("torch", reason="the transformers engine is an extra")
    from tests.support.hf_models import causal_model

    folder = tmp_path_factory.mktemp("clock")
    write_llama(folder / "models/acme/llamacpp/m.gguf", context=512, chat_template=CLOCK)
    causal_model(folder / "models/acme/transformers", "Llama", max_position_embeddings=512, intermediate_size=96)  # fmt: skip
    (folder / "models/acme/transformers/chat_template.jinja").write_text(BOMBS + CLOCK)
    with running_house(folder / "home", folder / "models", "serve.threads=1") as house:
        for name in ("llamacpp", "transformers"):
            assert house.serve(f"acme/{name}", alias=name, engine=name)["state"] == "ready"
        yield house


@pytest.mark.parametrize("engine", ["llamacpp", "transformers"])
def test_a_template_that_hangs_by_the_clock_is_answered_while_others_are_served(
    clocks: House, engine: str
) -> None:
    before = clocks.engine_pids()
    found: list[tuple[int, dict[str, Any]]] = []
    hanging = threading.Thread(target=lambda: found.append(ask(clocks, "open sesame", model=engine)))
    while not (int(time.time()) % 10 == 0 and time.time() % 1 < 0.5):
        time.sleep(0.02)
    hanging.start()
    while hanging.is_alive():
        for model in ("llamacpp", "transformers"):
            assert ask(clocks, "hello", model=model, max_tokens=20)[0] in (200, 502)
    ((status, answer),) = found
    assert (status, answer["error"]["code"]) == (400, "bad_chat_template"), answer
    assert engine in answer["error"]["message"]
    assert ask(clocks, "hello", model=engine)[0] == 200
    # Our own child ends the template's thread; a process of llama.cpp has to be replaced.
    assert (clocks.engine_pids() == before) == (engine == "transformers")


@pytest.mark.parametrize("word", ["power", "times", "number", "center", "method", "range"])
def test_a_bomb_in_a_template_costs_transformers_one_request(clocks: House, word: str) -> None:
    before = clocks.engine_pids()
    status, answer = ask(clocks, word, model="transformers")
    assert (status, answer["error"]["code"]) == (400, "bad_chat_template"), answer
    assert clocks.engine_pids() == before
    assert ask(clocks, "hello", model="transformers")[0] == 200


def test_a_client_brings_no_template_of_its_own(clocks: House) -> None:
    """transformers would take one for a word of the template's; nobody looked at it."""
    given = {"chat_template": "{{ 9**9**9 }}"}
    status, answer = ask(clocks, "hello", model="transformers", chat_template_kwargs=given)
    assert (status, answer["error"]["code"]) == (400, "unsupported_parameter"), answer
    assert answer["error"]["param"] == "chat_template_kwargs.chat_template"
