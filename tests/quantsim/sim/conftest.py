"""Small models with inputs, and the comparison of states."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Subject:
    """A float model in evaluation mode, and batches of keyword or positional arguments for it."""

    model: nn.Module
    batches: list[Any]

    @property
    def example(self) -> Any:
        return self.batches[0]

    def outputs(self, model: Any) -> Tensor:
        """All outputs on all batches, in one vector."""
        results = []
        with torch.no_grad():
            for batch in self.batches:
                result = model(**batch) if isinstance(batch, Mapping) else model(batch)
                results.append(result if isinstance(result, Tensor) else result.last_hidden_state)
        return torch.cat([result.flatten() for result in results])


def _random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def mlp() -> Subject:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10)).eval()
    return Subject(model, [torch.randn(16, 64, generator=_random(seed)) for seed in range(3)])


@pytest.fixture
def cnn() -> Subject:
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 64, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 5),
    )
    batches: list[Any] = [torch.randn(4, 3, 12, 12, generator=_random(seed)) for seed in range(2)]
    model(torch.cat(batches))  # running statistics that are not those of a new norm
    return Subject(model.eval(), batches)


@pytest.fixture
def bert() -> Subject:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    config = transformers.BertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        vocab_size=60,
        max_position_embeddings=16,
    )
    batches: list[Any] = [
        {"input_ids": torch.randint(60, (3, 8), generator=_random(seed)), "attention_mask": torch.ones(3, 8).long()}
        for seed in range(2)
    ]
    batches[0]["attention_mask"][0, 5:] = 0
    return Subject(transformers.BertModel(config).eval(), batches)


@pytest.fixture
def subject(request: pytest.FixtureRequest) -> Subject:
    """The model that a test names as its (indirect) parameter."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def frozen_copy() -> Callable[[Any], dict[str, Any]]:
    """A copy of a state that nothing changes any more."""
    return lambda owner: copy.deepcopy(dict(owner.state_dict()))


@pytest.fixture
def assert_same_state() -> Callable[[Mapping[str, Any], Mapping[str, Any]], None]:
    """Equal names, and equal values, NaN counting as itself."""

    def check(actual: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
        assert list(actual) == list(expected)
        for name, value in expected.items():
            if isinstance(value, Tensor):
                assert torch.equal(actual[name].nan_to_num(), value.nan_to_num()), name
            else:
                assert actual[name] == value, name

    return check


@pytest.fixture
def sqnr() -> Callable[[Tensor, Tensor], float]:
    """Signal to quantization noise, in dB."""
    return lambda expected, actual: float(
        10 * torch.log10(expected.square().sum() / (actual - expected).square().sum())
    )
