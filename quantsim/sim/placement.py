"""Decides which tensor of which module gets a quantizer, and with which setting. Touches no module."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from quantsim.errors import ConfigurationError
from quantsim.sim.activation_places import (
    ActivationPlaces,
    floating_inputs,
    floating_outputs,
    operation_setting,
)
from quantsim.sim.config import PlacementRule, QuantizerSetting, SimulationConfig
from quantsim.sim.example_run import ExampleRun, OutputReference
from quantsim.sim.fused_groups import DEFAULT_FUSED_GROUPS, find_fused_modules
from quantsim.sim.leaf import Leaf
from quantsim.sim.module_kinds import ModuleKind, is_weight
from quantsim.sim.operations import op_of_module
from quantsim.sim.patterns import ModulePattern
from quantsim.sim.shared_grids import SharedGrids
from quantsim.sim.slots import nearest_names
from quantsim_encodings.document import TensorReference, TensorRole

__all__ = ["Placement", "excluded_paths", "matching_paths", "place_quantizers"]


class Placement(dict[TensorReference, QuantizerSetting]):
    """Which tensor is quantized, and how.

    Attributes:
        shared: Which of them have one grid.
    """

    shared: SharedGrids

    def __init__(self) -> None:
        super().__init__()
        self.shared = SharedGrids()


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
        if pattern.op is not None and pattern.name is None and pattern.regex is None:
            near = sorted({op for op in map(op_of_module, modules.values()) if op is not None})
        elif pattern.type is not None and pattern.name is None and pattern.regex is None:
            near = nearest_names(pattern.type, {type(module).__name__ for module in modules.values()})
        else:
            near = nearest_names(pattern.name or pattern.regex or "", [path for path in modules if path])
        raise ConfigurationError(
            "the rule matches no module of the model",
            where=what,
            got=str(pattern),
            expected=f"a pattern that matches at least one of {len(modules)} modules",
            fix=f"did you mean {' or '.join(map(repr, near))}?"
            if near and pattern.op is None
            else f"the model has {', '.join(near)}"
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
    placement = Placement()
    by_path = {leaf.path: leaf for leaf in leaves}
    groups = DEFAULT_FUSED_GROUPS if config.fused_groups is None else config.fused_groups
    fused = find_fused_modules(groups, by_path, run, fuse_depthwise=config.fuse_depthwise)
    for leaf in leaves:
        for name, setting in _parameter_settings(config, leaf, is_folded=leaf.path in fused.folded).items():
            placement[TensorReference(leaf.path, TensorRole.PARAM, name)] = setting
    overrides = [
        (rule, matching_paths(rule.match, modules, what=f"config '{config.name}', rules[{index}]"))
        for index, rule in enumerate(config.rules)
    ]
    for index, (rule, paths) in enumerate(overrides):
        _apply_to_parameters(rule, [leaf for leaf in leaves if leaf.path in paths], placement, f"rules[{index}]")
    activations = ActivationPlaces(config, by_path, run, fused)
    for index, (rule, paths) in enumerate(overrides):
        matched = [leaf for leaf in leaves if leaf.path in paths]
        if "outputs" in rule.model_fields_set:
            slots = [
                OutputReference(leaf.path, position) for leaf in matched for position in floating_outputs(leaf, run)
            ]
            _require_effect(rule.outputs, slots, f"rules[{index}]: outputs", rule)
            activations.set_outputs(slots, rule.outputs)
    activations.place(placement)
    for index, (rule, paths) in enumerate(overrides):
        if "inputs" in rule.model_fields_set:
            matched = [leaf for leaf in leaves if leaf.path in paths]
            inputs = [
                TensorReference(leaf.path, TensorRole.INPUT, str(position))
                for leaf in matched
                for position in floating_inputs(leaf, run)
            ]
            _require_effect(rule.inputs, inputs, f"rules[{index}]: inputs", rule)
            _assign(placement, inputs, rule.inputs)
    placement.shared = activations.share(placement)
    return placement


def _parameter_settings(config: SimulationConfig, leaf: Leaf, *, is_folded: bool) -> dict[str, QuantizerSetting]:
    """By parameter; nothing for what an op's setting says of a norm that is folded into the weights before it."""
    default: QuantizerSetting | None = None
    if leaf.kind is ModuleKind.MULTIPLYING:
        default = config.weights
    elif leaf.kind is ModuleKind.EMBEDDING:
        default = config.embeddings
    weights = _weight_names(leaf)
    settings: dict[str, QuantizerSetting | None] = {}
    if default is not None:
        settings = {name: default for name, values in leaf.parameters.items() if is_weight(name, values)}
    operation = operation_setting(config, leaf)
    if operation is not None and not is_folded:
        if "weights" in operation.model_fields_set:
            settings.update(dict.fromkeys(weights, operation.weights))
        settings.update({name: each for name, each in operation.params.items() if name in leaf.parameters})
    return {name: setting for name, setting in settings.items() if setting is not None}


def _weight_names(leaf: Leaf) -> list[str]:
    return [
        name
        for name, values in leaf.parameters.items()
        if is_weight(name, values) or (name == "weight" and leaf.kind is ModuleKind.OTHER)
    ]


def _apply_to_parameters(rule: PlacementRule, leaves: Sequence[Leaf], placement: Placement, what: str) -> None:
    if "weights" in rule.model_fields_set:
        slots = [TensorReference(leaf.path, TensorRole.PARAM, name) for leaf in leaves for name in _weight_names(leaf)]
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
