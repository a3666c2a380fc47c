from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from quantsim_encodings import (
    AffineEncoding,
    DynamicEncoding,
    Encoding,
    EncodingEntry,
    EncodingsDocument,
    EncodingsError,
    EncodingsVersion,
    FixedPointEncoding,
    FixedPointFormat,
    FloatEncoding,
    GroupedBlockEncoding,
    IntFormat,
    Loss,
    MXEncoding,
    NVFP4Format,
    OpticalEncoding,
    OpticalFormat,
    PerBlock,
    PerBlocks,
    PerChannel,
    PerTensor,
    PerToken,
    Producer,
    RoundingMode,
    TensorReference,
    TensorRole,
    convert,
    diff,
    float_format,
    losses,
    mx_format,
    place,
    read,
    transpose,
    with_names,
    with_tensors,
)
from quantsim_encodings.conversion import to_json

DATA = Path(__file__).parent / "data"
AIMET = [version for version in EncodingsVersion if version is not EncodingsVersion.QUANTSIM]
V = EncodingsVersion

UINT8 = AffineEncoding(IntFormat(0, 255), np.float32(0.1), -3, False, PerTensor())  # type: ignore[arg-type]
INT8_CHANNEL = AffineEncoding(IntFormat(-128, 127), np.float32([[0.1], [0.2]]), 0, True, PerChannel(0))  # type: ignore[arg-type]
INT4_BLOCK = AffineEncoding(
    IntFormat(-8, 7),
    np.float32([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]),
    0,  # type: ignore[arg-type]
    True,
    PerBlock(1, 32),
    (1, 32),
)
LPBQ = GroupedBlockEncoding.from_scales(
    format=IntFormat(-8, 7),
    per_channel_scale=np.float32([[0.1], [0.2]]),
    per_block_int_scale=[[16, 3, 9], [1, 16, 5]],
    decompressed_bits=8,
    granularity=PerBlock(1, 32),
    block_size=(1, 32),
)
FP16 = FloatEncoding(float_format("fp16"))
FP8 = FloatEncoding(float_format("e4m3fn"), np.float32([0.5, 0.25]), PerChannel(0))
NVFP4 = MXEncoding(NVFP4Format(), PerBlock(1, 16), np.float32([[1.5, 448.0]]), 0.25, (1, 16))
OTHERS: list[Encoding] = [
    MXEncoding(mx_format("mxfp4"), PerBlock(-1, 32)),
    DynamicEncoding(IntFormat(-128, 127), PerToken(), True),
    DynamicEncoding(float_format("e4m3fn"), PerBlock(-1, 32), True, RoundingMode.STOCHASTIC),
    OpticalEncoding(OpticalFormat(), np.float32(-1), np.float32(1)),
    FixedPointEncoding(FixedPointFormat(IntFormat(-128, 127)), 2**30, 33, 0),  # type: ignore[arg-type]
]


def document_of(*encodings: Encoding, **changes) -> EncodingsDocument:
    entries = tuple(
        EncodingEntry(encoding, TensorReference(f"m{index}", TensorRole.PARAM, "weight"), **changes)
        for index, encoding in enumerate(encodings)
    )
    return EncodingsDocument(V.QUANTSIM, entries, Producer("quantsim", "0.1.0"))


def refusals(document: EncodingsDocument, version: EncodingsVersion, **arguments) -> list[str]:
    with pytest.raises(EncodingsError) as caught:
        convert(document, version, **arguments)
    assert "cannot hold these encodings" in str(caught.value)
    return [problem.message for problem in caught.value.problems]


def scales_of(document: EncodingsDocument, index: int = 0) -> list[float]:
    encoding = document.entries[index].encoding
    assert isinstance(encoding, AffineEncoding)
    return encoding.scale.reshape(-1).tolist()


# What each version holds ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", EncodingsVersion)
def test_every_version_holds_plain_encodings_exactly(version: EncodingsVersion) -> None:
    document = document_of(UINT8, INT8_CHANNEL)
    converted = convert(document, version)
    assert converted.version is version
    assert diff(document, converted) == []
    assert converted.producer == document.producer
    assert converted.entries[0].encoding == UINT8


