"""A manifest is read as a cluster would, and every slip is named with its place and the way out."""

from __future__ import annotations

import textwrap

import pytest

from engine.errors import ConfigError
from engine.manifest import load_manifest
from engine.spec import TeacherName


def manifest(spec: str, *, name: str = "parts") -> str:
    head = f"apiVersion: finetune.dev/v1alpha1\nkind: TeacherFineTune\nmetadata: {{name: {name}}}\nspec:\n"
    return head + textwrap.indent(textwrap.dedent(spec).strip(), "  ")


MINIMAL = """
dataset:
  annotations: s3://data/annotations.json
output: s3://models/
"""


def test_dataset_and_output_are_enough() -> None:
    read = load_manifest(manifest(MINIMAL), where="m.yaml")
    assert read.name == "parts"
    assert read.spec.dataset.annotations == "s3://data/annotations.json"
    assert read.spec.teachers == []


def test_what_only_a_cluster_has_is_passed_over() -> None:
    text = manifest(MINIMAL + "gpus: 2\nserviceAccountName: trainer\nstorage: {credentialsSecretRef: {name: s3}}")
    assert load_manifest(text, where="m.yaml").spec == load_manifest(manifest(MINIMAL), where="m.yaml").spec


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("output: s3://m/", r"spec.dataset: required, but not given"),
        (MINIMAL + "outptu: x", r"no setting 'outptu' \(did you mean 'output'\?\)"),
        (MINIMAL + "teachers: [{name: sam}]", r"'sam' is not allowed \(did you mean 'Sam'\?\)"),
        (MINIMAL + "teachers: [{name: Sam}, {name: Sam}]", r"each teacher can be listed once"),
        (MINIMAL + "teachers: [{name: Sam, batch_size: 2}]", r"did you mean 'batchSize'"),
        (MINIMAL + "teachers: [{name: Sam, batchSize: 0}]", "batchSize: must be at least 1, found 0"),
        (MINIMAL + "teachers: [{name: Sam, learningRate: 0.1}]", r'learningRate: .*write it in quotes, "0.1"'),
        (MINIMAL + 'teachers: [{name: Sam, learningRate: "0"}]', r'above "0"'),
        (MINIMAL + 'teachers: [{name: Sam, lora: {dropout: "1"}}]', r'below "1"'),
        ("dataset: {annotations: a, train: {annotations: b}, val: {annotations: c}}\noutput: o", "not both or none"),
        ("dataset: {train: {annotations: b}}\noutput: o", "dataset.train needs dataset.val"),
        ("dataset: {annotations: b, test: {annotations: c}}\noutput: o", "go with dataset.train"),
        ("dataset: {annotations: a, split: {train: 80, val: 10}}\noutput: o", "make 90 percent, not 100"),
        (
            "dataset: {train: {annotations: a}, val: {annotations: b}, split: {train: 80, val: 20}}\noutput: o",
            "split already",
        ),
    ],
)
def test_a_slip_is_named_with_its_place_and_the_way_out(spec: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load_manifest(manifest(spec), where="m.yaml")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: [", "m.yaml is not YAML"),
        ("", "must hold one TeacherFineTune object, found 0"),
        ("---\na: 1\n---\nb: 1", "found 2"),
        ("kind: Pod", "apiVersion must be 'finetune.dev/v1alpha1'"),
        ("apiVersion: finetune.dev/v1alpha1\nkind: Pod", "kind must be 'TeacherFineTune', found 'Pod'"),
        ("apiVersion: finetune.dev/v1alpha1\nkind: TeacherFineTune", "metadata.name and spec are required"),
        (manifest(MINIMAL, name="Not_a_name"), "name: .*found 'Not_a_name'"),
        (manifest(MINIMAL) + "\nspce: {}", "did you mean 'spec'"),
    ],
)
def test_what_is_no_manifest_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load_manifest(text, where="m.yaml")


def test_better_phrases_go_with_class_names() -> None:
    read = load_manifest(manifest(MINIMAL + "classPrompts: {RBC: red blood cell}"), where="m.yaml")
    assert read.spec.class_prompts == {"RBC": "red blood cell"}


def test_teachers_sort_boxes_before_masks() -> None:
    assert [name.slug for name in TeacherName] == ["grounding_dino", "mm_grounding_dino", "sam", "sam2"]
