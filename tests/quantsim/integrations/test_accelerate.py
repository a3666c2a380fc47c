from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantsim.errors import ConfigurationError
from quantsim.integrations.accelerate import loaded_block, offload_simulation, unload_hooks
from quantsim.sim import QuantizationSimModel

pytest.importorskip("accelerate")

LAYERS = 3


@pytest.fixture
def batches() -> list[Tensor]:
    return list(torch.randn(4, 6, 5, 8, generator=torch.Generator().manual_seed(0)))


def simulation(config: str = "w8a8") -> QuantizationSimModel:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False).eval()
    return QuantizationSimModel(model, torch.randn(1, 5, 8), config=config)


def where(model: nn.Module, *, ranges: bool) -> set[str]:
    return {value.device.type for name, value in model.named_parameters() if ("quantizers" in name) is ranges}


def ranges(sim: QuantizationSimModel) -> dict[str, Tensor]:
    return {name: value for name, value in sim.model.state_dict().items() if name.endswith(("min", "max", "maxval"))}


@pytest.mark.parametrize("config", ["w8a8", "w4a16_g32", "fp8_e4m3"])
@pytest.mark.parametrize("on_disk", [False, True])
def test_offloaded_calibration_equals_plain(config: str, on_disk: bool, batches: list[Tensor], tmp_path: Path) -> None:
    plain, offloaded = simulation(config), simulation(config)
    plain.compute_encodings(batches)
    offload_simulation(offloaded, "cpu", folder=tmp_path if on_disk else None)
    assert where(offloaded.model, ranges=False) == {"meta"}
    assert where(offloaded.model, ranges=True) <= {"cpu"}
    offloaded.compute_encodings(batches, sequential=True)
    assert where(offloaded.model, ranges=False) == {"meta"}
    with torch.no_grad():
        expected, got = plain(batches[0]), offloaded(batches[0])
    assert torch.equal(expected, got)
    for name, value in ranges(plain).items():
        assert torch.equal(value, ranges(offloaded)[name]), name
    model = unload_hooks(offloaded)
    assert where(model, ranges=False) == {"cpu"}
    assert not any(hasattr(module, "_hf_hook") for module in model.modules())
    with torch.no_grad():
        assert torch.equal(model(batches[0]), expected)


def test_one_block_is_loaded_at_a_time_and_once_for_all_batches(
    batches: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate.hooks import AlignDevicesHook

    sim = simulation()
    offload_simulation(sim, "cpu")
    layers: Any = sim.model.layers
    loads, resident = [], []
    original = AlignDevicesHook.pre_forward

    def counted(hook: Any, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        result = original(hook, module, *args, **kwargs)
        if hook.offload:
            loads.append(module)
            resident.append(sum("cpu" in where(layer, ranges=False) for layer in layers))
        return result

    monkeypatch.setattr(AlignDevicesHook, "pre_forward", counted)
    sim.compute_encodings(batches, sequential=True)
    assert max(resident) == 1
    assert len(loads) == len(set(loads)) > 10
    loads.clear()
    sim.compute_encodings(batches)  # plain: each module for each batch
    assert len(loads) >= len(batches) * len(set(loads))


def test_a_failed_turn_leaves_the_block_offloaded(batches: list[Tensor]) -> None:
    sim = simulation()
    offload_simulation(sim, "cpu")
    layers: Any = sim.model.layers
    with pytest.raises(KeyError), loaded_block(layers[0]):
        assert where(layers[0], ranges=False) == {"cpu"}
        raise KeyError
    assert where(sim.model, ranges=False) == {"meta"}
    sim.compute_encodings(batches, sequential=True)


def test_offloading_twice_is_an_error() -> None:
    sim = simulation()
    offload_simulation(sim, "cpu")
    with pytest.raises(ConfigurationError, match="unload_hooks"):
        offload_simulation(sim, "cpu")
    unload_hooks(sim)
    offload_simulation(sim.model, "cpu")


@pytest.mark.parametrize("offload", [False, True])
def test_a_model_that_has_hooks_already_is_refused(offload: bool) -> None:
    """The hooks' forward is that of the float modules: quantizers would silently be left out."""
    from accelerate.hooks import attach_align_device_hook

    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    attach_align_device_hook(model, torch.device("cpu"), offload=offload)
    with pytest.raises(ConfigurationError, match="remove_hook_from_module"):
        QuantizationSimModel(model, torch.zeros(1, 4), in_place=True)
    assert type(model[0]) is nn.Linear
