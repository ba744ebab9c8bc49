#!/usr/bin/env bash
# Pins every dependency of every member, with hashes and without index addresses, into requirements.lock.
set -euo pipefail
cd "$(dirname "$0")/.."
members=(libs/*/pyproject.toml services/*/pyproject.toml cli/pyproject.toml)
own=()
for file in "${members[@]}"; do
  own+=(--no-emit-package "$(sed -n 's/^name = "\(.*\)"/\1/p' "$file" | head -1)")
done
uv=$(command -v .venv/bin/uv || command -v uv)
"$uv" pip compile pyproject.toml "${members[@]}" --group dev --universal --generate-hashes \
  --no-emit-index-url --no-annotate --no-header --quiet "${own[@]}" "$@" -o requirements.lock
# uv names the packages it left out with the path it found them at: drop that remark.
sed -i '/^# The following packages were excluded/,$d' requirements.lock
sed -i '1i # Every dependency with its hashes. Made by scripts/lock.sh; do not edit.' requirements.lock
