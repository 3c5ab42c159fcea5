"""A LoRA adapter as PEFT saves it: what its two files say, and whether an engine can compute with it on a base.

An adapter that is not for a base often loads and answers nonsense, so names and shapes are compared before an engine
sees them, and what it cannot apply is refused by its name.
Files: https://huggingface.co/docs/peft/developer_guides/checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from fust.core.decode_words import words_of
from fust.core.errors import InvalidInput, NotOffered
from fust.formats.safetensors import SafetensorsTensor, read_safetensors

_MAX_CONFIG_BYTES = 2**20
PIECE = re.compile(r"^base_model\.model\.(.+)\.lora_([AB])(?:\.default)?\.weight$")
_MOST_ALPHA = 1e6
"""People take up to some hundreds."""
_NUMBERS = frozenset({"F32", "F16", "BF16"})
_KNOWN_STARTS = frozenset({"True", "False", "None", "gaussian", "orthogonal", "eva"})
"""Ways in which training began (`init_lora_weights`) that leave the base as it is."""


class PeftConfig(msgspec.Struct):
    """The parts of adapter_config.json that decide what the numbers mean."""

    peft_type: str = "LORA"
    base_model_name_or_path: str | None = None
    r: int = 8
    lora_alpha: float = 8
    use_rslora: bool = False
    use_dora: bool = False
    use_qalora: bool = False
    lora_bias: bool = False
    bias: str = "none"
    fan_in_fan_out: bool = False
    target_modules: Any = None
    init_lora_weights: bool | str | None = True
    rank_pattern: dict[str, int] = {}
    alpha_pattern: dict[str, float] = {}
    modules_to_save: list[str] | None = None
    layer_replication: list[Any] | None = None
    trainable_token_indices: Any = None
    target_parameters: list[str] | None = None
    alora_invocation_tokens: list[int] | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """The two small matrices beside a large one: (rank, inputs) and (outputs, rank)."""

    module: str
    """As transformers calls the large one, without `.weight`."""
    a: SafetensorsTensor
    b: SafetensorsTensor


def read_config(path: Path) -> PeftConfig:
    """Returns adapter_config.json.

    Raises:
        InvalidInput: it is not the file that PEFT writes.
    """
    raw = path.read_bytes() if path.stat().st_size <= _MAX_CONFIG_BYTES else b""
    try:
        return msgspec.json.decode(raw, type=PeftConfig)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidInput(
            "{file} is not the file that PEFT writes: {reason}.",
            hint="Save the adapter again with `save_pretrained`.",
            file=path.name,
            reason=words_of(error),
            code="bad_model_file",
        ) from error


def named_base(config: Path) -> str:
    """Returns what adapter_config.json calls its base (a repo id, or a folder of whoever trained it); empty for nothing.

    Raises:
        InvalidInput: it is not the file that PEFT writes.
    """
    return read_config(config).base_model_name_or_path or ""


def check_settings(settings: PeftConfig, adapter: str, engine: str) -> None:
    """Raises NotOffered for what is more than a plain LoRA."""
    start = str(settings.init_lora_weights)
    odd = [a for a in (settings.lora_alpha, *settings.alpha_pattern.values()) if not is_alpha(a)]
    reasons = {
        f"lora_alpha {odd[0] if odd else 0:.6g}": odd,
        f"peft_type {settings.peft_type[:50]}": settings.peft_type != "LORA",
        "use_dora": settings.use_dora,
        "use_qalora": settings.use_qalora,
        "lora_bias": settings.lora_bias,
        "fan_in_fan_out": settings.fan_in_fan_out,
        f"modules_to_save {', '.join(settings.modules_to_save or ())[:100]}": settings.modules_to_save,
        "layer_replication": settings.layer_replication,
        "trainable_token_indices": settings.trainable_token_indices,
        "target_parameters": settings.target_parameters,
        "aLoRA (alora_invocation_tokens)": settings.alora_invocation_tokens,
        f"init_lora_weights {start[:50]}, which changes the base": start not in _KNOWN_STARTS,
    }
    for what, found in reasons.items():
        if found:
            raise refused(adapter, what, engine)


def is_alpha(alpha: float) -> bool:
    """Returns whether a factor is one with which a model says more than infinity."""
    return abs(alpha) <= _MOST_ALPHA  # NaN is not


def read_pairs(weights: Path, adapter: str, engine: str) -> list[Pair]:
    """Returns the matrices of adapter_model.safetensors.

    Raises:
        InvalidInput: the file is damaged.
        NotOffered: it holds something else besides, or nothing.
        OSError: it cannot be read.
    """
    sides: dict[str, dict[str, SafetensorsTensor]] = {}
    for tensor in read_safetensors(weights).tensors:
        if tensor.name.endswith(".base_layer.weight"):
            continue  # a copy of the base's own, which PEFT adds when the output layer is a target
        match = PIECE.match(tensor.name)
        if match is None or len(tensor.shape) != 2 or tensor.dtype not in _NUMBERS:
            raise refused(adapter, f"the tensor {tensor.name[:100]}", engine)
        sides.setdefault(match[1], {})[match[2]] = tensor
    if not sides:
        raise refused(adapter, "an adapter without tensors", engine)
    half = next((module for module, found in sides.items() if len(found) != 2), None)
    if half is not None:
        raise refused(adapter, f"the tensor {half[:100]}, of which one half is missing", engine)
    return [Pair(module, found["A"], found["B"]) for module, found in sides.items()]


def read_matrices(folder: Path) -> Mapping[str, tuple[int, ...]]:
    """Returns the shape of each tensor of a model's safetensors files, by name: (outputs, inputs) of a linear layer.

    Raises:
        InvalidInput: a file is damaged.
        OSError: it cannot be read.
    """
    files = sorted(folder.glob("*.safetensors"))
    return {tensor.name: tensor.shape for path in files for tensor in read_safetensors(path).tensors}


def check_for_vllm(
    config: Path,
    weights: Path,
    adapter: str,
    base: str,
    matrices: Mapping[str, tuple[int, ...]],
    most_rank: int,
) -> None:
    """Looks whether vLLM can compute with an adapter on a base (vllm/lora/peft_helper.py says what it reads).

    Args:
        config: adapter_config.json.
        weights: adapter_model.safetensors.
        adapter: what it is called in messages.
        base: what the base is called there.
        matrices: of the base; see `read_matrices`.
        most_rank: for which vLLM was started.

    Raises:
        InvalidInput: a file is damaged, or the adapter is for another base; names both, and what differs.
        NotOffered: it holds what vLLM cannot apply; names it.
        OSError: it cannot be read.
    """
    settings = read_config(config)
    check_settings(settings, adapter, "vLLM")
    for what in _not_for_vllm(settings):
        raise refused(adapter, what, "vLLM")
    for pair in read_pairs(weights, adapter, "vLLM"):
        rank, inputs = pair.a.shape
        outputs, inner = pair.b.shape
        if inner != rank or not rank:
            raise refused(adapter, f"the rank {rank} of {pair.module[:100]}", "vLLM")
        if rank > most_rank:
            raise NotOffered(
                "The adapter {adapter} has rank {rank}, and vLLM was started for {most} at most.",
                hint="Raise the setting serve.gpu_adapter_rank, then serve the base again.",
                adapter=adapter,
                rank=rank,
                most=most_rank,
                code="adapter_not_supported",
            )
        large = matrices.get(f"{pair.module}.weight")
        if large is None and any(name.startswith(f"{pair.module}.") for name in matrices):
            continue  # stored in fewer bits: its shape says nothing
        if large is None:
            raise other_base(adapter, base, f"the model has no {pair.module[:100]}")
        if large != (outputs, inputs):
            sizes = " × ".join(map(str, large))
            raise other_base(adapter, base, f"{pair.module} is {outputs} × {inputs}, in the model {sizes}")


def _not_for_vllm(settings: PeftConfig) -> Iterator[str]:
    """Yields what vLLM would pass over in silence, or refuse."""
    if not settings.target_modules:
        yield "an adapter_config.json without target_modules"
    if settings.bias != "none":
        yield f"bias {settings.bias[:50]}"
    for name, pattern in (("rank_pattern", settings.rank_pattern), ("alpha_pattern", settings.alpha_pattern)):
        if pattern:
            yield name


def refused(adapter: str, what: str, engine: str) -> NotOffered:
    """Returns the error for an adapter that an engine cannot apply."""
    return NotOffered(
        "The adapter {adapter} cannot be applied by {engine}: {what} is not supported.",
        hint="Train a plain LoRA of linear layers, or merge the adapter into its base and serve the whole model.",
        adapter=adapter,
        engine=engine,
        what=what,
        code="adapter_not_supported",
    )


def other_base(adapter: str, base: str, reason: str) -> InvalidInput:
    """Returns the error for an adapter of another base."""
    return InvalidInput(
        "The adapter {adapter} is not for {base}: {reason}.",
        hint="Serve it with the base that it was trained on.",
        adapter=adapter,
        base=base,
        reason=reason,
        code="other_base",
    )
