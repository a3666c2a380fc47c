"""What of a model's output is compared, and how two models' outputs are compared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from quantsim.errors import ConfigurationError
from quantsim.sim.example_inputs import ModelInputs

__all__ = ["OutputError", "accuracy", "compared_values", "first_samples", "main_output", "read_batches"]

_IGNORED_LABEL = -100  # torch's cross_entropy, and so transformers', leaves these out


def read_batches(batches: Iterable[Any], *, where: str) -> list[ModelInputs]:
    """Reads all batches.

    Args:
        batches: Each in a form that a simulation takes as example inputs.
        where: What errors call them.

    Raises:
        ConfigurationError: It is no series of batches, or an empty one.
    """
    if isinstance(batches, (Tensor, Mapping, str)) or not isinstance(batches, Iterable):
        raise ConfigurationError(
            "the data is no series of batches",
            where=where,
            got=type(batches).__name__,
            expected="an iterable of batches",
            fix="pass [batch] for one batch",
        )
    read = [ModelInputs.of(batch, what=f"{where}: batch {index}") for index, batch in enumerate(batches)]
    if not read:
        raise ConfigurationError(
            "there is no data", where=where, got="no batch", expected="at least one", fix="is the iterator used up?"
        )
    return read


def first_samples(inputs: ModelInputs, count: int) -> ModelInputs:
    """The first few samples of a batch.

    Args:
        inputs: The batch; all its tensors must have as many rows, else it is given back as it is.
        count: How many.

    Example:
        >>> first_samples(ModelInputs.of({"x": torch.ones(5, 2)}), 3).kwargs["x"].shape
        torch.Size([3, 2])
    """
    values = (inputs.args, dict(inputs.kwargs or {}))
    sizes = {leaf.shape[:1] for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor)}
    if len(sizes) != 1 or not (size := sizes.pop()) or size[0] <= count:
        return inputs
    return ModelInputs(*pytree.tree_map_only(Tensor, lambda tensor: tensor[:count], values))


def main_output(output: object) -> tuple[str, Tensor] | None:
    """The tensor of a model's output that is compared: ``logits``, else the first of floating point with dimensions.

    Returns:
        Its name and the tensor; None if there is none.

    Example:
        >>> main_output({"loss": torch.tensor(1.0), "logits": torch.ones(2)})
        ('logits', tensor([1., 1.]))
    """
    if isinstance(output, Tensor):
        return ("output", output) if output.is_floating_point() else None
    named = _named(output)
    for name, value in named:
        if name == "logits" and _is_real(value):
            return name, value
    scalar = None
    for name, value in named:
        found = (name, value) if _is_real(value) else main_output(value)
        if found is not None and found[1].dim():
            return found
        scalar = scalar or found  # a loss, likely
    return scalar


def _named(output: object) -> list[tuple[str, Any]]:
    if isinstance(output, Mapping):
        return [(str(name), value) for name, value in output.items()]
    if is_dataclass(output) and not isinstance(output, type):
        return [(field.name, getattr(output, field.name)) for field in fields(output)]
    if isinstance(output, (tuple, list)):
        names = getattr(output, "_fields", None) or [f"output {index}" for index in range(len(output))]
        return list(zip(names, output, strict=True))
    return []


def _is_real(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def compared_values(inputs: ModelInputs, output: Tensor) -> Tensor:
    """The part of an output that counts: positions that an ``attention_mask`` hides do not.

    Args:
        inputs: What the model ran on.
        output: Its main output.

    Returns:
        (rows, features) float64.
    """
    mask = (inputs.kwargs or {}).get("attention_mask")
    if isinstance(mask, Tensor) and mask.dim() == 2 and output.dim() >= 3 and output.shape[:2] == mask.shape:
        output = output[mask.to(output.device).bool()]
    return output.detach().double().reshape(-1, output.shape[-1] if output.dim() > 1 else max(output.numel(), 1))


@dataclass
class OutputError:
    """SQNR and mean cosine, summed over batches.

    Example:
        >>> error = OutputError()
        >>> error.add(torch.ones(1, 10, dtype=torch.float64), torch.full((1, 10), 1.1, dtype=torch.float64))
        >>> round(error.sqnr_db, 3), round(error.cosine, 3)
        (20.0, 1.0)
    """

    signal: float = 0.0
    noise: float = 0.0
    cosines: float = 0.0
    rows: int = 0

    def add(self, exact: Tensor, quantized: Tensor) -> None:
        """Adds the rows of one batch.

        Args:
            exact: (rows, features) in floating point.
            quantized: The same of the simulation. What is not finite in floating point does not count.
        """
        finite = exact.isfinite()
        if not bool(finite.all()):  # masks in scores
            exact, quantized = exact.where(finite, 0.0), quantized.where(finite, 0.0)
        self.signal += float(exact.square().sum())
        self.noise += float((exact - quantized).square().sum())
        cosines = torch.nn.functional.cosine_similarity(exact, quantized, dim=-1)
        self.cosines += float(cosines.masked_fill((exact == quantized).all(-1), 1.0).sum())  # rows of zeros too
        self.rows += exact.shape[0]

    @property
    def sqnr_db(self) -> float:
        """Signal-to-quantization-noise ratio in decibels; ``inf`` for equal outputs."""
        if self.noise == 0:
            return math.inf
        if math.isnan(self.noise) or math.isinf(self.noise) or self.signal == 0:
            return -math.inf
        return 10 * math.log10(self.signal / self.noise)

    @property
    def cosine(self) -> float:
        """Mean cosine of corresponding rows."""
        return self.cosines / self.rows if self.rows else 1.0


def accuracy(outputs: Sequence[Any], labels: Any) -> float:
    """Share of right classes: the largest of the main output along its class axis, the last or the second.

    Args:
        outputs: Of the model, one for each batch.
        labels: Class indices of all samples, or one tensor for each batch; -100 does not count.

    Raises:
        ConfigurationError: Labels and outputs do not fit.

    Example:
        >>> accuracy([torch.eye(3), torch.eye(3)], [0, 1, 2, 0, 1, 0])
        0.8333333333333334
    """
    scores = []
    for index, output in enumerate(outputs):
        found = main_output(output)
        if found is None or found[1].dim() < 2:
            got = type(output).__name__ if found is None else f"{found[0]} of shape {tuple(found[1].shape)}"
            raise _misfit(f"output {index}: {got}", "scores of shape (samples, classes)", "pass metric=")
        scores.append(found[1])
    right = total = 0
    for index, (score, answer) in enumerate(zip(scores, _by_batch(labels, scores), strict=True)):
        answer = answer.to(score.device)
        axis = next((axis for axis in (-1, 1) if score.argmax(axis).shape == answer.shape), None)
        if axis is None:
            raise _misfit(
                f"batch {index}: labels of shape {tuple(answer.shape)}, outputs of shape {tuple(score.shape)}",
                "a label for each sample (or position)",
                "pass class indices, or metric= for another measure",
            )
        counted = answer != _IGNORED_LABEL
        right += int(((score.argmax(axis) == answer) & counted).sum())
        total += int(counted.sum())
    if total == 0:
        raise _misfit("no label that counts", "class indices", "all labels are -100")
    return right / total


def _by_batch(labels: Any, scores: Sequence[Tensor]) -> list[Tensor]:
    sizes = [score.shape[0] for score in scores]
    if isinstance(labels, (list, tuple)) and len(labels) == len(scores) and all(_dimensions(each) for each in labels):
        return [_class_indices(each) for each in labels]
    whole = _class_indices(labels)
    if whole.dim() == 0 or len(whole) != sum(sizes):
        raise _misfit(
            f"labels of shape {tuple(whole.shape)} for {sum(sizes)} samples in {len(sizes)} batches",
            "one label for each sample",
            "give labels in the order of the batches, or one tensor for each batch",
        )
    return list(whole.split(sizes))


def _dimensions(value: Any) -> int:
    return value.dim() if isinstance(value, Tensor) else int(hasattr(value, "__len__"))


def _class_indices(labels: Any) -> Tensor:
    try:
        indices = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _misfit(f"{type(labels).__name__} ({error})", "class indices", "pass a tensor of integers") from None
    if indices.is_floating_point() or indices.is_complex() or indices.dtype is torch.bool:
        raise _misfit(f"labels of type {indices.dtype}", "integers: class indices", "pass metric= for other measures")
    return indices


def _misfit(got: str, expected: str, fix: str) -> ConfigurationError:
    return ConfigurationError("labels and outputs do not fit", where="labels", got=got, expected=expected, fix=fix)
