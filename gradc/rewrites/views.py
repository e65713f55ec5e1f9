"""Rewrites of the operations that only move elements: reshape, permute, broadcast, slice, pad, flip, concatenate, cast.

All are exact. Their normal form: a dimension of size 1 is made by a broadcast (never by a reshape), a broadcast stands
outside everything it can, and two views of a kind are one.
"""

from __future__ import annotations

from gradc.ir import Value, apply
from gradc.leaves import Broadcast, Cast, Constant, Literal, Reshape, cast, constant
from gradc.rewrites.matching import built, inside, spread, spread_again, squeezed, without
from gradc.rewrites.rule import DERIVATIVE, rewrite
from gradc.structure import Concatenate, Flip, Pad, Permute, Slice
from gradc.types import DType, Shape


@rewrite("reshape")
def merge_reshapes(value: Value) -> Value | None:
    """Of two reshapes only the last counts; one to the same shape is nothing; one of a filled array is a filled array."""
    x = value.operands[0]
    if value.shape == x.shape:
        return x
    if x.operation == Broadcast(x.shape, ()):
        return apply(Broadcast(value.shape, ()), x.operands[0])
    return apply(value.operation, x.operands[0]) if isinstance(x.operation, Reshape) else None


@rewrite("reshape")
def unit_dimensions(value: Value) -> Value | None:
    """A reshape that inserts dimensions of size 1, or looks at a broadcast and only inserts or drops such, is a broadcast."""
    x = value.operands[0]
    if _sizes(x.shape) != _sizes(value.shape) or 0 in value.shape:
        return None
    places = [i for i, size in enumerate(value.shape) if size != 1]
    if not isinstance(x.operation, Broadcast):
        return None if _is_squeeze(x.shape, value.shape) else spread(squeezed(x), value.shape, places)
    axes = [axis for axis, size in zip(x.operation.axes, x.operands[0].shape, strict=True) if size != 1]
    rank = {axis: i for i, axis in enumerate(i for i, size in enumerate(x.shape) if size != 1)}
    return spread(squeezed(x.operands[0]), value.shape, [places[rank[axis]] for axis in axes])


def _sizes(shape: Shape) -> list[int]:
    return [size for size in shape if size != 1]


def _is_squeeze(before: Shape, after: Shape) -> bool:
    """Whether `after` comes from `before` by leaving out dimensions."""
    rest = iter(before)
    return all(size in rest for size in after)


@rewrite("permute")
def merge_permutes(value: Value) -> Value | None:
    """Of two permutations only the product counts; one that moves no dimension but those of size 1 is a reshape."""
    x, axes = value.operands[0], value.operation.axes
    moved = [axis for axis in axes if x.shape[axis] != 1]
    if moved == sorted(moved):
        return x if list(axes) == sorted(axes) else apply(Reshape(value.shape), x)
    if isinstance(x.operation, Permute):
        return apply(Permute(tuple(x.operation.axes[axis] for axis in axes)), x.operands[0])
    if isinstance(x.operation, Broadcast):
        return spread(x.operands[0], value.shape, [axes.index(axis) for axis in x.operation.axes])
    return None


@rewrite("broadcast")
def merge_broadcasts(value: Value) -> Value | None:
    """Of two broadcasts only the product counts; one that repeats nothing is nothing."""
    x = value.operands[0]
    if value.shape == x.shape:
        return x
    return spread_again(x, value.operation) if isinstance(x.operation, Broadcast) else None


@rewrite("slice")
def slice_of_view(value: Value) -> Value | None:
    """A slice of everything is nothing; slices compose; a slice of a broadcast is a broadcast of a slice."""
    x, operation = value.operands[0], value.operation
    if value.shape == x.shape:
        return x
    if isinstance(x.operation, Slice):
        return apply(_composed(x.operation, operation, value.shape), x.operands[0])
    if isinstance(x.operation, Broadcast):
        kept = x.operation.axes
        parts = (tuple(part[axis] for axis in kept) for part in (operation.starts, operation.stops, operation.steps))
        return apply(Broadcast(value.shape, kept), apply(Slice(*parts), x.operands[0]))
    return None


def _composed(first: Slice, second: Slice, shape: Shape) -> Slice:
    """The slice that `second` takes of what `first` took."""
    starts = tuple(a + b * s for a, b, s in zip(first.starts, second.starts, first.steps, strict=True))
    steps = tuple(s * t for s, t in zip(first.steps, second.steps, strict=True))
    stops = tuple(a + (n - 1) * s + 1 if n else a for a, n, s in zip(starts, shape, steps, strict=True))
    return Slice(starts, stops, steps)


