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
# %% [markdown]
# # From quantization-aware training to memory images
#
# A small network that reads handwritten digits goes the whole way to hardware that has integers only: train it,
# simulate 4-bit weights and 8-bit activations, train on with the rounding in place, turn it into a graph of integers,
# check that every executor computes the same integers, and write the memories that a chip loads, with the proof that
# they are right.
#
# It needs no network and no GPU, and takes about a minute.

# %%
import copy
import shutil
import subprocess
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

from quantsim.dualpath import to_integer
from quantsim.dualpath.agreement import compare_with_fake_quantization
from quantsim.experiments.demo.digits import digits_accuracy, load_digits, train_digits_cnn
from quantsim.export import MemoryTiling, load_chip, nn2chip
from quantsim.export.chip import fully_connected_test_bench
from quantsim.sim import IntegerSetting, QuantizationSimModel, SimulationConfig, preset

data = load_digits()
model = train_digits_cnn(data)
float_accuracy, float_logits = digits_accuracy(model, data)
print(f"{len(data.test_images)} test images, {float_accuracy:.2%} named right in float32")

# %% [markdown]
# ## Simulate
#
# The preset `integer_w8a8` puts a quantizer behind everything that computes, which is what integers need. Its weights
# are replaced by 4-bit ones, and all its steps become parameters that training moves (`method="lsq"`, learned step
# size).


# %%
def configuration(bits: int) -> SimulationConfig:
    weights = IntegerSetting(bits=bits, granularity="channel", method="lsq")
    activations = IntegerSetting(bits=8, symmetric=False, method="lsq")
    changes = {"name": f"integer_w{bits}a8", "weights": weights, "activations": activations}
    return preset("integer_w8a8").model_copy(update=changes)


def simulate(bits: int) -> QuantizationSimModel:
    sim = QuantizationSimModel(copy.deepcopy(model), data.train_images[:8], config=configuration(bits))
    sim.compute_encodings([data.train_images[:256]])
    return sim


sim = simulate(4)
print(sim.summary())

# %% [markdown]
# ## Train on
#
# Ordinary training: the simulation is a module. What is rounded in the forward lets gradients pass in the backward. At
# 4 bits this easy task loses almost nothing even without training, so the same is done with 2 bits, to see what
# training is able to win back.


