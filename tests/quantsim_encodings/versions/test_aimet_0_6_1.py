from __future__ import annotations

from pathlib import Path

from quantsim_encodings import Producer, read

DATA = Path(__file__).parents[1] / "data"


def test_header_and_sections_of_a_real_file() -> None:
    document = read(DATA / "m_0.6.1.encodings")
    assert document.producer == Producer("aimet-torch", "2.42.0")
    assert document.quantizer_args is not None
    assert document.quantizer_args["quant_scheme"] == "min_max"
    assert [entry.name for entry in document if entry.parameter] == [
        "pc.weight",
        "bq.weight_0",
        "up.weight_0",
        "lpbq.weight_0",
    ]
    assert all(entry.tensor is None for entry in document)
