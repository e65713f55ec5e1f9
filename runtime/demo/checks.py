"""Holds the training step's kernels and gradients against others: the NumPy reference, NVIDIA's assembler, PyTorch's autograd.

Every comparison is on a real batch of digits. Nothing here prints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import optree

import gradc
from gradc.interpret import to_numpy
from gradc.runtime.demo import digits as model
from gradc.runtime.demo import peer
from gradc.signature import leaf_names


@dataclass(frozen=True)
class Difference:
    """The largest difference between arrays, beside the largest element of its array; in which array, and its absolute size."""

    where: str
    absolute: float
    relative: float


def as_numpy(tree: Any) -> Any:
    """A pytree of arrays of any kind as NumPy arrays."""
    return optree.tree_map(to_numpy, tree)


def largest_difference(got: Mapping[str, np.ndarray], want: Mapping[str, np.ndarray]) -> Difference:
    """Over all arrays, by name; a NaN on either side counts as an infinite difference."""
    found = []
    for name, expected in want.items():
        apart = np.abs(got[name].astype(np.float64) - expected.astype(np.float64))
        absolute = float(np.max(np.where(np.isnan(apart), np.inf, apart), initial=0.0))
        scale = float(np.max(np.abs(expected), initial=0.0))
        found.append(Difference(name, absolute, absolute / scale if scale else absolute))
    return max(found, key=lambda difference: difference.relative)


def interpreted_difference(params: Any, state: Any, images: np.ndarray, labels: np.ndarray) -> Difference:
    """One training step by the emitted kernels, under Triton's interpreter on the CPU, against the NumPy reference."""
    step = model.train_step.function
    got, want = (
        named(gradc.compile(backend=backend)(step)(params, state, images, labels)) for backend in ("interpret", "numpy")
    )
    return largest_difference(got, want)


def named(results: tuple[Any, Any, Any]) -> dict[str, np.ndarray]:
    """What a training step returns, an array by name: `params_0_w`, `state_0_mean_1_b`, `loss`."""
    parts = dict(zip(("params", "state", "loss"), results, strict=True))
    return dict(zip(leaf_names(model.train_step, (), parts), optree.tree_leaves(parts), strict=True))


def autograd_difference(params: Any, images: np.ndarray, labels: np.ndarray, dtype: str) -> Difference:
    """The compiled gradient on NumPy arrays against autograd's, both computed in `dtype`."""
    params, images = optree.tree_map(lambda array: array.astype(dtype), (params, images))
    gradients = gradc.compile(gradc.grad(model.loss))(params, images, labels)
    names = leaf_names(model.loss, (params,), {})
    want = peer.gradients(params, images, labels)
    return largest_difference(*(dict(zip(names, arrays, strict=True)) for arrays in (optree.tree_leaves(gradients), want)))
