"""Array functions that make arrays from numbers: constants, index ramps, and triangles of an array by their indices.

Outside a trace they give NumPy arrays.
"""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np

from gradc import types
from gradc.errors import ShapeError
from gradc.ir import Value, apply
from gradc.language.arguments import as_shape, value_of
from gradc.language.calls import array_function, leaves
from gradc.language.shaping import reshaped, stack
from gradc.leaves import Iota, broadcast_to, cast, constant, is_array, is_scalar
from gradc.ops import TABLE
from gradc.types import DType


def iota(size: int, axis: int = 0, rank: int = 1, dtype: DType = types.int64) -> Value:
    """0, 1, ..., size-1 along `axis` of an array of `rank` dimensions whose others are 1."""
    return reshaped(apply(Iota(size, dtype)), tuple(size if i == axis else 1 for i in range(rank)))


@array_function
def asarray(obj: Any, /, *, dtype: Any = None) -> Value:
    """`obj` as an array: an array as it is, a number or nested lists of numbers and arrays converted (floats to float32)."""
    value = _converted(obj)
    return value if dtype is None else cast(value, types.as_dtype(dtype))


def _converted(obj: Any) -> Value:
    if is_array(obj) or is_scalar(obj) or isinstance(obj, Value):
        return value_of(obj)
    if any(isinstance(x, Value) for x in leaves(obj)):
        return stack([_converted(x) for x in obj])
    array = np.asarray(obj)
    return value_of(array.astype(np.float32) if array.dtype == np.float64 else array)


@array_function
def full(shape: Any, fill_value: Any, *, dtype: Any = None) -> Value:
    """`fill_value` (a number or a 0-d array) everywhere; the dtype is its own unless given."""
    return _filled(as_shape(shape), fill_value, dtype)


def _filled(shape: tuple[int, ...], fill_value: Any, dtype: Any) -> Value:
    if is_scalar(fill_value) and dtype is not None:
        return constant(fill_value, types.as_dtype(dtype), shape)
    value = value_of(fill_value)
    return broadcast_to(value if dtype is None else cast(value, types.as_dtype(dtype)), shape)


@array_function
def zeros(shape: Any, *, dtype: Any = "float32") -> Value:
    """Zeros of a shape (an int or a sequence of ints)."""
    return _filled(as_shape(shape), 0, dtype)


@array_function
def ones(shape: Any, *, dtype: Any = "float32") -> Value:
    """Ones of a shape (an int or a sequence of ints)."""
    return _filled(as_shape(shape), 1, dtype)


@array_function
def empty(shape: Any, *, dtype: Any = "float32") -> Value:
    """Zeros: gradc never shows memory it has not written."""
    return _filled(as_shape(shape), 0, dtype)


@array_function
def full_like(x: Any, /, fill_value: Any, *, dtype: Any = None) -> Value:
    """`fill_value` in the shape of `x`, and in its dtype unless given."""
    value = value_of(x)
    return _filled(value.shape, fill_value, value.dtype if dtype is None else dtype)


@array_function
def zeros_like(x: Any, /, *, dtype: Any = None) -> Value:
    """Zeros in the shape of `x`, and in its dtype unless given."""
    return full_like(x, 0, dtype=dtype)


@array_function
def ones_like(x: Any, /, *, dtype: Any = None) -> Value:
    """Ones in the shape of `x`, and in its dtype unless given."""
    return full_like(x, 1, dtype=dtype)


@array_function
def empty_like(x: Any, /, *, dtype: Any = None) -> Value:
    """Zeros in the shape of `x`, and in its dtype unless given."""
    return full_like(x, 0, dtype=dtype)