@rewrite("slice")
def slice_of_parts(value: Value) -> Value | None:
    """A slice of exactly one part of a concatenation is that part; of exactly what was padded, the unpadded array."""
    x, operation = value.operands[0], value.operation
    if isinstance(x.operation, Concatenate):
        axis, start = x.operation.axis, 0
        for part in x.operands:
            if operation.starts[axis] == start and value.shape == part.shape and set(operation.steps) == {1}:
                return part
            start += part.shape[axis]
    if isinstance(x.operation, Pad) and value.shape == x.operands[0].shape:
        padding = x.operation
        if operation.starts == padding.low and operation.steps == tuple(i + 1 for i in padding.interior):
            return x.operands[0]
    return None


@rewrite("pad")
def pad_by_nothing(value: Value) -> Value | None:
    """Padding by nothing is nothing."""
    return value.operands[0] if value.shape == value.operands[0].shape else None


@rewrite("add", holds=DERIVATIVE)
def join_padded(value: Value) -> Value | None:
    """pad(a) + pad(b), where b begins where a ends and each is 0 at the other, is their concatenation; also in (x + pad(a)) + pad(b).

    A -0 of a or b stays -0.
    """
    for one, other in (value.operands, value.operands[::-1]):
        if not isinstance(other.operation, Pad):
            continue
        terms = inside(one, "add")
        for term, rest in (terms, terms[::-1]) if terms else ((one, None),):
            joined = _joined(term, other)
            if joined is not None:
                return joined if rest is None else built("add", rest, joined)
    return None


def _joined(a: Value, b: Value) -> Value | None:
    """The concatenation that two padded arrays add up to, if they are neighbours."""
    if not isinstance(a.operation, Pad) or not isinstance(b.operation, Pad) or any(a.operation.interior + b.operation.interior):
        return None
    differing = [i for i, (m, n) in enumerate(zip(a.operation.low, b.operation.low, strict=True)) if m != n]
    if len(differing) != 1:
        return None
    axis = differing[0]
    if a.operation.low[axis] > b.operation.low[axis]:
        a, b = b, a
    (x,), (y,) = a.operands, b.operands
    aligned = all(x.shape[i] == y.shape[i] for i in without((axis,), x.shape))
    if not aligned or a.operation.low[axis] + x.shape[axis] != b.operation.low[axis]:
        return None
    return apply(Pad(a.operation.low, b.operation.high, a.operation.interior), apply(Concatenate(axis), x, y))


@rewrite("concatenate")
def flat_concatenation(value: Value) -> Value | None:
    """Concatenations within one along the same axis join it; a single part is itself."""
    if len(value.operands) == 1:
        return value.operands[0]
    if not any(part.operation == value.operation for part in value.operands):
        return None
    parts = (part.operands if part.operation == value.operation else (part,) for part in value.operands)
    return apply(value.operation, *(x for part in parts for x in part))


@rewrite("flip")
def merge_flips(value: Value) -> Value | None:
    """Flipping twice is flipping the axes that were flipped once; flipping no axis longer than 1 is nothing."""
    x = value.operands[0]
    axes = {axis for axis in value.operation.axes if value.shape[axis] > 1}
    if not axes:
        return x
    if isinstance(x.operation, Flip):
        return apply(Flip(tuple(sorted(axes ^ set(x.operation.axes)))), x.operands[0])
    return None


@rewrite("cast")
def merge_casts(value: Value) -> Value | None:
    """A cast through a dtype that loses nothing counts only at its end. Back to a 16-bit dtype it still rounds what was not rounded."""
    x = value.operands[0]
    if isinstance(x.operation, Constant):
        return constant(value.operation.numpy(x.operation.numpy()).item(), value.dtype)
    if not isinstance(x.operation, Cast):
        return x if x.dtype == value.dtype and (x.dtype.compute == x.dtype or _is_rounded(x)) else None
    origin = x.operands[0]
    if x.dtype.compute != x.dtype and not _is_rounded(origin):
        return None  # this cast rounds
    wraps = x.dtype.is_floating and (origin.dtype.family, value.dtype.family) == ("int", "uint")
    if not holds_all(x.dtype, origin.dtype) or wraps:
        return None
    if origin.dtype != value.dtype:
        return cast(origin, value.dtype)
    return (
        origin if value.note or origin.dtype.compute == origin.dtype or _is_rounded(origin) else apply(value.operation, origin)
    )


def _is_rounded(value: Value) -> bool:
    """Whether a 16-bit Value holds no more than 16 bits: it was given, or just cast."""
    return isinstance(value.operation, Cast | Literal) or not value.operands


MANTISSA = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}


def holds_all(wide: DType, narrow: DType) -> bool:
    """Whether every value of `narrow` is one of `wide`."""
    if wide == narrow or narrow.family == "bool":
        return True
    if wide.is_floating and narrow.is_floating:
        return wide.itemsize > narrow.itemsize
    bits = 8 * narrow.itemsize - (narrow.family == "int")
    if wide.is_floating:
        return narrow.is_integer and bits <= MANTISSA[wide.name]
    if narrow.is_floating or wide.family == "bool" or (wide.family, narrow.family) == ("uint", "int"):
        return False
    return bits <= 8 * wide.itemsize - (wide.family == "int")
