"""What is kept from the forward for the backward: a minimum cut between what is given and what the backward needs.

Keeping a Value costs writing and reading it; inputs and outputs are in memory already and cost only the reading. What
lies after the cut is recomputed in the backward's kernels: of reductions and products those of `recomputed.py`, and what the
caller finds too large to keep.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gradc import structure, types
from gradc.codegen.device import Device
from gradc.codegen.lengths import cuts
from gradc.codegen.nodes import is_leaf
from gradc.codegen.recomputed import repeatable_products
from gradc.codegen.stages import HEAVY, large_product, storage_dtype
from gradc.ir import Graph, Value, apply, inherited, on_behalf_of, rebuild, topological
from gradc.leaves import Cast, Reshape, cast, make_input
from gradc.ops import TABLE, Elementwise

UNLIMITED = 1 << 60


@dataclass(frozen=True, eq=False)
class Residual:
    """A Value kept for the backward, the input that stands for it there, and why it is kept."""

    value: Value
    stand_in: Value
    why: str


@dataclass(frozen=True, eq=False)
class Partition:
    """A program and its gradient as two graphs: `forward` gives the outputs and then what is kept, `backward` takes what is kept and then the cotangents."""

    forward: Graph
    backward: Graph
    residuals: tuple[Residual, ...]
    recomputes: tuple[Value, ...] = ()  # what the backward repeats because it is too large to keep


def partition(
    graph: Graph,
    outputs: Sequence[Value],
    cotangents: Sequence[Value],
    gradients: Sequence[Value],
    again: frozenset[Value],
    device: Device,
) -> Partition:
    """Splits a joint graph. `graph.inputs` are the function's arguments; `cotangents` are the inputs of the backward alone.

    `again` are reductions and products that are too large to keep.
    """
    given_later = set(cotangents)
    earlier = set(topological(outputs))
    later = dict.fromkeys(value for value in topological(gradients) if value not in earlier and not is_leaf(value))
    needed = dict.fromkeys(x for value in later for x in value.operands if x not in later and x not in given_later)
    needed |= dict.fromkeys(value for value in gradients if value not in later and value not in given_later)
    recomputed = repeatable_products((*outputs, *gradients), device) | again
    wanted = [value for value in needed if not _is_free(value)]
    compared = _compared(later)
    long = _too_long(wanted, frozenset(outputs), recomputed)
    kept = list(dict.fromkeys(map(_as_made, _cut(wanted, frozenset(outputs), recomputed, compared | long))))
    residuals = tuple(_residual(value, frozenset(outputs), compared, long) for value in kept)
    stand_ins = {residual.value: residual.stand_in for residual in residuals}
    given: dict[Value, Value] = {**{value: value for value in cotangents}, **stand_ins}
    new = rebuild(gradients, given)
    backward = Graph(
        (*(r.stand_in for r in residuals), *cotangents),
        tuple(new[value] for value in gradients),
        tuple(f"d{value.name}" for value in graph.inputs[: len(gradients)]),
        f"{graph.title}_backward",
    )
    made = tuple(r.value for r in residuals if not is_leaf(r.value) and r.value not in set(outputs))
    names = graph.output_names + tuple(value.name or "residual" for value in made)
    repeats = tuple(value for value in topological(needed, kept) if value in again)
    return Partition(Graph(graph.inputs, (*outputs, *made), names, graph.title), backward, residuals, repeats)


# Functions that round nothing.
EXACT = frozenset(("abs", "negative", "maximum", "minimum", "where", "sign", "floor", "ceil", "round", "trunc"))


def _compared(values: Iterable[Value]) -> set[Value]:
    """What is compared with a reduction of itself, and is not sure to be the same when computed again: it would equal nothing.

    A compiler contracts a product and a sum in one kernel and not in another, and a quotient may be a product with an inverse.
    """
    found = {value.operands[0] for value in values if isinstance(value.operation, structure.Keep)}
    exact: dict[Value, bool] = {}
    steady: dict[Value, bool] = {}
    for value in topological(found):
        in_memory = not value.operands or isinstance(value.operation, (*HEAVY, structure.Gather))
        rounds = isinstance(value.operation, Elementwise) and value.operation.name not in EXACT
        rounds_once = value.operation is not TABLE["divide"] and all(exact[x] for x in value.operands)
        exact[value] = in_memory or not value.dtype.is_floating or (not rounds and all(exact[x] for x in value.operands))
        steady[value] = exact[value] or rounds_once or (not rounds and all(steady[x] for x in value.operands))
    return {value for value in found if not steady[value]}


def _too_long(needed: Sequence[Value], outputs: frozenset[Value], recomputed: frozenset[Value]) -> set[Value]:
    """Where a long way from what is kept to what is needed is cut: as much is computed again as a kernel can hold."""
    long, wanted = set[Value](), frozenset(needed)

    def stops(value: Value) -> bool:
        return value in long or value in outputs or (_is_computed_once(value) and value not in recomputed)

    for value in topological(needed):
        if value in wanted and not stops(value):
            long.update(cuts(value, stops, lambda x: x.operands, wanted))
    return long


def read_through_outputs(outputs: Sequence[Value], gradients: Sequence[Value]) -> list[Value]:
    """The gradients with every Value that an output is a mere view of read as a view of that output: it need not be kept too.

    So is what an output rounds, where it is made of a product of matrices that would be kept as short.
    """
    views: dict[Value, Value] = {}
    for output in outputs:
        value = output
        steps = []
        while (isinstance(value.operation, Reshape | structure.Permute) and value.operands[0].operands) or _rounds_product(
            value
        ):
            steps.append(value)
            value = value.operands[0]
        if steps and value not in views and value not in set(outputs):
            with on_behalf_of(value):
                views[value] = _undone(output, steps)
    if not views:
        return list(gradients)
    forward = {value: value for value in topological(outputs)}
    new = rebuild(gradients, forward | views)
    return [new[value] for value in gradients]


def _rounds_product(value: Value) -> bool:
    """Whether a Value is a cast to 16 bits of what is made element by element of a product of that dtype.

    What the user made of a product of float16 may be outside of the range of that although the product is not. What a rewrite made
    of one is the user's product.
    """
    if not isinstance(value.operation, Cast) or value.dtype.itemsize != 2 or not value.dtype.is_floating:
        return False
    product = large_product(value.operands[0])
    if product is None or product.dtype != value.dtype:
        return False
    return value.dtype != types.float16 or value.operands[0].auxiliary or _is_seen(value.operands[0], product)


def _is_seen(value: Value, product: Value) -> bool:
    """Whether a Value is a product as it is, cast or in another order."""
    while value is not product and isinstance(value.operation, Cast | Reshape | structure.Permute):
        (value,) = value.operands
    return value is product


def _undone(view: Value, steps: Sequence[Value]) -> Value:
    """The array that the steps, last one first, made `view` of."""
    for step in steps:
        (before,) = step.operands
        if isinstance(step.operation, Cast):
            view = cast(view, before.dtype)
        elif isinstance(step.operation, Reshape):
            view = apply(Reshape(before.shape), view)
        else:
            view = apply(structure.Permute(tuple(step.operation.axes.index(i) for i in range(before.ndim))), view)
        view.name = before.name
    return view


def _as_made(value: Value) -> Value:
    """What is kept in place of a reshape of a reduction or product: that, which a kernel leaves as it makes it."""
    made = value
    while isinstance(made.operation, Reshape):
        (made,) = made.operands
    return made if isinstance(made.operation, HEAVY) else value


@inherited
def _is_free(value: Value, operands: list[bool]) -> bool:
    """Computed from constants alone: never kept."""
    return not is_leaf(value) and all(operands)


def _residual(value: Value, outputs: frozenset[Value], compared: set[Value], long: set[Value]) -> Residual:
    dtype = storage_dtype(value, outputs)
    strides = getattr(value.operation, "strides", None)
    stand_in = make_input(value.shape, value.dtype, value.name or value.operation.name, strides, dtype)
    stand_in.source = value.source
    if is_leaf(value):
        return Residual(value, stand_in, "an input: costs nothing to keep")
    if value in outputs:
        return Residual(value, stand_in, "an output: costs nothing to keep")
    if isinstance(value.operation, HEAVY):
        return Residual(value, stand_in, "computed by a reduction or product, which is not repeated")
    if value in compared:
        return Residual(value, stand_in, "compared with a reduction of itself, which it must equal to the last bit")
    if value in long:
        return Residual(value, stand_in, "computed by so many operations that a kernel does not repeat them all")
    return Residual(value, stand_in, "cheaper to keep than what it is computed from")


def _cost(value: Value, outputs: frozenset[Value]) -> int:
    """Bytes moved if a Value is kept: written and read, or only read where it is in memory anyway (which also wins a tie)."""
    size = max(1, value.size) * storage_dtype(value, outputs).itemsize
    return size if is_leaf(value) or value in outputs else 2 * size + 1


# The minimum cut ----------------------------------------------------------------------------------------------------


def _cut(needed: Sequence[Value], outputs: frozenset[Value], recomputed: frozenset[Value], compared: set[Value]) -> list[Value]:
    """The cheapest Values from which all of `needed` can be computed without a reduction that is not `recomputed`; the latest such cut.

    What is `compared` with a reduction of itself is not computed again either.
    """
    values = topological(needed)
    flow = _Flow()
    for value in values:
        flow.connect((value.number, 0), (value.number, 1), _cost(value, outputs))
        if is_leaf(value) or value in compared or (_is_computed_once(value) and value not in recomputed):
            flow.connect("source", (value.number, 0), UNLIMITED)
        for operand in value.operands:
            flow.connect((operand.number, 1), (value.number, 0), UNLIMITED)
    for value in needed:
        flow.connect((value.number, 1), "sink", UNLIMITED)
    late = flow.reaching_sink()
    return [value for value in values if (value.number, 1) in late and (value.number, 0) not in late]


def _is_computed_once(value: Value) -> bool:
    """Reductions, and what is read here and there from an array larger than the result: a small table is read again."""
    if isinstance(value.operation, structure.Gather):
        table = value.operands[0]
        return table.size * table.dtype.itemsize > value.size * value.dtype.itemsize
    return isinstance(value.operation, HEAVY)


class _Flow:
    """Maximum flow by shortest augmenting paths (Edmonds and Karp, 1972)."""

    def __init__(self) -> None:
        self.left: dict = {}

    def connect(self, a, b, capacity: int) -> None:
        self.left.setdefault(a, {})
        self.left.setdefault(b, {})
        self.left[a][b] = self.left[a].get(b, 0) + capacity
        self.left[b].setdefault(a, 0)

    def reaching_sink(self) -> set:
        """After saturating the network: the nodes from which flow can still reach the sink."""
        while path := self._path():
            amount = min(self.left[a][b] for a, b in path)
            for a, b in path:
                self.left[a][b] -= amount
                self.left[b][a] += amount
        reached, queue = {"sink"}, deque(["sink"])
        while queue:
            node = queue.popleft()
            for other in self.left.get(node, ()):
                if other not in reached and self.left[other].get(node, 0) > 0:
                    reached.add(other)
                    queue.append(other)
        return reached

    def _path(self) -> list | None:
        before: dict = {"source": None}
        queue = deque(["source"])
        while queue:
            node = queue.popleft()
            for other, capacity in self.left.get(node, {}).items():
                if capacity > 0 and other not in before:
                    before[other] = node
                    if other == "sink":
                        return _steps(before)
                    queue.append(other)
        return None


def _steps(before: dict) -> list:
    steps, node = [], "sink"
    while before[node] is not None:
        steps.append((before[node], node))
        node = before[node]
    return steps[::-1]
