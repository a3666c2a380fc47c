"""Quantized MultiheadAttention: made of quantized projections, matrix products and softmax.

torch keeps the weights of the three input projections in one Parameter, and parts of a Parameter are no Parameters.
So the packed Parameters stay where they are, in the attention module: state_dict, optimizer and the float module that
they are shared with see what they always saw. The projections ``q_proj``, ``k_proj`` and ``v_proj`` own no Parameter;
their ``weight`` and ``bias`` are rows of the packed ones, looked up when they are used.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantsim.nn.containers import empty_dict
from quantsim.nn.functional_modules import MatMul
from quantsim.nn.kernel_quant import QuantizationMixin
from quantsim.nn.quantized_forward import SpecifiedModule

__all__ = [
    "InputProjection",
    "AttentionBehaviour",
    "ProjectionBehaviour",
    "decompose_attention",
    "disable_fused_paths",
]

_PARTS = ("q_proj", "k_proj", "v_proj", "qk_matmul", "softmax", "qkv_matmul")
"""Submodules that the float module does not have."""


class InputProjection(nn.Linear):
    """Linear layer whose weight and bias are rows of an attention module's Parameters.

    Args:
        attention: The attention module; not a submodule of this one.
        index: 0 for query, 1 for key, 2 for value.
    """

    def __init__(self, attention: nn.MultiheadAttention, index: int) -> None:
        nn.Module.__init__(self)
        self.__dict__["_attention"] = attention  # past Module.__setattr__, which would make a cycle of submodules
        self.__dict__["_index"] = index
        self.out_features = attention.embed_dim
        self.in_features = (attention.embed_dim, attention.kdim, attention.vdim)[index]
        self.register_parameter("weight", None)
        self.register_parameter("bias", None)

    def packed_rows(self, name: str) -> Tensor | None:
        """Returns the rows of the attention module's Parameter that are this layer's ``"weight"`` or ``"bias"``."""
        parameters = self.__dict__["_attention"]._parameters
        index, size = self.__dict__["_index"], self.out_features
        if name == "weight" and parameters.get("in_proj_weight") is None:
            return parameters[f"{'qkv'[index]}_proj_weight"]
        packed = parameters["in_proj_weight" if name == "weight" else "in_proj_bias"]
        return None if packed is None else packed[index * size : (index + 1) * size]

    def forward(self, input: Tensor) -> Tensor:
        """Projects ``input`` of shape (..., in_features) to (..., out_features)."""
        weight = self.__dict__.get("weight")
        bias = self.__dict__.get("bias")
        return F.linear(
            input,
            self.packed_rows("weight") if weight is None else weight,  # pyright: ignore[reportArgumentType]
            self.packed_rows("bias") if bias is None else bias,
        )

    def extra_repr(self) -> str:
        """Sizes, as nn.Linear shows them."""
        bias = self.packed_rows("bias") is not None
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={bias}"


class ProjectionBehaviour(SpecifiedModule):
    """Behaviour of the quantized classes of `InputProjection`."""

    def __quant_init__(self) -> None:
        super().__quant_init__()
        self.param_quantizers = empty_dict(["weight"] if self.packed_rows("bias") is None else ["weight", "bias"])

    def _own_parameter(self, name: str) -> Tensor | None:
        folded = self._parameters.get(name)
        return self.packed_rows(name) if folded is None else folded

    def packed_rows(self, name: str) -> Tensor | None:
        """See `InputProjection.packed_rows`; a folded value takes precedence."""
        folded = self._parameters.get(name)
        return InputProjection.packed_rows(self, name) if folded is None else folded  # pyright: ignore[reportArgumentType]


class AttentionBehaviour(SpecifiedModule):
    """Behaviour of the quantized classes of MultiheadAttention.

    Attributes:
        q_proj, k_proj, v_proj, out_proj: Quantized linear projections.
        qk_matmul: Quantized product of (scaled) queries and keys; its output are the scores before any mask.
        softmax: Quantized softmax of the masked scores. Masks add minus infinity, so an input quantizer there can be
            calibrated only without masks; quantize the output of ``qk_matmul`` instead.
        qkv_matmul: Quantized product of probabilities and values.
    """

    def __quant_init__(self) -> None:
        super().__quant_init__()
        module: Any = self
        family = self._family()
        module.param_quantizers = empty_dict(
            name for name in ("bias_k", "bias_v") if self._parameters.get(name) is not None
        )
        for index, name in enumerate(("q_proj", "k_proj", "v_proj")):
            setattr(self, name, family.from_module(InputProjection(module, index)))
        module.qk_matmul = family.from_module(MatMul())
        module.softmax = family.from_module(nn.Softmax(dim=-1))
        module.qkv_matmul = family.from_module(MatMul())
        module.out_proj = family.from_module(module.out_proj)

    @property
    def _qkv_same_embed_dim(self) -> bool:
        # Only torch asks for this: in the constructor, for the kind of parameters to make; and later on, when True
        # would let nn.TransformerEncoderLayer run a fused kernel past all quantizers.
        return "q_proj" not in self._modules and self.__dict__["_qkv_same_embed_dim"]

    @_qkv_same_embed_dim.setter
    def _qkv_same_embed_dim(self, value: bool) -> None:
        self.__dict__["_qkv_same_embed_dim"] = value

    def get_original_module(self) -> nn.Module:
        """Returns the float module; see `BaseQuantizationMixin.get_original_module`."""
        original = super().get_original_module()
        for name in _PARTS:
            original._modules.pop(name, None)
        out_proj: Any = original._modules["out_proj"]
        original._modules["out_proj"] = out_proj.get_original_module()
        return original

    def _fake_quantized_forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Arguments, results and shapes are those of torch.nn.MultiheadAttention."""
        module: Any = self
        batched = query.dim() == 3
        if not batched:
            query, key, value = query.unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1)
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif module.batch_first:
            query, key, value = (tensor.transpose(0, 1) for tensor in (query, key, value))
        if is_causal and attn_mask is None:
            raise RuntimeError(
                f"{module._location('forward')}: is_causal=True is only a hint about attn_mask, which is missing; "
                "pass attn_mask, for instance nn.Transformer.generate_square_subsequent_mask(length)"
            )
        context, probabilities = self._attend(
            module.q_proj(query), module.k_proj(key), module.v_proj(value), attn_mask, key_padding_mask
        )
        output = module.out_proj(context)
        weights = None
        if need_weights:
            weights = probabilities.mean(dim=1) if average_attn_weights else probabilities
        if not batched:
            return output.squeeze(1), None if weights is None else weights.squeeze(0)
        return (output.transpose(0, 1) if module.batch_first else output), weights

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None, key_padding_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Attention of projected tensors of shape (length, batch, features); probabilities are (N, heads, L, S)."""
        module: Any = self
        length, batch, features = q.shape
        heads, size = module.num_heads, module.head_dim
        added = 0
        if module.bias_k is not None:
            with self._patch_quantized_parameters():
                k = torch.cat((k, module.bias_k.expand(1, batch, features)))
                v = torch.cat((v, module.bias_v.expand(1, batch, features)))
            added += 1
        q, k, v = (tensor.reshape(-1, batch, heads, size).permute(1, 2, 0, 3) for tensor in (q, k, v))
        if module.add_zero_attn:
            zero = k.new_zeros(batch, heads, 1, size)
            k, v = torch.cat((k, zero), dim=2), torch.cat((v, zero), dim=2)
            added += 1
        scores = module.qk_matmul(q * math.sqrt(1.0 / size), k.transpose(-2, -1))
        for mask in _additive_masks(attn_mask, key_padding_mask, scores, added):
            scores = scores + mask
        probabilities = module.softmax(scores)
        if module.training and module.dropout > 0.0:
            probabilities = F.dropout(probabilities, p=module.dropout)
        context = module.qkv_matmul(probabilities, v)
        return context.permute(2, 0, 1, 3).reshape(length, batch, features), probabilities


def _additive_masks(
    attn_mask: Tensor | None, key_padding_mask: Tensor | None, scores: Tensor, added: int
) -> list[Tensor]:
    """Masks to be added to scores of shape (N, heads, L, S); keys that were appended are never masked."""
    masks: list[Tensor] = []
    batch, heads = scores.shape[:2]
    if attn_mask is not None:
        shaped = attn_mask if attn_mask.dim() == 2 else attn_mask.reshape(batch, heads, *attn_mask.shape[-2:])
        masks.append(_additive(shaped, scores.dtype))
    if key_padding_mask is not None:
        masks.append(_additive(key_padding_mask, scores.dtype)[:, None, None, :])
    return [F.pad(mask, (0, added)) for mask in masks] if added else masks


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A float mask as it is; a bool mask with minus infinity where it is True."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(mask, -math.inf)


def disable_fused_paths(model: nn.Module) -> None:
    """Keeps nn.TransformerEncoder and its layers from running fused kernels that read weights past the quantizers.

    In evaluation without autograd they do so unless their attributes forbid it. Results do not change beyond rounding.

    Args:
        model: Model with modules that are, or will be, quantized; changed in place.

    Example:
        >>> layer = nn.TransformerEncoderLayer(8, 2, batch_first=True)
        >>> disable_fused_paths(layer)
        >>> layer.activation_relu_or_gelu
        0
    """
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0
        elif isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False


def decompose_attention(model: nn.Module) -> nn.Module:
    """Replaces each nn.MultiheadAttention by a quantized one, whose projections and products can have quantizers.

    Fused paths of torch that would go past them are switched off (`disable_fused_paths`).

    Args:
        model: Changed in place, unless it is itself replaced.

    Returns:
        The model, or its replacement.

    Example:
        >>> model = decompose_attention(nn.TransformerEncoderLayer(8, 2))
        >>> type(model.self_attn.q_proj).__name__
        'QuantizedInputProjection'
    """
    disable_fused_paths(model)
    replaced: dict[nn.Module, nn.Module] = {}
    for module in model.modules():
        if type(module) is nn.MultiheadAttention:
            replaced[module] = QuantizationMixin.from_module(module)
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None and child in replaced:
                parent._modules[name] = replaced[child]
    return replaced.get(model, model)
