"""The pass that puts the linear layers and the attention of a model on simulated photonic hardware."""

from __future__ import annotations

import copy
import hashlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self, cast

from pydantic import ConfigDict
from torch import nn

from quantsim.errors import ConfigurationError, QuantsimError
from quantsim.nn import BaseQuantizationMixin
from quantsim.optical import OpticalSettings, OtLinear
from quantsim.sim.slots import nearest_names
from quantsim.transforms.matching import MatchBy, ModuleMatch, PassArguments, match_modules, output_head_paths
from quantsim.transforms.plan import ModuleReplacement, TransformPlan

__all__ = [
    "LayerKindArguments",
    "OpticalArguments",
    "optical_transformer_module_transform_pass",
    "parse_optical_arguments",
    "plan_optical_transformer",
]

_ATTENTION: Final = "attn"
_LINEAR: Final = "fc"
_KINDS: Final = (_ATTENTION, _LINEAR)
_HEADS: Final = frozenset({"lm_head", "classifier", "classification_head", "score", "qa_outputs"})
"""What models call the layers of their task, where they do not tell them from the rest themselves."""


class OpticalArguments(OpticalSettings):
    """Parameters of the pass for the modules that a key matches: those of `quantsim.optical.OpticalSettings`.

    Example:
        >>> OpticalArguments(q_levels=64, noise="none").label
        '64 levels, floor 0.02004, noise none'
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def label(self) -> str:
        """Short words for tables."""
        if self.q_bypass:
            return "bypass"
        floor = "no floor" if self.q_lut_min is None else f"floor {self.q_lut_min:g}"
        photons = "" if self.photons is None else f" of {self.photons:g} photons"
        return f"{self.q_levels} levels, {floor}, noise {self.noise.value}{photons}"

    def at(self, path: str) -> Self:
        """The parameters of the module at a path: layers must not share their noise, so seeds follow from paths."""
        digest = hashlib.blake2b(path.encode(), digest_size=6).digest()
        return self.with_seed_number(int.from_bytes(digest, "little"))


_MEANINGS: Final = {
    "q_levels": "Number of levels of every quantizer, at least 2.",
    "q_lut_min": "Smallest transmission of the modulator, as a fraction of the ends of the range; null: no such floor.",
    "q_quantiles": "Two rising numbers from 0 to 1: a batch's range are these quantiles; null: its ends.",
    "q_smooth_factor": "Weight of the old range when a batch updates it, 0 to 1.",
    "q_init_seed": "Seed of the noise. Each module gets one of its own that follows from it and the module's path.",
    "q_bypass": "Whether the modules are put in place, but compute as if they were not optical.",
    "noise": "Noise of the detector: dither, shot or none.",
    "photons": "Photons for each multiply-accumulate; for shot noise, and only then.",
    "ste": "Gradient: identity through rounding and clipping, or clipped (zero outside the range).",
    "attn_range": "Range of attention probabilities: unit ([0, 1]) or row (up to the largest of the row).",
}

for _name, _field in OpticalArguments.model_fields.items():
    _field.description = _MEANINGS[_name]


@dataclass(frozen=True)
class LayerKindArguments:
    """Checked arguments by kind of layer, without paths: ``attn`` and ``fc``.

    Attributes:
        attention: Parameters of all attention modules; None leaves them alone.
        linear: Parameters of all linear layers but those of the model's task; None leaves them alone.

    Example:
        >>> arguments = LayerKindArguments.parse({"attn": {"q_levels": 64}, "fc": None})
        >>> arguments.attention.q_levels, arguments.linear
        (64, None)
    """

    attention: OpticalArguments | None
    linear: OpticalArguments | None

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, where: str = "pass_args") -> Self:
        """Checks arguments, which are not changed.

        Args:
            values: ``attn``, ``fc`` or both; the value of each is a mapping of parameters or None.
            where: What errors call the arguments.

        Raises:
            ConfigurationError: Another key, parameters that are unknown or wrong, or nothing is asked for.
        """
        unknown = [key for key in values if key not in _KINDS]
        if unknown:
            near = nearest_names(str(unknown[0]), _KINDS, 1)
            raise ConfigurationError(
                "unknown kind of layer",
                where=where,
                got=f"the key {unknown[0]!r}, without 'by'",
                expected=f"the keys {' and '.join(map(repr, _KINDS))}",
                fix=f"did you mean {near[0]!r}?" if near else "add by: regex_name if keys are patterns of paths",
            )
        # The checks, and their words, are those of keys that are names.
        checked = PassArguments[OpticalArguments].parse({"by": MatchBy.NAME, **values}, OpticalArguments, where=where)
        return cls(checked.patterns.get(_ATTENTION), checked.patterns.get(_LINEAR))


def parse_optical_arguments(
    pass_args: Mapping[str, Any], *, where: str = "pass_args"
) -> PassArguments[OpticalArguments] | LayerKindArguments:
    """Checks the arguments of `optical_transformer_module_transform_pass`, in either form; changes nothing.

    Args:
        pass_args: With ``by``: keys for paths. Without: ``attn`` and ``fc``.
        where: What errors call the arguments.

    Raises:
        ConfigurationError: They are not valid.

    Example:
        >>> type(parse_optical_arguments({"fc": {"q_levels": 64}})).__name__
        'LayerKindArguments'
        >>> parse_optical_arguments({"by": "name", "fc": {"q_levels": 1}})
        Traceback (most recent call last):
            ...
        quantsim.errors.ConfigurationError: pass_args['fc']: the parameters are not valid; got 1 wrong: q_levels: ...
    """
    if isinstance(pass_args, Mapping) and "by" not in pass_args and any(kind in pass_args for kind in _KINDS):
        return LayerKindArguments.parse(pass_args, where=where)
    return PassArguments[OpticalArguments].parse(pass_args, OpticalArguments, where=where)


def optical_transformer_module_transform_pass(network: nn.Module, pass_args: Mapping[str, Any]) -> nn.Module:
    """Puts linear layers and attention of a model on simulated photonic hardware (arXiv 2302.10360).

    ``nn.Linear`` becomes `quantsim.optical.OtLinear`; the attention of LLaMA, BERT and RoBERTa of transformers becomes
    `OtLlamaAttention`, `OtBertSelfAttention` and `OtRobertaSelfAttention`, that of its other models keeps its class
    and gets an optical core (`quantsim.optical.attention.convert_attention`): its products are optical as well. The
    replacements share parameters and hooks, so tied weights stay tied and optimizers keep working. Their ranges follow
    the first batches in training; before evaluation without training, calibrate them inside
    `quantsim.nn.compute_encodings`. A module that is optical already is made anew: the last pass wins, and its ranges
    start anew.

    Args:
        network: Changed in place, unless it is itself replaced. Unchanged if an error is raised.
        pass_args: One of two forms, each with the parameters of `OpticalArguments`, or None, under its keys. Not
            changed. (1) ``by`` (``"name"`` or ``"regex_name"``), keys, ``default``: the first key that matches the
            path of a module wins, then ``default``, which leaves the output head of a language model (``lm_head``)
            out. (2) ``attn`` for all attention modules, ``fc`` for all linear layers (the projections of attention
            included) but those of the task's head.

    Returns:
        The model, or its replacement.

    Raises:
        ConfigurationError: The arguments are not valid, or a key matches nothing.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> model = optical_transformer_module_transform_pass(
        ...     model, {"by": "regex_name", "[01]": {"q_levels": 128}, "default": {"q_levels": 256}}
        ... )
        >>> [type(module).__name__ for module in model], model[0].settings.q_levels
        (['OtLinear', 'ReLU', 'OtLinear'], 128)
    """
    return plan_optical_transformer(network, pass_args).apply()


def plan_optical_transformer(network: nn.Module, pass_args: Mapping[str, Any]) -> TransformPlan:
    """What `optical_transformer_module_transform_pass` would do; changes nothing.

    Args:
        network: The model.
        pass_args: Arguments of the pass.

    Raises:
        ConfigurationError: The arguments are not valid, or a key matches nothing.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 2), nn.Dropout())
        >>> plan = plan_optical_transformer(model, {"by": "name", "default": {"q_bypass": True}})
        >>> [(item.path, item.label) for item in plan.replacements], type(model[0]).__name__
        ([('0', 'bypass')], 'Linear')
    """
    if not isinstance(network, nn.Module):
        raise ConfigurationError(where="network", got=type(network).__name__, expected="a torch.nn.Module")
    arguments = parse_optical_arguments(pass_args)
    candidates = _candidates(network)
    if isinstance(arguments, LayerKindArguments):
        matches = _match_kinds(network, candidates, arguments)
    else:
        matches = match_modules(network, candidates, arguments)
    # From the inside out: attention takes over the new projections.
    linears = [_replacement(match, _optical_linear) for match in matches if not _is_attention(match.module)]
    attentions = [_replacement(match, _optical_attention) for match in matches if _is_attention(match.module)]
    made = {id(item.old): item.new for item in (*linears, *attentions)}
    for item in attentions:
        item.new._modules.update({name: made[id(old)] for name, old in item.new._modules.items() if id(old) in made})
    order = {match.path: number for number, match in enumerate(matches)}
    return TransformPlan.of(network, sorted((*linears, *attentions), key=lambda item: order[item.path]))


def _candidates(network: nn.Module) -> dict[str, nn.Module]:
    linears = linear_layers(network)
    return {path: module for path, module in network.named_modules() if path in linears or _is_attention(module)}


def linear_layers(network: nn.Module) -> dict[str, nn.Module]:
    """Linear layers that compute what torch's do with a weight of their own, by path; quantized ones included.

    Example:
        >>> list(linear_layers(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.MultiheadAttention(2, 1))))
        ['0']
    """
    fused = {  # torch reads their weights past their forward
        id(part)
        for module in network.modules()
        if isinstance(module, nn.MultiheadAttention)
        for part in module.modules()
    }
    return {path: module for path, module in network.named_modules() if id(module) not in fused and _is_linear(module)}


def _is_linear(module: nn.Module) -> bool:
    if isinstance(module, nn.Linear) and isinstance(module, BaseQuantizationMixin):
        module = module.get_original_module()
    return (
        isinstance(module, nn.Linear)
        and not isinstance(module, nn.LazyLinear)
        and type(module).forward is nn.Linear.forward
        and "forward" not in module.__dict__
        and module._parameters.get("weight") is not None  # not computed from others, as by a parametrization
    )


def _match_kinds(
    network: nn.Module, candidates: Mapping[str, nn.Module], arguments: LayerKindArguments
) -> list[ModuleMatch[OpticalArguments]]:
    heads = _head_paths(network, candidates)
    places: dict[int, list[str]] = {}
    for path, module in network.named_modules(remove_duplicate=False):
        places.setdefault(id(module), []).append(path)
    matches: list[ModuleMatch[OpticalArguments]] = []
    for key, parameters in ((_ATTENTION, arguments.attention), (_LINEAR, arguments.linear)):
        if parameters is None:
            continue
        found = [
            ModuleMatch(path, module, key, parameters, tuple(name for name in places[id(module)] if name != path))
            for path, module in candidates.items()
            if _is_attention(module) is (key == _ATTENTION) and heads.isdisjoint(places[id(module)])
        ]
        if not found:
            raise ConfigurationError(
                "the model has no module of this kind",
                where=f"pass_args[{key!r}]",
                got=f"{type(network).__name__} with {sum(1 for _ in network.modules())} modules",
                expected="attention of a model of transformers, through its attention interface"
                if key == _ATTENTION
                else "at least one nn.Linear outside of the task's head",
                fix=f"take {key!r} away, or use by='regex_name' and keys for paths",
            )
        matches += found
    order = {path: number for number, path in enumerate(candidates)}
    return sorted(matches, key=lambda match: order[match.path])


def _head_paths(network: nn.Module, candidates: Mapping[str, nn.Module]) -> frozenset[str]:
    """The layers of the task: what a model of transformers has besides its base model, or what is called like one."""
    found = set(output_head_paths(network, candidates))
    prefix = getattr(network, "base_model_prefix", "")
    if isinstance(prefix, str) and prefix and isinstance(getattr(network, prefix, None), nn.Module):
        found.update(path for path in candidates if path.split(".")[0] != prefix)
    else:
        found.update(path for path in candidates if not _HEADS.isdisjoint(path.split(".")))
    return frozenset(found)


def _replacement(
    match: ModuleMatch[OpticalArguments], make: Callable[[nn.Module, OpticalSettings], nn.Module]
) -> ModuleReplacement:
    try:
        new = make(match.module, match.parameters.at(match.path))
    except QuantsimError as error:
        raise error.with_location(match.path or type(match.module).__name__)  # noqa: B904 (the same error)
    kept = {id(part) for part in match.module.modules()}
    for name, part in new.named_modules():
        if isinstance(part, BaseQuantizationMixin) and id(part) not in kept:
            part.module_path = ".".join(filter(None, (match.path, name))) or None
    return ModuleReplacement(match.path, match.module, new, match.key, match.parameters.label, match.aliases)


def float_linear(module: nn.Module) -> nn.Linear:
    """The layer itself, or of a quantized one the float layer with the same parameters."""
    original = module.get_original_module() if isinstance(module, BaseQuantizationMixin) else module
    return cast(nn.Linear, original)


def _optical_linear(module: nn.Module, settings: OpticalSettings) -> nn.Module:
    return OtLinear.from_linear(float_linear(module), share_parameters=True, **settings.linear_arguments())


def _is_attention(module: nn.Module) -> bool:
    if "transformers" not in sys.modules:  # then none of its modules is there
        return False
    from quantsim.optical.attention import is_interface_attention

    return is_interface_attention(module)


def _optical_attention(module: nn.Module, settings: OpticalSettings) -> nn.Module:
    from quantsim.optical.attention import OpticalAttentionCore, convert_attention

    optical = convert_attention(module, settings)
    if optical is not module:
        return optical
    # Optical already: the same with a new core.
    old_core = module.get_submodule("optical_core")
    device = next((values.device for values in old_core.buffers()), None)
    optical = copy.copy(module)
    optical.__dict__["_modules"] = dict(module._modules)
    optical._modules["optical_core"] = OpticalAttentionCore(settings).train(module.training).to(device)
    return optical
