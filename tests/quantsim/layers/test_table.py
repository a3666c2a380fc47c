from __future__ import annotations

import inspect

import pytest
from torch import nn

from quantsim.layers.table import ALIASES, LAYERS, LayerSpec
from quantsim.nn import QuantizationMixin


def test_rows_are_distinct_and_have_a_quantized_module() -> None:
    names = [spec.name for spec in LAYERS]
    assert len(set(names)) == len(names)
    assert not set(ALIASES) & set(names) and set(ALIASES.values()) <= set(names)
    assert all(spec.torch_class in QuantizationMixin.cls_to_qcls for spec in LAYERS)


@pytest.mark.parametrize("spec", LAYERS, ids=lambda spec: spec.name)
def test_positional_arguments_are_optional_ones_of_torch(spec: LayerSpec) -> None:
    optional = {each.name for each in spec.torch_parameters() if each.default is not inspect.Parameter.empty}
    assert set(spec.positional) <= optional
    assert set(spec.defaults) <= optional


@pytest.mark.parametrize("cls", [nn.RNN, nn.LSTM, nn.GRU])
def test_spelled_out_arguments_are_those_of_torch(cls: type[nn.RNNBase]) -> None:
    (spec,) = (spec for spec in LAYERS if spec.torch_class is cls)
    made = {each.name: each.default for each in spec.torch_parameters()}
    assert made.pop("batch_first") is True
    nonlinearity = made.pop("nonlinearity", None)
    assert nonlinearity == ("tanh" if cls is nn.RNN else None)
    base = inspect.signature(nn.RNNBase.__init__).parameters
    assert all(base[name].default == default for name, default in made.items())
    left_out = set(base) - set(made) - {"self", "mode", "batch_first"}
    assert left_out == (set() if cls is nn.LSTM else {"proj_size"})
