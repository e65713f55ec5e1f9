"""Activation functions, elementwise but for the gated ones and softmax. At a kink each has the slope PyTorch gives it."""

from __future__ import annotations

import math
from typing import Any

from gradc import language as g
from gradc.errors import ShapeError, UnsupportedError
from gradc.ir import Value
from gradc.language.arguments import floating, value_of
from gradc.language.calls import array_function


def refuse_inplace(inplace: bool) -> None:
    if inplace:
        raise UnsupportedError("inplace=True: arrays do not change", advice="Leave `inplace` out and use the result.")


@array_function
def relu(input: Any, inplace: bool = False) -> Value:
    """max(0, x), with slope 0 at 0. NaN stays."""
    refuse_inplace(inplace)
    return g.where(g.less_equal(input, 0), 0, input)


@array_function
def relu6(input: Any, inplace: bool = False) -> Value:
    """min(max(0, x), 6), with slope 0 at both limits."""
    return hardtanh(input, 0, 6, inplace)


@array_function
def hardtanh(input: Any, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Value:
    """x limited to min_val..max_val, with slope 0 at both limits."""
    refuse_inplace(inplace)
    return g.where(g.less_equal(input, min_val), min_val, g.where(g.greater_equal(input, max_val), max_val, input))


@array_function
def leaky_relu(input: Any, negative_slope: float = 0.01, inplace: bool = False) -> Value:
    """x for x > 0, negative_slope * x otherwise."""
    refuse_inplace(inplace)
    return g.where(g.greater(input, 0), input, g.multiply(input, negative_slope))


@array_function
def prelu(input: Any, weight: Any) -> Value:
    """x for x > 0, weight * x otherwise; a weight of shape (C,) belongs to dimension 1."""
    x, weight = value_of(input), value_of(weight)
    if x.ndim > 1 and weight.size > 1:
        weight = g.reshape(weight, tuple(weight.size if i == 1 else 1 for i in range(x.ndim)))
    elif weight.ndim:
        weight = g.reshape(weight, (weight.size,) if x.ndim else ())
    return g.where(x > 0, x, weight * x)


@array_function
def elu(input: Any, alpha: float = 1.0, inplace: bool = False) -> Value:
    """x for x > 0, alpha * (exp(x) - 1) otherwise."""
    refuse_inplace(inplace)
    return g.where(g.greater(input, 0), input, alpha * g.expm1(input))


@array_function
def celu(input: Any, alpha: float = 1.0, inplace: bool = False) -> Value:
    """x for x > 0, alpha * (exp(x / alpha) - 1) otherwise."""
    refuse_inplace(inplace)
    return g.where(g.greater(input, 0), input, alpha * g.expm1(g.divide(input, alpha)))


SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


@array_function
def selu(input: Any, inplace: bool = False) -> Value:
    """Self-normalising ELU (Klambauer et al. 2017, https://arxiv.org/abs/1706.02515)."""
    return SELU_SCALE * elu(input, SELU_ALPHA, inplace)


@array_function
def sigmoid(input: Any) -> Value:
    """1 / (1 + exp(-x)), without overflow."""
    return g.sigmoid(input)


@array_function
def tanh(input: Any) -> Value:
    """The hyperbolic tangent."""
    return g.tanh(input)


@array_function
def logsigmoid(input: Any) -> Value:
    """log(sigmoid(x)), without overflow or log(0)."""
    return -g.softplus(g.negative(input))


@array_function
def silu(input: Any, inplace: bool = False) -> Value:
    """x * sigmoid(x), also called swish."""
    refuse_inplace(inplace)
    return g.multiply(input, g.sigmoid(input))


@array_function
def mish(input: Any, inplace: bool = False) -> Value:
    """x * tanh(softplus(x)) (Misra 2019, https://arxiv.org/abs/1908.08681)."""
    refuse_inplace(inplace)
    return g.multiply(input, g.tanh(g.softplus(input)))


@array_function
def gelu(input: Any, approximate: str = "none") -> Value:
    """x * Φ(x), with the normal distribution's Φ by erf ("none") or by tanh (Hendrycks, Gimpel 2016, https://arxiv.org/abs/1606.08415)."""
    x = floating(input)
    if approximate == "none":
        return x * 0.5 * (1 + g.erf(x * math.sqrt(0.5)))
    if approximate != "tanh":
        raise UnsupportedError(f"gelu approximates by {approximate!r}", advice='Use "none" or "tanh".')
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)
    return 0.5 * x * (1 + g.tanh(inner))


