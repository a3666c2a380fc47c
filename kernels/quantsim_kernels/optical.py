"""Products of a simulated photonic engine, with gradients, on the best kernel for the operands.

The numbers are defined in :mod:`quantsim_kernels.reference.optical`. A range is a float32 tensor (lo, hi). Whatever the
operands' dtype, levels are computed and products accumulated in float32, also under autocast; on a GPU torch's own
setting for float32 products applies.

The gradient passes straight through levels, noise and smallest transmission, as if the operands had never been
quantized. ``OpticalGradient.CLIPPED`` stops it where a value lies outside its range.
"""

from __future__ import annotations

import math
from enum import StrEnum
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor

from quantsim_encodings.formats import OpticalFormat, OpticalNoise
from quantsim_kernels._optical_autograd import LinearFunction, MatmulFunction, QuantizeFunction
from quantsim_kernels.random_seeds import next_seed, seed_tensor
from quantsim_kernels.reference import optical as reference
from quantsim_kernels.registry import Backend, Scheme, registry
from quantsim_kernels.torch import optical as fast
from quantsim_kernels.triton import availability

__all__ = [
    "OpticalGradient",
    "optical_accumulate",
    "optical_linear",
    "optical_matmul",
    "optical_quantize",
]

QUANTIZE = "optical_quantize"
LINEAR = "optical_linear"
MATMUL = "optical_matmul"

DEFAULT_LUT = 0.020040


class OpticalGradient(StrEnum):
    """What of a gradient passes a quantizer."""

    IDENTITY = "identity"
    """All of it."""
    CLIPPED = "clipped"
    """Nothing where the value lies outside the range."""


def _check(levels: int, lut: float | None, noise: Any, photons: float | None, ste: Any) -> tuple[Any, Any]:
    """Noise and gradient as enums; raises where a setting is impossible."""
    format = OpticalFormat(levels, lut, noise)
    counted = isinstance(photons, (int, float)) and not isinstance(photons, bool) and 0.0 < photons < math.inf
    if format.noise is OpticalNoise.SHOT and not counted:
        raise ValueError(f"photons: got {photons!r}, expected a positive finite number for noise='shot'")
    try:
        return format.noise, OpticalGradient(ste)
    except ValueError:
        raise ValueError(f"ste: got {ste!r}, expected 'identity' or 'clipped'") from None


_checked: dict[tuple[Any, ...], tuple[OpticalNoise, OpticalGradient]] = {}
"""Settings that were found possible. (`functools.lru_cache` would warn where a compiler traces it.)"""


def checked_settings(
    levels: int, lut: float | None, noise: Any, photons: float | None, ste: Any
) -> tuple[OpticalNoise, OpticalGradient]:
    """Noise and gradient as enums; raises where a setting is impossible."""
    if torch.compiler.is_compiling():
        # The names alone: a compiler cannot trace the rest.
        return OpticalNoise.parse(noise), OpticalGradient(ste)
    # 1, 1.0 and True are one key, but not one setting.
    key = (type(levels), levels, type(lut), lut, type(noise), noise, type(photons), photons, ste)
    try:
        return _checked[key]
    except (KeyError, TypeError):
        parsed = _check(levels, lut, noise, photons, ste)
    if len(_checked) < _MOST_CHECKED:
        _checked[key] = parsed
    return parsed


_MOST_CHECKED: Final = 256


def check_operand(where: str, tensor: Any, dims: int = 0) -> None:
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        got = f"a {tensor.dtype} tensor" if isinstance(tensor, Tensor) else type(tensor).__name__
        raise TypeError(f"{where}: got {got}, expected a floating-point tensor")
    if tensor.dim() < dims:
        raise ValueError(f"{where}: got shape {tuple(tensor.shape)}, expected at least {dims} dimensions")


def _check_range(where: str, range: Any, optional: bool = False) -> None:
    if range is None and optional:
        return
    if not isinstance(range, Tensor) or not range.is_floating_point() or range.dim() < 1 or range.shape[0] != 2:
        got = f"a {range.dtype} tensor of shape {tuple(range.shape)}" if isinstance(range, Tensor) else repr(range)
        raise ValueError(f"{where}: got {got}, expected a float32 tensor (lo, hi) of shape (2,)")


def _settings(
    levels: int, lut: float | None, noise: Any, seed: int | Tensor | None, photons: float | None, device: torch.device
) -> dict[str, Any]:
    """The arguments of a kernel; the seed as a tensor, ``None`` where nothing is random."""
    start = None
    if noise is not OpticalNoise.NONE:
        start = next_seed(device) if seed is None else seed_tensor(seed, device)
    budget = photons if noise is OpticalNoise.SHOT else None
    return {"levels": levels, "lut": lut, "noise": noise, "seed": start, "photons": budget}


