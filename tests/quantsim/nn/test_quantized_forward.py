from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantsim.nn import FakeQuantizationMixin, QuantizationMixin, QuantizedEmbeddingBag, QuantizedLinear
from quantsim.quantization import affine


def quantizer(minimum: float = -1.0, maximum: float = 1.0, bits: int = 2) -> affine.QuantizeDequantize:
    made = affine.QuantizeDequantize((), bits, True)
    made.set_range(minimum, maximum)
    return made


def test_keyword_inputs_are_quantized() -> None:
    bilinear: Any = QuantizationMixin.from_module(nn.Bilinear(2, 2, 3))
    bilinear.input_quantizers[0], bilinear.input_quantizers[1] = quantizer(), quantizer(-2, 2)
    a, b = torch.randn(4, 2), torch.randn(4, 2)
    expected = nn.functional.bilinear(
        bilinear.input_quantizers[0](a), bilinear.input_quantizers[1](b), bilinear.weight, bilinear.bias
    )
    for result in (bilinear(a, b), bilinear(a, input2=b), bilinear(input2=b, input1=a)):
        assert torch.equal(result, expected)


def test_inputs_that_have_no_quantizer_are_left_alone() -> None:
    bag = QuantizedEmbeddingBag(4, 3, mode="sum")
    bag.input_quantizers[0] = quantizer()
    indices, weights = torch.tensor([[0, 3]]), torch.tensor([[0.3, 0.9]])
    expected = nn.functional.embedding_bag(
        indices, bag.weight, mode="sum", per_sample_weights=bag.input_quantizers[0](weights)
    )
    assert torch.equal(bag(indices, per_sample_weights=weights), expected)
    assert torch.equal(bag(indices, None, weights), expected)
    assert torch.equal(bag(indices), nn.functional.embedding_bag(indices, bag.weight, mode="sum"))


def test_second_output_without_a_quantizer() -> None:
    pool: Any = QuantizationMixin.from_module(nn.MaxPool1d(2, return_indices=True))
    pool.output_quantizers[0] = quantizer()
    values, indices = pool(x := torch.randn(1, 1, 6))
    expected = nn.functional.max_pool1d(x, 2, return_indices=True)
    assert torch.equal(values, pool.output_quantizers[0](expected[0]))
    assert torch.equal(indices, expected[1])


def test_one_quantizer_in_several_places() -> None:
    linear = QuantizedLinear(3, 3)
    linear.input_quantizers[0] = linear.output_quantizers[0] = shared = quantizer()
    x = torch.randn(2, 3)
    assert torch.equal(linear(x), shared(nn.functional.linear(shared(x), linear.weight, linear.bias)))


@pytest.mark.parametrize("mixin", [QuantizationMixin, FakeQuantizationMixin])
def test_peak_memory_of_a_forward_without_autograd_is_that_of_the_float_module(mixin: Any) -> None:
    """The output quantizer writes over the output: no second tensor of its size is allocated."""
    torch.manual_seed(0)
    module = mixin.from_module(nn.Linear(64, 256))
    module.output_quantizers[0] = quantizer(bits=8)
    x = torch.randn(512, 64)
    with torch.no_grad():
        module(x)
        with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            module(x)
    allocated = sum(max(0, event.self_cpu_memory_usage) for event in profile.events())
    assert allocated < 1.25 * 512 * 256 * 4


def test_subclass_of_a_generated_class() -> None:
    class Doubled(QuantizedLinear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    module = Doubled(2, 2)
    module.output_quantizers[0] = quantizer()
    x = torch.randn(3, 2)
    linear = nn.functional.linear(x, module.weight, module.bias)
    assert torch.equal(module(x), 2 * module.output_quantizers[0](linear))
    assert "its own forward" in str(module.explain_dispatch())
    assert type(module.get_original_module()) is nn.Linear


@pytest.mark.parametrize("cls", [nn.Linear, nn.Conv1d])
def test_compiled_equals_eager_with_gradients(cls: Any) -> None:
    torch.manual_seed(0)
    torch.compiler.reset()
    module: Any = QuantizationMixin.from_module(nn.Linear(8, 4) if cls is nn.Linear else nn.Conv1d(8, 4, 1))
    x = torch.randn(16, 8) if cls is nn.Linear else torch.randn(2, 8, 5)
    module.input_quantizers[0] = affine.QuantizeDequantize((), 8, False)
    module.output_quantizers[0] = affine.QuantizeDequantize((), 8, False)
    module.param_quantizers["weight"] = affine.QuantizeDequantize((4, *(1,) * (module.weight.dim() - 1)), 8, True)
    with module.compute_encodings():
        module(x)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    results = []
    for run in (module, compiled):
        module.zero_grad()
        y = run(x)
        y.square().sum().backward()
        results.append([y.detach(), *(parameter.grad.clone() for parameter in module.parameters())])
    for eager, other in zip(*results, strict=True):
        torch.testing.assert_close(eager, other)
    assert "weight" not in vars(module)
    with torch.no_grad():  # a change of the range is seen by code that is compiled already
        module.output_quantizers[0].set_range(-9.0, 9.0)
        torch.testing.assert_close(compiled(x), module(x))
