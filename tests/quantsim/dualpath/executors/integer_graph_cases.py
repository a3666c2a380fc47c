"""Integer graphs of one op or a few; together they hold every op on every kind of operand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from quantsim.dualpath.integer_graph import (
    BatchMultiple,
    Dimension,
    Grid,
    IntegerGraph,
    IntegerNode,
    IntegerOp,
    Value,
)
from quantsim_kernels.fixed_point import exponential_tables, fixed_point

BATCH = BatchMultiple()
UNSIGNED = {"zero_point": 117, "low": 0, "high": 255}
SIGNED = {"zero_point": -5, "low": -128, "high": 127}
WIDE = {"zero_point": 11, "low": -32768, "high": 32767}
RATIO = {"multiplier": np.array(1_518_500_249), "shift": np.array(33)}


def coded(name: str, shape: Sequence[Dimension], dtype: str) -> Value:
    """A value whose grid is the whole type; ids and masks have none."""
    if dtype in ("bool", "int64"):
        return Value(name, tuple(shape), dtype)
    limits = np.iinfo(dtype)
    return Value(name, tuple(shape), dtype, Grid(0.1, 3, int(limits.min), int(limits.max)))


def one_node(
    op: IntegerOp,
    inputs: Sequence[tuple[Sequence[Dimension], str]],
    output: tuple[Sequence[Dimension], str],
    **parameters: Any,
) -> IntegerGraph:
    """A graph of one node; arrays among the parameters are its constants, everything else its attributes."""
    values = [coded(f"x{index}", *described) for index, described in enumerate(inputs)]
    names = tuple(value.name for value in values)
    arrays = {key: value for key, value in parameters.items() if isinstance(value, np.ndarray)}
    plain = {key: value for key, value in parameters.items() if key not in arrays}
    node = IntegerNode(f"layer.{op}", op, names, "y", constants=arrays, attributes=plain)
    result = coded("y", *output)
    return IntegerGraph((node,), {value.name: value for value in (*values, result)}, names, ("y",), batch=2)


def channel_ratios(generator: np.random.Generator, count: int, bound: int) -> dict[str, np.ndarray]:
    """Multipliers of either sign that bring sums up to ``bound`` to some hundreds, one of them 0."""
    ratios = generator.uniform(50, 400, count) / bound * generator.choice([-1, 1], count)
    ratios[0] = 0
    multiplier, shift = fixed_point(ratios)
    return {"multiplier": multiplier, "shift": shift}


def weights(generator: np.random.Generator, shape: Sequence[int], bits: int = 8) -> np.ndarray:
    """Weights of which a third is at either end."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    drawn = generator.integers(low, high + 1, shape)
    extreme = generator.integers(0, 3, shape)
    return np.where(extreme == 0, low, np.where(extreme == 1, high, drawn)).astype(np.int8)


def linear(dtype: str, inner: int, output: str, grid: Mapping[str, int], bits: int = 8) -> IntegerGraph:
    generator = np.random.default_rng(inner)
    outer = 9
    weight = weights(generator, (outer, inner), bits)
    weight[1] = -128
    bias = generator.integers(-(2**20), 2**20, outer).astype(np.int32)
    bound = int(np.abs(weight.astype(np.int64)).sum(1).max()) * 128
    ratios = channel_ratios(generator, outer, bound)
    if dtype in ("int16", "uint16"):
        ratios["shift"] = ratios["shift"] + 8
    return one_node(
        IntegerOp.LINEAR,
        [((BATCH, 3, inner), dtype)],
        ((BATCH, 3, outer), output),
        weight=weight,
        bias=bias,
        **ratios,
        **grid,
    )


def accumulator() -> IntegerGraph:
    generator = np.random.default_rng(2)
    return one_node(
        IntegerOp.LINEAR,
        [((BATCH, 40), "uint8")],
        ((BATCH, 6), "int32"),
        weight=weights(generator, (6, 40)),
        bias=generator.integers(-(2**30), 2**30, 6).astype(np.int32),
    )


