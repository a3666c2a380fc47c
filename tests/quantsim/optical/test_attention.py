"""The module that holds the state of optical attention."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from quantsim.errors import ConfigurationError, NotCalibratedError
from quantsim.nn import compute_encodings
from quantsim.optical.attention import OpticalAttentionCore, ScaledDotProductAttention
from quantsim.quantization import affine
from quantsim_encodings.encoding import OpticalEncoding


def tensors(factor: float = 1.0) -> list[Tensor]:
    torch.manual_seed(7)
    return [factor * torch.randn(2, 4, 6, 8), *(factor * torch.randn(2, 2, 2, 6, 8))]


def run(core: OpticalAttentionCore, given: list[Tensor] | None = None, **more: Any) -> Tensor:
    return core(*(given or tensors()), enable_gqa=True, **more)[0]


def plain_attention() -> Tensor:
    query, key, value = tensors()
    return F.scaled_dot_product_attention(query, key, value, enable_gqa=True)


def calibrated(**q: Any) -> OpticalAttentionCore:
    core = OpticalAttentionCore(**q)
    with core.compute_encodings():
        run(core)
    return core.eval()


def test_training_moves_the_ranges_and_evaluation_freezes_them() -> None:
    core = OpticalAttentionCore(noise="none")
    run(core)
    query = tensors()[0]
    assert torch.equal(core.ranges["query"], torch.stack(torch.aminmax(query)))
    assert core.ranges["attn"].tolist() == [0.0, 1.0]
    first = {name: values.clone() for name, values in core.ranges.items()}
    run(core, tensors(3.0))
    torch.testing.assert_close(core.ranges["query"], (0.9 + 0.1 * 3.0) * first["query"])
    grown = core.ranges["qk"] / first["qk"]  # of operands that the slower ranges still clip
    assert float(grown.min()) > 1.0 and float(grown.max()) < 0.9 + 0.1 * 9.0
    core.eval()
    frozen = {name: values.clone() for name, values in core.ranges.items()}
    run(core, tensors(10.0))
    assert all(torch.equal(frozen[name], values) for name, values in core.ranges.items())
    assert core.ranges["attn"].tolist() == [0.0, 1.0]


def test_calibration_without_training_and_without_it_an_error_that_names_the_module() -> None:
    core = OpticalAttentionCore()
    core.module_path = "layers.3.attention"
    with pytest.raises(NotCalibratedError, match=r"layers\.3\.attention\.input_quantizers\[0\]"):
        run(core.eval())
    with compute_encodings(core) as report:
        run(core)
    assert len(report.calibrated) == 5
    assert all(values.isfinite().all() for values in core.ranges.values())
    assert (run(core) - plain_attention()).abs().mean() < 0.02


@pytest.mark.parametrize("q", [{}, {"attn_range": "row"}, {"noise": "none", "q_levels": 1024, "q_lut_min": None}])
def test_error_against_plain_attention_is_small(q: dict[str, Any]) -> None:
    core = calibrated(**q)
    plain = plain_attention()
    error = (run(core) - plain).square().mean() / plain.square().mean()
    assert float(error) < 1e-3


def test_noise_differs_from_call_to_call_and_comes_back_with_the_state() -> None:
    core = calibrated()
    state = copy.deepcopy(core.state_dict())
    first, second = run(core), run(core)
    assert not torch.equal(first, second)
    other = OpticalAttentionCore(q_init_seed=99).eval()
    other.load_state_dict(state)
    assert torch.equal(run(other), first) and torch.equal(run(other), second)


def test_copies_and_pickles_compute_the_same() -> None:
    core = calibrated()
    for other in (copy.deepcopy(core), pickle.loads(pickle.dumps(core))):
        twin = copy.deepcopy(core)
        assert torch.equal(run(other), run(twin))


def test_other_quantizers_are_applied_one_by_one() -> None:
    core = calibrated(noise="none", q_levels=2**16, q_lut_min=None)
    fused = run(core)
    core.input_quantizers[2] = None  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(run(core), fused, atol=1e-3, rtol=1e-3)
    core.input_quantizers[2] = affine.QuantizeDequantize((), 2, True)
    with core.compute_encodings():
        run(core)
    assert (run(core) - fused).abs().max() > 0.05


def test_encodings_hold_ranges_and_settings() -> None:
    core = calibrated(q_levels=64)
    encoding = core.input_quantizers[1].get_encodings()  # pyright: ignore[reportCallIssue]
    assert isinstance(encoding, OpticalEncoding)
    assert encoding.format.levels == 64 and encoding.format.lut == pytest.approx(0.02004)


def test_bypass_moves_nothing_and_is_plain() -> None:
    core = OpticalAttentionCore(q_bypass=True)
    plain, _ = ScaledDotProductAttention()(*tensors(), enable_gqa=True)
    assert torch.equal(run(core), plain)
    assert core.ranges["query"].isnan().all()
    assert type(core.get_original_module()) is ScaledDotProductAttention


def test_decoding_with_a_cache_equals_the_whole_sequence() -> None:
    core = calibrated(noise="none", q_levels=1024)
    query, key, value = tensors()
    whole = run(core, is_causal=True)
    for length in range(1, 7):
        step = run(core, [query[:, :, length - 1 : length], key[:, :, :length], value[:, :, :length]], is_causal=True)
        torch.testing.assert_close(step, whole[:, :, length - 1 : length], atol=0.01, rtol=0.0)


def test_works_on_meta_and_refuses_unknown_settings() -> None:
    with torch.device("meta"):
        core = OpticalAttentionCore()
    assert core.to("meta").ranges["query"].is_meta
    with pytest.raises(ConfigurationError, match="q_level"):
        OpticalAttentionCore(q_level=3)


def test_compiles_as_one_graph() -> None:
    core = calibrated(noise="none")
    compiled = torch.compile(core, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*tensors(), enable_gqa=True)[0], run(core), atol=1e-4, rtol=1e-4)


def test_imports_without_transformers() -> None:
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "import quantsim.optical.attention as attention\n"
        "attention.OpticalAttentionCore()\n"
        "try:\n    attention.OtLlamaAttention\nexcept ImportError:\n    print('lazy')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("lazy"), done.stderr
