"""Integer graphs on Triton: products and their requantization in one kernel, everything else by torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from quantsim.dualpath.executors.torch_executor import TorchExecutor
from quantsim.dualpath.integer_graph import IntegerGraph, IntegerOp
from quantsim.errors import ConfigurationError
from quantsim_kernels.triton import availability

__all__ = ["TritonExecutor"]


class TritonExecutor(TorchExecutor):
    """Runs an integer graph on CUDA, its products with the kernels of `quantsim_kernels.triton.integer_matmul`.

    Products of 8-bit codes are summed up in int32 and requantized before they leave the chip. What Triton has no kernel
    for, products of wider codes among it, is computed by `quantsim_kernels.torch.integer`.

    Args:
        graph: What to run.
        device: Where; by default CUDA, and the CPU in Triton's interpreter (``TRITON_INTERPRET=1``).

    Raises:
        ConfigurationError: Triton is not installed, or has no device to run on.

    Example:
        >>> executor = TritonExecutor(graph)  # doctest: +SKIP
        >>> executor({"x": codes})["y"].device  # doctest: +SKIP
        device(type='cuda', index=0)
    """

    name = "triton"

    def __init__(self, graph: IntegerGraph, device: torch.device | str | None = None) -> None:
        if not availability.is_installed():
            raise ConfigurationError(
                "triton is not installed", where="executor 'triton'", expected="triton", fix="pip install triton"
            )
        if device is None:
            device = "cpu" if availability.is_interpreted() and not torch.cuda.is_available() else "cuda"
        on_cuda = torch.device(device).type == "cuda"
        if not (torch.cuda.is_available() if on_cuda else availability.is_interpreted()):
            raise ConfigurationError(
                where="TritonExecutor.device",
                got=f"'{device}'",
                expected="a CUDA device that torch sees",
                fix="take the executor 'torch' on the CPU, or set TRITON_INTERPRET=1 for Triton's interpreter",
            )
        super().__init__(graph, device)

    def _function(self, op: IntegerOp) -> Callable[..., Any]:
        from quantsim_kernels.triton import integer_matmul

        if op.value in integer_matmul.__all__:
            return getattr(integer_matmul, op.value)
        return super()._function(op)
