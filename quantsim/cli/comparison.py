"""Runs models on batches, and says how close their outputs are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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
    """A model's output for one batch: ``logits`` if there are any, else the first floating-point tensor.

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
    from torch import Tensor
    from torch.utils import _pytree as pytree

    if isinstance(output, Mapping) and isinstance(output.get("logits"), Tensor):
        return output["logits"]
    # Not every class of outputs is a container that torch knows.
    values = list(output.values()) if hasattr(output, "values") and not isinstance(output, Tensor) else output
    for leaf in pytree.tree_leaves(values):
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            return leaf
    raise CommandError(f"the model returns {type(output).__name__} on {name}; expected a floating-point tensor in it")


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
        self._signal = self._noise = self._cosines = 0.0
        self._rows = 0

    def add(self, expected: Tensor, got: Tensor, batch: Any) -> None:
        """Adds the outputs for one batch.

        Args:
            expected: In floating point.
            got: Simulated, of the same shape.
            batch: What they were computed from; its ``attention_mask``, if any, tells what is padding.
        """
        import torch

        width = expected.shape[-1] if expected.dim() else 1
        x, y = (tensor.double().reshape(-1, width) for tensor in (expected, got))
        mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
        if isinstance(mask, torch.Tensor) and mask.shape == expected.shape[:-1]:
            x, y = x[mask.flatten().bool()], y[mask.flatten().bool()]
        self._signal += float(x.square().sum())
        self._noise += float((x - y).square().sum())
        self._cosines += float(torch.nn.functional.cosine_similarity(x, y).sum())
        self._rows += len(x)

    @property
    def sqnr_db(self) -> float:
        """SQNR in decibels; infinite where nothing differs, NaN where there is no signal."""
        if not self._signal:
            return math.nan
        return math.inf if self._noise == 0 else 10 * math.log10(self._signal / self._noise)

    @property
    def cosine(self) -> float:
        """Mean cosine of the rows."""
        return self._cosines / self._rows if self._rows and self._signal else math.nan
