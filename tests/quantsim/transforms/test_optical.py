from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantsim.errors import ConfigurationError, NotCalibratedError
from quantsim.nn import QuantizedLinear, compute_encodings
from quantsim.optical import OtLinear
from quantsim.transforms import (
    OpticalArguments,
    float_precision_module_transform_pass,
    load_transform_config,
    optical_transformer_module_transform_pass,
    parse_optical_arguments,
    plan_optical_transformer,
)


class Classifier(nn.Module):
    encoder: Any
    classifier: Any

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.classifier = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.encoder(x))


def by_default(**parameters: Any) -> dict[str, Any]:
    return {"by": "regex_name", "default": parameters}


def optical_paths(model: nn.Module) -> set[str]:
    return {path for path, module in model.named_modules() if isinstance(module, OtLinear)}


def test_layers_get_the_parameters_of_the_first_key_that_matches() -> None:
    model = Classifier()
    parameters = dict(model.named_parameters())
    pass_args = {
        "by": "regex_name",
        "encoder.*0": {"q_levels": 64, "q_lut_min": None, "q_quantiles": [0.01, 0.99], "noise": "none"},
        "encoder.*": {"q_levels": 32},
        "default": {"q_smooth_factor": 0.5, "ste": "clipped"},
    }
    assert optical_transformer_module_transform_pass(model, pass_args) is model
    first, second, last = model.encoder[0], model.encoder[2], model.classifier
    assert (first.settings.q_levels, first.settings.q_lut_min, first.settings.q_quantiles) == (64, None, (0.01, 0.99))
    assert (second.settings.q_levels, last.settings.q_levels) == (32, 256)
    assert last.output_quantizers[0].smooth_factor == 0.5
    assert all(value is parameters[name] for name, value in model.named_parameters())


def test_the_callers_arguments_are_not_touched() -> None:
    pass_args = {"by": "name", "encoder.0": {"q_levels": 64}, "encoder.2": None, "default": {"q_quantiles": [0.0, 0.9]}}
    before = copy.deepcopy(pass_args)
    optical_transformer_module_transform_pass(Classifier(), pass_args)
    assert pass_args == before and list(pass_args) == list(before)


def test_a_linear_layer_that_is_the_model_itself_is_replaced() -> None:
    linear = nn.Linear(4, 2).eval()
    model = optical_transformer_module_transform_pass(linear, by_default(q_levels=64))
    assert type(model) is OtLinear and model.weight is linear.weight and not model.training
    assert type(linear) is nn.Linear
    model = optical_transformer_module_transform_pass(nn.Linear(4, 2), {"by": "name", "": {}})
    assert type(model) is OtLinear


def test_layers_do_not_share_their_noise_and_passes_repeat() -> None:
    def seeds(**parameters: Any) -> list[int]:
        model: Any = optical_transformer_module_transform_pass(Classifier(), by_default(**parameters))
        return [
            int(module.output_quantizers[0].get_buffer("seed"))
            for module in model.modules()
            if isinstance(module, OtLinear)
        ]

    assert len(set(seeds())) == 3 and seeds() == seeds(q_init_seed=0)
    assert not set(seeds()) & set(seeds(q_init_seed=1))


def test_the_output_head_is_left_out_unless_it_is_named() -> None:
    def model() -> nn.ModuleDict:
        return nn.ModuleDict({"body": nn.Linear(4, 4), "lm_head": nn.Linear(4, 4)})

    assert optical_paths(optical_transformer_module_transform_pass(model(), by_default())) == {"body"}
    named = {"by": "name", "lm_head": {}, "default": {}}
    assert optical_paths(optical_transformer_module_transform_pass(model(), named)) == {"body", "lm_head"}


