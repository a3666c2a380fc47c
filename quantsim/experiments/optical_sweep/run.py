"""Runs the sweep: for each engine the model is transformed, calibrated and compared with itself in FP32."""

from __future__ import annotations

import copy
import platform
import time
from collections.abc import Callable
from importlib.metadata import version

import torch
from torch import Tensor

from quantsim.experiments.demo.evaluation import mean_cosine, sqnr_db
from quantsim.experiments.demo.workloads import Workload
from quantsim.experiments.optical_sweep.results import SweepPoint, SweepResult
from quantsim.experiments.optical_sweep.settings import Hardware, SweepSettings
from quantsim.nn import compute_encodings
from quantsim.transforms import optical_transformer_module_transform_pass

__all__ = ["measure", "run_sweep"]


def _nothing(*_: object) -> None: ...


@torch.no_grad()
def run_sweep(
    workload: Workload, settings: SweepSettings | None = None, on_point: Callable[[SweepPoint], None] = _nothing
) -> SweepResult:
    """Measures every engine; the model itself is not changed.

    Args:
        workload: Model with its data, such as `quantsim.experiments.demo.workloads.minilm_workload` makes.
        settings: What to run; all of it by default.
        on_point: Called with each point as soon as it is measured.

    Raises:
        ConfigurationError: The model has no linear layer or no attention that the optical pass knows.
    """
    settings = SweepSettings() if settings is None else settings
    reference = workload.evaluate(workload.reference, _nothing)

    def point(hardware: Hardware, levels: int, photons: float | None = None) -> SweepPoint:
        measured = measure(workload, reference.outputs, hardware, levels, photons)
        on_point(measured)
        return measured

    engines = {hardware.name: hardware.description for hardware in (*settings.variants, settings.photon_hardware)}
    return SweepResult(
        title=workload.title,
        task=workload.task,
        versions={"python": platform.python_version(), "torch": torch.__version__, "quantsim": version("quantsim")},
        hardware=engines,
        accuracy=reference.accuracy,
        retrieval_at_1=reference.retrieval_at_1,
        levels=tuple(point(hardware, levels) for hardware in settings.variants for levels in settings.levels),
        photons=tuple(point(settings.photon_hardware, settings.photon_levels, photons) for photons in settings.photons),
    )


@torch.no_grad()
def measure(
    workload: Workload, exact: Tensor, hardware: Hardware, levels: int, photons: float | None = None
) -> SweepPoint:
    """Transforms a copy of the model, calibrates it and compares it with FP32.

    Args:
        workload: Model with its data.
        exact: Its outputs in FP32.
        hardware: The engine.
        levels: Its number of levels.
        photons: Photons for each multiply-accumulate; None: the engine's own noise.
    """
    started = time.perf_counter()
    model = optical_transformer_module_transform_pass(
        copy.deepcopy(workload.reference), hardware.pass_args(levels, photons)
    ).eval()
    with compute_encodings(model):
        workload.calibrate(model)
    measured = workload.evaluate(model, _nothing)
    return SweepPoint(
        hardware=hardware.name,
        levels=levels,
        photons=photons,
        accuracy=measured.accuracy,
        retrieval_at_1=measured.retrieval_at_1,
        cosine=mean_cosine(exact, measured.outputs),
        sqnr_db=sqnr_db(exact, measured.outputs),
        seconds=time.perf_counter() - started,
    )
