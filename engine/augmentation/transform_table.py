"""Table of transforms by traits of objects and environment, with reasons.

``ROWS`` are in the order in which an image is formed, and are applied in it: scene geometry, occlusion, light, weather,
lens, sensor. A row without ``when`` always applies; the others apply if one of their traits is requested. If several
rows of one slot apply, the last one is used: it is the most specific.

``FORBIDS`` exclude effects that are wrong for a trait, and win over every row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from engine.spec import Background, Characteristic, Lighting, Motion, Viewpoint, Weather

Trait = Characteristic | Lighting | Weather | Motion | Viewpoint | Background


class Effect(StrEnum):
    """Effects of transforms that are wrong for some objects."""

    MIRRORS = "mirrors"
    TURNS = "turns by large angles"
    TILTS = "tilts or slants"
    VIEWS = "changes the viewing angle"
    BENDS = "bends"
    SHRINKS = "shrinks"
    HIDES = "hides parts"
    RECOLOURS = "changes colours"
    FADES = "takes contrast away"
    BLURS = "takes detail away"
    SPECKLES = "adds texture"


class Levels(NamedTuple):
    """A parameter that grows with the intensity."""

    low: Any
    medium: Any
    high: Any


@dataclass(frozen=True)
class Row:
    """One transform.

    Attributes:
        slot: Property that is changed. At most one row of a slot is applied.
        transform: Name of a transform of albumentations, or of one in :mod:`engine.augmentation.custom_transforms`.
        p: Share of the images that it is applied to.
        params: Its arguments (see its documentation); :class:`Levels` if they differ by intensity.
        when: Traits, of which any requests it; empty: always requested.
        effects: Effects for which a trait may forbid it.
        needs_masks: Whether it is left out for samples without masks, since their boxes would be wrong after it.
        because: Reason for it.
    """

    slot: str
    transform: str
    because: str
    p: Levels
    params: Mapping[str, Any] = field(default_factory=dict)
    when: tuple[Trait, ...] = ()
    effects: frozenset[Effect] = frozenset()
    needs_masks: bool = False


@dataclass(frozen=True)
class Forbid:
    """Effects that a trait forbids; with ``unless_masks`` only if boxes cannot be computed from masks."""

    when: Trait
    effects: frozenset[Effect]
    because: str
    unless_masks: bool = False


NEUTRAL: tuple[tuple[Trait, str], ...] = (
    (Weather.NONE, "No weather is what images without a trait show already."),
    (Motion.NONE, "No motion is what images without a trait show already."),
)
"""Traits that neither request nor forbid anything."""

GREY = (124, 116, 104)
"""Fill colour beyond the image's edge: the mean of ImageNet, which is zero after both teachers' normalization."""


def _row(
    slot: str,
    transform: str,
    *when: Trait,
    because: str,
    p: tuple[float, float, float],
    effects: tuple[Effect, ...] = (),
    needs_masks: bool = False,
    **params: Any,
) -> Row:
    return Row(slot, transform, because, Levels(*p), params, when, frozenset(effects), needs_masks)


def _light(brightness: Levels, contrast: Levels) -> dict[str, Any]:
    """Scale brightness, and contrast around the image's mean, so that bright images do not saturate."""
    return {"brightness": brightness, "contrast": contrast, "saturation": (1.0, 1.0), "hue": (0.0, 0.0)}


