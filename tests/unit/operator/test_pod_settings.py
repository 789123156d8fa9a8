"""Settings of the pods of a run: how installation, run and stage are put together, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from loops import nonempty
from pydantic import ValidationError
from tft_objects import FULL, GPU, MASKS, MINIMAL, NOW, SETTINGS, body_of, info_of, job_of, pod_of, view_of
from tft_schema import spec_errors

from engine import stages
from engine.spec import TeacherName
from engine.stages import training as training_stage
from teacher_operator.api.names import KUEUE_QUEUE, PLATFORM_HASH, RUN
from teacher_operator.api.pod_settings import PodSettings, StageName
from teacher_operator.api.settings import Allowed, Settings
from teacher_operator.api.spec import parse_spec
from teacher_operator.api.status import TeacherStatus
from teacher_operator.decide import jobs
from teacher_operator.decide.allow_lists import refusal
from teacher_operator.decide.attempts import with_attempts
from teacher_operator.decide.dataset_status import dataset_status
from teacher_operator.decide.run import Decision, decide
from teacher_operator.decide.stage_context import Observed

Manifest = dict[str, Any]
INSPECTION = "Inspection"


def jobs_of(settings: Settings = SETTINGS, **spec: Any) -> dict[str, Manifest]:
    """The Job of each stage."""
    body = body_of(**spec)
    parsed = parse_spec(body)
    trainers = {
        teacher.value: jobs.stage_job(body, parsed, settings, training_stage(teacher), config_uri="s3://out/c.yaml")
        for teacher in TeacherName
    }
    return {INSPECTION: jobs.stage_job(body, parsed, settings, stages.INSPECTION), **trainers}


def pods(settings: Settings = SETTINGS, **spec: Any) -> dict[str, Manifest]:
    """The pod's spec of each stage."""
    return {stage: job["spec"]["template"]["spec"] for stage, job in jobs_of(settings, **spec).items()}


def env(pod: Manifest) -> dict[str, Any]:
    entries = pod["containers"][0]["env"]
    assert len(entries) == len({entry["name"] for entry in entries})
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in entries}


def installed(**pods_of_all: Any) -> Settings:
    return SETTINGS.model_copy(update={"pods": PodSettings.model_validate(pods_of_all)})


# Who says what.


def test_labels_and_annotations_are_on_every_pod_and_every_job() -> None:
    settings = installed(labels={"cost-center": "all", "team": "platform"}, annotations={"a.b/c": "1"})
    stage = {"name": "Sam", "labels": {"tier": "gpu"}, "annotations": {"a.b/c": "2"}}
    made = jobs_of(settings, pod={"labels": {"cost-center": "7"}}, stages=[stage])
    for name, job in nonempty(made.items()):
        for metadata in (job["metadata"], job["spec"]["template"]["metadata"]):
            assert metadata["labels"]["cost-center"] == "7"
            assert metadata["labels"]["team"] == "platform"
            assert metadata["labels"].get("tier") == ("gpu" if name == "Sam" else None)
            assert metadata["annotations"]["a.b/c"] == ("2" if name == "Sam" else "1")
            assert metadata["labels"][RUN] == "forklifts"
        assert PLATFORM_HASH in job["metadata"]["annotations"]


def test_a_stage_replaces_the_placement_of_the_run_and_can_reset_it() -> None:
    run = {name: FULL[name] for name in ("nodeSelector", "affinity", "tolerations", "runtimeClassName")}
    reset = {"nodeSelector": {}, "affinity": {}, "tolerations": [], "runtimeClassName": "", "priorityClassName": ""}
    fields = {"nodeSelector", "affinity", "tolerations", "runtimeClassName", "priorityClassName"}
    same = pods(**run, priorityClassName="batch")
    assert {name: same[INSPECTION][name] for name in fields} == {name: same["Sam"][name] for name in fields}
    assert GPU in str(same[INSPECTION]["tolerations"]), "it may have no other nodes than those of the trainers"
    assert GPU not in str(same[INSPECTION]["containers"][0]["resources"])
    own = pods(**run, priorityClassName="batch", stages=[{"name": INSPECTION, **reset}])
    assert not fields & set(own[INSPECTION])
    assert own["Sam"] == same["Sam"]
    sam = pods(**run, stages=[{"name": "Sam", "nodeSelector": {"gpu": "l4"}}])
    assert sam["Sam"]["nodeSelector"] == {"gpu": "l4"}
    assert sam["GroundingDino"]["nodeSelector"] == run["nodeSelector"]
    assert sam["Sam"]["tolerations"] == same["Sam"]["tolerations"]


