"""vLLM as an engine: `vllm serve` on a GPU in a child process, and before it a process of ours that speaks its words.

Its flags, routes and fields are listed with where they were read in `tests/api/test_engine_vllm.py`. Only `/v1` asks for
its key, so it listens on loopback, and whatever reaches it comes through `vllm_child`.
"""

from __future__ import annotations

import http.client
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import msgspec

from fust.core.errors import NotOffered, UpstreamFailed
from fust.core.settings import ServeSettings
from fust.core.units import show_size
from fust.serve.engines.base import Engine, EngineInfo, EngineLoadFailed, EngineSpec, Mode
from fust.serve.engines.child import Child
from fust.serve.engines.child_engine import ChildEngine
from fust.serve.engines.exec_child import PORT
from fust.serve.engines.gpu import Gpu, find_gpus
from fust.serve.engines.safetensors import SafetensorsFacts, read_json, read_safetensors_facts, task_of
from fust.serve.engines.upstream import UpstreamOptions
from fust.serve.facts import ModelFacts
from fust.serve.notes import note
from fust.serve.plan import Plan

log = logging.getLogger(__name__)

CLAIMS: Mapping[Mode, frozenset[str]] = {
    "generate": frozenset({"chat", "completions", "logprobs", "json_schema", "tools"}),
    "embed": frozenset({"embeddings"}),
    "score": frozenset({"scoring"}),
}
ADDS = frozenset({"rerank", "classify"})
PROCESSES: Mapping[Mode, Mode] = {"generate": "generate", "embed": "generate", "score": "generate"}
PROGRAM = "vllm"
_AT_ONCE = 64
"""Requests at a time, where the setting `serve.slots` says fewer: what a processor can do says nothing of a GPU."""
_ROOM = 0.8
"""Of the memory that vLLM takes, what weights may be; the rest is for the KV cache and for work."""
_HOST_BYTES = 4_000_000_000
"""Of the machine's own memory: torch, CUDA and the server. Not measured here: no GPU was at hand."""
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What `--max-lora-rank` may be."""
_NO_LORA = "does not support LoRA"
"""What vLLM says of an architecture that it has no adapters for, as it ends."""
_LOAD_S = 120.0
"""How long it may take to read an adapter."""
_REASONING = {"qwen3": "qwen3", "qwen3_moe": "qwen3", "gpt_oss": "openai_gptoss", "seed_oss": "seed_oss"}
"""Architectures whose thoughts vLLM's parser of this name takes out of the answer."""
_MOST_STOP_WORDS = 64
"""As the API takes; vLLM by itself refuses a request of more than four."""
_QUIET = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_DO_NOT_TRACK": "1", "DO_NOT_TRACK": "1"}


@dataclass(frozen=True, slots=True)
class VllmFacts(SafetensorsFacts):
    """Shape of a model whose weights go to a GPU, in the precision that they are stored in."""

    def memory_bytes(self, mode: Mode, context: int, slots: int) -> int:
        """Returns what it takes of the machine's own memory."""
        return _HOST_BYTES


def find_program(settings: ServeSettings) -> str | None:
    """Returns the path of `vllm`: what the setting names, else the one on PATH."""
    wanted = str(Path(settings.vllm).expanduser()) if settings.vllm else PROGRAM
    return shutil.which(wanted)


def is_here(settings: ServeSettings) -> bool:
    """Returns whether there are a GPU and vLLM."""
    return bool(find_program(settings)) and bool(find_gpus())


def check(settings: ServeSettings) -> None:
    """Raises NotOffered when there is no GPU, or no vLLM."""
    if not find_gpus():
        raise NotOffered(
            "vLLM needs a GPU, and nvidia-smi shows none here.",
            hint="Without one, llamacpp and transformers serve on the processor: leave --engine away.",
            code="no_gpu",
        )
    if not find_program(settings):
        raise NotOffered(
            "There is no program {path}, and serving on a GPU needs it.",
            hint="Install it (pip install vllm, in an environment of its own) and name its program by the setting serve.vllm.",
            path=settings.vllm or PROGRAM,
            code="no_vllm",
        )


