#!/usr/bin/env bash
# Starts KEDA's operator and adapter beside the cluster of scripts/kubernetes.sh, out of it: they end with the cluster.
# CLUSTER_DIR/keda-crds holds KEDA's custom resource definitions, and CLUSTER_DIR/bin its two programs.
set -euo pipefail
run=$CLUSTER_DIR/run
work=$run/keda
mkdir -p "$work/certs"
cp "$run/pki/ca.crt" "$work/certs/ca.crt"
cp "$run/pki/apiserver.crt" "$work/certs/tls.crt"
cp "$run/pki/apiserver.key" "$work/certs/tls.key"
sed 's/127.0.0.1:[0-9]*/127.0.0.1:6443/' "$KUBECONFIG" >"$work/conf"
printf 'nameserver 10.10.0.1\n' >"$work/resolv.conf"
# Only in the cluster's own mount namespace: the operator must know the names of the cluster.
"$CLUSTER" exec "$CLUSTER_DIR" mount --bind "$work/resolv.conf" /etc/resolv.conf

kubectl create namespace keda
kubectl apply --server-side -f "$CLUSTER_DIR/keda-crds" >/dev/null
kubectl apply -f - >/dev/null <<'Y'
apiVersion: v1
kind: Service
metadata: {name: keda-metrics-apiserver, namespace: keda}
spec: {ports: [{name: https, port: 443, targetPort: 6445}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: keda-metrics-apiserver, namespace: keda, labels: {kubernetes.io/service-name: keda-metrics-apiserver}}
addressType: IPv4
ports: [{name: https, port: 6445}]
endpoints: [{addresses: [10.10.0.1], conditions: {ready: true}}]
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1beta1.external.metrics.k8s.io}
spec:
  service: {name: keda-metrics-apiserver, namespace: keda}
  group: external.metrics.k8s.io
  version: v1beta1
  groupPriorityMinimum: 100
  versionPriority: 100
  insecureSkipTLSVerify: true
Y
common=(env WATCH_NAMESPACE= POD_NAMESPACE=keda KEDA_CLUSTER_OBJECT_NAMESPACE=keda)
setsid "$CLUSTER" exec "$CLUSTER_DIR" "${common[@]}" "$CLUSTER_DIR/bin/keda-operator" --kubeconfig "$work/conf" \
  --cert-dir "$work/certs" --enable-cert-rotation=false >"$work/operator.log" 2>&1 </dev/null &
setsid "$CLUSTER" exec "$CLUSTER_DIR" "${common[@]}" "$CLUSTER_DIR/bin/keda-adapter" --kubeconfig "$work/conf" \
  --lister-kubeconfig "$work/conf" --authentication-kubeconfig "$work/conf" --authorization-kubeconfig "$work/conf" --port 8099 \
  --secure-port 6445 --tls-cert-file "$work/certs/tls.crt" --tls-private-key-file "$work/certs/tls.key" \
  --cert-dir "$work/certs" --metrics-service-address 127.0.0.1:9666 >"$work/adapter.log" 2>&1 </dev/null &
