"""What all attention modules do when they are switched, copied and loaded."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch

from quantsim.dualpath import (
    QAttention,
    QBase,
    QBertSelfAttention,
    QLlamaAttention,
    QWindowAttention,
    SoftmaxRule,
    dequantize,
)
from quantsim.dualpath.attention_paths import TwoPathAttention
from quantsim.errors import ConfigurationError, NotCalibratedError
from quantsim.nn import compute_encodings

CONFIG = SimpleNamespace(
    hidden_size=32,
    num_attention_heads=4,
    num_key_value_heads=2,
    attention_probs_dropout_prob=0.0,
    attention_dropout=0.0,
    attention_bias=True,
)
KINDS = ("vision", "window", "bert", "llama")


def make(kind: str, **settings) -> tuple[TwoPathAttention, tuple]:
    settings = {"wbit": 8, "abit": 8, **settings}
    x = torch.randn(2, 9, 32)
    if kind == "vision":
        return QAttention(32, 4, True, **settings).eval(), (x,)
    if kind == "window":
        return QWindowAttention(32, 4, window_size=3, **settings).eval(), (x,)
    if kind == "bert":
        return QBertSelfAttention(CONFIG, **settings).eval(), (x,)
    angles = torch.linspace(0, 3, 9 * 8).reshape(1, 9, 8).expand(2, -1, -1)
    return QLlamaAttention(CONFIG, **settings).eval(), (x, (angles.cos(), angles.sin()))


def run(module, arguments) -> torch.Tensor:
    with torch.no_grad():
        result = module(*arguments)
    return result[0] if isinstance(result, tuple) else result


def calibrated(kind: str, **settings) -> tuple[TwoPathAttention, tuple]:
    module, arguments = make(kind, **settings)
    with compute_encodings(module):
        run(module, arguments)
    return module, arguments


@pytest.mark.parametrize("rule", list(SoftmaxRule))
@pytest.mark.parametrize("kind", KINDS)
def test_both_paths_agree(kind: str, rule: SoftmaxRule) -> None:
    module, arguments = calibrated(kind, softmax_rule=rule)
    real = run(module, arguments)
    integers = run(module.inference(), arguments)
    assert not integers.is_floating_point()
    found = dequantize(integers, module.output_grid)
    assert float((found - real).norm() / real.norm()) < 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_all_quantizers_and_projections_are_switched_and_back(kind: str) -> None:
    module, arguments = calibrated(kind)
    real = run(module, arguments)
    parts = [part for part in module.modules() if isinstance(part, QBase)]
    module.inference()
    assert not any(part.train_flag for part in parts)
    assert all(getattr(module, name).qweight.dtype == torch.int8 for name in module._layers)
    run(module, arguments)
    module.inference(False)
    assert all(part.train_flag for part in parts)
    assert not any("qweight" in name for name in module.state_dict())
    assert torch.equal(run(module, arguments), real)


@pytest.mark.parametrize("kind", KINDS)
def test_codes_may_come_in(kind: str) -> None:
    module, (x, *rest) = calibrated(kind)
    expected = run(module.inference(), (x, *rest))
    codes = module.quantizer("xq")(x)
    assert codes.dtype == torch.uint8
    assert torch.equal(run(module, (codes, *rest)), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["deepcopy", "pickle", "state_dict", "to training"])
def test_copies_compute_the_same(kind: str, way: str) -> None:
    module, arguments = calibrated(kind)
    real = run(module, arguments)
    expected = run(module.inference(), arguments)
    if way == "deepcopy":
        assert torch.equal(run(copy.deepcopy(module), arguments), expected)
    elif way == "pickle":
        assert torch.equal(run(pickle.loads(pickle.dumps(module)), arguments), expected)
    else:
        other, _ = calibrated(kind)
        if way == "to training":
            other.load_state_dict(module.state_dict())
            assert torch.equal(run(other, arguments), real)
        else:
            other.inference()
            other.load_state_dict(module.state_dict())
            assert torch.equal(run(other, arguments), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_without_bits_it_is_the_float_module_and_cannot_infer(kind: str) -> None:
    module, arguments = make(kind, wbit=32, abit=32)
    assert not any(isinstance(part, QBase) for part in module.modules())
    assert torch.isfinite(run(module, arguments)).all()
    with pytest.raises(ConfigurationError, match="got no quantizer"):
        module.inference()
    assert module.train_flag


@pytest.mark.parametrize("kind", KINDS)
def test_a_failed_switch_changes_nothing(kind: str) -> None:
    module, arguments = calibrated(kind)
    real = run(module, arguments)
    last = getattr(module, module._layers[-1])
    last.wq = QBase(16, unsigned=False)
    last.wq.set_range(-1.0, 1.0)
    with pytest.raises(ConfigurationError, match="8 bits at most"):
        module.inference()
    assert module.train_flag
    assert not any("qweight" in name for name in module.state_dict())
    last.wq = QBase(8, unsigned=False)
    run(module, arguments)
    assert real.shape == run(module, arguments).shape


def test_uncalibrated_quantizers_are_named() -> None:
    with pytest.raises(NotCalibratedError, match="qqkv"):
        make("vision")[0].inference()


def test_the_flag_of_the_constructor_starts_on_the_inference_path() -> None:
    module, arguments = calibrated("vision")
    other, _ = make("vision", train_flag=False)
    other.load_state_dict(module.state_dict())
    assert torch.equal(run(other, arguments), run(module.inference(), arguments))
