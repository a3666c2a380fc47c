"""Integer graphs on torch, CPU or CUDA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quantsim.dualpath.executors.evaluation import Array, FunctionExecutor, checked_tensor_cast
from quantsim.dualpath.integer_graph import IntegerGraph, IntegerOp, Value
from quantsim.errors import ConfigurationError

__all__ = ["TorchExecutor"]


class TorchExecutor(FunctionExecutor):
    """Runs an integer graph with the functions of `quantsim_kernels.torch.integer`.

    Values are tensors of the graph's types on ``device``. On the CPU multiplications run as exact blocked float32
    products, on CUDA as int8 products.

    Args:
        graph: What to run.
        device: Where; constants are moved there once.

    Example:
        >>> from quantsim.dualpath.integer_graph import Grid, IntegerNode
        >>> grid = Grid(scale=0.1, zero_point=0, low=-128, high=127)
        >>> graph = IntegerGraph(
        ...     nodes=(IntegerNode("relu", IntegerOp.CLAMP, ("x",), "y", attributes={"low": 0, "high": 127}),),
        ...     values={name: Value(name, (3,), "int8", grid) for name in ("x", "y")},
        ...     inputs=("x",),
        ...     outputs=("y",),
        ... )
        >>> TorchExecutor(graph)({"x": torch.tensor([-5, 0, 5])})
        {'y': tensor([0, 0, 5], dtype=torch.int8)}
    """

    name = "torch"

    def __init__(self, graph: IntegerGraph, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise ConfigurationError(
                where=f"{type(self).__name__}.device",
                got=f"'{self.device}'",
                expected="a device that torch sees",
                fix="use device='cpu'",
            )
        super().__init__(graph)

    def _function(self, op: IntegerOp) -> Callable[..., Any]:
        from quantsim_kernels.torch import integer

        return getattr(integer, op.value)

    def _constant(self, array: np.ndarray) -> Tensor:
        return _computable(torch.from_numpy(np.array(array)).to(self.device))

    def _operand(self, array: Tensor, op: IntegerOp) -> Tensor:
        return _computable(array)

    def _stored(self, array: Array, value: Value) -> Tensor:
        tensor = array if isinstance(array, Tensor) else torch.from_numpy(np.ascontiguousarray(array))
        return checked_tensor_cast(tensor.to(self.device), getattr(torch, value.dtype))

    def _run(self, inputs: Any, batch: int, wanted: tuple[str, ...]) -> dict[str, Any]:
        with torch.inference_mode():
            return super()._run(inputs, batch, wanted)


def _computable(tensor: Tensor) -> Tensor:
    """``tensor`` in a type that torch computes on, which is next to nothing on uint16."""
    return tensor.to(torch.int32) if tensor.dtype is torch.uint16 else tensor