@pytest.mark.parametrize("version", EncodingsVersion)
def test_blocks_keep_their_scales(version: EncodingsVersion) -> None:
    allow = {Loss.ANNOTATION, Loss.LAYOUT, Loss.GROUPING}
    document = document_of(INT4_BLOCK, LPBQ)
    converted = convert(document, version, allow=allow)
    assert scales_of(converted) == scales_of(document)
    second = converted.entries[1].encoding
    if not isinstance(second, AffineEncoding):
        second = place(second, LPBQ.granularity, LPBQ.scale.shape, LPBQ.block_size)
    assert isinstance(second, AffineEncoding)
    assert second.scale.reshape(-1).tolist() == LPBQ.scale.reshape(-1).tolist()


@pytest.mark.parametrize("version", [V.QUANTSIM, V.AIMET_2_0_0, V.AIMET_2_1_0])
def test_versions_with_layout_give_the_same_encodings_back(version: EncodingsVersion) -> None:
    document = document_of(INT4_BLOCK, LPBQ, UINT8)
    converted = convert(document, version)
    assert [entry.encoding for entry in converted] == [entry.encoding for entry in document]


def test_version_1_0_0_holds_lpbq_whose_place_the_tensor_tells() -> None:
    (entry,) = convert(document_of(LPBQ), V.AIMET_1_0_0)
    assert place(entry.encoding, PerBlock(1, 32), (2, 3), (1, 32)) == LPBQ


def test_our_own_version_holds_everything() -> None:
    encodings = [UINT8, INT8_CHANNEL, INT4_BLOCK, LPBQ, FP16, FP8, NVFP4, *OTHERS]
    document = document_of(*encodings, frozen=True, learnable=False, analyzer="sqnr", samples=64)
    document = replace(
        document,
        model_fingerprint="sha256:00",
        excluded_layers=("head",),
        quantizer_args={"quant_scheme": "min_max", "nested": [1, None, {"a": True}]},
    )
    assert losses(document, V.QUANTSIM) == ()
    assert convert(document, V.QUANTSIM) == document


@pytest.mark.parametrize("version", AIMET)
@pytest.mark.parametrize("encoding", OTHERS, ids=lambda encoding: encoding.label)
def test_aimet_holds_no_other_kind(encoding: Encoding, version: EncodingsVersion) -> None:
    (message,) = refusals(document_of(encoding), version)
    assert message.startswith("m0.weight ")
    assert "only" in message or "cannot be held" in message


