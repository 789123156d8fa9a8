"""Paints, textures, backgrounds and cameras of the drawn scenes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray
from outlines import Part

Plane = NDArray[np.float32]

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (205, 45, 45),
    "green": (50, 160, 70),
    "blue": (50, 80, 200),
    "yellow": (225, 205, 60),
    "cyan": (70, 195, 205),
    "magenta": (200, 60, 180),
    "orange": (235, 135, 40),
    "purple": (115, 60, 160),
    "brown": (130, 85, 50),
    "pink": (240, 160, 185),
    "white": (240, 240, 240),
    "gray": (128, 128, 128),
    "black": (20, 20, 20),
}
TEXTURES = ("stripes", "checks", "dots", "noise", "gradient", "patches")
LEAST_CONTRAST = 45
"""Least difference of a paint and the background in one channel, before a scene is made faint."""


@dataclass(frozen=True, eq=False)
class Paint:
    """Paints of one object: the RGB values of :attr:`Part.paint`, and the first one's name if it has one."""

    name: str | None
    rgb: NDArray[np.float32]


@dataclass(frozen=True)
class Look:
    """Appearance of the inside and the edge of an object."""

    blur: float
    outline: float
    outline_shade: float
    shading: float
    light: float
    texture: str | None
    strength: float
    scale: float
    grain: float
    opacity: float
    shadow: float

    @classmethod
    def any(cls, rng: np.random.Generator) -> Self:
        """Draw a look."""

        def sometimes(share: float, low: float, high: float) -> float:
            return float(rng.uniform(low, high)) if rng.random() < share else 0.0

        return cls(
            blur=sometimes(0.3, 0.5, 1.8),
            outline=sometimes(0.35, 0.06, 0.25),
            outline_shade=float(rng.uniform(0.3, 0.7) if rng.random() < 0.7 else rng.uniform(1.2, 1.6)),
            shading=sometimes(0.5, 0.15, 0.6) * (1 if rng.random() < 0.6 else -1),
            light=sometimes(0.4, 0.1, 0.5),
            texture=TEXTURES[int(rng.integers(len(TEXTURES)))] if rng.random() < 0.45 else None,
            strength=float(rng.uniform(0.2, 0.9)),
            scale=float(rng.uniform(0.15, 0.6)),
            grain=sometimes(0.35, 3, 25),
            opacity=1.0 - sometimes(0.3, 0.1, 0.45),
            shadow=sometimes(0.25, 0.2, 0.6),
        )


def choose_paint(
    rng: np.random.Generator, mean: Plane, *, grey: bool, contrast: float, wanted: str | None = None
) -> Paint:
    """Choose a named colour with enough contrast to the background, and paints of further parts.

    The first choice is the ``wanted`` colour; its second paint is a shade of it.
    """
    names = list(COLORS)
    rgb = np.zeros((4, 3), np.float32)
    while True:
        name = wanted or names[int(rng.integers(len(names)))]
        plain, wanted = wanted is not None, None
        rgb[0] = np.clip(np.asarray(COLORS[name]) + rng.normal(0, 14, 3), 0, 255)
        difference = rgb[0].mean() - mean.mean() if grey else rgb[0] - mean
        if np.abs(difference).max() > LEAST_CONTRAST:
            break
    second = not plain and rng.random() < 0.6
    rgb[1] = COLORS[names[int(rng.integers(len(names)))]] if second else rgb[0] * rng.uniform(0.4, 0.8)
    rgb[2] = rng.uniform(0, 60)
    rgb[3] = rng.uniform(170, 255, 3)
    named = None if grey or contrast < 1 else name
    return Paint(named, (mean + (rgb - mean) * contrast).astype(np.float32))


