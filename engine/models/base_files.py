"""Check the files of an untrusted base model before transformers loads them.

A ``config.json`` may request a model of terabytes, weights from elsewhere, or kernels that run their own code; a
``tokenizer.json`` may contain a regular expression that never ends. No supported base does.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.errors import BaseModelError
from engine.models.safetensors_files import elements, not_finite, read_header
from engine.registry import known_model_types, of_model_type, refusal
from engine.storage.base_model_identity import CONFIG, LIMITS, TOKENIZER, TOKENIZER_CONFIG, WEIGHTS
from engine.text.plain_json import file_content, read_object, read_object_file

Json = dict[str, Any]

MAX_NUMBER = 1 << 20
FEW = {
    "layers": 64,
    "blocks": 64,
    "depth": 64,
    "heads": 512,
    "levels": 64,
    "points": 64,
    "window_size": 512,
    "patch_size": 512,
}
"""Upper bounds, above those of any base, for settings whose names contain these words."""

FOREIGN = frozenset(
    {"_attn_implementation", "attn_implementation", "experts_implementation", "kernel_config", "quantization_config"}
    | {"use_kernels", "use_pretrained_backbone", "use_timm_backbone", "backbone", "backbone_kwargs"}
)
"""Settings that load code, kernels or weights from elsewhere."""

HARMLESS: tuple[object, ...] = (None, False, "eager", "sdpa", {})

ROOM = 1 << 22
"""Values that a model may have in addition to its weights, such as tables of positions."""

TOKENIZERS = frozenset({None, "BertTokenizer", "BertTokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend"})
STEPS = frozenset(
    {"BertNormalizer", "Lowercase", "NFD", "NFC", "NFKD", "NFKC", "StripAccents", "Strip", "Sequence"}
    | {"BertPreTokenizer", "Whitespace", "WhitespaceSplit", "Punctuation"}
    | {"TemplateProcessing", "BertProcessing", "WordPiece"}
)
"""Steps of a tokenizer of BERT; none of them holds a regular expression."""


def read_config(folder: Path, kinds: Collection[str]) -> Json:
    """Return ``config.json`` of a folder.

    Args:
        folder: Folder of a transformers model.
        kinds: Accepted values of ``model_type``.

    Raises:
        BaseModelError: It is missing or invalid, of another kind of model, or has settings that no base needs.
    """
    path = folder / CONFIG
    try:
        config = read_object_file(path, error=BaseModelError, limit=LIMITS[CONFIG])
    except FileNotFoundError:
        raise BaseModelError(f"{folder} has no {CONFIG}: it is not the folder of a transformers model") from None
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in kinds:
        made_for, reason = of_model_type(str(kind)), refusal(str(kind))
        advice = reason or (f"it is a base of the teacher {made_for}" if made_for else known_model_types())
        raise BaseModelError(f"{folder} holds a {str(kind)[:80]!r} model, not one of {', '.join(kinds)}: {advice}")
    for name, value in _settings(config):
        key = name.rpartition(".")[2]
        if key in FOREIGN and value not in HARMLESS:
            raise BaseModelError(f"{path}: {name} is {str(value)[:80]!r}, and bases with it are not supported")
        if isinstance(value, int | float) and not isinstance(value, bool):
            most = min((few for part, few in FEW.items() if part in key), default=MAX_NUMBER)
            if not math.isfinite(value) or abs(value) > most:
                raise BaseModelError(f"{path}: {name} is {str(value)[:80]}, and no base has more than {most:,}")
    return config


@contextmanager
def refuse_unloadable(folder: Path, title: str) -> Iterator[None]:
    """Raise what the library raises for untrusted files, which may be anything, as :class:`BaseModelError`.

    Args:
        folder: Folder of the model.
        title: Name of the kind of model in the message.
    """
    try:
        yield
    except BaseModelError:
        raise
    except Exception as error:
        raise BaseModelError(f"{folder} holds no {title} that can be loaded: {shortened(error)}") from error


def load_weights(library: Any, folder: Path, config: Any, **options: Any) -> tuple[Any, Json]:
    """Return a model in 32 bit on the CPU, and the library's report of missing and other weights.

    Args:
        library: Class of transformers.
        folder: Folder of the model; only its safetensors are read.
        config: Configuration of the model; one that is larger than the weights is refused.
        options: Further arguments of ``from_pretrained``.

    Raises:
        BaseModelError: The model is larger than its weights.
    """
    with _quiet_library():
        check_size(folder, lambda: library(config))
        model, report = library.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    return model, report


@contextmanager
def _quiet_library() -> Iterator[None]:
    """Keep the library from printing what no user can change: new heads, which callers check, and widths of a base."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="You'd better set embed_dim")
            yield
    finally:
        logger.setLevel(level)


