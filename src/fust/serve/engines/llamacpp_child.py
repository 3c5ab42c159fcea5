"""The llama.cpp engine's process: `python -m fust.serve.engines.llamacpp_child` serves llama.cpp's own HTTP API."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from fust.serve.engines.child_main import ChildConfig, give_memory_back, run_child

_running: list[Any] = []  # the server lives as long as it is named


def _start(config: ChildConfig) -> int:
    give_memory_back()
    # Imported here, since a wheel that does not fit this machine must become a message; it has no type stubs.
    xllamacpp: Any = importlib.import_module("xllamacpp")
    params: Any = xllamacpp.CommonParams()
    params.model.path = config.path
    params.model_alias = {config.alias}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [config.api_key]
    params.n_parallel = config.slots
    params.n_ctx = config.context * config.slots  # llama.cpp divides it among the slots
    params.fit_params = False  # else it quietly shrinks the context
    params.ctx_shift = False
    params.cache_ram_mib = 0  # its default keeps up to 8 GiB of prompts that no estimate knows of
    params.cache_idle_slots = False
    params.ui = False
    params.endpoint_metrics = True
    params.endpoint_slots = True
    params.verbosity = 1  # errors; warnings too would put lines on the disk for every request
    params.sse_ping_interval = 15
    params.n_threads_http = max(8, config.slots * 4)
    params.cpuparams.n_threads = config.threads
    params.cpuparams_batch.n_threads = config.threads
    if config.embed:
        params.embedding = True
        params.n_batch = params.n_ubatch = config.context  # an input must fit one batch
        params.pooling_type = getattr(
            xllamacpp.llama_pooling_type, f"LLAMA_POOLING_TYPE_{config.pooling.upper()}"
        )
    if config.projector:
        params.mmproj.path = config.projector
        # What is no image it would hand to ffprobe as a video.
        os.environ["PATH"] = ""
    params.lora_adapters = [_adapter(xllamacpp, path) for path in config.adapters]
    server: Any = xllamacpp.Server(params)
    _running.append(server)
    return int(str(server.listening_address).rsplit(":", 1)[1])


def _adapter(xllamacpp: Any, path: str) -> Any:
    """Returns an adapter that is read and not used: each request says which it wants."""
    info: Any = xllamacpp.CommonAdapterLoraInfo()
    info.path, info.scale = path, 0.0
    return info


if __name__ == "__main__":
    sys.exit(run_child(_start))
