"""The program of one chunk: what a host loop runs for `chunk` positions of an axis, pulled from the values it has to leave.

A Value is wanted either whole or along a run of its dimensions, where it is computed for the chunk alone: a stretch of the
positions of the run, outermost first. Which part of the operands that takes follows from the operation. Inputs are views.
Nothing here decides what is chunked; see `host.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from gradc import structure, types
from gradc.codegen.axes import reshape_groups
from gradc.codegen.nodes import is_leaf, strides_of
from gradc.codegen.plan import HostLoop
from gradc.codegen.stages import storage_dtype
from gradc.ir import Value, apply, on_behalf_of, with_operands
from gradc.leaves import Broadcast, Cast, Input, Iota, Reshape, cast, constant, make_input
from gradc.ops import TABLE
from gradc.table import Elementwise
from gradc.types import DType, row_major
from gradc.walks import Walk, walked

Run = tuple[int, ...]  # neighbouring dimensions, outermost first


@dataclass(frozen=True)
class HostCounter(Input):
    """A position the host counts: a kernel takes it as an integer, not as an array."""

    name = "counter"


@dataclass(frozen=True)
class Placed(structure.Marker):
    """Lies in memory with these strides: it is written into a part of a larger array."""

    strides: tuple[int, ...] = ()
    name = "placed"


def unplaced(value: Value) -> Value:
    """The Value as it lies where it is not written into a part of a larger array: row-major."""
    return value.operands[0] if isinstance(value.operation, Placed) else value


@dataclass(frozen=True, eq=False)
class View:
    """`part` stands in a chunk's program for the chunk of `array` along `run`; without a `run`, for the chunk's own slot."""

    part: Value
    array: Value
    run: Run | None


@dataclass(frozen=True, eq=False)
class Region:
    """What a chunk's program may cross: `roots` are too large to store, `dependent` is all that is computed from them.

    `stops` are what is stored otherwise: results of reductions and products, and whatever leads out of the large Values.
    `most` is the size from which a Value counts as large; `dtypes` says how the others lie in memory.
    """

    roots: frozenset[Value]
    dependent: frozenset[Value]
    stops: frozenset[Value]
    most: int
    dtypes: Mapping[Value, DType]

    def stores(self, value: Value) -> bool:
        """Whether a Value may be stored whole to be read by a chunk's program."""
        if value in self.dependent:
            return value in self.stops and value not in self.roots
        return value.size < self.most

    def stand_in(self, value: Value) -> Value:
        """The input that a stored Value is where it is read."""
        stored = self.dtypes.get(value) or storage_dtype(value, frozenset())
        copy = make_input(value.shape, value.dtype, value.name or value.operation.name, stored=stored)
        copy.source = value.source
        return copy


class NotChunkedError(Exception):
    """The Value is needed whole, and it is one that must not be stored."""


