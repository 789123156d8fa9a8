"""What an object's children are: names, labels, Jobs, ConfigMap, Service."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import kubernetes_validate
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from loops import nonempty
from tft_objects import BOXES, FULL, GPU, MASKS, MINIMAL, NAME, NAMESPACE, SETTINGS, UID, body_of

from engine.manifest import load_manifest
from engine.processes.launch import GRACE
from engine.spec import FineTuneSpec, TeacherName
from engine.stages import INSPECTION
from engine.stages import training as training_stage
from teacher_operator.api.names import (
    FIELD_MANAGER,
    KUEUE_PRIORITY,
    KUEUE_QUEUE,
    MANAGED_BY,
    PLATFORM_HASH,
    SUSPENDED,
    Key,
    inspect_job,
    owner_uid,
    request_config_map,
    run_of,
    trainer_job,
)
from teacher_operator.api.settings import Settings
from teacher_operator.api.spec import APPLIED_TO_JOBS, NAME_MAX, PLATFORM, TeacherFineTuneSpec, parse_spec
from teacher_operator.decide import job_patches, jobs
from teacher_operator.decide.pod_template import DISK, MODELS
from teacher_operator.decide.request_config_map import request

CONFIG = "s3://acme-models/forklifts/forklifts/0123456789ab/teacher_config.yaml"
KUBERNETES = ("1.31", kubernetes_validate.latest_version())
"""The oldest version that the chart takes, and the newest whose schema is known."""

NAMES = st.from_regex(r"\A[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z").filter(lambda name: len(name) <= NAME_MAX)
Manifest = dict[str, Any]


def training(
    spec: Mapping[str, Any] | None = None,
    *,
    teacher: TeacherName = MASKS,
    settings: Settings = SETTINGS,
    name: str = NAME,
    config_uri: str = CONFIG,
    **changes: Any,
) -> Manifest:
    body = body_of(spec, name=name, **changes)
    parsed = parse_spec(body)
    left = parsed.active_deadline_seconds
    return jobs.stage_job(body, parsed, settings, training_stage(teacher), config_uri=config_uri, seconds_left=left)


def inspection(spec: Mapping[str, Any] | None = None, *, settings: Settings = SETTINGS, **changes: Any) -> Manifest:
    body = body_of(spec, **changes)
    return jobs.stage_job(body, parse_spec(body), settings, INSPECTION)


def children(spec: Mapping[str, Any] | None = None, *, name: str = NAME, **changes: Any) -> list[Manifest]:
    """Every child that an object can have."""
    body = body_of(spec, name=name, **changes)
    parsed = parse_spec(body)
    trainers = [
        child
        for teacher in TeacherName
        for child in (
            jobs.rendezvous(body, training_stage(teacher)),
            jobs.stage_job(body, parsed, SETTINGS, training_stage(teacher), config_uri=CONFIG),
        )
    ]
    return [request(body), jobs.stage_job(body, parsed, SETTINGS, INSPECTION), *trainers]


def pod(job: Manifest) -> Manifest:
    spec: Manifest = job["spec"]["template"]["spec"]
    return spec


def container(job: Manifest) -> Manifest:
    (only,) = pod(job)["containers"]
    result: Manifest = only
    return result


def env(job: Manifest) -> dict[str, Any]:
    entries = container(job)["env"]
    names = [entry["name"] for entry in entries]
    assert len(names) == len(set(names)), f"server-side apply refuses a variable that is there twice: {names}"
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in entries}


def volumes(job: Manifest) -> dict[str, Manifest]:
    """Volumes by where they are mounted, with the mount's own settings."""
    by_name = {volume["name"]: volume for volume in pod(job)["volumes"]}
    assert {mount["name"] for mount in container(job)["volumeMounts"]} == set(by_name)
    return {mount["mountPath"]: {**by_name[mount["name"]], "mount": mount} for mount in container(job)["volumeMounts"]}


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from (key, *strings(inner))
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


SPECS = {
    "least": MINIMAL,
    "full": FULL,
    "no gpu": {**MINIMAL, "gpus": 0},
    "nodes": {**FULL, "nodes": 4, "gpus": 8},
    "claim": {**FULL, "scratch": {"claimName": "scratch"}},
}


# Names and labels.


@settings(deadline=None)
@given(st.sets(NAMES, min_size=2, max_size=2))
def test_children_of_two_objects_never_share_a_name(names: set[str]) -> None:
    one, other = (
        {
            inspect_job(name),
            request_config_map(name, UID),
            *(trainer_job(name, teacher) for teacher in TeacherName),
        }
        for name in names
    )
    assert len(one) == len(other) == 2 + len(TeacherName)
    assert not one & other


