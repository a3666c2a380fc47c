"""Quantized modules: torch modules with quantizers for inputs, parameters and outputs.

For each computing module class ``X`` of torch.nn, and each module form of a functional op, there are ``QuantizedX``
(computes with a kernel where there is one) and ``FakeQuantizedX`` (always computes in floating point).
"""

from __future__ import annotations

from quantsim.errors import UnknownModuleError
from quantsim.nn import functional_modules as _functional_modules
from quantsim.nn import quantized_modules as _quantized_modules
from quantsim.nn.attention import decompose_attention, disable_fused_paths
from quantsim.nn.base import BaseQuantizationMixin
from quantsim.nn.calibration import compute_encodings, compute_param_encodings, named_quantized_modules
from quantsim.nn.dispatch import DispatchReport, DispatchSource, OutputGrid
from quantsim.nn.fake_quant import FakeQuantizationMixin
from quantsim.nn.functional_modules import *  # noqa: F403
from quantsim.nn.kernel_quant import QuantizationMixin
from quantsim.nn.observation import CalibrationReport
from quantsim.nn.pruning_masks import (
    apply_pruning_masks,
    pruning_mask,
    pruning_masks,
    remove_pruning_mask,
    set_pruning_mask,
)
from quantsim.nn.quantized_modules import *  # noqa: F403
from quantsim.nn.registration import IgnoredModules, ignored_module_classes
from quantsim.nn.specification import ModuleSpec
from quantsim.nn.table import COMPOSITES, TORCH_MODULES

__all__ = [
    "COMPOSITES",
    "TORCH_MODULES",
    "BaseQuantizationMixin",
    "CalibrationReport",
    "DispatchReport",
    "DispatchSource",
    "FakeQuantizationMixin",
    "IgnoredModules",
    "ModuleSpec",
    "OutputGrid",
    "QuantizationMixin",
    "UnknownModuleError",
    "apply_pruning_masks",
    "compute_encodings",
    "compute_param_encodings",
    "decompose_attention",
    "disable_fused_paths",
    "ignored_module_classes",
    "named_quantized_modules",
    "pruning_mask",
    "pruning_masks",
    "remove_pruning_mask",
    "set_pruning_mask",
]
__all__ += _functional_modules.__all__
__all__ += _quantized_modules.__all__
