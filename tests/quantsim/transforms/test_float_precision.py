from __future__ import annotations

import copy
import pickle
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from quantsim.errors import ConfigurationError
from quantsim.nn import BaseQuantizationMixin, QuantizationMixin, QuantizedLinear
from quantsim.transforms import (
    FloatPrecisionArguments,
    float_precision_module_transform_pass,
    plan_float_precision,
)
from quantsim_encodings.formats import FloatFormat, NVFP4Format, RoundingMode

E4M3 = {"format": "e4m3fn"}


def by_default(**parameters: Any) -> dict[str, Any]:
    return {"by": "name", "default": parameters or E4M3}


def cast(values: Tensor, dtype: Any = ml_dtypes.float8_e4m3fn) -> Tensor:
    """Independent of the code under test: rounding of ml_dtypes."""
    return torch.from_numpy(values.detach().numpy().astype(dtype).astype(np.float32))


class Every(nn.Module):
    """One module of each of many kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.convolution = nn.Conv1d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm1d(8)
        self.activation = nn.GELU()
        self.recurrent = nn.LSTM(8, 8, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
        self.dropout = nn.Dropout(0.1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(8 * 5, 3)
        self.loss = nn.CrossEntropyLoss()

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids).transpose(1, 2)
        x = self.activation(self.norm(self.convolution(x))).transpose(1, 2)
        x, _ = self.recurrent(x)
        return self.fc(self.flatten(self.dropout(self.encoder(x))))


@pytest.fixture
def every() -> Every:
    torch.manual_seed(0)
    return Every()


def test_a_linear_layer_computes_on_rounded_operands() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(16, 8)
    x = torch.randn(4, 16)
    expected = F.linear(cast(x), cast(linear.weight), cast(linear.bias))
    model = float_precision_module_transform_pass(nn.Sequential(linear), by_default())
    assert isinstance(model[0], QuantizedLinear) and model[0].weight is linear.weight  # pyright: ignore[reportIndexIssue]
    torch.testing.assert_close(model(x), expected, rtol=1e-6, atol=1e-6)


def test_every_kind_of_module_that_rounds_is_replaced_and_trains(every: Every) -> None:
    parameters = dict(every.named_parameters())
    model = float_precision_module_transform_pass(every, by_default(exp_bits=5, sig_bits=10, rmode="nearest"))
    assert model is every
    replaced = {path for path, module in every.named_children() if isinstance(module, BaseQuantizationMixin)}
    assert replaced == {"embedding", "convolution", "norm", "activation", "recurrent", "fc"}
    assert isinstance(every.encoder.self_attn, BaseQuantizationMixin)
    assert isinstance(every.encoder.linear1, BaseQuantizationMixin)
    assert all(parameter is parameters[name] for name, parameter in every.named_parameters())
    ids = torch.randint(10, (16, 5), generator=torch.Generator().manual_seed(0))
    target = ids[:, 0] % 3
    before = {name: value.detach().clone() for name, value in parameters.items()}
    optimizer = torch.optim.Adam(every.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = every.loss(every(ids), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert [name for name, value in parameters.items() if torch.equal(value, before[name])] == []


def test_float32_as_format_changes_nothing(every: Every) -> None:
    ids = torch.randint(10, (3, 5), generator=torch.Generator().manual_seed(0))
    every.eval()
    with torch.no_grad():
        expected = every(ids)
        model = float_precision_module_transform_pass(every, by_default(exp_bits=8, sig_bits=23))
        torch.testing.assert_close(model(ids), expected, rtol=1e-5, atol=1e-6)


def test_narrower_formats_are_further_away(every: Every) -> None:
    ids = torch.randint(10, (8, 5), generator=torch.Generator().manual_seed(0))
    every.eval()
    errors = []
    with torch.no_grad():
        expected = every(ids)
        for format in ("fp16", "bf16", "e4m3fn", "e2m1"):
            model = float_precision_module_transform_pass(copy.deepcopy(every), by_default(format=format))
            errors.append(float((model(ids) - expected).norm() / expected.norm()))
    assert errors == sorted(errors) and errors[0] < 1e-2 < errors[2] < 1


@pytest.mark.parametrize("format", ["mxfp8_e4m3", "mxfp4", "nvfp4"])
def test_block_formats(every: Every, format: str) -> None:
    model = float_precision_module_transform_pass(every, by_default(format=format))
    ids = torch.randint(10, (4, 5), generator=torch.Generator().manual_seed(0))
    loss = model(ids).square().mean()
    loss.backward()
    assert torch.isfinite(loss) and all(p.grad is not None for p in model.parameters())


def test_the_model_itself_and_its_mode() -> None:
    linear = nn.Linear(4, 2).eval()
    model = float_precision_module_transform_pass(linear, by_default())
    assert type(model) is QuantizedLinear and not model.training and type(linear) is nn.Linear
    assert type(float_precision_module_transform_pass(nn.Linear(4, 2), {"by": "name", "": E4M3})) is QuantizedLinear


def test_a_subclass_keeps_its_forward() -> None:
    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    model = nn.Sequential(Doubled(4, 2))
    x = torch.randn(3, 4)
    expected = 2 * F.linear(cast(x), cast(model[0].weight), cast(model[0].bias))  # pyright: ignore[reportArgumentType]
    # What a forward of one's own returns is rounded too: half a step of e4m3 in 8 to 16 of them.
    result = float_precision_module_transform_pass(model, by_default())(x)
    assert isinstance(model[0], Doubled)
    torch.testing.assert_close(result, expected, rtol=2**-4, atol=2**-10)


def test_the_last_pass_wins_and_leaves_no_trace_of_the_one_before() -> None:
    model: Any = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    float_precision_module_transform_pass(model, by_default(exp_bits=5, sig_bits=2))
    first = model[0]
    float_precision_module_transform_pass(model, {"by": "name", "1": {"format": "bf16"}})
    assert model[0] is first and first.input_quantizers[0].format.mantissa_bits == 2
    assert model[1].input_quantizers[0].format.mantissa_bits == 7
    assert type(model[1].get_original_module()) is nn.Linear


def test_modules_of_one_shape_round_with_noise_of_their_own() -> None:
    def transformed(seed: int) -> list[Tensor]:
        torch.manual_seed(0)
        model: Any = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32))
        model[1].load_state_dict(model[0].state_dict())
        float_precision_module_transform_pass(model, by_default(format="e4m3fn", rmode=5, seed=seed))
        return [layer(torch.eye(32)).detach() for layer in model]

    one, again, other = transformed(1), transformed(1), transformed(2)
    assert torch.equal(one[0], again[0]) and torch.equal(one[1], again[1])
    assert not torch.equal(one[0], one[1]) and not torch.equal(one[0], other[0])


def test_a_failure_half_way_leaves_the_model_untouched(every: Every) -> None:
    class Broken(nn.Linear):
        """Its quantized class cannot be made: the attribute is needed and missing."""

        def __setattr__(self, name: str, value: Any) -> None:
            if name == "param_quantizers":
                raise TypeError("no containers here")
            super().__setattr__(name, value)

    every.broken = Broken(2, 2)
    modules = dict(every.named_modules())
    keys = list(every.state_dict())
    with pytest.raises(ConfigurationError, match=r"broken.*None"):
        float_precision_module_transform_pass(every, by_default())
    del every.broken
    with pytest.raises(ConfigurationError, match="matches no module"):
        float_precision_module_transform_pass(every, {**by_default(), "fcc": E4M3})
    modules = {path: module for path, module in modules.items() if not path.startswith("broken")}
    assert dict(every.named_modules()) == modules
    assert list(every.state_dict()) == [key for key in keys if not key.startswith("broken")]
    assert every.encoder.activation_relu_or_gelu == 1


def test_it_copies_pickles_saves_and_loads(every: Every) -> None:
    arguments = by_default(format="e5m2", rmode="stochastic", seed=3)
    model = float_precision_module_transform_pass(every, arguments).eval()
    ids = torch.randint(10, (2, 5))
    copied, restored = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    fresh = float_precision_module_transform_pass(Every(), arguments).eval()
    fresh.load_state_dict(model.state_dict())
    with torch.no_grad():
        expected = model(ids)
        for other in (copied, restored, fresh):
            assert torch.equal(other(ids), expected)


def test_it_compiles() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 2), nn.GELU())
    model = float_precision_module_transform_pass(model, by_default()).eval()
    x = torch.randn(4, 8)
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(x), model(x))


@pytest.mark.parametrize("rmode", ["nearest", "stochastic"])
def test_a_model_on_the_meta_device(rmode: str) -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(8, 4), nn.GELU())
    model = float_precision_module_transform_pass(model, by_default(format="e4m3fn", rmode=rmode, seed=1))
    result = model(torch.empty(3, 8, device="meta"))
    assert result.is_meta and result.shape == (3, 4)


def test_the_plan_tells_and_changes_nothing(every: Every) -> None:
    before = dict(every.named_modules())
    plan = plan_float_precision(every, {"by": "regex_name", "fc|norm": {"exp_bits": 5, "sig_bits": 2, "rmode": 3}})
    assert dict(every.named_modules()) == before
    assert [(item.path, item.key, item.label) for item in plan.replacements] == [
        ("norm", "fc|norm", "e5m2, down"),
        ("fc", "fc|norm", "e5m2, down"),
    ]
    assert set(plan.left_alone) >= {"embedding", "recurrent", "encoder.linear1"}


def test_only_modules_are_transformed() -> None:
    with pytest.raises(ConfigurationError, match=r"network.*list"):
        float_precision_module_transform_pass([nn.Linear(1, 1)], by_default())  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigurationError, match="only modules that this pass does not replace"):
        float_precision_module_transform_pass(nn.Sequential(nn.Dropout()), {"by": "name", "0": E4M3})


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({}, "exactly one format"),
        ({"exp_bits": 5}, "exactly one format"),
        ({"exp_bits": 5, "sig_bits": 2, "format": "bf16"}, "exactly one format"),
        ({"exp_bits": 0, "sig_bits": 2}, "exp_bits"),
        ({"exp_bits": 5, "sig_bits": -1}, "sig_bits"),
        ({"exp_bits": True, "sig_bits": 2}, "integer"),
        ({"format": "e4m3fnn"}, "e4m3fn"),
        ({"format": "bf16", "rmode": 10}, "stochastic"),
        ({"format": "bf16", "rmode": "random"}, "stochastic"),
        ({"format": "bf16", "saturate": 1}, "boolean"),
        ({"format": "e2m1", "saturate": False}, "saturate"),
        ({"format": "mxfp4", "subnormal": False}, "block format"),
        ({"format": "bf16", "gradient_format": "e5m22x"}, "e5m22x"),
        ({"format": "bf16", "round": 1}, "round"),
    ],
    ids=str,
)
def test_wrong_parameters_are_refused(parameters: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        FloatPrecisionArguments(**parameters)
    with pytest.raises(ConfigurationError, match=words):
        plan_float_precision(nn.Linear(2, 2), {"by": "name", "default": parameters})


def test_formats_and_modes_may_be_objects() -> None:
    arguments = FloatPrecisionArguments(format=FloatFormat(5, 3), rmode=RoundingMode.UP, gradient_format="e5m2")
    assert arguments.label == "e5m3, up"
    assert FloatPrecisionArguments(format=NVFP4Format(block_size=8)).settings().target == NVFP4Format(block_size=8)
    model: Any = float_precision_module_transform_pass(
        nn.Linear(2, 2), {"by": "name", "default": {"format": FloatFormat(5, 3), "rmode": RoundingMode.UP}}
    )
    assert model.input_quantizers[0].format == FloatFormat(5, 3)


def test_the_label_says_which_of_two_formats_of_one_name_it_is() -> None:
    assert FloatPrecisionArguments(format="e3m2").label == "e3m2, nearest_even"
    assert FloatPrecisionArguments(exp_bits=3, sig_bits=2).label == "e3m2 (IEEE-like), nearest_even"


def test_a_module_that_a_simulation_made_is_made_anew() -> None:
    quantized = QuantizationMixin.from_module(nn.Linear(4, 2))
    model: Any = float_precision_module_transform_pass(nn.Sequential(quantized), by_default())
    assert model[0] is not quantized and model[0].weight is quantized.weight
    assert quantized.input_quantizers[0] is None
