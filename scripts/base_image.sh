#!/usr/bin/env bash
# Makes a Debian 12 base image without a registry: scripts/base_image.sh NAME [PACKAGE…]
# Python and CA certificates are always in it. Needs root and debootstrap.
set -euo pipefail
name=${1:?usage: scripts/base_image.sh NAME [PACKAGE…]}
shift
command -v debootstrap >/dev/null || { echo "error: debootstrap is not on this machine." >&2; echo "hint: apt-get install debootstrap" >&2; exit 4; }
[ "$(id -u)" = 0 ] || { echo "error: debootstrap needs root." >&2; echo "hint: run it with sudo, or use a base image of a registry" >&2; exit 4; }

folder=$(mktemp -d -p "${TMPDIR:-/var/tmp}")
trap 'rm -rf "$folder"' EXIT
packages=$(IFS=,; echo "python3,python3-venv,ca-certificates${*:+,$*}")
debootstrap --variant=minbase --include="$packages" bookworm "$folder/root" >"$folder/log" 2>&1 || { tail -5 "$folder/log" >&2; exit 1; }
cd "$folder/root"
rm -rf var/cache/apt/* var/lib/apt/lists/* var/log/* usr/share/doc/* usr/share/man/* usr/share/locale/* usr/share/info/*
find . -name __pycache__ -type d -prune -exec rm -rf {} +
tar --create --exclude=./dev/* --exclude=./proc/* --exclude=./sys/* . | docker import --change 'CMD ["bash"]' - "$name" >/dev/null