def check_size(folder: Path, make: Callable[[], nn.Module]) -> None:
    """Check that a model is not larger than the weights in its folder.

    Args:
        folder: Folder of the model.
        make: Creates the model; called on the meta device, where this takes no memory.

    Raises:
        BaseModelError: It is larger, or the weights cannot be read.
    """
    files = sorted(folder.glob(WEIGHTS))
    held = sum(elements(read_header(path)) for path in files)
    with torch.device("meta"):
        model = make()
    wanted = sum(one.numel() for one in (*model.parameters(), *model.buffers()))
    if wanted > held + ROOM:
        raise BaseModelError(
            f"{folder / CONFIG} describes a model of {wanted:,} values, and its weights hold {held:,}: they do not "
            "belong together"
        )


def check_loaded(folder: Path, model: nn.Module, missing: Collection[str]) -> None:
    """Check that a model has all its weights, and that they are finite.

    Raises:
        BaseModelError: Some are missing, or are NaN or infinite.
    """
    if missing:
        raise BaseModelError(f"{folder} lacks {len(missing)} weights of its model, such as {min(missing)}")
    if damaged := not_finite(dict(model.named_parameters())):
        raise BaseModelError(
            f"{len(damaged)} weights in {folder} are not finite numbers, such as {damaged[0]}: copy the model again"
        )


def check_tokenizer_files(folder: Path) -> None:
    """Check that a folder has a BERT tokenizer of moderate size, without regular expressions.

    Raises:
        BaseModelError: It has another tokenizer.
    """
    for name, limit in LIMITS.items():
        path = folder / name
        if not path.is_file():
            continue
        content = file_content(path, error=BaseModelError, limit=limit)
        if not name.endswith(".json"):
            continue
        values = read_object(content, where=str(path), error=BaseModelError, limit=limit)
        if name == TOKENIZER_CONFIG and values.get("tokenizer_class") not in TOKENIZERS:
            kind = str(values["tokenizer_class"])[:80]
            raise BaseModelError(f"{path}: tokenizer_class is {kind!r}, and this model reads with BertTokenizer")
        if name == TOKENIZER:
            _check_steps(path, values)


def check_tokenizer(folder: Path, tokenizer: Any, *, vocabulary: int) -> None:
    """Check that each token id is within the vocabulary of the model.

    Raises:
        BaseModelError: There are more tokens, or special ones are missing.
    """
    lacking = [name for name in ("cls", "sep", "pad", "unk") if getattr(tokenizer, f"{name}_token_id") is None]
    if lacking:
        raise BaseModelError(f"the tokenizer in {folder} has no {lacking[0]} token: copy its files again")
    highest = max(tokenizer.get_vocab().values(), default=0)
    if highest >= vocabulary:
        raise BaseModelError(
            f"the tokenizer in {folder} has a token {highest:,}, and the model a vocabulary of {vocabulary:,}: they do "
            "not belong together"
        )


def shortened(error: Exception) -> str:
    """Return an error of a library as one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 500 else f"{text[:499]}…"


def _check_steps(path: Path, values: Json) -> None:
    for step in ("normalizer", "pre_tokenizer", "post_processor", "decoder", "model"):
        for name, value in _settings(values.get(step)) if step != "model" else [("type", _model_type(values))]:
            if name.rpartition(".")[2] == "type" and value not in STEPS:
                raise BaseModelError(f"{path}: {step} has a step {str(value)[:80]!r}, which no tokenizer of BERT has")
            if name.rpartition(".")[2] == "Regex":
                raise BaseModelError(f"{path}: {step} has a regular expression, which no tokenizer of BERT has")


def _model_type(values: Json) -> object:
    model = values.get("model")
    return model.get("type", "WordPiece") if isinstance(model, dict) else None


def _settings(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value with its path; values of lists have the path of the list."""
    if isinstance(value, dict):
        for key, inner in value.items():
            path = f"{name}.{key}" if name else key
            if key in FOREIGN:
                yield path, inner
            else:
                yield from _settings(inner, path)
    elif isinstance(value, list):
        for inner in value:
            yield from _settings(inner, name)
    else:
        yield name, value