def test_tied_weights_stay_tied_and_shared_modules_one() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(10, 4)
            self.inner = self.again = nn.Linear(4, 4)
            self.lm_head = nn.Linear(4, 10, bias=False)
            self.lm_head.weight = self.embedding.weight

    model = Tied()
    plan = plan_optical_transformer(model, {"by": "name", "lm_head": {}, "default": {}})
    assert [(item.path, item.aliases) for item in plan.replacements] == [("inner", ("again",)), ("lm_head", ())]
    plan.apply()
    assert model.lm_head.weight is model.embedding.weight
    assert model.inner is model.again and isinstance(model.inner, OtLinear)


@pytest.mark.parametrize(
    ("pass_args", "words"),
    [
        ({"by": "name", "encoder.1": {}}, "matches only modules that this pass does not replace"),
        ({"by": "name", "encodr.0": {}}, "did you mean 'encoder.0'"),
        ({"by": "regex_name", ".*clasifier": {}}, "did you mean 'classifier'"),
        ({"default": {}}, "no key 'by'"),
        ({"by": "type", "default": {}}, "'type'.*'name' or 'regex_name'"),
        ({"by": "name"}, "no module is asked for"),
        ({"by": "regex_name", "(": {}}, "no regular expression"),
        (by_default(q_level=128), "q_level: .*did you mean 'q_levels'"),
        (by_default(q_levels=1), "q_levels: .*greater than or equal to 2"),
        (by_default(q_levels=True), "q_levels"),
        (by_default(q_lut_min=1.0), "q_lut_min: .*less than 1"),
        (by_default(q_lut_min=-0.1), "q_lut_min: .*greater than or equal to 0"),
        (by_default(q_quantiles=[0.9, 0.1]), "q_quantiles: .*two rising numbers from 0 to 1"),
        (by_default(q_quantiles=[0.5, 1.5]), "q_quantiles"),
        (by_default(q_smooth_factor=1.5), "q_smooth_factor"),
        (by_default(noise="shot"), "photons"),
        (by_default(noise="thermal"), "noise"),
        ({"by": "name", "encoder.0": 64}, "a mapping of parameters"),
        ({"attn": {}, "mlp": {}}, "'mlp', without 'by'.*'attn' and 'fc'"),
        ({"fc": {"q_levels": 1}}, r"pass_args\['fc'\].*q_levels"),
        ({"fc": None}, "no module is asked for"),
        ({"attn": {}, "fc": {}}, r"pass_args\['attn'\].*Classifier.*attention of a model of transformers"),
        ([], "expected a mapping"),
    ],
)
def test_what_is_wrong_is_said_and_the_model_left_as_it_was(pass_args: Any, words: str) -> None:
    model = Classifier()
    before = dict(model.named_modules())
    with pytest.raises(ConfigurationError, match=words):
        optical_transformer_module_transform_pass(model, pass_args)
    assert {path: id(module) for path, module in model.named_modules()} == {p: id(m) for p, m in before.items()}


def test_a_pass_that_fails_half_way_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Classifier()
    before = {path: id(module) for path, module in model.named_modules()}
    attributes = {path: dict(module.__dict__) for path, module in model.named_modules()}
    made = []
    original = OtLinear.from_linear

    def from_linear(linear: nn.Linear, **settings: Any) -> OtLinear:
        if len(made) == 2:
            raise ConfigurationError("out of luck", where="OtLinear")
        made.append(linear)
        return original(linear, **settings)

    monkeypatch.setattr(OtLinear, "from_linear", from_linear)
    with pytest.raises(ConfigurationError, match=r"^classifier \(OtLinear\): out of luck"):
        optical_transformer_module_transform_pass(model, by_default())
    assert len(made) == 2
    assert {path: id(module) for path, module in model.named_modules()} == before
    assert {path: dict(module.__dict__) for path, module in model.named_modules()} == attributes


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"network.*torch\.nn\.Module"):
        optical_transformer_module_transform_pass("model", by_default())  # pyright: ignore[reportArgumentType]


