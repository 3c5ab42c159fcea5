"""Half an hour of a small team: five people push, pull, chat, run jobs and look at the page, all at once.

Real clients: huggingface_hub for files, openai for chats (the starter model, streamed), a pull job between two Fusts,
and what the page asks for. Prints p50 and p95 of each action, errors, and how the memory (PSS) of the server and of
its engines went; the slope is the least-squares line over the second half of the run, in MiB an hour.

    python benchmarks/team.py --minutes 30
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import threading
import time
import traceback
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import psutil
from _common import Server, fust_server

MIB = 2**20
PEOPLE = ("ada", "ben", "chen", "dora", "eli")


class Record:
    """How long each action took, and what failed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.times: dict[str, list[float]] = defaultdict(list)
        self.errors: dict[str, list[str]] = defaultdict(list)

    def measure(self, name: str, action: Callable[[], object]) -> None:
        """Does something once; an error is counted, not raised."""
        started = time.perf_counter()
        try:
            action()
        except Exception as error:
            with self._lock:
                self.errors[name].append("".join(traceback.format_exception_only(error)).strip()[:300])
            time.sleep(1)
        else:
            self.add(name, time.perf_counter() - started)

    def add(self, name: str, seconds: float) -> None:
        """Notes a time."""
        with self._lock:
            self.times[name].append(seconds)


