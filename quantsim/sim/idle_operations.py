"""Calls of torch functions that could have quantizers and were given none, as coverage reports them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from quantsim.sim.example_run import ModuleCall, UnquantizedOperation
from quantsim.sim.functional_routing import HOLDER
from quantsim.sim.operations import GEMM_OPERATIONS, JOINING_OPERATIONS

__all__ = ["IdleOperations", "find_idle_operations"]


@dataclass(frozen=True)
class IdleOperations:
    """Operation modules without a quantizer.

    Attributes:
        paths: Where they are.
        operations: What they stand for, equal ones of one module counted together.
    """

    paths: frozenset[str]
    operations: tuple[UnquantizedOperation, ...]


def find_idle_operations(
    model: nn.Module, idle: Collection[str], holding: Collection[str], calls: Mapping[str, ModuleCall]
) -> IdleOperations:
    """The operation modules among the modules without a quantizer.

    Args:
        model: The simulated model.
        idle: Paths of quantized modules that hold no quantizer.
        holding: Paths of those that do.
        calls: What the example run saw.
    """
    own = frozenset(path for path in idle if HOLDER in path.split("."))
    counts: Counter[tuple[str, str]] = Counter()
    for path in own:
        owner, _, place = f".{path}".partition(f".{HOLDER}.")
        name, _, part = place.partition(".")
        function = name.rpartition("_")[0]
        whole = f"{path[: len(path) - len(part) - 1]}" if part else path
        in_use = any(other.startswith(f"{whole}.") for other in holding)
        if part and not in_use:
            continue  # reported as the whole
        if part:
            module: Any = model.get_submodule(path)
            function = str(module._spec.op)
        elif in_use:
            continue  # its parts are reported
        if function in JOINING_OPERATIONS:
            continue  # moves values, and computes nothing
        seen = calls.get(path) or _of_part(calls, path)
        counts[owner.removeprefix("."), function] += 1 if seen is None else seen.calls
    operations = tuple(
        UnquantizedOperation(
            owner, type(model.get_submodule(owner)).__name__, function, count, GEMM_OPERATIONS.get(function, 0)
        )
        for (owner, function), count in sorted(counts.items())
    )
    return IdleOperations(own, operations)


def _of_part(calls: Mapping[str, ModuleCall], path: str) -> ModuleCall | None:
    """What was seen of a composite: the calls of its first part."""
    return next((call for part, call in calls.items() if part.startswith(f"{path}.")), None)
