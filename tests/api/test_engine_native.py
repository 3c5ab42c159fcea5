"""llama.cpp by any `llama-server`, and building one: the same answers, the same supervision, used only when it is better."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from fust.accounts.rights import SYSTEM
from fust.core.errors import FustError, InvalidInput
from fust.core.settings import ServeSettings, load_settings
from fust.jobs.folder import Asked, RunFolder, Spec
from fust.jobs.worker import JobContext
from fust.serve import build as builds
from fust.serve.engines import llama_c
from fust.serve.engines.base import EngineLoadFailed, EngineSpec
from fust.serve.engines.llama_server import command_of
from fust.serve.engines.llamacpp import LlamaCppEngine
from fust.serve.engines.native import (
    Build,
    Speed,
    binary_of,
    find_library,
    find_server,
    folder_of,
    library_of,
    processor,
    read_build,
    wheel_version,
    write_build,
)
from fust.serve.measure import measure
from fust.wire.scoring import ScoreRequest, ScoreRow
from tests.support.leaving import leave_midstream, wait_until_idle
from tests.support.model_house import House, running_house
from tests.support.small_models import write_llama, write_repos

PROGRAM = Path(__file__).parents[1] / "support" / "llama_server.py"
REAL = os.environ.get("FUST_TEST_LLAMA_SERVER", "")


def write_program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\nexec {sys.executable} {PROGRAM} "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module", params=["made", "real"])
def house(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("native")
    if request.param == "real" and not REAL:
        pytest.skip("no llama-server to test with (set FUST_TEST_LLAMA_SERVER)")
    program = REAL if request.param == "real" else write_program(folder / "llama-server")
    models = write_repos(folder / "models")
    with running_house(folder / "home", models, "serve.threads=1", f"serve.llama_server={program}") as house:
        yield house


def asked(house: House, path: str, **body: Any) -> dict[str, Any]:
    return house.json("POST", path, body)


def test_it_answers_as_the_wheel_does(house: House, tmp_path: Path) -> None:
    served = house.serve("acme/chat", alias="tiny")
    assert served["state"] == "ready", served
    (pid,) = house.engine_pids()
    assert any("llama" in word for word in psutil.Process(pid).cmdline())
    assert not any(house.token in word for word in psutil.Process(pid).cmdline())
    hello = [{"role": "user", "content": "hello"}]
    chat = asked(house, "/v1/chat/completions", model="tiny", messages=hello, max_tokens=8, temperature=0)
    vectors = asked(house, "/v1/embeddings", model="tiny", input=["ba be"])
    scored = asked(
        house, "/v1/completions", model="tiny", prompt="ba be", max_tokens=0, echo=True, logprobs=1
    )
    with running_house(tmp_path / "home", house.models, "serve.threads=1") as plain:
        plain.serve("acme/chat", alias="tiny")
        same = asked(plain, "/v1/chat/completions", model="tiny", messages=hello, max_tokens=8, temperature=0)
        assert same["choices"] == chat["choices"] and same["usage"] == chat["usage"]
        other = asked(plain, "/v1/embeddings", model="tiny", input=["ba be"])["data"][0]["embedding"]
        assert vectors["data"][0]["embedding"] == pytest.approx(other, abs=1e-4)
        again = asked(
            plain, "/v1/completions", model="tiny", prompt="ba be", max_tokens=0, echo=True, logprobs=1
        )
        assert again["choices"][0]["logprobs"] == scored["choices"][0]["logprobs"]


def test_a_model_that_it_refuses_says_why(house: House) -> None:
    broken = house.serve("acme/broken")
    assert broken["state"] == "failed"
    assert (
        "not within the file bounds" in broken["error"]
        or "cut off" in broken["error"]
        or "fail" in broken["error"]
    )


@pytest.mark.faults
def test_64_clients_that_leave_leave_no_slot_busy(house: House) -> None:
    house.serve("acme/plain", alias="left")
    leave_midstream(house, "left")

    def busy() -> int:
        count = 0
        for process in map(psutil.Process, house.engine_pids()):
            key = process.environ().get("LLAMA_API_KEY")  # the wheel's scorer has none
            if key is None:
                continue
            (listening,) = [c for c in process.net_connections("tcp") if c.status == "LISTEN"]
            url = f"http://127.0.0.1:{listening.laddr.port}/slots"
            asked = urllib.request.Request(url, headers={"authorization": f"Bearer {key}"})
            with urllib.request.urlopen(asked, timeout=30) as answer:
                count += sum(slot["is_processing"] for slot in json.load(answer))
        return count

    wait_until_idle(busy)


@pytest.mark.faults
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_it_is_started_again(house: House, how: signal.Signals) -> None:
    house.serve("acme/plain", alias="again")
    body = {"model": "again", "prompt": "ba", "max_tokens": 2}
    assert asked(house, "/v1/completions", **body)
    pids = set(house.engine_pids())
    for pid in pids:
        os.kill(pid, how)
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        status, _, raw = house.request("POST", "/v1/completions", body)
        if status == 200:
            break
        time.sleep(0.1)
    assert status == 200, raw
    assert all(
        not psutil.pid_exists(p) or psutil.Process(p).status() == psutil.STATUS_ZOMBIE
        for p in pids - set(house.engine_pids())
    )


def test_a_program_that_is_none_is_told(tmp_path: Path) -> None:
    spec = EngineSpec(
        "e",
        tmp_path / "m.gguf",
        "a",
        "generate",
        512,
        1,
        1,
        settings=ServeSettings(llama_server="/nowhere/llama-server"),
    )
    with pytest.raises(EngineLoadFailed, match="/nowhere/llama-server is not a program"):
        LlamaCppEngine(spec, tmp_path).start(20, lambda *_: None)


def test_only_options_that_it_lists_are_given(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_text("#!/bin/sh\necho '--model FNAME  --metrics  enable'\n")
    old.chmod(0o755)
    spec = EngineSpec(
        "e", Path("m.gguf"), "a", "embed", 512, 2, 3, pooling="cls", adapters=(("x", Path("x.gguf")),)
    )
    command = command_of(str(old), spec)
    assert "--metrics" in command and "--fit" not in command
    assert command[command.index("--ctx-size") + 1] == "1024"
    assert command[command.index("--pooling") + 1] == "cls"
    assert command[command.index("--lora-scaled") + 1] == "x.gguf:0.0"
    whole = command_of(str(write_program(tmp_path / "new")), spec)
    assert {"--fit", "--no-context-shift", "--cache-ram", "--offline"} <= set(whole)


def test_the_build_is_used_when_it_is_better_here(tmp_path: Path) -> None:
    assert find_server("wheel", tmp_path) == ""
    assert find_server("/opt/llama-server", tmp_path) == "/opt/llama-server"
    assert find_server("", tmp_path) == ""
    fast, slow = Speed(2000, 110), Speed(1000, 100)
    good = Build(wheel_version(), processor(), fast, slow, "m.gguf", 1, "", 1)
    assert round(good.ratio, 2) == round((0.256 + 0.64) / (0.128 + 64 / 110), 2)
    folder_of(tmp_path).mkdir(parents=True)
    write_build(tmp_path, good)
    assert read_build(tmp_path) is None  # a record without its program
    write_program(binary_of(tmp_path))
    assert find_server("", tmp_path) == str(binary_of(tmp_path))
    for worse in (
        Build(wheel_version(), processor(), slow, slow, "m.gguf", 1, "", 1),
        Build("1", processor(), fast, slow, "m.gguf", 1, "", 1),
        Build(wheel_version(), "another", fast, slow, "m.gguf", 1, "", 1),
    ):
        write_build(tmp_path, worse)
        assert find_server("", tmp_path) == ""


def context_of(home: Path, **params: Any) -> JobContext:
    folder = RunFolder(home, "r1")
    folder.path.mkdir(parents=True, exist_ok=True)
    asked = Asked.of(SYSTEM)
    spec = Spec("r1", "build_engine", "admin", asked, {"jobs": 1, "source": "", **params}, 1, 1)
    return JobContext(spec, folder, load_settings(home, flags={"serve.threads": "1"}, environ={}))


def test_a_build_is_compiled_measured_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a cmake and a ninja that copy a program instead of compiling one; what is measured is real."""
    source = tmp_path / "package.tar.gz"
    tree = tmp_path / "package-1" / "thirdparty" / "llama.cpp" / "tools" / "server"
    tree.mkdir(parents=True)
    (tree / "CMakeLists.txt").write_text("")
    with tarfile.open(source, "w:gz") as archive:
        archive.add(tmp_path / "package-1", "package-1")
    made = write_program(tmp_path / "made")
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "cmake").write_text("#!/bin/sh\necho configured\n")
    (tools / "ninja").write_text(
        f'#!/bin/sh\necho "[1/2] a"\necho "[2/2] b"\nmkdir -p "$2/bin"\ncp {made} "$2/bin/llama-server"\n'
    )
    for tool in tools.iterdir():
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    model = write_llama(tmp_path / "m.gguf")
    outcome = builds.run_build(context_of(tmp_path / "home", source=str(source)), model)
    assert outcome.ratio > 0.2 and outcome.native["prompt"] > 1
    kept = read_build(tmp_path / "home")
    assert kept is not None and kept.version == wheel_version()
    assert kept.is_better == outcome.is_used
    assert not any((tmp_path / "home" / "runs" / "r1").glob("work/*")), "what it was built of is gone"
    events = RunFolder(tmp_path / "home", "r1").events.read_text()
    assert '"done":2' in events.replace(" ", "") or '"total":2' in events.replace(" ", "")
    (tools / "ninja").write_text("#!/bin/sh\necho 'error: no such register'\nexit 1\n")
    with pytest.raises(FustError, match="no such register"):
        builds.run_build(context_of(tmp_path / "home", source=str(source)), model)
    assert read_build(tmp_path / "home") == kept
    for wrong in (tmp_path / "none.tar.gz", model):
        with pytest.raises(InvalidInput, match="cannot be unpacked"):
            builds.run_build(context_of(tmp_path / "home", source=str(wrong)), model)


