"""An engine whose process is a server on loopback: it says its port once, answers `/health`, and names what it can.

Most are programs of ours; another's server (`exec_child`) says its port before it has loaded, and is waited for.
"""

from __future__ import annotations

import dataclasses
import http.client
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from fust.serve.engines.base import Engine, EngineInfo, EngineLoadFailed, EngineSpec
from fust.serve.engines.child import Child
from fust.serve.engines.child_main import ChildConfig, ChildReady
from fust.serve.engines.exec_child import EXEC, ExecConfig

_LOOK_S = 0.03


class ChildEngine:
    """One process of `python -m MODULE`; kinds that start or read theirs otherwise derive from it."""

    def __init__(self, spec: EngineSpec, home: Path, module: str, claims: frozenset[str]) -> None:
        self.spec = spec
        self.info: EngineInfo | None = None
        self._module, self._claims, self._home = module, claims, home
        self._child = Child(spec.engine_id, spec.log_name, home)
        self._log_start = 0

    # Starting

    def start(self, timeout_s: float, on_exit: Callable[[Engine, str], None]) -> EngineInfo:
        """See `Engine.start`."""
        began = time.monotonic()
        api_key = secrets.token_urlsafe(24)
        module, order = self._order(api_key)
        self._log_start = len(self._child.log_tail(1 << 30))
        line = self._child.start(module, order, timeout_s)
        try:
            ready = msgspec.json.decode(line, type=ChildReady) if line else ChildReady()
        except msgspec.MsgspecError:
            ready = ChildReady(error="its first line is none of Fust's engines")
        if not ready.port:
            self._child.stop()
            raise EngineLoadFailed(self._reason(ready.error, 0 if line else timeout_s))
        self.info = EngineInfo(
            base_url=f"http://127.0.0.1:{ready.port}",
            api_key=api_key,
            pid=self._child.pid,
            context=ready.context or self.spec.context,
            capabilities=self._claims if ready.capabilities is None else frozenset(ready.capabilities),
            adapters=tuple(range(len(self.spec.adapters))),
        )
        if module == EXEC:
            self._wait_until_loaded(timeout_s, began)
        self._try_out()
        self._child.watch(lambda status: on_exit(self, self._death(status)))
        self.info = dataclasses.replace(self.info, capabilities=self.info.capabilities | self._found())
        return self.info

    def _order(self, api_key: str) -> tuple[str, bytes]:
        """Returns the module of the process, and what it is told."""
        return self._module, msgspec.json.encode(self._config(api_key))

    def _config(self, api_key: str) -> ChildConfig:
        spec = self.spec
        return ChildConfig(
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
            options=msgspec.Raw(spec.options),
            secret=spec.secret,
            adapters=[str(path) for _, path in spec.adapters],
            projector=str(spec.projector or ""),
        )

    def _order_to_execute(self, argv: list[str], environ: dict[str, str], **more: bool) -> tuple[str, bytes]:
        """Returns the same for a program that is not ours."""
        config = ExecConfig(argv, environ, str(self._child.lock_path), os.getpid(), **more)
        return EXEC, msgspec.json.encode(config)

    def _wait_until_loaded(self, timeout_s: float, began: float) -> None:
        """Waits for a program that is not ours, which says its port before it has loaded."""
        while not self.is_healthy(1.0):
            status = self._child.ended()
            if status is not None or time.monotonic() - began > timeout_s:
                self._child.stop()
                said = self._death(status) if status is not None else ""
                raise EngineLoadFailed(self._reason(said, 0 if said else timeout_s))
            time.sleep(_LOOK_S)

    def _try_out(self) -> None:
        """Looks whether what was loaded is worth serving.

        Raises:
            EngineLoadFailed: it is not; nothing is left running.
        """

    def _found(self) -> frozenset[str]:
        """Returns what the loaded model can do beyond what every model of its mode can."""
        return frozenset()

    # What went wrong

    def _log(self) -> str:
        """Returns what this process wrote so far."""
        text = self._child.log_tail(1 << 30)
        return text[self._log_start :] if len(text) >= self._log_start else text

    def _reason(self, said: str, waited_s: float) -> str:
        """Returns why it did not load.

        Args:
            said: its own word, where it had one.
            waited_s: how long it had for it, where that is over.
        """
        lines = [line.strip() for line in self._log()[-4096:].splitlines() if line.strip()]
        last = lines[-1][-300:] if lines else ""
        if waited_s:
            waited = f"the engine ended or did not answer within {waited_s:.0f} s"
            return f"{waited} ({last})" if last else waited
        return said or last or "no answer"

    def _death(self, status: int) -> str:
        """Returns how it ended, from its exit status."""
        return f"the engine ended with {f'signal {-status}' if status < 0 else f'status {status}'}"

    # While it lives

    def _get(self, path: str, timeout_s: float) -> tuple[int, bytes]:
        return self._ask("GET", path, timeout_s)

    def _ask(self, method: str, path: str, timeout_s: float, body: bytes | None = None) -> tuple[int, bytes]:
        """Returns the status and the whole answer of a request to the process."""
        assert self.info is not None
        port = int(self.info.base_url.rsplit(":", 1)[1])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
        try:
            headers = {"Authorization": f"Bearer {self.info.api_key}", "Content-Type": "application/json"}
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

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

    def is_stopped(self) -> bool:
        """See `Engine.is_stopped`."""
        return self._child.is_stopped()

    def cpu_s(self) -> float:
        """See `Engine.cpu_s`."""
        return self._child.cpu_s()

    def memory_bytes(self) -> int:
        """See `Engine.memory_bytes`."""
        return self._child.memory_bytes()
