"""The 1,797 handwritten digits that ship inside scikit-learn, split for training and testing, and shuffled into batches.

Nothing is downloaded. Everything random follows from a seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradc.runtime.command.errors import CommandError

TEST_SHARE = 0.2
BRIGHTEST = 16.0


@dataclass(frozen=True)
class Digits:
    """Images (N, 64) float32 from 0 to 1 with labels (N,) int32, to learn from and to be tested on."""

    images: np.ndarray
    labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def load_digits(seed: int, limit: int | None = None) -> Digits:
    """The digits in a random order, or the first `limit` of them, a fifth set aside. Raises CommandError without scikit-learn."""
    try:
        from sklearn import datasets
    except ImportError as problem:
        raise CommandError(
            "the demo's digits ship inside scikit-learn, which is not installed", "pip install scikit-learn"
        ) from problem
    bunch = datasets.load_digits()
    order = np.random.default_rng(seed).permutation(len(bunch.target))[:limit]
    images, labels = (bunch.data[order] / BRIGHTEST).astype(np.float32), bunch.target[order].astype(np.int32)
    held = round(TEST_SHARE * len(order))
    return Digits(images[held:], labels[held:], images[:held], labels[:held])


def batches(digits: Digits, size: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The training images once, in a random order, in whole batches; what does not fill the last one is left out."""
    order = np.random.default_rng(seed).permutation(len(digits.labels))
    for start in range(0, len(order) - size + 1, size):
        chosen = order[start : start + size]
        yield digits.images[chosen], digits.labels[chosen]
