"""The CRD follows from the models, holds to what the API server and API conventions want, and takes the examples."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from loops import nonempty
from pydantic import ValidationError
from tft_objects import FULL, MINIMAL, body_of
from tft_schema import SPEC, STATUS, nodes, spec_errors

from engine.platform_fields import PLATFORM_FIELDS
from engine.spec import FineTuneSpec, SpecModel, StorageSpec
from teacher_operator.api import crd
from teacher_operator.api.kubernetes_strings import INT_OR_STRING
from teacher_operator.api.spec import (
    APPLIED_TO_JOBS,
    INPUTS,
    PLATFORM,
    PLATFORM_STORAGE,
    ClusterStorageSpec,
    TeacherFineTuneSpec,
    parse_spec,
    platform_fields,
)

ROOT = Path(__file__).resolve().parents[3]
VERSION = crd.crd()["spec"]["versions"][0]
SCHEMA = VERSION["schema"]["openAPIV3Schema"]
NODES = dict(nodes(SCHEMA))
FREE = {
    ".spec.affinity",
    ".spec.stages[].affinity",
    ".spec.stages[].volumes[].projected",
    ".spec.pod.volumes[].projected",
}
"""Parts whose inside is the API server's own to check, when the Job is made."""

STRUCTURAL = {
    "type",
    "format",
    "description",
    "properties",
    "additionalProperties",
    "items",
    "required",
    "default",
    "enum",
    "pattern",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
}


def test_the_file_has_not_drifted_from_the_models() -> None:
    (file,) = (ROOT / "crds").glob("*.yaml")
    assert file.name == "teacherfinetunes.finetune.dev.yaml"
    assert file.read_text() == crd.crd_yaml(), "run `make crds`"


def test_the_crd_file_equals_the_crd_and_has_no_anchors() -> None:
    assert yaml.safe_load(crd.crd_yaml()) == crd.crd()
    assert not re.search(r"[&*]id\d+", crd.crd_yaml()), "anchors are not read by every tool"


def test_every_part_is_structural() -> None:
    for path, schema in NODES.items():
        unknown = {key for key in schema if key not in STRUCTURAL and not key.startswith("x-kubernetes-")}
        if schema.get(INT_OR_STRING):
            assert "type" not in schema, path
            unknown -= {"anyOf"}
            assert schema["anyOf"] == [{"type": "integer"}, {"type": "string"}], path
        else:
            assert "anyOf" not in schema, path
            assert schema["type"] in {"object", "array", "string", "integer", "boolean"}, path
        assert not unknown, f"{path}: {unknown}"


def test_the_schema_has_no_floats() -> None:
    assert [path for path, schema in NODES.items() if schema.get("type") == "number"] == []


@pytest.mark.parametrize(("root", "schema"), [("spec", SPEC), ("status", STATUS)])
def test_every_field_has_a_description(root: str, schema: dict[str, Any]) -> None:
    fields = [(path, part) for path, part in nodes(schema) if not path.endswith(("[]", "{}"))]
    assert len(fields) > 30
    assert [f"{root}{path}" for path, part in fields if not part.get("description")] == []


@pytest.mark.parametrize(("root", "schema"), [("spec", SPEC), ("status", STATUS)])
def test_everything_is_bounded(root: str, schema: dict[str, Any]) -> None:
    """What has no bound makes CEL rules too costly, and may grow until etcd refuses the object."""
    for path, part in nonempty(nodes(schema)):
        where = f"{root}{path}"
        if f".{where}" in FREE:
            assert part["x-kubernetes-preserve-unknown-fields"] is True
        elif part.get("type") == "string" or part.get(INT_OR_STRING):
            assert part.get("maxLength", 0) > 0, where
        elif part.get("type") == "array":
            assert part.get("maxItems", 0) > 0, where
        elif part.get("type") == "object":
            assert part.get("properties") or part.get("maxProperties"), where


def test_every_integer_of_the_spec_has_a_range() -> None:
    for path, part in nonempty(nodes(SPEC)):
        if part.get("type") == "integer":
            assert {"minimum", "maximum"} <= set(part), path


def test_only_dataset_and_output_are_required() -> None:
    assert SPEC["required"] == ["dataset", "output"]
    assert spec_errors(MINIMAL) == []


@pytest.mark.parametrize("pattern", sorted({s["pattern"] for s in NODES.values() if "pattern" in s}))
def test_patterns_are_whole_and_such_as_go_reads(pattern: str) -> None:
    re.compile(pattern)
    assert pattern.startswith("^")
    assert pattern.endswith("$")
    assert not re.search(r"\(\?[=!<]|\\[1-9]|\(\?P=", pattern), "no lookaround, no references back"


