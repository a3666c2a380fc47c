"""Records what aimet-torch 2.42.0 computes, for ``test_aimet_vectors.py``.

Run it in an environment that has aimet-torch: ``python record_aimet_vectors.py``. It writes ``aimet_vectors.npz``
beside itself.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


def main() -> None:
    import torch
    from aimet_cases import GRADIENT_LAYOUTS, GROUPED, LAYOUTS, range_cases, tensor, upstream_gradient
    from aimet_torch.quantization import affine
    from aimet_torch.quantization import encoding_analyzer as analyzers

    torch.set_num_threads(1)

    def make_analyzer(name, shape, block_size):
        if name == "minmax":
            return analyzers.MinMaxEncodingAnalyzer(shape, block_size)
        if name.startswith("percentile"):
            percentile = float(name.removeprefix("percentile"))
            return analyzers.PercentileEncodingAnalyzer(shape, percentile=percentile, block_size=block_size)
        return analyzers.SqnrEncodingAnalyzer(shape, gamma=1.0 if name == "mse" else 3.0, block_size=block_size)

    def plain(value):
        return value.detach().as_subclass(torch.Tensor).numpy().copy()

    found, scales, offsets = {}, [], []
    for case in range_cases():
        shape, block_size = LAYOUTS[case.layout]
        x = torch.tensor(tensor(case.distribution))
        analyzer = make_analyzer(case.analyzer, shape, block_size)
        quantizer = affine.QuantizeDequantize(shape, case.bits, case.symmetric, analyzer, block_size)
        # Not compute_encodings(): it would search the range of every batch as well, ten times slower.
        analyzer.update_stats(x)
        minimum, maximum = analyzer.compute_encodings(2**case.bits - 1, case.symmetric)
        quantizer.set_range(minimum.view(shape), maximum.view(shape))
        scales.append(plain(quantizer.get_scale()).ravel())
        offsets.append(plain(quantizer.get_offset()).ravel().astype(np.int32))
    # One array each, in the order of the cases: a thousand small ones are ten times as large.
    found["scales"], found["offsets"] = np.concatenate(scales), np.concatenate(offsets)

    gradient = torch.tensor(upstream_gradient())
    for layout in GRADIENT_LAYOUTS:
        shape, block_size = LAYOUTS[layout]
        for symmetric in (True, False):
            quantizer = affine.QuantizeDequantize(shape, 4, symmetric, block_size=block_size)
            x = torch.tensor(tensor("skewed"), requires_grad=True)
            # A range that clips, so that all branches of the gradient are seen.
            quantizer.set_range(torch.full(shape, -1.3), torch.full(shape, 1.1))
            output = quantizer(x)
            output.backward(gradient)
            record(found, f"gradient-{layout}-{symmetric}", quantizer, plain(output), x)

    for name, grouping in GROUPED.items():
        quantizer = affine.GroupedBlockQuantizeDequantize(
            (8, 4), 4, True, 8, block_size=(1, 16), block_grouping=grouping
        )
        x = torch.tensor(tensor("skewed"), requires_grad=True)
        with quantizer.compute_encodings():
            quantizer(x.detach())
        output = quantizer(x)
        output.backward(gradient)
        record(found, f"grouped-{name}", quantizer, plain(output), x)
        found[f"grouped-{name}/scale"] = plain(quantizer.get_scale())
        found[f"grouped-{name}/per_channel"] = plain(quantizer.get_per_channel_scale())

    np.savez_compressed(HERE / "aimet_vectors.npz", **found)
    print(f"{len(found)} arrays")


def record(found, name, quantizer, output, x):
    found[f"{name}/output"] = output
    found[f"{name}/dx"] = x.grad.numpy().copy()
    found[f"{name}/dmin"] = quantizer.min.grad.numpy().copy()
    found[f"{name}/dmax"] = quantizer.max.grad.numpy().copy()


if __name__ == "__main__":
    main()
