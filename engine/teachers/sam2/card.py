"""Code of the model card of SAM 2."""

from __future__ import annotations

from engine.results.card_snippets import snippet_values
from engine.results.types import TeacherResult

CODE = """\
import torch
from peft import PeftModel
from PIL import Image
from transformers import Sam2Model, Sam2Processor

base = {base}
adapter = {adapter}
model = PeftModel.from_pretrained(Sam2Model.from_pretrained(base{revision}), adapter).eval()

processor = Sam2Processor.from_pretrained(base{revision})
image = Image.open("image.jpg").convert("RGB")
boxes = [[20.0, 20.0, 120.0, 120.0]]  # of the objects: left, top, right, bottom in pixels
inputs = processor(images=image, input_boxes=[boxes], return_tensors="pt")
with torch.no_grad():
    outputs = model(**inputs, multimask_output=False)
masks = processor.post_process_masks(outputs.pred_masks, inputs["original_sizes"])[0][:, 0]  # (boxes, height, width)
scores = outputs.iou_scores[0, :, 0].clamp(0, 1)
for mask, score in zip(masks, scores):
    print(round(score.item(), 3), int(mask.sum()), "pixels")
"""


def card_code(result: TeacherResult) -> str:
    """Return Python for one image, from base and adapter to the masks of given boxes."""
    return CODE.format(**snippet_values(result))
