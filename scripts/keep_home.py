"""Writes tests/fixtures/home-vX.Y.Z.tar.gz: a small home made by this version, which every later one must open.

Usage: .venv/bin/python scripts/keep_home.py     Run it once, at a release; a kept home is never made again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# What the home holds, for the test that opens it.
FACTS = {
    "user": "eva",
    "model": "eva/tiny",
    "private": "eva/secret",
    "dataset": "admin/rows",
    "alias": "tiny",
}
NOTE = b"kept by the first version\n"
LARGE = bytes(range(256)) * 4000


def fill(url: str, token: str, folder: Path) -> dict[str, str]:
    """Fills a running server as a user would; returns what the test compares with."""
    from huggingface_hub import HfApi
    from tests.support.small_models import write_llama

    admin = HfApi(endpoint=url, token=token)
    cli = [sys.executable, "-m", "fust.cli.main"]
    environ = {**os.environ, "FUST_URL": url, "FUST_TOKEN": token, "FUST_HOME": str(folder / "home")}
    subprocess.run([*cli, "users", "new", FACTS["user"]], env=environ, check=True, capture_output=True)
    model = folder / "tiny.gguf"
    write_llama(model)
    for repo_id, private in ((FACTS["model"], False), (FACTS["private"], True)):
        admin.create_repo(repo_id, private=private)
        admin.upload_file(path_or_fileobj=NOTE, path_in_repo="notes/note.txt", repo_id=repo_id)
    admin.upload_file(path_or_fileobj=model, path_in_repo="tiny.gguf", repo_id=FACTS["model"])
    admin.upload_file(path_or_fileobj=LARGE, path_in_repo="large.bin", repo_id=FACTS["private"])
    admin.create_tag(FACTS["model"], tag="v1")
    admin.create_repo(FACTS["dataset"], repo_type="dataset")
    admin.upload_file(
        path_or_fileobj=b"a,b\n1,2\n", path_in_repo="rows.csv", repo_id=FACTS["dataset"], repo_type="dataset"
    )
    serve = [*cli, "serve", FACTS["model"], "--alias", FACTS["alias"]]
    subprocess.run(serve, env=environ, check=True, capture_output=True)
    made = subprocess.run(
        [*cli, "tokens", "new", "kept", "--scope", "read", "--json"],
        env=environ,
        check=True,
        capture_output=True,
    )
    head = admin.model_info(FACTS["model"]).sha
    return {**FACTS, "admin_token": token, "read_token": json.loads(made.stdout)["token"], "head": str(head)}


def main() -> None:
    """Makes the home, stops its server in order, and packs it."""
    from tests.conftest import start_fust

    from fust import __version__

    target = ROOT / "tests" / "fixtures" / f"home-v{__version__}.tar.gz"
    if target.exists():
        raise SystemExit(f"{target} is there: a kept home is never made again")
    target.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        running = start_fust(folder / "home")
        try:
            facts = fill(running.url, running.token, folder)
        finally:
            running.stop()
        (folder / "home" / "facts.json").write_text(json.dumps(facts, indent=1))
        with tarfile.open(target, "w:gz") as archive:
            archive.add(
                folder / "home",
                "home",
                filter=lambda m: None if any(p in m.name for p in ("/log", "/cache", "/engines")) else m,
            )
    print(f"{target.relative_to(ROOT)}: {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
