"""Where Values begin, and the two operations that make operands fit: inputs, constants, index ramps, broadcast and cast.

Every file above needs these to mix Python scalars with arrays; they stand below the table of elementwise functions.
Structural classes have a `name`, `parameters` (their text form), `result` (the shape rule), `numpy` (the reference
meaning, which works on object arrays too) and `transpose` (the cotangent of a linear operand).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradc import types
from gradc.derived import Derived, derivation
from gradc.errors import DTypeError, ShapeError, TraceError
from gradc.interval import ARGUMENT, TRUTH, UNKNOWN, Interval
from gradc.ir import Value, apply
from gradc.tensors import is_tensor_type, readable
from gradc.types import DType, Shape

Scalar = bool | int | float


class Structural:
    """The shared defaults of structural operations: linear in the first operand only, no parameters to print."""

    name = ""
    linear: tuple[int, ...] = (0,)
    jointly_linear = (
        False  # linear in all its linear operands together (as concatenation), not in each by itself (as a product)
    )

    @property
    def parameters(self) -> str:
        return ""

    def interval(self, value: Value, operands: tuple[Interval, ...]) -> Interval:
        """Between which numbers the elements of a Value of this operation lie, from the operands' intervals."""
        return UNKNOWN


class View(Structural):
    """Elements of the first operand, somewhere else."""

    def interval(self, value: Value, operands: tuple[Interval, ...]) -> Interval:
        return operands[0]


class Given(Structural):
    """Elements that the user gives."""

    linear = ()

    def interval(self, value: Value, operands: tuple[Interval, ...]) -> Interval:
        return TRUTH if value.dtype == types.bool_ else ARGUMENT


@dataclass(frozen=True)
class Input(Given):
    """An argument of the graph. Two inputs are never the same, even with equal fields: Values compare by identity.

    `stored` is the dtype it has in memory where that is wider than what it stands for (a statistic kept in float32).
    """

    shape: Shape
    dtype: DType
    strides: tuple[int, ...] | None = None
    stored: DType | None = None
    name = "input"

    def result(self) -> tuple[Shape, DType]:
        return self.shape, self.dtype


@dataclass(frozen=True)
class Constant(Structural):
    """A 0-d constant, kept as an exact Python scalar. `text` distinguishes 0.0 from -0.0 and nan from nan."""

    value: Scalar
    dtype: DType
    text: str = ""
    name = "constant"
    linear = ()

    @property
    def parameters(self) -> str:
        return self.text

    def result(self) -> tuple[Shape, DType]:
        return (), self.dtype

    def numpy(self) -> np.ndarray:
        return np.asarray(self.value, self.dtype.compute.numpy)

    def interval(self, value: Value, operands: tuple[Interval, ...]) -> Interval:
        if math.isnan(self.value):
            return UNKNOWN
        return Interval(float(self.value), float(self.value), math.isfinite(self.value), self.value == 0)


@dataclass(frozen=True, eq=False)
class Literal(Given):
    """An array the user's function closed over, read by reference at each call, or `derived` from such by torch."""

    array: Any = field(repr=False)  # a program on disk is found by what it is, not by what the array holds
    shape: Shape
    dtype: DType
    derived: Derived | None = field(default=None, repr=False)
    name = "literal"

    def now(self) -> Any:
        """The array at this moment."""
        return self.array if self.derived is None else self.derived.again()

    def result(self) -> tuple[Shape, DType]:
        return self.shape, self.dtype


@dataclass(frozen=True)
class Iota(Structural):
    """0, 1, ..., size-1."""

    size: int
    dtype: DType
    name = "iota"
    linear = ()

    @property
    def parameters(self) -> str:
        return str(self.size)

    def result(self) -> tuple[Shape, DType]:
        return (self.size,), self.dtype

    def numpy(self) -> np.ndarray:
        return np.arange(self.size, dtype=self.dtype.compute.numpy)

    def interval(self, value: Value, operands: tuple[Interval, ...]) -> Interval:
        return Interval(0.0, float(max(self.size - 1, 0)), finite=True)