@array_function
def softplus(input: Any, beta: float = 1.0, threshold: float = 20.0) -> Value:
    """log(1 + exp(beta * x)) / beta, and x itself where beta * x > threshold."""
    x = floating(input)
    scaled = x if beta == 1 else x * beta
    smooth = g.softplus(scaled)
    return g.where(scaled > threshold, x, smooth if beta == 1 else smooth / beta)


@array_function
def softsign(input: Any) -> Value:
    """x / (1 + |x|)."""
    return g.divide(input, 1 + g.abs(input))


@array_function
def tanhshrink(input: Any) -> Value:
    """x - tanh(x)."""
    return g.subtract(input, g.tanh(input))


@array_function
def softshrink(input: Any, lambd: float = 0.5) -> Value:
    """x moved toward 0 by lambd, and 0 within lambd of it."""
    return g.where(g.less_equal(g.abs(input), lambd), 0, g.subtract(input, lambd * g.sign(input)))


@array_function
def hardshrink(input: Any, lambd: float = 0.5) -> Value:
    """x, and 0 within lambd of 0."""
    return g.where(g.less_equal(g.abs(input), lambd), 0, input)


@array_function
def hardsigmoid(input: Any, inplace: bool = False) -> Value:
    """relu6(x + 3) / 6."""
    return relu6(g.add(input, 3), inplace) / 6


@array_function
def hardswish(input: Any, inplace: bool = False) -> Value:
    """x * relu6(x + 3) / 6."""
    return g.multiply(input, hardsigmoid(input, inplace))


@array_function
def threshold(input: Any, threshold: float, value: float, inplace: bool = False) -> Value:
    """x where it is greater than the threshold, `value` elsewhere."""
    refuse_inplace(inplace)
    return g.where(g.less_equal(input, threshold), value, input)


def halves(input: Any, dim: int) -> tuple[Value, Value]:
    x = value_of(input)
    if x.ndim == 0 or x.shape[dim] % 2:
        raise ShapeError(f"a gated unit halves dimension {dim} of shape {x.shape}, which is not even")
    return g.split(x, 2, axis=dim)


@array_function
def glu(input: Any, dim: int = -1) -> Value:
    """a * sigmoid(b), with a and b the halves of x along `dim`."""
    a, b = halves(input, dim)
    return a * g.sigmoid(b)


@array_function
def swiglu(input: Any, gate: Any = None, dim: int = -1) -> Value:
    """silu(gate) * x; without a gate, x's first half along `dim` is the gate of its second (Shazeer 2020, https://arxiv.org/abs/2002.05202)."""
    gate, x = halves(input, dim) if gate is None else (value_of(gate), value_of(input))
    return silu(gate) * x


@array_function
def geglu(input: Any, gate: Any = None, dim: int = -1, approximate: str = "none") -> Value:
    """gelu(gate) * x; without a gate, x's first half along `dim` is the gate of its second (Shazeer 2020, https://arxiv.org/abs/2002.05202)."""
    gate, x = halves(input, dim) if gate is None else (value_of(gate), value_of(input))
    return gelu(gate, approximate) * x


@array_function
def softmax(input: Any, dim: int = -1, dtype: Any = None) -> Value:
    """exp(x) / sum(exp(x)) along `dim`, computed in `dtype` if given."""
    return g.softmax(input if dtype is None else g.astype(input, dtype), axis=dim)


@array_function
def softmin(input: Any, dim: int = -1, dtype: Any = None) -> Value:
    """softmax(-x) along `dim`."""
    return softmax(g.negative(input), dim, dtype)


@array_function
def log_softmax(input: Any, dim: int = -1, dtype: Any = None) -> Value:
    """log(softmax(x)) along `dim`, without overflow or log(0)."""
    return g.log_softmax(input if dtype is None else g.astype(input, dtype), axis=dim)
