#!/bin/sh
# Builds the page into a temporary folder and compares it with the committed one.
set -eu
cd "$(dirname "$0")"
if ! command -v npm >/dev/null 2>&1; then
  echo "ui: not compared with its sources: npm is not installed (Node 20 or newer has it)."
  exit 0
fi
if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
  npm ci --no-audit --no-fund --loglevel=error
fi
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
FUST_UI_OUT="$fresh/web" npm run --silent build >"$fresh/log" 2>&1 || { cat "$fresh/log"; echo "ui: the build failed" >&2; exit 1; }
if ! diff -rq "$fresh/web" ../src/fust/app/web; then
  echo "ui: src/fust/app/web differs from what ui/ builds. Run 'make ui' and commit the result." >&2
  exit 1
fi
echo "ui: src/fust/app/web is what ui/ builds."
