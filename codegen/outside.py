"""Products of matrices that a statistic of their own rows need not wait for: sum_k (x_k·r)·w_k = r·sum_k x_k·w_k.

The sum that makes the statistic can then share the product's loop. Over the reals; in floats the rounding differs, x·r is no longer
rounded to 16 bits, and where x·w overflows though x·r·w would not (or r is infinite or nan, and an x is 0) the result is infinite
or nan. So this is a choice with a cost, made only for factors that a reduction makes, and not where it would bring numbers to the
matrix unit that float16 may not hold.
"""

from __future__ import annotations

from dataclasses import dataclass

from gradc import types
from gradc.codegen.nodes import is_leaf
from gradc.codegen.stages import HEAVY
from gradc.ir import Graph, Value, apply, on_behalf_of, topological
from gradc.leaves import Broadcast, Cast, cast
from gradc.rewrites.matching import Factor, built, dropped, inside, is_constant_along, put_together, spread
from gradc.structure import Contract, Marker
from gradc.types import DType, Shape
from gradc.walks import Walk, walked

VIEWS = (Broadcast, Marker)


@dataclass(frozen=True)
class Unrounded(Marker):
    """Counts as another float dtype without being rounded to it: arithmetic on 16-bit floats is not rounded in between."""

    dtype: DType
    name = "unrounded"

    def result(self, x: Value) -> tuple[Shape, DType]:
        return x.shape, self.dtype


def statistics_outside(graph: Graph, within: frozenset[Value]) -> dict[Value, Value]:
    """Each product that has factors made by a reduction, and the same with them outside; none of those in `within`."""
    made = _made_by_reductions(graph)
    products = (value for value in graph.values if isinstance(value.operation, Contract) and value not in within)
    found = ((value, _without_statistics(value, made)) for value in products)
    return {value: other for value, other in found if other is not None}


def _made_by_reductions(graph: Graph) -> set[Value]:
    """What depends on a reduction or product of the program."""
    made: set[Value] = set()
    for value in topological(graph.outputs):
        if (isinstance(value.operation, HEAVY) and not is_leaf(value)) or any(x in made for x in value.operands):
            made.add(value)
    return made


def _without_statistics(value: Value, made: set[Value]) -> Value | None:
    operation, operands = value.operation, list(value.operands)
    steps: list[Factor] = []
    for side, labels in enumerate((operation.lhs, operation.rhs)):
        summed = [i for i, label in enumerate(labels) if label not in operation.out]
        own = [operation.out.index(label) for label in labels if label in operation.out]
        rest, found = walked(_split(operands[side], summed, made))
        if rest is None or not found or not _fits(rest):
            continue
        operands[side] = rest
        steps += [(name, _like(spread(other, value.shape, own), value.dtype)) for name, other in found if other is not None]
    if not steps:
        return None
    with on_behalf_of(value, value.note, auxiliary=True):
        outside = put_together(apply(operation, *operands), steps)
    outside.auxiliary = value.auxiliary
    return outside


def _split(value: Value, summed: list[int], made: set[Value]) -> Walk[tuple[Value | None, list[Factor]]]:
    """What varies along the summed axes, and the factors and divisors that do not and that a reduction made."""
    if isinstance(value.operation, Cast) and value.operands[0].dtype.is_floating and value.dtype.is_floating:
        rest, steps = yield _split(value.operands[0], summed, made)
        return (None if rest is None else _rounded(rest, value.dtype)), steps
    if operands := inside(value, "negative"):
        rest, steps = yield _split(operands[0], summed, made)
        return (None if rest is None else built("negative", rest)), steps
    if is_constant_along(value, summed):
        return (None, [("multiply", dropped(value, summed))]) if value in made else (value, [])
    if operands := inside(value, "multiply"):
        a, steps_a = yield _split(operands[0], summed, made)
        b, steps_b = yield _split(operands[1], summed, made)
        if steps_a or steps_b:
            rests = [rest for rest in (a, b) if rest is not None]
            return (built("multiply", *rests) if len(rests) == 2 else rests[0] if rests else None), [*steps_a, *steps_b]
    if operands := inside(value, "divide"):
        rest, steps = yield _split(operands[0], summed, made)
        if rest is not None and is_constant_along(operands[1], summed) and operands[1] in made:
            return rest, [*steps, ("divide", dropped(operands[1], summed))]
        if rest is not None and steps:
            return built("divide", rest, operands[1]), steps
    return value, []


def _rounded(x: Value, dtype: DType) -> Value:
    """`x` in a dtype; what was only widened from it is as it was."""
    (origin,) = x.operands if isinstance(x.operation, Cast) else (x,)
    return origin if origin.dtype == dtype else cast(x, dtype)


def _like(x: Value, dtype: DType) -> Value:
    return x if x.dtype == dtype else apply(Unrounded(dtype), x)


def _fits(x: Value) -> bool:
    """Whether the matrix unit's dtype holds what would be multiplied: float16 only what already lies in memory as that."""
    while isinstance(x.operation, VIEWS) and x.operands:
        (x,) = x.operands
    return x.dtype != types.float16 or is_leaf(x)
