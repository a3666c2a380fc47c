"""The demo's two models with their data: how to calibrate them and what to measure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.progress import Progress
from torch import Tensor, nn

from quantsim.experiments.demo.digits import digits_accuracy, load_digits, train_digits_cnn
from quantsim.experiments.demo.docstrings import DocstringCorpus, build_corpus
from quantsim.experiments.demo.evaluation import LinearProbe, retrieval_at_1
from quantsim.experiments.demo.minilm import TokenBatch, embed, load_minilm, tokenize
from quantsim.experiments.demo.settings import DemoSettings

__all__ = ["Measured", "Workload", "digits_workload", "minilm_workload"]

_MINILM, _DIGITS = "all-MiniLM-L6-v2", "Digits CNN"
_DIGITS_CALIBRATION_IMAGES = 256
_INSPECTED_TEXTS = 8
_INSPECTED_IMAGES = 64


@dataclass(frozen=True)
class Measured:
    """What one evaluation gave.

    Attributes:
        accuracy: Share of right answers.
        retrieval_at_1: Share of queries answered right; None where there is no retrieval.
        outputs: (samples, features), compared with those in FP32.
    """

    accuracy: float
    retrieval_at_1: float | None
    outputs: Tensor


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A float model with its data.

    Attributes:
        model: Short name, used in file names.
        title: Name for people.
        task: What is measured on what, in sentences.
        reference: The float model in evaluation mode.
        example_inputs: Inputs a simulation is built with.
        calibrate: Runs a simulation on the calibration data.
        evaluate: Measures a model; calls its second argument ``evaluation_steps`` times, for a progress bar.
        evaluation_steps: Steps of one evaluation.
        forward: Runs a model on a small batch of test inputs, to look at its layers.
    """

    model: str
    title: str
    task: str
    reference: nn.Module
    example_inputs: Any
    calibrate: Callable[[Callable[..., object]], object]
    evaluate: Callable[[Callable[..., Any], Callable[[], None]], Measured]
    evaluation_steps: int
    forward: Callable[[Callable[..., Any]], object]


def minilm_workload(settings: DemoSettings, progress: Progress) -> Workload:
    """MiniLM on the docstrings: probe accuracy and retrieval.

    Args:
        settings: How many texts.
        progress: Gets the steps of the preparation.
    """
    step = progress.add_task(f"{_MINILM}: read texts and weights", total=2)
    corpus = build_corpus(
        train_per_package=settings.train_per_package,
        test_per_package=settings.test_per_package,
        pairs=settings.pairs,
        calibration=settings.calibration_texts,
        seed=settings.seed,
    )
    progress.advance(step)
    model, tokenizer = load_minilm()
    progress.advance(step)

    def batches(texts: Sequence[str]) -> tuple[TokenBatch, ...]:
        return tokenize(tokenizer, texts, max_tokens=settings.max_tokens)

    train = batches(corpus.train_texts)
    step = progress.add_task(f"{_MINILM}: fit the probe", total=len(train) + 1)
    probe = LinearProbe(embed(model, train, lambda: progress.advance(step)), corpus.train_labels)
    progress.advance(step)

    calibration = batches(corpus.calibration_texts)
    pair_texts = [*(pair.summary for pair in corpus.pairs), *(pair.passage for pair in corpus.pairs)]
    evaluated = batches([*corpus.test_texts, *pair_texts])
    middle = evaluated[len(evaluated) // 2]

    def calibrate(simulation: Callable[..., object]) -> None:
        for batch in calibration:
            simulation(**batch.inputs)

    def evaluate(encoder: Callable[..., Any], on_step: Callable[[], None]) -> Measured:
        outputs = embed(encoder, evaluated, on_step)
        tests, queries, passages = outputs.split([len(corpus.test_texts), len(corpus.pairs), len(corpus.pairs)])
        return Measured(probe.accuracy(tests, corpus.test_labels), retrieval_at_1(queries, passages), outputs)

    return Workload(
        model="minilm",
        title=_MINILM,
        task=_minilm_task(corpus),
        reference=model,
        example_inputs=calibration[0].inputs,
        calibrate=calibrate,
        evaluate=evaluate,
        evaluation_steps=len(evaluated),
        forward=lambda module: module(
            input_ids=middle.input_ids[:_INSPECTED_TEXTS], attention_mask=middle.attention_mask[:_INSPECTED_TEXTS]
        ),
    )


def _minilm_task(corpus: DocstringCorpus) -> str:
    embeddings = len(corpus.test_texts) + 2 * len(corpus.pairs)
    return (
        f"Docstrings of Python {corpus.python_version}'s standard library. Accuracy: which of {len(corpus.packages)} "
        f"packages a docstring comes from ({len(corpus.test_texts)} texts), by a linear probe fitted once on FP32 "
        f"embeddings of {len(corpus.train_texts)} others. Retrieval: a docstring's summary must find its own next "
        f"paragraph among {len(corpus.pairs)}. Cosine and SQNR: all {embeddings} normalised sentence embeddings "
        f"against FP32. Ranges were calibrated on {len(corpus.calibration_texts)} texts that appear in none of these."
    )


def digits_workload(settings: DemoSettings, progress: Progress) -> Workload:
    """The digits CNN, trained here.

    Args:
        settings: Epochs and seed.
        progress: Gets the steps of the training.
    """
    data = load_digits(settings.seed)
    step = progress.add_task(f"{_DIGITS}: train", total=settings.epochs)
    model = train_digits_cnn(data, epochs=settings.epochs, seed=settings.seed, on_epoch=lambda: progress.advance(step))
    calibration = data.train_images[:_DIGITS_CALIBRATION_IMAGES]

    def evaluate(classifier: Callable[..., Any], on_step: Callable[[], None]) -> Measured:
        accuracy, logits = digits_accuracy(classifier, data)
        on_step()
        return Measured(accuracy, None, logits)

    return Workload(
        model="digits",
        title=_DIGITS,
        task=(
            "scikit-learn's 8x8 digits, a depthwise-separable CNN with batch normalisation trained just now for "
            f"{settings.epochs} epochs. Accuracy: {len(data.test_images)} test images. Cosine and SQNR: their logits "
            f"against FP32. Ranges were calibrated on {len(calibration)} training images."
        ),
        reference=model,
        example_inputs=calibration[:8],
        calibrate=lambda simulation: simulation(calibration),
        evaluate=evaluate,
        evaluation_steps=1,
        forward=lambda module: module(data.test_images[:_INSPECTED_IMAGES]),
    )