def test_the_placement_of_the_installation_gives_way_to_that_of_the_run() -> None:
    settings = installed(nodeSelector={"pool": "batch"}, tolerations=[{"key": "batch"}], priorityClassName="low")
    made = pods(settings, nodeSelector={"pool": "gpu"})
    assert made["Sam"]["nodeSelector"] == made[INSPECTION]["nodeSelector"] == {"pool": "gpu"}
    assert made["Sam"]["priorityClassName"] == "low"
    assert made[INSPECTION]["tolerations"][0] == {"key": "batch"}


def test_volumes_of_all_are_joined_by_name() -> None:
    ca = {
        "volumes": [{"name": "ca", "configMap": {"name": "ca"}}],
        "volumeMounts": [{"name": "ca", "mountPath": "/ca"}],
    }
    other = {"volumes": [{"name": "ca", "secret": {"secretName": "ca", "defaultMode": 256}}]}
    made = pods(installed(**ca), stages=[{"name": "Sam", **other}])
    for stage, kind in (("GroundingDino", "configMap"), (INSPECTION, "configMap"), ("Sam", "secret")):
        (volume,) = (one for one in made[stage]["volumes"] if one["name"] == "ca")
        assert set(volume) == {"name", kind}
        assert {"name": "ca", "mountPath": "/ca"} in made[stage]["containers"][0]["volumeMounts"]
        assert "fsGroup" not in made[stage]["securityContext"], "OpenShift allows only its own"
    disk = pods(pod={"volumes": [{"name": "a", "persistentVolumeClaim": {"claimName": "a"}}]})["Sam"]
    assert disk["securityContext"]["fsGroup"] > 0, "a claim is written to without being root"


