"""Runs models on batches, and says how close their outputs are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from quantsim.cli.console import progress_bar
from quantsim.cli.outcome import CommandError, first_line

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from quantsim.sim import QuantizationSimModel

__all__ = ["Closeness", "call_model", "main_output", "main_tensor", "outputs"]


def outputs(
    model: Callable[..., Any] | QuantizationSimModel,
    batches: Sequence[Any],
    console: Console,
    what: str,
    input_name: str | None = None,
) -> list[Tensor]:
    """The main output of a model for each batch.

    Args:
        model: The model.
        batches: Its inputs.
        console: For the progress.
        what: What the progress calls this.
        input_name: What errors call the batches, instead of by number.

    Raises:
        CommandError: The model fails, or returns no floating-point tensor.
    """
    import torch

    results = []
    with torch.no_grad(), progress_bar(console, f"{what}: running", batches) as shown:
        for number, batch in enumerate(shown):
            results.append(main_output(model, batch, input_name or f"batch {number}"))
    return results


def main_output(model: Callable[..., Any] | QuantizationSimModel, batch: Any, name: str) -> Tensor:
    """A model's output for one batch: ``logits``, else the first floating-point tensor with dimensions.

    Args:
        model: The model.
        batch: Its inputs.
        name: What errors call them.

    Raises:
        CommandError: The model fails, or returns no floating-point tensor.

    Example:
        >>> import torch
        >>> main_output(torch.nn.Flatten(), torch.zeros(2, 3, 4), "batch 0").shape
        torch.Size([2, 12])
    """
    return main_tensor(call_model(model, batch, name), name)


def call_model(model: Callable[..., Any] | QuantizationSimModel, batch: Any, name: str) -> Any:
    """What a model returns for one batch.

    Args:
        model: The model.
        batch: Its inputs.
        name: What errors call them.

    Raises:
        CommandError: The model fails.

    Example:
        >>> call_model(max, (1, 3), "batch 0")
        3
    """
    from quantsim.errors import QuantsimError
    from quantsim.sim.example_inputs import ModelInputs

    try:
        return ModelInputs.of(batch, what=name).call(model)
    except QuantsimError:
        raise
    except Exception as error:
        is_pair = name.startswith("batch ") and isinstance(batch, (tuple, list)) and len(batch) == 2
        hint = "; if its batches hold labels, pass --label" if is_pair else ""
        raise CommandError(f"the model fails on {name}: {type(error).__name__}: {first_line(error)}{hint}") from error


def main_tensor(output: Any, name: str) -> Tensor:
    """The tensor that counts in what a model returned, see `main_output`.

    Args:
        output: What the model returned.
        name: What errors call its inputs.

    Raises:
        CommandError: There is none.

    Example:
        >>> import torch
        >>> main_tensor((torch.tensor(3), {"scores": torch.zeros(2, 5)}), "batch 0").shape
        torch.Size([2, 5])
    """
    from quantsim.report.model_outputs import main_output as found_in

    found = found_in(output)
    if found is None:
        raise CommandError(
            f"the model returns {type(output).__name__} on {name}; expected a floating-point tensor in it"
        )
    return found[1]


class Closeness:
    """SQNR and mean cosine of outputs, gathered batch by batch; rows of padding do not count.

    Example:
        >>> import torch
        >>> closeness = Closeness()
        >>> closeness.add(torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 3.5]]), None)
        >>> round(closeness.sqnr_db, 3), round(closeness.cosine, 3)
        (20.0, 0.998)
    """

    def __init__(self) -> None:
        from quantsim.report.model_outputs import OutputError

        self._error = OutputError()

    def add(self, expected: Tensor, got: Tensor, batch: Any) -> None:
        """Adds the outputs for one batch.

        Args:
            expected: In floating point; what is not finite in it does not count.
            got: Simulated, of the same shape.
            batch: What they were computed from; its ``attention_mask``, if any, tells what is padding.
        """
        from quantsim.report.model_outputs import compared_values
        from quantsim.sim.example_inputs import ModelInputs

        inputs = ModelInputs() if batch is None else ModelInputs.of(batch, what="batch")
        self._error.add(*(compared_values(inputs, output) for output in (expected, got)))

    @property
    def sqnr_db(self) -> float:
        """SQNR in decibels; infinite where nothing differs, NaN where there is no signal."""
        return self._error.sqnr_db if self._error.signal else math.nan

    @property
    def cosine(self) -> float:
        """Mean cosine of the rows."""
        return self._error.cosine if self._error.signal else math.nan
