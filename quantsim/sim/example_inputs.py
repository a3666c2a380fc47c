"""One normal form for the example inputs that a caller may give in four."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from quantsim.errors import ConfigurationError

__all__ = ["ModelInputs"]


@dataclass(frozen=True)
class ModelInputs:
    """Positional and keyword arguments of one call of a model."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, inputs: object, *, what: str = "example_inputs") -> ModelInputs:
        """Read any accepted form.

        Args:
            inputs: ``(args, kwargs)`` with a tuple (or list) and a mapping; a tuple or list of positional arguments; a
                mapping of keyword arguments; or a lone tensor.
            what: What errors call the value.

        Raises:
            ConfigurationError: Any other type, or keyword names that are not strings.

        Example:
            >>> x = torch.zeros(2)
            >>> (
            ...     len(ModelInputs.of(x).args),
            ...     len(ModelInputs.of((x, x)).args),
            ...     sorted(ModelInputs.of({"a": x}).kwargs),
            ... )
            (1, 2, ['a'])
            >>> sorted(ModelInputs.of(((x,), {"mask": x})).kwargs)
            ['mask']
        """
        if isinstance(inputs, ModelInputs):
            return inputs
        if isinstance(inputs, Tensor):
            return cls((inputs,), {})
        if isinstance(inputs, Mapping):
            return cls((), cls._keywords(inputs, what))
        if isinstance(inputs, (tuple, list)):
            if len(inputs) == 2 and isinstance(inputs[0], (tuple, list)) and isinstance(inputs[1], Mapping):
                return cls(tuple(inputs[0]), cls._keywords(inputs[1], what))
            return cls(tuple(inputs), {})
        raise ConfigurationError(
            "cannot be read as arguments of the model",
            where=what,
            got=type(inputs).__name__,
            expected="(args, kwargs), a tuple of arguments, a mapping of keyword arguments, or a tensor",
            fix=f"wrap the value: {what}=(value,)",
        )

    @staticmethod
    def _keywords(mapping: Mapping[Any, Any], what: str) -> dict[str, Any]:
        wrong = [key for key in mapping if not isinstance(key, str)]
        if wrong:
            raise ConfigurationError(
                "keyword arguments need names",
                where=what,
                got=f"keyword names {wrong[:3]!r}",
                expected="a mapping from argument names to values",
                fix="give a dict that is itself an argument as ((the_dict,), {})",
            )
        return dict(mapping)

    def to(self, device: torch.device) -> ModelInputs:
        """The same inputs with every tensor on ``device``."""
        args, kwargs = pytree.tree_map_only(
            Tensor, lambda tensor: tensor.to(device), (self.args, dict(self.kwargs or {}))
        )
        return ModelInputs(args, kwargs)

    def call(self, model: Any) -> Any:
        """``model(*args, **kwargs)``."""
        return model(*self.args, **(self.kwargs or {}))
