"""Array functions that make arrays from numbers: constants, index ramps, and triangles of an array by their indices.

Outside a trace they give NumPy arrays.
"""

from __future__ import annotations

from math import ceil, isfinite
from typing import Any

import numpy as np

from gradc import types
from gradc.errors import ShapeError, TraceError
from gradc.ir import Value, apply
from gradc.language.arguments import as_shape, integer, value_of
from gradc.language.calls import array_function, describe, leaves
from gradc.language.dtypes import result_type
from gradc.language.shaping import reshaped, stack
from gradc.leaves import Iota, broadcast_to, cast, constant, is_array, is_scalar, number_in
from gradc.ops import TABLE
from gradc.types import DType


def iota(size: int, axis: int = 0, rank: int = 1, dtype: DType = types.int64) -> Value:
    """0, 1, ..., size-1 along `axis` of an array of `rank` dimensions whose others are 1."""
    return reshaped(apply(Iota(size, dtype)), tuple(size if i == axis else 1 for i in range(rank)))


@array_function
def asarray(obj: Any, /, *, dtype: Any = None) -> Value:
    """`obj` as an array: an array as it is, a number or nested lists of numbers and arrays converted.

    Without a dtype Python's floats become float32 and its ints int64, beside arrays they take the arrays' dtype.
    Raises DTypeError for a number that the dtype does not hold. Arrays are cast, as `astype` casts them.
    """
    return _converted(obj, None if dtype is None else types.as_dtype(dtype))


def _converted(obj: Any, dtype: DType | None) -> Value:
    if is_scalar(obj) or isinstance(obj, np.generic):
        return value_of(obj) if dtype is None else constant(_plain(obj), dtype)
    if isinstance(obj, Value) or is_array(obj):
        return value_of(obj) if dtype is None else cast(value_of(obj), dtype)
    parts = leaves(obj)
    if dtype is None and parts and all(_is_operand(x) for x in parts):
        dtype = result_type(*{(type(x), getattr(x, "dtype", None)): x for x in parts}.values())
    if any(_is_operand(x) and not (is_scalar(x) or isinstance(x, np.generic)) for x in parts):
        return stack([_converted(x, dtype) for x in obj])
    return value_of(_array_of_numbers(obj, dtype))


def _is_operand(x: Any) -> bool:
    return isinstance(x, Value) or is_scalar(x) or is_array(x)


def _plain(x: Any) -> Any:
    """A NumPy scalar as the Python number it is."""
    return x.item() if isinstance(x, np.generic) else x


def _array_of_numbers(obj: Any, dtype: DType | None) -> np.ndarray:
    """Nested lists of numbers, or whatever NumPy makes an array of, in a dtype that holds every number."""
    try:
        array = np.asarray(obj)
    except ValueError:
        raise ShapeError("nested lists of different lengths are no array", advice="Pad the shorter ones.") from None
    if array.dtype == object or (dtype is not None and dtype.is_integer and array.dtype.kind == "f"):
        numbers = [_plain(x) for x in np.asarray(obj, object).flat]  # NumPy's floats have rounded large integers
        if not all(is_scalar(x) for x in numbers):
            raise TraceError(f"expected nested lists of numbers, got {describe(obj)}")
        kind = dtype or types.int64
        return np.array([number_in(x, kind) for x in numbers], kind.numpy).reshape(array.shape)
    kind = dtype or (types.as_dtype(array.dtype) if array.size else types.float32)
    if kind.is_integer and array.size:
        number_in(int(array.min()), kind)
        number_in(int(array.max()), kind)
    with np.errstate(over="ignore"):
        return array.astype(kind.numpy)


@array_function
def full(shape: Any, fill_value: Any, *, dtype: Any = None) -> Value:
    """`fill_value` (a number or a 0-d array) everywhere; the dtype is its own unless given."""
    return _filled(as_shape(shape), fill_value, dtype)


def _filled(shape: tuple[int, ...], fill_value: Any, dtype: Any) -> Value:
    return broadcast_to(_converted(fill_value, None if dtype is None else types.as_dtype(dtype)), shape)


def _or_default(dtype: Any) -> DType:
    """A dtype that was given, or float32, which floating-point arrays have unless told otherwise."""
    return types.float32 if dtype is None else types.as_dtype(dtype)


@array_function
def zeros(shape: Any, *, dtype: Any = "float32") -> Value:
    """Zeros of a shape (an int or a sequence of ints)."""
    return constant(0, _or_default(dtype), as_shape(shape))


@array_function
def ones(shape: Any, *, dtype: Any = "float32") -> Value:
    """Ones of a shape (an int or a sequence of ints)."""
    return constant(1, _or_default(dtype), as_shape(shape))


