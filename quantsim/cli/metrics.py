"""Metrics of a model's outputs against labels: some by name, others by Python code of the user's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from quantsim.cli.outcome import CommandError
from quantsim.cli.user_code import FACTORY_FORM, USERS_ERRORS, find_function, name_and_message

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Metric", "metric_for", "metric_named"]

_IGNORED: Final = -100
"""The label of what does not count, as in torch's cross entropy."""


@dataclass(frozen=True)
class Metric:
    """A figure for outputs and labels.

    Attributes:
        name: What to call it.
        compute: Gives the figure from outputs and labels, one of each for every batch.
    """

    name: str
    compute: Callable[[Sequence[Any], Sequence[Any]], float]


def metric_named(name: str) -> Metric:
    """The metric of a name, or the user's function.

    Raises:
        CommandError: There is neither.

    Example:
        >>> import torch
        >>> logits, labels = torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0])
        >>> metric_named("accuracy").compute([logits], [labels])
        0.5
    """
    if name in _METRICS:
        return Metric(name, _METRICS[name])
    if ":" not in name:
        raise CommandError(f"--metric {name}: expected one of {', '.join(_METRICS)}, or code as {FACTORY_FORM}")
    function = find_function(name, "--metric")

    def compute(outputs: Sequence[Tensor], labels: Sequence[Tensor]) -> float:
        both = _joined(outputs, name, "outputs"), _joined(labels, name, "labels")
        try:
            value = function(*both)
            return float(value)
        except USERS_ERRORS as error:
            raise CommandError(f"--metric {name}: the function failed: {name_and_message(error)}") from error

    return Metric(name.rpartition(":")[2], compute)


def metric_for(labels: Sequence[Tensor], outputs: Sequence[Tensor]) -> Metric:
    """What suits labels: accuracy for classes, mean squared error for values.

    Example:
        >>> import torch
        >>> metric_for([torch.tensor([1])], [torch.zeros(1, 3)]).name
        'accuracy'
        >>> metric_for([torch.tensor([0.5])], [torch.zeros(1, 1)]).name
        'mse'
    """
    one_score = outputs[0].shape[-1:] == (1,) and outputs[0].dim() == labels[0].dim() + 1
    is_value = one_score or outputs[0].shape == labels[0].shape  # whole numbers may be values too
    return metric_named("accuracy" if all(map(_are_whole, labels)) and not is_value else "mse")


def _are_whole(labels: Tensor) -> bool:
    """Whether labels can be classes; programs write those as ``1.0`` too."""
    return not labels.is_floating_point() or bool((labels == labels.round()).all())


def _joined(tensors: Sequence[Tensor], metric: str, what: str) -> Tensor:
    import torch

    shapes = {tuple(tensor.shape[1:]) for tensor in tensors}
    if len(shapes) > 1 or not tensors[0].dim():
        raise CommandError(
            f"--metric {metric}: the {what} of the batches have shapes {', '.join(map(str, sorted(shapes)))} below the "
            "batch; expected the same for all: pad batches alike"
        )
    return torch.cat(list(tensors))


def _accuracy(outputs: Sequence[Tensor], labels: Sequence[Tensor]) -> float:
    right = counted = 0
    for number, (scores, truth) in enumerate(zip(outputs, labels, strict=True)):
        axis = _class_axis(scores, truth, number)
        counts = truth != _IGNORED
        wrong = truth[counts & ((truth < 0) | (truth >= scores.shape[axis]))]
        if wrong.numel():
            raise CommandError(
                f"labels of batch {number}: got class {int(wrong[0])}; expected 0 to {scores.shape[axis] - 1}, as the "
                f"model has {scores.shape[axis]} scores"
            )
        right += int((scores.argmax(axis) == truth)[counts].sum())
        counted += int(counts.sum())
    return right / counted if counted else float("nan")


def _class_axis(scores: Tensor, truth: Tensor, number: int) -> int:
    if not _are_whole(truth):
        raise CommandError(f"labels of batch {number}: got fractions; expected classes for accuracy, or --metric mse")
    if scores.dim() and scores.shape[:-1] == truth.shape:
        return -1
    if scores.dim() > 1 and scores.shape[:1] + scores.shape[2:] == truth.shape:
        return 1
    raise CommandError(
        f"batch {number}: outputs have shape {tuple(scores.shape)}, labels {tuple(truth.shape)}; expected a score for "
        "each class beside the labels' shape; --metric takes a function of your own"
    )


def _values(outputs: Sequence[Tensor], labels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    import torch

    pairs = []
    for number, (got, truth) in enumerate(zip(outputs, labels, strict=True)):
        values = got.squeeze(-1) if got.dim() == truth.dim() + 1 and got.shape[-1] == 1 else got
        if values.shape != truth.shape:
            raise CommandError(
                f"batch {number}: outputs have shape {tuple(got.shape)}, labels {tuple(truth.shape)}; expected the same"
            )
        pairs.append((values.double().flatten(), truth.double().flatten()))
    return torch.cat([got for got, _ in pairs]), torch.cat([truth for _, truth in pairs])


def _mean_squared_error(outputs: Sequence[Tensor], labels: Sequence[Tensor]) -> float:
    got, truth = _values(outputs, labels)
    return float((got - truth).square().mean())


def _pearson(outputs: Sequence[Tensor], labels: Sequence[Tensor]) -> float:
    import torch

    got, truth = _values(outputs, labels)
    return float(torch.nn.functional.cosine_similarity(got - got.mean(), truth - truth.mean(), dim=0))


_METRICS: Final[Mapping[str, Callable[[Sequence[Any], Sequence[Any]], float]]] = {
    "accuracy": _accuracy,
    "mse": _mean_squared_error,
    "pearson": _pearson,
}
