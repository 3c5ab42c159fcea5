"""Vision: a projector beside a model's weights, real pictures of both vendors' clients. Plumbing, for its weights are random."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anthropic
import openai
import psutil
import pytest
from anthropic import Anthropic
from openai import OpenAI
from PIL import Image

from fust.serve.engines.base import EngineSpec
from fust.serve.engines.llama_server import command_of
from fust.serve.projector import read_vision
from tests.support.model_house import House, running_house
from tests.support.pictures import PictureSite, data_url, halves, picture, saved
from tests.support.projectors import write_projector
from tests.support.small_models import TOOLS_CHATML, write_llama

RED, BLUE = picture("red"), picture("blue")
TOKENS = 16
"""Of an image: (32 / 8)² patches."""


@pytest.fixture(scope="module")
def site() -> Iterator[PictureSite]:
    site = PictureSite()
    yield site
    site.close()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("vision")
    models = folder / "models"
    write_llama(models / "acme/sees/sees-F32.gguf", chat_template=TOOLS_CHATML)
    write_projector(models / "acme/sees/mmproj-sees-F16.gguf")
    write_llama(models / "acme/blind/blind.gguf")
    write_llama(models / "acme/unnamed/words.gguf")
    write_projector(models / "acme/unnamed/eyes.gguf")
    write_llama(models / "acme/wrong/wrong.gguf")
    write_llama(models / "acme/wrong/mmproj.gguf", seed=2)
    write_llama(models / "acme/narrow/narrow.gguf")
    write_projector(models / "acme/narrow/mmproj.gguf", into=32)
    flags = ("serve.threads=1", "serve.slots=2", "gateway.image_hosts=127.0.0.1")
    with running_house(folder / "home", models, *flags) as house:
        house.serve("acme/sees", alias="eyes")
        house.serve("acme/blind", alias="blind")
        yield house


@pytest.fixture(scope="module")
def gpt(house: House) -> Iterator[OpenAI]:
    with OpenAI(base_url=house.base_url, api_key=house.token, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def claude(house: House) -> Iterator[Anthropic]:
    with Anthropic(base_url=house.url, api_key=house.token, max_retries=0) as client:
        yield client


def shown(*pictures: bytes, text: str = "what is it", **more: Any) -> list[Any]:
    parts: list[Any] = [{"type": "text", "text": text}]
    parts += [{"type": "image_url", "image_url": {"url": data_url(data), **more}} for data in pictures]
    return [{"role": "user", "content": parts}]


def ask(gpt: OpenAI, messages: list[Any], model: str = "eyes", **more: Any) -> tuple[int, float]:
    """Returns the prompt's tokens and the log-probability of the first token."""
    made = gpt.chat.completions.create(
        model=model, messages=messages, max_tokens=3, temperature=0, logprobs=True, **more
    )
    assert made.usage is not None and made.choices[0].logprobs is not None
    assert made.choices[0].logprobs.content is not None
    return made.usage.prompt_tokens, made.choices[0].logprobs.content[0].logprob


def test_another_image_is_another_answer(gpt: OpenAI) -> None:
    words, spoken = ask(gpt, [{"role": "user", "content": "what is it"}])
    one, red = ask(gpt, shown(RED))
    again, same = ask(gpt, shown(RED))
    _, blue = ask(gpt, shown(BLUE))
    two, both = ask(gpt, shown(RED, BLUE))
    assert one >= words + TOKENS and two - one in range(TOKENS, TOKENS + 3), (words, one, two)
    assert (again, same) == (one, pytest.approx(red, abs=1e-3))
    assert len({round(value, 3) for value in (spoken, red, blue, both)}) == 4
    assert ask(gpt, [{"role": "user", "content": "what is it"}]) == (words, pytest.approx(spoken, abs=1e-3))


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "WEBP"])
def test_every_kind_is_read(gpt: OpenAI, kind: str) -> None:
    _, png = ask(gpt, shown(BLUE))
    assert ask(gpt, shown(picture("blue", kind)))[1] == pytest.approx(png, abs=0.05)


def test_a_stream_and_several_choices(gpt: OpenAI) -> None:
    stream = gpt.chat.completions.create(
        model="eyes", messages=shown(RED), max_tokens=3, stream=True, stream_options={"include_usage": True}
    )
    last = list(stream)[-1]
    assert last.usage is not None and last.usage.prompt_tokens > TOKENS
    made = gpt.chat.completions.create(model="eyes", messages=shown(RED), max_tokens=3, n=2, seed=1)
    assert len(made.choices) == 2


