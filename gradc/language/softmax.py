"""softmax, log_softmax and logsumexp in their stable forms: the largest element is taken out before exp.

The variables here (peak, weight, total) name the values in graphs and kernels.
"""

from __future__ import annotations

from typing import Any

from gradc.ir import Value
from gradc.language.arguments import floating, normal_axes
from gradc.language.calls import array_function
from gradc.language.elementwise import stop_gradient
from gradc.language.reductions import max, sum
from gradc.language.shaping import reshaped
from gradc.ops import TABLE

log, exp, isfinite, where = (TABLE[name].on_values for name in ("log", "exp", "isfinite", "where"))


@array_function
def softmax(x: Any, /, axis: Any = -1) -> Value:
    """exp(x) / sum(exp(x)) over `axis` (an int or a tuple), without overflow. A row of -inf gives NaN."""
    x = floating(x)
    peak = stop_gradient(max(x, axis=axis, keepdims=True))
    weight = exp(x - peak)
    total = sum(weight, axis=axis, keepdims=True)
    return weight / total


@array_function
def log_softmax(x: Any, /, axis: Any = -1) -> Value:
    """log(softmax(x)) over `axis` (an int or a tuple), without overflow or log(0)."""
    x = floating(x)
    peak = stop_gradient(max(x, axis=axis, keepdims=True))
    shifted = x - peak
    total = sum(exp(shifted), axis=axis, keepdims=True)
    return shifted - log(total)


@array_function
def logsumexp(x: Any, /, axis: Any = None, *, keepdims: bool = False) -> Value:
    """log(sum(exp(x))) over `axis` (None, an int or a tuple), without overflow. A row of -inf gives -inf."""
    x = floating(x)
    axes = normal_axes(axis, x.ndim)
    peak = stop_gradient(max(x, axis=axes, keepdims=True))
    total = sum(exp(x - peak), axis=axes, keepdims=True)
    result = where(isfinite(peak), log(total) + peak, peak)
    return result if keepdims else reshaped(result, tuple(n for i, n in enumerate(x.shape) if i not in axes))
