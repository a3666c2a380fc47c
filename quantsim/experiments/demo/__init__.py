"""quantsim's demo: MiniLM and a digits CNN, in FP32 and under each preset, with accuracies and encodings."""

from __future__ import annotations

from quantsim.experiments.demo.docstrings import CorpusError, DocstringCorpus, build_corpus
from quantsim.experiments.demo.minilm import MissingDemoPackageError, load_minilm
from quantsim.experiments.demo.results import DemoResult, EncodingsFile, ExperimentResult, SchemeResult
from quantsim.experiments.demo.run import SimulationRun, run_demo
from quantsim.experiments.demo.settings import DEMO_PRESETS, DemoSettings
from quantsim.experiments.demo.table import result_table

__all__ = [
    "DEMO_PRESETS",
    "CorpusError",
    "DemoResult",
    "DemoSettings",
    "DocstringCorpus",
    "EncodingsFile",
    "ExperimentResult",
    "MissingDemoPackageError",
    "SchemeResult",
    "SimulationRun",
    "build_corpus",
    "load_minilm",
    "result_table",
    "run_demo",
]
