"""YAML of others is plain data or refused, with file, line and field, in no time and little memory."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.cli.options import settings
from engine.config import from_yaml
from engine.config.resolve import setting_value
from engine.errors import ConfigError
from engine.manifest import load_manifest
from engine.text.plain_yaml import DECIMAL, INTEGER, MAX_BYTES, OLD_YAML, read_document, write_yaml

MANIFEST = """apiVersion: finetune.dev/v1alpha1
kind: TeacherFineTune
metadata:
  name: k
spec:
  dataset:
    annotations: data/annotations.json
  output: OUTPUT
"""
LAUGHS = "\n".join(
    ["    k0: &a0 [x,x,x,x,x,x,x,x,x]", *(f"    k{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9))]
)


def test_what_yaml_1_2_calls_plain_data_is_read() -> None:
    text = (
        "a: 1\nb: [0.5, 2e-3, -7, +7, .5]\nc: {d: true, e: null, f: ~, g: }\nh: 'no'\ni: \"0o7\"\nj: |\n  on\nk: v1.0\n"
    )
    assert read_document(text, where="f").value == {
        "a": 1,
        "b": [0.5, 0.002, -7, 7, 0.5],
        "c": {"d": True, "e": None, "f": None, "g": None},
        "h": "no",
        "i": "0o7",
        "j": "on\n",
        "k": "v1.0",
    }


@pytest.mark.parametrize(
    "content", [b"\xef\xbb\xbfa: 1\n", b"a: 1\r\n", "\ufeffa: 1", b"---\na: 1\n...\n", b"# x\na: 1"]
)
def test_marks_and_ends_of_lines_make_no_difference(content: str | bytes) -> None:
    assert read_document(content, where="f").value == {"a": 1}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("2020-99-99", r"m.yaml, line 8: spec.output: 2020-99-99 .* write \"2020-99-99\" in quotes"),
        ("!!bool maybe", r"line 8: spec.output: tags"),
        ("!!python/object/apply:os.system [ls]", r"line 8: spec.output: tags"),
        ("&x {a: *x}", r"line 8: spec.output: anchors \(&x\)"),
        ("*x", "aliases"),
        ("{<<: {a: 1}}", "line 8: spec.output: merge keys"),
        ("[" * 400 + "]" * 400, r"line 8: spec.output.0: nested more than 40 deep"),
        ("9" * 5000, r"line 8: spec.output: the number 9+… is too large"),
        ("1e999", "too large"),
        (".inf", "quotes"),
        (".NaN", "quotes"),
        ("1:30", "quotes"),
        ("0o17", "quotes"),
        ("017", "quotes"),
        ("0x1F", "quotes"),
        ("1_000", "quotes"),
        ("yes", "true or false"),
        ("OFF", "true or false"),
        ("a\n  output: b", r"line 9: spec.output: is given twice"),
        ("a\n  7: b", r"line 9: spec: the name of a setting must be text: write \"7\" in quotes"),
        ("a\n  [x]: b", "must be text, not a list"),
        ("a\n\tx: b", "is not YAML: line 9, column 1"),
        ('"\\0"', "NUL"),
        ("true", 'line 8: spec.output: .*write it in quotes, "true"'),
        ("7", r'line 8: spec.output: .*write it in quotes, "7"'),
        ("2e-3", r"line 8: spec.output: .*write it in quotes"),
        (f"a\n  classPrompts:\n{LAUGHS}", "anchors"),
    ],
)
def test_what_is_not_plain_data_is_refused_with_its_line_and_field(text: str, complaint: str) -> None:
    begun = time.monotonic()
    with pytest.raises(ConfigError, match=complaint) as error:
        load_manifest(MANIFEST.replace("OUTPUT", text), where="m.yaml")
    assert len(str(error.value)) < 1000
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("a: 1".encode("utf-16"), "not text in UTF-8"),
        (b"a: \xff", "not text in UTF-8"),
        (b"a: b\0c", "is not YAML"),
        (b"a: x" + b"x" * MAX_BYTES, "bytes, more than"),
        (b"- 1\n" * 300_000, "more than 200,000 values"),
        (b"%YAML 9.9\n---\na: 1", "is not YAML"),
        (b"a: 1\n---\nb: 1\n", "one YAML document, found 2"),
        (b"- " * 100_000, "nested"),
        (b"? " * 100_000, "must be text"),
        (b"a: " + b"1_" * 100_000 + b":", "."),
        (b'{"a' * 100_000, "."),
    ],
)
def test_what_is_no_text_or_too_much_is_refused_in_no_time(content: bytes, complaint: str) -> None:
    begun = time.monotonic()
    with pytest.raises(ConfigError, match=complaint):
        read_document(content, where="m.yaml")
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("value", ["[", "&a {b: *a}", "2020-99-99", "!!int x", "[" * 500, "a: 1\na: 2", "\0", "\ud800"])
def test_a_value_of_set_is_read_by_the_same_rules(value: str) -> None:
    with pytest.raises(ConfigError, match=r"^--set training\.seed"):
        settings([f"training.seed={value}"])


def test_values_of_set_are_what_they_look_like() -> None:
    given = ["a=1", "b=1e-4", "c=", "d=[x, 2]", "e=s3://bucket/key", "f=null", "g=0.5"]
    assert {path: setting_value(path, text) for path, text in settings(given).items()} == {
        "a": 1,
        "b": 1e-4,
        "c": None,
        "d": ["x", 2],
        "e": "s3://bucket/key",
        "f": None,
        "g": 0.5,
    }


def test_a_configuration_is_read_by_the_same_rules() -> None:
    with pytest.raises(ConfigError, match=r"c.yaml, line 2: training.seed: 1:30"):
        from_yaml("training:\n  seed: 1:30\n", where="c.yaml")


CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")  # which no text of YAML holds
SPECIAL = st.one_of(st.from_regex(one, fullmatch=True, alphabet=CHARACTERS) for one in (INTEGER, DECIMAL, OLD_YAML))
TEXT = st.text(CHARACTERS)


@given(st.one_of(SPECIAL, TEXT, st.integers(-(10**17), 10**17), st.floats(allow_nan=False, allow_infinity=False)))
@example("98737285e415")  # a run id that is a number to YAML 1.2 alone
@example("1e5")
@example("~")
@example("a\x85b")
@example("\u2028")
@example("no")
def test_what_is_written_is_read_back(value: object) -> None:
    assert read_document(write_yaml({"a": [value], "b": value}), where="f").value == {"a": [value], "b": value}