def test_the_longest_name_leaves_room_for_every_child_and_every_index_of_a_pod() -> None:
    most_nodes = next(m.le for m in TeacherFineTuneSpec.model_fields["nodes"].metadata if hasattr(m, "le"))
    for child in nonempty(children(name="n" * NAME_MAX)):
        assert len(child["metadata"]["name"]) <= 63
        if child["kind"] == "Job":  # the host name of a pod of an indexed Job
            assert len(f"{child['metadata']['name']}-{most_nodes - 1}") <= 63


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_children_copy_no_labels_of_the_object(spec: Mapping[str, Any]) -> None:
    """Labels and annotations of GitOps tools make them prune a child that carries them."""
    foreign = {"app.kubernetes.io/instance", "argo-app", "team", "argocd.argoproj.io/tracking-id"}
    for child in nonempty(children(spec)):
        assert not foreign & set(strings(child))
        allowed = {
            MANAGED_BY,
            KUEUE_QUEUE,
            "cost-center",
            KUEUE_PRIORITY,
            *(f"finetune.dev/{word}" for word in ("run", "component", "teacher")),
        }
        assert set(child["metadata"]["labels"]) <= allowed
        assert set(child["metadata"].get("annotations", {})) <= {PLATFORM_HASH, "sidecar.istio.io/inject"}
        template = child["spec"].get("template", {}) if child["kind"] == "Job" else {}
        assert set(template.get("metadata", {})) <= {"labels", "annotations"}


def test_every_child_is_found_by_its_labels_and_goes_with_its_object() -> None:
    for child in nonempty(children(FULL)):
        assert child["metadata"]["labels"][MANAGED_BY] == FIELD_MANAGER
        assert run_of(child) == Key(NAMESPACE, NAME)
        assert owner_uid(child) == UID
        (owner,) = child["metadata"]["ownerReferences"]
        assert owner["blockOwnerDeletion"] is True
        assert (owner["apiVersion"], owner["kind"], owner["name"]) == ("finetune.dev/v1alpha1", "TeacherFineTune", NAME)
        if child["kind"] == "Job":
            assert run_of({"metadata": {"namespace": NAMESPACE, **child["spec"]["template"]["metadata"]}}) == Key(
                NAMESPACE, NAME
            )


def test_only_a_controller_owns() -> None:
    references = [{"uid": "other", "controller": False}, {"uid": "backup"}, {"uid": "mine", "controller": True}]
    assert owner_uid({"metadata": {"ownerReferences": references}}) == "mine"
    assert owner_uid({"metadata": {"ownerReferences": references[:2]}}) == ""
    assert owner_uid({"metadata": {}}) == ""


def test_a_child_without_our_label_is_of_no_object() -> None:
    assert run_of({"metadata": {"namespace": "x", "labels": {"app": "y"}}}) is None
    assert run_of({"metadata": {"namespace": "x"}}) is None


