"""LoRA by PEFT: attach, save, load, merge, switch off.

A linear layer's output gets a low-rank update (Hu et al. 2021, arXiv 2106.09685)::

        x ──┬── W (frozen) ────────────┬─ + ── y = W x + alpha/r * B A x
            └── dropout ── A ── B ── alpha/r ┘        A: (r, in), B: (out, r), B = 0 at the start

Small modules that a low rank would not make smaller are trained completely (PEFT's ``modules_to_save``): the adapter
holds a copy of each, the base keeps its own.

The files are PEFT's own (``adapter_config.json``, ``adapter_model.safetensors``), so that
``PeftModel.from_pretrained`` reads them too; ``teacher.json`` next to them records teacher, base and settings.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import peft
import safetensors.torch
import torch
import transformers
from peft.tuners.lora import LoraLayer
from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationError, ValidationInfo, field_validator
from torch import Tensor, nn

from engine.config import LoraSettings, TeacherSettings
from engine.dataset.types import Frame
from engine.errors import BaseModelError
from engine.layout import ADAPTER, ADAPTER_CARD, ADAPTER_CONFIG
from engine.models.adapter_config import AdapterConfig, scaled_alpha
from engine.models.adapter_targets import named_targets, named_trained
from engine.models.atomic_write import write_atomically
from engine.models.fast.lora_linear import fuse_lora_linears
from engine.models.safetensors_files import not_finite, read_header, read_tensors
from engine.models.trained_modules import blend_trained_modules, forget_blended, matching
from engine.spec import TeacherName
from engine.text.format_version import FORMAT_VERSION, refuse_newer
from engine.text.plain_json import file_content, parse_json

if TYPE_CHECKING:
    from engine.models.base import Teacher
    from engine.models.model import Origin

CARD_BYTES = 16 << 20


class AdapterCard(BaseModel):
    """Contents of ``teacher.json``: all that is needed to load an adapter."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format_version: int = FORMAT_VERSION
    teacher: TeacherName
    base_revision: str = Field(description="Commit of a hub model, sha256 of the weights of any other.")
    base_sha256: str = Field(description="sha256 of the base's weights, from any source.")
    base_parts: dict[str, str] = Field(
        default={}, description="sha256 of its configuration, preprocessor and tokenizer; empty: not recorded."
    )
    classes: tuple[str, ...] = Field(description="Class names in the order of the prompt and of class indices.")
    prompts: dict[str, str] = Field(description="Phrases shown instead of class names.")
    settings: SerializeAsAny[TeacherSettings] = Field(description="The teacher's section of teacher_config.yaml.")
    strength: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Scale of the update, chosen after training: `lora_alpha` in adapter_config.json is this times "
        "the alpha of the settings. 0: the adapter gives the base's results.",
    )
    frame: Frame = Field(
        default=Frame.UPRIGHT, description="Frame of EXIF-rotated images in training: upright, or as stored."
    )
    transformers_version: str = transformers.__version__
    peft_version: str = peft.__version__

    @classmethod
    def of(cls, teacher: TeacherName, origin: Origin) -> Self:
        """Return the card of an adapter."""
        return cls.model_validate({"teacher": teacher, **vars(origin)})

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the card in an adapter's folder.

        Raises:
            BaseModelError: It is missing, or cannot be read.
        """
        try:
            content = file_content(folder / ADAPTER_CARD, error=BaseModelError, limit=CARD_BYTES)
        except FileNotFoundError:
            raise BaseModelError(
                f"{folder} has no {ADAPTER_CARD}: it is not the folder of an adapter made here"
            ) from None
        refuse_newer(content, where=str(folder / ADAPTER_CARD), error=BaseModelError)
        return parse_json(cls, content, where=str(folder / ADAPTER_CARD), error=BaseModelError)

    @field_validator("settings", mode="wrap")
    @classmethod
    def _of_the_teacher(cls, settings: Any, handler: Any, info: ValidationInfo) -> Any:
        teacher: TeacherName | None = info.data.get("teacher")
        if teacher is None:  # which is a fault of its own
            return settings
        kind = teacher.traits.settings
        others = [other.traits.settings for other in TeacherName if other is not teacher]
        if any(_accepts(other, settings) for other in others) and not _accepts(kind, settings):
            raise ValueError(f"the settings are not those of {teacher}")
        return kind.model_validate(settings)


def _accepts(model: type[TeacherSettings], settings: Any) -> bool:
    try:
        model.model_validate(settings)
    except ValidationError:
        return False
    return True


def attach(teacher: Teacher, settings: LoraSettings) -> None:
    """Attach a new adapter to the teacher, in place; everything except the adapter is frozen.

    ``A`` is drawn from torch's global generator, ``B`` is zero, and completely trained modules start as copies: the
    teacher's outputs do not change yet.
    """
    targets = teacher.lora_targets(settings)
    _wrap(
        teacher,
        peft.LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=targets.target_modules,
            exclude_modules=targets.exclude_modules,
            modules_to_save=matching(teacher.model, targets.trained_modules) or None,
        ),
    )


def set_strength(teacher: Teacher, strength: float) -> None:
    """Scale the adapter's update: 1 as trained, 0 as the base. Saving writes the adapter at this strength."""
    _scale_lora(teacher, strength)
    blend_trained_modules(teacher.model, strength)


def _scale_lora(teacher: Teacher, strength: float) -> None:
    for module in _peft_model(teacher).modules():
        if isinstance(module, LoraLayer):
            module.set_scale("default", strength)


def trainable_parameters(teacher: Teacher) -> dict[str, nn.Parameter]:
    """Return the adapter's parameters by name, in the model's order."""
    return {name: p for name, p in teacher.model.named_parameters() if p.requires_grad}


