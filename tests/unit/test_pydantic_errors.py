"""Messages about wrong values are in words: none is pydantic's own, and no pattern is shown."""

from __future__ import annotations

from typing import Any

import pytest

from engine.errors import ConfigError
from engine.spec import FineTuneSpec
from engine.text.pydantic_errors import parse

SAM = {"name": "Sam"}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"teachers": [SAM | {"batchSize": "6"}]}, "batchSize: must be a whole number: write it without quotes, 6"),
        ({"teachers": [SAM | {"batchSize": 1.5}]}, "batchSize: must be a whole number, found 1.5"),
        ({"teachers": [SAM | {"batchSize": 0}]}, "batchSize: must be at least 1, found 0"),
        ({"teachers": [SAM | {"learningRate": 0.1}]}, 'learningRate: must be text: write it in quotes, "0.1"'),
        ({"teachers": [SAM | {"learningRate": "fast"}]}, "learningRate: must be a number that is not negative"),
        ({"teachers": [SAM | {"learningRate": "2"}]}, 'learningRate: must be above "0" and at most "1", found'),
        ({"teachers": [SAM | {"lora": "all"}]}, "lora: must be a group of settings: preset, rank, alpha"),
        ({"teachers": "Sam"}, 'teachers: must be a list: write ["Sam"]'),
        ({"teachers": [SAM] * 9}, "teachers: must have at most 8 entries"),
        ({"classPrompts": ["a"]}, "classPrompts: must be a group of names, each with a value"),
        ({"classPrompts": {"a": ""}}, "classPrompts.a: must not be empty"),
        ({"storage": {"requesterPays": "maybe"}}, "requesterPays: must be true or false, found 'maybe'"),
        ({"storage": {"endpointUrl": "foo"}}, "endpointUrl: must be a URL such as https://s3.example.com"),
        ({"storage": {"region": "EU"}}, "region: must be a region such as eu-west-1"),
        ({"storage": {"azureAccount": "A"}}, "azureAccount: must be 3 to 24 small letters and digits"),
        ({"storage": {"googleProject": "A"}}, "googleProject: must be the id of a project"),
        ({"dataset": {"annotations": "a", "groupBy": "folder"}}, "groupBy: must be Folder, Prefix: and a separator"),
        ({"dataset": {}}, "dataset: give either dataset.annotations or"),
        ({"output": "a\nb"}, "output: must be text without line breaks"),
        ({"output": ""}, "output: must not be empty"),
    ],
)
def test_a_wrong_value_is_reported_in_words(fields: dict[str, Any], said: str) -> None:
    request = {"dataset": {"annotations": "a.json"}, "output": "out"} | fields
    with pytest.raises(ConfigError) as error:
        parse(FineTuneSpec, request, where="forklifts.yaml", strict=True)
    message = str(error.value)
    assert said in message
    for raw in ("Input should", "String should", "Value error", "pattern", "instance of"):
        assert raw not in message
