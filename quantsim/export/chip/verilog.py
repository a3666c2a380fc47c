"""A Verilog test bench for one fully connected layer of a chip folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Final

from quantsim.dualpath.integer_graph import IntegerOp
from quantsim.errors import ConfigurationError
from quantsim.export.chip.folder import ChipFolder
from quantsim.export.chip.manifest import ChipMemory, ChipNode
from quantsim.export.chip.memory_files import MemoryFormat
from quantsim.export.chip.memory_layout import FirstCode, TileOrder

__all__ = ["TEMPLATE", "fully_connected_test_bench"]

TEMPLATE: Final = "fully_connected.v"

_WIDEST: Final = 32


def fully_connected_test_bench(chip: ChipFolder, node: str | None = None) -> str:
    """Verilog that computes one fully connected layer from its memories and compares it with its test vector.

    Run it inside the folder, where it finds the ``.hex`` files: ``iverilog -g2005-sv -o layer layer.v``, then ``vvp
    layer``. It prints ``PASS`` or the first integers that differ.

    Args:
        chip: The folder, exported with ``.hex`` files.
        node: Name of the layer; the first fully connected one by default.

    Raises:
        ConfigurationError: There is no such layer, or it is wider than the bench.
    """
    described = _layer(chip, node)
    values = {value.name: value for value in chip.manifest.values}
    source, result = values[described.inputs[0]], values[described.output]
    constants = {key: constant.memory for key, constant in described.constants.items()}
    weight, bias, multiplier = constants["weight"], constants["bias"], constants.get("multiplier")
    attributes = described.attributes
    numbers: dict[str, Any] = {
        "VECTORS": source.memory.layout.outputs,
        "INPUTS": weight.layout.inputs,
        "OUTPUTS": weight.layout.outputs,
        "TILE_ROWS": weight.layout.rows,
        "COLUMNS": weight.layout.columns,
        "OUTPUTS_FIRST": int(weight.layout.order is TileOrder.OUTPUTS_FIRST),
        "FIRST_CODE_HIGH": int(weight.layout.first_code is FirstCode.HIGH),
        "WEIGHT_BITS": weight.layout.bits,
        "INPUT_BITS": source.memory.layout.bits,
        "INPUT_SIGNED": int(source.memory.layout.signed),
        "OUTPUT_BITS": result.memory.layout.bits,
        "OUTPUT_SIGNED": int(result.memory.layout.signed),
        "BIAS_BITS": bias.layout.bits,
        "REQUANTIZES": int(multiplier is not None),
        "PER_OUTPUT": int(multiplier is not None and multiplier.layout.outputs > 1),
        "MULTIPLIER_BITS": multiplier.layout.bits if multiplier is not None else _WIDEST,
        "SHIFT_BITS": constants["shift"].layout.bits if "shift" in constants else _WIDEST,
        "ZERO_POINT": attributes.get("zero_point", 0),
        "LOW": attributes.get("low", 0),
        "HIGH": attributes.get("high", 0),
    }
    memories = {"WEIGHT": weight, "BIAS": bias, "INPUT": source.memory, "OUTPUT": result.memory}
    if multiplier is not None:
        memories |= {"MULTIPLIER": multiplier, "SHIFT": constants["shift"]}
    _require_fitting(described, memories)
    text = files(__package__ or "").joinpath(TEMPLATE).read_text(encoding="utf-8")
    for name, number in numbers.items():
        text = _filled(text, rf"(localparam integer {name} = )[^;]+;", f"{number};")
    for name, memory in memories.items():
        text = _filled(text, rf'(`define {name}_FILE )"[^"]*"', f'"{_hex_file(chip, memory)}"')
    return text


def _layer(chip: ChipFolder, name: str | None) -> ChipNode:
    layers = [node for node in chip.manifest.nodes if node.op is IntegerOp.LINEAR]
    for node in layers:
        if name is None or node.name == name:
            return node
    raise ConfigurationError(
        "no such fully connected layer",
        where=str(chip.path),
        got="none" if name is None else f"'{name}'",
        expected=", ".join(node.name for node in layers[:20]) or "a folder with one",
    )


def _require_fitting(node: ChipNode, memories: Mapping[str, ChipMemory]) -> None:
    widest = max(memory.layout.bits for memory in memories.values())
    columns = {memories[name].layout.columns for name in ("WEIGHT", "INPUT", "OUTPUT")}
    if widest > _WIDEST or len(columns) > 1:
        raise ConfigurationError(
            "the bench is not made for such a layer",
            where=f"node '{node.name}'",
            got=f"codes of {widest} bits, words of {' and '.join(map(str, sorted(columns)))} codes",
            expected=f"at most {_WIDEST} bits, and inputs of at least two dimensions, whose words are the weights'",
        )


def _hex_file(chip: ChipFolder, memory: ChipMemory) -> str:
    if MemoryFormat.HEX not in memory.files:
        raise ConfigurationError(
            "the folder has no .hex files",
            where=str(chip.path),
            got=", ".join(memory.files) or "no memory files",
            expected="those that $readmemh reads",
            fix='export with formats=("hex",)',
        )
    return memory.files[MemoryFormat.HEX]


def _filled(text: str, pattern: str, value: str) -> str:
    filled, count = re.subn(pattern, lambda found: found[1] + value, text)
    assert count == 1, pattern
    return filled