# What the API server takes.


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_the_api_server_takes_every_child(spec: Mapping[str, Any], version: str) -> None:
    for child in children(spec):
        kubernetes_validate.validate(child, version, strict=True)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_pod_is_fit_for_the_restricted_security_standard(spec: Mapping[str, Any]) -> None:
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    for child in nonempty(children(spec)):
        if child["kind"] != "Job":
            continue
        template = pod(child)
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers", "ephemeralContainers"} & set(template)
        assert {key for volume in template["volumes"] for key in volume} <= {"name"} | allowed
        security = template["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert security.get("runAsUser") != 0
        assert "sysctls" not in security
        for one in template["containers"]:
            assert one["securityContext"]["allowPrivilegeEscalation"] is False
            assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert not {"privileged", "procMount", "runAsUser"} & set(one["securityContext"])
            assert not {port.get("hostPort") for port in one.get("ports", ())}
            assert one["securityContext"]["readOnlyRootFilesystem"] is True
        assert template["automountServiceAccountToken"] is False


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_place_that_is_written_to_is_a_volume(spec: Mapping[str, Any]) -> None:
    for job in (inspection(spec), training(spec)):
        mounted = volumes(job)
        for name in ("HOME", "TMPDIR", "TEACHER_CACHE", "HF_HOME"):
            place = env(job)[name]
            root = next(path for path in mounted if place == path or place.startswith(f"{path}/"))
            assert "readOnly" not in mounted[root]["mount"]
    command = container(training(spec))["command"]
    assert command[command.index("--work-dir") + 1].startswith(f"{DISK}/")
    assert command[command.index("--outcome") + 1] == "/dev/termination-log"


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_rendering_is_deterministic_and_changes_nothing(spec: Mapping[str, Any]) -> None:
    before = json.dumps(spec)
    first, second = children(copy.deepcopy(dict(spec))), children(dict(reversed(list(spec.items()))))
    assert [yaml.safe_dump(child) for child in first if child["kind"] != "ConfigMap"] == [
        yaml.safe_dump(child) for child in second if child["kind"] != "ConfigMap"
    ]
    assert json.dumps(children(spec)) == json.dumps(first)
    assert json.dumps(spec) == before


# Where each setting of the platform lands.

Check = Callable[[Manifest], object]

LANDS: dict[str, tuple[Any, Check, object]] = {
    "serviceAccountName": ("trainer", lambda job: pod(job)["serviceAccountName"], "trainer"),
    "gpus": (
        4,
        lambda job: [container(job)["resources"][kind][GPU] for kind in ("requests", "limits")],
        ["4", "4"],
    ),
    "nodes": (
        3,
        lambda job: [job["spec"][key] for key in ("completionMode", "completions", "parallelism")],
        ["Indexed", 3, 3],
    ),
    "gpuResourceName": (
        "nvidia.com/mig-1g.10gb",
        lambda job: [container(job)["resources"], pod(job)["tolerations"]],
        [
            {
                "requests": {"cpu": "4", "memory": "16Gi", "nvidia.com/mig-1g.10gb": "1"},
                "limits": {"memory": "32Gi", "nvidia.com/mig-1g.10gb": "1"},
            },
            [{"key": "nvidia.com/mig-1g.10gb", "operator": "Exists"}],
        ],
    ),
    "nodeSelector": ({"zone": "a"}, lambda job: pod(job)["nodeSelector"], {"zone": "a"}),
    "affinity": (FULL["affinity"], lambda job: pod(job)["affinity"], FULL["affinity"]),
    "tolerations": (
        [{"key": "spot", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30}],
        lambda job: pod(job)["tolerations"],
        [
            {"key": "spot", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30},
            {"key": GPU, "operator": "Exists"},
        ],
    ),
    "runtimeClassName": ("nvidia", lambda job: pod(job)["runtimeClassName"], "nvidia"),
    "priorityClassName": ("batch", lambda job: pod(job)["priorityClassName"], "batch"),
    "resources": (
        {"requests": {"cpu": "2"}, "limits": {"memory": "9Gi"}},
        lambda job: container(job)["resources"],
        {"requests": {"cpu": "2", GPU: "1"}, "limits": {"memory": "9Gi", GPU: "1"}},
    ),
    "pod": ({"labels": {"team": "a"}}, lambda job: job["spec"]["template"]["metadata"]["labels"]["team"], "a"),
    "stages": ([{"name": "Sam", "nodeSelector": {"zone": "b"}}], lambda job: pod(job)["nodeSelector"], {"zone": "b"}),
    "sharedMemory": (
        "8Gi",
        lambda job: volumes(job)["/dev/shm"]["emptyDir"],
        {"medium": "Memory", "sizeLimit": "8Gi"},
    ),
    "scratch": ({"size": "50Gi"}, lambda job: volumes(job)[DISK]["emptyDir"], {"sizeLimit": "50Gi"}),
    "modelCache": (
        {"claimName": "models"},
        lambda job: [volumes(job)[MODELS]["persistentVolumeClaim"], env(job)["HF_HOME"]],
        [{"claimName": "models"}, f"{MODELS}/huggingface"],
    ),
    "imagePullSecrets": ([{"name": "reg"}], lambda job: pod(job)["imagePullSecrets"], [{"name": "reg"}]),
    "queueName": (
        "team-a",
        lambda job: [job["metadata"]["labels"][KUEUE_QUEUE], job["spec"]["suspend"]],
        ["team-a", True],
    ),
    "workloadPriorityClassName": ("urgent", lambda job: job["metadata"]["labels"].get(KUEUE_PRIORITY), "urgent"),
    "managedBy": ("kueue.x-k8s.io/multikueue", lambda job: job["spec"].get("managedBy"), "kueue.x-k8s.io/multikueue"),
    "suspend": (True, lambda job: job["spec"]["suspend"], True),
    "backoffLimit": (0, lambda job: job["spec"]["backoffLimit"], 0),
    "activeDeadlineSeconds": (600, lambda job: job["spec"]["activeDeadlineSeconds"], 600),
    "pendingDeadlineSeconds": (600, lambda job: "pendingDeadlineSeconds" in job["spec"], False),
    "gangTimeoutSeconds": (600, lambda job: "gangTimeoutSeconds" in job["spec"], False),
    "ttlSecondsAfterFinished": (600, lambda job: "ttlSecondsAfterFinished" in job["spec"], False),
}


def test_it_is_known_where_every_setting_of_the_platform_lands() -> None:
    assert set(LANDS) == set(PLATFORM)


@pytest.mark.parametrize("name", LANDS)
def test_a_setting_of_the_platform_lands_in_the_trainers_job(name: str) -> None:
    value, read, expected = LANDS[name]
    assert read(training(**{name: value})) == expected


@pytest.mark.parametrize("name", LANDS)
def test_a_setting_that_is_left_out_leaves_nothing_behind(name: str) -> None:
    _, read, expected = LANDS[name]
    try:
        found = read(training())
    except KeyError:
        return
    assert found != expected or name in {"pendingDeadlineSeconds", "gangTimeoutSeconds", "ttlSecondsAfterFinished"}


def test_a_trainer_needs_no_gpu() -> None:
    job = training(gpus=0)
    assert not [name for name in strings(container(job)["resources"]) if "/" in name]
    assert "tolerations" not in pod(job)
    assert container(job)["command"][0] == "teacher"


def test_resources_of_the_object_take_the_place_of_those_of_the_installation() -> None:
    settings = SETTINGS.model_copy(update={"trainer_resources": {"limits": {"cpu": "3"}}})
    assert container(training(settings=settings))["resources"] == {
        "limits": {"cpu": "3", GPU: "1"},
        "requests": {GPU: "1"},
    }
    assert container(training(settings=settings, gpus=0, resources={"requests": {"cpu": "1"}}))["resources"] == {
        "requests": {"cpu": "1"}
    }


@pytest.mark.parametrize(("spec", "size"), [({}, "7Gi"), ({"scratch": {"size": "50Gi"}}, "50Gi")])
def test_every_emptydir_is_bounded(spec: dict[str, Any], size: str) -> None:
    settings = SETTINGS.model_copy(update={"scratch_size": "7Gi"})
    spec = {
        **spec,
        "pod": {"volumes": [{"name": "mine", "emptyDir": {}}, {"name": "tiny", "emptyDir": {"sizeLimit": "1Mi"}}]},
    }
    for job in (training(settings=settings, **spec), inspection(settings=settings, **spec)):
        given = {one["name"]: one["emptyDir"] for one in pod(job)["volumes"] if "emptyDir" in one}
        assert (given["mine"], given["tiny"]) == ({"sizeLimit": "7Gi"}, {"sizeLimit": "1Mi"})
        assert given["scratch"] == {"sizeLimit": size}
        assert all(one["emptyDir"].get("sizeLimit") for one in nonempty(pod(job)["volumes"]) if "emptyDir" in one)


def test_two_teachers_share_a_claim_for_scratch_without_meeting() -> None:
    paths = set()
    for teacher in TeacherName:
        disk = volumes(training(teacher=teacher, scratch={"claimName": "big"}))[DISK]
        assert disk["persistentVolumeClaim"] == {"claimName": "big"}
        paths.add(disk["mount"]["subPath"])
    assert len(paths) == len(TeacherName)


@pytest.mark.parametrize("spec", [{"scratch": {"claimName": "big"}}, {"modelCache": {"claimName": "models"}}])
def test_claims_can_be_written_to_without_being_root(spec: dict[str, Any]) -> None:
    assert pod(training(**spec))["securityContext"]["fsGroup"] > 0
    assert "fsGroup" not in pod(training())["securityContext"]
    assert "fsGroup" not in pod(inspection(**spec))["securityContext"]


def test_inspection_has_no_gpu_settings() -> None:
    job = inspection({**FULL, "pod": {}, "stages": []})
    assert KUEUE_QUEUE not in job["metadata"]["labels"]
    assert job["spec"]["suspend"] is False
    assert container(job)["resources"] == SETTINGS.inspect_resources
    assert not any("persistentVolumeClaim" in volume for volume in pod(job)["volumes"])
    assert pod(job)["serviceAccountName"] == "trainer"
    assert pod(job)["imagePullSecrets"] == [{"name": "registry"}]
    assert container(job)["image"] == SETTINGS.operator_image
    assert container(training())["image"] == SETTINGS.trainer_image


def test_inspection_reads_the_request() -> None:
    job = inspection()
    assert container(job)["command"] == [
        "teacher",
        "prepare",
        "-f",
        "/etc/teacher/request.yaml",
        "--outcome",
        "/dev/termination-log",
    ]
    request = volumes(job)["/etc/teacher"]
    assert request["configMap"] == {"name": request_config_map(NAME, UID)}
    assert request["mount"]["readOnly"] is True


def test_the_job_of_inspection_has_no_deadline_that_counts_its_wait() -> None:
    """One that an earlier version of the operator has made loses its own."""
    job, spec, suspended = inspection(), parse_spec(body_of()), parse_spec(body_of(suspend=True))
    assert "activeDeadlineSeconds" not in job["spec"]
    assert job_patches.job_patch(job, INSPECTION, spec) is None
    job["spec"]["activeDeadlineSeconds"] = 4 * 3600
    assert job_patches.job_patch(job, INSPECTION, spec) == {"spec": {"activeDeadlineSeconds": None}}
    patch = job_patches.job_patch(job, INSPECTION, suspended) or {}
    assert patch["spec"] == {"suspend": True, "activeDeadlineSeconds": None}


@pytest.mark.parametrize("teacher", TeacherName)
def test_a_trainer_trains_one_teacher_of_the_planned_run(teacher: TeacherName) -> None:
    command = container(training(teacher=teacher))["command"]
    assert command[:2] == ["teacher", "train"]
    for flag, value in {"--config": CONFIG, "--teacher": teacher.value, "--progress": "json"}.items():
        assert command[command.index(flag) + 1] == value


# Several GPUs, several nodes.


def test_several_gpus_of_one_node_need_no_service() -> None:
    job = training(gpus=8)
    command = container(job)["command"]
    assert command[:7] == ["teacher", "launch", "--processes", "8", "--outcome", "/dev/termination-log", "train"]
    assert "--outcome" not in command[7:]
    assert "completionMode" not in job["spec"]
    assert "subdomain" not in pod(job)


def test_a_checkpoint_has_the_time_that_a_pod_is_given_to_stop() -> None:
    assert pod(training(gpus=8))["terminationGracePeriodSeconds"] > GRACE


def test_the_pods_of_several_nodes_find_the_first() -> None:
    body = body_of(nodes=3, gpus=2)
    job = jobs.stage_job(body, parse_spec(body), SETTINGS, training_stage(MASKS), config_uri=CONFIG)
    service = jobs.rendezvous(body, training_stage(MASKS))
    name = job["metadata"]["name"]
    assert container(job)["command"][:13] == [
        *("teacher", "launch", "--processes", "2"),
        *("--nodes", "3", "--node-rank", "$(JOB_COMPLETION_INDEX)", "--rendezvous", f"{name}-0.{name}:29500"),
        *("--outcome", "/dev/termination-log", "train"),
    ]
    assert pod(job)["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["ports"] == [{"name": "rendezvous", "port": 29500}]
    assert service["spec"]["selector"].items() <= job["spec"]["template"]["metadata"]["labels"].items()
    assert service["spec"]["selector"]["finetune.dev/teacher"] == "sam"
    assert (container(job)["resources"]["limits"][GPU]) == "2"


def test_of_several_nodes_a_failure_is_that_of_all_of_them() -> None:
    assert training(nodes=4, backoffLimit=2)["spec"]["backoffLimit"] == 8
    assert training(nodes=4, backoffLimit=0)["spec"]["backoffLimit"] == 0


def test_the_teachers_of_an_object_do_not_meet_in_a_service() -> None:
    services = [jobs.rendezvous(body_of(), training_stage(teacher)) for teacher in TeacherName]
    assert len({one["metadata"]["name"] for one in services}) == len(TeacherName)
    assert len({json.dumps(one["spec"]["selector"]) for one in services}) == len(TeacherName)


@settings(deadline=None)
@given(NAMES.filter(lambda name: name[0].isalpha()))
def test_every_service_has_a_name_that_a_service_may_have(name: str) -> None:
    """Names that begin with a digit are refused with several nodes: see the rules of the CRD."""
    for child in nonempty(children(name=name)):
        if child["kind"] == "Service":
            assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", child["metadata"]["name"])


# Secrets and the environment.


def test_secrets_are_only_referred_to() -> None:
    for job in (inspection(FULL), training(FULL)):
        variables = env(job)
        assert variables["AWS_ACCESS_KEY_ID"] == {"secretKeyRef": {"name": "s3-keys", "key": "AWS_ACCESS_KEY_ID"}}
        assert variables["AWS_SECRET_ACCESS_KEY"] == {
            "secretKeyRef": {"name": "s3-keys", "key": "AWS_SECRET_ACCESS_KEY"}
        }
        for name in ("AWS_SESSION_TOKEN", "HF_TOKEN"):
            assert variables[name] == {"secretKeyRef": {"name": "s3-keys", "key": name, "optional": True}}
        assert not any("secret" in volume for volume in pod(job)["volumes"])
        assert "envFrom" not in container(job)
        without_keys = {name: value for name, value in variables.items() if isinstance(value, str)}
        assert "s3-keys" not in list(strings(without_keys))


def test_without_a_secret_the_identity_of_the_pod_is_used() -> None:
    for job in (inspection(), training()):
        assert not [name for name in env(job) if "KEY" in name or "TOKEN" in name]


def test_storage_settings_become_variables_of_the_pod() -> None:
    for job in (inspection(FULL), training(FULL)):
        variables = env(job)
        assert "AWS_ENDPOINT_URL" not in variables, "it would be that of STS too, which is given the pod's identity"
        assert variables["AWS_ENDPOINT_URL_S3"] == "https://minio.storage:9000"
        assert variables["AWS_REGION"] == variables["AWS_DEFAULT_REGION"] == "eu-west-1"


def test_the_installation_adds_to_the_environment_and_the_object_has_the_last_word() -> None:
    own = {"HTTPS_PROXY": "http://proxy", "AWS_ENDPOINT_URL": "http://default", "AWS_REGION": "us-east-1"}
    settings = SETTINGS.model_copy(update={"pod_env": own})
    assert env(training(settings=settings))["AWS_ENDPOINT_URL"] == "http://default"
    variables = env(training(FULL, settings=settings))
    assert variables["HTTPS_PROXY"] == "http://proxy"
    assert variables["AWS_ENDPOINT_URL_S3"] == "https://minio.storage:9000"
    assert variables["AWS_REGION"] == "eu-west-1"


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "HF_TOKEN"])
def test_a_key_of_the_installation_gives_way_to_the_secret_of_the_object(name: str) -> None:
    settings = SETTINGS.model_copy(update={"pod_env": {name: "of the installation"}})
    assert env(training(settings=settings))[name] == "of the installation"
    assert env(training(FULL, settings=settings))[name]["secretKeyRef"]["name"] == "s3-keys"


