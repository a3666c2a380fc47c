"""Optical attention in Hugging Face models: layers of Llama, BERT and RoBERTa, and any that uses the interface.

Models of transformers look up the function that computes attention by the name in their config. The optical one is
registered there once, under `IMPLEMENTATION`, together with its masks. An optical layer has a shallow copy of the
config that names it, so layers of one model can be optical or not, each on its own.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, Self, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.models.bert.modeling_bert import BertSelfAttention
from transformers.models.llama.modeling_llama import LlamaAttention
from transformers.models.roberta.modeling_roberta import RobertaSelfAttention

from quantsim.errors import ConfigurationError, UnknownModuleError
from quantsim.optical.attention import OpticalAttentionCore
from quantsim.optical.settings import OpticalSettings

__all__ = [
    "IMPLEMENTATION",
    "OtBertSelfAttention",
    "OtLlamaAttention",
    "OtRobertaSelfAttention",
    "convert_attention",
    "is_interface_attention",
    "optical_attention_forward",
    "use_optical_attention",
]

IMPLEMENTATION: Final = "quantsim_optical"
"""Name of optical attention in transformers' registries of attention functions and masks."""

_CHANGE_THE_LAW: Final = ("softcap", "s_aux", "position_bias")
"""Arguments of attention functions that are more than a mask, which optics does not compute."""


