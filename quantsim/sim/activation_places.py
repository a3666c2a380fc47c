"""Decides which inputs and outputs of modules get quantizers. Touches no module."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Final

from quantsim.errors import ConfigurationError
from quantsim.sim.config import (
    ActivationPlacement,
    FloatSetting,
    IntegerSetting,
    OperationSetting,
    QuantizerSetting,
    SimulationConfig,
)
from quantsim.sim.example_run import ExampleRun, InputReference, ModuleCall, OutputReference
from quantsim.sim.fused_groups import FusedModules
from quantsim.sim.leaf import Leaf
from quantsim.sim.module_kinds import ModuleKind, operand_inputs
from quantsim.sim.operations import JOINING_OPERATIONS, canonical_op
from quantsim.sim.patterns import is_op
from quantsim.sim.shared_grids import SharedGrids
from quantsim_encodings.document import TensorReference, TensorRole

__all__ = ["ActivationPlaces", "call_of", "floating_inputs", "floating_outputs", "operation_setting"]

_MASKED: Final = frozenset({"softmax", "softmax2d", "softmin", "log_softmax"})
"""Ops whose input may hold minus infinity, where a mask was added: no range covers that."""

_WITHOUT_QUANTIZERS: Final = (ModuleKind.GRID_KEEPING, ModuleKind.LOSS, ModuleKind.COMPOSITE)

_PRODUCTS: Final = frozenset({"matmul", "bmm", "mm"})

_SUMS: Final = frozenset({"add", "subtract"})

_SCORES: Final = "qk_matmul"
_CACHE_READERS: Final = (_SCORES, "pv_matmul")
"""The products of decomposed attention; their second inputs are keys and values."""


class _Mark(Enum):
    ABSORBED = "absorbed"
    """The next module takes the output over before anything is rounded (convolution + norm + activation)."""
    KEPT = "kept"
    """The output is on the grid of what came in."""


OutputSetting = QuantizerSetting | _Mark | None


class ActivationPlaces:
    """The activation quantizers of one model, as a config places them; then changed by rules.

    Args:
        config: What is wanted.
        leaves: Modules by path.
        run: What a run on example inputs showed; without it every input counts as floating-point and as coming from
            nowhere.
        fused: Modules that are computed in one go.
    """

    def __init__(
        self, config: SimulationConfig, leaves: Mapping[str, Leaf], run: ExampleRun | None, fused: FusedModules
    ) -> None:
        self._config, self._leaves, self._run, self._fused = config, leaves, run, fused
        self._at_outputs = config.activations is not None and config.activation_placement == ActivationPlacement.OUTPUTS
        self._joining: set[str] = set()
        self._outputs: dict[OutputReference, OutputSetting] = {}
        for leaf in leaves.values():
            self._place_outputs(leaf)
        if config.quantize_model_outputs and run is not None:
            for reference in run.model_outputs:
                if isinstance(reference, OutputReference) and self._outputs.get(reference) is _Mark.KEPT:
                    self._outputs[reference] = config.activations

    def set_outputs(self, references: Iterable[OutputReference], setting: QuantizerSetting | None) -> None:
        """What a rule says about outputs; before `place`."""
        for reference in references:
            self._outputs[reference] = setting
            self._joining.discard(reference.module)

    def place(self, placement: dict[TensorReference, QuantizerSetting]) -> None:
        """Adds the places of outputs and inputs to a placement."""
        for reference, setting in self._outputs.items():
            if setting is not None and not isinstance(setting, _Mark):
                placement[_output(reference)] = setting
        for leaf in self._leaves.values():
            if self._config.activations is not None:
                for position in self._inputs_to_quantize(leaf):
                    placement[_input(leaf, position)] = self._config.activations
            operation = operation_setting(self._config, leaf)
            if operation is not None and "inputs" in operation.model_fields_set:
                for position in floating_inputs(leaf, self._run):
                    _assign(placement, _input(leaf, position), operation.inputs)
        if self._config.operands is not None and self._at_outputs:
            for leaf in self._leaves.values():
                self._narrow_operands(leaf, placement, self._config.operands)
        if self._config.second_factors is not None:
            for leaf in self._leaves.values():
                if leaf.op in _PRODUCTS and call_of(leaf, self._run) is not None:
                    factors = self._grid_of_input(leaf, 1, placement)
                    placement.update({factor: self._config.second_factors for factor in factors if factor in placement})
        if self._config.kv_cache is not None:
            self._place_cache(placement, self._config.kv_cache)

    def share(self, placement: dict[TensorReference, QuantizerSetting]) -> SharedGrids:
        """Finds what has to share a grid because it is joined; where formats differ, the result gets a quantizer.

        Args:
            placement: With everything in place; quantizers of results are added to it.
        """
        grids = SharedGrids()
        for path in sorted(self._joining):
            leaf = self._leaves[path]
            tensors = [
                tensor
                for position in floating_inputs(leaf, self._run)
                for tensor in self._grid_of_input(leaf, position, placement)
            ]
            members = [other for tensor in tensors if tensor is not None for other in grids.members(tensor)]
            formats = [_format_of(placement.get(member)) for member in members]
            if (
                None not in tensors
                and formats
                and formats.count(formats[0]) == len(formats)
                and _has_one_grid(formats[0])
            ):
                placement.update(dict.fromkeys(members, _of_all([placement[member] for member in members])))
                grids.join(members)
            else:
                assert self._config.activations is not None  # nothing is joined otherwise
                placement[_output(OutputReference(path, 0))] = self._config.activations
        return grids

    # ---------------------------------------------------------------- outputs

    def _place_outputs(self, leaf: Leaf) -> None:
        operation = operation_setting(self._config, leaf)
        changed = operation is not None and "outputs" in operation.model_fields_set
        wanted: OutputSetting = self._config.activations if self._at_outputs else None
        if changed and operation is not None:
            wanted = operation.outputs if operation.outputs is not None else _Mark.KEPT
        elif leaf.kind in _WITHOUT_QUANTIZERS:
            return
        elif self._at_outputs and self._joins(leaf):
            self._joining.add(leaf.path)
            wanted = _Mark.KEPT
        if self._at_outputs and self._config.scores is not None and leaf.path.rpartition(".")[2] == _SCORES:
            wanted = self._config.scores
        elif self._at_outputs and not changed and self._config.addends is not None and self._is_addend(leaf.path):
            wanted = self._config.addends
        if self._at_outputs and leaf.path in self._fused.absorbed:
            wanted = _Mark.ABSORBED
        if wanted is None or (wanted is _Mark.KEPT and not self._at_outputs):
            return
        for position in floating_outputs(leaf, self._run):
            self._outputs[OutputReference(leaf.path, position)] = wanted

    def _is_addend(self, path: str) -> bool:
        """Whether nothing but sums read what a module gives."""
        call = None if self._run is None else self._run.calls.get(path)
        readers = set() if call is None else set(call.consumers)
        if None in readers:
            return False
        # A module that hands its input on, such as dropout in evaluation, is a reader; so is who reads that.
        leaves = {reader: self._leaves.get(reader) for reader in readers if reader is not None}
        keeping = {reader for reader, leaf in leaves.items() if leaf and leaf.kind is ModuleKind.GRID_KEEPING}
        summing = {reader for reader, leaf in leaves.items() if leaf and leaf.op and canonical_op(leaf.op) in _SUMS}
        others = leaves.keys() - keeping - summing
        return bool(summing) and not others and not any(map(self._is_read, keeping))

    def _is_read(self, path: str) -> bool:
        call = None if self._run is None else self._run.calls.get(path)
        return call is not None and bool(call.consumers)

    def _joins(self, leaf: Leaf) -> bool:
        return (
            self._config.shared_grids
            and leaf.op in JOINING_OPERATIONS
            and call_of(leaf, self._run) is not None
            and _has_one_grid(self._config.activations)
        )

    # ---------------------------------------------------------------- inputs

    def _inputs_to_quantize(self, leaf: Leaf) -> list[int]:
        if not self._at_outputs:
            if leaf.kind is not ModuleKind.MULTIPLYING:
                return []
            names = leaf.input_names
            wanted = operand_inputs(leaf.op, names) if names else frozenset(range(leaf.input_count))
        elif leaf.kind in _WITHOUT_QUANTIZERS or leaf.op in _MASKED or not self._config.quantize_inputs:
            return []
        else:
            wanted = frozenset(range(leaf.input_count))
        call = call_of(leaf, self._run)
        result = []
        for position in floating_inputs(leaf, self._run):
            seen = None if call is None else call.inputs.get(position)
            if position in wanted and (seen is None or not all(map(self._is_covered, seen.producers))):
                result.append(position)
        return result

    def _is_covered(self, producer: OutputReference | InputReference | None) -> bool:
        return isinstance(producer, OutputReference) and self._outputs.get(producer) is not None

    def _grid_of_input(
        self, leaf: Leaf, position: int, placement: Mapping[TensorReference, QuantizerSetting]
    ) -> list[TensorReference | None]:
        """The quantizers whose grids a tensor that comes in may be on; None for one that is on no grid."""
        own = _input(leaf, position)
        if own in placement:
            return [own]
        call = call_of(leaf, self._run)
        producers = () if call is None else call.inputs[position].producers
        ordered = sorted(producers, key=lambda each: (type(each).__name__, str(each)))
        return [tensor for producer in ordered for tensor in self._grids_of(producer, placement, frozenset())]

    def _grids_of(
        self,
        producer: OutputReference | InputReference | None,
        placement: Mapping[TensorReference, QuantizerSetting],
        visited: frozenset[OutputReference],
    ) -> list[TensorReference | None]:
        if not isinstance(producer, OutputReference) or producer in visited:
            return [] if producer in visited else [None]
        tensor = _output(producer)
        if tensor in placement or self._outputs.get(producer) is not _Mark.KEPT:
            return [tensor if tensor in placement else None]
        leaf = self._leaves[producer.module]
        call = call_of(leaf, self._run)
        positions = floating_inputs(leaf, self._run)
        found: list[TensorReference | None] = []
        for position in positions if leaf.path in self._joining else positions[:1]:
            own = _input(leaf, position)
            if own in placement:
                found.append(own)
            elif call is not None:
                for each in sorted(call.inputs[position].producers, key=str):
                    found += self._grids_of(each, placement, visited | {producer})
        return found or [None]

    def _narrow_operands(
        self, leaf: Leaf, placement: dict[TensorReference, QuantizerSetting], operands: IntegerSetting
    ) -> None:
        """Gives inputs of multiplying modules that come with more bits than those a quantizer of their own."""
        if leaf.kind is not ModuleKind.MULTIPLYING:
            return
        wanted = operand_inputs(leaf.op, leaf.input_names) if leaf.input_names else frozenset(range(leaf.input_count))
        for position in floating_inputs(leaf, self._run):
            if position not in wanted or _input(leaf, position) in placement:
                continue
            known = [tensor for tensor in self._grid_of_input(leaf, position, placement) if tensor is not None]
            settings = [placement[tensor] for tensor in known]
            if any(isinstance(each, IntegerSetting) and each.bits > operands.bits for each in settings):
                placement[_input(leaf, position)] = operands

    def _place_cache(self, placement: dict[TensorReference, QuantizerSetting], setting: QuantizerSetting) -> None:
        readers = [leaf for path, leaf in self._leaves.items() if path.rpartition(".")[2] in _CACHE_READERS]
        if not readers:
            raise ConfigurationError(
                "the model has no attention whose keys and values could be found",
                where=f"config '{self._config.name}', kv_cache",
                got=f"{len(self._leaves)} modules, none of them a part of scaled_dot_product_attention",
                expected="a model that calls torch.nn.functional.scaled_dot_product_attention",
                fix="give example_inputs; in transformers load the model with attn_implementation='sdpa'",
            )
        for leaf in readers:
            placement[_input(leaf, 1)] = setting


def operation_setting(config: SimulationConfig, leaf: Leaf) -> OperationSetting | None:
    """What the config says about the module's op; an op itself comes before its family."""
    if leaf.op is None or not config.operations:
        return None
    op = canonical_op(leaf.op)
    found = config.operations.get(op)
    if found is not None:
        return found
    return next((setting for wanted, setting in config.operations.items() if is_op(wanted, op)), None)