def test_a_url_is_fetched_here(gpt: OpenAI, site: PictureSite, house: House) -> None:
    url = [{"role": "user", "content": [
        {"type": "text", "text": "what is it"}, {"type": "image_url", "image_url": {"url": site.url + "/red.png"}}]}]  # fmt: skip
    assert ask(gpt, url) == (ask(gpt, shown(RED))[0], pytest.approx(ask(gpt, shown(RED))[1], abs=1e-3))
    before = len(site.asked)
    with pytest.raises(openai.BadRequestError) as refused:
        ask(gpt, url, model="blind")
    assert refused.value.param == "messages[0].content[1].image_url.url"
    assert "blind" in refused.value.message
    assert len(site.asked) == before, "nothing is fetched for a model that does not see"
    url[0]["content"][1]["image_url"]["url"] = "http://169.254.169.254/latest/meta-data"
    with pytest.raises(openai.BadRequestError, match="private address"):
        ask(gpt, url)


def test_responses_see(gpt: OpenAI, site: PictureSite) -> None:
    def said(url: str) -> list[Any]:
        parts = [
            {"type": "input_text", "text": "what"},
            {"type": "input_image", "image_url": url, "detail": "auto"},
        ]
        return [{"role": "user", "content": parts}]

    first = gpt.responses.create(model="eyes", input=said(data_url(RED)), max_output_tokens=2)
    fetched = gpt.responses.create(model="eyes", input=said(site.url + "/red.png"), max_output_tokens=2)
    assert first.usage is not None and fetched.usage is not None
    assert first.usage.input_tokens == fetched.usage.input_tokens > TOKENS
    then = gpt.responses.create(
        model="eyes", input="and now", previous_response_id=first.id, max_output_tokens=2
    )
    assert then.usage is not None and then.usage.input_tokens > first.usage.input_tokens
    result = [
        {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": said(data_url(BLUE))[0]["content"]},
    ]
    given: Any = [{"role": "user", "content": "look"}, *result]
    seen = gpt.responses.create(model="eyes", input=given, max_output_tokens=2)
    assert seen.usage is not None and seen.usage.input_tokens > TOKENS
    for wrong in ({"file_id": "file-1"}, {}):
        with pytest.raises(openai.BadRequestError) as refused:
            parts: Any = [{"type": "input_image", **wrong}]
            gpt.responses.create(model="eyes", input=[{"role": "user", "content": parts}])
        assert str(refused.value.param).startswith("input[0].content[0].")


def test_messages_see_and_count(claude: Anthropic, site: PictureSite) -> None:
    inline: Any = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(RED).decode()}
    linked: Any = {"type": "url", "url": site.url + "/red.png"}

    def said(source: Any) -> list[Any]:
        return [
            {
                "role": "user",
                "content": [{"type": "image", "source": source}, {"type": "text", "text": "what"}],
            }
        ]

    first = claude.messages.create(model="eyes", max_tokens=2, messages=said(inline))
    second = claude.messages.create(model="eyes", max_tokens=2, messages=said(linked))
    assert first.usage.input_tokens + (first.usage.cache_read_input_tokens or 0) > TOKENS
    count = claude.messages.count_tokens(model="eyes", messages=said(linked)).input_tokens
    assert count == second.usage.input_tokens + (second.usage.cache_read_input_tokens or 0)
    assert count >= TOKENS + claude.messages.count_tokens(model="eyes", messages=[{"role": "user", "content": "what"}]).input_tokens  # fmt: skip
    result: Any = {
        "type": "tool_result",
        "tool_use_id": "t",
        "content": [{"type": "image", "source": inline}],
    }
    called: Any = {"type": "tool_use", "id": "t", "name": "look", "input": {}}
    turns: list[Any] = [
        {"role": "user", "content": "look"},
        {"role": "assistant", "content": [called]},
        {"role": "user", "content": [result]},
    ]
    assert claude.messages.count_tokens(model="eyes", messages=turns).input_tokens > TOKENS
    with pytest.raises(anthropic.BadRequestError, match="messages"):
        claude.messages.create(model="blind", max_tokens=2, messages=said(inline))
    with pytest.raises(anthropic.BadRequestError, match="base64"):
        claude.messages.create(model="eyes", max_tokens=2, messages=said({"type": "content", "content": "x"}))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("turn", [3, 6])
