from __future__ import annotations

import pytest
import torch

from quantsim_encodings.formats import IntFormat, NVFP4Format, OpticalFormat, float_format, mx_format
from quantsim_kernels import mx_quantize_dequantize
from quantsim_kernels._traced_formats import constant_format


@pytest.mark.parametrize(
    "format", [float_format("e4m3fn"), IntFormat(-8, 7), mx_format("mxfp4"), NVFP4Format(), OpticalFormat()]
)
def test_outside_a_compiler_a_format_is_itself(format: object) -> None:
    assert constant_format(format) is format


def test_block_formats_as_arguments_of_compiled_code() -> None:
    # From the second format on the compiler takes the numbers of its argument for variables.
    compiled = torch.compile(mx_quantize_dequantize, fullgraph=True, backend="eager")
    x = torch.randn(4, 100, generator=torch.Generator().manual_seed(0))
    for format in (*map(mx_format, ("mxfp4", "mxfp8_e4m3", "mxint8", "mxfp6_e3m2")), NVFP4Format(), NVFP4Format(8)):
        assert torch.equal(compiled(x, format), mx_quantize_dequantize(x, format)), format
