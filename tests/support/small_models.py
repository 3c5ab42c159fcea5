"""Small GGUF models with random weights, made where they are needed: real files for real engines, no sense in their words."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOOLS_CHATML = (
    "{% if tools %}<|im_start|>system\nTools:\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    'Call with <tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n{% endif %}'
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls or [] %}\n<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}\n</tool_call>{% endfor %}'
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A template that knows tools, in the form of Hermes and Qwen."""
_WORDS = [
    f"▁{a}{b}" for a in "bcdfghjklmnprstvw" for b in ("a", "e", "i", "o", "u", "an", "er", "ing", "ot", "el")
]


def _vocabulary(writer: gguf.GGUFWriter, size: int) -> None:
    tokens = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{i:02X}>" for i in range(256)),
        "▁",
        *(chr(c) for c in range(33, 127)),
    ]
    tokens += _WORDS
    number = 0
    while len(tokens) < size:
        tokens.append(f"▁w{number}")
        number += 1
    kinds = [2, 3, 3, *([6] * 256), *([1] * (size - 259))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens[:size])
    writer.add_token_scores([0.0] * 259 + [-float(i) for i in range(size - 259)])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)


def write_llama(
    path: Path,
    *,
    layers: int = 2,
    width: int = 64,
    heads: int = 4,
    feed_forward: int = 128,
    vocabulary: int = 640,
    context: int = 2048,
    chat_template: str | None = CHATML,
    pooling: int | None = None,
    seed: int = 0,
    half: bool = False,
) -> Path:
    """Writes a Llama-shaped model with random weights; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    kind = np.float16 if half else np.float32
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name(path.stem)
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_rope_dimension_count(width // heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocabulary)
    writer.add_file_type(1 if half else 0)
    if pooling is not None:
        writer.add_pooling_type(gguf.PoolingType(pooling))
    _vocabulary(writer, vocabulary)
    if chat_template is not None:
        writer.add_chat_template(chat_template)

    def add(name: str, *shape: int) -> None:
        values = random.standard_normal(shape) * shape[-1] ** -0.5
        if name == "output.weight":
            values[:259] = 0  # greedy decoding takes no control token and no lone byte
        writer.add_tensor(name, values.astype(kind))

    add("token_embd.weight", vocabulary, width)
    add("output.weight", vocabulary, width)
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    for i in range(layers):
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{i}.{name}.weight", np.ones(width, np.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{i}.{name}.weight", width, width)
        for name in ("ffn_gate", "ffn_up"):
            add(f"blk.{i}.{name}.weight", feed_forward, width)
        add(f"blk.{i}.ffn_down.weight", width, feed_forward)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_repos(root: Path) -> Path:
    """Fills a folder with repos of small models: `acme/chat`, `acme/plain` (no template), `private/secret` and so on."""
    write_llama(root / "acme/chat/chat.gguf")
    write_llama(root / "acme/other/other.gguf", seed=1)
    write_llama(root / "acme/plain/plain.gguf", chat_template=None)
    write_llama(root / "acme/pooled/pooled.gguf", pooling=3)
    write_llama(root / "acme/tools/tools.gguf", chat_template=TOOLS_CHATML)
    write_llama(root / "acme/ranks/ranks.gguf", pooling=4)
    write_llama(root / "private/secret/secret.gguf")
    write_llama(root / "acme/several/m-small.gguf")
    write_llama(root / "acme/several/m-large.gguf", layers=4)
    whole = (root / "acme/chat/chat.gguf").read_bytes()
    for name, content in (
        ("acme/broken/broken.gguf", whole[: len(whole) // 2]),
        ("acme/torch/model.safetensors", b"x"),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root
