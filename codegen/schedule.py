"""Which stages share a kernel: start with one kernel per stage, merge the pair that saves the most time, until none does.

Kernels that leave partial results are then fixed, the sums of their partials become new stages, and the rest is scheduled
again. Roles inside a kernel are `roles.py`; no operation is named here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradc.codegen.axes import AxisMap, Dim
from gradc.codegen.device import H200, Device
from gradc.codegen.roles import Plan, Setting, plan
from gradc.codegen.stages import Stage, State, find_stages
from gradc.ir import Graph, Value, apply, on_behalf_of
from gradc.leaves import make_input
from gradc.structure import Reduce


@dataclass(frozen=True, eq=False)
class Scheduled:
    """A kernel to emit: its plan, the axis map its expressions are in, and the buffer each partial stage fills."""

    plan: Plan
    axes: AxisMap
    buffers: dict[Value, Value]

    @property
    def reads(self) -> frozenset[Value]:
        return frozenset(buffer for buffer, _ in self.plan.reads)

    @property
    def writes(self) -> tuple[Value, ...]:
        return tuple(self.buffers.get(value, value) for value in self.plan.stored)


def schedule(graph: Graph, device: Device = H200) -> list[Scheduled]:
    """The kernels of a prepared graph, in launch order."""
    wanted = tuple(value for value in dict.fromkeys(graph.outputs) if value.size)
    state = State(graph, wanted, frozenset(), {})
    done: list[Scheduled] = []
    while True:
        axes = AxisMap(dict.fromkeys((*graph.values, *state.values())), state.overrides, _tied_parts(done))
        stages = find_stages(state, axes)
        groups = _merge(stages, state, done, device)
        kernels = [Scheduled(p, axes, _partial_buffers(p)) for p in groups]
        fixed = [kernel for kernel in kernels if kernel.plan.partial]
        if not fixed:
            return _launch_order([*done, *kernels])
        done += fixed
        state = _after(state, fixed)


def _partial_buffers(p: Plan) -> dict[Value, Value]:
    """For each partial stage, the array of its partial results: one leading dimension over the programs that share it."""
    buffers = {}
    parts = next((axis.programs for axis in p.axes if axis.role == "split"), 1)
    for stage in p.stages:
        if stage.value in p.partial:
            assert stage.heavy is not None
            heavy = stage.heavy.value
            name = f"{heavy.name or stage.value.name or 'sum'}_part"
            buffers[stage.value] = make_input((parts, *heavy.shape), heavy.dtype, name, stored=heavy.dtype.compute)
    return buffers


def _tied_parts(done: list[Scheduled]) -> Iterator[tuple[Dim, Dim]]:
    """Partial results of one kernel are merged along one axis: they have as many parts."""
    for kernel in done:
        first, *others = [(buffer, 0) for buffer in kernel.buffers.values()] or [None]
        for other in others:
            if first is not None and other is not None and first[0].shape[0] != 1:
                yield first, other


def _after(state: State, fixed: list[Scheduled]) -> State:
    """The program once the fixed kernels have run: their results are in memory, partial sums wait to be added up."""
    overrides, stored, needed = dict(state.overrides), set(state.stored), list(state.outputs)
    for kernel in fixed:
        needed += [value for value in kernel.reads if value.operands and value not in stored]
        for stage in kernel.plan.stages:
            if stage.value in kernel.plan.partial:
                assert stage.heavy is not None
                heavy = stage.heavy.value
                overrides[heavy] = _total(kernel.buffers[stage.value], heavy, stage.heavy.detail[0])
            elif stage.value in kernel.plan.stored:
                stored.add(stage.value)
    wanted = tuple(value for value in dict.fromkeys(needed) if value not in stored)
    return State(state.graph, wanted, frozenset(stored), overrides)


def _total(buffer: Value, heavy: Value, kind: str) -> Value:
    with on_behalf_of(heavy, heavy.note):
        total = apply(Reduce(kind, (0,)), buffer)
    total.name = heavy.name
    return total


def _launch_order(kernels: list[Scheduled]) -> list[Scheduled]:
    """Kernels after those that write what they read, otherwise in the order of the program."""
    writer = {value: kernel for kernel in kernels for value in kernel.writes}
    order: list[Scheduled] = []
    done: set[Scheduled] = set()

    def visit(kernel: Scheduled) -> None:
        if kernel not in done:
            done.add(kernel)
            for value in sorted(kernel.reads, key=lambda v: v.number):
                if value in writer and writer[value] is not kernel:
                    visit(writer[value])
            order.append(kernel)

    for kernel in kernels:
        visit(kernel)
    return order


# Merging ------------------------------------------------------------------------------------------------------------


class _Groups:
    """Disjoint groups of stages with the plan of each; knows which merges are legal and what they save."""

    def __init__(self, stages: list[Stage], state: State, done: list[Scheduled], device: Device):
        self.stages = {stage.value: stage for stage in stages}
        self.position = {stage.value: i for i, stage in enumerate(stages)}
        self.outputs = frozenset(state.graph.outputs)
        self.required = frozenset(state.outputs)
        self.device = device
        self.users: dict[Value, set[Value]] = {value: set() for value in self.stages}
        for stage in stages:
            for need in stage.needs:
                self.users[need].add(stage.value)
        self.after = _indirect_needs(stages, done)
        self.source: dict[Value, Scheduled] = {value: kernel for kernel in done for value in kernel.writes}
        self.group: dict[Value, frozenset[Value]] = {value: frozenset((value,)) for value in self.stages}
        self._plans: dict[frozenset[Value], Plan | None] = {}

    def plan(self, group: frozenset[Value]) -> Plan | None:
        if group not in self._plans:
            members = sorted(group, key=self.position.__getitem__)
            kept = frozenset(value for value in members if value in self.required or self.users[value] - group)
            private = all(need in self.stages[v].shareable for v in members for need in self.stages[v].needs & group)
            stages = [self.stages[value] for value in members]
            self._plans[group] = plan(stages, Setting(kept, self.outputs, self.device)) if private else None
        return self._plans[group]

    def partners(self, value: Value) -> Iterator[Value]:
        """Stages that share something with one: what it needs, what needs it, what reads an array it reads or another of the same kernel."""
        yield from self.stages[value].needs
        yield from self.users[value]
        for access in self.stages[value].accesses:
            yield from self.readers.get(self.source.get(access.buffer, access.buffer), ())

    @property
    def readers(self) -> dict[Value | Scheduled, list[Value]]:
        if not hasattr(self, "_readers"):
            self._readers: dict[Value | Scheduled, list[Value]] = {}
            for stage in self.stages.values():
                for access in stage.accesses:
                    origin = self.source.get(access.buffer, access.buffer)
                    if access.buffer.size > 1 or origin is not access.buffer:
                        self._readers.setdefault(origin, []).append(stage.value)
        return self._readers

    def saving(self, a: frozenset[Value], b: frozenset[Value]) -> float:
        """Seconds saved by merging two groups; not positive where it cannot or should not be done."""
        merged = self.plan(a | b)
        first, second = self.plan(a), self.plan(b)
        if merged is None or first is None or second is None or self._makes_cycle(a | b):
            return 0.0
        return first.seconds + second.seconds - merged.seconds

    def _makes_cycle(self, merged: frozenset[Value]) -> bool:
        """Whether something outside the merged group would both need it and be needed by it."""
        if any(self.after[value] & merged for value in merged):
            return True
        stack = [n for value in merged for n in self._before(value) if n not in merged]
        seen: set[Value] = set()
        while stack:
            value = stack.pop()
            if value in seen:
                continue
            seen.add(value)
            for member in self.group[value]:
                for need in self._before(member):
                    if need in merged:
                        return True
                    stack.append(need)
        return False

    def _before(self, value: Value) -> frozenset[Value]:
        return self.stages[value].needs | self.after[value]

    def merge(self, a: frozenset[Value], b: frozenset[Value]) -> frozenset[Value]:
        merged = a | b
        for value in merged:
            self.group[value] = merged
        return merged


def _indirect_needs(stages: list[Stage], done: list[Scheduled]) -> dict[Value, frozenset[Value]]:
    """Stages that must have run before a stage because a fixed kernel it reads from needs them."""
    writer = {value: kernel for kernel in done for value in kernel.writes}
    names = {stage.value for stage in stages}

    def behind(buffers, seen: set) -> set[Value]:
        found: set[Value] = set()
        for buffer in buffers:
            kernel = writer.get(buffer)
            if kernel is not None and kernel not in seen:
                seen.add(kernel)
                found |= {value for value in kernel.reads if value in names} | behind(kernel.reads, seen)
        return found

    return {stage.value: frozenset(behind([access.buffer for access in stage.accesses], set())) for stage in stages}


def _merge(stages: list[Stage], state: State, done: list[Scheduled], device: Device) -> list[Plan]:
    groups = _Groups(stages, state, done, device)
    savings: dict[tuple[frozenset[Value], frozenset[Value]], float] = {}

    def offer(group: frozenset[Value]) -> None:
        for partner in {groups.group[p] for value in group for p in groups.partners(value)} - {group}:
            pair = (
                (group, partner)
                if groups.position[min(group, key=groups.position.__getitem__)]
                <= groups.position[min(partner, key=groups.position.__getitem__)]
                else (partner, group)
            )
            if pair not in savings:
                savings[pair] = groups.saving(*pair)

    for group in list(groups.group.values()):
        offer(group)
    while savings:
        (a, b), saved = max(savings.items(), key=lambda item: (item[1], -_first(groups, item[0])))
        if saved <= 0:
            break
        if groups.saving(a, b) <= 0:  # an earlier merge made this one circular
            savings[(a, b)] = 0.0
            continue
        merged = groups.merge(a, b)
        savings = {pair: value for pair, value in savings.items() if a not in pair and b not in pair}
        offer(merged)
    unique = dict.fromkeys(groups.group[stage.value] for stage in stages)
    return [_required(groups.plan(group)) for group in unique]


def _first(groups: _Groups, pair: tuple[frozenset[Value], frozenset[Value]]) -> int:
    return min(groups.position[value] for group in pair for value in group)


def _required(p: Plan | None) -> Plan:
    assert p is not None, "every single stage has a plan"
    return p
