#!/bin/sh
# Makes .venv and installs Fust into it. Says in one line what is missing and how to mend it.
# Usage: bootstrap.sh [EXTRAS]      Names of pyproject's optional dependencies, by commas; `test` is what the tests need.
# pip's own settings (index, proxy, certificates, find-links) are honoured: nothing is overridden here.
set -eu
cd "$(dirname "$0")/.."
extra="${1:-}"

fail() { printf 'fust: %s\n' "$1" >&2; exit 1; }

parts=$(sed -n '/^\[project.optional-dependencies\]/,/^\[project.scripts\]/s/^\([a-z]*\) = .*/\1/p' pyproject.toml)
for name in $(printf '%s' "$extra" | tr ',' ' '); do
  printf '%s\n' "$parts" | grep -qxF "$name" || fail "there is no part $name; there are: $(printf '%s' "$parts" | tr '\n' ' ')"
done

find_python() {
  for name in ${PYTHON:-} python3.14 python3.13 python3.12 python3.11 python3 python; do
    path=$(command -v "$name" 2>/dev/null) || continue
    if "$path" -c 'import sys; sys.exit(sys.version_info < (3, 11) or sys.version_info >= (4,))' 2>/dev/null; then
      printf '%s\n' "$path"; return 0
    fi
  done
  return 1
}

case "$(uname -s)" in
  Linux|Darwin) ;;
  *) fail "this system is $(uname -s); on Windows run Fust inside WSL: wsl --install, then 'make up' there." ;;
esac

# The CPU engine's wheel uses AVX2 on x86-64.
if [ "$(uname -s)-$(uname -m)" = "Linux-x86_64" ] && ! grep -qw avx2 /proc/cpuinfo; then
  fail "this CPU has no AVX2, which the engine needs: use a machine from 2013 (Haswell) or newer."
fi

if [ ! -x .venv/bin/python ] || ! .venv/bin/python -c 'import sys' 2>/dev/null; then
  python=$(find_python) || fail "no Python 3.11 or newer found: install one (Debian, Ubuntu: sudo apt install python3 python3-venv; macOS: brew install python@3.13) or name it: make up PYTHON=/path/to/python3."
  "$python" -c 'import ensurepip, venv' 2>/dev/null || fail "$python has no ensurepip: sudo apt install python3-venv (or python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv), then 'make up' again."
  "$python" -m venv .venv || fail "the environment .venv could not be made: remove it (rm -rf .venv) and try 'make up' again."
fi

digest=$(cat pyproject.toml requirements/constraints.txt scripts/bootstrap.sh | cksum | tr ' ' '-')-$extra
stamp=.venv/.fust-installed${extra:+-$extra}
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$digest" ]; then exit 0; fi

log=.venv/install.log
step() { # what, then a command; its output goes to the log
  printf '%s\n' "$1"; shift
  "$@" >"$log" 2>&1 && return 0
  tail -n 15 "$log" >&2
  if grep -qiE 'no matching distribution|could not find a version|failed building wheel' "$log"; then
    fail "the index has no wheel of $(grep -oiE '(no matching distribution found for|failed building wheel for) [^ ]+' "$log" | tail -n 1 | awk '{print $NF}') for Python $(.venv/bin/python -c 'import platform; print(platform.python_version(), platform.machine())'): try another Python (make up PYTHON=python3.12, after rm -rf .venv)."
  fi
  if grep -qiE 'no space left' "$log"; then fail "the disk is full: free about 1 GB and try again."; fi
  fail "installing failed; the whole log is in $log. Check the network or pip's index settings (pip config list), then try again."
}

case ",$extra," in *,test,*|*,tune,*|*,transformers,*)
  # By itself and at this version: another one brings gigabytes of GPU libraries.
  .venv/bin/python -c 'import torch' 2>/dev/null || step "Installing torch…" .venv/bin/python -m pip install --disable-pip-version-check -q torch==2.13.0 ;;
esac
step "Installing Fust${extra:+ with $extra}… (once)" .venv/bin/python -m pip install --disable-pip-version-check -q -c requirements/constraints.txt -e ".${extra:+[$extra]}"
printf '%s' "$digest" >"$stamp"
