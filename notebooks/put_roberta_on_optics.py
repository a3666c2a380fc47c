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
# # Put RoBERTa on optics
#
# What would a language model answer if its matrix products were made by light? This notebook fine-tunes a small RoBERTa
# with real weights, puts it on a simulated photonic engine with one call, finds out why the first answers are so
# much worse, repairs that, dims the light, and trains through the optics.
#
# It needs no network, no GPU and two or three minutes.

# %%
import copy
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

warnings.filterwarnings("ignore", message="IProgress not found")  # a missing progress bar's
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from quantsim.errors import NotCalibratedError
from quantsim.experiments.glue.preparation import prepare
from quantsim.experiments.transformed_model import calibrate_transformed, load_transformed, save_transform
from quantsim.optical import OtLinear
from quantsim.transforms import optical_transformer_module_transform_pass

logging.set_verbosity_error()
logging.disable_progress_bar()
torch.manual_seed(0)
console = Console(width=80)

# %% [markdown]
# ## The model and its task
#
# RoBERTa in shape and code, with the weights of all-MiniLM-L6-v2. The task is in CoLA's format: is this a sentence of
# the standard library's docstrings as it was written, or are its words shuffled? Only their order tells.

# %%
folder = Path(tempfile.mkdtemp())
prepare(folder)
tokenizer = AutoTokenizer.from_pretrained(folder / "roberta-minilm")
model = AutoModelForSequenceClassification.from_pretrained(folder / "roberta-minilm", num_labels=2)


def batches(name: str, count: int, size: int) -> list[dict[str, torch.Tensor]]:
    rows = [line.split("\t") for line in (folder / "cola" / name).read_text().splitlines()[:count]]
    found = []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        batch = tokenizer([row[3] for row in part], padding=True, truncation=True, max_length=32, return_tensors="pt")
        found.append(dict(batch) | {"labels": torch.tensor([int(row[1]) for row in part])})
    return found


train, dev = batches("train.tsv", 1600, size=32), batches("dev.tsv", 300, size=100)
print(*(line.split("\t")[3] for line in (folder / "cola" / "dev.tsv").read_text().splitlines()[:4]), sep="\n")


# %%
@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    model.eval()
    right = [(model(**batch).logits.argmax(-1) == batch["labels"]).float().mean() for batch in dev]
    return float(torch.stack(right).mean())


def tune(model: nn.Module, steps: list[dict[str, torch.Tensor]], rate: float) -> list[float]:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=len(steps), pct_start=0.2)
    losses = []
    for batch in steps:
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return losses


tune(model, train, 3e-4)
exact = accuracy(model)
print(f"float32: {exact:.1%} of {sum(len(batch['labels']) for batch in dev)} sentences")

# %% [markdown]
# ## One call
#
# `attn` are the products inside attention, `fc` all linear layers but those of the task's head. Nothing else is asked
# for here, so every parameter has its published default: 256 levels, a modulator that cannot go darker than 2 % of the
# largest weight, and a detector with half a level of noise either way.

# %%
PUBLISHED = {"attn": {}, "fc": {}}
optical = optical_transformer_module_transform_pass(copy.deepcopy(model), PUBLISHED).eval()
print(Counter(name for m in optical.modules() if (name := type(m).__name__).startswith("Ot")))
try:
    optical(**dev[0])
except NotCalibratedError as error:
    print("\nNotCalibratedError:", error)

# %% [markdown]
# An engine that has seen no data has no ranges, and says so. A few training batches give it some; nothing is trained.


# %%
def on_optics(pass_args: dict) -> nn.Module:
    engine = optical_transformer_module_transform_pass(copy.deepcopy(model), pass_args)
    calibrate_transformed(engine, [{k: v for k, v in batch.items() if k != "labels"} for batch in train[:4]])
    return engine


first = accuracy(on_optics(PUBLISHED))
print(f"float32 {exact:.1%}, on optics as published {first:.1%}")

# %% [markdown]
# ## Where it goes wrong
#
# Here are the weights of one layer before and after the engine got hold of them. The range reaches to the largest
# weight, and the floor is a fraction of that: whatever lies below it becomes one of two numbers.

