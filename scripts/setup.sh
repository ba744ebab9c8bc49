#!/usr/bin/env bash
# Makes .venv from requirements.lock and installs every member of the workspace into it, editable.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "error: Nightshift needs Python 3.11 or newer; $python is $("$python" -V 2>&1)." >&2
  echo "hint: set PYTHON, for example: make setup PYTHON=python3.12" >&2
  exit 4
}
stamp=.venv/.nightshift-setup
key=$(cat requirements.lock libs/*/pyproject.toml services/*/pyproject.toml cli/pyproject.toml "$0" | sha256sum | cut -d' ' -f1)$(pwd)
[ "$(cat $stamp 2>/dev/null || true)" = "$key" ] && exit 0
echo "Setting up .venv (about a minute the first time)…" >&2
[ -x .venv/bin/python ] || "$python" -m venv .venv || {
  echo "error: $python cannot make a virtual environment." >&2
  echo "hint: on Debian, apt-get install python3-venv" >&2
  exit 4
}
members=(libs/* services/* cli)
editable=()
for member in "${members[@]}"; do editable+=(-e "./$member"); done
# uv is only a faster pip here: when it cannot reach the index the way pip is configured, pip does the same work.
if .venv/bin/python -m pip install --quiet --disable-pip-version-check "uv==$(sed -n 's/^uv==\([0-9.]*\).*/\1/p' requirements.lock)" \
  && .venv/bin/uv pip install --quiet --python .venv/bin/python --require-hashes -r requirements.lock \
  && .venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation "${editable[@]}"; then :; else
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation "${editable[@]}"
fi
printf '%s' "$key" > $stamp
