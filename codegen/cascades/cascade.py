"""Reductions that depend on a reduction along the same axis: how their running sums are repaired when its value moves.

Σ g(x; d) is kept for the value d seen so far; when d moves to e, acc ← T(d, e)·acc puts it right, for a basis B with
B(x; e) = T(d, e)·B(x; d). Both are derived here, or refused, and every identity is shown exactly before it is returned.
Nothing here knows any function by name, or decides whether a cascade pays; SymPy is imported when it runs, and simplifies nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, product
from typing import Any

from gradc.codegen.cascades.formula import from_tree, to_text, to_tree, to_triton
from gradc.codegen.cascades.normal_form import Atoms, Element, Expression, Inexpressible, Normal, Symbol, is_zero
from gradc.codegen.cascades.sampling import Samples

__all__ = ["Cascade", "Refusal", "derive", "from_json", "question", "to_json", "to_triton", "unproved"]


@dataclass(frozen=True)
class Cascade:
    """How Σ body is kept up to date: Σ body = Σᵢ combinationᵢ·Σ basisᵢ, and Σ basis moves by `transport`.

    `body`, `basis` and `combination` are written in `states`; `transport`, a tuple of rows, in `old` and `new`, one symbol
    for each state. basis(x; new) = transport·basis(x; old) for every x; transport(d, d) = I; transport(e, f)·transport(d, e)
    = transport(d, f). `proof` says so in one to three lines, with a prime for the new state. `basis[0]` is the body without
    the factors that no x enters; those stand in `combination`, which is applied once, to the sums, at the final state.

    Floats: the transport is finite wherever the basis is finite at both states. Before the first tile it may not be: the
    state is the -inf of a maximum, a mean is 0/0. There the emitter writes acc ← where(old == -inf, 0, T·acc), and the like
    for a mean. It is right for a maximum after tiles that are masked throughout, too: whatever was summed so far came from
    x = -inf and counts for nothing at a finite state, even where its sum is NaN; and a row that is masked to the end keeps
    the NaN that the plain formula has. Masked lanes need a mask of their own: an entry of the basis may be 1.
    """

    body: Expression
    varying: tuple[Symbol, ...]
    states: tuple[Symbol, ...]
    old: tuple[Symbol, ...]
    new: tuple[Symbol, ...]
    rank: int
    basis: tuple[Expression, ...]
    transport: tuple[tuple[Expression, ...], ...]
    combination: tuple[Expression, ...]
    proof: tuple[str, ...] = ()

    @property
    def is_constant(self) -> bool:
        """Whether nothing needs repair: the transport is the identity."""
        return all(entry == (i == j) * 1 for i, row in enumerate(self.transport) for j, entry in enumerate(row))


@dataclass(frozen=True)
class Refusal:
    """Why no cascade was found."""

    reason: str


def derive(
    expression: Expression, varying: Sequence[Symbol], states: Sequence[Symbol], constants: Sequence[Symbol] = ()
) -> Cascade | Refusal:
    """The cascade of Σ expression along an axis: `varying` symbols change along it, `states` move while the loop goes on.

    Results are remembered for the life of the process. Raises ValueError for a symbol of which nothing is said.
    """
    unknown = expression.free_symbols.difference(varying, states, constants)
    if unknown:
        raise ValueError(f"neither varying, nor a state, nor constant: {', '.join(sorted(map(str, unknown)))}")
    return _remembered(_exact(expression), tuple(varying), tuple(states))


def question(
    expression: Expression, varying: Sequence[Symbol], states: Sequence[Symbol], constants: Sequence[Symbol] = ()
) -> str:
    """A text that is the same in every process for the same arguments of `derive`: what a cache on disk may hash."""
    return json.dumps([to_tree(_exact(expression)), *([*map(to_tree, symbols)] for symbols in (varying, states, constants))])


def _exact(expression: Expression) -> Expression:
    import sympy

    return expression.xreplace({number: sympy.Rational(number) for number in expression.atoms(sympy.Float)})


@lru_cache(maxsize=1024)
def _remembered(expression: Expression, varying: tuple[Symbol, ...], states: tuple[Symbol, ...]) -> Cascade | Refusal:
    try:
        return _derived(expression, varying, states)
    except Inexpressible as refused:
        return Refusal(str(refused))
    except ArithmeticError as error:
        return Refusal(f"no value at a sample point: {error}")


def _derived(expression: Expression, varying: tuple[Symbol, ...], states: tuple[Symbol, ...]) -> Cascade:
    import sympy

    old, new = (tuple(_like(state, age, expression) for state in states) for age in ("old", "new"))
    atoms = Atoms(varying, (*states, *old, *new))
    body = atoms.abstract(expression)
    samples = Samples(body, atoms.varying, states)
    rank = samples.rank()
    factor, first = _without_factor(body, atoms.varying, states)
    if factor == -1:
        factor, first = -factor, body
    basis = _basis(first, rank, states, atoms, samples)
    transport = _transport(_at(basis, states, old), _at(basis, states, new), old, atoms)
    combination = (factor, *([sympy.Integer(0)] * (rank - 1)))
    missing = _unproved(body, basis, transport, combination, (states, old, new))
    if missing:
        raise Inexpressible(f"not proved: {missing}")
    basis, combination, *rows = (tuple(map(atoms.restored, row)) for row in (basis, combination, *transport))
    found = Cascade(expression, varying, states, old, new, rank, basis, tuple(rows), combination)
    return replace(found, proof=_proof(found))


def _at(expressions: Iterable[Expression], states: Sequence[Symbol], others: Sequence[Symbol]) -> list[Expression]:
    """The expressions with other symbols for the states."""
    moved = dict(zip(states, others, strict=True))
    return [expression.xreplace(moved) for expression in expressions]


def _like(state: Symbol, age: str, expression: Expression) -> Symbol:
    """A symbol such as m_old that the expression does not have."""
    name, taken = f"{state.name}_{age}", {symbol.name for symbol in expression.free_symbols}
    while name in taken:
        name += "_"
    return type(state)(name, real=state.is_real, positive=state.is_positive)


def _without_factor(expression: Expression, varying: set[Symbol], states: Sequence[Symbol]) -> tuple[Expression, Expression]:
    """A factor that no x enters, and the rest; exponentials of a state stay, because they keep the sum in range."""
    import sympy

    factors = sympy.Mul.make_args(sympy.factor_terms(expression) if expression.is_Add else expression)
    stays = [bool(f.free_symbols & varying or (isinstance(f, sympy.exp) and f.has(*states))) for f in factors]
    if all(stays):
        return sympy.Integer(1), expression
    taken, rest = ([f for f, kept in zip(factors, stays, strict=True) if kept == side] for side in (False, True))
    return sympy.Mul(*taken), sympy.Mul(*rest)


def _basis(first: Expression, rank: int, states: Sequence[Symbol], atoms: Atoms, samples: Samples) -> tuple[Expression, ...]:
    """`first` and its successive derivatives by the states, as far as they are independent, each in its plainest form."""
    basis, waiting = [first], [first.diff(state) for state in states]
    while len(basis) < rank:
        if not waiting:
            raise Inexpressible(f"the derivatives close before the rank, {rank}")
        candidate = _plainest(waiting.pop(0), basis, states, atoms)
        if candidate != 0 and samples.are_independent([*basis, candidate]):
            basis.append(candidate)
            waiting += [candidate.diff(state) for state in states]
    return tuple(basis)


def _plainest(candidate: Expression, basis: Sequence[Expression], states: Sequence[Symbol], atoms: Atoms) -> Expression:
    """The candidate without multiples of earlier ones that only lengthen it, and without a factor that no x enters."""
    import sympy

    normal = Normal([candidate, *basis], sorted(atoms.varying, key=lambda s: (s.name, s.sort_key())))
    element = normal.element(candidate)
    for earlier in map(normal.element, basis):
        shared = dict(earlier.numer.terms())
        for share in {c / shared[powers] for powers, c in element.numer.terms() if powers in shared}:
            shorter = element - share * earlier
            if len(shorter.numer) < len(element.numer):
                element = shorter
    if not element:
        return sympy.Integer(0)
    _, plain = _without_factor(normal.expression(element), atoms.varying, states)
    leading = next((term for term in plain.as_ordered_terms() if term.free_symbols & atoms.varying), plain)
    return -plain if (leading if plain.is_Add else plain).as_coeff_Mul()[0] < 0 else plain


def _transport(
    before: Sequence[Expression], after: Sequence[Expression], old: Sequence[Symbol], atoms: Atoms
) -> list[tuple[Expression, ...]]:
    """T with after = T·before: both as coordinates over the monomials in x, and one linear system."""
    normal = Normal([*before, *after], old)
    rows = [normal.coordinates(normal.element(b), atoms) for b in (*before, *after)]
    monomials = sorted(set().union(*rows))
    columns = _solved([[row.get(m, normal.field.zero) for row in rows] for m in monomials], len(before))
    for entry in (entry for column in columns for entry in column):
        poles = [of for of in normal.poles(entry) if of.free_symbols & set(old)]
        if poles:
            raise Inexpressible(f"the transport has a pole in {', '.join(map(str, poles))}")
    return [tuple(normal.expression(column[i]) for column in columns) for i in range(len(before))]


def _solved(equations: list[list[Element]], unknowns: int) -> list[list[Element]]:
    """X with A·X = C, for rows (A | C) of a system with more equations than unknowns; refuses where there is none."""
    for i in range(unknowns):
        pivot = next((k for k in range(i, len(equations)) if equations[k][i]), None)
        if pivot is None:
            raise Inexpressible("the basis is not independent")
        equations[i], equations[pivot] = equations[pivot], equations[i]
        equations[i] = [entry / equations[i][i] for entry in equations[i]]
        for k, row in enumerate(equations):
            if k != i and row[i]:
                equations[k] = [entry - row[i] * p for entry, p in zip(row, equations[i], strict=True)]
    if any(entry for row in equations[unknowns:] for entry in row):
        raise Inexpressible("no transport holds for every x")
    return [row[unknowns:] for row in equations[:unknowns]]


def unproved(cascade: Cascade) -> str:
    """Which of a cascade's four identities are not shown by their normal forms; empty where all are.

    Each way that the conditions of its selections can turn out is looked at by itself.
    """
    import sympy

    symbols, rows = (
        (cascade.states, cascade.old, cascade.new),
        ((cascade.body,), cascade.basis, cascade.combination, *cascade.transport),
    )
    selections = {piece for row in rows for part in row for piece in part.atoms(sympy.Piecewise)}
    conditions = sorted({c for piece in selections for _, c in piece.args} - {sympy.true}, key=str)
    moving = [c for c in conditions if c.free_symbols.intersection(chain(*symbols))]
    if moving:
        return f"the condition {moving[0]} depends on the state"
    for truth in product((sympy.true, sympy.false), repeat=len(conditions)):
        case = dict(zip(conditions, truth, strict=True))
        settled = [[part.xreplace(case) for part in row] for row in rows]
        missing = _unproved_case(settled, cascade.varying, symbols, grouped=True)
        missing = missing and _unproved_case(settled, cascade.varying, symbols, grouped=False)
        if missing:
            return missing
    return ""


def _unproved_case(
    rows: list[list[Expression]], varying: tuple[Symbol, ...], symbols: tuple[tuple[Symbol, ...], ...], grouped: bool
) -> str:
    atoms = Atoms(varying, chain(*symbols), grouped)
    [body], basis, combination, *transport = ([atoms.abstract(part) for part in row] for row in rows)
    return _unproved(body, basis, transport, combination, symbols)


def _unproved(
    body: Expression,
    basis: Sequence[Expression],
    transport: Sequence[Sequence[Expression]],
    combination: Sequence[Expression],
    symbols: tuple[tuple[Symbol, ...], ...],
) -> str:
    import sympy

    states, old, new = symbols
    third, T = tuple(sympy.Dummy(s.name) for s in states), sympy.Matrix(transport)
    before, after = (sympy.Matrix(_at(basis, states, at)) for at in (old, new))
    same, onward, whole = (_moved(T, dict(zip(old + new, to, strict=True))) for to in (old + old, new + third, old + third))
    identities = {
        "the body is the combination of the basis": [body - sum(c * b for c, b in zip(combination, basis, strict=True))],
        "B(x; e) = T(d, e)·B(x; d)": after - T * before,
        "T(d, d) = 1": same - sympy.eye(len(basis)),
        "T(e, f)·T(d, e) = T(d, f)": onward * T - whole,
    }
    return "; ".join(claim for claim, differences in identities.items() if not all(map(is_zero, differences)))


def _moved(transport: Any, moves: dict[Symbol, Symbol]) -> Any:
    return transport.applyfunc(lambda entry: entry.xreplace(moves))


def _proof(cascade: Cascade) -> tuple[str, ...]:
    """The identities shown, for a reader: the state is m, then m'."""
    basis, rank = cascade.basis, cascade.rank
    primed = {state: f"{state.name}'" for state in cascade.states}
    names = {symbol: state.name for symbol, state in zip(cascade.old, cascade.states, strict=True)}
    names |= {symbol: f"{state.name}'" for symbol, state in zip(cascade.new, cascade.states, strict=True)}
    terms = [_term(t, b, names) for t, b in zip(cascade.transport[0], basis, strict=True) if t != 0]
    lines = [f"{to_text(basis[0], names=primed)} = {' + '.join(terms).replace('+ -', '- ')}   rank {rank}"]
    if cascade.is_constant:
        lines = [
            f"no {' or '.join(s.name for s in primed)} in ({', '.join(map(to_text, basis))}): nothing to repair   rank {rank}"
        ]
    body, product = to_text(cascade.body), to_text(cascade.combination[0], basis[0])
    if body != product:
        lines.insert(0, f"{body} = {product}")
    if rank > 1:
        lines.append(f"B = ({', '.join(map(to_text, basis))}): T(d, d) = 1, T(e, f)·T(d, e) = T(d, f)")
    return tuple(lines)


