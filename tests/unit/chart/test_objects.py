"""Whatever the values, what is rendered is valid, labelled and runs under the restricted Pod Security Standard."""

from __future__ import annotations

import copy
import functools
import itertools
import json
from pathlib import Path
from typing import Any

import helm_python
import jsonschema
import kubernetes_validate
import pytest
import yaml
from loops import nonempty

from .conftest import CHART, ROOT, RUN_PODS, Object, Render, objects_of, one

KUBERNETES = ("1.31", "1.37")

MONITORING = {"enabled": True, "renderMode": "alwaysRender"}
EVERYTHING: dict[str, Any] = {
    "commonLabels": {"team": "vision", "app.kubernetes.io/name": "never-wins"},
    "image": {"registry": "registry.example.com/", "digest": "sha256:" + "0" * 64},
    "trainerImage": {"tag": "1.2.3", "pullPolicy": "Always"},
    "imagePullSecrets": [{"name": "pull"}],
    "replicas": 2,
    "leaderElection": {"enabled": True},
    "crds": {"annotations": {"example.com/by": "us"}},
    "serviceAccount": {"annotations": {"example.com/a": "b"}},
    "podEnv": {"HTTPS_PROXY": "http://proxy.example.com:3128"},
    **RUN_PODS,
    "allowedEndpoints": ["s3.example.com", "*.store.example.com"],
    "nodeSelector": {"pool": "system"},
    "tolerations": [{"key": "system", "operator": "Exists"}],
    "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "priorityClassName": "system-cluster-critical",
    "deploymentAnnotations": {"example.com/a": "b"},
    "podAnnotations": {"example.com/a": "b", "kubectl.kubernetes.io/default-container": "never-wins"},
    "podLabels": {"sidecar": "no", "app.kubernetes.io/component": "never-wins"},
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.example.com:3128"}],
    "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
    "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ssl/more"}],
    "service": {"annotations": {"prometheus.io/scrape": "true"}},
    "networkPolicy": {
        "enabled": True,
        "ingressFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        "apiServer": {"cidrs": ["10.0.0.1/32"], "ports": [6443]},
        "extraEgress": [{"to": [{"ipBlock": {"cidr": "192.0.2.1/32"}}], "ports": [{"port": 3128}]}],
    },
    "podDisruptionBudget": {"enabled": True, "minAvailable": 1},
    "serviceMonitor": {**MONITORING, "namespace": "monitoring", "labels": {"release": "prometheus"}},
    "prometheusRule": {**MONITORING, "namespace": "monitoring", "alertLabels": {"team": "vision"}},
    "grafanaDashboard": {"enabled": True, "annotations": {"grafana_folder": "Vision"}},
    "extraObjects": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-more"}},
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: text-{{ .Release.Name }}\n",
    ],
}
NAMESPACED: dict[str, Any] = {
    "scope": {"namespaces": ["vision", "robots"]},
    "crds": {"enabled": False},
    "rbac": {"aggregate": False},
}
CASES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "everything": EVERYTHING,
    "namespaced": NAMESPACED,
    "namespaced, two operators": {**NAMESPACED, "replicas": 2, "leaderElection": {"enabled": True}},
    "bare": {
        "crds": {"enabled": False},
        "rbac": {"create": False, "aggregate": False},
        "serviceAccount": {"create": False, "name": "given"},
        "tests": {"enabled": False},
    },
    "openshift": {"openshift": {"adaptSecurityContext": "force"}},
    "spread, rolled and limited": {
        "leaderElection": {"enabled": True, "leaseName": "mine"},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "50%", "maxSurge": 0}},
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule"}
        ],
        "podDisruptionBudget": {"enabled": True, "maxUnavailable": "50%"},
        "networkPolicy": {"enabled": True},
    },
    "off": {"replicas": 0, "podDisruptionBudget": {"enabled": True}, "fullnameOverride": "x" * 50},
}


@pytest.fixture(params=CASES)
def objects(request: pytest.FixtureRequest, render: Render) -> list[Object]:
    return render(CASES[request.param])


