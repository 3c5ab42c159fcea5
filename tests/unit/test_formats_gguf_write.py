"""Our GGUF files against transformers: the same token ids, and log-probabilities within 5e-3 in F32."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fust.core.errors import InvalidInput
from fust.formats import read_gguf
from fust.formats.ggml_types import encode, stored_bytes, tensor_type
from fust.formats.gguf_write import check_gguf, write_gguf
from fust.formats.hf_tokenizer import PRE_TOKENIZERS

torch = pytest.importorskip("torch", reason="needs fust[tune]")
transformers = pytest.importorskip("transformers", reason="needs fust[tune]")
tokenizers = pytest.importorskip("tokenizers", reason="needs fust[tune]")
from tests.support.engine_probe import in_engine  # noqa: E402
from tests.support.hf_models import PROBE, fallback_tokenizer, model_in, tokenizer_of  # noqa: E402

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "short_factor": [1.0 + i / 10 for i in range(8)],
    "long_factor": [2.0 + i for i in range(8)],
    "original_max_position_embeddings": 256,
}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True}
GEMMA = {"query_pre_attn_scalar": 16, "sliding_window": 8, "num_hidden_layers": 7}
CASES = {
    "Llama": ("Llama", True, "qwen35", {}),
    "Llama 3": ("Llama", False, "llama-bpe", {"rope_parameters": LLAMA3}),
    "Llama, linear": ("Llama", True, "gpt-2", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}),
    "Mistral": ("Mistral", False, "first", {"head_dim": 32}),
    "Mistral, chat": ("Mistral", False, "first, chat", {"sliding_window": 32}),
    "Qwen2": ("Qwen2", False, "gpt-2", {}),
    "Qwen3": ("Qwen3", True, "qwen2", {}),
    "Qwen3-MoE": ("Qwen3Moe", False, "qwen2", MOE),
    "Gemma 3": ("Gemma3Text", True, "", GEMMA),
    "Phi 3": ("Phi3", False, "phi3", {"sliding_window": None}),
    "Phi 3, window": ("Phi3", False, "phi3", {"sliding_window": 32}),
    "Phi 3, long": ("Phi3", False, "normalizer", {"rope_parameters": LONG, "max_position_embeddings": 512, "original_max_position_embeddings": 256, "sliding_window": None}),
}  # fmt: skip


def house_of(folder: Path, case: str):
    """Writes tokenizer and model of a case; returns both."""
    kind, tied, rule, more = CASES[case]
    if rule in ("", "first", "first, chat", "normalizer", "phi3"):
        prepends = "normalizer" if rule == "phi3" else rule.split(",")[0]
        tokenizer = fallback_tokenizer(
            folder, prepends=prepends, strips=rule == "phi3", template=rule != "first"
        )
    else:
        named = next((text for text, name in PRE_TOKENIZERS.items() if name == rule), None)
        tokenizer = tokenizer_of(named, folder)
    return tokenizer, model_in(folder, kind, tied, **more)


@pytest.mark.parametrize("case", CASES)
def test_engine_and_transformers_agree(tmp_path, case):
    """The same token ids on many scripts, and log-probabilities within serving's bounds."""
    tokenizer, model = house_of(tmp_path, case)
    target = tmp_path / "m.gguf"
    write_gguf(tmp_path, target, "F32", name=case)
    header = read_gguf(target)
    if "tokenizer.ggml.scores" not in header.values:
        assert header.values["tokenizer.ggml.pre"] == CASES[case][2]
    if case in (
        "Mistral, chat",
        "Phi 3, window",
    ):  # llama.cpp knows no window there: a text may not be longer than it
        assert header.context_length == 32

    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in PROBE]
    prefixes = [ids[i][:n] for i, n in ((0, 4), (0, 16), (1, 9), (2, 12), (3, 7), (4, 20))]
    got = in_engine(target, PROBE, prefixes, tokenizer.token_to_id("a"), model.config.vocab_size)
    # A space at the start of the text alone is right either for plain texts or for those that begin with a special token.
    alike = {"first": slice(0, 5), "first, chat": slice(5, 6)}.get(CASES[case][2], slice(0, 6))
    assert got["ids"][alike] == ids[alike]
    differences = []
    for prefix, found in zip(prefixes, got["logprobs"], strict=True):
        with torch.inference_mode():
            wanted = torch.log_softmax(model(torch.tensor([prefix])).logits[0, -1].double(), -1)
        differences += [abs(value - wanted[int(token)].item()) for token, value in found.items()]
    assert len(differences) > 1000
    assert float(np.mean(differences)) < 5e-3
    assert float(np.quantile(differences, 0.999)) < 3e-2


