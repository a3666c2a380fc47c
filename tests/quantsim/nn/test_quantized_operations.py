"""Operation modules compute what the functions they stand for compute."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from quantsim.nn import BaseQuantizationMixin
from quantsim.nn.quantized_operations import OPERATIONS, make_operation, takes_part
from quantsim.quantization import affine


@pytest.mark.parametrize("op", OPERATIONS)
def test_every_operation_can_be_made_and_pickled(op: str) -> None:
    module = make_operation(op, 2)
    assert isinstance(module, BaseQuantizationMixin) and not takes_part(module)
    assert type(pickle.loads(pickle.dumps(module))) is type(module)


def test_there_is_an_input_quantizer_for_each_tensor() -> None:
    assert len(make_operation("cat", 3).input_quantizers) == 3


def test_an_operation_quantizes_what_it_is_given_and_gives() -> None:
    module = make_operation("gelu", 1)
    module.input_quantizers[0] = affine.QuantizeDequantize((), 4, symmetric=True)
    module.output_quantizers[0] = affine.QuantizeDequantize((), 8, symmetric=False)
    x = torch.linspace(-2, 2, 33)
    assert takes_part(module)

    def gelu(tensors: tuple[Tensor, ...]) -> Tensor:
        return F.gelu(tensors[0])

    with module.compute_encodings():
        module(x, call=gelu)
    expected = module.output_quantizers[0](F.gelu(module.input_quantizers[0](x)))
    assert torch.equal(module(x, call=gelu), expected)
    assert len(module.input_quantizers[0](x).unique()) <= 16


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mask", ["none", "bool", "added"])
def test_attention_without_quantizers_is_torchs(mask: str, causal: bool) -> None:
    if causal and mask != "none":
        pytest.skip("torch takes one of both")
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 5, 8), torch.randn(2, 2, 5, 8)
    allowed = torch.rand(2, 1, 5, 5) > 0.4
    given = {"none": None, "bool": allowed, "added": torch.randn(2, 1, 5, 5)}[mask]
    options = {"attn_mask": given, "is_causal": causal, "enable_gqa": True, "scale": 0.2}
    expected = F.scaled_dot_product_attention(q, k, v, **options)
    torch.testing.assert_close(make_operation("scaled_dot_product_attention", 3)(q, k, v, **options), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_causal_attention_of_fewer_queries_than_keys_aligns_as_torch_does(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 4, length, 8, dtype=dtype) for length in (3, 7, 7))
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    got = make_operation("scaled_dot_product_attention", 3)(q, k, v, is_causal=True)
    close: dict[str, Any] = (
        {"rtol": 0.0, "atol": 2.0**-7} if dtype is torch.bfloat16 else {}
    )  # torch rounds nothing in between
    torch.testing.assert_close(got, expected, **close)
