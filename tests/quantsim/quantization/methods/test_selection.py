from __future__ import annotations

from typing import Any

import pytest
import torch

from quantsim.errors import ConfigurationError
from quantsim.quantization import affine
from quantsim.quantization.analyzers import MinMaxEncodingAnalyzer, MseEncodingAnalyzer
from quantsim.quantization.methods import METHODS, Method, with_method
from quantsim.sim.config import IntegerSetting
from quantsim.sim.quantizer_factory import parameter_quantizer

X = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("method", list(Method))
def test_every_method_takes_grid_and_range_over(method: Method) -> None:
    quantizer = affine.QuantizeDequantize((4, 1), bitwidth=4, symmetric=True)
    with quantizer.compute_encodings():
        quantizer(X)
    made = with_method(quantizer, method).eval()
    assert type(made) is METHODS[method]
    assert torch.equal(made.get_scale(), quantizer.get_scale())  # pyright: ignore[reportArgumentType]
    back = with_method(made, Method.RANGE)
    assert torch.equal(back(X), quantizer(X))


def test_before_calibration_and_frozen() -> None:
    quantizer = affine.QuantizeDequantize((), 8, True, MseEncodingAnalyzer(()))
    quantizer.freeze()
    made = with_method(quantizer.eval(), "qdrop", drop=0.25)
    assert isinstance(made.encoding_analyzer, MseEncodingAnalyzer)
    assert made.encoding_analyzer is not quantizer.encoding_analyzer
    assert (made.drop, made.training, made.is_overwrite_allowed, made.is_initialized()) == (0.25, False, False, False)


def test_what_is_impossible_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'lsq'"):
        with_method(affine.QuantizeDequantize((), 8, True), "lsqq")
    grouped = affine.GroupedBlockQuantizeDequantize((2, 2), 4, True, 8, block_size=(1, 4), block_grouping=(1, -1))
    with pytest.raises(ConfigurationError, match="Grouped"):
        with_method(grouped, "lsq")


@pytest.mark.parametrize("method", list(Method))
def test_simulations_ask_for_methods_in_their_config(method: Method) -> None:
    setting = IntegerSetting(bits=4, granularity="channel", method=method)  # pyright: ignore[reportArgumentType]
    quantizer: Any = parameter_quantizer(setting, X, 0, where="here")
    assert type(quantizer) is METHODS[method]
    assert quantizer.shape == (4, 1)
    assert (method.value in setting.label) is (method is not Method.RANGE)


def test_configs_refuse_what_no_method_has() -> None:
    with pytest.raises(ValueError, match="run-time"):
        IntegerSetting.model_validate({"granularity": "token", "dynamic": True, "method": "lsq"})
    with pytest.raises(ValueError, match="sawb"):
        IntegerSetting.model_validate({"method": "sawb", "symmetric": False})


def test_what_the_caller_says_and_what_was_frozen_stays() -> None:
    quantizer = affine.QuantizeDequantize((), 8, True, MseEncodingAnalyzer(()))
    quantizer.set_range(-1.0, 1.0)
    made = with_method(quantizer, "range", encoding_analyzer=MinMaxEncodingAnalyzer(()))
    assert type(made.encoding_analyzer) is MinMaxEncodingAnalyzer
    assert not made.is_frozen
    quantizer.freeze()
    assert with_method(quantizer, "lsq").is_frozen


def test_a_shifted_grid_stays_shifted_or_is_refused() -> None:
    quantizer = affine.QuantizeDequantize((), 4, True, zero_point_shift=0.5)
    assert with_method(quantizer, "range").zero_point_shift == 0.5
    with pytest.raises(ConfigurationError, match="without a zero"):
        with_method(quantizer, "lsq")