@pytest.mark.parametrize("case", ["Llama", "Mistral", "Qwen2", "Qwen3", "Qwen3-MoE", "Gemma 3", "Phi 3"])
def test_every_type_of_a_family_is_loaded_and_answers_as_the_weights_do(tmp_path, monkeypatch, case):
    """Each within what its bits allow of random weights, the worst case: the fewer bits, the further away."""
    kind, tied, rule, more = CASES[case]
    wide = (
        kind,
        tied,
        rule,
        {
            **more,
            "hidden_size": 256,
            "intermediate_size": 256,
            "num_attention_heads": 16,
            "initializer_range": 0.06,
        },
    )
    monkeypatch.setitem(CASES, "wide", wide)
    tokenizer, model = house_of(tmp_path, "wide")
    ids = tokenizer.encode(PROBE[0], add_special_tokens=False).ids[:20]
    with torch.inference_mode():
        wanted = torch.log_softmax(model(torch.tensor([ids])).logits[0, -1].double(), -1)
    means: dict[str, float] = {}
    for type_name in ("F16", "Q8_0", "Q6_K", "Q4_K_M"):
        target = tmp_path / f"{type_name}.gguf"
        write_gguf(tmp_path, target, type_name, name=case, threads=2)
        [found] = in_engine(target, [], [ids], tokenizer.token_to_id("a"), model.config.vocab_size)[
            "logprobs"
        ]
        means[type_name] = float(
            np.mean([abs(value - wanted[int(token)].item()) for token, value in found.items()])
        )
    for type_name, bound in {"F16": 0.004, "Q8_0": 0.06, "Q6_K": 0.15, "Q4_K_M": 0.5}.items():
        assert means[type_name] < bound, means
    assert list(means.values()) == sorted(means.values())


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0"])
def test_smaller_types_hold_the_weights_to_their_precision(tmp_path, kind):
    gguf = pytest.importorskip("gguf", reason="the reference reader")
    tokenizer_of(None, tmp_path)
    model = model_in(tmp_path, "Qwen3", True)
    write_gguf(tmp_path, tmp_path / "m.gguf", kind, name="test", licence="mit")
    header = read_gguf(tmp_path / "m.gguf")
    assert (header.architecture, header.file_type, header.context_length) == ("qwen3", kind, 256)
    assert header.text("general.license") == "mit"
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    tensor = next(t for t in reader.tensors if t.name == "blk.1.ffn_up.weight")
    back = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    wanted = model.model.layers[1].mlp.up_proj.weight.detach().numpy()
    assert np.abs(back - wanted).max() < np.abs(wanted).max() / {"F16": 1000, "BF16": 200, "Q8_0": 100}[kind]


@pytest.mark.parametrize("kind", ["Q6_K", "Q4_K_M"])
def test_k_types_hold_the_weights_and_the_engine_loads_them(tmp_path, kind):
    """Types as llama.cpp's own quantiser mixes them, values near the weights, and the file answers."""
    gguf = pytest.importorskip("gguf", reason="the reference reader")
    tokenizer = tokenizer_of(None, tmp_path)
    model = model_in(tmp_path, "Qwen3", False, hidden_size=256, intermediate_size=288, num_hidden_layers=3)
    write_gguf(tmp_path, tmp_path / "m.gguf", kind, name="test", threads=2)
    assert (
        check_gguf(tmp_path, kind) < (tmp_path / "m.gguf").stat().st_size < 1.2 * check_gguf(tmp_path, kind)
    )
    header = read_gguf(tmp_path / "m.gguf")
    assert header.file_type == kind
    types = {tensor.name: tensor.type_name for tensor in header.tensors}
    common, little = ("Q6_K", "Q8_0") if kind == "Q6_K" else ("Q4_K", "Q5_0")
    assert (types["output.weight"], types["token_embd.weight"]) == ("Q6_K", common)
    assert [types[f"blk.{i}.attn_v.weight"] for i in range(3)] == (
        ["Q6_K"] * 3 if kind == "Q6_K" else ["Q4_K", "Q4_K", "Q6_K"]
    )
    assert types["blk.0.ffn_down.weight"] == little and types["blk.2.ffn_down.weight"] == "Q8_0"
    assert types["blk.0.ffn_up.weight"] == common and types["blk.0.attn_q_norm.weight"] == "F32"
    weights = dict(model.named_parameters())
    for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors:
        if tensor.name.endswith("ffn_up.weight"):
            layer = tensor.name.split(".")[1]
            wanted = weights[f"model.layers.{layer}.mlp.up_proj.weight"].detach().numpy()
            error = gguf.quants.dequantize(tensor.data, tensor.tensor_type) - wanted
            assert np.sqrt((error**2).mean()) < wanted.std() * (0.02 if kind == "Q6_K" else 0.09)
    ids = tokenizer.encode(PROBE[0], add_special_tokens=False).ids[:12]
    [found] = in_engine(tmp_path / "m.gguf", [], [ids], tokenizer.token_to_id("a"))["logprobs"]
    with torch.inference_mode():
        wanted = torch.log_softmax(model(torch.tensor([ids])).logits[0, -1].double(), -1)
    differences = [abs(value - wanted[int(token)].item()) for token, value in found.items()]
    assert float(np.mean(differences)) < (0.3 if kind == "Q6_K" else 1.5)