def optical_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Computes attention for a layer of transformers: optically if it has an ``optical_core``, else as its eager mode.

    Args:
        module: The layer.
        query: Shape (B, heads, L, D).
        key: Shape (B, heads or fewer, S, D), its heads not repeated.
        value: As ``key``.
        attention_mask: Shape (B, 1 or heads, L, S), bool or added; ``None``: causal if the layer is.
        scaling: Factor of the scores; ``1 / sqrt(D)`` by default.
        dropout: Probability of dropout.
        kwargs: What else the layer passes on.

    Returns:
        Output of shape (B, L, heads, D), and the probabilities.

    Raises:
        ConfigurationError: If the layer's attention is another function than optics computes, or the mask has not
            four dimensions.
        NotCalibratedError: In evaluation, if a range was never set; the text names the layer.
    """
    core = module._modules.get("optical_core")
    where = getattr(core, "module_path", None) or type(module).__name__
    if attention_mask is not None and attention_mask.dim() != 4:
        raise ConfigurationError(
            where=f"{where}(attention_mask)",
            got=f"shape {tuple(attention_mask.shape)}",
            expected="(batch, heads or 1, queries, keys)",
            fix="call use_optical_attention(model), which gives the model masks of that kind",
        )
    causal = kwargs.get("is_causal")
    causal = getattr(module, "is_causal", False) if causal is None else causal
    is_causal = bool(causal) and attention_mask is None and query.shape[2] > 1
    eager = _eager_function(type(module))
    if eager is not None and (not isinstance(core, OpticalAttentionCore) or core.q_bypass):
        return eager(
            module, query, key, value, _added(attention_mask, is_causal, query, key), scaling, dropout, **kwargs
        )
    if not isinstance(core, OpticalAttentionCore):
        raise ConfigurationError(
            where=where,
            got=f"attention implementation {IMPLEMENTATION!r} in a layer without an optical core",
            expected="a layer that convert_attention made, or one with an eager mode",
        )
    for name in _CHANGE_THE_LAW:
        if kwargs.get(name) is not None:
            raise ConfigurationError(
                where=where,
                got=f"attention with {name!r}",
                expected="attention of products, softmax and masks",
                fix="leave this layer out of the optical transform",
            )
    output, probabilities = core(query, key, value, attention_mask, dropout, is_causal, scaling, True)
    return output.transpose(1, 2).contiguous(), probabilities


def _eager_function(layer_class: type[nn.Module]) -> Callable[..., tuple[Tensor, Tensor | None]] | None:
    """The eager mode of a layer: that of the module that its class comes from."""
    for base in layer_class.__mro__:
        function = getattr(sys.modules.get(base.__module__), "eager_attention_forward", None)
        if function is not None:
            return function
    return None


def _added(mask: Tensor | None, is_causal: bool, query: Tensor, key: Tensor) -> Tensor | None:
    """A mask as eager modes take it: numbers to add."""
    if is_causal:
        rows, columns = query.shape[2], key.shape[2]
        mask = torch.ones(1, 1, rows, columns, dtype=torch.bool, device=query.device).tril(columns - rows)
    if mask is None or mask.dtype is not torch.bool:
        return mask
    zero = torch.zeros((), dtype=query.dtype, device=query.device)
    return torch.where(mask, zero, torch.finfo(query.dtype).min)


AttentionInterface.register(IMPLEMENTATION, optical_attention_forward)
# Without masks of its own an implementation is given none at all, and attends to padding.
AttentionMaskInterface.register(IMPLEMENTATION, eager_mask)


def _make_optical(module: nn.Module, settings: OpticalSettings, name: str | None) -> None:
    core = OpticalAttentionCore(settings)
    number = getattr(module, "layer_idx", None)
    named = f"{type(module).__name__}({'' if number is None else f'layer_idx={number}'})"
    core.module_path = f"{name}.optical_core" if name else f"{named}.optical_core"
    device = next((parameter.device for parameter in module.parameters()), None)
    module.optical_core = core.train(module.training).to(device)
    config = copy.copy(cast(Any, module).config)
    config._attn_implementation_internal = IMPLEMENTATION  # the property would change configs inside it too
    cast(Any, module).config = config


def _shared_copy(module: nn.Module, new_class: type[nn.Module]) -> nn.Module:
    """A module of ``new_class`` with the parameters, buffers, submodules and hooks of ``module``."""
    made = object.__new__(new_class)
    attributes = dict(module.__dict__)
    for registry in ("_parameters", "_buffers", "_modules"):
        attributes[registry] = dict(attributes[registry])
    made.__dict__.update(attributes)
    return made


class _OpticalAttention(nn.Module):
    """First base of the optical layers, which gives transformers' own forward an optical core."""

    optical_core: OpticalAttentionCore
    _replaces: ClassVar[type[nn.Module]]

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        fields = OpticalSettings.model_fields
        own = {name: kwargs.pop(name) for name in tuple(kwargs) if name in fields or name.startswith("q_")}
        settings = OpticalSettings.parse(own, type(self).__name__)
        super().__init__(config, *args, **kwargs)
        _make_optical(self, settings, None)

    @classmethod
    def from_attention(
        cls, attention: nn.Module, settings: OpticalSettings | None = None, *, name: str | None = None, **q: Any
    ) -> Self:
        """Makes the optical layer of a float one, whose projections, hooks and training mode it shares.

        Args:
            attention: The layer; it is not changed.
            settings: What to make; by default `OpticalSettings` of the keyword arguments.
            name: Name of the layer in its model, for errors.
            q: Fields of `OpticalSettings`.

        Raises:
            ConfigurationError: If the layer is another, or a setting is unknown or out of bounds.
        """
        where = f"{cls.__name__}.from_attention"
        parsed = OpticalSettings.parse(q, where) if settings is None or q else settings
        if type(attention) not in (cls._replaces, cls):  # an optical one is made anew, with other settings
            raise ConfigurationError(
                where=where, got=f"a {type(attention).__name__}", expected=f"a {cls._replaces.__name__}"
            )
        made = cast(Self, _shared_copy(attention, cls))
        _make_optical(made, parsed, name)
        return made

    @property
    def q_bypass(self) -> bool:
        """Whether the layer computes as if it were not optical."""
        return self.optical_core.q_bypass

    @q_bypass.setter
    def q_bypass(self, value: bool) -> None:
        self.optical_core.q_bypass = value


class OtLlamaAttention(_OpticalAttention, LlamaAttention):
    """Attention of Llama on a simulated photonic engine: rotary embedding, cache and projections as they are.

    The projections are linear layers like others: replace them by `OtLinear` to have them optical as well.

    Args:
        config: LlamaConfig.
        layer_idx: Number of the layer.
        q: Fields of `OpticalSettings`.

    Attributes:
        optical_core: Holds the six ranges, see `OpticalAttentionCore`.
    """

    _replaces = LlamaAttention


