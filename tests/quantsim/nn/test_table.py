from __future__ import annotations

import copy
import inspect
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.utils import _pytree as pytree

import quantsim.nn
from quantsim.nn import FakeQuantizationMixin, QuantizationMixin
from quantsim.nn.attention import InputProjection
from quantsim.nn.specification import ModuleSpec
from quantsim.nn.table import COMPOSITES, TORCH_MODULES
from quantsim.quantization import affine


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def probabilities(*shape: int) -> Tensor:
    return randn(*shape).sigmoid()


def signs(*shape: int) -> Tensor:
    return randn(*shape).sign()


def pooled(dims: int) -> tuple[Tensor, Tensor]:
    x = randn(*(1, 2), *(4,) * dims)
    pool: Any = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[dims - 1]
    return pool(2, return_indices=True)(x)


def spatial(dims: int, channels: int = 4, size: int = 6) -> tuple[Tensor]:
    return (randn(2, channels, *(size,) * dims),)


# Constructor arguments (and keyword arguments) and inputs of one instance of each class; classes that take no
# argument and one tensor need no entry.
CASES: dict[type[nn.Module], tuple[tuple[Any, ...], Callable[[], tuple[Any, ...]]]] = {
    nn.Linear: ((4, 3), lambda: (randn(2, 4),)),
    NonDynamicallyQuantizableLinear: ((4, 3), lambda: (randn(2, 4),)),
    nn.LazyLinear: ((3,), lambda: (randn(2, 4),)),
    nn.Bilinear: ((4, 5, 3), lambda: (randn(2, 4), randn(2, 5))),
    nn.Embedding: ((7, 3), lambda: (torch.tensor([[1, 2], [6, 0]]),)),
    nn.EmbeddingBag: ((7, 3, None, 2.0, False, "sum"), lambda: (torch.tensor([[1, 2]]), None, probabilities(1, 2))),
    nn.Fold: (((4, 4), (2, 2)), lambda: (randn(1, 8, 9),)),
    nn.Unfold: (((2, 2),), lambda: spatial(2)),
    nn.SyncBatchNorm: ((4,), lambda: spatial(2)),
    nn.LayerNorm: ((4,), lambda: (randn(3, 4),)),
    nn.RMSNorm: ((4,), lambda: (randn(3, 4),)),
    nn.GroupNorm: ((2, 4), lambda: spatial(2)),
    nn.LocalResponseNorm: ((2,), lambda: spatial(2)),
    nn.CrossMapLRN2d: ((2,), lambda: spatial(2)),
    nn.GLU: ((), lambda: (randn(3, 4),)),
    nn.Softmax: ((-1,), lambda: (randn(3, 4),)),
    nn.LogSoftmax: ((-1,), lambda: (randn(3, 4),)),
    nn.Softmin: ((-1,), lambda: (randn(3, 4),)),
    nn.Softmax2d: ((), lambda: spatial(2)),
    nn.Threshold: ((0.1, 0.2), lambda: (randn(3, 4),)),
    nn.CosineSimilarity: ((), lambda: (randn(3, 4), randn(3, 4) + 1)),
    nn.PairwiseDistance: ((), lambda: (randn(3, 4), randn(3, 4) + 1)),
    nn.MultiheadAttention: ((4, 2), lambda: (randn(3, 1, 4), randn(5, 1, 4), randn(5, 1, 4) + 1)),
    nn.FractionalMaxPool2d: ((2, 3), lambda: spatial(2)),
    nn.FractionalMaxPool3d: ((2, 3), lambda: spatial(3)),
    nn.LPPool1d: ((2, 2), lambda: spatial(1)),
    nn.LPPool2d: ((2, 2), lambda: spatial(2)),
    nn.LPPool3d: ((2, 2), lambda: spatial(3)),
    nn.Flatten: ((), lambda: spatial(2)),
    nn.Unflatten: ((1, (2, 2)), lambda: (randn(3, 4),)),
    nn.ChannelShuffle: ((2,), lambda: spatial(2)),
    nn.PixelShuffle: ((2,), lambda: spatial(2)),
    nn.PixelUnshuffle: ((2,), lambda: spatial(2)),
    nn.Upsample: ((None, 2.0), lambda: spatial(2)),
    nn.UpsamplingBilinear2d: ((None, 2), lambda: spatial(2)),
    nn.UpsamplingNearest2d: ((None, 2), lambda: spatial(2)),
    nn.RNN: ((3, 4), lambda: (randn(5, 2, 3), randn(1, 2, 4))),
    nn.GRU: ((3, 4), lambda: (randn(5, 2, 3), randn(1, 2, 4))),
    nn.LSTM: ((3, 4), lambda: (randn(5, 2, 3), (randn(1, 2, 4), randn(1, 2, 4)))),
    nn.RNNCell: ((3, 4), lambda: (randn(2, 3), randn(2, 4))),
    nn.GRUCell: ((3, 4), lambda: (randn(2, 3), randn(2, 4))),
    nn.LSTMCell: ((3, 4), lambda: (randn(2, 3), (randn(2, 4), randn(2, 4)))),
    nn.BCELoss: ((), lambda: (probabilities(3, 4), probabilities(4, 3).T)),
    nn.BCEWithLogitsLoss: ((), lambda: (randn(3, 4), probabilities(4, 3).T)),
    nn.CrossEntropyLoss: ((), lambda: (randn(3, 4), torch.tensor([0, 3, 1]))),
    nn.HingeEmbeddingLoss: ((), lambda: (randn(3, 4), signs(4, 3).T)),
    nn.HuberLoss: ((), lambda: (randn(3, 4), randn(4, 3).T)),
    nn.KLDivLoss: ((), lambda: (randn(3, 4).log_softmax(-1), randn(4, 3).T.softmax(-1))),
    nn.L1Loss: ((), lambda: (randn(3, 4), randn(4, 3).T)),
    nn.MSELoss: ((), lambda: (randn(3, 4), randn(4, 3).T)),
    nn.MultiLabelMarginLoss: ((), lambda: (randn(1, 4), torch.tensor([[3, 0, -1, 1]]))),
    nn.MultiLabelSoftMarginLoss: ((), lambda: (randn(3, 4), signs(4, 3).T.clamp(0))),
    nn.MultiMarginLoss: ((), lambda: (randn(3, 4), torch.tensor([0, 3, 1]))),
    nn.NLLLoss: ((), lambda: (randn(3, 4).log_softmax(-1), torch.tensor([0, 3, 1]))),
    nn.NLLLoss2d: ((), lambda: (randn(1, 4, 2, 2).log_softmax(1), torch.ones(1, 2, 2).long())),
    nn.PoissonNLLLoss: ((), lambda: (randn(3, 4), probabilities(4, 3).T)),
    nn.SmoothL1Loss: ((), lambda: (randn(3, 4), randn(4, 3).T)),
    nn.SoftMarginLoss: ((), lambda: (randn(3, 4), signs(4, 3).T)),
    nn.CTCLoss: (
        (),
        lambda: (randn(6, 1, 4).log_softmax(-1), torch.tensor([[1, 2]]), torch.tensor([6]), torch.tensor([2])),
    ),
    nn.CosineEmbeddingLoss: ((), lambda: (randn(3, 4), randn(4, 3).T, torch.ones(3))),
    nn.GaussianNLLLoss: ((), lambda: (randn(3, 4), randn(4, 3).T, probabilities(3, 4))),
    nn.MarginRankingLoss: ((), lambda: (randn(3), randn(3) + 0.1, torch.ones(3))),
    nn.TripletMarginLoss: ((), lambda: (randn(3, 4), randn(4, 3).T, randn(3, 4) + 1)),
    nn.TripletMarginWithDistanceLoss: ((), lambda: (randn(3, 4), randn(4, 3).T, randn(3, 4) + 1)),
}
for dims in (1, 2, 3):
    for cls in ("Conv", "ConvTranspose"):
        CASES[getattr(nn, f"{cls}{dims}d")] = ((4, 3, 3), lambda dims=dims: spatial(dims))
        CASES[getattr(nn, f"Lazy{cls}{dims}d")] = ((3, 3), lambda dims=dims: spatial(dims))
    for cls in ("BatchNorm", "InstanceNorm"):
        CASES[getattr(nn, f"{cls}{dims}d")] = ((4,), lambda dims=dims: spatial(dims))
        CASES[getattr(nn, f"Lazy{cls}{dims}d")] = ((), lambda dims=dims: spatial(dims))
    for cls, argument in (("AvgPool", 2), ("MaxPool", 2), ("AdaptiveAvgPool", 2), ("AdaptiveMaxPool", 2)):
        CASES[getattr(nn, f"{cls}{dims}d")] = ((argument,), lambda dims=dims: spatial(dims))
    CASES[getattr(nn, f"MaxUnpool{dims}d")] = ((2,), lambda dims=dims: pooled(dims))
    CASES[getattr(nn, f"Dropout{dims}d")] = ((), lambda dims=dims: spatial(dims))
    for cls in ("Circular", "Constant", "Reflection", "Replication", "Zero"):
        arguments = (1, 0.5) if cls == "Constant" else (1,)
        CASES[getattr(nn, f"{cls}Pad{dims}d")] = (arguments, lambda dims=dims: spatial(dims))
