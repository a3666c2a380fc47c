"""Which modules a target computes in one go, so that only the output of the last one is rounded."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from quantsim.sim.example_run import ExampleRun, OutputReference
from quantsim.sim.leaf import Leaf
from quantsim.sim.module_kinds import ModuleKind
from quantsim.sim.operations import canonical_op
from quantsim.sim.patterns import is_op

__all__ = ["DEFAULT_FUSED_GROUPS", "RMS_NORM_GROUP", "FusedModules", "find_fused_modules"]

DEFAULT_FUSED_GROUPS: Final[tuple[tuple[str, str], ...]] = tuple(
    (first, activation)
    for first in ("conv", "conv_transpose", "linear", "matmul", "bmm", "add", "subtract", "batch_norm")
    for activation in ("relu", "relu6", "hardtanh")
)
"""What integer hardware fuses at no cost: an activation function that only clips goes into the rounding."""

RMS_NORM_GROUP: Final = ("pow", "mean", "add", "rsqrt", "multiply", "multiply")
"""RMSNorm as models write it."""

_FOLDED_NORM: Final = "batch_norm"

_PASSING: Final = frozenset(
    {"identity", "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"}
)
"""Ops of modules that, on hardware, are not there."""


@dataclass(frozen=True)
class FusedModules:
    """What was found in a model.

    Attributes:
        absorbed: Paths of modules whose output goes, unrounded, into the next one of its group.
        folded: Paths of norms whose scale and shift go into the weights of the module before.
    """

    absorbed: frozenset[str]
    folded: frozenset[str]


def find_fused_modules(
    groups: Sequence[Sequence[str]], leaves: Mapping[str, Leaf], run: ExampleRun | None, *, fuse_depthwise: bool = True
) -> FusedModules:
    """Finds the groups in a model; longer ones come first, and no module is in two.

    A module belongs to a group if it alone reads the output of the module before. A batch norm that alone reads a
    module that multiplies, and reads nothing else, is folded into that module's weights; groups go on behind it whether
    or not they name it.

    Args:
        groups: Ops in the order of computation, canonical names or families.
        leaves: Modules by path.
        run: What a run showed; without it nothing is known to be fused.
        fuse_depthwise: Whether depthwise and three-dimensional convolutions begin groups.
    """
    if run is None:
        return FusedModules(frozenset(), frozenset())
    readers = {path: _only_reader(path, leaves, run) for path in leaves}
    folded: set[str] = set()
    absorbed: set[str] = set()
    for path, reader in readers.items():
        if reader is not None and _folds_into(leaves[path], leaves[reader], run):
            folded.add(reader)
            absorbed.add(path)
    taken: set[str] = set()
    for group in sorted(groups, key=len, reverse=True):
        for path, leaf in leaves.items():
            if path in folded or not (fuse_depthwise or not _is_special_convolution(leaf)):
                continue
            found = _follow(group, path, leaves, readers, folded)
            if found and not taken.intersection(found):
                taken.update(found)
                absorbed.update(found[:-1])
    return FusedModules(frozenset(absorbed), frozenset(folded))


def _only_reader(path: str, leaves: Mapping[str, Leaf], run: ExampleRun) -> str | None:
    """The module that alone reads the outputs of a module; None if others do, or something that is no module.

    Modules that pass their input on do not count: the run lists what reads behind them as well.
    """
    call = run.calls.get(path)
    consumers = (
        [] if call is None else [each for each in call.consumers if each is None or not _passes(leaves.get(each))]
    )
    reader = consumers[0] if len(consumers) == 1 else None
    return reader if reader in leaves else None


def _passes(leaf: Leaf | None) -> bool:
    return leaf is not None and leaf.op in _PASSING


def _folds_into(leaf: Leaf, norm: Leaf, run: ExampleRun) -> bool:
    if leaf.kind is not ModuleKind.MULTIPLYING or norm.op != _FOLDED_NORM:
        return False
    seen = run.calls[norm.path].inputs.get(0)
    return seen is not None and seen.producers == {OutputReference(leaf.path, 0)}


def _follow(
    group: Sequence[str],
    path: str,
    leaves: Mapping[str, Leaf],
    readers: Mapping[str, str | None],
    folded: Collection[str],
) -> list[str]:
    """The modules of a group that begins at a path, norms folded in between included; empty if it does not match."""
    found: list[str] = []
    current: str | None = path
    for element in group:
        if current is not None and current in folded and element != _FOLDED_NORM:
            found.append(current)
            current = readers[current]
        op = None if current is None else leaves[current].op
        if current is None or op is None or not is_op(element, canonical_op(op)):
            return []
        found.append(current)
        current = readers[current]
    return found


def _is_special_convolution(leaf: Leaf) -> bool:
    weight = leaf.parameters.get("weight")
    groups = getattr(leaf.module, "groups", 1)
    if leaf.op is None or "conv" not in leaf.op or weight is None:
        return False
    if weight.dim() == 5:
        return True
    inputs = weight.shape[0] if leaf.op.startswith("conv_transpose") else weight.shape[1] * groups
    return groups > 1 and groups == inputs