# %%
broken = on_optics(PUBLISHED)
path, layer = next((path, m) for path, m in broken.named_modules() if type(m) is OtLinear and "intermediate" in path)
quantizer = layer.param_quantizers["weight"]
weight = layer.weight.detach()
lo, hi = quantizer.range.tolist()
inside = ((weight > lo * quantizer.lut) & (weight < hi * quantizer.lut)).float().mean()

figure, axes = plt.subplots(figsize=(8, 2.8), layout="constrained")
bins = torch.linspace(-0.15, 0.15, 151).tolist()
axes.hist(weight.flatten(), bins, color="#9ca3af", label="weights")
axes.hist(quantizer(weight).detach().flatten(), bins, histtype="step", color="#c2410c", label="on the engine")
axes.set_yscale("log")
axes.set_title(f"{path}: range {lo:.2f} … {hi:.2f}, {inside:.0%} of the weights below the floor", fontsize=10)
axes.legend(frameon=False)
axes.spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# Two ways out. A modulator that goes darker (`q_lut_min: null`); or a range that leaves outliers out (`q_quantiles`),
# which lowers the floor with it and clips a few large values instead. And one for attention: `attn_range: row` gives
# each row of probabilities the levels from 0 to its own largest, instead of 0 to 1.

# %%
engines = {
    "as published": {},
    "quantiles 0.001, 0.999": {"q_quantiles": (0.001, 0.999)},
    "no floor": {"q_lut_min": None},
    "no floor, quantiles 0.0001, 0.9999": {"q_lut_min": None, "q_quantiles": (0.0001, 0.9999)},
}
engines["the same, rows of attention"] = engines["no floor, quantiles 0.0001, 0.9999"] | {"attn_range": "row"}

table = Table("engine, 256 levels", "accuracy", title=f"Not trained for optics; float32 has {exact:.1%}")
scores = {name: accuracy(on_optics({"attn": given, "fc": given})) for name, given in engines.items() if given}
for name in engines:
    table.add_row(name, f"{scores.get(name, first):.1%}")
console.print(table)

# %% [markdown]
# ## Fewer levels, less light
#
# Levels cost energy and so does light. With `noise: shot` the detector counts photons: a signal of *n* photons comes
# with a standard deviation of √*n*, and `photons` are those of one multiply-accumulate at full scale.

# %%
GOOD = engines["the same, rows of attention"]


def score(**more: object) -> float:
    settings = GOOD | more
    return 100 * accuracy(on_optics({"attn": settings, "fc": settings}))


levels = (16, 64, 256)
photons = (0.1, 1.0, 10.0)
by_level = [*(score(q_levels=number) for number in levels[:-1]), 100 * scores["the same, rows of attention"]]
by_light = [score(noise="shot", photons=number) for number in photons]

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained", sharey=True)
left.semilogx(levels, by_level, marker="o", color="#1d4ed8", base=2)
left.set_xticks(levels, map(str, levels))
left.minorticks_off()
left.set_xlabel("levels")
left.set_ylabel("accuracy, %")
right.semilogx(photons, by_light, marker="o", color="#1d4ed8")
right.set_xlabel("photons for each multiply-accumulate, 256 levels")
for axes in (left, right):
    axes.axhline(100 * exact, color="#6b7280", linewidth=0.8, linestyle=":")
    axes.axhline(50, color="#6b7280", linewidth=0.8, linestyle="--")
    axes.spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# Dotted: float32. Dashed: a coin.
#
# ## Train through the optics
#
# In training the forward pass is optical, noise included, and the gradient passes straight through the levels. Ranges
# follow the data. So leave the engine as it was published, and let the model get used to it.

# %%
student = on_optics(PUBLISHED)
tune(student, train[:30], 3e-4)
after = accuracy(student)
print(f"as published: {first:.1%} as calibrated, {after:.1%} after 30 steps; float32 {exact:.1%}")

# %% [markdown]
# ## Keep it
#
# Ranges and noise seeds are saved with the weights, and the transform beside them. What is loaded computes the same, to
# the last bit, noise included.

# %%
student.save_pretrained(folder / "optical")
save_transform(folder / "optical", PUBLISHED)
loaded = load_transformed(folder / "optical", AutoModelForSequenceClassification).eval()
with torch.no_grad():
    assert torch.equal(loaded(**dev[0]).logits, student(**dev[0]).logits)
print(sorted(path.name for path in (folder / "optical").iterdir()))
