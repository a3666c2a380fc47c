"""`SqueezeLightLinear`: a linear layer of multi-operand microring resonators, and how a trained layer becomes one."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from quantsim.errors import ConfigurationError, ShapeError
from quantsim.optical._ring_fit import average_blocks, fit_rings, sample_inputs
from quantsim_kernels.random_seeds import SEED_STEP, next_seed
from quantsim_kernels.reference.squeezelight import (
    PASS_THROUGH_BITS,
    quantized_weight,
    resonance_width,
    scale_count,
    transmission,
)
from quantsim_kernels.squeezelight import check_rings, squeezelight_linear

__all__ = ["RingConversion", "SqueezeLightLinear", "conversion_error"]

WORKING_RANGE = 2.4
"""Resonance widths over which the ring's curve counts as a straight line when layers are initialized."""

_Module = TypeVar("_Module", bound=nn.Module)


class RingConversion(StrEnum):
    """How a trained linear layer becomes rings.

    * ``AVERAGE``: the published route. Each weight is the mean of its row of the block, balancing factors stay random,
      the bias is dropped (zero). What comes out has nothing to do with what the layer computed.
    * ``LEAST_SQUARES``: weights from the circulant matrix nearest to each block, balancing factors and bias by least
      squares on sample inputs, then all of them by gradient descent on the squared error.
    """

    AVERAGE = "average"
    LEAST_SQUARES = "least_squares"


