"""The executor that all others are measured by: NumPy, in 64-bit integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from quantsim.dualpath.executors.evaluation import Array, FunctionExecutor, as_numpy, checked_cast
from quantsim.dualpath.integer_graph import IntegerOp, Value

__all__ = ["NumpyExecutor"]


class NumpyExecutor(FunctionExecutor):
    """Runs an integer graph with the functions of `quantsim_kernels.reference.integer`, which define each op.

    Every op computes in int64 and raises where an intermediate could leave it; results are stored in the value's type
    after a check that they fit.

    Args:
        graph: What to run.

    Example:
        >>> from quantsim.dualpath.integer_graph import Grid, IntegerGraph, IntegerNode
        >>> grid = Grid(scale=0.1, zero_point=0, low=-128, high=127)
        >>> graph = IntegerGraph(
        ...     nodes=(IntegerNode("relu", IntegerOp.CLAMP, ("x",), "y", attributes={"low": 0, "high": 127}),),
        ...     values={name: Value(name, (3,), "int8", grid) for name in ("x", "y")},
        ...     inputs=("x",),
        ...     outputs=("y",),
        ... )
        >>> NumpyExecutor(graph)({"x": np.array([-5, 0, 5])})
        {'y': array([0, 0, 5], dtype=int8)}
    """

    name = "numpy"

    def _function(self, op: IntegerOp) -> Callable[..., Any]:
        from quantsim_kernels.reference import integer

        return getattr(integer, op.value)

    def _constant(self, array: np.ndarray) -> np.ndarray:
        return np.asarray(array).astype(np.int64)

    def _operand(self, array: np.ndarray, op: IntegerOp) -> np.ndarray:
        # Masks are booleans where they mask, and integers where they are only moved.
        masks = array.dtype == np.bool_ and op in (IntegerOp.SOFTMAX, IntegerOp.SOFTMAX_MATMUL)
        return array if masks else array.astype(np.int64)

    def _stored(self, array: Array, value: Value) -> np.ndarray:
        return checked_cast(as_numpy(array), value.dtype)
