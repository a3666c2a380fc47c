"""Choosing modules by path, regular expression, class name or op."""

from __future__ import annotations

import re
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Self

from pydantic import BaseModel, ConfigDict, field_validator, model_validator
from torch import nn

from quantsim.sim.operations import OPERATION_FAMILIES, canonical_op, known_ops, op_of_module

__all__ = ["ModulePattern", "is_op", "known_op"]


def known_op(name: str) -> str:
    """The canonical name of an op or of a family of ops.

    Raises:
        ValueError: There is no such op; says which are near.
    """
    op = name if name in OPERATION_FAMILIES else canonical_op(name)
    known = known_ops()
    if op not in known:
        near = get_close_matches(name, known, n=3, cutoff=0.5)
        raise ValueError(
            f"unknown op {name!r}; " + (f"near: {', '.join(near)}" if near else "see docs of ModulePattern")
        )
    return op


def is_op(wanted: str, op: str | None) -> bool:
    """Whether an op is the one wanted, or of the family wanted.

    Args:
        wanted: As `known_op` gives it.
        op: As `quantsim.sim.operations.op_of_module` gives it.

    Example:
        >>> is_op("conv", "conv2d"), is_op("conv2d", "conv1d"), is_op("relu", None)
        (True, False, False)
    """
    return op is not None and (op == wanted or op in OPERATION_FAMILIES.get(wanted, ()))


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
        >>> ModulePattern(op="conv").matches("anything", nn.Conv2d(1, 1, 1))
        True
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str | None = None
    """Module path with shell wildcards; ``*`` also spans dots, ``""`` is the whole model."""
    regex: str | None = None
    """Regular expression that the whole module path must match."""
    type: str | None = None
    """Class name of the float module, bare (``Linear``) or full (``torch.nn.modules.linear.Linear``)."""

    op: str | None = None
    """What the module computes, whether it is a module of the model or stands for a call of a torch function:
    ``softmax``, ``add``, ``matmul``, ``scaled_dot_product_attention``, ...; ``conv``, ``conv_transpose``, ``avg_pool``
    and ``max_pool`` are those of any number of dimensions."""

    @field_validator("op")
    @classmethod
    def _op_is_known(cls, value: str | None) -> str | None:
        return None if value is None else known_op(value)

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
        if self.name is None and self.regex is None and self.type is None and self.op is None:
            raise ValueError("an empty pattern: give name, regex, type or op")
        return self

    def matches(self, path: str, module: nn.Module) -> bool:
        """Whether the module at ``path`` is meant."""
        if self.name is not None and not fnmatchcase(path, self.name):
            return False
        if self.regex is not None and re.fullmatch(self.regex, path) is None:
            return False
        if self.op is not None and not is_op(self.op, op_of_module(module)):
            return False
        if self.type is None:
            return True
        return any(
            self.type in (cls.__name__, f"{cls.__module__}.{cls.__qualname__}")
            for cls in (type(module), *type(module).__mro__)
        )

    def __str__(self) -> str:
        return ", ".join(f"{field}={value!r}" for field, value in self if value is not None)
