"""Structural primitives, one class each: shape rule, NumPy meaning, and how cotangents go back through it.

A linear operation has `transpose(value, cotangent)`, the cotangents of its linear operands. The few that are not linear
(max, min, prod, cumulative max) have `jvp` instead, written in linear operations, from which the reverse rule follows.
`numpy` works on object arrays too, so the same classes are run on SymPy expressions to prove the rules.
The smaller ones that other files need earlier (input, constant, broadcast, cast, reshape) stand in `leaves.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from gradc import types
from gradc.errors import DTypeError, ShapeError
from gradc.interval import ARGUMENT, TRUTH, ZERO, Interval, image, union
from gradc.ir import Value, apply
from gradc.leaves import Broadcast, Cast, Iota, Reshape, Structural, View, cast, constant
from gradc.ops import TABLE
from gradc.table import Elementwise
from gradc.types import DType, Shape

Cotangents = tuple[Value | None, ...]


@dataclass(frozen=True)
class Permute(View):
    """Result dimension i is operand dimension `axes[i]`."""

    axes: tuple[int, ...]
    name = "permute"

    @property
    def parameters(self) -> str:
        return str(self.axes)

    def result(self, x: Value) -> tuple[Shape, DType]:
        return tuple(x.shape[axis] for axis in self.axes), x.dtype

    def numpy(self, x: np.ndarray) -> np.ndarray:
        return x.transpose(self.axes)

    def transpose(self, value: Value, cotangent: Value) -> Cotangents:
        inverse = sorted(range(len(self.axes)), key=self.axes.__getitem__)
        return (apply(Permute(tuple(inverse)), cotangent),)


@dataclass(frozen=True)
class Slice(View):
    """`x[start:stop:step]` in every dimension, with 0 <= start <= stop <= size and step > 0."""

    starts: tuple[int, ...]
    stops: tuple[int, ...]
    steps: tuple[int, ...]
    name = "slice"

    @property
    def parameters(self) -> str:
        parts = (f"{a}:{b}" + (f":{s}" if s != 1 else "") for a, b, s in zip(self.starts, self.stops, self.steps, strict=True))
        return ", ".join(parts)

    def result(self, x: Value) -> tuple[Shape, DType]:
        return tuple(len(range(a, b, s)) for a, b, s in zip(self.starts, self.stops, self.steps, strict=True)), x.dtype

    def numpy(self, x: np.ndarray) -> np.ndarray:
        return x[tuple(slice(a, b, s) for a, b, s in zip(self.starts, self.stops, self.steps, strict=True))]

    def transpose(self, value: Value, cotangent: Value) -> Cotangents:
        sizes = value.operands[0].shape
        spans = [(n - 1) * s + 1 if n else 0 for n, s in zip(value.shape, self.steps, strict=True)]
        high = tuple(size - a - span for size, a, span in zip(sizes, self.starts, spans, strict=True))
        return (apply(Pad(self.starts, high, tuple(s - 1 for s in self.steps)), cotangent),)


@dataclass(frozen=True)
class Pad(Structural):
    """Zeros before (`low`), after (`high`) and between (`interior`) the elements of every dimension; none is negative."""

    low: tuple[int, ...]
    high: tuple[int, ...]
    interior: tuple[int, ...]
    name = "pad"

    @property
    def parameters(self) -> str:
        return f"low {self.low}, high {self.high}" + (f", interior {self.interior}" if any(self.interior) else "")

    def result(self, x: Value) -> tuple[Shape, DType]:
        parts = zip(x.shape, self.low, self.high, self.interior, strict=True)
        return tuple(a + b + n + max(n - 1, 0) * i for n, a, b, i in parts), x.dtype

    def numpy(self, x: np.ndarray) -> np.ndarray:
        parts = list(zip(x.shape, self.low, self.high, self.interior, strict=True))
        out = np.zeros(tuple(a + b + n + max(n - 1, 0) * i for n, a, b, i in parts), x.dtype)
        out[tuple(slice(a, a + n + max(n - 1, 0) * i, i + 1) for n, a, b, i in parts)] = x
        return out

    def interval(self, value: Value, operands: tuple[Interval, ...]) -> Interval:
        return union(operands[0], ZERO)

    def transpose(self, value: Value, cotangent: Value) -> Cotangents:
        sizes = value.operands[0].shape
        stops = tuple(
            a + max(0, (n - 1) * (i + 1) + 1 if n else 0) for n, a, i in zip(sizes, self.low, self.interior, strict=True)
        )
        return (apply(Slice(self.low, stops, tuple(i + 1 for i in self.interior)), cotangent),)


@dataclass(frozen=True)
class Flip(View):
    """Reverses the order along `axes`."""

    axes: tuple[int, ...]
    name = "flip"

    @property
    def parameters(self) -> str:
        return str(self.axes)

    def result(self, x: Value) -> tuple[Shape, DType]:
        return x.shape, x.dtype

    def numpy(self, x: np.ndarray) -> np.ndarray:
        return np.flip(x, self.axes)

    def transpose(self, value: Value, cotangent: Value) -> Cotangents:
        return (apply(self, cotangent),)


@dataclass(frozen=True)
class Concatenate(Structural):
    """The operands one after another along `axis`."""

    axis: int
    name = "concatenate"
    jointly_linear = True

    @property
    def parameters(self) -> str:
        return f"axis {self.axis}"

    def result(self, *operands: Value) -> tuple[Shape, DType]:
        first = operands[0]
        rest = {(x.shape[: self.axis], x.shape[self.axis + 1 :], x.dtype) for x in operands}
        if len(rest) != 1:
            raise ShapeError(f"concat along axis {self.axis} of shapes {', '.join(str(x.shape) for x in operands)}")
        total = sum(x.shape[self.axis] for x in operands)
        return (*first.shape[: self.axis], total, *first.shape[self.axis + 1 :]), first.dtype

    @property
    def linear(self) -> tuple[int, ...]:  # type: ignore[override]
        return ALL_OPERANDS

    def numpy(self, *arrays: np.ndarray) -> np.ndarray:
        return np.concatenate(arrays, self.axis)

    def interval(self, value: Value, operands: tuple[Interval, ...]) -> Interval:
        return union(*operands)

    def transpose(self, value: Value, cotangent: Value) -> Cotangents:
        parts, start = [], 0
        for operand in value.operands:
            stop = start + operand.shape[self.axis]
            starts = tuple(start if i == self.axis else 0 for i in range(value.ndim))
            stops = tuple(stop if i == self.axis else n for i, n in enumerate(value.shape))
            parts.append(apply(Slice(starts, stops, (1,) * value.ndim), cotangent))
            start = stop
        return tuple(parts)


ALL_OPERANDS = tuple(range(1 << 16))


@dataclass(frozen=True)
class Gather(View):
    """`out[.., i, ..] = x[.., index[.., i, ..], ..]` along `axis`. Other dimensions of the index are x's size or 1.

    Negative indices count from the end. An index out of bounds raises in the reference; a kernel gives NaN (0 for integers).
    """

    axis: int
    name = "gather"

    @property
    def parameters(self) -> str:
        return f"axis {self.axis}"

    def result(self, x: Value, index: Value) -> tuple[Shape, DType]:
        if not index.dtype.is_integer:
            raise DTypeError(f"indices are integers, got {index.dtype}")
        fits = x.ndim == index.ndim and all(
            i == self.axis or m in (1, n) for i, (n, m) in enumerate(zip(x.shape, index.shape, strict=True))
        )
        if not fits:
            raise ShapeError(f"indices of shape {index.shape} do not fit an array of shape {x.shape} along axis {self.axis}")
        return (*x.shape[: self.axis], index.shape[self.axis], *x.shape[self.axis + 1 :]), x.dtype

    def numpy(self, x: np.ndarray, index: np.ndarray) -> np.ndarray:
        shape = (*x.shape[: self.axis], index.shape[self.axis], *x.shape[self.axis + 1 :])
        return np.take_along_axis(x, np.broadcast_to(index, shape), self.axis)

    def transpose(self, value: Value, cotangent: Value) -> Cotangents:
        x, index = value.operands
        return apply(ScatterAdd(self.axis, x.shape[self.axis]), cotangent, index), None


@dataclass(frozen=True)
class ScatterAdd(Structural):
    """Zeros of `size` along `axis` with `updates` added at `index`, laid out as Gather's; equal indices accumulate."""

    axis: int
    size: int
    name = "scatter_add"

    @property
    def parameters(self) -> str:
        return f"axis {self.axis}, size {self.size}"

    def result(self, updates: Value, index: Value) -> tuple[Shape, DType]:
        if not index.dtype.is_integer:
            raise DTypeError(f"indices are integers, got {index.dtype}")
        return (*updates.shape[: self.axis], self.size, *updates.shape[self.axis + 1 :]), updates.dtype

    def numpy(self, updates: np.ndarray, index: np.ndarray) -> np.ndarray:
        out = np.zeros((*updates.shape[: self.axis], self.size, *updates.shape[self.axis + 1 :]), updates.dtype)
        places: list[np.ndarray] = list(np.indices(updates.shape, sparse=True))
        places[self.axis] = np.broadcast_to(index, updates.shape)
        np.add.at(out, tuple(places), updates)
        return out

    def interval(self, value: Value, operands: tuple[Interval, ...]) -> Interval:
        return union(operands[0].times(value.operands[0].shape[self.axis]), ZERO)

    def transpose(self, value: Value, cotangent: Value) -> Cotangents:
        return apply(Gather(self.axis), cotangent, value.operands[1]), None