ROWS: tuple[Row, ...] = (
    # The scene before the camera.
    _row(
        "crop",
        "ObjectCrop",
        p=(0.2, 0.3, 0.5),
        share=Levels((0.8, 1.0), (0.65, 1.0), (0.5, 1.0)),
        because="Objects come nearer, and the frame cuts some of them.",
    ),
    _row(
        "crop",
        "ObjectCrop",
        Characteristic.SMALL_OBJECTS,
        Characteristic.DENSE,
        p=(0.3, 0.5, 0.6),
        share=Levels((0.6, 0.9), (0.4, 0.8), (0.3, 0.7)),
        because="Small or crowded objects have few pixels, and a crop around some of them gives each more.",
    ),
    _row(
        "distance",
        "Affine",
        p=(0.3, 0.4, 0.5),
        scale=Levels((0.9, 1.1), (0.8, 1.25), (0.65, 1.5)),
        translate_percent=Levels((-0.03, 0.03), (-0.06, 0.06), (-0.1, 0.1)),
        keep_ratio=True,
        fill=GREY,
        effects=(Effect.SHRINKS,),
        because="Objects are seen from other distances and elsewhere in the frame.",
    ),
    _row(
        "distance",
        "Affine",
        Characteristic.SMALL_OBJECTS,
        p=(0.3, 0.4, 0.5),
        scale=Levels((1.0, 1.1), (1.0, 1.25), (1.0, 1.5)),
        translate_percent=Levels((-0.03, 0.03), (-0.06, 0.06), (-0.1, 0.1)),
        keep_ratio=True,
        fill=GREY,
        because="Small objects may come nearer, but any further and they would vanish.",
    ),
    _row(
        "left and right",
        "HorizontalFlip",
        p=(0.5, 0.5, 0.5),
        effects=(Effect.MIRRORS,),
        because="Most objects are equally likely mirrored.",
    ),
    _row(
        "up and down",
        "VerticalFlip",
        Viewpoint.OVERHEAD,
        p=(0.5, 0.5, 0.5),
        effects=(Effect.MIRRORS,),
        because="Viewed from above, a scene has no upper side.",
    ),
    _row(
        "quarter turn",
        "RandomRotate90",
        Viewpoint.OVERHEAD,
        p=(0.5, 0.75, 1.0),
        effects=(Effect.TURNS,),
        because="Viewed from above, all directions are equally likely, and quarter turns keep boxes tight.",
    ),
    _row(
        "free turn",
        "Affine",
        Viewpoint.OVERHEAD,
        p=(0.2, 0.3, 0.5),
        rotate=(-45, 45),
        fill=GREY,
        effects=(Effect.TURNS,),
        needs_masks=True,
        because="Viewed from above, all directions are equally likely; boxes computed from masks stay tight.",
    ),
    _row(
        "tilt",
        "Affine",
        p=(0.2, 0.3, 0.4),
        rotate=Levels((-3, 3), (-6, 6), (-10, 10)),
        rotate_method="ellipse",
        fill=GREY,
        effects=(Effect.TILTS,),
        because="Cameras are rarely exactly level.",
    ),
    _row(
        "tilt",
        "Affine",
        Viewpoint.VARIED,
        Motion.CAMERA,
        p=(0.3, 0.4, 0.5),
        rotate=Levels((-5, 5), (-10, 10), (-20, 20)),
        rotate_method="ellipse",
        fill=GREY,
        effects=(Effect.TILTS,),
        because="A carried or moving camera may have any angle.",
    ),
    _row(
        "perspective",
        "Perspective",
        Viewpoint.VARIED,
        Characteristic.REPETITIVE_PATTERN,
        p=(0.3, 0.4, 0.5),
        scale=Levels((0.01, 0.03), (0.02, 0.05), (0.02, 0.08)),
        fill=GREY,
        effects=(Effect.VIEWS,),
        because="The same objects are viewed from other angles; in a repeated pattern little else changes.",
    ),
    _row(
        "shear",
        "Affine",
        Characteristic.CHANGES_SHAPE,
        p=(0.2, 0.3, 0.4),
        shear=Levels((-3, 3), (-6, 6), (-10, 10)),
        rotate_method="ellipse",
        fill=GREY,
        effects=(Effect.TILTS,),
        because="Soft objects lean and stretch.",
    ),
    _row(
        "soft bend",
        "ThinPlateSpline",
        Characteristic.CHANGES_SHAPE,
        p=(0.2, 0.3, 0.4),
        scale_range=Levels((0.01, 0.02), (0.02, 0.04), (0.03, 0.07)),
        fill=GREY,
        effects=(Effect.BENDS,),
        needs_masks=True,
        because="Soft objects change their outlines; their boxes are computed from the warped masks.",
    ),
    _row(
        "bend in parts",
        "GridDistortion",
        Characteristic.ARTICULATED,
        p=(0.2, 0.3, 0.4),
        num_steps=5,
        distort_limit=Levels((-0.1, 0.1), (-0.2, 0.2), (-0.3, 0.3)),
        fill=GREY,
        effects=(Effect.BENDS,),
        needs_masks=True,
        because="Jointed parts move relative to each other; boxes are computed from the warped masks.",
    ),
    # What hides the objects.
    _row(
        "things in front",
        "CoarseDropout",
        Background.CLUTTERED,
        p=(0.2, 0.3, 0.5),
        num_holes_range=Levels((1, 3), (2, 5), (3, 8)),
        hole_height_range=Levels((0.03, 0.08), (0.04, 0.1), (0.05, 0.14)),
        hole_width_range=Levels((0.03, 0.08), (0.04, 0.1), (0.05, 0.14)),
        fill="random_uniform",
        fill_mask=0,
        effects=(Effect.HIDES,),
        because="In clutter other things hide parts of the objects, and the visible rest must be enough.",
    ),
    # The light on them.
    _row(
        "brightness",
        "ColorJitter",
        p=(0.3, 0.4, 0.5),
        **_light(Levels((0.9, 1.1), (0.85, 1.15), (0.75, 1.25)), Levels((0.9, 1.1), (0.85, 1.15), (0.75, 1.25))),
        effects=(Effect.FADES,),
        because="Exposure differs from image to image.",
    ),
    _row(
        "brightness",
        "ColorJitter",
        Lighting.STABLE,
        p=(0.2, 0.2, 0.3),
        **_light(Levels((0.97, 1.03), (0.95, 1.05), (0.92, 1.08)), Levels((0.97, 1.03), (0.95, 1.05), (0.92, 1.08))),
        because="Under stable light only the camera's own exposure varies.",
    ),
    _row(
        "brightness",
        "ColorJitter",
        Lighting.VARIABLE,
        p=(0.4, 0.5, 0.7),
        **_light(Levels((0.8, 1.2), (0.7, 1.3), (0.6, 1.4)), Levels((0.85, 1.15), (0.8, 1.2), (0.7, 1.3))),
        effects=(Effect.FADES,),
        because="Sun, clouds and lamps come and go.",
    ),
    _row(
        "brightness",
        "ColorJitter",
        Lighting.LOW,
        p=(0.4, 0.5, 0.7),
        **_light(Levels((0.7, 1.0), (0.5, 1.0), (0.3, 1.0)), Levels((0.9, 1.1), (0.8, 1.1), (0.7, 1.1))),
        effects=(Effect.FADES,),
        because="In the dark images are dim and flat.",
    ),
    _row(
        "brightness",
        "ColorJitter",
        Lighting.HARSH,
        p=(0.4, 0.5, 0.7),
        **_light(Levels((0.9, 1.05), (0.85, 1.1), (0.8, 1.15)), Levels((1.0, 1.2), (1.0, 1.35), (1.0, 1.5))),
        because="Harsh light saturates bright areas and hides dark ones.",
    ),
    _row(
        "brightness",
        "ColorJitter",
        Characteristic.TRANSPARENT,
        Characteristic.LOW_CONTRAST,
        p=(0.3, 0.4, 0.5),
        **_light(Levels((0.95, 1.05), (0.92, 1.08), (0.88, 1.12)), Levels((1.0, 1.1), (1.0, 1.2), (1.0, 1.3))),
        because="Objects of low contrast may get more contrast, but not less.",
    ),
    _row(
        "gamma",
        "RandomGamma",
        Lighting.VARIABLE,
        p=(0.2, 0.3, 0.4),
        gamma_limit=Levels((85, 118), (70, 140), (55, 180)),
        because="Changing light affects middle tones more than black and white.",
    ),
    _row(
        "gamma",
        "RandomGamma",
        Lighting.LOW,
        p=(0.3, 0.4, 0.5),
        gamma_limit=Levels((100, 130), (105, 160), (110, 200)),
        because="Dim light darkens the middle tones.",
    ),
    _row(
        "light from a side",
        "Illumination",
        Lighting.VARIABLE,
        Lighting.HARSH,
        p=(0.2, 0.3, 0.4),
        mode="linear",
        intensity_range=Levels((0.02, 0.08), (0.05, 0.14), (0.08, 0.2)),
        because="Light comes from a window or a lamp on one side.",
    ),
    _row(
        "highlight",
        "Illumination",
        Characteristic.REFLECTIVE_SURFACE,
        Lighting.HARSH,
        p=(0.3, 0.4, 0.5),
        mode="gaussian",
        effect_type="brighten",
        intensity_range=Levels((0.05, 0.12), (0.08, 0.16), (0.12, 0.2)),
        sigma_range=(0.2, 0.4),
        because="Reflections brighten patches that move with the light, not with the object.",
    ),
    _row(
        "shadow",
        "RandomShadow",
        Lighting.HARSH,
        p=(0.2, 0.3, 0.5),
        shadow_roi=(0, 0, 1, 1),
        shadow_dimension=3,
        num_shadows_limit=Levels((1, 1), (1, 2), (1, 2)),
        shadow_intensity_range=Levels((0.15, 0.3), (0.2, 0.4), (0.25, 0.55)),
        because="Harsh light casts shadows with hard edges, which must not be confused with edges of objects.",
    ),
    _row(
        "surroundings",
        "PlasmaBrightnessContrast",
        Background.VARIED,
        p=(0.2, 0.3, 0.4),
        brightness_range=Levels((-0.1, 0.1), (-0.15, 0.15), (-0.25, 0.25)),
        contrast_range=Levels((-0.1, 0.1), (-0.15, 0.15), (-0.25, 0.25)),
        roughness=0.5,
        effects=(Effect.FADES,),
        because="The background is brighter in some places and darker in others.",
    ),
    _row(
        "colour",
        "HueSaturationValue",
        p=(0.2, 0.3, 0.4),
        hue_shift_limit=Levels((-3, 3), (-6, 6), (-10, 10)),
        sat_shift_limit=Levels((-10, 10), (-20, 20), (-30, 30)),
        val_shift_limit=(0, 0),
        effects=(Effect.RECOLOURS,),
        because="Cameras record colours slightly differently.",
    ),
    _row(
        "colour of the light",
        "PlanckianJitter",
        Lighting.VARIABLE,
        p=(0.2, 0.3, 0.4),
        mode="blackbody",
        temperature_limit=Levels((5500, 7500), (5000, 8500), (4500, 10000)),
        effects=(Effect.RECOLOURS,),
        because="Sun, sky and lamps have colours of their own.",
    ),
    _row(
        "tint",
        "RGBShift",
        Characteristic.TRANSPARENT,
        p=(0.2, 0.3, 0.4),
        r_shift_limit=Levels((-8, 8), (-15, 15), (-25, 25)),
        g_shift_limit=Levels((-8, 8), (-15, 15), (-25, 25)),
        b_shift_limit=Levels((-8, 8), (-15, 15), (-25, 25)),
        effects=(Effect.RECOLOURS,),
        because="The background shines through and changes the colour.",
    ),
    _row(
        "no colour",
        "ToGray",
        Characteristic.TEXTURELESS,
        p=(0.05, 0.1, 0.2),
        effects=(Effect.RECOLOURS,),
        because="Without texture, colour is the easiest cue; in grey images outlines must do, and generalize better.",
    ),
    # The weather between.
    _row(
        "fog",
        "Fog",
        Weather.FOG,
        Weather.MIXED,
        p=(0.2, 0.3, 0.4),
        density=Levels((0.2, 0.4), (0.25, 0.55), (0.3, 0.7)),
        effects=(Effect.FADES,),
        because="Fog brightens the image and lowers its contrast unevenly.",
    ),
    _row(
        "rain",
        "RandomRain",
        Weather.RAIN,
        Weather.MIXED,
        p=(0.2, 0.3, 0.4),
        rain_type=Levels("drizzle", "drizzle", "default"),
        blur_value=3,
        brightness_coefficient=Levels(0.9, 0.85, 0.75),
        effects=(Effect.SPECKLES,),
        because="Rain draws streaks and darkens the scene.",
    ),
    _row(
        "snow",
        "RandomSnow",
        Weather.SNOW,
        Weather.MIXED,
        p=(0.2, 0.3, 0.4),
        snow_point_range=Levels((0.05, 0.15), (0.1, 0.25), (0.15, 0.35)),
        brightness_coeff=Levels(1.5, 1.8, 2.2),
        because="Snow covers dark areas and turns them white.",
    ),
    # The lens.
    _row(
        "focus",
        "GaussianBlur",
        p=(0.05, 0.1, 0.2),
        sigma_limit=Levels((0.3, 0.8), (0.3, 1.2), (0.3, 1.8)),
        effects=(Effect.BLURS,),
        because="The focus is not always on the object.",
    ),
    _row(
        "motion blur",
        "MotionBlur",
        Motion.OBJECT,
        Motion.CAMERA,
        p=(0.2, 0.3, 0.5),
        blur_limit=Levels((3, 5), (3, 9), (3, 15)),
        allow_shifted=False,
        effects=(Effect.BLURS,),
        because="Objects that move during the exposure are blurred.",
    ),
    # The sensor.
    _row(
        "sensor noise",
        "ISONoise",
        Lighting.LOW,
        p=(0.2, 0.3, 0.5),
        color_shift=Levels((0.01, 0.02), (0.01, 0.04), (0.01, 0.06)),
        intensity=Levels((0.1, 0.2), (0.1, 0.35), (0.15, 0.5)),
        effects=(Effect.SPECKLES,),
        because="In the dark the sensor's gain is high, and so is its noise.",
    ),
    _row(
        "local contrast",
        "CLAHE",
        Characteristic.LOW_CONTRAST,
        p=(0.1, 0.2, 0.3),
        clip_limit=Levels((1.0, 1.5), (1.0, 2.0), (1.0, 3.0)),
        because="Cameras sharpen faint edges more or less, and the objects must be found in both cases.",
    ),
    _row(
        "compression",
        "ImageCompression",
        p=(0.1, 0.15, 0.2),
        quality_range=Levels((75, 95), (60, 95), (40, 90)),
        effects=(Effect.BLURS,),
        because="Images in later use are often compressed more than the labelled ones.",
    ),
)

