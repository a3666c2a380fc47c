"""The numbers of the layers, against formulas written out here in float64 with NumPy's and ml_dtypes' casts."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from quantsim.layers import (
    QuantizedBatchNorm2d,
    QuantizedConv2d,
    QuantizedGRU,
    QuantizedLinear,
    QuantizedLinearNorm,
    QuantizedLSTM,
    QuantizedMultiheadAttention,
    QuantizedRNN,
)

DOUBLE = {"dtype": torch.float64}
RECURRENT = {"LSTM": QuantizedLSTM, "GRU": QuantizedGRU, "RNN": QuantizedRNN}


def fp16(x: Tensor) -> Tensor:
    return torch.from_numpy(x.detach().numpy().astype(numpy.float16).astype(numpy.float64))


def e4m3(x: Tensor) -> Tensor:
    return torch.from_numpy(x.detach().numpy().astype(ml_dtypes.float8_e4m3).astype(numpy.float64))


CASTS = pytest.mark.parametrize(("cast", "widths"), [(fp16, (5, 10)), (e4m3, (4, 3))], ids=["fp16", "e4m3"])


@CASTS
def test_linear_casts_input_weight_and_bias(cast: Any, widths: tuple[int, int]) -> None:
    layer, x = QuantizedLinear(16, 8, *widths, **DOUBLE), torch.randn(3, 16, **DOUBLE)
    wanted = cast(x) @ cast(layer.weight).t() + cast(layer.bias)
    torch.testing.assert_close(layer(x), wanted, rtol=0, atol=1e-13)
    on_grid = QuantizedLinear.from_module(layer.get_original_module(), *widths, quantize_output=True)(x)
    assert torch.equal(on_grid, cast(wanted))


@CASTS
def test_convolution(cast: Any, widths: tuple[int, int]) -> None:
    layer, x = QuantizedConv2d(3, 4, 3, *widths, stride=2, padding=1, **DOUBLE), torch.randn(2, 3, 8, 8, **DOUBLE)
    wanted = F.conv2d(cast(x), cast(layer.weight), cast(layer.bias), 2, 1)
    torch.testing.assert_close(layer(x), wanted, rtol=0, atol=1e-13)


@CASTS
def test_norms_cast_input_parameters_and_output(cast: Any, widths: tuple[int, int]) -> None:
    norm, x = QuantizedLinearNorm(16, *widths, **DOUBLE), 3 * torch.randn(5, 16, **DOUBLE)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    on_grid = cast(x)
    centred = on_grid - on_grid.mean(-1, keepdim=True)
    scaled = centred / (on_grid.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    assert torch.equal(norm(x), cast(scaled * cast(norm.weight) + cast(norm.bias)))

    batch_norm, images = QuantizedBatchNorm2d(3, *widths, **DOUBLE), torch.randn(4, 3, 5, 5, **DOUBLE)
    on_grid = cast(images)
    mean, variance = on_grid.mean((0, 2, 3)), on_grid.var((0, 2, 3), unbiased=False)
    wanted = (on_grid - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
    assert torch.equal(batch_norm(images), cast(wanted))
    torch.testing.assert_close(batch_norm.running_mean, 0.1 * mean)


# ---------------------------------------------------------------- attention


def attend(layer: Any, x: Tensor, cast: Any, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Self-attention with all parts cast; output and the probabilities of each head."""
    heads, size = layer.num_heads, layer.head_dim
    packed = cast(x) @ cast(layer.in_proj_weight).t() + cast(layer.in_proj_bias)
    q, k, v = (
        cast(part).reshape(*x.shape[:2], heads, size).transpose(1, 2) for part in packed.chunk(3, dim=-1)
    )  # fmt: skip
    scores = cast(q @ k.transpose(-2, -1) / math.sqrt(size))
    probabilities = cast(torch.softmax(scores if mask is None else scores + mask, -1))
    context = (probabilities @ v).transpose(1, 2).reshape(x.shape)
    return cast(cast(context) @ cast(layer.out_proj.weight).t() + cast(layer.out_proj.bias)), probabilities


