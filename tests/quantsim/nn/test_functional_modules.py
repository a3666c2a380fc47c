from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import quantsim.nn
from quantsim.nn import QuantizationMixin, functional_modules
from quantsim.nn.functional_modules import FUNCTIONAL_MODULES
from quantsim.nn.modules import custom
from quantsim.nn.specification import ModuleSpec
from quantsim.quantization import affine

G = torch.Generator().manual_seed(0)
A, B = torch.rand(3, 4, generator=G) + 0.1, torch.rand(3, 4, generator=G) - 0.5
V = torch.rand(4, generator=G)
M = torch.rand(2, 3, 4, generator=G)
IMAGE = torch.rand(1, 4, 4, 4, generator=G)
INDEX = torch.tensor([[0, 2], [1, 1]])

# Constructor arguments, inputs, and what the module is to compute.
CASES: dict[str, tuple[tuple[Any, ...], tuple[Any, ...], Callable[..., Any]]] = {
    "Concat": ((1,), (A, B, A), lambda *x: torch.cat(x, 1)),
    "Cast": ((torch.float64,), (A,), lambda x: x.double()),
    "OneHot": ((4, -1.0, 2.0), (torch.tensor([1, 3]),), lambda i: F.one_hot(i, 4) * 3.0 - 1),
    "RmsNorm": (([3, 4], [1], 1e-6), (A,), lambda x: F.rms_norm(x, (4,), None, 1e-6)),
    "HadamardRotation": ((4,), (A,), lambda x: x @ HADAMARD / 2),
    "Add": ((), (A, B), torch.add),
    "Subtract": ((), (A, B), torch.sub),
    "Multiply": ((), (A, B), torch.mul),
    "Divide": ((), (A, B), torch.div),
    "FloorDivide": ((), (A, B), torch.floor_divide),
    "Remainder": ((), (A, B), torch.remainder),
    "Fmod": ((), (A, B), torch.fmod),
    "Pow": ((), (A, B), torch.pow),
    "Maximum": ((), (A, B), torch.maximum),
    "Minimum": ((), (A, B), torch.minimum),
    "MatMul": ((), (A, B.T), torch.matmul),
    "Bmm": ((), (M, M.transpose(1, 2)), torch.bmm),
    "Baddbmm": ((), (M @ M.transpose(1, 2), M, M.transpose(1, 2)), torch.baddbmm),
    "Addmm": ((), (A @ B.T, A, B.T), torch.addmm),
    "Outer": ((), (V, V), torch.outer),
    "DynamicLinear": ((), (A, B, torch.rand(3)), F.linear),
    "DynamicConv2d": ((), (IMAGE, torch.rand(2, 4, 2, 2), torch.rand(2), 2), F.conv2d),
    "ScaledDotProductAttention": ((), (M, M, M), F.scaled_dot_product_attention),
    "Clamp": ((), (A, 0.2, 0.3), torch.clamp),
    "DynamicSoftmax": ((), (A, -1), F.softmax),
    "DynamicLogSoftmax": ((), (A, -1), F.log_softmax),
    "Mean": ((), (A, 1, True), torch.mean),
    "Sum": ((), (A, 1), torch.sum),
    "Prod": ((), (A, 1), torch.prod),
    "Max": ((), (A, B), torch.max),
    "Min": ((), (A, B), torch.min),
    "AMax": ((), (A, 1), torch.amax),
    "AMin": ((), (A, 1), torch.amin),
    "TopK": ((), (A, 2), torch.topk),
    "Norm": ((), (A, 2), torch.norm),
    "Normalize": ((), (A,), F.normalize),
    "CumSum": ((), (A, 1), torch.cumsum),
    "BatchNorm": ((), (A, V, V + 1, V, V), F.batch_norm),
    "Reshape": ((), (A, (4, 3)), torch.reshape),
    "Permute": ((), (A, (1, 0)), torch.permute),
    "Transpose": ((), (A, 0, 1), torch.transpose),
    "Squeeze": ((), (A[None], 0), torch.squeeze),
    "Unsqueeze": ((), (A, 0), torch.unsqueeze),
    "Expand": ((), (A, 2, 3, 4), lambda x, *sizes: x.expand(*sizes)),
    "Tile": ((), (A, (2, 1)), torch.tile),
    "Pad": ((), (A, (1, 2)), F.pad),
    "Split": ((), (A, 2, 1), torch.split),
    "Chunk": ((), (A, 2, 1), torch.chunk),
    "Stack": ((), (A, B), lambda *x: torch.stack(x)),
    "StridedSlice": ((), (A, [(0, 3, 2), (1, 4, 1)]), lambda x, _: x[0:3:2, 1:4]),
    "DepthToSpaceCRDMode": ((), (IMAGE, 2), F.pixel_shuffle),
    "DepthToSpaceDCRMode": ((), (IMAGE, 2), F.pixel_shuffle),  # the same if one channel comes out
    "Interpolate": ((), (IMAGE, None, 2.0), F.interpolate),
    "GridSample": ((), (IMAGE, torch.rand(1, 2, 2, 2) - 0.5), lambda x, g: F.grid_sample(x, g)),
    "NullRequant": ((), (A, (4, 3)), torch.reshape),
    "Gather": ((), (A, 1, torch.tensor([[0], [1], [2]])), torch.gather),
    "CustomGather": ((), (A, INDEX, 1), lambda x, i, _: x[:, i]),
    "GatherNd": ((), (A, INDEX), lambda x, i: x[i[:, 0], i[:, 1]]),
    "IndexSelect": ((), (A, 1, torch.tensor([2, 0])), torch.index_select),
    "Select": ((), (A, 1, 2), torch.select),
    "ScatterND": ((), (A, INDEX, V[:2] + 3), lambda x, i, u: x.index_put((i[:, 0], i[:, 1]), u)),
    "ScatterElements": ((), (A, 1, torch.tensor([[0], [1], [2]]), B[:, :1]), torch.scatter),
    "Where": ((), (A > 0.5, A, B), torch.where),
    "MaskedFill": ((), (A, A > 0.5, 0.0), torch.masked_fill),
}
HADAMARD = torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])
ELEMENTWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Neg": torch.neg,
    "Sqrt": torch.sqrt,
    "RSqrt": torch.rsqrt,
    "Square": torch.square,
    "Reciprocal": torch.reciprocal,
    "Exponential": torch.exp,
    "Log": torch.log,
    "Erf": torch.erf,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Tan": torch.tan,
    "Asin": lambda x: torch.asin(x),
    "Acos": torch.acos,
    "Atan": torch.atan,
    "Round": torch.round,
    "ElementwiseCeil": torch.ceil,
    "ElementwiseFloor": torch.floor,
    "ElementwiseUnarySign": torch.sign,
    "CustomSiLU": lambda x: x * torch.sigmoid(x),
    "Argmax": torch.argmax,
    "Argmin": torch.argmin,
    "NonZero": torch.nonzero,
    "LogicalNot": torch.logical_not,
}
CASES.update({name: ((), (A,), function) for name, function in ELEMENTWISE.items()})
for name, function in {
    "Greater": torch.gt,
    "GreaterEqual": torch.ge,
    "Less": torch.lt,
    "LessEqual": torch.le,
    "Equal": torch.eq,
    "NotEqual": torch.ne,
    "LogicalAnd": torch.logical_and,
    "LogicalOr": torch.logical_or,
}.items():
    CASES[name] = ((), (A, B), function)
