"""A `llama-server` made of the wheel: takes the options of the real one at b11549, and no others, and serves for real.

Written beside a test as an executable file: `python tests/support/llama_server.py --help` lists its options.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

import xllamacpp

VALUED = [
    "--model",
    "--alias",
    "--host",
    "--port",
    "--parallel",
    "--ctx-size",
    "--threads",
    "--threads-batch",
    "--fit",
    "--cache-ram",
    "--log-verbosity",
    "--sse-ping-interval",
    "--threads-http",
    "--pooling",
    "--batch-size",
    "--ubatch-size",
    "--mmproj",
]
FLAGS = [
    "--no-context-shift",
    "--no-cache-idle-slots",
    "--no-webui",
    "--metrics",
    "--slots",
    "--jinja",
    "--offline",
    "--embedding",
]


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for option in VALUED:
        parser.add_argument(option)
    for option in FLAGS:
        parser.add_argument(option, action="store_true")
    parser.add_argument("--lora-scaled", action="append", default=[])
    given = parser.parse_args()
    params = xllamacpp.CommonParams()
    params.model.path, params.model_alias = given.model, {given.alias}
    params.hostnames, params.port = [given.host], int(given.port)
    params.api_keys = [os.environ["LLAMA_API_KEY"]]
    params.n_parallel, params.n_ctx = int(given.parallel), int(given.ctx_size)
    params.cpuparams.n_threads, params.cpuparams_batch.n_threads = (
        int(given.threads),
        int(given.threads_batch),
    )
    params.fit_params, params.ctx_shift, params.ui = given.fit != "off", not given.no_context_shift, False
    params.cache_ram_mib, params.verbosity = int(given.cache_ram), int(given.log_verbosity)
    params.endpoint_metrics, params.endpoint_slots = given.metrics, given.slots
    params.embedding = given.embedding
    if given.mmproj:
        params.mmproj.path = given.mmproj
    if given.embedding:
        params.n_batch = params.n_ubatch = int(given.ubatch_size)
        params.pooling_type = getattr(
            xllamacpp.llama_pooling_type, f"LLAMA_POOLING_TYPE_{given.pooling.upper()}"
        )
    adapters = []
    for scaled in given.lora_scaled:
        info = xllamacpp.CommonAdapterLoraInfo()
        info.path, scale = scaled.rsplit(":", 1)
        info.scale = float(scale)
        adapters.append(info)
    params.lora_adapters = adapters
    print("a line on standard output, as the real one prints")
    server = xllamacpp.Server(params)
    while True:
        time.sleep(3600)
    del server


if __name__ == "__main__":
    sys.exit(main())
