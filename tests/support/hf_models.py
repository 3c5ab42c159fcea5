"""Small models and tokenizers as transformers writes them, with random weights; import it where torch is there."""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers
import torch
import transformers

from fust.formats.hf_tokenizer import IGNORES_MERGES, PRE_TOKENIZERS

PROBE = [
    "The cat's hat isn't   red.\n\n  She'LL say: \"don't!\" 12345 times…",
    "Жила-была маленькая рыбка; её звали Ёлка №7.",
    "शेर ने कहा, “मैं राजा हूँ।” ०१२ क्ष्म्य",
    "Hapo zamani za kale, ng'ombe alikula majani.\tSawa?",
    "你好，世界！🙂 naïve café \r\n end ",
    "<|im_start|>user\nhi<|im_end|>\n",
]


def tokenizer_of(rule: str | None, folder: Path) -> object:
    pre = tokenizers.pre_tokenizers
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE(ignore_merges=PRE_TOKENIZERS.get(rule) in IGNORES_MERGES)
    )
    if rule is None:
        tokenizer.pre_tokenizer = pre.ByteLevel(add_prefix_space=False)
    else:
        split = pre.Split(tokenizers.Regex(rule), "isolated")
        tokenizer.pre_tokenizer = pre.Sequence(
            [split, pre.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(PROBE * 3, trainer)
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    wrapped.chat_template = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    wrapped.save_pretrained(folder)
    return tokenizer


def fallback_tokenizer(
    folder: Path, *, prepends: str = "", strips: bool = False, template: bool = True
) -> object:
    """Writes a tokenizer as those made from sentencepiece are: BPE whose unknown characters become bytes.

    Args:
        folder: where to.
        prepends: what puts a space before a text: "" (nothing, Gemma), "normalizer" (Llama 2) or "first" (Mistral).
        strips: whether added tokens swallow the spaces behind them, as Phi 3's do.
        template: whether it has a chat template.

    """
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=330, special_tokens=[], show_progress=False)
    scratch = tokenizers.Tokenizer(tokenizers.models.BPE())
    scratch.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    scratch.train_from_iterator([text for text in PROBE if "<|" not in text] * 3, trainer)
    learned = json.loads(scratch.to_str())["model"]
    special = ["<unk>", "<s>", "</s>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    pieces = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *learned["vocab"]]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    order = {"".join(pair): place for place, pair in enumerate(learned["merges"])}
    ways = [
        (order[piece], piece[:cut], piece[cut:])
        for piece in order
        for cut in range(1, len(piece))
        if piece[:cut] in vocab and piece[cut:] in vocab
    ]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            vocab, [way[1:] for way in sorted(ways)], byte_fallback=True, unk_token="<unk>", fuse_unk=True
        )
    )
    changes = tokenizers.normalizers
    marks = changes.Replace(" ", "▁")
    if prepends == "first":
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer = changes.Sequence([changes.Prepend("▁"), marks]) if prepends else marks
    tokenizer.add_special_tokens(
        [
            tokenizers.AddedToken(t, normalized=False, rstrip=strips and t not in special[:2] + special[3:4])
            for t in special
        ]
    )
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="</s>",
        bos_token="<s>",
        unk_token="<unk>",
        pad_token="<|endoftext|>",
    )
    if template:
        wrapped.chat_template = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    wrapped.save_pretrained(folder)
    return tokenizer


def model_in(folder: Path, kind: str, tied: bool, **more: object) -> object:
    torch.manual_seed(1)
    shape: dict[str, object] = {
        "vocab_size": 640 if kind in ("Gemma3Text", "Phi3", "Mistral") else 512,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 256,
        "tie_word_embeddings": tied,
        "initializer_range": 0.15,
        "pad_token_id": 0,
    }
    config = getattr(transformers, f"{kind}Config")(**(shape | more))
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(folder)
    return model


def causal_model(folder: Path, kind: str, **more: object) -> None:
    """Writes a model that writes text, of any architecture, with a tokenizer and a chat template."""
    base: dict[str, object] = {
        "vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.15,
    }  # fmt: skip
    torch.manual_seed(1)
    config = getattr(transformers, f"{kind}Config")(**{**base, **more})
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer_of(next(iter(PRE_TOKENIZERS)), folder)


def bert_model(folder: Path, *, classes: int = 0, pooling: str = "") -> None:
    """Writes a small BERT: with `classes` a classifier, else an embedder, pooled as sentence-transformers says."""
    torch.manual_seed(2)
    config = transformers.BertConfig(
        vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, initializer_range=0.2,
    )  # fmt: skip
    if classes:
        config.id2label = {i: f"class-{i}" for i in range(classes)}
        config.label2id = {f"class-{i}": i for i in range(classes)}
        transformers.BertForSequenceClassification(config).save_pretrained(folder)
    else:
        transformers.BertModel(config).save_pretrained(folder)
    tokenizer_of(next(iter(PRE_TOKENIZERS)), folder)
    if pooling:
        kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
        modules = [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
            for i, (path, name) in enumerate(kinds)
        ]
        (folder / "modules.json").write_text(json.dumps(modules))
        (folder / "1_Pooling").mkdir()
        ways = {
            f"pooling_mode_{way}": way == pooling
            for way in ("cls_token", "mean_tokens", "lasttoken", "max_tokens")
        }
        (folder / "1_Pooling/config.json").write_text(json.dumps({"word_embedding_dimension": 32, **ways}))


def adapter_of(
    base: Path,
    folder: Path,
    dtype: torch.dtype = torch.float32,
    *,
    seed: int = 3,
    std: float = 0.1,
    **options,
):
    """Writes a LoRA adapter with random halves for a model's folder; returns the model that has it."""
    import peft

    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    wanted = {"r": 4, "lora_alpha": 6, "task_type": "CAUSAL_LM", "target_modules": "all-linear"}
    torch.manual_seed(seed)
    model = peft.get_peft_model(model, peft.LoraConfig(**(wanted | options)))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=std)
    model.save_pretrained(folder)
    return model
