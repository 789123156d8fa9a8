#!/usr/bin/env bash
# `make cluster-test`: a real cluster on this machine, both images, an S3 server, then the end-to-end tests; all of it
# is taken down again. CLUSTER is a folder with the commands up, real-node, load-image, real-node-down and down.
# KEEP=1 leaves the cluster, WALKTHROUGH=file writes down every command with its output. BASE is the local base image.
set -euo pipefail
cd "$(dirname "$0")/../.."
CLUSTER=${CLUSTER:-../shared/cluster}
ASSETS=${KUBEBUILDER_ASSETS:-/usr/local/kubebuilder/bin}
for program in kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl etcd; do
    [ -x "$ASSETS/$program" ] || { echo "skipped: there is no $program in $ASSETS"; exit 0; }
done
[ -x "$CLUSTER/real-node" ] || { echo "skipped: there are no cluster commands in $CLUSTER"; exit 0; }
export PATH=$ASSETS:$PWD/.venv/bin:$PATH
export CLUSTER_HOME=${CLUSTER_HOME:-$HOME/.cluster}
export KUBECONFIG=$CLUSTER_HOME/admin.kubeconfig
PORT=${S3_PORT:-9100}

stop() {
    [ -z "${SERVER:-}" ] || kill "$SERVER" 2>/dev/null || true
    [ -n "${KEEP:-}" ] || { "$CLUSTER/real-node-down" || true; "$CLUSTER/down" || true; }
}
trap stop EXIT

if ! kubectl get nodes 2>/dev/null | grep -q ' Ready'; then
    "$CLUSTER/up" --fresh || kubectl get --raw /readyz  # a kubectl built without a version fails to print it
    "$CLUSTER/real-node"
fi
STORAGE_DRIVER=overlay BUILDAH_ISOLATION=chroot make images IMAGE_FLAGS="${IMAGE_FLAGS:---pull-never --network host}" \
    BASE="${BASE:-python:3.11-slim-bookworm}"
for image in operator trainer; do "$CLUSTER/load-image" localhost/$image; done
moto_server -H 0.0.0.0 -p "$PORT" >/dev/null 2>&1 & SERVER=$!
export AWS_ENDPOINT_URL=http://127.0.0.1:$PORT AWS_ACCESS_KEY_ID=demo AWS_SECRET_ACCESS_KEY=demo AWS_DEFAULT_REGION=us-east-1
export E2E_S3_FROM_PODS=${E2E_S3_FROM_PODS:-http://10.244.0.1:$PORT} E2E_WALKTHROUGH=${WALKTHROUGH:-}
until python -c "import socket; socket.create_connection(('127.0.0.1', $PORT), 1)" 2>/dev/null; do sleep 0.5; done
pytest tests/e2e -x -p no:xdist
