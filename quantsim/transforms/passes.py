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
from quantsim.transforms.matching import PassArguments
from quantsim.transforms.optical import OpticalArguments, parse_optical_arguments, plan_optical_transformer
from quantsim.transforms.plan import TransformPlan
from quantsim.transforms.squeezelight import SqueezeLightArguments, plan_squeezelight

__all__ = ["TRANSFORM_PASSES", "TransformPass", "transform_pass"]


@dataclass(frozen=True)
class TransformPass:
    """A pass.

    Attributes:
        name: What it is called in a configuration and on the command line.
        description: What it does, in one sentence.
        parameters: Model of the parameters under each key.
        plan: Makes its plan for a model from the pass's arguments.
        parse: Checks arguments that have a second form; None: they are those of `PassArguments`.
        needs_calibration: Whether its modules take ranges from data.
    """

    name: str
    description: str
    parameters: type[BaseModel]
    plan: Callable[[nn.Module, Mapping[str, Any]], TransformPlan]
    parse: Callable[..., object] | None = None
    needs_calibration: bool = False

    def check(self, pass_args: Mapping[str, Any], *, where: str = "pass_args") -> None:
        """Checks arguments without a model.

        Args:
            pass_args: Arguments of the pass; not changed.
            where: What errors call them.

        Raises:
            ConfigurationError: They are not valid.

        Example:
            >>> transform_pass("optical").check({"attn": {"q_levels": 64}, "fc": {"q_levels": 256}})
        """
        if self.parse is not None:
            self.parse(pass_args, where=where)
        else:
            PassArguments.parse(pass_args, self.parameters, where=where)


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
            TransformPass(
                "optical",
                "Puts linear layers and attention on simulated photonic hardware (optical transformer).",
                OpticalArguments,
                plan_optical_transformer,
                parse_optical_arguments,
                needs_calibration=True,
            ),
            TransformPass(
                "squeezelight",
                "Makes linear layers of micro-rings, which are the non-linearity too (SqueezeLight).",
                SqueezeLightArguments,
                plan_squeezelight,
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
