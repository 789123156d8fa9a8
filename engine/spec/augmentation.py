"""Section ``augmentation`` of the spec: appearance of images in later use."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from engine.spec.base import SpecModel


class Characteristic(StrEnum):
    """Properties of the objects; select the augmentation."""

    CHANGES_SHAPE = "changes_shape"
    REFLECTIVE_SURFACE = "reflective_surface"
    TRANSPARENT = "transparent"
    TEXTURELESS = "textureless"
    SMALL_OBJECTS = "small_objects"
    DENSE = "dense"
    ELONGATED = "elongated"
    REPETITIVE_PATTERN = "repetitive_pattern"
    LOW_CONTRAST = "low_contrast"
    ARTICULATED = "articulated"
    ORIENTATION_MATTERS = "orientation_matters"
    COLOR_MATTERS = "color_matters"


class Lighting(StrEnum):
    """Variation of the light in use."""

    STABLE = "stable"
    VARIABLE = "variable"
    LOW = "low"
    HARSH = "harsh"


class Weather(StrEnum):
    """Weather in front of the camera."""

    NONE = "none"
    RAIN = "rain"
    FOG = "fog"
    SNOW = "snow"
    MIXED = "mixed"


class Motion(StrEnum):
    """Source of motion blur."""

    NONE = "none"
    OBJECT = "object"
    CAMERA = "camera"


class Viewpoint(StrEnum):
    """Camera position. ``overhead`` means that all rotations are equally likely."""

    FIXED = "fixed"
    VARIED = "varied"
    OVERHEAD = "overhead"


class Background(StrEnum):
    """Background of the objects."""

    PLAIN = "plain"
    VARIED = "varied"
    CLUTTERED = "cluttered"


class Intensity(StrEnum):
    """Strength of the augmentation."""

    NONE = "none"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class EnvironmentSpec(SpecModel):
    """Environment of the objects."""

    lighting: Lighting | None = Field(default=None, description="Variation of the light.")
    weather: Weather | None = Field(default=None, description="Weather in front of the camera.")
    motion: Motion | None = Field(default=None, description="What moves during the exposure.")
    viewpoint: Viewpoint | None = Field(default=None, description="Position of the camera.")
    background: Background | None = Field(default=None, description="Background of the objects.")


class AugmentationSpec(SpecModel):
    """Appearance of images in later use, which the augmentation imitates."""

    characteristics: list[Characteristic] = Field(default=[], max_length=16, description="Properties of the objects.")
    environment: EnvironmentSpec = Field(default=EnvironmentSpec(), description="Environment of the objects.")
    intensity: Intensity | None = Field(default=None, description="Strength of the augmentation.")
    mosaic: int | None = Field(
        default=None,
        ge=0,
        le=100,
        description="Percentage of the training views of a teacher of boxes that join windows of four images.",
    )
    paste: int | None = Field(
        default=None,
        ge=0,
        le=100,
        description="Percentage of the training views of a teacher of boxes with objects copied from other images.",
    )

    @property
    def mixes(self) -> bool:
        """True if some views are made of several images."""
        return bool(self.mosaic or self.paste)
