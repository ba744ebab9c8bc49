#!/usr/bin/env bash
# Makes .venv from requirements.lock and installs every member of the workspace into it, editable.
# Does nothing when nothing changed since the last time; PYTHON=… chooses the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { # what was not done and why, then what to do; exit code 4: not set up
  echo "error: $1" >&2
  echo "hint: $2" >&2
  exit 4
}

python=${PYTHON:-python3}
command -v "$python" >/dev/null || fail "$python is not on this machine." "on Debian, apt-get install python3 python3-venv"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  fail "Nightshift needs Python 3.11 or newer; $python is $("$python" -V 2>&1)." "set PYTHON, for example: make setup PYTHON=python3.12"

# Nothing to do when the lock, the members' own requirements, the interpreter and the place are the same as last time.
# A folder that another branch's member left behind, with caches but without a pyproject.toml, is no member.
members=()
for found in libs/*/pyproject.toml services/*/pyproject.toml cli/pyproject.toml; do members+=("${found%pyproject.toml}"); done
stamp=.venv/.nightshift-setup
key="$(cat requirements.lock "${members[@]/%/pyproject.toml}" scripts/setup.sh | sha256sum | cut -d' ' -f1) $("$python" -V 2>&1) $(pwd)"
if [ -x .venv/bin/nightshift ] && [ "$(cat "$stamp" 2>/dev/null || true)" = "$key" ]; then exit 0; fi

# Two makes at once must not build one .venv: the second waits for the first and finds it done.
if [ -z "${NIGHTSHIFT_SETUP_LOCKED:-}" ] && command -v flock >/dev/null; then
  mkdir -p .cache
  NIGHTSHIFT_SETUP_LOCKED=1 exec flock .cache/setup.lock scripts/setup.sh
fi

echo "Setting up .venv (about a minute the first time)…" >&2
rm -f "$stamp"
if ! .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
  rm -rf .venv
  "$python" -m venv .venv >&2 || {
    rm -rf .venv
    fail "$python cannot make a virtual environment." "on Debian, apt-get install python3-venv"
  }
fi

editable=()
for member in "${members[@]}"; do editable+=(-e "./${member%/}"); done
pip=(.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input)
# uv is only a faster pip here: where it cannot reach the index the way pip is configured, pip does the same work.
uv_install() {
  awk '/^uv==/ {print; ours = 1; next} ours && /^ / {print; next} {ours = 0}' requirements.lock >.venv/uv.txt
  "${pip[@]}" --require-hashes -r .venv/uv.txt &&
    .venv/bin/uv pip install --quiet --python .venv/bin/python --require-hashes -r requirements.lock &&
    .venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation "${editable[@]}"
}
pip_install() {
  "${pip[@]}" --require-hashes -r requirements.lock &&
    "${pip[@]}" --no-deps --no-build-isolation "${editable[@]}"
}
uv_install || pip_install || fail "the dependencies could not be installed." "look at pip's messages above; the package index must be reachable"
# uv leaves the bytecode to the first import. Where Python is told to write none (PYTHONDONTWRITEBYTECODE, as in many
# images), each of the many processes of a stack would compile all that it imports again, for seconds. A package's
# file that this Python cannot read is a template or a test of its own: nobody imports it.
.venv/bin/python -m compileall -qq -j 0 -x '/(pip|setuptools|mypy|mypyc)/' .venv/lib/python*/site-packages || true
.venv/bin/python -m compileall -q libs/*/src services/*/src cli/src
printf '%s' "$key" >"$stamp"
