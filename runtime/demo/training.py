"""Trains a learner, gradc's or PyTorch's, on the same batches in the same order, and measures both alike.

A learner takes NumPy batches and keeps its parameters where it computes. Nothing here knows how a step is computed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import optree

from gradc.runtime.demo import digits as model
from gradc.runtime.demo.data import Digits, batches
from gradc.runtime.demo.place import wait_for


class Learner(Protocol):
    """What is trained. `step` returns the loss as a 0-d array that may still be under way on a device; `wait` ends that."""

    def step(self, images: np.ndarray, labels: np.ndarray) -> Any: ...

    def accuracy(self, images: np.ndarray, labels: np.ndarray) -> float: ...

    def wait(self) -> None: ...


@dataclass(frozen=True)
class Training:
    """The mean loss and the accuracy on the test images after each epoch, and the seconds that the steps took in all."""

    losses: tuple[float, ...]
    accuracies: tuple[float, ...]
    steps: int
    seconds: float


class Compiled:
    """gradc's learner: NumPy arrays, or torch tensors on a device."""

    def __init__(self, seed: int, device: str | None = None):
        self.device = device
        self.params = self.placed(model.initial_params(seed))
        self.state = model.optimizer.init(self.params)

    def placed(self, arrays: Any) -> Any:
        """A pytree of NumPy arrays where this learner computes."""
        if self.device is None:
            return arrays
        import torch

        return optree.tree_map(lambda array: torch.from_numpy(array).to(self.device), arrays)

    def step(self, images: np.ndarray, labels: np.ndarray) -> Any:
        self.params, self.state, value = model.train_step(self.params, self.state, *self.placed((images, labels)))
        return value

    def accuracy(self, images: np.ndarray, labels: np.ndarray) -> float:
        return float(model.accuracy(self.params, *self.placed((images, labels))))

    def wait(self) -> None:
        wait_for(self.device)


def fit(learner: Learner, digits: Digits, epochs: int, seed: int, report: Callable[[float, float], None]) -> Training:
    """Trains for `epochs`; after each, `report` is given the mean loss and the accuracy on the test images."""
    losses, accuracies, steps, seconds = [], [], 0, 0.0
    for epoch in range(epochs):
        start = time.perf_counter()
        values = [learner.step(*batch) for batch in batches(digits, model.BATCH, seed + epoch)]
        learner.wait()
        seconds += time.perf_counter() - start
        steps += len(values)
        losses.append(statistics.fmean(float(value) for value in values))
        accuracies.append(learner.accuracy(digits.test_images, digits.test_labels))
        report(losses[-1], accuracies[-1])
    return Training(tuple(losses), tuple(accuracies), steps, seconds)


def median_step_seconds(learners: Sequence[Learner], digits: Digits, repeats: int) -> tuple[float, ...]:
    """The median duration of a step of each learner, taking turns, so that what else the machine does slows all alike."""
    batch = digits.images[: model.BATCH], digits.labels[: model.BATCH]
    durations: list[list[float]] = [[] for _ in learners]
    for _ in range(repeats):
        for learner, taken in zip(learners, durations, strict=True):
            start = time.perf_counter()
            learner.step(*batch)
            learner.wait()
            taken.append(time.perf_counter() - start)
    return tuple(statistics.median(taken) for taken in durations)
