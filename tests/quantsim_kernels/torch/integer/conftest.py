"""An op in torch against the reference, bit for bit."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import pytest
import torch
from torch import Tensor

from quantsim_kernels.reference import integer as law
from quantsim_kernels.torch import integer as ours

__all__ = ["Same"]


class Same(Protocol):
    def __call__(self, op: str, *operands: Tensor | np.ndarray, **parameters: Any) -> Tensor: ...


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device(request.param)


@pytest.fixture
def same(device: torch.device) -> Same:
    """``same(op, *operands, **parameters)``: the result in torch, after it was found equal to the reference's."""

    def check(op: str, *operands: Tensor | np.ndarray, **parameters: Any) -> Tensor:
        tensors = [torch.as_tensor(operand).to(device) for operand in operands]
        before = [tensor.clone() for tensor in tensors]
        constants = {
            name: torch.as_tensor(value).to(device) if isinstance(value, np.ndarray) else value
            for name, value in parameters.items()
        }
        expected = getattr(law, op)(*(np.asarray(operand) for operand in operands), **parameters)
        result = getattr(ours, op)(*tensors, **constants)
        assert result.device.type == device.type
        assert not result.is_floating_point() or op == "exponential"
        assert tuple(result.shape) == expected.shape
        np.testing.assert_array_equal(result.cpu().numpy().astype(np.int64), expected)
        # No operand was changed, and what was prepared in the first call serves a second.
        assert all(torch.equal(tensor, old) for tensor, old in zip(tensors, before, strict=True))
        assert torch.equal(getattr(ours, op)(*tensors, **constants), result)
        return result

    return check


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(11)