@dataclass(frozen=True)
class Broadcast(View):
    """Operand dimension i becomes result dimension `axes[i]` (ascending, sizes equal); other dimensions repeat it."""

    shape: Shape
    axes: tuple[int, ...]
    name = "broadcast"

    @property
    def parameters(self) -> str:
        return f"{self.shape} from {self.axes}"

    def result(self, x: Value) -> tuple[Shape, DType]:
        if len(self.axes) != x.ndim or any(self.shape[axis] != size for axis, size in zip(self.axes, x.shape, strict=True)):
            raise ShapeError(f"cannot broadcast {x.shape} to {self.shape} along {self.axes}")
        return self.shape, x.dtype

    def numpy(self, x: np.ndarray) -> np.ndarray:
        aligned = [1] * len(self.shape)
        for axis, size in zip(self.axes, x.shape, strict=True):
            aligned[axis] = size
        return np.broadcast_to(x.reshape(aligned), self.shape)


@dataclass(frozen=True)
class Cast(Structural):
    """Rounds to another dtype; floats to integers truncate toward zero, anything to bool is `!= 0`."""

    dtype: DType
    name = "cast"

    @property
    def parameters(self) -> str:
        return self.dtype.name

    def result(self, x: Value) -> tuple[Shape, DType]:
        return x.shape, self.dtype

    def numpy(self, x: np.ndarray) -> np.ndarray:
        if x.dtype == object:
            return x
        return x.astype(self.dtype.numpy).astype(self.dtype.compute.numpy)

    def interval(self, value: Value, operands: tuple[Interval, ...]) -> Interval:
        return operands[0] if self.dtype.is_floating else TRUTH if self.dtype == types.bool_ else ARGUMENT


def make_input(
    shape: Shape, dtype: DType, name: str | None = None, strides: tuple[int, ...] | None = None, stored: DType | None = None
) -> Value:
    """A fresh graph input. No line of the function makes it, so it has no source."""
    value = apply(Input(tuple(shape), dtype, strides, stored))
    value.name, value.source = name, None
    return value


def constant(value: Scalar, dtype: DType, shape: Shape = ()) -> Value:
    """`value` in `dtype`, filled to `shape`. Integers must fit."""
    converted = number_in(value, dtype)
    return broadcast_to(apply(Constant(converted, dtype, repr(converted))), shape)


def number_in(value: Scalar, dtype: DType) -> Scalar:
    """A number as `dtype` has it, as a Python scalar: truncated to integers, rounded to floats only where it is stored.

    Raises DTypeError for a number beyond an integer dtype and for an integer beyond every float.
    """
    try:
        if dtype.is_integer:
            info = np.iinfo(dtype.numpy)
            if not info.min <= value <= info.max:
                raise OverflowError
        return bool(value) if dtype == types.bool_ else float(value) if dtype.is_floating else int(value)
    except OverflowError:
        holds = f"{dtype} holds {info.min} to {info.max}" if dtype.is_integer else "Python's floats end at 1.8e308"
        large = isinstance(value, int) and abs(value) >= 2**128
        what = (
            "an integer of more than 128 bits" if large else f"the {'integer' if isinstance(value, int) else 'number'} {value}"
        )
        raise DTypeError(f"{what} does not fit in {dtype}", advice=f"{holds}: cast to a wider dtype first.") from None


def constant_of(value: Value) -> Scalar | None:
    """The Python scalar a Value is filled with, or None when it is no constant."""
    if isinstance(value.operation, Broadcast):
        value = value.operands[0]
    return value.operation.value if isinstance(value.operation, Constant) else None


