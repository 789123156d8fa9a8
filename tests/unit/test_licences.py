"""The licence of code, weights and labels is stated with each result, for teachers and students."""

from __future__ import annotations

import pytest
from toy import result_of

from engine.cli.doctor import checks
from engine.registry import ModelName, StudentName, TeacherName
from engine.results.licences import licences_of


def test_base_weights_have_the_licence_that_was_published_with_them() -> None:
    stated = licences_of(result_of(TeacherName.SAM, base_model="facebook/sam-vit-base"))
    assert (stated.code, stated.weights) == ("Apache-2.0", "facebook/sam-vit-base: Apache-2.0")
    stated = licences_of(result_of(TeacherName.SAM, base_model="s3://acme/own/"))
    assert stated.weights == "s3://acme/own/: not known here, see its source"


def test_a_student_states_where_its_labels_come_from() -> None:
    student = StudentName.DFINE
    stated = licences_of(result_of(student, base_model="random weights", labelled_images=7))  # type: ignore[arg-type]
    assert stated.weights == "none: training began with random weights"
    assert stated.labels.endswith("7 training images with labels of teachers")


@pytest.mark.parametrize("name", list(ModelName), ids=str)
def test_every_model_has_permissive_code_and_weights(name: ModelName) -> None:
    permissive = {"Apache-2.0", "MIT", "BSD-3-Clause"}
    assert name.traits.licence in permissive
    assert {base.licence for base in name.traits.published} <= permissive


def test_the_doctor_states_the_licences() -> None:
    (check,) = [check for check in checks(None) if check.name == "licences"]
    assert all(name.traits.title in check.message for name in ModelName)
    assert "Apache-2.0" in check.message
