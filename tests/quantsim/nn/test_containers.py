from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from quantsim.errors import ConfigurationError
from quantsim.nn import QuantizationMixin, QuantizedLinear
from quantsim.nn.containers import QuantizerDict, QuantizerList, empty_dict, empty_list, quantizers_of
from quantsim.quantization import QuantizerBase, affine


def quantizer() -> affine.QuantizeDequantize:
    return affine.QuantizeDequantize((), 8, False)


LIST_WRITES = {
    "item": lambda entries: entries.__setitem__(0, nn.ReLU()),
    "identity": lambda entries: entries.__setitem__(0, nn.Identity()),  # None is what quantizes nothing
    "last item": lambda entries: entries.__setitem__(-1, nn.ReLU()),
    "attribute": lambda entries: setattr(entries, "0", nn.ReLU()),
    "append": lambda entries: entries.append(nn.ReLU()),
    "extend": lambda entries: entries.extend([nn.ReLU()]),
    "insert": lambda entries: entries.insert(0, nn.ReLU()),
    "register": lambda entries: entries.register_module("0", nn.ReLU()),
    "submodule": lambda entries: entries.set_submodule("0", nn.ReLU()),
}
DICT_WRITES = {
    "item": lambda entries: entries.__setitem__("weight", nn.ReLU()),
    "attribute": lambda entries: setattr(entries, "weight", nn.ReLU()),
    "update": lambda entries: entries.update({"weight": nn.ReLU()}),
    "identity": lambda entries: entries.__setitem__("weight", nn.Identity()),  # no parameter could be calibrated
}


@pytest.mark.parametrize("write", LIST_WRITES.values(), ids=LIST_WRITES)
@pytest.mark.parametrize("container", ["input_quantizers", "output_quantizers"])
def test_a_module_that_is_no_quantizer_is_refused(write: Any, container: str) -> None:
    linear = QuantizedLinear(2, 2)
    entries = getattr(linear, container)
    kept = entries[0] = quantizer()
    with pytest.raises(
        ConfigurationError, match=r"got a module of type (ReLU|Identity); expected a quantizer .*; to fix: assign"
    ):
        write(entries)
    assert list(entries) == [kept]


@pytest.mark.parametrize("write", DICT_WRITES.values(), ids=DICT_WRITES)
def test_a_parameter_wants_a_quantizer(write: Any) -> None:
    linear = QuantizedLinear(2, 2)
    kept = linear.param_quantizers["weight"] = quantizer()
    with pytest.raises(ConfigurationError, match=r"param_quantizers\['weight'\]: got a module of type (ReLU|Identity)"):
        write(linear.param_quantizers)
    assert dict(linear.param_quantizers.items()) == {"weight": kept, "bias": None}


def test_what_is_no_module_is_torchs_type_error() -> None:
    linear = QuantizedLinear(2, 2)
    for wrong in (3, affine.QuantizeDequantize):
        with pytest.raises(TypeError):
            linear.output_quantizers[0] = wrong
        with pytest.raises(TypeError):
            linear.param_quantizers["weight"] = wrong


def test_quantizers_of_ones_own_none_and_identity_are_accepted() -> None:
    class Halves(QuantizerBase):
        def __init__(self) -> None:
            super().__init__(encoding_analyzer=None)

        def map_to_grid(self, x, *, owned=False):
            return (x * 2).round() / 2

        def set_range_from_statistics(self, analyzer):
            raise AssertionError

    linear, x = QuantizedLinear(2, 2), torch.randn(3, 2)
    expected = linear(x)
    linear.input_quantizers[0] = linear.output_quantizers[0] = None
    assert torch.equal(linear(x), expected)
    linear.output_quantizers[0] = halves = Halves()
    linear.param_quantizers["weight"] = halves
    assert linear.output_quantizers[0] is linear.param_quantizers["weight"] is halves
    linear.output_quantizers[0] = linear.param_quantizers["weight"] = None
    assert torch.equal(linear(x), expected)


@pytest.mark.parametrize("make", ["__init__", "from_module"])
def test_plain_containers_of_a_custom_class_are_checked_too(make: str) -> None:
    class Twice(nn.Module):
        def forward(self, x):
            return 2 * x

    class QuantizedTwice(QuantizationMixin, Twice):
        first: Any = None

        def __quant_init__(self) -> None:
            super().__quant_init__()
            self.input_quantizers = self.alias = nn.ModuleList([self.first, None])
            self.param_quantizers = nn.ModuleDict()

    def made() -> QuantizedTwice:
        if make == "__init__":
            return QuantizedTwice()
        QuantizationMixin.implements(Twice)(QuantizedTwice)
        try:
            return QuantizationMixin.from_module(Twice())
        finally:
            del QuantizationMixin.cls_to_qcls[Twice], QuantizationMixin.qcls_to_cls[QuantizedTwice]

    module = made()
    assert module.alias is module.input_quantizers
    assert (type(module.input_quantizers), type(module.param_quantizers)) == (QuantizerList, QuantizerDict)
    with pytest.raises(ConfigurationError):
        module.input_quantizers[1] = nn.ReLU()
    QuantizedTwice.first = nn.ReLU()
    with pytest.raises(ConfigurationError, match="activation quantizer 0: got a module of type ReLU"):
        made()


def test_copies_and_pickles_hold_the_same_and_stay_checked() -> None:
    linear = QuantizedLinear(2, 2)
    linear.input_quantizers[0] = linear.param_quantizers["weight"] = shared = quantizer()
    shared.set_range(-1.0, 1.0)
    buffer = io.BytesIO()
    torch.save(linear, buffer)
    buffer.seek(0)
    x = torch.randn(3, 2)
    for other in (
        copy.deepcopy(linear),
        pickle.loads(pickle.dumps(linear)),
        torch.load(buffer, weights_only=False),
    ):
        assert other.input_quantizers[0] is other.param_quantizers["weight"] is not shared
        assert other.output_quantizers[0] is other.param_quantizers["bias"] is None
        assert torch.equal(other(x), linear(x))
        with pytest.raises(ConfigurationError):
            other.output_quantizers[0] = nn.ReLU()


def test_reading_is_torchs_own() -> None:
    """A check on the way to a quantizer would be paid in every forward."""
    for checked, plain in ((QuantizerList, nn.ModuleList), (QuantizerDict, nn.ModuleDict)):
        for name in ("__getitem__", "__getattr__", "__iter__", "__len__"):
            assert getattr(checked, name) is getattr(plain, name)
    linear = QuantizedLinear(2, 2)
    assert quantizers_of(linear, "param_quantizers") is linear.param_quantizers._modules


def test_they_look_like_torchs() -> None:
    assert repr(empty_list(2)) == repr(nn.ModuleList([None, None]))  # type: ignore[list-item]
    assert repr(empty_dict(["a"])) == repr(nn.ModuleDict({"a": None}))  # type: ignore[dict-item]
    assert type(empty_list(3)[:2]) is QuantizerList
