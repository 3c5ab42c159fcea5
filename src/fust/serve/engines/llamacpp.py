"""llama.cpp (the xllamacpp wheel) as an engine: its own HTTP server in a child process, or our scorer over its C API."""

from __future__ import annotations

import http.client
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from fust.core.machine import machine_memory
from fust.serve.engines.base import EngineLoadFailed, EngineSpec, Mode
from fust.serve.engines.child_engine import ChildEngine
from fust.serve.engines.child_main import GIVEN_BACK_BYTES, ChildConfig, bound_growth
from fust.serve.engines.llama_server import command_of
from fust.serve.engines.native import find_library, find_server
from fust.serve.engines.reasons import NO_NUMBERS

_SERVER, _SCORER = "fust.serve.engines.llamacpp_child", "fust.serve.engines.scorer_child"
_STAMP = re.compile(r"^\d+\.\d\d\.\d{3}\.\d{3}\s+([A-Z])\s+(?:[^:]*:\s)?\s*(?:\S+:\s)?(.*)$")
CLAIMS: Mapping[Mode, frozenset[str]] = {
    "generate": frozenset({"chat", "completions", "logprobs", "json_schema", "tools"}),
    "embed": frozenset({"embeddings"}),
    "score": frozenset({"scoring"}),
}


_FIRST_WORD_S = 60.0
_FIRST_WORDS = {
    "generate": ("/completion", b'{"prompt":"a","n_predict":1,"n_probs":1,"temperature":0,"cache_prompt":false}', b'"logprob":null'),
    "embed": ("/v1/embeddings", b'{"input":"a"}', b"[null"),
    "rank": ("/v1/rerank", b'{"query":"a","documents":["a"]}', b'_score":null'),
}  # fmt: skip
"""What a model is asked as soon as it has loaded: path, body, and what its answer has where it is no number."""


ADDS = frozenset({"rerank", "template_tools", "vision"})


class _TemplateCaps(msgspec.Struct):
    supports_tools: bool = False


class _Modalities(msgspec.Struct):
    vision: bool = False


class _Props(msgspec.Struct):
    """The part of `GET /props` that counts here."""

    chat_template_caps: _TemplateCaps = msgspec.field(default_factory=_TemplateCaps)
    modalities: _Modalities = msgspec.field(default_factory=_Modalities)


class LlamaCppEngine(ChildEngine):
    """One llama.cpp server process: the wheel's own, or a `llama-server`."""

    def __init__(self, spec: EngineSpec, home: Path) -> None:
        super().__init__(spec, home, _SCORER if spec.mode == "score" else _SERVER, CLAIMS[spec.mode])

    def _order(self, api_key: str) -> tuple[str, bytes]:
        server = "" if self.spec.mode == "score" else find_server(self.spec.settings.llama_server, self._home)
        if not server:
            return super()._order(api_key)
        environ = {"LLAMA_API_KEY": api_key, "MALLOC_MMAP_THRESHOLD_": str(GIVEN_BACK_BYTES)}
        return self._order_to_execute(command_of(server, self.spec), environ)

    def _config(self, api_key: str) -> ChildConfig:
        config = super()._config(api_key)
        if self.spec.mode == "score":
            config.library = find_library(self.spec.settings.llama_server, self._home)
        return config

    def _wait_until_loaded(self, timeout_s: float, began: float) -> None:
        super()._wait_until_loaded(timeout_s, began)
        most = min(machine_memory().available_bytes // 2, self.spec.most_bytes or sys.maxsize)
        bound_growth(most, self._child.pid)

    def _try_out(self) -> None:
        """Refuses a model whose first word is NaN: llama.cpp would write rubbish without end, and no client could tell."""
        if self.spec.mode == "score":
            return  # it looks at every number itself
        path, body, none = _FIRST_WORDS["rank" if self.spec.pooling == "rank" else self.spec.mode]
        try:
            _, raw = self._ask("POST", path, _FIRST_WORD_S, body)
        except (OSError, http.client.HTTPException):
            status = self._ended_soon()
            if status is None:
                return  # slow, or odd: its requests will tell
            self._child.stop()
            raise EngineLoadFailed(self._reason(self._death(status), 0)) from None
        if none in raw:
            self._child.stop()
            raise EngineLoadFailed(NO_NUMBERS)

    def _ended_soon(self) -> int | None:
        """Returns the status of a process that does not answer, when it ends within a second."""
        for _ in range(20):
            if (status := self._child.ended()) is not None:
                return status
            time.sleep(0.05)
        return None

    def _found(self) -> frozenset[str]:
        try:
            status, raw = self._get("/props", 10.0)
            props = msgspec.json.decode(raw, type=_Props) if status == 200 else _Props()
        except (OSError, http.client.HTTPException, msgspec.DecodeError):
            return frozenset()
        found = {"template_tools"} if props.chat_template_caps.supports_tools else set[str]()
        if props.modalities.vision:
            found.add("vision")
        if self.spec.pooling == "rank":
            found.add("rerank")
        return frozenset(found)

    def _reason(self, said: str, waited_s: float) -> str:
        reason = load_failure(self._log())
        if reason:
            return reason.replace(str(self.spec.path), self.spec.path.name)
        return super()._reason(said, waited_s)

    def _death(self, status: int) -> str:
        lines = [
            line
            for line in self._child.log_tail(4096).splitlines()
            if any(word in line for word in ("GGML_ASSERT", "GGML_ABORT", "what():", " E "))
        ]
        return super()._death(status) + (f" ({lines[-1][-300:].strip()})" if lines and status else "")


def load_failure(text: str) -> str:
    """Returns why llama.cpp could not load a model, from its log; empty when it does not say."""
    errors: list[str] = []
    for line in text.splitlines():
        match = _STAMP.match(line)
        if match and match[1] == "E":
            errors.append(line.split(" E ", 1)[1].strip())
        elif (
            "GGML_ASSERT" in line
            or "terminate called" in line
            or "ImportError" in line
            or "MemoryError" in line
        ):
            errors.append(line.strip())
    specific = [
        line.split("error loading model: ", 1)[1] for line in errors if "error loading model: " in line
    ]
    if specific and "failed to load model from" not in specific[0]:
        return specific[0]
    if not errors:
        return ""
    return re.sub(r"^(?:(?:srv|slot|cmn|que)\s+)?\S+:\s+", "", errors[0])
