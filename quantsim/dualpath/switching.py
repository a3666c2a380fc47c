"""Switches a whole model of modules with two paths."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeVar

from torch import nn

from quantsim.dualpath.attention_paths import TwoPathAttention
from quantsim.dualpath.integer_codes import activation_grid
from quantsim.dualpath.quantizer_base import QBase
from quantsim.dualpath.two_path_layer import TwoPathLayer
from quantsim.errors import ConfigurationError
from quantsim.quantization.base import QuantizerBase

__all__ = ["inference"]

Model = TypeVar("Model", bound=nn.Module)

_PASS_CODES: Final = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten, nn.Unflatten, nn.MaxPool2d)
"""Modules that give the same for codes as for the numbers they stand for."""


def inference(model: Model, mode: bool = True) -> Model:
    """Switches every module of a model that has two paths to the inference path, or back to the training path.

    Between the modules integers travel then, and they do not say which grid they are on: each layer takes them as codes
    of its own input quantizer. So layers need an output quantizer (``yq``) that is the next one's input quantizer; in a
    `torch.nn.Sequential`, a layer without one is given that of the layer after. What lies in between must compute the
    same on codes. Whole networks, with additions, normalisations and functions between the layers, are converted by
    `quantsim.dualpath.to_integer` instead.

    Args:
        model: Calibrated; itself a module with two paths, or made of some. Changed in place.
        mode: False switches back.

    Returns:
        The model.

    Raises:
        NotCalibratedError: If a quantizer has no range yet; the model is unchanged, as after the next.
        ConfigurationError: If there is no module with two paths, a quantizer is missing, sums could leave 32 bits, or
            a ReLU would clip codes whose zero point is not 0, or a ReLU6 codes at 6.

    Example:
        >>> import torch
        >>> from quantsim.dualpath import QBaseLinear
        >>> from quantsim.nn import compute_encodings
        >>> model = nn.Sequential(
        ...     QBaseLinear(4, 8, wbit=8, abit=8), nn.ReLU(), QBaseLinear(8, 2, wbit=8, abit=8)
        ... )
        >>> x = torch.randn(16, 4)
        >>> with compute_encodings(model):
        ...     _ = model(x)
        >>> [module(x).dtype for module in (inference(model)[:2], inference(model))]
        [torch.uint8, torch.int32]
    """
    parts = list(_two_path_modules(model))
    if not parts:
        raise ConfigurationError(
            "no module has two paths",
            where="quantsim.dualpath.inference",
            got=f"a {type(model).__name__} without QBaseLinear, QBaseConv2d or attention of quantsim.dualpath",
            expected="at least one",
            fix="to run a simulation on integers use quantsim.dualpath.to_integer(sim, example_inputs)",
        )
    switched: list[TwoPathLayer | TwoPathAttention | QBase] = []
    targets = _targets_in_sequence(model) if mode else {}
    try:
        for part in parts:
            was_training = part.train_flag
            if isinstance(part, TwoPathLayer) and part in targets:
                part.inference(mode, output_quantizer=targets[part])
            else:
                part.inference(mode)
            if was_training and mode:
                switched.append(part)
    except BaseException:
        for part in switched:
            part.inference(False)
        raise
    return model


def _two_path_modules(module: nn.Module) -> Iterator[TwoPathLayer | TwoPathAttention | QBase]:
    """The outermost ones: each switches what is inside it."""
    seen: set[nn.Module] = set()

    def walk(part: nn.Module) -> Iterator[TwoPathLayer | TwoPathAttention | QBase]:
        if part in seen:
            return
        seen.add(part)
        if isinstance(part, (TwoPathLayer, TwoPathAttention, QBase)):
            yield part
            return
        for child in part.children():
            yield from walk(child)

    yield from walk(module)


def _targets_in_sequence(model: nn.Module) -> dict[TwoPathLayer, QuantizerBase]:
    """For layers without an output quantizer, the input quantizer of the layer that follows in a sequence."""
    targets: dict[TwoPathLayer, QuantizerBase] = {}
    for sequence in model.modules():
        if not isinstance(sequence, nn.Sequential):
            continue
        before: TwoPathLayer | None = None
        clipped = False
        for part in sequence:
            if isinstance(part, TwoPathLayer):
                own = part.quantizer("aq")
                if before is not None and own is not None and before.quantizer("yq") is None:
                    targets[before] = own
                if before is not None and clipped:
                    _require_zero_point(before, targets.get(before))
                before, clipped = part, False
            elif isinstance(part, nn.ReLU):
                clipped = True
            elif isinstance(part, nn.Hardtanh) and before is not None:
                raise ConfigurationError(
                    f"a {type(part).__name__} follows that would clip codes at real numbers",
                    where=before._location("yq"),
                    got=f"bounds {part.min_val:g} and {part.max_val:g}",
                    expected="nn.ReLU, or nothing that clips",
                    fix="use nn.ReLU: the grid of the quantizer behind it has an upper end; or use to_integer",
                )
            elif not isinstance(part, _PASS_CODES):
                before = None
    return targets


def _require_zero_point(layer: TwoPathLayer, target: QuantizerBase | None) -> None:
    quantizer = layer.quantizer("yq") or target
    if quantizer is None:
        return
    where = layer._location("yq")
    grid = activation_grid(quantizer, where)
    if grid.zero_point:
        raise ConfigurationError(
            "a ReLU follows that would clip codes at 0 instead of at their zero point",
            where=where,
            got=f"zero point {grid.zero_point}",
            expected="0",
            fix="quantize behind the ReLU: leave yq out, so that the next layer's aq says the grid; or use to_integer",
        )