BUNDLES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")


def test_pods_trust_the_authorities_of_the_installation_or_of_the_object() -> None:
    ours = SETTINGS.model_copy(update={"ca_bundle_config_map": "authorities", "ca_bundle_key": "bundle.pem"})
    theirs = {**MINIMAL, "storage": {"caBundleConfigMapRef": {"name": "theirs"}}}
    for make in (training, inspection):
        assert not {*BUNDLES} & env(make()).keys()
        for job, name, key in (
            (make(settings=ours), "authorities", "bundle.pem"),
            (make(theirs, settings=ours), "theirs", "ca.crt"),
            (make(theirs), "theirs", "ca.crt"),
        ):
            mount = volumes(job)["/etc/teacher-ca"]
            assert mount["configMap"] == {"name": name, "items": [{"key": key, "path": "ca.crt"}]}
            assert {env(job)[variable] for variable in BUNDLES} == {"/etc/teacher-ca/ca.crt"}
        in_the_image = make({**MINIMAL, "storage": {"caBundle": "/etc/ours.pem"}}, settings=ours)
        assert {env(in_the_image)[variable] for variable in BUNDLES} == {"/etc/ours.pem"}
        assert "/etc/teacher-ca" not in volumes(in_the_image)
    assert "caBundle" not in str(request(body_of(theirs)))
    assert platform_hash(storage=theirs["storage"]) != platform_hash()


