"""Algorithms that make a model, or its simulation, fit for few bits."""

from __future__ import annotations

from quantsim.recipes.pruning import GradualPruning, n_of_m_mask, prunable_modules, prune_n_of_m, sparsity
from quantsim.recipes.rounding import bake_rounding, learn_rounding
from quantsim.recipes.smooth_quant import SmoothQuantReport, smooth_quant

__all__ = [
    "GradualPruning",
    "SmoothQuantReport",
    "bake_rounding",
    "learn_rounding",
    "n_of_m_mask",
    "prunable_modules",
    "prune_n_of_m",
    "smooth_quant",
    "sparsity",
]
