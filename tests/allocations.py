"""A host function run without a device: what it launches, and what it has allocated at once, from its text alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

import gradc


class Array:
    """Stands for an array of a host function: knows its bytes, and lives as long as it or a view of it is named."""

    live = peak = 0
    device, is_cuda = "none", False

    def __init__(self, shape: tuple[int, ...] = (), dtype: Any = torch.bool, device: str = "none"):
        self.bytes = math.prod(shape) * dtype.itemsize
        Array.live += self.bytes
        Array.peak = max(Array.peak, Array.live)

    def __del__(self):
        Array.live -= self.bytes

    def flatten(self, first: int, last: int) -> Array:
        return self

    def __getitem__(self, place: Any) -> tuple[Array]:
        return (self,)


class Torch:
    """What a host function asks of torch."""

    empty = Array

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


class Launches:
    """Stands for a kernel, and counts."""

    count = 0

    def __getitem__(self, grid: tuple[int, ...]) -> Callable:
        Launches.count += 1
        return lambda *arrays, **sizes: None


def launches_and_peak(low: gradc.Lowered, function: str, inputs: int) -> tuple[int, int]:
    """How many launches a host function makes, and the most bytes it has allocated at once."""
    text = low.source[low.source.index(f"def {function}(") :].split("\n\n\n")[0]
    names = {kernel.name: Launches() for kernel in low.kernels}
    space = {"torch": Torch(), "expect": lambda *arguments: None, **names}
    Launches.count = Array.live = Array.peak = 0
    exec(text, space)
    space[function](*(Array() for _ in range(inputs)))
    return Launches.count, Array.peak
