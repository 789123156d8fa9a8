"""Draw boxes, masks and class names over images."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as coco_mask

from engine.dataset.types import Detections

Color = tuple[int, int, int]

# Far apart for most kinds of colour blindness (Okabe and Ito, https://jfly.uni-koeln.de/color/), and visible on photos.
FIRST_COLORS: tuple[Color, ...] = (
    (0, 158, 255), (255, 159, 28), (0, 200, 117), (240, 228, 66), (235, 87, 160), (255, 92, 57), (150, 120, 255)
)  # fmt: skip
UNDER_DASHES: Color = (20, 20, 20)
FILL = 0.4  # opacity of a mask

READABLE_SIDE = 640
"""Minimum longer side in pixels for readable names and scores; smaller images are enlarged before drawing."""


def color_of(index: int) -> Color:
    """Return the colour of a class or an object; colours of consecutive indices differ."""
    if index < len(FIRST_COLORS):
        return FIRST_COLORS[index]
    hue = index * 0.618034 % 1  # the golden angle: no two near each other
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.55 + 0.35 * (index % 3) / 2, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def ink_on(color: Color) -> Color:
    """Return black or white, with the higher contrast on ``color`` (luminance as in WCAG 2)."""
    linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)


def label_of(class_index: int, classes: Sequence[str]) -> str:
    """Return the name of a class, or its number if Pillow's default font lacks its script."""
    name = classes[class_index]
    return name if all(ord(letter) < 0x250 for letter in name) else f"#{class_index + 1}"


def draw(
    image: NDArray[np.uint8],
    detections: Detections,
    classes: Sequence[str],
    *,
    score_threshold: float = 0.0,
    with_scores: bool = True,
) -> NDArray[np.uint8]:
    """Draw detections over an image.

    Boxes and names are coloured by class. Detections prompted by true boxes (``prompt_indices``) are coloured by
    object and have no box and no name, since neither was predicted. Names that would cover another name are omitted.

    Args:
        image: (H, W, 3) uint8, RGB.
        detections: Boxes and masks in pixels of ``image``.
        classes: Class names.
        score_threshold: Detections with a lower score are dashed.
        with_scores: Append scores to names.

    Returns:
        A new (H, W, 3) uint8 image.
    """
    prompts = detections.prompt_indices
    colors = [color_of(int(i)) for i in (detections.class_indices if prompts is None else prompts)]
    weak = detections.scores < score_threshold
    canvas = Image.fromarray(_with_masks(image, detections, colors, weak))
    if prompts is None:
        pen = ImageDraw.Draw(canvas)
        line = max(2, round(max(canvas.size) / 320))
        for i in reversed(range(len(detections))):  # the highest score on top
            _box(pen, detections.boxes_xyxy[i].tolist(), colors[i], line=line, dashed=bool(weak[i]))
        _labels(pen, canvas.size, detections, classes, colors, with_scores=with_scores)
    return np.asarray(canvas)


def draw_readable(image: NDArray[np.uint8], detections: Detections, classes: Sequence[str]) -> NDArray[np.uint8]:
    """Draw as :func:`draw` does, but enlarge a small image (at most four times) so that names are readable.

    Args:
        image: (H, W, 3) uint8, RGB.
        detections: Boxes and masks in pixels of ``image``.
        classes: Class names.

    Returns:
        A new (h, w, 3) uint8 image of the same aspect ratio, with a longer side of at least READABLE_SIDE pixels
        if four times the original reaches that.
    """
    size = (image.shape[1], image.shape[0])
    scale = min(4.0, max(1.0, READABLE_SIDE / max(size)))
    new_size = (round(size[0] * scale), round(size[1] * scale))
    if new_size == size:
        return draw(image, detections, classes)
    enlarged = np.asarray(Image.fromarray(image).resize(new_size, Image.Resampling.LANCZOS))
    return draw(enlarged, rescaled(detections, size=size, new_size=new_size), classes)


def rescaled(detections: Detections, *, size: tuple[int, int], new_size: tuple[int, int]) -> Detections:
    """Scale detections of an image of ``size`` (width, height) to ``new_size``."""
    if size == new_size:
        return detections
    masks = None
    if detections.masks is not None:
        small = (Image.fromarray(coco_mask.decode(rle)).resize(new_size) for rle in detections.masks)
        masks = [coco_mask.encode(np.asfortranarray(mask)) for mask in small]
    scale = np.asarray([new_size[0] / size[0], new_size[1] / size[1]] * 2, np.float32)
    return replace(detections, boxes_xyxy=detections.boxes_xyxy * scale, masks=masks)


def _with_masks(
    image: NDArray[np.uint8], detections: Detections, colors: Sequence[Color], weak: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Draw translucent masks with outlines; the highest score on top."""
    canvas = image.astype(np.float32)
    for i in reversed(range(len(detections.masks or ()))):
        mask = coco_mask.decode(detections.masks[i]).astype(np.bool_)  # type: ignore[index]
        color = np.asarray(colors[i], np.float32)
        canvas[mask] += (FILL / 2 if weak[i] else FILL) * (color - canvas[mask])
        canvas[mask & ~_eroded(mask)] = color
    return canvas.round().astype(np.uint8)


def _eroded(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels whose four neighbours are in the mask; pixels beyond the image border are not."""
    padded = np.pad(mask, 1)
    return padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]


def _box(pen: ImageDraw.ImageDraw, box: list[float], color: Color, *, line: int, dashed: bool) -> None:
    x1, y1, x2, y2 = (round(value) for value in box)
    if not dashed:
        if x2 >= x1 and y2 >= y1:
            pen.rectangle((x1, y1, x2, y2), outline=color, width=line)
        return
    # Dashes on a dark line: a thin coloured line alone is hard to see on a photo.
    if x2 < x1 or y2 < y1:
        return
    pen.rectangle((x1, y1, x2, y2), outline=UNDER_DASHES, width=line)
    dash = 4 * line
    for x in range(x1, x2 + 1, 2 * dash):
        end = min(x + dash - 1, x2)
        pen.rectangle((x, y1, end, min(y1 + line - 1, y2)), fill=color)
        pen.rectangle((x, max(y2 - line + 1, y1), end, y2), fill=color)
    for y in range(y1, y2 + 1, 2 * dash):
        end = min(y + dash - 1, y2)
        pen.rectangle((x1, y, min(x1 + line - 1, x2), end), fill=color)
        pen.rectangle((max(x2 - line + 1, x1), y, x2, end), fill=color)


def _labels(
    pen: ImageDraw.ImageDraw,
    size: tuple[int, int],
    detections: Detections,
    classes: Sequence[str],
    colors: Sequence[Color],
    *,
    with_scores: bool,
) -> None:
    font = ImageFont.load_default(max(11, round(max(size) / 33)))
    taken: list[tuple[int, int, int, int]] = []
    for i, box in enumerate(detections.boxes_xyxy.tolist()):
        text = label_of(int(detections.class_indices[i]), classes)
        text += f" {detections.scores[i]:.2f}" if with_scores else ""
        left, top, right, bottom = font.getbbox(text)
        width, height = round(right - left) + 6, round(bottom - top) + 6
        x = max(0, min(round(box[0]), size[0] - width))
        for y in (round(box[1]) - height, round(box[3]) + 1, round(box[1])):
            place = (x, y, x + width, y + height)
            if y >= 0 and y + height <= size[1] and not any(_overlap(place, other) for other in taken):
                taken.append(place)
                pen.rectangle(place, fill=colors[i])
                pen.text((x + 3 - left, y + 3 - top), text, fill=ink_on(colors[i]), font=font)
                break


def _overlap(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