def test_which_tensors_get_more_bits():
    """By the rule of llama.cpp: of 32 layers the first and last eighths, and every third between."""
    more = [
        i
        for i in range(32)
        if tensor_type(f"blk.{i}.ffn_down.weight", (256, 512), "Q4_K_M", 32, tied=False) == "Q6_K"
    ]
    assert more == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]
    assert tensor_type("token_embd.weight", (300, 256), "Q4_K_M", 32, tied=True) == "Q6_K"
    assert tensor_type("blk.0.attn_qkv.weight", (300, 256), "Q4_K_M", 32, tied=True) == "Q5_K"
    assert tensor_type("blk.0.ffn_gate_inp.weight", (8, 256), "Q4_K_M", 32, tied=True) == "F32"
    assert tensor_type("blk.0.attn_q.weight", (8, 48), "Q4_K_M", 32, tied=True) == "F16"
    assert stored_bytes("Q4_K", 512) == 288


@pytest.mark.parametrize("kind", ["BF16", "Q8_0"])
def test_values_are_encoded_as_the_reference_does(kind):
    gguf = pytest.importorskip("gguf", reason="the reference quantiser")
    values = np.random.default_rng(3).normal(size=(64, 96)).astype(np.float32)
    values[0, :32] = 0
    wanted = gguf.quants.quantize(values, getattr(gguf.GGMLQuantizationType, kind))
    assert encode(values, kind) == wanted.tobytes()


def changed(folder: Path, name: str, change) -> None:
    path = folder / name
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def learn_one_way(tokenizer: dict) -> None:
    """Adds a piece as plain training does: with one of the two ways to make it."""
    model = tokenizer["model"]
    for piece in ("ad", "dn", "adn"):
        model["vocab"].setdefault(piece, len(model["vocab"]))
    model["merges"] += [["a", "d"], ["d", "n"], ["ad", "n"]]


def learn_runs(*ways: tuple[int, int]):
    """Returns a change that adds runs of one character in these ways, in their order."""

    def change(tokenizer: dict) -> None:
        model = tokenizer["model"]
        for size in range(2, max(map(sum, ways)) + 1):
            model["vocab"].setdefault("o" * size, len(model["vocab"]))
        model["merges"] += [["o" * left, "o" * right] for left, right in ways]

    return change


FALLBACK_REFUSALS = {
    "merges": ("are not those of sentencepiece", learn_one_way),
    "order": ("do not stand together", lambda t: t["model"]["merges"].append(t["model"]["merges"][0])),
    "runs": ("do not stand together", learn_runs((1, 1), (3, 1), (2, 1), (1, 2), (2, 2), (1, 3))),
    "bytes": ("no token for each byte", lambda t: t["model"]["vocab"].pop("<0x41>")),
    "normalizer": ("its normalizer is Lowercase", lambda t: t.update(normalizer={"type": "Lowercase"})),
    "spaces": ("token </s> swallows", lambda t: t["added_tokens"][2].update(rstrip=True)),
}


@pytest.mark.parametrize("what", FALLBACK_REFUSALS)
def test_pieces_that_llama_cpp_would_join_otherwise_are_refused(tmp_path, what):
    fallback_tokenizer(tmp_path)
    model_in(tmp_path, "Gemma3Text", True, **GEMMA)
    check_gguf(tmp_path, "F16")
    said, change = FALLBACK_REFUSALS[what]
    changed(tmp_path, "tokenizer.json", change)
    with pytest.raises(InvalidInput) as error:
        check_gguf(tmp_path, "F16")
    assert said in error.value.sentence()