@array_function
def arange(start: float, /, stop: float | None = None, step: float = 1, *, dtype: Any = None) -> Value:
    """start, start + step, ... up to but without stop (`arange(n)` counts from 0). int64 or float32 unless a dtype is given."""
    start, stop = (0, start) if stop is None else (start, stop)
    if step == 0:
        raise ShapeError("the step of arange is not zero")
    whole = all(isinstance(x, int) for x in (start, stop, step))
    kind = types.as_dtype(dtype if dtype is not None else "int64" if whole else "float32")
    return _ramp(start, step, max(0, ceil((stop - start) / step)), kind)


def _ramp(start: float, step: float, size: int, dtype: DType) -> Value:
    """start + i * step, computed in float64 where that is not exact in `dtype`."""
    if isinstance(start, int) and isinstance(step, int) and dtype.is_integer:
        ramp = apply(Iota(size, dtype))
        return _plus(_times(ramp, step), start)
    exact = apply(Iota(size, dtype if (start, step) == (0, 1) else types.float64))
    return cast(_plus(_times(exact, step), start), dtype)


def _times(x: Value, factor: float) -> Value:
    return x if factor == 1 else TABLE["multiply"](x, factor)


def _plus(x: Value, term: float) -> Value:
    return x if term == 0 else TABLE["add"](x, term)


@array_function
def linspace(start: float, stop: float, /, num: int, *, dtype: Any = "float32", endpoint: bool = True) -> Value:
    """`num` evenly spaced numbers from start to stop, with stop itself last when `endpoint`."""
    kind = types.as_dtype(dtype)
    gaps = num - 1 if endpoint else num
    ramp = _ramp(float(start), (stop - start) / gaps if gaps > 0 else 0.0, num, types.float64)
    if endpoint and num > 1:
        ramp = TABLE["where"](TABLE["equal"](apply(Iota(num, types.int64)), num - 1), float(stop), ramp)
    return cast(ramp, kind)


@array_function
def eye(n_rows: int, n_cols: int | None = None, /, *, k: int = 0, dtype: Any = "float32") -> Value:
    """Ones on the k-th diagonal (above the main one for k > 0), zeros elsewhere."""
    columns = n_rows if n_cols is None else n_cols
    return cast(TABLE["equal"](_plus(iota(n_rows, 0, 2), k), iota(columns, 1, 2)), types.as_dtype(dtype))


@array_function
def meshgrid(*arrays: Any, indexing: str = "xy") -> tuple[Value, ...]:
    """Coordinate arrays of a grid from 1-D (or 0-d) coordinates; "xy" swaps the first two axes, "ij" keeps their order."""
    if indexing not in ("xy", "ij"):
        raise ShapeError(f'indexing is "xy" or "ij", got {indexing!r}')
    values = [value_of(x) for x in arrays]
    order = list(range(len(values)))
    if indexing == "xy" and len(values) > 1:
        order[0], order[1] = 1, 0
    shape = [0] * len(values)
    for x, axis in zip(values, order, strict=True):
        shape[axis] = x.size
    rank = len(values)
    aligned = (
        reshaped(x, tuple(x.size if i == axis else 1 for i in range(rank))) for x, axis in zip(values, order, strict=True)
    )
    return tuple(broadcast_to(x, tuple(shape)) for x in aligned)


def _triangle(x: Any, keep: str, k: int) -> Value:
    value = value_of(x)
    if value.ndim < 2:
        raise ShapeError(f"a triangle has two dimensions or more, got shape {value.shape}")
    row, column = (iota(value.shape[axis], axis + 2, 2) for axis in (-2, -1))
    inside = TABLE[keep](column, TABLE["add"](row, k) if k else row)
    return TABLE["where"](inside, value, constant(0, value.dtype))


@array_function
def tril(x: Any, /, *, k: int = 0) -> Value:
    """The elements on and below the k-th diagonal of the last two dimensions; zeros above."""
    return _triangle(x, "less_equal", k)


@array_function
def triu(x: Any, /, *, k: int = 0) -> Value:
    """The elements on and above the k-th diagonal of the last two dimensions; zeros below."""
    return _triangle(x, "greater_equal", k)
