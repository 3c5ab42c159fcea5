"""Base models of a few thousand parameters with a real tokenizer, made where they are needed (transformers, tokenizers)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = [
    "moon",
    "river",
    "Grüße",
    "hello",
    "bread",
    "light",
    "seven",
    "green",
    "ocean",
    "stone",
    "你好",
    "خبز",
    "🌍",
]


def write_rows(path: Path, count: int = 60, *, start: int = 0) -> Path:
    """Writes conversations as JSONL: what to say after a word is simple enough to be learned."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for i in range(start, start + count):
        word = WORDS[i % len(WORDS)]
        messages = [
            {"role": "user", "content": f"Say {word} {i}"},
            {"role": "assistant", "content": f"{word} {word} it is."},
        ]
        if i % 5 == 0:
            messages += [{"role": "user", "content": "Again"}, {"role": "assistant", "content": f"{word}!"}]
        lines.append(json.dumps({"messages": messages}, ensure_ascii=False))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def make_tokenizer(template: str | None = CHATML, *, extra: Iterable[str] = (), size: int = 400):
    """Returns a byte-level BPE tokenizer with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *extra]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        [f"Say {word} it is. {word} again user assistant" for word in WORDS], trainer
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", bos_token=None
    )
    fast.chat_template = template
    return fast


def write_base(
    folder: Path,
    *,
    family: str = "llama",
    template: str | None = CHATML,
    extra: Iterable[str] = (),
    seed: int = 0,
    **more: object,
) -> Path:
    """Writes a model of a family with random weights; returns its folder."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(template, extra=extra)
    shape: dict[str, object] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
    }
    if family == "qwen3_moe":
        experts = {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "norm_topk_prob": True,
        }
        more = experts | more
    if family == "gemma3_text":
        more = {"query_pre_attn_scalar": 16} | more
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, **(shape | more))
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_pairs(path: Path, count: int = 40) -> Path:
    """Writes questions with a better and a worse answer, as messages (OpenAI); what makes the better one is easy to learn."""
    lines = []
    for i in range(count):
        word = WORDS[i % len(WORDS)]
        pair = {
            "prompt": [{"role": "user", "content": f"Say {word} {i}"}],
            "chosen": [{"role": "assistant", "content": f"{word} {word} it is."}],
            "rejected": [{"role": "assistant", "content": f"{word} again again"}],
        }
        lines.append(json.dumps(pair, ensure_ascii=False))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_documents(path: Path, count: int = 200) -> Path:
    """Writes short stories of few words as JSONL rows of `text`, some of which name the model that wrote them."""
    import random

    order = random.Random(1455)
    animals, places = ["lion", "hare", "goat", "hen", "лиса", "кошка"], ["river", "hill", "market", "лес"]
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for i in range(count):
        text = " ".join(
            f"The {order.choice(animals)} met the {order.choice(animals)} by the {order.choice(places)} {order.randint(2, 99)} times."
            for _ in range(order.randint(2, 6))
        )
        lines.append(
            json.dumps({"text": text, "model": "google/gemma-3" if i % 3 else None}, ensure_ascii=False)
        )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
