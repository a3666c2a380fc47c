"""`SqueezeLightLinear`: shapes, initialization, noise, training, conversion, state, compilers, errors."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantsim.errors import ConfigurationError, ShapeError
from quantsim.optical.squeezelight import RingConversion, SqueezeLightLinear, conversion_error
from quantsim_kernels import force_backend
from quantsim_kernels.squeezelight import squeezelight_linear

FWHM = 0.26095


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("inputs", "outputs", "miniblock"), [(8, 8, 4), (10, 7, 4), (3, 5, 4), (17, 9, 8), (5, 4, 1)])
def test_computes_the_kernel(inputs: int, outputs: int, miniblock: int) -> None:
    layer = SqueezeLightLinear(inputs, outputs, miniblock=miniblock, crosstalk=0.02, drop=0.5)
    assert layer.bias is not None
    nn.init.normal_(layer.bias)
    x = torch.rand(2, 3, inputs)
    expected = squeezelight_linear(x, layer.weight, layer.scale, layer.bias, crosstalk=0.02, drop=0.5)
    assert torch.equal(layer(x), expected)
    assert layer(x).shape == (2, 3, outputs)
    torch.testing.assert_close(layer(-x), expected)  # light has no sign


def test_initial_parameters_suit_the_curve() -> None:
    layer = SqueezeLightLinear(1024, 1024)
    largest = math.sqrt(3 / 16) * FWHM
    assert layer.weight.min() >= 0 and layer.weight.detach().max() == pytest.approx(largest, rel=1e-2)
    slope = 0.0
    for phase, sign in ((2.4 * FWHM, 1), (0.0, -1)):
        cosine = 2 * 0.8578 * 0.8985 * math.cos(phase)
        slope += sign * (0.8578**2 + 0.8985**2 - cosine) / (1 + (0.8578 * 0.8985) ** 2 - cosine) / (2.4 * FWHM)
    assert layer.scale.detach().std() == pytest.approx(4 / (3 * math.sqrt(256) * slope * FWHM), rel=0.2)
    assert layer.bias is not None and not layer.bias.any()
    outputs = layer(torch.randn(64, 1024))
    assert 0.1 < outputs.std() < 10


@pytest.mark.parametrize(("in_bit", "largest"), [(32, 0.5), (8, 1.0)])
def test_quantized_weights_keep_the_spread_that_they_began_with(in_bit: int, largest: float) -> None:
    layer = SqueezeLightLinear(256, 256, w_bit=5, in_bit=in_bit)
    limit = math.sqrt(3 / 16) * FWHM * largest
    weight = layer.weight.detach()
    assert weight.max() == pytest.approx(limit, rel=1e-2)
    assert weight.min() == pytest.approx(-limit, rel=1e-2)
    squashed = weight.tanh()
    levels = ((squashed / squashed.abs().max() + 1) / 2 * 31).round() / 31 * 2 * squashed.abs().max()
    assert (levels * layer.weight_gain).std() == pytest.approx(weight.std().item(), rel=1e-4)
    gain = layer.weight_gain.clone()
    layer(torch.rand(2, 256)).sum().backward()
    assert torch.equal(layer.weight_gain, gain)


def test_noise_advances_with_every_forward_and_is_restored() -> None:
    layer = SqueezeLightLinear(16, 8, phase_noise=0.1, seed=5).eval()
    x = torch.rand(4, 16)
    state, generator = copy.deepcopy(layer.state_dict()), torch.get_rng_state()
    first, second = layer(x), layer(x)
    assert not torch.equal(first, second)
    layer.load_state_dict(state)
    assert torch.equal(layer(x), first)
    with force_backend("reference"):
        layer.load_state_dict(state)
        torch.testing.assert_close(layer(x), first)
    assert torch.equal(generator, torch.get_rng_state())
    assert (first - layer.transmit(x)).abs().max() > 1e-3
    layer.phase_noise = 0.0
    assert torch.equal(layer(x), layer.transmit(x))
    assert not torch.equal(
        SqueezeLightLinear(16, 8, phase_noise=0.1).seed, SqueezeLightLinear(16, 8, phase_noise=0.1).seed
    )


@pytest.mark.parametrize("bits", [32, 6])
def test_training_lowers_the_loss(bits: int) -> None:
    x = torch.rand(256, 12)
    labels = ((x[:, :6].square().sum(1) - x[:, 6:].square().sum(1)) > 0).long()
    model = nn.Sequential(
        SqueezeLightLinear(12, 16, w_bit=bits, in_bit=bits, phase_noise=0.01, seed=1),
        nn.ReLU(),
        SqueezeLightLinear(16, 2, w_bit=bits, in_bit=bits, seed=2),
    )
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(120):
        loss = nn.functional.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0] and losses[-1] < 0.5
    assert all((old != new).any() for old, new in zip(before, model.parameters(), strict=True))
    assert (model(x).argmax(1) == labels).float().mean() > 0.85


def nonnegative(rows: int, width: int, seed: int) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)).relu()


@pytest.mark.parametrize(("inputs", "outputs"), [(64, 48), (33, 20), (3, 5)])
@pytest.mark.parametrize("bits", [32, 6])
def test_least_squares_beats_the_published_conversion(inputs: int, outputs: int, bits: int) -> None:
    linear = nn.Linear(inputs, outputs)
    settings: dict[str, Any] = {"w_bit": bits, "in_bit": bits}
    fitted = SqueezeLightLinear.from_linear(
        linear, "least_squares", inputs=nonnegative(600, inputs, 1), steps=20, **settings
    )
    published = SqueezeLightLinear.from_linear(linear, RingConversion.AVERAGE, **settings)
    unseen = nonnegative(400, inputs, 2)
    good, bad = conversion_error(linear, fitted, unseen), conversion_error(linear, published, unseen)
    assert good < 1 < bad  # the published one is worse than a constant


def test_fit_recovers_what_rings_can_do() -> None:
    """A layer whose blocks are circulant, of the sign that the pairs have, with weights that keep the ring linear."""
    first = torch.rand(4, 1, 4) + 0.2
    columns = torch.stack([first.roll(j, -1) for j in range(4)], 3)  # (P, 1, i, j)
    block = columns.transpose(1, 2).reshape(16, 4)
    linear = nn.Linear(8, 16)
    with torch.no_grad():
        linear.weight.copy_(torch.cat([block, -block.roll(1, 0)], 1))
    x = torch.rand(1500, 8) * 0.5 + 0.5
    start = SqueezeLightLinear.from_linear(linear, "least_squares", inputs=x[:1000], steps=0)
    fitted = SqueezeLightLinear.from_linear(linear, "least_squares", inputs=x[:1000], steps=200)
    errors = [conversion_error(linear, layer, x[1000:]) for layer in (start, fitted)]
    assert errors[1] <= errors[0] < 0.5, errors


def test_average_is_the_mean_of_rows_and_drops_the_bias() -> None:
    linear = nn.Linear(6, 5)
    rings = SqueezeLightLinear.from_linear(linear, "average", miniblock=4)
    padded = torch.zeros(8, 8)
    padded[:5, :6] = linear.weight.detach()
    for p in range(2):
        for q in range(2):
            for i in range(4):
                mean = padded[4 * p + i, 4 * q : 4 * q + 4].mean()
                torch.testing.assert_close(rings.weight[p, q, i].detach(), mean)
    assert rings.bias is not None and not rings.bias.any()


@pytest.mark.parametrize("method", list(RingConversion))
def test_conversion_keeps_device_dtype_mode_and_the_linear_layer(method: RingConversion) -> None:
    linear = nn.Linear(10, 6, bias=False).bfloat16().eval()
    before = copy.deepcopy(linear.state_dict())
    rings = SqueezeLightLinear.from_linear(linear, method, steps=2, w_bit=6, in_bit=6)
    assert rings.bias is None and not rings.training
    assert {parameter.dtype for parameter in rings.parameters()} == {torch.bfloat16}
    assert rings(torch.rand(2, 10).bfloat16()).isfinite().all()
    assert all(torch.equal(before[name], value) for name, value in linear.state_dict().items())
    assert not any(parameter.grad is not None for parameter in [*linear.parameters(), *rings.parameters()])
    with torch.inference_mode(False), torch.no_grad():
        assert SqueezeLightLinear.from_linear(nn.Linear(8, 8), method, steps=2).weight.requires_grad
    meta = SqueezeLightLinear.from_linear(nn.Linear(10, 6, device="meta"), method)
    assert meta.weight.is_meta and meta(torch.zeros(2, 10, device="meta")).shape == (2, 6)


def test_meta_layer_is_filled_by_reset_parameters() -> None:
    with torch.device("meta"):
        layer = SqueezeLightLinear(10, 6, w_bit=6, phase_noise=0.1, seed=3)
    assert layer.weight.is_meta and layer.seed.is_meta
    layer.to_empty(device="cpu")
    layer.reset_parameters()
    assert layer.seed == 3
    assert layer(torch.rand(2, 10)).isfinite().all()


def test_copies_pickles_and_states_compute_the_same() -> None:
    layer = SqueezeLightLinear(10, 6, w_bit=6, in_bit=6, phase_noise=0.1, seed=3)
    x = torch.rand(4, 10)
    other = SqueezeLightLinear(10, 6, w_bit=6, in_bit=6, phase_noise=0.1)
    other.load_state_dict(layer.state_dict())
    copies = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), other]
    expected = layer(x)
    assert all(torch.equal(twin(x), expected) for twin in copies)
    assert "phase_noise=0.1" in repr(layer) and "drop" not in repr(layer)


def test_compiles_and_exports_with_noise() -> None:
    layer = SqueezeLightLinear(10, 6, w_bit=6, in_bit=6, phase_noise=0.1, seed=3)
    x = torch.rand(4, 10)
    eager = copy.deepcopy(layer)
    expected = [eager(x), eager(x)]
    compiled = torch.compile(copy.deepcopy(layer), backend="aot_eager", fullgraph=True)
    for value in expected:
        y = compiled(x)
        torch.testing.assert_close(y, value)
        y.sum().backward()
    exported = torch.export.export(copy.deepcopy(layer), (x,)).module()
    for value in expected:
        torch.testing.assert_close(exported(x), value)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"in_features": 0}, "in_features"),
        ({"out_features": 2.0}, "out_features"),
        ({"miniblock": -1}, "miniblock"),
        ({"w_bit": 33}, "w_bit"),
        ({"in_bit": True}, "in_bit"),
        ({"crosstalk": 2.0}, "crosstalk"),
        ({"phase_noise": -1.0}, "phase_noise"),
        ({"drop": 1.1}, "drop"),
        ({"coupling": 1.0}, "coupling"),
        ({"seed": "a"}, "seed"),
    ],
)
def test_impossible_settings_are_named(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        SqueezeLightLinear(**{"in_features": 8, "out_features": 8, **settings})


def test_impossible_conversions_are_named() -> None:
    linear = nn.Linear(8, 4)
    with pytest.raises(ConfigurationError, match="'average', 'least_squares'"):
        SqueezeLightLinear.from_linear(linear, "mean")
    with pytest.raises(ConfigurationError, match="Conv2d"):
        SqueezeLightLinear.from_linear(nn.Conv2d(1, 1, 1))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigurationError, match="mini_block"):
        SqueezeLightLinear.from_linear(linear, mini_block=4)
    with pytest.raises(ConfigurationError, match="steps"):
        SqueezeLightLinear.from_linear(linear, steps=-1)
    with pytest.raises(ShapeError, match=r"\(\.\.\., 8\)"):
        SqueezeLightLinear.from_linear(linear, "least_squares", inputs=torch.rand(5, 7))
    with pytest.raises(ShapeError, match=r"\(\.\.\., 8\)"):
        SqueezeLightLinear(8, 4)(torch.rand(2, 7))
