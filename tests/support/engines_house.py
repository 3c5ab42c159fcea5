"""A house with one deployment of every engine, each started when a test first asks for it.

`llamacpp` and `transformers` serve the same small model (`write_gguf`, 32 bits); `vllm` is the program that keeps its
contract; `upstream` leads through the house itself to the model on llamacpp.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.support import vllm
from tests.support.hf_models import causal_model
from tests.support.model_house import House, running_house

from fust.formats.gguf_write import write_gguf

ENGINES = ("llamacpp", "transformers", "vllm", "echo", "upstream")
SHAPE = {"intermediate_size": 96, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512}


class Engines:
    """The deployments of a house by engine; a model's name is the engine's."""

    def __init__(self, house: House, words: Path) -> None:
        self.house, self.words = house, words
        self._served: set[str] = set()

    def serve(self, engine: str) -> str:
        """Returns the name of the engine's model, served now when it was not."""
        if engine not in self._served:
            found = self.house.json("POST", "/fust/v1/deployments", self._wish(engine))
            found = self.house.settled(found["id"], 120)
            assert (found["state"], found["engine"]) == ("ready", engine), found
            self._served.add(engine)
        return engine

    def _wish(self, engine: str) -> dict[str, object]:
        if engine == "echo":
            return {"name": "echo", "engine": "echo"}
        if engine == "upstream":
            url, model = self.house.base_url, self.serve("llamacpp")
            options = {"url": url, "model": model, "key": self.house.token}
            return {"name": "upstream", "engine": "upstream", "options": options}
        return {"repo_id": f"acme/{engine}", "engine": engine, "alias": engine}


@contextlib.contextmanager
def running_engines(root: Path) -> Iterator[Engines]:
    """Yields the engines of a house in `root`."""
    words = root / "models/acme/transformers"
    causal_model(words, "Qwen3", tie_word_embeddings=False, **SHAPE)
    _keep_to_ascii(words)
    shutil.copytree(words, root / "models/acme/vllm")
    (root / "models/acme/llamacpp").mkdir()
    write_gguf(words, root / "models/acme/llamacpp/words.gguf", "F32", name="words")
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{vllm.install(root / 'bin')}:{before}"
    try:
        flags = ("serve.threads=1", "serve.context=512", "serve.memory_bytes=40000000000")
        with running_house(root / "home", root / "models", *flags) as house:
            yield Engines(house, words)
    finally:
        os.environ["PATH"] = before


def _keep_to_ascii(folder: Path) -> None:
    """Lets a model of random weights write no piece of a character, which engines hold back in streams, each otherwise."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    for token in range(model.config.vocab_size):
        text = tokenizer.decode([token])
        if token in tokenizer.all_special_ids or not text.isascii() or not text.isprintable():
            model.lm_head.weight.data[token] = 0.0
    model.save_pretrained(folder)
