"""Decides which tensor of which module gets a quantizer, and with which setting. Touches no module."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from quantsim.errors import ConfigurationError
from quantsim.sim.config import (
    ActivationPlacement,
    PlacementRule,
    QuantizerSetting,
    SimulationConfig,
)
from quantsim.sim.example_run import ExampleRun, ModuleCall, OutputReference
from quantsim.sim.leaf import Leaf
from quantsim.sim.module_kinds import ModuleKind, is_weight, operand_inputs
from quantsim.sim.patterns import ModulePattern
from quantsim.sim.slots import nearest_names
from quantsim_encodings.document import TensorReference, TensorRole

__all__ = ["Placement", "excluded_paths", "matching_paths", "place_quantizers"]

_ABSORBED_BY_NORM = frozenset({"batch_norm"})
_ABSORBED_BY_ACTIVATION = frozenset({"relu", "relu6", "hardtanh"})
_ACTIVATION_PRODUCERS = frozenset({"batch_norm", "add", "subtract"})
_MASKED = frozenset({"softmax", "softmax2d", "softmin", "log_softmax"})
"""Ops whose input may hold minus infinity, where a mask was added: no range covers that."""


Placement = dict[TensorReference, QuantizerSetting]
"""Which tensor is quantized, and how."""


def matching_paths(pattern: ModulePattern, modules: Mapping[str, nn.Module], *, what: str) -> frozenset[str]:
    """Paths of the modules that a pattern means, and of all below them.

    Args:
        pattern: The pattern.
        modules: All modules of the model by path.
        what: What errors call the pattern's owner.

    Raises:
        ConfigurationError: No module matches; says which names are near.
    """
    found = [path for path, module in modules.items() if pattern.matches(path, module)]
    if not found:
        if pattern.type is not None and pattern.name is None and pattern.regex is None:
            near = nearest_names(pattern.type, {type(module).__name__ for module in modules.values()})
        else:
            near = nearest_names(pattern.name or pattern.regex or "", [path for path in modules if path])
        raise ConfigurationError(
            "the rule matches no module of the model",
            where=what,
            got=str(pattern),
            expected=f"a pattern that matches at least one of {len(modules)} modules",
            fix=f"did you mean {' or '.join(map(repr, near))}?"
            if near
            else "list the paths with model.named_modules()",
        )
    below = tuple(f"{path}." for path in found if path)
    return frozenset(path for path in modules if path in found or path.startswith(below) or "" in found)


def excluded_paths(
    config: SimulationConfig, modules: Mapping[str, nn.Module], *, all_must_match: bool = True
) -> frozenset[str]:
    """Paths of all modules that the config excludes.

    Args:
        config: The config.
        modules: All modules of the model by path.
        all_must_match: Whether an exclusion that matches nothing is an error.

    Raises:
        ConfigurationError: An exclusion matches nothing.
    """
    result: frozenset[str] = frozenset()
    for index, pattern in enumerate(config.exclude):
        if not all_must_match and not any(pattern.matches(path, module) for path, module in modules.items()):
            continue
        result |= matching_paths(pattern, modules, what=f"config '{config.name}', exclude[{index}]")
    return result


def place_quantizers(
    config: SimulationConfig, leaves: Sequence[Leaf], modules: Mapping[str, nn.Module], run: ExampleRun | None
) -> Placement:
    """Says for each tensor that is to be quantized how.

    Args:
        config: What is wanted.
        leaves: Modules that can hold quantizers, exclusions left out.
        modules: All modules of the model by path, for the rules.
        run: What a run on example inputs showed; without it every input counts as floating-point and as coming from
            nowhere.

    Returns:
        Setting by place.

    Raises:
        ConfigurationError: A rule matches nothing or changes nothing.
    """
    placement: Placement = {}
    for leaf in leaves:
        for name, setting in _parameter_settings(config, leaf):
            placement[TensorReference(leaf.path, TensorRole.PARAM, name)] = setting
    by_path = {leaf.path: leaf for leaf in leaves}
    overrides = [
        (rule, matching_paths(rule.match, modules, what=f"config '{config.name}', rules[{index}]"))
        for index, rule in enumerate(config.rules)
    ]
    for index, (rule, paths) in enumerate(overrides):
        _apply_to_parameters(rule, [leaf for leaf in leaves if leaf.path in paths], placement, f"rules[{index}]")
    outputs = _output_settings(config, leaves, by_path, run)
    for index, (rule, paths) in enumerate(overrides):
        matched = [leaf for leaf in leaves if leaf.path in paths]
        if "outputs" in rule.model_fields_set:
            slots = [
                OutputReference(leaf.path, position) for leaf in matched for position in _floating_outputs(leaf, run)
            ]
            _require_effect(rule.outputs, slots, f"rules[{index}]: outputs", rule)
            outputs.update(dict.fromkeys(slots, rule.outputs))
    for reference, setting in outputs.items():
        if setting is not None and not isinstance(setting, _Absorbed):
            placement[TensorReference(reference.module, TensorRole.OUTPUT, str(reference.index))] = setting
    if config.activations is not None:
        covered = {reference for reference, setting in outputs.items() if setting is not None}
        for leaf in leaves:
            for position in _inputs_to_quantize(config, leaf, run, covered):
                placement[TensorReference(leaf.path, TensorRole.INPUT, str(position))] = config.activations
    for index, (rule, paths) in enumerate(overrides):
        if "inputs" in rule.model_fields_set:
            matched = [leaf for leaf in leaves if leaf.path in paths]
            inputs = [
                TensorReference(leaf.path, TensorRole.INPUT, str(position))
                for leaf in matched
                for position in _floating_inputs(leaf, run)
            ]
            _require_effect(rule.inputs, inputs, f"rules[{index}]: inputs", rule)
            _assign(placement, inputs, rule.inputs)
    return placement


class _Absorbed:
    """Marks an output that the next module takes over before anything is rounded (convolution + norm + activation)."""


_ABSORBED = _Absorbed()


def _parameter_settings(config: SimulationConfig, leaf: Leaf) -> Iterable[tuple[str, QuantizerSetting]]:
    if leaf.kind is ModuleKind.MULTIPLYING:
        setting = config.weights
    elif leaf.kind is ModuleKind.EMBEDDING:
        setting = config.embeddings
    else:
        return
    if setting is not None:
        for name, values in leaf.parameters.items():
            if is_weight(name, values):
                yield name, setting


def _output_settings(
    config: SimulationConfig, leaves: Sequence[Leaf], by_path: Mapping[str, Leaf], run: ExampleRun | None
) -> dict[OutputReference, QuantizerSetting | _Absorbed | None]:
    if config.activations is None or config.activation_placement != ActivationPlacement.OUTPUTS:
        return {}
    result: dict[OutputReference, QuantizerSetting | _Absorbed | None] = {}
    for leaf in leaves:
        if leaf.kind in (ModuleKind.GRID_KEEPING, ModuleKind.LOSS, ModuleKind.COMPOSITE):
            continue
        absorbed = _is_absorbed(leaf, by_path, run)
        for position in _floating_outputs(leaf, run):
            result[OutputReference(leaf.path, position)] = _ABSORBED if absorbed else config.activations
    return result


def _is_absorbed(leaf: Leaf, by_path: Mapping[str, Leaf], run: ExampleRun | None) -> bool:
    """Whether the only reader of the output is a norm or activation function that hardware fuses with the module."""
    call = _call(leaf, run)
    if call is None or len(call.consumers) != 1:
        return False
    consumer = next(iter(call.consumers))
    reader = by_path.get(consumer) if consumer is not None else None
    if reader is None:
        return False
    if reader.op in _ABSORBED_BY_NORM:
        return leaf.kind is ModuleKind.MULTIPLYING
    return reader.op in _ABSORBED_BY_ACTIVATION and (
        leaf.kind is ModuleKind.MULTIPLYING or leaf.op in _ACTIVATION_PRODUCERS
    )


def _inputs_to_quantize(
    config: SimulationConfig,
    leaf: Leaf,
    run: ExampleRun | None,
    covered: set[OutputReference],
) -> list[int]:
    if config.activation_placement == ActivationPlacement.OPERANDS:
        if leaf.kind is not ModuleKind.MULTIPLYING:
            return []
        wanted = operand_inputs(leaf.op, leaf.input_names) if leaf.input_names else frozenset(range(leaf.input_count))
    else:
        if leaf.kind in (ModuleKind.GRID_KEEPING, ModuleKind.LOSS, ModuleKind.COMPOSITE):
            return []
        wanted = frozenset() if leaf.op in _MASKED else frozenset(range(leaf.input_count))
    call = _call(leaf, run)
    result = []
    for position in _floating_inputs(leaf, run):
        if position not in wanted:
            continue
        seen = None if call is None else call.inputs.get(position)
        if seen is not None and all(producer in covered for producer in seen.producers):
            continue
        result.append(position)
    return result


def _call(leaf: Leaf, run: ExampleRun | None) -> ModuleCall | None:
    """What the run saw of the module; None if there was no run, or the module was not called in it."""
    return None if run is None else run.calls.get(leaf.path)


def _floating_inputs(leaf: Leaf, run: ExampleRun | None) -> list[int]:
    call = _call(leaf, run)
    if call is None:
        return list(range(leaf.input_count))
    return [
        position
        for position in range(leaf.input_count)
        if position in call.inputs and call.inputs[position].is_floating
    ]


def _floating_outputs(leaf: Leaf, run: ExampleRun | None) -> list[int]:
    call = _call(leaf, run)
    if call is None:
        return list(range(leaf.output_count))
    return [position for position in range(leaf.output_count) if call.outputs.get(position, False)]


def _apply_to_parameters(rule: PlacementRule, leaves: Sequence[Leaf], placement: Placement, what: str) -> None:
    if "weights" in rule.model_fields_set:
        slots = [
            TensorReference(leaf.path, TensorRole.PARAM, name)
            for leaf in leaves
            for name, values in leaf.parameters.items()
            if is_weight(name, values) or (name == "weight" and leaf.kind is ModuleKind.OTHER)
        ]
        _require_effect(rule.weights, slots, f"{what}: weights", rule)
        _assign(placement, slots, rule.weights)
    for name, setting in rule.params.items():
        slots = [TensorReference(leaf.path, TensorRole.PARAM, name) for leaf in leaves if name in leaf.parameters]
        if not slots:
            known = sorted({known for leaf in leaves for known in leaf.parameters})
            raise ConfigurationError(
                "no module that matches has such a parameter",
                where=what,
                got=repr(name),
                expected=f"one of {', '.join(known) or '(the modules have no parameters)'}",
                fix="correct the parameter's name, or the pattern",
            )
        _assign(placement, slots, setting)


def _assign(placement: Placement, slots: Iterable[TensorReference], setting: QuantizerSetting | None) -> None:
    for slot in slots:
        if setting is None:
            placement.pop(slot, None)
        else:
            placement[slot] = setting


def _require_effect(setting: QuantizerSetting | None, slots: Sequence[object], what: str, rule: PlacementRule) -> None:
    if setting is not None and not slots:
        raise ConfigurationError(
            "the rule matches modules, but none has such a tensor",
            where=what,
            got=f"match {rule.match}",
            expected="at least one quantizable tensor of that kind",
            fix="match the modules that hold the tensors (an activation function has no weight), or drop the field",
        )