def test_a_picture_that_exif_turns_reaches_the_model_upright(gpt: OpenAI, kind: str, turn: int) -> None:
    lying = halves("red", "blue")
    flat, turned = saved(lying, kind), saved(lying, kind, turn)
    with Image.open(io.BytesIO(flat)) as image:
        upright = saved(image.transpose({3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_270}[turn]), "PNG")  # fmt: skip
    wanted, seen = ask(gpt, shown(upright)), ask(gpt, shown(turned))
    assert seen == (wanted[0], pytest.approx(wanted[1], abs=1e-3))
    assert ask(gpt, shown(flat))[1] != pytest.approx(wanted[1], abs=1e-3)  # it would have been seen


def test_images_are_named_by_the_id_of_a_file(gpt: OpenAI, claude: Anthropic, house: House) -> None:
    """Both vendors' clients upload one, and each of the three APIs looks at it: as if it had been sent along."""
    wanted = ask(gpt, shown(RED))
    file = gpt.files.create(file=("red.png", RED), purpose="vision")
    text: Any = {"type": "text", "text": "what is it"}
    named: Any = {"type": "file", "file": {"file_id": file.id}}
    assert ask(gpt, [{"role": "user", "content": [text, named]}]) == (wanted[0], pytest.approx(wanted[1], abs=1e-3))  # fmt: skip
    parts: Any = [
        {"type": "input_text", "text": "what is it"},
        {"type": "input_image", "file_id": file.id, "detail": "auto"},
    ]
    said = gpt.responses.create(model="eyes", input=[{"role": "user", "content": parts}], max_output_tokens=2)
    assert said.usage is not None and said.usage.input_tokens == wanted[0]
    theirs = claude.beta.files.upload(file=("red.png", RED, "image/png"))
    assert (theirs.mime_type, theirs.size_bytes, theirs.filename) == ("image/png", len(RED), "red.png")
    assert {it.id for it in claude.beta.files.list()} >= {theirs.id, file.id}
    block: Any = {"type": "image", "source": {"type": "file", "file_id": theirs.id}}
    counted = claude.messages.count_tokens(
        model="eyes", messages=[{"role": "user", "content": [text, block]}]
    )
    assert counted.input_tokens == wanted[0]
    with OpenAI(base_url=house.base_url, api_key=house.reader, max_retries=0) as other:
        with pytest.raises(openai.BadRequestError, match="no file") as refused:  # another user's is none
            ask(other, [{"role": "user", "content": [text, named]}])
        assert refused.value.param == "messages[0].content[1].file.file_id"
    assert claude.beta.files.delete(theirs.id).type == "file_deleted"
    with pytest.raises(anthropic.BadRequestError, match="no file"):
        claude.messages.create(model="eyes", max_tokens=2, messages=[{"role": "user", "content": [block]}])
    rows = gpt.files.create(file=("rows.png", b"{}\n"), purpose="user_data")
    with pytest.raises(openai.BadRequestError, match="not an image"):
        ask(gpt, [{"role": "user", "content": [text, {"type": "file", "file": {"file_id": rows.id}}]}])
    with pytest.raises(openai.APIStatusError, match="batches and images"):
        gpt.files.create(file=("rows.jsonl", b"{}\n"), purpose="fine-tune")