class SqueezeLightLinear(nn.Module):
    """A layer in the place of `torch.nn.Linear` whose products are made by rings that take ``k`` operands each.

    ``y[p k + i] = sum over q of s[q] T(sum over j of w[p, q, (i - j) mod k] x[q k + j]**2) + bias[p k + i]``, with
    ``T`` what a ring transmits: the ring is the non-linearity too. As light has no sign, ``x`` and ``-x`` give the
    same, so the layer suits inputs that are not negative.

    Args:
        in_features: Inputs.
        out_features: Outputs.
        bias: Whether a bias is added, electrically.
        miniblock: Operands of a ring, ``k``: the side of the circulant blocks.
        w_bit: Bits of weights and balancing factors, from 1; from 16 to 32 they are not quantized.
        in_bit: Bits of inputs, which are clipped to the range from 0 to 1; from 16 to 32 they are left alone.
        crosstalk: Thermal coupling between the heaters of a ring, from 0 to 1.
        phase_noise: Standard deviation of Gaussian noise on each phase, in radians; in training and in evaluation.
        drop: Fraction of operands that is pruned, which lessens the crosstalk.
        attenuation: Amplitude left after one round trip, between 0 and 1.
        coupling: Self-coupling of waveguide and ring, between 0 and 1.
        seed: Seed of the noise; by default the next one of quantsim's own stream.
        device: Device of the parameters.
        dtype: Dtype of the parameters.

    Attributes:
        weight: First columns of the circulant blocks, shape ``(ceil(out / k), ceil(in / k), k)``.
        scale: Balancing factors, shape ``(max(1, ceil(in / k) // 2) + 1,)``.
        bias: Shape ``(out_features,)``, or ``None``.
        weight_gain: What quantized weights are multiplied by to keep the spread that they were initialized with.
        seed: Where the noise stands, a 0-d int64 buffer that each noisy forward advances.

    Raises:
        ConfigurationError: If a setting is impossible.

    Example:
        >>> import torch
        >>> layer = SqueezeLightLinear(10, 6, miniblock=4)
        >>> layer.weight.shape, layer.scale.shape, layer(torch.rand(2, 10)).shape
        (torch.Size([2, 3, 4]), torch.Size([2]), torch.Size([2, 6]))
    """

    weight_gain: Tensor
    seed: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        miniblock: int = 4,
        w_bit: int = 32,
        in_bit: int = 32,
        crosstalk: float = 0.0,
        phase_noise: float = 0.0,
        drop: float = 0.0,
        attenuation: float = 0.8578,
        coupling: float = 0.8985,
        seed: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        sizes = {"in_features": in_features, "out_features": out_features, "miniblock": miniblock}
        for name, value in sizes.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigurationError(where=f"{owner}({name})", got=repr(value), expected="a positive integer")
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
            raise ConfigurationError(where=f"{owner}(seed)", got=repr(seed), expected="an integer or None")
        try:
            check_rings(w_bit, in_bit, crosstalk, drop, phase_noise, attenuation, coupling)
        except ValueError as error:
            raise ConfigurationError(str(error), where=owner) from None
        self.in_features, self.out_features, self.miniblock = in_features, out_features, miniblock
        self.w_bit, self.in_bit = w_bit, in_bit
        self.crosstalk, self.phase_noise, self.drop = crosstalk, phase_noise, drop
        self.attenuation, self.coupling = attenuation, coupling
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        rows, columns = -(-out_features // miniblock), -(-in_features // miniblock)
        self.weight = nn.Parameter(torch.empty(rows, columns, miniblock, **place))
        self.scale = nn.Parameter(torch.empty(scale_count(columns), **place))
        self.bias: nn.Parameter | None
        self.register_parameter("bias", nn.Parameter(torch.empty(out_features, **place)) if bias else None)
        self._first_seed = int(next_seed()) if seed is None else (seed + 2**63) % 2**64 - 2**63
        self.register_buffer("weight_gain", torch.ones((), **place))
        self.register_buffer("seed", torch.zeros((), dtype=torch.int64, device=device))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws new parameters, suited to the curve of the rings, and starts the noise anew.

        With ``L = sqrt(3 / (4 k)) FWHM``, twice that where inputs are quantized, weights are uniform from 0 to ``L``,
        or from ``-L / 2`` to ``L / 2`` where they are quantized. Balancing factors are normal with the standard
        deviation ``4 / (3 sqrt(Q) g FWHM)``, ``g`` the mean slope of the curve over 2.4 widths. The bias is zero.
        """
        width = resonance_width()
        ends = transmission(
            torch.tensor([0.0, WORKING_RANGE * width], device="cpu"), self.attenuation, self.coupling
        ).tolist()
        slope = (ends[1] - ends[0]) / (WORKING_RANGE * width)
        largest = math.sqrt(3 / (4 * self.miniblock)) * width * (2 if self.in_bit < PASS_THROUGH_BITS else 1)
        with torch.no_grad():
            if self.w_bit >= PASS_THROUGH_BITS:
                self.weight.uniform_(0, largest)
            else:
                self.weight.uniform_(-largest / 2, largest / 2)
            self.scale.normal_(0, 4 / (3 * math.sqrt(self.weight.shape[1]) * slope * width))
            if self.bias is not None:
                self.bias.zero_()
            self._set_gain(self.weight)
            self.seed.fill_(self._first_seed)

    def _set_gain(self, first: Tensor) -> None:
        """Lets quantized weights spread as much as ``first`` does."""
        if self.w_bit >= PASS_THROUGH_BITS or self.weight.numel() < 2:
            self.weight_gain.fill_(1.0)
            return
        spread = quantized_weight(self.weight.detach().float(), self.w_bit).std()
        gain = first.detach().float().std() / spread.clamp_min(torch.finfo(torch.float32).tiny)
        # Weights that all fall on one level have no spread that could be kept.
        self.weight_gain.copy_(torch.where(spread > 0, gain, 1.0))

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Computes the layer.

        Args:
            x: Shape ``(..., in_features)``, any floating-point dtype, which the result has too.

        Raises:
            ShapeError: If the last dimension of ``x`` is another one.
        """
        if x.dim() == 0 or x.shape[-1] != self.in_features:
            raise ShapeError(
                where=f"{type(self).__name__}.forward(x)",
                got=f"shape {tuple(x.shape)}",
                expected=f"(..., {self.in_features})",
            )
        if not self.phase_noise:
            return self.transmit(x)
        seed = self.seed.clone()
        with torch.no_grad():
            self.seed.add_(SEED_STEP)
        return self.transmit(x, seed)

    def transmit(self, x: Tensor, seed: Tensor | None = None) -> Tensor:
        """The forward with the noise of ``seed``, or with none; nothing is advanced."""
        return squeezelight_linear(
            x,
            self.weight,
            self.scale,
            self.bias,
            out_features=self.out_features,
            weight_gain=self.weight_gain,
            w_bit=self.w_bit,
            in_bit=self.in_bit,
            crosstalk=self.crosstalk,
            drop=self.drop,
            phase_noise=0.0 if seed is None else self.phase_noise,
            seed=seed,
            attenuation=self.attenuation,
            coupling=self.coupling,
        )

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        method: RingConversion | str = RingConversion.AVERAGE,
        *,
        inputs: Tensor | None = None,
        samples: int = 1024,
        steps: int = 100,
        **settings: Any,
    ) -> Self:
        """Makes rings of a trained layer; `conversion_error` says how little is left of it.

        Args:
            linear: The layer, which stays as it is; shape, device, dtype and whether it has a bias are taken over.
            method: See `RingConversion`.
            inputs: What the layer gets in its model, shape ``(..., in_features)``, for the fit; by default uniform from
                0 to 1 where inputs are quantized, else standard normal, of which rings can tell next to nothing.
            samples: How many inputs are drawn by default, or used at most.
            steps: Steps of gradient descent, each on 64 of them and all judged by a quarter held back; 0 leaves it out.
            **settings: Those of the class by keyword, apart from sizes, bias, device and dtype.

        Raises:
            ConfigurationError: If the method or a setting is unknown or impossible, or ``linear`` is no linear layer.
            ShapeError: If ``inputs`` do not fit the layer.

        Example:
            >>> import torch
            >>> layer = torch.nn.Linear(8, 4)
            >>> SqueezeLightLinear.from_linear(layer, "least_squares", steps=10, miniblock=2).weight.shape
            torch.Size([2, 4, 2])
        """
        where = f"{cls.__name__}.from_linear"
        if not isinstance(linear, nn.Linear):
            raise ConfigurationError(where=f"{where}(linear)", got=type(linear).__name__, expected="a torch.nn.Linear")
        try:
            route = RingConversion(method)
        except ValueError:
            names = ", ".join(map(repr, map(str, RingConversion)))
            raise ConfigurationError(where=f"{where}(method)", got=repr(method), expected=f"one of {names}") from None
        for name, value, least in (("samples", samples, 2), ("steps", steps, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigurationError(where=f"{where}({name})", got=repr(value), expected=f"an integer from {least}")
        source = linear.weight
        fitted = torch.float64 if source.dtype is torch.float64 else torch.float32
        try:
            rings = cls(
                linear.in_features,
                linear.out_features,
                linear.bias is not None,
                device=source.device,
                dtype=fitted,
                **settings,
            )
        except TypeError as error:
            raise ConfigurationError(
                str(error), where=where, fix="pass settings of SqueezeLightLinear by keyword"
            ) from None
        if not source.is_meta:
            if route is RingConversion.AVERAGE:
                first = rings.weight.detach().clone()
                with torch.no_grad():
                    rings.weight.copy_(average_blocks(source.detach().to(fitted), rings.miniblock))
                    rings._set_gain(first)
            else:
                drawn = _inputs_of(linear, inputs, samples, rings.in_bit, where)
                fit_rings(rings, linear, drawn, steps)
        rings.train(linear.training)
        return rings.to(source.dtype)

    @override
    def extra_repr(self) -> str:
        text = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        text += f", miniblock={self.miniblock}, w_bit={self.w_bit}, in_bit={self.in_bit}"
        for name in ("crosstalk", "phase_noise", "drop"):
            if getattr(self, name):
                text += f", {name}={getattr(self, name)}"
        return text


def _inputs_of(linear: nn.Linear, inputs: Tensor | None, samples: int, in_bit: int, where: str) -> Tensor:
    """Given or drawn inputs as a matrix in the dtype that fits are computed in."""
    if inputs is None:
        return sample_inputs(linear, samples, in_bit)
    if inputs.dim() == 0 or inputs.shape[-1] != linear.in_features or inputs.numel() < 2 * linear.in_features:
        raise ShapeError(
            where=f"{where}(inputs)",
            got=f"shape {tuple(inputs.shape)}",
            expected=f"(..., {linear.in_features}) with at least two rows",
        )
    dtype = torch.float64 if linear.weight.dtype is torch.float64 else torch.float32
    rows = inputs.detach().reshape(-1, linear.in_features).to(linear.weight.device, dtype)
    # Rows from all over the inputs, as neighbours (tokens of a sentence) are alike.
    chosen = torch.linspace(0, rows.shape[0] - 1, min(samples, rows.shape[0]), device=rows.device).round().long()
    return rows[chosen]


def conversion_error(
    linear: nn.Linear, converted: nn.Module, inputs: Tensor | None = None, *, samples: int = 1024
) -> float:
    """How far a converted layer is from the trained one, relative to how much that one's outputs vary.

    ``sqrt(mean (converted(x) - linear(x))**2 / mean (linear(x) - mean over inputs)**2)``: 0 for the same layer, 1 for
    one that always returns the mean output.

    Args:
        linear: The trained layer.
        converted: The layer in its place, used as in evaluation.
        inputs: Shape ``(..., in_features)``; by default drawn as for `SqueezeLightLinear.from_linear`, but others.
        samples: How many inputs are drawn, or used at most.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(8, 4)
        >>> conversion_error(layer, layer)
        0.0
    """
    in_bit = getattr(converted, "in_bit", 32)
    where = "conversion_error"
    if inputs is None:
        rows = sample_inputs(linear, samples, in_bit, seed=1)
    else:
        rows = _inputs_of(linear, inputs, samples, in_bit, where)
    training = converted.training
    converted.eval()
    try:
        with torch.no_grad():
            expected = linear(rows.to(linear.weight.dtype)).to(rows.dtype)
            actual = converted(rows.to(linear.weight.dtype)).to(rows.dtype)
    finally:
        converted.train(training)
    varies = (expected - expected.mean(0)).square().mean()
    return float(((actual - expected).square().mean() / varies).sqrt())
