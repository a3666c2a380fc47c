"""Along which axis of an operand a multiplication sums: that is where blocks with a shared scale lie."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from torch import Tensor

from quantsim.sim.example_run import ExampleRun, OutputReference
from quantsim.sim.leaf import Leaf
from quantsim.sim.module_kinds import ModuleKind
from quantsim_encodings.document import TensorReference, TensorRole

__all__ = ["summed_axis", "summed_axis_of_input", "summed_axis_of_parameter"]

_LAST: Final = -1

_CHANNELS: Final[Mapping[str, int]] = MappingProxyType(
    {f"{kind}{dims}d": -1 - dims for kind in ("conv", "conv_transpose", "dynamic_conv") for dims in (1, 2, 3)}
)
"""Axis of a convolution's channels, in its input and its output, from the end: the batch may be missing."""

_FIRST_FEATURES: Final = frozenset({"batch_norm", "group_norm", "instance_norm"})
"""Norms whose channels follow the batch."""

_LAST_FEATURES: Final = frozenset({"layer_norm", "rms_norm", "embedding", "embedding_bag"})

_SUMS_ROWS: Final = frozenset(
    {
        ("matmul", 1),
        ("mm", 1),
        ("bmm", 1),
        ("addmm", 2),
        ("baddbmm", 2),
        ("addbmm", 2),
        ("scaled_dot_product_attention", 2),
    }
)
"""Second factors of a product, by position among the inputs: their rows are summed over, not their columns."""


def summed_axis_of_parameter(op: str | None, values: Tensor) -> int:
    """Axis of a parameter that the module sums over: its inputs, or the only axis of a vector.

    Args:
        op: Op of the module.
        values: The parameter; only its shape is read.

    Example:
        >>> import torch
        >>> summed_axis_of_parameter("conv2d", torch.zeros(8, 3, 5, 5))
        1
    """
    if values.dim() < 2:
        return _LAST
    if op is not None and op.startswith("conv_transpose"):
        return 0
    return _LAST if op == "bilinear" else 1


def summed_axis_of_input(op: str | None, position: int) -> int | None:
    """Axis of an input that the module sums over, where its op alone tells; else None.

    Args:
        op: Op of the module.
        position: Which of its inputs.

    Example:
        >>> (
        ...     summed_axis_of_input("conv2d", 0),
        ...     summed_axis_of_input("matmul", 1),
        ...     summed_axis_of_input("relu", 0),
        ... )
        (-3, -2, None)
    """
    if op is not None and op in _CHANNELS:
        return _CHANNELS[op] if position == 0 else 1
    if (op, position) in _SUMS_ROWS:
        return -2
    return _own_axis(op)


def _own_axis(op: str | None) -> int | None:
    if op in _FIRST_FEATURES:
        return 1
    return _LAST if op in _LAST_FEATURES else None


def summed_axis(tensor: TensorReference, leaves: Mapping[str, Leaf], run: ExampleRun | None) -> int:
    """The axis along which the tensor is, or is likely to be, summed over.

    An activation function or sum has the axis of what feeds it: channels behind a convolution, the last axis otherwise.

    Args:
        tensor: Which tensor.
        leaves: Quantized modules by path.
        run: What a run on example inputs showed.
    """
    leaf = leaves[tensor.module]
    if tensor.role is TensorRole.PARAM:
        return summed_axis_of_parameter(leaf.op, leaf.parameters[tensor.key])
    position = int(tensor.key)
    if tensor.role is TensorRole.OUTPUT:
        return _axis_of_output(leaf, position, leaves, run, seen=frozenset())
    axis = summed_axis_of_input(leaf.op, position)
    if axis is None:
        if leaf.kind is ModuleKind.MULTIPLYING:
            return _LAST
        return _axis_of_producers(leaf, position, leaves, run, seen=frozenset())
    call = None if run is None else run.calls.get(leaf.path)
    dims = None if call is None else call.input_dims.get(position)
    return axis if dims is None or -dims <= axis < dims else _LAST  # a vector instead of a matrix


def _axis_of_output(
    leaf: Leaf, position: int, leaves: Mapping[str, Leaf], run: ExampleRun | None, seen: frozenset[str]
) -> int:
    own = _CHANNELS.get(leaf.op or "", _own_axis(leaf.op))
    if own is not None or leaf.kind is not ModuleKind.OTHER or leaf.path in seen:
        return _LAST if own is None else own
    call = None if run is None else run.calls.get(leaf.path)
    if call is None or call.output_dims.get(position) != call.input_dims.get(0):
        return _LAST
    return _axis_of_producers(leaf, 0, leaves, run, seen | {leaf.path})


def _axis_of_producers(
    leaf: Leaf, position: int, leaves: Mapping[str, Leaf], run: ExampleRun | None, seen: frozenset[str]
) -> int:
    if run is None or leaf.path not in run.calls:
        return _LAST
    call = run.calls[leaf.path]
    seen_input = call.inputs.get(position)
    axes = set()
    for producer in () if seen_input is None else seen_input.producers:
        if not isinstance(producer, OutputReference) or producer.module not in leaves:
            return _LAST
        # With other dimensions than it was made with (a view, a flattening) its axes are other ones.
        if run.calls[producer.module].output_dims.get(producer.index) != call.input_dims.get(position):
            return _LAST
        axes.add(_axis_of_output(leaves[producer.module], producer.index, leaves, run, seen))
    return axes.pop() if len(axes) == 1 else _LAST
