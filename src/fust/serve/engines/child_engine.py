"""An engine whose process is a server of ours: it says its port once, answers `/health`, and names what it can."""

from __future__ import annotations

import http.client
import os
import secrets
from collections.abc import Callable
from pathlib import Path

import msgspec

from fust.serve.engines.base import Engine, EngineInfo, EngineLoadFailed, EngineSpec
from fust.serve.engines.child import Child
from fust.serve.engines.child_main import ChildConfig, ChildReady


class ChildEngine:
    """One process of `python -m MODULE`."""

    def __init__(self, spec: EngineSpec, home: Path, module: str, claims: frozenset[str]) -> None:
        self.spec = spec
        self.info: EngineInfo | None = None
        self._module, self._claims = module, claims
        self._child = Child(spec.engine_id, spec.log_name, home)

    def start(self, timeout_s: float, on_exit: Callable[[Engine, str], None]) -> EngineInfo:
        """See `Engine.start`."""
        spec = self.spec
        api_key = secrets.token_urlsafe(24)
        config = ChildConfig(
            path=str(spec.path),
            alias=spec.alias,
            lock=str(self._child.lock_path),
            api_key=api_key,
            context=spec.context,
            slots=spec.slots,
            threads=spec.threads,
            embed=False,
            pooling="none",
            most_bytes=spec.most_bytes,
            parent_pid=os.getpid(),
            options=msgspec.Raw(spec.options),
            secret=spec.secret,
        )
        line = self._child.start(self._module, msgspec.json.encode(config), timeout_s)
        ready = msgspec.json.decode(line, type=ChildReady) if line else ChildReady(error=self._last_word())
        if not ready.port:
            self._child.stop()
            raise EngineLoadFailed(ready.error)
        self._child.watch(lambda status: on_exit(self, _ending(status)))
        claims = frozenset(ready.capabilities) if ready.capabilities is not None else self._claims
        self.info = EngineInfo(
            f"http://127.0.0.1:{ready.port}", api_key, self._child.pid, ready.context or spec.context, claims
        )
        return self.info

    def _last_word(self) -> str:
        lines = [line.strip() for line in self._child.log_tail(4096).splitlines() if line.strip()]
        return lines[-1][-300:] if lines else "no answer"

    def stop(self) -> None:
        """See `Engine.stop`."""
        self._child.stop()

    def is_healthy(self, timeout_s: float = 2.0) -> bool:
        """See `Engine.is_healthy`."""
        if self.info is None:
            return False
        port = int(self.info.base_url.rsplit(":", 1)[1])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def cpu_s(self) -> float:
        """See `Engine.cpu_s`."""
        return self._child.cpu_s()

    def memory_bytes(self) -> int:
        """See `Engine.memory_bytes`."""
        return self._child.memory_bytes()


def _ending(status: int) -> str:
    return f"the engine ended with {f'signal {-status}' if status < 0 else f'status {status}'}"
