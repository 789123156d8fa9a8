"""What the values do to the operator."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import helm_python
import pytest
import yaml

from teacher_operator.api.settings import PREFIX, Settings

from .conftest import CHART, ROOT, RUN_PODS, Render, environment, one

CHANGED: dict[str, Any] = {
    "image": {"registry": "registry.example.com", "tag": "2"},
    "trainerImage": {"tag": "3", "pullPolicy": "Always"},
    "scope": {"namespaces": ["vision", "robots"]},
    "podEnv": {"HF_ENDPOINT": "https://hub.example.com"},
    "inspectResources": {"requests": {"cpu": 1}, "limits": {"memory": "2Gi"}},
    "trainerResources": {"requests": {"cpu": 0.5}, "limits": {"memory": "64Gi"}},
    "scratchSize": "50Gi",
    "caBundle": {"configMap": "authorities", "key": "bundle.pem"},
    **RUN_PODS,
    "allowedEndpoints": ["s3.example.com", "*.store.example.com"],
    "runNetworkPolicy": {"enabled": True, "egress": {"restricted": True}},
    "logFormat": "text",
    "logLevel": "DEBUG",
    "port": 9090,
    "metrics": {"label": "cost-center", "authentication": {"enabled": True}, "tls": {"secretName": "operator-tls"}},
    "workers": 32,
    "progressSeconds": 2.5,
    "gangTimeoutSeconds": 90,
    "resyncSeconds": 1000000,
    "leaderElection": {"enabled": True, "leaseName": "mine"},
}


def settings(render: Render, values: dict[str, Any] | None = None) -> Settings:
    return Settings.from_environment(environment(render(values)))


def test_the_values_say_what_the_operator_says_by_itself(render: Render) -> None:
    chart = settings(render)
    own = Settings(operator_image="teacher-finetune/operator:0.1.0", trainer_image="teacher-finetune/trainer:0.1.0")
    installed = {"lease_name", "pod_name", "pod_namespace"}
    assert chart.model_dump(exclude=installed) == own.model_dump(exclude=installed)


def test_every_setting_is_given_and_none_that_there_is_not(render: Render) -> None:
    given = {name for name in environment(render()) if name.startswith(PREFIX)}
    assert given == {PREFIX + name.upper() for name in Settings.model_fields}


def test_every_setting_can_be_changed_by_a_value(render: Render) -> None:
    before, after = settings(render), settings(render, CHANGED)
    from_the_pod = {"pod_name", "pod_namespace"}
    same = {name for name in Settings.model_fields if getattr(before, name) == getattr(after, name)}
    assert same == from_the_pod
    assert after.operator_image == "registry.example.com/teacher-finetune/operator:2"
    assert after.trainer_image == "registry.example.com/teacher-finetune/trainer:3"
    assert after.namespaces == ("vision", "robots")
    assert after.inspect_resources["requests"] == {"cpu": "1", "memory": "512Mi"}
    assert after.trainer_resources["requests"]["cpu"] == "0.5"
    assert after.progress_seconds == 2.5
    assert after.resync_seconds == 1_000_000


def test_the_pod_says_its_own_name_and_namespace(render: Render) -> None:
    given = environment(render())
    assert given["TEACHER_POD_NAME"] == "metadata.name"
    assert given["TEACHER_POD_NAMESPACE"] == "metadata.namespace"


@pytest.mark.parametrize("value", ["$(TEACHER_PORT)", "$$", "it's $5 & <b>", 'a "b" \\ {{ c }}', "ä"])
def test_variables_of_the_pods_arrive_as_they_were_written(render: Render, value: str) -> None:
    assert settings(render, {"podEnv": {"VALUE": value}}).pod_env == {"VALUE": value}


@pytest.mark.parametrize(
    ("image", "trainer", "expected"),
    [
        ({}, {}, "teacher-finetune/trainer:0.1.0"),
        ({"registry": "a.example.com/b/"}, {}, "a.example.com/b/teacher-finetune/trainer:0.1.0"),
        (
            {"registry": "a.example.com"},
            {"registry": "c.example.com:5000"},
            "c.example.com:5000/teacher-finetune/trainer:0.1.0",
        ),
        ({}, {"tag": "9", "digest": "sha256:" + "a" * 64}, "teacher-finetune/trainer@sha256:" + "a" * 64),
    ],
)
def test_an_image_is_named_by_registry_repository_and_tag_or_digest(
    render: Render, image: dict[str, str], trainer: dict[str, str], expected: str
) -> None:
    assert settings(render, {"image": image, "trainerImage": trainer}).trainer_image == expected


def test_inspection_runs_in_the_image_that_the_operator_runs_in(render: Render) -> None:
    objects = render(CHANGED)
    container = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == settings(render, CHANGED).operator_image


def test_one_operator_is_replaced_before_the_next_starts(render: Render) -> None:
    deployment = one(render(), "Deployment")["spec"]
    assert deployment["replicas"] == 1
    assert deployment["strategy"] == {"type": "Recreate"}


def test_with_leader_election_the_next_operator_is_ready_first(render: Render) -> None:
    deployment = one(render({"replicas": 2, "leaderElection": {"enabled": True}}), "Deployment")["spec"]
    assert deployment["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    assert deployment["template"]["spec"]["topologySpreadConstraints"][0]["topologyKey"] == "kubernetes.io/hostname"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"replicas": 2}, "replicas is 2, but several operators need leaderElection.enabled"),
        ({"strategy": {"type": "RollingUpdate"}}, "RollingUpdate runs two operators at the same time for a while"),
        ({"serviceAccount": {"create": False}}, "serviceAccount.name is required if serviceAccount.create is false"),
        (
            {"podDisruptionBudget": {"enabled": True, "minAvailable": 1, "maxUnavailable": 1}},
            "podDisruptionBudget takes minAvailable or maxUnavailable, not both",
        ),
        (
            {"serviceMonitor": {"enabled": True, "renderMode": "failIfMissing"}},
            "not have the kind ServiceMonitor .*: install the Prometheus operator, or set serviceMonitor.renderMode",
        ),
        (
            {"prometheusRule": {"enabled": True, "renderMode": "failIfMissing"}},
            "not have the kind PrometheusRule .*: install the Prometheus operator, or set prometheusRule.renderMode",
        ),
    ],
)
def test_values_that_contradict_each_other_are_refused_with_a_sentence(
    render: Render, values: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(helm_python.HelmError, match=sentence):
        render(values)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"replicaz": 2}, "'replicaz' not allowed"),
        ({"image": {"tags": "1"}}, "'/image'.*'tags' not allowed"),
        ({"replicas": "two"}, "'/replicas'.*want integer"),
        ({"replicas": -1}, "'/replicas'.*minimum"),
        ({"logLevel": "verbose"}, "'/logLevel'.*one of 'DEBUG', 'INFO', 'WARNING', 'ERROR'"),
        ({"workers": 0}, "'/workers'.*minimum"),
        ({"podEnv": {"HF_HUB_OFFLINE": 1}}, "'/podEnv/HF_HUB_OFFLINE'.*want string"),
        ({"podEnv": {"A-B": "1"}}, "'/podEnv'.*'A-B' not allowed"),
        ({"scope": {"namespaces": "vision"}}, "'/scope/namespaces'.*want array"),
        ({"scope": {"namespaces": ["vision", "vision"]}}, "'/scope/namespaces'.*equal"),
        ({"scope": {"namespaces": ["Vision"]}}, "'/scope/namespaces/0'.*pattern"),
        ({"trainerResources": {"limit": {}}}, "'/trainerResources'.*'limit' not allowed"),
        ({"trainerResources": {"limits": {"memory": "32 GB"}}}, "'/trainerResources/limits/memory'"),
        ({"image": {"digest": "latest"}}, "'/image/digest'.*pattern"),
        ({"image": {"registry": "https://registry.example.com"}}, "'/image/registry'.*pattern"),
        ({"probes": {"liveness": {"timeoutSeconds": 1}}}, "'/probes/liveness/timeoutSeconds'.*minimum"),
        ({"strategy": {"rollingUpdate": {"maxSurge": 1}}}, "'/strategy'"),
        ({"networkPolicy": {"apiServer": {"ports": []}}}, "'/networkPolicy/apiServer/ports'"),
        ({"serviceMonitor": {"renderMode": "always"}}, "'/serviceMonitor/renderMode'.*one of"),
        ({"commonLabels": {"a": 1}}, "'/commonLabels/a'.*want string"),
        ({"caBundle": {"key": "a/b"}}, "'/caBundle/key'.*pattern"),
        ({"caBundle": {"secret": "a"}}, "'/caBundle'.*'secret' not allowed"),
        ({"allowedEndpoints": ["https://s3.example.com"]}, "'/allowedEndpoints/0'.*pattern"),
    ],
)
def test_the_schema_refuses_what_cannot_be_and_says_where(
    render: Render, values: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(helm_python.HelmError, match=re.compile(complaint, re.DOTALL)):
        render(values)


def test_the_schema_takes_what_helm_gives_a_chart_within_another(render: Render) -> None:
    assert render({"global": {"anything": True}})


def test_a_probe_waits_as_long_as_a_busy_loop_may_take(render: Render) -> None:
    container = one(render(), "Deployment")["spec"]["template"]["spec"]["containers"][0]
    for probe, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        assert container[probe]["httpGet"] == {"path": path, "port": "http"}
        assert container[probe]["timeoutSeconds"] >= 5


def test_the_service_leads_to_the_port_whatever_it_is(render: Render) -> None:
    objects = render({"port": 9090})
    container = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert container["ports"] == [{"name": "http", "containerPort": 9090}]
    assert one(objects, "Service")["spec"]["ports"] == [{"name": "http", "port": 8080, "targetPort": "http"}]


def test_the_network_policy_lets_the_operator_reach_names_and_the_api_server_alone(render: Render) -> None:
    policy = one(render({"networkPolicy": {"enabled": True}, "port": 9090}), "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert [{port["port"] for port in rule["ports"]} for rule in policy["egress"]] == [{53}, {443, 6443}]
    assert policy["ingress"] == [{"ports": [{"port": 9090, "protocol": "TCP"}]}]


def test_a_network_policy_that_limits_who_asks_still_lets_the_test_in(render: Render) -> None:
    allowed = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    objects = render({"networkPolicy": {"enabled": True, "ingressFrom": allowed}})
    sources = one(objects, "NetworkPolicy")["spec"]["ingress"][0]["from"]
    assert sources[0] == allowed[0]
    assert sources[1]["podSelector"]["matchLabels"].items() <= one(objects, "Pod")["metadata"]["labels"].items()


@pytest.mark.parametrize(
    ("values", "limit"),
    [
        ({}, {"maxUnavailable": 1}),
        ({"minAvailable": 0}, {"minAvailable": 0}),
        ({"minAvailable": "50%"}, {"minAvailable": "50%"}),
        ({"maxUnavailable": 0}, {"maxUnavailable": 0}),
    ],
)
def test_the_disruption_budget_has_one_limit(render: Render, values: dict[str, Any], limit: dict[str, Any]) -> None:
    budget = one(render({"podDisruptionBudget": {"enabled": True, **values}}), "PodDisruptionBudget")["spec"]
    assert {key: budget[key] for key in ("minAvailable", "maxUnavailable") if key in budget} == limit


def test_what_most_do_not_need_is_left_out(render: Render) -> None:
    kinds = {thing["kind"] for thing in render()}
    assert not kinds & {"NetworkPolicy", "PodDisruptionBudget", "ServiceMonitor", "PrometheusRule", "ConfigMap"}


@pytest.mark.parametrize("name", ["serviceMonitor", "prometheusRule"])
def test_monitoring_is_passed_over_where_the_cluster_cannot_have_it(render: Render, name: str) -> None:
    kind = name[0].upper() + name[1:]
    assert kind not in {thing["kind"] for thing in render({name: {"enabled": True}})}
    assert kind in {thing["kind"] for thing in render({name: {"enabled": True, "renderMode": "alwaysRender"}})}
    assert kind not in {thing["kind"] for thing in render({name: {"enabled": False, "renderMode": "alwaysRender"}})}


def test_helm_test_asks_the_service_with_a_right_of_its_own(render: Render) -> None:
    objects = render(namespace="ops")
    hooks = [thing for thing in objects if "helm.sh/hook" in thing["metadata"].get("annotations", {})]
    assert {thing["kind"] for thing in hooks} == {"ServiceAccount", "Role", "RoleBinding", "Pod"}
    assert all(thing["metadata"]["annotations"]["helm.sh/hook"] == "test" for thing in hooks)
    weights = {thing["kind"]: int(thing["metadata"]["annotations"].get("helm.sh/hook-weight", 0)) for thing in hooks}
    assert weights["Role"] < weights["RoleBinding"] < weights["Pod"]
    pod = one(hooks, "Pod")["spec"]
    service = one(objects, "Service")["metadata"]
    assert pod["containers"][0]["args"] == [
        "selftest",
        "--url",
        f"http://{service['name']}.{service['namespace']}.svc:8080",
    ]
    assert pod["serviceAccountName"] == one(hooks, "ServiceAccount")["metadata"]["name"]
    assert one(hooks, "RoleBinding")["subjects"][0]["name"] == pod["serviceAccountName"]


def test_the_operator_has_the_command_of_the_test(
    render: Render, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from teacher_operator.__main__ import main

    arguments = one(render(), "Pod")["spec"]["containers"][0]["args"]
    monkeypatch.setattr("sys.argv", ["teacher-operator", *arguments, "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert "--url" in capsys.readouterr().out


def test_helm_test_is_left_out_where_no_rights_may_be_made(render: Render) -> None:
    for values in ({"rbac": {"create": False}}, {"tests": {"enabled": False}}):
        assert "Pod" not in {thing["kind"] for thing in render(values)}


@pytest.mark.parametrize(
    ("values", "note"),
    [
        ({}, "NOTE: image.registry is empty"),
        ({"replicas": 0}, "WARNING: replicas is 0"),
        ({"crds": {"enabled": False}}, "NOTE: crds.enabled is false"),
        ({"crds": {"keep": False}}, "WARNING: crds.keep is false"),
        ({"rbac": {"create": False}}, "NOTE: rbac.create is false"),
        ({"serviceMonitor": {"enabled": True}}, "WARNING: serviceMonitor.enabled is true, but"),
        ({"prometheusRule": {"enabled": True}}, "WARNING: prometheusRule.enabled is true, but"),
    ],
)
def test_the_notes_say_what_to_look_after(
    templates: Callable[..., dict[str, str]], values: dict[str, Any], note: str
) -> None:
    assert note in templates(values)["NOTES.txt"]
    fine = {
        "image": {"registry": "registry.example.com"},
        "serviceMonitor": {"enabled": True, "renderMode": "alwaysRender"},
        "scope": {"namespaces": ["vision"]},
    }
    notes = templates(fine)["NOTES.txt"]
    assert "NOTE:" not in notes
    assert "WARNING:" not in notes
    assert "kubectl apply -n vision -f -" in notes


def test_the_object_of_the_notes_is_one_that_the_operator_takes(templates: Callable[..., dict[str, str]]) -> None:
    from teacher_operator.api.spec import parse_spec

    text = re.search(r"<<'EOF'\n(.*?)  EOF", templates()["NOTES.txt"], re.DOTALL)
    assert text is not None
    body = yaml.safe_load(text[1])
    assert body["kind"] == "TeacherFineTune"
    assert parse_spec(body).output == "s3://acme-models/forklifts/"


@pytest.mark.parametrize(
    ("values", "release", "name"),
    [
        ({}, "teacher-finetune", "teacher-finetune"),
        ({}, "vision", "vision-teacher-finetune"),
        ({"nameOverride": "tuner"}, "vision", "vision-tuner"),
        ({"fullnameOverride": "tuner"}, "vision", "tuner"),
        ({}, "v" * 53, "v" * 50),
    ],
)
def test_objects_are_named_for_the_release(render: Render, values: dict[str, Any], release: str, name: str) -> None:
    assert one(render(values, name=release), "Deployment")["metadata"]["name"] == name


def test_the_chart_has_the_version_of_the_project() -> None:
    metadata = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert project is not None
    assert metadata["version"] == metadata["appVersion"] == project[1]


def test_the_chart_can_be_packaged(tmp_path: Any) -> None:
    archive = helm_python.package(CHART, destination=tmp_path)
    with helm_python.Chart.load(archive) as packaged:
        names = {file["name"] for file in packaged.files}
        assert {"README.md", "files/dashboard.json", "files/alerts.yaml", "files/argocd-health.lua"} <= names
        assert packaged.schema == json.loads((CHART / "values.schema.json").read_text())
