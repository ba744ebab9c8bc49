#!/usr/bin/env bash
# Prints the folder with `prometheus` and `promtool`. Takes those of Debian's package into .cache when they are not installed.
set -euo pipefail
cd "$(dirname "$0")/.."
if installed=$(command -v promtool) && command -v prometheus >/dev/null; then
  dirname "$installed"
  exit 0
fi
folder=$PWD/.cache/prometheus
if [ ! -x "$folder/usr/bin/promtool" ]; then
  command -v apt-get >/dev/null || { echo "error: prometheus is not installed, and there is no apt-get." >&2; exit 4; }
  mkdir -p "$folder"
  (cd "$folder" && apt-get download -qq prometheus >&2 && dpkg -x prometheus_*.deb .)
fi
echo "$folder/usr/bin"
