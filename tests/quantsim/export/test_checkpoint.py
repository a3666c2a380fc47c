"""What a folder gives back computes the same bits, and a folder is never half written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from quantsim.errors import ConfigurationError, ShapeError
from quantsim.export import checkpoint, load_simulation, save_pretrained
from quantsim.quantization import affine
from quantsim.sim import QuantizationSimModel, preset, preset_names
from quantsim_encodings.errors import EncodingsError
from quantsim_kernels import Accumulation

IDS = torch.arange(21).reshape(3, 7)


class Network(nn.Module):
    """Tied weights, packed attention, functional operations, a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 64)
        self.query = nn.Linear(64, 64)
        self.attention = nn.MultiheadAttention(64, 4, batch_first=True)
        self.norm = nn.BatchNorm1d(64)
        self.head = nn.Linear(64, 50, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids)
        y = (self.query(x) @ x.transpose(1, 2)).softmax(-1) @ x
        y = torch.cat([y, x], dim=1).mean(1, keepdim=True) + x
        y = y + self.attention(y, y, y)[0]
        return self.head(self.norm(y.transpose(1, 2)).transpose(1, 2))


def network(seed: int) -> Network:
    torch.manual_seed(seed)
    return Network().eval()


def simulated(config: object = "w8a8", seed: int = 1) -> QuantizationSimModel:
    sim = QuantizationSimModel(network(seed), IDS, config=config)
    if sim.config.needs_data:
        sim.compute_encodings([IDS])
    return sim


@pytest.mark.parametrize("fold_weights", [False, True])
@pytest.mark.parametrize("name", preset_names())
@pytest.mark.filterwarnings("ignore:saved as they are")
def test_every_preset_comes_back_bit_equal(tmp_path: Path, name: str, fold_weights: bool) -> None:
    sim = simulated(name)
    sim.save_pretrained(tmp_path / "saved", fold_weights=fold_weights)
    again = QuantizationSimModel.from_pretrained(tmp_path / "saved", lambda: network(2))
    assert torch.equal(again(IDS), sim(IDS))
    assert torch.equal(again(IDS[:1, :4]), sim(IDS[:1, :4]))
    assert again.config == sim.config == preset(name)
    assert str(again.summary()) == str(sim.summary())
    assert again.uncalibrated() == ()


