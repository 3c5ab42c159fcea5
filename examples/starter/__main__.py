"""One command: corpus, tokenizer, pre-training, chat tuning, export, measurements.

    python -m examples.starter --corpus DIR --out DIR

DIR holds the folders that ``sources`` names. Killed and started again, it goes on from its newest checkpoint.
Needs `pip install 'fust[tune,test]'`; two CPU cores and about 45 minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path

from examples.starter import train
from examples.starter.chat import Phrases, conversations
from examples.starter.corpus import read_corpus, summary
from examples.starter.export import export_model, shipped_bytes, write_json
from examples.starter.tokenizer import DOCUMENT, fertility, train_tokenizer
from tokenizers import Tokenizer

from fust.tune.set_up import keep_malloc_pages


def main() -> None:
    """Runs the recipe from the command line."""
    parser = argparse.ArgumentParser(prog="python -m examples.starter", description=__doc__.split("\n")[0])
    parser.add_argument("--corpus", type=Path, required=True, help="folder with the sources")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints, log and OUT/model")
    parser.add_argument("--threads", type=int, default=train.Recipe().threads)
    parser.add_argument(
        "--steps", type=int, default=train.Recipe().max_steps, help="pre-training steps; 0 = whole plan"
    )
    asked = parser.parse_args()
    run(asked.corpus, asked.out, train.Recipe(threads=asked.threads, max_steps=asked.steps))


def run(root: Path, out: Path, recipe: train.Recipe, vocab_size: int = 8192) -> Path:
    """Does every stage that is not done yet and returns the folder of the finished model."""
    import torch

    keep_malloc_pages()
    torch.set_num_threads(recipe.threads)
    out.mkdir(parents=True, exist_ok=True)
    log = (out / "log.txt").open("a", encoding="utf-8")
    began = time.monotonic()

    def say(line: str) -> None:
        print(line, flush=True)
        log.write(f"{time.monotonic() - began:8.1f} {line}\n")
        log.flush()

    say(f"recipe {json.dumps(dataclasses.asdict(recipe))}")
    corpus = read_corpus(root)
    say(f"corpus {json.dumps(summary(corpus))}")
    say(f"refused {json.dumps(dict(corpus.refused.most_common()))}")

    saved = out / "tokenizer.json"
    if not saved.exists():
        train_tokenizer(corpus, list(Phrases().texts()) * 5, vocab_size).save(str(saved))
    tokenizer = Tokenizer.from_file(str(saved))
    say(f"tokenizer {tokenizer.get_vocab_size()} tokens {json.dumps(fertility(tokenizer, corpus))}")

    model = train.build_model(recipe, tokenizer.get_vocab_size(), tokenizer)
    say(f"model {sum(p.numel() for p in model.parameters())} parameters")
    rows = train.pack_stories(corpus, tokenizer, recipe)
    stories = train.train_stories(
        model, rows, recipe, out, lambda m: train.bits_per_byte(m, tokenizer, corpus), say
    )
    stories_bpb = train.bits_per_byte(model, tokenizer, corpus, limit=10**9)
    say(f"after pre-training, all held-out stories, bits per byte {json.dumps(stories_bpb)}")

    talks = train.train_chat(
        model,
        lambda epoch: conversations(corpus, tokenizer, recipe.seed + epoch, recipe.context),
        recipe,
        tokenizer.token_to_id(DOCUMENT),
        say,
    )
    chat_bpb = train.bits_per_byte(model, tokenizer, corpus, limit=10**9)
    say(f"after chat tuning, bits per byte {json.dumps(chat_bpb)}")

    folder = out / "model"
    export_model(model, tokenizer, corpus, folder)
    write_json(
        out / "training.json",
        {
            "recipe": dataclasses.asdict(recipe),
            "corpus": summary(corpus),
            "fertility": fertility(tokenizer, corpus),
            "parameters": sum(p.numel() for p in model.parameters()),
            "bits_per_byte_after_stories": stories_bpb,
            "bits_per_byte_after_chat": chat_bpb,
            "vocabulary": tokenizer.get_vocab_size(),
            "plan_tokens": len(rows) * recipe.context,
            "tokens_read": {"stories": stories.tokens, "chat": talks.tokens},
            "pretraining_s": round(stories.seconds),
            "chat_s": round(talks.seconds),
            "processor_s_of_last_start": round(time.process_time()),
            "loss_stories": stories.loss,
            "loss_chat": talks.loss,
            "files": shipped_bytes(folder),
        },
    )
    say(f"done: {folder} {json.dumps(shipped_bytes(folder))}")
    log.close()
    return folder


if __name__ == "__main__":
    main()
