"""What every benchmark shares: options, a server of its own, and the line it prints."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


@dataclass(frozen=True)
class Result:
    """One promise of speed: Fust's figure over the peer's, and whether that meets the target."""

    name: str
    peer: str
    ratio: float
    target: str
    ok: bool
    detail: dict[str, object]


def options(about: str, **flags: str) -> argparse.Namespace:
    """Returns `--quick` and `--json`, and further flags with what they are for."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--quick", action="store_true", help="a short run, for a look")
    parser.add_argument("--json", action="store_true", help="print JSON lines only")
    for name, what in flags.items():
        parser.add_argument(f"--{name}", action="store_true", help=what)
    return parser.parse_args()


def path_given(option: str) -> str:
    """Takes an option's path from the arguments; empty when it is not there."""
    if option not in sys.argv:
        return ""
    at = sys.argv.index(option)
    path = sys.argv[at + 1]
    del sys.argv[at : at + 2]
    return path


def show(results: list[Result], *, as_json: bool) -> int:
    """Prints the results; returns 0 when all targets were met, else 1."""
    for result in results:
        if as_json:
            print(json.dumps(asdict(result)), flush=True)
        else:
            mark = "ok  " if result.ok else "MISS"
            detail = ", ".join(f"{key} {value}" for key, value in result.detail.items())
            print(
                f"{mark} {result.name}: {result.ratio:.2f} of {result.peer} (target {result.target}); {detail}",
                flush=True,
            )
    return 0 if all(result.ok for result in results) else 1


def free_port() -> int:
    """Returns a TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Server:
    """A Fust server of the benchmark's own."""

    url: str
    token: str
    home: Path
    pid: int
    ready_s: float


@contextlib.contextmanager
def fust_server(**settings: object) -> Iterator[Server]:
    """Starts `fust up` on an empty home and ends it; ``settings`` as in ``serve__slots=2``."""
    with tempfile.TemporaryDirectory(prefix="fust-bench-") as folder:
        home = Path(folder) / "home"
        environ = {key: value for key, value in os.environ.items() if not key.startswith("FUST_")}
        environ |= {"FUST_HOME": str(home), "FUST_SERVE__STARTER": "false"}
        environ |= {f"FUST_{key.upper()}": str(value) for key, value in settings.items()}
        port = free_port()
        started = time.perf_counter()
        command = [sys.executable, "-m", "fust.cli.main", "--json", "up", "--port", str(port)]
        process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL)
        try:
            while not (home / "server.json").exists():
                if process.poll() is not None:
                    raise SystemExit(f"fust up ended with {process.returncode}")
                time.sleep(0.01)
            ready_s = time.perf_counter() - started
            token = (home / "token").read_text().strip()
            yield Server(f"http://127.0.0.1:{port}", token, home, process.pid, ready_s)
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def tokens_per_s(clients: int, ask: Callable[[int], int]) -> float:
    """Returns the tokens a second of all clients together; each is asked with its number, and returns how many came."""
    counts = [0] * clients

    def run(client: int) -> None:
        counts[client] = ask(client)

    threads = [threading.Thread(target=run, args=(client,)) for client in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - began)
