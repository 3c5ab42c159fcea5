"""A vision projector with random weights, made where it is needed: real plumbing for real engines, no sense in what it sees."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np


def write_projector(
    path: Path,
    *,
    size: int = 32,
    patch: int = 8,
    width: int = 32,
    heads: int = 2,
    feed_forward: int = 64,
    layers: int = 2,
    into: int = 64,
    seed: int = 7,
) -> Path:
    """Writes a LLaVA-shaped projector (a vision transformer and two linear layers); returns its path.

    Args:
        path: of the GGUF file.
        size: of the square that an image is fitted into, in pixels.
        patch: pixels of a patch's side; an image takes (size / patch)² tokens.
        width: of the vision transformer.
        heads: of its attention.
        feed_forward: of its layers.
        layers: how many; the last one is not used, as in LLaVA.
        into: width of the language model that it goes with.
        seed: of the weights.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(str(path), "clip")
    writer.add_type("mmproj")
    writer.add_file_type(0)
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "mlp")
    writer.add_uint32("clip.vision.image_size", size)
    writer.add_uint32("clip.vision.patch_size", patch)
    writer.add_uint32("clip.vision.embedding_length", width)
    writer.add_uint32("clip.vision.feed_forward_length", feed_forward)
    writer.add_uint32("clip.vision.block_count", layers)
    writer.add_uint32("clip.vision.projection_dim", into)
    writer.add_uint32("clip.vision.attention.head_count", heads)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])
    writer.add_bool("clip.use_gelu", True)

    def add(name: str, *shape: int) -> None:
        values = random.standard_normal(shape) * np.prod(shape[1:]) ** -0.5
        writer.add_tensor(name, values.astype(np.float32))

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(width, np.float32))
        writer.add_tensor(f"{name}.bias", np.zeros(width, np.float32))

    add("v.patch_embd.weight", width, 3, patch, patch)
    add("v.position_embd.weight", (size // patch) ** 2, width)
    norm("v.pre_ln")
    for i in range(layers):
        norm(f"v.blk.{i}.ln1")
        norm(f"v.blk.{i}.ln2")
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            add(f"v.blk.{i}.{name}.weight", width, width)
        add(f"v.blk.{i}.ffn_up.weight", feed_forward, width)
        add(f"v.blk.{i}.ffn_down.weight", width, feed_forward)
    add("mm.0.weight", into, width)
    writer.add_tensor("mm.0.bias", np.zeros(into, np.float32))
    add("mm.2.weight", into, into)
    writer.add_tensor("mm.2.bias", np.zeros(into, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
