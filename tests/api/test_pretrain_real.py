"""`--method pretrain` on real stories at a few million weights: what is learned is more than how often words come."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import RunningFust, start_fust

pytest.importorskip("transformers", reason="transformers is not installed (pip install 'fust[tune]')")
pytestmark = pytest.mark.slow
STORIES = 3_000
WISH = {
    "method": "pretrain",
    "base": "",
    "data": "admin/stories",
    "to": "admin/teller",
    "budget": "500000 tokens",
    "gguf": ["Q8_0"],
    "row_tokens": 256,
    "step_tokens": 4096,
    "model": {"vocab_size": 4096, "hidden_size": 256, "num_hidden_layers": 4},
}


@pytest.fixture(scope="module")
def texts(shared_dir: Path) -> list[str]:
    path = shared_dir / "data" / "stories" / "tinystories-ru" / "stories.jsonl"
    if not path.exists():
        pytest.skip(f"no stories at {path}")
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line, _ in zip(lines, range(STORIES), strict=False)]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Iterator[RunningFust]:
    """A server with the stories."""
    folder = tmp_path_factory.mktemp("stories")
    rows = folder / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), encoding="utf-8"
    )
    running = start_fust(folder / "home", jobs__cores=2)
    running.cli("push", str(rows), "admin/stories", "--type", "dataset")
    yield running
    running.stop()


def train(house: RunningFust) -> dict:
    """Returns the result of the run; it takes minutes."""
    status, _, body = house.request("POST", "/fust/v1/runs", {"kind": "tune", "params": WISH})
    assert status == 201, body
    run_id, run = json.loads(body)["id"], {"state": ""}
    deadline = time.monotonic() + 1500
    while run["state"] not in ("succeeded", "failed") and time.monotonic() < deadline:
        time.sleep(0.5)
        run = json.loads(house.request("GET", f"/fust/v1/runs/{run_id}")[2])
    assert run["state"] == "succeeded", run
    return run["result"]


def entropy_of_words(tokenizer, texts: list[str]) -> float:
    """Returns nats a token of what knows only how often each token comes."""
    counts = Counter(token for ids in tokenizer(texts).input_ids for token in [*ids, tokenizer.eos_token_id])
    share = np.array(list(counts.values())) / counts.total()
    return float(-(share * np.log(share)).sum())


def test_a_few_million_weights_learn_more_than_how_often_words_come(house, texts, tmp_path):
    from huggingface_hub import snapshot_download
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trained = train(house)["trained"]
    folder = snapshot_download("admin/teller", endpoint=house.url, token=house.token, local_dir=tmp_path)
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    assert 3e6 < model.num_parameters() < 8e6
    entropy = entropy_of_words(tokenizer, texts)
    print(f"{model.num_parameters()} weights, {trained}, unigram entropy {entropy:.3f}")
    assert trained["held_out_loss"] < entropy - 1.2
    house.cli("serve", "admin/teller-GGUF")
    body = {"model": "admin/teller-GGUF", "prompt": "Жила-была", "max_tokens": 24, "temperature": 0}
    status, _, answer = house.request("POST", "/v1/completions", body)
    assert status == 200, answer
    said = json.loads(answer)["choices"][0]["text"]
    print(said)
    assert sum("а" <= letter.lower() <= "я" for letter in said) > len(said) / 2, "it goes on in Russian"
