"""Reads the arguments of array functions: arrays, axes and shapes in the forms NumPy takes, made uniform. Builds nothing else."""

from __future__ import annotations

from operator import index
from typing import Any

from gradc import types
from gradc.errors import DTypeError, GradcError, ShapeError
from gradc.ir import Value
from gradc.leaves import as_value, cast, is_scalar, lift
from gradc.types import Shape


def value_of(x: Any) -> Value:
    """`x` as a Value; a Python number becomes a 0-d Value of its weak dtype (bool, int64 or float32)."""
    return lift(x)[0] if is_scalar(x) else as_value(x)


def floating(x: Any) -> Value:
    """`x` as a floating-point Value; integers and bools become float32, as in JAX and for PyTorch's division."""
    value = value_of(x)
    return value if value.dtype.is_floating else cast(value, types.float32)


def numeric(x: Any) -> Value:
    """`x` as a Value that is not bool; DTypeError otherwise."""
    value = value_of(x)
    if value.dtype == types.bool_:
        raise DTypeError("bool arrays are not numbers", advice="Cast with `astype`, or use any, all or count_nonzero.")
    return value


def integer(x: Any, what: str) -> int:
    """An axis or a size as a Python int; ShapeError for anything that is not an integer."""
    try:
        return index(x)
    except TypeError as error:
        if isinstance(error, GradcError):  # an array that is being traced says so itself
            raise
        raise ShapeError(f"{what} is an integer, got {x!r}")  # noqa: B904 (gradc's own TypeError is not shown)


def normal_axis(axis: Any, rank: int) -> int:
    """A possibly negative axis as one of 0..rank-1; ShapeError beyond."""
    number = integer(axis, "an axis")
    if not -rank <= number < rank:
        raise ShapeError(
            f"axis {number} is out of range for an array of {rank} dimensions",
            advice=f"Axes are {-rank}..{rank - 1}." if rank else "A 0-d array has no axes.",
        )
    return number % rank


def normal_axes(axis: Any, rank: int) -> tuple[int, ...]:
    """None (every axis), an int or a sequence, as distinct axes in the order given."""
    if axis is None:
        return tuple(range(rank))
    axes = tuple(normal_axis(a, rank) for a in (axis if isinstance(axis, tuple | list) else (axis,)))
    if len(set(axes)) != len(axes):
        raise ShapeError(f"axis {axis} names a dimension twice")
    return axes


def as_shape(shape: Any) -> Shape:
    """An int or a sequence of ints as a shape."""
    sizes = (shape,) if isinstance(shape, Value | str) or not hasattr(shape, "__iter__") else shape
    return tuple(integer(size, "a size") for size in sizes)


def filled_shape(shape: Any, size: int) -> Shape:
    """A shape for `size` elements, its -1 (at most one) replaced by what is left."""
    sizes = as_shape(shape)
    if sizes.count(-1) > 1 or any(n < -1 for n in sizes):
        raise ShapeError(f"a shape holds sizes and at most one -1, got {sizes}")
    if -1 not in sizes:
        return sizes
    rest = 1
    for n in sizes:
        rest *= 1 if n == -1 else n
    if rest == 0 or size % rest:
        raise ShapeError(f"{size} elements do not divide into {sizes}")
    return tuple(size // rest if n == -1 else n for n in sizes)
