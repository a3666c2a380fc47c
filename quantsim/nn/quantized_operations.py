"""Quantized modules for calls of torch functions that no module of the model makes.

An operation module stands for one place in some module's ``forward`` where a torch function is called. Functions whose
arguments have a module form of their own (``matmul``, ``add``, ...) use that; attention becomes
`DecomposedAttention`; all others become an `Operation`, which runs whatever it is given on quantized tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantsim.nn import functional_modules
from quantsim.nn.base import BaseQuantizationMixin
from quantsim.nn.containers import CONTAINERS, empty_list, quantizers_of
from quantsim.nn.functional_modules import MatMul
from quantsim.nn.generation import generate_class
from quantsim.nn.kernel_quant import QuantizationMixin, SpecifiedQuantizedModule
from quantsim.nn.quantized_forward import SpecifiedModule
from quantsim.nn.specification import ModuleSpec
from quantsim_kernels.reference.attention import attention_steps

__all__ = ["OPERATIONS", "DecomposedAttention", "Operation", "make_operation", "takes_part"]


class Operation(nn.Module):
    """One call of a torch function.

    Example:
        >>> Operation()(torch.ones(2), torch.ones(2), call=lambda tensors: tensors[0] + tensors[1])
        tensor([2., 2.])
    """

    def forward(self, *tensors: Tensor, call: Callable[[tuple[Tensor, ...]], Any]) -> Any:
        """Returns ``call(tensors)``."""
        return call(tensors)


class DecomposedAttention(nn.Module):
    """`torch.nn.functional.scaled_dot_product_attention` as a module."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Arguments, result and shapes are torch's."""
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )


class DecomposedAttentionBehaviour(SpecifiedModule):
    """Behaviour of the quantized class of `DecomposedAttention`.

    Attributes:
        qk_matmul: Quantized product of queries and keys; its output are the scores before scale and mask.
        softmax: Quantized softmax of the scaled and masked scores. Masks may be minus infinity, so quantize the output
            of ``qk_matmul`` rather than the input here.
        pv_matmul: Quantized product of probabilities and values.
    """

    def __quant_init__(self) -> None:
        super().__quant_init__()
        module: Any = self
        family = self._family()
        module.qk_matmul = family.from_module(MatMul())
        module.softmax = family.from_module(nn.Softmax(dim=-1))
        module.pv_matmul = family.from_module(MatMul())

    def _fake_quantized_forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        module: Any = self
        length, keys = query.shape[-2], key.shape[-2]
        if is_causal and length != keys:  # torch aligns the first query with the first key, not the last with the last
            attn_mask = torch.ones(length, keys, dtype=torch.bool, device=query.device).tril()
            is_causal = False
        output, _ = attention_steps(
            query,
            key,
            value,
            lambda a, b, _: module.qk_matmul(a, b),
            lambda a, b, _: module.pv_matmul(a.to(b.dtype), b),
            attn_mask=attn_mask,
            dropout=(lambda weights: F.dropout(weights, dropout_p)) if dropout_p else None,
            is_causal=is_causal,
            scale=scale,
            enable_gqa=enable_gqa,
            softmax=module.softmax,
        )
        return output


_WITH_MODULE_FORM: Final = {
    "add": "Add",
    "sub": "Subtract",
    "mul": "Multiply",
    "div": "Divide",
    "matmul": "MatMul",
    "bmm": "Bmm",
    "linear": "DynamicLinear",
    "baddbmm": "Baddbmm",
    "addmm": "Addmm",
}
"""Functions whose positional arguments are those of a module form."""

OPERATIONS: Final = tuple(
    """
    add sub mul div matmul bmm linear baddbmm addmm mm mv dot einsum inner outer addbmm tensordot bilinear grouped_mm
    conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d scaled_dot_product_attention
    cat stack pow exp log sqrt rsqrt square reciprocal neg abs sin cos erf clamp clip maximum minimum where lerp addcmul
    addcdiv floor_divide remainder cumsum sum mean amax amin var std norm prod logsumexp softmax log_softmax sigmoid
    tanh relu relu6 gelu silu mish elu selu celu leaky_relu prelu hardswish hardsigmoid hardtanh softplus softsign
    logsigmoid glu threshold layer_norm rms_norm group_norm batch_norm instance_norm local_response_norm normalize
    avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d interpolate grid_sample
    index_add scatter_add bincount cosine_similarity
    """.split()
)
"""Names of the functions that an operation module can stand for."""


def _class_name(op: str) -> str:
    return "".join(part.capitalize() for part in op.split("_")) + "Operation"


def _generate() -> dict[str, type[BaseQuantizationMixin]]:
    made: dict[str, type[BaseQuantizationMixin]] = {}
    for op in OPERATIONS:
        if op in _WITH_MODULE_FORM:
            continue
        if op == "scaled_dot_product_attention":
            spec = ModuleSpec(
                module_class=DecomposedAttention,
                op="decomposed_attention",
                outputs=0,
                behaviour=DecomposedAttentionBehaviour,
            )
        else:
            module_class = type(_class_name(op), (Operation,), {"__module__": __name__, "__doc__": f"One `{op}`."})
            globals()[module_class.__name__] = module_class
            spec = ModuleSpec(module_class=module_class, op=op, variadic_inputs=True)
        quantized = generate_class(spec, SpecifiedQuantizedModule, "Quantized", module=__name__)
        globals()[quantized.__name__] = QuantizationMixin.implements(spec.module_class)(quantized)
        made[op] = quantized
    for op, name in _WITH_MODULE_FORM.items():
        made[op] = QuantizationMixin.cls_to_qcls[getattr(functional_modules, name)]
    return made


_classes: Final = _generate()


def make_operation(op: str, tensors: int) -> BaseQuantizationMixin:
    """A quantized module for one place where a torch function is called; without quantizers.

    Args:
        op: Name of the function, one of `OPERATIONS`.
        tensors: How many tensors it is called with.

    Example:
        >>> module = make_operation("cat", 3)
        >>> type(module).__name__, len(module.input_quantizers)
        ('QuantizedCatOperation', 3)
    """
    quantized_class = _classes[op]
    module: Any = quantized_class.from_module(QuantizationMixin.qcls_to_cls[quantized_class]())
    if module._spec.variadic_inputs:
        module.input_quantizers = empty_list(tensors)
    return module


def takes_part(module: nn.Module) -> bool:
    """Whether an operation module does anything beyond calling the function: a quantizer, a kernel, or a hook."""
    if module._forward_hooks or module._forward_pre_hooks:
        return True
    if module.__dict__.get("_kernel") is not None or module.__dict__.get("_accumulation") is not None:
        return True
    if type(module)._default_kernel is not None:  # pyright: ignore[reportAttributeAccessIssue]
        return True
    for container in CONTAINERS:
        for quantizer in quantizers_of(module, container).values():
            if quantizer is not None:
                return True
    return _any_takes_part(child for name, child in module._modules.items() if name not in CONTAINERS)


def _any_takes_part(modules: Iterable[nn.Module | None]) -> bool:
    return any(module is not None and takes_part(module) for module in modules)