REDUCTIONS: dict[str, Any] = {
    "sum": np.sum,
    "prod": np.prod,
    "max": np.max,
    "min": np.min,
    "any": np.any,
    "all": np.all,
    "argmax": np.argmax,
    "argmin": np.argmin,
}


@dataclass(frozen=True)
class Reduce(Structural):
    """Folds `axes` away. `kind` is sum, prod, max, min, any, all, argmax or argmin (the last two: one axis, first match).

    Sums and products of 16-bit floats accumulate in float32. max and min propagate NaN; their derivative is shared
    equally among ties. The sum, product, any and all of nothing are 0, 1, False and True; max of nothing is an error.
    """

    kind: str
    axes: tuple[int, ...]

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.kind

    @property
    def parameters(self) -> str:
        return f"axes {self.axes}"

    @property
    def linear(self) -> tuple[int, ...]:  # type: ignore[override]
        return (0,) if self.kind == "sum" else ()

    def result(self, x: Value) -> tuple[Shape, DType]:
        if self.kind in ("max", "min", "argmax", "argmin") and any(x.shape[axis] == 0 for axis in self.axes):
            raise ShapeError(f"the {self.kind} over an empty axis of {x.shape} has no value")
        shape = tuple(n for axis, n in enumerate(x.shape) if axis not in self.axes)
        dtype = types.int64 if self.kind.startswith("arg") else types.bool_ if self.kind in ("any", "all") else x.dtype
        return shape, dtype

    def numpy(self, x: np.ndarray) -> np.ndarray:
        if x.dtype == object and self.kind in FOLDED_BY:
            return fold(TABLE[FOLDED_BY[self.kind]], x, self.axes)
        if self.kind.startswith("arg"):
            return REDUCTIONS[self.kind](x, axis=self.axes[0])
        if self.kind in ("sum", "prod"):
            return REDUCTIONS[self.kind](x, axis=self.axes, dtype=x.dtype)
        return REDUCTIONS[self.kind](x, axis=self.axes)

    def interval(self, value: Value, operands: tuple[Interval, ...]) -> Interval:
        x = operands[0]
        if self.kind == "sum":
            return x.times(prod(value.operands[0].shape[axis] for axis in self.axes))
        if not value.dtype.is_floating:
            return TRUTH if self.kind in ("any", "all") else ARGUMENT
        return replace(x, selected=False) if self.kind in ("max", "min") else Interval(finite=x.finite)

    def transpose(self, value: Value, cotangent: Value) -> Cotangents:
        return (self.expand(cotangent, value.operands[0].shape),)

    def expand(self, reduced: Value, shape: Shape) -> Value:
        """The reduced result repeated along the axes that were folded away."""
        return apply(Broadcast(shape, tuple(i for i in range(len(shape)) if i not in self.axes)), reduced)

    def jvp(self, value: Value, tangents: Cotangents) -> Value | None:
        (x,), (tangent,) = value.operands, tangents
        if tangent is None or self.kind not in ("max", "min", "prod"):
            return None
        return product_tangent(x, tangent, self.axes) if self.kind == "prod" else self._extremum_tangent(value, x, tangent)

    def _extremum_tangent(self, value: Value, x: Value, tangent: Value) -> Value:
        hit = TABLE["equal"](apply(Keep(), x), self.expand(apply(Keep(), value), x.shape))
        ties = apply(Reduce("sum", self.axes), cast(hit, x.dtype))
        return apply(Reduce("sum", self.axes), TABLE["where"](hit, tangent, 0)) / ties


