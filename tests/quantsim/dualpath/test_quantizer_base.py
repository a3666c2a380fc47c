"""Two paths, the range and its observers, and quantizers of one's own."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from quantsim.dualpath import QBase
from quantsim.errors import ConfigurationError, NotCalibratedError
from quantsim.quantization import affine
from quantsim.quantization.analyzers import PercentileEncodingAnalyzer


def integers_of(x: np.ndarray, scale: float, zero_point: int, low: int, high: int) -> np.ndarray:
    steps = np.rint(x.astype(np.float32) / np.float32(scale)).astype(np.int64)
    return np.clip(steps + zero_point, low, high)


@pytest.mark.parametrize("unsigned", [True, False])
@pytest.mark.parametrize(
    ("nbit", "dtypes"), [(2, "uint8 int8"), (8, "uint8 int8"), (12, "int16 int16"), (16, "int32 int16")]
)
def test_the_inference_path_gives_integers_of_a_real_integer_type(nbit: int, dtypes: str, unsigned: bool) -> None:
    quantizer = QBase(nbit, unsigned=unsigned)
    x = torch.randn(1000) * 3
    with quantizer.compute_encodings():
        quantizer(x)
    codes = quantizer.inference()(torch.cat([x, x * 5]))
    assert str(codes.dtype) == f"torch.{dtypes.split()[0 if unsigned else 1]}"
    low, high = (0, 2**nbit - 1) if unsigned else (-(2 ** (nbit - 1)), 2 ** (nbit - 1) - 1)
    expected = integers_of(torch.cat([x, x * 5]).numpy(), float(quantizer.scale), int(quantizer.zero_point), low, high)
    assert np.array_equal(codes.numpy().astype(np.int64), expected)
    assert int(codes.min()) == low
    assert int(codes.max()) == high


def test_large_unsigned_codes_do_not_wrap() -> None:
    """int8 casts of the published code made 200 into -56."""
    quantizer = QBase(8)
    quantizer.set_range(0.0, 255.0)
    assert quantizer.inference()(torch.tensor([200.0, 255.0, 300.0])).tolist() == [200, 255, 255]


@given(low=st.floats(-100, 0), high=st.floats(0.01, 100), nbit=st.sampled_from([2, 4, 8, 16]), unsigned=st.booleans())
@settings(deadline=None, max_examples=60)
def test_both_paths_say_the_same(low: float, high: float, nbit: int, unsigned: bool) -> None:
    quantizer = QBase(nbit, unsigned=unsigned)
    quantizer.set_range(low, high)
    x = torch.linspace(1.2 * low - 0.1, 1.2 * high, 257)
    real = quantizer(x)
    codes = quantizer.inference()(x)
    again = (codes.to(torch.float64) - quantizer.zero_point) * quantizer.scale.double()
    torch.testing.assert_close(real.double(), again, rtol=1e-6, atol=0)


def test_it_computes_what_the_affine_quantizer_computes() -> None:
    x = torch.randn(64, 7)
    own, other = QBase(8), affine.QuantizeDequantize((), bitwidth=8, symmetric=False)
    for quantizer in (own, other):
        with quantizer.compute_encodings():
            quantizer(x)
    assert torch.equal(own(x), other(x).detach())
    assert own.get_encodings() == other.get_encodings()
    assert torch.equal(own.get_min(), other.get_min())


def test_the_zero_point_has_the_sign_that_the_formula_says() -> None:
    quantizer = QBase(8)
    quantizer.set_range(-1.0, 1.55)
    assert (round(float(quantizer.scale), 6), int(quantizer.zero_point)) == (0.01, 100)
    x = torch.linspace(-1, 1.55, 1000)
    assert float((quantizer(x) - x).square().mean()) < 1e-5  # with the sign of the published search: 0.69


def test_ranges_move_only_inside_calibration() -> None:
    quantizer = QBase(8)
    with quantizer.compute_encodings():
        quantizer(torch.tensor([-1.0, 1.0]))
    before = float(quantizer.scale)
    for mode in (True, False):
        quantizer.train(mode)(torch.tensor([-50.0, 50.0]))
    quantizer.inference()
    with quantizer.compute_encodings():
        assert quantizer(torch.tensor([-50.0])).dtype == torch.uint8
    assert float(quantizer.scale) == before


def test_per_channel_and_per_token_do_not_mix() -> None:
    x = torch.tensor([[1.0, -2.0], [30.0, 40.0]])
    channel, token = QBase(8, unsigned=False, shape=(2, 1)), QBase(8, unsigned=False, shape=(1, 2))
    for quantizer in (channel, token):
        with quantizer.compute_encodings():
            quantizer(x)
    assert channel.scale.flatten().tolist() == pytest.approx([2 / 127.5, 40 / 127], rel=0.01)
    assert token.scale.flatten().tolist() == pytest.approx([30 / 127, 40 / 127], rel=0.01)


def test_uncalibrated_use_says_what_to_do() -> None:
    for train_flag in (True, False):
        with pytest.raises(NotCalibratedError, match="compute_encodings"):
            QBase(8, train_flag)(torch.ones(2))


def test_gradients_pass_straight_through_where_nothing_is_clipped() -> None:
    quantizer = QBase(4, unsigned=False)
    quantizer.set_range(-1.0, 1.0)
    x = torch.tensor([-9.0, 0.3, 9.0], requires_grad=True)
    quantizer(x).sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 0.0]


def test_codes_pass_and_other_integers_are_refused() -> None:
    quantizer = QBase(8).inference()
    codes = torch.tensor([3, 4], dtype=torch.uint8)
    assert quantizer(codes) is codes
    with pytest.raises(ConfigurationError, match=r"torch\.int32"):
        quantizer(codes.int())


class Learned(QBase):
    """A learnable step, copied into the buffer."""

    def __init__(self, nbit: int, train_flag: bool = True, unsigned: bool = True) -> None:
        super().__init__(nbit, train_flag, unsigned)
        self.step = nn.Parameter(torch.tensor(0.1))

    def q(self, x: torch.Tensor) -> torch.Tensor:
        self.scale.copy_(self.step.detach())
        return self.on_grid(x, self.step)


def test_a_learnable_scale_is_trained_and_written_into_the_buffer() -> None:
    quantizer = Learned(4, unsigned=False)
    x = torch.randn(4096)
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (quantizer(x) - x).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    codes = quantizer.inference()(x)
    assert float(quantizer.scale) == float(quantizer.step)
    assert np.array_equal(codes.numpy(), integers_of(x.numpy(), float(quantizer.step), 0, -8, 7))
    assert not quantizer.step.requires_grad
    quantizer.inference(False)
    assert quantizer.step.requires_grad


class Wrong(QBase):
    def q(self, x: torch.Tensor) -> torch.Tensor:
        return x / 3


def test_a_q_that_gives_no_integers_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no integers of the grid"):
        Wrong(8).inference()(torch.tensor([1.0, 3.0]))


def half_of_the_largest(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x.abs().max() / 2 / 127, torch.zeros(())


class Observing(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return half_of_the_largest(x)


class WithObserver(QBase):
    def observer(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return half_of_the_largest(x)


@pytest.mark.parametrize("kind", ["method", "function", "module"])
def test_observers_of_ones_own(kind: str) -> None:
    quantizer = WithObserver(8, unsigned=False) if kind == "method" else QBase(8, unsigned=False)
    if kind == "function":
        quantizer.observer = half_of_the_largest
    elif kind == "module":
        quantizer.observer = Observing()
    with quantizer.compute_encodings():
        quantizer(torch.tensor([-254.0, 3.0]))
    assert float(quantizer.scale) == 1.0


def test_an_encoding_analyzer_is_an_observer_too() -> None:
    quantizer = QBase(8)
    quantizer.observer = PercentileEncodingAnalyzer((), percentile=90.0)
    x = torch.cat([torch.rand(10000), torch.tensor([1000.0])])
    with quantizer.compute_encodings():
        quantizer(x)
    assert float(quantizer.scale) < 0.01
    scale, zero_point = quantizer.observer(x)
    assert (float(scale), float(zero_point)) == (float(quantizer.scale), float(quantizer.zero_point))


def test_a_wrong_observer_leaves_the_quantizer_as_it_was() -> None:
    quantizer = QBase(8)
    quantizer.set_range(-1.0, 1.0)
    before = float(quantizer.scale)
    with pytest.raises(ConfigurationError, match="positive"):
        quantizer.set_qparams(0.0)
    with pytest.raises(ConfigurationError, match="0 must be on the grid"):
        quantizer.set_qparams(0.5, -3.0)
    with pytest.raises(TypeError, match="observer"):
        quantizer.observer = 3
    assert float(quantizer.scale) == before


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "state_dict", "encodings"])
def test_copies_are_equal(way: str) -> None:
    quantizer = QBase(6, unsigned=True, shape=(3, 1))
    x = torch.randn(3, 50)
    with quantizer.compute_encodings():
        quantizer(x)
    if way == "deepcopy":
        copied = copy.deepcopy(quantizer)
    elif way == "pickle":
        copied = pickle.loads(pickle.dumps(quantizer))
    elif way == "encodings":
        copied = QBase.from_encodings(quantizer.get_encodings())
    else:
        copied = QBase(8, unsigned=False, shape=(3, 1))
        copied.load_state_dict(quantizer.state_dict())
    assert torch.equal(copied(x), quantizer(x))
    assert torch.equal(copied.inference()(x), quantizer.inference()(x))


def test_scale_and_zero_point_are_buffers_and_stay_float32() -> None:
    quantizer = QBase(8).half()
    assert list(dict(quantizer.named_buffers())) == ["scale", "zero_point"]
    assert quantizer.scale.dtype == quantizer.zero_point.dtype == torch.float32
    assert float(quantizer.zero_point) == 0.0


def test_compiles_in_one_graph() -> None:
    quantizer = QBase(8)
    quantizer.set_range(-1.0, 1.0)
    x = torch.randn(32)
    compiled = torch.compile(quantizer, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), quantizer(x))


def test_a_zero_point_of_ones_own_counts_on_symmetric_grids() -> None:
    class Shifted(QBase):
        def q(self, x: torch.Tensor) -> torch.Tensor:
            return self.on_grid(x, torch.tensor(0.5), torch.tensor(5.0))

    quantizer = Shifted(8, unsigned=False)
    quantizer.set_qparams(0.5)
    assert quantizer(torch.tensor([1.0, 100.0])).tolist() == [1.0, (127 - 5) * 0.5]
    assert quantizer.inference()(torch.tensor([1.0, 100.0])).tolist() == [7, 127]


@pytest.mark.parametrize("nbit", [25, 32])
@pytest.mark.parametrize("unsigned", [True, False])
def test_wide_grids_neither_wrap_nor_fail(nbit: int, unsigned: bool) -> None:
    quantizer = QBase(nbit, unsigned=unsigned)
    quantizer.set_qparams(2.0**-20)
    codes = quantizer.inference()(torch.tensor([3.0, 1e30, -1e30]))
    assert codes.tolist() == [3 * 2**20, quantizer.qmax, quantizer.qmin]
