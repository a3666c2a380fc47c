"""Every example of the optical transform pass's page that quantsim was asked to be compatible with, run as written.

Only the imports are changed, and the model is made here from a small configuration instead of being downloaded.
"""

from __future__ import annotations

import copy
import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import quantsim.nn
from quantsim.optical import OtLinear, attention, linear, sdpa
from quantsim.transforms import optical_transformer_module_transform_pass

transformers = pytest.importorskip("transformers")

PAGE = (Path(__file__).parent / "optical-transform-pass.rst.txt").read_text(encoding="utf-8")
BLOCKS = [
    textwrap.dedent(code)
    for code in re.findall(r"^\.\. code-block:: python\n\n((?:(?:   [^\n]*)?\n)+)", PAGE, re.MULTILINE)
]
PARAMETERS = re.findall(r"^   \* - ``(\w+)``\n     - (\w+)\n     - ([\d.\w]+)$", PAGE, re.MULTILINE)

IMPORTS = {
    "from transformers import AutoModelForCausalLM\n": "",
    "from chop.passes.module.transforms.onn import": "from quantsim.transforms import",
}
IDS = torch.randint(0, 64, (2, 9), generator=torch.Generator().manual_seed(0))


def llama() -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return transformers.LlamaForCausalLM(config)


class LocalModels:
    """Stands in for the hub."""

    @staticmethod
    def from_pretrained(name: str) -> Any:
        assert name == "meta-llama/Llama-2-7b-hf"
        return llama().eval()


def run(block: str) -> dict[str, Any]:
    for old, new in IMPORTS.items():
        block = block.replace(old, new)
    names: dict[str, Any] = {"AutoModelForCausalLM": LocalModels}
    exec(compile(block, "page", "exec"), names)
    return names


def kinds(model: nn.Module) -> dict[str, str]:
    return {path: type(module).__name__ for path, module in model.named_modules() if type(module).__name__[:2] == "Ot"}


def levels(model: nn.Module) -> dict[str, int]:
    return {path: module.settings.q_levels for path, module in model.named_modules() if isinstance(module, OtLinear)}


def test_every_example_of_the_page_is_found() -> None:
    assert len(BLOCKS) == PAGE.count(".. code-block:: python") == 4
    assert [name for name, _, _ in PARAMETERS] == [
        "q_levels", "q_lut_min", "q_smooth_factor", "q_init_seed", "q_bypass"
    ]  # fmt: skip


@pytest.mark.parametrize("number", range(4))
def test_every_configuration_of_the_page_makes_a_model_that_trains_and_evaluates(number: int) -> None:
    names = run(BLOCKS[number])
    before = copy.deepcopy(names["pass_args"])
    model = (
        names["model"] if "model" in names else optical_transformer_module_transform_pass(llama(), names["pass_args"])
    )
    assert names["pass_args"] == before and list(names["pass_args"]) == list(before)
    model.train()
    loss = model(IDS, labels=IDS).loss
    loss.backward()
    assert torch.isfinite(loss) and all(value.grad is not None for value in model.parameters())
    assert torch.isfinite(model.eval()(IDS).logits).all()


def test_the_usage_example_replaces_linear_layers_and_attention() -> None:
    model = run(BLOCKS[1])["model"]
    found = kinds(model)
    assert {path for path, kind in found.items() if kind == "OtLlamaAttention"} == {
        f"model.layers.{layer}.self_attn" for layer in range(2)
    }
    assert sum(kind == "OtLinear" for kind in found.values()) == 2 * 7
    assert type(model.lm_head) is nn.Linear
    with torch.no_grad():
        expected = llama().eval()(IDS).logits
        with quantsim.nn.compute_encodings(model):
            model(IDS)
        got = model(IDS).logits
    assert not torch.equal(got, expected)
    assert float(torch.nn.functional.cosine_similarity(got.flatten(), expected.flatten(), dim=0)) > 0.98


def test_the_first_example_overrides_the_default_in_the_mlps() -> None:
    model = optical_transformer_module_transform_pass(llama(), run(BLOCKS[0])["pass_args"])
    assert {path: 128 if ".mlp." in path else 256 for path in levels(model)} == levels(model)
    assert len(levels(model)) == 14 and "OtLlamaAttention" in kinds(model).values()


def test_the_selective_example_replaces_what_its_patterns_match() -> None:
    pass_args = run(BLOCKS[2])["pass_args"]
    model = optical_transformer_module_transform_pass(llama(), pass_args)
    assert {path: 128 if ".mlp." in path else 256 for path in levels(model)} == levels(model)
    del pass_args[".*mlp.*"]
    model = optical_transformer_module_transform_pass(llama(), pass_args)
    assert all(".self_attn" in path for path in kinds(model)) and len(kinds(model)) >= 2 * 5


def test_bypass_computes_what_the_model_computed() -> None:
    model = optical_transformer_module_transform_pass(llama().eval(), run(BLOCKS[3])["pass_args"])
    assert sum(kind == "OtLinear" for kind in kinds(model).values()) == 14
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, llama().eval()(IDS).logits, rtol=1e-5, atol=1e-6)


def test_parameters_have_the_defaults_of_the_page() -> None:
    signature = inspect.signature(OtLinear).parameters
    for name, kind, default in PARAMETERS:
        assert signature[name].default == eval(default) and type(signature[name].default).__name__ == kind


@pytest.mark.parametrize(
    ("module", "name"), [(linear, "OtLinear"), (attention, "OtLlamaAttention"), (sdpa, "optical_transformer_SDPA")]
)
def test_the_names_of_the_page_are_there(module: Any, name: str) -> None:
    assert name in PAGE
    assert callable(getattr(module, name))


def test_from_linear_copies_the_weights() -> None:
    layer = nn.Linear(4, 2)
    optical = OtLinear.from_linear(layer, q_levels=64, q_lut_min=0.02)
    assert torch.equal(optical.weight, layer.weight) and optical.weight is not layer.weight
