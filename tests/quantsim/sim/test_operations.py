from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from quantsim.nn import QuantizationMixin
from quantsim.nn.quantized_operations import OPERATIONS, make_operation
from quantsim.sim.operations import (
    COPYING_OPERATIONS,
    GEMM_OPERATIONS,
    IGNORED_OPERATIONS,
    JOINING_OPERATIONS,
    OPERATION_FAMILIES,
    OPERATION_NAMES,
    canonical_op,
    known_ops,
    op_of_module,
)


def test_a_function_is_of_one_sort() -> None:
    sorts = [set(GEMM_OPERATIONS), set(COPYING_OPERATIONS), set(IGNORED_OPERATIONS)]
    for index, sort in enumerate(sorts):
        for other in sorts[index + 1 :]:
            assert not sort & other


def test_a_norm_that_a_model_brings_along_has_the_op_of_torchs() -> None:
    class TinyRMSNorm(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)

    assert op_of_module(TinyRMSNorm()) == op_of_module(nn.RMSNorm(2)) == "rms_norm"
    assert op_of_module(QuantizationMixin.wrap(TinyRMSNorm).from_module(TinyRMSNorm())) == "rms_norm"


def test_the_names_are_those_of_torch() -> None:
    known = {*dir(torch), *dir(functional), *dir(torch.Tensor), *dir(torch.linalg), *dir(torch.ops.aten)}
    known |= {"flex_attention", "alias"}  # of modules that are only there when they are imported
    for name in {*GEMM_OPERATIONS, *COPYING_OPERATIONS} - {"_reshape_alias"}:
        assert name in known, name
    for plain in OPERATION_NAMES.values():
        assert plain.rstrip("_") in {*dir(torch), *dir(functional)}, plain
    assert not set(OPERATION_NAMES) & set(OPERATION_NAMES.values())


def test_copying_operations_give_only_values_of_their_input() -> None:
    x = torch.randn(4, 4, 4)
    for result in (x.reshape(-1), x.transpose(0, 1), x.flip(0), x.roll(1, 0), functional.max_pool2d(x, 2), x.ravel()):
        assert set(result.flatten().tolist()) <= set(x.flatten().tolist())
    assert {"reshape", "transpose", "flip", "roll", "max_pool2d", "ravel"} <= COPYING_OPERATIONS


def test_every_function_is_known_by_the_name_it_is_called_by() -> None:
    for op in OPERATIONS:
        assert op_of_module(make_operation(op, 2)) == canonical_op(op) in known_ops()


def test_a_module_and_its_quantized_form_have_one_op() -> None:
    class Own(nn.Linear):
        """A class of the user's own."""

    for module in (nn.Linear(1, 1), Own(1, 1), QuantizationMixin.from_module(nn.Linear(1, 1))):
        assert op_of_module(module) == "linear"
    assert op_of_module(nn.Sequential()) is None


def test_families_hold_ops_and_are_none_themselves() -> None:
    members = frozenset().union(*OPERATION_FAMILIES.values())
    assert members <= known_ops()
    assert not members & OPERATION_FAMILIES.keys()
    assert known_ops() >= JOINING_OPERATIONS
