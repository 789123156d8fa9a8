from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import BASE
from transformers import AutoTokenizer

from engine.dataset import DatasetInfo, inspect_dataset
from engine.dataset.checks.class_name_checks import check_class_names, find_vocabulary
from engine.dataset.types import Severity
from engine.dataset.wordpiece import Vocabulary, words
from engine.errors import BaseModelError
from engine.storage import Storage

BERT = Vocabulary(
    frozenset({"red", "blood", "cell", "plate", "##lets", "fork", "##lift", "rb", "wb", "##c"})
    | {"le", "##uk", "##ocytes", "x", "-", "ray", "white"}
)
"""Pieces as the published vocabulary has them."""
TOKENIZER = AutoTokenizer.from_pretrained(BASE)
VOCABULARY = Vocabulary.read((BASE / "tokenizer.json").read_bytes())


def info_of(folder: Path, *names: str) -> DatasetInfo:
    categories = [{"id": i, "name": name} for i, name in enumerate(names)]
    annotations = [{"id": i, "image_id": 1, "category_id": i, "bbox": [1, 1, 9, 9]} for i in range(len(names))]
    images = [{"id": 1, "file_name": "1.png", "width": 64, "height": 64}]
    file = folder / "a.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return inspect_dataset(file)


def odd(info: DatasetInfo) -> tuple[str, ...]:
    return next((problem.examples for problem in info.problems if problem.code == "odd_class_name"), ())


def test_names_split_by_the_tokenizer_are_reported(tmp_path: Path) -> None:
    names = ("RBC", "forklift", "platelets", "leukocytes", "red_blood cell", "x-ray", "日")
    info = check_class_names(info_of(tmp_path, *names), {}, BERT)
    (problem,) = [p for p in info.problems if p.code == "odd_class_name"]
    assert problem.severity is Severity.WARNING
    assert problem.count == 3
    assert problem.examples == (
        "RBC (2 pieces: rb ##c)",
        "leukocytes (3 pieces: le ##uk ##ocytes)",
        "日 (1 piece: [UNK])",
    )
    assert "classPrompts" in problem.advice
    assert not info.errors


def test_names_with_a_class_prompt_are_not_reported(tmp_path: Path) -> None:
    info = info_of(tmp_path, "RBC", "WBC")
    assert odd(check_class_names(info, {"RBC": "red blood cell"}, BERT)) == ("WBC (2 pieces: wb ##c)",)
    assert check_class_names(info, {"RBC": "red blood cell", "WBC": "white cell"}, BERT) == info


def test_classes_without_objects_are_not_reported(tmp_path: Path) -> None:
    info = info_of(tmp_path, "RBC")
    unused = info.model_copy(update={"classes": tuple(c.model_copy(update={"annotations": 0}) for c in info.classes)})
    assert check_class_names(unused, {}, BERT) == unused


def test_the_worst_problems_stay_first(tmp_path: Path) -> None:
    info = check_class_names(info_of(tmp_path, "RBC"), {}, BERT)
    severities = [list(Severity).index(problem.severity) for problem in info.problems]
    assert severities == sorted(severities)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wbc", "no vowels"),
        ("RBC", "no vowels"),
        ("PPE", "an abbreviation"),
        ("cls_07b", "a code"),
        ("12", "a code"),
        ("forklift", ""),
        ("traffic_light", ""),
        ("Gym", ""),
        ("level 2", ""),
        ("T-shirt", ""),
        ("клетка", ""),
    ],
)
def test_without_vocabulary_names_are_checked_by_spelling(tmp_path: Path, name: str, said: str) -> None:
    info = check_class_names(info_of(tmp_path, name, "car"), {}, None)
    assert odd(info) == ((f"{name} ({said})",) if said else ())


def test_upper_case_names_are_not_abbreviations_if_all_are(tmp_path: Path) -> None:
    assert odd(check_class_names(info_of(tmp_path, "CAR", "BUS"), {}, None)) == ()


