"""What a person gets wrong on optics, on every way in: layers, passes, files and the command line.

Each error says where it is, what was got and what was expected; the model stays as it was.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from quantsim.cli.main import main
from quantsim.errors import ConfigurationError, NonFiniteError, NotCalibratedError, QuantsimError
from quantsim.nn import compute_encodings
from quantsim.optical import OtLinear
from quantsim.optical.attention import OpticalAttentionCore
from quantsim.optical.squeezelight import SqueezeLightLinear
from quantsim.quantization.optical import OpticalQuantizeDequantize
from quantsim.sim import QuantizationSimModel, SimulationConfig
from quantsim.transforms import (
    load_transform_config,
    optical_transformer_module_transform_pass,
    squeezelight_module_transform_pass,
)
from quantsim_encodings.errors import EncodingsError

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"q_levls": 64}, "q_levls"),
    ({"q_levels": 1}, "q_levels"),
    ({"q_levels": 0}, "q_levels"),
    ({"q_levels": -5}, "q_levels"),
    ({"q_levels": 2**24 + 1}, "q_levels"),
    ({"q_levels": 25.5}, "q_levels"),
    ({"q_levels": "256"}, "q_levels"),
    ({"q_lut_min": 1.0}, "q_lut_min"),
    ({"q_lut_min": 7}, "q_lut_min"),
    ({"q_lut_min": -0.02}, "q_lut_min"),
    ({"q_lut_min": float("nan")}, "q_lut_min"),
    ({"q_quantiles": [0.999, 0.001]}, "q_quantiles"),
    ({"q_quantiles": [0.5, 0.5]}, "q_quantiles"),
    ({"q_quantiles": [-0.1, 0.9]}, "q_quantiles"),
    ({"q_quantiles": [0.1]}, "q_quantiles"),
    ({"q_quantiles": 0.9}, "q_quantiles"),
    ({"q_smooth_factor": 1.1}, "q_smooth_factor"),
    ({"q_smooth_factor": -0.1}, "q_smooth_factor"),
    ({"q_init_seed": 0.5}, "q_init_seed"),
    ({"q_bypass": "no"}, "q_bypass"),
    ({"noise": "thermal"}, "noise"),
    ({"noise": "shot"}, "photons"),
    ({"noise": "shot", "photons": 0.0}, "photons"),
    ({"photons": 10.0}, "photons"),
    ({"ste": "straight"}, "ste"),
]
IDS = [json.dumps(settings) for settings, _ in WRONG]


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.second = nn.Linear(8, 8)
        self.classifier = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.second(self.first(x).relu()))


def make() -> Encoder:
    torch.manual_seed(0)
    return Encoder().eval()


def frozen(model: nn.Module) -> tuple[object, ...]:
    """All that a pass could change."""
    return (
        {path: (id(module), type(module), module.training) for path, module in model.named_modules()},
        {name: (id(value), value._version) for name, value in model.named_parameters()},
        {path: sorted(module.__dict__) for path, module in model.named_modules()},
    )


# -------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(("settings", "name"), WRONG, ids=IDS)
def test_layers_refuse_the_setting_by_its_name(settings: dict[str, Any], name: str) -> None:
    linear = nn.Linear(3, 2)
    makers: list[Callable[[], Any]] = [
        lambda: OtLinear.from_linear(linear, **settings),
        lambda: OpticalAttentionCore(**settings),
    ]
    if "q_levls" not in settings:  # which Python itself refuses
        makers.append(lambda: OtLinear(3, 2, **settings))
    for maker in makers:
        with pytest.raises(ConfigurationError, match=name):
            maker()


@pytest.mark.parametrize(("settings", "name"), WRONG, ids=IDS)
def test_the_pass_says_the_key_and_leaves_the_model_alone(settings: dict[str, Any], name: str) -> None:
    model = make()
    before = frozen(model)
    for pass_args, key in (
        ({"by": "name", "second": settings, "default": {}}, "second"),
        ({"by": "regex_name", "first|second": settings}, "first|second"),
        ({"by": "name", "default": settings}, "default"),
        ({"fc": settings}, "fc"),
    ):
        given = copy.deepcopy(pass_args)
        with pytest.raises(ConfigurationError) as caught:
            optical_transformer_module_transform_pass(model, pass_args)
        assert name in str(caught.value) and repr(key) in str(caught.value)
        assert repr(pass_args) == repr(given)
    assert frozen(model) == before


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., str]:
    """Runs ``quantsim transform`` on the model above with a configuration that is wrong; returns what it says."""
    monkeypatch.setenv("COLUMNS", "400")
    (tmp_path / "models.py").write_text(
        "from torch import nn\ndef network():\n    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))\n"
    )

    def call(text: str, name: str = "optical", suffix: str = "yaml") -> str:
        config = tmp_path / f"config.{suffix}"
        config.write_text(text)
        output = tmp_path / "out"
        command = [
            "transform",
            f"{tmp_path / 'models.py'}:network",
            "--pass",
            name,
            "-c",
            str(config),
            "-o",
            str(output),
        ]
        with pytest.raises(SystemExit) as ended:
            main(command)
        captured = capfd.readouterr()
        assert ended.value.code not in (0, None) and "Traceback" not in captured.err
        assert not output.exists()
        return captured.err

    return call


@pytest.mark.parametrize(("settings", "name"), WRONG[::3], ids=IDS[::3])
def test_the_command_line_says_so_too_and_writes_nothing(
    run: Callable[..., str], settings: dict[str, Any], name: str
) -> None:
    assert name in run(yaml.safe_dump({"by": "name", "default": settings}))
    assert name in run(yaml.safe_dump({"fc": settings}))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("by: name\n'3': {q_levels: 16}\n", "matches no module"),
        ("by: regex_name\n'lay[': {}\n", "regular expression"),
        ("by: kind\ndefault: {}\n", "'name' or 'regex_name'"),
        ("default: {}\n", "by"),
        ("by: name\n", "no module is asked for"),
        ("attn: {}\n", "no module of this kind"),
        ("att: {}\nfc: {}\n", "att"),
        ("- fc\n", "one mapping"),
        ("", "one mapping"),
        ("fc: {q_levels: 2\n", "cannot be read"),
        ("fc: {q_levels: 2}\nfc: {q_levels: 3}\n", "twice"),
    ],
)
def test_wrong_files_on_the_command_line(run: Callable[..., str], text: str, words: str) -> None:
    assert words in run(text)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"miniblok": 4}, "miniblok"),
        ({"miniblock": 0}, "miniblock"),
        ({"w_bit": 0}, "w_bit"),
        ({"method": "a"}, "method"),
    ],
)
def test_squeezelight_on_the_command_line(run: Callable[..., str], settings: dict[str, Any], name: str) -> None:
    assert name in run(json.dumps({"by": "name", "default": settings}), "squeezelight", "json")


def test_files_that_are_not_there_or_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such file"):
        load_transform_config(tmp_path / "transform_cfg.yaml")
    (tmp_path / "transform_cfg.toml").write_text("fc = 1\n")
    with pytest.raises(ConfigurationError, match="yaml"):
        load_transform_config(tmp_path / "transform_cfg.toml")


# ----------------------------------------------------------------------------------------------- patterns, passes


@pytest.mark.parametrize(
    "transform", [optical_transformer_module_transform_pass, squeezelight_module_transform_pass], ids=["ot", "rings"]
)
def test_a_pattern_without_a_match_names_what_is_near(transform: Callable[..., nn.Module]) -> None:
    model = make()
    before = frozen(model)
    with pytest.raises(ConfigurationError, match=r"'secnd'.*'second'"):
        transform(model, {"by": "name", "first": {}, "secnd": {}})
    with pytest.raises(ConfigurationError, match=r"third"):
        transform(model, {"by": "regex_name", "third.*": {}, "default": {}})
    assert frozen(model) == before


@pytest.mark.parametrize(
    ("transform", "owner", "extra"),
    [
        (optical_transformer_module_transform_pass, OtLinear, {}),
        (squeezelight_module_transform_pass, SqueezeLightLinear, {}),
        (squeezelight_module_transform_pass, SqueezeLightLinear, {"fit_inputs": [torch.ones(4, 6)]}),
    ],
    ids=["ot", "rings", "rings-fitted"],
)
@pytest.mark.parametrize(
    "error", [ConfigurationError("out of luck"), MemoryError("out of memory"), KeyboardInterrupt()]
)
def test_a_pass_that_fails_half_way_changes_nothing(
    transform: Callable[..., nn.Module],
    owner: Any,
    extra: dict[str, Any],
    error: BaseException,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = make()
    before, state = frozen(model), torch.get_rng_state()
    real, calls = owner.from_linear, []

    def fails(linear: nn.Linear, *args: Any, **settings: Any) -> Any:
        calls.append(linear)
        if len(calls) == 2:
            raise error
        return real(linear, *args, **settings)

    monkeypatch.setattr(owner, "from_linear", fails)
    parameters = {"method": "least_squares", "steps": 1} if extra else {}
    with pytest.raises(type(error)):
        transform(model, {"by": "name", "default": parameters}, **extra)
    assert len(calls) == 2 and frozen(model) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.first._forward_pre_hooks


# ---------------------------------------------------------------------------------------------------------- use


def optical() -> nn.Module:
    return optical_transformer_module_transform_pass(make(), {"by": "name", "default": {}})


def test_uncalibrated_evaluation_names_the_first_layer_and_the_way_out() -> None:
    model = optical()
    with pytest.raises(NotCalibratedError, match=r"first\.input_quantizers\[0\].*compute_encodings"):
        model(torch.ones(1, 6))
    with compute_encodings(model):
        model(torch.randn(8, 6))
    # A layer that no calibration data reached is named as well.
    other: Any = optical()
    with pytest.warns(UserWarning, match=r"saw no data.*second\.input_quantizers"), compute_encodings(other):
        other.first(torch.randn(8, 6))
    with pytest.raises(NotCalibratedError, match=r"second\.input_quantizers\[0\]"):
        other(torch.ones(1, 6))


def test_calibration_with_values_that_are_not_finite_changes_nothing() -> None:
    model = optical()
    with compute_encodings(model):
        model(torch.randn(8, 6))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    bad = torch.randn(8, 6)
    bad[2, 1] = float("nan")
    with pytest.raises(NonFiniteError, match=r"first\.input_quantizers\[0\]"), compute_encodings(model):
        model(torch.randn(8, 6))
        model(bad)
    after = model.state_dict()
    ranges = [name for name in before if name.endswith("range")]
    assert len(ranges) == 9 and all(torch.equal(after[name], before[name]) for name in ranges)


def test_training_outlives_a_bad_batch() -> None:
    model = optical().train()
    model(torch.randn(8, 6))
    ranges = {name: value.clone() for name, value in model.state_dict().items() if name.endswith("range")}
    model(torch.full((8, 6), float("inf")))
    after = model.state_dict()
    for name, value in ranges.items():
        assert after[name].isfinite().all()
        if name.startswith("first.input"):
            assert torch.equal(after[name], value)
    assert model.eval()(torch.randn(2, 6)).isfinite().all()


@pytest.mark.parametrize("shape", [(3, 5), (3, 7), ()], ids=str)
def test_inputs_of_the_wrong_width_raise_and_move_no_range(shape: tuple[int, ...]) -> None:
    layer = OtLinear(6, 2)
    layer(torch.randn(4, 6))
    before = {name: value.clone() for name, value in layer.state_dict().items() if "output" in name or "weight" in name}
    with pytest.raises((QuantsimError, ValueError, RuntimeError)):
        layer(torch.ones(shape))
    assert all(torch.equal(layer.state_dict()[name], value) for name, value in before.items())


def test_states_and_encodings_that_do_not_fit() -> None:
    model, float_model = optical(), make()
    with pytest.raises(RuntimeError, match=r"first\.input_quantizers\.0\.range"):
        model.load_state_dict(float_model.state_dict())
    config = SimulationConfig(name="as it is")
    sims = [QuantizationSimModel(each, config=config) for each in (model, model)]
    sims[0].compute_encodings(lambda module: module(torch.randn(8, 6)))
    document = sims[0].encodings()
    assert len(document.entries) == 9
    shorter: Any = optical()
    del shorter.classifier
    other = QuantizationSimModel(shorter, config=config)
    with pytest.raises(EncodingsError, match="classifier"):
        other.load_encodings(document)
    assert all(quantizer.get_encodings() is None for _, quantizer in other.quantizers())
    with pytest.raises(TypeError, match="expected an OpticalEncoding"):
        OpticalQuantizeDequantize().set_encodings(_integer_encoding())


def _integer_encoding() -> Any:
    from quantsim.quantization import affine

    quantizer = affine.QuantizeDequantize((), 8, True)
    quantizer.set_range(-1.0, 1.0)
    return quantizer.get_encodings()


# ------------------------------------------------------------------------------------- inputs that rings are fitted to

FITTED = {"by": "name", "default": {"method": "least_squares", "steps": 1}}


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([], "no batch"),
        (torch.ones(4, 6), "put a single batch into a list"),
        ({"x": torch.ones(4, 6)}, "put a single batch into a list"),
        ([7], "fit_inputs.*got int"),
        ([torch.ones(1, 6)], "fewer than two rows.*first"),
    ],
)
def test_fit_inputs_that_are_none(inputs: Any, words: str) -> None:
    model = make()
    before = frozen(model)
    with pytest.raises(ConfigurationError, match=words):
        squeezelight_module_transform_pass(model, FITTED, inputs)
    assert frozen(model) == before


def test_fit_inputs_that_the_model_refuses_or_that_miss_a_layer() -> None:
    model = make()
    model.forward = lambda x: model.classifier(model.first(x))
    before = frozen(model)
    with pytest.raises(ConfigurationError, match=r"fewer than two rows.*second"):
        squeezelight_module_transform_pass(model, FITTED, [torch.ones(4, 6)])
    with pytest.raises(RuntimeError, match="shapes"):
        squeezelight_module_transform_pass(model, FITTED, [torch.ones(4, 5)])
    assert frozen(model) == before
    assert not any(module._forward_pre_hooks for module in model.modules())