class Body:
    """One chunk of the Values asked for. `stored` are those that lie in memory, with their stand-ins.

    `views` and `required` say what it reads of arrays: chunks, and Values to be stored beforehand that are read whole or
    in chunks. `crossed` says along which dimensions the roots are computed.
    """

    def __init__(self, loop: HostLoop, region: Region, stored: Mapping[Value, Value]):
        self.loop, self.region = loop, region
        self.stored = dict(stored)
        self.required: dict[Value, None] = {}
        self.crossed: set[tuple[Value, Run]] = set()
        self.views: list[View] = []
        self.arrays: dict[Value, Value] = {stand_in: value for value, stand_in in stored.items()}
        self.counters = self.start, self.first = counter("start"), counter("start" if loop.divides else "first")
        self._chunks: dict[tuple[Value, Run], Value] = {}
        self._wholes: dict[Value, Value] = {}

    def chunk(self, value: Value, run: Run) -> Value:
        """The Value at the chunk's positions along a run."""
        return walked(self._known_chunk(value, run))

    def _known_chunk(self, value: Value, run: Run) -> Walk[Value]:
        if (value, run) not in self._chunks:
            self._chunks[value, run] = yield self._chunk(value, run)
        return self._chunks[value, run]

    def _chunk(self, value: Value, run: Run) -> Walk[Value]:
        if value in self.stored or is_leaf(value) or (value in self.region.stops and value not in self.region.dependent):
            return self._view(value, run)
        if isinstance(value.operation, Iota):
            return self._positions(value)
        sources = read_along(value, run)
        if sources is None:
            return self._view(value, run)
        if value in self.region.roots:
            self.crossed.add((value, run))
        operands = []
        for x, r in zip(value.operands, sources, strict=True):
            operands.append(self.whole(x) if r is None else (yield self._known_chunk(x, r)))
        return _like(value, resized(value.operation, run, self.loop.chunk), *operands)

    def whole(self, value: Value) -> Value:
        """All of a Value: read where it is stored or must be, otherwise computed in the chunk's kernels."""
        return walked(self._whole(value))

    def _whole(self, value: Value) -> Walk[Value]:
        if value not in self._wholes:
            if value in self.stored or is_leaf(value) or value in self.region.stops or value in self.region.roots:
                self._wholes[value] = self._array(value)
            else:
                operands = []
                for x in value.operands:
                    operands.append((yield self._whole(x)))
                self._wholes[value] = with_operands(value, tuple(operands))
        return self._wholes[value]

    def summed(self, value: Value, run: Run) -> Value:
        """The chunk's share of a sum, folded along a run of its first operand."""
        operation = value.operation
        sources: list[Run | None] = [run]
        if isinstance(operation, structure.Contract):
            other = tuple(operation.rhs.index(operation.lhs[axis]) for axis in run)
            if not _is_run(other):
                raise NotChunkedError
            sources.append(other)
        operands = (self._counted_once(self.chunk(x, r), r) for x, r in zip(value.operands, sources, strict=True) if r)
        return _like(value, operation, *operands)

    def _counted_once(self, x: Value, run: Run) -> Value:
        """Zero at positions that the chunk before went over already."""
        if self.loop.divides:
            return x
        ramp = TABLE["add"](apply(Iota(self.loop.chunk, types.int64)), _filled(self.start, self.loop.chunk))
        fresh = TABLE["greater_equal"](ramp, _filled(self.first, self.loop.chunk))
        return TABLE["where"](apply(Broadcast(x.shape, run[-1:]), fresh), x, constant(0, x.dtype, x.shape))

    def placed(self, part: Value, array: Value, run: Run | None) -> Value:
        """`part` as an output of the chunk's program, to be written where the chunk is in `array`."""
        strides = row_major(array.shape)
        strides = strides if run is not None else strides[1:]
        if any(s != t and n != 1 for s, t, n in zip(strides, row_major(part.shape), part.shape, strict=True)):
            part = _like(part, Placed(strides), part)
        self.views.append(View(part, array, run))
        return part

    def _positions(self, value: Value) -> Value:
        ramp = _like(value, Iota(self.loop.chunk, value.dtype))
        with on_behalf_of(value, value.note):
            return TABLE["add"](ramp, _filled(cast(self.start, value.dtype), self.loop.chunk))

    def _view(self, value: Value, run: Run) -> Value:
        array = self._array(value)
        strides = strides_of(array)
        if any(strides[i] != strides[j] * array.shape[j] for i, j in pairwise(run)):
            raise NotChunkedError
        shape = resized_shape(array.shape, run, self.loop.chunk)
        part = make_input(shape, value.dtype, array.name, strides, getattr(array.operation, "stored", None))
        part.source = value.source
        self.views.append(View(part, self.arrays.get(array, array), run))
        return part

    def _array(self, value: Value) -> Value:
        if is_leaf(value):
            return value
        if value not in self.stored:
            if not self.region.stores(value):
                raise NotChunkedError
            self.required[value] = None
            self.stored[value] = self.region.stand_in(value)
            self.arrays[self.stored[value]] = value
        return self.stored[value]


