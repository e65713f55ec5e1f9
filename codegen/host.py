"""Values too large to store whole: the host computes them chunk after chunk, in loops over an axis of the program.

What leads out of a large Value (its owners: sums along it, products with it, results) decides the axis. An owner with that
axis is written a chunk at a time; one that sums over it leaves a partial sum a chunk. Owners of the same axis share a loop,
others compute the chunk again. What one chunk computes is `chunks.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import islice, product
from math import prod
from operator import or_

from gradc import structure
from gradc.codegen.axes import summed_dims
from gradc.codegen.chunks import Body, NotChunkedError, Region, Run, View
from gradc.codegen.device import Device
from gradc.codegen.nodes import is_leaf
from gradc.codegen.plan import HostLoop, Scheduled
from gradc.codegen.recipes import Recipes
from gradc.codegen.recomputed import is_safe
from gradc.codegen.schedule import schedule
from gradc.codegen.stages import HEAVY, State, storage_dtype, worth_storing
from gradc.ir import Graph, Value, apply, on_behalf_of, rebuild, topological, users_of
from gradc.leaves import Reshape, make_input

SMALLEST = 64 * 2**20  # bytes up to which an intermediate is stored whole in any case
SHARE = 0.08  # of the large intermediates, what their chunks may take
LARGEST_CHUNK = 128 * 2**20  # bytes; a longer chunk saves nothing but launches
MOST_CHOICES = 1024  # assignments of axes to owners that are compared
UNLIMITED = 1 << 62
EVEN = (128, 16, 1)  # chunks are multiples of these where they are as long


@dataclass(frozen=True)
class Memory:
    """Bytes: an intermediate of more than `whole` is computed in chunks, which take `chunk` together (None: SHARE of it)."""

    whole: int
    chunk: int | None = None


def memory_for(graph: Graph, budget: int | None = None) -> Memory:
    """What a program and its gradient may store: the budget, or intermediates of which none is large beside what it is made
    from and what it gives, each with its gradient.
    """
    if budget is not None:
        return Memory(budget, budget)
    candidates = [value for value in graph.values if stored_bytes(value) > SMALLEST and isinstance(value.operation, HEAVY)]
    beside = _bytes_beside(graph) if candidates else {}
    large = (stored_bytes(value) for value in candidates if stored_bytes(value) > 2 * beside[value])
    return Memory(min(large, default=UNLIMITED) - 1)


def _bytes_beside(graph: Graph) -> dict[Value, int]:
    """For every Value, the bytes of the arguments it is computed from and of the results computed from it."""
    ends = [*(value for value in graph.values if is_leaf(value)), *dict.fromkeys(graph.outputs)]
    behind = {value: 1 << place for place, value in enumerate(ends) if is_leaf(value)}
    ahead = {value: 1 << place for place, value in enumerate(ends) if not is_leaf(value)}
    for value in graph.values:
        behind[value] = reduce(or_, (behind[x] for x in value.operands), behind.get(value, 0))
    for value in reversed(graph.values):
        for x in value.operands:
            ahead[x] = ahead.get(x, 0) | ahead.get(value, 0)

    def total(places: int) -> int:
        return sum(end.bytes for place, end in enumerate(ends) if places >> place & 1)

    return {value: total(behind[value] | ahead.get(value, 0)) for value in graph.values}


@dataclass(frozen=True, eq=False)
class Section:
    """Kernels launched one after another: once, or for every chunk of a loop.

    `aliases` are the Values its program has for arrays of the whole, `views` those for parts of arrays. `counters` are where
    the chunk starts and the first position that no chunk before has gone over.
    """

    graph: Graph
    kernels: tuple[Scheduled, ...]
    aliases: Mapping[Value, Value]
    loop: HostLoop | None = None
    views: tuple[View, ...] = ()
    counters: tuple[Value, ...] = ()


@dataclass(frozen=True, eq=False)
class Way:
    """An owner computed in chunks of `size` positions in all: of its own `run`, or summed over the run `folded` of `heavy`."""

    owner: Value
    heavy: Value
    run: Run | None
    folded: Run
    size: int
    crossed: frozenset[tuple[Value, Run]]
    required: frozenset[Value]


def sections(
    graph: Graph, statistics: frozenset[Value], memory: Memory, device: Device, recipes: Recipes | None
) -> tuple[Section, ...]:
    """The launches of a prepared graph: one section, or several where a Value is too large to store.

    `statistics` are the outputs kept for the backward alone, which lie in memory as computed.
    """
    whole = Section(graph, tuple(schedule(graph, device, recipes)), {})
    roots = too_large(whole, memory)
    if not roots:
        return (whole,)
    region, owners = region_of(graph, roots, statistics)
    limit = memory.chunk or min(LARGEST_CHUNK, int(SHARE * sum(map(stored_bytes, roots))))
    loops = _loops(region, owners, limit)
    return tuple(_Builder(graph, region, limit, device, recipes).build(loops)) if loops else (whole,)


def too_large(section: Section, memory: Memory) -> list[Value]:
    """The temporaries of a section that are larger than the memory allows to store whole."""
    if section.loop is not None:
        return []
    given = {*section.graph.outputs, *(buffer for kernel in section.kernels for buffer in kernel.buffers.values())}
    written = dict.fromkeys(value for kernel in section.kernels for value in kernel.writes if value not in given)
    return [value for value in written if stored_bytes(value) > memory.whole]


def too_large_to_keep(outputs: Sequence[Value], memory: Memory) -> frozenset[Value]:
    """The reductions and products of a program and its gradient that the backward had better compute again."""
    values, given = topological(outputs), set(outputs)
    users = users_of(values)
    heavy = (value for value in values if isinstance(value.operation, HEAVY) and stored_bytes(value) > memory.whole)
    return frozenset(value for value in heavy if value not in given and is_safe(value, users))


def stored_bytes(value: Value) -> int:
    return value.size * storage_dtype(value, frozenset()).itemsize


# The region ---------------------------------------------------------------------------------------------------------


def region_of(graph: Graph, roots: Sequence[Value], statistics: frozenset[Value]) -> tuple[Region, dict[Value, Value]]:
    """What chunks go through, and its owners in program order: the Value to store, and the one that leads out of a large one."""
    finals, outputs = frozenset(graph.outputs) - statistics, frozenset(graph.outputs)
    most = (min(value.size for value in roots) + 1) // 2
    dependent = set(roots)
    for value in graph.values:
        if any(x in dependent for x in value.operands):
            dependent.add(value)
    large = {value for value in dependent if value.size >= most and value not in outputs}
    stored = worth_storing(list(graph.values), State(graph, graph.outputs, frozenset(), {}))
    outward = [value for value in graph.values if value not in large and any(x in large for x in value.operands)]
    users = users_of(graph.values)
    owners = {_outlet(stored.get(value, value), users, outputs): value for value in outward}
    stops = {*owners, *(value for value in stored.values() if value not in large)}
    dtypes = {value: storage_dtype(value, finals) for value in graph.values}
    return Region(frozenset(roots), frozenset(dependent), frozenset(stops), most, dtypes), owners


def _outlet(value: Value, users: Mapping[Value, list[Value]], outputs: frozenset[Value]) -> Value:
    """The Value, or the output that is nothing but another shape of it."""
    if value not in outputs and len(users[value]) == 1 and isinstance(users[value][0].operation, Reshape):
        return _outlet(users[value][0], users, outputs)
    return value


# Which axis, and what shares a loop ---------------------------------------------------------------------------------


def _loops(region: Region, owners: Mapping[Value, Value], limit: int) -> list[list[Way]] | None:
    """The owners in loops, in an order that respects what each needs whole; None where no assignment of axes works."""
    ways = [list(_ways(end, value, region)) for end, value in owners.items()]
    if not ways or not all(ways):
        return None
    orders = (_ordered(choice, region, set(owners)) for choice in islice(product(*ways), MOST_CHOICES))
    found = [order for order in orders if order is not None and all(_fits(loop, limit) for loop in order)]
    return min(found, key=_cost, default=None)


def _ways(end: Value, heavy: Value, region: Region) -> Iterator[Way]:
    """The ways to compute an owner in chunks, those with the most positions first."""
    choices: list[tuple[Run | None, Run]] = [(run, ()) for run in _runs(end.shape, range(end.ndim))]
    if isinstance(heavy.operation, structure.Contract) or getattr(heavy.operation, "kind", "") == "sum":
        axes = [axis for _, axis in summed_dims(heavy)]
        choices += [(None, run) for run in _runs(heavy.operands[0].shape, axes)]
    for run, folded in choices:
        shape = heavy.operands[0].shape if run is None else end.shape
        size = prod(shape[dim] for dim in run or folded)
        body = Body(HostLoop(size, size), region, {})
        if _pulled(body, end if run else heavy, run, folded):
            yield Way(end, heavy, run, folded, size, frozenset(body.crossed), frozenset(body.required))


def _runs(shape: tuple[int, ...], dims: Sequence[int]) -> list[Run]:
    """The runs among some dimensions that neither start nor end with one of a single position."""
    real = [dim for dim in dims if shape[dim] > 1]
    runs = [tuple(range(first, last + 1)) for first in real for last in real if first <= last]
    return sorted((run for run in runs if set(run) <= set(dims)), key=lambda run: -prod(shape[dim] for dim in run))


def _pulled(body: Body, value: Value, run: Run | None, folded: Run) -> bool:
    """Whether a Value can be computed in chunks that go through a large one."""
    try:
        _ = body.summed(value, folded) if run is None else body.chunk(value, run)
    except NotChunkedError:
        return False
    return bool(body.crossed)


def _ordered(choice: Sequence[Way], region: Region, owners: set[Value]) -> list[list[Way]] | None:
    """The loops of a choice, each after those that make what it needs whole."""
    done: set[Value] = set()
    rest, loops = list(choice), []
    while rest:
        ready = [way for way in rest if all(_owners_behind(x, region, owners) <= done for x in way.required)]
        if not ready:
            return None
        widest = max(ready, key=lambda way: len(way.crossed))
        loop = [way for way in ready if way.size == widest.size and way.crossed <= widest.crossed]
        loops.append(loop)
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


def _cost(loops: list[list[Way]]) -> tuple[int, int, int]:
    """Multiplications to compute the large Values in every loop, elements of partial sums, and how coarse the loops are."""
    work = sum(_work(root) for loop in loops for root, _ in {pair for way in loop for pair in way.crossed})
    return work, sum(way.owner.size for loop in loops for way in loop if way.run is None), -sum(loop[0].size for loop in loops)


def _fits(loop: list[Way], limit: int) -> bool:
    """Whether one position of a loop takes no more than the limit, and partial sums a small part of it."""
    return _bytes_along(loop) <= limit and _partial_bytes(loop, limit) <= limit / 4


def _partial_bytes(loop: list[Way], limit: int) -> float:
    """What the partial sums of a loop take, of as many chunks as the large Values make of it."""
    chunks = max(1.0, loop[0].size * _bytes_along(loop) / limit)
    return chunks * sum(way.heavy.size * way.heavy.dtype.compute.itemsize for way in loop if way.run is None)


def _bytes_along(loop: list[Way]) -> float:
    """Bytes of the large Values at one position of a loop."""
    return sum(stored_bytes(root) for root, _ in {pair for way in loop for pair in way.crossed}) / loop[0].size


def _work(root: Value) -> int:
    folded = [value for value in topological([root]) if value.size == root.size and summed_dims(value)]
    return root.size * max((prod(x.shape[axis] for x, axis in summed_dims(value)) for value in folded), default=1)


# Sections -----------------------------------------------------------------------------------------------------------


class _Builder:
    """Builds the sections one after another. `stored` are the Values in memory so far, with the inputs they are read as."""

    def __init__(self, graph: Graph, region: Region, limit: int, device: Device, recipes: Recipes | None):
        self.graph, self.region, self.limit, self.device, self.recipes = graph, region, limit, device, recipes
        self.stored: dict[Value, Value] = {}
        self.totals: dict[Value, Value] = {}

    def build(self, loops: list[list[Way]]) -> Iterator[Section]:
        for loop in loops:
            yield from self._straight([x for way in loop for x in way.required])
            yield self._looped(loop)
        yield from self._straight(self.graph.outputs)

    def _straight(self, wanted: Sequence[Value]) -> Iterator[Section]:
        """What of `wanted` is not in memory, computed whole."""
        missing = [value for value in dict.fromkeys(wanted) if value not in self.stored]
        if not missing:
            return
        given = {value: value for value in self.graph.inputs} | self.stored | self.totals
        new = rebuild(missing, given)
        graph = Graph(self._inputs(), tuple(new[value] for value in missing), title=self.graph.title)
        aliases = {stand_in: value for value, stand_in in self.stored.items()} | {new[value]: value for value in missing}
        yield Section(graph, tuple(schedule(graph, self.device, self.recipes)), aliases)
        self._store(missing)

    def _inputs(self) -> tuple[Value, ...]:
        return (*self.graph.inputs, *self.stored.values())

    def _store(self, values: Sequence[Value]) -> None:
        self.stored |= {value: self.region.stand_in(value) for value in values}

    def _looped(self, ways: list[Way]) -> Section:
        """A loop over chunks as long as their memory allows."""
        size = ways[0].size
        chunk = chunk_of(size, self.limit / _bytes_along(ways))
        section, parts = self._chunked(ways, HostLoop(size, chunk))
        while (taken := sum(map(stored_bytes, _temporaries(section)))) > (free := self._free(parts)) and chunk > 1:
            chunk = chunk_of(size, min(chunk - 1, chunk * free / taken))
            section, parts = self._chunked(ways, HostLoop(size, chunk))
        self._store([way.owner for way in ways if way.run is not None])
        for way in ways:
            if way.run is None:
                self._total(way.heavy, parts[way])
        return section

    def _free(self, parts: Mapping[Way, Value]) -> float:
        """The bytes that partial sums leave for a chunk."""
        return max(self.limit / 2, self.limit - sum(stored_bytes(part) for part in parts.values()))

    def _total(self, heavy: Value, part: Value) -> None:
        with on_behalf_of(heavy, heavy.note):
            total = apply(structure.Reduce("sum", (0,)), part)
        total.name = heavy.name
        self.totals[heavy] = total

    def _chunked(self, ways: list[Way], loop: HostLoop) -> tuple[Section, dict[Way, Value]]:
        """The section for one length of chunk, and the arrays of partial sums it leaves."""
        body, parts, outputs = Body(loop, self.region, self.stored), {}, []
        for way in ways:
            if way.run is None:
                parts[way] = _partial_sums(way, loop)
                outputs.append(body.placed(body.summed(way.heavy, way.folded), parts[way], None))
            else:
                outputs.append(body.placed(body.chunk(way.owner, way.run), way.owner, way.run))
        inputs = (*self._inputs(), *(view.part for view in body.views if not view.part.operands), *body.counters)
        graph = Graph(inputs, tuple(outputs), title=self.graph.title)
        in_order = replace(self.device, atomics=False)  # a chunk would have to fill its own zeros
        kernels = tuple(replace(kernel, loop=loop) for kernel in schedule(graph, in_order, self.recipes))
        aliases = {stand_in: value for value, stand_in in self.stored.items()}
        return Section(graph, kernels, aliases, loop, tuple(body.views), body.counters), parts


def _partial_sums(way: Way, loop: HostLoop) -> Value:
    heavy = way.heavy
    name = f"{heavy.name or way.owner.name or 'sum'}_part"
    return make_input((loop.count, *heavy.shape), heavy.dtype, name, stored=heavy.dtype.compute)


def _temporaries(section: Section) -> set[Value]:
    """What a chunk's kernels leave for each other."""
    return {value for kernel in section.kernels for value in kernel.writes} - set(section.graph.outputs)


def chunk_of(size: int, most: float) -> int:
    """The length of about equal chunks of at most `most` positions, a multiple of a tile where it can be."""
    longest = max(1, min(size, int(most)))
    even = -(-size // -(-size // longest))
    step = next(step for step in EVEN if step <= longest)
    return min(-(-even // step), longest // step) * step
