"""A house with deployments of every engine, each started when a test first asks for it.

`llamacpp` and `transformers` serve the same small model (`write_gguf`, 32 bits); `vllm` is the program that keeps its
contract; `upstream` leads through the house itself to the model on llamacpp. What not every model can has models of its
own, `SPECIAL`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support import vllm
from tests.support.hf_models import bert_model, causal_model
from tests.support.model_house import House, running_house
from tests.support.projectors import write_projector
from tests.support.small_models import TOOLS_CHATML, write_llama

from fust.formats.gguf_write import write_gguf

ENGINES = ("llamacpp", "transformers", "vllm", "echo", "upstream")
SPECIAL = {
    ("llamacpp", "rerank"): "ranks-gguf",
    ("llamacpp", "template_tools"): "tools",
    ("llamacpp", "vision"): "sees",
    ("transformers", "classify"): "classes",
    ("transformers", "rerank"): "ranks",
    ("vllm", "classify"): "classes",
    ("vllm", "embeddings"): "vectors",
    ("vllm", "rerank"): "ranks",
    ("upstream", "rerank"): "ranks-gguf",
    ("upstream", "vision"): "sees",
}
"""Engine and claim -> the model that has it, where the engine's usual one has not."""
SHAPE = {"intermediate_size": 96, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512}


class Engines:
    """The deployments of a house by engine; a model's name is the engine's."""

    def __init__(self, house: House, words: Path) -> None:
        self.house, self.words = house, words
        self._served: set[str] = set()

    def serve(self, engine: str) -> str:
        """Returns the name of the engine's model, served now when it was not."""
        return self._ready(engine, engine, lambda: self._wish(engine))

    def serve_able(self, engine: str, claim: str) -> str:
        """Returns the name of a model of the engine that has what is claimed of some."""
        model = SPECIAL.get((engine, claim))
        if model is None:
            return self.serve(engine)
        name = f"{engine}-{model}"
        if engine == "upstream":
            return self._ready(
                name,
                engine,
                lambda: self._far(
                    name, self.serve_able("llamacpp", claim), can=["chat", "completions", "logprobs", claim]
                ),
            )
        return self._ready(
            name, engine, lambda: {"repo_id": f"acme/{model}", "engine": engine, "alias": name}
        )

    def capabilities(self, name: str) -> list[str]:
        """Returns what the house says of a model that it serves."""
        (found,) = (
            it
            for it in self.house.json("GET", "/fust/v1/deployments")["items"]
            if name in (it["alias"], it["name"])
        )
        return found["capabilities"]

    def _ready(self, name: str, engine: str, wish: Callable[[], dict[str, object]]) -> str:
        if name not in self._served:
            found = self.house.json("POST", "/fust/v1/deployments", wish())
            found = self.house.settled(found["id"], 120)
            assert (found["state"], found["engine"]) == ("ready", engine), found
            self._served.add(name)
        return name

    def _wish(self, engine: str) -> dict[str, object]:
        if engine == "echo":
            return {"name": "echo", "engine": "echo"}
        if engine == "upstream":
            return self._far(engine, self.serve("llamacpp"))
        return {"repo_id": f"acme/{engine}", "engine": engine, "alias": engine}

    def _far(self, name: str, model: str, **more: object) -> dict[str, object]:
        options = {"url": self.house.base_url, "model": model, "key": self.house.token, **more}
        return {"name": name, "engine": "upstream", "options": options}


@contextlib.contextmanager
def running_engines(root: Path) -> Iterator[Engines]:
    """Yields the engines of a house in `root`."""
    words = root / "models/acme/transformers"
    causal_model(words, "Qwen3", tie_word_embeddings=False, **SHAPE)
    _keep_to_ascii(words)
    shutil.copytree(words, root / "models/acme/vllm")
    (root / "models/acme/llamacpp").mkdir()
    write_gguf(words, root / "models/acme/llamacpp/words.gguf", "F32", name="words")
    for name, more in (
        ("vectors", {"pooling": "mean_tokens"}),
        ("ranks", {"classes": 1}),
        ("classes", {"classes": 3}),
    ):
        bert_model(root / "models/acme" / name, **more)
    write_llama(root / "models/acme/ranks-gguf/ranks.gguf", pooling=4)
    write_llama(root / "models/acme/tools/tools.gguf", chat_template=TOOLS_CHATML)
    write_llama(root / "models/acme/sees/sees-F32.gguf", chat_template=TOOLS_CHATML)
    write_projector(root / "models/acme/sees/mmproj-sees-F16.gguf")
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
