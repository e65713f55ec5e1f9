"""A plan as the text of one Triton kernel: program ids, loops, accumulators, stores.

One walk, for every kernel: a value is computed in the outermost scope that knows all its axes; a reduction over a looped
axis opens a loop where its result belongs, and reductions over the same axis share it; what needs a finished reduction
goes to the next pass. Expressions are printed by `expressions.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

from gradc.codegen.cascades.riding import notes, passes, reduced_axes
from gradc.codegen.hosting.chunks import unplaced
from gradc.codegen.index import Axis, Index, of_axis
from gradc.codegen.masks.reach import deciding, narrowed
from gradc.codegen.masks.skips import needed_lines
from gradc.codegen.masks.whole import Stretch, whole_tiles
from gradc.codegen.nodes import Access, Node, Puller, data_of, walk
from gradc.codegen.plan import KernelAxis, Scheduled
from gradc.codegen.printing.dispatch import Dispatcher, same_text
from gradc.codegen.printing.explain import schedule_line
from gradc.codegen.printing.expressions import Argument, Expressions
from gradc.codegen.printing.finding import open_search
from gradc.codegen.printing.names import Names
from gradc.codegen.printing.online import Online
from gradc.codegen.printing.positions import wide_axes
from gradc.codegen.printing.scope import INDENT, Scope, Variable
from gradc.codegen.scattered import is_scattered, scattered
from gradc.codegen.searches import owner_of
from gradc.codegen.stages import Stage
from gradc.ir import Value
from gradc.leaves import make_input
from gradc.types import DType

SKIPS = "skips the tiles of {name} that a mask over positions empties"


@dataclass(frozen=True, eq=False)
class Emitted:
    """A kernel's text and how to launch it."""

    name: str
    source: str
    arguments: tuple[Argument, ...]
    programs: int
    warps: int
    pipeline: int
    helpers: frozenset[str]
    takes_program: bool  # as its first argument, where it is called by other programs' kernel
    notes: tuple[str, ...] = ()  # which sums ride along in another's pass, and why others do not


@dataclass(frozen=True, eq=False)
class Store:
    """A tile to write: `node` into `buffer` at `access`."""

    node: Node
    buffer: Value
    access: Access
    stage: Stage


def emit_kernel(
    kernel: Scheduled, name: str, buffer_names: dict[Value, str], dtypes: dict[Value, DType], heading: list[str], names: Names
) -> Emitted:
    """The kernel's text. `buffer_names` and `dtypes` say what arrays are called and how they lie in memory.

    `names` are the module's.
    """
    if kernel.parts:
        return _emit_parts(kernel, name, buffer_names, dtypes, heading, names)
    return _Kernel(kernel, buffer_names, dtypes, names.inside()).emit(name, heading, part=False)


def _emit_parts(
    kernel: Scheduled, name: str, buffer_names: dict[Value, str], dtypes: dict[Value, DType], heading: list[str], names: Names
) -> Emitted:
    """The text of kernels launched together: the functions their programs call, and the kernel that calls them."""
    dispatcher, functions, parts = Dispatcher(names.inside()), dict[str, Emitted](), []
    for part in kernel.parts:
        comment = [f"# called by {name}: {schedule_line(part)}"]
        emitted = _Kernel(part, buffer_names, dtypes, names.inside()).emit("part", comment, part=True)
        text = same_text(emitted.source, emitted.arguments)
        if text not in functions:
            own = names.fresh(f"{name}_{buffer_names[part.writes[0]]}")
            functions[text] = replace(emitted, name=own, source=emitted.source.replace("def part(", f"def {own}("))
        dispatcher.add(functions[text].name, emitted.arguments, emitted.programs, emitted.takes_program)
        parts.append(emitted)
    own_text = "\n".join([*heading, dispatcher.text(name)])
    return Emitted(
        name,
        "\n\n\n".join([*(function.source for function in functions.values()), own_text]),
        tuple(dispatcher.arguments.values()),
        sum(part.programs for part in parts),
        kernel.plan.warps,
        kernel.plan.pipeline,
        frozenset().union(*(part.helpers for part in parts)),
        False,
        tuple(dict.fromkeys(note for part in parts for note in part.notes)),
    )


