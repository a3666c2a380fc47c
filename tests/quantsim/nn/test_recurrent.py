from __future__ import annotations

import copy
import itertools
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence
from torch.utils import _pytree as pytree

from quantsim.nn import QuantizationMixin
from quantsim.quantization import affine

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
KINDS = [nn.LSTM, nn.GRU, nn.RNN]


def activation(bits: int = 8) -> affine.QuantizeDequantize:
    return affine.QuantizeDequantize((), bits, True)


def tensors(result: Any) -> list[Tensor]:
    output, states = result
    first = [output.data] if isinstance(output, PackedSequence) else [output]
    return [tensor.detach() for tensor in (*first, *pytree.tree_leaves(states))]


def assert_same(one: Any, other: Any, *, exact: bool = True) -> None:
    for a, b in zip(tensors(one), tensors(other), strict=True):
        if exact:
            assert torch.equal(a, b)
        else:
            torch.testing.assert_close(a, b)


OPTIONS = [
    {"bidirectional": both, "num_layers": layers, "batch_first": first, "bias": bias}
    for both, layers, first, bias in itertools.product((False, True), (1, 2), (False, True), (False, True))
]


@pytest.mark.parametrize("steps", [False, True], ids=["fused", "by steps"])
@pytest.mark.parametrize(
    "options", OPTIONS, ids=lambda options: "-".join(k for k, v in options.items() if v not in (0, 1)) or "plain"
)
@pytest.mark.parametrize("kind", KINDS)
def test_without_quantizers_equals_torch(kind: Any, options: dict[str, Any], steps: bool) -> None:
    torch.manual_seed(0)
    module = kind(3, 4, **options)
    quantized = QuantizationMixin.from_module(module)
    quantized.quantize_every_step = steps
    x = torch.randn(5, 2, 3)
    batch = x.shape[0 if options["batch_first"] else 1]
    count = options["num_layers"] * (2 if options["bidirectional"] else 1)
    states: Any = torch.randn(count, batch, 4)
    if kind is nn.LSTM:
        states = (states, torch.randn(count, batch, 4))
    assert_same(quantized(x), module(x), exact=not steps)
    assert_same(quantized(x, states), module(x, states), exact=not steps)
    assert_same(quantized(input=x, hx=states), module(x, states), exact=not steps)
    unbatched = tuple(s[:, 0] for s in states) if isinstance(states, tuple) else states[:, 0]
    assert_same(quantized(x[:, 0]), module(x[:, 0]), exact=not steps)
    assert_same(quantized(x[:, 0], unbatched), module(x[:, 0], unbatched), exact=not steps)


@pytest.mark.parametrize("steps", [False, True], ids=["fused", "by steps"])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_packed_sequences(kind: Any, both: bool, steps: bool) -> None:
    torch.manual_seed(0)
    module = kind(3, 4, num_layers=2, bidirectional=both)
    quantized = QuantizationMixin.from_module(module)
    quantized.quantize_every_step = steps
    states: Any = torch.randn(4 if both else 2, 3, 4)
    if kind is nn.LSTM:
        states = (states, torch.randn(4 if both else 2, 3, 4))
    unsorted = pack_sequence([torch.randn(n, 3) for n in (2, 5, 3)], enforce_sorted=False)
    padded = pack_padded_sequence(torch.randn(5, 3, 3), torch.tensor([5, 3, 1]))
    for packed in (unsorted, padded):
        got, want = quantized(packed, states), module(packed, states)
        assert_same(got, want, exact=not steps)
        assert torch.equal(got[0].batch_sizes, want[0].batch_sizes)
        assert_same(quantized(packed), module(packed), exact=not steps)