def call_of(leaf: Leaf, run: ExampleRun | None) -> ModuleCall | None:
    """What the run saw of the module; None if there was no run, or the module was not called in it."""
    return None if run is None else run.calls.get(leaf.path)


def floating_inputs(leaf: Leaf, run: ExampleRun | None) -> list[int]:
    """Positions of the floating-point inputs; all without a call."""
    call = call_of(leaf, run)
    if call is None:
        return list(range(leaf.input_count))
    return [
        position
        for position in range(leaf.input_count)
        if position in call.inputs and call.inputs[position].is_floating
    ]


def floating_outputs(leaf: Leaf, run: ExampleRun | None) -> list[int]:
    """Positions of the floating-point outputs; all without a call."""
    call = call_of(leaf, run)
    if call is None:
        return list(range(leaf.output_count))
    return [position for position in range(leaf.output_count) if call.outputs.get(position, False)]


def _has_one_grid(setting: QuantizerSetting | None) -> bool:
    """Whether a quantizer of that setting has a grid of its own that does not change from tensor to tensor."""
    is_plain_cast = isinstance(setting, FloatSetting) and not setting.scaled
    return setting is not None and (
        is_plain_cast or setting.needs_data or getattr(setting, "fixed_range", None) is not None
    )


def _format_of(setting: QuantizerSetting | None) -> QuantizerSetting | None:
    """The setting's format alone, without how a range is found."""
    if isinstance(setting, IntegerSetting):
        return IntegerSetting(bits=setting.bits, symmetric=setting.symmetric, granularity=setting.granularity)
    return setting


def _of_all(settings: list[QuantizerSetting]) -> QuantizerSetting:
    """One setting for tensors of one format: a range that is known of some of them does not hold for all."""
    if settings.count(settings[0]) == len(settings):
        return settings[0]
    calibrated = [setting for setting in settings if setting.needs_data]
    return (
        calibrated[0]
        if calibrated
        else IntegerSetting.model_validate({**settings[0].model_dump(), "fixed_range": None})
    )


def _output(reference: OutputReference) -> TensorReference:
    return TensorReference(reference.module, TensorRole.OUTPUT, str(reference.index))


def _input(leaf: Leaf, position: int) -> TensorReference:
    return TensorReference(leaf.path, TensorRole.INPUT, str(position))


def _assign(
    placement: dict[TensorReference, QuantizerSetting], slot: TensorReference, setting: QuantizerSetting | None
) -> None:
    if setting is None:
        placement.pop(slot, None)
    else:
        placement[slot] = setting
