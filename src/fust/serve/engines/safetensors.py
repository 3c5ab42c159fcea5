"""Safetensors models of a repo: which there are, what their config says, how much memory they take. No torch here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast

import msgspec

from fust.core.decode_words import words_of
from fust.core.errors import FustError, InvalidInput, NotOffered
from fust.core.i18n import Words
from fust.formats.safetensors import read_safetensors
from fust.serve.engines.base import SCORE_LOGITS, Mode
from fust.serve.facts import ModelFacts
from fust.serve.files import ModelFile, TreeFile
from fust.serve.template_check import check_template

Task = Literal["generate", "embed", "classify"]

CHUNK = 512
"""Tokens of a prompt that go through the model at once."""
EMBED_TOKENS = 2048
"""Places of one batch of texts to embed, the filled up ones included; a longer text is a batch of its own."""
FLOAT_BYTES = 4
_PROCESS_BYTES = 330_000_000  # interpreter, torch and transformers, measured
_MOST_JSON_BYTES = 64 << 20
_WEIGHTS = re.compile(r"model(?:-(\d{5})-of-(\d{5}))?\.safetensors")
_BESIDE = (
    "config.json", "generation_config.json", "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json",
    "tokenizer.model", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt",
    "sentencepiece.bpe.model", "spiece.model", "chat_template.jinja", "modules.json", "sentence_bert_config.json",
    "1_Pooling/config.json", *(f"{i}_Dense/{name}" for i in (2, 3) for name in ("config.json", "model.safetensors")),
)  # fmt: skip
"""Nothing that is unpickled or executed."""
_OFFSET_POSITIONS = frozenset(
    {"roberta", "xlm-roberta", "camembert", "mpnet", "xlm-roberta-xl", "roberta-prelayernorm"}
)
"""Architectures whose positions begin after the padding token's id."""
_POOLINGS = {"cls": "cls", "cls_token": "cls", "mean": "mean", "mean_tokens": "mean", "lasttoken": "last"}


@dataclass(frozen=True, slots=True)
class SafetensorsFacts(ModelFacts):
    """Shape of a model whose weights are safetensors; it is run in 32 bits whatever it was stored in."""

    task: Task
    parameters: int
    labels: int
    """Classes that a classifier tells apart."""

    @property
    def known(self) -> frozenset[str]:
        """See `ModelFacts.known`: a classifier with one class gives scores, as rerankers do."""
        if self.task != "classify":
            return frozenset()
        return frozenset({"classify", "rerank"} if self.labels == 1 else {"classify"})

    @property
    def is_encoder(self) -> bool:
        """Whether it writes no text."""
        return self.task != "generate"

    def memory_bytes(self, mode: Mode, context: int, slots: int) -> int:
        """Returns an estimate of what an engine will take: weights, KV cache, work space, the process itself.

        One process answers for all modes. Its cache has a row for every slot and one for a prompt that is being read
        or scored; one piece of work is done at a time, so the largest piece counts.
        """
        weights = FLOAT_BYTES * self.parameters
        cache = 0 if self.is_encoder else self.kv_width * context * (slots + 1)
        place = 6 * self.embedding + 3 * self.feed_forward
        written = min(context, CHUNK) * place + min(SCORE_LOGITS, CHUNK * self.vocabulary)
        embedded = max(context, EMBED_TOKENS) * place
        work = {"generate": max(written, embedded), "embed": embedded, "classify": context * place}[self.task]
        return weights + FLOAT_BYTES * (cache + work) + _PROCESS_BYTES


