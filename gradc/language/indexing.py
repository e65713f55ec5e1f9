"""x[...], take, take_along_axis and x.at[...]: parts of an array by numbers, slices and integer arrays.

A key is read once into a chain of linear operations (slices, then at most one gather). `.at` sends updates back through the
transposes of the same chain, so what is written is exactly what would be read. Boolean masks, whose count is not known
before the program runs, are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from math import prod
from operator import index as as_index
from typing import Any, NoReturn

import numpy as np

from gradc import leaves, types
from gradc.errors import DTypeError, ShapeError, TraceError, UnsupportedError
from gradc.ir import Value, apply
from gradc.language.arguments import normal_axis, value_of
from gradc.language.calls import array_function
from gradc.language.creation import iota
from gradc.language.reductions import any as any_of
from gradc.language.shaping import permuted, reshaped
from gradc.leaves import as_value, cast, constant, is_array, make_input
from gradc.ops import TABLE
from gradc.structure import Flip, Gather, Slice

equal, add, less, logical_and, greater_equal = (
    TABLE[name].on_values for name in ("equal", "add", "less", "logical_and", "greater_equal")
)
multiply, where = TABLE["multiply"].on_values, TABLE["where"].on_values


@dataclass(frozen=True)
class Part:
    """How one dimension of the array is read: by a number, a slice, an integer array, or as a new dimension (None)."""

    kind: str  # "number", "slice", "array" or "new"
    what: Any = None


def read_key(key: Any, rank: int) -> list[Part]:
    """The key with its Ellipsis written out: one Part per dimension, and one per new dimension."""
    entries = list(key) if isinstance(key, tuple) else [key]
    dots = [i for i, entry in enumerate(entries) if entry is Ellipsis]
    if len(dots) > 1:
        raise ShapeError("an index holds at most one `...`")
    used = len([entry for entry in entries if entry is not None and entry is not Ellipsis])
    if used > rank:
        raise ShapeError(f"{used} indices for an array of {rank} dimensions")
    place = dots[0] if dots else len(entries)
    whole = [slice(None)] * (rank - used)
    return [read_entry(entry) for entry in (*entries[:place], *whole, *entries[place + 1 :])]


def read_entry(entry: Any) -> Part:
    if entry is None:
        return Part("new")
    if isinstance(entry, slice):
        return Part("slice", entry)
    if isinstance(entry, bool | np.bool_):
        raise UnsupportedError("an index of True or False", advice="Use None to add a dimension.")
    if isinstance(entry, list | tuple):
        entry = np.asarray(entry, dtype=np.int64 if len(entry) == 0 else None)
    if isinstance(entry, Value) or (is_array(entry) and not isinstance(entry, np.integer)):
        return Part("array", index_array(entry))
    try:
        return Part("number", as_index(entry))
    except TypeError:
        raise TraceError(
            f"an index is an integer, a slice, None, `...` or an integer array, got {type(entry).__name__}"
        ) from None


def index_array(entry: Any) -> Value:
    """An integer array as a Value; UnsupportedError for a mask, DTypeError for floats."""
    dtype = types.as_dtype(entry.dtype)
    if dtype == types.bool_:
        raise UnsupportedError(
            "indexing with a boolean mask has a size that is known only when the program runs",
            advice="Use gradc.where(mask, x, 0), or numpy.nonzero(mask) on a mask that is a constant.",
        )
    if not dtype.is_integer:
        raise DTypeError(f"indices are integers, got {dtype}", advice="Cast them with astype.")
    return as_value(entry)


def getitem(x: Value, key: Any) -> Value:
    """NumPy's x[key]."""
    parts = read_key(key, x.ndim)
    x = sliced(x, [p for p in parts if p.kind != "new"])
    if not any(p.kind == "array" for p in parts):
        return reshaped(x, kept_shape(x, parts))
    return gathered(x, parts)


def sliced(x: Value, parts: list[Part]) -> Value:
    """Reads numbers and slices; a number leaves a dimension of size 1, an array is left for `gathered`."""
    spans = [span_of(p, size, axis, x) for axis, (p, size) in enumerate(zip(parts, x.shape, strict=True))]
    backward = tuple(axis for axis, (_, step) in enumerate(spans) if step < 0)
    ascending = [(positions[::-1] if step < 0 else positions) for positions, step in spans]
    starts, stops = tuple(r.start if r else 0 for r in ascending), tuple(r[-1] + 1 if r else 0 for r in ascending)
    steps = tuple(abs(r.step) if len(r) > 1 else 1 for r in ascending)
    if (starts, stops, steps) != ((0,) * x.ndim, x.shape, (1,) * x.ndim):
        x = apply(Slice(starts, stops, steps), x)
    return apply(Flip(backward), x) if backward else x


