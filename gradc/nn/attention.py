"""Attention, as the plain mathematics: scores, softmax, average. Fast kernels for it come out of the compiler."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import ml_dtypes

from gradc import language as g
from gradc.errors import ShapeError, UnsupportedError
from gradc.ir import Value
from gradc.language.arguments import floating, value_of
from gradc.language.calls import array_function
from gradc.language.creation import iota
from gradc.nn.layers import dropout


@array_function
def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    dropout_key: Any = None,
) -> Value:
    """softmax(query keyᵀ scale + mask) value (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762).

    `query` (..., L, E), `key` (..., S, E), `value` (..., S, V) give (..., L, V). A bool mask (..., L, S) says what may be attended
    to, a floating one is added. `scale` is 1/√E unless given. `enable_gqa` shares each key head among neighbouring query heads.
    A query that may attend to nothing gives 0, as in PyTorch. With `dropout_p` weights are dropped, as `dropout_key` says (see
    `nn.dropout`).
    """
    query, key, value = floating(query), floating(key), floating(value)
    if dropout_p and dropout_key is None:
        raise UnsupportedError(
            "dropout inside attention needs a random key", advice="Pass dropout_key=gradc.random.key(seed), or dropout_p=0."
        )
    if min(query.ndim, key.ndim, value.ndim) < 2 or query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
        raise ShapeError(
            f"query {query.shape}, key {key.shape} and value {value.shape} are not (..., L, E), (..., S, E), (..., S, V)"
        )
    if attn_mask is not None and is_causal:
        raise UnsupportedError("attention takes attn_mask or is_causal, not both", advice="Put the causal mask into attn_mask.")
    mask = None if attn_mask is None else value_of(attn_mask)
    drop = partial(dropout, p=dropout_p, key=dropout_key)
    if enable_gqa and query.shape[-3] != key.shape[-3]:
        return _with_shared_heads(query, key, value, mask, is_causal, scale, drop)
    return attend(query, key, value, mask, is_causal, scale, drop)


Drop = Callable[[Value], Value]


def _with_shared_heads(
    query: Value, key: Value, value: Value, mask: Value | None, is_causal: bool, scale: float | None, drop: Drop
) -> Value:
    """Query heads in groups, one dimension more, over which key and value broadcast."""
    heads, shared = query.shape[-3], key.shape[-3]
    if heads % shared or value.shape[-3] != shared:
        raise ShapeError(f"{heads} query heads do not divide among {shared} key heads and {value.shape[-3]} value heads")
    grouped = g.reshape(query, (*query.shape[:-3], shared, heads // shared, *query.shape[-2:]))
    if mask is not None and mask.ndim > 2:
        split = (shared, heads // shared) if mask.shape[-3] == heads else (1, 1)
        mask = g.reshape(mask, (*mask.shape[:-3], *split, *mask.shape[-2:]))
    out = attend(grouped, g.expand_dims(key, axis=-3), g.expand_dims(value, axis=-3), mask, is_causal, scale, drop)
    return g.reshape(out, (*query.shape[:-1], value.shape[-1]))


def attend(
    query: Value, key: Value, value: Value, mask: Value | None, is_causal: bool, scale: float | None, drop: Drop
) -> Value:
    """Attention of heads that match or broadcast, its weights dropped by `drop`."""
    scale = 1 / math.sqrt(max(query.shape[-1], 1)) if scale is None else scale  # heads of width 0 see all keys alike
    scores = g.einsum("...qd,...kd->...qk", query, key) * scale
    if is_causal:
        rows, columns = scores.shape[-2:]
        scores = g.where(iota(columns, 1, 2) <= iota(rows, 0, 2), scores, -math.inf)
    if mask is None or scores.shape[-1] == 0:  # over no keys the sum is 0
        return g.einsum("...qk,...kd->...qd", drop(g.softmax(scores, axis=-1)), value)
    # The floor stands for -inf: a query that sees nothing then has finite (equal) weights, which the last line replaces by 0.
    floor = float(ml_dtypes.finfo(scores.dtype.compute.numpy).min) / 2
    if mask.dtype.is_floating:
        scores = scores + mask
        scores = g.where(scores < floor, floor, scores)
    else:
        scores = g.where(mask, scores, floor)
    peak = g.stop_gradient(g.max(scores, axis=-1, keepdims=True))
    weight = g.exp(scores - peak)
    total = g.sum(weight, axis=-1, keepdims=True)
    out = g.einsum("...qk,...kd->...qd", drop(weight / total), value)
    return g.where(peak > floor, out, 0.0)
