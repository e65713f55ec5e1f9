"""What derivatives compute that the forward has already: quotients, and sums over a product that is summed again.

Each holds over the real numbers, and is applied to derivatives only. What a graph knows decides, so these are no rules for a
single Value (`rewrites/`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from gradc.ir import Graph, Value, apply, mapped, on_behalf_of
from gradc.leaves import Cast, cast, constant, constant_of
from gradc.rewrites.matching import built, inside
from gradc.structure import Contract, Permute, Reduce

Factors = Counter[tuple[str, int]]
MOST_FACTORS = 200  # steps into a product of products


def reuse_quotients(graph: Graph) -> Graph:
    """(a/l)·e = a·(e/l) and (a·e)/l = a·(e/l) in derivatives, where the forward has e/l, or a product of matrices reads it.

    So a softmax's backward reads its output, and that of attention divides the weights once.

    Over the reals, where l is not 0; at l = 0 both sides are nan or inf.
    """
    quotients = [value for value in graph.values if inside(value, "divide")]
    read = {x for value in graph.values if isinstance(value.operation, Contract) for x in value.operands}
    forward = {tuple(x.operands): x for x in quotients if not x.note}
    beside = {tuple(x.operands): x for x in quotients if x.note and x in read}

    def rule(value: Value) -> Value:
        found = _with_quotient(value, forward)
        return found if found is not value else _with_quotient(value, beside)

    return mapped(graph, rule) if quotients else graph


def _with_quotient(value: Value, known: Mapping[tuple[Value, ...], Value]) -> Value:
    """The product or quotient of a derivative, written with a quotient that is known."""
    if value.note and (operands := inside(value, "multiply")):
        for fraction, other in (operands, operands[::-1]):
            quotient = inside(fraction, "divide")
            if quotient and (other, quotient[1]) in known and not _is_finished(fraction):
                return _product(value, quotient[0], known[other, quotient[1]])
    if value.note and (operands := inside(value, "divide")):
        product = inside(operands[0], "multiply") or ()
        for one, other in (product, product[::-1]) if product else ():
            if (other, operands[1]) in known:
                return _product(value, one, known[other, operands[1]])
    return value


def _is_finished(fraction: Value) -> bool:
    """Whether a quotient is the user's, of what is not: it is what lies in memory, and that with the range it was meant to have."""
    return fraction.operands[0].auxiliary and not fraction.auxiliary and not fraction.note


def _product(value: Value, one: Value, other: Value) -> Value:
    with on_behalf_of(value, value.note):
        made = built("multiply", one, other)
    made.name = made.name or value.name
    return made


@dataclass(frozen=True, eq=False)
class Product:
    """An output o = contract(p, v): `factors` are those of p, `number` the number among them."""

    value: Value
    weights: Value
    operand: Value
    weight_labels: tuple[int, ...]
    operand_labels: tuple[int, ...]
    factors: Factors
    number: float


def reuse_products(graph: Graph) -> Graph:
    """Σ_j p_ij·(Σ_d a_id·v_jd) = Σ_d a_id·o_id in derivatives, where o = Σ_j p_ij·v_jd is an output of the forward.

    So the backward of attention reads its output where it would go over the keys once more. Casts in between count as nothing.
    An infinite v beside a p = 0 makes both sides nan.
    """
    known = [product for output in graph.outputs if not output.note for product in _products(output)]
    return mapped(graph, lambda value: _with_product(value, known)) if known else graph


def _products(output: Value) -> Iterator[Product]:
    value = _plain(output)
    if isinstance(value.operation, Contract):
        contract, (x, y) = value.operation, value.operands
        for p, v, mine, others in ((x, y, contract.lhs, contract.rhs), (y, x, contract.rhs, contract.lhs)):
            factors, number = _factors([p])
            yield Product(output, p, v, mine, others, factors, number)


def _with_product(value: Value, known: Iterable[Product]) -> Value:
    """The sum of a derivative, written with an output that is known."""
    if not value.note or not isinstance(value.operation, Reduce) or value.operation.kind != "sum":
        return value
    atoms = list(_atoms(value.operands[0]))
    for place, (kind, atom) in enumerate(atoms):
        if kind == "" and isinstance(atom.operation, Contract):
            others = atoms[:place] + atoms[place + 1 :]
            for product in known:
                found = _summed_first(value, atom, others, product)
                if found is not None:
                    return found
    return value


