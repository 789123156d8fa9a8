"""Code of the model card of SAM."""

from __future__ import annotations

from engine.results.card_snippets import snippet_values
from engine.results.types import TeacherResult

CODE = """\
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

NOTE = """\
The base is a checkpoint of segment_anything. transformers reads the folder that is made of it by
`python -c "from pathlib import Path; from engine.teachers.sam.checkpoint import convert_original; \
convert_original(Path('sam.pth'), Path('sam'))"`."""


def card_code(result: TeacherResult) -> str:
    """Return Python for one image, from base and adapter to the masks of given boxes."""
    return CODE.format(**snippet_values(result))