def span_of(p: Part, size: int, axis: int, x: Value) -> tuple[range, int]:
    """The positions a dimension is read at, and the direction."""
    if p.kind == "number":
        if not -size <= p.what < size:
            raise ShapeError(f"index {p.what} is out of bounds for dimension {axis} of shape {x.shape}")
        return range(p.what % size, p.what % size + 1), 1
    positions = range(size)[p.what] if p.kind == "slice" else range(size)
    return positions, -1 if positions.step < 0 and len(positions) > 1 else 1


def kept_shape(x: Value, parts: list[Part]) -> tuple[int, ...]:
    """The shape without the dimensions read by a number and with the new ones."""
    sizes = iter(x.shape)
    shape = []
    for p in parts:
        size = 1 if p.kind == "new" else next(sizes)
        if p.kind != "number":
            shape.append(size)
    return tuple(shape)


def gathered(x: Value, parts: list[Part]) -> Value:
    """Reads the integer arrays: their dimensions are merged into one, gathered from, and unfolded to the indices' shape.

    As in NumPy, numbers beside arrays count as arrays; the result's index dimensions stand where the arrays stood when those
    are neighbours, and first otherwise.
    """
    advanced = [i for i, p in enumerate(parts) if p.kind in ("array", "number")]
    adjacent = advanced == list(range(advanced[0], advanced[-1] + 1))
    axis_of = {i: axis for axis, i in enumerate(i for i, p in enumerate(parts) if p.kind != "new")}
    arrays = [(axis_of[i], p.what) for i, p in enumerate(parts) if p.kind == "array"]
    dropped = tuple(axis_of[i] for i, p in enumerate(parts) if p.kind == "number")
    shape = types.broadcast_shapes(*(v.shape for _, v in arrays))
    axes = tuple(axis for axis, _ in arrays)
    rest = tuple(i for i in range(x.ndim) if i not in axes and i not in dropped)
    merged = reshaped(permuted(x, (*axes, *dropped, *rest)), (prod(x.shape[i] for i in axes), *(x.shape[i] for i in rest)))
    index = reshaped(leaves.broadcast_to(merged_index(arrays, x.shape), shape), (prod(shape), *(1 for _ in rest)))
    picked = apply(Gather(0), merged, index)
    before = len([p for p in parts[: advanced[0]] if p.kind == "slice"]) if adjacent else 0
    picked = permuted(picked, (*range(1, before + 1), 0, *range(before + 1, picked.ndim)))
    return reshaped(picked, unfolded_shape(picked, parts, shape, before, advanced[0] if adjacent else 0))


def merged_index(arrays: list[tuple[int, Value]], sizes: tuple[int, ...]) -> Value:
    """One index into the merged dimensions. An index out of bounds anywhere is out of bounds of the whole."""
    if len(arrays) == 1:
        return arrays[0][1]
    total = prod(sizes[axis] for axis, _ in arrays)
    flat, inside = None, None
    for axis, entry in arrays:
        size, entry = sizes[axis], cast(entry, types.int64)
        fits = logical_and(greater_equal(entry, -size), less(entry, size))
        entry = where(less(entry, 0), add(entry, size), entry)
        flat = entry if flat is None else add(multiply(flat, size), entry)
        inside = fits if inside is None else logical_and(inside, fits)
    assert flat is not None
    return where(inside, flat, total)


def unfolded_shape(picked: Value, parts: list[Part], shape: tuple[int, ...], before: int, first: int) -> tuple[int, ...]:
    """The result's shape: the gathered dimension unfolded to the indices' shape, and the new dimensions put in."""
    sizes = iter((*picked.shape[:before], *picked.shape[before + 1 :]))
    result: list[int] = []
    placed = False
    for i, p in enumerate(parts):
        if i == first and not placed:
            result.extend(shape)
            placed = True
        if p.kind in ("new", "slice"):
            result.append(1 if p.kind == "new" else next(sizes))
    return tuple(result)


@array_function
def take(x: Any, indices: Any, /, axis: int | None = None) -> Value:
    """The elements at integer indices along `axis`; None takes from the flattened array. Negative ones count from the end."""
    value = value_of(x)
    if axis is None:
        if value.ndim != 1:
            value = reshaped(value, (value.size,))
        axis = 0
    place = normal_axis(axis, value.ndim)
    if not isinstance(indices, int):
        indices = read_entry(indices).what
    return getitem(value, (slice(None),) * place + (indices,))


