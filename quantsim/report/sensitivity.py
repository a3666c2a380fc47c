"""How much each module's quantizers cost: the model with them alone, and with all others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from quantsim.nn import QuantizationMixin
from quantsim.nn.dispatch import DispatchReport
from quantsim.report.model_outputs import OutputError, main_output
from quantsim.report.quantizer_switch import ModuleGroup, QuantizerPlace, QuantizerSwitch
from quantsim.report.replay import OutputReplay
from quantsim.report.tensor_statistics import StatisticsRecorder, TensorStatistics, tensor_statistics
from quantsim.sim import QuantizationSimModel
from quantsim.sim.functional_routing import every_operation_called

__all__ = ["GroupSensitivity", "SimulationProbe", "noise_share"]


@dataclass(frozen=True, kw_only=True)
class GroupSensitivity:
    """What the quantizers of one group of modules do to the model's output.

    Attributes:
        group: The modules.
        alone_db: SQNR of the output with these quantizers alone.
        without_db: SQNR of the output with all others.
        alone_share: Noise of these alone, as a share of the whole simulation's noise.
        removed_share: How much of the whole noise goes away without these; negative if there is more without them.
    """

    group: ModuleGroup
    alone_db: float
    without_db: float
    alone_share: float
    removed_share: float


@dataclass
class SimulationProbe:
    """Runs a simulation on one batch with changing sets of quantizers.

    Args:
        sim: The simulation, calibrated and in evaluation mode.
        run: Runs a model on the batch; gives what is to be compared, as (rows, features).

    Attributes:
        exact: The output in floating point.
        error: Error of the whole simulation.
        order: Paths of the modules with quantizers that ran, in the order in which they did.
        statistics: What was seen at the quantizers, by place.
        built_up_db: SQNR at the output of each module in the whole simulation.
        own_db: SQNR at the output of each module with its own quantizers alone.
        dispatch: What computed each module in the whole simulation, for the inputs that it had.
    """

    sim: QuantizationSimModel
    run: Callable[[nn.Module], Tensor]
    exact: Tensor = field(init=False)
    error: OutputError = field(init=False)
    order: tuple[str, ...] = field(init=False, default=())
    statistics: dict[QuantizerPlace, TensorStatistics] = field(init=False, default_factory=dict)
    built_up_db: dict[str, float] = field(init=False, default_factory=dict)
    own_db: dict[str, float] = field(init=False, default_factory=dict)
    dispatch: dict[str, DispatchReport] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._switch = QuantizerSwitch(self.sim)
        modules = dict(self.sim.quantized_modules())
        holding = set(self._switch.modules)
        innermost = {path: module for path, module in modules.items() if not _holds_any(path, modules)}
        self._modules = {path: module for path, module in modules.items() if path in holding}
        self._float, self._simulated = OutputReplay(innermost), OutputReplay(innermost)

    @property
    def places(self) -> tuple[QuantizerPlace, ...]:
        """All places with a quantizer, in the order of the model."""
        return self._switch.places

    def look(self) -> None:
        """Runs the model in floating point and simulated: everything but the sensitivities."""
        recorders = {
            place: StatisticsRecorder(place.quantizer, place.tensor_name)
            for place in self._switch.places
            if not place.is_parameter
        }
        with every_operation_called(self.sim.model):
            with self._switch.replaced(recorders.get), self._float.recording():
                self.exact = self.run(self.sim.model)
            with self._simulated.recording(), self._comparing(self._modules, self.built_up_db), self._explaining():
                self.error = self._error(self.run(self.sim.model))
        seen = {place: recorder.statistics for place, recorder in recorders.items() if recorder.statistics is not None}
        self.order = tuple(path for path in self._float.order if path in self._modules)
        for place in self._switch.places:
            if place.is_parameter:
                values = self._modules[place.tensor.module]._own_parameter(place.tensor.key)
                if values is not None and values.numel() and place.quantizer.is_initialized():
                    self.statistics[place] = tensor_statistics(
                        values, place.quantizer, title=place.tensor_name, logarithmic=False
                    )
            elif place in seen:
                self.statistics[place] = seen[place]

    def error_with(self, kept: Callable[[QuantizerPlace], bool]) -> OutputError:
        """Error at the output with some of the quantizers.

        Args:
            kept: Which.
        """
        with (
            every_operation_called(self.sim.model),
            self._switch.replaced(lambda place: place.quantizer if kept(place) else None),
        ):
            return self._error(self.run(self.sim.model))

    def sensitivities(
        self, groups: Sequence[ModuleGroup], advance: Callable[[], None] = lambda: None
    ) -> tuple[GroupSensitivity, ...]:
        """Two runs for each group: its quantizers alone, and all others.

        Args:
            groups: Groups of modules.
            advance: Called after each group.
        """
        measured = []
        for group in groups:
            members = set(group.modules)
            own = {path: self._modules[path] for path in group.modules} if len(members) == 1 else {}
            with ExitStack() as stack:
                stack.enter_context(self._float.replaying(members))
                stack.enter_context(self._comparing(own, self.own_db))
                alone = self.error_with(lambda place, members=members: place.tensor.module in members)
            with self._simulated.replaying(members):
                without = self.error_with(lambda place, members=members: place.tensor.module not in members)
            total = self.error.noise
            measured.append(
                GroupSensitivity(
                    group=group,
                    alone_db=alone.sqnr_db,
                    without_db=without.sqnr_db,
                    alone_share=noise_share(alone.noise, total),
                    removed_share=1 - noise_share(without.noise, total) if total > 0 else 0.0,
                )
            )
            advance()
        return tuple(measured)

    def _error(self, output: Tensor) -> OutputError:
        error = OutputError()
        error.add(self.exact, output)
        return error

    @contextmanager
    def _comparing(self, modules: Mapping[str, nn.Module], into: dict[str, float]) -> Iterator[None]:
        """Inside, the first outputs of modules are compared with those in floating point."""

        def hook(path: str, output: object) -> None:
            exact, simulated = main_output(self._float.first_output(path)), main_output(output)
            if path in into or exact is None or simulated is None or exact[1].shape != simulated[1].shape:
                return
            error = OutputError()
            error.add(exact[1].detach().double().reshape(1, -1), simulated[1].detach().double().reshape(1, -1))
            into[path] = error.sqnr_db

        with ExitStack() as stack:
            for path, module in modules.items():
                handle = module.register_forward_hook(lambda module, args, output, path=path: hook(path, output))
                stack.callback(handle.remove)
            yield

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        """Inside, modules are asked what computes them, for kernels may decline the inputs that come."""

        def asking(path: str, module: QuantizationMixin) -> Callable[..., None]:
            def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                if path not in self.dispatch:
                    self.dispatch[path] = module.explain_dispatch(*args, **kwargs)

            return hook

        with ExitStack() as stack:
            for path, module in self._modules.items():
                if isinstance(module, QuantizationMixin):
                    handle = module.register_forward_pre_hook(asking(path, module), with_kwargs=True)
                    stack.callback(handle.remove)
            yield


def _holds_any(path: str, modules: Mapping[str, nn.Module]) -> bool:
    """Whether other modules are inside of a module."""
    return any(other != path and (other.startswith(f"{path}.") or not path) for other in modules)


def noise_share(noise: float, total: float) -> float:
    """Noise as a share of the whole; 1 where it has no measure, 0 where there is none.

    Example:
        >>> noise_share(1.0, 4.0), noise_share(float("nan"), 4.0), noise_share(1.0, 0.0)
        (0.25, 1.0, 0.0)
    """
    share = noise / total if total > 0 else 0.0
    return share if math.isfinite(share) else 1.0
