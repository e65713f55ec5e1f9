"""Values too large to store whole: the host computes them chunk after chunk, in loops over an axis of the program.

What leads out of a large Value (its owners: sums along it, products with it, results) decides the axis. An owner with that
axis is written a chunk at a time; one that sums over it leaves a partial sum a chunk. Owners of the same axis share a loop,
others compute the chunk again. What one chunk computes is `chunks.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_

from gradc import structure
from gradc.codegen.cascades.recipes import Recipes
from gradc.codegen.device import Device
from gradc.codegen.hosting.chunks import Body, Region, Run, View
from gradc.codegen.hosting.reuse import written_over
from gradc.codegen.hosting.sums import Sum
from gradc.codegen.hosting.ways import Loop, Way, chunk_of, loops_of, multiplied, stored_bytes
from gradc.codegen.nodes import Running, is_leaf
from gradc.codegen.plan import HostLoop, Scheduled
from gradc.codegen.printing.explain import duration, size
from gradc.codegen.recomputed import is_safe
from gradc.codegen.schedule import computed_operands, schedule
from gradc.codegen.stages import HEAVY, State, storage_dtype, worth_storing
from gradc.ir import Graph, Value, apply, on_behalf_of, rebuild, topological, users_of
from gradc.leaves import Reshape

SMALLEST = 64 * 2**20  # bytes up to which an intermediate is stored whole in any case
SHARE = 0.0975  # of the large intermediates, what their chunks may take
DEARER = 2.0  # times the seconds of a program that stores them, what one of chunks may take
ALIKE = 1.05  # times the least seconds: no prediction is better than that
COMPARED = 2  # assignments of axes, the best by a rough estimate, that are made to be weighed
UNLIMITED = 1 << 62
LARGE = "more than twice what it is made from and gives"


@dataclass(frozen=True)
class Memory:
    """Bytes: an intermediate of more than `whole` is computed in chunks, which take `chunk` together (None: SHARE of it),
    unless that takes more than `dearer` times as long. `why` says where the limit is from.
    """

    whole: int
    chunk: int | None = None
    dearer: float = math.inf
    why: str = "to keep to memory_budget"


def memories_for(graph: Graph) -> tuple[Memory, ...]:
    """What a program and its gradient may store unless told: no intermediate that is large beside what it is made from and
    what it gives, each with its gradient. One half as large may be stored, or not if that is no slower: another choice, where there is one.
    """
    candidates = [value for value in graph.values if stored_bytes(value) > SMALLEST and isinstance(value.operation, HEAVY)]
    beside = _bytes_beside(graph) if candidates else {}
    least, half = (
        min((stored_bytes(value) for value in candidates if stored_bytes(value) > times * beside[value]), default=UNLIMITED)
        for times in (2, 1)
    )
    forced = Memory(least - 1, None, DEARER, LARGE)
    return (forced,) if half == least else (forced, Memory(half - 1, None, DEARER, "no slower than to store it"))


def _bytes_beside(graph: Graph) -> dict[Value, int]:
    """For every Value, the bytes of the arguments it is computed from and of the results, but gradients, computed from it."""
    results = (value for value in dict.fromkeys(graph.outputs) if not value.note.startswith("∂"))
    ends = [*(value for value in graph.values if is_leaf(value)), *results]
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
    the chunk starts and the first position that no chunk before has gone over, `roots` the large Values that a loop makes.
    """

    graph: Graph
    kernels: tuple[Scheduled, ...]
    aliases: Mapping[Value, Value]
    loop: HostLoop | None = None
    views: tuple[View, ...] = ()
    counters: tuple[Value, ...] = ()
    roots: tuple[Value, ...] = ()
    sums: tuple[Sum, ...] = ()


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
    limit = memory.chunk or int(SHARE * sum(map(stored_bytes, {value for root in roots for value in multiplied(root)})))
    found = loops_of(region, owners, limit, device, COMPARED)
    best = _fastest([parts for loops in found for parts in _built(loops, graph, region, device, recipes)])
    if best is None or seconds_of(best) > memory.dearer * seconds_of((whole,)):
        return (whole,)
    return with_reasons(best, seconds_of(best), seconds_of((whole,)), memory.why)


def _built(
    loops: list[Loop], graph: Graph, region: Region, device: Device, recipes: Recipes | None
) -> Iterator[tuple[Section, ...]]:
    """The sections that loops make; once more with what products are made of stored, where a chunk computes that."""
    parts = tuple(_Builder(graph, region, device, recipes, False).build(loops))
    yield parts
    if any(part.loop is not None and computed_operands(part.graph) for part in parts):
        yield tuple(_Builder(graph, region, device, recipes, True).build(loops))


def _fastest(programs: Sequence[tuple[Section, ...]]) -> tuple[Section, ...] | None:
    """The program that is predicted to be the fastest; of those that no prediction tells apart the one with the fewest launches."""
    least = min(map(seconds_of, programs), default=0.0)
    return min((parts for parts in programs if seconds_of(parts) <= ALIKE * least), key=launches_of, default=None)


def launches_of(parts: Sequence[Section]) -> int:
    return sum(kernel.times for section in parts for kernel in section.kernels)


def seconds_of(parts: Sequence[Section]) -> float:
    """What the launches of some sections are predicted to take."""
    return sum(kernel.plan.bounds.alone * kernel.times for section in parts for kernel in section.kernels)


def too_large(section: Section, memory: Memory) -> list[Value]:
    """The temporaries of a section that are larger than the memory allows to store whole."""
    if section.loop is not None:
        return []
    given = {*section.graph.outputs, *(x for kernel in section.kernels for left in kernel.left.values() for x in left.arrays)}
    written = dict.fromkeys(value for kernel in section.kernels for value in kernel.writes if value not in given)
    return [value for value in written if stored_bytes(value) > memory.whole]