@CASTS
def test_attention(cast: Any, widths: tuple[int, int]) -> None:
    layer, x = QuantizedMultiheadAttention(24, 2, *widths, **DOUBLE), torch.randn(2, 5, 24, **DOUBLE)
    nn.init.normal_(layer.in_proj_bias)
    y, weights = layer(x, x, x)
    wanted, probabilities = attend(layer, x, cast)
    torch.testing.assert_close(y, wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(weights, probabilities.mean(1), rtol=0, atol=1e-12)
    assert torch.equal(cast(y), y)
    each = layer(x, x, x, average_attn_weights=False)[1]
    assert torch.equal(each, probabilities)
    assert layer(x, x, x, need_weights=False)[1] is None


def test_masks_of_minus_infinity_give_no_nan() -> None:
    layer, x = QuantizedMultiheadAttention(16, 2, 4, 3, **DOUBLE), torch.randn(2, 6, 16, **DOUBLE)
    mask = torch.full((6, 6), -math.inf, **DOUBLE).triu(1)
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[1, 4:] = True
    y, weights = layer(x, x, x, attn_mask=mask, key_padding_mask=padding, is_causal=True)
    both = mask + torch.zeros(2, 1, 1, 6, **DOUBLE).masked_fill(padding[:, None, None], -math.inf)
    wanted, probabilities = attend(layer, x, e4m3, both)
    assert y.isfinite().all() and weights.isfinite().all()
    torch.testing.assert_close(y, wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(weights, probabilities.mean(1), rtol=0, atol=1e-12)
    y.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())
    assert torch.equal(layer(x, x, x, attn_mask=mask.isinf(), key_padding_mask=padding)[0], y)


def test_attention_batch_first_is_an_argument() -> None:
    layer = QuantizedMultiheadAttention(16, 2, 5, 10)
    x = torch.randn(2, 6, 16)
    other = QuantizedMultiheadAttention(16, 2, 5, 10, batch_first=False)
    other.load_state_dict(layer.state_dict())
    assert layer.batch_first and not other.batch_first
    assert torch.equal(other(*(x.transpose(0, 1),) * 3)[0].transpose(0, 1), layer(x, x, x)[0])


# ---------------------------------------------------------------- recurrent layers


def recur(layer: Any, x: Tensor, cast: Any) -> tuple[Tensor, Tensor]:
    """One direction of one layer, batch first, states cast after every step; the sequence and the last hidden state."""
    w, u, b, c = (cast(parameter) for parameter in layer.parameters())
    hidden = cell = torch.zeros(x.shape[0], layer.hidden_size, **DOUBLE)
    outputs = []
    for step in cast(x).unbind(1):
        if layer.mode == "LSTM":
            i, f, g, o = (step @ w.t() + b + hidden @ u.t() + c).chunk(4, -1)
            exact = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            hidden, cell = cast(o.sigmoid() * exact.tanh()), cast(exact)
        elif layer.mode == "GRU":
            of_input, of_hidden = (step @ w.t() + b).chunk(3, -1), (hidden @ u.t() + c).chunk(3, -1)
            reset, update = ((of_input[n] + of_hidden[n]).sigmoid() for n in (0, 1))
            new = (of_input[2] + reset * of_hidden[2]).tanh()
            hidden = cast((1 - update) * new + update * hidden)
        else:
            total = step @ w.t() + b + hidden @ u.t() + c
            hidden = cast(total.tanh() if layer.mode == "RNN_TANH" else total.relu())
        outputs.append(hidden)
    return torch.stack(outputs, 1), hidden


@CASTS
@pytest.mark.parametrize("kind", [*RECURRENT, "RNN with relu"])
def test_states_are_cast_at_every_step(kind: str, cast: Any, widths: tuple[int, int]) -> None:
    settings = {"nonlinearity": "relu"} if kind.endswith("relu") else {}
    layer = RECURRENT[kind.split()[0]](6, 8, *widths, **settings, **DOUBLE)
    x = torch.randn(3, 7, 6, **DOUBLE)
    y, states = layer(x)
    wanted, last = recur(layer, x, cast)
    torch.testing.assert_close(y, wanted, rtol=0, atol=1e-12)
    hidden = states[0] if kind == "LSTM" else states
    torch.testing.assert_close(hidden[0], last, rtol=0, atol=1e-12)
    assert torch.equal(y[:, -1], hidden[0])
    assert torch.equal(cast(y), y) and all(torch.equal(cast(state), state) for state in states)


@pytest.mark.parametrize("rmode", ["nearest", "stochastic"])
@pytest.mark.parametrize("kind", RECURRENT)
def test_last_output_is_the_final_state(kind: str, rmode: str) -> None:
    layer = RECURRENT[kind](5, 6, 4, 3, num_layers=2, bidirectional=True, dropout=0.5, rmode=rmode)
    y, states = layer(torch.randn(3, 4, 5))
    hidden = states[0] if kind == "LSTM" else states
    assert torch.equal(y[:, -1, :6], hidden[2]) and torch.equal(y[:, 0, 6:], hidden[3])


@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2}, {"bias": False}], ids=str)
@pytest.mark.parametrize("kind", RECURRENT)
def test_with_e8m23_they_are_torchs_layers(kind: str, options: dict[str, Any]) -> None:
    module = getattr(nn, kind)(16, 32, batch_first=True, **options)
    layer = RECURRENT[kind].from_module(module, 8, 23)
    x = torch.randn(4, 20, 16)
    for one, other in zip(flat(layer(x)), flat(module(x)), strict=True):
        assert (one - other).abs().max() <= 1e-6
    flat(layer(x))[0].square().sum().backward()
    gradients = [parameter.grad.clone() for parameter in module.parameters()]
    module.zero_grad()
    flat(module(x))[0].square().sum().backward()
    for one, parameter in zip(gradients, module.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad, rtol=1e-4, atol=1e-4)