def test_the_way_to_reach_a_store_is_given_to_every_pod() -> None:
    spec = {**MINIMAL, "storage": {"addressingStyle": "virtual", "requesterPays": True}}
    for make in (training, inspection):
        assert not [name for name in env(make()) if name.startswith("TEACHER_S3")]
        assert env(make(spec))["TEACHER_S3_ADDRESSING_STYLE"] == "virtual"
        assert env(make(spec))["TEACHER_S3_REQUESTER_PAYS"] == "true"
    text = request(body_of(spec))["data"]["request.yaml"]
    assert load_manifest(text, where="request.yaml").spec == FineTuneSpec.model_validate(spec)
    assert platform_hash(storage=spec["storage"]) == platform_hash()


# The request.


def test_the_request_is_the_object_without_its_platform() -> None:
    config_map = request(body_of(FULL))
    (text,) = config_map["data"].values()
    manifest = load_manifest(text, where="request.yaml")
    assert manifest.name == NAME
    inputs = {name: value for name, value in FULL.items() if name not in PLATFORM}
    inputs["storage"] = {name: value for name, value in FULL["storage"].items() if name != "credentialsSecretRef"}
    assert manifest.spec == FineTuneSpec.model_validate(inputs)
    assert "s3-keys" not in text
    assert set(yaml.safe_load(text)["spec"]) == {"dataset", "output", "storage", "teachers", "classPrompts"}


