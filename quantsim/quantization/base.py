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

import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from quantsim.errors import ConfigurationError, NotCalibratedError
from quantsim.quantization.analyzers.base import EncodingAnalyzer, NonFinitePolicy

if TYPE_CHECKING:
    from quantsim_encodings.encoding import Encoding
    from quantsim_encodings.formats import Format
    from quantsim_encodings.granularity import Granularity

__all__ = ["QuantizerBase"]


class QuantizerBase(nn.Module):
    """Observes tensors, owns an encoding, and maps tensors onto the grid of its format.

    Invariants:
        * A range parameter that was never set holds NaN; that is what *uninitialised* means, so it survives
          state_dict, deep copy, pickling and moving between devices without any bookkeeping.
        * Range parameters stay float32 whatever ``.half()`` or ``.to(dtype)`` does to the model.
        * A range changes only when an observation ends normally, by `set_range`, `set_encodings`, a loaded
          state_dict, or the optimizer; never by a failed calibration.

    Args:
        encoding_analyzer: Turns observed statistics into a range; ``None`` for quantizers that need no calibration.
    """

    needs_calibration: ClassVar[bool] = True
    """Whether the quantizer has to see data (or be given a range) before it can be used."""

    encoding_analyzer: EncodingAnalyzer | None

    def __init__(self, *, encoding_analyzer: EncodingAnalyzer | None = None) -> None:
        super().__init__()
        self.encoding_analyzer = encoding_analyzer
        self.samples_seen = 0
        self._range_parameter_names: tuple[str, ...] = ()
        self._initialized = not self.needs_calibration
        self._overwrite_allowed = True
        self._observation_depth = 0
        self._derived: Any = None

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

    # ---------------------------------------------------------------- use

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's and AIMET's name for it)
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

    def is_initialized(self) -> bool:
        """Whether the range was calibrated, set or loaded."""
        if self._initialized:
            return True
        if torch.compiler.is_compiling():
            return False
        for name in self._range_parameter_names:
            values = self._range_parameter(name)
            if values.is_meta or bool(torch.isnan(values.detach()).any()):
                return False
        self._initialized = True
        return True

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

    # ---------------------------------------------------------------- range parameters and persistence

    def register_range_parameter(self, name: str, shape: Sequence[int], *, learnable: bool = True) -> None:
        """Adds a float32 tensor of ``shape`` that calibration sets: a Parameter if ``learnable``, else a buffer.

        Args:
            name: Attribute name.
            shape: Shape of the tensor.
            learnable: Whether an optimizer may train it.
        """
        values = torch.full(tuple(shape), math.nan, dtype=torch.float32)
        if learnable:
            self.register_parameter(name, nn.Parameter(values))
        else:
            self.register_buffer(name, values)
        self._range_parameter_names = (*self._range_parameter_names, name)

    @torch.no_grad()
    def assign_range_parameters(self, **values: Tensor) -> None:
        """Copies finite values into range parameters; all of them or, if one is wrong, none.

        Raises:
            ConfigurationError: If a value is NaN or infinite or does not broadcast to its parameter's shape.
        """
        checked: list[tuple[Tensor, Tensor]] = []
        for name, value in values.items():
            target = self._range_parameter(name)
            source = torch.as_tensor(value, dtype=torch.float32).to(target.device)
            location = f"{type(self).__name__}.{name}"
            if not (source.is_meta or bool(torch.isfinite(source).all())):
                raise ConfigurationError(
                    "the range must be finite", where=location, got=f"{source.detach().flatten()[:4].tolist()}"
                )
            try:
                checked.append((target, source.expand(target.shape)))
            except RuntimeError:
                raise ConfigurationError(
                    "the value does not fit the quantizer",
                    where=location,
                    got=f"shape {tuple(source.shape)}",
                    expected=f"shape {tuple(target.shape)} or one that broadcasts to it",
                    fix="pass one value per set of parameters, or make the quantizer with another shape",
                ) from None
        for target, source in checked:
            target.copy_(source)
        self._forget_derived()

    def _range_parameter(self, name: str) -> Tensor:
        values = self._parameters.get(name)
        if values is None:
            values = self._buffers.get(name)
        if values is None:
            raise AttributeError(f"{type(self).__name__} has no range parameter {name!r}")
        return values

    def _forget_derived(self) -> None:
        """Drops what was derived from the range parameters (scale, offset); they are derived again when needed."""
        self._derived = None

    def persistent_settings(self) -> dict[str, Any]:
        """Returns what besides the range parameters defines the quantizer, as JSON values; goes into state_dict."""
        return {"overwrite_allowed": self._overwrite_allowed}

    def restore_settings(self, settings: Mapping[str, Any]) -> None:
        """Takes over what `persistent_settings` returned; unknown or missing entries are ignored."""
        self._overwrite_allowed = bool(settings.get("overwrite_allowed", self._overwrite_allowed))

    def get_extra_state(self) -> Tensor:
        """Returns the settings as JSON bytes in a uint8 tensor, so that safetensors can hold a state_dict too."""
        return torch.tensor(list(json.dumps(self.persistent_settings()).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        """Restores what `get_extra_state` returned; AIMET's dictionary of tensors is understood as well."""
        if isinstance(state, Tensor):
            if state.is_meta or state.numel() == 0:
                return
            settings: Mapping[str, Any] = json.loads(bytes(state.to(torch.uint8).tolist()))
        elif isinstance(state, Mapping):
            settings = {key: value.tolist() if isinstance(value, Tensor) else value for key, value in state.items()}
        else:
            raise ConfigurationError(
                "the saved state cannot be read",
                where=f"{type(self).__name__}._extra_state",
                got=type(state).__name__,
                expected="a tensor written by quantsim or a dictionary written by AIMET",
            )
        self.restore_settings(settings)
        self._forget_derived()

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        extra_key = f"{prefix}_extra_state"
        if extra_key in missing_keys:  # written by something that stores tensors only: the settings stay as they are
            missing_keys.remove(extra_key)
        self._forget_derived()
        if self.needs_calibration and any(f"{prefix}{name}" in state_dict for name in self._range_parameter_names):
            self._initialized = False
            self.is_initialized()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def keep_dtype(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        super()._apply(keep_dtype, recurse)
        self._forget_derived()
        return self

    def __getstate__(self) -> dict[str, Any]:
        # A copy starts outside of any observation and derives its scale anew.
        return {**self.__dict__, "_derived": None, "_observation_depth": 0}