@pytest.mark.parametrize("damage", ["cut", "noise"])
def test_a_damaged_image_harms_nobody(gpt: OpenAI, house: House, damage: str) -> None:
    pids = house.engine_pids()
    whole = picture("red", "PNG", (300, 300))
    broken = whole[: len(whole) // 2] if damage == "cut" else whole[:40] + bytes(200)
    with pytest.raises(openai.BadRequestError):
        ask(gpt, shown(broken))
    assert ask(gpt, shown(RED))[0] > TOKENS
    assert house.engine_pids() == pids


def test_a_projector_is_known_by_its_header(house: House, gpt: OpenAI) -> None:
    served = house.serve("acme/unnamed")
    assert served["file"] == "words.gguf"
    assert "vision" in served["capabilities"]
    assert any("eyes.gguf" in line for line in served["why"])
    assert ask(gpt, shown(RED), model="acme/unnamed")[0] > TOKENS
    house.json("DELETE", f"/fust/v1/deployments/{served['id']}")


def test_a_projector_that_is_none_or_anothers_is_named(house: House) -> None:
    wrong = house.serve("acme/wrong")
    assert wrong["state"] == "failed" and "mmproj.gguf" in wrong["error"]
    narrow = house.serve("acme/narrow")
    assert narrow["state"] == "failed" and "mmproj" in narrow["error"]


def test_the_estimate_counts_what_sees(house: House, gpt: OpenAI) -> None:
    """The same words without eyes beside it, both after a request, so that what both take falls out."""
    folder = house.models / "acme/large"
    for path in (folder / "large.gguf", house.models / "acme/words/words.gguf"):
        write_llama(path)
    eyes = write_projector(
        folder / "mmproj.gguf", size=336, patch=14, width=512, heads=8, feed_forward=2048, layers=4
    )
    measured = []
    for model, messages in (
        ("acme/large", shown(picture("red", "PNG", (600, 600)))),
        ("acme/words", shown(text="ba " * 280)),
    ):
        before = set(house.engine_pids())
        served = house.serve(model)
        assert ask(gpt, messages, model=model)[0] > 500
        (pid,) = set(house.engine_pids()) - before
        measured.append(psutil.Process(pid).memory_full_info().pss)
        house.json("DELETE", f"/fust/v1/deployments/{served['id']}")
    estimate = read_vision(eyes, eyes.name, eyes.stat().st_size).memory_bytes
    assert 0.85 < estimate / (measured[0] - measured[1]) < 1.15, (estimate, measured)


def test_an_upstream_sees_what_it_is_sent(house: House, gpt: OpenAI) -> None:
    body = {"name": "far", "engine": "upstream", "options": {"url": house.base_url, "model": "eyes", "key": house.token}}  # fmt: skip
    far = house.settled(house.json("POST", "/fust/v1/deployments", body)["id"])
    assert "vision" in far["capabilities"], far
    assert ask(gpt, shown(RED), model="far") == (ask(gpt, shown(RED))[0], pytest.approx(ask(gpt, shown(RED))[1], abs=1e-3))  # fmt: skip


@pytest.mark.slow
def test_a_real_llama_server_sees_the_same(house: House, gpt: OpenAI, tmp_path: Path) -> None:
    """One that was built from the same source: the answers of both to pictures and words are one another's."""
    real = os.environ.get("FUST_TEST_LLAMA_SERVER", "")
    if not real:
        pytest.skip("no llama-server to test with (set FUST_TEST_LLAMA_SERVER)")
    flags = ("serve.threads=1", "serve.slots=2", f"serve.llama_server={real}")
    with running_house(tmp_path / "home", house.models, *flags) as native:
        served = native.serve("acme/sees", alias="eyes")
        assert "vision" in served["capabilities"], served
        commands = [psutil.Process(pid).cmdline() for pid in native.engine_pids()]
        assert any(command[0] == real and "--mmproj" in command for command in commands), commands
        with OpenAI(base_url=native.base_url, api_key=native.token, max_retries=0) as client:
            for messages in (shown(RED), shown(BLUE), shown(RED, BLUE), shown(text="just words")):
                tokens, likely = ask(gpt, messages)
                assert ask(client, messages) == (tokens, pytest.approx(likely, abs=0.02))


def test_deployments_say_who_sees(house: House) -> None:
    found = {d["name"]: d for d in house.json("GET", "/fust/v1/deployments")["items"]}
    assert "vision" in found["acme/sees"]["capabilities"]
    assert "vision" not in found["acme/blind"]["capabilities"]
    assert json.dumps(found["acme/sees"]["why"]).count("mmproj-sees-F16.gguf") == 1


def test_a_llama_server_is_told_of_it() -> None:
    spec = EngineSpec("e", Path("m.gguf"), "m", "generate", 512, 1, 1, projector=Path("eyes.gguf"))
    command = command_of("/no/such/llama-server", spec)
    assert command[command.index("--mmproj") + 1] == "eyes.gguf"
    assert "--mmproj" not in command_of("/no/such/llama-server", replace(spec, projector=None))
