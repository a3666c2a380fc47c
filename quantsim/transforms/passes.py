"""All passes by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from pydantic import BaseModel
from torch import nn

from quantsim.errors import ConfigurationError
from quantsim.sim.slots import nearest_names
from quantsim.transforms.float_precision import FloatPrecisionArguments, plan_float_precision
from quantsim.transforms.plan import TransformPlan

__all__ = ["TRANSFORM_PASSES", "TransformPass", "transform_pass"]


@dataclass(frozen=True)
class TransformPass:
    """A pass.

    Attributes:
        name: What it is called in a configuration and on the command line.
        description: What it does, in one sentence.
        parameters: Model of the parameters under each key.
        plan: Makes its plan for a model from the pass's arguments.
    """

    name: str
    description: str
    parameters: type[BaseModel]
    plan: Callable[[nn.Module, Mapping[str, Any]], TransformPlan]


TRANSFORM_PASSES: Final[Mapping[str, TransformPass]] = MappingProxyType(
    {
        item.name: item
        for item in (
            TransformPass(
                "float_precision",
                "Computes modules in a floating-point or block format: inputs, parameters and recurrent state rounded.",
                FloatPrecisionArguments,
                plan_float_precision,
            ),
        )
    }
)
"""Every pass by its name."""


def transform_pass(name: str) -> TransformPass:
    """A pass by its name.

    Raises:
        ConfigurationError: There is none of that name; says which are near.

    Example:
        >>> transform_pass("float_precision").parameters.__name__
        'FloatPrecisionArguments'
    """
    found = TRANSFORM_PASSES.get(name)
    if found is None:
        near = nearest_names(name, TRANSFORM_PASSES, 1)
        raise ConfigurationError(
            "there is no such pass",
            where="pass",
            got=repr(name),
            expected=f"one of {', '.join(TRANSFORM_PASSES)}",
            fix=f"did you mean {near[0]!r}?" if near else None,
        )
    return found