# %%
def fine_tune(sim: QuantizationSimModel, epochs: int = 3) -> list[float]:
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(sim.model.parameters(), lr=2e-3)
    steps = epochs * -(-len(data.train_images) // 32)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    sim.model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(data.train_images), generator=generator).split(32):
            logits = sim.model(data.train_images[batch])
            loss = nn.functional.cross_entropy(logits, data.train_labels[batch], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
    sim.model.eval()
    return losses


def weight_codes(sim: QuantizationSimModel) -> torch.Tensor:
    """The 4-bit integers of the largest layer."""
    layer = sim.model.get_submodule("classifier.1")
    quantizer = layer.param_quantizers["weight"]
    with torch.no_grad():
        return (quantizer(layer.weight) / quantizer.get_scale()).round().int()


coarse = simulate(2)
losses = {}
before = weight_codes(sim)
for name, each in (("4 bits", sim), ("2 bits", coarse)):
    untrained = digits_accuracy(each.model, data)[0]
    losses[name] = fine_tune(each)
    print(f"{name}: {untrained:.2%} after calibration, {digits_accuracy(each.model, data)[0]:.2%} after training")
after = weight_codes(sim)

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
for name, values in losses.items():
    left.plot(np.convolve(values, np.ones(10) / 10, mode="valid"), label=name)
left.set(title="training with rounding", xlabel="step", ylabel="loss")
left.legend()
grid = np.arange(-8, 8)
for shift, (name, codes) in zip((-0.2, 0.2), (("calibrated", before), ("trained", after)), strict=True):
    right.bar(grid + shift, [(codes == code).float().mean() for code in grid], width=0.4, label=name)
right.set(title="weights of classifier.1", xlabel="4-bit integer", ylabel="share")
right.legend()
plt.show()

# %% [markdown]
# ## Integers
#
# `to_integer` turns the simulation into a graph in which only integers travel. A convolution, the norm behind it and
# the ReLU are one node with one rounding. `strict=True` would refuse a model of which anything stays float.

# %%
integer = to_integer(sim, data.test_images[:8], strict=True)
print(integer.coverage)
for node in integer.graph.nodes:
    value = integer.graph.values[node.output]
    weight = node.constants.get("weight")
    held = "" if weight is None else f"weights {weight.min()} to {weight.max()}, {weight.dtype}"
    print(f"{node.name:22} {value.dtype:6} {' x '.join(map(str, value.shape)):22} {held}")

# %% [markdown]
# Three executors compute the graph: NumPy in 64 bits, which is the truth, torch, and ONNX Runtime. They agree on every
# integer of every node.

# %%
truth = integer.run_integers(data.test_images, executor="numpy")
for executor in ("torch", "onnxruntime"):
    found = integer.run_integers(data.test_images, executor=executor)
    differing = sum(int((found[name] != truth[name]).sum()) for name in truth)
    print(f"{executor:12} {sum(array.size for array in truth.values()):,} integers, {differing} differ")
    assert differing == 0

# %% [markdown]
# And what does the step from fake quantization to integers cost? Integers have biases that are whole steps of the sum,
# and round halves away from zero where the simulation rounds them to even. So, given the same integers, a node is now
# and then one step away from what fake quantization computes, and never more.

# %%
for each in compare_with_fake_quantization(integer, data.test_images):
    print(f"{each.value:22} {each.share:6.2%} differ, by {each.steps} at most")
    assert each.steps <= 1

# %% [markdown]
# On the way through the model such steps add up, and cancel. What counts is what is read in the end.

# %%
fake_accuracy, fake_logits = digits_accuracy(sim.model, data)
integer_accuracy, integer_logits = digits_accuracy(integer, data)
print(f"float32            {float_accuracy:.2%}")
print(f"fake quantization  {fake_accuracy:.2%}")
print(f"integers           {integer_accuracy:.2%}")
assert abs(integer_accuracy - fake_accuracy) <= 0.002
assert integer_accuracy >= float_accuracy - 0.01

step = integer.graph.values[integer.graph.outputs[0]].grid.scale
moved = ((integer_logits - fake_logits) / step).round().int()
print("logits that differ by", {int(k): int((moved == k).sum()) for k in moved.unique()}, "steps")

# %% [markdown]
# ## A folder for the chip
#
# `nn2chip` takes the simulation, or the integer model. It writes the folder, reads it back, computes all vectors again,
# and only then gives it its name. The array of this chip has 8 by 8 processing elements.

# %%
folder = Path(tempfile.mkdtemp()) / "digits-chip"
chip = nn2chip(sim, folder, data.test_images[:4], tiling=MemoryTiling(rows=8, columns=8), strict=True)
print(str(chip).replace(str(folder.parent), "..."))
for path in sorted(folder.iterdir()):
    files = [each for each in (path.rglob("*") if path.is_dir() else [path]) if each.is_file()]
    count = f"{len(files)} files" if path.is_dir() else ""
    print(f"{path.name:22} {sum(each.stat().st_size for each in files):9,} bytes  {count}")

# %% [markdown]
# A weight memory is text for Verilog's `$readmemh`: eight 4-bit integers in a word, in two's complement, the first in
# the lowest bits. Eight words are a tile of 8 outputs by 8 inputs.

# %%
layer = next(node for node in chip.manifest.nodes if node.module == "classifier.1")
memory = layer.constants["weight"].memory
path = folder / memory.files["hex"]
words = path.read_text().split()
print(path.name, "has", memory.words, "words of", memory.word_bits, "bits; the first tile:")
for row, word in enumerate(words[:8]):
    nibbles = [int(digit, 16) for digit in reversed(word)]
    print(f"  {word}   output {row}: {[code - 16 if code > 7 else code for code in nibbles]}")

weight = chip.node(layer.name).constants["weight"]
assert [code - 16 if code > 7 else code for code in nibbles] == weight[7, :8].tolist()

fig, axis = plt.subplots(figsize=(9, 2.2), layout="constrained")
picture = axis.imshow(weight[:, :128], cmap="RdBu", vmin=-8, vmax=8, aspect="auto")
for edge in range(8, 128, 8):
    axis.axvline(edge - 0.5, color="black", linewidth=0.3)
for edge in range(8, 24, 8):
    axis.axhline(edge - 0.5, color="black", linewidth=0.3)
axis.set(title="the first tiles of classifier.1", xlabel="input", ylabel="output")
fig.colorbar(picture, label="4-bit integer")
plt.show()

# %% [markdown]
# ## Is it right?
#
# `load_chip` checks the digest of every file. `verify` decodes every memory and computes every test vector again, with
# whichever executor.

# %%
again = load_chip(folder)
for executor in ("numpy", "torch", "onnxruntime"):
    replay = again.verify(executor)
    print(replay)
    assert replay.is_exact

# %% [markdown]
# One changed digit does not go unnoticed.

# %%
good = path.read_text()
path.write_text(good.replace(words[0], f"{int(words[0], 16) ^ 1:08x}", 1))
try:
    load_chip(folder)
except ValueError as error:
    print(str(error).replace(str(folder.parent), "..."))
_ = path.write_text(good)

# %% [markdown]
# ## In Verilog
#
# A test bench for one fully connected layer comes with it. It loads the layer's memories and vectors, multiplies, adds,
# rounds, and compares. If Icarus Verilog is installed, here is what it says.

# %%
bench = folder.parent / "layer.v"
bench.write_text(fully_connected_test_bench(again, layer.name))
print(bench.read_text().split("quantsim: parameters begin\n")[1].split("    // quantsim: parameters end")[0])
if shutil.which("iverilog"):
    program = folder.parent / "layer"
    subprocess.run(["iverilog", "-g2005-sv", "-o", program, bench], check=True)
    print(subprocess.run(["vvp", program], cwd=folder, check=True, capture_output=True, text=True).stdout)

# %% [markdown]
# ## What next
#
# * [Two paths](../docs/dual-path.md): the arithmetic in formulas, layers with two paths, a quantizer of your own.
# * [Training and pruning for few bits](../docs/methods.md): other methods than LSQ, and masks that hold.
# * [Folders for integer hardware](../docs/chip-folders.md): every file, and how tiles lie in memory.
# * The same from the shell: `quantsim calibrate`, `quantsim export --to chip`, `quantsim chip verify`.