def list_safetensors(files: Sequence[TreeFile]) -> list[ModelFile]:
    """Returns the models among files that are stored as transformers writes them, largest first.

    A model is a folder with `config.json` and all parts of `model.safetensors`; its other files go with it.
    """
    folders: dict[str, dict[str, TreeFile]] = {}
    for file in files:
        folder, _, name = file.path.rpartition("/")
        if _WEIGHTS.fullmatch(name) or name == "config.json":
            folders.setdefault(folder, {})[name] = file
    paths = {file.path for file in files}
    found: list[ModelFile] = []
    for folder, named in folders.items():
        weights = sorted(name for name in named if _WEIGHTS.fullmatch(name))
        if "config.json" not in named or not _is_whole(weights):
            continue
        under = PurePosixPath(folder)
        beside = [path for name in _BESIDE if (path := str(under / name)) in paths]
        size = sum(named[name].size_bytes for name in weights)
        found.append(ModelFile((*(str(under / name) for name in weights), *beside), size))
    return sorted(found, key=lambda model: (-model.size_bytes, model.path))


def _is_whole(weights: list[str]) -> bool:
    if weights == ["model.safetensors"]:
        return True
    parts = [match for name in weights if (match := _WEIGHTS.fullmatch(name)) and match[1]]
    return (
        bool(parts)
        and [int(p[1]) for p in parts] == list(range(1, int(parts[0][2]) + 1))
        and len(parts) == len(weights)
    )