def broadcast_to(x: Value, shape: Shape) -> Value:
    """NumPy broadcasting as graph operations: squeeze the stretched size-1 dimensions, then repeat."""
    shape = tuple(shape)
    if x.shape == shape:
        return x
    lead = len(shape) - x.ndim
    if lead < 0 or any(size not in (1, shape[lead + i]) for i, size in enumerate(x.shape)):
        raise ShapeError(
            f"shape {x.shape} does not broadcast to {shape}",
            advice="Sizes are compared from the last dimension and must be equal or 1.",
        )
    kept = tuple(i for i, size in enumerate(x.shape) if size == shape[lead + i])
    if len(kept) < x.ndim:
        x = apply(Reshape(tuple(x.shape[i] for i in kept)), x)
    return apply(Broadcast(shape, tuple(lead + i for i in kept)), x)


def cast(x: Value, dtype: DType) -> Value:
    """`x` in `dtype`; `x` itself when it already is."""
    return x if x.dtype == dtype else apply(Cast(dtype), x)


def is_scalar(x: Any) -> bool:
    """Whether `x` is a Python scalar, whose dtype is weak. So is numpy.float64, the type of `1 / numpy.sqrt(d)`."""
    return isinstance(x, bool | int | float)


def is_array(x: Any) -> bool:
    """Whether `x` is an array a user can pass: NumPy's, or a torch tensor (found without importing torch)."""
    return is_array_kind(type(x))


def is_array_kind(kind: type) -> bool:
    """Whether objects of a type are arrays."""
    return issubclass(kind, np.ndarray | np.generic) or is_tensor_type(kind)


def as_value(x: Any) -> Value:
    """`x` as a Value: itself, or a literal read at each call. Python scalars are lifted by `lift`, which knows their dtype."""
    if isinstance(x, Value):
        return x
    if is_array(x):
        if not isinstance(x, np.ndarray | np.generic):
            readable([x])
        return apply(Literal(x, tuple(x.shape), types.as_dtype(x.dtype), derivation(x)))
    raise TraceError(
        f"expected an array or a number, got {type(x).__name__}",
        advice="Convert it with numpy.asarray before the call, or pass it as a static argument.",
    )


def lift(*operands: Any) -> tuple[Value, ...]:
    """Operands as Values of one dtype: arrays promote, Python scalars take the arrays' dtype (float32 for a float beside integers)."""
    values = [None if is_scalar(x) else as_value(x) for x in operands]
    dtype = common_dtype(*(x if v is None else v for x, v in zip(operands, values, strict=True)))
    return tuple(constant(x, dtype) if v is None else cast(v, dtype) for x, v in zip(operands, values, strict=True))


def common_dtype(*operands: Value | Scalar) -> DType:
    """The promoted dtype of arrays and weak scalars."""
    arrays = [x.dtype for x in operands if isinstance(x, Value)]
    scalars = [x for x in operands if not isinstance(x, Value)]
    weak = types.promote(*(_weak_dtype(x) for x in scalars)) if scalars else None
    if not arrays:
        assert weak is not None
        return weak
    dtype = types.promote(*arrays)
    if weak is None or _rank(weak) <= _rank(dtype):
        return dtype
    return weak if weak.is_floating or dtype == types.bool_ else types.int64


def _weak_dtype(x: Scalar) -> DType:
    """What a scalar becomes among integers or alone: a Python float float32, a numpy.float64 itself."""
    number = types.float64 if isinstance(x, np.generic) else types.float32
    return types.bool_ if isinstance(x, bool) else types.int64 if isinstance(x, int) else number


def _rank(dtype: DType) -> int:
    return 0 if dtype == types.bool_ else 1 if dtype.is_integer else 2


@dataclass(frozen=True)
class Reshape(View):
    """The same elements in row-major order under another shape."""

    shape: Shape
    name = "reshape"

    @property
    def parameters(self) -> str:
        return str(self.shape)

    def result(self, x: Value) -> tuple[Shape, DType]:
        if int(np.prod(self.shape, dtype=object)) != x.size:
            raise ShapeError(
                f"cannot reshape {x.shape} ({x.size} elements) to {self.shape}",
                advice=f"The sizes of the new shape must multiply to {x.size}; -1 stands for what is left.",
            )
        return self.shape, x.dtype

    def numpy(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(self.shape)
