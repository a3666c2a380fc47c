"""Range parameters of a quantizer: what calibration sets, how it is kept, saved, copied and moved."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from quantsim.errors import ConfigurationError, NotCalibratedError
from quantsim.quantization.sharded_tensors import is_sharded, whole, write

__all__ = ["RangeParameters"]


class RangeParameters(nn.Module):
    """A module with float32 parameters that are unset until something calibrates or loads them.

    Invariants:
        * A range parameter that was never set holds NaN; that is what *uninitialised* means, so it survives
          state_dict, deep copy, pickling and moving between devices without any bookkeeping.
        * Range parameters stay float32 whatever ``.half()`` or ``.to(dtype)`` does to the model.
    """

    needs_calibration: ClassVar[bool] = True
    """Whether the quantizer has to see data (or be given a range) before it can be used."""

    _was_sharded: bool = False

    def __init__(self) -> None:
        super().__init__()
        self._range_parameter_names: tuple[str, ...] = ()
        self._initialized = not self.needs_calibration
        self._overwrite_allowed = True
        self._observation_depth = 0
        self._derived: Any = None

    def __setattr__(self, name: str, value: Any) -> None:
        """Also notes parameters that are put in the place of others: FSDP2 swaps its parts and the whole this way.

        It refills the whole's memory without counting that as a change, so nothing derived from it may be kept.
        """
        super().__setattr__(name, value)
        if isinstance(value, Tensor):
            self.__dict__["_derived"] = None
            if is_sharded(value):
                self.__dict__["_was_sharded"] = True

    @property
    def is_sharded(self) -> bool:
        """Whether range parameters are spread over several ranks."""
        return any(is_sharded(self._range_parameter(name)) for name in self._range_parameter_names)

    def is_initialized(self) -> bool:
        """Whether the range was calibrated, set or loaded."""
        if self._initialized:
            return True
        if torch.compiler.is_compiling():
            return False
        for name in self._range_parameter_names:
            values = self._range_parameter(name)
            if values.is_meta or bool(torch.isnan(whole(values.detach())).any()):
                return False
        self._initialized = True
        return True

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
            NotCalibratedError: If it comes inside a forward of a sharded model, where it would be lost.
        """
        if self._was_sharded and not self.is_sharded:
            raise NotCalibratedError(
                "the range of a sharded quantizer cannot be set inside a forward",
                where=type(self).__name__,
                got="whole parameters, whose memory FSDP2 is going to drop",
                expected="ranges that are set before the model runs",
                fix="call compute_param_encodings(), or compute_encodings on data, before; outside of a forward, "
                "call reshard() of the sharded modules",
            )
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
            write(target, source)
        self._forget_derived()
        self.is_initialized()  # notes it now: code that is compiled later cannot look at the values

    def _range_parameter(self, name: str) -> Tensor:
        values = self._parameters.get(name)
        if values is None:
            values = self._buffers.get(name)
        if values is None:
            raise AttributeError(f"{type(self).__name__} has no range parameter {name!r}")
        return values

    def give_dimension(self) -> None:
        """Gives range parameters without a dimension one of size 1, as sharding needs it; values stay."""
        for registry in (self._parameters, self._buffers):
            for name in self._range_parameter_names:
                values = registry.get(name)
                if values is not None and values.dim() == 0:
                    reshaped = values.detach().reshape(1)
                    is_parameter = isinstance(values, nn.Parameter)
                    setattr(self, name, nn.Parameter(reshaped, values.requires_grad) if is_parameter else reshaped)
                    self.shape = (1,)

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
        for name in self._range_parameter_names:
            saved, own = state_dict.get(f"{prefix}{name}"), self._range_parameter(name)
            if isinstance(saved, Tensor) and saved.numel() == own.numel() == 1 and saved.shape != own.shape:
                state_dict = {**state_dict, f"{prefix}{name}": saved.reshape(own.shape)}  # see give_dimension
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

        self.is_initialized()  # what the values say now; on the meta device they say nothing
        was_meta = [name for name in self._range_parameter_names if self._range_parameter(name).is_meta]
        super()._apply(keep_dtype, recurse)
        self._forget_derived()
        for name in was_meta:
            values = self._range_parameter(name)
            if not values.is_meta:  # to_empty: whatever the memory held is no range
                values.detach().fill_(math.nan)
                self._initialized = False
        return self

    def __getstate__(self) -> dict[str, Any]:
        # A copy starts outside of any observation and derives its scale anew.
        return {**self.__dict__, "_derived": None, "_observation_depth": 0}