FOLDED_BY = {"max": "maximum", "min": "minimum", "any": "logical_or", "all": "logical_and"}


def fold(row: Elementwise, x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Reduces an array of expressions, which NumPy cannot compare, with a function of two operands."""
    for axis in sorted(axes, reverse=True):
        x = np.asarray(np.frompyfunc(row.on_exact, 2, 1).reduce(x, axis), object)
    return x


RADIX = 32  # factors that are multiplied with each other at once in the derivative of a product


def product_tangent(x: Value, tangent: Value, axes: tuple[int, ...]) -> Value:
    """d(prod x) without dividing by x (which may be 0): each tangent times the product of the other factors.

    The other factors of one are found in groups of RADIX, then the groups are factors themselves: n log n work, exact at zeros
    to every order.
    """
    kept = tuple(i for i in range(x.ndim) if i not in axes)
    shape = tuple(x.shape[i] for i in kept)
    flat = (*shape, prod(x.shape[i] for i in axes))
    value, tangent = (apply(Reshape(flat), apply(Permute((*kept, *axes)), v)) for v in (x, tangent))
    while value.shape[-1] > 1:
        count = value.shape[-1]
        size = min(RADIX, count)
        groups = (*shape, -(-count // size), size)
        value = apply(Reshape(groups), _filled(value, groups[-2] * size, 1))
        tangent = apply(Reshape(groups), _filled(tangent, groups[-2] * size, 0))
        last = value.ndim - 1
        tangent = apply(Reduce("sum", (last,)), tangent * _product_of_others(value))
        value = apply(Reduce("prod", (last,)), value)
    return apply(Reduce("sum", (value.ndim - 1,)), tangent)


def _product_of_others(x: Value) -> Value:
    """Along the last axis, the product of all elements but the one itself."""
    pairs = (*x.shape, x.shape[-1])
    ramp = apply(Iota(x.shape[-1], types.int32))
    itself = TABLE["equal"](apply(Broadcast(pairs, (x.ndim - 1,)), ramp), apply(Broadcast(pairs, (x.ndim,)), ramp))
    others = apply(Broadcast(pairs, (*range(x.ndim - 1), x.ndim)), x)
    return apply(Reduce("prod", (x.ndim,)), TABLE["where"](itself, 1, others))


def _filled(x: Value, size: int, value: int) -> Value:
    """`x` with its last axis made up to `size` with a number."""
    missing = size - x.shape[-1]
    return apply(Concatenate(x.ndim - 1), x, constant(value, x.dtype, (*x.shape[:-1], missing))) if missing else x


@dataclass(frozen=True)
class Contract(Structural):
    """A two-operand einsum: dimensions carry integer labels; a label missing from `out` is multiplied and summed over.

    Every label of `out` stands in an operand; every summed label stands in both. The result accumulates in float32 for
    16-bit floats, whose operands are rounded to their dtype first (they feed the matrix units).
    """

    lhs: tuple[int, ...]
    rhs: tuple[int, ...]
    out: tuple[int, ...]
    name = "contract"
    linear = (0, 1)

    @property
    def parameters(self) -> str:
        return self.subscripts

    @property
    def subscripts(self) -> str:
        lhs, rhs, out = ("".join(chr(ord("a") + label) for label in labels) for labels in (self.lhs, self.rhs, self.out))
        return f"{lhs},{rhs}->{out}"

    def result(self, x: Value, y: Value) -> tuple[Shape, DType]:
        sizes: dict[int, int] = {}
        for label, size in (*zip(self.lhs, x.shape, strict=True), *zip(self.rhs, y.shape, strict=True)):
            if sizes.setdefault(label, size) != size:
                raise ShapeError(
                    f"contracting {x.shape} with {y.shape} as {self.subscripts}: {sizes[label]} does not match {size}"
                )
        if x.dtype != y.dtype:
            raise DTypeError(f"contracting {x.dtype} with {y.dtype}", advice="Cast one of them with astype.")
        return tuple(sizes[label] for label in self.out), x.dtype

    def numpy(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.einsum(self.subscripts, x, y, optimize=x.dtype != object)

    def interval(self, value: Value, operands: tuple[Interval, ...]) -> Interval:
        x, y = value.operands
        square = x is y and self.lhs == self.rhs
        term = image(np.multiply, operands[: 1 if square else 2], (0, 0 if square else 1), True, value.dtype.compute.name)
        sizes = dict(zip((*self.lhs, *self.rhs), (*x.shape, *y.shape), strict=True))
        return term.times(prod(size for label, size in sizes.items() if label not in self.out))

    def transpose(self, value: Value, cotangent: Value) -> Cotangents:
        x, y = value.operands
        return (
            contract_onto(cotangent, self.out, y, self.rhs, self.lhs),
            contract_onto(cotangent, self.out, x, self.lhs, self.rhs),
        )


def contract_onto(a: Value, a_labels: tuple[int, ...], b: Value, b_labels: tuple[int, ...], out: tuple[int, ...]) -> Value:
    """The contraction of two labelled values onto `out`."""
    return apply(Contract(a_labels, b_labels, out), a, b)


@dataclass(frozen=True)
class Cumulative(Structural):
    """Running sum along `axis`, from the end when `reverse`."""

    axis: int
    reverse: bool = False
    name = "cumulative_sum"

    @property
    def parameters(self) -> str:
        return f"axis {self.axis}" + (", reverse" if self.reverse else "")

    def result(self, x: Value) -> tuple[Shape, DType]:
        return x.shape, x.dtype

    def numpy(self, x: np.ndarray) -> np.ndarray:
        if self.reverse:
            return np.flip(np.cumsum(np.flip(x, self.axis), self.axis, dtype=x.dtype), self.axis)
        return np.cumsum(x, self.axis, dtype=x.dtype)

    def interval(self, value: Value, operands: tuple[Interval, ...]) -> Interval:
        return operands[0].times(value.shape[self.axis])

    def transpose(self, value: Value, cotangent: Value) -> Cotangents:
        return (apply(Cumulative(self.axis, not self.reverse), cotangent),)


class Marker(View):
    """Passes its operand through and tells the compiler something."""

    def result(self, x: Value) -> tuple[Shape, DType]:
        return x.shape, x.dtype

    def numpy(self, x: np.ndarray) -> np.ndarray:
        return x

    def transpose(self, value: Value, cotangent: Value) -> Cotangents:
        return (cotangent,)


@dataclass(frozen=True, eq=False)
class Variable(Marker):
    """What is differentiated with respect to. Each is distinct, so that nested derivatives never mix up their variables."""

    name = "variable"


@dataclass(frozen=True)
class StopGradient(Marker):
    """A constant to differentiation."""

    name = "stop_gradient"
    linear = ()


@dataclass(frozen=True)
class Keep(Marker):
    """As its dtype holds it, wherever it is read: ties of a max are found by equality, and rounding keeps the order.

    Arithmetic on 16-bit floats is not rounded in between, so one side of the comparison may have been stored and the other not.
    """

    name = "keep"


def sum_to(x: Value, axes: tuple[int, ...]) -> Value:
    """The sum over `axes`, or `x` when there are none."""
    return apply(Reduce("sum", axes), x) if axes else x


def _transpose_broadcast(self: Broadcast, value: Value, cotangent: Value) -> Cotangents:
    return (sum_to(cotangent, tuple(i for i in range(value.ndim) if i not in self.axes)),)


def _transpose_reshape(self: Reshape, value: Value, cotangent: Value) -> Cotangents:
    return (apply(Reshape(value.operands[0].shape), cotangent),)


def _transpose_cast(self: Cast, value: Value, cotangent: Value) -> Cotangents:
    origin = value.operands[0].dtype
    return (cast(cotangent, origin) if origin.is_floating and self.dtype.is_floating else None,)


# leaves.py stands below Reduce and Permute, which these need.
Broadcast.transpose = _transpose_broadcast  # type: ignore[attr-defined]
Reshape.transpose = _transpose_reshape  # type: ignore[attr-defined]
Cast.transpose = _transpose_cast  # type: ignore[attr-defined]
