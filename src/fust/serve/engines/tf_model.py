"""A model of transformers with its tokenizer: loaded from safetensors, in 32 bits, without anybody's code or pickles.

Runs in the engine's own process; nothing of the server imports it.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fust.serve.engines.safetensors import Task, modules_of, pooling_of, read_json, task_of
from fust.serve.engines.scored import NoNumbers

_CLASSES = {"embed": "AutoModel", "classify": "AutoModelForSequenceClassification"}
_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "Tanh": torch.tanh,
    "Identity": lambda given: given,
}


class CannotLoad(Exception):
    """The model's files do not make a model; says why."""


@dataclass(slots=True)
class Loaded:
    """A model that is ready."""

    model: Any
    tokenizer: Any
    task: Task
    context: int
    vocabulary: int
    """Size of its logits, which may be larger than its tokenizer's."""
    eos: frozenset[int]
    defaults: dict[str, float]
    """Sampling that its generation_config.json recommends."""
    accepts: frozenset[str]
    """Arguments of its forward pass."""
    pooling: str
    dense: tuple[Dense, ...]

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """Returns a text's tokens: special ones are read, and the model's own first token is added when `special`."""
        return list(self.tokenizer.encode(text, add_special_tokens=special))


@dataclass(frozen=True, slots=True)
class Dense:
    """A layer after pooling, as sentence-transformers has them."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    activation: str

    def apply(self, vectors: torch.Tensor) -> torch.Tensor:
        """Returns (B, out) of (B, in)."""
        return _ACTIVATIONS[self.activation](torch.nn.functional.linear(vectors, self.weight, self.bias))


def load(folder: Path, context: int) -> Loaded:
    """Returns the model of a folder.

    Raises:
        CannotLoad: it lacks tensors, or is of a kind that is not served.
        Exception: whatever transformers says of an architecture that it does not know, or of damaged files.
    """
    transformers: Any = importlib.import_module("transformers")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    task = task_of(read_json(folder / "config.json"), folder)
    safe = {"trust_remote_code": False, "local_files_only": True}
    config = transformers.AutoConfig.from_pretrained(folder, **safe)
    model, info = _class_of(transformers, task, config).from_pretrained(
        folder, config=config, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **safe
    )
    lacking = sorted(name for name in info["missing_keys"] if not (task == "embed" and "pooler" in name))
    if lacking or info.get("mismatched_keys"):
        raise CannotLoad(f"its weights lack {len(lacking)} tensors, such as {', '.join(lacking[:3])}")
    model.eval()
    model.requires_grad_(False)
    # Whatever writes or scores brings a cache; embedding and sorting into classes would fill one for nobody.
    model.config.get_text_config(decoder=True).use_cache = False
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **safe)
    accepts = frozenset(inspect.signature(model.forward).parameters)
    if task == "generate" and not accepts & {"past_key_values", "cache_params"}:
        raise CannotLoad(f"{type(model).__name__} keeps its state in a way that is not served")
    output = model.get_output_embeddings()
    vocabulary = int(output.weight.shape[0]) if output is not None else len(tokenizer)
    return Loaded(
        model=model,
        tokenizer=tokenizer,
        task=task,
        context=context,
        vocabulary=vocabulary,
        eos=frozenset(token for token in _ends(model, tokenizer) if token < vocabulary),
        defaults=_defaults(folder),
        accepts=accepts,
        pooling=pooling_of(folder) or "mean",
        dense=_dense(folder),
    )


def _class_of(transformers: Any, task: Task, config: Any) -> Any:
    if task != "generate":
        return getattr(transformers, _CLASSES[task])
    causal = transformers.AutoModelForCausalLM
    return causal if type(config) in causal._model_mapping else transformers.AutoModelForImageTextToText


def _ends(model: Any, tokenizer: Any) -> set[int]:
    found: set[int] = set()
    for holder in (tokenizer, model.config, getattr(model, "generation_config", None)):
        value = getattr(holder, "eos_token_id", None)
        found |= {value} if isinstance(value, int) else set(value or ())
    return found


def _defaults(folder: Path) -> dict[str, float]:
    path = folder / "generation_config.json"
    given = read_json(path) if path.is_file() else {}
    names = ("temperature", "top_p", "top_k", "min_p")
    return {name: given[name] for name in names if isinstance(given.get(name), int | float)}


def _dense(folder: Path) -> tuple[Dense, ...]:
    layers: list[Dense] = []
    for path, kind in modules_of(folder):
        if kind != "Dense":
            continue
        config = read_json(folder / path / "config.json")
        activation = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
        if activation not in _ACTIVATIONS:
            raise CannotLoad(f"the dense layer {path} has the activation {activation}")
        reader: Any = importlib.import_module("safetensors.torch")
        tensors = reader.load_file(folder / path / "model.safetensors")
        bias = tensors.get("linear.bias")
        layers.append(
            Dense(tensors["linear.weight"].float(), None if bias is None else bias.float(), activation)
        )
    return tuple(layers)


# What needs no steps


def hidden(loaded: Loaded, rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the last layer's (B, T, D) and which of its places are tokens, (B, T); rows are padded on the right."""
    model = loaded.model.base_model if loaded.task == "generate" else loaded.model
    ids, mask = padded(loaded, rows)
    return model(input_ids=ids, attention_mask=mask).last_hidden_state, mask


def padded(loaded: Loaded, rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns ids and mask, both (B, T)."""
    longest, filler = max(map(len, rows)), loaded.tokenizer.pad_token_id or 0
    ids = torch.tensor([row + [filler] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return ids, mask


def embed(loaded: Loaded, rows: list[list[int]]) -> npt.NDArray[np.float32]:
    """Returns unit vectors (B, D): pooled as the model's files say, by the mean when they do not.

    Raises:
        NoNumbers: the model says none.
    """
    states, mask = hidden(loaded, rows)
    if loaded.pooling == "cls":
        pooled = states[:, 0]
    elif loaded.pooling == "last":
        pooled = states[torch.arange(len(rows)), mask.sum(1) - 1]
    else:
        weights = mask.unsqueeze(-1).to(states.dtype)
        pooled = (states * weights).sum(1) / weights.sum(1)
    for layer in loaded.dense:
        pooled = layer.apply(pooled)
    return _finite(torch.nn.functional.normalize(pooled, dim=-1).numpy())


def classify(loaded: Loaded, row: dict[str, list[int]]) -> npt.NDArray[np.float32]:
    """Returns the probability of each class; of a model with one class its score between 0 and 1.

    Row by row: models that read the last token find it without a padding token then.

    Raises:
        NoNumbers: the model says none.
    """
    logits = loaded.model(**{name: torch.tensor([values]) for name, values in row.items()}).logits[0]
    several = loaded.model.config.problem_type == "multi_label_classification"
    return _finite((logits.sigmoid() if several or len(logits) == 1 else logits.softmax(-1)).numpy())


def _finite(found: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    if not np.isfinite(found).all():
        raise NoNumbers
    return found


def labels(loaded: Loaded) -> list[str]:
    """Returns the classes' names in order."""
    named = loaded.model.config.id2label
    return [str(named[i]) for i in sorted(named)]