def convolution(
    dtype: str, groups: int, output: str, grid: Mapping[str, int], *, spatial: int = 2, scalar: bool = False
) -> IntegerGraph:
    generator = np.random.default_rng(groups)
    channels, outer, size = 6, 12, 7
    kernel = (3, 2)[:spatial]
    weight = weights(generator, (outer, channels // groups, *kernel))
    ratios = channel_ratios(generator, outer, channels // groups * 9 * 2**13)
    if dtype in ("int16", "uint16"):
        ratios["shift"] = ratios["shift"] + 8
    if scalar:
        ratios = {"multiplier": np.array(1_200_000_000), "shift": np.array(41)}
    sizes: dict[str, Any] = {
        "stride": (2, 1)[:spatial],
        "padding": ((1, 2), (0, 1))[:spatial],
        "dilation": (1, 2)[:spatial],
    }
    lengths = [
        (size + sum(sides) - step * (kernel[axis] - 1) - 1) // stride + 1
        for axis, (stride, sides, step) in enumerate(
            zip(sizes["stride"], sizes["padding"], sizes["dilation"], strict=True)
        )
    ]
    return one_node(
        IntegerOp.CONVOLUTION,
        [((BATCH, channels, *(size,) * spatial), dtype)],
        ((BATCH, outer, *lengths), output),
        weight=weight,
        bias=generator.integers(-9999, 9999, outer).astype(np.int32),
        **ratios,
        **sizes,
        groups=groups,
        zero_point_in=100,
        **grid,
    )


def matmul(left: str, right: str, *, broadcast: bool = False) -> IntegerGraph:
    wide = 16 * (left == "int16") / 2 + 16 * (right == "int16") / 2
    return one_node(
        IntegerOp.MATMUL,
        [((BATCH, 3, 5, 64), left), ((64, 7) if broadcast else (BATCH, 3, 64, 7), right)],
        ((BATCH, 3, 5, 7), "int8"),
        multiplier=np.array(1_900_000_001),
        shift=np.array(int(42 + wide)),
        zero_point_a=100,
        zero_point_b=-3 if right != "uint8" else 200,
        **SIGNED,
    )


def add(left: str, right: str, output: str, grid: Mapping[str, int]) -> IntegerGraph:
    return one_node(
        IntegerOp.ADD,
        [((BATCH, 4, 5), left), ((4, 1), right)],
        ((BATCH, 4, 5), output),
        multiplier_a=np.array(1_700_000_000),
        multiplier_b=np.array(-123_456_789),
        shift=np.array(32),
        zero_point_a=3,
        zero_point_b=90,
        **grid,
    )


def softmax_attributes(bits: int, keys: int, *, bias: bool = False) -> dict[str, Any]:
    multiplier, shift = fixed_point(0.03 * 2048)
    tables = exponential_tables(bits)
    result = dict(tables._asdict()) | {"multiplier": multiplier, "shift": shift}
    if bias:
        result["bias"] = np.random.default_rng(5).integers(-9000, 9000, (3, 4, keys))
    return result


def softmax(*, bits: int = 16, mask: bool = False, bias: bool = False, dtype: str = "int8") -> IntegerGraph:
    keys = 11
    inputs: list[tuple[Sequence[Dimension], str]] = [((BATCH, 3, 4, keys), dtype)]
    return one_node(
        IntegerOp.SOFTMAX,
        [*inputs, *([((BATCH, 1, 1, keys), "bool")] if mask else [])],
        ((BATCH, 3, 4, keys), "uint8"),
        **softmax_attributes(bits, keys, bias=bias),
        result_multiplier=np.array(255 << 10),
        result_shift=10,
        zero_point=0,
        low=0,
        high=255,
    )


def softmax_matmul(*, bits: int = 8, mask: bool = False, bias: bool = False, values: str = "int8") -> IntegerGraph:
    keys = 11
    inputs: list[tuple[Sequence[Dimension], str]] = [((BATCH, 3, 4, keys), "int8"), ((BATCH, 3, keys, 5), values)]
    return one_node(
        IntegerOp.SOFTMAX_MATMUL,
        [*inputs, *([((BATCH, 1, 4, keys), "bool")] if mask else [])],
        ((BATCH, 3, 4, 5), "int8"),
        **softmax_attributes(bits, keys, bias=bias),
        zero_point_values=7,
        result_multiplier=np.array(987_654_321),
        result_shift=29 if values != "int16" else 37,
        **SIGNED,
    )


def normalization(op: IntegerOp, dtype: str, *, offset: bool = True, length: int = 24) -> IntegerGraph:
    generator = np.random.default_rng(8)
    mean_bits, root_bits, gain_bits = (4, 3, 8) if dtype in ("int16", "uint16") else (6, 6, 8)
    gain = np.rint(generator.normal(0, 40, length) * length**0.5 * 2 ** (root_bits + gain_bits)).astype(np.int64)
    attributes: dict[str, Any] = {"root_bits": root_bits, "gain_bits": gain_bits, "gain": gain, "epsilon": 77}
    if op == IntegerOp.LAYER_NORM:
        attributes["mean_bits"] = mean_bits
    else:
        attributes["zero_point_in"] = -4
    if offset:
        attributes["offset"] = generator.integers(-20_000, 20_000, length)
    shape = (BATCH, 3, length)
    return one_node(op, [(shape, dtype)], (shape, "int8"), **attributes, **SIGNED)


def table(dtype: str) -> IntegerGraph:
    limits = np.iinfo(dtype)
    entries = np.random.default_rng(1).integers(limits.min, limits.max + 1, 256).astype(dtype)
    return one_node(IntegerOp.TABLE, [((BATCH, 300), "int8")], ((BATCH, 300), dtype), table=entries, first=-128)


def pools() -> dict[str, IntegerGraph]:
    sizes: dict[str, Any] = {"kernel": (3, 2), "stride": (2, 1), "padding": ((1, 1), (0, 1))}
    shapes: tuple[Sequence[Dimension], Sequence[Dimension]] = (BATCH, 4, 7, 6), (BATCH, 4, 4, 6)
    widths = {"uint8": 0, "int8": -128, "int16": -32768}
    average = {
        f"average_pool {dtype}": one_node(
            IntegerOp.AVERAGE_POOL,
            [(shapes[0], dtype)],
            (shapes[1], dtype),
            **sizes,
            zero_point_in=9,
            multiplier=np.array(1_431_655_765),
            shift=np.array(33),
            zero_point=2,
            low=int(np.iinfo(dtype).min),
            high=int(np.iinfo(dtype).max),
        )
        for dtype in widths
    }
    largest = {
        f"max_pool {dtype}": one_node(
            IntegerOp.MAX_POOL,
            [(shapes[0], dtype)],
            ((BATCH, 4, 4, 5), dtype),
            **sizes,
            dilation=(1, 2),
            lowest=lowest,
        )
        for dtype, lowest in widths.items()
    }
    return average | largest


def structure(dtype: str) -> dict[str, IntegerGraph]:
    """Each op that moves integers, on one type."""
    shape: Sequence[Dimension] = (BATCH, 4, 6)
    source = [(shape, dtype)]
    graphs = {
        "reshape": one_node(IntegerOp.RESHAPE, source, ((BatchMultiple(4), 6), dtype), shape=(BatchMultiple(4), 6)),
        "reshape twice": one_node(
            IntegerOp.RESHAPE, source, ((BatchMultiple(2), 12), dtype), shape=(BatchMultiple(2), -1)
        ),
        "transpose": one_node(IntegerOp.TRANSPOSE, source, ((4, BATCH, 6), dtype), order=(1, 0, 2)),
        "slice": one_node(IntegerOp.SLICE, source, ((BATCH, 4, 3), dtype), axis=2, start=1, stop=None, step=2),
        "slice back": one_node(IntegerOp.SLICE, source, ((BATCH, 2, 6), dtype), axis=1, start=-3, stop=-1, step=1),
        "take": one_node(IntegerOp.TAKE, source, ((BATCH, 4, 3), dtype), axis=2, indices=np.array([5, 0, 0], np.int64)),
        "take one": one_node(IntegerOp.TAKE, source, ((BATCH, 6), dtype), axis=1, indices=np.array(2, np.int64)),
        "concatenate": one_node(
            IntegerOp.CONCATENATE, [*source, ((BATCH, 1, 6), dtype)], ((BATCH, 5, 6), dtype), axis=1
        ),
        "expand": one_node(
            IntegerOp.EXPAND, [((1, 4, 1), dtype), (shape, dtype)][:1], ((5, 4, 6), dtype), shape=(5, -1, 6)
        ),
        "slice reversed": one_node(IntegerOp.SLICE, source, (shape, dtype), axis=1, start=-1, stop=None, step=-1),
        "roll batch": one_node(IntegerOp.ROLL, source, (shape, dtype), shifts=(5,), axes=(0,)),
        "roll": one_node(IntegerOp.ROLL, source, (shape, dtype), shifts=(-1, 2), axes=(1, 2)),
    }
    padding: dict[str, Any] = {"widths": ((0, 0), (1, 2), (0, 0)), "value": 1 if dtype == "bool" else 33}
    graphs["pad"] = one_node(IntegerOp.PAD, source, ((BATCH, 7, 6), dtype), **padding)
    return {f"{name} {dtype}": graph for name, graph in graphs.items()}


def class_token() -> IntegerGraph:
    """A constant row is repeated to the batch's size and put before the patches, as in a vision transformer."""
    values = [
        coded("patches", (BATCH, 4, 6), "int8"),
        coded("ids", (1, 1), "int64"),
        coded("token", (1, 1, 6), "int8"),
        coded("tokens", (BATCH, 1, 6), "int8"),
        coded("y", (BATCH, 5, 6), "int8"),
    ]
    nodes = (
        IntegerNode(
            "token",
            IntegerOp.EMBEDDING,
            ("ids",),
            "token",
            constants={"table": np.arange(-30, 30, dtype=np.int8).reshape(10, 6)},
        ),
        IntegerNode("expand", IntegerOp.EXPAND, ("token",), "tokens", attributes={"shape": (BATCH, 1, 6)}),
        IntegerNode("concatenate", IntegerOp.CONCATENATE, ("tokens", "patches"), "y", attributes={"axis": 1}),
    )
    return IntegerGraph(nodes, {value.name: value for value in values}, ("patches", "ids"), ("y",), batch=2)


def residual_block() -> IntegerGraph:
    """Convolution, ReLU, residual sum of two grids, mean, linear: a value is read twice, an output in the middle."""
    generator = np.random.default_rng(4)
    unsigned = Grid(0.02, 0, 0, 255)
    values = [
        Value("image", (BATCH, 4, 6, 6), "uint8", unsigned),
        Value("conv", (BATCH, 4, 6, 6), "int8", Grid(0.1, 0, -128, 127)),
        Value("relu", (BATCH, 4, 6, 6), "int8", Grid(0.1, 0, 0, 127)),
        Value("sum", (BATCH, 4, 6, 6), "int16", Grid(0.01, 0, -32768, 32767)),
        Value("mean", (BATCH, 4), "uint8", unsigned),
        Value("logits", (BATCH, 10), "int8", Grid(0.2, 0, -128, 127)),
    ]
    sizes: dict[str, Any] = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}
    nodes = (
        IntegerNode(
            "block.conv",
            IntegerOp.CONVOLUTION,
            ("image",),
            "conv",
            constants={
                "weight": weights(generator, (4, 4, 3, 3)),
                "bias": np.array([0, 5, -70_000, 9], np.int32),
                **channel_ratios(generator, 4, 300_000),
            },
            attributes={**sizes, "zero_point_in": 0, "zero_point": 0, "low": -128, "high": 127},
        ),
        IntegerNode("block.relu", IntegerOp.CLAMP, ("conv",), "relu", attributes={"low": 0, "high": 127}),
        IntegerNode(
            "block.add",
            IntegerOp.ADD,
            ("relu", "image"),
            "sum",
            constants={
                "multiplier_a": np.array(1_342_177_280),
                "multiplier_b": np.array(268_435_456),
                "shift": np.array(27),
            },
            attributes={"zero_point_a": 0, "zero_point_b": 0, "zero_point": 0, "low": -32768, "high": 32767},
        ),
        IntegerNode(
            "block.mean",
            IntegerOp.MEAN,
            ("sum",),
            "mean",
            constants={"multiplier": np.array(1_908_874_354), "shift": np.array(37)},
            attributes={"axes": (2, 3), "keepdim": False, "zero_point_in": 0, **UNSIGNED, "zero_point": 0},
        ),
        IntegerNode(
            "head",
            IntegerOp.LINEAR,
            ("mean",),
            "logits",
            constants={
                "weight": weights(generator, (10, 4), bits=4),
                "bias": np.arange(-5, 5, dtype=np.int32),
                **channel_ratios(generator, 10, 9_000),
            },
            attributes={"zero_point": 0, "low": -128, "high": 127},
        ),
    )
    return IntegerGraph(nodes, {value.name: value for value in values}, ("image",), ("relu", "logits"), batch=2)


def _cases() -> dict[str, Callable[[], IntegerGraph]]:
    op = IntegerOp
    cases: dict[str, Callable[[], IntegerGraph]] = {
        "linear uint8": lambda: linear("uint8", 40, "uint8", UNSIGNED),
        "linear int8 4096": lambda: linear("int8", 4096, "int8", SIGNED),
        "linear uint8 4096": lambda: linear("uint8", 4096, "int8", SIGNED),
        "linear int16": lambda: linear("int16", 40, "int8", SIGNED),
        "linear uint16": lambda: linear("uint16", 40, "uint16", {"zero_point": 400, "low": 0, "high": 65535}),
        "linear 4 bits": lambda: linear("int8", 40, "int16", WIDE, bits=4),
        "linear accumulator": accumulator,
        "convolution uint8": lambda: convolution("uint8", 1, "int8", SIGNED),
        "convolution int8 groups": lambda: convolution("int8", 2, "uint8", UNSIGNED, scalar=True),
        "convolution depthwise": lambda: convolution("uint8", 6, "uint8", UNSIGNED),
        "convolution int16": lambda: convolution("int16", 2, "int8", SIGNED),
        "convolution uint16": lambda: convolution("uint16", 1, "int8", SIGNED),
        "convolution 1d": lambda: convolution("int8", 1, "int8", SIGNED, spatial=1),
        "matmul int8 int8": lambda: matmul("int8", "int8"),
        "matmul uint8 int8": lambda: matmul("uint8", "int8", broadcast=True),
        "matmul uint8 uint8": lambda: matmul("uint8", "uint8"),
        "matmul int16 int8": lambda: matmul("int16", "int8"),
        "add uint8 int8": lambda: add("uint8", "int8", "int8", SIGNED),
        "add uint16 int8": lambda: add("uint16", "int8", "int16", WIDE),
        "add int16 int8": lambda: add("int16", "int8", "int16", WIDE),
        "multiply": lambda: one_node(
            op.MULTIPLY,
            [((BATCH, 4, 5), "int8"), ((BATCH, 1, 5), "uint8")],
            ((BATCH, 4, 5), "int8"),
            zero_point_a=-3,
            zero_point_b=127,
            multiplier=np.array(-1_300_000_001),
            shift=np.array(38),
            **SIGNED,
        ),
        "multiply int16": lambda: one_node(
            op.MULTIPLY,
            [((BATCH, 5), "int16"), ((BATCH, 5), "int16")],
            ((BATCH, 5), "int16"),
            zero_point_a=1,
            zero_point_b=-1,
            multiplier=np.array(2**31 - 1),
            shift=np.array(45),
            **WIDE,
        ),
        "requantize": lambda: one_node(
            op.REQUANTIZE, [((BATCH, 5), "int16")], ((BATCH, 5), "uint8"), zero_point_in=9, **RATIO, **UNSIGNED
        ),
        "requantize int32": lambda: one_node(
            op.REQUANTIZE,
            [((BATCH, 3, 5), "int32")],
            ((BATCH, 3, 5), "int16"),
            multiplier=np.array([2**31 - 1, -(2**31) + 1, 2**30]),
            shift=np.array([47, 62, 31]),
            axis=1,
            zero_point_in=0,
            **WIDE,
        ),
        "requantize halves": lambda: one_node(
            op.REQUANTIZE,
            [((BATCH, 64), "int8")],
            ((BATCH, 64), "int8"),
            multiplier=np.array(1 << 30),
            shift=np.array(31),
            zero_point_in=0,
            zero_point=0,
            low=-128,
            high=127,
        ),
        "scale_shift": lambda: one_node(
            op.SCALE_SHIFT,
            [((BATCH, 4, 3, 3), "uint8")],
            ((BATCH, 4, 3, 3), "int8"),
            multiplier=np.array([2**31 - 1, -(2**30), 0, 1_500_000_000]),
            offset=np.array([-(2**40), 2**41, 5 << 30, -1]),
            shift=np.array([33, 31, 30, 32]),
            axis=1,
            zero_point_in=128,
            **SIGNED,
        ),
        "table": lambda: table("int16"),
        "table uint16": lambda: table("uint16"),
        "clamp": lambda: one_node(op.CLAMP, [((BATCH, 9), "int8")], ((BATCH, 9), "int8"), low=-3, high=90),
        "clamp int16": lambda: one_node(op.CLAMP, [((BATCH, 9), "int16")], ((BATCH, 9), "uint8"), low=0, high=255),
        "clamp uint16": lambda: one_node(op.CLAMP, [((BATCH, 9), "uint16")], ((BATCH, 9), "uint16"), low=7, high=60000),
        "negate": lambda: one_node(op.NEGATE, [((BATCH, 9), "uint8")], ((BATCH, 9), "uint8"), total=255),
        "mean": lambda: one_node(
            op.MEAN,
            [((BATCH, 4, 3, 5), "int16")],
            ((BATCH, 4, 1, 1), "int8"),
            axes=(2, -1),
            keepdim=True,
            zero_point_in=-7,
            multiplier=np.array(1_145_324_612),
            shift=np.array(42),
            **SIGNED,
        ),
        "layer_norm int16": lambda: normalization(op.LAYER_NORM, "int16"),
        "layer_norm uint8": lambda: normalization(op.LAYER_NORM, "uint8", offset=False),
        "rms_norm uint16": lambda: normalization(op.RMS_NORM, "uint16", offset=False),
        "rms_norm int8": lambda: normalization(op.RMS_NORM, "int8"),
        "rms_norm int16": lambda: normalization(op.RMS_NORM, "int16", offset=False),
        "softmax": softmax,
        "softmax uint16": lambda: softmax(dtype="uint16", bits=8),
        "softmax int16": lambda: softmax(dtype="int16", bits=8),
        "softmax mask bias": lambda: softmax(mask=True, bias=True),
        "softmax_matmul": softmax_matmul,
        "softmax_matmul mask bias": lambda: softmax_matmul(mask=True, bias=True, values="uint8"),
        "softmax_matmul 16 bits": lambda: softmax_matmul(bits=16, mask=True),
        "softmax_matmul int16": lambda: softmax_matmul(values="int16"),
        "embedding": lambda: one_node(
            op.EMBEDDING,
            [((BATCH, 7), "int64")],
            ((BATCH, 7, 3), "int8"),
            table=np.random.default_rng(3).integers(-128, 128, (10, 3)).astype(np.int8),
        ),
        "class token": class_token,
        "residual block": residual_block,
    }
    made = pools()
    for dtype in ("int8", "uint8", "int16", "uint16", "bool"):
        made |= structure(dtype)
    return cases | {name: (lambda graph=graph: graph) for name, graph in made.items()}


CASES = _cases()