ODD = r"""1e-4 .5 5. -0 1_000 017 0o17 0x1F 0b1 1:30 1:30:00 2020-01-01 .inf -.inf .nan = << ~ null yes No on OFF y true
    False --- ... *a &a !!str !x # - ? : | > ' " ` @x %TAG , [ ] { } a:b a: \n"""
ODD_WORDS = st.sampled_from([*ODD.split(), *"\x85\u2028\ufeff\x1b\t\r\n "])
"""Words that readers of YAML take for something else than text, or for the end of one."""

CHARACTERS = st.text(st.characters(exclude_categories=["Cs"], min_codepoint=1), min_size=1, max_size=30)
TEXT = CHARACTERS | st.lists(ODD_WORDS, min_size=1, max_size=3).map("".join)
URI_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30)


@settings(deadline=None)
@given(
    name=NAMES,
    key=URI_TEXT,
    prompts=st.dictionaries(TEXT, TEXT, max_size=4),
    region=st.sampled_from(["on", "017", "1e4", "2020-01-01", "-0"]),
    number=st.sampled_from(["1e-4", "0.5", "1"]),
)
def test_any_text_of_a_request_arrives_as_it_was_written(
    name: str, key: str, prompts: dict[str, str], region: str, number: str
) -> None:
    spec = {
        "dataset": {"annotations": f"s3://data/{key}"},
        "output": "s3://out/",
        "classPrompts": prompts,
        "storage": {"region": region},
        "teachers": [{"name": "Sam", "learningRate": number}],
    }
    text = request(body_of(spec, name=name))["data"]["request.yaml"]
    manifest = load_manifest(text, where="request.yaml")
    assert manifest.name == name
    assert manifest.spec == FineTuneSpec.model_validate(spec)


