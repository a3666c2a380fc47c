from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from quantsim_encodings import (
    DynamicEncoding,
    EncodingsError,
    FloatEncoding,
    IntFormat,
    MXEncoding,
    NVFP4Format,
    PerBlock,
    PerChannel,
    PerTensor,
    PerToken,
    RoundingMode,
    float_format,
    mx_format,
)

E4M3 = float_format("e4m3fn")


def test_float_encoding_with_and_without_scale() -> None:
    plain = FloatEncoding(float_format("bf16"))
    assert plain.scale is None
    assert plain.granularity == PerTensor()
    assert plain.rounding is RoundingMode.NEAREST_EVEN
    scaled = FloatEncoding(E4M3, [[0.5], [0.25]], PerChannel(0), rounding="up")  # type: ignore[arg-type]
    assert scaled.scale is not None
    assert scaled.scale.dtype == np.float32
    assert scaled.rounding is RoundingMode.UP
    assert scaled == FloatEncoding(E4M3, [[0.5], [0.25]], PerChannel(0), rounding=RoundingMode.UP)  # type: ignore[arg-type]
    assert scaled != plain


def test_mx_and_dynamic_encodings() -> None:
    assert MXEncoding(mx_format("mxfp4"), PerBlock(-1, 32)).scale is None
    nvfp4 = MXEncoding(NVFP4Format(), PerBlock(1, 16), [[0.0, 1.5]], 0.01, (1, 16))  # type: ignore[arg-type]
    assert nvfp4.tensor_scale == 0.01
    assert DynamicEncoding(IntFormat(-128, 127), PerToken(), True) == DynamicEncoding(
        IntFormat(-128, 127), PerToken(), True
    )


def test_every_floating_encoding_says_how_it_rounds() -> None:
    for encoding in (
        FloatEncoding(E4M3),
        MXEncoding(mx_format("mxfp4"), PerBlock(-1, 32)),
        DynamicEncoding(E4M3, PerToken(), True),
    ):
        assert encoding.rounding is RoundingMode.NEAREST_EVEN
        up = replace(encoding, rounding="up")  # type: ignore[arg-type]
        assert up.rounding is RoundingMode.UP
        assert up != encoding
        with pytest.raises(ValueError, match="sideways"):
            replace(encoding, rounding="sideways")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("build", "path"),
    [
        (lambda: FloatEncoding(IntFormat(0, 1)), "$.format"),  # type: ignore[arg-type]
        (lambda: FloatEncoding(E4M3, 0.0), "$.scale"),  # type: ignore[arg-type]
        (lambda: FloatEncoding(E4M3, [1.0, 2.0]), "$.granularity"),  # type: ignore[arg-type]
        (lambda: FloatEncoding(E4M3, [[1.0]], PerBlock(0, 2), (2,)), "$.block_size"),  # type: ignore[arg-type]
        (lambda: MXEncoding(E4M3, PerTensor()), "$.format"),  # type: ignore[arg-type]
        (lambda: MXEncoding(mx_format("mxfp4"), PerBlock(0, 32), [0.0]), "$.scale"),  # type: ignore[arg-type]
        (lambda: MXEncoding(mx_format("mxfp4"), PerBlock(0, 32), None, 1.0), "$.tensor_scale"),
        (lambda: MXEncoding(NVFP4Format(two_level=False), PerBlock(0, 16), None, 1.0), "$.tensor_scale"),
        (lambda: MXEncoding(NVFP4Format(), PerBlock(0, 16), None, float("nan")), "$.tensor_scale"),
        (lambda: MXEncoding(NVFP4Format(), PerBlock(0, 16), [-1.0]), "$.scale"),  # type: ignore[arg-type]
        (lambda: DynamicEncoding(mx_format("mxfp4"), PerToken(), True), "$.format"),  # type: ignore[arg-type]
        (lambda: DynamicEncoding(E4M3, "per token", True), "$.granularity"),  # type: ignore[arg-type]
    ],
)
def test_impossible_encodings_are_refused(build, path: str) -> None:
    with pytest.raises(EncodingsError) as caught:
        build()
    assert caught.value.problems[0].path == path
