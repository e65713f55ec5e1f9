"""Which stages share a kernel: start with one kernel per stage, merge the pair that saves the most time, until none does.

Elementwise stages over the same axes that share data start together. A merge must leave a role for every axis (`roles.py`)
and no circle of kernels that wait for each other. Nothing is emitted here, and no operation is named.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gradc.codegen.axes import Families
from gradc.codegen.device import Device
from gradc.codegen.index import Axis
from gradc.codegen.lengths import MOST_ARRAYS, MOST_MERGED
from gradc.codegen.plan import Plan, Setting
from gradc.codegen.roles import plan
from gradc.codegen.stages import Stage, State
from gradc.ir import Value

TOGETHER_AT_MOST = 32768  # points of a stage that one program may go through with all it shares anything with


@dataclass(frozen=True, eq=False)
class Group:
    """Stages that share a kernel, in program order, and the plan for it (None: there is none)."""

    members: tuple[Value, ...]
    position: int
    plan: Plan | None


def merged_plans(
    stages: Sequence[Stage], state: State, done: Sequence[Any], device: Device
) -> list[tuple[Plan, tuple[tuple[Value, str], ...]]]:
    """The plans of the kernels that `stages` become, each with why its neighbours are others. `done` are the kernels fixed before.

    Where the state wants them level, a merge that makes a third kernel wait costs a launch: those that wait for nothing of each
    other can be launched together (`together.py`).
    """
    merger = Merger(stages, state, done, device)
    merger.run()
    groups = dict.fromkeys(merger.group[stage.value] for stage in stages)
    return [(_required(group.plan), tuple(merger.reasons(group))) for group in groups]


class Merger:
    """The groups of a program so far, what may be merged, and what each merge would save."""

    def __init__(self, stages: Sequence[Stage], state: State, done: Sequence[Any], device: Device):
        self.stages = {stage.value: stage for stage in stages}
        self.position = {stage.value: i for i, stage in enumerate(stages)}
        self.outputs, self.required = frozenset(state.graph.outputs), frozenset(state.outputs)
        self.device, self.recipes, self.level = device, state.recipes, state.level
        self.large = frozenset(stage.value for stage in stages if stage.work() > TOGETHER_AT_MOST)
        self.users: dict[Value, set[Value]] = {value: set() for value in self.stages}
        for stage in stages:
            for need in stage.needs:
                self.users[need].add(stage.value)
        self.after = indirect_needs(stages, done)
        self.readers = self._readers({value: kernel for kernel in done for value in kernel.writes})
        self.group = {value: self._group((value,)) for value in self.stages}
        self.savings: dict[tuple[Group, Group], float] = {}
        self._unions: dict[tuple[Group, Group], Group] = {}

    def _readers(self, source: dict[Value, Any]) -> dict[Hashable, list[Value]]:
        """Who reads an array, or any of the arrays that one fixed kernel leaves; of a number, who makes a number of it."""
        readers: dict[Hashable, list[Value]] = {}
        for stage in self.stages.values():
            for access in stage.accesses:
                if access.buffer.size > 1 or access.buffer in source or stage.value.size == 1:
                    readers.setdefault(source.get(access.buffer, access.buffer), []).append(stage.value)
        self._source = source
        return readers

    def run(self) -> None:
        """Merges until nothing is saved."""
        for members in self._alike():
            self._merge(self._group(members))
        for group in dict.fromkeys(self.group.values()):
            self._offer(group)
        while self.savings:
            (a, b), saved = max(self.savings.items(), key=saved_then_earliest)
            if saved <= 0:
                break
            if self._makes_cycle(frozenset((*a.members, *b.members))):  # because of an earlier merge
                self.savings[(a, b)] = 0.0
                continue
            self._merge(self._union(a, b))
            self.savings = {pair: value for pair, value in self.savings.items() if a not in pair and b not in pair}
            self._offer(self.group[a.members[0]])

    # Groups ----------------------------------------------------------------------------------------------------------

    def _group(self, members: Sequence[Value]) -> Group:
        ordered = tuple(sorted(members, key=self.position.__getitem__))
        inside = frozenset(ordered)
        kept = frozenset(value for value in ordered if value in self.required or self.users[value] - inside)
        stages = [self.stages[value] for value in ordered]
        shares = all(need in stage.shareable for stage in stages for need in stage.needs & inside)
        setting = Setting(kept, self.outputs, self.device, self.recipes)
        return Group(ordered, self.position[ordered[0]], plan(stages, setting) if shares else None)

    def _union(self, a: Group, b: Group) -> Group:
        if (a, b) not in self._unions:
            self._unions[a, b] = self._group((*a.members, *b.members))
        return self._unions[a, b]

    def _merge(self, merged: Group) -> None:
        for value in merged.members:
            self.group[value] = merged

    def _alike(self) -> Iterator[tuple[Value, ...]]:
        """Elementwise stages over the same axes that read a common array: merging them always saves, so they start as one."""
        families, members = Families(), dict[Hashable, list[Value]]()
        elementwise = [stage for stage in self.stages.values() if stage.heavy is None and stage.own]
        for stage in elementwise:
            for access in stage.accesses:
                families.join(stage.value.number, (frozenset(stage.own), access.buffer.number))
        for stage in elementwise:
            members.setdefault(families.find(stage.value.number), []).append(stage.value)
        for values in members.values():
            if (
                len(values) > 1
                and self._is_short(values)
                and not self._makes_cycle(frozenset(values))
                and self._group(values).plan is not None
            ):
                yield tuple(values)

    def _is_short(self, values: Sequence[Value]) -> bool:
        """Whether one kernel may have all these stages: it names few enough arrays, and is not too long."""
        stages = [self.stages[value] for value in values]
        arrays = {access.buffer for stage in stages for access in stage.accesses}
        return len(arrays) + len(stages) <= MOST_ARRAYS and sum(len(stage.nodes) for stage in stages) <= MOST_MERGED

    # Merges ----------------------------------------------------------------------------------------------------------

    def _partners(self, value: Value) -> Iterator[Value]:
        """Stages that share something with one: what it needs, what needs it, what reads an array it reads."""
        yield from self.stages[value].needs
        yield from self.users[value]
        for access in self.stages[value].accesses:
            yield from self.readers.get(self._source.get(access.buffer, access.buffer), ())

    def _offer(self, group: Group) -> None:
        """Weighs a group against every group it shares something with."""
        for other in {self.group[partner] for value in group.members for partner in self._partners(value)} - {group}:
            pair = (group, other) if group.position <= other.position else (other, group)
            if pair not in self.savings:
                self.savings[pair] = self._saving(*pair)

    def _saving(self, a: Group, b: Group) -> float:
        """Seconds saved by merging two groups; not positive where it cannot or should not be done."""
        members = (*a.members, *b.members)
        if not self._is_short(members) or self._makes_cycle(frozenset(members)):
            return 0.0
        waiting = self._kept_waiting(a, b)
        if waiting & self.large and not self._axes(a) & self._axes(b):
            return 0.0  # all that it could save is a launch
        merged = self._union(a, b)
        if merged.plan is None or a.plan is None or b.plan is None:
            return 0.0
        later = self._launches_later(a, b) if self.level and waiting else 0
        return a.plan.seconds + b.plan.seconds - merged.plan.seconds - later * self.device.launch_seconds

    def _kept_waiting(self, a: Group, b: Group) -> set[Value]:
        """Where one of two groups needs the other: what else needs that, and could run beside the first."""
        inside = frozenset((*a.members, *b.members))
        return {user for before, _ in self._in_order(a, b) for value in before.members for user in self.users[value] - inside}

    def _launches_later(self, a: Group, b: Group) -> int:
        """How many launches of groups that are kept waiting a merge costs: two where it has to wait for something itself."""
        waits = [self._needed(after) - self._needed(before) - {*before.members} for before, after in self._in_order(a, b)]
        return 1 + any(waits) if waits else 0

    def _in_order(self, a: Group, b: Group) -> list[tuple[Group, Group]]:
        """The two groups, the one first that the other needs; nothing where neither does."""
        return [(before, after) for before, after in ((a, b), (b, a)) if self._needed(after) & {*before.members}]

    def _needed(self, group: Group) -> set[Value]:
        return {need for value in group.members for need in self.stages[value].needs} - {*group.members}

    def _axes(self, group: Group) -> frozenset[Axis]:
        return frozenset().union(*(self.stages[value].axes for value in group.members))

    def _makes_cycle(self, merged: frozenset[Value]) -> bool:
        """Whether something outside the merged group would both need it and be needed by it."""
        if any(self.after[value] & merged for value in merged):
            return True
        stack = [need for value in merged for need in self._before(value) if need not in merged]
        seen: set[Value] = set()
        while stack:
            value = stack.pop()
            if value in seen:
                continue
            seen.add(value)
            for member in self.group[value].members:
                needs = self._before(member)
                if needs & merged:
                    return True
                stack.extend(needs)
        return False

    def _before(self, value: Value) -> frozenset[Value]:
        return self.stages[value].needs | self.after[value]

    # Reasons ---------------------------------------------------------------------------------------------------------

    def reasons(self, group: Group) -> Iterator[tuple[Value, str]]:
        """For each kernel this one takes data from, a Value of it and why the two are not one."""
        origins = {self.group[need] for value in group.members for need in self.stages[value].needs}
        for other in sorted(origins, key=lambda origin: origin.position):
            if other is not group:
                yield other.members[-1], self._why(other, group)

    def _why(self, a: Group, b: Group) -> str:
        if self._makes_cycle(frozenset((*a.members, *b.members))):
            return "another kernel has to run in between"
        if a.plan is not None and a.plan.partial:
            return "it needs a sum over all programs, which is there when the last has finished"
        if not all(need in self.stages[v].shareable for v in b.members for need in self.stages[v].needs & frozenset(a.members)):
            return "it reads it at other places than one program computes"
        merged = self._union(a, b) if a.position <= b.position else self._union(b, a)
        if merged.plan is None or a.plan is None or b.plan is None:
            return "no role for every axis suits both"
        longer = 1e6 * (merged.plan.seconds - a.plan.seconds - b.plan.seconds)
        return f"one kernel would take {longer:.1f} µs longer" if longer > 0 else "so that other kernels need not wait for both"


def saved_then_earliest(offer: tuple[tuple[Group, Group], float]) -> tuple[float, int, int]:
    """The merge that saves most; of equals the earliest in the program, so that every run chooses the same."""
    (a, b), saved = offer
    return saved, -a.position, -b.position


def indirect_needs(stages: Sequence[Stage], done: Sequence[Any]) -> dict[Value, frozenset[Value]]:
    """Stages that must have run before a stage because a fixed kernel it reads from needs them."""
    writer = {value: kernel for kernel in done for value in kernel.writes}
    names = {stage.value for stage in stages}

    def behind(buffers: Iterable[Value]) -> Iterator[Value]:
        waiting, seen = list(buffers), set[Any]()
        while waiting:
            kernel = writer.get(waiting.pop())
            if kernel is not None and kernel not in seen:
                seen.add(kernel)
                waiting += kernel.reads
                yield from kernel.reads & names

    return {stage.value: frozenset(behind(access.buffer for access in stage.accesses)) for stage in stages}


def _required(p: Plan | None) -> Plan:
    assert p is not None, "every single stage has a plan"
    return p
