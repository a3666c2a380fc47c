from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantsim.sim import QuantizationSimModel
from quantsim.sim.tensor_names import ResolvedTensor, TensorResolver
from quantsim_encodings import AffineEncoding, EncodingEntry, IntFormat, PerTensor
from quantsim_encodings.document import TensorReference, TensorRole

ENCODING = AffineEncoding(IntFormat(0, 255), 0.5, 0, False, PerTensor())


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ModuleList([nn.Linear(4, 4), nn.Conv1d(1, 1, 1)])
        self.scores = nn.Linear(4, 2)

    def forward(self, images: Tensor, extra: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y = self.layer[0](images)
        y = self.layer[1](y[:, None])[:, 0]
        return y, self.scores(y if extra is None else y + extra)


def resolver(
    name_map: Mapping[str, Any] | None = None, inputs: Sequence[str] = (), outputs: Sequence[str] = ()
) -> TensorResolver:
    sim = QuantizationSimModel(Network(), torch.randn(2, 4), config=None)
    return TensorResolver(sim.model, sim._modules, sim._run, name_map, inputs, outputs)


def resolve(found: TensorResolver, name: str) -> tuple[ResolvedTensor, ...] | str:
    return found.resolve(EncodingEntry(ENCODING, name=name))


def at(module: str, role: str, key: str, *, transposed: bool = False) -> tuple[ResolvedTensor, ...]:
    return (ResolvedTensor(TensorReference(module, TensorRole(role), key), transposed),)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("layer.0.weight", at("layer.0", "param", "weight")),
        ("layer.0.bias", at("layer.0", "param", "bias")),
        ("layer.0.weight_0", at("layer.0", "param", "weight", transposed=True)),
        ("layer.1.weight_12", at("layer.1", "param", "weight")),  # not a matrix: nothing to transpose
        ("/layer.0/Add_output_0", at("layer.0", "output", "0")),
        ("/scores/Gemm_output_0", at("scores", "output", "0")),
        ("layer.0.output[0]", at("layer.0", "output", "0")),
        ("scores.input[0]", at("scores", "input", "0")),
        ("images", at("layer.0", "input", "0")),
        ("in", at("layer.0", "input", "0")),
        ("logits", at("scores", "output", "0")),
        ("odd", at("scores", "output", "0")),
    ],
)
def test_names_are_understood(name: str, expected: tuple[ResolvedTensor, ...]) -> None:
    found = resolver({"odd": "scores.output_quantizers[0]"}, inputs=["in"], outputs=["features", "logits"])
    assert resolve(found, name) == expected


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("layer.0.wieght", ["layer.0.weight"]),
        ("/layer.0/Add_output_1", ["name_map"]),
        ("/nowhere/Add_output_0", ["name_map"]),
        ("/Add_output_0", ["name_map"]),
        ("layer.0.output[3]", ["name_map"]),
        ("layer.0.weight_x", ["name_map"]),
        ("", ["name_map"]),
    ],
)
def test_other_names_are_explained(name: str, words: list[str]) -> None:
    found = resolver()._parameter(name) if not name else resolve(resolver(), name)
    assert found is None if not name else isinstance(found, str)
    if isinstance(found, str):
        for word in words:
            assert word in found


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (TensorReference("layer.00", TensorRole.PARAM, "weight"), ["no quantized module 'layer.00'", "layer.0"]),
        (TensorReference("layer.0", TensorRole.PARAM, "gain"), ["no parameter 'gain'", "weight, bias"]),
        (TensorReference("layer.0", TensorRole.OUTPUT, "1"), ["1 output(s)", "number 1"]),
        (TensorReference("layer.0", TensorRole.INPUT, "x"), ["number x"]),
    ],
    ids=str,
)
def test_references_that_are_not_there_are_explained(tensor: TensorReference, words: list[str]) -> None:
    found = resolver().resolve(EncodingEntry(ENCODING, tensor=tensor))
    assert isinstance(found, str)
    for word in words:
        assert word in found


def test_a_map_may_name_several_places_and_must_name_real_ones() -> None:
    found = resolver(
        {"a": ["layer.0.output[0]", TensorReference("scores", TensorRole.PARAM, "weight"), "layer.1.weight"]}
    )
    assert resolve(found, "a") == (
        *at("layer.0", "output", "0"),
        *at("scores", "param", "weight"),
        *at("layer.1", "param", "weight"),
    )
    for wrong in ("somewhere", "nowhere.output_quantizers[0]"):
        text = resolve(resolver({"a": wrong}), "a")
        assert isinstance(text, str)
        assert wrong in text


def test_without_an_example_run_model_inputs_are_unknown() -> None:
    sim = QuantizationSimModel(Network(), None, config=None)
    found = TensorResolver(sim.model, sim._modules, sim._run, None, ["in"], ["out"])
    assert isinstance(resolve(found, "in"), str)
    assert resolve(found, "layer.0.weight") == at("layer.0", "param", "weight")
