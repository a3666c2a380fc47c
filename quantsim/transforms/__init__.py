"""Transforms: passes that replace modules of a model by name, regular expression or default."""

from __future__ import annotations

from quantsim.transforms.configuration import load_transform_config
from quantsim.transforms.float_precision import (
    FloatPrecisionArguments,
    float_precision_module_transform_pass,
    plan_float_precision,
)
from quantsim.transforms.matching import MatchBy, ModuleMatch, PassArguments, match_modules
from quantsim.transforms.passes import TRANSFORM_PASSES, TransformPass, transform_pass
from quantsim.transforms.plan import ModuleReplacement, TransformPlan

__all__ = [
    "TRANSFORM_PASSES",
    "FloatPrecisionArguments",
    "MatchBy",
    "ModuleMatch",
    "ModuleReplacement",
    "PassArguments",
    "TransformPass",
    "TransformPlan",
    "float_precision_module_transform_pass",
    "load_transform_config",
    "match_modules",
    "plan_float_precision",
    "transform_pass",
]
