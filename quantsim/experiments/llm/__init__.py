"""Causal language models on simulated optics: training, post-training transform, tuning, a sweep over levels.

The command line and what runs it are in `quantsim.experiments.llm.arguments`, `training` and `levels`, which load
transformers.
"""

from __future__ import annotations

from quantsim.experiments.llm.bytes_data import LanguageText, TextBlocks, byte_encoder, docstring_text, file_text
from quantsim.experiments.llm.model import ByteLlamaSize, load_language_model, new_byte_llama
from quantsim.experiments.llm.results import LanguageResult, LanguageStage, read_language_results

__all__ = [
    "ByteLlamaSize",
    "LanguageResult",
    "LanguageStage",
    "LanguageText",
    "TextBlocks",
    "byte_encoder",
    "docstring_text",
    "file_text",
    "load_language_model",
    "new_byte_llama",
    "read_language_results",
]