@settings(deadline=None, max_examples=200)
@given(st.text(st.sampled_from("abc XYZéß.?,/-_日7AΣ\t\u200b😀İ") | st.characters(max_codepoint=0x4FF), max_size=20))
def test_wordpiece_matches_the_models_tokenizer(text: str) -> None:
    """Rare scripts aside, where Python and the tokenizer know different editions of Unicode."""
    pieces = [piece for word in words(text) for piece in VOCABULARY.split(word)]
    assert pieces == TOKENIZER.tokenize(text)


def test_overlong_word_is_unknown() -> None:
    assert Vocabulary(frozenset({"a", "##a"})).split("a" * 101) == ("[UNK]",)


def test_vocabulary_is_read_from_either_tokenizer_file(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\nrb\n##c\n", encoding="utf-8")
    assert find_vocabulary(str(tmp_path), None, storage=Storage()) == Vocabulary(frozenset({"[PAD]", "rb", "##c"}))
    found = find_vocabulary(str(BASE), None, storage=Storage())
    assert found is not None
    assert found.split("abc") == ("a", "##b", "##c")


@pytest.mark.parametrize("revision", [None, "0123456789"])
def test_vocabulary_is_read_from_the_hub_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, revision: str | None
) -> None:
    repo = tmp_path / "models--owner--model"
    for folder in ("refs", "snapshots/0123456789"):
        (repo / folder).mkdir(parents=True)
    (repo / "refs" / "main").write_text("0123456789")
    (repo / "snapshots" / "0123456789" / "vocab.txt").write_text("cell\n")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = find_vocabulary("owner/model", revision, storage=Storage(), hub=False)
    assert found == Vocabulary(frozenset({"cell"}))
    assert find_vocabulary("owner/model", "another", storage=Storage(), hub=False) is None


class Hub:
    """Answers for one file, and counts what it is asked for."""

    def __init__(self, known: str) -> None:
        self.known = known
        self.asked: list[str] = []

    def get(self, url: str, **_: object) -> SimpleNamespace:
        self.asked.append(url.rpartition("/")[2])
        found = url.endswith(self.known)
        return SimpleNamespace(status_code=200 if found else 404, content=b'{"model": {"vocab": {"cell": 1}}}')


@pytest.mark.parametrize(("hub", "offline"), [(True, False), (False, False), (True, True)])
def test_hub_is_queried_for_uncached_files_if_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: bool, offline: bool
) -> None:
    there = Hub("owner/model/resolve/v1/tokenizer.json")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("huggingface_hub.utils.get_session", lambda: there)
    found = find_vocabulary("owner/model", "v1", storage=Storage(), hub=hub)
    if hub and not offline:
        assert there.asked == ["vocab.txt", "tokenizer.json"]
        assert found == Vocabulary(frozenset({"cell"}))
    else:
        assert there.asked == []
        assert found is None


def test_unreachable_hub_is_queried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = Hub("")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)

    def get(url: str, **_: object) -> None:
        there.asked.append(url)
        raise OSError("no network")

    there.get = get  # type: ignore[method-assign,assignment]
    monkeypatch.setattr("huggingface_hub.utils.get_session", lambda: there)
    assert find_vocabulary("owner/model", None, storage=Storage()) is None
    assert len(there.asked) == 1


def test_without_the_hubs_library_there_is_no_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert find_vocabulary("owner/model", None, storage=Storage()) is None


def test_unavailable_vocabulary_is_none(tmp_path: Path) -> None:
    for base in (str(tmp_path), "nobody/nothing", "/there/is no such", "s3://nowhere-at-all/model/", "weights.pth"):
        assert find_vocabulary(base, None, storage=Storage()) is None
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": {}}}')
    assert find_vocabulary(str(tmp_path), None, storage=Storage()) is None


@pytest.mark.parametrize(
    "content", [b'{"model": {}}', b"{", b'{"model": []}', b"\xff\xfe", b'{"model": {"type": "BPE"}}']
)
def test_invalid_vocabulary_is_refused(content: bytes) -> None:
    with pytest.raises(BaseModelError, match="tokenizer"):
        Vocabulary.read(content)
