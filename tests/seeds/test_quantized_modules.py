"""Every example of the quantized-modules page that quantsim was asked to be compatible with, run with only the import
changed."""

from __future__ import annotations

import doctest
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import quantsim.nn
from quantsim.quantization import affine

PAGE = (Path(__file__).parent / "quantized-modules.rst.txt").read_text(encoding="utf-8")

# The only change a user makes, and the page's one slip: ``param_quantizers`` is a ModuleDict, as the page says itself
# two lines later.
IMPORTS = {"aimet_torch.v2.nn": "quantsim.nn", "aimet_torch.v2.quantization": "quantsim.quantization"}
SLIP = ("param_quantizers[0]", 'param_quantizers["weight"]')


def examples() -> dict[str, str]:
    """The page's examples by their heading: each ``Example`` line and the indented interpreter session under it."""
    found = re.findall(r"^Example:?([^\n]*)\n((?:[ ]+[^\n]*(?:\n|\Z))+)", PAGE, flags=re.MULTILINE)
    return {heading.strip(" :") or "Computing Encodings": session for heading, session in found}


EXAMPLES = examples()


def with_quantsim(session: str) -> str:
    """The session with the imports changed (and the slip mended)."""
    for old, new in IMPORTS.items():
        session = session.replace(old, new)
    return session.replace(*SLIP)


class WhereThePageShowsIt(doctest.OutputChecker):
    """Compares what is printed where the page shows it; the page leaves out what a bare expression in a loop would
    echo."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return not want or super().check_output(want, got, optionflags)


def run(heading: str) -> dict[str, Any]:
    """Run one example as a doctest, printed values compared, and return the names it leaves."""
    generator = torch.Generator().manual_seed(0)
    names: dict[str, Any] = {
        "quantsim": quantsim,
        "affine": affine,  # the first example imports it for the whole page
        "calibration_data_loader": [(torch.randn(4, 5, generator=generator), None) for _ in range(3)],
    }
    test = doctest.DocTestParser().get_doctest(with_quantsim(EXAMPLES[heading]), names, heading, None, None)
    assert test.examples
    report: list[str] = []
    outcome = doctest.DocTestRunner(checker=WhereThePageShowsIt(), verbose=False).run(
        test, out=report.append, clear_globs=False
    )
    assert outcome.failed == 0, "".join(report)
    assert outcome.attempted == len(test.examples)
    return test.globs


def test_every_example_of_the_page_is_found() -> None:
    assert len(EXAMPLES) == PAGE.count("Example:") == 4
    prompts = sum(session.count(">>>") for session in EXAMPLES.values())
    assert prompts == PAGE.count(">>>") == 18
    assert PAGE.count(SLIP[0]) == 1


@pytest.mark.parametrize("heading", EXAMPLES, ids=lambda heading: re.sub(r"\W+", "-", heading)[:60])
def test_example_runs_with_only_the_import_changed(heading: str) -> None:
    run(heading)


def example_with(text: str) -> dict[str, Any]:
    (heading,) = (heading for heading, session in EXAMPLES.items() if text in session)
    return run(heading)


def test_the_weight_only_linear_quantizes_per_channel() -> None:
    qlinear = example_with("per_channel_quantizer")["qlinear"]
    assert list(qlinear.input_quantizers) == [None] and list(qlinear.output_quantizers) == [None]
    x = torch.randn(3, 5)
    with qlinear.compute_encodings():
        qlinear(x)
    quantizer = qlinear.param_quantizers["weight"]
    expected = torch.nn.functional.linear(x, quantizer(qlinear.weight), qlinear.bias)
    assert torch.equal(qlinear(x), expected)
    assert not torch.equal(qlinear(x), torch.nn.functional.linear(x, qlinear.weight, qlinear.bias))


def test_the_multiply_quantizes_its_output_and_second_input_only() -> None:
    qmul = example_with("qmul")["qmul"]
    assert qmul.input_quantizers[0] is None
    a, b = torch.randn(4, 5), torch.randn(4, 5)
    with qmul.compute_encodings():
        assert torch.equal(qmul(a, b), a * b)
    assert torch.equal(qmul(a, b), qmul.output_quantizers[0](a * qmul.input_quantizers[1](b)))


def test_the_add_shares_one_quantizer_between_its_inputs() -> None:
    names = example_with("qadd")
    qadd = names["qadd"]
    assert qadd.input_quantizers[0] is qadd.input_quantizers[1] is names["quantizer"]
    small, large = torch.linspace(-1, 1, 9), torch.linspace(-2, 5, 9)
    with qadd.compute_encodings():
        qadd(small, large)
    quantizer = names["quantizer"]
    # One range over both inputs, which covers the larger.
    assert quantizer.get_min().item() == pytest.approx(-2, abs=0.03)
    assert quantizer.get_max().item() == pytest.approx(5, abs=0.03)
    assert torch.equal(qadd(small, large), quantizer(small) + quantizer(large))


def test_the_calibrated_linear_covers_what_the_loader_gave() -> None:
    names = example_with("calibration_data_loader")
    qlinear = names["qlinear"]
    with torch.no_grad():
        outputs = torch.cat(
            [
                torch.nn.functional.linear(x, qlinear.param_quantizers["weight"](qlinear.weight), qlinear.bias)
                for x, _ in names["calibration_data_loader"]
            ]
        )
    step = qlinear.output_quantizers[0].get_scale().item()
    assert abs(qlinear.output_quantizers[0].get_min().item() - outputs.min().item()) <= step
    assert abs(qlinear.output_quantizers[0].get_max().item() - outputs.max().item()) <= step


@pytest.mark.parametrize("name", ["BaseQuantizationMixin", "FakeQuantizationMixin", "QuantizationMixin"])
def test_the_classes_the_page_names_are_there(name: str) -> None:
    assert name in PAGE
    assert isinstance(getattr(quantsim.nn, name), type)


def test_the_members_the_page_documents_are_there() -> None:
    documented = re.search(r":exclude-members: (.*)", PAGE)
    assert documented is not None
    for member in [*documented.group(1).split(", "), "__quant_init__", "compute_encodings"]:
        assert hasattr(quantsim.nn.BaseQuantizationMixin, member), member


def test_the_three_containers_are_of_the_documented_types() -> None:
    rows = re.findall(r"^(\w+_quantizers)\s+torch\.nn\.(Module\w+)", PAGE, flags=re.MULTILINE)
    assert len(rows) == 3
    qlinear = quantsim.nn.QuantizedLinear(out_features=10, in_features=5)
    for attribute, container in rows:
        assert isinstance(getattr(qlinear, attribute), getattr(torch.nn, container))