def _summed_first(value: Value, inner: Value, others: list[tuple[str, Value]], product: Product) -> Value | None:
    """Σ_d a·o in place of Σ_j p·contract(a, v); None where the other factors are not those of p."""
    factors, number = _counted(others)
    if factors != product.factors or inner.shape != product.weights.shape or not product.number:
        return None
    contract, (x, y) = inner.operation, inner.operands
    for a, v, mine, others_labels in ((x, y, contract.lhs, contract.rhs), (y, x, contract.rhs, contract.lhs)):
        if v is not product.operand:
            continue
        names = dict(zip(contract.out, product.weight_labels, strict=True))  # as the output's contraction calls them
        if any(
            names.setdefault(label, name) != name for label, name in zip(others_labels, product.operand_labels, strict=True)
        ):
            continue
        labels = tuple(names.get(label, -1) for label in mine)
        out = _plain(product.value).operation.out
        summed = {product.weight_labels[axis] for axis in value.operation.axes}
        if sorted(labels) != sorted(out) or summed != set(product.weight_labels) - set(out):
            continue
        return _rewritten(value, a, labels, product, number / product.number)
    return None


def _rewritten(value: Value, a: Value, labels: tuple[int, ...], product: Product, number: float) -> Value:
    out = _plain(product.value).operation.out
    kept = [label for i, label in enumerate(product.weight_labels) if i not in value.operation.axes]
    with on_behalf_of(value, value.note):
        o = cast(product.value, value.dtype)
        if labels != out:
            o = apply(Permute(tuple(out.index(label) for label in labels)), o)
        total = apply(
            Reduce("sum", tuple(i for i, label in enumerate(labels) if label not in kept)),
            built("multiply", cast(a, value.dtype), o),
        )
        left = [label for label in labels if label in kept]
        if left != kept:
            total = apply(Permute(tuple(left.index(label) for label in kept)), total)
        if number != 1:
            total = built("multiply", total, constant(number, total.dtype, total.shape))
    total.name = total.name or value.name
    return total


def _plain(value: Value) -> Value:
    """What a Value is a cast of."""
    while isinstance(value.operation, Cast):
        (value,) = value.operands
    return value


def _atoms(value: Value) -> Iterator[tuple[str, Value]]:
    """The factors of a product, casts aside: ("", x), ("/", divisor), ("where", condition) of where(condition, x, 0).

    No more than MOST_FACTORS are taken apart.
    """
    waiting: list[tuple[str | None, Value]] = [(None, value)]  # None: not yet looked into
    for _ in range(MOST_FACTORS):
        if not waiting:
            return
        kind, x = waiting.pop()
        x = _plain(x) if kind is None else x
        if kind is not None:
            yield kind, x
        elif operands := inside(x, "multiply"):
            waiting += [(None, operands[1]), (None, operands[0])]
        elif operands := inside(x, "divide"):
            waiting += [("/", operands[1]), (None, operands[0])]
        elif (operands := inside(x, "where")) and constant_of(operands[2]) == 0:
            waiting += [("where", operands[0]), (None, operands[1])]
        elif operands := inside(x, "negative"):
            waiting += [("negative", x), (None, operands[0])]
        else:
            yield "", x
    yield from (("" if kind is None else kind, x) for kind, x in reversed(waiting))


def _factors(values: Iterable[Value]) -> tuple[Factors, float]:
    return _counted([atom for value in values for atom in _atoms(value)])


def _counted(atoms: Iterable[tuple[str, Value]]) -> tuple[Factors, float]:
    """How often each factor occurs, and the product of the numbers among them. A condition counts once however often."""
    counted: Factors = Counter()
    number = 1.0
    for kind, atom in atoms:
        constant = constant_of(atom)
        if kind == "negative":
            number = -number
        elif constant is not None and kind != "where":
            number = number * constant if kind == "" else number / constant if constant else 0.0
        elif kind == "where":
            counted[kind, atom.number] = 1
        else:
            counted[kind, atom.number] += 1
    return counted, number


__all__ = ["reuse_products", "reuse_quotients"]
