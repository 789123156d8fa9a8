"""What the real API server takes and what it refuses: every rule and every pattern of the CRD, both ways."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import control_plane as real
import pytest
import pytest_asyncio
from memory_api import CRD as DEFINITION
from places import admin, run_plainly
from pod_cases import CASES
from world import APPLY, MERGE, RUNS, Api, Body, RefusedError

from teacher_operator.api.spec import INPUTS, NAME_MAX, PLATFORM

pytestmark = pytest.mark.asyncio

SCHEMA = DEFINITION["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
NAMESPACE = "default"
OBJECTS = f"{RUNS}/namespaces/{NAMESPACE}/teacherfinetunes"
Path_ = tuple[str, ...]

MINIMAL = {"dataset": {"annotations": "s3://data/a.json"}, "output": "s3://models/"}
FULL = MINIMAL | {
    "storage": {"endpointUrl": "https://s3.example.com", "region": "eu-1", "credentialsSecretRef": {"name": "keys"}},
    "teachers": [{"name": "Sam", "epochs": 3}],
    "classPrompts": {"bolt": "a steel bolt"},
    "augmentation": {"characteristics": ["dense"], "intensity": "low"},
    "training": {"seed": 7},
}
PLACES = {
    "endpointUrl": "https://s3.example.org",
    "region": "us-1",
    "addressingStyle": "virtual",
    "requesterPays": True,
    "caBundle": "/etc/ours.pem",
    "azureAccount": "account1",
    "googleProject": "team-a",
}
"""Of the storage, what is an input of the run."""

PARTS = {"train": {"annotations": "s3://data/train.json"}, "val": {"annotations": "s3://data/val.json"}}


def _schemas(schema: Body, path: Path_ = ()) -> Iterator[tuple[Path_, Body]]:
    yield path, schema
    for name, inner in (schema.get("properties") or {}).items():
        yield from _schemas(inner, (*path, name))
    if "items" in schema:
        yield from _schemas(schema["items"], (*path, "[]"))
    if isinstance(schema.get("additionalProperties"), dict):
        yield from _schemas(schema["additionalProperties"], (*path, "{}"))


PATTERNS = {path: schema["pattern"] for path, schema in _schemas(SCHEMA) if "pattern" in schema}
MESSAGES = {
    rule["message"]: "oldSelf" in rule["rule"]
    for _, schema in _schemas(SCHEMA)
    for rule in schema.get("x-kubernetes-validations") or ()
}
"""Of all rules; true of those that compare with the object as it was."""


@pytest_asyncio.fixture
async def api(control_plane: real.ControlPlane) -> Any:
    async with admin(control_plane) as connected:
        yield connected


@pytest.fixture(scope="module")
def there(control_plane: real.ControlPlane) -> None:
    """Two objects that no operator watches, applied by each process that shares the control plane."""

    async def make() -> None:
        query = {"fieldManager": "test", "force": "true"}
        async with admin(control_plane) as api:
            for name, spec in (("minimal", MINIMAL), ("full", FULL)):
                await api.call("PATCH", f"{OBJECTS}/{name}", _object(spec, name), content=APPLY, **query)

    run_plainly(make())


def _object(spec: Mapping[str, Any], name: str = "probe", **metadata: Any) -> Body:
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "TeacherFineTune",
        "metadata": {"name": name, **metadata},
        "spec": dict(spec),
    }


async def _try(api: Api, spec: Mapping[str, Any], name: str = "probe") -> str:
    """What the API server says against an object; nothing if it takes it. It is not kept."""
    try:
        await api.call("POST", OBJECTS, _object(spec, name), dryRun="All", fieldValidation="Strict")
    except RefusedError as error:
        if error.code not in (400, 422):
            raise
        return error.message
    return ""


async def _try_patch(api: Api, name: str, patch: Body, sub: str = "") -> str:
    try:
        await api.call("PATCH", f"{OBJECTS}/{name}{sub}", patch, content=MERGE, dryRun="All", fieldValidation="Strict")
    except RefusedError as error:
        if error.code not in (400, 422):
            raise
        return error.message
    return ""


def _teacher(**settings: Any) -> Body:
    return MINIMAL | {"teachers": [{"name": "Sam", **settings}]}


def _retention(**settings: Any) -> Body:
    return MINIMAL | {"training": {"retention": settings}}


def _sweep(**values: Any) -> Body:
    return MINIMAL | {"training": {"sweep": values}}


def _data(**dataset: Any) -> Body:
    return MINIMAL | {"dataset": dataset}


def _endpoint(url: str) -> Body:
    return MINIMAL | {"storage": {"endpointUrl": url}}


def _pods(part: Mapping[str, Any]) -> list[Body]:
    return [MINIMAL | {"pod": part}, MINIMAL | {"stages": [{"name": "Sam", **part}]}]


RULES: dict[str, tuple[list[Body], list[Body]]] = {
    **{
        message: ([one for part in good for one in _pods(part)], [one for part in bad for one in _pods(part)])
        for message, (good, bad) in CASES.items()
    },
    "train, val and test must make 100 percent": (
        [_data(annotations="s3://data/a.json", split={"train": 70, "val": 20, "test": 10})],
        [_data(annotations="s3://data/a.json", split={"train": 70})],
    ),
    "give either dataset.annotations or dataset.train with dataset.val, not both or none": (
        [_data(annotations="s3://data/a.json"), _data(**PARTS)],
        [_data(images="s3://data/images/"), _data(annotations="s3://data/a.json", **PARTS)],
    ),
    "dataset.train needs dataset.val too: the best adapter is selected on it": (
        [_data(**PARTS, test={"annotations": "s3://data/test.json"})],
        [_data(train=PARTS["train"])],
    ),
    "dataset.val and dataset.test go with dataset.train, not with dataset.annotations": (
        [_data(**PARTS)],
        [
            _data(annotations="s3://data/a.json", val=PARTS["val"]),
            _data(annotations="s3://data/a.json", test=PARTS["val"]),
        ],
    ),
    "dataset.split divides dataset.annotations; dataset.train is split already": (
        [_data(annotations="s3://data/a.json", split={})],
        [_data(**PARTS, split={})],
    ),
    "folds replaces train and val: leave them out": (
        [_data(annotations="s3://data/a.json", split=split) for split in ({"folds": 5}, {"folds": 5, "test": 20})],
        [_data(annotations="s3://data/a.json", split={"folds": 5, "train": 60, "val": 30, "test": 10})],
    ),
    "dataset.split.folds takes its validation images from dataset.train: leave out dataset.val": (
        [_data(train=PARTS["train"], split={"folds": 5, "test": 0})],
        [_data(**PARTS, split={"folds": 5, "test": 0})],
    ),
    "a sweep needs values to try: list learningRates, ranks or presets": (
        [_sweep(ranks=[8]), _sweep(learningRates=["1e-3", "2e-3"]), _sweep(presets=["all", "decoder"])],
        [_sweep(), _sweep(ranks=[])],
    ),
    "a sweep has at most 8 trials: every combination is one": (
        [_sweep(ranks=[4, 8, 16, 32], presets=["all", "decoder"])],
        [_sweep(ranks=[4, 8, 16], presets=["all", "decoder", "encoder-decoder"])],
    ),
    'each of learningRates must be above "0" and at most "1"': (
        [_sweep(learningRates=["1", "1e-6"])],
        [_sweep(learningRates=["1e-3", value]) for value in ("0", "0.0", "1.5", "1e1")],
    ),
    'dropout must be at least "0" and below "1"': (
        [_teacher(lora={"dropout": value}) for value in ("0", "0.0", "0.999", "1e-3")],
        [_teacher(lora={"dropout": value}) for value in ("1", "1.0", "1e3", "0.1e1")],
    ),
    "images needs annotations": (
        [_retention(annotations="s3://data/a.json", images="s3://data/images/"), _retention()],
        [_retention(images="s3://data/images/")],
    ),
    'minShare must be at least "0" and at most "1"': (
        [_retention(minShare=value) for value in ("0", "0.8", "1", "1.0", "5e-1")],
        [_retention(minShare=value) for value in ("1.01", "2", "1e1")],
    ),
    'learningRate must be above "0" and at most "1"': (
        [_teacher(learningRate=value) for value in ("1", "1e-4", "0.00001", "5E-5")],
        [_teacher(learningRate=value) for value in ("0", "0.0", "0e-3", "1.01", "2")],
    ),
    "revision requires a hub id: omit it if the base model is a URI": (
        [_teacher(revision="main", baseModel="facebook/sam-vit-base"), _teacher(revision="main")],
        [
            _teacher(revision="main", baseModel="s3://models/sam/"),
            _teacher(revision="main", baseModel="pvc://models/sam/"),
        ],
    ),
    "endpointUrl must be a URL of an object store, not of a metadata service or a link-local address": (
        [
            _endpoint(url)
            for url in (
                "https://s3.example.com",
                "http://minio.storage.svc:9000",
                "http://10.0.0.7:9000/path",
                "http://[fd00::1]:9000",
                "https://metadata-store.example.com",
            )
        ],
        [
            _endpoint(url)
            for url in (
                "http://169.254.169.254",
                "http://169.254.169.254/latest/meta-data/",
                "https://[fe80::1]:9000",
                "http://[fd00:ec2::254]/",
                "http://metadata.google.internal",
                "http://metadata:80",
                "http://metadata",
                "http://instance-data.ec2.internal",
            )
        ],
    ),
    "endpointUrl must not hold a name or password: they belong into the Secret": (
        [_endpoint("https://s3.example.com/at")],
        [_endpoint("https://key:secret@s3.example.com")],
    ),
    "give either storage.caBundle, a path in the image, or storage.caBundleConfigMapRef": (
        [
            MINIMAL | {"storage": {"caBundle": "/etc/ours.pem"}},
            MINIMAL | {"storage": {"caBundleConfigMapRef": {"name": "ca"}}},
        ],
        [MINIMAL | {"storage": {"caBundle": "/etc/ours.pem", "caBundleConfigMapRef": {"name": "ca"}}}],
    ),
    "size is the limit of an emptyDir: omit it with claimName": (
        [MINIMAL | {"scratch": {"size": "10Gi"}}, MINIMAL | {"scratch": {"claimName": "disk"}}],
        [MINIMAL | {"scratch": {"size": "10Gi", "claimName": "disk"}}],
    ),
    "several nodes need GPUs: set gpus to at least 1, or nodes to 1": (
        [
            MINIMAL | {"nodes": 2},
            MINIMAL | {"nodes": 1, "gpus": 0},
            *(
                one | {"nodes": 2, "gpus": 0}
                for one in _pods({"resourceClaims": [{"name": "gpu", "resourceClaimName": "a"}]})
            ),
        ],
        [
            MINIMAL | {"nodes": 2, "gpus": 0},
            *(
                one | {"nodes": 2, "gpus": 0}
                for one in _pods({"resourceClaims": [{"name": "nic", "resourceClaimName": "a", "gpus": 0}]})
            ),
        ],
    ),
    "workloadPriorityClassName is a setting of Kueue and requires queueName": (
        [MINIMAL | {"queueName": "team", "workloadPriorityClassName": "urgent"}, MINIMAL | {"queueName": "team"}],
        [MINIMAL | {"workloadPriorityClassName": "urgent"}],
    ),
    "managedBy hands Jobs to Kueue and requires queueName": (
        [MINIMAL | {"queueName": "team", "managedBy": "kueue.x-k8s.io/multikueue"}],
        [MINIMAL | {"managedBy": "kueue.x-k8s.io/multikueue"}],
    ),
    "managedBy requires nodes: 1, since the Service that connects several nodes exists only in this cluster": (
        [MINIMAL | {"queueName": "team", "managedBy": "kueue.x-k8s.io/multikueue", "nodes": 1}],
        [MINIMAL | {"queueName": "team", "managedBy": "kueue.x-k8s.io/multikueue", "nodes": 2}],
    ),
}
NAMED = "with several nodes the name must begin with a letter, since a Service has the same name"


async def test_every_rule_has_a_case() -> None:
    assert {message for message, compares in MESSAGES.items() if not compares} == {*RULES, NAMED}
    compared = {message.split(" ")[0] for message, compares in MESSAGES.items() if compares}
    inputs = {name for name in INPUTS if name != "storage"} | {f"storage.{name}" for name in PLACES}
    assert compared == inputs


@pytest.mark.parametrize("message", RULES)
async def test_a_rule_takes_and_refuses(api: Api, message: str) -> None:
    good, bad = RULES[message]
    for spec in good:
        assert await _try(api, spec) == "", spec
    for spec in bad:
        assert message in await _try(api, spec), spec


async def test_the_name_of_a_run_over_several_nodes_is_that_of_a_service(api: Api) -> None:
    several = MINIMAL | {"nodes": 2}
    assert await _try(api, several, "a7") == ""
    assert await _try(api, MINIMAL, "7a") == ""
    assert NAMED in await _try(api, several, "7a")


S3, MODEL = PATTERNS["spec", "output"], PATTERNS["spec", "teachers", "[]", "baseModel"]
NAME, NUMBER = PATTERNS["spec", "serviceAccountName"], PATTERNS["spec", "teachers", "[]", "learningRate"]
KEY, VALUE = PATTERNS["spec", "gpuResourceName"], PATTERNS["spec", "queueName"]
QUANTITY, TIME = PATTERNS["spec", "sharedMemory"], PATTERNS["status", "startTime"]
POD = ("spec", "pod")

SAMPLES: dict[str, tuple[list[str], list[str]]] = {
    S3: (
        [
            "s3://data/a.json",
            "s3://my.bucket-1/ä b/c.json",
            "s3://abc",
            "s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/team/a.json",
            "s3://arn:aws:s3-outposts:eu-west-1:123456789012:outpost/op-1/accesspoint/team/a.json",
            "gs://acme_data.example/a b/c.json",
            "az://forklifts-2026/a.json",
            "pvc://forklifts",
            "pvc://team-a.forklifts/export 1/ä.json",
        ],
        [
            "s3://arn:aws:s3::123456789012:accesspoint/mrap.alias/a.json",
            "s3://arn:aws:s3:eu-west-1:1234:accesspoint/team",
            "/data/a.json",
            "file:///data/a.json",
            "S3://data/a.json",
            "s3://Data/a",
            "s3://a/b",
            "s3://data/a\nb",
            "https://x",
            "gs://B/a",
            "gs://",
            "az://ab",
            "az://under_score/a",
            "gcs://bucket/a",
            "pvc://",
            "pvc:///a.json",
            "pvc://Team/a.json",
            "pvc://-a/b",
            "pvc://a_b/c",
            "abfs://container@account.dfs.core.windows.net/a",
        ],
    ),
    MODEL: (
        [
            "facebook/sam-vit-base",
            "s3://models/sam/",
            "local_name",
            "s3://models/sam.pth",
            "gs://models/sam",
            "az://models/sam",
            "pvc://models/sam",
        ],
        [
            "/models/sam",
            "../sam",
            "a/b/c",
            "s3://models",
            "gs://models",
            "az://models",
            "pvc://models",
            "file:///sam",
            ".hidden",
        ],
    ),
    NAME: (["trainer", "a.b-c.d", "7"], ["Trainer", "-a", "a_b", "a..b", "a/b"]),
    NUMBER: (["1", "0.5", "1e-4", "1.5E-05"], ["-1", ".5", "1,5", "1e", "nan", "0x1", "1e-1000"]),
    KEY: (["nvidia.com/gpu", "amd.com/gpu", "gpu", "nvidia.com/mig-1g.5gb"], ["/gpu", "nvidia.com/", "a b", "-x"]),
    VALUE: (["a100", "A.b_c-9", ""], ["-a", "a b", "ä"]),
    QUANTITY: (
        ["500m", "16Gi", "1.5", "2", "1e9", ".5", "1.2345", "1Ei", "2E3", "1."],
        ["16 Gi", "-1", "Gi", "1e3x", "16GiB", "1e", "0x10"],
    ),
    TIME: (["2026-01-31T12:00:00Z"], ["2026-01-31", "2026-01-31T12:00:00+01:00", "yesterday"]),
    PATTERNS[*POD, "schedulerName"]: (["volcano", ""], ["Volcano", "a b"]),
    PATTERNS[*POD, "volumes", "[]", "name"]: (["tools", "a-1"], ["Tools", "a.b", "-a", ""]),
    PATTERNS[*POD, "env", "[]", "name"]: (["HTTPS_PROXY", "_a1"], ["1A", "A-B", "A B", ""]),
    PATTERNS[*POD, "image"]: (
        [
            "registry.example.com:5000/team/Trainer:1.2_a",
            "teacher",
            f"r.io/a:1@sha256:{'0' * 64}",
        ],
        ["", "a b", "-x", "https://a\nb", "a@sha256:XYZ"],
    ),
    PATTERNS[*POD, "volumeMounts", "[]", "mountPath"]: (
        ["/opt/tools", "/a b/ä", "/.cache/x"],
        ["opt", "/", "/a/", "//a", "/a/../etc/teacher", "/a/./b", "/a:b", "/.", "/..", "/a\nb"],
    ),
    PATTERNS[*POD, "volumeMounts", "[]", "subPath"]: (
        ["a", "a/b", ".a/b"],
        ["/a", "../a", "a/../b", "a//b", "a/", "."],
    ),
    PATTERNS["metadata", "name"]: (["forklifts", "7"], ["a.b", "A", "a_b"]),
    PATTERNS["spec", "dataset", "groupBy"]: (
        ["Folder", "Prefix:_", "Prefix: - ", "Field:video_id"],
        ["folder", "Prefix:", "Prefix:/", "Prefix:a\nb", "Field:", "Field:a b", "video_id"],
    ),
    PATTERNS["spec", "storage", "endpointUrl"]: (
        ["https://s3.example.com"],
        ["s3.example.com", "ftp://x", "https://a b"],
    ),
    PATTERNS["spec", "storage", "caBundle"]: (["/etc/ssl/ours.pem"], ["ours.pem", "/a\nb"]),
    PATTERNS["spec", "storage", "caBundleConfigMapRef", "key"]: (["ca.crt", "a_b-C"], ["a/b", "a b"]),
    PATTERNS["spec", "storage", "azureAccount"]: (["account1", "abc"], ["ab", "Account", "a-b", "a.b", "a/b"]),
    PATTERNS["spec", "storage", "googleProject"]: (["team-a", "example.com:team"], ["Team", "-a", "a b", "a/b"]),
    PATTERNS["spec", "storage", "region"]: (["eu-central-1"], ["EU", "eu central"]),
    PATTERNS["status", "conditions", "[]", "reason"]: (["Training", "A1"], ["two words", "1st", "under_score"]),
}
REFERENCE = {"name": "a", "key": "b"}
NEEDED: dict[Path_, Body] = {
    **{
        (*where, *path): beside
        for where in (POD, ("spec", "stages", "[]"))
        for path, beside in {
            ("env", "[]"): {"name": "A"},
            ("env", "[]", "valueFrom", "secretKeyRef"): REFERENCE,
            ("env", "[]", "valueFrom", "configMapKeyRef"): REFERENCE,
            ("volumes", "[]"): {"name": "a"},
            ("volumes", "[]", "configMap"): {"name": "a"},
            ("volumes", "[]", "configMap", "items", "[]"): {"key": "a", "path": "b"},
            ("volumes", "[]", "secret"): {"secretName": "a"},
            ("volumes", "[]", "secret", "items", "[]"): {"key": "a", "path": "b"},
            ("volumes", "[]", "csi"): {"driver": "a.b"},
            ("volumeMounts", "[]"): {"name": "a", "mountPath": "/a"},
            ("resourceClaims", "[]"): {"name": "a"},
            ("topologySpreadConstraints", "[]"): {"topologyKey": "rack", "whenUnsatisfiable": "ScheduleAnyway"},
            ("topologySpreadConstraints", "[]", "labelSelector", "matchExpressions", "[]"): {
                "key": "a",
                "operator": "In",
            },
        }.items()
    },
    ("spec", "stages", "[]"): {"name": "Sam"},
    ("spec", "dataset", "images"): {"annotations": "s3://data/a.json"},
    ("spec", "dataset", "groupBy"): {"annotations": "s3://data/a.json"},
    ("spec", "teachers", "[]"): {"name": "Sam"},
    ("spec", "dataset", "train"): PARTS["train"],
    ("spec", "dataset", "val"): PARTS["val"],
    ("spec", "dataset", "test"): PARTS["val"],
    ("spec", "storage", "caBundleConfigMapRef"): {"name": "ca"},
    ("status", "conditions", "[]"): {
        "type": "Succeeded",
        "status": "Unknown",
        "reason": "Training",
        "lastTransitionTime": "2026-01-31T12:00:00Z",
    },
    **{
        ("status", kind, "[]", *path): beside
        for kind, name in (("stages", "Inspection"), ("teachers", "Sam"))
        for path, beside in {
            (): {"name": name, "state": "Training"},
            ("attempts", "[]"): {"pod": "a"},
            ("progress",): {"percent": 1, "step": 1, "steps": 100},
            ("unresponsive",): {"reason": "NodeNotReady", "message": "x", "since": "2026-01-31T12:00:00Z"},
            ("failure",): {"reason": "Crashed", "message": "x"},
        }.items()
    },
}
"""What has to stand beside a field."""


def _around(path: Path_, value: str, at: Path_ = ()) -> Any:
    """The part of an object at ``at`` that holds a value at the end of a path."""
    if not path:
        return value
    step, *rest = path
    inner = _around(tuple(rest), value, (*at, step))
    if step == "[]":
        return [inner]
    return dict(NEEDED.get(at, {})) | {"key" if step == "{}" else step: inner}


async def test_every_pattern_has_samples() -> None:
    assert set(PATTERNS.values()) == set(SAMPLES)


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("path", PATTERNS, ids=".".join)
async def test_a_pattern_takes_and_refuses(api: Api, path: Path_) -> None:
    async def said(value: str) -> str:
        body = _around(path, value)
        if path[0] == "metadata":
            return await _try(api, MINIMAL, value)
        if path[0] == "status":
            return await _try_patch(api, "minimal", body, "/status")
        spec = body["spec"]
        if path[1] == "dataset":
            beside = PARTS if path[2] in ("train", "val", "test") else MINIMAL["dataset"]
            spec["dataset"] = dict(beside) | spec["dataset"]
        for pods in (spec.get("pod"), *spec.get("stages", ())):
            for one in (pods or {}).get("volumes", ()):
                if len(one) == 1:
                    one["emptyDir"] = {}
            for one in (pods or {}).get("resourceClaims", ()):
                if len(one) == 1:
                    one["resourceClaimName"] = "a"
        if "retention" in path:
            spec["training"]["retention"] = {"annotations": "s3://data/a.json"} | spec["training"]["retention"]
        if path[-1] == "workloadPriorityClassName":
            spec["queueName"] = "team"
        return await _try(api, MINIMAL | spec)

    good, bad = SAMPLES[PATTERNS[path]]
    if path[-1] in ("dropout", "minShare"):
        good = ["0", "0.5", "1e-4"]
    for value, complaint in zip(good, await asyncio.gather(*map(said, good)), strict=True):
        assert complaint == "", value
    for value, complaint in zip(bad, await asyncio.gather(*map(said, bad)), strict=True):
        assert complaint, value


OTHERS: dict[str, Any] = {
    "dataset": {"annotations": "s3://data/b.json"},
    "output": "s3://elsewhere/",
    "teachers": [{"name": "Sam", "epochs": 4}],
    "classPrompts": {"bolt": "a brass bolt"},
    "augmentation": {"characteristics": ["dense"], "intensity": "high"},
    "training": {"seed": 8},
}


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("name", OTHERS)
async def test_an_input_is_never_changed_added_or_taken_away(api: Api, name: str) -> None:
    message = f"{name} cannot be changed: it is an input of the run. Make a new TeacherFineTune instead"
    assert message in await _try_patch(api, "full", {"spec": {name: OTHERS[name]}})
    if name not in MINIMAL:
        assert message in await _try_patch(api, "full", {"spec": {name: None}})
        assert message in await _try_patch(api, "minimal", {"spec": {name: FULL[name]}})


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("name", PLACES)
async def test_the_place_of_the_data_is_never_changed(api: Api, name: str) -> None:
    message = f"storage.{name} cannot be changed: it is an input of the run. Make a new TeacherFineTune instead"
    assert message in await _try_patch(api, "full", {"spec": {"storage": {name: PLACES[name]}}})
    if name in FULL["storage"]:
        assert message in await _try_patch(api, "full", {"spec": {"storage": {name: None}}})
    assert message in await _try_patch(api, "minimal", {"spec": {"storage": {name: PLACES[name]}}})


@pytest.mark.usefixtures("there")
async def test_the_secret_may_be_another(api: Api) -> None:
    assert await _try_patch(api, "full", {"spec": {"storage": {"credentialsSecretRef": {"name": "other"}}}}) == ""
    assert await _try_patch(api, "full", {"spec": {"storage": {"credentialsSecretRef": None}}}) == ""
    assert await _try_patch(api, "minimal", {"spec": {"storage": {"credentialsSecretRef": {"name": "new"}}}}) == ""


HOW: dict[str, Any] = {
    "serviceAccountName": "other",
    "gpus": 4,
    "nodes": 2,
    "gpuResourceName": "amd.com/gpu",
    "nodeSelector": {"pool": "a100"},
    "affinity": {"nodeAffinity": {}},
    "tolerations": [{"key": "a", "operator": "Exists"}],
    "runtimeClassName": "nvidia",
    "priorityClassName": "high",
    "resources": {"requests": {"cpu": "8"}},
    "pod": {"labels": {"team": "a"}},
    "stages": [{"name": "Inspection", "nodeSelector": {}}],
    "sharedMemory": "8Gi",
    "scratch": {"claimName": "disk"},
    "modelCache": {"claimName": "models"},
    "imagePullSecrets": [{"name": "pull"}],
    "queueName": "team",
    "workloadPriorityClassName": "urgent",
    "managedBy": "kueue.x-k8s.io/multikueue",
    "suspend": True,
    "backoffLimit": 0,
    "activeDeadlineSeconds": 3600,
    "pendingDeadlineSeconds": 3600,
    "gangTimeoutSeconds": 600,
    "ttlSecondsAfterFinished": 0,
}


@pytest.mark.usefixtures("there")
async def test_how_and_where_it_runs_may_change(api: Api) -> None:
    assert set(HOW) == set(PLATFORM)
    for name, value in HOW.items():
        queued = {"queueName": "team"} if name in ("workloadPriorityClassName", "managedBy") else {}
        assert await _try_patch(api, "full", {"spec": {name: value, **queued}}) == "", name


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (MINIMAL | {"epochs": 3}, 'unknown field "spec.epochs"'),
        (_teacher(epoch=3), 'unknown field "spec.teachers[0].epoch"'),
        (MINIMAL | {"teachers": [{"name": "Sam"}, {"name": "Sam"}]}, "Duplicate value"),
        (MINIMAL | {"teachers": [{"name": "Yolo"}]}, 'Unsupported value: "Yolo"'),
        (MINIMAL | {"augmentation": {"characteristics": ["dense", "dense"]}}, "Duplicate value"),
        ({"output": "s3://models/"}, "spec.dataset: Required value"),
        ({"dataset": MINIMAL["dataset"]}, "spec.output: Required value"),
        (MINIMAL | {"gpus": 65}, "should be less than or equal to 64"),
        (MINIMAL | {"gpus": 1.5}, "must be of type integer"),
        (_teacher(learningRate=0.0001), "must be of type string"),
        (_teacher(learningRate="1e400"), "spec.teachers[0]"),
        (MINIMAL | {"pendingDeadlineSeconds": 29}, "should be greater than or equal to 30"),
        (MINIMAL | {"gangTimeoutSeconds": 1801}, "should be less than or equal to 1800"),
        (MINIMAL | {"resources": {"limits": {"memory": -4}}}, "should be greater than or equal to 0"),
        (MINIMAL | {"resources": {"limits": {"memory": True}}}, "must be of type"),
    ],
)
async def test_slips_are_refused_with_their_place(api: Api, spec: Body, message: str) -> None:
    assert message in await _try(api, spec)


AMOUNTS = [4, 0, "4", "0.5", ".5", "1.", "500m", "1e9", "2E3", "+1", "16Gi", "1Ei", "100n", "1.2345"]


async def test_an_amount_is_one_to_the_core_api_too(api: Api) -> None:
    """What a run may say of its resources, a pod may: of the same server, checked as if it were made."""
    for amount in AMOUNTS:
        assert await _try(api, MINIMAL | {"resources": {"requests": {"memory": amount}}}) == "", amount
        assert await _try(api, MINIMAL | {"scratch": {"size": amount}, "sharedMemory": amount}) == "", amount
        container = {"name": "a", "image": "a", "resources": {"requests": {"memory": str(amount)}}}
        volume = {"name": "a", "emptyDir": {"sizeLimit": str(amount)}}
        pod = {"metadata": {"name": "a"}, "spec": {"containers": [container], "volumes": [volume]}}
        made = await api.call("POST", "api/v1/namespaces/default/pods", pod, dryRun="All")
        assert made["spec"]["containers"][0]["resources"]["requests"]["memory"], amount


async def test_a_name_leaves_room_for_those_of_its_children(api: Api) -> None:
    assert await _try(api, MINIMAL, "a" * NAME_MAX) == ""
    assert str(NAME_MAX) in await _try(api, MINIMAL, "a" * (NAME_MAX + 1))


async def test_defaults_are_filled_in(api: Api) -> None:
    made = await api.call("POST", OBJECTS, _object(MINIMAL), dryRun="All")
    policy = {"onProblem": "Skip", "maxSkippedPercent": 20, "maxLeakedPercent": 5}
    policy |= {"crowds": "Ignore", "exifOrientation": "Auto"}
    assert made["spec"] == MINIMAL | {
        "dataset": MINIMAL["dataset"] | policy,
        "gpus": 1,
        "nodes": 1,
        "gpuResourceName": "nvidia.com/gpu",
        "suspend": False,
        "backoffLimit": 3,
    }


async def test_status_is_written_apart(api: Api) -> None:
    body = _object(MINIMAL) | {"status": {"runId": "forged"}}
    made = await api.call("POST", OBJECTS, body, dryRun="All")
    assert made["status"]["runId"] == "", "what is created has the default status, whatever was sent"


async def test_the_charts_definition_is_that_of_crds(api: Api) -> None:
    path = f"apis/apiextensions.k8s.io/v1/customresourcedefinitions/{DEFINITION['metadata']['name']}"
    installed = await api.call("GET", path)
    query = {"dryRun": "All", "fieldManager": "test", "force": "true"}
    applied = await api.call("PATCH", path, DEFINITION, content=APPLY, **query)
    assert applied["metadata"]["generation"] == installed["metadata"]["generation"], "its spec would change"
