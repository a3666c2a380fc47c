# pyright: reportIncompatibleMethodOverride=false, reportIncompatibleVariableOverride=false
# fmt: off

"""Written by `python -m quantsim.layers.stubs`; do not edit."""

from typing import Any

import quantsim.nn
from quantsim.layers.generation import FloatPrecisionLayer
from quantsim_encodings.formats import BlockFormat, FloatFormat, RoundingMode

__all__ = [
    "QuantizedAdaptiveAvgPool1d",
    "QuantizedAdaptiveAvgPool2d",
    "QuantizedAdaptiveAvgPool3d",
    "QuantizedAdaptiveMaxPool1d",
    "QuantizedAdaptiveMaxPool2d",
    "QuantizedAdaptiveMaxPool3d",
    "QuantizedAvgPool1d",
    "QuantizedAvgPool2d",
    "QuantizedAvgPool3d",
    "QuantizedBatchNorm1d",
    "QuantizedBatchNorm2d",
    "QuantizedBatchNorm3d",
    "QuantizedBilinear",
    "QuantizedCELU",
    "QuantizedConv1d",
    "QuantizedConv2d",
    "QuantizedConv3d",
    "QuantizedConvTranspose1d",
    "QuantizedConvTranspose2d",
    "QuantizedConvTranspose3d",
    "QuantizedDropout",
    "QuantizedELU",
    "QuantizedEmbedding",
    "QuantizedEmbeddingBag",
    "QuantizedGELU",
    "QuantizedGLU",
    "QuantizedGRU",
    "QuantizedGRUCell",
    "QuantizedGroupNorm",
    "QuantizedHardsigmoid",
    "QuantizedHardswish",
    "QuantizedHardtanh",
    "QuantizedInstanceNorm1d",
    "QuantizedInstanceNorm2d",
    "QuantizedInstanceNorm3d",
    "QuantizedLSTM",
    "QuantizedLSTMCell",
    "QuantizedLayerNorm",
    "QuantizedLeakyReLU",
    "QuantizedLinear",
    "QuantizedLinearNorm",
    "QuantizedLogSigmoid",
    "QuantizedLogSoftmax",
    "QuantizedMaxPool1d",
    "QuantizedMaxPool2d",
    "QuantizedMaxPool3d",
    "QuantizedMish",
    "QuantizedMultiheadAttention",
    "QuantizedPReLU",
    "QuantizedRMSNorm",
    "QuantizedRNN",
    "QuantizedRNNCell",
    "QuantizedReLU",
    "QuantizedReLU6",
    "QuantizedSELU",
    "QuantizedSiLU",
    "QuantizedSigmoid",
    "QuantizedSoftmax",
    "QuantizedSoftmin",
    "QuantizedSoftplus",
    "QuantizedSoftsign",
    "QuantizedTanh",
]

