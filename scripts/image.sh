#!/usr/bin/env bash
# Builds the image from this checkout: scripts/image.sh [TAG]   (default nightshift:<version>)
#
#   BASE=python:3.13-slim PYTHON=3.13   the base image, and the version of its Python (the default)
#   BASE=local                          a Debian 12 base that debootstrap makes here, for a machine without a registry
#                                       (root; Python 3.11)
set -euo pipefail
cd "$(dirname "$0")/.."

version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
tag=${1:-nightshift:$version}
base=${BASE:-python:3.13-slim}
python_version=${PYTHON:-3.13}
command -v docker >/dev/null || { echo "error: docker is not on this machine." >&2; echo "hint: on Debian, apt-get install docker.io" >&2; exit 4; }

if [ "$base" = local ]; then
  base=nightshift-base:bookworm python_version=3.11
  docker image inspect "$base" >/dev/null 2>&1 || scripts/base_image.sh "$base"
fi
.venv/bin/python scripts/dist.py --sbom --third-party "$python_version"
docker build --file deploy/image/Dockerfile --tag "$tag" \
  --build-arg BASE="$base" --build-arg VERSION="$version" \
  --build-arg REVISION="$(git rev-parse HEAD 2>/dev/null || echo unknown)" \
  --build-arg CREATED="$(git log -1 --format=%cI 2>/dev/null || echo 1970-01-01T00:00:00Z)" .
echo "$tag"
