"""Along which axis the host computes each owner of a large Value in chunks, and which owners share a loop.

An owner with the axis is written a chunk at a time. One that sums over it is summed at the end, from what the chunks leave, or goes on
from chunk to chunk in one place. Assignments of axes to owners are weighed by seconds. What one chunk computes is `chunks.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import nsmallest
from itertools import islice, product
from math import prod

from gradc import structure, types
from gradc.codegen.axes import summed_dims
from gradc.codegen.device import Device
from gradc.codegen.hosting.chunks import Body, NotChunkedError, Region, Run
from gradc.codegen.plan import HostLoop
from gradc.codegen.stages import storage_dtype
from gradc.ir import Value, apply, on_behalf_of, topological
from gradc.types import DType

MOST_CHOICES = 1024  # assignments of axes to owners that are compared
LARGEST_CHUNK = 128 * 2**20  # bytes; a longer chunk saves nothing but launches
SMALL_SHARE = 16  # of a loop's memory, one part may go to a sum's parts of every chunk
EVEN = (128, 16, 1)  # chunks are multiples of these where they are as long


@dataclass(frozen=True, eq=False)
class Way:
    """An owner computed in chunks of `size` positions in all: of the `run` of `written`, or summed over the run `folded` of `heavy`.

    `written` is the owner; or, of a sum over the run and over more, the sum over the rest alone, which is summed over `run` at the end.
    """

    owner: Value
    heavy: Value
    written: Value
    stored: DType
    run: Run | None
    folded: Run
    size: int
    crossed: frozenset[tuple[Value, Run]]
    required: frozenset[Value]

    @property
    def place(self) -> str:
        """Where a sum over the chunks goes on: in the owner itself ("result"), there and in what rounding took ("halves"), or apart."""
        if self.owner is not self.heavy:
            return "apart"
        return "result" if self.stored == self.stored.compute else "halves" if self.stored == types.bfloat16 else "apart"

    @property
    def sum_bytes(self) -> int:
        """What the sum takes as it is computed."""
        return self.heavy.size * self.heavy.dtype.compute.itemsize


@dataclass(frozen=True, eq=False)
class Loop:
    """Ways that share a loop, within `limit` bytes beside what they give."""

    ways: tuple[Way, ...]
    limit: int

    @property
    def size(self) -> int:
        return self.ways[0].size

    @cached_property
    def roots(self) -> dict[Value, None]:
        """The large Values that are computed chunk by chunk."""
        return dict.fromkeys(root for way in self.ways for root, _ in sorted(way.crossed, key=lambda pair: pair[0].number))

    @cached_property
    def bytes_along(self) -> float:
        """Bytes of the large Values at one position."""
        return sum(map(stored_bytes, self.roots)) / self.size

    @cached_property
    def chunk(self) -> int:
        """The length of chunks that their memory allows."""
        return chunk_of(self.size, min(LARGEST_CHUNK, max(1, self.limit - self.beside)) / self.bytes_along)

    @cached_property
    def beside(self) -> float:
        """Bytes of the sums that the chunks do not write in place."""
        return sum(self._beside(way) for way in self.ways if way.run is None)

    def _beside(self, way: Way) -> float:
        if self.in_parts(way):
            return way.sum_bytes * max(1.0, self.size * self.bytes_along / self.limit)
        return {"result": 0, "halves": way.sum_bytes / 2, "apart": way.sum_bytes}[way.place]

    def in_parts(self, way: Way) -> bool:
        """Whether every chunk leaves its part of a sum: the sum is so small that they take little, and none waits for another."""
        return way.sum_bytes * max(1.0, self.size * self.bytes_along / self.limit) * SMALL_SHARE <= self.limit

    @property
    def fits(self) -> bool:
        """Whether one position takes no more than the limit allows beside the sums."""
        return self.bytes_along + self.beside <= self.limit

    def seconds(self, device: Device) -> float:
        """About what the loop takes, but for what every way to compute its owners takes: large Values, and sums read and written."""
        count = -(-self.size // self.chunk)
        made = {value for root in self.roots for value in multiplied(root)}
        work = sum(2 * value.size * _depth(value) / _rate(value, device) for value in made)
        sums = sum(2 * way.sum_bytes for way in self.ways if way.run is None and not self.in_parts(way))
        return work + count * (sums / device.bandwidth + (len(self.roots) + len(self.ways)) * device.launch_seconds)


def loops_of(region: Region, owners: Mapping[Value, Value], limit: int, device: Device, most: int) -> list[list[Loop]]:
    """At most so many ways to compute the owners in loops, the fastest first; in an order that respects what each needs whole."""
    ways = [list(_ways(end, value, region, limit)) for end, value in owners.items()]
    if not ways or not all(ways):
        return []
    orders = (_ordered(choice, region, set(owners), limit) for choice in islice(product(*ways), MOST_CHOICES))
    found = [order for order in orders if order is not None and all(loop.fits for loop in order)]
    return nsmallest(most, found, key=lambda loops: sum(loop.seconds(device) for loop in loops))


# Ways ---------------------------------------------------------------------------------------------------------------


def _ways(end: Value, heavy: Value, region: Region, limit: int) -> Iterator[Way]:
    """The ways to compute an owner in chunks, those with the most positions first."""
    for run in _runs(end.shape, range(end.ndim)):
        yield from _way(end, heavy, end, run, (), region)
    if isinstance(heavy.operation, structure.Contract) or getattr(heavy.operation, "kind", "") == "sum":
        axes = [axis for _, axis in summed_dims(heavy)]
        for run in _runs(heavy.operands[0].shape, axes):
            inner = _summed_otherwise(heavy, run, limit)
            found = [] if inner is None else list(_way(end, heavy, inner, _moved(heavy, run), (), region))
            yield from found or _way(end, heavy, end, None, run, region)


def _way(end: Value, heavy: Value, written: Value, run: Run | None, folded: Run, region: Region) -> Iterator[Way]:
    """The way to compute a Value in chunks that go through a large one, if it is one."""
    source, dims = (heavy.operands[0], folded) if run is None else (written, run)
    size = prod(source.shape[dim] for dim in dims)
    body = Body(HostLoop(size, size), region, {})
    try:
        _ = body.summed(heavy, folded) if run is None else body.chunk(written, run)
    except NotChunkedError:
        return
    if body.crossed:
        stored = region.dtypes[end]
        yield Way(end, heavy, written, stored, run, folded, size, frozenset(body.crossed), frozenset(body.required))


def _runs(shape: tuple[int, ...], dims: Sequence[int]) -> list[Run]:
    """The runs among some dimensions that neither start nor end with one of a single position."""
    real = [dim for dim in dims if shape[dim] > 1]
    runs = [tuple(range(first, last + 1)) for first in real for last in real if first <= last]
    return sorted((run for run in runs if set(run) <= set(dims)), key=lambda run: -prod(shape[dim] for dim in run))


def _summed_otherwise(heavy: Value, run: Run, limit: int) -> Value | None:
    """A sum over a run and other axes, over the others alone; None where there are no others or it is no small Value."""
    operation, x = heavy.operation, heavy.operands[0]
    if not isinstance(operation, structure.Reduce) or not set(run) < set(operation.axes):
        return None
    others = tuple(axis for axis in operation.axes if axis not in run)
    with on_behalf_of(heavy, heavy.note):
        inner = apply(structure.Reduce("sum", others), x)
    inner.name = heavy.name
    return inner if inner.size * inner.dtype.compute.itemsize * SMALL_SHARE <= limit else None


def _moved(heavy: Value, run: Run) -> Run:
    """Where a run of a sum's operand stands once the sum's other axes are gone."""
    kept = [dim for dim in range(heavy.operands[0].ndim) if dim not in heavy.operation.axes or dim in run]
    return tuple(kept.index(dim) for dim in run)


# Loops --------------------------------------------------------------------------------------------------------------


def _ordered(choice: Sequence[Way], region: Region, owners: set[Value], limit: int) -> list[Loop] | None:
    """The loops of a choice, each after those that make what it needs whole."""
    done: set[Value] = set()
    rest, loops = list(choice), []
    while rest:
        ready = [way for way in rest if all(_owners_behind(x, region, owners) <= done for x in way.required)]
        if not ready:
            return None
        widest = max(ready, key=lambda way: len(way.crossed))
        loop = tuple(way for way in ready if way.size == widest.size and way.crossed <= widest.crossed)
        loops.append(Loop(loop, limit))
        done |= {way.owner for way in loop}
        rest = [way for way in rest if way not in set(loop)]
    return loops


def _owners_behind(value: Value, region: Region, owners: set[Value]) -> set[Value]:
    """The owners a stored Value is computed from; itself where it is one."""
    found, waiting, seen = set(), [value], set()
    while waiting:
        current = waiting.pop()
        if current in owners:
            found.add(current)
        elif current in region.dependent and current not in seen:
            seen.add(current)
            waiting.extend(current.operands)
    return found


def stored_bytes(value: Value) -> int:
    """What a Value that is no result takes in memory."""
    return value.size * storage_dtype(value, frozenset()).itemsize


def multiplied(root: Value) -> list[Value]:
    """The sums and products of its own size that a large Value is made of."""
    return [value for value in topological([root]) if value.size == root.size and summed_dims(value)]


def _depth(value: Value) -> int:
    return prod(x.shape[axis] for x, axis in summed_dims(value))


def _rate(value: Value, device: Device) -> float:
    return device.matrix_rate if value.dtype.itemsize == 2 else device.vector_rate


def chunk_of(size: int, most: float) -> int:
    """The length of about equal chunks of at most `most` positions: a multiple of a tile, or what divides the positions, where it can be."""
    longest = max(1, min(size, int(most)))
    even = -(-size // -(-size // longest))
    step = next(step for step in EVEN if step <= longest)
    near = min(-(-even // step), longest // step) * step
    exact = (n for n in range(longest, longest * 3 // 4, -1) if size % n == 0 and n % min(16, step) == 0)
    return near if size % near == 0 else next(exact, near)
