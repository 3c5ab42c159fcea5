"""Which file of a repo is served, what a header tells, what fits."""

from __future__ import annotations

from pathlib import Path

import pytest

from fust.core.errors import FustError, InvalidInput, NotFound, NotOffered
from fust.core.settings import ServeSettings
from fust.serve.engines.kinds import choose_kind
from fust.serve.engines.llamacpp import load_failure
from fust.serve.facts import read_facts
from fust.serve.files import ModelFile, Need, TreeFile, choose_file, list_models, nothing_to_serve
from fust.serve.plan import plan_engine
from tests.support.small_models import write_llama

GB = 10**9


def files(*pairs: tuple[str, int]) -> list[TreeFile]:
    return [TreeFile(name, size) for name, size in pairs]


MANY = files(
    ("README.md", 100), ("m-Q4_K_M.gguf", 4 * GB), ("m-Q8_0.gguf", 8 * GB), ("m-F16.gguf", 16 * GB),
    ("mmproj-m-F16.gguf", 1 * GB),
)  # fmt: skip


def test_the_largest_that_fits_is_taken_and_named() -> None:
    model, reason = choose_file("a/b", list_models(MANY), None, 12 * GB)
    assert model.path == "m-Q8_0.gguf"
    assert reason.draw() == (
        "m-Q8_0.gguf (8 GB) is the largest of 3 that fits into 12 GB; m-F16.gguf would need about 19.3 GB."
    )
    assert "m-Q8_0.gguf" in reason.draw("zh")


def test_a_projector_is_not_a_model() -> None:
    assert [model.path for model in list_models(MANY)] == ["m-F16.gguf", "m-Q8_0.gguf", "m-Q4_K_M.gguf"]


def test_a_model_takes_the_projector_beside_it() -> None:
    def taken(*names: str) -> dict[str, str | None]:
        found = list_models(files(*((name, 10) for name in names)))
        return {model.path: model.projector.path if model.projector else None for model in found}

    assert taken("m.gguf") == {"m.gguf": None}
    assert taken("m.gguf", "mmproj-F32.gguf", "mmproj-BF16.gguf", "mmproj-F16.gguf") == {
        "m.gguf": "mmproj-F16.gguf"
    }
    assert taken("a/m.gguf", "a/m-mmproj-Q8_0.gguf", "mmproj-f16.gguf") == {
        "a/m.gguf": "a/m-mmproj-Q8_0.gguf"
    }
    assert taken("a/m.gguf", "mmproj.gguf", "b/mmproj.gguf") == {"a/m.gguf": "mmproj.gguf"}
    parts = [f"big-0000{i}-of-00002.gguf" for i in (1, 2)]
    assert taken(*parts, "mmproj.gguf") == {parts[0]: "mmproj.gguf"}


@pytest.mark.parametrize("wanted", ["m-Q4_K_M.gguf", "Q4_K_M", "q4_k_m.gguf", "m-Q4_K_M"])
def test_a_file_can_be_asked_for_by_the_end_of_its_name(wanted: str) -> None:
    assert choose_file("a/b", list_models(MANY), wanted, GB)[0].path == "m-Q4_K_M.gguf"


def test_a_file_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(NotFound, match="Q5") as caught:
        choose_file("a/b", list_models(MANY), "Q5", GB)
    assert "m-F16.gguf" in caught.value.hint()


def test_the_estimate_decides_where_there_is_one() -> None:
    def need(model: ModelFile) -> Need:
        return Need(model.size_bytes + 6 * GB, model.size_bytes + GB)

    model, reason = choose_file("a/b", list_models(MANY), None, 12 * GB, need)
    assert model.path == "m-Q4_K_M.gguf"
    assert reason.draw().endswith("that fits into 12 GB; m-Q8_0.gguf would need about 14 GB.")
    # None fits with all slots and the whole context: the largest that fits with less.
    assert choose_file("a/b", list_models(MANY), None, int(9.5 * GB), need)[0].path == "m-Q8_0.gguf"
    with pytest.raises(InvalidInput, match="needs about 5 GB"):
        choose_file("a/b", list_models(MANY), None, GB, need)


def test_nothing_fits() -> None:
    with pytest.raises(InvalidInput, match=r"smallest, m-Q4_K_M\.gguf, needs about 4.86 GB") as caught:
        choose_file("a/b", list_models(MANY), None, GB)
    assert caught.value.code == "does_not_fit"


def test_parts_of_a_split_model_go_together() -> None:
    parts = files(*((f"big-Q4-0000{i}-of-00003.gguf", GB) for i in (3, 1, 2)), ("small.gguf", GB))
    found = list_models(parts)
    assert found[0].paths == tuple(f"big-Q4-0000{i}-of-00003.gguf" for i in (1, 2, 3))
    assert (found[0].label, found[0].size_bytes) == ("big-Q4.gguf", 3 * GB)
    assert choose_file("a/b", found, "big-Q4", GB)[0].path == "big-Q4-00001-of-00003.gguf"


