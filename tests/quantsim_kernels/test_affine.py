"""Every backend of the affine ops against the reference, and the entry points in all the places they run."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils._python_dispatch import TorchDispatchMode

from quantsim_kernels import (
    Backend,
    Scheme,
    affine_dequantize,
    affine_dynamic_quantize_dequantize,
    affine_quantize,
    affine_quantize_dequantize,
    backends,
    force_backend,
)

QDQ, DYNAMIC = "affine_quantize_dequantize", "affine_dynamic_quantize_dequantize"


class Case(NamedTuple):
    shape: tuple[int, ...]
    scale_shape: tuple[int, ...]
    block_size: tuple[int, ...] | None = None


CASES = {
    "number": Case((), ()),
    "number-one": Case((), (1,)),
    "empty": Case((0, 5), (5,)),
    "tensor": Case((4, 16), ()),
    "tensor-one": Case((4, 16), (1,)),
    "channel": Case((30, 17), (30, 1)),
    "last-channel": Case((30, 17), (17,)),
    "conv-channel": Case((2, 6, 5, 5), (6, 1, 1)),
    "two-axes": Case((4, 3, 5), (4, 1, 5)),
    "block": Case((6, 64), (6, 2), (1, 32)),
    "block-rows": Case((64, 6), (2, 6), (32, 1)),
    "block-whole": Case((6, 64), (6, 1), (-1, -1)),
    "block-both": Case((8, 32), (2, 4), (4, 8)),
    "block-batch": Case((3, 8, 32), (8, 4), (1, -1)),
    "block-conv": Case((8, 12, 3, 3), (8, 3, 1, 1), (1, 4, 3, 3)),
    "element": Case((3, 4), (3, 4)),
}
GRIDS = {"int8": (-128, 127), "uint8": (0, 255), "int4": (-8, 7), "strict": (-7, 7), "uint16": (0, 65535)}
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16, "f64": torch.float64}


def operands(case: Case, dtype: torch.dtype, offset: str, seed: int = 0) -> tuple[Tensor, Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(seed)
    x = (torch.randn(case.shape, generator=generator) * 3).to(dtype)
    scale = torch.rand(case.scale_shape, generator=generator) * 0.05 + 0.01
    shapes = {"same": case.scale_shape, "number": ()}
    if offset == "none":
        return x, scale, None
    return x, scale, torch.randint(-20, 20, shapes[offset], generator=generator).float()


def with_gradients(
    x: Tensor, scale: Tensor, offset: Tensor | None, grad: Tensor, *arguments: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    leaves = [None if t is None else t.clone().requires_grad_() for t in (x, scale, offset)]
    y = affine_quantize_dequantize(*leaves, *arguments)  # type: ignore[arg-type]
    y.backward(grad)
    dx, dscale, doffset = (None if leaf is None else leaf.grad for leaf in leaves)
    assert dx is not None
    assert dscale is not None
    return y.detach(), dx, dscale, doffset


@pytest.mark.parametrize("backend", [b for b in backends(QDQ) if b is not Backend.REFERENCE])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_quantize_dequantize_equals_the_reference(
    case: Case, dtype: torch.dtype, backend: Backend, forced: Any, assert_same_bits: Any
) -> None:
    for grid in GRIDS.values():
        for offset in ("none", "same", "number"):
            x, scale, o = operands(case, dtype, offset)
            grad = torch.randn(case.shape).to(dtype)
            arguments = (*grid, case.block_size)
            with force_backend(Backend.REFERENCE):
                expected = with_gradients(x, scale, o, grad, *arguments)
            with forced(backend, QDQ, Scheme.AFFINE, x, scale, o, *arguments):
                actual = with_gradients(x, scale, o, grad, *arguments)
                with torch.no_grad():
                    assert_same_bits(affine_quantize_dequantize(x, scale, o, *arguments), expected[0])
                    overwritten = affine_quantize_dequantize(x.clone(), scale, o, *arguments, inplace=True)
                    assert_same_bits(overwritten, expected[0])
            assert_same_bits(actual[0], expected[0])
            assert torch.equal(actual[1], expected[1])
            # Sums are gathered in another order: 2e-6 of what was added up.
            share = max(1, x.numel() // max(1, scale.numel()))
            for result, wanted in zip(actual[2:], expected[2:], strict=True):
                if result is not None and wanted is not None:
                    bound = 2e-6 * share**0.5 * max(map(abs, grid))
                    torch.testing.assert_close(result, wanted, rtol=2e-6, atol=bound)


@pytest.mark.parametrize("backend", [b for b in backends("affine_quantize") if b is not Backend.REFERENCE])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_quantize_and_dequantize_equal_the_reference(
    case: Case, dtype: torch.dtype, backend: Backend, forced: Any, assert_same_bits: Any
) -> None:
    for offset in ("none", "same"):
        x, scale, o = operands(case, dtype, offset)
        with force_backend(Backend.REFERENCE):
            codes = affine_quantize(x, scale, o, -8, 7, case.block_size)
            reals = affine_dequantize(codes, scale, o, case.block_size)
            from_integers = affine_dequantize(codes.to(torch.int8), scale, o, case.block_size)
        with forced(backend, "affine_quantize", Scheme.AFFINE, x, scale, o, -8, 7, case.block_size):
            assert_same_bits(affine_quantize(x, scale, o, -8, 7, case.block_size), codes)
            assert_same_bits(affine_dequantize(codes, scale, o, case.block_size), reals)
            assert_same_bits(affine_dequantize(codes.to(torch.int8), scale, o, case.block_size), from_integers)


@pytest.mark.parametrize("backend", [b for b in backends(DYNAMIC) if b is not Backend.REFERENCE])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("shape", [(), (5,), (0, 4), (3, 1), (7, 33), (2, 3, 8)], ids=str)
def test_dynamic_equals_the_reference(
    shape: tuple[int, ...], dtype: torch.dtype, backend: Backend, forced: Any, assert_same_bits: Any
) -> None:
    x = torch.randn(shape).to(dtype)
    if x.dim() > 1 and x.numel():
        x[0] = 0
        x[1:] += 3
    for symmetric, grid in (
        (True, (-128, 127)),
        (False, (0, 255)),
        (True, (0, 255)),
        (True, (-2, 1)),
        (False, (-8, 7)),
    ):
        with force_backend(Backend.REFERENCE):
            expected = affine_dynamic_quantize_dequantize(x, *grid, symmetric)
        with forced(backend, DYNAMIC, Scheme.AFFINE, x, *grid, symmetric):
            assert_same_bits(affine_dynamic_quantize_dequantize(x, *grid, symmetric), expected)
            assert_same_bits(affine_dynamic_quantize_dequantize(x.clone(), *grid, symmetric, inplace=True), expected)
            leaf = x.clone().requires_grad_()
            y = affine_dynamic_quantize_dequantize(leaf, *grid, symmetric)
            assert_same_bits(y.detach(), expected)
            grad = torch.randn(shape).to(dtype)
            y.backward(grad)
            assert leaf.grad is not None
            assert_same_bits(leaf.grad, grad)


@pytest.mark.parametrize("backend", [Backend.REFERENCE, Backend.TORCH])
def test_memory_formats_and_gaps(backend: Backend, assert_same_bits: Any) -> None:
    base = torch.randn(8, 6, 10, 10)
    scale = torch.rand(6, 1, 1) + 0.1
    expected = affine_quantize_dequantize(base, scale, None, -8, 7)
    with force_backend(backend):
        last = affine_quantize_dequantize(base.to(memory_format=torch.channels_last), scale, None, -8, 7)
        assert_same_bits(last, expected)
        if backend is Backend.TORCH:
            assert last.is_contiguous(memory_format=torch.channels_last)
        transposed = affine_quantize_dequantize(base.transpose(0, 3), scale, None, -8, 7)
        assert_same_bits(transposed, affine_quantize_dequantize(base.transpose(0, 3).contiguous(), scale, None, -8, 7))
        assert_same_bits(affine_quantize_dequantize(base[:, :, ::2], scale, None, -8, 7), expected[:, :, ::2])
        spread = torch.randn(6, 1, 1).expand(8, 6, 10, 10)
        assert_same_bits(
            affine_quantize_dequantize(spread, scale, None, -8, 7),
            affine_quantize_dequantize(spread.contiguous(), scale, None, -8, 7),
        )


def test_special_values() -> None:
    x = torch.tensor([float("inf"), -float("inf"), float("nan"), -0.0, -1e-30, 3e38])
    y = affine_quantize_dequantize(x, torch.tensor(0.5), None, -8, 7)
    assert y[:2].tolist() == [3.5, -4.0]
    assert y[2].isnan()
    assert not torch.signbit(y[3:5]).any()
    assert y[5].item() == 3.5


def test_infinite_inputs_have_finite_gradients() -> None:
    for backend in (Backend.REFERENCE, Backend.TORCH):
        x = torch.tensor([float("inf"), 1.0]).requires_grad_()
        with force_backend(backend):
            affine_quantize_dequantize(x, torch.tensor(0.5), None, -8, 7).sum().backward()
        assert x.grad is not None
        assert x.grad.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("backend", [Backend.REFERENCE, Backend.TORCH])
def test_only_wanted_gradients_are_made(backend: Backend) -> None:
    x, scale, offset = torch.randn(5, 8), torch.rand(5, 1) + 0.1, torch.zeros(5, 1)
    for wanted in range(1, 8):
        leaves = [t.clone().requires_grad_(bool(wanted >> i & 1)) for i, t in enumerate((x, scale, offset))]
        with force_backend(backend):
            affine_quantize_dequantize(*leaves, -8, 7).sum().backward()
        assert [leaf.grad is not None for leaf in leaves] == [bool(wanted >> i & 1) for i in range(3)]


def test_parameters_are_accepted() -> None:
    weight = Parameter(torch.randn(4, 8))
    y = affine_quantize_dequantize(weight, Parameter(torch.tensor(0.1)), None, -8, 7)
    assert y.grad_fn is not None
    assert type(y) is Tensor


class _Allocations(TorchDispatchMode):
    """Counts results of at least ``size`` elements that are new memory."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.seen = size, set[int]()
        self.keep: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().nbytes() >= 4 * self.size:
                self.keep.append(tensor)
                self.seen.add(tensor.untyped_storage().data_ptr())
        return result