def test_files_hold_the_float_models_names_and_one_copy_of_tied_weights(tmp_path: Path) -> None:
    sim = simulated()
    save_pretrained(sim, tmp_path / "saved")
    assert sorted(os.listdir(tmp_path / "saved")) == ["encodings.json", "model.safetensors", "quantsim.json"]
    with safe_open(tmp_path / "saved" / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert names == set(network(1).state_dict()) - {"head.weight"}
    assert (tmp_path / "saved").stat().st_mode & 0o700 == 0o700
    assert os.listdir(tmp_path) == ["saved"]


def test_folded_weights_are_on_the_grid_where_that_is_safe(tmp_path: Path) -> None:
    sim = simulated("w4a8")
    with pytest.warns(UserWarning, match=r"saved as they are.*head\.weight"):
        sim.save_pretrained(tmp_path, fold_weights=True)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        weight = file.get_tensor("query.weight")
        tied = file.get_tensor("embedding.weight")
    assert max(len(block.unique()) for block in weight.reshape(-1, 32)) <= 16
    assert torch.equal(weight, sim.module("query").param_quantizers["weight"](sim.model.query.weight))
    assert torch.equal(tied, sim.model.embedding.weight)


def test_a_quantizer_that_rounds_its_own_results_again_is_not_folded(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(32, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.linspace(-1.999, 1.0, 32))
    sim = QuantizationSimModel(model, torch.zeros(1, 32), config="mxint8")
    with pytest.warns(UserWarning, match=r"rounding twice.*0\.weight"):
        sim.save_pretrained(tmp_path, fold_weights=True)
    again = load_simulation(tmp_path, model)
    assert torch.equal(again(torch.ones(1, 32)), sim(torch.ones(1, 32)))


def test_a_folded_simulation_is_saved_with_its_quantizers_and_stays_folded(tmp_path: Path) -> None:
    sim = simulated()
    expected = sim(IDS)
    module = sim.module("query")
    module.fold_param_quantizers()
    sim.save_pretrained(tmp_path)
    assert module.param_quantizers["weight"] is None
    assert torch.equal(sim(IDS), expected)
    again = load_simulation(tmp_path, network(2))
    assert again.module("query").param_quantizers["weight"] is not None
    assert torch.equal(again(IDS), expected)


def test_quantizers_set_and_taken_away_by_hand_come_back_so(tmp_path: Path) -> None:
    sim = simulated()
    sim.module("query").input_quantizers[0] = None
    extra = affine.QuantizeDequantize((), 3, False)
    extra.set_range(-1.0, 1.0)
    extra.freeze()
    sim.module("norm").output_quantizers[0] = extra
    sim.save_pretrained(tmp_path)
    again = load_simulation(tmp_path, network(2))
    assert [place for place, _ in again.quantizers()] == [place for place, _ in sim.quantizers()]
    assert again.module("norm").output_quantizers[0].is_frozen
    assert torch.equal(again(IDS), sim(IDS))


def test_rules_exclusions_and_recalibration_survive(tmp_path: Path) -> None:
    config = preset("w8a8").model_dump() | {
        "name": "mine",
        "exclude": [{"name": "attention"}],
        "rules": [{"match": "query", "weights": None}],
    }
    config["activations"]["analyzer"] = {"kind": "percentile", "percentile": 99.0}
    sim = simulated(config)
    sim.save_pretrained(tmp_path)
    again = load_simulation(tmp_path, network(2))
    assert again.coverage == sim.coverage
    other = IDS.flip(0) + 3
    for each in (sim, again):
        each.compute_encodings([other])
    assert torch.equal(again(IDS), sim(IDS))


def test_without_example_inputs_and_a_lone_layer(tmp_path: Path) -> None:
    sim = QuantizationSimModel(nn.Linear(8, 4), None, config="w8a8")
    sim.compute_encodings([torch.randn(4, 8, generator=torch.Generator().manual_seed(0))])
    sim.save_pretrained(tmp_path)
    again = load_simulation(tmp_path, nn.Linear(8, 4))
    assert torch.equal(again(torch.ones(1, 8)), sim(torch.ones(1, 8)))


def test_a_model_on_meta_is_filled(tmp_path: Path) -> None:
    sim = simulated()
    sim.save_pretrained(tmp_path)
    with torch.device("meta"):
        empty = Network()
    again = load_simulation(tmp_path, empty, in_place=True)
    assert torch.equal(again(IDS), sim(IDS))
    assert again.model is empty
    assert empty.head.weight is empty.embedding.weight


def test_the_model_given_stays_as_it_is_unless_in_place(tmp_path: Path) -> None:
    simulated().save_pretrained(tmp_path)
    model = network(2)
    before = {name: values.clone() for name, values in model.state_dict().items()}
    load_simulation(tmp_path, model)
    assert type(model.query) is nn.Linear
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())


def test_bfloat16_comes_back_and_another_type_is_refused(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(8, 4)).to(torch.bfloat16)
    x = torch.ones(1, 8, dtype=torch.bfloat16)
    sim = QuantizationSimModel(model, x, config="w8a8")
    sim.compute_encodings([x])
    sim.save_pretrained(tmp_path)
    again = load_simulation(tmp_path, nn.Sequential(nn.Linear(8, 4)).to(torch.bfloat16))
    assert torch.equal(again(x), sim(x))
    with pytest.raises(ConfigurationError, match="other names, shapes or types"):
        load_simulation(tmp_path, nn.Sequential(nn.Linear(8, 4)))


def test_views_of_one_storage_are_saved_as_values(tmp_path: Path) -> None:
    values = torch.arange(12.0)
    model = nn.Linear(2, 3)
    model.register_buffer("left", values[:6])
    model.register_buffer("right", values[3:].view(3, 3).t())
    sim = QuantizationSimModel(model, torch.zeros(1, 2), config="w4a16_g32")
    sim.save_pretrained(tmp_path)
    again = load_simulation(tmp_path, model)
    assert torch.equal(again.model.left, values[:6])
    assert torch.equal(again.model.right, values[3:].view(3, 3).t())


def test_uncalibrated_quantizers_are_listed_and_nothing_is_written(tmp_path: Path) -> None:
    sim = QuantizationSimModel(network(1), IDS, config="w8a8")
    with pytest.raises(EncodingsError, match=r"query\.input_quantizers\[0\].*is not calibrated"):
        sim.save_pretrained(tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


def test_a_failing_write_leaves_the_old_folder_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "saved"
    sim = simulated()
    sim.save_pretrained(folder)
    (folder / "README.md").write_text("mine")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint, "write", fail)
    with pytest.raises(OSError, match="no space"):
        sim.save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert os.listdir(tmp_path) == ["saved"]
    monkeypatch.undo()
    (folder / "model-00001-of-00002.safetensors").write_text("of another save")
    simulated("w4a8").save_pretrained(folder)
    assert sorted(os.listdir(folder)) == ["README.md", "encodings.json", "model.safetensors", "quantsim.json"]
    assert load_simulation(folder, network(2)).config.name == "w4a8"


def test_what_cannot_be_saved_is_refused_or_warned_of(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="this is a file"):
        simulated().save_pretrained(tmp_path / "file")
    with pytest.raises(ConfigurationError, match="max_shard_size"):
        save_pretrained(simulated(), tmp_path / "saved", max_shard_size="1MB")
    sim = simulated()
    sim.module("query").set_accumulation(Accumulation("fp16"))
    with pytest.warns(UserWarning, match="not saved.*query"):
        sim.save_pretrained(tmp_path / "saved")


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _cut(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-100])


def _without_one_entry(folder: Path) -> None:
    document = json.loads((folder / "encodings.json").read_text())
    document["encodings"] = document["encodings"][1:]
    (folder / "encodings.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (_without("quantsim.json"), ConfigurationError, "no quantsim.json"),
        (_without("encodings.json"), ConfigurationError, "no encodings.json"),
        (_without("model.safetensors"), ConfigurationError, "weights cannot be read"),
        (_cut("model.safetensors"), ConfigurationError, "weights cannot be read"),
        (_cut("encodings.json"), EncodingsError, "encodings.json"),
        (_without_one_entry, EncodingsError, "has a quantizer but no entry"),
    ],
)
def test_damaged_folders(tmp_path: Path, damage: Callable[[Path], None], error: type, words: str) -> None:
    simulated().save_pretrained(tmp_path)
    damage(tmp_path)
    model = network(2)
    with pytest.raises(error, match=words):
        load_simulation(tmp_path, model, in_place=True)
    assert type(model.query) is nn.Linear


def test_another_model_is_refused(tmp_path: Path) -> None:
    simulated().save_pretrained(tmp_path)
    with pytest.raises(ShapeError, match=r"missing: 0\.weight"):
        load_simulation(tmp_path, nn.Sequential(nn.Linear(3, 3)))
    with pytest.raises(ConfigurationError, match="the Network that was simulated"):
        load_simulation(tmp_path)
    with pytest.raises(ConfigurationError, match="the function gives no model"):
        load_simulation(tmp_path, lambda: 3)