@pytest.mark.parametrize(
    ("encoding", "holders"),
    [
        (FP16, "0.6.1 1.0.0 aimet-torch"),
        (FloatEncoding(float_format("fp32")), "0.6.1 1.0.0 aimet-torch"),
        (FloatEncoding(float_format("bf16")), ""),
        (FP8, "2.0.0 2.1.0"),
        (FloatEncoding(float_format("e5m2")), "2.0.0 2.1.0"),
        (FloatEncoding(float_format("e3m2")), ""),
        (replace(FP16, saturate=False), ""),
        (replace(FP8, saturate=False), ""),
        (replace(FP8, rounding="up"), ""),
        (NVFP4, "2.1.0"),
        (replace(NVFP4, scale=None), ""),
        (replace(NVFP4, rounding="stochastic"), ""),
        (replace(NVFP4, granularity=PerBlock(1, 32)), ""),
        (replace(UINT8, format=IntFormat(1, 200)), ""),
        (replace(INT8_CHANNEL, format=IntFormat(-7, 7)), ""),
        (replace(UINT8, offset=-2.5), ""),
        (
            replace(UINT8, format=IntFormat(-2, 1), offset=0, symmetric=True, zero_point_shift=0.5),
            "0.6.1 1.0.0 2.0.0 2.1.0 aimet-torch",
        ),
        (
            replace(UINT8, format=IntFormat(-2, 1), offset=0, symmetric=True, zero_point_shift=0.25),
            "0.6.1 1.0.0 aimet-torch",
        ),
        (replace(LPBQ, decompressed_bits=9), "1.0.0"),
        (replace(INT4_BLOCK, granularity=PerBlocks((1, 32))), "0.6.1 1.0.0 2.0.0 2.1.0 aimet-torch"),
        (replace(INT4_BLOCK, granularity=PerBlocks((8, 32)), block_size=(8, 32)), "0.6.1 aimet-torch"),
        (replace(INT4_BLOCK, granularity=PerToken(), block_size=None), "0.6.1 aimet-torch"),
        (replace(INT4_BLOCK, granularity=PerBlock(5, 32)), "0.6.1 1.0.0 aimet-torch"),
        (replace(LPBQ, offset=-1), ""),
        (replace(LPBQ, granularity=PerBlocks((8, 32)), block_size=(8, 32)), ""),
        (replace(FP8, granularity=PerToken()), ""),
        (replace(LPBQ, granularity=PerBlock(5, 32)), ""),
        (
            GroupedBlockEncoding.from_scales(
                format=IntFormat(-8, 7),
                per_channel_scale=np.float32([[0.1, 0.2], [0.3, 0.3]]),
                per_block_int_scale=[[1, 2], [3, 16]],
                decompressed_bits=8,
                granularity=PerBlock(1, 32),
            ),
            "",
        ),
        (
            GroupedBlockEncoding.from_scales(
                format=IntFormat(-8, 7),
                per_channel_scale=np.ones((2, 1, 3), np.float32),
                per_block_int_scale=np.ones((2, 4, 3), np.int64),
                decompressed_bits=8,
                granularity=PerBlock(1, 32),
                block_size=(1, 32, 1),
            ),
            "1.0.0 2.0.0",
        ),
    ],
)
def test_who_holds_what(encoding: Encoding, holders: str) -> None:
    document = document_of(encoding)
    found = []
    for version in AIMET:
        try:
            converted = convert(document, version)
        except EncodingsError:
            continue
        found.append(version.value)
        assert diff(document, converted) == [] or version is V.AIMET_1_0_0
    assert found == holders.split()


# Losses --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "version", "loss", "words"),
    [
        (LPBQ, V.AIMET_0_6_1, Loss.GROUPING, "is LPBQ"),
        (LPBQ, V.AIMET_TORCH, Loss.GROUPING, "is LPBQ"),
        (replace(UINT8, format=IntFormat(-128, 127)), V.AIMET_0_6_1, Loss.CODE_SIGN, "has signed codes"),
        (replace(UINT8, format=IntFormat(-128, 127)), V.AIMET_1_0_0, Loss.CODE_SIGN, "has signed codes"),
        (replace(UINT8, symmetric=True), V.AIMET_TORCH, Loss.CODE_SIGN, "has unsigned codes"),
        (replace(UINT8, symmetric=True), V.AIMET_2_0_0, Loss.SYMMETRY, "is symmetric"),
        (replace(INT8_CHANNEL, symmetric=False), V.AIMET_2_1_0, Loss.SYMMETRY, "is not symmetric"),
        (FP16, V.AIMET_2_0_0, Loss.FLOAT16, "is plain fp16"),
        (FloatEncoding(float_format("bf16"), np.ones(())), V.AIMET_2_1_0, Loss.FLOAT16, "is plain bf16"),
    ],
)
def test_losses_are_refused_until_allowed(encoding, version, loss: Loss, words: str) -> None:
    document = document_of(encoding)
    (message,) = refusals(document, version)
    assert words in message
    assert f"accept this with allow={{'{loss.value}'}}" in message
    converted = convert(document, version, allow={Loss.ANNOTATION, Loss.LAYOUT, loss})
    assert len(converted) == (0 if loss is Loss.FLOAT16 else 1)