# Retries.


@pytest.mark.parametrize(("render_job", "name"), [(inspection, "inspect"), (training, "trainer")])
def test_permanent_failures_are_not_retried_and_disruptions_do_not_count(
    render_job: Callable[[], Manifest], name: str
) -> None:
    job = render_job()
    rules = job["spec"]["podFailurePolicy"]["rules"]
    never = {"containerName": name, "operator": "In", "values": [40, 41, 45, 48, 49]}
    interrupted = {"containerName": name, "operator": "In", "values": [143]}
    assert rules == [  # the first that matches counts
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": never},
        {"action": "Ignore", "onExitCodes": interrupted},
    ]
    assert container(job)["name"] == name
    assert pod(job)["restartPolicy"] == "Never"
    assert job["spec"]["podReplacementPolicy"] == "Failed"
    assert container(job)["terminationMessagePolicy"] == "FallbackToLogsOnError"


def test_a_trainer_has_time_for_its_last_checkpoint() -> None:
    assert pod(training())["terminationGracePeriodSeconds"] >= 60


# Changes of a Job that is there.

CHANGES: dict[str, list[Any]] = {
    "serviceAccountName": ["other"],
    "gpus": [0, 2],
    "nodes": [2],
    "gpuResourceName": ["amd.com/gpu"],
    "nodeSelector": [{"zone": "b"}],
    "affinity": [{"podAffinity": {}}],
    "tolerations": [[{"operator": "Exists"}]],
    "runtimeClassName": ["nvidia"],
    "priorityClassName": ["high"],
    "resources": [{"limits": {"memory": "1Gi"}}],
    "pod": [{"labels": {"team": "a"}}, {"image": "other"}, {"schedulerName": "volcano"}],
    "stages": [[{"name": "Sam", "nodeSelector": {}}]],
    "sharedMemory": ["1Gi"],
    "scratch": [{"size": "1Gi"}, {"claimName": "c"}],
    "modelCache": [{"claimName": "c"}],
    "imagePullSecrets": [[{"name": "r"}]],
    "queueName": ["q"],
    "workloadPriorityClassName": ["urgent"],
    "managedBy": ["kueue.x-k8s.io/multikueue"],
    "suspend": [True],
    "backoffLimit": [0, 7],
    "activeDeadlineSeconds": [100],
    "pendingDeadlineSeconds": [100],
    "gangTimeoutSeconds": [100],
    "ttlSecondsAfterFinished": [0],
}
EDITS = [(name, value) for name, values in CHANGES.items() for value in values]


def platform_hash(spec: Mapping[str, Any] | None = None, **changes: Any) -> str:
    job = training(spec, **changes)
    return str(job["metadata"]["annotations"][PLATFORM_HASH])


def test_every_setting_of_the_platform_is_changed_in_these_tests() -> None:
    assert set(CHANGES) == set(PLATFORM)


@pytest.mark.parametrize(("name", "value"), EDITS)
def test_only_settings_that_cannot_be_patched_require_a_new_job(name: str, value: Any) -> None:
    assert (platform_hash(**{name: value}) == platform_hash()) == (name in APPLIED_TO_JOBS)


