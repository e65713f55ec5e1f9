"""Mathematics that reads the same for PyTorch's tensors and for gradc's traced arrays: a test's function is its own reference in float64."""

from __future__ import annotations

import math
from typing import Any

import torch

import gradc


def library(x: Any) -> Any:
    """The library whose functions take `x`."""
    return torch if isinstance(x, torch.Tensor) else gradc


def scores(q: Any, k: Any) -> Any:
    return q @ k.mT / math.sqrt(q.shape[-1])


def weights(s: Any) -> Any:
    """Softmax over the last dimension, spelt out; the maximum is no part of the derivative."""
    lib = library(s)
    e = lib.exp(s - (s.amax(-1, keepdim=True).detach() if lib is torch else gradc.max(s, axis=-1, keepdims=True)))
    return e / (e.sum(-1, keepdim=True) if lib is torch else gradc.sum(e, axis=-1, keepdims=True))
