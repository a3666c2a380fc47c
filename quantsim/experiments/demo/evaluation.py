"""What is measured on sentence embeddings: cosine, SQNR, a linear probe, retrieval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

__all__ = ["LinearProbe", "mean_cosine", "retrieval_at_1", "sqnr_db"]


def _require_same_shape(reference: Tensor, quantized: Tensor) -> None:
    if reference.shape != quantized.shape:
        raise ValueError(
            f"reference and quantized output must have one shape; got {tuple(reference.shape)} and "
            f"{tuple(quantized.shape)}. "
            "Run both models on the same inputs in the same order."
        )


def sqnr_db(reference: Tensor, quantized: Tensor) -> float:
    """Signal-to-quantization-noise ratio: ``10 log10(sum(ref^2) / sum((ref - quantized)^2))``, summed in float64.

    Args:
        reference: Output in FP32, any shape.
        quantized: Output under quantization, same shape.

    Returns:
        Decibels; ``inf`` when the two are equal.

    Raises:
        ValueError: The shapes differ.

    Example:
        >>> round(sqnr_db(torch.ones(10), torch.full((10,), 1.1)), 3)
        20.0
    """
    _require_same_shape(reference, quantized)
    exact = reference.double()
    noise = (exact - quantized.double()).square().sum()
    if noise == 0:
        return float("inf")
    return float(10.0 * torch.log10(exact.square().sum() / noise))


def mean_cosine(reference: Tensor, quantized: Tensor) -> float:
    """Mean cosine similarity between corresponding rows.

    Args:
        reference: (rows, features).
        quantized: (rows, features).

    Raises:
        ValueError: The shapes differ.

    Example:
        >>> mean_cosine(torch.eye(2), 3 * torch.eye(2))
        1.0
    """
    _require_same_shape(reference, quantized)
    return float(torch.nn.functional.cosine_similarity(reference.double(), quantized.double(), dim=-1).mean())


def retrieval_at_1(queries: Tensor, passages: Tensor) -> float:
    """Share of queries whose nearest passage, by dot product, is their own.

    Args:
        queries: (pairs, features), L2-normalised.
        passages: (pairs, features), L2-normalised; row i answers query i.

    Raises:
        ValueError: The shapes differ.

    Example:
        >>> retrieval_at_1(torch.eye(3), torch.eye(3))
        1.0
    """
    _require_same_shape(queries, passages)
    nearest = (queries @ passages.T).argmax(dim=1)
    return float((nearest == torch.arange(len(queries), device=nearest.device)).double().mean())


class LinearProbe:
    """Multinomial logistic regression on frozen embeddings.

    The demo fits it once, on FP32 embeddings, and applies the same probe to the embeddings of every scheme: the
    question a deployment asks is whether the classifier that already exists still works on the quantized encoder. A
    probe fitted anew for each scheme would adapt to the quantization error and hide it.

    Args:
        embeddings: (texts, features) FP32 training embeddings.
        labels: Class of each text.
        inverse_regularisation: scikit-learn's ``C``; 10 was best of 1, 10 and 30 for unit-length embeddings.

    Example:
        >>> probe = LinearProbe(torch.tensor([[-1.0], [-0.9], [0.9], [1.0]]), [0, 0, 1, 1])
        >>> probe.accuracy(torch.tensor([[-2.0], [2.0]]), [0, 1])
        1.0
    """

    def __init__(self, embeddings: Tensor, labels: Sequence[int], inverse_regularisation: float = 10.0) -> None:
        from sklearn.linear_model import LogisticRegression  # lazy: a demo extra

        self._classifier: LogisticRegression = LogisticRegression(C=inverse_regularisation, max_iter=1000)
        self._classifier.fit(embeddings.numpy(), list(labels))

    def accuracy(self, embeddings: Tensor, labels: Sequence[int]) -> float:
        """Share of texts whose class is predicted right.

        Args:
            embeddings: (texts, features).
            labels: Class of each text.
        """
        return float(self._classifier.score(embeddings.numpy(), list(labels)))
