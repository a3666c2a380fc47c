"""Transforms: passes that replace modules of a model by name, regular expression or default."""

from __future__ import annotations

from quantsim.transforms.configuration import load_transform_config
from quantsim.transforms.float_precision import (
    FloatPrecisionArguments,
    float_precision_module_transform_pass,
    plan_float_precision,
)
from quantsim.transforms.matching import MatchBy, ModuleMatch, PassArguments, match_modules
from quantsim.transforms.optical import (
    LayerKindArguments,
    OpticalArguments,
    optical_transformer_module_transform_pass,
    parse_optical_arguments,
    plan_optical_transformer,
)
from quantsim.transforms.passes import TRANSFORM_PASSES, TransformPass, transform_pass
from quantsim.transforms.plan import ModuleReplacement, TransformPlan
from quantsim.transforms.squeezelight import (
    SqueezeLightArguments,
    plan_squeezelight,
    squeezelight_module_transform_pass,
)

__all__ = [
    "TRANSFORM_PASSES",
    "FloatPrecisionArguments",
    "LayerKindArguments",
    "MatchBy",
    "ModuleMatch",
    "ModuleReplacement",
    "OpticalArguments",
    "PassArguments",
    "SqueezeLightArguments",
    "TransformPass",
    "TransformPlan",
    "float_precision_module_transform_pass",
    "load_transform_config",
    "match_modules",
    "optical_transformer_module_transform_pass",
    "parse_optical_arguments",
    "plan_float_precision",
    "plan_optical_transformer",
    "plan_squeezelight",
    "squeezelight_module_transform_pass",
    "transform_pass",
]