def test_scores_come_from_the_library_that_was_built(tmp_path: Path) -> None:
    """The wheel's own library stands in for one that was compiled from the same source."""
    home, model = tmp_path / "home", write_llama(tmp_path / "m.gguf")
    write_program(binary_of(home))
    write_build(home, Build(wheel_version(), processor(), Speed(2, 2), Speed(1, 1), "m.gguf", 1, "", 1))
    assert find_library("", home) == ""
    body = msgspec.json.encode(ScoreRequest([ScoreRow(tokens=[5, 6, 7])]))
    answers: list[bytes] = []
    for built in (None, b"\x7fELF rubbish", Path(llama_c._path()).read_bytes()):
        if built is not None:
            library_of(home).write_bytes(built)
            assert find_library("", home) == str(library_of(home)) and find_library("wheel", home) == ""
        engine = LlamaCppEngine(EngineSpec("e", model, "a", "score", 256, 1, 1), home)
        info = engine.start(30, lambda *_: None)
        try:
            used = library_of(home).name in Path(f"/proc/{info.pid}/maps").read_text()
            assert used == (built is not None and len(built) > 1000)
            asked = urllib.request.Request(
                info.base_url + "/score", body, {"Authorization": f"Bearer {info.api_key}"}
            )
            with urllib.request.urlopen(asked, timeout=20) as answer:
                answers.append(answer.read())
        finally:
            engine.stop()
    assert answers[0] == answers[1] == answers[2]


