"""Brings a graph into normal form before and after it is differentiated. Changes no meaning over the real numbers.

The rules stand in `rewrites/`, each with its formula and what it does to inf, nan and empty axes; this file applies them,
and shares what is computed twice. What no output needs is gone because a graph is what its outputs reach.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from gradc.empties import without_empties
from gradc.invariance import cut_invariant
from gradc.ir import Graph, Value, mapped, moment, on_behalf_of, with_operands
from gradc.leaves import Broadcast, Cast, Constant, Input, Literal, Reshape, constant_of, make_input
from gradc.markers import StraightThrough
from gradc.ranges import given_interval, interval_of
from gradc.rewrites import ELEMENTWISE, REWRITES, Rewrite
from gradc.sharing import reuse_products, reuse_quotients
from gradc.structure import Concatenate, Flip, Keep, Marker, Pad, Permute, Slice, StopGradient, Variable
from gradc.table import TABLE
from gradc.walks import Walk, walked

ROUNDS = 4
VIEWS = (Broadcast, Cast, Permute, Reshape)
SAME_NUMBERS = (Broadcast, Permute, Reshape, Slice, Pad, Flip, Concatenate)
COMMUTATIVE = frozenset(
    ("add", "multiply", "maximum", "minimum", "equal", "not_equal", "logical_and", "logical_or", "logical_xor")
)

# Markers that mean nothing any more: once differentiation is done nothing stops it, and once residuals are chosen nothing is kept.
FINISHED: dict[str, tuple[type[Marker], ...]] = {
    "before": (Variable,),
    "after": (Variable, StopGradient, StraightThrough),
    "final": (Variable, StopGradient, StraightThrough, Keep),
}


def normalise(graph: Graph, stage: str = "before") -> Graph:
    """The graph in normal form, with the same inputs and as many outputs in the same order.

    `stage` is "before" differentiation, "after" it, or "final" when the residuals are chosen; it says which markers go.
    """
    graph = without_empties(without_markers(graph, FINISHED[stage]))
    for _ in range(ROUNDS):
        simpler = reuse_products(reuse_quotients(rewritten(graph)))
        if all(a is b for a, b in zip(simpler.outputs, graph.outputs, strict=True)):
            break
        graph = simpler
    return cut_invariant(graph) if stage == "before" else graph


def normal_form_from(variables: Sequence[Value], outputs: Sequence[Value]) -> list[Value]:
    """The outputs in the normal form "before" differentiation, as functions of `variables`: what depends on none of them stays.

    A transform differentiates this form, so that a gradient is the same program whether it is taken inside a function or of it.
    """
    inside = _depending_on(variables, outputs)
    dependent = [output for output in outputs if output in inside]
    others = (x for value in inside for x in value.operands if x not in inside and constant_of(x) is None)
    stand_ins = {leaf: _stand_in(leaf) for leaf in (*variables, *others)}
    graph = Graph(tuple(stand_ins.values()), tuple(_replaced(inside, dependent, stand_ins)))
    simpler = normalise(graph, "before")
    forms = _replaced(simpler.values, simpler.outputs, {stand_in: leaf for leaf, stand_in in stand_ins.items()})
    found = dict(zip(dependent, forms, strict=True))
    return [found.get(output, output) for output in outputs]


def _depending_on(variables: Sequence[Value], outputs: Sequence[Value]) -> dict[Value, None]:
    """What the outputs need that depends on a variable, operands first. Nothing older than the variables does."""
    oldest = min((variable.number for variable in variables), default=0)
    needed = dict.fromkeys(output for output in outputs if output.number > oldest)
    for value in (waiting := list(needed)):
        new = dict.fromkeys(x for x in value.operands if x.number > oldest and x not in needed)
        needed |= new
        waiting.extend(new)
    depending = dict.fromkeys(variables)
    for value in sorted(needed, key=lambda value: value.number):
        if any(operand in depending for operand in value.operands):
            depending[value] = None
    return {value: None for value in depending if value not in set(variables)}


def _stand_in(leaf: Value) -> Value:
    """An input in place of a Value, of which as much is known."""
    return given_interval(make_input(leaf.shape, leaf.dtype, leaf.name), interval_of(leaf))


def _replaced(values: Iterable[Value], outputs: Sequence[Value], replace: Mapping[Value, Value]) -> list[Value]:
    """The outputs with `replace` put in, where only `values` (operands first) depend on what is replaced."""
    new = dict(replace)
    for value in values:
        if value not in new:
            new[value] = with_operands(value, tuple(new.get(operand, operand) for operand in value.operands))
    return [new.get(output, output) for output in outputs]


def without_markers(graph: Graph, markers: tuple[type[Marker], ...]) -> Graph:
    """The graph with markers of these classes replaced by what they mark."""
    return mapped(graph, lambda value: value.operands[0] if isinstance(value.operation, markers) else value)


def rewritten(graph: Graph) -> Graph:
    """Every rule applied to every Value, operands first, until none applies; equal Values become one."""
    rewriter = Rewriter(len(graph.values))
    for value in graph.values:
        rewriter.normal_form(value)
    outputs = tuple(rewriter.normal_form(output) for output in graph.outputs)
    return Graph(graph.inputs, outputs, graph.output_names, graph.title)


class Rewriter:
    """Remembers the normal form of every Value it has seen, and the one Value of each operation on the same operands."""

    def __init__(self, size: int) -> None:
        self.forms: dict[Value, Value] = {}
        self.unique: dict[tuple, Value] = {}
        self.steps_left = 200 + 20 * size  # a bound, in case two rules undo one another
        self.start = moment()

    def normal_form(self, value: Value) -> Value:
        """The Value equal to this one to which no rule applies."""
        return walked(self._normal_form(value))

    def _normal_form(self, value: Value) -> Walk[Value]:
        if value not in self.forms:
            for operand in value.operands:
                if operand not in self.forms:
                    yield self._normal_form(operand)
            operands = tuple(self.forms[operand] for operand in value.operands)
            self.forms[value] = yield self._simplified(with_operands(value, operands))
        return self.forms[value]

    def _simplified(self, value: Value) -> Walk[Value]:
        """The normal form of a Value whose operands have theirs."""
        known = self.unique.setdefault(_key(value), value)
        if known.auxiliary and not value.auxiliary and known.number > self.start:
            known.auxiliary = False  # the user wrote it too
        value = known
        if value not in self.forms:
            simpler = self._changed_by_a_rule(value)
            self.forms[value] = value if simpler is None else named_after((yield self._normal_form(simpler)), value)
        return self.forms[value]

    def _changed_by_a_rule(self, value: Value) -> Value | None:
        with on_behalf_of(value, value.note, auxiliary=True):
            for rule in RULES[value.operation.name]:
                since = moment()
                simpler = rule(value) if self.steps_left > 0 else None
                if simpler is not None:
                    if not value.auxiliary:
                        settle(simpler, since)
                    assert (simpler.shape, simpler.dtype) == (value.shape, value.dtype), (
                        f"{rule.name} turned {value!r} into {simpler!r}"
                    )
                    self.steps_left -= 1
                    return simpler
        return None


def settle(value: Value, since: int) -> None:
    """Marks what a rule made after the moment `since` in place of a Value that is not auxiliary, views and signs under it included."""
    waiting = [value]
    while waiting:
        made = waiting.pop()
        if made.number > since and made.auxiliary:
            made.auxiliary = False
            waiting += made.operands if made.operation is TABLE["negative"] or isinstance(made.operation, SAME_NUMBERS) else ()


def named_after(value: Value, original: Value) -> Value:
    """Gives a Value made here the name of the one it replaces, unless it has its own; under a view, to what is viewed as well."""
    made = value
    while made.number > original.number and made.name in (None, original.name):
        made.name = original.name
        if not isinstance(made.operation, VIEWS):
            break
        (made,) = made.operands
    return value


def _key(value: Value) -> tuple:
    """What two Values have in common exactly when they are one: the operation and the operands."""
    operation = value.operation
    if isinstance(operation, Input):
        return (value.number,)
    if isinstance(operation, Constant):
        return "constant", operation.dtype, operation.text
    if isinstance(operation, Literal):
        return "literal", id(operation.array)
    numbers = [operand.number for operand in value.operands]
    return operation, *(sorted(numbers) if operation.name in COMMUTATIVE else numbers)


def _rules() -> defaultdict[str, tuple[Rewrite, ...]]:
    """The rules by operation name; those for all rows of the table come first."""
    rules: defaultdict[str, tuple[Rewrite, ...]] = defaultdict(tuple)
    for rule in REWRITES.values():
        for operation in TABLE if ELEMENTWISE in rule.operations else ():
            rules[operation] += (rule,)
    for rule in REWRITES.values():
        for operation in rule.operations:
            if operation != ELEMENTWISE:
                rules[operation] += (rule,)
    return rules


RULES = _rules()