def adapter_tensors(teacher: Teacher) -> dict[str, Tensor]:
    """Return the adapter's tensors under the names of the file; they share memory with the model."""
    tensors: dict[str, Tensor] = peft.get_peft_model_state_dict(teacher.model, save_embedding_layers=False)
    return tensors


def set_training(teacher: Teacher, training: bool) -> None:
    """Switch the adapter's dropout on or off.

    The frozen base stays in eval mode: its own dropout and stochastic depth do not help frozen weights, and the outputs
    of its frozen layers stay a function of the image alone.
    """
    teacher.model.eval()
    for name, module in teacher.model.named_modules():
        if name.endswith("lora_dropout"):
            module.train(training)


def save_adapter(teacher: Teacher, folder: Path, *, card: AdapterCard) -> None:
    """Write ``adapter_config.json``, ``teacher.json`` and, last, ``adapter_model.safetensors``, each atomically."""
    config = copy.deepcopy(_peft_model(teacher).peft_config["default"])
    config.inference_mode = True
    config.lora_alpha = scaled_alpha(card.settings.lora, card.strength)
    config.base_model_name_or_path = card.settings.base_model
    values = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in adapter_tensors(teacher).items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / ADAPTER_CONFIG, (json.dumps(values, indent=2, sort_keys=True) + "\n").encode())
    write_atomically(folder / ADAPTER_CARD, (card.model_dump_json(indent=2) + "\n").encode())
    write_atomically(folder / ADAPTER, safetensors.torch.save(tensors, metadata={"format": "pt"}))


def load_adapter(teacher: Teacher, folder: Path) -> None:
    """Load an adapter into the teacher, in place; an attached one is overwritten.

    Raises:
        BaseModelError: The files are missing or cannot be read, or do not fit this base: names and shapes of the
            tensors must be those of the model.
    """
    card = AdapterCard.read(folder)
    if card.teacher is not teacher.name:
        raise BaseModelError(f"{folder} holds an adapter of {card.teacher}, not of {teacher.name}")
    try:
        config = AdapterConfig.read(folder, card.settings.lora, strength=card.strength)
        header = read_header(folder / ADAPTER)
    except FileNotFoundError:
        raise BaseModelError(f"{folder} lacks {ADAPTER_CONFIG} or {ADAPTER}: the adapter is not whole") from None
    if not isinstance(teacher.model, peft.PeftModel):
        _wrap(
            teacher,
            peft.LoraConfig(
                r=config.rank,
                lora_alpha=card.settings.lora.alpha,
                lora_dropout=config.dropout,
                target_modules=named_targets(teacher, config, card.settings.lora, folder, what=_unfit(folder, card)),
                modules_to_save=named_trained(teacher, config, card.settings.lora, folder) or None,
                inference_mode=True,
            ),
        )
    shapes = {name: torch.empty(shape, device="meta") for name, (_, shape) in header.items()}
    _check_fit(teacher, shapes, what=_unfit(folder, card))  # before reading tensors that may be huge
    load_adapter_tensors(teacher, read_tensors(folder / ADAPTER), what=_unfit(folder, card))
    _scale_lora(teacher, card.strength)  # the file holds completely trained modules at this strength


def load_adapter_tensors(teacher: Teacher, tensors: dict[str, Tensor], *, what: str) -> None:
    """Overwrite the adapter's tensors; nothing changes unless all of them fit.

    Args:
        teacher: A teacher with an adapter.
        tensors: Tensors by the names of :func:`adapter_tensors`.
        what: Beginning of the message of an error.

    Raises:
        BaseModelError: Names or shapes differ, or there are values that are not finite.
    """
    _check_fit(teacher, tensors, what=what)
    if damaged := [name for name, one in tensors.items() if not one.is_floating_point()] + not_finite(tensors):
        raise BaseModelError(f"{what}: {damaged[0]} holds values that are not finite numbers")
    with torch.no_grad():
        for name, place in adapter_tensors(teacher).items():
            place.copy_(tensors[name])
    forget_blended(teacher.model)


def _check_fit(teacher: Teacher, tensors: Mapping[str, Tensor], *, what: str) -> None:
    places = adapter_tensors(teacher)
    faults = [
        *(f"the model has no place for {name[:200]}" for name in tensors if name not in places),
        *(f"the file has no tensor for {name}" for name in places if name not in tensors),
        *(
            f"{name} has shape {tuple(tensors[name].shape)}, the model {tuple(place.shape)}"
            for name, place in places.items()
            if name in tensors and tensors[name].shape != place.shape
        ),
    ]
    if faults:
        more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise BaseModelError(f"{what}: {'; '.join(faults[:3])}{more}")


def merged(teacher: Teacher) -> nn.Module:
    """Return a copy of the model with the adapter added to its weights; the teacher does not change."""
    model: nn.Module = copy.deepcopy(_peft_model(teacher)).merge_and_unload(safe_merge=True)
    return model


@contextmanager
def adapter_off(teacher: Teacher) -> Iterator[None]:
    """Switch the adapter off inside the block."""
    with _peft_model(teacher).disable_adapter():
        yield


def _wrap(teacher: Teacher, config: peft.LoraConfig) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft uses a deprecated name of transformers
        teacher.model = peft.get_peft_model(teacher.model, config)
    fuse_lora_linears(teacher.model)
    teacher.model.eval()


def _peft_model(teacher: Teacher) -> Any:
    if not isinstance(teacher.model, peft.PeftModel):
        raise TypeError(f"{teacher.name} has no adapter: call attach or load_adapter first")
    return teacher.model


def _unfit(folder: Path, card: AdapterCard) -> str:
    return (
        f"the adapter in {folder} does not fit its base (it was made with transformers {card.transformers_version} and "
        f"peft {card.peft_version}; here are {transformers.__version__} and {peft.__version__})"
    )