def test_variables_of_the_object_come_last_and_may_refer_to_the_others() -> None:
    settings = SETTINGS.model_copy(
        update={
            "pod_env": Settings.model_validate(
                {
                    **SETTINGS.model_dump(),
                    "pod_env": {
                        "HTTPS_PROXY": "http://a",
                        "TOKEN": {"secretKeyRef": {"name": "proxy", "key": "token"}},
                    },
                }
            ).pod_env
        }
    )
    own = [
        {"name": "HTTPS_PROXY", "value": "http://$(TOKEN)@b"},
        {"name": "EMPTY"},
        {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
    ]
    for stage, pod in nonempty(
        pods(settings, pod={"env": own}, storage={"credentialsSecretRef": {"name": "s3"}}).items()
    ):
        variables = env(pod)
        assert list(variables)[-3:] == ["HTTPS_PROXY", "EMPTY", "HF_TOKEN"], stage
        assert variables["HTTPS_PROXY"] == "http://$(TOKEN)@b"
        assert variables["TOKEN"] == {"secretKeyRef": {"name": "proxy", "key": "token"}}
        assert variables["EMPTY"] == ""
        assert variables["HF_TOKEN"] == {"secretKeyRef": {"name": "hub", "key": "token"}}
        assert variables["AWS_ACCESS_KEY_ID"]["secretKeyRef"]["name"] == "s3"


def test_a_stage_has_an_image_and_resources_of_its_own() -> None:
    stages = [
        {"name": INSPECTION, "resources": {"limits": {"memory": "4Gi"}}},
        {"name": "Sam", "image": "r.io/sam:2", "resources": {"requests": {"cpu": 2}}},
    ]
    made = {stage: pod["containers"][0] for stage, pod in pods(pod={"image": "r.io/all:1"}, stages=stages).items()}
    assert {stage: one["image"] for stage, one in made.items()} == {
        INSPECTION: "r.io/all:1",
        **dict.fromkeys(TeacherName, "r.io/all:1"),
        "Sam": "r.io/sam:2",
    }
    assert made[INSPECTION]["resources"] == {"limits": {"memory": "4Gi"}}
    assert made["Sam"]["resources"] == {"requests": {"cpu": "2", GPU: "1"}, "limits": {GPU: "1"}}
    assert made["GroundingDino"]["resources"]["limits"]["memory"] == "32Gi"


def test_the_scheduler_spreads_the_pods_of_one_job() -> None:
    spread = {"topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}
    other = spread | {"labelSelector": {"matchLabels": {"app": "x"}}, "minDomains": 2}
    made = jobs_of(pod={"schedulerName": "volcano", "topologySpreadConstraints": [spread, other]})
    for job in nonempty(made.values()):
        template = job["spec"]["template"]
        own, given = template["spec"]["topologySpreadConstraints"]
        assert own["labelSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        assert own["maxSkew"] == 1
        assert given == {"maxSkew": 1} | other
        assert template["spec"]["schedulerName"] == "volcano"


# Devices by resource claims.


def test_gpus_of_a_claim_take_the_place_of_the_extended_resource() -> None:
    claim = {"name": "gpus", "resourceClaimTemplateName": "four-gpus", "gpus": 4}
    made = pods(gpus=0, nodes=2, pod={"resourceClaims": [claim]})
    trainer = made["Sam"]["containers"][0]
    assert made["Sam"]["resourceClaims"] == [{"name": "gpus", "resourceClaimTemplateName": "four-gpus"}]
    assert trainer["resources"]["claims"] == [{"name": "gpus"}]
    assert GPU not in str(trainer["resources"])
    assert env(made["Sam"])["TEACHER_GPUS"] == "4"
    assert trainer["command"][:4] == ["teacher", "launch", "--processes", "4"]
    assert {"key": GPU, "operator": "Exists"} in made["Sam"]["tolerations"]
    assert {"key": GPU, "operator": "Exists"} in made[INSPECTION]["tolerations"]
    assert "resourceClaims" not in made[INSPECTION], "it needs no device"
    assert "claims" not in made[INSPECTION]["containers"][0]["resources"]


def test_a_claim_of_other_devices_is_added_to_the_extended_resource() -> None:
    nic = {"name": "nic", "resourceClaimName": "rdma", "gpus": 0}
    job = jobs_of(gpus=2, pod={"resourceClaims": [nic]})["Sam"]
    template = job["spec"]["template"]
    assert "annotations" not in template["metadata"]
    assert template["spec"]["containers"][0]["resources"]["limits"][GPU] == "2"
    assert template["spec"]["containers"][0]["command"][3] == "2"


@pytest.mark.parametrize(("claims", "limit", "held"), [("2", None, 2), (None, "3", 3), ("2", "1", 3), (None, None, 0)])
def test_gpu_seconds_count_the_gpus_of_claims(claims: str | None, limit: str | None, held: int) -> None:
    pod = pod_of(phase="Running", started=NOW, limits={GPU: limit} if limit else {})
    if claims:
        job = jobs_of(gpus=0, pod={"resourceClaims": [{"name": "a", "resourceClaimName": "a", "gpus": int(claims)}]})[
            "Sam"
        ]
        pod["metadata"]["annotations"] = job["spec"]["template"]["metadata"]["annotations"]
    teacher = TeacherStatus(name=MASKS, state="Training")
    assert with_attempts(teacher, view_of(pod), gpu_resource=GPU, now=NOW + 10).gpu_seconds == 10 * held


# Changes.


def hashes(**spec: Any) -> dict[str, str]:
    return {stage: job["metadata"]["annotations"][PLATFORM_HASH] for stage, job in jobs_of(**spec).items()}


def test_specs_of_earlier_versions_keep_their_digest() -> None:
    """Jobs of an earlier version of the operator go on."""
    assert set(hashes().values()) == {"7cc1f6ca3bbb6179"}
    before = {
        "storage": {"credentialsSecretRef": {"name": "s3"}},
        "gpus": 2,
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"key": "spot", "operator": "Exists"}],
        "resources": {"limits": {"memory": "48Gi"}},
        "scratch": {"size": "100Gi"},
    }
    assert set(hashes(**before).values()) == {"5dedb707fb110a92"}


@pytest.mark.parametrize("stage", StageName)
def test_settings_of_one_stage_replace_only_its_job(stage: StageName) -> None:
    plain, own = hashes(), hashes(stages=[{"name": stage.value, "nodeSelector": {}}])
    assert {name for name in plain if plain[name] != own[name]} == {stage.value}
    assert not set(hashes(pod={"labels": {"a": "b"}}).values()) & set(plain.values())


# What is refused.


def refusal_text(settings: Settings = SETTINGS, **spec: Any) -> str:
    failure = refusal(parse_spec(body_of(**spec)), settings, namespace="vision")
    return "" if failure is None else f"{failure.reason}: {failure.message}"


def volume(**source: Any) -> dict[str, Any]:
    return {"volumes": [{"name": "a", **source}]}


SECRETS: list[dict[str, Any]] = [
    {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "vault", "key": "a"}}}]},
    volume(secret={"secretName": "vault"}),
    volume(projected={"sources": [{"configMap": {"name": "x"}}, {"secret": {"name": "vault"}}]}),
    volume(csi={"driver": "a.b", "nodePublishSecretRef": {"name": "vault"}}),
]


