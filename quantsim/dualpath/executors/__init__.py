"""Executors of integer graphs: each computes the same integers, on its own engine."""

from __future__ import annotations

from quantsim.dualpath.executors.creation import EXECUTORS, create_executor
from quantsim.dualpath.executors.evaluation import Array, GraphExecutor, Inputs, as_numpy

__all__ = ["EXECUTORS", "Array", "GraphExecutor", "Inputs", "as_numpy", "create_executor"]