def files_of_manifests() -> list[Path]:
    return sorted([*(ROOT / "config").rglob("*.yaml"), *(ROOT / "examples" / "gitops").rglob("*.yaml")])


@functools.cache
def schema_of_the_crd() -> Object:
    definition = objects_of((ROOT / "crds" / "teacherfinetunes.finetune.dev.yaml").read_text())[0]
    made: Object = strict(definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
    return made


@functools.cache
def validate_text(text: str) -> None:
    for version in KUBERNETES:
        kubernetes_validate.validate(json.loads(text), version, strict=True)


def validate(thing: Object) -> None:
    """Strictly, for built-in kinds; our own kind against the CRD; of others only the outline is known."""
    group = thing["apiVersion"].rpartition("/")[0]
    if thing["kind"] == "TeacherFineTune":
        jsonschema.Draft202012Validator(schema_of_the_crd()).validate(thing)
    elif group == "kustomize.config.k8s.io":
        assert thing["resources"]
    elif group.endswith(("monitoring.coreos.com", "argoproj.io", "fluxcd.io")):
        assert set(thing) == {"apiVersion", "kind", "metadata", "spec"}
    else:
        validate_text(json.dumps(thing, sort_keys=True))


def strict(schema: Any) -> Any:
    """The API server prunes what a schema does not know; an example that holds such a field is wrong all the same."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(part) for key, part in schema.items()}
    open_ended = "additionalProperties" in schema or "x-kubernetes-preserve-unknown-fields" in schema
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not open_ended:
        if "name" in schema["properties"] and list(schema["properties"]) == ["name"] and "required" not in schema:
            return made  # metadata, of which only the name is limited
        made["additionalProperties"] = False
    return made


def test_every_object_is_valid(objects: list[Object]) -> None:
    assert objects
    for thing in objects:
        validate(thing)


@pytest.mark.parametrize("values", CASES.values(), ids=CASES.keys())
def test_the_chart_lints(values: dict[str, Any]) -> None:
    report = helm_python.lint(CHART, values, strict=True, kube_version="v1.31.0")
    assert not report["errors"]
    assert [message["error"] for message in report["messages"] if message["severity"] > 1] == []


def test_every_combination_of_switches_is_valid(render: Render) -> None:
    switches = ("crds.enabled", "rbac.create", "rbac.aggregate", "networkPolicy.enabled", "leaderElection.enabled")
    for states in itertools.product((True, False), repeat=len(switches)):
        values: dict[str, Any] = {}
        for switch, state in zip(switches, states, strict=True):
            group, name = switch.split(".")
            values.setdefault(group, {})[name] = state
        for thing in render(values):
            validate(thing)


def test_every_object_carries_the_labels_of_the_release(objects: list[Object]) -> None:
    for thing in nonempty(objects):
        if thing["metadata"]["name"].endswith("more") or thing["metadata"]["name"].startswith("text-"):
            continue
        labels = thing["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "teacher-finetune"
        assert labels["app.kubernetes.io/instance"] == "tft"
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert labels["app.kubernetes.io/version"] == "0.1.0"
        assert labels["helm.sh/chart"] == "teacher-finetune-0.1.0"


def test_no_two_objects_have_the_same_name(objects: list[Object]) -> None:
    keys = [(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in objects]
    assert len(keys) == len(set(keys))


def test_common_labels_are_everywhere(render: Render) -> None:
    for thing in nonempty(render({"commonLabels": {"team": "vision"}})):
        assert thing["metadata"]["labels"]["team"] == "vision"
    pods = one(render({"commonLabels": {"team": "vision"}}), "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert pods["team"] == "vision"


def test_what_selects_the_pods_matches_them(objects: list[Object]) -> None:
    labels = one(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    selectors = [
        one(objects, "Deployment")["spec"]["selector"]["matchLabels"],
        one(objects, "Service")["spec"]["selector"],
    ]
    for thing in nonempty(objects):
        if thing["kind"] == "NetworkPolicy":
            selectors.append(thing["spec"]["podSelector"]["matchLabels"])
        if thing["kind"] == "PodDisruptionBudget":
            selectors.append(thing["spec"]["selector"]["matchLabels"])
        if thing["kind"] == "ServiceMonitor":
            service = one(objects, "Service")
            assert thing["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
            assert thing["spec"]["namespaceSelector"]["matchNames"] == [service["metadata"]["namespace"]]
    for selector in selectors:
        assert selector.items() <= labels.items()


def test_the_selector_of_the_deployment_holds_nothing_that_an_upgrade_changes(render: Render) -> None:
    selector = one(render(EVERYTHING), "Deployment")["spec"]["selector"]["matchLabels"]
    assert selector == one(render(), "Deployment")["spec"]["selector"]["matchLabels"]


def pods_of(objects: list[Object]) -> list[Object]:
    deployment = one(objects, "Deployment")["spec"]["template"]["spec"]
    return [deployment, *(thing["spec"] for thing in objects if thing["kind"] == "Pod")]


def test_pods_comply_with_the_restricted_standard(objects: list[Object]) -> None:
    for pod in nonempty(pods_of(objects)):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert all(set(volume) & {"emptyDir", "configMap"} for volume in pod["volumes"])
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]
            assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]


def test_the_user_is_left_to_openshift_where_that_is_wanted(render: Render) -> None:
    for pod in nonempty(pods_of(render())):
        assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == 65532
    for pod in nonempty(pods_of(render({"openshift": {"adaptSecurityContext": "force"}}))):
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & set(pod["securityContext"])


def test_only_the_pods_get_a_token(objects: list[Object]) -> None:
    assert all(pod["automountServiceAccountToken"] is True for pod in nonempty(pods_of(objects)))
    for thing in objects:
        if thing["kind"] == "ServiceAccount":
            assert thing["automountServiceAccountToken"] is False


def test_the_definition_is_kept_when_the_release_goes(render: Render) -> None:
    kept = one(render(), "CustomResourceDefinition")
    assert kept["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert "annotations" not in one(render({"crds": {"keep": False}}), "CustomResourceDefinition")["metadata"]
    noted = one(render({"crds": {"annotations": {"a": "b"}}}), "CustomResourceDefinition")["metadata"]["annotations"]
    assert noted == {"a": "b", "helm.sh/resource-policy": "keep"}
    assert not [thing for thing in render({"crds": {"enabled": False}}) if "Definition" in thing["kind"]]


def test_the_definition_of_the_chart_is_that_of_the_crds_folder(render: Render) -> None:
    source = objects_of((ROOT / "crds" / "teacherfinetunes.finetune.dev.yaml").read_text())[0]
    assert one(render(), "CustomResourceDefinition")["spec"] == source["spec"]


@pytest.mark.parametrize("file", files_of_manifests(), ids=lambda file: str(file.relative_to(ROOT)))
def test_manifests_and_examples_are_valid(file: Path) -> None:
    for thing in objects_of(file.read_text()):
        if "kind" not in thing:
            continue  # a patch or a configuration of Kustomize
        if file.name == "settings.yaml":
            thing = copy.deepcopy(thing)
            thing["spec"] |= {"selector": {}}
            thing["spec"]["template"]["spec"]["containers"][0]["image"] = "given"
        validate(thing)


def test_the_example_of_the_chart_is_valid() -> None:
    metadata = yaml.safe_load((CHART / "Chart.yaml").read_text())
    for example in yaml.safe_load(metadata["annotations"]["artifacthub.io/crdsExamples"]):
        validate(example)


def test_an_example_with_an_unknown_field_is_not_valid() -> None:
    example = objects_of((ROOT / "examples" / "gitops" / "runs" / "forklifts.yaml").read_text())[0]
    example["spec"]["dataset"]["anotations"] = "s3://acme-data/a.json"
    with pytest.raises(jsonschema.ValidationError, match="anotations"):
        validate(example)
