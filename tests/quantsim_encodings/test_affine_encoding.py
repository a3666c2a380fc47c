from __future__ import annotations

import copy
import dataclasses
import pickle

import numpy as np
import pytest

from quantsim_encodings import (
    AffineEncoding,
    EncodingsError,
    Flattened,
    GroupedBlockEncoding,
    IntFormat,
    PerBlock,
    PerBlocks,
    PerChannel,
    PerTensor,
    UnplacedGroupedBlockEncoding,
)

INT4 = IntFormat.from_bits(4, signed=True)
INT8 = IntFormat.from_bits(8, signed=True)
UINT8 = IntFormat.from_bits(8, signed=False)


def affine(**changes) -> AffineEncoding:
    arguments = {"format": UINT8, "scale": 0.5, "offset": -3, "symmetric": False, "granularity": PerTensor()}
    return AffineEncoding(**{**arguments, **changes})


def grouped(**changes) -> GroupedBlockEncoding:
    arguments = {
        "format": INT4,
        "per_channel_scale": np.float32([[0.1], [0.3]]),
        "per_block_int_scale": [[16, 9], [1, 16]],
        "decompressed_bits": 8,
        "granularity": PerBlock(1, 2),
        "block_size": (1, 2),
    }
    return GroupedBlockEncoding.from_scales(**{**arguments, **changes})


def unplaced(**changes) -> UnplacedGroupedBlockEncoding:
    arguments = {
        "format": INT4,
        "granularity": Flattened(block_size=2),
        "decompressed_bits": 8,
        "per_channel_scale": [0.1, 0.3],
        "per_block_int_scale": [16, 9, 1, 16],
    }
    return UnplacedGroupedBlockEncoding(**{**arguments, **changes})


def test_range_and_zero_point() -> None:
    encoding = affine(scale=np.float32(0.1))
    assert encoding.scale.dtype == np.float32
    assert encoding.offset.dtype == np.int64
    assert encoding.min == np.float32(0.1) * np.float32(-3)
    assert encoding.max == np.float32(0.1) * np.float32(252)
    assert encoding.zero_point == 3
    symmetric = affine(format=INT8, scale=np.float32(2 / 255), offset=0, symmetric=True)
    assert float(symmetric.min) == pytest.approx(-1.0039, abs=1e-4)
    assert float(symmetric.max) == pytest.approx(0.9961, abs=1e-4)


def test_zero_point_shift_moves_the_range() -> None:
    encoding = affine(format=IntFormat(-2, 1), offset=0, symmetric=True, zero_point_shift=0.5)
    assert (float(encoding.min), float(encoding.max)) == (-0.75, 0.75)


def test_arrays_are_kept_in_the_narrowest_exact_type() -> None:
    assert affine(scale=0.5).scale.dtype == np.float32
    assert affine(scale=0.1).scale.dtype == np.float64
    assert affine(scale=np.float32(0.1)).scale == np.float32(0.1)
    assert affine(offset=np.float32(-3)).offset.dtype == np.int64
    assert affine(offset=-2.5).offset.dtype == np.float32
    assert affine(offset=2**53 + 1).offset == 2**53 + 1


def test_arrays_are_copied_and_read_only() -> None:
    scale = np.float32([[0.5], [0.25]])
    encoding = affine(scale=scale, granularity=PerChannel(0))
    scale[0] = 7.0
    assert encoding.scale.tolist() == [[0.5], [0.25]]
    assert encoding.offset.tolist() == [[-3], [-3]]
    for array in (encoding.scale, encoding.offset):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        encoding.symmetric = True  # type: ignore[misc]


def test_equality_compares_arrays() -> None:
    assert affine() == affine()
    assert hash(affine()) == hash(affine())
    assert affine() != affine(scale=0.25)
    assert affine() != affine(scale=[0.5])
    assert affine() != affine(symmetric=True)
    assert affine() != "affine"
    assert grouped() == grouped()
    assert grouped() != grouped(per_block_int_scale=[[16, 9], [2, 16]])
    plain = grouped()
    assert plain != AffineEncoding(INT4, plain.scale, plain.offset, True, plain.granularity, plain.block_size)


@pytest.mark.parametrize("encoding", [affine(), grouped(), unplaced()])
def test_encodings_survive_copying_and_pickling(encoding) -> None:
    assert copy.deepcopy(encoding) == encoding
    assert pickle.loads(pickle.dumps(encoding)) == encoding
    assert encoding.label == type(encoding).__name__