class QuantizedLinear(FloatPrecisionLayer, quantsim.nn.QuantizedLinear):
    def __init__(
        self,
        in_features: int,
        out_features: int,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        rmode: int | str | RoundingMode = 1,
        *,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedBilinear(FloatPrecisionLayer, quantsim.nn.QuantizedBilinear):
    def __init__(
        self,
        in1_features: int,
        in2_features: int,
        out_features: int,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        rmode: int | str | RoundingMode = 1,
        *,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedConv1d(FloatPrecisionLayer, quantsim.nn.QuantizedConv1d):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        stride: Any = 1,
        padding: Any = 0,
        rmode: int | str | RoundingMode = 1,
        *,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Any = 'zeros',
        device: Any = None,
        dtype: Any = None,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedConv2d(FloatPrecisionLayer, quantsim.nn.QuantizedConv2d):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        stride: Any = 1,
        padding: Any = 0,
        rmode: int | str | RoundingMode = 1,
        *,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Any = 'zeros',
        device: Any = None,
        dtype: Any = None,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedConv3d(FloatPrecisionLayer, quantsim.nn.QuantizedConv3d):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        stride: Any = 1,
        padding: Any = 0,
        rmode: int | str | RoundingMode = 1,
        *,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Any = 'zeros',
        device: Any = None,
        dtype: Any = None,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedConvTranspose1d(FloatPrecisionLayer, quantsim.nn.QuantizedConvTranspose1d):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        stride: Any = 1,
        padding: Any = 0,
        rmode: int | str | RoundingMode = 1,
        *,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        padding_mode: Any = 'zeros',
        device: Any = None,
        dtype: Any = None,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedConvTranspose2d(FloatPrecisionLayer, quantsim.nn.QuantizedConvTranspose2d):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        stride: Any = 1,
        padding: Any = 0,
        rmode: int | str | RoundingMode = 1,
        *,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        padding_mode: Any = 'zeros',
        device: Any = None,
        dtype: Any = None,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedConvTranspose3d(FloatPrecisionLayer, quantsim.nn.QuantizedConvTranspose3d):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        stride: Any = 1,
        padding: Any = 0,
        rmode: int | str | RoundingMode = 1,
        *,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        padding_mode: Any = 'zeros',
        device: Any = None,
        dtype: Any = None,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedEmbedding(FloatPrecisionLayer, quantsim.nn.QuantizedEmbedding):
    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        rmode: int | str | RoundingMode = 1,
        *,
        padding_idx: Any = None,
        max_norm: Any = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        device: Any = None,
        dtype: Any = None,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedEmbeddingBag(FloatPrecisionLayer, quantsim.nn.QuantizedEmbeddingBag):
    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        rmode: int | str | RoundingMode = 1,
        *,
        max_norm: Any = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = 'mean',
        sparse: bool = False,
        include_last_offset: bool = False,
        padding_idx: Any = None,
        device: Any = None,
        dtype: Any = None,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedLayerNorm(FloatPrecisionLayer, quantsim.nn.QuantizedLayerNorm):
    def __init__(
        self,
        normalized_shape: Any,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        eps: float = 1e-05,
        rmode: int | str | RoundingMode = 1,
        *,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedRMSNorm(FloatPrecisionLayer, quantsim.nn.QuantizedRMSNorm):
    def __init__(
        self,
        normalized_shape: Any,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        eps: Any = None,
        rmode: int | str | RoundingMode = 1,
        *,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: Any = None,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedGroupNorm(FloatPrecisionLayer, quantsim.nn.QuantizedGroupNorm):
    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        eps: float = 1e-05,
        rmode: int | str | RoundingMode = 1,
        *,
        affine: bool = True,
        device: Any = None,
        dtype: Any = None,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedBatchNorm1d(FloatPrecisionLayer, quantsim.nn.QuantizedBatchNorm1d):
    def __init__(
        self,
        num_features: int,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        eps: float = 1e-05,
        momentum: Any = 0.1,
        rmode: int | str | RoundingMode = 1,
        *,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedBatchNorm2d(FloatPrecisionLayer, quantsim.nn.QuantizedBatchNorm2d):
    def __init__(
        self,
        num_features: int,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        eps: float = 1e-05,
        momentum: Any = 0.1,
        rmode: int | str | RoundingMode = 1,
        *,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedBatchNorm3d(FloatPrecisionLayer, quantsim.nn.QuantizedBatchNorm3d):
    def __init__(
        self,
        num_features: int,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        eps: float = 1e-05,
        momentum: Any = 0.1,
        rmode: int | str | RoundingMode = 1,
        *,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedInstanceNorm1d(FloatPrecisionLayer, quantsim.nn.QuantizedInstanceNorm1d):
    def __init__(
        self,
        num_features: int,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        eps: float = 1e-05,
        momentum: float = 0.1,
        rmode: int | str | RoundingMode = 1,
        *,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Any = None,
        dtype: Any = None,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedInstanceNorm2d(FloatPrecisionLayer, quantsim.nn.QuantizedInstanceNorm2d):
    def __init__(
        self,
        num_features: int,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        eps: float = 1e-05,
        momentum: float = 0.1,
        rmode: int | str | RoundingMode = 1,
        *,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Any = None,
        dtype: Any = None,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedInstanceNorm3d(FloatPrecisionLayer, quantsim.nn.QuantizedInstanceNorm3d):
    def __init__(
        self,
        num_features: int,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        eps: float = 1e-05,
        momentum: float = 0.1,
        rmode: int | str | RoundingMode = 1,
        *,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Any = None,
        dtype: Any = None,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedMultiheadAttention(FloatPrecisionLayer, quantsim.nn.QuantizedMultiheadAttention):
    def __init__(
        self,
        embed_dim: Any,
        num_heads: Any,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        dropout: Any = 0.0,
        rmode: int | str | RoundingMode = 1,
        *,
        bias: Any = True,
        add_bias_kv: Any = False,
        add_zero_attn: Any = False,
        kdim: Any = None,
        vdim: Any = None,
        batch_first: Any = True,
        device: Any = None,
        dtype: Any = None,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedRNN(FloatPrecisionLayer, quantsim.nn.QuantizedRNN):
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        num_layers: int = 1,
        bias: bool = True,
        nonlinearity: str = 'tanh',
        rmode: int | str | RoundingMode = 1,
        *,
        batch_first: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedLSTM(FloatPrecisionLayer, quantsim.nn.QuantizedLSTM):
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        num_layers: int = 1,
        bias: bool = True,
        rmode: int | str | RoundingMode = 1,
        *,
        batch_first: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        proj_size: int = 0,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedGRU(FloatPrecisionLayer, quantsim.nn.QuantizedGRU):
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        num_layers: int = 1,
        bias: bool = True,
        rmode: int | str | RoundingMode = 1,
        *,
        batch_first: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedRNNCell(FloatPrecisionLayer, quantsim.nn.QuantizedRNNCell):
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        bias: bool = True,
        nonlinearity: str = 'tanh',
        rmode: int | str | RoundingMode = 1,
        *,
        device: Any = None,
        dtype: Any = None,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedLSTMCell(FloatPrecisionLayer, quantsim.nn.QuantizedLSTMCell):
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        bias: bool = True,
        rmode: int | str | RoundingMode = 1,
        *,
        device: Any = None,
        dtype: Any = None,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedGRUCell(FloatPrecisionLayer, quantsim.nn.QuantizedGRUCell):
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        bias: bool = True,
        rmode: int | str | RoundingMode = 1,
        *,
        device: Any = None,
        dtype: Any = None,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedReLU(FloatPrecisionLayer, quantsim.nn.QuantizedReLU):
    def __init__(
        self,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        rmode: int | str | RoundingMode = 1,
        *,
        inplace: bool = False,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedReLU6(FloatPrecisionLayer, quantsim.nn.QuantizedReLU6):
    def __init__(
        self,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        rmode: int | str | RoundingMode = 1,
        *,
        inplace: bool = False,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedLeakyReLU(FloatPrecisionLayer, quantsim.nn.QuantizedLeakyReLU):
    def __init__(
        self,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        rmode: int | str | RoundingMode = 1,
        *,
        negative_slope: float = 0.01,
        inplace: bool = False,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedPReLU(FloatPrecisionLayer, quantsim.nn.QuantizedPReLU):
    def __init__(
        self,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        rmode: int | str | RoundingMode = 1,
        *,
        num_parameters: int = 1,
        init: float = 0.25,
        device: Any = None,
        dtype: Any = None,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedELU(FloatPrecisionLayer, quantsim.nn.QuantizedELU):
    def __init__(
        self,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        rmode: int | str | RoundingMode = 1,
        *,
        alpha: float = 1.0,
        inplace: bool = False,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedCELU(FloatPrecisionLayer, quantsim.nn.QuantizedCELU):
    def __init__(
        self,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        rmode: int | str | RoundingMode = 1,
        *,
        alpha: float = 1.0,
        inplace: bool = False,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedSELU(FloatPrecisionLayer, quantsim.nn.QuantizedSELU):
    def __init__(
        self,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        rmode: int | str | RoundingMode = 1,
        *,
        inplace: bool = False,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedGELU(FloatPrecisionLayer, quantsim.nn.QuantizedGELU):
    def __init__(
        self,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        rmode: int | str | RoundingMode = 1,
        *,
        approximate: str = 'none',
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedSiLU(FloatPrecisionLayer, quantsim.nn.QuantizedSiLU):
    def __init__(
        self,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        rmode: int | str | RoundingMode = 1,
        *,
        inplace: bool = False,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedMish(FloatPrecisionLayer, quantsim.nn.QuantizedMish):
    def __init__(
        self,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        rmode: int | str | RoundingMode = 1,
        *,
        inplace: bool = False,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedGLU(FloatPrecisionLayer, quantsim.nn.QuantizedGLU):
    def __init__(
        self,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        rmode: int | str | RoundingMode = 1,
        *,
        dim: int = -1,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedHardswish(FloatPrecisionLayer, quantsim.nn.QuantizedHardswish):
    def __init__(
        self,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        rmode: int | str | RoundingMode = 1,
        *,
        inplace: bool = False,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedHardsigmoid(FloatPrecisionLayer, quantsim.nn.QuantizedHardsigmoid):
    def __init__(
        self,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        rmode: int | str | RoundingMode = 1,
        *,
        inplace: bool = False,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedHardtanh(FloatPrecisionLayer, quantsim.nn.QuantizedHardtanh):
    def __init__(
        self,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        rmode: int | str | RoundingMode = 1,
        *,
        min_val: float = -1.0,
        max_val: float = 1.0,
        inplace: bool = False,
        min_value: Any = None,
        max_value: Any = None,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedSoftplus(FloatPrecisionLayer, quantsim.nn.QuantizedSoftplus):
    def __init__(
        self,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        rmode: int | str | RoundingMode = 1,
        *,
        beta: float = 1.0,
        threshold: float = 20.0,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedSoftsign(FloatPrecisionLayer, quantsim.nn.QuantizedSoftsign):
    def __init__(
        self,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        rmode: int | str | RoundingMode = 1,
        *,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedTanh(FloatPrecisionLayer, quantsim.nn.QuantizedTanh):
    def __init__(
        self,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        rmode: int | str | RoundingMode = 1,
        *,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedSigmoid(FloatPrecisionLayer, quantsim.nn.QuantizedSigmoid):
    def __init__(
        self,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        rmode: int | str | RoundingMode = 1,
        *,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedLogSigmoid(FloatPrecisionLayer, quantsim.nn.QuantizedLogSigmoid):
    def __init__(
        self,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        rmode: int | str | RoundingMode = 1,
        *,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedSoftmax(FloatPrecisionLayer, quantsim.nn.QuantizedSoftmax):
    def __init__(
        self,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        rmode: int | str | RoundingMode = 1,
        *,
        dim: Any = None,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedLogSoftmax(FloatPrecisionLayer, quantsim.nn.QuantizedLogSoftmax):
    def __init__(
        self,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        rmode: int | str | RoundingMode = 1,
        *,
        dim: Any = None,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedSoftmin(FloatPrecisionLayer, quantsim.nn.QuantizedSoftmin):
    def __init__(
        self,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        rmode: int | str | RoundingMode = 1,
        *,
        dim: Any = None,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedDropout(FloatPrecisionLayer, quantsim.nn.QuantizedDropout):
    def __init__(
        self,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        rmode: int | str | RoundingMode = 1,
        *,
        p: float = 0.5,
        inplace: bool = False,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedMaxPool1d(FloatPrecisionLayer, quantsim.nn.QuantizedMaxPool1d):
    def __init__(
        self,
        kernel_size: Any,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        stride: Any = None,
        padding: Any = 0,
        rmode: int | str | RoundingMode = 1,
        *,
        dilation: Any = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedMaxPool2d(FloatPrecisionLayer, quantsim.nn.QuantizedMaxPool2d):
    def __init__(
        self,
        kernel_size: Any,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        stride: Any = None,
        padding: Any = 0,
        rmode: int | str | RoundingMode = 1,
        *,
        dilation: Any = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedMaxPool3d(FloatPrecisionLayer, quantsim.nn.QuantizedMaxPool3d):
    def __init__(
        self,
        kernel_size: Any,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        stride: Any = None,
        padding: Any = 0,
        rmode: int | str | RoundingMode = 1,
        *,
        dilation: Any = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedAvgPool1d(FloatPrecisionLayer, quantsim.nn.QuantizedAvgPool1d):
    def __init__(
        self,
        kernel_size: Any,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        stride: Any = None,
        padding: Any = 0,
        rmode: int | str | RoundingMode = 1,
        *,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedAvgPool2d(FloatPrecisionLayer, quantsim.nn.QuantizedAvgPool2d):
    def __init__(
        self,
        kernel_size: Any,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        stride: Any = None,
        padding: Any = 0,
        rmode: int | str | RoundingMode = 1,
        *,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: Any = None,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedAvgPool3d(FloatPrecisionLayer, quantsim.nn.QuantizedAvgPool3d):
    def __init__(
        self,
        kernel_size: Any,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        stride: Any = None,
        padding: Any = 0,
        rmode: int | str | RoundingMode = 1,
        *,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: Any = None,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedAdaptiveAvgPool1d(FloatPrecisionLayer, quantsim.nn.QuantizedAdaptiveAvgPool1d):
    def __init__(
        self,
        output_size: Any,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        rmode: int | str | RoundingMode = 1,
        *,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedAdaptiveAvgPool2d(FloatPrecisionLayer, quantsim.nn.QuantizedAdaptiveAvgPool2d):
    def __init__(
        self,
        output_size: Any,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        rmode: int | str | RoundingMode = 1,
        *,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedAdaptiveAvgPool3d(FloatPrecisionLayer, quantsim.nn.QuantizedAdaptiveAvgPool3d):
    def __init__(
        self,
        output_size: Any,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        rmode: int | str | RoundingMode = 1,
        *,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedAdaptiveMaxPool1d(FloatPrecisionLayer, quantsim.nn.QuantizedAdaptiveMaxPool1d):
    def __init__(
        self,
        output_size: Any,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        rmode: int | str | RoundingMode = 1,
        *,
        return_indices: bool = False,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedAdaptiveMaxPool2d(FloatPrecisionLayer, quantsim.nn.QuantizedAdaptiveMaxPool2d):
    def __init__(
        self,
        output_size: Any,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        rmode: int | str | RoundingMode = 1,
        *,
        return_indices: bool = False,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

class QuantizedAdaptiveMaxPool3d(FloatPrecisionLayer, quantsim.nn.QuantizedAdaptiveMaxPool3d):
    def __init__(
        self,
        output_size: Any,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        rmode: int | str | RoundingMode = 1,
        *,
        return_indices: bool = False,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> None: ...

QuantizedLinearNorm = QuantizedLayerNorm
