"""The base of all quantizers: lifecycle (observe, calibrate, freeze), persistence and the contract with modules.

A quantizer of your own is a subclass that registers its range parameters, maps a tensor onto its grid, and turns an
observed range into its parameters; everything else (observation, state_dict, deep copy, errors) is inherited:

    >>> import torch
    >>> from quantsim.quantization.analyzers import MinMaxEncodingAnalyzer
    >>> class PowerOfTwoQuantizeDequantize(QuantizerBase):
    ...     '''Signed integers whose scale is a power of two, as on a shift-only accelerator.'''
    ...
    ...     def __init__(self, bitwidth: int) -> None:
    ...         super().__init__(encoding_analyzer=MinMaxEncodingAnalyzer(shape=()))
    ...         self.qmin, self.qmax = -(2 ** (bitwidth - 1)), 2 ** (bitwidth - 1) - 1
    ...         self.register_range_parameter("exponent", shape=(), learnable=False)
    ...
    ...     def map_to_grid(self, x, *, owned=False):
    ...         scale = torch.exp2(self.exponent)
    ...         on_grid = (x / scale).round().clamp(self.qmin, self.qmax) * scale
    ...         return x + (on_grid - x).detach()  # straight-through gradient
    ...
    ...     def set_range_from_statistics(self, analyzer):
    ...         minimum, maximum = analyzer.compute_encodings(self.qmax - self.qmin, is_symmetric=True)
    ...         scale = (maximum - minimum) / (self.qmax - self.qmin)
    ...         self.assign_range_parameters(exponent=scale.log2().ceil())
    >>> quantizer = PowerOfTwoQuantizeDequantize(bitwidth=4)
    >>> with quantizer.compute_encodings():
    ...     _ = quantizer(torch.tensor([-3.0, 5.0]))
    >>> quantizer(torch.tensor([0.4, 0.6, 9.0]))
    tensor([0., 1., 7.])
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from quantsim.errors import NotCalibratedError
from quantsim.quantization.analyzers.base import EncodingAnalyzer, NonFinitePolicy
from quantsim.quantization.range_parameters import RangeParameters

if TYPE_CHECKING:
    from quantsim_encodings.encoding import Encoding
    from quantsim_encodings.formats import Format
    from quantsim_encodings.granularity import Granularity

__all__ = ["QuantizerBase"]


class QuantizerBase(RangeParameters):
    """Observes tensors, owns an encoding, and maps tensors onto the grid of its format.

    Invariant: a range changes only when an observation ends normally, by `set_range`, `set_encodings`, a loaded
    state_dict, or the optimizer; never by a failed calibration.

    Args:
        encoding_analyzer: Turns observed statistics into a range; ``None`` for quantizers that need no calibration.
    """

    encoding_analyzer: EncodingAnalyzer | None

    def __init__(self, *, encoding_analyzer: EncodingAnalyzer | None = None) -> None:
        super().__init__()
        self.encoding_analyzer = encoding_analyzer
        self.samples_seen = 0

    # ---------------------------------------------------------------- what a subclass provides

    def map_to_grid(self, x: Tensor, *, owned: bool = False) -> Tensor:
        """Maps ``x`` onto the grid; called only when the quantizer is initialised.

        Args:
            x: Tensor of any shape that fits the quantizer's granularity.
            owned: Whether ``x`` may be overwritten; only given when autograd is off.
        """
        raise NotImplementedError(f"{type(self).__name__} must define map_to_grid")

    def set_range_from_statistics(self, analyzer: EncodingAnalyzer) -> None:
        """Sets the range parameters from what ``analyzer`` has seen."""
        raise NotImplementedError(f"{type(self).__name__} must define set_range_from_statistics")

    def get_encodings(self) -> Encoding | None:
        """Returns the calibrated parameters as a plain value, or ``None`` while uninitialised."""
        raise NotImplementedError(f"{type(self).__name__} has no encoding to export; define get_encodings")

    def set_encodings(self, encoding: Encoding) -> None:
        """Takes over the parameters of ``encoding``; the quantizer is unchanged if that raises."""
        raise NotImplementedError(f"{type(self).__name__} cannot import encodings; define set_encodings")

    @classmethod
    def from_encodings(cls, encoding: Encoding) -> Self:
        """Makes a quantizer that has the grid and the range of ``encoding``."""
        raise NotImplementedError(f"{cls.__name__} cannot be made from encodings; define from_encodings")

    def get_legacy_encodings(self) -> list[dict[str, Any]] | None:
        """Returns AIMET's list of dictionaries, one for each set of parameters, or ``None`` while uninitialised."""
        raise NotImplementedError(f"{type(self).__name__} has no form in AIMET's legacy encodings")

    def set_legacy_encodings(self, encodings: Sequence[Mapping[str, Any]]) -> None:
        """Takes over a list as returned by `get_legacy_encodings`."""
        raise NotImplementedError(f"{type(self).__name__} has no form in AIMET's legacy encodings")

    @property
    def format(self) -> Format:
        """How the numbers on the grid are represented."""
        raise NotImplementedError(f"{type(self).__name__} must define format")

    @property
    def granularity(self) -> Granularity:
        """Which elements share one set of parameters."""
        raise NotImplementedError(f"{type(self).__name__} must define granularity")

    @property
    def bitwidth(self) -> int:
        """Width of one number in bits."""
        raise NotImplementedError(f"{type(self).__name__} must define bitwidth")

    @property
    def is_stochastic(self) -> bool:
        """Whether the same input may give another result in the next call: nothing may keep the result for later."""
        return False

    @property
    def rounds_to_nearest(self) -> bool:
        """Whether the encoding says all: numbers go to the nearest point of its grid, however they got there.

        False where something else takes part, such as a learned rounding; what would compute from the encoding alone
        (kernels, exports) then asks the quantizer first, or refuses.
        """
        return True

    # ---------------------------------------------------------------- use

    def forward(self, input: Tensor) -> Tensor:
        """Maps ``input`` onto the grid, or observes it and passes it through inside `compute_encodings`.

        Raises:
            NotCalibratedError: If the range was never set.
        """
        if self._observation_depth:
            return self._observe(input)
        if not self._initialized and not self.is_initialized():
            return self._without_range(input)
        return self.map_to_grid(input)

    def quantize_owned(self, x: Tensor) -> Tensor:
        """Like calling the quantizer, but may overwrite ``x``, which nobody else may hold.

        With autograd on it is the same as the call. Forward hooks are not run.
        """
        if self._observation_depth or torch.is_grad_enabled():
            return self(x)
        if not self._initialized and not self.is_initialized():
            return self._without_range(x)
        return self.map_to_grid(x, owned=True)

    def _without_range(self, x: Tensor) -> Tensor:
        if x.numel() == 0:
            return x
        raise NotCalibratedError(
            "the quantizer has no range yet",
            where=type(self).__name__,
            got=f"input of shape {tuple(x.shape)} before calibration",
            expected="a calibrated quantizer",
            fix="run data through it inside compute_encodings(), call set_range(min, max), or load encodings",
        )

    # ---------------------------------------------------------------- observation

    @property
    def is_observing(self) -> bool:
        """Whether the quantizer is inside an observation: it collects statistics and passes its input through."""
        return self._observation_depth > 0

    @property
    def observation_depth(self) -> int:
        """How many observations, one inside the other, the quantizer is in."""
        return self._observation_depth

    @contextmanager
    def compute_encodings(self) -> Iterator[None]:
        """Observes all inputs inside the ``with`` block, and sets the range from them when it ends normally.

        An exception leaves the quantizer as it was. A frozen quantizer (see `freeze`, `allow_overwrite`) keeps
        quantizing. Blocks may be nested: the outermost one sets the range. Empty inputs are ignored.

        Warns:
            UserWarning: If no data was seen; the range is then unchanged.

        Example:
            >>> from quantsim.quantization import affine
            >>> quantizer = affine.QuantizeDequantize(shape=(), bitwidth=8, symmetric=True)
            >>> with quantizer.compute_encodings():
            ...     _ = quantizer(torch.tensor([-127.0, 10.0]))
            >>> quantizer.get_scale().detach()
            tensor(0.9922)
        """
        self.begin_observation()
        try:
            yield
        except BaseException:
            self.cancel_observation()
            raise
        if not self.finish_observation():
            warnings.warn(
                f"{type(self).__name__}: no data was seen inside compute_encodings(); the range is unchanged",
                stacklevel=3,
            )

    def begin_observation(self) -> None:
        """Starts collecting statistics; does nothing on a quantizer that must not be overwritten."""
        if not self._can_observe():
            return
        if self._observation_depth == 0:
            assert self.encoding_analyzer is not None
            self.encoding_analyzer.reset_stats()
            self.samples_seen = 0
        self._observation_depth += 1

    def finish_observation(self) -> bool:
        """Ends an observation and, if it is the outermost, sets the range.

        Returns:
            False if data was needed and none was seen (the range is then unchanged).
        """
        if self._observation_depth == 0:
            return True
        if self._observation_depth > 1:
            self._observation_depth -= 1
            return self.samples_seen > 0
        analyzer = self.encoding_analyzer
        assert analyzer is not None
        try:
            if self.samples_seen == 0:
                return False
            with torch.no_grad():
                self.set_range_from_statistics(analyzer)
            return True
        finally:
            self._observation_depth = 0
            analyzer.reset_stats()

    def cancel_observation(self) -> None:
        """Ends an observation without touching the range; at the outermost level its statistics are dropped."""
        if self._observation_depth == 0:
            return
        self._observation_depth -= 1
        if self._observation_depth == 0 and self.encoding_analyzer is not None:
            self.encoding_analyzer.reset_stats()
            self.samples_seen = 0

    def _can_observe(self) -> bool:
        return self._overwrite_allowed and self.encoding_analyzer is not None

    def _observe(self, x: Tensor) -> Tensor:
        if x.numel():
            assert self.encoding_analyzer is not None
            self.encoding_analyzer.update_stats(x.detach())
            self.samples_seen += x.numel()
        return x

    @property
    def nonfinite(self) -> NonFinitePolicy:
        """What NaN and infinity among observed values do: raise `NonFiniteError`, or be left out."""
        return NonFinitePolicy.RAISE if self.encoding_analyzer is None else self.encoding_analyzer.nonfinite

    @nonfinite.setter
    def nonfinite(self, policy: NonFinitePolicy | str) -> None:
        if self.encoding_analyzer is not None:
            self.encoding_analyzer.nonfinite = NonFinitePolicy.parse(policy)

    # ---------------------------------------------------------------- freezing

    def allow_overwrite(self, mode: bool = True) -> None:
        """Says whether `compute_encodings` may change the range."""
        self._overwrite_allowed = bool(mode)

    @property
    def is_overwrite_allowed(self) -> bool:
        """Whether `compute_encodings` may change the range."""
        return self._overwrite_allowed

    def freeze(self) -> None:
        """Fixes the range: neither `compute_encodings` nor training changes it."""
        self.allow_overwrite(False)
        self.requires_grad_(False)

    def unfreeze(self) -> None:
        """Undoes `freeze`: the range may be calibrated and trained again."""
        self.allow_overwrite(True)
        self.requires_grad_(True)

    @property
    def is_frozen(self) -> bool:
        """Whether neither calibration nor training may change the range."""
        return not self._overwrite_allowed and not any(parameter.requires_grad for parameter in self.parameters())
