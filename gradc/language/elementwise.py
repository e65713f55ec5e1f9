"""Publishes every row of the table as an array function, and adds the few that are a row or two put together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes

from gradc.errors import ShapeError
from gradc.ir import Value, apply
from gradc.language.arguments import value_of
from gradc.language.calls import array_function
from gradc.leaves import is_scalar
from gradc.ops import TABLE
from gradc.structure import StopGradient
from gradc.table import Elementwise

OPERANDS = {1: "x", 2: "x1, x2", 3: "condition, x1, x2"}


def published(row: Elementwise) -> Callable[..., Value]:
    """A row as a function of positional arrays, with its own name and docstring."""

    def function(*operands: Any) -> Value:
        if len(operands) != row.arity:
            raise TypeError(f"{row.name} takes {row.arity} positional arguments but {len(operands)} were given")
        return row.on_values(*operands)

    function.__name__ = function.__qualname__ = row.name
    function.__doc__ = (
        f"{row.name}({OPERANDS[row.arity]}, /), elementwise. Takes {row.takes} operands; arrays promote and broadcast, "
        f"Python numbers take the arrays' dtype. Gives {'bool' if row.gives == 'bool' else 'the promoted dtype'}."
        + ("" if row.domain == "real" else f" Differentiable for {row.domain}.")
    )
    return array_function(function)


FUNCTIONS: dict[str, Callable[..., Value]] = {name: published(row) for name, row in TABLE.items()}


@array_function
def where(condition: Any, x1: Any, x2: Any, /) -> Value:
    """x1 where the (bool) condition holds, x2 elsewhere. The branch not taken has the derivative 0."""
    return TABLE["where"].on_values(condition, x1, x2)


@array_function
def clip(x: Any, /, min: Any = None, max: Any = None) -> Value:
    """`x` limited to min <= x <= max (None: no limit; max wins where min > max). The slope at a limit is 1.

    NaN where `x` or a limit is NaN, as NumPy, PyTorch and the array API have it.
    """
    value = value_of(x)
    for limit, beyond in ((min, "less"), (max, "greater")):
        if limit is not None:
            value = TABLE["where"].on_values(_is_beyond(value, limit, beyond), limit, value)
    return value


def _is_beyond(x: Value, limit: Any, comparison: str) -> Value:
    """Whether `x` lies beyond a limit, which it also does where the limit is NaN."""
    beyond = TABLE[comparison].on_values(x, limit)
    if is_scalar(limit) and limit == limit:
        return beyond
    bound = value_of(limit)
    return TABLE["logical_or"].on_values(beyond, TABLE["isnan"].on_values(bound)) if bound.dtype.is_floating else beyond


@array_function
def stop_gradient(x: Any, /) -> Value:
    """`x`, a constant to differentiation."""
    return apply(StopGradient(), value_of(x))


@array_function
def positive(x: Any, /) -> Value:
    """`x` itself."""
    return value_of(x)


@array_function
def nan_to_num(x: Any, /, *, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None) -> Value:
    """NaN, inf and -inf replaced by numbers (inf by the dtype's largest unless given)."""
    value = value_of(x)
    if not value.dtype.is_floating:
        return value
    largest = float(ml_dtypes.finfo(value.dtype.numpy).max)
    high, low = (largest if posinf is None else posinf), (-largest if neginf is None else neginf)
    finite = TABLE["where"].on_values(TABLE["greater"].on_values(value, largest), high, value)
    finite = TABLE["where"].on_values(TABLE["less"].on_values(value, -largest), low, finite)
    return TABLE["where"].on_values(TABLE["isnan"].on_values(value), nan, finite)


def powered(x: Any, exponent: Any) -> Value:
    """`x ** exponent`; small whole and half exponents become products and roots, whose derivatives are simplest."""
    value = value_of(x)
    if not is_scalar(exponent) or isinstance(exponent, bool):
        return TABLE["pow"].on_values(value, exponent)
    if exponent in range(1, 5 if value.dtype.is_floating else 64) and (isinstance(exponent, int) or value.dtype.is_floating):
        return _product_power(value, int(exponent))
    if exponent in _ROOTS and value.dtype.is_floating:
        return TABLE[_ROOTS[exponent]].on_values(value)
    if isinstance(exponent, int) and exponent < 0 and value.dtype.is_integer:
        raise ShapeError("integers have no negative powers", advice="Cast to a floating-point dtype first.")
    return TABLE["pow"].on_values(value, exponent)


_ROOTS = {0.5: "sqrt", -0.5: "rsqrt", -1: "reciprocal"}


def _product_power(x: Value, exponent: int) -> Value:
    """x^exponent, by squaring."""
    if exponent == 1:
        return x
    half = _product_power(x, exponent // 2)
    squared = TABLE["multiply"].on_values(half, half)
    return TABLE["multiply"].on_values(squared, x) if exponent % 2 else squared
