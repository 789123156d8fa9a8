"""Teachers follow from the registry: no other product file names one."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from engine.registry import TRAITS, prompters
from engine.spec import TeacherName

ROOT = Path(__file__).resolve().parents[2]
TEACHERS = ROOT / "engine" / "teachers"

NAMES = re.compile(
    r"(?i:grounding[ _-]?dino)|(?i:\bsam\b)|\bsam_|_sam\b|(\b|_)Sam(?=[A-Z])|(\b|_)SAM(\b|_)|segment_anything"
)
"""Names of the teachers that the engine brings, in any spelling."""

PRODUCT = ("engine", "operator", "helm")

ALLOWED = {"helm/teacher-finetune/Chart.yaml": "description and keywords, by which the chart is found"}


def words(file: Path) -> Iterator[tuple[int, str]]:
    """Identifiers and strings of a Python file by line, without docstrings; all lines of any other file.

    Docstrings and comments may name a teacher, as the reason for what the code does for all.
    """
    if file.suffix != ".py":
        yield from enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        return
    tree = ast.parse(file.read_text(encoding="utf-8"))
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) in docstrings:
            continue
        for field in ("id", "attr", "name", "asname", "arg", "module", "value"):
            text = getattr(node, field, None)
            if isinstance(text, str):
                yield getattr(node, "lineno", 0), text


def product_files() -> list[Path]:
    """Files that people write; those of teachers and generated ones are left out."""
    kinds = {".py", ".yaml", ".j2", ".tpl", ".txt", ".json"}
    generated = {"crd.yaml", "values.schema.json", "dashboard.json"}
    return [
        file
        for folder in PRODUCT
        for file in sorted((ROOT / folder).rglob("*"))
        if file.suffix in kinds and file.name not in generated and TEACHERS not in file.parents
    ]


def test_no_product_file_outside_its_package_names_a_teacher() -> None:
    files = product_files()
    assert len(files) > 250
    found = [
        f"{file.relative_to(ROOT)}:{line}: {text[:100]}"
        for file in files
        if str(file.relative_to(ROOT)) not in ALLOWED
        for line, text in words(file)
        if NAMES.search(text)
    ]
    assert not found, "\n".join(found)


def test_each_package_is_registered_under_its_slug() -> None:
    packages = {path.parent.name for path in TEACHERS.glob("*/__init__.py")}
    assert packages == {name.slug for name in TeacherName}
    assert packages >= {"grounding_dino", "sam"}


def test_a_teacher_comes_after_those_that_prompt_it() -> None:
    names = list(TeacherName)
    prompted = [name for name in names if name.traits.prompted]
    assert prompted
    for name in prompted:
        assert prompters(name)
        assert all(names.index(before) < names.index(name) for before in prompters(name))
        assert prompters(name, [names[0]]) == [names[0]]


def test_each_kind_of_annotations_has_one_teacher_by_default() -> None:
    usual = [name.traits.annotations for name in TeacherName if not name.traits.on_request]
    assert sorted(usual) == ["boxes", "masks"]


def test_a_name_is_one_object_and_serialized_as_text() -> None:
    class Model(BaseModel):
        name: TeacherName

    one = Model.model_validate_json('{"name": "Sam"}')
    assert one.name is TeacherName("Sam") is TeacherName.SAM
    assert one.model_dump_json() == '{"name":"Sam"}'
    assert type(one.model_dump(mode="json")["name"]) is str
    assert Model.model_json_schema()["properties"]["name"]["enum"] == [
        "GroundingDino",
        "MMGroundingDino",
        "Sam",
        "Sam2",
    ]


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    class Model(BaseModel):
        name: TeacherName

    with pytest.raises(ValidationError, match="'GroundingDino' or 'MMGroundingDino' or 'Sam' or 'Sam2'"):
        Model(name="sam")
    with pytest.raises(
        ValueError, match="there is no teacher 'sam', only GroundingDino and MMGroundingDino and Sam and Sam2"
    ):
        TeacherName("sam")
    with pytest.raises(AttributeError):
        TeacherName.NOBODY  # noqa: B018


def test_traits_are_read_without_torch() -> None:
    code = (
        "import sys; from engine.spec import TeacherName; from engine.config.resolve import teacher_defaults\n"
        "assert all(teacher_defaults(name)['base_model'] for name in TeacherName)\n"
        "import engine.teachers, engine.models.registry, teacher_operator.api.crd\n"
        "print(len(TeacherName), [name for name in ('torch', 'transformers', 'peft') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{len(TRAITS) or 2} []"