@pytest.mark.parametrize("shape", [(64, 64), (3000, 1024)], ids=["whole", "pieces"])
@pytest.mark.parametrize("scale_shape", [(), (1, 1), "channel"], ids=str)
def test_without_gradients_one_tensor_is_allocated(shape: tuple[int, int], scale_shape: Any) -> None:
    x = torch.randn(shape)
    scale = torch.rand((shape[0], 1) if scale_shape == "channel" else scale_shape) + 0.1
    with torch.no_grad(), _Allocations(x.numel()) as allocations:
        y = affine_quantize_dequantize(x, scale, None, -8, 7)
    assert allocations.seen - {x.untyped_storage().data_ptr()} == {y.untyped_storage().data_ptr()}
    with torch.no_grad(), _Allocations(x.numel()) as allocations:
        assert affine_quantize_dequantize(x, scale, None, -8, 7, inplace=True) is x or scale_shape == ()
    assert allocations.seen <= {x.untyped_storage().data_ptr()}


def test_with_gradients_only_the_inputs_are_saved() -> None:
    x, scale, offset = torch.randn(64, 64).requires_grad_(), torch.tensor(0.1).requires_grad_(), torch.tensor(3.0)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        affine_quantize_dequantize(x, scale, offset, 0, 255)
    assert {t.data_ptr() for t in saved} == {x.data_ptr(), scale.data_ptr(), offset.data_ptr()}