def test_measuring_needs_servers_that_answer(tmp_path: Path) -> None:
    model = write_llama(tmp_path / "m.gguf")
    (speed,) = measure(model, [""], 1)
    assert speed.prompt > 1 and speed.decode > 1
    shutil.copy(model, tmp_path / "broken.gguf")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    with pytest.raises(FustError):
        measure(tmp_path / "broken.gguf", [""], 1)


def test_what_harms_is_left_out_where_the_compiler_knows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "compiler"
    monkeypatch.setenv("CXX", str(compiler))
    for knows, wanted in (("amx|fp16", ["amx-int8", "avx512fp16"]), ("amx", ["amx-int8"]), ("none", [])):
        compiler.write_text(f'#!/bin/sh\necho "$1" | grep -qE "{knows}"\n')
        compiler.chmod(0o755)
        options = builds.processor_options()
        assert len(options) == (2 if wanted else 0)
        for option in options:
            assert [name for name in ("amx-int8", "avx512fp16") if f"-mno-{name}" in option] == wanted


def test_a_server_that_dies_while_it_loads_says_how(tmp_path: Path) -> None:
    dying = tmp_path / "dying"
    dying.write_text("#!/bin/sh\nkill -ILL $$\n")
    dying.chmod(0o755)
    spec = EngineSpec(
        "e", tmp_path / "m.gguf", "a", "generate", 512, 1, 1, settings=ServeSettings(llama_server=str(dying))
    )
    with pytest.raises(EngineLoadFailed, match="signal 4"):
        LlamaCppEngine(spec, tmp_path).start(20, lambda *_: None)
