"""A base model as files: what it is, how large, and whether it can be tuned. Reads headers only; needs no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from fust.core.decode_words import words_of
from fust.core.errors import InvalidInput
from fust.formats.peft_merge import TOKENIZER_FILES
from fust.formats.safetensors import SafetensorsTensor, read_safetensors

PROVEN = frozenset({"llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "phi3", "gemma3_text"})
"""Values of ``model_type`` whose forward, backward and saved form the tests compare with transformers."""
_SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)\.safetensors")
_MOST_SHARDS = 10_000
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


class BaseConfig(msgspec.Struct):
    """The parts of config.json that planning needs."""

    model_type: str = ""
    architectures: list[str] = []
    hidden_size: int = 0
    intermediate_size: int = 0
    num_hidden_layers: int = 0
    num_attention_heads: int = 0
    vocab_size: int = 0
    max_position_embeddings: int = 2048
    tie_word_embeddings: bool = False
    dtype: str | None = None
    torch_dtype: str | None = None
    quantization_config: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Base:
    """A base model in a folder."""

    folder: Path
    config: BaseConfig
    parameters: int
    size_bytes: int
    """Of the weights as they are stored."""
    longest_side: int
    """Values of the largest matrix: the embedding, mostly."""

    @property
    def is_proven(self) -> bool:
        """Returns whether the family is one that the tests know."""
        return self.config.model_type in PROVEN


def wanted_files(names: Iterable[str], repo_id: str) -> list[str]:
    """Returns the files of a repo that tuning needs.

    Raises:
        InvalidInput: the repo is no base model in safetensors; says what it is instead.

    """
    present = {name for name in names if "/" not in name}
    weights = sorted(
        name for name in present if name.endswith(".safetensors") and not name.startswith("adapter")
    )
    if "adapter_config.json" in present and "config.json" not in present:
        raise InvalidInput(
            "{repo_id} is an adapter, not a base model.",
            hint="Tune the base that it belongs to.",
            repo_id=repo_id,
        )
    if not weights and any(name.endswith(_PICKLES) for name in present):
        raise InvalidInput(
            "The weights of {repo_id} are pickle files, which can run code when they are opened.",
            hint="Pull a revision with .safetensors files.",
            repo_id=repo_id,
        )
    if not weights and any(name.endswith(".gguf") for name in present):
        raise InvalidInput(
            "{repo_id} holds GGUF files, which are made for answering and not for tuning.",
            hint="Pull the .safetensors that they were made from.",
            repo_id=repo_id,
        )
    missing = [name for name in ("config.json",) if name not in present]
    missing += _missing_shards(weights)
    missing += [] if weights else ["*.safetensors"]
    missing += [] if present & {"tokenizer.json", "tokenizer.model", "vocab.json"} else ["tokenizer.json"]
    if missing:
        raise InvalidInput(
            "{repo_id} is no model that can be tuned: it has no {missing}.",
            hint="Name a repo that transformers can load.",
            repo_id=repo_id,
            missing=", ".join(missing),
        )
    extra = {"config.json", "generation_config.json", "model.safetensors.index.json"} | set(TOKENIZER_FILES)
    return sorted({*weights, *(present & extra)})


def _missing_shards(weights: list[str]) -> list[str]:
    """Returns the files that are not there of those that others are numbered with (`model-00001-of-00002.safetensors`)."""
    shards = [match for name in weights if (match := _SHARD.fullmatch(name))]
    wanted = {
        f"{shard[1]}-{number:0{len(shard[2])}d}-of-{shard[3]}.safetensors"
        for shard in shards
        for number in range(1, min(int(shard[3]), _MOST_SHARDS) + 1)
    }
    return sorted(wanted - set(weights))[:3]


def read_base(folder: Path, repo_id: str) -> Base:
    """Returns what a folder with a base model says of itself.

    Raises:
        InvalidInput: the config or a header cannot be read, or the model needs code of its own.

    """
    config = read_config((folder / "config.json").read_bytes(), repo_id)
    tensors = _tensors(folder)
    return Base(
        folder,
        config,
        sum(tensor.elements for tensor in tensors),
        sum(tensor.size_bytes for tensor in tensors),
        max((tensor.elements for tensor in tensors), default=0),
    )


def check_vocabulary(base: Base, repo_id: str, highest_token: int) -> None:
    """Raises InvalidInput when the tokenizer has tokens for which the embedding has no row."""
    rows = base.config.vocab_size
    if rows and highest_token >= rows:
        raise InvalidInput(
            "The tokenizer of {repo_id} goes up to token {highest}, and its embedding has {rows} rows.",
            hint="Tokenizer and weights belong to different models, or the embedding was not enlarged for added tokens.",
            repo_id=repo_id,
            highest=highest_token,
            rows=rows,
        )


def read_config(data: bytes, repo_id: str) -> BaseConfig:
    """Returns what config.json says.

    Raises:
        InvalidInput: it cannot be read, or such a model cannot be tuned.

    """
    try:
        config = msgspec.json.decode(data, type=BaseConfig)
    except msgspec.MsgspecError as error:
        raise InvalidInput(
            "The config.json of {repo_id} cannot be read ({reason}).",
            repo_id=repo_id,
            reason=words_of(error),
        ) from None
    if not config.model_type:
        raise InvalidInput(
            "The config.json of {repo_id} names no model_type.",
            hint="Name a repo that transformers can load.",
            repo_id=repo_id,
        )
    if config.quantization_config is not None:
        raise InvalidInput(
            "The weights of {repo_id} are quantised.",
            hint="Tune the model that they were made from, then quantise the result.",
            repo_id=repo_id,
        )
    return config


def is_tokenizer_file(name: str) -> bool:
    """Returns whether a file belongs to the tokenizer, and is handed on unchanged."""
    return PurePosixPath(name).name in TOKENIZER_FILES


def _tensors(folder: Path) -> list[SafetensorsTensor]:
    found: dict[str, SafetensorsTensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= {tensor.name: tensor for tensor in read_safetensors(path).tensors}
    return list(found.values())
