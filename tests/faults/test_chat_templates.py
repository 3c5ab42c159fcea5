"""Chat templates that loop, recurse or grow: refused before an engine gets them, and the server serves on."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from fust.core.errors import InvalidInput
from fust.serve.template_check import check_template
from tests.conftest import RunningFust
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