def flat(result: Any) -> list[Tensor]:
    y, states = result
    return [y, *(states if isinstance(states, tuple) else (states,))]


def test_given_states_packed_sequences_and_no_batch() -> None:
    lstm = QuantizedLSTM(4, 3, 5, 10)
    x, states = torch.randn(2, 5, 4), (torch.randn(1, 2, 3), torch.randn(1, 2, 3))
    whole = flat(lstm(x, states))
    halves = lstm(x[:, :2], states)
    rest = flat(lstm(x[:, 2:], halves[1]))
    assert torch.equal(torch.cat((halves[0], rest[0]), 1), whole[0]) and torch.equal(rest[2], whole[2])
    assert torch.equal(
        lstm(x[0], tuple(state[:, 0] for state in states))[0], lstm(x[:1], tuple(s[:, :1] for s in states))[0][0]
    )
    packed = pack_padded_sequence(x, torch.tensor([5, 3]), batch_first=True)
    output, (hidden, _) = lstm(packed, states)
    padded = nn.utils.rnn.pad_packed_sequence(output, batch_first=True)[0]
    assert torch.equal(padded[0], whole[0][0]) and torch.equal(padded[1, 2], hidden[0, 1])


def test_dropout_between_layers_is_cast_again() -> None:
    torch.manual_seed(0)
    lstm = QuantizedLSTM(4, 16, 4, 3, num_layers=2, dropout=0.3)
    seen: list[Tensor] = []
    lstm.output_quantizers[1].register_forward_hook(lambda module, args, result: seen.append(result))
    lstm(torch.randn(2, 3, 4))
    between = seen[3]  # after the three steps of the first layer
    assert between.shape == (3, 2, 16) and (between == 0).any()
    assert all(torch.equal(e4m3(each), each.double()) for each in seen)
