"""Looks into a simulation layer by layer: error against FP32, ranges, values against their grids."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from quantsim.experiments.demo.evaluation import sqnr_db
from quantsim.nn import BaseQuantizationMixin
from quantsim.quantization import QuantizerBase
from quantsim.report.data import RangeRow
from quantsim.report.wording import describe_encoding

__all__ = ["LayerProbe", "active_quantizers"]


def active_quantizers(module: BaseQuantizationMixin) -> Iterator[tuple[str, QuantizerBase]]:
    """The quantizers of one module that are there, each with the name of its tensor: ``"input 0"``, ``"weight"``, ...

    Args:
        module: A quantized module.
    """
    for kind, quantizers in (("input", module.input_quantizers), ("output", module.output_quantizers)):
        for index, quantizer in enumerate(quantizers):
            if isinstance(quantizer, QuantizerBase):
                yield f"{kind} {index}", quantizer
    for name, quantizer in module.param_quantizers.items():
        if isinstance(quantizer, QuantizerBase):
            yield name, quantizer


class LayerProbe:
    """Runs a float model once on a batch, keeps what went in and out of each module, and compares simulations with it.

    Args:
        reference: The float model.
        forward: Runs a model on the batch.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        >>> list(LayerProbe(model, lambda run: run(torch.ones(2, 4))).tensors("0"))
        ['input 0', 'output 0', 'weight', 'bias']
    """

    def __init__(self, reference: nn.Module, forward: Callable[[Callable[..., Any]], object]) -> None:
        self._forward = forward
        self._tensors: dict[str, dict[str, Tensor]] = {}

        def keep(name: str, module: nn.Module, inputs: tuple[Any, ...], output: object) -> None:
            if name in self._tensors:
                return  # a module that runs twice is shown as it ran first
            tensors = {f"input {index}": value for index, value in enumerate(inputs) if _is_real(value)}
            first = _first_tensor(output)
            if first is not None:
                tensors["output 0"] = first
            parameters = {key: value.detach() for key, value in module.named_parameters(recurse=False)}
            self._tensors[name] = {key: value.clone() for key, value in tensors.items()} | parameters

        leaves = {name: module for name, module in reference.named_modules() if not any(module.children())}
        with _forward_hooks(leaves, keep), torch.no_grad():
            forward(reference)
        self._classes = {name: type(module).__name__ for name, module in leaves.items()}

    @property
    def order(self) -> tuple[str, ...]:
        """Paths of the modules, in the order in which they ran."""
        return tuple(self._tensors)

    def op(self, module: str) -> str:
        """Name of a module's class."""
        return self._classes[module]

    def tensors(self, module: str) -> Mapping[str, Tensor]:
        """The float tensors of a module by name: inputs, first output, parameters."""
        return self._tensors[module]

    def quantized_modules(self, simulated: nn.Module) -> dict[str, BaseQuantizationMixin]:
        """The quantized modules of a simulation that hold a quantizer and ran here, in running order.

        Args:
            simulated: The ``.model`` of a simulation of the float model.
        """
        modules = dict(simulated.named_modules())
        found = {}
        for name in self._tensors:
            module = modules.get(name)
            if isinstance(module, BaseQuantizationMixin) and any(True for _ in active_quantizers(module)):
                found[name] = module
        return found

    def output_sqnr(self, simulated: nn.Module) -> dict[str, float]:
        """SQNR in decibels of the output of each quantized module, in running order.

        Args:
            simulated: The ``.model`` of a calibrated simulation.
        """
        measured: dict[str, float] = {}

        def compare(name: str, module: nn.Module, inputs: tuple[Any, ...], output: object) -> None:
            quantized, exact = _first_tensor(output), self._tensors[name].get("output 0")
            if name not in measured and quantized is not None and exact is not None and quantized.shape == exact.shape:
                measured[name] = sqnr_db(exact, quantized)

        with _forward_hooks(self.quantized_modules(simulated), compare), torch.no_grad():
            self._forward(simulated)
        return measured

    def ranges(self, simulated: nn.Module) -> tuple[RangeRow, ...]:
        """What was seen in FP32 at each quantizer with a fixed integer range, and what its grid holds.

        Args:
            simulated: The ``.model`` of a calibrated simulation.
        """
        rows = []
        for name, module in self.quantized_modules(simulated).items():
            for tensor, quantizer in active_quantizers(module):
                values, encoding = self._tensors[name].get(tensor), quantizer.get_encodings()
                low, high = getattr(encoding, "min", None), getattr(encoding, "max", None)
                if encoding is None or values is None or low is None or high is None:
                    continue
                rows.append(
                    RangeRow(
                        module=name,
                        tensor=tensor,
                        observed_low=float(values.min()),
                        observed_high=float(values.max()),
                        grid_low=float(np.min(low)),
                        grid_high=float(np.max(high)),
                        format=describe_encoding(encoding),
                    )
                )
        return tuple(rows)


@contextmanager
def _forward_hooks(
    modules: Mapping[str, nn.Module], hook: Callable[[str, nn.Module, tuple[Any, ...], object], None]
) -> Iterator[None]:
    handles: list[RemovableHandle] = []
    try:
        for name, module in modules.items():
            handles.append(module.register_forward_hook(lambda *arguments, name=name: hook(name, *arguments)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_real(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _first_tensor(output: object) -> Tensor | None:
    if isinstance(output, tuple | list):
        output = output[0] if output else None
    return output if isinstance(output, Tensor) and output.is_floating_point() else None
