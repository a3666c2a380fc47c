from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from quantsim.errors import ConfigurationError
from quantsim.optical.squeezelight import SqueezeLightLinear
from quantsim.transforms import squeezelight_module_transform_pass, transform_pass
from quantsim.transforms.squeezelight import plan_squeezelight


def model() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 3))


def test_layers_become_rings_that_train_and_passes_repeat() -> None:
    pass_args = {"by": "name", "0": {"miniblock": 2, "w_bit": 8, "phase_noise": 0.01}, "default": {}}
    rings: Any = squeezelight_module_transform_pass(model(), pass_args)
    assert [type(module) for module in rings] == [SqueezeLightLinear, nn.ReLU, SqueezeLightLinear]
    assert (rings[0].miniblock, rings[0].w_bit, rings[2].miniblock) == (2, 8, 4)
    again: Any = squeezelight_module_transform_pass(model(), pass_args)
    assert all(torch.equal(a, b) for a, b in zip(rings.state_dict().values(), again.state_dict().values(), strict=True))
    rings(torch.rand(4, 8)).sum().backward()
    assert all(value.grad is not None for value in rings.parameters())


def test_the_global_generator_is_not_touched() -> None:
    layers = model()
    before = torch.get_rng_state()
    arguments = {"by": "name", "default": {"method": "least_squares", "samples": 64, "steps": 2}}
    squeezelight_module_transform_pass(layers, arguments)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_linear_layer_that_is_the_model_itself_is_replaced() -> None:
    new = squeezelight_module_transform_pass(nn.Linear(4, 4), {"by": "name", "default": {}})
    assert type(new) is SqueezeLightLinear


@pytest.mark.parametrize(
    ("key", "parameters", "words"),
    [
        ("0", {"miniblok": 4}, "did you mean 'miniblock'"),
        ("0", {"miniblock": 0}, "miniblock: .*greater than or equal to 1"),
        ("0", {"method": "guess"}, "method: .*'average' or 'least_squares'"),
        ("1", {}, "does not replace"),
        ("3", {}, "matches no module"),
    ],
)
def test_what_is_wrong_is_said_and_the_model_left_as_it_was(key: str, parameters: Any, words: str) -> None:
    layers = model()
    before = list(layers)
    with pytest.raises(ConfigurationError, match=words):
        transform_pass("squeezelight").plan(layers, {"by": "name", key: parameters})
    assert list(layers) == before


FITTED = {"by": "name", "default": {"method": "least_squares", "steps": 20}}


def data(rows: int = 600, seed: int = 1) -> torch.Tensor:
    """Inputs of the model above that are far from a standard normal."""
    return 0.3 + 0.2 * torch.rand(rows, 8, generator=torch.Generator().manual_seed(seed))


def test_fitted_to_what_the_layers_get_they_are_nearer_to_them() -> None:
    expected = model()(data(seed=9)).detach()
    errors = []
    for fit_inputs in (None, data().split(100)):
        rings = squeezelight_module_transform_pass(model(), FITTED, fit_inputs)
        got = rings(data(seed=9)).detach()
        errors.append(float((got - expected).norm() / (expected - expected.mean(0)).norm()))
    assert errors[1] < 0.5 * errors[0]


def test_each_layer_is_fitted_as_from_its_own_inputs() -> None:
    layers = model().train()
    seen: list[torch.Tensor] = []
    layers[2].register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    layers(data(300))
    assert len(seen) == 1
    rings: Any = squeezelight_module_transform_pass(model(), FITTED, [(data(300),)])
    torch.manual_seed(0)
    alone = SqueezeLightLinear.from_linear(model()[2], "least_squares", inputs=seen[0], steps=20)
    torch.testing.assert_close(rings[2].weight, alone.weight)
    torch.testing.assert_close(rings[2].scale, alone.scale)


def test_fitting_leaves_the_modes_of_modules_and_their_hooks_alone() -> None:
    layers = model().train()
    layers[2].eval()
    layers[1].register_forward_pre_hook(lambda module, _: modes.append(module.training))
    modes: list[bool] = []
    plan = plan_squeezelight(layers, FITTED, [data(100)])
    assert modes == [False] and [module.training for module in layers] == [True, True, False]
    assert len(plan.replacements) == 2 and type(layers[0]) is nn.Linear
    assert [len(module._forward_pre_hooks) for module in layers] == [0, 1, 0]


def test_rows_come_from_all_batches_and_no_more_than_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, torch.Tensor] = {}
    real = SqueezeLightLinear.from_linear

    def noted(linear: nn.Linear, **settings: Any) -> SqueezeLightLinear:
        given[f"{linear.in_features}"] = settings["inputs"]
        return real(linear, **settings)

    monkeypatch.setattr(SqueezeLightLinear, "from_linear", noted)
    batches = ({"input": torch.full((2, 50, 8), float(number))} for number in range(4))
    arguments = {"by": "name", "default": {"method": "least_squares", "steps": 0, "samples": 30}}
    squeezelight_module_transform_pass(model(), arguments, batches)
    assert given["8"].shape == (32, 8) and given["12"].shape == (32, 12)
    assert given["8"][:, 0].unique(return_counts=True)[1].tolist() == [8, 8, 8, 8]


def test_average_needs_no_inputs_and_does_not_run_the_model() -> None:
    layers = model()
    layers.forward = None
    rings = squeezelight_module_transform_pass(layers, {"by": "name", "default": {}}, [data()])
    assert type(rings[0]) is SqueezeLightLinear  # pyright: ignore[reportIndexIssue]


def test_noise_and_crosstalk_are_those_asked_for() -> None:
    def wide() -> Any:
        layers = model()
        with torch.no_grad():
            for value in layers.parameters():  # phases on the slope of the resonance
                value.mul_(10.0)
        return layers

    quiet: Any = squeezelight_module_transform_pass(wide(), {"by": "name", "default": {}})
    x = data(5)
    for settings in ({"crosstalk": 0.05}, {"phase_noise": 0.02}, {"w_bit": 4}, {"crosstalk": 0.05, "drop": 1.0}):
        other: Any = squeezelight_module_transform_pass(wide(), {"by": "name", "default": settings})
        assert all(getattr(layer, name) == value for layer in (other[0], other[2]) for name, value in settings.items())
        if "w_bit" not in settings:
            assert torch.equal(other[0].weight, quiet[0].weight)
        assert not torch.allclose(other(x), quiet(x), atol=1e-6)
        assert torch.equal(other(x), other(x)) is ("phase_noise" not in settings)
    # Layers draw noise of their own, and another pass draws the same.
    noisy = [
        squeezelight_module_transform_pass(model(), {"by": "name", "default": {"phase_noise": 0.02}}) for _ in range(2)
    ]
    assert torch.equal(noisy[0](x), noisy[1](x))
    assert not torch.equal(noisy[0][0].seed, noisy[0][2].seed)  # pyright: ignore[reportIndexIssue]
