"""Finds the tensor of a simulation that an encodings file means, whatever the file calls it.

Files by module (quantsim's own, AIMET's torch side) say it outright. Files by tensor name use the names of an exported
ONNX graph:

* ``fc.weight``: a parameter; ``fc.weight_0``, ``onnx::MatMul_12`` style suffixes are the exporter's, which transposes
  the weights of ``MatMul``;
* ``/encoder/layer.0/dense/Add_output_0``: output 0 of the last op of module ``encoder.layer.0.dense``;
* ``input_ids``: an input of the model, by the name of an argument of ``forward``, or by position with ``input_names``;
* ``scores``: an output of the model, by position with ``output_names``;
* ``fc.output[0]``, ``fc.input[0]``: what quantsim writes, which has no ONNX graph to take names from.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from torch import nn

from quantsim.nn import BaseQuantizationMixin
from quantsim.sim.example_run import ExampleRun, InputReference, OutputReference
from quantsim.sim.slots import nearest_names, parse_slot
from quantsim_encodings.document import EncodingEntry, TensorReference, TensorRole

__all__ = ["ResolvedTensor", "TensorResolver"]

_EXPORTER_SUFFIX: Final = re.compile(r"_\d+")
_GRAPH_OUTPUT: Final = re.compile(r"(?P<op>[A-Za-z]\w*?)_output_(?P<index>\d+)")


@dataclass(frozen=True)
class ResolvedTensor:
    """A tensor of the simulation.

    Attributes:
        tensor: Where it is.
        is_transposed: Whether the file holds the parameter with its two axes swapped.
    """

    tensor: TensorReference
    is_transposed: bool = False


class TensorResolver:
    """Looks tensors up in one simulation.

    Args:
        model: The simulated model.
        modules: Its quantized modules by path.
        run: What the example run showed; without it, names of model inputs are unknown.
        name_map: For names in the file that nothing else explains: a place (``"fc.output_quantizers[0]"``,
            ``"fc.weight"``), or a reference. Several places may be given.
        input_names: Names of the exported graph's inputs, in the order of the model's tensor inputs.
        output_names: Names of the exported graph's outputs, in the order of the tensors that the model returns.
    """

    def __init__(
        self,
        model: nn.Module,
        modules: Mapping[str, BaseQuantizationMixin],
        run: ExampleRun | None,
        name_map: Mapping[str, str | TensorReference | Sequence[str | TensorReference]] | None = None,
        input_names: Sequence[str] | None = None,
        output_names: Sequence[str] | None = None,
    ) -> None:
        self._modules = modules
        self._graph_ends = {**_model_outputs(run, output_names), **_model_inputs(model, run, input_names)}
        self._name_map = dict(name_map or {})

    def resolve(self, entry: EncodingEntry) -> tuple[ResolvedTensor, ...] | str:
        """The tensors that an entry is for; or, in words, why there is none."""
        if entry.tensor is not None:
            return self._existing(entry.tensor)
        name = entry.name or ""
        if name in self._name_map:
            return self._mapped(name)
        for found in (self._parameter(name), self._own_activation(name), self._graph_output(name)):
            if found is not None:
                return (found,)
        if name in self._graph_ends:
            return self._graph_ends[name]
        near = nearest_names(name, self._known_names())
        hint = f"; near: {', '.join(near)}" if near else ""
        return f"no tensor of the simulation is called that{hint}; name it in name_map, input_names or output_names"

    def _existing(self, tensor: TensorReference) -> tuple[ResolvedTensor, ...] | str:
        module = self._modules.get(tensor.module)
        if module is None:
            near = nearest_names(tensor.module, self._modules)
            hint = f"; near: {', '.join(near)}" if near else ""
            return f"the simulation has no quantized module '{tensor.module}'{hint}"
        if tensor.role is TensorRole.PARAM:
            if tensor.key in module.param_quantizers:
                return (ResolvedTensor(tensor),)
            known = ", ".join(module.param_quantizers) or "none"
            return f"module '{tensor.module}' has no parameter '{tensor.key}', only {known}"
        container = module.input_quantizers if tensor.role is TensorRole.INPUT else module.output_quantizers
        if tensor.key.isdecimal() and int(tensor.key) < len(container):
            return (ResolvedTensor(tensor),)
        return f"module '{tensor.module}' has {len(container)} {tensor.role.value}(s), not number {tensor.key}"

    def _mapped(self, name: str) -> tuple[ResolvedTensor, ...] | str:
        targets = self._name_map[name]
        result: list[ResolvedTensor] = []
        for target in [targets] if isinstance(targets, (str, TensorReference)) else targets:
            tensor = target if isinstance(target, TensorReference) else parse_slot(target)
            if tensor is None:
                found = self._parameter(str(target)) or self._own_activation(str(target))
                if found is None:
                    return f"name_map sends it to {target!r}, no place like 'fc.output_quantizers[0]' or 'fc.weight'"
                result.append(found)
                continue
            existing = self._existing(tensor)
            if isinstance(existing, str):
                return f"name_map sends it to {target!r}: {existing}"
            result.extend(existing)
        return tuple(result)

    def _parameter(self, name: str) -> ResolvedTensor | None:
        path, _, key = name.rpartition(".")
        module = self._modules.get(path)
        if module is None:
            return None
        if key in module.param_quantizers:
            return ResolvedTensor(TensorReference(path, TensorRole.PARAM, key))
        stem = next(
            (known for known in module.param_quantizers if _EXPORTER_SUFFIX.fullmatch(key.removeprefix(known))), None
        )
        if stem is None or not key.startswith(stem):
            return None
        values = module._own_parameter(stem)
        # The exporter copies a parameter under a new name only to transpose it, for MatMul.
        is_transposed = values is not None and values.dim() == 2
        return ResolvedTensor(TensorReference(path, TensorRole.PARAM, stem), is_transposed)

    def _own_activation(self, name: str) -> ResolvedTensor | None:
        tensor = parse_slot(name)
        existing = name if tensor is None else self._existing(tensor)
        return None if isinstance(existing, str) else existing[0]

    def _graph_output(self, name: str) -> ResolvedTensor | None:
        scopes, _, last = name.rpartition("/")
        found = _GRAPH_OUTPUT.fullmatch(last)
        if found is None or not name.startswith("/"):
            return None
        path = ".".join(part for part in scopes.split("/") if part)
        existing = self._existing(TensorReference(path, TensorRole.OUTPUT, found["index"]))
        return None if isinstance(existing, str) else existing[0]

    def _known_names(self) -> list[str]:
        names = [f"{path}.{key}" for path, module in self._modules.items() for key in module.param_quantizers]
        return [*names, *(f"{path}.output[0]" for path in self._modules), *self._graph_ends]


def _model_outputs(run: ExampleRun | None, output_names: Sequence[str] | None) -> dict[str, tuple[ResolvedTensor, ...]]:
    """Which module output each output of the model is, by its name in an exported graph."""
    if run is None:
        return {}
    return {
        name: (ResolvedTensor(TensorReference(origin.module, TensorRole.OUTPUT, str(origin.index))),)
        for name, origin in zip(output_names or (), run.model_outputs, strict=False)
        if isinstance(origin, OutputReference)
    }


def _model_inputs(
    model: nn.Module, run: ExampleRun | None, input_names: Sequence[str] | None
) -> dict[str, tuple[ResolvedTensor, ...]]:
    """Which module inputs each input of the model goes to, by the names it may have in an exported graph."""
    if run is None:
        return {}
    readers: dict[InputReference, list[ResolvedTensor]] = {}
    for path, call in run.calls.items():
        for position, seen in call.inputs.items():
            if not seen.is_floating:
                continue
            for producer in seen.producers:
                if isinstance(producer, InputReference):
                    tensor = TensorReference(path, TensorRole.INPUT, str(position))
                    readers.setdefault(producer, []).append(ResolvedTensor(tensor))
    arguments = list(inspect.signature(model.forward).parameters)
    result: dict[str, tuple[ResolvedTensor, ...]] = {}
    for reference in run.model_inputs:
        tensors = tuple(readers.get(reference, ()))
        if not tensors:
            continue
        if reference.keyword:
            result[reference.keyword] = tensors
        elif reference.position < len(arguments):
            result[arguments[reference.position]] = tensors
    for name, reference in zip(input_names or (), run.model_inputs, strict=False):
        if reference in readers:
            result[name] = tuple(readers[reference])
    return result