def test_a_change_of_credentials_makes_a_new_job() -> None:
    keyed = {"storage": {"credentialsSecretRef": {"name": "other"}}}
    assert platform_hash(**keyed) != platform_hash()
    assert platform_hash(storage={"credentialsSecretRef": {"name": "third"}}) != platform_hash(**keyed)


def test_inputs_and_metadata_make_no_new_job() -> None:
    body = body_of()
    body["metadata"] |= {"labels": {}, "annotations": {"x": "y"}, "resourceVersion": "9", "generation": 7}
    other = jobs.stage_job(body, parse_spec(body), SETTINGS, training_stage(MASKS), config_uri=CONFIG)
    assert other["metadata"]["annotations"][PLATFORM_HASH] == platform_hash()
    assert platform_hash(training={"seed": 3}) == platform_hash()


def test_defaults_that_the_api_server_writes_out_make_no_new_job() -> None:
    """A later CRD may give a setting a default: objects that were made before are then read with it."""
    written = parse_spec(body_of()).model_dump(mode="json", by_alias=True, exclude_none=True)
    assert (
        platform_hash({**MINIMAL, **{name: written[name] for name in PLATFORM if name in written}}) == platform_hash()
    )


def test_the_image_makes_no_new_job() -> None:
    """A new version of the operator does not restart what trains."""
    newer = SETTINGS.model_copy(update={"trainer_image": "registry.test/trainer:2"})
    body = body_of()
    job = jobs.stage_job(body, parse_spec(body), newer, training_stage(MASKS), config_uri=CONFIG)
    assert job["metadata"]["annotations"][PLATFORM_HASH] == platform_hash()


def patched(job: Mapping[str, Any], spec: TeacherFineTuneSpec) -> dict[str, Any] | None:
    return job_patches.job_patch(job, training_stage(MASKS), spec, seconds_left=spec.active_deadline_seconds)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("teacher", [BOXES, MASKS])
def test_a_job_as_it_was_made_needs_no_patch(spec: Mapping[str, Any], teacher: TeacherName) -> None:
    assert patched(training(spec, teacher=teacher), parse_spec(body_of(spec))) is None


@pytest.mark.parametrize(
    ("made", "now", "patch"),
    [
        ({}, {"backoffLimit": 7}, {"backoffLimit": 7}),
        ({}, {"backoffLimit": 0}, {"backoffLimit": 0}),
        ({"nodes": 4}, {"nodes": 4, "backoffLimit": 2}, {"backoffLimit": 8}),
        ({"nodes": 4}, {"nodes": 4, "suspend": False}, None),
        ({}, {"activeDeadlineSeconds": 100}, {"activeDeadlineSeconds": 100}),
        ({"activeDeadlineSeconds": 100}, {}, {"activeDeadlineSeconds": None}),
        ({}, {"pendingDeadlineSeconds": 100}, None),
        ({}, {"ttlSecondsAfterFinished": 0}, None),
        ({"queueName": "q"}, {"queueName": "q", "suspend": False}, None),
    ],
)
def test_a_job_is_patched_to_match_the_object(
    made: dict[str, Any], now: dict[str, Any], patch: dict[str, Any] | None
) -> None:
    job = training(**made)
    found = patched(job, parse_spec(body_of(**now)))
    assert found == (None if patch is None else {"spec": patch})
    if patch is not None:
        job["spec"] = {k: v for k, v in (job["spec"] | patch).items() if v is not None}
        assert patched(job, parse_spec(body_of(**now))) is None


def test_whether_a_queued_job_runs_is_kueues_to_say() -> None:
    job = training(queueName="q")
    for suspended in (True, False):
        job["spec"]["suspend"] = suspended
        assert job_patches.job_patch(job, training_stage(MASKS), parse_spec(body_of(queueName="q"))) is None


def test_only_jobs_that_the_operator_suspended_are_resumed() -> None:
    job = training()
    patch = job_patches.suspend_patch(job, suspend=True)
    assert patch == {"metadata": {"annotations": {SUSPENDED: "true"}}, "spec": {"suspend": True}}
    job["spec"]["suspend"] = True
    assert job_patches.suspend_patch(job, suspend=False) is None
    job["metadata"]["annotations"][SUSPENDED] = "true"
    assert job_patches.suspend_patch(job, suspend=True) is None
    assert job_patches.suspend_patch(job, suspend=False) == {
        "metadata": {"annotations": {SUSPENDED: None}},
        "spec": {"suspend": False},
    }
    assert job_patches.suspend_patch(training(queueName="q"), suspend=True) is None


def test_a_dollar_in_a_uri_is_no_variable_of_the_container() -> None:
    job = training(config_uri="s3://b/$(HOME)/teacher_config.yaml")
    assert "s3://b/$$(HOME)/teacher_config.yaml" in container(job)["command"]
