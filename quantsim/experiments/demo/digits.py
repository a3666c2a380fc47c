"""scikit-learn's digits with a small CNN that is trained on the spot in a few seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["DigitsCNN", "DigitsData", "digits_accuracy", "load_digits", "train_digits_cnn"]

_TEST_SHARE = 0.4  # 719 images: one changed answer is 0.14 points


@dataclass(frozen=True)
class DigitsData:
    """The 1797 8x8 images, split once.

    Attributes:
        train_images: (images, 1, 8, 8) float32 in [0, 1].
        train_labels: (images,) int64.
        test_images: (images, 1, 8, 8) float32 in [0, 1].
        test_labels: (images,) int64.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


class DigitsCNN(nn.Module):
    """Depthwise-separable CNN with batch normalisation, about 14,000 parameters.

    Shapes: (images, 1, 8, 8) to (images, 10) logits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 16, kernel_size=3, padding=1, groups=16, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, kernel_size=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(512, 24), nn.ReLU(), nn.Linear(24, 10))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (images, 10) of images (images, 1, 8, 8)."""
        return self.classifier(self.features(images))


def load_digits(seed: int = 0) -> DigitsData:
    """Loads the digits that ship with scikit-learn and splits them 60 : 40 with a generator of its own."""
    from sklearn.datasets import load_digits as read_digits  # lazy: a demo extra

    pixels, names = read_digits(return_X_y=True)
    images = torch.as_tensor(pixels).float().div(16.0).reshape(-1, 1, 8, 8)
    labels = torch.as_tensor(names).long()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    test, train = order.split([round(_TEST_SHARE * len(order)), len(order) - round(_TEST_SHARE * len(order))])
    return DigitsData(images[train], labels[train], images[test], labels[test])


def train_digits_cnn(
    data: DigitsData,
    *,
    epochs: int = 15,
    batch_size: int = 32,
    seed: int = 0,
    on_epoch: Callable[[], None] | None = None,
) -> DigitsCNN:
    """Trains the CNN from scratch and returns it in evaluation mode.

    Weights are drawn inside :func:`torch.random.fork_rng` and batches from an own generator, so the caller's random
    state stays as it was and the result is the same on each run of one machine.

    Args:
        data: Images and labels.
        epochs: Passes over the training images.
        batch_size: Images in a step.
        seed: Seed of weights and shuffling.
        on_epoch: Called after each epoch, for a progress bar.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DigitsCNN()
    generator = torch.Generator().manual_seed(seed)
    steps = -(-len(data.train_images) // batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=epochs * steps)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(data.train_images), generator=generator).split(batch_size):
            loss = nn.functional.cross_entropy(
                model(data.train_images[batch]), data.train_labels[batch], label_smoothing=0.1
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
        if on_epoch is not None:
            on_epoch()
    return model.eval()


@torch.no_grad()
def digits_accuracy(model: Callable[[Tensor], Tensor], data: DigitsData) -> tuple[float, Tensor]:
    """Share of test images named right, and the logits (images, 10) behind it."""
    logits = model(data.test_images)
    return float((logits.argmax(dim=1) == data.test_labels).double().mean()), logits
