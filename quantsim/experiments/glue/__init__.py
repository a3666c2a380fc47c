"""The GLUE experiment: float, random, optical and SqueezeLight models on its tasks, before and after training."""

from __future__ import annotations

from quantsim.experiments.glue.results import RunResult, Stage, System, append_result, read_results
from quantsim.experiments.glue.tasks import GLUE_TASKS, GlueTask, glue_task

__all__ = [
    "GLUE_TASKS",
    "GlueTask",
    "RunResult",
    "Stage",
    "System",
    "append_result",
    "glue_task",
    "read_results",
]
