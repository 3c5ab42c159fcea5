"""Merging against PEFT's own, quantising against writing anew, and what is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from fust.core.errors import InvalidInput
from fust.formats import read_gguf
from fust.formats.convert import Order, convert, kind_of, pick_gguf
from fust.formats.gguf_quantise import quantise_gguf
from fust.formats.gguf_write import write_gguf
from fust.formats.peft_merge import merge_adapter

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'fust[tune]')")
pytest.importorskip("peft", reason="peft is not installed (pip install 'fust[tune]')")
from safetensors.torch import load_file, save_file  # noqa: E402

from tests.support.hf_models import adapter_of, tokenizer_of  # noqa: E402
from tests.support.tiny_bases import write_base  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:.*is deprecated:FutureWarning"
    ),  # peft and transformers, of one another
]


def quiet(*_: object) -> None:
    pass


OPTIONS = {
    "attention": {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]},
    "plain": {},
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.mlp.down_proj": 20}},
}


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("llama", "plain"),
        ("llama", "rslora"),
        ("llama", "patterns"),
        ("phi3", "plain"),
        ("gemma3_text", "plain"),
        ("qwen3_moe", "attention"),
        ("mistral", "plain"),
        ("qwen2", "plain"),
        ("qwen3", "plain"),
    ],
)
def test_merged_weights_are_those_of_peft(tmp_path, family, options):
    base = write_base(tmp_path / "base", family=family)
    whole = adapter_of(base, tmp_path / "adapter", **OPTIONS[options]).merge_and_unload()
    merge_adapter(base, tmp_path / "adapter", tmp_path / "merged")
    whole.save_pretrained(tmp_path / "theirs")
    ours, theirs = (
        load_file(tmp_path / "merged" / "model.safetensors"),
        load_file(tmp_path / "theirs" / "model.safetensors"),
    )
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-6, atol=1e-7, msg=name)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "merged" / name).read_bytes() == (base / name).read_bytes()


def test_bf16_weights_are_added_in_float32_and_rounded_once(tmp_path):
    from transformers import AutoModelForCausalLM

    base = write_base(tmp_path / "base")
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(base)
    whole = adapter_of(base, tmp_path / "adapter").merge_and_unload()  # loaded as float32
    merge_adapter(base, tmp_path / "adapter", tmp_path / "merged")
    ours = load_file(tmp_path / "merged" / "model.safetensors")
    for name, value in whole.state_dict().items():
        if name in ours:
            same = ours[name] == value.to(torch.bfloat16)
            assert ours[name].dtype == torch.bfloat16 and same.float().mean() > 0.999, name


def test_shards_and_their_index_stay_as_they_are(tmp_path):
    from transformers import AutoModelForCausalLM

    base = write_base(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(base)
    (base / "model.safetensors").unlink()
    model.save_pretrained(base, max_shard_size="60KB")
    adapter_of(base, tmp_path / "adapter")
    merge_adapter(base, tmp_path / "adapter", tmp_path / "merged")
    names = sorted(path.name for path in base.iterdir())
    assert len([name for name in names if name.endswith(".safetensors")]) > 2
    assert sorted(path.name for path in (tmp_path / "merged").iterdir()) == names
    index = "model.safetensors.index.json"
    assert (tmp_path / "merged" / index).read_bytes() == (base / index).read_bytes()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert not torch.equal(
        merged.model.layers[1].mlp.up_proj.weight, model.model.layers[1].mlp.up_proj.weight
    )
    assert torch.equal(merged.model.embed_tokens.weight, model.model.embed_tokens.weight)


def config_with(**changes: object):
    def change(adapter: Path) -> None:
        path = adapter / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def without_a_half(adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors.pop(next(name for name in tensors if "lora_B" in name))
    save_file(tensors, path)


WRONG = {
    "dora": (config_with(use_dora=True), "uses use_dora"),
    "saved modules": (config_with(modules_to_save=["lm_head"]), "uses modules_to_save"),
    "not lora": (config_with(peft_type="IA3"), "it is IA3 and not LORA"),
    "changed base": (config_with(init_lora_weights="pissa"), "pissa changes the base itself"),
    "another rank": (config_with(r=8), "is not the one that its config says"),
    "half": (without_a_half, "do not fit each other"),
    "no config": (lambda adapter: (adapter / "adapter_config.json").write_text("["), "cannot be read"),
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    adapter_of(write_base(folder / "base"), folder / "adapter")
    write_base(folder / "wide", hidden_size=128)
    write_base(folder / "fused", family="phi3")
    return folder


@pytest.mark.parametrize("what", WRONG)
def test_adapters_that_are_more_than_plain_lora_are_refused(pair, tmp_path, what):
    shutil.copytree(pair / "adapter", tmp_path / "adapter")
    change, said = WRONG[what]
    change(tmp_path / "adapter")
    with pytest.raises(InvalidInput) as error:
        merge_adapter(pair / "base", tmp_path / "adapter", tmp_path / "out")
    assert said in error.value.sentence()
    assert not list(tmp_path.glob("out/*.safetensors"))


@pytest.mark.parametrize(
    ("base", "said"), [("wide", "the base's weight is"), ("fused", "which its base does not have")]
)
def test_an_adapter_on_the_wrong_base_is_refused_before_anything_is_written(pair, tmp_path, base, said):
    with pytest.raises(InvalidInput) as error:
        merge_adapter(pair / base, pair / "adapter", tmp_path / "out")
    assert said in error.value.sentence() and error.value.code == "wrong_base"
    named = json.loads((pair / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert f"and names {named}" in error.value.sentence() and f"自述为 {named}" in error.value.sentence("zh")
    assert not list(tmp_path.glob("out/*.safetensors"))


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q6_K", "Q4_K_M"])
def test_a_quantised_file_is_the_same_as_one_that_is_written_so(pair, tmp_path, kind):
    """Keys and tensors: from F32 in GGUF, or from the weights themselves, the same bytes come out."""
    write_gguf(pair / "wide", tmp_path / "whole.gguf", "F32", name="me/wide", licence="mit")
    write_gguf(pair / "wide", tmp_path / "wanted.gguf", kind, name="me/wide", licence="mit")
    quantise_gguf(tmp_path / "whole.gguf", tmp_path / "found.gguf", kind, threads=2)
    assert (tmp_path / "found.gguf").read_bytes() == (tmp_path / "wanted.gguf").read_bytes()
    assert read_gguf(tmp_path / "found.gguf").file_type == kind


def test_what_is_quantised_already_is_refused(pair, tmp_path):
    write_gguf(pair / "base", tmp_path / "small.gguf", "Q8_0", name="small")
    with pytest.raises(InvalidInput, match="quantised already"):
        quantise_gguf(tmp_path / "small.gguf", tmp_path / "smaller.gguf", "Q4_K_M")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.gguf"]


def test_an_adapter_becomes_gguf_through_its_base(pair, tmp_path):
    gguf = pytest.importorskip("gguf", reason="the reference reader")
    order = Order("me/helper", ["F32", "Q8_0"])
    files = convert(pair / "adapter", tmp_path / "out", order, base=pair / "base", tell=quiet)
    assert [path.name for path in files] == ["helper-F32.gguf", "helper-Q8_0.gguf"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [path.name for path in files]
    merge_adapter(pair / "base", pair / "adapter", tmp_path / "merged")
    wanted = load_file(tmp_path / "merged" / "model.safetensors")["model.layers.1.mlp.up_proj.weight"].numpy()
    tensor = next(t for t in gguf.GGUFReader(files[0]).tensors if t.name == "blk.1.ffn_up.weight")
    assert np.array_equal(tensor.data, wanted)


def test_what_cannot_be_made_is_said(pair, tmp_path):
    for source, order, said in (
        (pair / "adapter", Order("a", ["F16"]), "its base is needed"),
        (pair / "base", Order("a", merge=True), "is no adapter"),
        (tmp_path, Order("a", ["F16"]), "holds no adapter, no weights"),
    ):
        with pytest.raises(InvalidInput) as error:
            convert(source, tmp_path / "out", order, base=None, tell=quiet)
        assert said in error.value.sentence()
        shutil.rmtree(tmp_path / "out", ignore_errors=True)


def test_the_whole_file_of_a_repo_is_found_by_its_name():
    assert pick_gguf(["a-Q8_0.gguf", "a-F16.gguf", "a-bf16.gguf", "sub/a-F32.gguf"], "x") == "a-bf16.gguf"
    assert pick_gguf(["model.gguf"], "x") == "model.gguf"
    with pytest.raises(InvalidInput, match="not quantised"):
        pick_gguf(["a-Q8_0.gguf", "a-Q4_K_M.gguf"], "x")
    assert kind_of(["adapter_config.json", "config.json", "model.safetensors"], "x") == "adapter"


def test_a_turn_ends_where_the_generation_config_says(tmp_path):
    tokenizer = tokenizer_of(None, tmp_path)
    base = write_base(tmp_path / "base")
    ends = [tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")]
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    write_gguf(base, tmp_path / "m.gguf", "F16", name="m")
    values = read_gguf(tmp_path / "m.gguf").values
    assert (
        values["tokenizer.ggml.eos_token_id"] == ends[0] and values["tokenizer.ggml.eot_token_id"] == ends[1]
    )