def too_large_to_keep(outputs: Sequence[Value], memory: Memory) -> frozenset[Value]:
    """The reductions and products of a program and its gradient that the backward had better compute again."""
    values, given = topological(outputs), set(outputs)
    users = users_of(values)
    heavy = (value for value in values if isinstance(value.operation, HEAVY) and stored_bytes(value) > memory.whole)
    return frozenset(value for value in heavy if value not in given and is_safe(value, users))


def with_reasons(parts: Sequence[Section], seconds: float, stored: float, why: str) -> tuple[Section, ...]:
    """The sections with a word on every loop: what it makes in chunks, why, and what it makes again."""
    made: set[Value] = set()
    found = []
    for part in parts:
        if part.loop is not None:
            lines = [
                _in_chunks(part, part.loop, why),
                f"    stored whole about {duration(stored)}, in chunks about {duration(seconds)}",
            ]
            products = dict.fromkeys(value for root in part.roots for value in multiplied(root))
            again = [_called(value) for value in products if value in made]
            lines += [f"    made again: {', '.join(again)}"] if again else []
            lines += [f"    {line}" for kept in part.sums for line in kept.said]
            loop = replace(part.loop, why=tuple(lines))
            part = replace(part, loop=loop, kernels=tuple(replace(kernel, loop=loop) for kernel in part.kernels))
            made |= set(products)
        found.append(part)
    return tuple(found)


def _in_chunks(part: Section, loop: HostLoop, why: str) -> str:
    whole = " and ".join(f"{_called(root)} ({size(stored_bytes(root))})" for root in part.roots)
    taken = sum(map(stored_bytes, _temporaries(part)))
    return f"{whole} in {loop.count} chunks of {loop.chunk} positions, {size(taken)} at a time: {why}"


def _called(value: Value) -> str:
    return value.name or value.operation.name


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
    while value not in outputs and len(users[value]) == 1 and isinstance(users[value][0].operation, Reshape):
        (value,) = users[value]
    return value


# Sections -----------------------------------------------------------------------------------------------------------


class _Builder:
    """Builds the sections one after another; with `operands`, what products are made of is stored where that is faster. `stored` are the Values in memory so far, with the inputs they are read as."""

    def __init__(self, graph: Graph, region: Region, device: Device, recipes: Recipes | None, operands: bool):
        self.graph, self.region, self.device, self.recipes, self.operands = graph, region, device, recipes, operands
        self.stored: dict[Value, Value] = {}
        self.totals: dict[Value, Value] = {}

    def build(self, loops: list[Loop]) -> Iterator[Section]:
        for loop in loops:
            yield from self._straight([x for way in loop.ways for x in way.required])
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

    def _looped(self, loop: Loop) -> Section:
        """A loop over chunks as long as their memory allows."""
        chunk, free = loop.chunk, max(1, loop.limit - loop.beside)
        section, sums = self._chunked(loop, HostLoop(loop.size, chunk))
        while (taken := sum(map(stored_bytes, _temporaries(section)))) > free and chunk > 1:
            chunk = chunk_of(loop.size, min(chunk - 1, chunk * free / taken))
            section, sums = self._chunked(loop, HostLoop(loop.size, chunk))
        for way in loop.ways:
            if way.run is not None:
                self._store([way.written])
                if way.written is not way.owner:
                    self._total(way.heavy, self.stored[way.written], way.run)
            elif sums[way].is_owner:
                self._store([way.owner])
            else:
                self._total(way.heavy, sums[way].array, sums[way].left)
        return section

    def _total(self, heavy: Value, array: Value, run: Run = ()) -> None:
        """A sum that is read from an array, or summed over a run of it."""
        with on_behalf_of(heavy, heavy.note):
            total = apply(structure.Reduce("sum", run) if run else structure.Keep(), array)
        total.name = heavy.name
        self.totals[heavy] = total

    def _chunked(self, loop: Loop, host: HostLoop) -> tuple[Section, dict[Way, Sum]]:
        """The section for one length of chunk, and the arrays of the sums over chunks."""
        body, sums, outputs = Body(host, self.region, self.stored), dict[Way, Sum](), list[Value]()
        aliases = {stand_in: value for value, stand_in in self.stored.items()}
        for way in loop.ways:
            if way.run is not None:
                outputs.append(body.placed(body.chunk(way.written, way.run), way.written, way.run))
                continue
            share, kept = body.summed(way.heavy, way.folded), Sum(way, host.count if loop.in_parts(way) else 0)
            outputs += kept.steps(body, share)
            aliases |= kept.aliases
            sums[way] = kept
        parts = (view.part for view in body.views if not view.part.operands)
        running = (value for value in aliases if isinstance(value.operation, Running))
        inputs = (*self._inputs(), *running, *parts, *body.counters)
        graph = Graph(inputs, tuple(outputs), title=self.graph.title)
        made = schedule(graph, self.device, self.recipes, self.operands, chunk=True)
        kernels = tuple(replace(kernel, loop=host) for kernel in made)
        aliases |= written_over(kernels, frozenset(graph.outputs))
        views, left = tuple(body.views), (tuple(loop.roots), tuple(sums.values()))
        return Section(graph, kernels, aliases, host, views, body.counters, *left), sums


def _temporaries(section: Section) -> set[Value]:
    """What a chunk's kernels leave for each other."""
    made = {value for kernel in section.kernels for value in kernel.writes} - set(section.graph.outputs)
    return {value for value in made if value not in section.aliases}