@pytest.mark.parametrize(
    ("changes", "path", "message"),
    [
        ({"scale": 0.0}, "$.scale", "got 0.0, expected only positive numbers"),
        ({"scale": [-1.0], "granularity": PerTensor()}, "$.scale", "got -1.0"),
        ({"scale": float("nan")}, "$.scale", "got NaN or infinity"),
        ({"scale": [0.5, np.inf]}, "$.scale", "got NaN or infinity"),
        ({"scale": 1e308}, "$.scale", "grid ends before the largest real number"),
        ({"scale": []}, "$.scale", "got no number"),
        ({"scale": "0.5"}, "$.scale", "array of dtype"),
        ({"scale": [[0.5], [0.5, 0.5]]}, "$.scale", "rectangular"),
        ({"scale": True}, "$.scale", "dtype bool"),
        ({"offset": [1, 2, 3]}, "$.offset", "got shape (3,), expected the scale's ()"),
        ({"offset": None}, "$.offset", "expected a rectangular array"),
        ({"format": "int8"}, "$.format", "expected an IntFormat"),
        ({"granularity": "per tensor"}, "$.granularity", "expected a Granularity"),
        ({"scale": [0.5, 0.5]}, "$.granularity", "got per tensor with a scale of shape (2,)"),
        ({"scale": [[0.5, 0.5]] * 2, "granularity": PerChannel(0)}, "$.granularity", "expected one long axis"),
        ({"scale": [[0.5, 0.5]], "granularity": PerChannel(0)}, "$.granularity", "expected axis 1"),
        ({"scale": [[0.5, 0.5]], "granularity": PerChannel(2)}, "$.granularity", "expected axis 1"),
        ({"scale": [[0.5, 0.5]], "granularity": Flattened()}, "$.granularity", "expected one dimension"),
        ({"block_size": (0,)}, "$.block_size", "got 0"),
        ({"block_size": (2.0,)}, "$.block_size", "got 2.0"),
        ({"scale": [[0.5]], "block_size": (2,)}, "$.block_size", "expected one for each of 2 dimensions"),
        ({"zero_point_shift": float("inf")}, "$.zero_point_shift", "finite"),
    ],
)
def test_impossible_affine_encodings_are_refused(changes: dict, path: str, message: str) -> None:
    with pytest.raises(EncodingsError) as caught:
        affine(**changes)
    (problem,) = caught.value.problems
    assert problem.path == path
    assert message in problem.message


def test_axis_of_one_dimension_is_that_of_the_tensor() -> None:
    assert affine(scale=[0.5, 0.25], granularity=PerChannel(3)).scale.shape == (2,)
    assert affine(scale=[[0.5, 0.25]], granularity=PerChannel(-1)).scale.shape == (1, 2)


def test_grouped_block_scales_are_products_in_float32() -> None:
    encoding = grouped()
    assert encoding.scale.dtype == np.float32
    expected = np.float32([[0.1], [0.3]]) * np.float32([[16, 9], [1, 16]])
    assert np.array_equal(encoding.scale, expected)
    assert encoding.symmetric


@pytest.mark.parametrize("granularity", [PerBlock(1, 2), PerBlock(-1, 2), PerBlocks((1, 2))])
def test_channel_scales_are_kept_one_for_each_channel(granularity) -> None:
    repeated = grouped(per_channel_scale=np.float32([[0.1, 0.1], [0.3, 0.3]]), granularity=granularity)
    assert repeated.per_channel_scale.shape == (2, 1)
    assert repeated == grouped(granularity=granularity)
    single = grouped(per_channel_scale=np.float32([[0.5]]), granularity=granularity)
    assert single.per_channel_scale.tolist() == [[0.5], [0.5]]
    groups = grouped(per_channel_scale=np.float32([[0.1, 0.2], [0.3, 0.3]]), granularity=granularity)
    assert groups.per_channel_scale.shape == (2, 2)


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"decompressed_bits": 3}, "$.decompressed_bits"),
        ({"decompressed_bits": 8.0}, "$.decompressed_bits"),
        ({"per_block_int_scale": [[17, 1], [1, 1]]}, "$.per_block_int_scale"),
        ({"per_block_int_scale": [[0, 1], [1, 1]]}, "$.per_block_int_scale"),
        ({"per_block_int_scale": [[1.5, 1], [1, 1]]}, "$.per_block_int_scale"),
        ({"per_block_int_scale": np.zeros((0, 2), np.int64)}, "$.per_block_int_scale"),
        ({"per_channel_scale": [[0.1], [0.1], [0.1]]}, "$.per_channel_scale"),
        ({"per_channel_scale": [[-0.1], [0.1]]}, "$.per_channel_scale"),
    ],
)
def test_impossible_grouped_encodings_are_refused(changes: dict, path: str) -> None:
    with pytest.raises(EncodingsError) as caught:
        grouped(**changes)
    assert caught.value.problems[0].path == path


def test_grouped_scale_must_be_the_product() -> None:
    encoding = grouped()
    with pytest.raises(EncodingsError, match="expected the products"):
        dataclasses.replace(encoding, scale=encoding.scale * 2)
    with pytest.raises(EncodingsError, match="expected that of the products"):
        dataclasses.replace(encoding, scale=encoding.scale[:1], offset=encoding.offset[:1])


@pytest.mark.parametrize(
    "changes", [{"per_block_int_scale": [16, 9, 1]}, {"per_channel_scale": [[0.1, 0.3]]}, {"decompressed_bits": 70}]
)
def test_impossible_unplaced_encodings_are_refused(changes: dict) -> None:
    with pytest.raises(EncodingsError, match="expected"):
        unplaced(**changes)
