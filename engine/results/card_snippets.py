"""Python that loads an adapter with transformers and PEFT alone, for its model card: no package of ours is imported.

What the code computes is what :mod:`engine.teachers` does: the same pixels (PIL's bilinear filter), the same caption,
and of Grounding DINO the same scores, which are means over the tokens of a phrase and not transformers' maxima.
"""

from __future__ import annotations

import re

from engine.layout import ADAPTER_CARD, RESULT
from engine.results.types import TeacherResult
from engine.spec import TeacherName
from engine.storage import is_claim, is_remote, local_path, name, parent

DEFAULT_THRESHOLD = 0.3
"""Score threshold of a class without a measured one."""

GROUNDING_DINO = """\
import json
import re
from pathlib import Path

import torch
from peft import PeftModel
from PIL import Image
from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

base = {base}
adapter = {adapter}
model = AutoModelForZeroShotObjectDetection.from_pretrained(base{revision})
model.model.get_input_embeddings = model.model.text_backbone.get_input_embeddings  # which PEFT calls
model = PeftModel.from_pretrained(model, adapter).eval()

processor = AutoProcessor.from_pretrained(base{revision}, backend="pil")
image = Image.open("image.jpg").convert("RGB")
card = json.loads(Path(adapter, "{card}").read_text())
phrases = [re.sub("[_.?]", " ", card["prompts"].get(name, name)) for name in card["classes"]]
known = json.loads(Path(adapter, "{result}").read_text())["thresholds"]
thresholds = torch.tensor([known.get(name, {threshold}) for name in card["classes"]])
inputs = processor(images=image, text=" . ".join(phrases) + " .", return_tensors="pt")
with torch.no_grad():
    outputs = model(**inputs)
ends = [0, *(inputs["input_ids"][0] == 1012).nonzero()[:, 0].tolist()]  # of the phrases: token 1012 is "."
tokens = outputs.logits[0].sigmoid()
spans = [tokens[:, start + 1 : end] for start, end in zip(ends, ends[1:])]
scores = torch.stack([span.mean(1) for span in spans], 1)  # (queries, phrases)
x, y, width, height = outputs.pred_boxes[0].T
size = torch.tensor([*image.size, *image.size])
boxes = torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], 1) * size
boxes = boxes.clamp(min=0).minimum(size)  # (queries, 4): left, top, right, bottom in pixels
for query, phrase in (scores >= thresholds).nonzero().tolist():
    print(card["classes"][phrase], round(scores[query, phrase].item(), 3), boxes[query].tolist())
"""

SAM = """\
import torch
from peft import PeftModel
from PIL import Image
from transformers import SamModel, SamProcessor

base = {base}
adapter = {adapter}
model = PeftModel.from_pretrained(SamModel.from_pretrained(base{revision}), adapter).eval()

processor = SamProcessor.from_pretrained(base{revision}, backend="pil")
image = Image.open("image.jpg").convert("RGB")
boxes = [[20.0, 20.0, 120.0, 120.0]]  # of the objects: left, top, right, bottom in pixels
inputs = processor(images=image, input_boxes=[boxes], return_tensors="pt")
with torch.no_grad():
    outputs = model(**inputs, multimask_output=False)
sizes = inputs["original_sizes"], inputs["reshaped_input_sizes"]
masks = processor.post_process_masks(outputs.pred_masks, *sizes)[0][:, 0]  # (boxes, height, width) bool
scores = outputs.iou_scores[0, :, 0].clamp(0, 1)
for mask, score in zip(masks, scores):
    print(round(score.item(), 3), int(mask.sum()), "pixels")
"""

FROM_ORIGINAL = """\
The base is a checkpoint of segment_anything. transformers reads the folder that is made of it by
`python -c "from pathlib import Path; from engine.teachers.sam.checkpoint import convert_original; \
convert_original(Path('sam.pth'), Path('sam'))"`."""


def plain_snippet(result: TeacherResult) -> str:
    """Python for one image, from the base and the adapter to boxes or masks.

    Class names are read from the adapter's files at run time: untrusted text is never part of the code.
    """
    folder = parent(result.adapter.uri)
    values = {
        "base": _place(result.base_model, default="base"),
        "adapter": _place(folder, default=name(folder)),
        # Only a commit of the hub is one: of other bases it is a digest.
        "revision": f", revision={result.base_revision!r}" if _is_commit(result.base_revision) else "",
    }
    if result.teacher is TeacherName.SAM:
        return SAM.format(**values)
    return GROUNDING_DINO.format(**values, card=ADAPTER_CARD, result=RESULT, threshold=DEFAULT_THRESHOLD)


def is_original(base_model: str) -> bool:
    """Return True if a base is a segment_anything checkpoint, which transformers cannot read."""
    return base_model.endswith(".pth")


def _place(uri: str, *, default: str) -> str:
    """Return a folder as a Python literal; for a remote folder the name of its local copy, with the URI as comment."""
    if is_remote(uri) or is_claim(uri) or is_original(uri):
        copied = name(uri.rstrip("/")).removesuffix(".pth") or default
        return f"{copied!r}  # a folder made of {uri!r}, see below" if is_original(uri) else f"{copied!r}  # of {uri!r}"
    return repr(str(local_path(uri)) if uri.startswith("file:") else uri.rstrip("/"))


def _is_commit(revision: str | None) -> bool:
    return revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision) is not None
