"""Array functions that fold axes away: sums, extrema, means and running sums.

`axis` is None (all), an int or a tuple; negative axes count from the end; `keepdims` leaves size-1 dimensions behind.
"""

from __future__ import annotations

from math import prod as product
from typing import Any

from gradc import types
from gradc.errors import DTypeError, ShapeError
from gradc.ir import Value, apply
from gradc.language.arguments import floating, normal_axes, normal_axis, value_of
from gradc.language.calls import array_function
from gradc.language.elementwise import stop_gradient
from gradc.language.shaping import concat, reshaped
from gradc.leaves import cast, constant
from gradc.ops import TABLE
from gradc.structure import Cumulative, Reduce
from gradc.types import DType


def reduced(kind: str, x: Value, axis: Any, keepdims: bool) -> Value:
    """One kind of fold over `axis`; over no axes at all, `x` itself."""
    axes = tuple(sorted(normal_axes(axis, x.ndim)))
    result = apply(Reduce(kind, axes), x) if axes else x
    return reshaped(result, tuple(1 if i in axes else n for i, n in enumerate(x.shape))) if keepdims else result


def accumulated_dtype(dtype: DType, wanted: Any) -> DType:
    """What sums and products of a dtype are held in: 64 bits for bools and integers, the dtype itself for floats."""
    if wanted is not None:
        return types.as_dtype(wanted)
    return dtype if dtype.is_floating else types.uint64 if dtype.family == "uint" else types.int64


def ordered(x: Any) -> Value:
    value = value_of(x)
    if value.dtype == types.bool_:
        raise DTypeError("bool arrays are not ordered", advice="Use gradc.any for their max and gradc.all for their min.")
    return value


@array_function
def sum(x: Any, /, axis: Any = None, *, dtype: Any = None, keepdims: bool = False) -> Value:
    """The sum over `axis`. Bools and integers sum in 64 bits; 16-bit floats accumulate in float32."""
    value = value_of(x)
    return reduced("sum", cast(value, accumulated_dtype(value.dtype, dtype)), axis, keepdims)


@array_function
def prod(x: Any, /, axis: Any = None, *, dtype: Any = None, keepdims: bool = False) -> Value:
    """The product over `axis`, in the dtype `sum` would have."""
    value = value_of(x)
    return reduced("prod", cast(value, accumulated_dtype(value.dtype, dtype)), axis, keepdims)


@array_function
def max(x: Any, /, axis: Any = None, *, keepdims: bool = False) -> Value:
    """The largest element over `axis`; NaN if there is one. Ties share the derivative. An empty axis is a ShapeError."""
    return reduced("max", ordered(x), axis, keepdims)


@array_function
def min(x: Any, /, axis: Any = None, *, keepdims: bool = False) -> Value:
    """The smallest element over `axis`; NaN if there is one. Ties share the derivative. An empty axis is a ShapeError."""
    return reduced("min", ordered(x), axis, keepdims)


@array_function
def any(x: Any, /, axis: Any = None, *, keepdims: bool = False) -> Value:
    """Whether some element over `axis` is not zero."""
    return reduced("any", cast(value_of(x), types.bool_), axis, keepdims)


@array_function
def all(x: Any, /, axis: Any = None, *, keepdims: bool = False) -> Value:
    """Whether every element over `axis` is not zero."""
    return reduced("all", cast(value_of(x), types.bool_), axis, keepdims)


@array_function
def argmax(x: Any, /, axis: int | None = None, *, keepdims: bool = False) -> Value:
    """The index (int64) of the first largest element along `axis`, or of the flattened array."""
    return _first_extremum("argmax", value_of(x), axis, keepdims)


@array_function
def argmin(x: Any, /, axis: int | None = None, *, keepdims: bool = False) -> Value:
    """The index (int64) of the first smallest element along `axis`, or of the flattened array."""
    return _first_extremum("argmin", value_of(x), axis, keepdims)


def _first_extremum(kind: str, x: Value, axis: int | None, keepdims: bool) -> Value:
    if axis is not None:
        return reduced(kind, x, normal_axis(axis, x.ndim), keepdims)
    index = reduced(kind, reshaped(x, (x.size,)), 0, False)
    return reshaped(index, (1,) * x.ndim) if keepdims else index


@array_function
def count_nonzero(x: Any, /, axis: Any = None, *, keepdims: bool = False) -> Value:
    """How many elements over `axis` are not zero (int64)."""
    return reduced("sum", cast(cast(value_of(x), types.bool_), types.int64), axis, keepdims)


@array_function
def mean(x: Any, /, axis: Any = None, *, keepdims: bool = False) -> Value:
    """The arithmetic mean over `axis`; integers and bools are averaged in float32. The mean of nothing is NaN."""
    value = floating(x)
    count = product(value.shape[i] for i in normal_axes(axis, value.ndim))
    return TABLE["divide"].on_values(reduced("sum", value, axis, keepdims), count)


@array_function
def var(x: Any, /, axis: Any = None, *, correction: float = 0.0, keepdims: bool = False) -> Value:
    """The mean squared distance from the mean over `axis`, divided by (count - correction) in place of the count."""
    value = floating(x)
    axes = normal_axes(axis, value.ndim)
    count = product(value.shape[i] for i in axes) - correction
    centred = TABLE["subtract"].on_values(value, mean(value, axis=axes, keepdims=True))
    squares = reduced("sum", TABLE["multiply"].on_values(centred, centred), axes, keepdims)
    return TABLE["divide"].on_values(squares, count if count > 0 else 0)


@array_function
def std(x: Any, /, axis: Any = None, *, correction: float = 0.0, keepdims: bool = False) -> Value:
    """The square root of `var`. Where all elements are equal the derivative is 0."""
    return root(var(x, axis=axis, correction=correction, keepdims=keepdims))


def root(squares: Value) -> Value:
    """The square root of a sum of squares. Where it is 0 so are all its derivatives, as in PyTorch: 0·inf would be nan."""
    is_zero = TABLE["equal"].on_values(TABLE["sqrt"].on_values(squares), 0)
    moving = TABLE["where"].on_values(is_zero, stop_gradient(squares), squares)
    return TABLE["sqrt"].on_values(moving)


@array_function
def cumulative_sum(x: Any, /, axis: int | None = None, *, dtype: Any = None, include_initial: bool = False) -> Value:
    """The running sum along `axis` (which may be left out for one dimension), with a 0 before it if `include_initial`."""
    value = value_of(x)
    if axis is None and value.ndim != 1:
        raise ShapeError(f"cumulative_sum of {value.ndim} dimensions needs an axis")
    place = normal_axis(0 if axis is None else axis, value.ndim)
    value = cast(value, accumulated_dtype(value.dtype, dtype))
    sums = apply(Cumulative(place), value)
    if not include_initial:
        return sums
    start = constant(0, value.dtype, tuple(1 if i == place else n for i, n in enumerate(value.shape)))
    return concat([start, sums], axis=place)


@array_function
def cumsum(x: Any, /, axis: int | None = None, *, dtype: Any = None) -> Value:
    """The running sum along `axis`, or of the flattened array (NumPy's cumsum)."""
    value = value_of(x)
    if axis is None:
        value, axis = reshaped(value, (value.size,)), 0
    return cumulative_sum(value, axis=axis, dtype=dtype)