FORBIDS: tuple[Forbid, ...] = (
    Forbid(
        Characteristic.ORIENTATION_MATTERS,
        frozenset({Effect.MIRRORS, Effect.TURNS}),
        "A mirrored or rotated arrow, letter or part has another meaning.",
    ),
    Forbid(
        Characteristic.COLOR_MATTERS,
        frozenset({Effect.RECOLOURS}),
        "If colour distinguishes classes, another colour is another class.",
    ),
    Forbid(
        Characteristic.SMALL_OBJECTS,
        frozenset({Effect.SHRINKS, Effect.BLURS, Effect.HIDES}),
        "An object of a few pixels disappears when it is shrunk, blurred or covered.",
    ),
    Forbid(Characteristic.DENSE, frozenset({Effect.HIDES}), "Among crowded objects a patch hides whole ones."),
    Forbid(
        Characteristic.ELONGATED,
        frozenset({Effect.TILTS}),
        "The box around a tilted long object is mostly background; masks show its true extent.",
        unless_masks=True,
    ),
    Forbid(
        Characteristic.TRANSPARENT,
        frozenset({Effect.FADES}),
        "Transparent objects consist of faint edges, which disappear with less contrast.",
    ),
    Forbid(
        Characteristic.LOW_CONTRAST,
        frozenset({Effect.FADES}),
        "Objects of low contrast disappear with less contrast.",
    ),
    Forbid(
        Characteristic.TEXTURELESS,
        frozenset({Effect.SPECKLES}),
        "Noise would be the only texture, and would be learned.",
    ),
    Forbid(Characteristic.REPETITIVE_PATTERN, frozenset({Effect.BENDS}), "A warped pattern is another pattern."),
    Forbid(
        Viewpoint.FIXED,
        frozenset({Effect.TILTS, Effect.TURNS, Effect.VIEWS}),
        "A fixed camera views the scene from one side only, and level.",
    ),
    Forbid(Background.PLAIN, frozenset({Effect.HIDES}), "On a plain background nothing covers the objects."),
)
