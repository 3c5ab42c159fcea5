"""What llama.cpp calls the parts of transformers' models, family by family; what is not known for certain is refused.

Tensor names: llama.cpp `gguf-py/gguf/tensor_mapping.py`; keys, the order of q and k rows, what is added to norms: its
`conversion/` folder; what an architecture reads and assumes: `src/llama-model.cpp` and `src/models/`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from fust.core.decode_words import words_of
from fust.core.errors import InvalidInput
from fust.formats.ggml_types import FloatArray

Keys = list[tuple[str, str | int | float | bool | list[str] | list[int] | list[float]]]

OUTER = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_ATTENTION = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
}
_HEAD_NORMS = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
_MLP = {
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_EXPERTS = {
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate": "ffn_gate_inp",
    "mlp.experts.gate_proj": "ffn_gate_exps",
    "mlp.experts.up_proj": "ffn_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
}
_GEMMA3_NORMS = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_PHI3 = {
    "input_layernorm": "attn_norm",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_GEMMA3_PATTERN = 6
"""Every sixth layer sees everything; llama.cpp has it in its code."""
_GEMMA3_27B_LAYERS = 62
"""Of the one Gemma 3 whose attention is scaled by another number, which llama.cpp tells by this."""


@dataclass(frozen=True, slots=True)
class Family:
    """An architecture."""

    name: str
    """As llama.cpp has it."""
    inner: Mapping[str, str]
    """Parts of a layer."""
    rope_types: tuple[str, ...] = ("default", "linear")
    interleaved_rope: bool = False
    """Whether q and k rows are to be put from halves into pairs."""
    norm_shift: float = 0.0
    """Added to every norm."""
    activation: str = "silu"
    tied: bool = False
    """Whether embedding and output are one matrix when config.json does not say."""


FAMILIES = {
    "LlamaForCausalLM": Family("llama", _ATTENTION | _MLP, ("default", "linear", "llama3"), True),
    "MistralForCausalLM": Family("llama", _ATTENTION | _MLP, interleaved_rope=True),
    "Qwen2ForCausalLM": Family("qwen2", _ATTENTION | _MLP),
    "Qwen3ForCausalLM": Family("qwen3", _ATTENTION | _HEAD_NORMS | _MLP),
    "Qwen3MoeForCausalLM": Family("qwen3moe", _ATTENTION | _HEAD_NORMS | _EXPERTS),
    "Gemma3ForCausalLM": Family(
        "gemma3",
        _ATTENTION | _HEAD_NORMS | _MLP | _GEMMA3_NORMS,
        norm_shift=1.0,
        activation="gelu_pytorch_tanh",
        tied=True,
    ),
    "Phi3ForCausalLM": Family("phi3", _PHI3, ("default", "longrope")),
}


class Rope(msgspec.Struct):
    """`rope_scaling` (transformers 4) or `rope_parameters` (5)."""

    rope_type: str | None = None
    type: str | None = None
    rope_theta: float | None = None
    factor: float | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int | None = None
    long_factor: list[float] | None = None
    short_factor: list[float] | None = None
    attention_factor: float | None = None
    partial_rotary_factor: float | None = None
    full_attention: Rope | None = None
    sliding_attention: Rope | None = None

    @property
    def kind(self) -> str:
        """Returns how positions are scaled."""
        said = self.rope_type or self.type or "default"
        return "longrope" if said == "su" else said


class Config(msgspec.Struct):
    """The parts of config.json that matter here."""

    architectures: list[str]
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    vocab_size: int
    max_position_embeddings: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    rms_norm_eps: float = 1e-6
    hidden_act: str | None = None
    hidden_activation: str | None = None
    tie_word_embeddings: bool | None = None
    use_sliding_window: bool = False
    sliding_window: int | None = None
    layer_types: list[str] | None = None
    rope_theta: float | None = None
    rope_local_base_freq: float | None = None
    rope_scaling: Rope | None = None
    rope_parameters: Rope | None = None
    partial_rotary_factor: float | None = None
    original_max_position_embeddings: int | None = None
    query_pre_attn_scalar: float | None = None
    final_logit_softcapping: float | None = None
    attn_logit_softcapping: float | None = None
    use_bidirectional_attention: bool | None = None
    num_experts: int | None = None
    num_local_experts: int | None = None
    num_experts_per_tok: int = 0
    moe_intermediate_size: int = 0
    norm_topk_prob: bool = False
    decoder_sparse_step: int = 1
    mlp_only_layers: list[int] = []

    @property
    def family(self) -> Family:
        """Returns what llama.cpp calls it."""
        return FAMILIES[self.architectures[0]]

    @property
    def is_tied(self) -> bool:
        """Returns whether embedding and output are one matrix."""
        return self.family.tied if self.tie_word_embeddings is None else self.tie_word_embeddings

    @property
    def head_size(self) -> int:
        """Returns the values of a head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def key_heads(self) -> int:
        """Returns the heads of keys and values."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def experts(self) -> int:
        """Returns the experts of a layer, 0 where there are none."""
        return self.num_experts or self.num_local_experts or 0

    @property
    def rope(self) -> Rope:
        """Returns how positions are turned, in layers that see everything."""
        found = self.rope_parameters or self.rope_scaling or Rope()
        return found.full_attention or found

    @property
    def rope_base(self) -> float:
        """Returns the base of the frequencies."""
        usual = 1_000_000.0 if self.family.name == "gemma3" else 10_000.0
        return self.rope.rope_theta or self.rope_theta or usual

    @property
    def rotated(self) -> int:
        """Returns how many values of a head are turned."""
        return int(self.head_size * (self.rope.partial_rotary_factor or self.partial_rotary_factor or 1.0))

    @property
    def context(self) -> int:
        """Returns the longest text; where llama.cpp knows no window that slides, no longer than that window."""
        slides = self.family.name in ("llama", "phi3") and self.sliding_window
        return (
            min(self.max_position_embeddings, self.sliding_window or 0)
            if slides
            else self.max_position_embeddings
        )


_SQUARE = ("qwen2", "phi3")
"""Families whose heads, in llama.cpp, are together as wide as the model: other files are not loaded."""


def read_config(folder: Path) -> Config:
    """Returns config.json.

    Raises:
        InvalidInput: it cannot be read, or such a model cannot be written.

    """
    try:
        config = msgspec.json.decode((folder / "config.json").read_bytes(), type=Config)
    except (msgspec.MsgspecError, OSError, RecursionError) as error:
        raise InvalidInput(
            "{file} cannot be read: {fault}.",
            hint="Download or export it again.",
            file="config.json",
            fault=words_of(error),
            code="bad_model_file",
        ) from error
    if not config.architectures or config.architectures[0] not in FAMILIES:
        raise refused("architecture", ", ".join(config.architectures)[:100] or "none")
    family, rope = config.family, config.rope
    if rope.kind not in family.rope_types:
        raise refused("rope type", rope.kind[:50])
    activation = config.hidden_act or config.hidden_activation or family.activation
    if activation != family.activation:
        raise refused("activation", activation[:50])
    if config.use_sliding_window and config.sliding_window:
        raise refused("sliding window", str(config.sliding_window))
    if family.name in _SQUARE and config.head_size * config.num_attention_heads != config.hidden_size:
        raise refused("head_dim", f"{config.head_size} x {config.num_attention_heads}")
    if min(config.num_attention_heads, config.key_heads, config.head_size, config.num_hidden_layers) < 1:
        raise refused("config.json", "a number that is not positive")
    if family.name in _CHECKS:
        _CHECKS[family.name](config)
    return config


def _check_experts(config: Config) -> None:
    if not config.norm_topk_prob:
        raise refused("norm_topk_prob", "false")
    if config.decoder_sparse_step != 1 or config.mlp_only_layers:
        raise refused(
            "layers without experts", str(config.mlp_only_layers or config.decoder_sparse_step)[:50]
        )
    if config.experts < 1 or config.num_experts_per_tok < 1:
        raise refused("number of experts", str(config.experts))


def _check_gemma3(config: Config) -> None:
    wanted = [
        "full_attention" if (i + 1) % _GEMMA3_PATTERN == 0 else "sliding_attention"
        for i in range(config.num_hidden_layers)
    ]
    if config.layer_types is not None and config.layer_types != wanted:
        raise refused("layer_types", ", ".join(config.layer_types)[:100])
    scalar = config.query_pre_attn_scalar or 256
    is_27b = config.num_hidden_layers == _GEMMA3_27B_LAYERS
    if scalar != (config.hidden_size // config.num_attention_heads if is_27b else config.head_size):
        raise refused("query_pre_attn_scalar", f"{scalar:g}")
    inner = config.rope_parameters.sliding_attention if config.rope_parameters else None
    local = (inner.rope_theta if inner else None) or config.rope_local_base_freq or 10_000.0
    if local != 10_000.0 or (inner is not None and inner.kind != "default"):
        raise refused("rope of sliding layers", f"{local:g}")
    if config.attn_logit_softcapping or config.use_bidirectional_attention:
        raise refused("attention", "with a soft cap or in both directions")
    if config.sliding_window is None:
        raise refused("sliding window", "none")


def _check_phi3(config: Config) -> None:
    rope = config.rope
    if rope.kind == "longrope":
        wanted = config.rotated // 2
        if any(len(factors or []) != wanted for factors in (rope.long_factor, rope.short_factor)):
            raise refused("rope factors", f"of another number than {wanted}")


_CHECKS = {"qwen3moe": _check_experts, "gemma3": _check_gemma3, "phi3": _check_phi3}


def family_keys(config: Config) -> Keys:
    """Returns the keys that say how the model is built."""
    name = config.family.name
    keys: Keys = [
        (f"{name}.context_length", config.context),
        (f"{name}.embedding_length", config.hidden_size),
        (f"{name}.block_count", config.num_hidden_layers),
        (f"{name}.feed_forward_length", config.intermediate_size),
        (f"{name}.attention.head_count", config.num_attention_heads),
        (f"{name}.attention.head_count_kv", config.key_heads),
        (f"{name}.attention.key_length", config.head_size),
        (f"{name}.attention.value_length", config.head_size),
        (f"{name}.attention.layer_norm_rms_epsilon", float(config.rms_norm_eps)),
        (f"{name}.rope.freq_base", config.rope_base),
        (f"{name}.rope.dimension_count", config.rotated),
        (f"{name}.vocab_size", config.vocab_size),
    ]
    if config.rope.kind == "linear":
        keys += [
            (f"{name}.rope.scaling.type", "linear"),
            (f"{name}.rope.scaling.factor", float(config.rope.factor or 1.0)),
        ]
    if name == "gemma3":
        keys.append((f"{name}.attention.sliding_window", config.sliding_window or 0))
        if config.final_logit_softcapping:
            keys.append((f"{name}.final_logit_softcapping", float(config.final_logit_softcapping)))
    if name == "qwen3moe":
        keys += [
            (f"{name}.expert_count", config.experts),
            (f"{name}.expert_used_count", config.num_experts_per_tok),
            (f"{name}.expert_feed_forward_length", config.moe_intermediate_size),
        ]
    if name == "phi3":
        keys += _phi3_keys(config)
    return keys


def _phi3_keys(config: Config) -> Keys:
    # 0: Phi 4, which has no window; llama.cpp tells the two apart by it.
    keys: Keys = [
        ("phi3.attention.sliding_window", config.sliding_window or 0),
        ("phi3.rope.scaling.original_context_length", _original_context(config)),
    ]
    if config.rope.kind == "longrope":
        scale = config.max_position_embeddings / _original_context(config)
        usual = math.sqrt(1 + math.log(scale) / math.log(_original_context(config))) if scale > 1 else 1.0
        keys.append(("phi3.rope.scaling.attn_factor", float(config.rope.attention_factor or usual)))
    return keys


def _original_context(config: Config) -> int:
    found = config.rope.original_max_position_embeddings or config.original_max_position_embeddings
    return found or config.max_position_embeddings


def made_tensors(config: Config) -> dict[str, FloatArray]:
    """Returns the tensors that no file of transformers has: how positions are scaled."""
    rope = config.rope
    if rope.kind == "longrope":
        return {
            "rope_factors_long.weight": np.array(rope.long_factor, np.float32),
            "rope_factors_short.weight": np.array(rope.short_factor, np.float32),
        }
    return {"rope_freqs.weight": _llama3_factors(config)} if rope.kind == "llama3" else {}


def _llama3_factors(config: Config) -> FloatArray:
    """Returns by what Llama 3.1 divides each frequency: long waves by `factor`, short ones by 1, some in between."""
    rope, size = config.rope, config.rotated
    factor, seen = rope.factor or 8.0, rope.original_max_position_embeddings or 8192
    waves = 2 * np.pi * config.rope_base ** (np.arange(0, size, 2, dtype=np.float64) / size)
    spread = rope.high_freq_factor - rope.low_freq_factor
    share = np.clip((seen / waves - rope.low_freq_factor) / spread, 0, 1)
    return (1 / ((1 - share) / factor + share)).astype(np.float32)


def refused(what: str, value: str) -> InvalidInput:
    """Returns the error for what cannot be written faithfully."""
    return InvalidInput(
        "This model cannot be written as GGUF: {what} {value} is not supported.",
        hint="Supported are Llama, Mistral, Qwen 2, Qwen 3 (with experts too), Gemma 3 (text) and Phi 3.",
        code="cannot_export",
        what=what,
        value=value,
    )