def ask(server: Server, method: str, path: str, body: object = None, token: str = "") -> bytes:
    """Sends one JSON request; raises on 4xx and 5xx."""
    request = urllib.request.Request(
        server.url + path,
        data=None if body is None else json.dumps(body).encode(),
        method=method,
        headers={"authorization": f"Bearer {token or server.token}", "content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return answer.read()


def people(server: Server) -> dict[str, str]:
    """Makes the team; returns a writing key for each."""
    keys: dict[str, str] = {}
    for name in PEOPLE:
        password = f"the password of {name}"
        ask(server, "POST", "/fust/v1/users", {"name": name, "password": password})
        sign_in = urllib.request.Request(
            server.url + "/fust/v1/session",
            data=json.dumps({"name": name, "password": password}).encode(),
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(sign_in, timeout=60) as answer:
            cookie = answer.headers["set-cookie"].split(";")[0]
        make = urllib.request.Request(
            server.url + "/fust/v1/tokens",
            data=json.dumps({"name": "team", "scope": "write"}).encode(),
            headers={"content-type": "application/json", "cookie": cookie, "origin": server.url},
        )
        with urllib.request.urlopen(make, timeout=60) as answer:
            keys[name] = json.loads(answer.read())["token"]
    return keys


class Person(threading.Thread):
    """One of the team: does its rounds until the end."""

    def __init__(
        self, name: str, server: Server, other: Server, key: str, record: Record, until: float, pace: float
    ) -> None:
        super().__init__(name=name)
        self._server, self._other, self._key = server, other, key
        self._record, self._until, self._pace = record, until, pace
        self._random = random.Random(name)
        self._round = 0

    def run(self) -> None:
        """Works: every round pushes, pulls, chats or asks for a job, and looks at the page between."""
        from huggingface_hub import HfApi
        from openai import OpenAI

        api = HfApi(endpoint=self._server.url, token=self._key)
        chat = OpenAI(base_url=self._server.url + "/v1", api_key=self._key, max_retries=0, timeout=120)
        with tempfile.TemporaryDirectory(prefix="fust-team-") as folder:
            while time.monotonic() < self._until:
                self._round += 1
                work: list[tuple[str, Callable[[], object]]] = [
                    ("push", lambda: self._push(api, Path(folder))),
                    ("pull", lambda: self._pull(api, Path(folder))),
                    ("chat", lambda: self._chat(chat)),
                    ("chat", lambda: self._chat(chat)),
                    ("job", self._job),
                ]
                self._random.shuffle(work)
                for name, action in work:
                    if time.monotonic() >= self._until:
                        return
                    self._record.measure(name, action)
                    self._record.measure("page", self._look)
                    time.sleep(self._random.uniform(0.5, 1.5) * self._pace)

    @property
    def _repo(self) -> str:
        return f"{self.name}/work-{self._round % 5}"

    def _push(self, api: object, folder: Path) -> None:
        """A folder of a large file, half of it as before, and some small ones."""
        from huggingface_hub import HfApi

        assert isinstance(api, HfApi)
        path = folder / "push"
        path.mkdir(exist_ok=True)
        same = random.Random(self.name).randbytes(8 * MIB)
        (path / "weights.bin").write_bytes(same + self._random.randbytes(4 * MIB))
        (path / "README.md").write_text(f"---\nlicense: mit\n---\n# Round {self._round} of {self.name}\n")
        for i in range(5):
            (path / f"part-{i}.json").write_text(json.dumps({"round": self._round, "i": i}))
        api.create_repo(self._repo, exist_ok=True)
        api.upload_folder(folder_path=str(path), repo_id=self._repo, commit_message=f"round {self._round}")

    def _pull(self, api: object, folder: Path) -> None:
        """What somebody pushed, whole, into an empty folder; its bytes are counted."""
        from huggingface_hub import HfApi

        assert isinstance(api, HfApi)
        found = [repo for repo in api.list_models(limit=50) if "/work-" in repo.id]
        if not found:
            return
        with tempfile.TemporaryDirectory(dir=folder) as target:
            api.snapshot_download(self._random.choice(found).id, local_dir=target, max_workers=2)
            assert (Path(target) / "weights.bin").stat().st_size == 12 * MIB

    def _chat(self, chat: object) -> None:
        """A streamed answer of the starter model."""
        from openai import OpenAI

        assert isinstance(chat, OpenAI)
        started = time.perf_counter()
        pieces = 0
        stream = chat.chat.completions.create(
            model="starter",
            messages=[{"role": "user", "content": f"Hello, I am {self.name}. Tell me a story."}],
            max_tokens=60,
            stream=True,
        )
        for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                if not pieces:
                    self._record.add("chat, first token", time.perf_counter() - started)
                pieces += 1
        assert pieces

    def _job(self) -> None:
        """A pull from the other Fust, followed to its end."""
        params = {
            "repo_id": "admin/shared",
            "type": "dataset",
            "source": self._other.url,
            "to": f"{self.name}/pulled-{self._round % 5}",
        }
        run = json.loads(
            ask(self._server, "POST", "/fust/v1/runs", {"kind": "pull", "params": params}, self._key)
        )
        while run["state"] in ("queued", "running"):
            time.sleep(0.3)
            run = json.loads(ask(self._server, "GET", f"/fust/v1/runs/{run['id']}", token=self._key))
        if run["state"] != "succeeded":
            raise RuntimeError(f"{run['state']}: {run['error']}")

    def _look(self) -> None:
        """What the page asks for when somebody looks."""
        for path in (
            "/fust/v1/status",
            "/fust/v1/repos?limit=20",
            "/fust/v1/runs?limit=20",
            "/fust/v1/deployments",
        ):
            ask(self._server, "GET", path, token=self._key)


def fill(other: Server) -> None:
    """Puts a dataset of 5 MB into the second Fust."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=other.url, token=other.token)
    api.create_repo("admin/shared", repo_type="dataset")
    rows = "\n".join(json.dumps({"id": i, "text": "a line of text " * 6}) for i in range(45_000))
    api.upload_file(
        path_or_fileobj=rows.encode(), path_in_repo="rows.jsonl", repo_id="admin/shared", repo_type="dataset"
    )


def memory(server: Server) -> tuple[float, float]:
    """Returns PSS in MiB of the server itself, and of its engines."""
    process = psutil.Process(server.pid)
    engines = 0.0
    for child in process.children(recursive=True):
        try:
            if any("engines" in part for part in child.cmdline()):
                engines += child.memory_full_info().pss
        except psutil.Error:
            continue
    return process.memory_full_info().pss / MIB, engines / MIB


def slope_per_hour(samples: list[tuple[float, float]]) -> float:
    """Returns the slope of (seconds, MiB) in MiB an hour, by least squares over the later half."""
    later = samples[len(samples) // 2 :]
    if len(later) < 3:
        return 0.0
    return statistics.linear_regression([x for x, _ in later], [y for _, y in later]).slope * 3600


def main() -> int:
    """Runs the team; returns 1 when anything failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="how long (30)")
    parser.add_argument(
        "--pace", type=float, default=1.0, help="mean seconds of rest between two actions (1)"
    )
    parser.add_argument("--quick", action="store_true", help="one minute")
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    options = parser.parse_args()
    minutes = 1.0 if options.quick else options.minutes
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ[name] = "1"
    with (
        tempfile.TemporaryDirectory(prefix="fust-team-cache-") as cache,
        fust_server() as other,
        fust_server(serve__starter="true", pull__allow_private_addresses="true") as server,
    ):
        os.environ["HF_HOME"] = cache  # before huggingface_hub is imported
        fill(other)
        keys = people(server)
        wait_for_starter(server)
        record = Record()
        began = time.monotonic()
        until = began + minutes * 60
        team = [Person(n, server, other, keys[n], record, until, options.pace) for n in PEOPLE]
        for person in team:
            person.start()
        own: list[tuple[float, float]] = []
        engines: list[tuple[float, float]] = []
        while any(person.is_alive() for person in team):
            at = time.monotonic() - began
            server_mib, engine_mib = memory(server)
            own.append((at, server_mib))
            engines.append((at, engine_mib))
            if not options.json and len(own) % 6 == 1:
                done = sum(len(times) for times in record.times.values())
                print(
                    f"{at / 60:5.1f} min  server {server_mib:6.1f} MiB  engines {engine_mib:6.1f} MiB  {done} done",
                    flush=True,
                )
            time.sleep(min(10.0, max(1.0, minutes * 60 / 60)))
        return show(record, own, engines, minutes, as_json=options.json)


def wait_for_starter(server: Server) -> None:
    """Returns when the starter model answers."""
    body = {"model": "starter", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
    for _ in range(120):
        try:
            ask(server, "POST", "/v1/chat/completions", body)
            return
        except urllib.error.HTTPError:
            time.sleep(0.5)
    raise SystemExit("the starter model did not answer within a minute")


def show(
    record: Record,
    own: list[tuple[float, float]],
    engines: list[tuple[float, float]],
    minutes: float,
    *,
    as_json: bool,
) -> int:
    """Prints the figures; returns 1 when anything failed."""
    actions: dict[str, dict[str, float]] = {}
    for name in sorted({*record.times, *record.errors}):
        times = sorted(record.times.get(name, []))
        actions[name] = {
            "count": len(times),
            "p50_s": round(times[len(times) // 2], 3) if times else 0.0,
            "p95_s": round(times[int(len(times) * 0.95)], 3) if times else 0.0,
            "errors": len(record.errors.get(name, [])),
        }
    memory_figures = {
        kind: {
            "first_mib": round(samples[0][1], 1),
            "last_mib": round(samples[-1][1], 1),
            "most_mib": round(max(y for _, y in samples), 1),
            "slope_mib_per_hour": round(slope_per_hour(samples), 1),
        }
        for kind, samples in (("server", own), ("engines", engines))
    }
    failed = sum(len(found) for found in record.errors.values())
    if as_json:
        print(
            json.dumps(
                {"minutes": minutes, "actions": actions, "memory": memory_figures, "errors": record.errors}
            )
        )
        return 1 if failed else 0
    print(f"\n{'action':<18} {'count':>6} {'p50 s':>8} {'p95 s':>8} {'errors':>7}")
    for name, row in actions.items():
        print(f"{name:<18} {row['count']:>6} {row['p50_s']:>8.3f} {row['p95_s']:>8.3f} {row['errors']:>7}")
    for kind, row in memory_figures.items():
        print(
            f"{kind}: {row['first_mib']} MiB at first, {row['last_mib']} at the end, {row['most_mib']} at most, {row['slope_mib_per_hour']:+} MiB an hour"
        )
    for name, found in record.errors.items():
        for line in sorted(set(found))[:5]:
            print(f"{name}: {line}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
