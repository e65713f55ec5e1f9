"""Where a program stands: program ids, tile positions, masks, loops, and the integer arithmetic of offsets, as text.

Sizes and strides become named parameters of the kernel; extents held in a tile are constants. Names only, no values:
expressions are printed by `expressions.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import copy
from math import prod
from typing import Any

from gradc.codegen.index import Axis, Datum, Index, Part, sums_of, term_axes, term_extent
from gradc.codegen.masks.bounds import LIMIT, Sum, Symbol, start_and_stop, whole_edge
from gradc.codegen.nodes import Guard, has_datum
from gradc.codegen.plan import KernelAxis
from gradc.codegen.printing.names import Names
from gradc.codegen.printing.scope import Scope, Variable
from gradc.ir import Value

GROUP_ROWS = 8  # tiles of rows that go over the columns together where tiles are many on both sides of a product
FAR = LIMIT // 8  # a share of an index that goes past 2**31 which makes its axes count in 64 bits
PLURALS = {"at": "size", "row": "rows", "column": "columns", "inner": "inner_size"}


class Positions:
    def __init__(
        self,
        axes: tuple[KernelAxis, ...],
        names: Names,
        root: Scope,
        wide: frozenset[KernelAxis],
        compute: Callable[[Any, Scope], Variable],
    ):
        self.axes, self.names, self.root, self.wide, self.compute = axes, names, root, wide, compute
        self.parameters: dict[str, tuple[str, Any]] = {}
        self._counters: dict[Value, str] = {}
        self._numbers: dict[int, str] = {}
        self.program = names.fresh("pid")
        self._variables: dict[KernelAxis, str] = {axis: names.fresh(axis.name) for axis in axes}
        self._masks = {axis: names.fresh(f"in_{self._variables[axis]}") for axis in axes if axis.overhangs}
        self._blocks: dict[tuple[str, int], str] = {}
        self._parts: dict[tuple[KernelAxis, int, int], str] = {}
        self._programs: dict[KernelAxis, str] = {}
        self._starts: dict[KernelAxis, str] = {}
        self._aligned: set[KernelAxis] = set()  # looped axes whose tiles start at multiples of their extent

    def instead(self, axis: KernelAxis, other: KernelAxis, compute: Callable[[Any, Scope], Variable]) -> Positions:
        """The same positions with one axis gone along in other steps."""
        result = copy(self)
        result.axes = tuple(other if k is axis else k for k in self.axes)
        result.wide = self.wide | ({other} if axis in self.wide else set())
        result.compute = compute
        result._variables = {**self._variables, other: self.names.fresh(other.name)}
        result._masks = {**self._masks, other: self.names.fresh(f"in_{result._variables[other]}")}
        return result

    # Parameters ------------------------------------------------------------------------------------------------------

    def _parameter(self, wish: str, value: int, kind: str = "size") -> str:
        name = self.names.fresh(wish)
        self.parameters[name] = (kind, value)
        return name

    def number(self, value: int, wish: str) -> str:
        """A size or stride as text: a named parameter, shared by equal values."""
        if value not in self._numbers:
            self._numbers[value] = self._parameter(wish, value)
        return self._numbers[value]

    def counter(self, value: Value) -> str:
        """A position that the host counts, by its own name."""
        if value not in self._counters:
            self._counters[value] = self.names.fresh(value.name or "counter")
            self.parameters[self._counters[value]] = ("counter", value)
        return self._counters[value]

    def size(self, axis: KernelAxis) -> str:
        wish = PLURALS.get(axis.name, f"{axis.name}_size")
        whole = axis.role == "resident" or (axis.role == "grid" and axis.tiles == 1)  # its extent shapes the tile
        if whole and axis.size not in self._numbers:
            self._numbers[axis.size] = self._parameter(wish.upper(), axis.size, "constexpr")
        return self.number(axis.size, wish)

    def block(self, axis: KernelAxis) -> str:
        key = (axis.name, axis.block)
        if key not in self._blocks:
            wish = f"{axis.name.upper()}_BLOCK" if axis.name != "at" else "BLOCK"
            self._blocks[key] = self._parameter(wish, axis.block, "constexpr")
        return self._blocks[key]

    # Programs and loops ----------------------------------------------------------------------------------------------

    def place_programs(self, multiplies: bool, given: bool) -> None:
        """Which tile of every grid axis this program has, from the one program id; it is an argument where it is `given`."""
        spread = [axis for axis in self.axes if axis.role in ("grid", "split") and axis.programs > 1]
        program = self.program if given else "tl.program_id(0)"
        if (
            multiplies
            and not given
            and len(spread) > 1
            and all(k.block > 1 and k.programs >= 2 * GROUP_ROWS for k in spread[-2:])
        ):
            program = self._place_group(spread[-2], spread[-1], others=len(spread) > 2)
            spread = spread[:-2]
        if len(spread) == 1:
            self._programs[spread[0]] = program
        elif spread and program != self.program:
            self.root.add(f"{self.program} = {program}")
        for axis in reversed(spread if len(spread) > 1 else []):
            if axis is spread[0]:
                self._programs[axis] = self.program
                break
            count, tile = self._program_count(axis), self.names.fresh(f"{axis.name}_tile")
            self.root.add(f"{tile} = {self.program} % {count}")
            self.root.add(f"{self.program} = {self.program} // {count}")
            self._programs[axis] = tile
        for axis in self.axes:
            if axis.role == "resident":
                self._define(self.root, axis, f"tl.arange(0, {self.block(axis)})")
            elif axis.role == "grid":
                self._define(self.root, axis, self._tile(axis, self._program(axis)))

    def _place_group(self, row: KernelAxis, column: KernelAxis, others: bool) -> str:
        """Some rows of tiles at a time go over all columns, so that the programs in flight share what they read.

        Returns which of all such tables of tiles a program is in, where there are `others`.
        """
        add, fresh = self.root.add, self.names.fresh
        rows, columns, pid = fresh(f"{row.name}_tiles"), fresh(f"{column.name}_tiles"), self.program
        group, first, height = fresh("GROUP_ROWS"), fresh("first_row"), fresh("group_rows")
        self.parameters[group] = ("constexpr", GROUP_ROWS)
        self._programs |= {axis: fresh(f"{axis.name}_tile") for axis in (row, column)}
        add(f"{rows} = {self._program_count(row)}")
        add(f"{columns} = {self._program_count(column)}")
        add(f"{pid} = tl.program_id(0)" + (f" % ({rows} * {columns})" if others else ""))
        add(f"{first} = {pid} // ({group} * {columns}) * {group}", "a few rows of tiles go over all columns together")
        add(f"{height} = tl.minimum({rows} - {first}, {group})")
        add(f"{self._programs[row]} = {first} + {pid} % ({group} * {columns}) % {height}")
        add(f"{self._programs[column]} = {pid} % ({group} * {columns}) // {height}")
        if not others:
            return ""
        table = fresh("table")
        add(f"{table} = tl.program_id(0) // ({rows} * {columns})")
        return table

    def _program_count(self, axis: KernelAxis) -> str:
        if axis.role == "split":
            return self._parts_count(axis)
        size = _in_64_bits(self.size(axis)) if is_long(axis) else self.size(axis)
        return size if axis.block == 1 else f"tl.cdiv({size}, {self.block(axis)})"

    def _program(self, axis: KernelAxis) -> str:
        """The number of the tile (or part) of an axis a program has: 64 bits wide where positions along it are."""
        program = self._programs.get(axis, "0")
        return _in_64_bits(program) if is_long(axis) else program

    def _parts_count(self, axis: KernelAxis) -> str:
        key = (axis, -1, -1)
        if key not in self._parts:
            self._parts[key] = self._parameter(f"{axis.name}_parts", axis.programs)
        return self._parts[key]

    def _tile(self, axis: KernelAxis, tile: str) -> str:
        if axis.block == 1:
            return tile
        start = "" if tile == "0" else f"{tile} * {self.block(axis)} + "
        return f"{start}tl.arange(0, {self.block(axis)})"

    def _define(self, scope: Scope, axis: KernelAxis, text: str) -> None:
        name = self._variables[axis]
        if axis in self.wide and text != "0" and not (is_long(axis) and axis.role != "resident"):
            text = _in_64_bits(text)
        if text != name:
            scope.add(f"{name} = {text}")
        if axis.overhangs:
            scope.add(f"{self._masks[axis]} = {name} < {self.size(axis)}")

    def open_split(self, body: Scope, split: KernelAxis, lines: tuple[Index, ...] = ()) -> None:
        """Each program takes tiles part, part + parts, part + 2*parts, ... of those in which no line is negative throughout."""
        name, count, step = self._variables[split], self._parts_count(split), self.block(split) if split.block > 1 else ""
        assert body.parent is not None
        first, stop = self.ends(split, lines, body.parent)
        program = self._program(split)
        part = f"{program} * {step}" if step and program != "0" else program
        start = " + ".join(text for text in (first, part) if text != "0") or "0"
        stride = f"{count} * {step}" if step else count
        tile = self._starts.setdefault(split, self.names.fresh(f"{split.name}_start")) if step else name
        body.header = f"for {tile} in range({start}, {stop}, {stride}):"
        self._aligned |= {split} - self.wide if step and first == "0" else set()
        self._define(body, split, f"{tile} + tl.arange(0, {step})" if step else name)

    def ends(self, loop: KernelAxis, lines: tuple[Index, ...], scope: Scope) -> tuple[str, str]:
        """From where to where a loop goes: tiles in which one of `lines` is negative throughout are left out."""
        first, stop = start_and_stop(self, loop, lines, scope)
        return (
            self._named_end(loop, first, "first", "what comes before is masked throughout", scope),
            self._named_end(loop, stop, "stop", "what comes after is masked throughout", scope),
        )

    def in_two(self, loop: KernelAxis, line: Index, ends: tuple[str, str], scope: Scope) -> tuple[str, bool] | None:
        """Where a loop is cut in two, and whether the tiles after that (or else those before) are whole."""
        found = whole_edge(self, loop, line, *ends, scope)
        if found is None:
            return None
        text, after = found
        return self._named_end(loop, text, "edge", f"what comes {'after' if after else 'before'} needs no mask", scope), after

    def open_loop(self, body: Scope, loop: KernelAxis, ends: tuple[str, str], backwards: bool = False) -> None:
        """Tile after tile along an axis; from the last tile to the first where a running sum goes backwards."""
        first, stop = ends
        first = _in_64_bits(first) if is_long(loop) else first
        if loop.block == 1:
            body.header = f"for {self._variables[loop]} in range({first}, {stop}):"
            return self._define(body, loop, self._variables[loop])
        start = self._starts.setdefault(loop, self.names.fresh(f"{loop.name}_start"))
        size, step = self.size(loop), self.block(loop)
        size = _in_64_bits(size) if is_long(loop) else size
        body.header = f"for {start} in range({first}, {stop}, {step}):"
        (self._aligned.add if first == "0" and not backwards and loop not in self.wide else self._aligned.discard)(loop)
        first = f"tl.cdiv({size}, {step}) * {step} - {step} - {start}" if backwards else start
        self._define(body, loop, f"{first} + tl.arange(0, {step})")

    def open_found(self, body: Scope, loop: KernelAxis, found: str) -> None:
        """One after the other the positions in `found`; what is none is the axis's size."""
        size, name = self.size(loop), self._variables[loop]
        body.header = f"for _ in range(tl.sum(({found} < {size}).to(tl.int32), axis=0)):"
        self._define(body, loop, f"tl.min({found}, axis=0)")
        body.add(f"{found} = tl.where({found} == {name}, {size}, {found})")

    def extent(self, axis: KernelAxis) -> Sum:
        return Sum(((Symbol(self.block(axis), axis.block, axis.block), 1),))

    def _named_end(self, loop: KernelAxis, text: str, what: str, why: str, scope: Scope) -> str:
        """A loop's start or stop under a name, the same name in every pass."""
        if text.isidentifier() or text.isdecimal():
            return text
        known = scope.find((loop, text))
        if known is None:
            known = scope.known[loop, text] = Variable(self.names.fresh(f"{loop.name}_{what}"), (), scope.depth)
            scope.add(f"{known.text} = {text}", why)
        return known.text

    def first(self, axis: KernelAxis) -> Sum:
        """Where this program's tile along an axis begins."""
        if axis.role != "split" and self._programs.get(axis, "0") == "0":
            return Sum()
        if axis not in self._starts:
            self._starts[axis] = self.names.fresh(f"{axis.name}_start")
            self.root.add(f"{self._starts[axis]} = {self._program(axis)} * {self.block(axis)}")
        return Sum(((Symbol(self._starts[axis], 0, (axis.tiles - 1) * axis.block), 1),))

    def seen(self, loop: KernelAxis) -> str:
        """How many elements of a looped axis this program has gone over with the present tile, those left out included."""
        if loop.role == "split":
            start, step = self._starts[loop], self.block(loop)
            return (
                f"({start} // ({self._parts_count(loop)} * {step}) * {step} + tl.minimum({step}, {self.size(loop)} - {start}))"
            )
        if loop not in self._starts:  # one after the other
            return f"({self._variables[loop]} + 1)"
        return f"tl.minimum({self._starts[loop]} + {self.block(loop)}, {self.size(loop)})"

    def mask(self, axis: KernelAxis, axes: tuple[KernelAxis, ...], scope: Scope) -> str:
        return _expand(self._masks[axis], axis, axes)

    def whole(self, axis: KernelAxis, axes: tuple[KernelAxis, ...]) -> str:
        """The position along an axis, over tile dimensions `axes`."""
        return _expand(self._variables[axis], axis, axes)

    def start(self, loop: KernelAxis) -> str:
        """The first position of the tile that a loop is at."""
        return self._starts[loop] if loop.block > 1 else self._variables[loop]

    def first_program(self, axis: KernelAxis) -> str:
        return f"{self._programs[axis]} == 0"

    def part_text(self, part: KernelAxis, size: int) -> str:
        """The offset of this program's partial results, each of `size` elements."""
        program = self._programs.get(part, "0")
        if size == 1 or program == "0":
            return program
        return self._scaled(_in_64_bits(program) if part.programs * size >= LIMIT else program, size)

    # Index arithmetic ------------------------------------------------------------------------------------------------

    def index_text(self, index: Index, axes: tuple[KernelAxis, ...], scope: Scope) -> str:
        """An index as text over tile dimensions `axes`."""
        steps = {term: step for term, step in index.terms if isinstance(term, Axis)}
        assert steps.keys() <= {atom for axis in self.axes for atom in axis.axes}, "an axis without a role"
        parts = [part for axis in self.axes for part in self._along(axis, steps, axes, scope)]
        is_far = max(map(abs, index.bounds())) >= LIMIT
        for term, step in index.terms:
            if not isinstance(term, Axis):
                text = self._term(term, axes, scope)
                far = is_far and isinstance(term, Datum) and abs(step) * term_extent(term) >= FAR
                parts.append(self._scaled(_in_64_bits(text) if far else text, step))
        text = " + ".join(parts)
        if index.offset:
            offset = whole_number(abs(index.offset))
            text = f"{text} {'+' if index.offset > 0 else '-'} {offset}" if text else whole_number(index.offset)
        return text or "0"

    def guard_text(self, guard: Guard, axes: tuple[KernelAxis, ...], scope: Scope) -> str:
        """The condition of a guard, leaving out the sides that always hold."""
        text = self.index_text(guard.index, axes, scope)
        (low, high), unsure = guard.index.bounds(), has_datum(guard.index)
        first, stop, step = map(whole_number, (guard.low, guard.high, guard.step))
        parts = [f"({text} >= {first})"] if unsure or low < guard.low else []
        parts += [f"({text} < {stop})"] if unsure or high >= guard.high else []
        parts += [f"(({text} - {first}) % {step} == 0)"] if guard.step > 1 else []
        return parts[0][1:-1] if len(parts) == 1 and guard.step == 1 else " & ".join(parts) if parts else "True"

    def _term(self, term: Part | Datum, axes: tuple[KernelAxis, ...], scope: Scope) -> str:
        if isinstance(term, Datum):
            return self.compute(term.node, scope).expanded(axes)
        inner = self.index_text(term.index, axes, scope)
        inner = inner if inner.isidentifier() else f"({inner})"
        text = inner if term.divisor == 1 else f"{inner} // {whole_number(term.divisor)}"
        return f"({text})" if term.modulus is None else f"({text} % {whole_number(term.modulus)})"

    def _along(self, axis: KernelAxis, steps: dict[Axis, int], axes: tuple[KernelAxis, ...], scope: Scope) -> list[str]:
        """The contribution of one kernel axis: runs of its axes with proportional steps are read off one position."""
        parts: list[str] = []
        run: list[Axis] = []
        for atom in axis.axes:
            if atom in steps and run and steps[run[-1]] == steps[atom] * atom.size:
                run.append(atom)
            elif atom in steps:
                parts += self._run(axis, run, steps, axes, scope)
                run = [atom]
            else:
                parts += self._run(axis, run, steps, axes, scope)
                run = []
        return parts + self._run(axis, run, steps, axes, scope)

    def _run(
        self, axis: KernelAxis, run: list[Axis], steps: dict[Axis, int], axes: tuple[KernelAxis, ...], scope: Scope
    ) -> list[str]:
        if not run:
            return []
        first, last = axis.axes.index(run[0]), axis.axes.index(run[-1])
        name = self._position(axis, first, last, scope)
        return [self._scaled(_expand(name, axis, axes), steps[run[-1]])]

    def _position(self, axis: KernelAxis, first: int, last: int, scope: Scope) -> str:
        """The position along a run of the axes that `axis` goes through, computed once where `axis` is bound."""
        whole = self._variables[axis]
        if first == 0 and last == len(axis.axes) - 1:
            return whole
        key = (axis, first, last)
        home = next((s for s in reversed(scope.chain()) if axis in s.bound), self.root)
        if key not in self._parts:
            self._parts[key] = self.names.fresh(f"{whole}_{'abcdefgh'[first % 8]}")
        name = self._parts[key]
        if home.find(key) is None:
            inner = prod(a.size for a in axis.axes[last + 1 :])
            extent = prod(a.size for a in axis.axes[first : last + 1])
            if inner == 1 and axis in self._aligned and extent % axis.block == 0:  # a tile is within one round: one division
                text = f"{self._starts[axis]} % {self.number(extent, f'{name}_size')} + tl.arange(0, {self.block(axis)})"
            else:
                text = whole if inner == 1 else f"{whole} // {self.number(inner, f'{name}_inner')}"
                text += f" % {self.number(extent, f'{name}_size')}" if first else ""
            home.add(f"{name} = {text}")
            home.known[key] = Variable(name, (axis,), home.depth)
        return name

    def _scaled(self, text: str, step: int) -> str:
        if step in (1, -1):
            return text if step == 1 else f"(-{text})"
        return f"{text} * {'' if step > 0 else '-'}{self._stride(abs(step))}"

    def _stride(self, value: int) -> str:
        """A stride as a size, or a product of two, of this kernel's axes; a parameter of its own otherwise."""
        if value in self._numbers:
            return self._numbers[value]
        sizes = {axis.size: axis for axis in self.axes if axis.size > 1}
        if value in sizes:
            return self.size(sizes[value])
        for extent, axis in sizes.items():
            if value % extent == 0 and value // extent in sizes:
                return f"{self.size(axis)} * {self.size(sizes[value // extent])}"
        return self.number(value, "stride")