def read_safetensors_facts(path: Path, size_bytes: int) -> SafetensorsFacts:
    """Returns what a model's config and its tensors' headers say.

    Args:
        path: its (first) weights; the other files lie beside it.
        size_bytes: of all its weights.

    Raises:
        InvalidInput: damaged, or its chat template does not end.
        NotOffered: a kind of model that is not served.
    """
    folder = path.parent
    config = read_json(folder / "config.json")
    task = task_of(config, folder)
    text = text_config(config)
    parts = [name for name in sorted(folder.iterdir()) if _WEIGHTS.fullmatch(name.name)]
    parameters = sum(read_safetensors(part).parameters for part in parts)
    template = chat_template_of(folder) if task == "generate" else None
    if template is not None:
        check_template(template, path.name)
    layers, width = _number(text, "num_hidden_layers", "n_layer", "n_layers", "num_layers"), _number(text, "hidden_size", "n_embd", "d_model")  # fmt: skip
    heads = max(1, _number(text, "num_attention_heads", "n_head", "n_heads"))
    kv_heads = _number(text, "num_key_value_heads") or heads
    return SafetensorsFacts(
        architecture=str(config.get("model_type", ""))[:100],
        context_train=context_of(config, folder),
        layers=layers,
        kv_width=layers * 2 * kv_heads * (_number(text, "head_dim") or width // heads),
        embedding=dense_width(folder) or width,
        feed_forward=_number(text, "intermediate_size", "n_inner", "ffn_dim", "d_ff") or 4 * width,
        vocabulary=_number(text, "vocab_size"),
        has_chat_template=template is not None,
        pooling=pooling_of(folder) if task == "embed" else "",
        weights_bytes=size_bytes,
        task=task,
        parameters=parameters,
        labels=len(config.get("id2label") or ()) or _number(config, "num_labels") or 2,
    )


def read_json(path: Path) -> dict[str, Any]:
    """Returns the JSON object of a file of a stranger.

    Raises:
        InvalidInput: it is not there, too large, or none.
    """
    try:
        if path.stat().st_size > _MOST_JSON_BYTES:
            raise ValueError("it is too large")
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise _bad(path.name, words_of(error)) from None


def _find_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the part of a config that describes the language model."""
    for name in ("text_config", "llm_config", "language_config"):
        if isinstance(config.get(name), dict):
            return cast("dict[str, Any]", config[name])
    return config


def task_of(config: dict[str, Any], folder: Path) -> Task:
    """Returns what a model is for, by its config and by the files of sentence-transformers.

    Raises:
        NotOffered: something else than writing, embedding and classifying text; or code of its own.
    """
    listed = config.get("architectures")
    names = [str(name) for name in cast("list[object]", listed)] if isinstance(listed, list) else []
    name = names[0] if names else ""
    if name.endswith("ForSequenceClassification"):
        return "classify"
    if (folder / "modules.json").is_file():
        return "embed"
    if config.get("is_encoder_decoder") is True:
        raise _not_served(name or "an encoder-decoder")
    if name.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")):
        return "generate"
    if name.endswith(("Model", "ForMaskedLM", "ForPreTraining")):
        return "embed"
    raise _not_served(name or "a model whose config names no architecture")


def chat_template_of(folder: Path) -> str | None:
    """Returns the chat template that transformers would take, or None."""
    alone = folder / "chat_template.jinja"
    if alone.is_file():
        if alone.stat().st_size > _MOST_JSON_BYTES:
            raise _bad(alone.name, "it is too large")
        return alone.read_text("utf-8", "replace")
    held: object = _find_json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(held, list):  # of several by name the one called default
        named = [
            cast("dict[str, object]", item) for item in cast("list[object]", held) if isinstance(item, dict)
        ]
        held = next((item.get("template") for item in named if item.get("name") == "default"), None)
    return held if isinstance(held, str) else None


def context_of(config: dict[str, Any], folder: Path) -> int:
    """Returns how many tokens a model reads at most; 0 when nothing says so."""
    text = text_config(config)
    limits = [
        _number(text, "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length")
    ]
    if config.get("model_type") in _OFFSET_POSITIONS and limits[0]:
        limits[0] -= _number(text, "pad_token_id") + 1
    limits.append(_number(_find_json(folder / "sentence_bert_config.json"), "max_seq_length"))
    return min((limit for limit in limits if limit > 0), default=0)


def pooling_of(folder: Path) -> str:
    """Returns how sentence-transformers pools, `mean`, `cls` or `last`; empty when no file says so.

    Raises:
        NotOffered: another way of pooling, or a module that is not known.
    """
    for path, kind in modules_of(folder):
        if kind == "Pooling":
            config = _find_json(folder / path / "config.json")
            given = config.get("pooling_mode")
            ways = [str(given)] if given else [key.removeprefix("pooling_mode_") for key, value in config.items() if key.startswith("pooling_mode_") and value is True]  # fmt: skip
            if len(ways) != 1 or ways[0] not in _POOLINGS:
                raise _not_served(f"pooling by {' and '.join(ways) or 'nothing'}")
            return _POOLINGS[ways[0]]
    return ""


def modules_of(folder: Path) -> list[tuple[str, str]]:
    """Returns (folder, kind) of the modules of sentence-transformers after the model itself.

    Raises:
        NotOffered: a kind that is not known here.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return []
    try:
        listed = msgspec.json.decode(path.read_bytes(), type=list[_Module])
    except (msgspec.MsgspecError, OSError, RecursionError) as error:
        raise _bad(path.name, words_of(error)) from None
    found = [(module.path, module.type.rpartition(".")[2]) for module in listed]
    for place, kind in found:
        if kind not in ("Transformer", "Pooling", "Dense", "Normalize"):
            raise _not_served(f"a module of sentence-transformers called {kind}")
        if kind == "Dense" and f"{place}/model.safetensors" not in _BESIDE:
            raise _not_served(f"a dense layer in {place}")
    return [(place, kind) for place, kind in found if kind != "Transformer"]


class _Module(msgspec.Struct):
    """An entry of modules.json."""

    type: str
    path: str = ""


def dense_width(folder: Path) -> int:
    """Returns how many numbers the last dense layer after pooling gives; 0 when there is none."""
    dense = [path for path, kind in modules_of(folder) if kind == "Dense"]
    return _number(_find_json(folder / dense[-1] / "config.json"), "out_features") if dense else 0


def _number(config: dict[str, Any], *names: str) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and 0 <= value < 2**40:
            return value
    return 0


def _bad(file: str, fault: str | Words) -> InvalidInput:
    return InvalidInput(
        "{file} cannot be read: {fault}.",
        hint="Download or export it again.",
        file=file,
        fault=fault if isinstance(fault, Words) else Words(fault),
        code="bad_model_file",
    )


def _not_served(what: str) -> FustError:
    return NotOffered(
        "The transformers engine does not serve {what}.",
        hint="It serves models that write text from left to right, embed it, or sort it into classes.",
        what=what[:200],
        code="not_offered_by_engine",
    )
