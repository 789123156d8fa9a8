"""Model card of an adapter: its ``README.md``, in Markdown, with origin, metrics and code that loads it."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping

import yaml

from engine.config import RunConfig, TeacherSettings
from engine.results.card_snippets import original_note, plain_snippet
from engine.results.licences import licences_of
from engine.results.low_retention import warnings_of
from engine.results.metric_table import changes, metric_text
from engine.results.trials import selection_sentence
from engine.results.types import TeacherResult
from engine.text.uris import parent
from engine.traits import StudentTraits


def model_card(result: TeacherResult, config: RunConfig, *, versions: Mapping[str, str]) -> str:
    """Return ``README.md`` of an adapter: origin, metrics, and code to load it."""
    settings = config.models.of(result.teacher)
    if isinstance(result.teacher.traits, StudentTraits):
        return _student_card(result, result.teacher.traits, config, versions=versions)
    assert isinstance(settings, TeacherSettings)  # noqa: S101 - a result is of a teacher that was configured
    title = result.teacher.traits.title
    revision = result.base_revision or "unknown"
    lora = settings.lora
    return "\n".join(
        [
            "---",
            "library_name: peft",
            f"base_model: {_yaml_text(result.base_model)}",
            "tags: [lora, " + result.teacher.slug.replace("_", "-") + "]",
            "---",
            "",
            f"# {title} adapted to {_cell(config.name)}",
            "",
            f"A LoRA adapter (preset `{lora.preset.value}`, rank {lora.rank}, alpha {lora.alpha}, "
            f"strength {result.strength:g}, "
            f"{result.trainable_parameters:,} parameters) for {_code(result.base_model)} at revision "
            f"{_code(revision)}.",
            "",
            *(line for said in warnings_of(result) for line in (f"**Note: {_cell(said)}.**", "")),
            "With transformers and PEFT alone:",
            "",
            "```python",
            *plain_snippet(result).splitlines(),
            "```",
            "",
            *([note, ""] if (note := original_note(result)) else []),
            "With teacher-finetune, which also asks for more classes than one caption holds:",
            "",
            "```python",
            *loading_lines(result).splitlines(),
            "```",
            "",
            f"| {_split_title(result)} | base | adapted |",
            "| --- | --- | --- |",
            *(
                f"| {label} | {metric_text(before)} | {metric_text(after)} |"
                for label, before, after in _metric_rows(result)
            ),
            "",
            "| | |",
            "| --- | --- |",
            f"| classes, in the order of the prompt | {', '.join(map(_cell, config.data.classes))} |",
            f"| score thresholds | {', '.join(f'{_cell(name)} {at:.3f}' for name, at in result.thresholds.items())} |",
            f"| retention: share of the base's zero-shot AP that is kept | {_left(result)} |",
            f"| strength: scale of the update, part of `lora_alpha` | {_strength(result)} |",
            f"| annotations (sha256) | `{config.data.digest}` |",
            f"| adapter (sha256) | `{result.adapter.sha256}` |",
            *([f"| selection | {_cell(said)} |"] if (said := selection_sentence(result)) else []),
            f"| best epoch, epochs made | {result.best_epoch:g}, {result.epochs:g} |",
            *_licence_rows(result),
            f"| seed | {config.training.seed} |",
            *(f"| {name} | {version} |" for name, version in versions.items()),
            "",
        ]
    )


def _student_card(
    result: TeacherResult, traits: StudentTraits, config: RunConfig, *, versions: Mapping[str, str]
) -> str:
    """Return ``README.md`` of a student."""
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            "pipeline_tag: object-detection",
            f"license: {traits.licence.lower()}",
            "---",
            "",
            f"# {traits.title} trained for {_cell(config.name)}",
            "",
            f"{traits.title} with {result.trainable_parameters:,} trained parameters, from {_code(result.base_model)}. "
            f"Licence of its code: {traits.licence}.",
            "",
            "```python",
            *loading_lines(result).splitlines(),
            "```",
            "",
            "transformers alone loads the folder too (`AutoModelForObjectDetection`, `AutoImageProcessor`).",
            "",
            f"| {_split_title(result)} | |",
            "| --- | --- |",
            *(f"| {label} | {metric_text(after)} |" for label, _, after in _metric_rows(result)),
            "",
            "| | |",
            "| --- | --- |",
            f"| classes, in the order of their indices | {', '.join(map(_cell, config.data.classes))} |",
            f"| score thresholds | {', '.join(f'{_cell(name)} {at:.3f}' for name, at in result.thresholds.items())} |",
            f"| training images with labels of teachers | {result.labelled_images:,} |",
            f"| annotations (sha256) | `{config.data.digest}` |",
            f"| weights (sha256) | `{result.adapter.sha256}` |",
            f"| best epoch, epochs made | {result.best_epoch:g}, {result.epochs:g} |",
            *_licence_rows(result),
            f"| seed | {config.training.seed} |",
            *(f"| {name} | {version} |" for name, version in versions.items()),
            "",
        ]
    )


def _licence_rows(result: TeacherResult) -> list[str]:
    return [f"| licence of the {what} | {_cell(text)} |" for what, text in licences_of(result).model_dump().items()]


def _split_title(result: TeacherResult) -> str:
    if result.cross_validation is None:
        return "on the validation split"
    return f"estimated on {len(result.cross_validation.folds)} folds"


def _metric_rows(result: TeacherResult) -> list[tuple[str, float | None, float | None]]:
    """Return label, metric of the base and metric of the adapted teacher."""
    rows: list[tuple[str, float | None, float | None]] = [
        (f"{metric.title}, {metric.note}", change.before, change.after)
        for metric, change in changes(result.before, result.after, headline=True)
    ]
    if result.from_detector_before is not None and result.from_detector_after is not None:
        rows.append(("AP from the detector's boxes", result.from_detector_before.ap, result.from_detector_after.ap))
    if result.retention is not None:
        rows.append(("AP on other things", result.retention.base.ap, result.retention.adapted.ap))
    return rows


def _cell(text: str) -> str:
    r"""Escape untrusted text for a cell of a Markdown table.

    >>> _cell("a|b <script>\n")
    'a\\|b &lt;script&gt; '
    """
    safe = "".join(character if character.isprintable() else " " for character in html.escape(text, quote=False))
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", safe)


def _code(text: str) -> str:
    r"""Quote untrusted text as inline code of Markdown; its backticks do not end the code.

    >>> _code("a`b``"), _code("model")
    ('``` a`b`` ```', '`model`')
    """
    safe = "".join(character if character.isprintable() else " " for character in text)
    runs = [len(run) for run in re.findall("`+", safe)]
    if not runs:
        return f"`{safe}`"
    fence = "`" * (max(runs) + 1)
    return f"{fence} {safe} {fence}"


def _yaml_text(text: str) -> str:
    r"""Quote untrusted text as a YAML value in one line.

    >>> _yaml_text('a"\nb: c')
    '"a\\"\\nb: c"'
    """
    return yaml.safe_dump(text, default_style='"', width=math.inf).strip()


def _left(result: TeacherResult) -> str:
    if result.retention is None or result.retention.share < 0:
        return "not measured"
    return f"{result.retention.share:.0%} of its AP for {len(result.retention.prompts)} prompts"


def _strength(result: TeacherResult) -> str:
    reason = "" if result.strength_curve is None else f": {result.strength_curve.reason}"
    return f"{result.strength:g}{reason}"


_LOADING = """\
import engine
import numpy as np
from engine.dataset import Sample
from PIL import Image

{0} = engine.{1}({uri!r})
image = np.asarray(Image.open("image.jpg").convert("RGB"))
(detections,) = {0}.predict([Sample.of(image{prompts})])
"""


def loading_lines(result: TeacherResult) -> str:
    """Return Python that loads an adapter and predicts for one image, for the model card and the report."""
    traits = result.teacher.traits
    prompts = ", [[20.0, 20.0, 120.0, 120.0]]" if traits.prompted else ""
    loaded = ("teacher", "load_adapted") if traits.adapts_base else ("student", "load_student")
    return _LOADING.format(*loaded, uri=parent(result.adapter.uri), prompts=prompts)
