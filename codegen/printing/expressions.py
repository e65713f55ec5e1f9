"""Prints the expressions of one kernel: index arithmetic, masks, loads, arithmetic, reductions, accumulators, stores.

Each expression is printed once, in the outermost scope that knows its axes, under the user's name for it where there was
one. Which statements stand in which loop is decided in `emit.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any

from gradc import types
from gradc.codegen.hosting.chunks import HostCounter
from gradc.codegen.index import Axis
from gradc.codegen.masks.whole import Stretch
from gradc.codegen.nodes import Access, Node, has_datum
from gradc.codegen.plan import KernelAxis
from gradc.codegen.printing.multiplying import by_reciprocal, factors, is_product_pattern, precision
from gradc.codegen.printing.names import Names
from gradc.codegen.printing.narrow import Narrowing
from gradc.codegen.printing.positions import Positions
from gradc.codegen.printing.scope import ATOM, BINDING, Scope, Variable
from gradc.codegen.printing.spelling import BINARY, bindings, fallback_name, identity, literal, remark, triton_dtype, zero
from gradc.ir import Value
from gradc.types import DType

HELPERS = {"max": "larger", "min": "smaller", "prod": "multiplied"}
Printed = tuple[str, tuple[KernelAxis, ...], int]
INLINE_LENGTH = 44  # a longer expression gets a line of its own


@dataclass(frozen=True, eq=False)
class Argument:
    """A parameter of a kernel: `kind` is buffer, size, constexpr or counter; `value` is the Value or the number passed."""

    name: str
    kind: str
    value: Any


class Expressions:
    def __init__(
        self,
        axes: tuple[KernelAxis, ...],
        buffer_names: dict[Value, str],
        dtypes: dict[Value, DType],
        nodes: list[Node],
        roots: list[Node],
        root: Scope,
        wide: frozenset[KernelAxis],
        names: Names,
    ):
        self.axes, self.dtypes, self.root, self.names = axes, dtypes, root, names
        self.pointers: dict[str, Argument] = {}  # Values that stand for the same array share one
        self.buffer_names = buffer_names
        self.positions = Positions(axes, names, root, wide, self.at)
        self.helpers: set[str] = set()
        self.uses = Counter([*(operand for node in nodes for operand in node.operands), *roots])
        self.accumulators: dict[Node, tuple[str, tuple[KernelAxis, ...]]] = {}
        factors = (x for node in nodes if node.kind == "dot" for x in node.operands)
        self.as_stored = {x for x in factors if x.kind == "load" and dtypes[x.value] == x.dtype}  # matrix units take 16 bits
        self._node_names: dict[Node, str] = {}
        self.narrow = Narrowing()
        self.simpler: Mapping[Node, Node] = {}  # what expressions are instead in the loop that is being printed
        self.multiplies = any(node.kind == "dot" for node in nodes)
        self.rereads: KernelAxis | None = None  # in whose loop tiles are read that are the same in all of it

    def instead(self, axis: KernelAxis, other: KernelAxis) -> Expressions:
        """Prints the same kernel with one of its axes gone along in other steps, under other names."""
        result = copy(self)
        result.axes = tuple(other if k is axis else k for k in self.axes)
        result.positions = self.positions.instead(axis, other, result.at)
        result._node_names = {}
        return result

    # Header ----------------------------------------------------------------------------------------------------------

    def open_loop(self, body: Scope, loop: KernelAxis, part: Stretch | None = None, backwards: bool = False) -> None:
        """The whole of a loop, or a part of it in which some expressions are simpler."""
        assert body.parent is not None
        self.simpler = part.simpler if part else {}
        self.positions.open_loop(body, loop, part.ends if part else self.positions.ends(loop, (), body.parent), backwards)

    def arguments(self) -> tuple[Argument, ...]:
        sizes = (Argument(name, kind, number) for name, (kind, number) in self.positions.parameters.items())
        return (*self.pointers.values(), *sizes)

    def signature(self) -> str:
        return ", ".join(f"{a.name}: tl.constexpr" if a.kind == "constexpr" else a.name for a in self.arguments())

    def pointer(self, buffer: Value) -> str:
        name = self.buffer_names[buffer]
        if name not in self.pointers:
            self.pointers[name] = Argument(self.names.fresh(f"{name}_ptr"), "buffer", buffer)
        return self.pointers[name].name

    # Expressions -----------------------------------------------------------------------------------------------------

    def tile_axes(self, axes: frozenset[Axis]) -> tuple[KernelAxis, ...]:
        """The kernel axes along which an expression over `axes` has a tile dimension."""
        return tuple(k for k in self.axes if is_vector(k) and axes & frozenset(k.axes))

    def vectors(self) -> tuple[KernelAxis, ...]:
        """The kernel axes that are tile dimensions, in their order."""
        return tuple(filter(is_vector, self.axes))

    def at(self, node: Node, scope: Scope) -> Variable:
        """The variable (or short expression) for `node`, printing what it needs."""
        known = scope.find(node)
        if known is None:
            for inner in self._missing(node, scope):
                known = self._simplified(inner, scope) if inner in self.simpler else self._make(inner, scope)
                scope.at_depth(known.depth).known[inner] = known
        assert known is not None
        return known

    def _missing(self, node: Node, scope: Scope) -> Iterator[Node]:
        """What `node` needs that is not printed yet, operands first, and itself."""
        waiting, opened = [node], set[Node]()
        while waiting:
            inner = waiting[-1]
            if scope.find(inner) is not None:
                waiting.pop()
            elif inner in opened:
                yield waiting.pop()
            else:
                opened.add(inner)
                needs = (self.simpler[inner],) if inner in self.simpler else self.narrow.operands(inner)
                waiting += reversed(needs)

    def _simplified(self, node: Node, scope: Scope) -> Variable:
        x = self.at(self.simpler[node], scope)
        return x if self.uses[node] < 2 or x.binding == ATOM else self.assign(node, x.text, x.axes, scope.at_depth(x.depth))

    def widened(self, node: Node, scope: Scope) -> Variable:
        """`node` as arithmetic takes it: what was read for a matrix unit in the dtype that is computed in."""
        x = self.at(node, scope)
        if node not in self.as_stored or node.dtype.compute == node.dtype:
            return x
        return Variable(f"{x.text}.to({triton_dtype(node.dtype.compute)})", x.axes, x.depth)

    def _make(self, node: Node, scope: Scope) -> Variable:
        if node.kind == "constant":
            return Variable(literal(node.detail, node.dtype), (), 0, constant=True)
        operands = [self.at(x, scope) if node.kind == "dot" else self.widened(x, scope) for x in self.narrow.operands(node)]
        home = self._home(node, operands, scope)
        text, axes, binding = self._text(node, operands, home)
        if node.kind == "cast" and operands and text == operands[0].text and not node.value.name:
            return operands[0]  # arithmetic on both is the same
        named = node.kind in ("load", "reduce", "scan") or self.uses[node] > 1 or node.value.name is not None
        if (named or len(text) > INLINE_LENGTH) and text != self._node_names.get(node):
            return self.assign(node, text, axes, home)
        return Variable(text, axes, home.depth, binding)

    def _home(self, node: Node, operands: list[Variable], scope: Scope) -> Scope:
        """The outermost scope that knows the operands and every looped axis of the node."""
        depth = max((x.depth for x in operands), default=0)
        for outer in scope.chain():
            if any(
                not outer.parent or k not in outer.parent.bound
                for k in self.axes
                if k.role in ("split", "loop") and self._uses_axis(node, k)
            ):
                depth = max(depth, outer.depth)
                break
        return scope.at_depth(min(depth, scope.depth))

    def _uses_axis(self, node: Node, axis: KernelAxis) -> bool:
        inside = frozenset(axis.axes)
        if axis is self.rereads and node.kind == "load" and self.tile_axes(node.axes):
            return True
        needs_mask = node.kind == "reduce" and axis.role in ("split", "loop") and bool(inside & frozenset(node.detail[1]))
        return bool(node.axes & inside) or needs_mask

    def assign(self, node: Node, text: str, axes: tuple[KernelAxis, ...], home: Scope) -> Variable:
        name = self.name_of(node)
        home.add(f"{name} = {text}", remark(node))
        return Variable(name, axes, home.depth)

    def name_of(self, node: Node) -> str:
        if node not in self._node_names:
            wish = self.buffer_names[node.value] if node.kind == "load" else node.value.name
            self._node_names[node] = self.names.fresh(wish or fallback_name(node))
        return self._node_names[node]

    def _text(self, node: Node, operands: list[Variable], scope: Scope) -> Printed:
        """The text of a node, its tile axes, and how tightly its operator binds."""
        axes = self.tile_axes(node.axes)
        if node.kind == "load":
            return self._load(node, axes, scope), axes, ATOM
        if node.kind == "position":
            text = self.positions.index_text(node.detail, axes, scope)
            plain = node.dtype == types.int32 and axes and text.isidentifier()
            return (text if plain else f"tl.cast({text}, {triton_dtype(node.dtype.compute)})"), axes, ATOM
        if node.kind == "guard":
            return self.positions.guard_text(node.detail, axes, scope), axes, 0
        if node.kind == "cast":
            return self._cast(node, operands[0])
        if node.kind == "apply":
            return self._apply(node, operands, scope)
        if node.kind == "scan":
            return self._scan(node, operands[0], scope)
        if node.kind == "dot":
            a, b, axes = factors(self, node, scope)
            return f"tl.dot({a}, {b}{precision(node)})", axes, ATOM
        assert node.kind == "reduce", node.kind
        return self._resident_reduce(node, operands[0], scope)

    def _apply(self, node: Node, operands: list[Variable], scope: Scope) -> Printed:
        axes = tuple(k for k in self.axes if any(k in x.axes for x in operands))
        row, dtype = node.detail, node.operands[-1].dtype
        template = row.spelling(dtype)
        operands = [
            self._once(template, place, *pair, scope)
            for place, pair in zip("xyz", zip(node.operands, operands, strict=True), strict=False)
        ]
        if template == "{x} / {y}" and self.multiplies and dtype.compute == types.float32:
            operands, template = by_reciprocal(self, node, operands, axes, scope)
        if row.name == "multiply" and is_product_pattern(operands[0].axes, operands[1].axes, axes):
            operands.reverse()
        left, right, result = bindings(template)
        typed = (
            all(x.constant for x in operands)
            or (dtype == types.float64 and (not BINARY.fullmatch(template) or result == BINDING["=="]))
            or ".to(" in template
        )
        shape = ", ".join(self.positions.block(k) for k in axes) if typed else ""
        texts = [
            f"tl.full([{shape}], {x.text}, {triton_dtype(operand.dtype.compute)})"
            if typed and x.constant
            else x.expanded(axes, binding)
            for x, operand, binding in zip(operands, node.operands, (left, *(right,) * len(operands)), strict=False)
        ]
        spelt = row.spell(dtype, *texts) if template == row.spelling(dtype) else template.format(x=texts[0], y=texts[1])
        return spelt, axes, result

    def _once(self, template: str, place: str, operand: Node, x: Variable, scope: Scope) -> Variable:
        """An operand that a template writes more than once is given a name first."""
        if template.count(f"{{{place}}}") < 2 or x.text.isidentifier() or x.constant:
            return x
        named = scope.known[operand] = self.assign(operand, x.text, x.axes, scope)
        return named

    def _cast(self, node: Node, x: Variable) -> Printed:
        origin, target = node.operands[0].dtype, node.detail
        if x.constant:
            return f"tl.full([], {x.text}, {triton_dtype(target.compute)})", (), ATOM
        text = x.operand()
        if target == types.bool_:
            return f"{text} != 0", x.axes, BINDING["!="]
        if target.is_floating and target.itemsize == 2:
            return f"{text}.to({triton_dtype(target)}).to({triton_dtype(types.float32)})", x.axes, ATOM
        if target.compute == origin.compute:
            return x.text, x.axes, x.binding
        return f"{text}.to({triton_dtype(target)})", x.axes, ATOM

    def _load(self, node: Node, axes: tuple[KernelAxis, ...], scope: Scope) -> str:
        access: Access = node.detail
        if isinstance(access.buffer.operation, HostCounter):
            return f"tl.cast({self.positions.counter(access.buffer)}, {triton_dtype(access.buffer.dtype)})"
        flat = access.offset
        pointer, offset = self.pointer(access.buffer), self.positions.index_text(flat, axes, scope)
        missing = [k for k in axes if not flat.axes & frozenset(k.axes)]  # a masked read needs an address for every lane
        offset += "".join(f" + 0 * {self.positions.whole(k, axes)}" for k in missing)
        address = pointer if offset == "0" else f"{pointer} + {offset}"
        masks = [self.positions.mask(k, axes, scope) for k in axes if k.overhangs]
        guards = [self.positions.guard_text(guard, axes, scope) for guard in access.guards]
        conditions = [*masks, *(f"({text})" if " & " in text or len(masks) + len(guards) > 1 else text for text in guards)]
        gathered = any(has_datum(guard.index) for guard in access.guards) and access.buffer.dtype.is_floating
        other = 'float("nan")' if gathered else zero(access.buffer.dtype)
        masked = f", mask={' & '.join(conditions)}, other={other}" if conditions else ""
        dtype = self.dtypes[access.buffer]
        widens = dtype.compute != dtype and node not in self.as_stored
        return f"tl.load({address}{masked})" + (f".to({triton_dtype(dtype.compute)})" if widens else "")

    # Reductions ------------------------------------------------------------------------------------------------------

    def _resident_reduce(self, node: Node, x: Variable, scope: Scope) -> Printed:
        kind, reduced = node.detail
        folded = [k for k in self.axes if is_vector(k) and frozenset(k.axes) & frozenset(reduced)]
        text, axes = self.only_inside(node, node.operands[0], x, folded, scope)
        return self.fold(kind, node.dtype, text, axes, folded), tuple(k for k in axes if k not in folded), ATOM

    def fold(self, kind: str, dtype: DType, text: str, axes: tuple[KernelAxis, ...], folded: list[KernelAxis]) -> str:
        for axis in reversed([k for k in axes if k in folded]):
            position = axes.index(axis)
            axes = tuple(k for k in axes if k is not axis)
            if kind == "sum" or (kind in ("max", "min") and not dtype.is_floating):
                text = f"tl.{kind}({text}, axis={position})"
            else:
                self.helpers.add(HELPERS[kind])
                text = f"tl.reduce({text}, {position}, {HELPERS[kind]})"
        return text

    def only_inside(
        self, node: Node, body: Node, x: Variable, folded: list[KernelAxis], scope: Scope
    ) -> tuple[str, tuple[KernelAxis, ...]]:
        """The body with the reduction's identity in the lanes that overhang, over all the axes folded."""
        axes = tuple(k for k in self.axes if k in x.axes or k in folded)
        missing = any(k not in x.axes for k in folded)
        masks = [k for k in folded if k.overhangs]
        if not missing and (not masks or (node.detail[0] == "sum" and self.zero_outside(body, frozenset(masks)))):
            return x.text, axes
        conditions = [self.positions.mask(k, axes, scope) for k in masks]
        conditions += [f"({self.positions.whole(k, axes)} >= 0)" for k in folded if k not in x.axes and k not in masks]
        condition = " & ".join(conditions)  # brings in the axes the body does not vary along
        return f"tl.where({condition}, {x.expanded(axes, 0)}, {identity(node.detail[0], node.dtype)})", axes

    def zero_outside(self, node: Node, masked: frozenset[KernelAxis]) -> bool:
        """Whether an expression is exactly zero in the lanes that overhang any of `masked`."""
        waiting, seen = [node], {node}
        while waiting:
            inner = waiting.pop()
            if inner.kind == "load":
                gathered = any(has_datum(guard.index) for guard in inner.detail.guards)
                if gathered or not masked <= frozenset(self.tile_axes(inner.axes)):
                    return False
            elif inner.kind == "cast" or (inner.kind == "apply" and inner.detail.name in ZERO_WHERE_OPERANDS_ARE):
                waiting += [x for x in inner.operands if x not in seen]
                seen.update(inner.operands)
            else:
                return False
        return True

    def start_accumulator(self, scope: Scope, node: Node) -> None:
        """The accumulator of a reduction over a loop, before it: a tile of the body's shape, folded once at the end."""
        kind = "sum" if node.kind == "dot" else node.detail[0]
        axes = self._accumulator_axes(node)
        name = self.name_of(node) if node.kind == "dot" else self.names.fresh(self.wish(node) + "_acc")
        shape = ", ".join(self.positions.block(k) for k in axes)
        dtype = triton_dtype(node.dtype.compute)
        start = (
            f"tl.zeros([{shape}], {dtype})" if kind == "sum" else f"tl.full([{shape}], {identity(kind, node.dtype)}, {dtype})"
        )
        scope.add(f"{name} = {start}")
        self.accumulators[node] = (name, axes)

    def wish(self, node: Node) -> str:
        return node.value.name or fallback_name(node)

    def _accumulator_axes(self, node: Node) -> tuple[KernelAxis, ...]:
        if node.kind == "dot":
            return self.tile_axes(frozenset((*node.detail.rows, *node.detail.columns)))
        reduced = frozenset(node.detail[1])
        return tuple(k for k in self.axes if is_vector(k) and frozenset(k.axes) & (node.axes | reduced))

    def accumulate(self, scope: Scope, node: Node) -> None:
        """One step of a reduction over a loop, inside it."""
        name, axes = self.accumulators[node]
        if node.kind == "dot":
            return self.multiply(scope, node, name)
        kind = node.detail[0]
        body = node.operands[0]
        x = self.widened(body, scope)
        folded = [k for k in axes if frozenset(k.axes) & frozenset(node.detail[1])]
        text, _ = self.only_inside(node, body, x, folded, scope)
        if text == x.text:
            text = x.expanded(axes, 0)
        if kind in ("sum", "prod"):
            scope.add(f"{name} {'+' if kind == 'sum' else '*'}= {text}", remark(node))
        else:
            nan = ", propagate_nan=tl.PropagateNan.ALL" if node.dtype.is_floating else ""
            scope.add(f"{name} = tl.{kind}imum({name}, {text}{nan})", remark(node))

    def multiply(self, scope: Scope, node: Node, name: str) -> None:
        a, b, _ = factors(self, node, scope)
        scope.add(f"{name} = tl.dot({a}, {b}, {name}{precision(node)})", remark(node))

    def finish_accumulator(self, scope: Scope, node: Node) -> None:
        """Folds the accumulator after its loop; the result is known from here on."""
        name, axes = self.accumulators[node]
        if node.kind == "dot":
            scope.known[node] = Variable(name, axes, scope.depth)
            return
        folded = [k for k in axes if frozenset(k.axes) & frozenset(node.detail[1])]
        text = self.fold(node.detail[0], node.dtype, name, axes, folded)
        left = tuple(k for k in axes if k not in folded)
        scope.known[node] = self.assign(node, text, left, scope) if text != name else Variable(name, left, scope.depth)

    def start_scan(self, scope: Scope, node: Node) -> None:
        """What a running sum along a loop carries from tile to tile, before the loop."""
        axes = tuple(k for k in self.tile_axes(node.axes) if not frozenset(k.axes) & frozenset(node.detail[0]))
        name = self.accumulators[node][0] if node in self.accumulators else self.names.fresh(f"{self.wish(node)}_so_far")
        shape = ", ".join(self.positions.block(k) for k in axes)
        scope.add(f"{name} = tl.zeros([{shape}], {triton_dtype(node.dtype.compute)})")
        self.accumulators[node] = (name, axes)

    def _scan(self, node: Node, x: Variable, scope: Scope) -> Printed:
        along, backwards = node.detail
        axis = next(k for k in self.axes if along[0] in k.axes)
        axes = self.tile_axes(node.axes)
        text = x.expanded(axes, 0)
        if axis not in x.axes:  # the same everywhere along the axis
            shape = ", ".join(self.positions.block(k) for k in axes)
            same = f"tl.full([{shape}], {x.text}, {triton_dtype(node.dtype.compute)})"
            text = same if x.constant else f"tl.broadcast_to({text}, [{shape}])"
        if axis.overhangs and not (axis in x.axes and self.zero_outside(node.operands[0], frozenset((axis,)))):
            text = f"tl.where({self.positions.mask(axis, axes, scope)}, {text}, {zero(node.dtype)})"
        place = axes.index(axis)
        running = f"tl.cumsum({text}, axis={place}{', reverse=True' if backwards else ''})"
        if axis.role != "loop":
            return running, axes, ATOM
        name, kept = self.accumulators[node]
        before = Variable(name, kept, scope.depth)
        whole = self.name_of(node)
        scope.add(f"{whole} = {before.expanded(axes)} + {running}", remark(node))
        scope.add(f"{name} += tl.sum({text}, axis={place})")
        return whole, axes, ATOM

    # Stores ----------------------------------------------------------------------------------------------------------

    def store(
        self,
        scope: Scope,
        value: Variable,
        buffer: Value,
        access: Access,
        part: KernelAxis | None,
        once: list[KernelAxis],
        adds: bool,
    ) -> None:
        """Writes a tile, or adds it to what is there.

        `part` is the split axis whose program number leads; `once` are grid axes only their first program writes for.
        """
        own = frozenset(axis for index in access.index for axis in index.axes)
        axes = self.tile_axes(own)
        offset = self.positions.index_text(access.offset, axes, scope)
        if part is not None:
            lead = self.positions.part_text(part, access.buffer.size)
            offset = " + ".join(term for term in (lead, offset) if term != "0") or "0"
        masks = [self.positions.mask(k, axes, scope) for k in axes if k.overhangs]
        masks += [self.positions.first_program(k) for k in once if k.programs > 1]
        masks += [self.positions.guard_text(guard, axes, scope) for guard in access.guards]
        text = value.expanded(axes, 0)
        masked = f", mask={' & '.join(f'({m})' if '==' in m and len(masks) > 1 else m for m in masks)}" if masks else ""
        address = f"{self.pointer(buffer)}{'' if offset == '0' else f' + {offset}'}"
        scope.add(
            f'tl.atomic_add({address}, {text}{masked}, sem="relaxed")' if adds else f"tl.store({address}, {text}{masked})"
        )


ZERO_WHERE_OPERANDS_ARE = frozenset(("add", "subtract", "multiply", "negative", "square", "abs", "sign"))


def is_vector(axis: KernelAxis) -> bool:
    """Whether a kernel axis is a tile dimension rather than a scalar position."""
    return axis.role == "resident" or axis.block > 1
