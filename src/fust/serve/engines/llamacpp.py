"""llama.cpp (the xllamacpp wheel) as an engine: its own HTTP server in a child process, or our scorer over its C API."""

from __future__ import annotations

import dataclasses
import http.client
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from fust.core.machine import machine_memory
from fust.serve.engines.base import Engine, EngineInfo, EngineLoadFailed, EngineSpec, Mode
from fust.serve.engines.child import Child
from fust.serve.engines.child_main import ChildConfig, ChildReady, bound_growth
from fust.serve.engines.exec_child import EXEC, ExecConfig
from fust.serve.engines.llama_server import command_of
from fust.serve.engines.native import find_server

_SERVER, _SCORER = "fust.serve.engines.llamacpp_child", "fust.serve.engines.scorer_child"
_LOOK_S = 0.03
_STAMP = re.compile(r"^\d+\.\d\d\.\d{3}\.\d{3}\s+([A-Z])\s+(?:[^:]*:\s)?\s*(?:\S+:\s)?(.*)$")
CLAIMS: Mapping[Mode, frozenset[str]] = {
    "generate": frozenset({"chat", "completions", "logprobs", "json_schema", "tools"}),
    "embed": frozenset({"embeddings"}),
    "score": frozenset({"scoring"}),
}


ADDS = frozenset({"rerank", "template_tools", "vision"})


class _TemplateCaps(msgspec.Struct):
    supports_tools: bool = False


class _Modalities(msgspec.Struct):
    vision: bool = False


class _Props(msgspec.Struct):
    """The part of `GET /props` that counts here."""

    chat_template_caps: _TemplateCaps = msgspec.field(default_factory=_TemplateCaps)
    modalities: _Modalities = msgspec.field(default_factory=_Modalities)


class LlamaCppEngine:
    """One llama.cpp server process."""

    def __init__(self, spec: EngineSpec, home: Path) -> None:
        self.spec = spec
        self.info: EngineInfo | None = None
        self._child = Child(spec.engine_id, spec.log_name, home)
        self._home = home

    def start(self, timeout_s: float, on_exit: Callable[[Engine, str], None]) -> EngineInfo:
        """See `Engine.start`."""
        spec = self.spec
        api_key = secrets.token_urlsafe(24)
        server = "" if spec.mode == "score" else find_server(spec.server, self._home)
        module, order = self._order_of(server, api_key) if server else self._order(api_key)
        before = len(self._child.log_tail(1 << 30))
        line = self._child.start(module, order, timeout_s)
        ready = msgspec.json.decode(line, type=ChildReady) if line else ChildReady(error="no answer")
        if not ready.port:
            self._child.stop()
            raise EngineLoadFailed(self._reason(ready.error, before, timeout_s if not line else 0))
        self.info = EngineInfo(
            base_url=f"http://127.0.0.1:{ready.port}",
            api_key=api_key,
            pid=self._child.pid,
            context=spec.context,
            adapters=tuple(range(len(spec.adapters))),
            capabilities=CLAIMS[spec.mode],
        )
        if server:
            self._wait_until_loaded(timeout_s, before)
        self._child.watch(lambda status: on_exit(self, self._death(status)))
        self.info = dataclasses.replace(self.info, capabilities=self.info.capabilities | self._found())
        return self.info

    def _order(self, api_key: str) -> tuple[str, bytes]:
        """Returns the module of the wheel's process, and what it is told."""
        spec = self.spec
        config = ChildConfig(
            path=str(spec.path),
            alias=spec.alias,
            lock=str(self._child.lock_path),
            api_key=api_key,
            context=spec.context,
            slots=spec.slots,
            threads=spec.threads,
            embed=spec.mode == "embed",
            pooling=spec.pooling or "none",
            most_bytes=spec.most_bytes,
            parent_pid=os.getpid(),
            adapters=[str(path) for _, path in spec.adapters],
        )
        return (_SCORER if spec.mode == "score" else _SERVER), msgspec.json.encode(config)

    def _order_of(self, server: str, api_key: str) -> tuple[str, bytes]:
        """Returns the same for a `llama-server`."""
        environ, lock = {"LLAMA_API_KEY": api_key}, str(self._child.lock_path)
        config = ExecConfig(command_of(server, self.spec), environ, lock, os.getpid())
        return EXEC, msgspec.json.encode(config)

    def _wait_until_loaded(self, timeout_s: float, log_start: int) -> None:
        """Waits for a `llama-server`, which says its port before it has loaded."""
        began = time.monotonic()
        while not self.is_healthy(1.0):
            status, waited_s = self._child.ended(), time.monotonic() - began
            if status is not None or waited_s > timeout_s:
                self._child.stop()
                said = self._death(status) if status is not None else ""
                raise EngineLoadFailed(self._reason(said, log_start, 0 if said else timeout_s))
            time.sleep(_LOOK_S)
        most = min(machine_memory().available_bytes // 2, self.spec.most_bytes or sys.maxsize)
        bound_growth(most, self._child.pid)

    def _found(self) -> frozenset[str]:
        """Returns what the loaded model can do beyond what every model of its mode can."""
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

    def _get(self, path: str, timeout_s: float) -> tuple[int, bytes]:
        assert self.info is not None
        port = int(self.info.base_url.rsplit(":", 1)[1])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {self.info.api_key}"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def _reason(self, said: str, log_start: int, waited_s: float) -> str:
        text = self._child.log_tail(1 << 30)
        reason = load_failure(text[log_start:] if len(text) >= log_start else text)
        if reason:
            return reason.replace(str(self.spec.path), self.spec.path.name)
        if waited_s:
            return f"the engine ended or did not answer within {waited_s:.0f} s"
        return said

    def _death(self, status: int) -> str:
        ending = f"signal {-status}" if status < 0 else f"status {status}"
        lines = [
            line for line in self._child.log_tail(4096).splitlines() if "GGML_ASSERT" in line or " E " in line
        ]
        return f"the engine ended with {ending}" + (
            f" ({lines[-1][-300:].strip()})" if lines and status else ""
        )

    def stop(self) -> None:
        """See `Engine.stop`."""
        self._child.stop()

    def is_healthy(self, timeout_s: float = 2.0) -> bool:
        """See `Engine.is_healthy`."""
        if self.info is None:
            return False
        try:
            return self._get("/health", timeout_s)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def cpu_s(self) -> float:
        """See `Engine.cpu_s`."""
        return self._child.cpu_s()

    def memory_bytes(self) -> int:
        """See `Engine.memory_bytes`."""
        return self._child.memory_bytes()


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
