"""`LowPrecisionOptimizer`: any torch optimizer, with its state and the weights kept in low precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor
from torch.optim import Optimizer

from quantsim.errors import ConfigurationError
from quantsim.optim.state_tensors import map_state_tensors, state_names
from quantsim.optim.stored_format import (
    FormatLike,
    RoundingJob,
    SeededRounding,
    StoredFormat,
    format_of_narrow_dtype,
    is_identity,
    require_carrier,
    storage_dtype,
    stored_format,
)
from quantsim.optim.working_weights import WorkingWeights
from quantsim_encodings.formats import RoundingMode

__all__ = ["LowPrecisionOptimizer"]

_OWN_ENTRY: Final = "low_precision"
"""Key in the state_dict, beside torch's ``state`` and ``param_groups``."""

_Closure = Callable[[], Any]


class LowPrecisionOptimizer(Optimizer):
    """Steps as the optimizer it holds does, and keeps state and weights in chosen formats between the steps.

    After each step every floating-point state tensor (momentum, variance, ...) is rounded to a number of
    ``state_format``, and every weight to one of ``weight_format``. The step itself is computed in float32 (float64 for
    float64 weights), for weights in float16 and bfloat16 as well. Scalars of the state, such as step counts, stay as
    they are.

    With stochastic rounding an update smaller than half a step of the format moves a weight with the probability that
    makes the expected move the update; rounding to nearest would lose it every time.

    It is a ``torch.optim.Optimizer`` and shares ``param_groups``, ``state`` and ``defaults`` with the one it holds, so
    learning-rate schedulers, gradient scalers and closures work as ever. A group may have its own ``"state_format"``
    and ``"weight_format"`` (None: not rounded), for norms and biases for instance.

    Args:
        optimizer: The optimizer; from now on to be used only through this one.
        state_format: Format of the state: a format or its name; a mapping from the names of state tensors to such; None
            leaves the state as it is.
        weight_format: Format of the weights; they are rounded to nearest when this object is made. None: float16 and
            bfloat16 weights are rounded to their own type, others left as they are.
        rounding: Mode, as number or name.
        seed: Of stochastic rounding; torch's generators are neither used nor changed.
        master_weights: Keep float32 copies of the weights that are rounded, and let the optimizer step those.
        compact_state: Hold state in the torch dtype of ``state_format`` between steps (fp16, bf16, e4m3fn, e5m2), which
            saves memory; other formats are held in float32, which holds their numbers exactly.

    Raises:
        ConfigurationError: An argument makes no sense; nothing is changed then.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(64))
        >>> inner = torch.optim.SGD([weight], lr=2**-10, momentum=0.9)
        >>> optimizer = LowPrecisionOptimizer(inner, "bf16", weight_format="bf16")
        >>> weight.grad = torch.ones(64)
        >>> optimizer.step()
        >>> sorted(set(weight.tolist()))  # the update is a quarter of a step below one
        [0.99609375, 1.0]
    """

    _optimizer: Optimizer

    def __init__(
        self,
        optimizer: Optimizer,
        state_format: FormatLike | Mapping[str, FormatLike | None] | None = None,
        weight_format: FormatLike | None = None,
        rounding: RoundingMode | str | int = RoundingMode.STOCHASTIC,
        *,
        seed: int = 0,
        master_weights: bool = False,
        compact_state: bool = False,
    ) -> None:
        where = type(self).__name__
        if not isinstance(optimizer, Optimizer) or isinstance(optimizer, LowPrecisionOptimizer):
            raise ConfigurationError(
                where=where,
                got=f"optimizer of type {type(optimizer).__name__}",
                expected="an optimizer of torch or one that derives from torch.optim.Optimizer, not wrapped yet",
                fix="for example LowPrecisionOptimizer(torch.optim.AdamW(model.parameters()), 'bf16')",
            )
        try:
            mode = RoundingMode.parse(rounding)
        except ValueError as error:
            raise ConfigurationError(str(error), where=f"{where}.rounding") from None
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ConfigurationError(where=f"{where}.seed", got=repr(seed), expected="an integer")
        # Not Optimizer.__init__, which makes groups and state of its own; this is what unpickling an optimizer runs.
        super().__setstate__({"_optimizer": optimizer})
        self._state_format = _state_formats(state_format, f"{where}.state_format")
        self._weight_format = None if weight_format is None else _format(weight_format, f"{where}.weight_format")
        self._master_weights = bool(master_weights)
        self._compact_state = bool(compact_state)
        self._rounding = SeededRounding(mode, seed)
        self._weights = WorkingWeights()
        self._state_names_checked = False
        for index, group in enumerate(optimizer.param_groups):
            self._check_group(group, f"param_groups[{index}]")
        for group in optimizer.param_groups:
            self._adopt(group)

    # ---------------------------------------------------------------- what the held optimizer owns

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The held optimizer's groups themselves."""
        return self._optimizer.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self._optimizer.param_groups = groups

    @property
    def state(self) -> Any:
        """The held optimizer's state itself, by parameter."""
        return self._optimizer.state

    @state.setter
    def state(self, state: Any) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self._optimizer.state = state

    @property
    def defaults(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The held optimizer's default settings."""
        return self._optimizer.defaults

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer that computes the steps."""
        return self._optimizer

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clears the gradients of all parameters; see ``torch.optim.Optimizer.zero_grad``."""
        self._optimizer.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group, whose weights are rounded at once; see ``torch.optim.Optimizer.add_param_group``.

        Raises:
            ConfigurationError: A format does not fit; the group is not added then.
        """
        params = param_group.get("params")
        if params is None or isinstance(params, set):  # torch says what is wrong with these
            self._optimizer.add_param_group(param_group)
            return
        given = [params] if isinstance(params, Tensor) else list(params or ())
        group = {**param_group, "params": given}
        tensors = [param[1] if isinstance(param, tuple) else param for param in given]
        self._check_group({**group, "params": tensors}, f"param_groups[{len(self.param_groups)}]")
        self._optimizer.add_param_group(group)
        self._adopt(self.param_groups[-1])

    # ---------------------------------------------------------------- the step

    def step(self, closure: _Closure | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Lets the held optimizer step, then rounds state and weights.

        Args:
            closure: Computes the loss and the gradients, as torch's optimizers want it; it sees rounded weights.

        Returns:
            What the held optimizer's step returns.
        """
        weights = self._weights
        done = False
        try:
            weights.enter(self._weight_formats())
            self._widen_state()
            loss = self._optimizer.step() if closure is None else self._optimizer.step(self._on_rounded(closure))
            done = True
            return loss
        finally:
            weights.leave(self._rounding, commit=done)
            self._round_state(self._rounding)
            if done:
                self._check_state_names()

    def _on_rounded(self, closure: _Closure) -> _Closure:
        def on_rounded() -> Any:
            with self._weights.shown(self._rounding):
                return closure()

        return on_rounded

    def _widen_state(self) -> None:
        """Brings state that is held in a narrow dtype to the dtype that the step computes in."""
        for parameter, _, entry in self._entries():
            dtype = self._weights.step_dtype(parameter)
            map_state_tensors(entry, lambda _, values, dtype=dtype: values.to(dtype))

    @torch.no_grad()
    def _round_state(self, rounding: SeededRounding) -> None:
        jobs: list[RoundingJob] = []
        for _, group, entry in self._entries():
            formats = self._formats_of_state(group)
            if not formats:
                continue

            def collect(name: str, values: Tensor, formats: Any = formats) -> Tensor:
                format = formats.get(name, formats.get(None))
                if format is not None:
                    jobs.append(RoundingJob(values, values, format))
                return values

            map_state_tensors(entry, collect)
        rounding.round_all(jobs)
        if not self._compact_state:
            return
        for _, group, entry in self._entries():
            formats = self._formats_of_state(group)

            def stored(name: str, values: Tensor, formats: Any = formats) -> Tensor:
                format = formats.get(name, formats.get(None))
                dtype = None if format is None else storage_dtype(format)
                return values if dtype is None else values.to(dtype)

            map_state_tensors(entry, stored)

    def _entries(self) -> Iterator[tuple[Tensor, dict[str, Any], dict[str, Any]]]:
        """Each parameter with its group and its part of the state, in a fixed order."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter in self.state:
                    yield parameter, group, self.state[parameter]

    # ---------------------------------------------------------------- formats

    def _formats_of_state(self, group: Mapping[str, Any]) -> dict[str | None, StoredFormat | None]:
        return _state_formats(group["state_format"], "state_format") if "state_format" in group else self._state_format

    def _format_of_weights(self, group: Mapping[str, Any], dtype: torch.dtype) -> StoredFormat | None:
        chosen = group.get("weight_format", self._weight_format)
        format = None if chosen is None else _format(chosen, "weight_format")
        return format_of_narrow_dtype(dtype) if format is None or is_identity(format, dtype) else format

    def _weight_formats(self) -> Iterator[tuple[Tensor, StoredFormat]]:
        for group in self.param_groups:
            for parameter in group["params"]:
                format = self._format_of_weights(group, self._weights.held_dtype(parameter))
                if format is not None:
                    yield parameter, format

    def _check_group(self, group: Mapping[str, Any], where: str) -> None:
        if group.get("differentiable", False):
            raise ConfigurationError(
                "state cannot be rounded where autograd records the step",
                where=where,
                got="differentiable=True",
                expected="differentiable=False",
            )
        try:
            states = self._formats_of_state(group)
        except ConfigurationError as error:
            raise error.with_location(where)  # noqa: B904 (the same error)
        for parameter in group["params"]:
            if not isinstance(parameter, Tensor) or not parameter.is_floating_point():
                what = str(parameter.dtype) if isinstance(parameter, Tensor) else type(parameter).__name__
                raise ConfigurationError(where=f"{where}['params']", got=what, expected="floating-point parameters")
            format = self._format_of_weights(group, parameter.dtype)
            if format is not None:
                require_carrier(format, parameter.dtype, f"weight_format of {where}")
            step_dtype = self._weights.step_dtype(parameter)
            for state in states.values():
                if state is not None and not is_identity(state, step_dtype):
                    require_carrier(state, step_dtype, f"state_format of {where}")

    def _adopt(self, group: Mapping[str, Any]) -> None:
        """Puts the weights of a new group on the grid, and keeps what they were if they are to be masters."""
        for parameter in group["params"]:
            format = self._format_of_weights(group, parameter.dtype)
            if format is not None:
                self._weights.adopt(parameter, format, self._rounding, keep_master=self._master_weights)

    def _check_state_names(self) -> None:
        """Raises, once, for formats of state tensors that the optimizer does not have."""
        wanted = {name for name in self._state_format if name is not None}
        if self._state_names_checked or not wanted:
            return
        known = {name for _, _, entry in self._entries() for name in state_names(entry)}
        if not known:
            return
        self._state_names_checked = True
        if wanted - known:
            raise ConfigurationError(
                "the optimizer has no such state",
                where=f"{type(self).__name__}.state_format",
                got=", ".join(map(repr, sorted(wanted - known))),
                expected=f"names among {', '.join(map(repr, sorted(known)))}",
                fix="correct the names, or give one format for all",
            )

    # ---------------------------------------------------------------- persistence

    def state_dict(self) -> dict[str, Any]:
        """The held optimizer's state, and what else an exact continuation needs: seed, draws, master weights."""
        for hook in self._optimizer_state_dict_pre_hooks.values():
            hook(self)
        numbers = {parameter: index for index, parameter in enumerate(self._parameters())}
        result: dict[str, Any] = dict(self._optimizer.state_dict())
        result[_OWN_ENTRY] = {
            "seed": self._rounding.seed,
            "draws": self._rounding.draws,
            "master_weights": {numbers[parameter]: master for parameter, master in self._weights.masters.items()},
        }
        for hook in self._optimizer_state_dict_post_hooks.values():
            changed = hook(self, result)
            result = result if changed is None else changed
        return result

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues where a ``state_dict`` was taken; formats and rounding mode stay those of this object.

        One that a bare optimizer made is taken too: its state is then rounded to the formats.

        Raises:
            ConfigurationError: Master weights that do not fit; nothing is changed then.
        """
        state_dict = dict(state_dict)
        for hook in self._optimizer_load_state_dict_pre_hooks.values():
            changed = hook(self, state_dict)
            state_dict = state_dict if changed is None else changed
        own = dict(state_dict.pop(_OWN_ENTRY, {}))
        parameters = list(self._parameters())
        given = {int(number): master for number, master in own.get("master_weights", {}).items()}
        # Where the numbers of parameters differ, torch says so below.
        masters = {parameters[number]: master for number, master in given.items() if number < len(parameters)}
        self._weights.check_masters(masters)
        # In the dtype of the step: torch gives the state that it loads the dtype of the weights.
        try:
            self._weights.enter(self._weight_formats())
            self._optimizer.load_state_dict(state_dict)
        finally:
            self._weights.leave(self._rounding, commit=False)
        self._weights.load_masters(masters)
        self._rounding.seed = int(own.get("seed", self._rounding.seed))
        self._rounding.draws = int(own.get("draws", self._rounding.draws))
        self._round_state(
            SeededRounding(RoundingMode.NEAREST_EVEN)
        )  # what is on the grid stays, and no noise is used up
        for hook in self._optimizer_load_state_dict_post_hooks.values():
            hook(self)

    def _parameters(self) -> Iterator[Tensor]:
        for group in self.param_groups:
            yield from group["params"]

    def __getstate__(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        # Neither hooks nor a scheduler's wrapper of `step`, as for torch's optimizers.
        names = (
            "_optimizer _state_format _weight_format _master_weights _compact_state _rounding _weights "
            "_state_names_checked"
        )
        return {name: self.__dict__[name] for name in names.split()}

    def __repr__(self) -> str:
        shown = {name or "state": _label(format) for name, format in self._state_format.items()}
        weights = "" if self._weight_format is None else f", weights={_label(self._weight_format)}"
        text = ", ".join(f"{name}={label}" for name, label in shown.items())
        return f"{type(self).__name__}({text}{weights}, rounding={self._rounding.mode.value!r}, {self._optimizer!r})"


def _format(format: FormatLike, where: str) -> StoredFormat:
    return stored_format(format, where=where)


def _state_formats(
    formats: FormatLike | Mapping[Any, FormatLike | None] | None, where: str
) -> dict[str | None, StoredFormat | None]:
    """Format by name of the state tensor; None stands for those that are not named."""
    if isinstance(formats, Mapping):
        return {name: None if item is None else _format(item, f"{where}[{name!r}]") for name, item in formats.items()}
    return {} if formats is None else {None: _format(formats, where)}


def _label(format: StoredFormat | None) -> str:
    return str(getattr(format, "label", None) or getattr(format, "name", None) or format)