SPECS = [spec for spec in FUNCTIONAL_MODULES if spec.module_class.__name__ != "RotaryEmbedding"]


def by_name(spec: ModuleSpec) -> str:
    return spec.module_class.__name__


def leaves(result: Any) -> list[Tensor]:
    return [leaf.detach() for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]


@pytest.mark.parametrize("spec", SPECS, ids=by_name)
def test_modules_compute_their_function(spec: ModuleSpec) -> None:
    arguments, inputs, function = CASES[spec.module_class.__name__]
    module = spec.module_class(*arguments)
    quantized = getattr(quantsim.nn, f"Quantized{spec.module_class.__name__}")(*arguments)
    expected = leaves(function(*inputs))
    for each in (module, quantized, QuantizationMixin.from_module(module)):
        got = leaves(each(*inputs))
        assert len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("spec", SPECS, ids=by_name)
def test_inputs_and_outputs_are_quantized(spec: ModuleSpec) -> None:
    arguments, inputs, _ = CASES[spec.module_class.__name__]
    quantized: Any = QuantizationMixin.from_module(spec.module_class(*arguments))
    assert len(quantized.input_quantizers) == spec.input_count
    places = [(quantized.input_quantizers, index) for index in range(spec.input_count)]
    seen: list[Any] = []
    for container, index in places:
        container[index] = affine.QuantizeDequantize((), 8, False)
        container[index].register_forward_hook(lambda *_: seen.append(1))
    if spec.outputs:
        quantized.output_quantizers[0] = affine.QuantizeDequantize((), 8, False)
        quantized.output_quantizers[0].set_range(-3.0, 3.0)
    for container, index in places:
        container[index].set_range(-3.0, 3.0)
    results = leaves(quantized(*inputs))
    floats = [result for result in results if result.is_floating_point()]
    counted = len(inputs) if spec.variadic_inputs else spec.input_count
    if spec.module_class.__name__ != "MaskedFill":  # its value is a number here
        assert len(seen) == counted
    scale = 6.0 / 255
    for result in floats[: 1 if not spec.variadic_outputs else None]:
        torch.testing.assert_close(result / scale, (result / scale).round(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("spec", SPECS, ids=by_name)
def test_fresh_outputs(spec: ModuleSpec) -> None:
    if not spec.fresh_output:
        pytest.skip("the row does not say so")
    arguments, inputs, _ = CASES[spec.module_class.__name__]
    module = spec.module_class(*arguments)
    held = {leaf.untyped_storage().data_ptr() for leaf in (*leaves(inputs), *module.parameters())}
    with torch.no_grad():
        assert not held & {result.untyped_storage().data_ptr() for result in leaves(module(*inputs))}


@pytest.mark.parametrize("spec", FUNCTIONAL_MODULES, ids=by_name)
def test_classes_are_found_and_pickle(spec: ModuleSpec) -> None:
    name = spec.module_class.__name__
    assert getattr(functional_modules, name) is getattr(quantsim.nn, name) is getattr(custom, name)
    assert getattr(custom, f"Quantized{name}") is getattr(quantsim.nn, f"Quantized{name}")
    arguments = CASES.get(name, ((False, 0, 4), (), None))[0]
    for cls in (spec.module_class, getattr(quantsim.nn, f"Quantized{name}")):
        module = cls(*arguments)
        assert type(pickle.loads(pickle.dumps(module))) is type(copy.deepcopy(module)) is cls


def test_numbers_on_either_side() -> None:
    assert torch.equal(quantsim.nn.Subtract()(1.0, A), 1 - A)
    assert torch.equal(quantsim.nn.Divide()(1.0, A), 1 / A)
    assert torch.equal(quantsim.nn.Add()(2.0, A, alpha=3), 2 + 3 * A)
    module = quantsim.nn.QuantizedAdd()
    module.input_quantizers[1] = affine.QuantizeDequantize((), 2, True)
    module.input_quantizers[1].set_range(-1.0, 1.0)
    assert torch.equal(module(2.0, A), 2 + module.input_quantizers[1](A))
    assert torch.equal(module(2.0, other=A), 2 + module.input_quantizers[1](A))


def test_one_quantizer_of_a_concatenation_is_for_all_inputs() -> None:
    concat = quantsim.nn.QuantizedConcat()
    quantizer = concat.input_quantizers[0] = affine.QuantizeDequantize((), 2, True)
    quantizer.set_range(-1.0, 1.0)
    assert torch.equal(concat(A, B), quantizer(torch.cat([A, B])))
    concat.input_quantizers = nn.ModuleList([quantizer, None])
    assert torch.equal(concat(A, B), torch.cat([quantizer(A), B]))


def test_outputs_of_a_split() -> None:
    split = quantsim.nn.QuantizedSplit()
    quantizer = split.output_quantizers[0] = affine.QuantizeDequantize((), 2, True)
    quantizer.set_range(-1.0, 1.0)
    for got, want in zip(split(A, 2, dim=1), A.split(2, 1), strict=True):
        assert torch.equal(got, quantizer(want))


def test_named_tuples_stay_named_tuples() -> None:
    topk = quantsim.nn.QuantizedTopK()
    topk.output_quantizers[0] = affine.QuantizeDequantize((), 2, True)
    topk.output_quantizers[0].set_range(-1.0, 1.0)
    result = topk(A, 2)
    assert torch.equal(result[1], A.topk(2).indices)
    assert torch.equal(result[0], topk.output_quantizers[0](A.topk(2).values))


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("rotary", [0, 4])
@pytest.mark.parametrize("flat", [False, True])
def test_rotary_embedding(interleaved: bool, rotary: int, flat: bool) -> None:
    heads, size, length = 2, 6, 5
    x = torch.randn(3, heads, length, size, generator=G)
    half = (rotary or size) // 2
    angles = torch.outer(torch.arange(length).float(), torch.rand(half, generator=G))
    pairs = x[..., : 2 * half]
    points = (
        torch.complex(pairs[..., 0::2], pairs[..., 1::2])
        if interleaved
        else torch.complex(pairs[..., :half], pairs[..., half:])
    )
    turned = points * torch.polar(torch.ones_like(angles), angles)
    parts = (turned.real, turned.imag)
    rotated = torch.stack(parts, -1).flatten(-2) if interleaved else torch.cat(parts, -1)
    expected = torch.cat([rotated, x[..., 2 * half :]], -1)
    module = quantsim.nn.RotaryEmbedding(interleaved, rotary, size)
    given = x.transpose(1, 2).flatten(2) if flat else x
    expected = expected.transpose(1, 2).flatten(2) if flat else expected
    torch.testing.assert_close(module(given, angles.cos(), angles.sin()), expected)
    positions = torch.arange(length).expand(3, length)
    torch.testing.assert_close(module(given, angles.cos(), angles.sin(), positions), expected)


def test_hadamard_wants_a_power_of_two() -> None:
    with pytest.raises(ValueError, match="power of two"):
        quantsim.nn.HadamardRotation(6)