def test_lists_say_how_appliers_share_them() -> None:
    for path, part in NODES.items():
        if part.get("type") != "array":
            continue
        kind = part["x-kubernetes-list-type"]
        if kind == "map":
            keys = part["x-kubernetes-list-map-keys"]
            assert keys, path
            assert set(keys) <= set(part["items"]["required"]), path
        else:
            assert kind in {"atomic", "set"}, path
            assert kind == "atomic" or part["items"]["type"] == "string", path


EXAMPLES = sorted(path for path in (ROOT / "examples").iterdir() if path.suffix in {".yaml", ".yml", ".json"})
"""The files that `kubectl apply -f examples/` takes."""


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_are_taken(example: Path) -> None:
    body = yaml.safe_load(example.read_text())
    assert body["apiVersion"] == f"{crd.GROUP}/{VERSION['name']}"
    assert body["kind"] == crd.crd()["spec"]["names"]["kind"]
    assert spec_errors(body["spec"]) == []
    assert re.search(SCHEMA["properties"]["metadata"]["properties"]["name"]["pattern"], body["metadata"]["name"])
    parse_spec(body)


def test_every_platform_setting_is_taken() -> None:
    assert set(FULL) >= set(PLATFORM)
    assert spec_errors(FULL) == []
    parse_spec(body_of(FULL))


@pytest.mark.parametrize("setting", ["Publish", "Fail"])
def test_on_no_gain_is_a_setting(setting: str) -> None:
    spec = {**MINIMAL, "training": {"onNoGain": setting}}
    assert spec_errors(spec) == []
    assert parse_spec(body_of(spec)).training.on_no_gain.value == setting


@pytest.mark.parametrize("share", ["0", "0.8", "1"])
def test_the_retention_to_keep_needs_no_images_of_the_user(share: str) -> None:
    spec = {**MINIMAL, "training": {"retention": {"minShare": share}}}
    assert spec_errors(spec) == []
    assert parse_spec(body_of(spec)).training.retention.min_share == share


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"dataset": {"annotations": "/mnt/data/a.json"}}, "$.dataset.annotations"),
        ({"dataset": {"annotations": "s3://data/a.json", "notThere": 1}}, "$.dataset"),
        ({"training": {"retention": {"annotations": "probe.json"}}}, "$.training.retention.annotations"),
        ({"training": {"retention": {"minShare": "most"}}}, "$.training.retention.minShare"),
        ({"training": {"onNoGain": "Ignore"}}, "$.training.onNoGain"),
        ({"output": "out/"}, "$.output"),
        ({"output": "s3://UPPER/x"}, "$.output"),
        ({"teachers": [{"name": "Sam", "learningRate": 0.1}]}, "$.teachers[0].learningRate"),
        ({"teachers": [{"name": "Sam", "learningRate": "fast"}]}, "$.teachers[0].learningRate"),
        ({"teachers": [{"name": "sam"}]}, "$.teachers[0].name"),
        ({"teachers": [{"name": "Sam", "baseModel": "/models/sam"}]}, "$.teachers[0].baseModel"),
        ({"teachers": [{"name": "Sam", "baseModel": "../sam"}]}, "$.teachers[0].baseModel"),
        ({"storage": {"endpointUrl": "ftp://x"}}, "$.storage.endpointUrl"),
        ({"storage": {"credentialsSecretRef": {"name": "Not_a_name"}}}, "$.storage.credentialsSecretRef.name"),
        ({"storage": {"addressingStyle": "Virtual"}}, "$.storage.addressingStyle"),
        ({"storage": {"requesterPays": "yes"}}, "$.storage.requesterPays"),
        ({"storage": {"caBundle": "ca.pem"}}, "$.storage.caBundle"),
        ({"storage": {"caBundleConfigMapRef": {"key": "ca.crt"}}}, "$.storage.caBundleConfigMapRef"),
        ({"storage": {"caBundleConfigMapRef": {"name": "ca", "key": "a/b"}}}, "$.storage.caBundleConfigMapRef.key"),
        ({"output": "s3://arn:aws:s3::123456789012:accesspoint/mfzwi23gnjvgw.mrap/x"}, "$.output"),
        ({"output": "pvc:///adapters"}, "$.output"),
        ({"output": "az://no_such/x"}, "$.output"),
        ({"output": "abfs://c@a.dfs.core.windows.net/x"}, "$.output"),
        ({"storage": {"azureAccount": "acme.evil.example"}}, "$.storage.azureAccount"),
        ({"output": "pvc://Adapters/x"}, "$.output"),
        ({"gpus": -1}, "$.gpus"),
        ({"nodes": 0}, "$.nodes"),
        ({"gpuResourceName": "nvidia.com/gpu/x"}, "$.gpuResourceName"),
        ({"nodeSelector": {"zone": 1}}, "$.nodeSelector.zone"),
        ({"sharedMemory": "lots"}, "$.sharedMemory"),
        ({"sharedMemory": "-1Gi"}, "$.sharedMemory"),
        ({"scratch": {"size": "10GiB"}}, "$.scratch.size"),
        ({"resources": {"limits": {"memory": -5}}}, "$.resources.limits.memory"),
        ({"resources": {"limits": {"memory": True}}}, "$.resources.limits.memory"),
        ({"resources": {"requests": {"cpu": 0.5}}}, "$.resources.requests.cpu"),
        ({"resources": {"requests": {"cpu": "many"}}}, "$.resources.requests.cpu"),
        ({"tolerations": [{"effect": "Always"}]}, "$.tolerations[0].effect"),
        ({"queueName": "no spaces"}, "$.queueName"),
        ({"backoffLimit": 1.5}, "$.backoffLimit"),
        ({"activeDeadlineSeconds": 1}, "$.activeDeadlineSeconds"),
        ({"suspend": "yes"}, "$.suspend"),
        ({"affinity": "near"}, "$.affinity"),
    ],
)
def test_an_invalid_spec_is_refused(change: dict[str, Any], where: str) -> None:
    (error,) = spec_errors({**MINIMAL, **change})
    assert error.startswith(f"{where}: ")