class _Kernel:
    def __init__(self, kernel: Scheduled, buffer_names: dict[Value, str], dtypes: dict[Value, DType], names: Names):
        self.kernel, self.plan = kernel, kernel.plan
        self.axes = self.plan.axes
        inside = {stage.value for stage in self.plan.stages}
        buffers = {access.buffer for stage in self.plan.stages for access in stage.accesses} - inside
        self.puller = Puller(kernel.axes, lambda value: value in buffers)
        self.stores = [self._store(stage) for stage in self.plan.stages if stage.value in self.plan.stored]
        places = [node for store in self.stores for node in data_of(store.access.index)]
        self.nodes = walk([*(store.node for store in self.stores), *places])
        self.split = next((axis for axis in self.axes if axis.role == "split"), None)
        self.loop = next((axis for axis in self.axes if axis.role == "loop"), None)
        wide = wide_axes(self.axes, self._indices())
        self.root = Scope(None, frozenset(axis for axis in self.axes if axis.role in ("grid", "resident")))
        self.notes: list[str] = []
        self.online: Online | None = None  # what moves together along the split axis
        self.print = Expressions(
            self.axes,
            buffer_names,
            dtypes,
            self.nodes,
            [*(store.node for store in self.stores), *places, *places],
            self.root,
            wide,
            names,
        )  # a place is read in an address and a mask
        self.print.rereads = self.split if self.plan.rereads else None

    def _store(self, stage: Stage) -> Store:
        access = stage.store
        root = self.puller.at_own_axes(stage.value)
        if stage.value not in self.plan.partial:
            return Store(root, stage.value, access, stage)
        left = self.kernel.left[stage.value]
        kind, value = left.heavy.kind, left.heavy.value
        heavy = next(node for node in walk([root]) if node.kind == kind and node.value is value)
        if self.plan.atomic and is_scattered(stage, self.axes):
            found = scattered(heavy, access)
            assert found is not None
            return Store(found.term, left.sums[0], found.access, stage)
        return Store(heavy, left.sums[0], Access(unplaced(stage.value), access.index), stage)

    def _indices(self) -> Iterator[Index]:
        """Everything that is computed from positions as whole numbers."""
        for node in self.nodes:
            if node.kind == "load":
                yield node.detail.offset
                yield from (guard.index for guard in node.detail.guards)
            elif node.kind in ("position", "guard"):
                yield node.detail if node.kind == "position" else node.detail.index
        yield from (store.access.offset for store in self.stores)

    # The walk --------------------------------------------------------------------------------------------------------

    def emit(self, name: str, heading: list[str], part: bool) -> Emitted:
        """The kernel, or as a `part` of one a function that is told which of its programs it runs as."""
        self.print.positions.place_programs(self.print.multiplies, given=part)
        if self.split is None:
            self._body(self.root, self.stores, [])
        else:
            self._split_loop(self.split)
        programs = prod(axis.programs for axis in self.axes)
        takes_program = part and programs > 1
        signature = (f"{self.print.positions.program}, " if takes_program else "") + self.print.signature()
        source = "\n".join([*heading, "@triton.jit", f"def {name}({signature}):", *self.root.lines])
        return Emitted(
            name,
            source,
            self.print.arguments(),
            programs,
            self.plan.warps,
            self.plan.pipeline,
            frozenset(self.print.helpers),
            takes_program,
            tuple(self.notes),
        )

    def _split_loop(self, split: KernelAxis) -> None:
        """Each program takes every parts-th tile; what is carried over tiles is stored after the loop, as it is then."""
        carried = [node for node in self.nodes if self._crosses(node, split)]
        found = passes(self.nodes, split.axes, self.plan.recipes)
        self.notes += notes(found)
        self.online = online = Online(self.print, found.rides, carried, split)
        for node in carried:
            (online.start if node in online.stepwise else self.print.start_accumulator)(self.root, node)
        body = Scope(self.root, self.root.bound | {split})
        along = [store for store in self.stores if self._runs_along(store.node, store, split)]
        lines = () if along or self.loop else needed_lines(carried, split.axes)
        self.notes += [SKIPS.format(name=split.name)] if lines else []
        self.print.positions.open_split(body, split, lines)
        self._body(body, along, carried)
        online.close(body)
        body.close()
        for node in carried:
            if node not in online.rides:
                (online.finish if node in online.stepwise else self.print.finish_accumulator)(self.root, node)
        late = [store for store in self.stores if store not in along]
        self._body(self.root, [store for store in late if store.node not in carried], [])
        whole = [store for store in late if store.node in carried and store.node not in online.rides]
        self._body(self.root, whole, [], passes=False)
        self._write_sums(online, [store for store in late if store.node in online.rides])

    def _write_sums(self, online: Online, stores: list[Store]) -> None:
        """The sums that rode along, as this program has them, and the states they are kept at."""
        written = set()
        for store in stores:
            left = self.kernel.left[store.stage.value]
            for variable, array in zip(online.sums[store.node], left.sums, strict=True):
                self._write_part(variable, array, store.access)
            for state, (array, order) in left.references.items():
                if array not in written:
                    written.add(array)
                    row = make_input(array.shape[1:], array.dtype)
                    at = Access(row, tuple(of_axis(axis) for axis in order))
                    self._write_part(online.references[online.rides[store.node].leaves[state]].before, array, at)

    def _write_part(self, variable: Variable, array: Value, access: Access) -> None:
        own = frozenset(axis for index in access.index for axis in index.axes)
        self.print.store(self.root, variable, array, access, self.split, self._repeating(own), adds=False)

    def _repeating(self, own: frozenset[Axis]) -> list[KernelAxis]:
        """The axes along which programs compute the same result, of which one writes it; those that leave parts all do."""
        return [axis for axis in self.axes if axis.role == "grid" and own.isdisjoint(axis.axes)]

    def _runs_along(self, node: Node, store: Store, axis: KernelAxis) -> bool:
        return bool(frozenset(store.stage.own) & frozenset(axis.axes)) and store.stage.value not in self.plan.partial

    def _crosses(self, node: Node, axis: KernelAxis) -> bool:
        return bool(frozenset(reduced_axes(node)) & frozenset(axis.axes))

    def _body(self, scope: Scope, stores: list[Store], carried: list[Node], passes: bool = True) -> None:
        """Statements of one scope: passes over the looped axis, then what is left."""
        loop = self.loop if passes else None
        late_stores, late_carried = list(stores), list(carried)
        if loop is not None:
            late_stores = [store for store in stores if not self._runs_along(store.node, store, loop)]
            late_carried = [node for node in carried if not self._along(node.operands[0], loop)]
            self._passes(scope, loop, stores, carried, late_stores, late_carried)
        for node in late_carried:
            (self.online.step if self.online and node in self.online.stepwise else self.print.accumulate)(scope, node)
        self._fold_rows(scope, [store.node for store in late_stores])
        for store in late_stores:
            self._write(scope, store)

    def _fold_rows(self, scope: Scope, results: list[Node]) -> None:
        """Reductions of resident rows, those that wait for fewest others first: what needs them all is computed after them."""
        resident = tuple(axis for k in self.axes if k.role == "resident" for axis in k.axes)
        missing: dict[Node, None] = {}
        waiting = list(results)
        while waiting:
            node = waiting.pop()
            if node not in missing and scope.find(node) is None:
                missing[node] = None
                waiting += node.operands
        needed = [node for node in walk(results) if node in missing]
        rows = [node for node in needed if node.kind == "reduce" and not set(resident).isdisjoint(node.detail[1])]
        if len(rows) > 1:
            ready = passes(needed, resident, None).ready
            for node in sorted(rows, key=lambda node: ready[node]):
                self.print.at(node, scope)

    def _along(self, node: Node, axis: KernelAxis) -> bool:
        return bool(node.axes & frozenset(axis.axes))

    def _passes(
        self,
        scope: Scope,
        loop: KernelAxis,
        stores: list[Store],
        carried: list[Node],
        late_stores: list[Store],
        late_carried: list[Node],
    ) -> None:
        needed = walk([*(store.node for store in stores if store.node not in carried), *(node.operands[0] for node in carried)])
        found = passes(needed, loop.axes, self.plan.recipes)
        levels = found.ready
        self.notes += notes(found)
        folded = [node for node in needed if self._crosses(node, loop) and node not in carried and scope.find(node) is None]
        along_stores = [store for store in stores if store not in late_stores]
        along_carried = [node for node in carried if node not in late_carried]

        def level_of(node: Node) -> int:
            return max((levels[x] for x in node.operands), default=0)

        last = max(
            [
                *(levels[node] - 1 for node in folded),
                *(level_of(node) for node in along_carried),
                *(levels[store.node] for store in along_stores),
            ],
            default=-1,
        )
        for number in range(last + 1):
            here = [node for node in folded if levels[node] - 1 == number]
            online = Online(self.print, found.rides, here, loop)
            for node in here:
                (online.start if node in online.stepwise else self.print.start_accumulator)(scope, node)
            sinks = [
                *(node.operands[0] for node in along_carried if level_of(node) == number),
                *(store.node for store in along_stores if levels[store.node] == number),
                *(x for node in here for x in node.operands),
            ]
            scans = [node for node in walk(sinks) if node.kind == "scan" and frozenset(node.detail[0]) & frozenset(loop.axes)]
            for node in scans:
                self.print.start_scan(scope, node)
            reductions = [*here, *(node for node in along_carried if level_of(node) == number)]
            written = [store for store in along_stores if levels[store.node] == number]
            for stretch in [None] if scans or written else self._stretches(scope, loop, reductions):
                body = self._open_loop(scope, loop, reductions, any(node.detail[1] for node in scans), stretch)
                for node in reductions:
                    (online.step if node in online.stepwise else self.print.accumulate)(body, node)
                for store in written:
                    self._write(body, store)
                online.close(body)
                body.close(until=scope)
            for node in here:
                (online.finish if node in online.stepwise else self.print.finish_accumulator)(scope, node)

    def _stretches(self, scope: Scope, loop: KernelAxis, reductions: list[Node]) -> list[Stretch | None]:
        """The loops one after another that a pass is: two where a mask decides only in the tiles at one end."""
        positions, lines = self.print.positions, needed_lines(reductions, loop.axes)
        condition = None if loop.searches else deciding(self.print, reductions, loop)
        if not lines and condition is None:
            return [None]
        first, stop = positions.ends(loop, lines, scope)
        if lines:
            self.notes.append(SKIPS.format(name=loop.name))
        if condition is not None:
            self.notes.append(
                f"a short loop finds from which tile of {loop.name} to which the condition on data holds anywhere"
            )
            first, stop = narrowed(self.print, scope, loop, condition, (first, stop))
        whole = whole_tiles(reductions, loop.axes, lines)
        cut = positions.in_two(loop, whole.line, (first, stop), scope) if whole and loop.tiles > 1 else None
        if whole is None or cut is None:
            return [Stretch((first, stop), {})]
        self.notes.append(f"tiles of {loop.name} with nothing masked go through a loop without the mask")
        edge, after = cut
        before, behind = ({}, whole.simpler) if after else (whole.simpler, {})
        return [Stretch((first, edge), before), Stretch((edge, stop), behind)]

    def _open_loop(
        self, scope: Scope, loop: KernelAxis, reductions: list[Node], backwards: bool, stretch: Stretch | None
    ) -> Scope:
        owner = owner_of(reductions[0]) if loop.searches and reductions else None
        if owner is not None:
            return open_search(self.print, scope, loop, owner)
        body = Scope(scope, scope.bound | {loop})
        self.print.open_loop(body, loop, stretch, backwards)
        return body

    def _write(self, scope: Scope, store: Store) -> None:
        value = self.print.at(store.node, scope)
        atomic = self.plan.atomic and store.stage.value in self.plan.partial
        part = self.split if store.stage.value in self.plan.partial else None
        once = [
            axis
            for axis in self.axes
            if axis.role in ("grid", "split") and axis is not part and not frozenset(axis.axes) & store.access.offset.axes
        ]
        self.print.store(scope, value, store.buffer, store.access, None if atomic else part, once, atomic)


__all__ = ["INDENT", "Emitted", "Variable", "emit_kernel"]