def _kernel(op: str, definition: Any, *operands: Any, **arguments: Any) -> Any:
    """What computes ``op``: inside a compiler the definition, which it fuses."""
    if torch.compiler.is_compiling():
        return definition
    return registry.require(op, Scheme.OPTICAL, *operands, **arguments).function


def _constants(*ranges: Tensor | None) -> list[Tensor | None]:
    """Ranges without gradient, each a tensor of its own: a compiler takes none twice."""
    return [None if each is None else each.detach() for each in ranges]


def _needs_grad(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in tensors)


def optical_quantize(
    x: Tensor,
    range: Tensor,
    levels: int = 256,
    *,
    lut: float | None = None,
    noise: OpticalNoise | str | bool = OpticalNoise.NONE,
    seed: int | Tensor | None = None,
    photons: float | None = None,
    ste: OpticalGradient | str = OpticalGradient.IDENTITY,
    owned: bool = False,
) -> Tensor:
    """``x`` on ``levels`` evenly spaced levels from ``lo`` to ``hi``, both included.

    Args:
        x: floating-point tensor, any shape.
        range: (lo, hi), shape ``(2,)``, or ``(2, ...)`` with a rest that broadcasts to ``x``, such as ``(2, rows, 1)``.
        levels: number of levels, 2 to 2**24.
        lut: smallest transmission: non-zero magnitudes below this fraction of the range's end on their side are raised
            to it.
        noise: before rounding: dither (uniform, half a level either way), shot (Gaussian, variance
            ``|x| max(|lo|, |hi|) / photons``) or none.
        seed: of the noise: an integer, or a 0-d int64 tensor, which is never read back from its device; ``None`` draws
            from quantsim's own stream. Every element has noise of its own.
        photons: photons of a value as large as the larger end of the range; for shot noise.
        ste: gradient: all of it, or zero outside the range. Ranges have none.
        owned: whether ``x`` may be overwritten, as nobody else holds it and no gradient needs it.

    Returns:
        Level values in the shape and dtype of ``x``.

    Raises:
        TypeError: ``x`` is no floating-point tensor.
        ValueError: a setting is out of its range.

    Example:
        >>> optical_quantize(torch.tensor([-3.0, 0.2, 0.3]), torch.tensor([-1.0, 1.0]), 5)
        tensor([-1.0000,  0.0000,  0.5000])
        >>> optical_quantize(torch.full((4,), 0.25), torch.tensor([0.0, 1.0]), 3, noise="dither", seed=5)
        tensor([0.0000, 0.0000, 0.0000, 0.5000])
    """
    parsed, gradient = checked_settings(levels, lut, noise, photons, ste)
    check_operand("optical_quantize(x)", x)
    _check_range("optical_quantize(range)", range)
    settings = _settings(levels, lut, parsed, seed, photons, x.device)
    kernel = _kernel(QUANTIZE, reference.quantize, x, range, **settings)
    clipped = gradient is OpticalGradient.CLIPPED
    if owned and kernel is fast.quantize and not (clipped or (x.is_leaf and x.requires_grad)):
        settings["owned"] = True
    function = partial(kernel, **settings)
    if not _needs_grad(x):
        return function(x, range.detach())
    return QuantizeFunction.apply(x, range.detach(), function, clipped)