@pytest.mark.parametrize(
    "amount", [4, 0, "4", "500m", "0.5", ".5", "1.", "1.2345", "1e9", "2E3", "+1", "16Gi", "1E", "1Ei"]
)
def test_an_amount_is_taken_as_the_core_api_takes_it(amount: int | str) -> None:
    spec = {
        **MINIMAL,
        "sharedMemory": amount,
        "scratch": {"size": amount},
        "resources": {"requests": {"cpu": amount}, "limits": {"memory": amount}},
    }
    assert spec_errors(spec) == []
    parsed = parse_spec(body_of(spec))
    amounts = [parsed.shared_memory, parsed.scratch.size, *parsed.resources.requests.values()]
    assert amounts == [str(amount)] * 3, "pods are made with text"


@pytest.mark.parametrize("amount", [True, -1, "", "-1", "1 Gi", "Gi", "1e", "1e3x", "1GiB", "0x10", "١", "1\n"])
def test_invalid_quantities_are_refused_by_the_model_too(amount: Any) -> None:
    with pytest.raises(ValidationError):
        parse_spec(body_of({**MINIMAL, "sharedMemory": amount}))


@pytest.mark.parametrize(
    "model",
    ["org/model", "model", "IDEA-Research/grounding-dino-tiny", "s3://models/sam/", "s3://models/m.pth", "pvc://m/sam"],
)
def test_a_base_model_comes_from_the_hub_or_from_object_storage(model: str) -> None:
    assert spec_errors({**MINIMAL, "teachers": [{"name": "Sam", "baseModel": model}]}) == []


@pytest.mark.parametrize(
    "change",
    [
        {"storage": {"addressingStyle": "virtual", "requesterPays": True, "caBundle": "/etc/ssl/ours.pem"}},
        {"storage": {"caBundleConfigMapRef": {"name": "authorities"}}},
        {"output": "s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/team/models/"},
        {"output": "s3://arn:aws:s3-outposts:eu-west-1:123456789012:outpost/op-01ac5d28a6a232904/accesspoint/team/m"},
        {"output": "pvc://adapters"},
        {"output": "gs://acme_models/x", "storage": {"googleProject": "team-a"}},
        {"output": "az://models/x", "storage": {"azureAccount": "acme1"}},
        {"dataset": {"annotations": "pvc://forklifts/annotations.json", "images": "pvc://forklifts/images/"}},
    ],
)
def test_how_a_store_is_reached_can_be_reported(change: dict[str, Any]) -> None:
    assert spec_errors({**MINIMAL, **change}) == []


@pytest.mark.parametrize("column", VERSION["additionalPrinterColumns"], ids=lambda column: column["name"])
def test_every_column_shows_an_existing_field(column: dict[str, Any]) -> None:
    path = re.sub(r'\[\?\(@\.\w+=="\w+"\)\]', "[]", column["jsonPath"])
    if path == ".metadata.creationTimestamp":
        assert column["type"] == "date"
        return
    assert NODES[path]["type"] == column["type"]


