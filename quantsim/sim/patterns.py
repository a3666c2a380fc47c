"""Choosing modules by path, regular expression or class name."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import Self

from pydantic import BaseModel, ConfigDict, field_validator, model_validator
from torch import nn

__all__ = ["ModulePattern"]


class ModulePattern(BaseModel):
    """Which modules of a model are meant; all conditions given must hold.

    Example:
        >>> pattern = ModulePattern(name="encoder.layer.*.output")
        >>> (
        ...     pattern.matches("encoder.layer.3.output", nn.Linear(1, 1)),
        ...     pattern.matches("pooler", nn.Linear(1, 1)),
        ... )
        (True, False)
        >>> ModulePattern(type="Linear").matches("anything", nn.Linear(1, 1))
        True
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str | None = None
    """Module path with shell wildcards; ``*`` also spans dots, ``""`` is the whole model."""
    regex: str | None = None
    """Regular expression that the whole module path must match."""
    type: str | None = None
    """Class name of the float module, bare (``Linear``) or full (``torch.nn.modules.linear.Linear``)."""

    @field_validator("regex")
    @classmethod
    def _regex_compiles(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"{value!r} is no regular expression: {error}") from None
        return value

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.name is None and self.regex is None and self.type is None:
            raise ValueError("an empty pattern: give name, regex or type")
        return self

    def matches(self, path: str, module: nn.Module) -> bool:
        """Whether the module at ``path`` is meant."""
        if self.name is not None and not fnmatchcase(path, self.name):
            return False
        if self.regex is not None and re.fullmatch(self.regex, path) is None:
            return False
        if self.type is None:
            return True
        return any(
            self.type in (cls.__name__, f"{cls.__module__}.{cls.__qualname__}")
            for cls in (type(module), *type(module).__mro__)
        )

    def __str__(self) -> str:
        return ", ".join(f"{field}={value!r}" for field, value in self if value is not None)