def optical_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    x_range: Tensor,
    weight_range: Tensor,
    output_range: Tensor | None,
    *,
    levels: int = 256,
    lut: float | None = DEFAULT_LUT,
    noise: OpticalNoise | str | bool = OpticalNoise.DITHER,
    seed: int | Tensor | None = None,
    photons: float | None = None,
    error_map: Tensor | None = None,
    ste: OpticalGradient | str = OpticalGradient.IDENTITY,
    weight_codes: dict[str, Any] | None = None,
) -> tuple[Tensor, Tensor]:
    """``Q_noise(Q(x) Q(W; lut)^T) + bias`` and the range of the product before it is clipped and biased.

    Args:
        x: inputs, shape ``(..., K)``, any strides.
        weight: shape ``(N, K)``.
        bias: shape ``(N,)`` or ``None``; added after the product is quantized, itself not quantized.
        x_range: (lo, hi) of the inputs, see :func:`optical_quantize`.
        weight_range: (lo, hi) of the weights.
        output_range: (lo, hi) of the product; ``None``: the product is not quantized and without noise.
        levels: number of levels of all three.
        lut: smallest transmission of the weights' modulator.
        noise: noise of the product.
        seed: see :func:`optical_quantize`.
        photons: photons for each multiply-accumulate: a product at full scale has ``K`` times as many.
        error_map: static error of each weight: a factor in the shape of ``weight`` or one that broadcasts to it.
        ste: see :func:`optical_quantize`.
        weight_codes: where kernels keep what they made of the weight, each under its own name, and find it in the next
            call: for those that know that weight, ``weight_range``, ``levels``, ``lut`` and ``error_map`` are the same
            in all calls with this dictionary. ``None``: nothing is kept.

    Returns:
        The result, shape ``(..., N)``, in the dtype of ``x`` (float32 if ``output_range`` is ``None``), and smallest
        and largest value of the product, float32, shape ``(2,)``, without gradient.

    Raises:
        TypeError: an operand is no floating-point tensor.
        ValueError: shapes do not fit, or a setting is out of its range.

    Example:
        >>> unit = torch.tensor([-1.0, 1.0])
        >>> x, weight = torch.tensor([[1.0, -1.0]]), torch.tensor([[1.0, 0.5]])
        >>> optical_linear(x, weight, torch.tensor([3.0]), unit, unit, unit, levels=5, noise="none")
        (tensor([[3.5000]]), tensor([0.5000, 0.5000]))
    """
    parsed, gradient = checked_settings(levels, lut, noise, photons, ste)
    check_operand("optical_linear(x)", x, 1)
    check_operand("optical_linear(weight)", weight, 2)
    if weight.dim() != 2 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"optical_linear(x, weight): got shapes {tuple(x.shape)} and {tuple(weight.shape)}, expected (..., K) "
            "and (N, K)"
        )
    if bias is not None:
        check_operand("optical_linear(bias)", bias, 1)
        if tuple(bias.shape) != (weight.shape[0],):
            raise ValueError(f"optical_linear(bias): got shape {tuple(bias.shape)}, expected ({weight.shape[0]},)")
    for name, each, optional in (
        ("x", x_range, False),
        ("weight", weight_range, False),
        ("output", output_range, True),
    ):
        _check_range(f"optical_linear({name}_range)", each, optional)
    if output_range is None:
        parsed = OpticalNoise.NONE
    clipped = gradient is OpticalGradient.CLIPPED
    needs_grad = _needs_grad(x, weight, bias)
    if needs_grad and clipped and output_range is not None:
        # Where the product is clipped only the product itself tells; it is not kept by the fused form.
        product, extremes = optical_linear(
            x, weight, None, x_range, weight_range, None, levels=levels, lut=lut, error_map=error_map, ste=ste,
            weight_codes=weight_codes,
        )  # fmt: skip
        y = optical_quantize(
            product, output_range, levels, noise=parsed, seed=seed, photons=_total(photons, x), ste=gradient
        )
        return (y if bias is None else y + bias.to(torch.float32)).to(x.dtype), extremes
    settings = _settings(levels, lut, parsed, seed, photons, x.device) | {"error_map": error_map}
    if weight_codes is not None:
        settings["weight_codes"] = weight_codes
    operands = (x, weight, bias, *_constants(x_range, weight_range, output_range))
    function = partial(_kernel(LINEAR, reference.linear, *operands, **settings), **settings)
    if not needs_grad:
        return function(*operands)
    return LinearFunction.apply(*operands, error_map, function, clipped)


def _total(photons: float | None, x: Tensor) -> float | None:
    """Photons of a product at full scale."""
    return None if photons is None else photons * x.shape[-1]


