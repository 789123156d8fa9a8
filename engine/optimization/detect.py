"""Find objects with an exported detector: python detect.py model.onnx image.jpg [threshold].

Needs onnxruntime, numpy and pillow. All facts about input and classes are in the file itself.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def scaled_size(card, height, width):
    """Return the height and width that an image is scaled to."""
    rule, high, wide = card["resize"], card["height"], card["width"]
    if rule == "exact":
        return high, wide
    short, long = min(height, width), max(height, width)
    edge = card["shortest_edge"]
    if long / short * edge > card["longest_edge"]:
        edge = card["longest_edge"] * short / long
    rounded = round(edge)
    h, w = (rounded, int(edge * width / height)) if height <= width else (int(edge * height / width), rounded)
    if rounded == short:
        h, w = height, width
    scale = min(high / h, wide / w, 1)
    return (h, w) if scale == 1 else (max(int(h * scale), 1), max(int(w * scale), 1))


def detect(session, card, image):
    """Return boxes in pixels (left, top, right, bottom), scores and class names of a PIL image.

    Boxes are those of the image as EXIF turns it, if the card has the frame "upright".
    """
    image = ImageOps.exif_transpose(image) if card["frame"] == "upright" else image
    steps = card["preprocessing"]
    height, width = scaled_size(steps, image.height, image.width)
    resized = np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR), np.float32)
    pixels = np.zeros((1, 3, steps["height"], steps["width"]), np.float32)
    values = (resized / np.float32(255) - np.float32(steps["mean"])) / np.float32(steps["std"])
    pixels[0, :, :height, :width] = values.transpose(2, 0, 1)
    mask = np.zeros((1, steps["height"], steps["width"]), np.int64)
    mask[0, :height, :width] = 1
    inputs = {"pixel_values": pixels, "pixel_mask": mask}
    boxes, scores, labels = session.run(
        ["boxes", "scores", "labels"], {one.name: inputs[one.name] for one in session.get_inputs()}
    )
    boxes = boxes[0] * [image.width, image.height, image.width, image.height]
    return boxes, scores[0], [card["classes"][label] for label in labels[0]]


if __name__ == "__main__":
    session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
    card = json.loads(session.get_modelmeta().custom_metadata_map["card"])
    threshold = float(sys.argv[3]) if len(sys.argv) > 3 else 0.3
    for box, score, name in zip(*detect(session, card, Image.open(sys.argv[2])), strict=True):
        if score >= threshold:
            print(json.dumps({"class": name, "score": round(float(score), 4), "box": box.round(1).tolist()}))
