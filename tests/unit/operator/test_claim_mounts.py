"""Claims as places of data and adapters: which a run mounts, how, and what of the pods changes for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from loops import nonempty
from tft_objects import FULL, MASKS, MINIMAL, NOW, SETTINGS, body_of
from tft_schema import spec_errors

from engine.errors import ConfigError
from engine.stages import INSPECTION
from engine.stages import training as training_stage
from teacher_operator.api.spec import TeacherFineTuneSpec, parse_spec
from teacher_operator.decide import jobs
from teacher_operator.decide.claim_mounts import claims
from teacher_operator.decide.pod_template import DISK
from teacher_operator.decide.run import decide
from teacher_operator.decide.stage_context import Observed

Manifest = dict[str, Any]

SEVERAL = {
    "dataset": {
        "images": "pvc://photos/2026",
        "train": {"annotations": "pvc://labels/train.json"},
        "val": {"annotations": "pvc://labels/val.json", "images": "pvc://other/val"},
    },
    "training": {"retention": {"annotations": "pvc://retained/a.json", "images": "pvc://retained/images"}},
    "teachers": [{"name": "Sam", "baseModel": "pvc://bases/sam"}],
    "output": "pvc://labels/adapters",
}


def spec_of(spec: Mapping[str, Any]) -> TeacherFineTuneSpec:
    return parse_spec(body_of(spec))


def pods(spec: Mapping[str, Any]) -> list[Manifest]:
    """Of inspection and of a trainer."""
    body = body_of(spec)
    parsed = parse_spec(body)
    made = (
        jobs.stage_job(body, parsed, SETTINGS, INSPECTION),
        jobs.stage_job(body, parsed, SETTINGS, training_stage(MASKS), config_uri="pvc://labels/adapters/c.yaml"),
    )
    return [job["spec"]["template"]["spec"] for job in made]


def mounts(pod: Manifest) -> dict[str, tuple[str, bool, bool]]:
    """From where a claim is mounted to its name, and whether its mount and its volume are read-only."""
    sources = {volume["name"]: volume.get("persistentVolumeClaim") for volume in pod["volumes"]}
    return {
        mount["mountPath"]: (source["claimName"], mount.get("readOnly", False), source.get("readOnly", False))
        for mount in pod["containers"][0]["volumeMounts"]
        if (source := sources[mount["name"]]) is not None and mount["mountPath"].startswith("/claims")
    }


def test_all_places_of_a_request_may_lie_on_claims() -> None:
    assert spec_errors(SEVERAL) == []
    read = dict.fromkeys(("bases", "other", "photos", "retained"), False)
    assert claims(spec_of(SEVERAL)) == {**read, "labels": True}
    assert claims(spec_of(FULL)) == {}


@pytest.mark.parametrize("number", [0, 1], ids=["inspection", "trainer"])
def test_every_pod_mounts_every_claim_and_only_writes_to_the_output(number: int) -> None:
    pod = pods(SEVERAL)[number]
    found = mounts(pod)
    assert found.pop("/claims/labels") == ("labels", False, False)
    assert found == {f"/claims/{name}": (name, True, True) for name in ("bases", "other", "photos", "retained")}
    assert {"name": "TEACHER_CLAIMS", "value": "/claims"} in pod["containers"][0]["env"]


def test_a_claim_is_attached_once_though_it_holds_the_scratch_disk_too() -> None:
    spec = {**MINIMAL, "output": "pvc://big/out", "scratch": {"claimName": "big"}, "modelCache": {"claimName": "big-2"}}
    trainer = pods(spec)[1]
    names = [v["persistentVolumeClaim"]["claimName"] for v in trainer["volumes"] if "persistentVolumeClaim" in v]
    assert sorted(names) == ["big", "big-2"]
    assert mounts(trainer)["/claims/big"] == ("big", False, False)
    (scratch,) = [one for one in trainer["containers"][0]["volumeMounts"] if one["mountPath"] == DISK]
    assert scratch["subPath"] == "forklifts-sam"


def test_a_claim_with_the_scratch_disk_is_a_source_that_is_not_written_to() -> None:
    dataset = {"annotations": "pvc://big/a.json"}
    inspection, trainer = pods({**MINIMAL, "dataset": dataset, "scratch": {"claimName": "big"}})
    assert mounts(inspection)["/claims/big"] == ("big", True, True)
    assert mounts(trainer)["/claims/big"] == ("big", True, False)


def test_a_written_claim_gets_the_group_of_the_pods_and_a_read_claim_keeps_its_own() -> None:
    for pod in nonempty(pods({**MINIMAL, "output": "pvc://adapters"})):
        security = pod["securityContext"]
        assert (security["fsGroup"], security["fsGroupChangePolicy"]) == (65532, "OnRootMismatch")
    for pod in nonempty(pods({**MINIMAL, "dataset": {"annotations": "pvc://forklifts/a.json"}})):
        assert "fsGroup" not in pod["securityContext"]


def test_pods_of_a_run_without_claims_are_as_before() -> None:
    for pod in nonempty(pods(MINIMAL)):
        assert "TEACHER_CLAIMS" not in {entry["name"] for entry in pod["containers"][0]["env"]}
        assert "persistentVolumeClaim" not in str(pod["volumes"])


@pytest.mark.parametrize("uri", ["pvc://a..b/x", "pvc://data/../other/x", "pvc://data/x/.."])
def test_a_place_that_is_on_no_claim_ends_the_run_with_a_sentence(uri: str) -> None:
    with pytest.raises(ConfigError, match="claim"):
        claims(spec_of({**MINIMAL, "dataset": {"annotations": uri}}))
    decision = decide(body_of({**MINIMAL, "output": uri}), Observed(), SETTINGS, now=NOW)
    ended = next(c for c in decision.status.conditions if c.type == "Succeeded")
    assert (ended.status, ended.reason) == ("False", "ConfigurationInvalid")
    assert uri in ended.message


def keys_of(**spec: Any) -> tuple[set[str], set[str]]:
    """The keys that a Secret must have, and those that it may have, in every pod alike."""
    found = []
    for pod in pods({**MINIMAL, "storage": {"credentialsSecretRef": {"name": "keys"}}, **spec}):
        refs = [e["valueFrom"]["secretKeyRef"] for e in pod["containers"][0]["env"] if "valueFrom" in e]
        found.append(tuple({r["key"] for r in refs if r.get("optional", False) is o} for o in (False, True)))
    assert found[0] == found[1]
    needed, optional = found[0]
    return needed, optional


def test_a_secret_needs_the_keys_of_the_stores_that_are_used() -> None:
    aws, google = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}, {"GOOGLE_SERVICE_ACCOUNT_KEY"}
    always = {"AWS_SESSION_TOKEN", "HF_TOKEN"}
    data = {"annotations": "gs://acme-data/a.json"}
    assert keys_of() == (aws, always)
    assert keys_of(output="gs://acme/out") == (aws | google, always)
    assert keys_of(dataset=data, output="gs://acme/out") == (google, always)
    assert keys_of(dataset={"annotations": "pvc://d/a.json"}, output="pvc://d/out") == (set(), always)
    needed, optional = keys_of(dataset={"annotations": "az://data/a.json"}, output="az://out")
    assert needed == set()
    assert optional > {"AZURE_STORAGE_ACCOUNT_KEY", "AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_CLIENT_SECRET"}


def test_the_account_and_the_project_reach_the_pods() -> None:
    storage = {"azureAccount": "acme1", "googleProject": "team-a"}
    for pod in nonempty(pods({**MINIMAL, "output": "az://models", "storage": storage})):
        found = {entry["name"]: entry.get("value") for entry in pod["containers"][0]["env"]}
        assert found["AZURE_STORAGE_ACCOUNT_NAME"] == "acme1"
        assert found["GOOGLE_CLOUD_QUOTA_PROJECT"] == "team-a"