if hasattr(nn, "LinearCrossEntropyLoss"):
    CASES[nn.LinearCrossEntropyLoss] = ((4, 3), lambda: (randn(2, 4), torch.tensor([0, 2])))

SPECS = [spec for spec in TORCH_MODULES if spec.module_class is not InputProjection]  # made inside attention only


def make(spec: ModuleSpec) -> tuple[nn.Module, tuple[Any, ...]]:
    arguments, inputs = CASES.get(spec.module_class, ((), lambda: (randn(3, 4),)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # NLLLoss2d is deprecated
        module = spec.module_class(*arguments)
    fill(module)
    # A SyncBatchNorm in training needs a process group; random pooling and dropout are left out of the comparison.
    return module.eval(), inputs()


@torch.no_grad()
def fill(module: nn.Module) -> None:
    for parameter in module.parameters():
        if not isinstance(parameter, nn.parameter.UninitializedParameter):
            parameter.copy_(torch.rand(parameter.shape, generator=torch.Generator().manual_seed(1)) - 0.4)


def by_class(spec: ModuleSpec) -> str:
    return spec.module_class.__name__


def run(module: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor]:
    torch.manual_seed(0)
    return [leaf.detach() for leaf in pytree.tree_leaves(module(*inputs)) if isinstance(leaf, Tensor)]


def torch_module_classes() -> list[type[nn.Module]]:
    """All module classes that torch.nn shows to its users."""
    values = (getattr(nn, name) for name in dir(nn) if not name.startswith("_"))
    return [value for value in values if inspect.isclass(value) and issubclass(value, nn.Module)]


@pytest.mark.parametrize("mixin", [QuantizationMixin, FakeQuantizationMixin])
def test_every_computing_module_of_torch_has_a_quantized_class(mixin: Any) -> None:
    forgotten = [
        cls.__name__ for cls in torch_module_classes() if cls not in COMPOSITES and cls not in mixin.cls_to_qcls
    ]
    assert not forgotten, f"give these a row in quantsim.nn.table, or a reason in COMPOSITES: {forgotten}"


def test_composites_are_reasoned_and_have_no_row() -> None:
    rows = {spec.module_class for spec in TORCH_MODULES}
    for cls, reason in COMPOSITES.items():
        assert reason
        assert cls not in rows


def test_composites_that_compute_hold_only_modules_that_are_quantized() -> None:
    made = (
        nn.Transformer(4, 1, 1, 1, 4),
        nn.AdaptiveLogSoftmaxWithLoss(4, 10, [2, 5]),
        nn.Sequential(nn.Linear(2, 2)),
    )
    for module in made:
        for child in module.modules():
            assert type(child) in COMPOSITES or type(child) in QuantizationMixin.cls_to_qcls, type(child)


def test_rows_are_unique() -> None:
    classes = [spec.module_class for spec in TORCH_MODULES]
    assert len(set(classes)) == len(classes)


@pytest.mark.parametrize("spec", SPECS, ids=by_class)
def test_parameters_and_attributes_of_the_row_exist(spec: ModuleSpec) -> None:
    module, _ = make(spec)
    for name in (*spec.parameters, *spec.attributes):
        assert hasattr(module, name), name


@pytest.mark.parametrize("spec", SPECS, ids=by_class)
@pytest.mark.parametrize("mixin", [QuantizationMixin, FakeQuantizationMixin])
def test_without_quantizers_equals_torch(spec: ModuleSpec, mixin: Any) -> None:
    module, inputs = make(spec)
    expected = run(module, inputs)  # a lazy module's weights are made in its first forward
    quantized = mixin.from_module(module).eval()
    got = run(quantized, inputs)
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        if spec.module_class is nn.MultiheadAttention:  # another order of the same operations
            torch.testing.assert_close(one, other)
        else:
            assert torch.equal(one, other)


@pytest.mark.parametrize("spec", SPECS, ids=by_class)
def test_every_quantizer_is_used(spec: ModuleSpec) -> None:
    """Each input, parameter and output quantizer of the row changes the result when it is made very coarse."""
    module, inputs = make(spec)
    if spec.becomes is not None:
        module(*inputs)
        fill(module)
    quantized = QuantizationMixin.from_module(module).eval()
    expected = run(quantized, inputs)
    places = [
        *((quantized.input_quantizers._modules, str(slot)) for slot in range(spec.input_count)),
        *((quantized.param_quantizers._modules, name) for name in quantized.param_quantizers),
        *((quantized.output_quantizers._modules, str(slot)) for slot in range(spec.outputs)),
    ]
    for container, key in places:
        if spec.module_class in (nn.HingeEmbeddingLoss, nn.SoftMarginLoss, nn.MultiLabelMarginLoss) and key == "1":
            continue  # targets are signs or indices: on the coarse grid too
        if key == "1" and inputs[1:] and not isinstance(inputs[1], tuple) and not inputs[1].is_floating_point():
            continue
        if spec.module_class in (nn.CosineEmbeddingLoss, nn.MarginRankingLoss) and key == "2":
            continue
        coarse = affine.QuantizeDequantize((), 2, True)
        coarse.set_range(-0.9, 0.9)
        container[key] = coarse
        got = run(quantized, inputs)
        container[key] = None
        assert any(not torch.equal(one, other) for one, other in zip(got, expected, strict=True)), key
    assert all(torch.equal(one, other) for one, other in zip(run(quantized, inputs), expected, strict=True))


@pytest.mark.parametrize("spec", SPECS, ids=by_class)
def test_fresh_outputs_share_no_memory_with_inputs_or_parameters(spec: ModuleSpec) -> None:
    if not spec.fresh_output:
        pytest.skip("the row does not say so")
    module, inputs = make(spec)
    with torch.no_grad():
        for training in (False, True):
            if training and spec.module_class is nn.SyncBatchNorm:
                continue
            module.train(training)
            outputs = pytree.tree_leaves(module(*inputs))
            held = {
                leaf.untyped_storage().data_ptr() for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)
            }
            held |= {value.untyped_storage().data_ptr() for value in (*module.parameters(), *module.buffers())}
            assert not held & {output.untyped_storage().data_ptr() for output in outputs}


@pytest.mark.parametrize("spec", SPECS, ids=by_class)
def test_quantized_modules_pickle_and_copy(spec: ModuleSpec) -> None:
    module, inputs = make(spec)
    quantized = QuantizationMixin.from_module(module).eval()
    expected = run(quantized, inputs)
    for other in (copy.deepcopy(quantized), pickle.loads(pickle.dumps(quantized))):
        assert type(other) is type(quantized)
        got = run(other, inputs)
        assert all(torch.equal(one, two) for one, two in zip(got, expected, strict=True))
    assert {spec.module_class, spec.becomes} >= {type(quantized.get_original_module())}


@pytest.mark.parametrize("spec", SPECS, ids=by_class)
def test_constructor_is_torchs(spec: ModuleSpec) -> None:
    quantized_class = getattr(quantsim.nn, f"Quantized{spec.module_class.__name__}")
    assert quantized_class.__module__ == "quantsim.nn"
    arguments, _ = CASES.get(spec.module_class, ((), None))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        quantized = quantized_class(*arguments)
    assert isinstance(quantized, (QuantizationMixin, spec.module_class))
    assert len(quantized.input_quantizers) == spec.input_count
    assert len(quantized.output_quantizers) == spec.outputs


def test_lazy_modules_become_quantized_modules() -> None:
    for spec in SPECS:
        if spec.becomes is None:
            continue
        module, inputs = make(spec)
        lazy = QuantizationMixin.from_module(module)
        assert type(lazy) is QuantizationMixin.cls_to_qcls[spec.module_class]
        weight = "weight" in lazy.param_quantizers
        if weight:
            lazy.param_quantizers["weight"] = affine.QuantizeDequantize((), 2, True)
        lazy(*inputs)
        assert type(lazy) is QuantizationMixin.cls_to_qcls[spec.becomes]
        assert not weight or lazy.param_quantizers["weight"].is_initialized()