@pytest.mark.parametrize(
    ("allowed", "good", "bad"),
    [
        ({"images": ("r.io/ml/*",)}, {"image": "r.io/ml/a:1"}, {"image": "r.io/other:1"}),
        ({"images": ()}, {}, {"image": "r.io/ml/a:1"}),
        ({"volumes": ("configMap", "emptyDir")}, volume(emptyDir={}), volume(csi={"driver": "a.b"})),
        ({"env": ("OTEL_*", "HF_TOKEN")}, {"env": [{"name": "OTEL_X"}]}, {"env": [{"name": "LD_PRELOAD"}]}),
        *(({"secrets": ("team-*",)}, {}, part) for part in SECRETS),
        *(
            (
                {"secrets": ("vault",)},
                part,
                {
                    "env": [
                        {
                            "name": "B",
                            **SECRETS[0]["env"][0],
                            "valueFrom": {"secretKeyRef": {"name": "vault2", "key": "a"}},
                        }
                    ]
                },
            )
            for part in SECRETS
        ),
    ],
)
def test_an_installation_limits_the_settings_of_objects(
    allowed: dict[str, Any], good: dict[str, Any], bad: dict[str, Any]
) -> None:
    settings = SETTINGS.model_copy(update={"allowed": Allowed(**allowed)})
    for where in (lambda part: {"pod": part}, lambda part: {"stages": [{"name": "Sam", **part}]}):
        assert refusal_text(settings, **where(good)) == ""
        assert refusal_text(settings, **where(bad)).startswith("NotAllowed: ")
        assert refusal_text(**where(bad)) == "", "all is allowed where nothing is said"
    assert next(iter(allowed)) in refusal_text(settings, pod=bad)