@pytest.mark.parametrize(("version", "signed"), [(V.AIMET_0_6_1, False), (V.AIMET_1_0_0, False)])
def test_shifted_codes_stand_for_the_same_numbers(version: EncodingsVersion, signed: bool) -> None:
    before = replace(UINT8, format=IntFormat(-128, 127), offset=np.int64(5))
    (entry,) = convert(document_of(before), version, allow=Loss)
    after = entry.encoding
    assert isinstance(after, AffineEncoding)
    assert after.format.signed is signed
    assert (after.min, after.max) == (before.min, before.max)


def test_annotations_and_layout_are_lost_by_default_but_listed() -> None:
    document = replace(
        document_of(INT8_CHANNEL, frozen=True, learnable=False, analyzer="mse", samples=9),
        model_fingerprint="sha256:00",
        excluded_layers=("head",),
        quantizer_args={"a": 1},
    )
    listed = [str(problem) for problem in losses(document, V.AIMET_1_0_0)]
    assert listed == [
        "$.model_fingerprint: cannot be held",
        "$.encodings[0]: m0.weight is frozen, not learnable, from analyzer mse, from 9 samples, which cannot be held",
        "$.encodings[0]: m0.weight is PerChannel(axis=0); only its scales in row-major order can be held",
    ]
    assert len(refusals(document, V.AIMET_1_0_0, allow=())) == 3
    assert {str(problem).partition(":")[0] for problem in losses(document, V.AIMET_2_0_0)} == {
        "$.model_fingerprint",
        "$.excluded_layers",
        "$.quantizer_args",
        "$.encodings[0]",
    }
    assert convert(document, V.AIMET_1_0_0).excluded_layers == ("head",)
    with pytest.raises(EncodingsError, match="unknown encodings version"):
        losses(document, "3")


def test_all_refusals_are_listed_at_once() -> None:
    activation = EncodingEntry(OTHERS[1], TensorReference("m", TensorRole.INPUT, "0"))
    document = replace(document_of(OTHERS[0]), entries=(*document_of(OTHERS[0]).entries, activation))
    messages = refusals(document, V.AIMET_1_0_0)
    assert [message.split(" ")[0] for message in messages] == ["m0.weight", "m.input[0]", "m.input[0]"]


# Names ---------------------------------------------------------------------------------------------------------------


def test_activations_need_a_name_in_the_graph() -> None:
    activation = EncodingEntry(UINT8, TensorReference("relu", TensorRole.OUTPUT, "0"))
    document = EncodingsDocument(V.QUANTSIM, (activation,))
    (message,) = refusals(document, V.AIMET_2_0_0)
    assert "with_names()" in message
    named = with_names(document, {"relu.output[0]": "/relu/out"})
    assert convert(named, V.AIMET_2_0_0).entries[0].name == "/relu/out"
    assert convert(named, V.AIMET_TORCH).entries[0].tensor == activation.tensor


def test_torch_side_needs_a_place_in_the_model() -> None:
    document = EncodingsDocument(V.AIMET_2_0_0, (EncodingEntry(UINT8, name="x"),))
    (message,) = refusals(document, V.AIMET_TORCH)
    assert "with_tensors()" in message
    reference = TensorReference("", TensorRole.INPUT, "0")
    placed = with_tensors(document, {"x": reference})
    assert convert(placed, V.AIMET_TORCH).entries[0].tensor == reference
    for function, mapping in ((with_names, {"y": "z", "w": "z"}), (with_tensors, {"y": reference})):
        with pytest.raises(EncodingsError, match="has no tensor 'y' to be named"):
            function(document, mapping)  # type: ignore[operator]


@pytest.mark.parametrize("version", [V.AIMET_0_6_1, V.AIMET_1_0_0])
def test_sections_need_to_know_the_parameters(version: EncodingsVersion) -> None:
    document = read(DATA / "m_2.0.0.encodings")
    assert len(refusals(document, version, allow=Loss)) == len(document)
    parameters = {entry.name for entry in document if "weight" in str(entry.name) or "bias" in str(entry.name)}
    converted = convert(document, version, allow=Loss, parameters=parameters)  # type: ignore[arg-type]
    assert {entry.name for entry in converted if entry.parameter} == parameters
    own = convert(document, V.QUANTSIM, parameters=parameters)  # type: ignore[arg-type]
    assert {entry.name for entry in own if entry.parameter} == parameters