def read_vllm_facts(path: Path, size_bytes: int) -> VllmFacts:
    """Returns what a model's config and headers say; see `read_safetensors_facts`."""
    found = read_safetensors_facts(path, size_bytes)
    return VllmFacts(**{field.name: getattr(found, field.name) for field in fields(found)})


def gpus_for(weights_bytes: int, share: float, gpus: tuple[Gpu, ...]) -> int:
    """Returns over how many GPUs a model is split: the fewest, as a power of two, that hold its weights.

    Raises:
        NotOffered: all of them are too small.
    """
    count = 1
    room = int(min(gpu.memory_bytes for gpu in gpus) * share * _ROOM)
    while weights_bytes > count * room:
        count *= 2
        if count > len(gpus):
            raise NotOffered(
                "Its weights ({size}) do not fit: the GPUs here ({gpus}) hold {room} of them.",
                hint="Serve a smaller model, or one that is stored in fewer bits.",
                size=show_size(weights_bytes),
                gpus=", ".join(gpu.name for gpu in gpus),
                room=show_size(room * (count // 2)),
                code="does_not_fit",
            )
    return count


def plan(
    facts: ModelFacts, mode: Mode, settings: ServeSettings, room_bytes: int, adapters_bytes: int = 0
) -> Plan:
    """Returns how it is started; see `plan_engine`.

    Raises:
        NotOffered: no GPU is here any more, or none that the model fits into.
    """
    check(settings)
    gpus = find_gpus()
    count = gpus_for(facts.weights_bytes, settings.gpu_share, gpus)
    context = min(settings.context, facts.context_train or settings.context)
    slots = max(settings.slots, _AT_ONCE)
    why = (
        note(
            "It runs on {gpu} and takes {share} of its memory.",
            gpu=", ".join(gpu.name for gpu in gpus[:count]),
            share=f"{settings.gpu_share:.0%}",
        ),
        note("{slots} requests of up to {context} tokens at a time.", slots=slots, context=context),
    )
    return Plan(mode, context, slots, 1, "", facts.memory_bytes(mode, context, slots), why)


def command_of(spec: EngineSpec, gpus: int, *, adapters: bool = True) -> list[str]:
    """Returns the command that serves a model, ready for adapters; the key goes by `VLLM_API_KEY`."""
    folder = spec.path.parent
    config = read_json(folder / "config.json")
    argv = [
        find_program(spec.settings) or PROGRAM,
        "serve",
        str(folder),
        *("--served-model-name", spec.alias),
        *("--host", "127.0.0.1"),
        *("--port", PORT),
        *("--max-model-len", str(spec.context)),
        *("--max-num-seqs", str(spec.slots)),
        *("--gpu-memory-utilization", f"{spec.settings.gpu_share:g}"),
        *("--generation-config", "vllm"),  # else a file of the model changes what a request leaves open
    ]
    if gpus > 1:
        argv += ["--tensor-parallel-size", str(gpus)]
    if task_of(config, folder) != "generate":
        return [*argv, "--runner", "pooling"]
    if adapters and spec.settings.gpu_adapters:
        rank = next((rank for rank in RANKS if rank >= spec.settings.gpu_adapter_rank), RANKS[-1])
        argv += [
            "--enable-lora",
            "--max-loras",
            str(spec.settings.gpu_adapters),
            "--max-lora-rank",
            str(rank),
        ]
    parser = _REASONING.get(str(config.get("model_type")))
    return [*argv, "--reasoning-parser", parser] if parser else argv


def offers_of(folder: Path) -> frozenset[str]:
    """Returns what a model can, by its files."""
    config = read_json(folder / "config.json")
    task = task_of(config, folder)
    if task == "embed":
        return CLAIMS["embed"]
    if task == "classify":
        labels = cast("dict[str, Any]", config.get("id2label") or {})
        return frozenset({"classify", "rerank"}) if len(labels) == 1 else frozenset({"classify"})
    facts = read_vllm_facts(folder / "model.safetensors", 0)
    offers = CLAIMS["generate"] | CLAIMS["score"]
    return offers if facts.has_chat_template else offers - {"chat"}


class _FaultSaid(msgspec.Struct):
    message: str


class _Fault(msgspec.Struct):
    error: _FaultSaid


class VllmEngine(ChildEngine):
    """vLLM's server, and before it the process that turns the gateway's words into its own."""

    def __init__(self, spec: EngineSpec, home: Path) -> None:
        super().__init__(spec, home, "", frozenset())
        self._front: ChildEngine | None = None
        self._adapters = True

    def start(self, timeout_s: float, on_exit: Callable[[Engine, str], None]) -> EngineInfo:
        """See `Engine.start`."""
        began = time.monotonic()
        try:
            inner = super().start(timeout_s, lambda _, why: on_exit(self, why))
        except EngineLoadFailed:
            if _NO_LORA not in self._log():
                raise
            self._adapters, self._child = False, Child(self.spec.engine_id, self.spec.log_name, self._home)
            inner = super().start(timeout_s, lambda _, why: on_exit(self, why))
        offers = sorted(offers_of(self.spec.path.parent))
        told = UpstreamOptions(
            inner.base_url + "/v1", self.spec.alias, offers, self.spec.context, private=True
        )
        spec = replace(
            self.spec,
            engine_id=f"{self.spec.engine_id}-front",
            options=msgspec.json.encode(told),
            secret=inner.api_key,
        )
        self._front = ChildEngine(spec, self._home, "fust.serve.engines.vllm_child", frozenset(offers))
        left_s = max(5.0, timeout_s - (time.monotonic() - began))
        try:
            info = self._front.start(left_s, lambda _, why: on_exit(self, why))
        except BaseException:
            self.stop()
            raise
        return replace(info, pid=inner.pid)

    def _order(self, api_key: str) -> tuple[str, bytes]:
        settings, folder = self.spec.settings, self.spec.path.parent
        check(settings)
        weights_bytes = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        gpus = gpus_for(weights_bytes, settings.gpu_share, find_gpus())
        argv = command_of(self.spec, gpus, adapters=self._adapters)
        environ = {"VLLM_API_KEY": api_key, "VLLM_MAX_STOP_STRINGS": str(_MOST_STOP_WORDS), **_QUIET}
        if "--enable-lora" in argv:
            environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
        return self._order_to_execute(argv, environ, is_bounded=False)

    # Adapters; see `LiveAdapters`

    def add_adapter(self, id_: str, path: Path) -> None:
        """See `LiveAdapters.add_adapter`."""
        if not self._adapters:
            raise NotOffered(
                "vLLM takes no adapters for models of this architecture.",
                hint="Merge the adapter into its base (`fust merge`), or serve the base by another engine.",
            )
        status, said = self._post("/v1/load_lora_adapter", {"lora_name": id_, "lora_path": str(path)})
        if status != 200:
            raise UpstreamFailed("vLLM refused it: {reason}.", reason=said[:300].rstrip(".") or status)

    def remove_adapter(self, id_: str) -> None:
        """See `LiveAdapters.remove_adapter`."""
        try:
            status, said = self._post("/v1/unload_lora_adapter", {"lora_name": id_})
        except UpstreamFailed:
            return  # it ended, and its adapters with it
        if status != 200:
            log.warning("an adapter was not unloaded", extra={"status": status, "reason": said[:300]})

    def _post(self, path: str, body: dict[str, str]) -> tuple[int, str]:
        """Returns the status, and what was said of an error."""
        try:
            status, raw = self._ask("POST", path, _LOAD_S, msgspec.json.encode(body))
        except (OSError, http.client.HTTPException) as error:
            raise UpstreamFailed("{reason}", reason=str(error) or type(error).__name__) from error
        if status == 200:
            return status, ""
        try:
            return status, msgspec.json.decode(raw, type=_Fault).error.message
        except msgspec.MsgspecError:
            return status, raw.decode("utf-8", "replace")

    def stop(self) -> None:
        """See `Engine.stop`."""
        if self._front is not None:
            self._front.stop()
        super().stop()

    def is_healthy(self, timeout_s: float = 2.0) -> bool:
        """See `Engine.is_healthy`."""
        return super().is_healthy(timeout_s) and (self._front is None or self._front.is_healthy(timeout_s))

    def cpu_s(self) -> float:
        """See `Engine.cpu_s`."""
        return super().cpu_s() + (self._front.cpu_s() if self._front else 0.0)

    def memory_bytes(self) -> int:
        """See `Engine.memory_bytes`."""
        return super().memory_bytes() + (self._front.memory_bytes() if self._front else 0)
