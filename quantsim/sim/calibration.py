"""Running a model on calibration data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from quantsim.errors import ConfigurationError
from quantsim.sim.example_inputs import ModelInputs

__all__ = ["batch_runner", "evaluation_mode"]


def batch_runner(data: Iterable[Any], *, where: str) -> Callable[[nn.Module], None]:
    """A function that runs a model on every batch.

    Args:
        data: Batches, each in any form that `ModelInputs` reads.
        where: What errors call the data.

    Raises:
        ConfigurationError: ``data`` is no series of batches, or an empty one.

    Example:
        >>> import torch
        >>> batch_runner([torch.zeros(1, 2)], where="data")(nn.Linear(2, 2))
    """
    if isinstance(data, (Tensor, Mapping, str)) or not isinstance(data, Iterable):
        raise ConfigurationError(
            "the data is no series of batches",
            where=where,
            got=type(data).__name__,
            expected="a callable that runs the model, or an iterable of batches",
            fix="pass [batch] for one batch",
        )
    batches = iter(data)
    end = object()
    first = next(batches, end)
    if first is end:
        raise ConfigurationError(
            "there is no data",
            where=where,
            got="no batch",
            expected="at least one",
            fix="is the iterator used up?",
        )

    def run(model: nn.Module) -> None:
        ModelInputs.of(first, what="data: batch 0").call(model)
        for index, batch in enumerate(batches, start=1):
            ModelInputs.of(batch, what=f"data: batch {index}").call(model)

    return run


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Puts a model in evaluation mode inside the block; each module is as it was afterwards.

    Example:
        >>> model = nn.Sequential(nn.Dropout()).train()
        >>> with evaluation_mode(model):
        ...     model[0].training
        False
        >>> model[0].training
        True
    """
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, was_training in before:
            module.training = was_training