def test_only_layers_whose_forward_is_called_with_their_own_weight_are_replaced() -> None:
    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    model = nn.ModuleDict(
        {
            "attention": nn.MultiheadAttention(4, 2),
            "doubled": Doubled(4, 4),
            "lazy": nn.LazyLinear(4),
            "normed": nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
            "plain": nn.Linear(4, 4),
        }
    )
    plan = plan_optical_transformer(model, by_default())
    assert [item.path for item in plan.replacements] == ["plain"]
    assert {"doubled", "attention", "lazy"} < set(plan.left_alone)
    with pytest.raises(ConfigurationError, match="does not replace"):
        plan_optical_transformer(model, {"by": "name", "doubled": {}})


def test_the_last_pass_wins() -> None:
    model = Classifier()
    weight = model.classifier.weight
    float_precision_module_transform_pass(model, {"by": "name", "default": {"format": "e4m3fn"}})
    assert type(model.classifier) is QuantizedLinear
    optical_transformer_module_transform_pass(model, by_default(q_levels=64))
    optical_transformer_module_transform_pass(model, by_default(q_levels=32))
    assert type(model.classifier) is OtLinear and model.classifier.settings.q_levels == 32
    assert model.classifier.weight is weight
    float_precision_module_transform_pass(model, {"by": "name", "default": {"format": "e4m3fn"}})
    assert type(model.classifier) is QuantizedLinear and model.classifier.weight is weight


def test_evaluation_before_any_range_names_the_layer_and_calibration_gives_ranges() -> None:
    model = Classifier().eval()
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(x)
        optical_transformer_module_transform_pass(model, by_default(noise="none"))
        with pytest.raises(NotCalibratedError, match=r"encoder\.0"):
            model(x)
        with compute_encodings(model):
            model(x)
        got = model(x)
    assert float(torch.nn.functional.cosine_similarity(got.flatten(), expected.flatten(), dim=0)) > 0.99
    again = optical_transformer_module_transform_pass(Classifier(), by_default(noise="none")).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(x), got)


def test_it_trains() -> None:
    model: Any = optical_transformer_module_transform_pass(Classifier(), by_default())
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(128, 8, generator=generator)
    target = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0]


def test_bypass_is_exactly_the_model() -> None:
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    expected = Classifier()(x)
    assert torch.equal(optical_transformer_module_transform_pass(Classifier(), by_default(q_bypass=True))(x), expected)


def test_arguments_by_kind_of_layer_leave_the_classifier_out() -> None:
    model: Any = optical_transformer_module_transform_pass(Classifier(), {"fc": {"q_levels": 64}})
    assert optical_paths(model) == {"encoder.0", "encoder.2"}
    assert model.encoder[0].settings.q_levels == 64


def test_the_published_yaml_file_is_read_and_checked(tmp_path: Path) -> None:
    one = "  q_levels: 256\n  q_lut_min: 0.020040\n  q_quantiles: null\n  q_smooth_factor: 0.9\n  q_init_seed: 0\n"
    path = tmp_path / "transform_cfg.yaml"
    path.write_text(f'"attn":\n{one}  q_bypass: false\n"fc":\n{one}  q_bypass: true\n')
    arguments: Any = parse_optical_arguments(load_transform_config(path))
    assert arguments.attention == OpticalArguments() and arguments.linear == OpticalArguments(q_bypass=True)


def test_a_key_called_fc_is_a_path_where_by_is_given() -> None:
    model = nn.ModuleDict({"fc": nn.Linear(2, 2), "other": nn.Linear(2, 2)})
    assert optical_paths(optical_transformer_module_transform_pass(model, {"by": "name", "fc": {}})) == {"fc"}


def test_labels_say_what_is_computed() -> None:
    assert OpticalArguments().label == "256 levels, floor 0.02004, noise dither"
    assert OpticalArguments(q_lut_min=None, noise="shot", photons=20.0).label == (  # pyright: ignore[reportArgumentType]
        "256 levels, no floor, noise shot of 20 photons"
    )


def test_models_on_meta_are_transformed() -> None:
    with torch.device("meta"):
        model = Classifier()
    optical_transformer_module_transform_pass(model, by_default())
    assert all(value.is_meta for value in (*model.parameters(), *model.buffers()))