def octaves(rng: np.random.Generator, size: tuple[int, int], *, channels: int = 1, falloff: float = 1.0) -> Plane:
    """Return (H, W, channels) noise with the spectrum of natural images, standard deviation about 1."""
    total = np.zeros((*size, channels), np.float32)
    power = 0.0
    cells = 2
    while cells <= max(size):
        weight = cells**-falloff
        coarse = rng.standard_normal((cells + 1, cells + 1, channels), np.float32) * weight
        total += cv2.resize(coarse, (size[1], size[0]), interpolation=cv2.INTER_CUBIC).reshape(total.shape)
        power += weight**2
        cells *= 2
    return total / np.float32(np.sqrt(power))


def texture(rng: np.random.Generator, name: str, shape: tuple[int, int], *, period: float) -> Plane:
    """Return (h, w) values in 0..1, the share of the second paint."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    u = (x * np.cos(angle) + y * np.sin(angle)) * np.float32(2 * np.pi / period)
    v = (y * np.cos(angle) - x * np.sin(angle)) * np.float32(2 * np.pi / period)
    if name == "stripes":
        return np.asarray(np.clip(0.5 + np.sin(u), 0, 1))
    if name == "checks":
        return np.asarray(np.clip(0.5 + 3 * np.sin(u) * np.sin(v), 0, 1))
    if name == "dots":
        return np.asarray(np.clip(2 * (np.cos(u) + np.cos(v) - 0.7), 0, 1))
    if name == "gradient":
        return np.asarray((u - u.min()) / max(float(np.ptp(u)), 1e-3))
    noise = octaves(rng, shape, falloff=0.3 if name == "noise" else 1.0)[..., 0]
    return np.asarray(np.clip(0.5 + noise * (0.4 if name == "noise" else 1.5), 0, 1))


def cover(
    rng: np.random.Generator,
    ground: Plane,
    covers: list[NDArray[np.uint8]],
    parts: list[Part],
    *,
    paint: Paint,
    look: Look,
    radius: float,
) -> Plane:
    """Return (h, w, 3): the ground with an object's parts painted over it."""
    if look.shadow:
        whole = np.max(covers, axis=0)
        offset = np.array([(1, 0, rng.uniform(-0.3, 0.3) * radius), (0, 1, rng.uniform(-0.3, 0.3) * radius)])
        cast = cv2.GaussianBlur(cv2.warpAffine(whole, offset, whole.shape[::-1]), (0, 0), 0.5 + radius * 0.08)
        ground = ground * (1 - cast[..., None] * np.float32(look.shadow / 255))
    shape = ground.shape[:2]
    light = None
    if look.light:
        y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
        angle = rng.uniform(0, 2 * np.pi)
        light = ((x - shape[1] / 2) * np.cos(angle) + (y - shape[0] / 2) * np.sin(angle)) / radius * look.light
    for part, plane in zip(parts, covers, strict=True):
        color = paint.rgb[part.paint] + rng.normal(0, 5, 3).astype(np.float32)
        body = np.broadcast_to(color, ground.shape)
        if look.texture and part.paint < 2:
            share = texture(rng, look.texture, shape, period=max(3.0, look.scale * radius))
            body = body + (paint.rgb[1] - color) * (share * look.strength)[..., None]
        if (look.shading or look.outline) and part.width == 0:
            depth = cv2.distanceTransform(plane, cv2.DIST_L2, 3)
            deepest = max(float(depth.max()), 1.0)
            if look.shading:
                body = body * (1 + look.shading * (depth / deepest - 0.5))[..., None]
            if look.outline:
                rim = np.clip(look.outline * deepest + 1 - depth, 0, 1)[..., None]
                body = body * (1 + rim * (look.outline_shade - 1))
        if light is not None:
            body = body * (1 + light)[..., None]
        if look.grain:
            body = body + rng.standard_normal((*shape, 1), np.float32) * look.grain
        alpha = plane.astype(np.float32)
        if look.blur:
            alpha = cv2.GaussianBlur(alpha, (0, 0), look.blur)
        ground = ground + (np.clip(body, 0, 255) - ground) * (alpha * np.float32(look.opacity / 255))[..., None]
    return np.asarray(ground, np.float32)


