"""Small models and tokenizers as transformers writes them, with random weights; import it where torch is there."""

from __future__ import annotations

from pathlib import Path

import tokenizers
import torch
import transformers

from fust.formats.hf_tokenizer import PRE_TOKENIZERS

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
        tokenizers.models.BPE(ignore_merges=PRE_TOKENIZERS.get(rule) == "llama-bpe")
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


def model_in(folder: Path, kind: str, tied: bool) -> object:
    torch.manual_seed(1)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
        initializer_range=0.15,
    )
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    model.save_pretrained(folder)
    return model