@pytest.mark.parametrize("steps", [False, True], ids=["fused", "by steps"])
def test_projected_states_and_relu(steps: bool) -> None:
    for module in (nn.LSTM(3, 5, proj_size=2, num_layers=2, bidirectional=True), nn.RNN(3, 4, nonlinearity="relu")):
        quantized = QuantizationMixin.from_module(module)
        quantized.quantize_every_step = steps
        x = torch.randn(5, 2, 3)
        assert_same(quantized(x), module(x), exact=not steps)


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_between_layers(kind: Any) -> None:
    module = kind(3, 4, num_layers=2, dropout=0.5)
    quantized = QuantizationMixin.from_module(module)
    x = torch.randn(5, 2, 3)
    torch.manual_seed(1)
    expected = module(x)
    torch.manual_seed(1)
    assert_same(quantized(x), expected)
    quantized.quantize_every_step = True
    torch.manual_seed(1)
    assert not torch.equal(quantized(x)[0], quantized(x)[0])
    assert_same(quantized.eval()(x), module.eval()(x), exact=False)


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_states_weights_and_outputs_are_quantized(kind: Any) -> None:
    torch.manual_seed(0)
    module = kind(3, 4)
    quantized = QuantizationMixin.from_module(module)
    count = 3 if kind is nn.LSTM else 2
    assert len(quantized.input_quantizers) == len(quantized.output_quantizers) == count
    for index in range(count):
        quantized.input_quantizers[index] = activation(4)
        quantized.output_quantizers[index] = activation(4)
    for name in ("weight_ih_l0", "weight_hh_l0"):
        quantized.param_quantizers[name] = activation(4)
    x = torch.randn(5, 2, 3)
    states: Any = torch.randn(1, 2, 4)
    if kind is nn.LSTM:
        states = (states, torch.randn(1, 2, 4))
    with quantized.compute_encodings() as report:
        quantized(x, states)
    assert len(report.calibrated) == 2 * count
    # By hand: a float module with quantized weights on quantized inputs, its outputs quantized.
    other = copy.deepcopy(module)
    with torch.no_grad():
        for name in ("weight_ih_l0", "weight_hh_l0"):
            getattr(other, name).copy_(quantized.param_quantizers[name](getattr(module, name)))
    parts = states if isinstance(states, tuple) else (states,)
    parts = tuple(quantized.input_quantizers[1 + i](part) for i, part in enumerate(parts))
    y, last = other(quantized.input_quantizers[0](x), parts if kind is nn.LSTM else parts[0])
    last = last if isinstance(last, tuple) else (last,)
    expected = [quantized.output_quantizers[0](y), *(quantized.output_quantizers[1 + i](p) for i, p in enumerate(last))]
    for got, want in zip(tensors(quantized(x, states)), expected, strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("kind", KINDS)
def test_quantized_packed_sequence(kind: Any) -> None:
    quantized = QuantizationMixin.from_module(kind(3, 4))
    quantized.input_quantizers[0] = activation(3)
    quantized.output_quantizers[0] = activation(3)
    packed = pack_sequence([torch.randn(n, 3) for n in (2, 5, 3)], enforce_sorted=False)
    with quantized.compute_encodings():
        quantized(packed)
    assert len(quantized(packed)[0].data.unique()) <= 8


@pytest.mark.parametrize("kind", KINDS)
def test_states_are_quantized_at_every_step(kind: Any) -> None:
    torch.manual_seed(0)
    module = kind(3, 4, batch_first=True)
    quantized = QuantizationMixin.from_module(module)
    quantized.quantize_every_step = True
    for index in range(1, len(quantized.output_quantizers)):
        quantized.output_quantizers[index] = activation(3)
    x = torch.randn(2, 6, 3)
    with quantized.compute_encodings():
        quantized(x)
    hidden = quantized.output_quantizers[1]
    assert hidden.samples_seen == 2 * 6 * 4
    output, last = quantized(x)
    assert torch.equal(output, hidden(output))  # each step lies on the grid
    last_hidden = last[0] if isinstance(last, tuple) else last
    assert torch.equal(output[:, -1], last_hidden[0])
    cell_class = {nn.LSTM: nn.LSTMCell, nn.GRU: nn.GRUCell, nn.RNN: nn.RNNCell}[kind]
    cell = cell_class(3, 4)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in module.state_dict().items()})
    state: Any = (torch.zeros(2, 4), torch.zeros(2, 4)) if kind is nn.LSTM else torch.zeros(2, 4)
    for step in range(6):
        state = cell(x[:, step], state)
        if kind is nn.LSTM:
            state = (hidden(state[0]), quantized.output_quantizers[2](state[1]))
        else:
            state = hidden(state)
        torch.testing.assert_close(output[:, step], state[0] if kind is nn.LSTM else state)


