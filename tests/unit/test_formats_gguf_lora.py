"""Adapters written for llama.cpp answer as PEFT does; what cannot be applied, or is for another base, is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from fust.core.errors import FustError, InvalidInput, NotOffered
from fust.formats.gguf import read_gguf
from fust.formats.gguf_lora import BaseShape, check_lora, read_base, write_lora
from fust.formats.peft import named_base
from tests.support.small_adapters import write_lora_gguf, write_peft
from tests.support.small_models import write_llama


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseShape:
    return read_base(write_llama(tmp_path_factory.mktemp("base") / "base.gguf"), "acme/base")


def convert(folder: Path, base: BaseShape) -> Path:
    target = folder / "made.gguf"
    write_lora(folder / "adapter_config.json", folder / "adapter_model.safetensors", target, "me/lora", base)
    check_lora(target, "me/lora", base)
    return target


def refusal(folder: Path, base: BaseShape) -> FustError:
    with pytest.raises(FustError) as caught:
        convert(folder, base)
    assert not list(folder.glob("made*"))
    return caught.value


def test_what_is_written(base: BaseShape, tmp_path: Path) -> None:
    header = read_gguf(convert(write_peft(tmp_path, base="acme/base", rank=3), base))
    assert (header.kind, header.text("adapter.type"), header.architecture) == ("adapter", "lora", "llama")
    assert header.values["adapter.lora.alpha"] == 3.0
    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    assert shapes["blk.1.ffn_down.weight.lora_a"] == (128, 3) and len(shapes) == 12
    assert shapes["blk.1.ffn_down.weight.lora_b"] == (3, 64)
    assert named_base(tmp_path / "adapter_config.json") == "acme/base"


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save lm_head"),
        ({"lora_bias": True}, "lora_bias"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"alora_invocation_tokens": [1, 2]}, "aLoRA"),
        ({"alpha_pattern": {"(a+)+b": 3}}, "alpha_pattern"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"lora_alpha": 1e300}, "lora_alpha 1e+300"),
        ({"alpha_pattern": {"q_proj": -1e9}}, "lora_alpha -1e+09"),
    ],
)
def test_what_llama_cpp_cannot_apply_is_named(
    base: BaseShape, tmp_path: Path, config: dict[str, Any], word: str
) -> None:
    error = refusal(write_peft(tmp_path, **config), base)
    assert isinstance(error, NotOffered) and error.code == "adapter_not_supported"
    assert word in str(error) and "me/lora" in str(error)


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.model.embed_tokens.lora_embedding_A",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector",
        "base_model.model.lm_head.weight",
        "base_model.model.model.vision_tower.layers.0.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.0.mlp.experts.0.up_proj.lora_B.weight",
        "base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight",
    ],
)
def test_other_tensors_are_named(base: BaseShape, tmp_path: Path, name: str) -> None:
    from safetensors.numpy import load_file, save_file

    path = write_peft(tmp_path) / "adapter_model.safetensors"
    save_file({**load_file(path), name: np.zeros((4, 64), np.float32)}, path)
    error = refusal(tmp_path, base)
    assert error.code == "adapter_not_supported"
    assert name.removeprefix("base_model.model.").split(".lora_")[0] in str(error)


def test_an_adapter_for_another_base_is_refused(base: BaseShape, tmp_path: Path) -> None:
    for number, shape in enumerate(({"width": 32}, {"layers": 3}, {"feed_forward": 96})):
        folder = tmp_path / str(number)
        errors = [refusal(write_peft(folder, **shape), base)]
        with pytest.raises(InvalidInput) as caught:
            check_lora(write_lora_gguf(folder / "a.gguf", **shape), "me/lora", base)
        for error in (*errors, caught.value):
            assert error.code == "other_base" and "me/lora" in str(error) and "acme/base" in str(error)
    with pytest.raises(InvalidInput, match="architecture qwen3"):
        check_lora(write_lora_gguf(tmp_path / "q.gguf", architecture="qwen3"), "me/lora", base)


@pytest.mark.parametrize("alpha", [1e30, float("nan"), float("inf"), 4])
def test_a_gguf_adapter_whose_factor_is_none_is_refused(
    base: BaseShape, tmp_path: Path, alpha: float
) -> None:
    """A whole number too: llama.cpp aborts on one there."""
    path = write_lora_gguf(tmp_path / "a.gguf", alpha=alpha)
    with pytest.raises(NotOffered, match=r"me/lora.*lora_alpha"):
        check_lora(path, "me/lora", base)


def test_values_that_are_no_numbers_are_refused_in_either_form(base: BaseShape, tmp_path: Path) -> None:
    path = write_lora_gguf(tmp_path / "a.gguf")
    check_lora(path, "me/lora", base)
    gguf.GGUFReader(str(path), "r+").tensors[3].data[1, 1] = np.nan
    with pytest.raises(InvalidInput, match=r"no numbers, in blk\.0\.attn_v\.weight\.lora_b"):
        check_lora(path, "me/lora", base)
    assert refusal(write_peft(tmp_path / "peft", rank=0), base).code == "adapter_not_supported"


def test_damaged_files_are_refused(base: BaseShape, tmp_path: Path) -> None:
    for number, content in enumerate((b"", b"{", b"[" * 100_000, b'{"r": "x"}')):
        folder = write_peft(tmp_path / str(number))
        (folder / "adapter_config.json").write_bytes(content)
        assert refusal(folder, base).code == "bad_model_file"
    folder = write_peft(tmp_path / "cut")
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert refusal(folder, base).code == "bad_model_file"
    assert refusal(write_peft(tmp_path / "nan", strength=float("nan")), base).code == "bad_model_file"
    with pytest.raises(NotOffered, match="no LoRA adapter"):
        check_lora(write_llama(tmp_path / "model.gguf"), "me/lora", base)


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "ranks and alphas": {"rank_pattern": {"v_proj": 2, "down_proj": 7}, "alpha_pattern": {"layers.1.self_attn.q_proj": 3}},
    "both": {"use_rslora": True, "rank_pattern": {"k_proj": 5}, "alpha_pattern": {"o_proj": 2}},
}  # fmt: skip


SHAPES: dict[str, dict[str, Any]] = {
    "Llama": {}, "Qwen2": {}, "Qwen3": {}, "Mistral": {}, "Phi3": {"sliding_window": None},
    "Gemma3Text": {"query_pre_attn_scalar": 16, "sliding_window": 64, "num_hidden_layers": 7},
    "Qwen3Moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True},
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:The following .*_pattern keys:RuntimeWarning")  # one list for all shapes
@pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing:FutureWarning"
)  # peft asks transformers by its old name
@pytest.mark.parametrize("kind", SHAPES)
def test_scores_are_those_of_peft(kind: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs fust[tune]")
    peft = pytest.importorskip("peft", reason="needs fust[tune]")
    from fust.formats.gguf_write import write_gguf
    from fust.serve.engines.scorer import Scorer, Wanted
    from tests.support.hf_models import fallback_tokenizer, model_in, tokenizer_of

    if kind in ("Mistral", "Phi3", "Gemma3Text"):
        fallback_tokenizer(tmp_path, prepends="normalizer" if kind == "Phi3" else "")
    else:
        tokenizer_of(None, tmp_path)
    model = model_in(tmp_path, kind, kind == "Gemma3Text", **SHAPES[kind])
    write_gguf(tmp_path, tmp_path / "base.gguf", "F32", name="test")
    base = read_base(tmp_path / "base.gguf", "acme/base")
    scorer = Scorer(tmp_path / "base.gguf", 128, 1)
    tokens = [int(t) for t in np.random.default_rng(5).integers(5, 500, 60)]

    def scored() -> list[float]:
        row = scorer.score([Wanted(tokens, 1)], 0, lambda: True)[0]
        return [value for value in row.logprobs if value is not None]

    def truth(model: Any) -> list[float]:
        with torch.inference_mode():
            table = torch.log_softmax(model(torch.tensor([tokens])).logits[0].double(), -1)
        return [float(table[at - 1, token]) for at, token in enumerate(tokens) if at]

    alone, bare = scored(), truth(model)
    bound = 3e-3 if kind == "Gemma3Text" else 1e-3
    assert np.abs(np.subtract(alone, bare)).max() < bound
    modules = ["q_proj", "k_proj", "v_proj", "o_proj"]
    if kind == "Phi3":
        modules = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
    elif kind != "Qwen3Moe":
        modules += ["gate_proj", "up_proj", "down_proj"]
    if kind == "Llama":
        modules.append("lm_head")
    files: list[tuple[str, list[float]]] = []
    for name, more in CASES.items():
        torch.manual_seed(len(files))
        made = peft.get_peft_model(
            model, peft.LoraConfig(r=4, lora_alpha=6, target_modules=modules, init_lora_weights=False, **more)
        )
        for tensor_name, tensor in made.named_parameters():
            if "lora_B" in tensor_name:
                tensor.data *= 4
        folder = tmp_path / name
        made.save_pretrained(folder, save_embedding_layers=False)
        wanted = truth(made.eval())
        model = made.unload()
        target = convert(folder, base)
        scorer.use(str(target))
        files.append((str(target), scored()))
        assert np.abs(np.subtract(files[-1][1], wanted)).max() < 2 * bound, name
        assert np.abs(np.subtract(wanted, bare)).max() > 0.1
    # One after another, and none again: nothing of the one before is left.
    for path, before in [*files, ("", alone), files[1], ("", alone)]:
        scorer.use(path)
        assert scored() == before
    config = json.loads((tmp_path / "plain" / "adapter_config.json").read_text())
    assert config["r"] == 4
