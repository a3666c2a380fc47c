"""Calibration of all quantized modules of a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from quantsim.errors import QuantsimError
from quantsim.nn.containers import CONTAINERS, quantizers_of
from quantsim.nn.distributed_statistics import calibrate_together
from quantsim.nn.grid_recovery import recover_grid
from quantsim.nn.observation import CalibrationReport, QuantizerPlace, observe, preserve_on_error
from quantsim.nn.pruning_masks import zero_pruned_weights
from quantsim.quantization.base import QuantizerBase
from quantsim.quantization.ranks import Ranks
from quantsim.quantization.sharded_tensors import return_to_shards, whole

if TYPE_CHECKING:
    from quantsim.quantization.ranks import RankChoice

__all__ = ["compute_encodings", "compute_param_encodings", "named_quantized_modules"]


def named_quantized_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yields the quantized modules of ``model``, itself included, with their names.

    The name is the one the simulation gave, else the place in ``model``, else the class.
    """
    for name, module in model.named_modules():
        if all(container in module._modules for container in CONTAINERS):
            yield getattr(module, "module_path", None) or name or type(module).__name__, module


@contextmanager
def compute_encodings(model: nn.Module, *, process_group: RankChoice = "all") -> Iterator[CalibrationReport]:
    """Calibrates all quantizers of the quantized modules of ``model``: parameters now, activations at the block's end.

    Inside the block, input and output quantizers pass tensors through unchanged while they observe; quantizers that
    must not be overwritten keep quantizing, parameters are quantized. An exception leaves every quantizer as it was.

    In a distributed run every rank calls this, each on its share of the data; at the end the statistics are united, so
    that all ranks set the ranges of all data. An exception on one rank becomes a `RankError` on the others.

    Args:
        model: Model with quantized modules, or one of these.
        process_group: The ranks that calibrate together: ``"all"`` of the default group, if there is one; a group; or
            None, each rank for itself.

    Yields:
        A report, filled in at the end; quantizers that saw no data are listed in it and warned of.

    Raises:
        NonFiniteError: If NaN or infinity was observed; the text names the quantizer.
        RankError: If calibration failed on another rank, or the ranks have different quantizers.

    Example:
        >>> from quantsim.nn import QuantizedLinear, QuantizedReLU
        >>> from quantsim.quantization import affine
        >>> model = nn.Sequential(QuantizedLinear(4, 2), QuantizedReLU())
        >>> model[1].output_quantizers[0] = affine.QuantizeDequantize((), bitwidth=8, symmetric=False)
        >>> with compute_encodings(model) as report:
        ...     _ = model(torch.ones(3, 4))
        >>> report.calibrated
        ['1.output_quantizers[0]']
    """
    modules = list(named_quantized_modules(model))
    activations = [
        place
        for name, module in modules
        for place in quantizer_places(name, module, ("input_quantizers", "output_quantizers"))
    ]
    parameters = [
        place.quantizer for name, module in modules for place in quantizer_places(name, module, ("param_quantizers",))
    ]
    report = CalibrationReport()
    return_to_shards(model)
    quantizers = [*parameters, *(place.quantizer for place in activations)]
    with (
        calibrate_together(
            Ranks.of(process_group), announce_failures=not any(quantizer.is_sharded for quantizer in quantizers)
        ) as joint,
        preserve_on_error(parameters),
        _names_in_errors(modules),
    ):
        calibrate_parameters(modules, overwrite=True)
        with observe(activations, report, joint):
            yield report
            return_to_shards(model)


@contextmanager
def _names_in_errors(modules: Iterable[tuple[str, nn.Module]]) -> Iterator[None]:
    """Lets modules without a ``module_path`` give their name in this model in the errors of their forward."""
    unnamed = [(name, module) for name, module in modules if getattr(module, "module_path", None) is None]
    for name, module in unnamed:
        module.__dict__["module_path"] = name
    try:
        yield
    finally:
        for _, module in unnamed:
            module.__dict__.pop("module_path", None)


def compute_param_encodings(model: nn.Module, *, overwrite: bool = True) -> None:
    """Calibrates the parameter quantizers of the quantized modules of ``model`` from the parameters' values.

    A parameter that lies on an integer grid of its quantizer is recovered without loss; otherwise the quantizer's
    encoding analyzer decides. Quantizers that must not be overwritten are left alone.

    Args:
        model: Model with quantized modules, or one of these.
        overwrite: Whether quantizers that have a range are calibrated again.

    Raises:
        NonFiniteError: If a parameter holds NaN or infinity; the text names it, and no quantizer has changed.
    """
    return_to_shards(model)
    calibrate_parameters(named_quantized_modules(model), overwrite=overwrite)


def quantizer_places(name: str, module: nn.Module, containers: Iterable[str]) -> Iterator[QuantizerPlace]:
    """Yields the quantizers in the named containers of a quantized module."""
    for container in containers:
        for key, quantizer in quantizers_of(module, container).items():
            if isinstance(quantizer, QuantizerBase):
                shown = repr(key) if container == "param_quantizers" else key
                yield QuantizerPlace(f"{name}.{container}[{shown}]", key, quantizer)


def calibrate_parameters(modules: Iterable[tuple[str, nn.Module]], *, overwrite: bool) -> None:
    """Calibrates the parameter quantizers of quantized modules; all of them or, after an error, none.

    A quantizer that several parameters share is calibrated over all of them.

    Args:
        modules: Names and modules.
        overwrite: Whether quantizers that have a range are calibrated again.
    """
    tensors: dict[int, list[torch.Tensor]] = {}
    places: dict[int, QuantizerPlace] = {}
    for name, module in modules:
        zero_pruned_weights(module)
        for place in quantizer_places(name, module, ("param_quantizers",)):
            quantizer = place.quantizer
            parameter = module._own_parameter(place.key)  # pyright: ignore[reportCallIssue]
            if (
                parameter is None
                or isinstance(parameter, nn.parameter.UninitializedParameter)
                or not (quantizer.is_overwrite_allowed and quantizer.needs_calibration)
                or (quantizer.is_initialized() and not overwrite)
            ):
                continue
            places.setdefault(id(quantizer), place)
            tensors.setdefault(id(quantizer), []).append(parameter.detach())
    with preserve_on_error([place.quantizer for place in places.values()]):
        for key, place in places.items():
            try:
                _calibrate(place.quantizer, tensors[key])
                place.quantizer.is_initialized()  # notes it now: code compiled later cannot look at the values
            except QuantsimError as error:
                raise error.with_location(place.location)  # noqa: B904 (the same error, with its place)


def _calibrate(quantizer: QuantizerBase, parameters: list[torch.Tensor]) -> None:
    if any(parameter.is_meta for parameter in parameters):
        return
    parameters = [whole(parameter) for parameter in parameters]
    if len(parameters) == 1 and recover_grid(quantizer, parameters[0]):
        return
    quantizer.begin_observation()
    try:
        for parameter in parameters:
            quantizer(parameter)
    except BaseException:
        quantizer.cancel_observation()
        raise
    quantizer.finish_observation()
