"""The other functions of torch.nn.functional: linear layers, embeddings, distances and padding."""

from __future__ import annotations

import math
from typing import Any

from gradc import language as g
from gradc import random, types
from gradc.errors import DTypeError, ShapeError, UnsupportedError
from gradc.ir import Value, apply
from gradc.language.arguments import floating, value_of
from gradc.language.calls import array_function
from gradc.language.creation import iota
from gradc.language.reductions import root
from gradc.markers import Within
from gradc.nn.activation import refuse_inplace


@array_function
def linear(input: Any, weight: Any, bias: Any = None) -> Value:
    """input weightᵀ + bias: (..., I) and (O, I) give (..., O); a weight (I,) gives (...)."""
    x, weight = value_of(input), value_of(weight)
    if x.ndim == 0 or weight.ndim not in (1, 2) or x.shape[-1] != weight.shape[-1]:
        raise ShapeError(f"input {x.shape} and weight {weight.shape} are not (..., I) and (O, I)")
    product = g.einsum("...i,oi->...o" if weight.ndim == 2 else "...i,i->...", x, weight)
    return product if bias is None else product + value_of(bias)


@array_function
def embedding(input: Any, weight: Any, padding_idx: int | None = None) -> Value:
    """The rows of `weight` (V, D) at integers `input`, as (*input.shape, D). Row `padding_idx` gets no derivative.

    An integer that numbers no row is a ShapeError; a kernel gives NaN for it.
    """
    index, weight = value_of(input), value_of(weight)
    if not index.dtype.is_integer:
        raise DTypeError(f"an embedding is looked up by integers, got {index.dtype}")
    index = apply(Within(weight.shape[0], "row", f"{weight.shape[0]} rows"), index)
    rows = g.take(weight, index, axis=0)
    if index.dtype.family == "int" and weight.dtype.is_floating:
        rows = g.where(g.expand_dims(index >= 0, axis=-1), rows, math.nan)  # `take` counts them from the end
    if padding_idx is None:
        return rows
    return g.where(g.expand_dims(index == padding_idx % weight.shape[0], axis=-1), g.stop_gradient(rows), rows)


@array_function
def one_hot(tensor: Any, num_classes: int = -1) -> Value:
    """1 at each integer and 0 elsewhere along a new last dimension of `num_classes` (int64).

    An integer that is no class is a ShapeError; a kernel gives zeros for it.
    """
    if num_classes < 0:
        raise UnsupportedError(
            "one_hot needs num_classes: the largest element is known only when the program runs", advice="Pass num_classes."
        )
    index = value_of(tensor)
    if not index.dtype.is_integer:
        raise DTypeError(f"class numbers are integers, got {index.dtype}", advice="Cast them with astype.")
    index = apply(Within(num_classes, "class", f"{num_classes} classes"), index)
    return g.astype(g.expand_dims(index, axis=-1) == iota(num_classes, index.ndim, index.ndim + 1), types.int64)


@array_function
def normalize(input: Any, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Value:
    """x / max(‖x‖_p, eps) along `dim`, for any p: 0 counts the elements that are not 0. At x = 0 the derivative is that of x / eps."""
    x = floating(input)
    return x / norm_at_least(x, p, dim, eps)


def norm_at_least(x: Value, p: float, axis: int, eps: float) -> Value:
    """max(‖x‖_p, eps) along an axis that is kept; constant, so without derivative, where the norm is smaller. NaN stays."""
    length = norm(x, p, axis)
    return g.where(length < eps, eps, length)


def norm(x: Value, p: float, axis: int) -> Value:
    """(Σ|x|^p)^(1/p) along an axis that is kept; for p = 0 how many are not 0. An element that is 0 has derivative 0."""
    if abs(p) == math.inf:
        return (g.max if p > 0 else g.min)(g.abs(x), axis=axis, keepdims=True)
    if p == 0:
        return g.sum(g.astype(x != 0, x.dtype), axis=axis, keepdims=True)
    if p == 2:
        return root(g.sum(x * x, axis=axis, keepdims=True))
    total = g.sum(power(g.abs(x), p), axis=axis, keepdims=True)
    return total if p == 1 else power(total, 1 / p)


def power(x: Value, exponent: float) -> Value:
    """x^exponent for x ≥ 0, with all derivatives 0 at 0, where a slope would be infinite and 0·inf nan."""
    if exponent == 1:
        return x
    is_zero = x == 0
    return g.where(is_zero, 0.0 if exponent > 0 else math.inf, g.where(is_zero, 1.0, x) ** exponent)


@array_function
def cosine_similarity(x1: Any, x2: Any, dim: int = 1, eps: float = 1e-8) -> Value:
    """x1·x2 / (max(‖x1‖, eps) max(‖x2‖, eps)) along `dim`."""
    a, b = g.broadcast_arrays(floating(x1), floating(x2))
    lengths = g.squeeze(norm_at_least(a, 2, dim, eps) * norm_at_least(b, 2, dim, eps), axis=dim)
    return g.sum(a * b, axis=dim) / lengths


@array_function
def dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False, *, key: Any = None) -> Value:
    """x / (1 - p) with probability 1 - p, else 0; `input` itself when not training (Srivastava et al. 2014).

    `key` is a key of gradc.random, a new one for each call. What is dropped depends on it and the position alone: a backward
    draws it again, and no mask is stored. https://jmlr.org/papers/v15/srivastava14a.html
    """
    refuse_inplace(inplace)
    x = floating(input)
    if not 0 <= p <= 1:
        raise ShapeError(f"a probability lies in 0..1, got {p}")
    if not training or p == 0:
        return x
    if key is None:
        raise UnsupportedError(
            "dropout needs a random key", advice="Pass key=gradc.random.key(seed), or one of gradc.random.split(key)."
        )
    if p == 1:
        return g.zeros_like(x)
    keep = random.coins(key, 1 - p, x.shape, x.dtype.itemsize)
    return g.where(keep, x * (1 / (1 - p)), 0)


@array_function
def pad(input: Any, pad: Any, mode: str = "constant", value: float | None = None) -> Value:
    """torch's pad: pairs (before, after) from the last dimension inward; modes "constant", "reflect", "replicate", "circular".

    A negative width crops.
    """
    x = value_of(input)
    pairs = [tuple(pad[i : i + 2]) for i in range(0, len(pad), 2)]
    if len(pad) % 2 or len(pairs) > x.ndim:
        raise ShapeError(f"pad {tuple(pad)} does not hold a pair for each of at most {x.ndim} dimensions")
    widths = [(0, 0)] * (x.ndim - len(pairs)) + pairs[::-1]
    cropped = x[tuple(slice(max(-a, 0), n - max(-b, 0)) for (a, b), n in zip(widths, x.shape, strict=True))]
    names = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    if mode not in names:
        raise UnsupportedError(f"pad has no mode {mode!r}", advice=f"Use one of {', '.join(names)}.")
    grown = [(max(a, 0), max(b, 0)) for a, b in widths]
    return g.pad(cropped, grown, names[mode], constant_values=value or 0)