@array_function
def empty(shape: Any, *, dtype: Any = "float32") -> Value:
    """Zeros: gradc never shows memory it has not written."""
    return constant(0, _or_default(dtype), as_shape(shape))


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
    """start, start + step, ... up to but without stop (`arange(n)` counts from 0). int64 or float32 unless a dtype is given.

    Raises DTypeError for numbers that the dtype does not hold.
    """
    start, stop = (0, start) if stop is None else (start, stop)
    start, stop, step = _end(start), _end(stop), _end(step)
    if step == 0:
        raise ShapeError("the step of arange is not zero")
    whole = all(isinstance(x, int) for x in (start, stop, step))
    kind = types.as_dtype(dtype if dtype is not None else "int64" if whole else "float32")
    if whole:
        return _ramp(start, step, len(range(start, stop, step)), kind)  # type: ignore[call-overload]
    if not isfinite((stop - start) / step):
        raise ShapeError(f"the ends and the step of arange are finite, got {start}, {stop} and {step}")
    return _ramp(start, step, max(0, ceil((stop - start) / step)), kind)


def _end(x: Any) -> float:
    """The end of a ramp as a Python int where it is an integer of any kind, else as a float."""
    if not isinstance(x, Value) and hasattr(x, "__float__") and not hasattr(x, "__index__"):
        return float(x)
    return integer(x, "the end of a ramp of integers")


def _ramp(start: float, step: float, size: int, dtype: DType) -> Value:
    """start + i * step, computed in int64 or float64 where that is not exact in `dtype`, whose integers hold both ends."""
    if dtype.is_integer and size:
        number_in(start, dtype)
        number_in(start + (size - 1) * step, dtype)
    if isinstance(start, int) and isinstance(step, int) and dtype.is_integer:
        narrow = dtype if all(_holds(dtype, x) for x in (size - 1, step)) else types.int64
        if not _holds(narrow, start):  # unsigned 64-bit numbers, counted down
            return TABLE["subtract"](constant(start, dtype), _times(apply(Iota(size, dtype)), -step))
        return cast(_plus(_times(apply(Iota(size, narrow)), step), start), dtype)
    exact = apply(Iota(size, dtype if (start, step) == (0, 1) else types.float64))
    steps = _times(exact, step)
    return cast(TABLE["add"](steps, 0.0) if start == 0 and step < 0 else _plus(steps, start), dtype)  # 0 · step is -0


def _holds(dtype: DType, number: int) -> bool:
    return bool(np.iinfo(dtype.numpy).min <= number <= np.iinfo(dtype.numpy).max)


def _times(x: Value, factor: float) -> Value:
    return x if factor == 1 else TABLE["multiply"](x, factor)


def _plus(x: Value, term: float) -> Value:
    return x if term == 0 else TABLE["add"](x, term)


@array_function
def linspace(start: float, stop: float, /, num: int, *, dtype: Any = "float32", endpoint: bool = True) -> Value:
    """`num` evenly spaced numbers from start to stop, with stop itself last when `endpoint`.

    Computed in float64, rounded down to an integer dtype; raises DTypeError where that does not hold both ends.
    """
    kind, count = _or_default(dtype), integer(num, "the number of points")
    first, last = float(start), float(stop)
    if kind.is_integer and count:
        number_in(first, kind)
        number_in(last if endpoint and count > 1 else first, kind)
    points = _points(first, last, count, endpoint)
    return cast(TABLE["floor"](points) if kind.is_integer else points, kind)


def _points(start: float, stop: float, num: int, endpoint: bool) -> Value:
    """The points of `linspace` in float64."""
    if isfinite(start) and isfinite(stop) and not isfinite(stop - start):
        return _times(_points(start / 2, stop / 2, num, endpoint), 2)
    gaps = num - 1 if endpoint else num
    ramp = _ramp(start, (stop - start) / gaps if gaps > 0 else 0.0, num, types.float64)
    if not endpoint or num < 2:
        return ramp
    return TABLE["where"](TABLE["equal"](apply(Iota(num, types.int64)), num - 1), constant(stop, types.float64), ramp)


@array_function
def eye(n_rows: int, n_cols: int | None = None, /, *, k: int = 0, dtype: Any = "float32") -> Value:
    """Ones on the k-th diagonal (above the main one for k > 0), zeros elsewhere."""
    columns = n_rows if n_cols is None else n_cols
    return cast(TABLE["equal"](_plus(iota(n_rows, 0, 2), k), iota(columns, 1, 2)), _or_default(dtype))


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
