# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Which 8-bit format for my model?
#
# Eight bits can be an integer, a float with four, five or three exponent bits, or an element of a block that shares a
# scale. Which of them loses least depends on what your tensors look like, so this notebook asks the tensors: first
# made-up ones, then a small image classifier, then a real sentence encoder.
#
# It needs no network, no GPU and about two minutes.

# %%
import copy
import warnings

import matplotlib.pyplot as plt
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from quantsim.experiments.demo import build_corpus, load_minilm
from quantsim.experiments.demo.digits import digits_accuracy, load_digits, train_digits_cnn
from quantsim.experiments.demo.evaluation import mean_cosine, sqnr_db
from quantsim.experiments.demo.minilm import embed, tokenize
from quantsim.sim import QuantizationSimModel
from quantsim_encodings.formats import float_format
from quantsim_kernels import float_cast, float_decode, float_quantize_dequantize, mx_quantize_dequantize

warnings.filterwarnings("ignore", message="IProgress not found")  # a missing progress bar's
generator = torch.Generator().manual_seed(0)

# %% [markdown]
# ## Where 256 codes go
#
# Every float format places its codes evenly within a power of two, and doubles the step at the next. More exponent bits
# reach further; more fraction bits step finer.

# %%
figure, axes = plt.subplots(figsize=(8, 2.6), layout="constrained")
for row, name in enumerate(("e5m2", "e4m3", "e4m3fn", "e3m4")):
    format = float_format(name)
    numbers = float_decode(torch.arange(256, dtype=torch.uint8), format)
    numbers = numbers[numbers.isfinite() & (numbers > 0)]
    axes.scatter(numbers, torch.full_like(numbers, row), marker="|", s=90, linewidths=0.8)
    axes.text(numbers.max() * 1.6, row, f"{name}: {numbers.min():.2g} … {numbers.max():g}", va="center", fontsize=9)
axes.set_xscale("log", base=2)
axes.set_xlim(2.0**-18, 2.0**31)
axes.set_yticks([])
axes.set_title("Positive numbers of four 8-bit floating-point formats")
axes.spines[["top", "right", "left"]].set_visible(False)
plt.show()

# %% [markdown]
# ## Three kinds of tensor
#
# A bell curve, a long tail, and one with an outlier in every thousand values: the last is what transformer activations
# look like. All formats get the best-case scale (the largest value meets the format's largest number); `mx…` gives
# every 32 values a power-of-two scale of their own.


# %%
def int8(x: torch.Tensor) -> torch.Tensor:
    scale = x.abs().max() / 127
    return (x / scale).round() * scale


def scaled(name: str):
    format = float_format(name)
    return lambda x: float_quantize_dequantize(x, x.abs().max() / format.max, format)


casts = {"int8": int8} | {name: scaled(name) for name in ("e3m4", "e4m3fn", "e5m2")}
casts |= {name: lambda x, name=name: mx_quantize_dequantize(x, name) for name in ("mxint8", "mxfp8_e4m3", "mxfp8_e5m2")}

bell = torch.randn(512, 512, generator=generator)
outliers = bell * torch.where(torch.rand(512, 512, generator=generator) < 1e-3, 60.0, 1.0)
tensors = {"bell curve": bell, "long tail": bell * bell.abs() ** 2, "outliers": outliers}

table = Table("format", *tensors, title="SQNR in dB: higher is better")
for name, cast in casts.items():
    table.add_row(name, *(f"{sqnr_db(x, cast(x)):.1f}" for x in tensors.values()))
Console(width=80).print(table)

# %% [markdown]
# Integers win on the bell curve and lose to anything on outliers: one large value takes the range from all the others.
# Floats do not care how far the outlier lies; blocks keep its harm to 31 neighbours.
#
# ## The classifier
#
# The same on a whole model: weights and activations of every convolution and linear layer. The first five rows are
# *plain casts*, with no scale at all, as hardware without scaling would do; the others are presets.

