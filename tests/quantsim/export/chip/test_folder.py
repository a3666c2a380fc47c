from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from quantsim.dualpath.integer_graph import IntegerGraph
from quantsim.errors import ConfigurationError
from quantsim.export.chip import ChipFolder, ChipManifest, Replay, load_chip
from quantsim.export.chip.manifest import ChipFile, digest_of_file


def test_every_file_with_a_byte_changed_is_refused_by_name(chip: ChipFolder) -> None:
    names = [*chip.manifest.files, "manifest.json"]
    assert len(names) == len([path for path in chip.path.rglob("*") if path.is_file()])
    generator = np.random.default_rng(0)
    for name in names:
        path = chip.path / name
        good = path.read_bytes()
        for place in {0, len(good) - 1, int(generator.integers(len(good)))}:
            changed = bytearray(good)
            changed[place] ^= 1 << int(generator.integers(8))
            path.write_bytes(changed)
            with pytest.raises(ConfigurationError) as raised:
                load_chip(chip.path)
            assert name in str(raised.value)
        path.write_bytes(good)
    assert load_chip(chip.path).verify().is_exact


@pytest.mark.parametrize("executor", ["numpy", "torch"])
def test_vectors_are_reproduced(chip: ChipFolder, executor: str) -> None:
    replay = load_chip(chip.path).verify(executor)
    assert replay == Replay(executor, nodes=5, integers=1338, memories=57)
    assert "exact: executor" in str(replay)


def test_it_computes_other_inputs(chip: ChipFolder) -> None:
    image = np.random.default_rng(1).integers(0, 256, (7, 4, 6, 6)).astype(np.uint8)
    result = chip({"image": image})
    assert {name: array.shape for name, array in result.items()} == {"relu": (7, 4, 6, 6), "logits": (7, 10)}
    np.testing.assert_array_equal(chip([image], executor="torch")["logits"], result["logits"])


def test_the_node_that_differs_is_named_alone(chip: ChipFolder) -> None:
    graph = chip.graph
    sum_node = graph.nodes[2]
    wrong = replace(sum_node, attributes={**sum_node.attributes, "zero_point": 40})
    other = replace(chip, graph=IntegerGraph((*graph.nodes[:2], wrong, *graph.nodes[3:]), graph.values, ("image",), ()))
    replay = other.verify()
    assert not replay.is_exact
    [difference] = replay.differences
    assert (difference.node, difference.op, difference.value, difference.largest) == ("block.add", "add", "sum", 40)
    assert "node 'block.add' (add): 432 integers differ, by up to 40" in str(replay)


def forge(chip: ChipFolder, name: str, data: bytes) -> ChipFolder:
    """Changes a file and its digest."""
    path = chip.path / name
    path.write_bytes(data)
    file = ChipFile(sha256=digest_of_file(path), bytes=len(data))
    chip.manifest.model_copy(update={"files": {**chip.manifest.files, name: file}}).write(chip.path)
    return load_chip(chip.path)


def test_a_memory_with_other_integers_is_noticed_though_its_digest_fits(chip: ChipFolder) -> None:
    name = "mem/0004_head.bias.hex"
    data = (chip.path / name).read_bytes()
    with pytest.raises(ConfigurationError, match=rf"{name}: the memory holds other integers .* got 1 of 10"):
        forge(chip, name, b"7" + data[1:]).verify()
    with pytest.raises(ConfigurationError, match=rf"{name} .*lines of different lengths"):
        forge(chip, name, data.replace(b"\n", b" ")).verify()


def test_vectors_that_are_not_the_manifests(chip: ChipFolder) -> None:
    path = chip.path / "vectors.safetensors"
    vectors = dict(chip.vectors)
    vectors["logits"] = vectors["logits"].astype(np.int16)
    save_file(vectors, path)
    with pytest.raises(ConfigurationError, match=r"value 'logits': .* got int16 of shape \(3, 10\)"):
        forge(chip, path.name, path.read_bytes()).verify()
    with pytest.raises(ConfigurationError, match=r"vectors\.safetensors: the tensors cannot be read"):
        forge(chip, path.name, b"nothing").verify()


def test_nodes_by_name(chip: ChipFolder) -> None:
    assert chip.node("head") is chip.graph.nodes[-1]
    with pytest.raises(ConfigurationError, match=r"got node 'tail'; expected one of block\.conv, "):
        chip.node("tail")


def test_what_is_there_in_words(chip: ChipFolder) -> None:
    assert "5 integer nodes, 6 test vectors, 60 files" in str(chip)


def test_a_folder_without_manifest_is_not_finished(chip: ChipFolder, tmp_path: Path) -> None:
    (chip.path / "manifest.json").unlink()
    with pytest.raises(ConfigurationError, match="no finished export"):
        load_chip(chip.path)
    assert isinstance(chip.manifest, ChipManifest)
