"""What a run on example inputs showed, kept as plain data: a simulation can be made again without running anything."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError
from torch import nn

from quantsim.errors import ConfigurationError
from quantsim.sim.example_run import ExampleRun
from quantsim.sim.functional_routing import HOLDER, FunctionalOperations, _Place, route_functions

__all__ = ["RecordedOperations", "RecordedRun"]


@dataclass(frozen=True)
class RecordedOperations:
    """The operation modules of one module.

    Attributes:
        sequences: For each function the names of the operation modules in the order of the calls; None for calls
            without one.
        tensors: How many tensors each operation module is called with, by its name.
    """

    sequences: dict[str, tuple[str | None, ...]]
    tensors: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class RecordedRun:
    """A run on example inputs; give it to `QuantizationSimModel` in their place.

    Attributes:
        run: What the run showed; None if the simulation was made without example inputs.
        operations: The operation modules, by the path of the module that calls.

    Example:
        >>> import torch
        >>> from quantsim.sim import QuantizationSimModel
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        >>> record = RecordedRun.of(QuantizationSimModel(model, torch.zeros(1, 2)))
        >>> again = QuantizationSimModel(model, RecordedRun.from_plain(record.to_plain()))
        >>> again.coverage.multiplications
        1
    """

    run: ExampleRun | None = None
    operations: dict[str, RecordedOperations] = field(default_factory=dict)

    @classmethod
    def of(cls, sim: Any) -> RecordedRun:
        """The record of a `QuantizationSimModel`."""
        return cls(
            sim._run,
            {
                path.removesuffix(HOLDER).removesuffix("."): _recorded(module)
                for path, module in sim.model.named_modules()
                if isinstance(module, FunctionalOperations)
            },
        )

    def to_plain(self) -> dict[str, Any]:
        """As data that JSON can hold."""
        return _ADAPTER.dump_python(self, mode="json")

    @classmethod
    def from_plain(cls, values: Any, *, source: str = "RecordedRun") -> RecordedRun:
        """The reverse of :meth:`to_plain`.

        Args:
            values: The data.
            source: What errors call them.

        Raises:
            ConfigurationError: They are not what :meth:`to_plain` gives.
        """
        try:
            return _ADAPTER.validate_python(values)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise ConfigurationError(
                "the record of the example run cannot be read",
                where=source,
                got=f"{'.'.join(map(str, first['loc']))}: {first['msg']}",
                expected="what a simulation wrote",
                fix="save the simulation again",
            ) from None

    def route(self, model: nn.Module, excluded: frozenset[str]) -> None:
        """Gives a model the operation modules of the record.

        Args:
            model: Its quantizable modules are quantized already.
            excluded: Paths of modules whose own calls stay as they are.

        Raises:
            ConfigurationError: The record names modules that the model does not have; nothing is changed then.
        """
        if self.run is None:
            return
        modules = dict(model.named_modules())
        unknown = [path for path in self.operations if path not in modules]
        if unknown:
            raise ConfigurationError(
                "the record of the example run is of another model",
                where="RecordedRun.route",
                got=f"operations in {unknown[0]!r}, which the model does not have ({len(unknown)} such modules)",
                expected="the model that was simulated",
                fix="build the model as it was when the simulation was saved",
            )
        route_functions(model, excluded, (), lambda: self._fill(model))

    def _fill(self, model: nn.Module) -> None:
        for path, module in model.named_modules():
            holder = module._modules.get(HOLDER)
            if not isinstance(holder, FunctionalOperations) or holder.record is None:
                continue
            recorded = self.operations.get(path, RecordedOperations({}))
            for op, names in recorded.sequences.items():
                places = holder.record.places.setdefault(op, {})
                order = holder.record.order.setdefault(op, [])
                for name in names:
                    number = _NOBODY if name is None else int(name.rpartition("_")[2])
                    places[number,] = _Place(number, name is not None, False, recorded.tensors.get(name or "", 0))
                    order.append(number)


_NOBODY: Final = -1
"""Number of the place that stands for calls without an operation module."""

_ADAPTER: Final = TypeAdapter(RecordedRun)


def _recorded(holder: FunctionalOperations) -> RecordedOperations:
    tensors = {name: len(module.input_quantizers) for name, module in holder.named_children()}  # pyright: ignore[reportArgumentType]
    return RecordedOperations(dict(holder.sequences), tensors)