def test_inplace_is_refused_where_the_backward_needs_x() -> None:
    x = torch.randn(4, requires_grad=True)
    with pytest.raises(ValueError, match=r"inplace=True.*torch.no_grad"):
        affine_quantize_dequantize(x * 1, torch.tensor(0.1), None, -8, 7, inplace=True)
    with pytest.raises(ValueError, match=r"inplace=True.*torch.no_grad"):
        affine_dynamic_quantize_dequantize(x * 1, -8, 7, True, inplace=True)
    with torch.no_grad():
        affine_quantize_dequantize(x * 1, torch.tensor(0.1), None, -8, 7, inplace=True)


@pytest.mark.parametrize("backend", [Backend.REFERENCE, Backend.TORCH])
@pytest.mark.parametrize(
    ("shape", "scale_shape", "block_size"),
    [
        ((4, 16), (3, 1), None),
        ((16,), (4, 1), None),
        ((1, 16), (4, 1), None),
        ((4, 16), (4, 3), (1, 8)),
        ((4, 16), (4, 2), (8,)),
        ((16,), (2, 2), (1, 8)),
        ((4, 16), (4, 3), (1, -1)),
    ],
    ids=str,
)
@pytest.mark.parametrize("inplace", [False, True])
def test_shapes_that_do_not_fit_are_named(
    backend: Backend, shape: Any, scale_shape: Any, block_size: Any, inplace: bool
) -> None:
    with (
        force_backend(backend),
        torch.no_grad(),
        pytest.raises(ValueError, match=r"got .*expected"),
    ):
        affine_quantize_dequantize(torch.ones(shape), torch.ones(scale_shape), None, -8, 7, block_size, inplace=inplace)


