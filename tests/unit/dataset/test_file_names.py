"""A file_name as tools write it, and the file that it means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.dataset import file_names
from engine.dataset.file_names import FileNames, is_unsafe

PATHS = st.lists(st.sampled_from(["a", "A", "b", "c.j", "C.j", ""]), min_size=1, max_size=4).map("/".join)
KEYS = PATHS.filter(lambda path: not path.endswith("/") and path)
"""No file is called nothing."""


@pytest.mark.parametrize(
    ("file_name", "keys", "found"),
    [
        ("a.jpg", ["a.jpg", "sub/a.jpg"], "a.jpg"),
        ("a.jpg", ["train2017/a.jpg"], "train2017/a.jpg"),
        ("images/a.jpg", ["a.jpg"], "a.jpg"),
        ("./a.jpg", ["a.jpg"], "a.jpg"),
        ("images\\train\\a.jpg", ["train/a.jpg", "val/a.jpg"], "train/a.jpg"),
        ("train/a.jpg", ["x/train/a.jpg", "x/val/a.jpg"], "x/train/a.jpg"),
        ("a.jpg", ["A.JPG"], "A.JPG"),
        ("a.jpg", ["x/A.jpg", "y/a.jpg"], "y/a.jpg"),
        ("/data/upload/3/ab12-a.jpg", ["ab12-a.jpg"], "ab12-a.jpg"),
        ("/data/local-files/?d=set%201/a%20b.jpg", ["set 1/a b.jpg", "set 2/a b.jpg"], "set 1/a b.jpg"),
        ("http://host:8080/data/upload/a%20b.jpg", ["a b.jpg"], "a b.jpg"),
        ("s3://bucket/prefix/a.jpg", ["prefix/a.jpg", "other/a.jpg"], "prefix/a.jpg"),
        ("/home/me/pictures/a.jpg", ["train/a.jpg"], "train/a.jpg"),
        ("C:\\Users\\me\\a.jpg", ["train/a.jpg"], "train/a.jpg"),
        ("a%20b.jpg", ["a b.jpg"], "a b.jpg"),
        ("a%20b.jpg", ["a b.jpg", "a%20b.jpg"], "a%20b.jpg"),
        ("what?.jpg", ["what?.jpg"], "what?.jpg"),
        ("day/1.jpg", ["night/1.jpg"], None),
        ("1.jpg", ["day/1.jpg", "night/1.jpg"], None),
        ("/data/1.jpg", ["day/1.jpg", "night/1.jpg"], None),
        ("b.jpg", ["a.jpg"], None),
        ("a", ["a.jpg"], None),
        ("", ["a.jpg"], None),
        ("images/", ["a.jpg"], None),
        ("http://[bad/a.jpg", ["b.jpg"], None),
        ("a.jpg", [], None),
    ],
)
def test_name_matches_the_only_possible_file(file_name: str, keys: list[str], found: str | None) -> None:
    assert FileNames(keys).find(file_name) == found


@given(keys=st.sets(KEYS), start=st.sampled_from(["", "/", "x:/", "./"]), path=PATHS)
def test_match_does_not_depend_on_the_number_of_similar_names(keys: set[str], start: str, path: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        few = FileNames(keys).find(start + path)
        patch.setattr(file_names, "FEW", 0)
        assert FileNames(keys).find(start + path) == few


@pytest.mark.parametrize(("name", "found"), [("data/{}/frame.png", True), ("/other/x{}/frame.png", False)])
def test_forty_thousand_folders_of_files_of_one_name_are_distinguished(name: str, found: bool) -> None:
    """Comparing each with each would take longer than a test may."""
    files = FileNames(f"{i:05d}/frame.png" for i in range(40_000))
    for i in range(40_000):
        assert files.find(name.format(f"{i:05d}")) == (f"{i:05d}/frame.png" if found else None)


def test_unsafe_names_are_recognised() -> None:
    assert [is_unsafe(name) for name in ("a/../../b", "..\\b", "a\0", "a..b/c.jpg")] == [True, True, True, False]
