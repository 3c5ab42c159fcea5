"""How true log-likelihoods are: every token of real texts, by each engine, beside one float32 pass of transformers.

Texts: 120 questions of MGSM in English and the same in Chinese (google-research/url-nlp, CC BY 4.0; `--data` names the
folder that holds `mgsm_en.tsv` and `mgsm_zh.tsv`), cut at 256 tokens. Models: the starter model as safetensors and as GGUF in
six precisions, the golden stories260K (`--stories` names its F32 file), and a random Gemma 3, whose windows and norms
llama.cpp computes in another order. Figures are nats a token, absolute differences.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
STARTER = ROOT / "src/fust/app/starter"
MOST = 256


def texts(folder: Path, count: int) -> list[str]:
    """Returns questions in English, then in Chinese."""
    found: list[str] = []
    for language in ("en", "zh"):
        lines = (folder / f"mgsm_{language}.tsv").read_text("utf-8").splitlines()
        found += [line.split("\t")[0] for line in lines[:count]]
    return found


def truth(model: Any, rows: list[list[int]]) -> list[np.ndarray]:
    """Returns the log-probability of each token but the first, by a plain pass in float32."""
    import torch

    found: list[np.ndarray] = []
    for row in rows:
        with torch.inference_mode():
            lines = model(torch.tensor([row])).logits[0].double().log_softmax(-1)
        found.append(lines[torch.arange(len(row) - 1), torch.tensor(row[1:])].numpy())
    return found


def by_llamacpp(file: Path, rows: list[list[int]]) -> list[np.ndarray]:
    """Returns the same by the scorer over llama.cpp's C API."""
    from fust.serve.engines.scored import Wanted
    from fust.serve.engines.scorer import Scorer

    scorer = Scorer(file, 512, 2)
    scored = scorer.score([Wanted(row, 1) for row in rows], 0, lambda: True)
    return [np.array(row.logprobs[1:]) for row in scored]


def by_transformers(folder: Path, rows: list[list[int]]) -> list[np.ndarray]:
    """Returns the same by the transformers engine."""
    from fust.serve.engines import tf_model
    from fust.serve.engines.scored import Wanted
    from fust.serve.engines.tf_batch import Batcher
    from fust.serve.engines.tf_score import score

    batcher = Batcher(tf_model.load(folder, 512), 1)
    wanted = [Wanted(row, 1) for row in rows]
    scored = batcher.run(lambda: score(batcher.loaded, wanted, 0, shares=batcher.shares), lambda: True)
    return [np.array(row.logprobs[1:]) for row in scored]


def show(name: str, found: Iterable[np.ndarray], true: Iterable[np.ndarray]) -> tuple[float, float, float]:
    """Prints and returns mean, 99.9th percentile and maximum of the differences."""
    apart = np.abs(np.concatenate(list(found)) - np.concatenate(list(true)))
    figures = float(apart.mean()), float(np.quantile(apart, 0.999)), float(apart.max())
    print(f"| {name} | {len(apart)} | " + " | ".join(f"{value:.1e}" for value in figures) + " |", flush=True)
    return figures


def main() -> int:
    """Runs the benchmark; exits with 1 when a bound is passed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data/mgsm")
    parser.add_argument("--stories", type=Path, default=ROOT.parent / "shared/weights/stories260K-f32.gguf")
    parser.add_argument("--count", type=int, default=120, help="texts of each language")
    given = parser.parse_args()
    import torch
    import transformers

    from fust.formats.gguf_write import write_gguf

    torch.set_num_threads(2)
    auto: Any = transformers.AutoModelForCausalLM
    questions = texts(given.data, given.count)
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(STARTER)
    rows = [tokenizer.encode(text)[:MOST] for text in questions]
    true = truth(auto.from_pretrained(STARTER, dtype=torch.float32).eval(), rows)
    print(
        f"{len(questions)} texts\n\n| engine and file | tokens | mean | 99.9 % | max |\n|---|---|---|---|---|"
    )
    exact = show("transformers, starter safetensors", by_transformers(STARTER, rows), true)[2] <= 1e-4
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("F32", "F16", "BF16", "Q8_0", "Q6_K", "Q4_K_M"):
            file = Path(folder) / f"{precision}.gguf"
            write_gguf(STARTER, file, precision, name="starter")
            figures = show(f"llamacpp, starter GGUF {precision}", by_llamacpp(file, rows), true)
            if precision == "F32":
                exact &= figures[0] <= 5e-3 and figures[1] <= 3e-2 and figures[2] <= 1e-3
    stories: Any = auto.from_pretrained(
        given.stories.parent, gguf_file=given.stories.name, dtype=torch.float32
    )
    rows = story_rows(given.stories, questions)
    figures = show(
        "llamacpp, stories260K GGUF F32", by_llamacpp(given.stories, rows), truth(stories.eval(), rows)
    )
    return 0 if exact and figures[2] <= 1e-3 and gemma(questions) else 1


def gemma(questions: list[str]) -> bool:
    """Prints the same of a small random Gemma 3; returns whether both engines keep to their bounds."""
    from tests.support.hf_models import fallback_tokenizer, model_in

    from fust.formats.gguf_write import write_gguf

    shape: dict[str, Any] = {"query_pre_attn_scalar": 16, "sliding_window": 64, "num_hidden_layers": 7}
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        tokenizer: Any = fallback_tokenizer(made)
        model: Any = model_in(made, "Gemma3Text", True, **shape, max_position_embeddings=512)
        rows = [tokenizer.encode(text, add_special_tokens=False).ids[:MOST] for text in questions]
        true = truth(model, rows)
        write_gguf(made, made / "gemma.gguf", "F32", name="gemma")
        ours = show("transformers, Gemma 3 safetensors", by_transformers(made, rows), true)
        theirs = show("llamacpp, Gemma 3 GGUF F32", by_llamacpp(made / "gemma.gguf", rows), true)
    return ours[2] <= 1e-4 and theirs[2] <= 3e-3


def story_rows(file: Path, questions: list[str]) -> list[list[int]]:
    """Returns the texts in llama.cpp's own tokens of that model."""
    from fust.serve.engines.scorer import Scorer

    scorer = Scorer(file, 512, 1)
    return [scorer.tokenize(text)[:MOST] for text in questions]


if __name__ == "__main__":
    sys.exit(main())
