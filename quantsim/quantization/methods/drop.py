"""QDrop: in training each element is quantized or not at random."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from quantsim.errors import ConfigurationError
from quantsim.quantization.methods.step_size import LSQQuantizeDequantize
from quantsim.quantization.rounding import seed_of_construction
from quantsim_kernels.random_seeds import SEED_STEP, rounding_noise, signed_seed
from quantsim_kernels.reference.noise import NOISE_BITS

__all__ = ["QDropQuantizeDequantize"]


class QDropQuantizeDequantize(LSQQuantizeDequantize):
    """Learned step size, with quantization dropped at random in training (Wei et al. 2022, "QDrop").

    While the quantizer is in training mode and not frozen, each element stays as it is with the probability ``drop``,
    anew in each call; else all are quantized. That flattens what weights (or their rounding) are fitted to. The noise
    is a function of a seed of the quantizer's own, so torch's global generator is never touched.

    Args:
        *arguments: As of `quantsim.quantization.affine.QuantizeDequantize`.
        drop: Share of the elements that are not quantized, 0 to 1.
        seed: Of the noise, taken modulo 2**64; by default another one for each quantizer.
        **named: As of `quantsim.quantization.affine.QuantizeDequantize`.

    Attributes:
        seed: Where the noise stands, an int64 buffer of shape ``()``.

    Raises:
        ConfigurationError: If ``drop`` is no share.

    Example:
        >>> quantizer = QDropQuantizeDequantize(shape=(), bitwidth=4, symmetric=True, seed=0)
        >>> quantizer.set_range(-8.0, 7.0)
        >>> x = torch.full((10000,), 0.4)
        >>> 0.48 < float((quantizer(x) == x).float().mean()) < 0.52
        True
        >>> float(quantizer.eval()(x).detach().abs().max())
        0.0
    """

    seed: Tensor

    def __init__(self, *arguments: Any, drop: float = 0.5, seed: int | None = None, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.drop = _share(drop, f"{type(self).__name__}(drop)")
        first = seed_of_construction() if seed is None else signed_seed(seed)
        self.register_buffer("seed", torch.tensor(first, dtype=torch.int64))

    @property
    def drops(self) -> bool:
        """Whether elements are dropped now."""
        return self.training and self.drop > 0.0 and not self.is_frozen

    @property
    @override
    def is_stochastic(self) -> bool:
        return self.drops

    @property
    @override
    def rounds_to_nearest(self) -> bool:
        return not self.drops

    @override
    def map_to_grid(self, x: Tensor, *, owned: bool = False) -> Tensor:
        if not self.drops:
            return super().map_to_grid(x, owned=owned)
        with torch.no_grad():
            seed = self.seed.clone()
            self.seed.add_(SEED_STEP)
        dropped = rounding_noise(x.shape, seed, x.device) < round(self.drop * 2**NOISE_BITS)
        return torch.where(dropped, x, super().map_to_grid(x))

    @override
    def persistent_settings(self) -> dict[str, Any]:
        return {**super().persistent_settings(), "drop": self.drop}

    @override
    def restore_settings(self, settings: Mapping[str, Any]) -> None:
        super().restore_settings(settings)
        self.drop = float(settings.get("drop", self.drop))

    @override
    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, drop={self.drop:g}"


def _share(value: float, where: str) -> float:
    if not 0.0 <= value <= 1.0:
        raise ConfigurationError(where=where, got=repr(value), expected="a number from 0 to 1")
    return float(value)