def test_runs_that_fall_into_the_same_pieces_may_be_listed_in_any_order(tmp_path):
    """As sentencepiece's runs of spaces are, which have one score: transformers lists their ways by the left half's length."""
    fallback_tokenizer(tmp_path)
    model_in(tmp_path, "Gemma3Text", True, **GEMMA)
    changed(tmp_path, "tokenizer.json", learn_runs((3, 1), (2, 2), (2, 1), (1, 3), (1, 2), (1, 1)))
    write_gguf(tmp_path, tmp_path / "m.gguf", "F32", name="runs")
    texts = [f"m{'o' * n}n" for n in range(1, 12)]
    tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    found = in_engine(tmp_path / "m.gguf", texts)["ids"]
    assert found == [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


def test_names_by_which_llama_cpp_would_take_the_tokenizer_for_another_are_changed(tmp_path):
    tokenizer_of(None, tmp_path)
    model_in(tmp_path, "Llama", True)
    write_gguf(tmp_path, tmp_path / "m.gguf", "F16", name="me/like-Phi-3-mini")
    assert read_gguf(tmp_path / "m.gguf").values["general.name"] == "me/like-Phi 3-mini"


FAMILY_REFUSALS = {
    "topk": ("Qwen3Moe", {"norm_topk_prob": False}, "norm_topk_prob false"),
    "dense layers": ("Qwen3Moe", {"mlp_only_layers": [1]}, "layers without experts"),
    "experts": ("Qwen3Moe", {"num_local_experts": 5}, "ffn_gate_exps"),
    "pattern": ("Gemma3Text", {"layer_types": ["full_attention"] * 7}, "layer_types"),
    "scale": ("Gemma3Text", {"query_pre_attn_scalar": 256}, "query_pre_attn_scalar 256"),
    "factors": ("Phi3", {"rope_parameters": LONG | {"long_factor": [1.0]}}, "rope factors"),
    "head size": ("Qwen2", {"head_dim": 32}, "head_dim 32 x 4"),
    "head size of Phi": ("Phi3", {"head_dim": 32}, "head_dim 32 x 4"),
    "too many layers": ("Llama", {"num_hidden_layers": 1}, "blk.1."),
}


@pytest.mark.parametrize("what", FAMILY_REFUSALS)
def test_what_llama_cpp_assumes_of_a_family_is_checked(tmp_path, what):
    kind, config, said = FAMILY_REFUSALS[what]
    tokenizer_of(None, tmp_path)
    model_in(tmp_path, kind, False, **{"Qwen3Moe": MOE, "Gemma3Text": GEMMA}.get(kind, {}))
    changed(tmp_path, "config.json", lambda c: c.update(config))
    with pytest.raises(InvalidInput) as error:
        check_gguf(tmp_path, "F16")
    assert said in error.value.sentence()


REFUSALS = {
    "architecture": ("config.json", lambda c: c.update(architectures=["MambaForCausalLM"])),
    "rope": ("config.json", lambda c: c.update(rope_parameters={"rope_type": "yarn", "factor": 4.0})),
    "activation": ("config.json", lambda c: c.update(hidden_act="gelu")),
    "layers": ("config.json", lambda c: c.update(num_hidden_layers=3)),
    "rule": ("tokenizer.json", lambda t: t.update(pre_tokenizer={"type": "Whitespace"})),
    "normalizer": ("tokenizer.json", lambda t: t.update(normalizer={"type": "Lowercase"})),
    "unigram": ("tokenizer.json", lambda t: t.update(model={"type": "Unigram", "vocab": [["a", 0.0]]})),
    "merges": ("tokenizer.json", lambda t: t["model"].update(ignore_merges=True)),
    "size": ("config.json", lambda c: c.update(vocab_size=100)),
    "type": ("config.json", lambda c: c.update(hidden_size="large")),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_what_is_not_certain_is_refused(tmp_path, what):
    tokenizer_of(None, tmp_path)
    model_in(tmp_path, "Llama", True)
    changed(tmp_path, *REFUSALS[what])
    with pytest.raises(InvalidInput) as error:
        write_gguf(tmp_path, tmp_path / "m.gguf", "F32", name="test")
    named = {"architecture": "MambaForCausalLM", "rope": "yarn", "activation": "gelu", "rule": "Whitespace"}
    assert named.get(what, "") in error.value.sentence()
    assert not list(tmp_path.glob("*.gguf*"))


def test_a_tensor_of_unknown_name_is_refused_by_it(tmp_path):
    from safetensors.torch import load_file, save_file

    tokenizer_of(None, tmp_path)
    model_in(tmp_path, "Llama", True)
    path = tmp_path / "model.safetensors"
    save_file(load_file(path) | {"model.layers.0.extra.weight": torch.ones(4)}, path, {"format": "pt"})
    with pytest.raises(InvalidInput, match=r"model\.layers\.0\.extra\.weight"):
        write_gguf(tmp_path, tmp_path / "m.gguf", "F32", name="test")
