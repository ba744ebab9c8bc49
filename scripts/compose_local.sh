#!/usr/bin/env bash
# Builds the images of deploy/compose without a registry, and prints the variables that make Compose use them.
# Needs root, Docker, debootstrap, and Maven with Java for Apache Kafka (scripts/kafka_server.py).
set -euo pipefail
cd "$(dirname "$0")/.."
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
image=${NIGHTSHIFT_IMAGE:-nightshift:$version}
[ -n "${NIGHTSHIFT_IMAGE:-}" ] || BASE=local scripts/image.sh "$image" >&2
base=nightshift-local-servers:bookworm
docker image inspect "$base" >/dev/null 2>&1 || scripts/base_image.sh "$base" postgresql openjdk-17-jre-headless >&2
jars=$(python3 scripts/kafka_server.py fetch)
rm -rf build/kafka
mkdir -p build
cp -r "$jars" build/kafka
cp scripts/kafka/log4j2.properties build/kafka/
echo "NIGHTSHIFT_IMAGE=$image"
for server in postgres kafka s3; do
  docker build --quiet --file deploy/compose/local/Dockerfile --target "$server" --tag "nightshift-local-$server:$version" \
    --build-arg BASE="$base" --build-arg NIGHTSHIFT="$image" . >/dev/null
  echo "${server^^}_IMAGE=nightshift-local-$server:$version"
done
