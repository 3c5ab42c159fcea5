"""Small LoRA adapters with random weights, in PEFT's form and in GGUF, for the models of `small_models`."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file

MODULES = {"self_attn.q_proj": "attn_q", "self_attn.v_proj": "attn_v", "mlp.down_proj": "ffn_down"}


def _sides(module: str, width: int, feed_forward: int) -> tuple[int, int]:
    """Returns (inputs, outputs) of a module."""
    return (feed_forward if module == "mlp.down_proj" else width), width


def write_peft(
    folder: Path,
    *,
    base: str | None = None,
    layers: int = 2,
    width: int = 64,
    feed_forward: int = 128,
    rank: int = 4,
    seed: int = 0,
    strength: float = 1.0,
    **config: object,
) -> Path:
    """Writes `adapter_config.json` and `adapter_model.safetensors` with random values; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}
    for layer in range(layers):
        for module in MODULES:
            inputs, outputs = _sides(module, width, feed_forward)
            name = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{name}.lora_A.weight"] = random.standard_normal((rank, inputs)) * inputs**-0.5
            tensors[f"{name}.lora_B.weight"] = random.standard_normal((outputs, rank)) * strength
    save_file({k: v.astype(np.float32) for k, v in tensors.items()}, folder / "adapter_model.safetensors")
    written = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "base_model_name_or_path": base, **config}
    (folder / "adapter_config.json").write_text(json.dumps(written))
    return folder


def write_lora_gguf(
    path: Path,
    *,
    layers: int = 2,
    width: int = 64,
    feed_forward: int = 128,
    rank: int = 4,
    seed: int = 0,
    strength: float = 1.0,
    architecture: str = "llama",
    alpha: float | None = None,
) -> Path:
    """Writes a GGUF adapter with random values; returns its path. A whole `alpha` is written as one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    given = float(rank) if alpha is None else alpha
    (writer.add_uint32 if isinstance(given, int) else writer.add_float32)("adapter.lora.alpha", given)
    for layer in range(layers):
        for module, name in MODULES.items():
            inputs, outputs = _sides(module, width, feed_forward)
            a = random.standard_normal((rank, inputs)) * inputs**-0.5
            b = random.standard_normal((outputs, rank)) * strength
            writer.add_tensor(f"blk.{layer}.{name}.weight.lora_a", a.astype(np.float32))
            writer.add_tensor(f"blk.{layer}.{name}.weight.lora_b", b.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
