"""The whole product on a cluster: install it, fine-tune for boxes, masks and both; policies and failures."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from walk import EXAMPLES, ROOT, SYSTEM, TEAM, Cluster, Walk

pytestmark = pytest.mark.timeout(1800)

VALUES: dict[str, Any] = {
    "image": {"repository": "localhost/operator", "tag": "latest"},
    "trainerImage": {"repository": "localhost/trainer", "tag": "latest"},
    "podEnv": {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TEACHER_GPUS": "0"},  # its GPUs are numbers
    "trainerResources": {"requests": {"cpu": "250m", "memory": "1Gi"}, "limits": {"memory": "4Gi"}},
    "inspectResources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "512Mi"}},
    "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
    "progressSeconds": 3,
}
COST_CENTER = """\
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: cost-center}
spec:
  matchConstraints:
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}]
  validations:
    - expression: has(object.metadata.labels) && 'cost-center' in object.metadata.labels
      message: every pod needs the label cost-center
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: cost-center}
spec:
  policyName: cost-center
  validationActions: [Deny]
  matchResources: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: vision}}}
"""
PROBE = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "probe"},
    "spec": {
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "probe",
                "image": "none",
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }
        ],
    },
}
"""A pod that the restricted pod security standard admits, without the label."""
RUNS = {"boxes": "parts-boxes", "masks": "parts-masks", "both": "parts"}


def manifest(example: str, s3_from_pods: str, **changes: Any) -> str:
    """An example, with where pods find the store and with what keys; as JSON, which is YAML without its surprises."""
    document = yaml.safe_load((EXAMPLES / f"{example}.yaml").read_text())
    storage = {"endpointUrl": s3_from_pods, "region": "us-east-1", "credentialsSecretRef": {"name": "s3"}}
    document["metadata"] |= changes.pop("metadata", {})
    document["spec"] |= {"storage": storage, **changes}
    return json.dumps(document)


def _percent(cluster: Cluster, name: str) -> int:
    return int(cluster.get("tft", name)["status"]["summary"]["progress"].rstrip("%") or 0)


def test_it_installs(walk: Walk, rendered: Callable[[dict[str, Any]], str], tmp_path: Path) -> None:
    walk.say("# Tutorial: on a cluster")
    walk.say(
        "`make cluster-test` runs every command below and records its output. It uses a control plane, a kubelet with "
        "containerd and both images on one machine, an S3 server on the same machine, and tiny teachers that train on "
        "a CPU within a minute. On your cluster, omit `localhost` registries and the base models."
    )
    walk.say("## Install\n\nApply the chart's manifests, like `helm install`.")
    walk.run(f"kubectl create namespace {SYSTEM}")
    walk.run(f"kubectl label namespace {SYSTEM} pod-security.kubernetes.io/enforce=restricted")
    file = ROOT / "out" / "e2e" / "install.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(rendered(VALUES))
    walk.run(f"kubectl apply --server-side --namespace {SYSTEM} -f {file.relative_to(ROOT)}")
    walk.run(f"kubectl -n {SYSTEM} rollout status deployment/teacher-finetune --timeout=120s")
    walk.run(f"kubectl -n {SYSTEM} get pods")


def test_boxes_masks_and_both_end_with_adapters(
    walk: Walk, cluster: Cluster, bucket: str, s3_from_pods: str, tmp_path: Path
) -> None:
    walk.say(
        "## Fine-tune\n\nCreate the team's namespace, with the keys of its store. Only the pods of its runs read them."
    )
    walk.run(f"kubectl create namespace {TEAM}")
    walk.run(f"kubectl label namespace {TEAM} pod-security.kubernetes.io/enforce=restricted")
    walk.run(
        f"kubectl -n {TEAM} create secret generic s3 --from-literal=AWS_ACCESS_KEY_ID=demo "
        "--from-literal=AWS_SECRET_ACCESS_KEY=demo"
    )
    walk.say("Apply `examples/boxes.yaml`, `masks.yaml` and `both.yaml`, each with `spec.storage` for this store.")
    folder = ROOT / "out" / "e2e"
    for example in RUNS:
        (folder / f"{example}.json").write_text(manifest(example, s3_from_pods))
    walk.run(f"kubectl -n {TEAM} apply " + " ".join(f"-f out/e2e/{example}.json" for example in RUNS))
    cluster.until("parts", lambda c: c["reason"] == "Training", seconds=240)
    walk.run(f"kubectl -n {TEAM} get tft")
    cluster.until("parts", lambda c: _percent(cluster, "parts") >= 40, seconds=300)
    walk.run(f"kubectl -n {TEAM} get tft -o wide")
    for name in RUNS.values():
        condition = cluster.until(name, lambda c: c["status"] != "Unknown", seconds=900)
        assert condition["status"] == "True", condition
    walk.run(f"kubectl -n {TEAM} get tft,jobs")
    walk.say("The status contains all information about a run.")
    walk.run(f"kubectl -n {TEAM} describe tft parts-boxes")


@pytest.mark.parametrize("name", RUNS.values())
def test_the_adapters_are_what_the_status_says_and_load(walk: Walk, cluster: Cluster, name: str) -> None:
    from engine.storage import Storage, StorageOptions
    from engine.teachers import load_adapted

    status = cluster.get("tft", name)["status"]
    storage = Storage(StorageOptions())
    assert {"GroundingDino", "Sam"} >= {teacher["name"] for teacher in status["teachers"]} != set()
    for teacher in status["teachers"]:
        adapter = teacher["adapter"]
        content = storage.read_bytes(adapter["uri"])
        assert len(content) == adapter["sizeBytes"]
        assert hashlib.sha256(content).hexdigest() == adapter["sha256"]
        metrics = {metric["name"]: metric for metric in teacher["metrics"]}
        assert float(metrics["ap"]["after"]) > float(metrics["ap"]["before"])
        assert teacher["gpuSeconds"] > 0
        loaded = load_adapted(adapter["uri"].rsplit("/", 1)[0])
        assert loaded.name.value == teacher["name"]


def test_the_adapters_are_fetched_by_name(walk: Walk, cluster: Cluster) -> None:
    walk.say(
        "## Fetch the adapters\n\n`teacher fetch` takes the name of an object and checks every file against its sha256."
    )
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    walk.run(f"teacher fetch parts out/e2e/adapters --namespace {TEAM} --endpoint-url {endpoint}")
    assert (ROOT / "out/e2e/adapters/teachers/sam_lora/adapter_model.safetensors").stat().st_size > 10_000


def test_the_same_request_again_costs_no_gpu(walk: Walk, cluster: Cluster) -> None:
    walk.say(
        "## Repeat the request\n\nThe inputs of a run determine its name. Deleting the object keeps the adapters, and "
        "applying it again finds them without using a GPU."
    )
    before = cluster.get("tft", "parts-boxes")["status"]["teachers"][0]["adapter"]
    walk.run(f"kubectl -n {TEAM} delete tft parts-boxes")
    walk.run(f"kubectl -n {TEAM} wait --for=delete job/parts-boxes-grounding-dino --timeout=60s || true", quiet=True)
    walk.run(f"kubectl -n {TEAM} apply -f out/e2e/boxes.json")
    cluster.until("parts-boxes", lambda c: c["status"] == "True", seconds=120)
    walk.run(f"kubectl -n {TEAM} get tft parts-boxes; kubectl -n {TEAM} get jobs -l finetune.dev/run=parts-boxes")
    assert cluster.get("tft", "parts-boxes")["status"]["teachers"][0]["adapter"] == before
    jobs = walk.run(f"kubectl -n {TEAM} get jobs -l finetune.dev/run=parts-boxes -o name", quiet=True).split()
    assert jobs == ["job.batch/parts-boxes-inspect"]


def test_tainted_nodes_and_a_policy_on_labels(walk: Walk, cluster: Cluster, s3_from_pods: str) -> None:
    walk.say(
        "## On a shared cluster\n\nEvery node is tainted, and a policy refuses pods without a `cost-center`. Every pod "
        "of the run gets the labels of `spec.pod`; `spec.tolerations` apply to its inspection too."
    )
    folder = ROOT / "out" / "e2e"
    (folder / "cost-center.yaml").write_text(COST_CENTER)
    walk.run("kubectl apply -f out/e2e/cost-center.yaml")
    walk.run("kubectl taint nodes --all nvidia.com/gpu=present:NoSchedule")
    try:
        (folder / "probe.json").write_text(json.dumps(PROBE))
        cluster.refuses(f"kubectl -n {TEAM} apply --dry-run=server -f out/e2e/probe.json", "cost-center", seconds=60)
        toleration = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
        text = manifest(
            "boxes",
            s3_from_pods,
            metadata={"name": "shared"},
            tolerations=[toleration],
            pod={"labels": {"cost-center": "vision-7"}},
            training={"seed": 9},
        )
        (folder / "shared.json").write_text(text)
        walk.run(f"kubectl -n {TEAM} apply -f out/e2e/shared.json")
        walk.run(f"kubectl -n {TEAM} wait tft/shared --for=condition=Reconciling=False --timeout=15m")
        assert cluster.condition("shared")["status"] == "True"
        walk.run(f"kubectl -n {TEAM} get pods -l finetune.dev/run=shared -L cost-center")
        labels = f"kubectl -n {TEAM} get pods -l finetune.dev/run=shared,cost-center=vision-7 -o name"
        assert len(walk.run(labels, quiet=True).split()) == 2
    finally:
        walk.run("kubectl taint nodes --all nvidia.com/gpu-", quiet=True)
        walk.run("kubectl delete -f out/e2e/cost-center.yaml", quiet=True)


def test_wrong_data_says_so_before_a_gpu_is_requested(walk: Walk, cluster: Cluster, s3_from_pods: str) -> None:
    walk.say("## When something fails\n\nThe annotation file does not exist:")
    dataset = {"annotations": "s3://demo/typo/annotations.json", "images": "s3://demo/parts-boxes/images/"}
    text = manifest("boxes", s3_from_pods, metadata={"name": "typo"}, dataset=dataset)
    (ROOT / "out" / "e2e" / "typo.json").write_text(text)
    walk.run(f"kubectl -n {TEAM} apply -f out/e2e/typo.json")
    condition = cluster.until("typo", lambda c: c["status"] == "False", seconds=240)
    assert "typo/annotations.json" in condition["message"]
    walk.run(f"kubectl -n {TEAM} get tft typo -o wide")
    code = "'custom-columns=NAME:.metadata.name,EXIT CODE:.status.containerStatuses[0].state.terminated.exitCode'"
    codes = walk.run(f"kubectl -n {TEAM} get pods -l finetune.dev/run=typo -o {code}").split()
    assert 40 <= int(codes[-1]) <= 48
    jobs = walk.run(f"kubectl -n {TEAM} get jobs -l finetune.dev/run=typo -o name", quiet=True).split()
    assert jobs == ["job.batch/typo-inspect"]


def test_a_run_that_is_killed_for_memory_says_so(walk: Walk, cluster: Cluster, s3_from_pods: str) -> None:
    walk.say("A trainer has too little memory:")
    resources = {"requests": {"memory": "64Mi"}, "limits": {"memory": "160Mi"}}
    text = manifest(
        "boxes", s3_from_pods, metadata={"name": "hungry"}, resources=resources, backoffLimit=0, training={"seed": 7}
    )
    (ROOT / "out" / "e2e" / "hungry.json").write_text(text)
    walk.run(f"kubectl -n {TEAM} apply -f out/e2e/hungry.json")
    condition = cluster.until("hungry", lambda c: c["status"] == "False", seconds=240)
    assert condition["reason"] == "OutOfMemory"
    assert "160Mi" in condition["message"]
    assert "spec.resources.limits.memory" in condition["message"]
    walk.run(f"kubectl -n {TEAM} get tft hungry -o wide")
    walk.run(f"kubectl -n {TEAM} get events --field-selector involvedObject.name=hungry")
    assert cluster.condition("hungry", "Stalled")["status"] == "True"


def test_an_image_that_cannot_be_pulled_says_so(walk: Walk, cluster: Cluster, s3_from_pods: str) -> None:
    walk.say("The trainer image does not exist:")
    walk.run(f"kubectl -n {SYSTEM} set env deployment/teacher-finetune TEACHER_TRAINER_IMAGE=localhost/no-such:1")
    walk.run(f"kubectl -n {SYSTEM} rollout status deployment/teacher-finetune --timeout=120s")
    text = manifest("boxes", s3_from_pods, metadata={"name": "no-image"}, training={"seed": 8})
    (ROOT / "out" / "e2e" / "no-image.json").write_text(text)
    walk.run(f"kubectl -n {TEAM} apply -f out/e2e/no-image.json")
    condition = cluster.until("no-image", lambda c: "cannot be pulled" in c["message"], seconds=180)
    assert "localhost/no-such:1" in condition["message"]
    assert condition["status"] == "Unknown"
    walk.run(f"kubectl -n {TEAM} get tft no-image -o wide")
    walk.say("Deleting an object deletes its Jobs and pods; the operator needs no finalizer for that.")
    walk.run(f"kubectl -n {TEAM} delete tft no-image")


def test_the_operator_may_do_no_more_than_it_must(walk: Walk) -> None:
    walk.say("## Permissions that the operator does not have")
    account = f"system:serviceaccount:{SYSTEM}:teacher-finetune"
    for verb, what in (
        ("get", "secrets"),
        ("list", "secrets"),
        ("create", "pods"),
        ("create", "pods/exec"),
        ("delete", "pods"),
        ("update", "teacherfinetunes.finetune.dev"),
        ("create", "clusterrolebindings"),
        ("patch", "customresourcedefinitions"),
    ):
        answer = walk.run(f"kubectl auth can-i {verb} {what} -A --as {account}", check=False)
        assert answer.strip() == "no"
