"""The docs cannot lie: their examples run, their reference is what the code says, their links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, RunningFust, start_fust

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
LLAMA_INDEX = REPOSITORY / ".venv-llamaindex" / "bin" / "python"
NODE_MODULES = REPOSITORY / "tests" / "clients" / "node_modules"
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFust]:
    running = start_fust(tmp_path_factory.mktemp("docs") / "home", starter=True)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def starter(running: RunningFust) -> RunningFust:
    """The server once its starter model is served."""
    import time

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if b'"starter"' in running.request("GET", "/fust/v1/deployments")[2]:
            return running
        time.sleep(0.1)
    raise AssertionError("the starter model was not served within a minute")


def environ(running: RunningFust, folder: Path) -> dict[str, str]:
    return {
        **running.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HF_ENDPOINT": running.url,
        "HF_TOKEN": running.token,
        "HF_HOME": str(folder / "hf"),
        "OPENAI_BASE_URL": f"{running.url}/v1",
        "OPENAI_API_KEY": running.token,
        "ANTHROPIC_BASE_URL": running.url,
        "ANTHROPIC_API_KEY": running.token,
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_run(page: Path, starter: RunningFust, tmp_path: Path) -> None:
    ran = 0
    for kind, info, body in BLOCK.findall(page.read_text()):
        if "no-run" in info:
            assert ":" in info, f"{page.name}: a block that is not run says why"
            continue
        if kind == "console":
            script = "\n".join(line[2:] for line in body.splitlines() if line.startswith("$ "))
            command = ["bash", "-euo", "pipefail", "-c", script]
        elif kind == "python" and info.strip() == "llamaindex":
            if not LLAMA_INDEX.exists():
                continue  # scripts/test-system.sh installs it
            command = [str(LLAMA_INDEX), "-c", body]
        elif kind == "python":
            command = [sys.executable, "-W", "error::SyntaxWarning", "-c", body]
        elif kind == "js":
            if not (NODE_MODULES / "openai").is_dir():
                continue  # scripts/test-system.sh installs them
            (tmp_path / "node_modules").symlink_to(NODE_MODULES)
            (tmp_path / "example.mjs").write_text(body)
            command = ["node", "example.mjs"]
        else:
            continue
        done = subprocess.run(
            command,
            env=environ(starter, tmp_path),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{page.name}:\n{body}\n{done.stdout}\n{done.stderr}"
        ran += 1
    assert ran or page.name in {"architecture.md", "benchmarks.md", "run-as-a-service.md"}


def test_reference_is_what_the_code_says() -> None:
    script = REPOSITORY / "scripts" / "reference.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_links_lead_somewhere() -> None:
    for page in [*PAGES, REPOSITORY / "CONTRIBUTING.md", *(REPOSITORY / "docs" / "reference").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_module_has_its_sentence() -> None:
    text = (REPOSITORY / "docs" / "architecture.md").read_text()
    source = REPOSITORY / "src" / "fust"
    for path in source.rglob("*.py"):
        if path.name != "__init__.py" and "migrations" not in path.parts:
            name = path.relative_to(source).as_posix()
            assert f"`{name}`" in text, f"docs/architecture.md says nothing of {name}"


def test_nothing_names_this_machine() -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    registry = re.compile(
        r"https?://(?:[\w.-]*\.)?(?:pypi\.org|pythonhosted\.org|npmjs\.org|npmjs\.com|npmmirror\.com)"
    )
    for name in tracked.splitlines():
        path = REPOSITORY / name
        if path.is_file() and path.suffix in {
            ".py",
            ".md",
            ".toml",
            ".txt",
            ".json",
            ".sh",
            ".ts",
            ".tsx",
            ".yml",
        }:
            text = path.read_text(errors="replace")
            assert not registry.search(text), f"{name} names a package registry's host"
