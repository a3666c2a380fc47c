"""The quantizer of optical hardware: evenly spaced levels whose two ends follow the data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, Self

import torch
from torch import Tensor
from typing_extensions import override

from quantsim.errors import ConfigurationError, ShapeError
from quantsim.quantization.analyzers.base import EncodingAnalyzer
from quantsim.quantization.base import QuantizerBase
from quantsim.quantization.granularity import Granularity, PerTensor
from quantsim.quantization.optical._arguments import checked_format, checked_quantiles
from quantsim.quantization.optical._recomputation import Notes, inside_backward, inside_checkpoint
from quantsim.quantization.optical.analyzer import OpticalRangeAnalyzer, batch_range, over_all_ranks, smoothed
from quantsim_encodings.encoding import Encoding, OpticalEncoding
from quantsim_encodings.formats import OpticalFormat, OpticalNoise
from quantsim_kernels.optical import OpticalGradient, optical_quantize
from quantsim_kernels.random_seeds import SEED_STEP

__all__ = ["DEFAULT_LUT", "OpticalQuantizeDequantize"]

DEFAULT_LUT: Final = 0.020040
"""Smallest transmission of the modulator that is the default of optical layers."""


class OpticalQuantizeDequantize(QuantizerBase):
    """Maps a tensor onto ``levels`` evenly spaced levels from ``lo`` to ``hi``, both included.

    The law is that of `quantsim_kernels.optical.optical_quantize`. The range is per tensor and follows the data: the
    first batch sets it, each further one moves it by ``range = s * range + (1 - s) * batch``. It does so in training
    and inside `compute_encodings`, before the batch is quantized, so that the batch counts already; ``eval()`` and
    `freeze` stop it. A batch with NaN or infinity at its ends leaves it as it was.

    Inside `compute_encodings` the average starts anew, and the buffer is set from it when the block ends; until then
    the quantizer does not pass its input through, as others do, but maps it onto the levels of the average so far,
    without noise. So the next layer is calibrated with what it will see. A frozen quantizer keeps its range.

    While a process group exists, a batch is what all ranks see at the same time: N ranks with a part each get the
    range that one process gets from the whole. All ranks then have to run each module equally often, in calibration
    and in training; in training, forwards under ``torch.no_grad()`` are left out, so that a rank may evaluate alone.

    Under `torch.utils.checkpoint` (``use_reentrant=False``), a forward that is computed again in the backward moves
    neither range nor seed, and gets those that it had the first time. The last 64 calls are known, by the ends and
    the sum of their batches. The reentrant form keeps nothing of its first forward: there the range of that time
    holds, but the noise is another.

    No host ever waits for the device in training, and torch's global generator is never touched.

    Args:
        levels: Number of levels, 2 to 2**24.
        lut: Smallest transmission, as a fraction of the ends of the range; ``None``: none.
        noise: Noise before rounding: ``"none"``, ``"dither"`` (uniform, half a level either way) or ``"shot"``.
        quantiles: A batch's range are these two of its quantiles, instead of its smallest and largest value.
        smooth_factor: Weight of the old range, 0 to 1.
        seed: Seed of the noise, taken modulo 2**64; advances once in each call.
        photons: Photons of a value as large as the end of the range; for shot noise, and only then.
        ste: Gradient: ``"identity"``, or ``"clipped"``: zero outside the range.

    Attributes:
        range: float32 buffer of shape (2,): lo, hi; NaN until set.
        seed: int64 buffer of shape (): where the noise stands.

    Raises:
        ConfigurationError: If an argument is out of bounds.

    Example:
        >>> quantizer = OpticalQuantizeDequantize(levels=5)
        >>> with quantizer.compute_encodings():
        ...     _ = quantizer(torch.tensor([-1.0, 0.2, 1.0]))
        >>> quantizer.eval()(torch.tensor([-3.0, 0.2, 0.3]))
        tensor([-1.0000,  0.0000,  0.5000])
    """

    range: Tensor
    seed: Tensor

    def __init__(
        self,
        levels: int = 256,
        lut: float | None = None,
        noise: OpticalNoise | str = OpticalNoise.NONE,
        quantiles: tuple[float, float] | None = None,
        smooth_factor: float = 0.9,
        seed: int = 0,
        photons: float | None = None,
        *,
        ste: OpticalGradient | str = OpticalGradient.IDENTITY,
    ) -> None:
        owner = type(self).__name__
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ConfigurationError(
                "the seed is no integer", where=f"{owner}(seed)", got=repr(seed), expected="an int"
            )
        if isinstance(smooth_factor, bool) or not 0.0 <= smooth_factor <= 1.0:
            raise ConfigurationError(
                where=f"{owner}(smooth_factor)", got=repr(smooth_factor), expected="a number from 0 to 1"
            )
        super().__init__(
            encoding_analyzer=OpticalRangeAnalyzer(float(smooth_factor), checked_quantiles(owner, quantiles))
        )
        self._set_format(checked_format(owner, levels, lut, noise), photons)
        try:
            self._ste = OpticalGradient(ste)
        except ValueError:
            raise ConfigurationError(
                where=f"{owner}(ste)", got=repr(ste), expected=" or ".join(repr(each.value) for each in OpticalGradient)
            ) from None
        self._first_seed = (seed + 2**63) % 2**64 - 2**63
        with torch.inference_mode(False):  # inference tensors could not be moved on later
            self.register_range_parameter("range", (2,), learnable=False)
            self.register_buffer("seed", torch.tensor(self._first_seed, dtype=torch.int64))
        self._notes = Notes()
        self._computes_again = False

    # ---------------------------------------------------------------- settings

    def _set_format(self, format: OpticalFormat, photons: float | None) -> None:
        noise = format.noise
        if (noise is OpticalNoise.SHOT) != (photons is not None) or (
            photons is not None and not (0.0 < photons < math.inf)
        ):
            raise ConfigurationError(
                "noise and photons do not go together",
                where=f"{type(self).__name__}(photons)",
                got=f"noise={noise.value!r}, photons={photons!r}",
                expected="a positive number of photons for noise='shot', and None for the others",
            )
        self._format, self._noise, self._photons = format, noise, photons

    @property
    @override
    def format(self) -> OpticalFormat:
        return self._format

    @property
    @override
    def granularity(self) -> Granularity:
        return PerTensor()

    @property
    @override
    def bitwidth(self) -> int:
        return self._format.bits

    @property
    def levels(self) -> int:
        """Number of levels."""
        return self._format.levels

    @property
    def lut(self) -> float | None:
        """Smallest transmission, as a fraction of the ends of the range."""
        return self._format.lut

    @property
    def noise(self) -> OpticalNoise:
        """Noise that is added before rounding."""
        return self._noise

    @property
    def photons(self) -> float | None:
        """Photon budget of shot noise."""
        return self._photons

    @property
    def ste(self) -> OpticalGradient:
        """Which gradient passes."""
        return self._ste

    @property
    def quantiles(self) -> tuple[float, float] | None:
        """Quantiles that give a batch's range, ``None`` for its ends."""
        return self._ranges.quantiles

    @property
    def smooth_factor(self) -> float:
        """Weight of the old range when a batch moves it."""
        return self._ranges.smooth_factor

    @property
    @override
    def is_stochastic(self) -> bool:
        return self._noise is not OpticalNoise.NONE or self.follows_data

    # ---------------------------------------------------------------- range

    @property
    def _ranges(self) -> OpticalRangeAnalyzer:
        assert isinstance(self.encoding_analyzer, OpticalRangeAnalyzer)
        return self.encoding_analyzer

    @property
    def follows_data(self) -> bool:
        """Whether the next batch moves the range."""
        return self.is_observing or (self.training and self._overwrite_allowed)

    def range_for(self, x: Tensor, extremes: Tensor | None = None) -> Tensor:
        """Returns the range that ``x`` is to be quantized with, after ``x`` moved it if the range follows the data.

        For those that quantize in this quantizer's place (a fused kernel).

        Args:
            x: The batch.
            extremes: Its smallest and largest value, shape (2,), if they are known; spares a pass over ``x``.

        Returns:
            float32 tensor of shape (2,), not the buffer itself.

        Raises:
            NotCalibratedError: If the range was never set and does not follow the data.
            NonFiniteError: Inside `compute_encodings`, if ``x`` is not finite.
        """
        if self._computes_again:
            self._computes_again = False
        if x.numel() and not (x.is_meta and self.is_observing):
            if self.is_observing:
                return self._observed_range(x, extremes)
            if self.training and self._overwrite_allowed:
                return self._moved_range(x, extremes)
        if not self._initialized and not self.is_initialized() and x.numel():
            self._without_range(x)
        if self._noise is not OpticalNoise.NONE and x.numel():
            self._note_noise(x)
        return self.range.clone() if torch.is_grad_enabled() else self.range

    def _note_noise(self, x: Tensor) -> None:
        """Lets a forward that is computed again find the noise of its first time, where the range stands still."""
        self._computes_again = _runs_again()
        if self._computes_again:
            self._notes.look_up(x, self.range)
        elif _may_run_again():
            self._notes.note(x, self.range, self.seed)

    def _batch_range(self, x: Tensor, extremes: Tensor | None) -> Tensor:
        if extremes is None or self.quantiles is not None:
            return batch_range(x, self.quantiles)
        return extremes.detach().to(torch.float32)

    def _observed_range(self, x: Tensor, extremes: Tensor | None) -> Tensor:
        with torch.no_grad():
            self._ranges.absorb(self._batch_range(x, extremes), x)
        self.samples_seen += x.numel()
        return self._ranges.running_range

    def _moved_range(self, x: Tensor, extremes: Tensor | None) -> Tensor:
        self._computes_again = _runs_again()
        if self._computes_again:
            return self._notes.look_up(x, self.range)
        batch = self._batch_range(x, extremes)
        if torch.is_grad_enabled():  # not a rank that evaluates on its own
            batch = over_all_ranks(batch)
        with torch.no_grad():
            moved = smoothed(self.range, batch.to(self.range.device), self.smooth_factor)
            self.range.copy_(moved)
            if _may_run_again():
                self._notes.note(x, moved, self.seed)
        return moved

    def set_range(self, lo: Tensor | float, hi: Tensor | float) -> None:
        """Sets the lowest and the highest level.

        Raises:
            ConfigurationError: If they are not finite, or ``lo > hi``; the range is then unchanged.
        """
        ends = torch.stack([torch.as_tensor(end, dtype=torch.float32).reshape(()).cpu() for end in (lo, hi)])
        if bool(ends[0] > ends[1]):
            raise ConfigurationError(
                "the range is empty",
                where=f"{type(self).__name__}.set_range",
                got=f"lo={float(ends[0])}, hi={float(ends[1])}",
                expected="lo <= hi",
            )
        self.assign_range_parameters(range=ends)

    @override
    def set_range_from_statistics(self, analyzer: EncodingAnalyzer) -> None:
        minimum, maximum = analyzer.compute_encodings(self.levels - 1, is_symmetric=False)
        self.assign_range_parameters(range=torch.stack((minimum, maximum)))

    @override
    def train(self, mode: bool = True) -> Self:
        if not mode:
            self.is_initialized()  # notes it now: code that is compiled later cannot look at the values
        return super().train(mode)

    # ---------------------------------------------------------------- use

    @override
    def forward(self, input: Tensor) -> Tensor:
        """Maps ``input`` onto the levels, after it moved the range if that follows the data.

        Raises:
            NotCalibratedError: If the range was never set and does not follow the data.
        """
        if not input.is_floating_point() or input.numel() == 0:
            return input
        return self.quantize_in(input, self.range_for(input))

    @override
    def quantize_owned(self, x: Tensor) -> Tensor:
        return self(x)

    @override
    def map_to_grid(self, x: Tensor, *, owned: bool = False) -> Tensor:
        return self.quantize_in(x, self.range)

    def quantize_in(self, x: Tensor, range: Tensor, *, owned: bool = False) -> Tensor:
        """Maps ``x``, which may be overwritten if owned, onto the levels in a given range; draws the next noise."""
        noise = self.current_noise()
        return optical_quantize(
            x,
            range,
            self.levels,
            lut=self.lut,
            noise=noise,
            seed=self.next_seed() if noise is not OpticalNoise.NONE else None,
            photons=self._photons if noise is OpticalNoise.SHOT else None,
            ste=self._ste,
            owned=owned,
        )

    def current_noise(self) -> OpticalNoise:
        """Returns the noise of the next call: the quantizer's own, none while it observes."""
        return OpticalNoise.NONE if self.is_observing else self._noise

    def next_seed(self) -> Tensor:
        """Returns the seed of this call as a tensor of its own, and moves on to that of the next."""
        with torch.no_grad():
            if self._computes_again:
                return self._notes.seed(self.seed)
            seed = self.seed.clone()
            self.seed.add_(SEED_STEP)
        return seed

    # ---------------------------------------------------------------- exchange

    @override
    def get_encodings(self) -> OpticalEncoding | None:
        """Returns range, format and state as a plain value, or ``None`` while uninitialised."""
        if not self.is_initialized():
            return None
        ends = self.range.detach().cpu().numpy()
        return OpticalEncoding(
            self._format,
            ends[0].reshape(()),
            ends[1].reshape(()),
            seed=int(self.seed),
            smooth_factor=self.smooth_factor,
            quantiles=self.quantiles,
        )

    @override
    def set_encodings(self, encoding: Encoding) -> None:
        """Takes over range, format and state of ``encoding``.

        Raises:
            TypeError: If ``encoding`` is not an `OpticalEncoding`.
            ShapeError: If it has more than one range.
            ConfigurationError: If it has shot noise and the quantizer no photon budget (which is in no encoding).
        """
        owner = f"{type(self).__name__}.set_encodings"
        if not isinstance(encoding, OpticalEncoding):
            raise TypeError(f"{owner}: got a {type(encoding).__name__}, expected an OpticalEncoding")
        if encoding.minimum.size != 1:
            raise ShapeError(
                "the encoding does not fit the quantizer",
                where=owner,
                got=f"ranges of shape {encoding.minimum.shape}",
                expected="one range for the tensor",
            )
        before = (self._format, self._photons)
        self._set_format(encoding.format, self._photons if encoding.format.noise is OpticalNoise.SHOT else None)
        try:
            self.set_range(float(encoding.minimum.reshape(())), float(encoding.maximum.reshape(())))
        except BaseException:
            self._set_format(*before)
            raise
        self.encoding_analyzer = OpticalRangeAnalyzer(
            encoding.smooth_factor, encoding.quantiles, nonfinite=self.nonfinite
        )
        with torch.no_grad():
            self.seed.fill_((encoding.seed + 2**63) % 2**64 - 2**63)

    @classmethod
    @override
    def from_encodings(cls, encoding: Encoding, photons: float | None = None) -> Self:
        """Makes a quantizer that has the levels, the range and the state of ``encoding``.

        Args:
            encoding: An `OpticalEncoding`.
            photons: Photon budget, which no encoding holds, for one with shot noise.
        """
        if not isinstance(encoding, OpticalEncoding):
            raise TypeError(f"{cls.__name__}: got a {type(encoding).__name__}, expected an OpticalEncoding")
        form = encoding.format
        quantizer = cls(form.levels, form.lut, form.noise, seed=encoding.seed, photons=photons)
        quantizer.set_encodings(encoding)
        return quantizer

    @override
    def persistent_settings(self) -> dict[str, Any]:
        return {
            **super().persistent_settings(),
            "levels": self.levels,
            "lut": self.lut,
            "noise": self._noise.value,
            "photons": self._photons,
            "ste": self._ste.value,
            "quantiles": self.quantiles,
            "smooth_factor": self.smooth_factor,
        }

    @override
    def restore_settings(self, settings: Mapping[str, Any]) -> None:
        super().restore_settings(settings)
        owner = type(self).__name__
        noise = settings.get("noise", self._noise)
        format = checked_format(owner, settings.get("levels", self.levels), settings.get("lut", self.lut), noise)
        quantiles = checked_quantiles(owner, settings.get("quantiles", self.quantiles))
        self._set_format(format, settings.get("photons", self._photons))
        self._ste = OpticalGradient(settings.get("ste", self._ste))
        self._ranges.quantiles = quantiles
        self._ranges.smooth_factor = float(settings.get("smooth_factor", self.smooth_factor))

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        was_meta = self.seed.is_meta
        super()._apply(fn, recurse)
        if was_meta and not self.seed.is_meta:  # to_empty: whatever the memory held is no seed
            self.seed.fill_(self._first_seed)
        return self

    @override
    def extra_repr(self) -> str:
        parts = [f"levels={self.levels}", f"lut={self.lut}", f"noise={self._noise.value}"]
        parts += [] if self._photons is None else [f"photons={self._photons}"]
        parts += [] if self.quantiles is None else [f"quantiles={self.quantiles}"]
        parts += [f"smooth_factor={self.smooth_factor}"]
        parts += [] if self._ste is OpticalGradient.IDENTITY else [f"ste={self._ste.value}"]
        return ", ".join(parts)


def _runs_again() -> bool:
    return not torch.compiler.is_compiling() and inside_backward()


def _may_run_again() -> bool:
    return not torch.compiler.is_compiling() and inside_checkpoint()