class OtBertSelfAttention(_OpticalAttention, BertSelfAttention):
    """Self-attention of BERT on a simulated photonic engine; see `OtLlamaAttention`."""

    _replaces = BertSelfAttention


class OtRobertaSelfAttention(_OpticalAttention, RobertaSelfAttention):
    """Self-attention of RoBERTa on a simulated photonic engine; see `OtLlamaAttention`."""

    _replaces = RobertaSelfAttention


_OPTICAL_CLASSES: Final[Mapping[type[nn.Module], type[_OpticalAttention]]] = {
    each._replaces: each for each in (OtLlamaAttention, OtBertSelfAttention, OtRobertaSelfAttention)
}


def is_interface_attention(module: nn.Module) -> bool:
    """Whether a layer computes attention through transformers' interface, so that it can be made optical.

    Example:
        >>> is_interface_attention(nn.Linear(2, 2))
        False
    """
    if getattr(getattr(module, "config", None), "_attn_implementation_internal", module) is module:
        return False
    return any("ALL_ATTENTION_FUNCTIONS" in _names_in_forward(base) for base in type(module).__mro__)


def _names_in_forward(layer_class: type) -> tuple[str, ...]:
    forward = layer_class.__dict__.get("forward")
    return () if forward is None else getattr(getattr(inspect.unwrap(forward), "__code__", None), "co_names", ())


def convert_attention(
    module: nn.Module, settings: OpticalSettings | None = None, *, name: str | None = None, **q: Any
) -> nn.Module:
    """Makes the optical layer of an attention layer of any model of transformers.

    Args:
        module: A layer that uses transformers' attention interface; it is not changed.
        settings: What to make; by default `OpticalSettings` of the keyword arguments.
        name: Name of the layer in its model, for errors.
        q: Fields of `OpticalSettings`.

    Returns:
        `OtLlamaAttention`, `OtBertSelfAttention` or `OtRobertaSelfAttention` where they fit, else a layer of the same
        class; with the same parameters and submodules, and the state in ``optical_core``. An optical layer is
        returned as it is.

    Raises:
        UnknownModuleError: If the layer does not use the interface.
        ConfigurationError: If a setting is unknown or out of bounds.
    """
    parsed = OpticalSettings.parse(q, "convert_attention") if settings is None or q else settings
    if isinstance(module._modules.get("optical_core"), OpticalAttentionCore):
        return module
    optical_class = _OPTICAL_CLASSES.get(type(module))
    if optical_class is not None:
        return optical_class.from_attention(module, parsed, name=name)
    if not is_interface_attention(module):
        raise UnknownModuleError(
            where=name or "convert_attention",
            got=f"a {type(module).__name__}",
            expected="a layer whose forward uses ALL_ATTENTION_FUNCTIONS of transformers",
        )
    made = _shared_copy(module, type(module))
    _make_optical(made, parsed, name)
    return made


def use_optical_attention(model: nn.Module) -> None:
    """Gives a model of transformers the masks that optical layers need; layers without a core then run eagerly.

    Needed only for models whose implementation makes no four-dimensional masks, such as flash attention; those of
    ``eager`` and ``sdpa`` fit as they are.

    Raises:
        ConfigurationError: If the model is none of transformers, or it cannot change its attention.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> config = BertConfig(
        ...     hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=9
        ... )
        >>> model = BertModel(config)
        >>> use_optical_attention(model)
        >>> model.config._attn_implementation
        'quantsim_optical'
    """
    change = getattr(model, "set_attn_implementation", None)
    if change is not None:
        change(IMPLEMENTATION)
    if change is None or cast(Any, model).config._attn_implementation != IMPLEMENTATION:
        raise ConfigurationError(
            where="use_optical_attention",
            got=f"a {type(model).__name__}",
            expected="a model of transformers that uses its attention interface",
        )
