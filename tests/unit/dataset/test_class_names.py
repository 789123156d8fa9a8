from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import BASE
from transformers import AutoTokenizer

from engine.dataset import DatasetInfo, inspect_dataset
from engine.dataset.class_names import find_vocabulary, judge_names
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


def test_names_that_are_broken_into_pieces_are_told_with_their_pieces(tmp_path: Path) -> None:
    names = ("RBC", "forklift", "platelets", "leukocytes", "red_blood cell", "x-ray", "日")
    info = judge_names(info_of(tmp_path, *names), {}, BERT)
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


def test_names_with_a_better_phrase_are_not(tmp_path: Path) -> None:
    info = info_of(tmp_path, "RBC", "WBC")
    assert odd(judge_names(info, {"RBC": "red blood cell"}, BERT)) == ("WBC (2 pieces: wb ##c)",)
    assert judge_names(info, {"RBC": "red blood cell", "WBC": "white cell"}, BERT) == info


def test_classes_without_objects_are_not(tmp_path: Path) -> None:
    info = info_of(tmp_path, "RBC")
    unused = info.model_copy(update={"classes": tuple(c.model_copy(update={"annotations": 0}) for c in info.classes)})
    assert judge_names(unused, {}, BERT) == unused


def test_the_worst_problems_stay_first(tmp_path: Path) -> None:
    info = judge_names(info_of(tmp_path, "RBC"), {}, BERT)
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
def test_without_a_vocabulary_names_are_judged_by_their_looks(tmp_path: Path, name: str, said: str) -> None:
    info = judge_names(info_of(tmp_path, name, "car"), {}, None)
    assert odd(info) == ((f"{name} ({said})",) if said else ())


def test_where_all_names_are_upper_case_they_are_no_abbreviations(tmp_path: Path) -> None:
    assert odd(judge_names(info_of(tmp_path, "CAR", "BUS"), {}, None)) == ()


@settings(deadline=None, max_examples=200)
@given(st.text(st.sampled_from("abc XYZéß.?,/-_日7AΣ\t\u200b😀İ") | st.characters(max_codepoint=0x4FF), max_size=20))
def test_a_text_is_broken_as_the_models_tokenizer_breaks_it(text: str) -> None:
    """Rare scripts aside, where Python and the tokenizer know different editions of Unicode."""
    pieces = [piece for word in words(text) for piece in VOCABULARY.split(word)]
    assert pieces == TOKENIZER.tokenize(text)


def test_a_word_beyond_all_length_is_unknown() -> None:
    assert Vocabulary(frozenset({"a", "##a"})).split("a" * 101) == ("[UNK]",)


def test_a_folder_tells_its_vocabulary_from_either_file(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\nrb\n##c\n", encoding="utf-8")
    assert find_vocabulary(str(tmp_path), None, storage=Storage()) == Vocabulary(frozenset({"[PAD]", "rb", "##c"}))
    found = find_vocabulary(str(BASE), None, storage=Storage())
    assert found is not None
    assert found.split("abc") == ("a", "##b", "##c")


@pytest.mark.parametrize("hub", [True, False])
def test_the_hub_is_asked_for_what_its_cache_has_not_if_it_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: bool
) -> None:
    file = tmp_path / "vocab.txt"
    file.write_text("cell\n")

    def download(repo: str, name: str, *, revision: str | None, local_files_only: bool, etag_timeout: float) -> str:
        if local_files_only or (repo, name, revision) != ("owner/model", "vocab.txt", "v1"):
            raise OSError("not there")
        return str(file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    found = find_vocabulary("owner/model", "v1", storage=Storage(), hub=hub)
    assert found == (Vocabulary(frozenset({"cell"})) if hub else None)


def test_without_the_hubs_library_there_is_no_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert find_vocabulary("owner/model", None, storage=Storage()) is None


def test_a_vocabulary_that_cannot_be_had_is_none(tmp_path: Path) -> None:
    for base in (str(tmp_path), "nobody/nothing", "/there/is no such", "s3://nowhere-at-all/model/", "weights.pth"):
        assert find_vocabulary(base, None, storage=Storage()) is None
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": {}}}')
    assert find_vocabulary(str(tmp_path), None, storage=Storage()) is None


@pytest.mark.parametrize(
    "content", [b'{"model": {}}', b"{", b'{"model": []}', b"\xff\xfe", b'{"model": {"type": "BPE"}}']
)
def test_what_is_no_vocabulary_is_refused_in_words(content: bytes) -> None:
    with pytest.raises(BaseModelError, match="tokenizer"):
        Vocabulary.read(content)
