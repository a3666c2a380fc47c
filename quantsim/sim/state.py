"""Checks a state before it is taken over: torch's own loading stops half-way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from quantsim.errors import ShapeError
from quantsim.sim.slots import shown

__all__ = ["check_state"]


def check_state(own: Mapping[str, Any], state: Mapping[str, Any], *, strict: bool, where: str) -> None:
    """Raises unless a state fits.

    Args:
        own: The state that there is.
        state: The state to take over.
        strict: Names must agree exactly; the settings of quantizers (``_extra_state``) may be missing.
        where: What errors call the caller.

    Raises:
        ShapeError: Names or shapes that do not fit; says which.

    Example:
        >>> import torch
        >>> check_state({"a": torch.zeros(2)}, {"a": torch.ones(2)}, strict=True, where="load")
    """
    problems = [
        f"{name}: got {tuple(state[name].shape)}, expected {tuple(values.shape)}"
        for name, values in own.items()
        if isinstance(values, Tensor)
        and isinstance(state.get(name), Tensor)
        and not name.endswith("_extra_state")
        and state[name].shape != values.shape
    ]
    if strict:
        problems += [f"missing: {name}" for name in own if name not in state and not name.endswith("_extra_state")]
        problems += [f"unknown: {name}" for name in state if name not in own]
    if problems:
        raise ShapeError(
            "the state does not fit the simulation, which is unchanged",
            where=where,
            got=shown(problems, "; "),
            expected="the state of a simulation of the same model and config",
            fix="build the simulation with the config it was saved with, or pass strict=False",
        )