def background(rng: np.random.Generator, size: tuple[int, int]) -> tuple[Plane, Plane]:
    """Return an (H, W, 3) canvas and its mean RGB."""
    rgb = rng.uniform(0, 255, 3) if rng.random() < 0.65 else np.full(3, rng.choice([8, 30, 128, 200, 235, 245]))
    if rng.random() < 0.25:  # stained glass slides are bright
        rgb = rng.uniform(170, 250, 3)
    canvas = np.broadcast_to(rgb.astype(np.float32), (*size, 3)).copy()
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    if rng.random() < 0.5:  # light falls off in one direction
        angle = rng.uniform(0, 2 * np.pi)
        ramp = (x / size[1] - 0.5) * np.cos(angle) + (y / size[0] - 0.5) * np.sin(angle)
        canvas += ramp[..., None] * rng.uniform(10, 90, 3).astype(np.float32)
    if rng.random() < 0.7:
        falloff = float(rng.uniform(0.3, 1.5))
        canvas += octaves(rng, size, falloff=falloff) * np.float32(rng.uniform(4, 35))
    if rng.random() < 0.35:
        canvas += octaves(rng, size, channels=3, falloff=float(rng.uniform(0.8, 1.5))) * np.float32(rng.uniform(5, 25))
    if rng.random() < 0.12:
        share = texture(rng, TEXTURES[int(rng.integers(3))], size, period=float(rng.uniform(8, 60)))
        canvas += share[..., None] * rng.uniform(-40, 40, 3).astype(np.float32)
    if rng.random() < 0.4:
        _clutter(rng, canvas)
    if rng.random() < 0.3:  # vignetting
        far = ((x / size[1] - 0.5) ** 2 + (y / size[0] - 0.5) ** 2)[..., None]
        canvas *= 1 - far * np.float32(rng.uniform(0.3, 1.4))
    canvas = np.clip(canvas, 0, 255)
    return canvas, canvas.mean((0, 1))


def _clutter(rng: np.random.Generator, canvas: Plane) -> None:
    """Draw thin strokes, bands and soft patches that no label names."""
    height, width = canvas.shape[:2]
    mean = canvas.mean((0, 1))
    for _ in range(int(rng.integers(2, 14))):
        color = tuple(float(v) for v in np.clip(mean + rng.normal(0, 40, 3), 0, 255))
        ends = rng.uniform(-0.2, 1.2, (2, 2)) * (width, height)
        middle = ends.mean(0) + rng.normal(0, 0.15, 2) * (width, height)
        curve = np.array(
            [(1 - t) ** 2 * ends[0] + 2 * t * (1 - t) * middle + t**2 * ends[1] for t in np.linspace(0, 1, 12)]
        )
        wide = rng.random() < 0.15
        thickness = int(rng.integers(8, 40)) if wide else int(rng.integers(1, 3))
        cv2.polylines(canvas, [curve.astype(np.int32)], False, color, thickness, cv2.LINE_AA)
    if rng.random() < 0.4:
        canvas[:] = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.8, 4))


def camera(rng: np.random.Generator, canvas: Plane, *, grey: bool) -> NDArray[np.uint8]:
    """Simulate the response, the blur, the noise and the compression of a camera."""
    if grey:
        canvas = np.repeat(canvas.mean(-1, keepdims=True), 3, axis=-1)
    if rng.random() < 0.3:
        canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.4, 1.4))
    if rng.random() < 0.5:
        canvas = 255 * (np.clip(canvas, 0, 255) / 255) ** np.float32(rng.uniform(0.7, 1.4))
    if rng.random() < 0.55:
        channels = 1 if grey or rng.random() < 0.5 else 3
        noise = rng.standard_normal((*canvas.shape[:2], channels), np.float32)
        canvas = canvas + noise * np.float32(rng.uniform(1, 12))
    image: NDArray[Any] = np.clip(canvas, 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 95))])[1]
        image = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    return image
