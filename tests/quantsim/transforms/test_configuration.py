from __future__ import annotations

from pathlib import Path

import pytest

from quantsim.errors import ConfigurationError
from quantsim.transforms import load_transform_config

CONFIG = {"by": "regex_name", ".*mlp.*": {"exp_bits": 4, "sig_bits": 3}, "lm_head": None, "default": {"format": "bf16"}}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "pass.yaml",
            "by: regex_name\n'.*mlp.*': {exp_bits: 4, sig_bits: 3}\nlm_head: null\ndefault:\n  format: bf16\n",
        ),
        (
            "pass.JSON",
            """{"by": "regex_name", ".*mlp.*": {"exp_bits": 4, "sig_bits": 3}, "lm_head": null,
                "default": {"format": "bf16"}}""",
        ),
        ("pass.yml", "base: &base {format: bf16}\n"),
    ],
)
def test_both_kinds_of_file_are_read_in_order(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    values = load_transform_config(path)
    if name == "pass.yml":
        assert values == {"base": {"format": "bf16"}}
    else:
        assert values == CONFIG and list(values) == list(CONFIG)


def test_yaml_merges_are_no_repetition(tmp_path: Path) -> None:
    path = tmp_path / "merge.yaml"
    path.write_text("by: name\na: &a {exp_bits: 4, sig_bits: 3}\nb: {<<: *a, rmode: 5}\n")
    assert load_transform_config(str(path))["b"] == {"exp_bits": 4, "sig_bits": 3, "rmode": 5}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("none.yaml", None, "no such file"),
        ("pass.toml", "by = 'name'", r"\.json or \.yaml"),
        ("pass.json", "{", "cannot be read"),
        ("pass.yaml", "a: [", "cannot be read"),
        ("pass.yaml", "- by", "expected one mapping"),
        ("pass.yaml", "", "expected one mapping"),
        ("pass.json", "3", "expected one mapping"),
        ("pass.yaml", "by: name\nfc: {}\nfc: {}\n", "'fc' occurs twice"),
        ("pass.json", '{"by": "name", "fc": {"bits": 1, "bits": 2}}', "'bits' occurs twice"),
        ("pass.yaml", "!!python/object/apply:os.getcwd []", "cannot be read"),
        ("pass.yaml", "? [a]\n: 1\n", "cannot be read"),
        ("pass.json", "[" * 100_000, "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, name: str, text: str | None, words: str) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigurationError, match=words):
        load_transform_config(path)


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.yaml"
    path.write_text("#" * (4 * 1024 * 1024 + 1))
    with pytest.raises(ConfigurationError, match="too large"):
        load_transform_config(path)
