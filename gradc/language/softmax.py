"""softmax, log_softmax and logsumexp in their stable forms: the largest element is taken out before exp.

The variables here (peak, weight, total) name the values in graphs and kernels. An empty axis has no largest element: softmax of nothing
is nothing, and logsumexp of nothing is log(0).
"""

from __future__ import annotations

from math import inf
from typing import Any

from gradc.ir import Value
from gradc.language.arguments import floating, normal_axes
from gradc.language.calls import array_function
from gradc.language.elementwise import stop_gradient
from gradc.language.reductions import max, sum
from gradc.language.shaping import reshaped
from gradc.leaves import constant
from gradc.ops import TABLE

log, exp, isfinite, where = (TABLE[name].on_values for name in ("log", "exp", "isfinite", "where"))


@array_function
def softmax(x: Any, /, axis: Any = -1) -> Value:
    """exp(x) / sum(exp(x)) over `axis` (an int or a tuple), without overflow. A row of -inf gives NaN."""
    x = floating(x)
    axes = normal_axes(axis, x.ndim)
    if x.size == 0:
        return x
    peak = stop_gradient(max(x, axis=axes, keepdims=True))
    weight = exp(x - peak)
    total = sum(weight, axis=axes, keepdims=True)
    return weight / total


@array_function
def log_softmax(x: Any, /, axis: Any = -1) -> Value:
    """log(softmax(x)) over `axis` (an int or a tuple), without overflow or log(0)."""
    x = floating(x)
    axes = normal_axes(axis, x.ndim)
    if x.size == 0:
        return x
    peak = stop_gradient(max(x, axis=axes, keepdims=True))
    shifted = x - peak
    total = sum(exp(shifted), axis=axes, keepdims=True)
    return shifted - log(total)


@array_function
def logsumexp(x: Any, /, axis: Any = None, *, keepdims: bool = False) -> Value:
    """log(sum(exp(x))) over `axis` (None, an int or a tuple), without overflow. A row of -inf gives -inf, with derivative 0."""
    x = floating(x)
    axes = normal_axes(axis, x.ndim)
    kept = tuple(n for i, n in enumerate(x.shape) if i not in axes)
    if x.size == 0:
        ones = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
        return constant(-inf, x.dtype, ones if keepdims else kept)
    peak = stop_gradient(max(x, axis=axes, keepdims=True))
    finite = isfinite(peak)
    x = constant_unless(finite, x)  # of other rows exp(-inf - -inf) is nan, and would be in the derivative
    total = constant_unless(finite, sum(exp(x - peak), axis=axes, keepdims=True))
    result = where(finite, log(total) + peak, peak)
    return result if keepdims else reshaped(result, kept)


def constant_unless(condition: Value, x: Value) -> Value:
    """`x`, which has no derivative where the condition does not hold."""
    return where(condition, x, stop_gradient(x))
