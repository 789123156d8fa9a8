"""A base model of others is one that is supported, or is refused in a sentence before it takes time or memory."""

from __future__ import annotations

import json
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_run import SETTINGS, TINY

from engine.errors import BaseModelError
from engine.estimate.forecast import find_base
from engine.spec import TeacherName
from engine.storage import Storage
from engine.teachers import Teacher, load_teacher

DINO, SAM, SAM2 = TeacherName.GROUNDING_DINO, TeacherName.SAM, TeacherName.SAM2
SECONDS, GIGABYTE = 5, 1 << 20
"""Of one base; the memory is in KiB, as getrusage has it."""

Damage = Callable[[Path], object]


def load(name: TeacherName, folder: Path) -> Teacher:
    settings = SETTINGS[name](base_model=str(folder))
    return load_teacher(name, settings, classes=("a",), prompts={}, storage=Storage(), cache=folder / "cache")


def setting(file: str, path: str, value: Any) -> Damage:
    def write(folder: Path) -> None:
        values = json.loads((folder / file).read_text())
        inner = values
        *parents, last = path.split(".")
        for one in parents:
            inner = inner[one]
        inner[last] = value
        (folder / file).write_text(json.dumps(values))

    return write


def content(file: str, data: bytes) -> Damage:
    return lambda folder: (folder / file).write_bytes(data)


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    def write(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return write


def first(tensors: dict[str, torch.Tensor]) -> str:
    return next(name for name in sorted(tensors) if tensors[name].dim() == 2)


CONFIG, PREPROCESSOR, TOKENIZER = "config.json", "preprocessor_config.json", "tokenizer.json"
DEEP = b'{"a":' * 5000 + b"1" + b"}" * 5000
REGEX = {"type": "Replace", "pattern": {"Regex": "(.*(.*)*)*!"}, "content": "x"}
SPLIT = {"type": "Split", "pattern": {"Regex": "(.*(.*)*)*!"}, "behavior": "Isolated", "invert": False}

ALL: dict[str, tuple[Damage, str]] = {
    "no JSON": (content(CONFIG, b"{"), "not JSON"),
    "a list": (content(CONFIG, b"[]"), "no JSON object"),
    "bytes": (content(CONFIG, b"\xff\xfe\x00"), "config.json"),
    "nested": (content(CONFIG, DEEP), "nested too deep"),
    "large": (content(CONFIG, b" " * (2 << 20)), "more than"),
    "twice": (content(CONFIG, b'{"model_type": "sam", "model_type": "sam"}'), "given twice"),
    "NaN": (content(CONFIG, b'{"model_type": NaN}'), "NaN is not a number"),
    "another": (setting(CONFIG, "model_type", "llama"), "'llama' model, not one of"),
    "no kind": (setting(CONFIG, "model_type", None), "'None' model"),
    "kind of no text": (setting(CONFIG, "model_type", ["sam"]), "not one of"),
    "kernels": (setting(CONFIG, "_attn_implementation", "evil/kernels"), "_attn_implementation is 'evil/kernels'"),
    "quantized": (setting(CONFIG, "quantization_config", {"quant_method": "gptq"}), "quantization_config"),
    "NaN weights": (weights(lambda t: t[first(t)].fill_(float("nan"))), "not finite numbers"),
    "infinite weights": (weights(lambda t: t[first(t)].fill_(float("inf"))), "not finite numbers"),
    "missing weights": (weights(lambda t: t.pop(first(t))), r"lacks \d+ weights"),
    "no weights": (weights(lambda t: t.clear()), "lacks"),
    "other shapes": (weights(lambda t: t.update({first(t): torch.zeros(3, 3)})), "can be loaded"),
    "huge header": (content("model.safetensors", (1 << 40).to_bytes(8, "little") + b"{}"), "is larger than"),
    "torn": (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]), "damaged"),
    "mean": (setting(PREPROCESSOR, "image_mean", [0.5, 0.5, 0.5]), "image_mean is"),
    "mean of 2": (setting(PREPROCESSOR, "image_mean", [0.485, 0.456]), "image_mean is"),
    "std as text": (setting(PREPROCESSOR, "image_std", "abc"), "image_std is"),
    "not scaled": (setting(PREPROCESSOR, "do_rescale", False), "do_rescale is"),
    "factor": (setting(PREPROCESSOR, "rescale_factor", 1), "rescale_factor is"),
    "preprocessor": (content(PREPROCESSOR, b"[" * 9000), "preprocessor_config.json"),
}
OF_DINO: dict[str, tuple[Damage, str]] = {
    "backbone of the hub": (setting(CONFIG, "backbone", "resnet50"), "backbone is 'resnet50'"),
    "layers": (setting(CONFIG, "encoder_layers", 10**9), "encoder_layers is 1000000000"),
    "more layers": (setting(CONFIG, "encoder_layers", 60), "describes a model of"),
    "width": (setting(CONFIG, "d_model", 10**9), "d_model is"),
    "wide": (setting(CONFIG, "encoder_ffn_dim", 10**6), "describes a model of"),
    "vocabulary": (setting(CONFIG, "text_config.vocab_size", 10**6), "describes a model of"),
    "depths": (setting(CONFIG, "backbone_config.depths", [1, 1, 10**7, 1]), "depths is"),
    "heads": (setting(CONFIG, "decoder_attention_heads", 0), "can be loaded"),
    "activation": (setting(CONFIG, "activation_function", "evil"), "can be loaded"),
    "no text": (setting(CONFIG, "text_config", 5), "can be loaded"),
    "size": (setting(PREPROCESSOR, "size.shortest_edge", 10**9), "size.shortest_edge is"),
    "negative size": (setting(PREPROCESSOR, "size.shortest_edge", -1), "size.shortest_edge is"),
    "half a pixel": (setting(PREPROCESSOR, "size.shortest_edge", 0.5), "size.shortest_edge is"),
    "height and width": (setting(PREPROCESSOR, "size", {"height": 9, "width": 9}), "size is"),
    "no tokenizer": (lambda folder: (folder / TOKENIZER).unlink(), "."),
    "tokenizer": (content(TOKENIZER, DEEP), "nested too deep"),
    "regex": (setting(TOKENIZER, "normalizer", REGEX), "normalizer has a"),
    "regex in a row": (
        setting(TOKENIZER, "pre_tokenizer", {"type": "Sequence", "pretokenizers": [SPLIT]}),
        "pre_tokenizer has a",
    ),
    "BPE": (setting(TOKENIZER, "model.type", "BPE"), "model has a step 'BPE'"),
    "other class": (setting("tokenizer_config.json", "tokenizer_class", "LlamaTokenizer"), "tokenizer_class is"),
    "far tokens": (lambda f: more_tokens(f), "a token 9,999,999, and the model a vocabulary"),
    "no special": (setting(TOKENIZER, "model.vocab", {"[UNK]": 0, "a": 1}), "."),
    "huge vocabulary": (content("vocab.txt", b"a\n" * (5 << 20)), "vocab.txt has more than"),
}
OF_SAM: dict[str, tuple[Damage, str]] = {
    "image size": (setting(CONFIG, "vision_config.image_size", 10**9), "image_size is"),
    "other image size": (setting(PREPROCESSOR, "size", {"longest_edge": 512}), "do not belong together"),
    "layers": (setting(CONFIG, "vision_config.num_hidden_layers", 10**9), "num_hidden_layers is"),
    "width": (setting(CONFIG, "vision_config.hidden_size", 10**6), "."),
    "patch": (setting(CONFIG, "vision_config.patch_size", 0), "can be loaded"),
}
OF_SAM2: dict[str, tuple[Damage, str]] = {
    "image size": (setting(CONFIG, "prompt_encoder_config.image_size", 10**9), "image_size is"),
    "other image size": (setting(PREPROCESSOR, "size", {"height": 512, "width": 512}), "do not belong together"),
    "blocks": (setting(CONFIG, "vision_config.backbone_config.blocks_per_stage", [1, 1, 10**7, 1]), "per_stage is"),
    "widths": (setting(CONFIG, "vision_config.backbone_config.embed_dim_per_stage", [24, 48, 96, 10**6]), "."),
    "levels": (setting(CONFIG, "vision_config.num_feature_levels", 2), "do not belong together"),
    "backbone of the hub": (setting(CONFIG, "vision_config.backbone_config.model_type", "resnet"), "."),
}
OWN = {DINO: OF_DINO, SAM: OF_SAM, SAM2: OF_SAM2}


