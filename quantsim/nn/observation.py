"""Calibrates a set of quantizers together: all ranges are set when the block ends normally, or none is."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from quantsim.errors import QuantsimError
from quantsim.nn.distributed_statistics import JointCalibration
from quantsim.quantization.base import QuantizerBase

__all__ = ["CalibrationReport", "QuantizerPlace", "observe", "preserve_on_error"]


@dataclass(frozen=True)
class QuantizerPlace:
    """A quantizer and where in the model it sits, such as ``encoder.fc.output_quantizers[0]``.

    Args:
        location: For people.
        key: Its index or parameter name in its container.
        quantizer: The quantizer.
    """

    location: str
    key: str
    quantizer: QuantizerBase


@dataclass
class CalibrationReport:
    """What a calibration did; filled in when its block ends normally.

    Args:
        calibrated: Locations of the activation quantizers whose range was set.
        unobserved: Locations of the activation quantizers that saw no data; their range is unchanged.
    """

    calibrated: list[str] = field(default_factory=list)
    unobserved: list[str] = field(default_factory=list)


@contextmanager
def observe(
    places: Sequence[QuantizerPlace], report: CalibrationReport, joint: JointCalibration | None = None
) -> Iterator[CalibrationReport]:
    """Puts quantizers in pass-through observation inside the block, and sets their ranges when it ends normally.

    Quantizers that must not be overwritten keep quantizing. A quantizer in several places is observed once, over all
    of them. After an exception, also one in setting a range, all are as they were.

    Args:
        places: The quantizers; the locations are used in errors and the report.
        report: Filled in at the normal end.
        joint: Makes the statistics those of all ranks before ranges are set; None for this process alone.
    """
    distinct: dict[int, QuantizerPlace] = {}
    for place in places:
        distinct.setdefault(id(place.quantizer), place)
    began: list[QuantizerPlace] = []
    with preserve_on_error([place.quantizer for place in distinct.values()]):
        try:
            for place in distinct.values():
                place.quantizer.begin_observation()
                if place.quantizer.is_observing:
                    began.append(place)
            yield report
            if joint is not None:
                joint.unite(began)
            while began:
                place = began.pop()
                _finish(place, report)
        finally:
            for place in began:
                place.quantizer.cancel_observation()
    report.calibrated.reverse()
    report.unobserved.reverse()
    if report.unobserved:
        warnings.warn(
            f"calibration: {len(report.unobserved)} quantizer(s) saw no data and keep their range: "
            f"{', '.join(report.unobserved)}. Run data that reaches them, or remove them.",
            stacklevel=5,
        )


def _finish(place: QuantizerPlace, report: CalibrationReport) -> None:
    try:
        saw_data = place.quantizer.finish_observation()
    except QuantsimError as error:
        place.quantizer.cancel_observation()
        raise error.with_location(place.location)  # noqa: B904 (the same error, with its place)
    place.quantizer.is_initialized()  # notes it now: code that is compiled later cannot look at the values
    (report.calibrated if saw_data else report.unobserved).append(place.location)


@dataclass(frozen=True)
class _State:
    """A quantizer's attributes and tensors at one moment; knows nothing of the kind of quantizer."""

    attributes: dict[str, Any]
    tensors: tuple[tuple[Tensor, Tensor], ...]

    @classmethod
    def of(cls, quantizer: QuantizerBase) -> _State:
        attributes = dict(quantizer.__dict__)
        for registry in ("_parameters", "_buffers", "_modules"):
            attributes[registry] = dict(attributes[registry])
        values = (*quantizer._parameters.values(), *quantizer._buffers.values())
        return cls(attributes, tuple((value, value.detach().clone()) for value in values if value is not None))

    def restore(self, quantizer: QuantizerBase) -> None:
        quantizer.__dict__.clear()
        quantizer.__dict__.update(self.attributes)
        with torch.no_grad():
            for value, saved in self.tensors:
                value.data = saved.data if value.shape != saved.shape else value.data
                value.copy_(saved)


@contextmanager
def preserve_on_error(quantizers: Sequence[QuantizerBase]) -> Iterator[None]:
    """Restores ranges and settings of ``quantizers`` if the block raises."""
    saved = [(quantizer, _State.of(quantizer)) for quantizer in quantizers]
    try:
        yield
    except BaseException:
        for quantizer, state in saved:
            state.restore(quantizer)
        raise