@pytest.mark.parametrize("version", EncodingsVersion)
def test_one_tensor_cannot_be_described_twice(version: EncodingsVersion) -> None:
    entry = EncodingEntry(UINT8, TensorReference("m", TensorRole.PARAM, "weight"), name="w")
    messages = refusals(EncodingsDocument(V.QUANTSIM, (entry, entry)), version)
    assert any("twice" in message or "$.encodings[0]" in message for message in messages)


def test_unknown_versions_are_refused() -> None:
    with pytest.raises(EncodingsError, match="expected one of quantsim-1"):
        convert(document_of(UINT8), "3.0.0")
    with pytest.raises(EncodingsError, match="unknown encodings version"):
        to_json(document_of(UINT8), 7)  # type: ignore[arg-type]


def test_values_go_out_in_aimets_form() -> None:
    value = to_json(document_of(INT8_CHANNEL), V.AIMET_1_0_0)
    assert value["param_encodings"] == [
        {
            "name": "m0.weight",
            "dtype": "INT",
            "bw": 8,
            "is_sym": True,
            "scale": [float(np.float32(0.1)), float(np.float32(0.2))],
            "offset": [-128, -128],
            "enc_type": "PER_CHANNEL",
        }
    ]
    (item,) = to_json(document_of(UINT8), V.AIMET_2_0_0)["encodings"]
    assert item == {"name": "m0.weight", "output_dtype": "uint8", "y_scale": float(np.float32(0.1)), "y_zero_point": 3}
    root = EncodingsDocument(V.QUANTSIM, (EncodingEntry(UINT8, TensorReference("", TensorRole.PARAM, "weight")),))
    assert list(to_json(root, V.AIMET_TORCH)["param_encodings"]) == [".weight"]


# The same simulation in AIMET's five files ---------------------------------------------------------------------------

GRAPH_NAMES = {
    "m": {
        "pc.input[0]": "in",
        "relu.output[0]": "/relu/Relu_output_0",
        "bq.output[0]": "/bq/MatMul_output_0",
        "up.output[0]": "/up/MatMul_output_0",
        "lpbq.output[0]": "/lpbq/MatMul_output_0",
        "bq.weight": "bq.weight_0",
        "up.weight": "up.weight_0",
        "lpbq.weight": "lpbq.weight_0",
    }
}


def parameters_of(document: EncodingsDocument) -> set[str]:
    return {entry.name for entry in document if entry.name is not None and (".weight" in entry.name)}


def without(document: EncodingsDocument, *names: str) -> EncodingsDocument:
    return replace(document, entries=tuple(entry for entry in document if entry.label not in names))


@pytest.mark.parametrize("family", ["m", "wide"])
@pytest.mark.parametrize("target", [V.AIMET_0_6_1, V.AIMET_1_0_0])
@pytest.mark.parametrize("source", ["2.0.0", "2.1.0"])
def test_newer_files_agree_with_older_ones(family: str, source: str, target: EncodingsVersion) -> None:
    newer = read(DATA / f"{family}_{source}.encodings")
    older = read(DATA / f"{family}_{target.value}.encodings")
    # Only 2.x lists int32 biases, shared tensors twice, and float8 (int8 stands for it in the older files).
    extra = {entry.label for entry in newer} - {entry.label for entry in older} | {"f8.weight_0", "f8c.weight_0"}
    extra |= (
        {"/f8/MatMul_output_0", "/f8c/MatMul_output_0", "/Transpose_output_0", "out"} if family == "wide" else set()
    )
    converted = convert(without(newer, *extra), target, allow=Loss, parameters=parameters_of(newer))
    assert diff(without(older, *extra), converted) == []
    assert len(converted) >= 9


@pytest.mark.parametrize("family", ["m", "wide"])
def test_2_0_0_and_2_1_0_agree(family: str) -> None:
    older, newer = (read(DATA / f"{family}_{version}.encodings") for version in ("2.0.0", "2.1.0"))
    assert diff(older, newer) == []
    assert convert(older, V.AIMET_2_1_0) == newer
    assert convert(newer, V.AIMET_2_0_0) == older