def test_kubectl_get_shows_the_state_of_a_run() -> None:
    narrow = [c["name"] for c in VERSION["additionalPrinterColumns"] if not c.get("priority")]
    assert narrow == ["Teachers", "State", "Progress", "Left", "mAP", "Age"]


def test_the_status_is_a_subresource_of_the_one_stored_version() -> None:
    assert VERSION["served"] is VERSION["storage"] is True
    assert VERSION["subresources"] == {"status": {}}


def test_the_engine_ignores_exactly_the_platform_fields() -> None:
    file = ROOT / "engine" / "platform_fields.py"
    assert file.read_text() == crd.platform_fields_module(), "run `make crds`"
    assert {name: set(fields) for name, fields in PLATFORM_FIELDS.items()} == {
        "spec": set(PLATFORM),
        "spec.storage": set(PLATFORM_STORAGE),
    }


@pytest.mark.parametrize(("model", "inputs"), [(TeacherFineTuneSpec, FineTuneSpec), (ClusterStorageSpec, StorageSpec)])
def test_exactly_the_fields_that_the_engine_does_not_have_are_marked(
    model: type[SpecModel], inputs: type[SpecModel]
) -> None:
    marked = set(platform_fields(model))
    aliases = {field.alias for name, field in model.model_fields.items() if name not in inputs.model_fields}
    assert marked == aliases != set()


def test_fields_applied_in_place_are_platform_fields() -> None:
    assert set(PLATFORM) >= APPLIED_TO_JOBS
    assert not set(PLATFORM) & set(INPUTS)


def test_no_input_of_a_run_can_be_changed() -> None:
    rules = [one["rule"] for one in SPEC_RULES]
    for name in set(INPUTS) - {"storage"}:
        assert any(f"self.{name} == oldSelf.{name}" in rule for rule in rules), name
    for name in nonempty(StorageSpec.model_fields):
        alias = StorageSpec.model_fields[name].alias
        assert any(f"oldSelf.storage.{alias}" in rule for rule in rules), name
    assert not any(f"oldSelf.{name}" in rule for rule in rules for name in PLATFORM)
    assert not any("credentialsSecretRef" in rule for rule in rules)


SPEC_RULES = SCHEMA["properties"]["spec"]["x-kubernetes-validations"]


def test_a_name_that_no_service_may_have_is_refused_with_several_nodes() -> None:
    (rule,) = SCHEMA["x-kubernetes-validations"]
    pattern = re.search(r"self\.metadata\.name\.matches\('(.*)'\)", rule["rule"])
    assert pattern is not None
    assert "self.spec.nodes == 1" in rule["rule"]
    assert re.search(pattern[1], "forklifts")
    assert not re.search(pattern[1], "3d-parts")


@pytest.mark.parametrize(
    "spec",
    [
        {"dataset": {}},
        {
            "dataset": {
                "annotations": "s3://data/a",
                "train": {"annotations": "s3://data/t"},
                "val": {"annotations": "s3://data/v"},
            }
        },
        {"dataset": {"train": {"annotations": "s3://data/t"}}},
        {"dataset": {"annotations": "s3://data/a", "val": {"annotations": "s3://data/v"}}},
        {
            "dataset": {
                "train": {"annotations": "s3://data/t"},
                "val": {"annotations": "s3://data/v"},
                "split": {"train": 80, "val": 20},
            }
        },
        {"dataset": {"annotations": "s3://data/a", "split": {"folds": 5, "train": 60}}},
        {
            "dataset": {
                "train": {"annotations": "s3://data/t"},
                "val": {"annotations": "s3://data/v"},
                "split": {"folds": 5},
            }
        },
        {"training": {"sweep": {}}},
        {"training": {"sweep": {"ranks": [4, 8, 16], "learningRates": ["1e-4", "1e-3", "1e-2"]}}},
        {"training": {"sweep": {"learningRates": ["1e-3", "2"]}}},
        {"teachers": [{"name": "Sam", "learningRate": "0"}]},
        {"teachers": [{"name": "Sam", "lora": {"dropout": "1"}}]},
    ],
)
def test_the_api_server_refuses_with_the_words_of_the_engine(spec: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as raised:
        parse_spec(body_of(**spec))
    said = str(raised.value)
    messages = {one["message"] for part in NODES.values() for one in part.get("x-kubernetes-validations", ())}
    words = {message.split("must be", 1)[-1].strip() for message in messages}
    assert any(word in said for word in words), said