def more_tokens(folder: Path) -> None:
    values = json.loads((folder / TOKENIZER).read_text())
    values["model"]["vocab"]["far"] = 9_999_999
    (folder / TOKENIZER).write_text(json.dumps(values))


CASES = [
    *((name, key) for name in OWN for key in ALL),
    *((name, key) for name, own in OWN.items() for key in own),
]


@pytest.fixture(scope="module")
def warm() -> None:
    for name in OWN:
        load(name, TINY / name.slug)  # what is imported on the way is not the file's doing


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize(("name", "key"), CASES)
def test_a_base_that_is_not_supported_is_refused_in_a_sentence(tmp_path: Path, name: TeacherName, key: str) -> None:
    folder = shutil.copytree(TINY / name.slug, tmp_path / "base")
    damage, sentence = OWN[name].get(key) or ALL[key]
    damage(folder)
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BaseModelError, match=sentence) as refused:
        load(name, folder)
    assert len(str(refused.value)) < 1500
    assert time.monotonic() - begun < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < GIGABYTE
    settings = SETTINGS[name](base_model=str(folder))
    find_base(settings, Storage())  # what a plan is made of ends in no traceback


def test_sizes_as_the_first_files_of_detr_have_them_are_read(tmp_path: Path) -> None:
    folder = shutil.copytree(TINY / DINO.slug, tmp_path / "base")
    (folder / PREPROCESSOR).write_text('{"size": 96, "max_size": 120, "do_normalize": true}')
    transform: Any = load(DINO, folder)
    assert (transform.transform.shortest_edge, transform.transform.longest_edge) == (96, 120)