def test_torch_side_agrees_with_the_graph_after_transposition() -> None:
    torch_side = with_names(read(DATA / "torch_side.json"), GRAPH_NAMES["m"])
    graph = read(DATA / "m_2.0.0.encodings")
    compared = 0
    for entry in torch_side:
        if entry.tensor is not None and entry.tensor.module == "fp":
            continue  # float16, which 2.0.0 leaves out.
        assert entry.graph_name is not None
        other = graph.find(entry.graph_name).encoding
        if isinstance(other, AffineEncoding) and other.block_size is not None:
            other = transpose(other, (1, 0))  # The exporter turns the weight of a matrix product.
        left = replace(graph, entries=(EncodingEntry(entry.encoding, name="x"),))
        right = replace(graph, entries=(EncodingEntry(other, name="x"),))
        assert [d for d in diff(left, right) if d.field != "kind"] == [], entry.label
        compared += 1
    assert compared == 9


def test_blocks_of_the_torch_side_can_be_placed() -> None:
    entry = read(DATA / "wide_torch_side.json").find("lin.weight")
    graph = read(DATA / "wide_2.0.0.encodings").find("lin.weight_0").encoding
    assert isinstance(graph, GroupedBlockEncoding)
    placed = place(entry.encoding, PerBlock(1, 2), (10, 3), (1, 2))
    assert isinstance(placed, AffineEncoding)
    turned = transpose(graph, (1, 0))
    assert np.array_equal(placed.scale, turned.scale)
    assert (placed.granularity, placed.block_size) == (turned.granularity, turned.block_size)


@pytest.mark.parametrize(
    ("name", "axis", "shape"),
    [("lin.weight_0", 0, (3, 10)), ("conv.weight", 1, (6, 2, 1, 1)), ("gemm.weight", 1, (4, 5))],
)
def test_lpbq_of_1_0_0_can_be_placed_either_way(name: str, axis: int, shape: tuple[int, ...]) -> None:
    flat = read(DATA / "wide_1.0.0.encodings").find(name).encoding
    expected = read(DATA / "wide_2.0.0.encodings").find(name).encoding
    assert isinstance(expected, GroupedBlockEncoding)
    assert expected.granularity == PerBlock(axis, expected.block_size[axis])  # type: ignore[index]
    assert place(flat, expected.granularity, shape, expected.block_size) == expected


def test_zero_point_shift_agrees_between_versions() -> None:
    documents = [
        read(DATA / name) for name in ("shift_1.0.0.encodings", "shift_2.0.0.encodings", "shift_torch_side.json")
    ]
    encodings = [document.find(name).encoding for document, name in zip(documents, ["tc.weight"] * 3, strict=True)]
    for encoding in encodings:
        assert isinstance(encoding, AffineEncoding)
        assert encoding.zero_point_shift == 0.5
        assert encoding.symmetric
        assert encoding.format == IntFormat(-2, 1)
        assert not encoding.offset.any()
        assert encoding.scale.tolist() == encodings[0].scale.tolist()  # type: ignore[attr-defined]
        assert np.allclose(encoding.min, -encoding.max)


def test_a_named_loss_is_allowed_besides_the_implied_ones() -> None:
    document = EncodingsDocument(
        version=V.QUANTSIM,
        entries=(
            EncodingEntry(
                AffineEncoding(
                    IntFormat.from_bits(8, signed=True),
                    scale=np.array([0.5, 0.25], dtype=np.float32),
                    offset=np.zeros(2, dtype=np.int64),
                    symmetric=False,
                    granularity=PerChannel(0),
                ),
                tensor=TensorReference("fc", TensorRole.PARAM, "weight"),
                analyzer="MinMax",
            ),
        ),
    )
    converted = convert(document, V.AIMET_TORCH, allow={Loss.CODE_SIGN})
    assert len(converted.entries) == 1
