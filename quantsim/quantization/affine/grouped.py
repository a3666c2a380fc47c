"""Low-power blockwise quantization (LPBQ): block scales that are small integers times a scale of their channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor
from typing_extensions import override

from quantsim.errors import ConfigurationError
from quantsim.quantization.affine.exchange import import_encoding
from quantsim.quantization.affine.quantizers import QuantizeDequantize
from quantsim.quantization.sharded_tensors import whole
from quantsim_encodings.encoding import Encoding, GroupedBlockEncoding
from quantsim_kernels.reference.affine import grouped_block_scale

if TYPE_CHECKING:
    from quantsim.quantization.analyzers.base import EncodingAnalyzer

__all__ = ["GroupedBlockQuantizeDequantize"]


class GroupedBlockQuantizeDequantize(QuantizeDequantize):
    """Blockwise `QuantizeDequantize` whose block scales share a float scale and differ by small integers only.

    ``s_group = max over the group of s_raw / 2**(D - B)``, ``s_block = s_group * clamp(rint(s_raw / s_group), 1,
    2**(D - B))`` with B = ``bitwidth`` and D = ``decompressed_bw``.

    Args:
        shape: Number of blocks in each of the tensor's last dimensions.
        bitwidth: Bits of the stored integers.
        symmetric: Must be True.
        decompressed_bw: Bits after multiplication by the block's integer scale; at least ``bitwidth``.
        encoding_analyzer: Turns observed data into a range; min-max if not given.
        block_size: Elements of a block in each dimension.
        block_grouping: Blocks that share a float scale in each dimension; -1 means all, the default 1 in each.

    Raises:
        ConfigurationError: If ``symmetric`` is False, ``decompressed_bw < bitwidth`` or the grouping does not divide
            ``shape``.

    Example:
        >>> weight = torch.tensor([[1.0, 2.0, 7.0, -8.0], [0.5, 0.25, 0.1, 0.2]])
        >>> quantizer = GroupedBlockQuantizeDequantize(
        ...     shape=(2, 2),
        ...     bitwidth=4,
        ...     symmetric=True,
        ...     decompressed_bw=8,
        ...     block_size=(1, 2),
        ...     block_grouping=(1, -1),
        ... )
        >>> with quantizer.compute_encodings():
        ...     _ = quantizer(weight)
        >>> quantizer.get_encodings().per_block_int_scale.tolist()
        [[5, 16], [16, 6]]
    """

    elementwise_range = False

    def __init__(
        self,
        shape: int | Sequence[int],
        bitwidth: int,
        symmetric: bool,
        decompressed_bw: int,
        encoding_analyzer: EncodingAnalyzer | None = None,
        block_size: Sequence[int] | None = None,
        block_grouping: Sequence[int] | None = None,
    ) -> None:
        super().__init__(shape, bitwidth, symmetric, encoding_analyzer, block_size)
        self._decompressed_bw = decompressed_bw
        self._block_grouping = (1,) * len(self.shape) if block_grouping is None else tuple(block_grouping)
        self._check_grouping()

    def _check_grouping(self) -> None:
        owner = type(self).__name__
        if not self._symmetric:
            raise ConfigurationError("only symmetric grids can be grouped", where=f"{owner}(symmetric)", got="False")
        if self._decompressed_bw < self.bitwidth:
            raise ConfigurationError(
                "too few bits",
                where=f"{owner}(decompressed_bw)",
                got=str(self._decompressed_bw),
                expected=f"at least bitwidth = {self.bitwidth}",
            )
        grouping = self._block_grouping
        if len(grouping) != len(self.shape) or any(
            group != -1 and (group < 1 or blocks % group) for blocks, group in zip(self.shape, grouping, strict=False)
        ):
            raise ConfigurationError(
                "the grouping does not divide the blocks",
                where=f"{owner}(block_grouping)",
                got=f"{grouping} for shape {self.shape}",
                expected="for each dimension a divisor of the number of blocks, or -1 for all",
            )

    @property
    def decompressed_bw(self) -> int:
        """Bits of the integers after multiplication by the block's integer scale."""
        return self._decompressed_bw

    @property
    def block_grouping(self) -> tuple[int, ...]:
        """Blocks that share a float scale, in each dimension; -1 means all."""
        return self._block_grouping

    def _group(self, raw_scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return grouped_block_scale(raw_scale, self._block_grouping, self.bitwidth, self._decompressed_bw)

    @override
    def scale_from_range(self, minimum: Tensor, maximum: Tensor) -> tuple[Tensor, Tensor]:
        raw_scale, offset = super().scale_from_range(minimum, maximum)
        return self._group(raw_scale)[0], offset

    def _raw_scale(self) -> Tensor:
        return super().scale_from_range(whole(self._range_parameter("min")), whole(self._range_parameter("max")))[0]

    def get_per_channel_scale(self, dtype: torch.dtype | None = None) -> Tensor | None:
        """Returns the float scale of each group, or ``None`` while uninitialised."""
        return self._group(self._raw_scale())[1].to(dtype or torch.float32) if self.is_initialized() else None

    def get_encodings(self) -> GroupedBlockEncoding | None:
        """Returns both levels of scales as a plain value, or ``None`` while uninitialised."""
        offset = self.get_offset()
        if offset is None:
            return None
        scale, group_scale, integers = (part.detach().cpu() for part in self._group(self._raw_scale()))
        # One entry per block, so that the product with the integers needs no knowledge of the grouping.
        for dimension, blocks in enumerate(self.shape):
            group_scale = group_scale.repeat_interleave(blocks // group_scale.shape[dimension], dimension)
        return GroupedBlockEncoding(
            format=self.format,
            scale=scale.numpy(),
            offset=offset.detach().cpu().numpy(),
            symmetric=True,
            granularity=self.granularity,
            block_size=self.block_size,
            decompressed_bits=self._decompressed_bw,
            per_channel_scale=group_scale.numpy(),
            per_block_int_scale=integers.to(torch.int64).numpy(),
        )

    def set_encodings(self, encoding: Encoding) -> None:
        """Takes over grid and scales of ``encoding``.

        Raises:
            TypeError: If ``encoding`` is not a `GroupedBlockEncoding`.
            ShapeError: If it has another number of scales or another block size.
        """
        if not isinstance(encoding, GroupedBlockEncoding):
            raise TypeError(
                f"{type(self).__name__}.set_encodings: got a {type(encoding).__name__}, expected a GroupedBlockEncoding"
            )
        before = self._decompressed_bw
        self._decompressed_bw = encoding.decompressed_bits
        try:
            import_encoding(self, encoding)
        except BaseException:
            self._decompressed_bw = before
            raise

    @classmethod
    def from_encodings(cls, encoding: Encoding) -> Self:
        """Makes a quantizer that has the grid, the grouping and the scales of ``encoding``."""
        if not isinstance(encoding, GroupedBlockEncoding):
            raise TypeError(f"{cls.__name__}: got a {type(encoding).__name__}, expected a GroupedBlockEncoding")
        shape = tuple(encoding.scale.shape)
        quantizer = cls(
            shape,
            encoding.format.bits,
            encoding.symmetric,
            encoding.decompressed_bits,
            block_size=encoding.block_size,
            block_grouping=_grouping(encoding),
        )
        quantizer.set_encodings(encoding)
        return quantizer

    @override
    def persistent_settings(self) -> dict[str, Any]:
        return {
            **super().persistent_settings(),
            "decompressed_bw": self._decompressed_bw,
            "block_grouping": list(self._block_grouping),
        }

    @override
    def restore_settings(self, settings: Mapping[str, Any]) -> None:
        super().restore_settings(settings)
        self._decompressed_bw = int(settings.get("decompressed_bw", self._decompressed_bw))
        self._block_grouping = tuple(settings.get("block_grouping", self._block_grouping))

    @override
    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, decompressed_bw={self._decompressed_bw}, block_grouping={self._block_grouping}"


def _grouping(encoding: GroupedBlockEncoding) -> tuple[int, ...]:
    """The coarsest grouping that explains the float scales: how many neighbouring blocks share theirs."""
    scales = torch.tensor(encoding.per_channel_scale).expand(encoding.scale.shape)
    return tuple(_shared_run(scales, dimension) for dimension in range(scales.dim()))


def _shared_run(scales: Tensor, dimension: int) -> int:
    blocks = scales.shape[dimension]
    for run in range(blocks, 1, -1):
        if blocks % run == 0:
            first_of_run = scales.unflatten(dimension, (blocks // run, run)).select(dimension + 1, 0)
            if torch.equal(first_of_run.repeat_interleave(run, dimension), scales):
                return -1 if run == blocks else run
    return 1