def test_codes_must_fit_the_dtype() -> None:
    with pytest.raises(ValueError, match=r"bfloat16, which cannot hold all integers of 0..65535.*x.float\(\)"):
        affine_quantize(torch.ones(4, dtype=torch.bfloat16), torch.tensor(0.1), None, 0, 65535)


def test_zero_point_shift() -> None:
    x = torch.linspace(-1, 1, 9)
    scale = torch.tensor(0.5)
    y = affine_quantize_dequantize(x, scale, None, -2, 1, zero_point_shift=0.5)
    assert set(y.tolist()) == {-0.75, -0.25, 0.25, 0.75}


@pytest.mark.parametrize("device", ["meta"])
def test_meta_tensors(device: str) -> None:
    x, scale = torch.ones(4, 16, device=device, requires_grad=True), torch.ones(4, 1, device=device)
    y = affine_quantize_dequantize(x, scale, torch.zeros(4, 1, device=device), -8, 7)
    assert (y.shape, y.device.type) == ((4, 16), "meta")
    y.sum().backward()
    assert affine_quantize(x, scale, None, -8, 7).is_meta
    assert affine_dequantize(x, scale, None).is_meta
    assert affine_dynamic_quantize_dequantize(x, -8, 7, True).is_meta


COMPILED = {
    "tensor": lambda x, s, o: affine_quantize_dequantize(x, s, None, -128, 127),
    "asymmetric": lambda x, s, o: affine_quantize_dequantize(x, s, o, 0, 255),
    "dynamic": lambda x, s, o: affine_dynamic_quantize_dequantize(x, 0, 255, False) * s,
    "dynamic-symmetric": lambda x, s, o: affine_dynamic_quantize_dequantize(x, -128, 127, True) * s,
    "two-steps": lambda x, s, o: affine_dequantize(affine_quantize(x, s, o, 0, 255), s, o),
}


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_forward_and_backward_equal_eager(name: str, assert_same_bits: Any) -> None:
    function = COMPILED[name]
    compiled = torch.compile(function, fullgraph=True, dynamic=True)
    for shape in ((4, 16), (7, 9)):
        results = []
        for run in (function, compiled):
            generator = torch.Generator().manual_seed(1)
            x = torch.randn(shape, generator=generator).requires_grad_()
            s, o = torch.tensor(0.02).requires_grad_(), torch.tensor(-40.0).requires_grad_()
            y = run(x, s, o)
            y.backward(torch.randn(shape, generator=generator))
            results.append((y.detach(), x.grad, s.grad, o.grad))
        eager, traced = results
        assert_same_bits(traced[0], eager[0])
        torch.testing.assert_close(traced[1:], eager[1:], rtol=1e-5, atol=1e-5)


class Everything(torch.nn.Module):
    """All four ops in one graph."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = Parameter(torch.rand(16, 2) * 0.1 + 0.02)
        self.weight = Parameter(torch.randn(16, 32))

    def forward(self, x: Tensor) -> Tensor:
        w = affine_quantize_dequantize(self.weight, self.scale, None, -8, 7, (1, 16))
        x = affine_dynamic_quantize_dequantize(x, 0, 255, False)
        y = torch.nn.functional.linear(x, w)
        scale = self.scale.mean()
        return affine_dequantize(affine_quantize(y, scale, None, -128, 127), scale, None)


@pytest.mark.parametrize("strict", [False, True])
def test_exported_program_equals_eager(strict: bool, assert_same_bits: Any) -> None:
    module = Everything()
    x = torch.randn(5, 32)
    batch = torch.export.Dim("batch")
    program = torch.export.export(module, (x,), dynamic_shapes={"x": {0: batch}}, strict=strict)
    for rows in (5, 8):
        x = torch.randn(rows, 32)
        assert_same_bits(program.module()(x).detach(), module(x).detach())


def test_importing_the_package_loads_no_triton() -> None:
    code = "import sys, quantsim_kernels; print([m for m in ('triton', 'torch._inductor') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
