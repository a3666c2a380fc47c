"""Which formats the fast casts take. (Their numbers are tested in ../test_float_cast.py.)"""

from __future__ import annotations

import pytest
import torch

from quantsim_encodings.formats import float_format
from quantsim_kernels.torch import float_cast as fast


@pytest.mark.parametrize("name", ["fp16", "bf16", "tf32", "e4m3fn", "e4m3", "e5m2", "e3m4", "e3m2", "e2m3", "e2m1"])
def test_common_formats_have_a_fast_law(name: str) -> None:
    assert fast.objection(torch.ones(2), float_format(name)) is None


def test_objections_name_the_cause() -> None:
    format = float_format("e4m3fn")
    assert (
        fast.objection(torch.ones(2), float_format("e8m0"))
        == "the format has no fast law; only the reference covers it"
    )
    assert fast.objection(torch.ones(2, dtype=torch.float64), format) == "it computes in float32, and x is float64"
    assert fast.objection(torch.ones(2, device="meta"), format) == "it serves CPU tensors only"
    assert fast.objection(torch.ones(2)) == "no format was given"

    class Mine(torch.Tensor):
        pass

    assert fast.objection(torch.ones(2).as_subclass(Mine), format) == "it serves plain tensors only, not Mine"