def _term(entry: Expression, basis: Expression, names: dict[Symbol, str]) -> str:
    text = to_text(entry, basis, names=names)
    return f"({text})" if 1 in (entry, basis) and (entry * basis).is_Add else text


def to_json(result: Cascade | Refusal) -> str:
    """A result as JSON text that `from_json` reads back, without any text being evaluated."""
    if isinstance(result, Refusal):
        return json.dumps({"reason": result.reason})
    return json.dumps({name: _nested(part) for name, part in vars(result).items()})


def _nested(part: Any) -> Any:
    if isinstance(part, tuple):
        return {"tuple": [_nested(entry) for entry in part]}
    return part if isinstance(part, int | str) else to_tree(part)


def from_json(text: str, symbols: Iterable[Symbol] = ()) -> Cascade | Refusal:
    """The result of a text from `to_json`, in the given symbols where names agree. Raises ValueError for any other text."""
    known = tuple(symbols)
    try:
        found = json.loads(text)
        return (
            Refusal(found["reason"]) if "reason" in found else Cascade(**{k: _flat(part, known) for k, part in found.items()})
        )
    except (AttributeError, LookupError, TypeError) as error:
        raise ValueError(f"no cascade, nor a refusal: {error}") from None


def _flat(part: Any, symbols: tuple[Symbol, ...]) -> Any:
    if isinstance(part, dict):
        return tuple(_flat(entry, symbols) for entry in part["tuple"])
    return from_tree(part, symbols) if isinstance(part, list) else part
