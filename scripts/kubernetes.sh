#!/usr/bin/env bash
# Runs tests/deploy/kubernetes: scripts/kubernetes.sh [PYTEST-ARGUMENT…]
#
#   CLUSTER=PATH/cluster.sh   starts a cluster of two nodes with that script in CLUSTER_DIR (default .cache/kubernetes),
#                             with KEDA when CLUSTER_DIR/bin holds keda-operator and keda-adapter, and stops it at the end
#   KUBECONFIG=FILE           without CLUSTER: uses that cluster, which must be able to pull the images named below
#   NIGHTSHIFT_IMAGE, NIGHTSHIFT_PREVIOUS_IMAGE, POSTGRES_IMAGE, KAFKA_IMAGE, S3_IMAGE, TOOLS_IMAGE
#                             default with CLUSTER: images that are built here (needs Docker)
set -euo pipefail
cd "$(dirname "$0")/.."
export CLUSTER=${CLUSTER:-} CLUSTER_DIR=${CLUSTER_DIR:-$PWD/.cache/kubernetes}

if [ -n "$CLUSTER" ]; then
  if [ -z "${TOOLS_IMAGE:-}" ]; then
    variables=$(scripts/compose_local.sh)
    set -a; eval "$variables"; set +a
    export TOOLS_IMAGE=nightshift-test-tools:1 NIGHTSHIFT_PREVIOUS_IMAGE=${NIGHTSHIFT_PREVIOUS_IMAGE:-$NIGHTSHIFT_IMAGE}
    docker build --quiet --file tests/deploy/kubernetes/Dockerfile --build-arg NIGHTSHIFT="$NIGHTSHIFT_IMAGE" --tag "$TOOLS_IMAGE" . >/dev/null
  fi
  "$CLUSTER" build "$CLUSTER_DIR"
  NODES=2 "$CLUSTER" up "$CLUSTER_DIR"
  trap '"$CLUSTER" down "$CLUSTER_DIR"' EXIT
  export KUBECONFIG=$("$CLUSTER" kubeconfig "$CLUSTER_DIR") PATH=$CLUSTER_DIR/bin:$PATH
  for image in "$NIGHTSHIFT_IMAGE" "$NIGHTSHIFT_PREVIOUS_IMAGE" "$POSTGRES_IMAGE" "$KAFKA_IMAGE" "$S3_IMAGE" "$TOOLS_IMAGE"; do
    saved=$CLUSTER_DIR/$(echo "$image" | tr '/:' '__').tar
    docker save --output "$saved" "$image"
    "$CLUSTER" load "$CLUSTER_DIR" "$saved" >/dev/null
    rm "$saved"
  done
  [ ! -x "$CLUSTER_DIR/bin/keda-adapter" ] || scripts/keda.sh
fi
NIGHTSHIFT_KUBERNETES_TESTS=1 .venv/bin/python -m pytest tests/deploy/kubernetes -q -s -p no:randomly "$@"
