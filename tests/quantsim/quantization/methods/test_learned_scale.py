from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from quantsim.errors import ConfigurationError, NotCalibratedError
from quantsim.nn import QuantizedLinear
from quantsim.quantization import affine
from quantsim.quantization.analyzers import MinMaxEncodingAnalyzer
from quantsim.quantization.methods import (
    LSQQuantizeDequantize,
    PACTQuantizeDequantize,
    QDropQuantizeDequantize,
    RCFQuantizeDequantize,
)

KINDS: list[Any] = [LSQQuantizeDequantize, PACTQuantizeDequantize, RCFQuantizeDequantize, QDropQuantizeDequantize]
X = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))


def calibrated(kind: Any, shape: tuple[int, ...] = (8, 1)) -> Any:
    quantizer = kind(shape=shape, bitwidth=4, symmetric=True)
    with quantizer.compute_encodings():
        quantizer(X)
    return quantizer.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_no_range_no_numbers(kind: Any) -> None:
    quantizer = kind(shape=(), bitwidth=4, symmetric=True)
    assert quantizer.get_scale() is None
    assert quantizer.get_encodings() is None
    with pytest.raises(NotCalibratedError, match=kind.__name__):
        quantizer(X)


@pytest.mark.parametrize("kind", KINDS)
def test_encodings_give_the_same_numbers_in_a_plain_quantizer(kind: Any) -> None:
    quantizer = calibrated(kind)
    plain: Any = affine.QuantizeDequantize.from_encodings(quantizer.get_encodings())
    assert torch.equal(plain.get_scale(), quantizer.get_scale())
    assert torch.equal(plain(X), quantizer(X))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [0.1, 1 / 3, 1e-5, 0.0072])
def test_encodings_come_in_to_the_last_bit(kind: Any, scale: float) -> None:
    source: Any = affine.QuantizeDequantize((), bitwidth=8, symmetric=True)
    source.set_range(-128 * scale, 127 * scale)
    quantizer = kind.from_encodings(source.get_encodings())
    assert torch.equal(quantizer.get_scale(), source.get_scale())
    again = kind.from_encodings(quantizer.get_encodings())
    assert torch.equal(again.get_scale(), source.get_scale())


@pytest.mark.parametrize("kind", KINDS)
def test_copies_pickles_and_state_dicts_compute_the_same(kind: Any) -> None:
    quantizer = calibrated(kind)
    fresh = kind(shape=(8, 1), bitwidth=2, symmetric=True).eval()
    buffer = io.BytesIO()
    torch.save(quantizer.state_dict(), buffer)
    buffer.seek(0)
    fresh.load_state_dict(torch.load(buffer))
    for other in (copy.deepcopy(quantizer), pickle.loads(pickle.dumps(quantizer)), fresh):
        assert torch.equal(other(X), quantizer(X))


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_and_exported_alike(kind: Any) -> None:
    quantizer = calibrated(kind)
    compiled = torch.compile(quantizer, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(X), quantizer(X))
    exported = torch.export.export(quantizer, (X,), strict=False).module()
    torch.testing.assert_close(exported(X), quantizer(X))


@pytest.mark.parametrize("kind", KINDS)
def test_the_scale_stays_positive_and_can_grow_again(kind: Any) -> None:
    quantizer = calibrated(kind, ()).train()
    with torch.no_grad():
        quantizer.learned().zero_()
    quantizer._forget_derived()
    assert float(quantizer.get_scale().detach()) > 0
    quantizer.learned().requires_grad_()
    (quantizer(X) - X).square().mean().backward()
    assert bool(torch.isfinite(quantizer.learned().grad).all())


def test_freezing_stops_calibration_and_training() -> None:
    quantizer = calibrated(LSQQuantizeDequantize)
    before = quantizer(X)
    quantizer.freeze()
    with quantizer.compute_encodings():
        quantizer(10 * X)
    assert quantizer.is_frozen
    assert torch.equal(quantizer(X), before)


def test_an_own_analyzer_is_kept_and_a_shifted_grid_refused() -> None:
    analyzer = MinMaxEncodingAnalyzer(())
    assert LSQQuantizeDequantize((), 8, True, analyzer).encoding_analyzer is analyzer
    with pytest.raises(ConfigurationError, match="zero_point_shift"):
        LSQQuantizeDequantize((), 8, True, zero_point_shift=0.5)


def test_a_bad_range_changes_nothing() -> None:
    quantizer = calibrated(LSQQuantizeDequantize)
    before = quantizer(X)
    with pytest.raises(ConfigurationError, match="finite"):
        quantizer.set_range(float("nan"), 1.0)
    with pytest.raises(ConfigurationError, match="upside down"):
        quantizer.set_range(2.0, 1.0)
    assert torch.equal(quantizer(X), before)


@pytest.mark.parametrize("kind", KINDS)
def test_in_a_quantized_layer_it_is_calibrated_and_trained(kind: Any) -> None:
    layer = QuantizedLinear(64, 4)
    layer.param_quantizers["weight"] = kind(shape=(4, 1), bitwidth=4, symmetric=True)
    layer.input_quantizers[0] = kind(shape=(), bitwidth=8, symmetric=True)
    with layer.compute_encodings():
        layer(X)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.05)
    before = {name: values.detach().clone() for name, values in layer.named_parameters()}
    layer(3 * X).square().sum().backward()
    optimizer.step()
    assert all(not torch.equal(before[name], values) for name, values in layer.named_parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_models_keep_the_scale_in_float32(kind: Any) -> None:
    quantizer = calibrated(kind)
    model = nn.Sequential(quantizer).half()
    assert quantizer.learned().dtype == torch.float32
    assert model(X.half()).dtype == torch.float16