def wide_axes(axes: tuple[KernelAxis, ...], indices: Iterable[Index]) -> frozenset[KernelAxis]:
    """The axes whose positions take 64 bits: those that carry some index, or a part of one, or a position itself, far past 2**31."""
    far: set[Axis] = set()
    for index in (part for whole in indices for part in sums_of(whole)):
        if max(map(abs, index.bounds())) >= LIMIT:
            long = {axis for term, step in index.terms if abs(step) * term_extent(term) >= FAR for axis in term_axes(term)}
            far |= long or index.axes
    return frozenset(axis for axis in axes if is_long(axis) or far & set(axis.axes))


def is_long(axis: KernelAxis) -> bool:
    """Whether positions along an axis take 64 bits for themselves, the tile after the last one of every program included."""
    return axis.size + axis.block * (axis.programs if axis.role == "split" else 1) >= LIMIT


def whole_number(number: int) -> str:
    """A number as text. Triton takes those from 2**31 to 2**32 for unsigned ones."""
    return str(number) if abs(number) < LIMIT else f"tl.full([], {number}, tl.int64)"


def _in_64_bits(text: str) -> str:
    return f"tl.cast({text}, tl.int64)"


def _expand(name: str, axis: KernelAxis, axes: tuple[KernelAxis, ...]) -> str:
    if len(axes) <= 1 or axis not in axes:
        return name
    return f"{name}[{', '.join(':' if other is axis else 'None' for other in axes)}]"
