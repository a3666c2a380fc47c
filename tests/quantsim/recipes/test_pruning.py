from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from quantsim.errors import ConfigurationError
from quantsim.nn.pruning_masks import pruning_mask
from quantsim.recipes.pruning import GradualPruning, n_of_m_mask, prunable_modules, prune_n_of_m, sparsity


@pytest.mark.parametrize("shape", [(5, 16), (4, 8, 3), (4, 12, 3, 3)])
@pytest.mark.parametrize(("keep", "of"), [(2, 4), (1, 4), (4, 8), (3, 3)])
def test_each_group_along_the_inputs_keeps_its_largest(shape: tuple[int, ...], keep: int, of: int) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    mask = n_of_m_mask(weight, keep, of).movedim(1, -1)
    magnitude = weight.abs().movedim(1, -1)
    for start in range(0, shape[1], of):
        part, values = mask[..., start : start + of], magnitude[..., start : start + of]
        count = min(keep, part.shape[-1])
        assert bool((part.sum(-1) == count).all())
        smallest_kept = torch.where(part, values, torch.inf).amin(-1)
        largest_dropped = torch.where(part, 0.0, values).amax(-1)
        assert bool((smallest_kept >= largest_dropped).all())


def test_ties_and_zeros_keep_exactly_n() -> None:
    assert n_of_m_mask(torch.zeros(3, 8)).sum().item() == 12


def test_models_are_pruned_where_groups_fit() -> None:
    model: Any = nn.Sequential(
        nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 4)
    )
    assert prune_n_of_m(model) == ["0", "4"]
    assert prune_n_of_m(model, 1, 4, select=lambda path, _: path == "4") == ["4"]
    assert float((model[4].weight == 0).float().mean()) == 0.75
    assert float((model[0].weight == 0).float().mean()) == 0.5


def test_tied_weights_count_once() -> None:
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    model["b"].weight = model["a"].weight
    assert [path for path, _ in prunable_modules(model)] == ["a"]


def trained(regrowth: float, steps: int = 60) -> tuple[nn.Module, list[float], set[int]]:
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))
    teacher = torch.randn(32, 8, generator=generator)
    pruning = GradualPruning(model, 0.8, steps=steps, every=10, regrowth=regrowth)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    levels, came_back = [], set[int]()
    for _ in range(steps):
        x = torch.randn(64, 32, generator=generator)
        optimizer.zero_grad()
        (model(x) - x @ teacher).square().mean().backward()
        optimizer.step()
        before = pruning_mask(model[0])
        before = torch.ones(64, 32, dtype=torch.bool) if before is None else before.clone()
        pruning.step()
        after = pruning_mask(model[0])
        if after is not None:
            came_back |= set((after & ~before).flatten().nonzero().flatten().tolist())
        levels.append(sparsity(model))
    return model, levels, came_back


def test_sparsity_rises_to_its_end_by_the_cubic_schedule() -> None:
    model, levels, _ = trained(regrowth=0.0)
    expected = [0.8 - 0.8 * (1 - step / 60) ** 3 for step in range(10, 61, 10)]
    assert levels[9::10] == pytest.approx(expected, abs=1e-3)
    assert levels[-1] == pytest.approx(0.8, abs=1e-3)
    assert sparsity(model) == levels[-1]


def test_weights_grow_again_by_gradient() -> None:
    _, levels, came_back = trained(regrowth=0.5)
    assert levels[-1] == pytest.approx(0.8, abs=1e-3)
    assert len(came_back) > 50
    assert not trained(regrowth=0.0)[2]


def test_what_grows_has_the_largest_gradients() -> None:
    model = nn.Linear(10, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0, 0.5, 0.4, 0.3, 0.2, 0.1]]))
    pruning = GradualPruning(model, 0.5, steps=2, every=1, initial=0.5, regrowth=0.4)
    model.weight.grad = torch.tensor([[0.0, 0, 0, 0, 0, 1, 2, 3, 9, 4]])
    pruning.step()  # share 0.4 * 0.5 * (1 + cos(pi / 2)) = 0.2 of 5: one goes, one comes
    assert pruning_mask(model).tolist() == [[True] * 4 + [False] * 4 + [True, False]]  # pyright: ignore[reportOptionalMemberAccess]
    assert float(model.weight[0, 8].detach()) == 0.0


def test_misuse() -> None:
    with pytest.raises(ConfigurationError, match="keep <= of"):
        n_of_m_mask(torch.zeros(2, 4), 5, 4)
    with pytest.raises(ConfigurationError, match="initial"):
        GradualPruning(nn.Linear(4, 4), 1.0, steps=10)
    with pytest.raises(ConfigurationError, match="nothing to prune"):
        GradualPruning(nn.ReLU(), 0.5, steps=10)
    pruning = GradualPruning(nn.Linear(40, 4), 0.5, steps=2, every=1, initial=0.4)
    with pytest.raises(ConfigurationError, match="zero_grad"):
        pruning.step()


def test_a_step_without_gradients_changes_nothing() -> None:
    model = nn.Linear(8, 8)
    pruning = GradualPruning(model, 0.75, steps=10, every=1)
    with pytest.raises(ConfigurationError, match="gradient"):
        pruning.step()
    assert (pruning.done, sparsity(model)) == (0, 0.0)
    model(torch.randn(4, 8)).sum().backward()
    pruning.step()
    assert pruning.done == 1
    assert sparsity(model) > 0