def optical_accumulate(
    x: Tensor,
    weight: Tensor,
    x_range: Tensor,
    weight_range: Tensor,
    levels: int = 256,
    lut: float | None = DEFAULT_LUT,
    *,
    error_map: Tensor | None = None,
    ste: OpticalGradient | str = OpticalGradient.IDENTITY,
    weight_codes: dict[str, Any] | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`optical_linear` without quantized output: for those that update its range from this very product.

    ``optical_quantize`` of the product (with ``K`` times as many photons), plus the bias, then gives the numbers of
    :func:`optical_linear`.

    Returns:
        The product, float32, shape ``(..., N)``, and its range.

    Example:
        >>> unit = torch.tensor([-1.0, 1.0])
        >>> optical_accumulate(torch.ones(1, 40), torch.ones(2, 40), unit, unit)
        (tensor([[40., 40.]]), tensor([40., 40.]))
    """
    return optical_linear(
        x, weight, None, x_range, weight_range, None, levels=levels, lut=lut, noise=OpticalNoise.NONE,
        error_map=error_map, ste=ste, weight_codes=weight_codes,
    )  # fmt: skip


def optical_matmul(
    a: Tensor,
    b: Tensor,
    a_range: Tensor,
    b_range: Tensor,
    output_range: Tensor | None,
    *,
    levels: int = 256,
    lut: float | None = DEFAULT_LUT,
    noise: OpticalNoise | str | bool = OpticalNoise.DITHER,
    seed: int | Tensor | None = None,
    photons: float | None = None,
    error_map: Tensor | None = None,
    ste: OpticalGradient | str = OpticalGradient.IDENTITY,
) -> tuple[Tensor, Tensor]:
    """``Q_noise(Q(a) Q(b; lut))`` and the range of the product before it is clipped.

    Args:
        a: shape ``(..., M, K)``, any strides.
        b: shape ``(..., K, N)``; batch dimensions broadcast.
        a_range: (lo, hi) of ``a``, or one for each row, see :func:`optical_quantize`.
        b_range: (lo, hi) of ``b``.
        output_range: see :func:`optical_linear`, as for what follows.
        levels: ...
        lut: smallest transmission of the modulator of ``b``; ``a`` has none.
        noise: ...
        seed: ...
        photons: ...
        error_map: static error of each element of ``b``.
        ste: ...

    Returns:
        The result, shape ``(..., M, N)``, and the range of the product, as :func:`optical_linear`.

    Raises:
        TypeError, ValueError: as :func:`optical_linear`.

    Example:
        >>> unit = torch.tensor([-1.0, 1.0])
        >>> optical_matmul(
        ...     torch.ones(2, 3), torch.ones(3, 1), unit, unit, torch.tensor([0.0, 4.0]), levels=5, noise=False
        ... )
        (tensor([[3.],
                [3.]]), tensor([3., 3.]))
    """
    parsed, gradient = checked_settings(levels, lut, noise, photons, ste)
    check_operand("optical_matmul(a)", a, 2)
    check_operand("optical_matmul(b)", b, 2)
    if a.shape[-1] != b.shape[-2]:
        raise ValueError(
            f"optical_matmul(a, b): got shapes {tuple(a.shape)} and {tuple(b.shape)}, expected (..., M, K) and "
            "(..., K, N)"
        )
    for name, each, optional in (("a", a_range, False), ("b", b_range, False), ("output", output_range, True)):
        _check_range(f"optical_matmul({name}_range)", each, optional)
    if output_range is None:
        parsed = OpticalNoise.NONE
    clipped = gradient is OpticalGradient.CLIPPED
    needs_grad = _needs_grad(a, b)
    if needs_grad and clipped and output_range is not None:
        product, extremes = optical_matmul(
            a, b, a_range, b_range, None, levels=levels, lut=lut, error_map=error_map, ste=ste
        )
        y = optical_quantize(
            product, output_range, levels, noise=parsed, seed=seed, photons=_total(photons, a), ste=gradient
        )
        return y.to(a.dtype), extremes
    settings = _settings(levels, lut, parsed, seed, photons, a.device) | {"error_map": error_map}
    operands = (a, b, *_constants(a_range, b_range, output_range))
    function = partial(_kernel(MATMUL, reference.matmul, *operands, **settings), **settings)
    if not needs_grad:
        return function(*operands)
    return MatmulFunction.apply(*operands, error_map, function, clipped)


registry.register(op=QUANTIZE, scheme=Scheme.OPTICAL, backend=Backend.REFERENCE)(reference.quantize)
registry.register(op=QUANTIZE, scheme=Scheme.OPTICAL, backend=Backend.TORCH, predicate=fast.objection, priority=10)(
    fast.quantize
)
registry.register(op=LINEAR, scheme=Scheme.OPTICAL, backend=Backend.REFERENCE)(reference.linear)
registry.register(op=LINEAR, scheme=Scheme.OPTICAL, backend=Backend.TORCH, predicate=fast.objection, priority=10)(
    fast.linear
)
registry.register(op=MATMUL, scheme=Scheme.OPTICAL, backend=Backend.REFERENCE)(reference.matmul)
registry.register(op=MATMUL, scheme=Scheme.OPTICAL, backend=Backend.TORCH, predicate=fast.objection, priority=10)(
    fast.matmul
)


def _triton(name: str) -> Any:
    """The Triton kernel of this name, which is imported when it is first called."""

    def run(*operands: Any, **arguments: Any) -> Any:
        from quantsim_kernels.triton import optical as triton_optical

        return getattr(triton_optical, name)(*operands, **arguments)

    return run


for _op, _name, _text in (
    (QUANTIZE, "quantize", "Levels and noise in one kernel."),
    (LINEAR, "linear", "Codes once, one product, and all that follows in its epilogue."),
    (MATMUL, "matmul", "Codes once, one product, and all that follows in its epilogue."),
):
    registry.register(
        op=_op,
        scheme=Scheme.OPTICAL,
        backend=Backend.TRITON,
        predicate=availability.optical_objection,
        priority=20,
        description=_text,
    )(_triton(_name))