def counter(name: str) -> Value:
    """A position counted by the host."""
    value = apply(HostCounter((), types.int64))
    value.name, value.source = name, None
    return value


def _filled(x: Value, size: int) -> Value:
    return apply(Broadcast((size,), ()), x)


def _like(value: Value, operation, *operands: Value) -> Value:
    """`operation(*operands)` on behalf of a Value, under its name."""
    with on_behalf_of(value, value.note):
        copy = apply(operation, *operands)
    copy.name = value.name
    return copy


def resized_shape(shape: tuple[int, ...], run: Run, size: int) -> tuple[int, ...]:
    """The shape with `size` positions along a run, all of them in its last dimension."""
    return (*shape[: run[0]], *(1 for _ in run[1:]), size, *shape[run[-1] + 1 :])


def resized(operation, run: Run, size: int):
    """The operation whose result has another size along a run that `read_along` accepts."""
    if isinstance(operation, Broadcast | Reshape):
        return replace(operation, shape=resized_shape(operation.shape, run, size))
    if isinstance(operation, structure.Slice):
        return replace(operation, stops=resized_shape(operation.stops, run, size))
    return operation


def read_along(value: Value, run: Run) -> list[Run | None] | None:
    """For each operand the run that is read at the result's positions along `run`, or None where those do not matter.

    None in all where the positions in an operand are others: flipped, shifted, or mixed with other dimensions.
    """
    if isinstance(value.operation, Reshape):
        groups = reshape_groups(value.operands[0].shape, value.shape)
        before = next((tuple(before) for before, after in groups if tuple(after) == run), None)
        return [before] if before is not None and _is_run(before) else None
    dims = [_read_at(value, dim) for dim in run]
    if any(sources is None for sources in dims):
        return None
    runs: list[Run | None] = []
    for sources in zip(*(sources for sources in dims if sources is not None), strict=True):
        known = tuple(dim for dim in sources if dim is not None)
        if known and not (len(known) == len(run) and _is_run(known)):
            return None
        runs.append(known or None)
    return runs


def _is_run(dims: tuple[int, ...]) -> bool:
    return all(j == i + 1 for i, j in pairwise(dims))


def _read_at(value: Value, dim: int) -> list[int | None] | None:
    """As `read_along`, for one dimension of the result."""
    operation, operands = value.operation, value.operands
    size = value.shape[dim]
    if isinstance(operation, Elementwise | Cast | structure.Marker):
        return [dim] * len(operands)
    if isinstance(operation, Broadcast):
        return [operation.axes.index(dim) if dim in operation.axes else None]
    if isinstance(operation, structure.Permute):
        return [operation.axes[dim]]
    if isinstance(operation, structure.Reduce):
        return [[axis for axis in range(operands[0].ndim) if axis not in operation.axes][dim]]
    if isinstance(operation, structure.Contract):
        return _labelled(operation, operation.out[dim])
    if isinstance(operation, structure.Gather):
        if dim == operation.axis:
            return [None, dim]
        return [dim, dim if operands[1].shape[dim] == size else None]
    if isinstance(operation, structure.Slice | structure.Pad):
        return [dim] if operands[0].shape[dim] == size else None
    moved = operation.axes if isinstance(operation, structure.Flip) else (getattr(operation, "axis", dim),)
    known = isinstance(operation, structure.Flip | structure.Concatenate | structure.Cumulative)
    return [dim] * len(operands) if known and dim not in moved else None


def _labelled(contract: structure.Contract, label: int) -> list[int | None] | None:
    """Where a label stands in both operands; None in all where it stands twice in one."""
    if max(contract.lhs.count(label), contract.rhs.count(label)) > 1:
        return None
    return [labels.index(label) if label in labels else None for labels in (contract.lhs, contract.rhs)]