# %%
data = load_digits(seed=0)
classifier = train_digits_cnn(data, epochs=15, seed=0)


def simulate(model: nn.Module, example, config, calibrate) -> nn.Module:
    simulation = QuantizationSimModel(model, example_inputs=example, config=config)
    with torch.no_grad(), simulation.compute_encodings():
        calibrate(simulation.model)
    return simulation.model


def plain_cast(name: str) -> dict:
    setting = {"kind": "float", "format": name, "scaled": False}
    return {"name": f"{name}, unscaled", "weights": setting, "activations": setting}


PRESETS = ("w8a8_dynamic", "fp8_e4m3", "fp8_e5m2", "mxint8", "mxfp8", "mxfp8_e5m2")
configs = {f"{name}, unscaled": plain_cast(name) for name in ("e3m4", "e4m3", "e4m3fn", "e5m2", "bf16")}
configs |= {name: name for name in PRESETS}

exact_accuracy, exact_logits = digits_accuracy(classifier, data)
table = Table("format", "accuracy", "SQNR of the logits", title=f"Digits: float32 has {exact_accuracy:.2%}")
for name, config in configs.items():
    images = data.train_images[:256]
    model = simulate(classifier, images[:1], copy.deepcopy(config), lambda model, images=images: model(images))
    accuracy, logits = digits_accuracy(model, data)
    table.add_row(name, f"{accuracy:.2%}", f"{sqnr_db(exact_logits, logits):.1f} dB")
Console(width=80).print(table)

# %% [markdown]
# An easy task forgives everything: look at the SQNR. Without scales a format's range must happen to fit the model.
#
# ## The sentence encoder
#
# all-MiniLM-L6-v2 with its real weights, on docstrings of Python's standard library.

# %%
encoder, tokenizer = load_minilm()
corpus = build_corpus(train_per_package=2, test_per_package=8, pairs=20, calibration=32, seed=0)
batches = tokenize(tokenizer, corpus.test_texts, max_tokens=128)
calibration = tokenize(tokenizer, corpus.calibration_texts, max_tokens=128)


def embeddings(model: nn.Module) -> torch.Tensor:
    return embed(model, batches)


exact = embeddings(encoder)
results = {}
for config in PRESETS:
    model = simulate(
        encoder, calibration[0].inputs, config, lambda model: [model(**batch.inputs) for batch in calibration]
    )
    quantized = embeddings(model)
    results[config] = (mean_cosine(exact, quantized), sqnr_db(exact, quantized))

figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
order = sorted(results, key=lambda name: results[name][1])
bars = axes.barh(order, [results[name][1] for name in order], color="#1d4ed8")
axes.bar_label(bars, [f" {results[name][1]:.1f} dB, cosine {results[name][0]:.4f}" for name in order])
axes.set_xlim(right=1.35 * max(value for _, value in results.values()))
axes.set_xlabel("SQNR of the embeddings")
axes.set_title(f"MiniLM in 8 bits, {len(exact)} texts")
axes.spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# ## What to take
#
# * In a small block with a scale of its own, integers are hard to beat: what they lack is range, and the block's scale
#   supplies it. With one scale for a whole tensor they are the first to fail.
# * Among floats more fraction bits win once a scale makes the exponent bits reach: prefer e4m3 to e5m2 for weights
#   and activations, and keep e5m2 for gradients, which span more powers of two.
# * A power-of-two scale (`mxfp8`) costs some decibels against a free one (`fp8_e4m3`): by the rule of OCP's first
#   version the block's largest value may saturate. Hardware multiplies by it for nothing.
# * Without any scale, choose by range first: a format that clips or underflows loses more than one that rounds.

# %%
best = max(results, key=lambda name: results[name][1])
print(f"MiniLM loses least in {best}: {results[best][1]:.1f} dB")
assert float_cast(torch.tensor(500.0), "e4m3fn") == 448.0  # what clips, clips
