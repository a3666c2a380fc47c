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
# # Quantize a model in five minutes
#
# You have a trained PyTorch model and hardware that computes in 8-bit integers. Will the model still be right?
# This notebook answers that for a small image classifier, in the four steps every use of quantsim has:
#
# 1. **simulate**: wrap the model, so that every tensor the hardware rounds is rounded here too;
# 2. **calibrate**: show it data, so that each quantizer learns its range;
# 3. **evaluate**: measure what rounding costs, for the whole model and layer by layer;
# 4. **hand over**: save the encodings, the file your hardware's tools read.
#
# It needs no network, no GPU and about twenty seconds.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn

from quantsim.sim import QuantizationSimModel

_ = torch.manual_seed(0)

# %% [markdown]
# ## A model to quantize
#
# scikit-learn ships 1,797 handwritten digits of 8×8 pixels. We train a small convolutional network on three quarters
# of them. Its third layer is a depthwise convolution: known to be the hard part of such networks, since its channels
# differ much in range.

# %%
digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16.0
labels = torch.tensor(digits.target)
order = torch.randperm(len(images))
train, test = order[:1347], order[1347:]


def build_model() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, groups=32),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 10),
    )


model = build_model()
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-4)
for _epoch in range(15):
    for batch in train[torch.randperm(len(train))].split(64):
        loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
model.eval()


@torch.no_grad()
def accuracy(network: nn.Module) -> float:
    return (network(images[test]).argmax(1) == labels[test]).float().mean().item()


print(f"float32: {accuracy(model):.2%} of {len(test)} test images right")

# %% [markdown]
# ## 1. Simulate
#
# `QuantizationSimModel` copies the model and gives its modules quantizers, as the configuration says. `"w8a8"` means
# 8-bit weights, one scale per output channel, and 8-bit activations, one scale per tensor. `example_inputs` is any
# input the model accepts: one run on it shows how the tensors flow.

# %%
sim = QuantizationSimModel(model, example_inputs=images[:1], config="w8a8")

# %% [markdown]
# ## 2. Calibrate
#
# A quantizer has no range until it has seen data, and says so when used:

# %%
try:
    sim.model(images[:1])
except RuntimeError as error:
    print(f"{type(error).__name__}: {error}")

# %% [markdown]
# Inside `compute_encodings()` activations pass unchanged while the quantizers watch. When the block ends, each turns
# what it saw into an encoding (scale and offset).

# %%
with sim.compute_encodings():
    for batch in train.split(256):
        sim.model(images[batch])

print(sim.summary())

# %% [markdown]
# ## 3. Evaluate
#
# From here on `sim.model` is used as the model was. Other configurations are one word away.


# %%
def simulate(config: str) -> nn.Module:
    simulation = QuantizationSimModel(model, example_inputs=images[:1], config=config)
    with simulation.compute_encodings():
        for batch in train.split(256):
            simulation.model(images[batch])
    return simulation.model


print(f"{'float32':<14} {accuracy(model):.2%}")
for config in ("w8a8", "w8a8_dynamic", "w4a8", "fp8_e4m3"):
    print(f"{config:<14} {accuracy(simulate(config)):.2%}")

# %% [markdown]
# Accuracy on an easy task hides a lot. The signal-to-quantization-noise ratio (SQNR) shows more: how many decibels the
# float output of each layer stands above the error that quantization adds to it. Every 6 dB are one more good bit.

# %%
LAYERS = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]


@torch.no_grad()
def layer_outputs(network: nn.Module) -> dict[str, torch.Tensor]:
    outputs: dict[str, torch.Tensor] = {}
    hooks = [
        network.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: outputs.__setitem__(name, output.clone())
        )
        for name in LAYERS
    ]
    network(images[test])
    for hook in hooks:
        hook.remove()
    return outputs


def sqnr(exact: torch.Tensor, quantized: torch.Tensor) -> float:
    return 10 * torch.log10(exact.square().sum() / (exact - quantized).square().sum()).item()


reference = layer_outputs(model)
figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
for shift, config in enumerate(("w4a8", "w8a8")):
    outputs = layer_outputs(simulate(config))
    values = [sqnr(reference[name], outputs[name]) for name in LAYERS]
    bars = axes.bar([i + 0.4 * shift for i in range(len(LAYERS))], values, width=0.38, label=config)
    axes.bar_label(bars, fmt="%.0f")
axes.set_xticks(
    [i + 0.2 for i in range(len(LAYERS))], [f"{n}\n{type(model.get_submodule(n)).__name__}" for n in LAYERS]
)
axes.margins(y=0.15)
axes.set_ylabel("SQNR (dB)")
axes.set_title("How far each layer's output stands above its quantization error")
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False, ncols=2, loc="upper right")
plt.show()

# %% [markdown]
# ## 4. Hand over
#
# The encodings are a JSON file: in quantsim's own format, which holds everything, or in a version AIMET's tools read.
# Loading it into a fresh simulation gives the same outputs, bit for bit.

# %%
out = Path("out")
out.mkdir(exist_ok=True)
sim.save_encodings(out / "digits.encodings.json")

again = QuantizationSimModel(model, example_inputs=images[:1], config="w8a8")
again.load_encodings(out / "digits.encodings.json")
with torch.no_grad():
    assert torch.equal(again.model(images[test]), sim.model(images[test]))
print(
    f"{(out / 'digits.encodings.json').stat().st_size / 1024:.1f} KiB of encodings; reloaded, the outputs are the same"
)
