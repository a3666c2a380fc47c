"""The table of quantized modules: one row for each computing module class of torch.nn.

Adding a type is one row; `quantsim.nn.generation` makes ``Quantized<Name>`` and ``FakeQuantized<Name>`` from it.
The module forms of functional ops have their rows in `quantsim.nn.functional_modules`.
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from quantsim.nn.attention import AttentionBehaviour, InputProjection, ProjectionBehaviour
from quantsim.nn.linear_loss import LinearLoss
from quantsim.nn.recurrent import RecurrentCell, RecurrentModule
from quantsim.nn.specification import ModuleSpec

__all__ = ["COMPOSITES", "TORCH_MODULES"]

COMPOSITES: dict[type[nn.Module], str] = {
    nn.Module: "the base of all modules; computes nothing",
    nn.Container: "holds children that are quantized themselves",
    nn.Sequential: "holds children that are quantized themselves",
    nn.ModuleList: "holds children that are quantized themselves",
    nn.ModuleDict: "holds children that are quantized themselves",
    nn.ParameterList: "holds parameters; computes nothing",
    nn.ParameterDict: "holds parameters; computes nothing",
    nn.DataParallel: "copies a module that is quantized itself to several devices",
    nn.RNNBase: "abstract base of RNN, LSTM and GRU",
    nn.RNNCellBase: "abstract base of the recurrent cells",
    nn.Transformer: "made of modules that are quantized themselves",
    nn.TransformerEncoder: "made of modules that are quantized themselves",
    nn.TransformerEncoderLayer: "made of modules that are quantized themselves",
    nn.TransformerDecoder: "made of modules that are quantized themselves",
    nn.TransformerDecoderLayer: "made of modules that are quantized themselves",
    nn.AdaptiveLogSoftmaxWithLoss: "made of Linear modules that are quantized themselves",
}
"""Module classes of torch.nn that have no row, each with the reason."""

row = ModuleSpec.derive

_CONVOLUTION = "stride padding dilation groups"
_TRANSPOSED = "stride padding output_padding groups dilation"
_BATCH_NORM = "running_mean running_var training momentum eps"
_POOL = "kernel_size stride padding"

_LINEAR_AND_CONVOLUTION = (
    row(nn.Linear, "linear", parameters="weight bias", fresh_output=True),
    row(NonDynamicallyQuantizableLinear, "linear", parameters="weight bias", fresh_output=True),
    row(nn.Bilinear, "bilinear", 2, parameters="weight bias", fresh_output=True),
    row(nn.Conv1d, "conv1d", parameters="weight bias", attributes=_CONVOLUTION, fresh_output=True),
    row(nn.Conv2d, "conv2d", parameters="weight bias", attributes=_CONVOLUTION, fresh_output=True),
    row(nn.Conv3d, "conv3d", parameters="weight bias", attributes=_CONVOLUTION, fresh_output=True),
    row(nn.ConvTranspose1d, "conv_transpose1d", parameters="weight bias", attributes=_TRANSPOSED, fresh_output=True),
    row(nn.ConvTranspose2d, "conv_transpose2d", parameters="weight bias", attributes=_TRANSPOSED, fresh_output=True),
    row(nn.ConvTranspose3d, "conv_transpose3d", parameters="weight bias", attributes=_TRANSPOSED, fresh_output=True),
    row(nn.Embedding, "embedding", 0, parameters="weight", fresh_output=True),
    row(nn.EmbeddingBag, "embedding_bag", ("per_sample_weights",), parameters="weight", attributes="mode"),
    row(nn.Fold, "fold", attributes="output_size kernel_size dilation padding stride"),
    row(nn.Unfold, "unfold", attributes="kernel_size dilation padding stride"),
)

# The loops below only spell out families whose rows differ in nothing but the class and the op.

_NORMALIZATION = (
    *(
        row(cls, "batch_norm", parameters="weight bias", attributes=_BATCH_NORM, fresh_output=True)
        for cls in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    ),
    *(
        row(cls, "instance_norm", parameters="weight bias", attributes="momentum eps", fresh_output=True)
        for cls in (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
    ),
    row(nn.LayerNorm, "layer_norm", parameters="weight bias", attributes="normalized_shape eps", fresh_output=True),
    row(nn.RMSNorm, "rms_norm", parameters="weight", attributes="normalized_shape eps", fresh_output=True),
    row(nn.GroupNorm, "group_norm", parameters="weight bias", attributes="num_groups eps", fresh_output=True),
    row(nn.LocalResponseNorm, "local_response_norm", attributes="size alpha beta k", fresh_output=True),
    row(nn.CrossMapLRN2d, "cross_map_lrn2d", attributes="size alpha beta k", fresh_output=True),
)

_ACTIVATION = (
    row(nn.CELU, "celu", attributes="alpha", fresh_output=True),
    row(nn.ELU, "elu", attributes="alpha", fresh_output=True),
    row(nn.GELU, "gelu", attributes="approximate", fresh_output=True),
    row(nn.GLU, "glu", attributes="dim", fresh_output=True),
    row(nn.Hardshrink, "hardshrink", attributes="lambd", fresh_output=True),
    row(nn.Hardsigmoid, "hardsigmoid", fresh_output=True),
    row(nn.Hardswish, "hardswish", fresh_output=True),
    row(nn.Hardtanh, "hardtanh", attributes="min_val max_val", fresh_output=True),
    row(nn.LeakyReLU, "leaky_relu", attributes="negative_slope", fresh_output=True),
    row(nn.LogSigmoid, "logsigmoid", fresh_output=True),
    row(nn.LogSoftmax, "log_softmax", attributes="dim", fresh_output=True),
    row(nn.Mish, "mish", fresh_output=True),
    row(nn.PReLU, "prelu", parameters="weight", fresh_output=True),
    row(nn.RReLU, "rrelu", attributes="lower upper training", fresh_output=True),
    row(nn.ReLU, "relu", fresh_output=True),
    row(nn.ReLU6, "relu6", fresh_output=True),
    row(nn.SELU, "selu", fresh_output=True),
    row(nn.SiLU, "silu", fresh_output=True),
    row(nn.Sigmoid, "sigmoid", fresh_output=True),
    row(nn.Softmax, "softmax", attributes="dim", fresh_output=True),
    row(nn.Softmax2d, "softmax2d", fresh_output=True),
    row(nn.Softmin, "softmin", attributes="dim", fresh_output=True),
    row(nn.Softplus, "softplus", attributes="beta threshold", fresh_output=True),
    row(nn.Softshrink, "softshrink", attributes="lambd", fresh_output=True),
    row(nn.Softsign, "softsign", fresh_output=True),
    row(nn.Tanh, "tanh", fresh_output=True),
    row(nn.Tanhshrink, "tanhshrink", fresh_output=True),
    row(nn.Threshold, "threshold", attributes="threshold value", fresh_output=True),
    row(nn.CosineSimilarity, "cosine_similarity", 2, attributes="dim eps", fresh_output=True),
    row(nn.PairwiseDistance, "pairwise_distance", 2, attributes="norm eps keepdim", fresh_output=True),
    row(nn.MultiheadAttention, "multi_head_attention", 0, outputs=0, behaviour=AttentionBehaviour),
    row(InputProjection, "linear", parameters="weight bias", fresh_output=True, behaviour=ProjectionBehaviour),
)

_POOLING = (
    *(
        row(cls, op, attributes=f"{_POOL} ceil_mode", fresh_output=True)
        for cls, op in ((nn.AvgPool1d, "avg_pool1d"), (nn.AvgPool2d, "avg_pool2d"), (nn.AvgPool3d, "avg_pool3d"))
    ),
    *(
        row(cls, op, attributes=f"{_POOL} dilation ceil_mode return_indices", fresh_output=True)
        for cls, op in ((nn.MaxPool1d, "max_pool1d"), (nn.MaxPool2d, "max_pool2d"), (nn.MaxPool3d, "max_pool3d"))
    ),
    *(
        row(cls, op, attributes="output_size")
        for cls, op in (
            (nn.AdaptiveAvgPool1d, "adaptive_avg_pool1d"),
            (nn.AdaptiveAvgPool2d, "adaptive_avg_pool2d"),
            (nn.AdaptiveAvgPool3d, "adaptive_avg_pool3d"),
        )
    ),
    *(
        row(cls, op, attributes="output_size return_indices")
        for cls, op in (
            (nn.AdaptiveMaxPool1d, "adaptive_max_pool1d"),
            (nn.AdaptiveMaxPool2d, "adaptive_max_pool2d"),
            (nn.AdaptiveMaxPool3d, "adaptive_max_pool3d"),
        )
    ),
    *(
        row(cls, op, attributes="kernel_size output_size output_ratio return_indices")
        for cls, op in (
            (nn.FractionalMaxPool2d, "fractional_max_pool2d"),
            (nn.FractionalMaxPool3d, "fractional_max_pool3d"),
        )
    ),
    *(
        row(cls, op, attributes="norm_type kernel_size stride ceil_mode", fresh_output=True)
        for cls, op in ((nn.LPPool1d, "lp_pool1d"), (nn.LPPool2d, "lp_pool2d"), (nn.LPPool3d, "lp_pool3d"))
    ),
    *(
        row(cls, op, attributes=_POOL)
        for cls, op in (
            (nn.MaxUnpool1d, "max_unpool1d"),
            (nn.MaxUnpool2d, "max_unpool2d"),
            (nn.MaxUnpool3d, "max_unpool3d"),
        )
    ),
)

_SHAPE_AND_DROPOUT = (
    row(nn.Identity, "identity"),
    row(nn.Flatten, "flatten", attributes="start_dim end_dim"),
    row(nn.Unflatten, "unflatten", attributes="dim unflattened_size"),
    row(nn.ChannelShuffle, "channel_shuffle", attributes="groups"),
    row(nn.PixelShuffle, "pixel_shuffle", attributes="upscale_factor"),
    row(nn.PixelUnshuffle, "pixel_unshuffle", attributes="downscale_factor"),
    *(
        row(cls, "interpolate", attributes="size scale_factor mode align_corners recompute_scale_factor")
        for cls in (nn.Upsample, nn.UpsamplingBilinear2d, nn.UpsamplingNearest2d)
    ),
    *(
        row(cls, "pad", attributes="padding")
        for cls in (
            *(nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d),
            *(nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d),
            *(nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d),
            *(nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d),
            *(nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d),
        )
    ),
    *(
        row(cls, op, attributes="p training")
        for cls, op in (
            (nn.Dropout, "dropout"),
            (nn.Dropout1d, "dropout1d"),
            (nn.Dropout2d, "dropout2d"),
            (nn.Dropout3d, "dropout3d"),
            (nn.AlphaDropout, "alpha_dropout"),
            (nn.FeatureAlphaDropout, "feature_alpha_dropout"),
        )
    ),
)

_RECURRENT = (
    row(nn.RNN, "rnn", ("input", "hx"), outputs=2, behaviour=RecurrentModule),
    row(nn.GRU, "gru", ("input", "hx"), outputs=2, behaviour=RecurrentModule),
    row(nn.LSTM, "lstm", ("input", "h", "c"), outputs=3, behaviour=RecurrentModule),
    row(nn.RNNCell, "rnn_cell", 2, behaviour=RecurrentCell),
    row(nn.GRUCell, "gru_cell", 2, behaviour=RecurrentCell),
    row(nn.LSTMCell, "lstm_cell", ("input", "h", "c"), outputs=2, behaviour=RecurrentCell),
)

_LOSS = (
    *(
        row(cls, op, 2)
        for cls, op in (
            (nn.BCELoss, "binary_cross_entropy"),
            (nn.BCEWithLogitsLoss, "binary_cross_entropy_with_logits"),
            (nn.CrossEntropyLoss, "cross_entropy"),
            (nn.HingeEmbeddingLoss, "hinge_embedding_loss"),
            (nn.HuberLoss, "huber_loss"),
            (nn.KLDivLoss, "kl_div"),
            (nn.L1Loss, "l1_loss"),
            (nn.MSELoss, "mse_loss"),
            (nn.MultiLabelMarginLoss, "multilabel_margin_loss"),
            (nn.MultiLabelSoftMarginLoss, "multilabel_soft_margin_loss"),
            (nn.MultiMarginLoss, "multi_margin_loss"),
            (nn.NLLLoss, "nll_loss"),
            (nn.NLLLoss2d, "nll_loss"),
            (nn.PoissonNLLLoss, "poisson_nll_loss"),
            (nn.SmoothL1Loss, "smooth_l1_loss"),
            (nn.SoftMarginLoss, "soft_margin_loss"),
        )
    ),
    row(nn.CTCLoss, "ctc_loss", 1),
    row(nn.CosineEmbeddingLoss, "cosine_embedding_loss", 3),
    row(nn.GaussianNLLLoss, "gaussian_nll_loss", 3),
    row(nn.MarginRankingLoss, "margin_ranking_loss", 3),
    row(nn.TripletMarginLoss, "triplet_margin_loss", 3),
    row(nn.TripletMarginWithDistanceLoss, "triplet_margin_with_distance_loss", 3),
    # Newer than the oldest torch that is supported.
    *(
        row(cls, "linear_cross_entropy", 2, behaviour=LinearLoss)
        for cls in (getattr(nn, "LinearCrossEntropyLoss", None),)
        if cls is not None
    ),
)

_LAZY = tuple(
    row(lazy, op, parameters="weight bias", fresh_output=True, becomes=eager)
    for lazy, eager, op in (
        (nn.LazyLinear, nn.Linear, "linear"),
        (nn.LazyConv1d, nn.Conv1d, "conv1d"),
        (nn.LazyConv2d, nn.Conv2d, "conv2d"),
        (nn.LazyConv3d, nn.Conv3d, "conv3d"),
        (nn.LazyConvTranspose1d, nn.ConvTranspose1d, "conv_transpose1d"),
        (nn.LazyConvTranspose2d, nn.ConvTranspose2d, "conv_transpose2d"),
        (nn.LazyConvTranspose3d, nn.ConvTranspose3d, "conv_transpose3d"),
        (nn.LazyBatchNorm1d, nn.BatchNorm1d, "batch_norm"),
        (nn.LazyBatchNorm2d, nn.BatchNorm2d, "batch_norm"),
        (nn.LazyBatchNorm3d, nn.BatchNorm3d, "batch_norm"),
        (nn.LazyInstanceNorm1d, nn.InstanceNorm1d, "instance_norm"),
        (nn.LazyInstanceNorm2d, nn.InstanceNorm2d, "instance_norm"),
        (nn.LazyInstanceNorm3d, nn.InstanceNorm3d, "instance_norm"),
    )
)

TORCH_MODULES: tuple[ModuleSpec, ...] = (
    *_LINEAR_AND_CONVOLUTION,
    *_NORMALIZATION,
    *_ACTIVATION,
    *_POOLING,
    *_SHAPE_AND_DROPOUT,
    *_RECURRENT,
    *_LOSS,
    *_LAZY,
)
"""One row for each computing module class of torch.nn."""
