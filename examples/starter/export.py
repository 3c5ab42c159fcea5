"""Writes the folder that a hub repo holds: weights, tokenizer, configuration, GGUF, attribution."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from examples.starter.corpus import Corpus
from examples.starter.sources import SOURCES
from examples.starter.tokenizer import DOCUMENT, TURN_END, save_tokenizer
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import GenerationConfig, LlamaForCausalLM

from fust.formats.gguf_write import write_gguf

NAME = "Fust Starter"
GGUF_NAME = "starter-q8_0.gguf"
LICENCE = "CC-BY-4.0"
"""The strictest terms among the stories (no share-alike story is in the corpus): naming the authors."""

GENERATION = {
    "do_sample": True,
    "temperature": 0.8,
    "top_p": 0.9,
    "repetition_penalty": 1.1,
    "max_new_tokens": 500,
}


def export_model(model: LlamaForCausalLM, tokenizer: Tokenizer, corpus: Corpus, folder: Path) -> None:
    """Fills ``folder``; the bf16 weights are what both files hold."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tokenizer(tokenizer, folder, model.config.max_position_embeddings)
    ends = [tokenizer.token_to_id(TURN_END), tokenizer.token_to_id(DOCUMENT)]
    model.config.architectures = ["LlamaForCausalLM"]
    model.config.dtype = torch.bfloat16
    model.config.save_pretrained(folder)
    GenerationConfig(eos_token_id=ends, pad_token_id=ends[1], **GENERATION).save_pretrained(folder)
    weights = {
        k: v.to(torch.bfloat16).contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_gguf(folder, folder / GGUF_NAME, "Q8_0", name=NAME, licence=LICENCE.lower())
    (folder / "ATTRIBUTION").write_text(attribution(corpus), "utf-8")


def attribution(corpus: Corpus) -> str:
    """Returns every work that was read: title, author and licence, one a line, by source and language."""
    lines = [
        "Works that the Fust starter model learned from. Format: title | author | licence | id in its source.",
        "The works were cleaned (markup, quotes, spaces) and cut into tokens; the weights hold no copy of them.",
    ]
    for source in SOURCES:
        stories = [s for s in corpus.stories if s.source == source.folder]
        if not stories:
            continue
        lines.append(f"\n# {source.repo} @ {source.commit} - {source.holder}")
        if source.kind != "per_story":
            what = f"{source.title}: " if source.title else ""
            lines.append(f"{what}{len(stories)} stories | {source.holder} | {source.licence}")
            continue
        for language in source.languages:
            lines.append(f"## {language}")
            lines += [
                " | ".join((s.title, s.author or "author not named", s.licence, s.story_id.split("_")[0]))
                for s in stories
                if s.language == language
            ]
    return "\n".join(lines) + "\n"


def shipped_bytes(folder: Path) -> dict[str, int]:
    """Returns the size of each file of the folder, for the card and the budget."""
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}


def write_json(path: Path, value: object) -> None:
    """Writes readable JSON."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", "utf-8")
