"""What GLUE judges predictions by, computed by scikit-learn and SciPy."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from quantsim.errors import ConfigurationError, ShapeError
from quantsim.experiments.glue.tasks import GlueTask, Judge

__all__ = ["is_constant", "metrics_of", "predictions_of"]


def predictions_of(task: GlueTask, outputs: Any) -> np.ndarray[Any, Any]:
    """What a model says, from its outputs: the label of the largest, or the number itself.

    Args:
        task: The task.
        outputs: Shape (examples, labels), or (examples, 1) where a number is predicted. Of a tuple, the first.

    Returns:
        Shape (examples,).

    Example:
        >>> from quantsim.experiments.glue.tasks import glue_task
        >>> predictions_of(glue_task("cola"), [[0.1, 0.9], [2.0, -1.0]]).tolist()
        [1, 0]
    """
    values = np.asarray(outputs[0] if isinstance(outputs, tuple) else outputs)
    if values.ndim != 2 or values.shape[1] != task.num_labels:
        raise ShapeError(where=task.name, got=f"outputs of shape {values.shape}", expected=f"(n, {task.num_labels})")
    return values[:, 0].astype(np.float64) if task.is_regression else values.argmax(axis=1)


def metrics_of(task: GlueTask, predictions: Any, labels: Any) -> dict[str, float]:
    """The metrics of a task; one that is undefined, as a correlation with a constant, counts as 0.

    Args:
        task: The task.
        predictions: Shape (examples,).
        labels: What is right, of the same shape.

    Raises:
        ConfigurationError: scikit-learn or SciPy is not installed.

    Example:
        >>> from quantsim.experiments.glue.tasks import glue_task
        >>> metrics_of(glue_task("mrpc"), [1, 1, 0, 0], [1, 0, 0, 0])
        {'accuracy': 0.75, 'f1': 0.6666666666666666}
        >>> metrics_of(glue_task("stsb"), [2.0, 2.0], [1.0, 5.0])
        {'pearson': 0.0, 'spearmanr': 0.0, 'combined_score': 0.0}
    """
    given, right = np.asarray(predictions), np.asarray(labels)
    if given.shape != right.shape or given.ndim != 1 or not given.size:
        raise ShapeError(
            where=task.name,
            got=f"{given.shape} predictions and {right.shape} labels",
            expected="as many of both, at least one",
        )
    if task.judge is Judge.CORRELATION:
        return _correlations(given.astype(np.float64), right.astype(np.float64))
    if task.judge is Judge.MATTHEWS:
        learn = _package("sklearn.metrics", "scikit-learn")
        return {
            "matthews_correlation": float(learn.matthews_corrcoef(right, given)),
            "accuracy": _accuracy(given, right),
        }
    if task.judge is Judge.ACCURACY_AND_F1:
        learn = _package("sklearn.metrics", "scikit-learn")
        f1 = float(learn.f1_score(right, given, labels=[0, 1], pos_label=1, average="binary", zero_division=0))
        return {"accuracy": _accuracy(given, right), "f1": f1}
    return {"accuracy": _accuracy(given, right)}


def is_constant(predictions: Any) -> bool:
    """Whether all predictions are the same: the sign of a model that has collapsed.

    Example:
        >>> is_constant([1, 1, 1]), is_constant([0, 1])
        (True, False)
    """
    values = np.asarray(predictions)
    return bool((values == values[:1]).all()) if np.isfinite(values).all() else True


def _accuracy(predictions: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> float:
    return float((predictions == labels).mean())


def _correlations(predictions: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> dict[str, float]:
    if len(predictions) < 2 or is_constant(predictions) or is_constant(labels):
        return dict.fromkeys(("pearson", "spearmanr", "combined_score"), 0.0)
    stats = _package("scipy.stats", "scipy")
    pearson = float(stats.pearsonr(predictions, labels)[0])
    spearman = float(stats.spearmanr(predictions, labels)[0])
    return {"pearson": pearson, "spearmanr": spearman, "combined_score": (pearson + spearman) / 2}


def _package(module: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ConfigurationError(
            "a package is missing", where="metrics of GLUE", got=f"no {name}", fix=f"pip install {name}"
        ) from None
