"""Sections of the configuration with the settings of the models to train."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, create_model, model_validator

from engine.config.base import ConfigModel
from engine.config.model_settings import ModelSettings
from engine.registry import ModelName


class ModelsConfig(ConfigModel):
    """A section for each registered model of a kind, by its slug; None if it is not trained."""

    model_config = ConfigDict(extra="allow")

    kind: ClassVar[type[ModelName]]

    @classmethod
    def resolved(cls) -> type[BaseModel]:
        """Return the model of the sections of all models that are registered now."""
        return _sections(tuple(cls.kind))

    @model_validator(mode="wrap")
    @classmethod
    def _by_registry(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if isinstance(data, cls):
            return data
        checked = cls.resolved().model_validate(data)
        return handler({name: getattr(checked, name) for name in type(checked).model_fields})

    def of(self, name: ModelName) -> ModelSettings | None:
        """Return the settings of one model; None if it is not trained."""
        settings: ModelSettings | None = (self.model_extra or {}).get(name.slug)
        return settings

    def replaced(self, name: ModelName, settings: ModelSettings) -> Self:
        """Return the section with other settings of one model."""
        return type(self).model_validate({**(self.model_extra or {}), name.slug: settings})

    @property
    def names(self) -> tuple[ModelName, ...]:
        """Names of the models to train, in order."""
        return tuple(name for name in self.kind if self.of(name) is not None)


@cache
def _sections(names: tuple[ModelName, ...]) -> type[BaseModel]:
    fields: dict[str, Any] = {
        name.slug: (name.traits.settings | None, Field(default=None, description=name.traits.summary)) for name in names
    }
    return create_model("ModelSections", __base__=ConfigModel, **fields)
