"""Load the base model of Grounding DINO from untrusted files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedModel

from engine.dataset.images.preprocessing import ShortestEdgeTransform
from engine.errors import BaseModelError
from engine.models.base_files import (
    check_loaded,
    check_tokenizer,
    check_tokenizer_files,
    load_weights,
    read_config,
    refuse_unloadable,
)
from engine.storage.base_model_identity import LIMITS, PREPROCESSOR
from engine.text.plain_json import read_object_file


def load_base(folder: Path, library: type[PreTrainedModel], *, title: str) -> tuple[Any, Any, ShortestEdgeTransform]:
    """Return the frozen model of a folder, in 32 bit on the CPU, its tokenizer and its image transform.

    Args:
        folder: Folder of a transformers model.
        library: Its class in transformers, which determines the accepted ``model_type``.
        title: Name of the teacher in errors.

    Raises:
        BaseModelError: The folder holds no model of this class that can be loaded.
    """
    with refuse_unloadable(folder, title):
        read_config(folder, [library.config_class.model_type])
        check_tokenizer_files(folder)
        transform = _transform(folder)
        config = library.config_class.from_pretrained(folder, local_files_only=True)
        # 0.0 as in mmdetection and Open-GroundingDino; published files carry the library's 0.1.
        config.dropout = 0.0
        model, report = load_weights(library, folder, config)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    check_loaded(folder, model, report["missing_keys"])
    check_tokenizer(folder, tokenizer, vocabulary=config.text_config.vocab_size)
    return model.requires_grad_(False).eval(), tokenizer, transform


def _transform(folder: Path) -> ShortestEdgeTransform:
    file = folder / PREPROCESSOR
    if not file.is_file():
        return ShortestEdgeTransform()
    values = read_object_file(file, error=BaseModelError, limit=LIMITS[PREPROCESSOR])
    return ShortestEdgeTransform.of(values, where=str(file))