def test_a_missing_part_is_told() -> None:
    error = nothing_to_serve("a/b", files(("big-00001-of-00002.gguf", 1)))
    assert (error.code, "not all of them" in error.message()) == ("split_incomplete", True)


def test_safetensors_only_is_told_what_to_do() -> None:
    error = nothing_to_serve("a/b", files(("model.safetensors", 1), ("config.json", 1)))
    assert isinstance(error, NotOffered)
    assert "never loaded" in error.hint()
    assert "no model file" in nothing_to_serve("a/b", files(("README.md", 1))).message()


def test_an_engine_is_chosen_by_the_files_or_by_name() -> None:
    assert (
        choose_kind(MANY, None, ServeSettings())[0].name
        == choose_kind(MANY, "llamacpp", ServeSettings())[0].name
        == "llamacpp"
    )
    assert choose_kind(files(("README.md", 1)), None, ServeSettings())[1] == []
    with pytest.raises(InvalidInput, match="no engine 'none'") as caught:
        choose_kind(MANY, "none", ServeSettings())
    assert "llamacpp" in caught.value.hint()


def test_facts_of_a_header(tmp_path: Path) -> None:
    path = write_llama(
        tmp_path / "m.gguf", layers=3, width=64, heads=4, vocabulary=640, context=1024, pooling=3
    )
    facts = read_facts(path, path.stat().st_size)
    assert (facts.architecture, facts.layers, facts.context_train, facts.vocabulary) == (
        "llama",
        3,
        1024,
        640,
    )
    assert facts.kv_width == 3 * 4 * 2 * 16
    assert facts.has_chat_template
    assert facts.embed_pooling() == "last"
    plain = read_facts(write_llama(tmp_path / "p.gguf", chat_template=None), 1)
    assert not plain.has_chat_template
    assert plain.embed_pooling() == "mean"


def test_a_damaged_header_is_refused(tmp_path: Path) -> None:
    whole = write_llama(tmp_path / "m.gguf").read_bytes()
    bad = tmp_path / "bad.gguf"
    for size in (*range(1, 200, 7), 500, 1000, 5000):
        bad.write_bytes(whole[:size])
        with pytest.raises(FustError):
            read_facts(bad, size)
    for at in range(4, 400, 5):
        bad.write_bytes(whole[:at] + b"\xff" * 8 + whole[at + 8 :])
        try:
            read_facts(bad, 1)
        except InvalidInput:
            continue
    bad.write_bytes(b"\x80\x04pickle" * 100)
    with pytest.raises(InvalidInput):
        read_facts(bad, 1)


@pytest.mark.parametrize("context", [0, 2**32 - 1])
def test_a_context_that_cannot_be_is_refused_by_its_file(tmp_path: Path, context: int) -> None:
    """llama.cpp loads such a file, and its process ends with the first request."""
    path = write_llama(tmp_path / "odd.gguf", context=context)
    with pytest.raises(InvalidInput, match=rf"odd\.gguf .* {context} tokens"):
        read_facts(path, path.stat().st_size)


def test_a_plan_takes_less_slots_then_less_context_when_memory_is_short(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "m.gguf", layers=8, width=512, heads=8, context=8192)
    facts = read_facts(path, path.stat().st_size)
    settings = ServeSettings(threads=1)
    full = plan_engine(facts, "generate", settings, 10**12)
    assert (full.context, full.slots, full.threads) == (4096, 4, 1)
    tight = plan_engine(facts, "generate", settings, full.memory_bytes - 1)
    assert (tight.context, tight.slots) == (4096, 3)
    least = plan_engine(facts, "generate", settings, 0)
    assert (least.context, least.slots) == (1024, 1)
    assert any("would not fit" in item.draw() for item in tight.why)
    assert any("3 个槽位" in item.draw("zh") for item in tight.why)


def test_adapters_take_their_part_of_the_room(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "m.gguf", layers=8, width=512, heads=8, context=8192)
    facts, settings = read_facts(path, path.stat().st_size), ServeSettings(threads=1)
    full = plan_engine(facts, "generate", settings, 10**12)
    beside = plan_engine(facts, "generate", settings, full.memory_bytes, 1)
    assert (full.slots, beside.slots) == (4, 3)
    more = plan_engine(facts, "generate", settings, full.memory_bytes + 10**8, 10**8)
    assert (more.slots, more.memory_bytes) == (4, full.memory_bytes + 10**8)


def test_context_is_never_more_than_the_models_own(tmp_path: Path) -> None:
    facts = read_facts(write_llama(tmp_path / "m.gguf", context=512), 1)
    assert plan_engine(facts, "generate", ServeSettings(), 10**12).context == 512


def test_the_reason_is_found_in_the_log() -> None:
    log = (
        "0.00.004.301 E llama_model_load: error loading model: unknown model architecture: 'foo'\n"
        "0.00.004.319 E cmn  common_init_: failed to load model '/tmp/bad.gguf'\n"
    )
    assert load_failure(log) == "unknown model architecture: 'foo'"
    assert load_failure("0.00.003.922 E gguf_init_from_reader: invalid magic characters: 'x'\n") == (
        "invalid magic characters: 'x'"
    )
    assert load_failure("") == ""
