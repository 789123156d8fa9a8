"""Code of the model card of Grounding DINO: the same pixels, caption and scores as in this package.

Scores are means over the tokens of a phrase, and not transformers' maxima. Pixels are those of PIL's bilinear filter.
"""

from __future__ import annotations

from engine.layout import ADAPTER_CARD, RESULT
from engine.results.card_snippets import DEFAULT_THRESHOLD, snippet_values
from engine.results.types import TeacherResult

CODE = """\
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


def card_code(result: TeacherResult) -> str:
    """Return Python for one image, from base and adapter to boxes."""
    return CODE.format(**snippet_values(result), threshold=DEFAULT_THRESHOLD, card=ADAPTER_CARD, result=RESULT)
