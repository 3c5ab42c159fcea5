"""Random models of more than 100 million parameters for `fit.py`, and LoRA adapters for them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.support.hf_models import adapter_of, fallback_tokenizer, tokenizer_of

from fust.formats.gguf_lora import read_base, write_lora
from fust.serve.adapters import CONFIG, WEIGHTS

SHAPE: dict[str, Any] = {
    "vocab_size": 32_000,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 14,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 8192,
}
"""Of what has rotary positions and keys shared by several heads."""
PLAIN: dict[str, Any] = {
    "vocab_size": 30_000,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
"""Of BERT and GPT-2."""


def write_folder(folder: Path, kind: str, dtype: str, shape: dict[str, Any]) -> Path:
    """Writes a random model as transformers does; returns the folder.

    Args:
        folder: new.
        kind: the architecture as transformers calls it; `Bert` may end in `Model` or `ForSequenceClassification`.
        dtype: of its numbers, as torch calls it.
        shape: what differs from `SHAPE` or `PLAIN`.
    """
    import torch
    import transformers

    family = kind.removesuffix("Model").removesuffix("ForSequenceClassification")
    if family != kind or kind == "GPT2":
        base = {**PLAIN}
    else:
        base = {**SHAPE, "tie_word_embeddings": kind in ("Qwen3", "Gemma3Text")}
    if kind == "Gemma3Text":
        base |= {"sliding_window": 512, "num_hidden_layers": 18, "query_pre_attn_scalar": 64}
    if kind == "Phi3":
        base |= {"pad_token_id": 0, "num_key_value_heads": 12}
    folder.mkdir()
    if kind in ("Gemma3Text", "Phi3"):
        fallback_tokenizer(folder, prepends="" if kind == "Gemma3Text" else "normalizer")
    else:
        tokenizer_of(None, folder)
    torch.manual_seed(1)
    config = getattr(transformers, f"{family}Config")(**base | shape)
    with torch.device("meta"):
        if family == kind:
            model = transformers.AutoModelForCausalLM.from_config(config)
        else:
            model = getattr(transformers, kind)(config)
    model = model.to_empty(device="cpu").to(getattr(torch, dtype))
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.02) if parameter.dim() > 1 else parameter.data.fill_(1)
    model.tie_weights()
    model.save_pretrained(folder)
    return folder


def write_adapters(folder: Path, model: Path, count: int, rank: int) -> tuple[tuple[str, Path], ...]:
    """Returns adapters of a model for its engine: PEFT's files in 16 bits, turned as `serve` turns them.

    Args:
        folder: the model's, as transformers wrote it.
        model: the GGUF file made of it.
        count: how many.
        rank: of every matrix; all linear ones have an adapter.
    """
    import torch

    base = read_base(model, "fit")
    made: list[tuple[str, Path]] = []
    for number in range(count):
        peft = folder / f"adapter-{number}"
        adapter_of(folder, peft, torch.bfloat16, seed=number, std=0.02, r=rank)
        target = folder / f"adapter-{number}.gguf"
        write_lora(peft / CONFIG, peft / WEIGHTS, target, "fit", base)
        made.append((f"a{number}", target))
    return tuple(made)