def test_defaults_of_the_installation_are_not_checked_against_the_allow_lists() -> None:
    settings = installed(volumes=[{"name": "a", "secret": {"secretName": "s"}}])
    settings = settings.model_copy(update={"allowed": Allowed(volumes=(), secrets=(), env=(), images=())})
    assert refusal_text(settings) == ""


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"pod": {"env": [{"name": "AWS_REGION", "value": "x"}]}}, "AWS_REGION"),
        ({"pod": {"volumeMounts": [{"name": "a", "mountPath": "/a"}]}}, "volume a of the mount /a does not exist"),
        (
            {"stages": [{"name": "Sam", "volumeMounts": [{"name": "a", "mountPath": "/a"}]}]},
            "volumeMounts of Sam: volume a of the mount",
        ),
        (
            {
                "storage": {"credentialsSecretRef": {"name": "s3"}},
                "pod": {"env": [{"name": "AWS_ACCESS_KEY_ID", "value": "x"}]},
            },
            "is set by storage.credentialsSecretRef",
        ),
    ],
)
def test_contradictions_of_several_parts_are_named(spec: dict[str, Any], words: str) -> None:
    assert refusal_text(**spec).startswith("ConfigurationInvalid: ")
    assert words in refusal_text(**spec)


CLOSED = SETTINGS.model_copy(update={"allowed": Allowed(images=())})
OTHER = {"pod": {"image": "r.io/other:1"}}


def conditions(decision: Decision) -> dict[str, tuple[str, str]]:
    return {one.type: (one.reason, one.message) for one in decision.status.conditions}


def test_an_object_that_is_not_allowed_waits() -> None:
    decision = decide(body_of(**OTHER), Observed(), CLOSED, now=NOW)
    assert conditions(decision)["Stalled"][0] == conditions(decision)["Succeeded"][0] == "NotAllowed"
    assert decision.actions.empty
    assert decide(body_of(), Observed(), CLOSED, now=NOW).actions.apply


@pytest.mark.parametrize("edited", [False, True])
def test_a_running_job_continues_when_its_settings_are_no_longer_allowed(edited: bool) -> None:
    """Whether the installation allows less than it did, or the object asks for more."""
    body = body_of(**OTHER)
    digest = jobs_of(**({} if edited else OTHER))["Sam"]["metadata"]["annotations"]
    job = job_of()
    job["metadata"]["annotations"] = digest
    body["status"] = {
        "runId": "a",
        "configUri": "s3://a/c.yaml",
        "dataset": dataset_status(info_of()).model_dump(mode="json", by_alias=True, exclude_none=True),
        "teachers": [{"name": "Sam", "state": "Training", "job": "forklifts-sam"}],
    }
    running = view_of(pod_of(phase="Running", started=NOW), job=job)
    decision = decide(body, Observed({MASKS.value: running}), CLOSED, now=NOW)
    reason, message = conditions(decision)["Succeeded"]
    assert reason == "Training"
    assert ("it continues with the old ones" in message) == edited
    assert [*decision.actions.apply, *decision.actions.delete, *decision.actions.replace] == []
    gone = decide(body, Observed(), CLOSED, now=NOW)
    assert conditions(gone)["Stalled"][0] == "NotAllowed"
    assert gone.actions.empty


def test_the_examples_of_the_page_are_taken() -> None:
    text = (Path(__file__).parents[3] / "docs" / "pods.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.S)
    specs = [
        one["spec"]
        for block in blocks
        for one in yaml.safe_load_all(block)
        if one.get("kind") != "ResourceClaimTemplate"
    ]
    assert len(specs) > 5
    for spec in specs:
        assert spec_errors({**MINIMAL, **spec}) == []
        assert refusal_text(**spec) == ""


@pytest.mark.parametrize(
    "part",
    [
        {"labels": {KUEUE_QUEUE: "other"}},
        {"labels": {"finetune.dev/run": "other"}},
        {"annotations": {PLATFORM_HASH: "0"}},
        {"volumes": [{"name": "a", "hostPath": {"path": "/"}}]},
        {"containers": []},
        {"securityContext": {}},
        {"image": "a b"},
        {"volumeMounts": [{"name": "a", "mountPath": "/a/../etc/teacher"}]},
    ],
)
def test_settings_that_break_the_run_are_refused_by_the_model_too(part: Mapping[str, Any]) -> None:
    for spec in ({"pod": part}, {"stages": [{"name": "Sam", **part}]}):
        with pytest.raises(ValidationError):
            parse_spec(body_of(**spec))
