from __future__ import annotations

import pytest
import torch

from quantsim.experiments.demo.digits import DigitsCNN, digits_accuracy, load_digits, train_digits_cnn


def test_the_split_is_fixed_disjoint_and_complete() -> None:
    data, again = load_digits(), load_digits()
    assert torch.equal(data.test_images, again.test_images)
    assert len(data.train_images) + len(data.test_images) == 1797
    assert data.train_images.shape[1:] == (1, 8, 8)
    assert 0 <= float(data.train_images.min()) < float(data.train_images.max()) <= 1
    assert not torch.equal(data.test_labels, load_digits(seed=1).test_labels)


def test_the_model_is_small_and_holds_a_depthwise_convolution_and_batch_norm() -> None:
    model = DigitsCNN()
    assert 12_000 < sum(parameter.numel() for parameter in model.parameters()) < 16_000
    assert any(isinstance(module, torch.nn.Conv2d) and module.groups > 1 for module in model.modules())
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())


def test_training_repeats_itself_and_leaves_the_global_generator_alone() -> None:
    data = load_digits()
    state = torch.random.get_rng_state()
    first = train_digits_cnn(data, epochs=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    second = train_digits_cnn(data, epochs=1)
    assert not first.training
    assert torch.equal(digits_accuracy(first, data)[1], digits_accuracy(second, data)[1])


@pytest.mark.slow
def test_fifteen_epochs_reach_98_percent() -> None:
    data, epochs = load_digits(), []
    model = train_digits_cnn(data, on_epoch=lambda: epochs.append(1))
    assert len(epochs) == 15
    assert digits_accuracy(model, data)[0] > 0.98