@array_function
def take_along_axis(x: Any, indices: Any, /, axis: int = -1) -> Value:
    """`out[.., i, ..] = x[.., indices[.., i, ..], ..]` along `axis`; the other dimensions broadcast."""
    value, index = value_of(x), index_array(indices)
    place = normal_axis(axis, value.ndim)
    if index.ndim != value.ndim:
        raise ShapeError(f"indices of {index.ndim} dimensions for an array of {value.ndim}")
    others = types.broadcast_shapes(*((*v.shape[:place], 1, *v.shape[place + 1 :]) for v in (value, index)))
    value = leaves.broadcast_to(value, (*others[:place], value.shape[place], *others[place + 1 :]))
    return apply(Gather(place), value, index)


class At:
    """`x.at`: waits for a key. `x.at[key].set(v)` is a new array; nothing is changed in place."""

    def __init__(self, x: Value):
        self._x = x

    def __getitem__(self, key: Any) -> Place:
        return Place(self._x, key)


class Place:
    """The part of an array a key names, to be read or replaced in a new array."""

    def __init__(self, x: Value, key: Any):
        self._x, self._key = x, key

    def get(self) -> Value:
        """x[key]"""
        return getitem(self._x, self._key)

    def set(self, values: Any) -> Value:
        """`x` with `values` (broadcast) at the key. Of equal indices the last wins."""
        path = self._path()
        updates = self._fitted(values, path[-1])
        hits = put(path, constant(1, types.int32, updates.shape), last_wins=True)
        return where(TABLE["not_equal"].on_values(hits, 0), put(path, updates, last_wins=True), self._x)

    def add(self, values: Any) -> Value:
        """`x` with `values` (broadcast) added at the key. Equal indices accumulate."""
        path = self._path()
        return add(self._x, put(path, self._fitted(values, path[-1])))

    def subtract(self, values: Any) -> Value:
        """`x` with `values` (broadcast) subtracted at the key. Equal indices accumulate."""
        path = self._path()
        return TABLE["subtract"].on_values(self._x, put(path, self._fitted(values, path[-1])))

    def multiply(self, values: Any) -> Value:
        """`x` with its part at the key multiplied by `values` (broadcast). Equal indices: the last wins."""
        return self.set(multiply(self.get(), values))

    def divide(self, values: Any) -> Value:
        """`x` with its part at the key divided by `values` (broadcast). Equal indices: the last wins."""
        return self.set(TABLE["divide"].on_values(self.get(), values))

    def __getattr__(self, name: str) -> NoReturn:
        raise import_module("gradc.absent").missing("x.at[...]", name, vars(Place))

    def _path(self) -> list[Value]:
        """The chain of operations that reads the part, from a stand-in for the array to the part."""
        start = make_input(self._x.shape, self._x.dtype)
        chain = [getitem(start, self._key)]
        while chain[-1] is not start:
            chain.append(chain[-1].operands[0])
        return chain[::-1]

    def _fitted(self, values: Any, target: Value) -> Value:
        """The updates in the array's dtype and the part's shape."""
        if leaves.is_scalar(values):
            return constant(values, target.dtype, target.shape)
        return leaves.broadcast_to(cast(value_of(values), target.dtype), target.shape)


def put(path: list[Value], updates: Value, last_wins: bool = False) -> Value:
    """Zeros with `updates` where the path reads: the updates sent back through the transpose of each operation."""
    for value in reversed(path[1:]):
        if last_wins and isinstance(value.operation, Gather):
            updates = where(is_last(value.operands[1], value.operands[0].shape[0]), updates, constant(0, updates.dtype))
        updates = value.operation.transpose(value, updates)[0]
    return updates


def is_last(index: Value, size: int) -> Value:
    """Whether no later entry along dimension 0 means the same one of `size` elements; shaped as the index."""
    count = index.shape[0]
    flat = cast(reshaped(index, (count,)), types.int64)
    flat = where(less(flat, 0), add(flat, size), flat)
    same = equal(reshaped(flat, (count, 1)), reshaped(flat, (1, count)))
    later = less(iota(count, 0, 2), iota(count, 1, 2))
    return reshaped(TABLE["logical_not"].on_values(any_of(logical_and(same, later), axis=1)), index.shape)