@pytest.mark.parametrize("steps", [False, True], ids=["fused", "by steps"])
def test_training(steps: bool) -> None:
    torch.manual_seed(0)
    quantized = QuantizationMixin.from_module(nn.LSTM(3, 4, num_layers=2, bidirectional=True))
    quantized.quantize_every_step = steps
    quantized.output_quantizers[1] = activation()
    for name in list(quantized.param_quantizers):
        quantized.param_quantizers[name] = activation()
    x = torch.randn(5, 2, 3)
    with quantized.compute_encodings():
        quantized(x)
    output, (hidden, _) = quantized(x)
    (output.square().sum() + hidden.sum()).backward()
    missing = [name for name, parameter in quantized.named_parameters() if parameter.grad is None]
    assert missing == []
    with torch.no_grad():
        before = quantized(x)[0]
        for parameter in quantized.parameters():
            parameter.sub_(0.05 * parameter.grad)
        assert not torch.equal(quantized(x)[0], before)


def test_copies_fold_and_original() -> None:
    module = nn.LSTM(3, 4)
    quantized = QuantizationMixin.from_module(module)
    quantized.quantize_every_step = True
    quantized.param_quantizers["weight_hh_l0"] = activation(2)
    x = torch.randn(5, 2, 3)
    expected = quantized(x)
    for other in (copy.deepcopy(quantized), pickle.loads(pickle.dumps(quantized))):
        assert_same(other(x), expected)
        assert other._flat_weights[0] is other.weight_ih_l0
    with quantized.fold_param_quantizers():
        assert_same(quantized(x), expected)
        assert_same(quantized.get_original_module()(x), module(x))
    original = quantized.get_original_module()
    assert "quantize_every_step" not in vars(original)
    assert_same(original(x), module(x))
    assert original.weight_hh_l0 is module.weight_hh_l0


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_cells(kind: Any) -> None:
    torch.manual_seed(0)
    module = kind(3, 4)
    quantized = QuantizationMixin.from_module(module)
    x = torch.randn(2, 3)
    states: Any = torch.randn(2, 4)
    if kind is nn.LSTMCell:
        states = (states, torch.randn(2, 4))
    for args in ((x,), (x, states)):
        for got, want in zip(pytree.tree_leaves(quantized(*args)), pytree.tree_leaves(module(*args)), strict=True):
            assert torch.equal(got, want)
    for container in (quantized.input_quantizers, quantized.output_quantizers):
        for index in range(len(container)):
            container[index] = activation(3)
    quantized.param_quantizers["weight_hh"] = activation(3)
    with quantized.compute_encodings() as report:
        quantized(x, states)
    assert report.unobserved == []
    result = pytree.tree_leaves(quantized(x, hx=states))
    for index, tensor in enumerate(result):
        assert torch.equal(tensor, quantized.output_quantizers[index](tensor))


def test_wrong_arguments() -> None:
    quantized = QuantizationMixin.from_module(nn.GRU(3, 4))
    x = torch.randn(5, 2, 3)
    for args, kwargs in (((), {}), ((x, None, None), {}), ((x,), {"input": x}), ((x,), {"states": None})):
        with pytest.raises(TypeError, match="input, hx=None"):
            quantized(*args, **kwargs)
