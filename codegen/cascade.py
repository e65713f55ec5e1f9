"""Reductions that depend on a reduction along the same axis: how their running sums are repaired when its value moves.

Σ g(x; d) is kept for the value d seen so far; when d moves to e, acc ← T(d, e)·acc puts it right, for a basis B with
B(x; e) = T(d, e)·B(x; d). Both are derived here, or refused, and every identity is shown exactly before it is returned.
Nothing here knows a softmax, or decides whether a cascade pays; SymPy is imported when it runs, and simplifies nothing.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import lcm
from typing import Any

Expression = Any  # a SymPy expression
Symbol = Any  # a SymPy symbol
Element = Any  # of a field of fractions: the normal form

MAXIMUM_RANK = 4
SAMPLES = (8, 12)
DIGITS = 60
NEGLIGIBLE = "1e-40"  # beside the largest entry; a finite rank leaves about 1e-58


@dataclass(frozen=True)
class Cascade:
    """How Σ body is kept up to date: Σ body = Σᵢ combinationᵢ·Σ basisᵢ, and Σ basis moves by `transport`.

    `body`, `basis` and `combination` are written in `states`; `transport`, a tuple of rows, in `old` and `new`, one symbol
    for each state. basis(x; new) = transport·basis(x; old) for every x; transport(d, d) = I; transport(e, f)·transport(d, e)
    = transport(d, f). `proof` says so in one to three lines, with a prime for the new state. `basis[0]` is the body without
    the factors that no x enters; those stand in `combination`, which is applied once, to the sums, at the final state.

    Floats: the transport is finite wherever the states are and the basis is at `new`, but it is NaN at -inf, the state before
    the first tile and after tiles that are masked throughout. There the emitter writes acc ← where(old == -inf, 0, T·acc):
    whatever was summed so far came from x = -inf and counts for nothing at a finite state, even where its sum is NaN. A row
    that is masked to the end keeps the NaN that the plain formula has. Masked lanes need a mask of their own: an entry of
    the basis may be 1. A state without a value before the first tile (a mean, 0/0) is guarded the same way.
    """

    body: Expression
    states: tuple[Symbol, ...]
    old: tuple[Symbol, ...]
    new: tuple[Symbol, ...]
    varying: tuple[Symbol, ...]
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


class _RefusedError(Exception):
    """Carries a refusal's reason out of the derivation."""


def derive(
    expression: Expression, varying: Sequence[Symbol], states: Sequence[Symbol], constants: Sequence[Symbol] = ()
) -> Cascade | Refusal:
    """The cascade of Σ expression along an axis: `varying` symbols change along it, `states` move while the loop goes on.

    Results are remembered for the life of the process. Raises ValueError for a symbol of which nothing is said.
    """
    unknown = expression.free_symbols.difference(varying, states, constants)
    if unknown:
        raise ValueError(f"neither varying, nor a state, nor constant: {', '.join(sorted(map(str, unknown)))}")
    return _remembered(expression, tuple(varying), tuple(states))


@lru_cache(maxsize=1024)
def _remembered(expression: Expression, varying: tuple[Symbol, ...], states: tuple[Symbol, ...]) -> Cascade | Refusal:
    try:
        return _derived(expression, varying, states)
    except _RefusedError as refused:
        return Refusal(str(refused))


def _derived(expression: Expression, varying: tuple[Symbol, ...], states: tuple[Symbol, ...]) -> Cascade:
    old, new = (tuple(_like(state, f"{state.name}_{age}") for state in states) for age in ("old", "new"))
    atoms = _Atoms(varying, (*states, *old, *new))
    body = atoms.abstract(expression)
    samples = _Samples(body, atoms.varying, states)
    rank = samples.rank()
    factor, first = _without_factor(body, atoms.varying, states)
    basis = _basis(first, rank, states, atoms, samples)
    transport = _transport([b.xreplace(dict(zip(states, old, strict=True))) for b in basis],
                           [b.xreplace(dict(zip(states, new, strict=True))) for b in basis], old, atoms)  # fmt: skip
    combination = (factor, *([factor * 0] * (rank - 1)))
    rows = tuple(tuple(atoms.restored(entry) for entry in row) for row in transport)
    found = Cascade(
        expression, states, old, new, varying, rank, tuple(map(atoms.restored, basis)), rows, tuple(map(atoms.restored, combination))
    )
    missing = unproved(found)
    if missing:
        raise _RefusedError(f"not proved: {missing}")
    return Cascade(**{**vars(found), "proof": _proof(found)})


def _like(symbol: Symbol, name: str) -> Symbol:
    return type(symbol)(name, real=symbol.is_real, positive=symbol.is_positive)


# 1. What a body is made of


class _Atoms:
    """Symbols for what no state enters and is neither polynomial nor exponential, so that tanh(x) is one more varying symbol.

    A selection whose condition knows no state becomes a sum over an indicator. `restored` undoes both.
    """

    def __init__(self, varying: Iterable[Symbol], moving: Iterable[Symbol]):
        self.varying, self.moving = set(varying), frozenset(moving)
        self.symbols: dict[Expression, Symbol] = {}

    def symbol(self, node: Expression) -> Symbol:
        import sympy

        if node not in self.symbols:
            self.symbols[node] = sympy.Dummy(f"atom{len(self.symbols)}")
            if self.varying & node.free_symbols:
                self.varying.add(self.symbols[node])
        return self.symbols[node]

    def abstract(self, node: Expression) -> Expression:
        import sympy

        if node.is_Float:
            return sympy.Rational(node)
        if node.is_Rational or node.is_Symbol:
            return node
        if node.is_Add or node.is_Mul or isinstance(node, sympy.exp):
            return node.func(*map(self.abstract, node.args))
        if node.is_Pow:
            return self._abstract_power(*node.args)
        if self.moving.isdisjoint(node.free_symbols):
            return self.symbol(node)
        if isinstance(node, sympy.Piecewise):
            return self._sum_of_branches(node)
        if isinstance(node, sympy.sinh | sympy.cosh):
            return self.abstract(node.rewrite(sympy.exp))
        return node.func(*map(self.abstract, node.args))

    def _abstract_power(self, base: Expression, exponent: Expression) -> Expression:
        import sympy

        is_whole = exponent.is_Integer and exponent > 0
        if base.is_Symbol and exponent.is_Rational or is_whole or exponent.is_Rational and base.free_symbols & self.moving:
            return self.abstract(base) ** exponent
        if base.is_Rational and base > 0 and exponent.free_symbols:
            return sympy.exp(self.symbol(sympy.log(base)) * self.abstract(exponent))
        if self.moving.isdisjoint(base.free_symbols | exponent.free_symbols):
            return self.symbol(base**exponent)
        raise _RefusedError(f"{base**exponent} is neither polynomial nor exponential")

    def _sum_of_branches(self, node: Expression) -> Expression:
        import sympy

        total, remaining = sympy.Integer(0), sympy.Integer(1)
        for branch, condition in node.args:
            if self.moving & condition.free_symbols:
                raise _RefusedError(f"the condition {condition} depends on the state")
            holds = sympy.Integer(1) if condition == sympy.true else self.symbol(condition)
            total, remaining = total + remaining * holds * self.abstract(branch), remaining * (1 - holds)
        return total

    def restored(self, expression: Expression) -> Expression:
        """The expression in the symbols it came from; an indicator becomes a selection again, 2**x a power."""
        import sympy

        for condition, indicator in self.symbols.items():
            if condition.is_Boolean and expression.has(indicator):
                holds, fails = (expression.xreplace({indicator: sympy.Integer(value)}) for value in (1, 0))
                expression = sympy.Piecewise((holds, condition), (fails, True))
        return expression.xreplace({symbol: node for node, symbol in self.symbols.items()}).replace(sympy.exp, _power_of_base)


def _power_of_base(argument: Expression) -> Expression:
    import sympy

    factors = sympy.Mul.make_args(sympy.factor_terms(argument))
    bases = [f for f in factors if isinstance(f, sympy.log) and f.args[0].is_Rational]
    if len(bases) != 1:
        return sympy.exp(argument)
    return sympy.Pow(bases[0].args[0], sympy.Mul(*(f for f in factors if f is not bases[0])))


def _without_factor(
    expression: Expression, varying: set[Symbol], states: Sequence[Symbol]
) -> tuple[Expression, Expression]:
    """A factor that no x enters, and the rest; exponentials of a state stay, because they keep the sum in range."""
    import sympy

    factors = sympy.Mul.make_args(sympy.factor_terms(expression) if expression.is_Add else expression)
    stays = [bool(f.free_symbols & varying or isinstance(f, sympy.exp) and f.has(*states)) for f in factors]
    if all(stays):
        return sympy.Integer(1), expression
    taken, rest = ([f for f, kept in zip(factors, stays, strict=True) if kept == side] for side in (False, True))
    return sympy.Mul(*taken), sympy.Mul(*rest)


# 2. The rank, in numbers


class _Samples:
    """A body at sample points: rows of x, columns of d, constants fixed. Coordinates are rational, positive and spread evenly."""

    def __init__(self, body: Expression, varying: set[Symbol], states: Sequence[Symbol]):
        import mpmath

        self.body, self.context = body, mpmath.mp.clone()
        self.context.dps = DIGITS
        ordered = sorted(body.free_symbols | set(states), key=lambda s: (s.name, s.sort_key()))
        self.varying = [s for s in ordered if s in varying]
        self.states = [s for s in ordered if s in states]
        self.constants = self._points([s for s in ordered if s not in varying and s not in states], 1, 0)[0]

    def _points(self, symbols: list[Symbol], count: int, seed: int) -> list[dict[Symbol, Any]]:
        draw, points = random.Random(seed), [{} for _ in range(count)]
        for symbol in symbols:
            for point, place in zip(points, draw.sample(range(count), count), strict=True):
                point[symbol] = self.context.mpf(997 * place + draw.randrange(1, 997)) * 4 / (997 * count)
        return points

    def rank(self) -> int:
        """The number of independent functions of x among body(·; d). Refuses one that grows with the sample or is too large."""
        found = []
        for size in SAMPLES:
            columns = self._points(self.states, size, 2 * size)
            rows = self._points(self.varying, size, 2 * size + 1)
            found.append(self._rank([[self.number(self.body, {**x, **d}) for d in columns] for x in rows]))
            if found[-1] > MAXIMUM_RANK or found[-1] != found[0]:
                raise _RefusedError(f"the rank over {size} samples is {found[-1]}: no basis of {MAXIMUM_RANK} or fewer")
        if not found[0]:
            raise _RefusedError("the body is zero")
        return found[0]

    def are_independent(self, functions: Sequence[Expression]) -> bool:
        state = self._points(self.states, 1, 1)[0]
        points = self._points(self.varying, SAMPLES[1], 3)
        return self._rank([[self.number(f, {**x, **state}) for x in points] for f in functions]) == len(functions)

    def _rank(self, rows: list[list[Any]]) -> int:
        threshold = max(abs(entry) for row in rows for entry in row) * self.context.mpf(NEGLIGIBLE)
        for rank in range(len(rows)):
            size, i, j = max((abs(rows[i][j]), i, j) for i in range(rank, len(rows)) for j in range(len(rows[0])))
            if size <= threshold:
                return rank
            rows[rank], rows[i] = rows[i], rows[rank]
            pivot = rows[rank]
            for row in rows[rank + 1 :]:
                share = row[j] / pivot[j]
                row[:] = [entry - share * p for entry, p in zip(row, pivot, strict=True)]
        return len(rows)

    def number(self, node: Expression, point: dict[Symbol, Any]) -> Any:
        if node.is_Symbol:
            return point[node] if node in point else self.constants[node]
        if node.is_Rational:
            return self.context.mpf(node.p) / node.q
        parts = [self.number(part, point) for part in node.args]
        if node.is_Add:
            return self.context.fsum(parts)
        if node.is_Mul:
            return self.context.fprod(parts)
        if node.is_Pow:
            return parts[0] ** (int(node.exp) if node.exp.is_Integer else parts[1])
        function = getattr(self.context, type(node).__name__, None)
        if function is None:
            raise _RefusedError(f"{node} is neither polynomial nor exponential")
        return function(*parts)


# 3. The normal form, the basis and the transport


class _Normal:
    """A field of fractions that holds given expressions: polynomials in symbols and exponentials, over the rationals.

    Its generators are roots of symbols (and of what else stands alone), exponentials of monomials, and exp(i·monomial) for
    sines and cosines. Two expressions are equal when their elements are.
    """

    def __init__(self, expressions: Sequence[Expression]):
        import sympy
        from sympy.polys.fields import FracField

        self.roots: dict[tuple[str, Expression], int] = {}
        for symbol in sorted(set().union(*(e.free_symbols for e in expressions)), key=lambda s: (s.name, s.sort_key())):
            self.roots["power", symbol] = 1
        for expression in expressions:
            for kind, of, exponent in _leaves(expression):
                self.roots[kind, of] = lcm(self.roots.get((kind, of), 1), exponent.q)
        self.is_complex = any(kind == "turn" for kind, _ in self.roots)
        names = [sympy.Dummy() for _ in self.roots] or [sympy.Dummy()]
        self.field = FracField(names, sympy.QQ_I if self.is_complex else sympy.QQ, sympy.lex)
        self.generators = dict(zip(self.roots, self.field.gens, strict=False))

    def element(self, node: Expression) -> Element:
        import sympy

        if node.is_Rational:
            return self.field.ground_new(self.field.domain.from_sympy(node))
        if node.is_Add:
            return sum(map(self.element, node.args), self.field.zero)
        if node.is_Mul or node.is_Pow and node.exp.is_Integer:
            factors = node.args if node.is_Mul else [node.base] * abs(int(node.exp))
            product = self.field.one
            for factor in factors:
                product *= self.element(factor)
            return product if node.is_Mul or node.exp > 0 else 1 / product
        product = self.field.one
        for kind, of, exponent in _leaves(node):
            product *= self.generators[kind, of] ** int(exponent * self.roots[kind, of])
        if isinstance(node, sympy.sin | sympy.cos):
            i, back = self.field.ground_new(sympy.QQ_I(0, 1)), 1 / product
            return (product - back) / (2 * i) if isinstance(node, sympy.sin) else (product + back) / 2
        return product

    def expression(self, element: Element) -> Expression:
        """A readable form: a sum of factored polynomials times exponentials."""
        numerator, denominator = list(element.numer.terms()), list(element.denom.terms())
        if len(denominator) > 1:
            return self._sum(numerator) / self._sum(denominator)
        [(shift, scale)] = denominator
        return self._sum([(tuple(n - m for n, m in zip(p, shift, strict=True)), c / scale) for p, c in numerator])

    def _sum(self, terms: list[tuple[tuple[int, ...], Any]]) -> Expression:
        import sympy

        groups: dict[tuple[Expression, Expression], list[Expression]] = defaultdict(lambda: [sympy.Integer(0)] * 2)
        for powers, coefficient in terms:
            parts = {"power": sympy.Integer(1), "exp": sympy.Integer(0), "turn": sympy.Integer(0)}
            for ((kind, of), root), power in zip(self.roots.items(), powers, strict=False):
                exponent = sympy.Rational(power, root)
                parts[kind] = parts[kind] * of**exponent if kind == "power" else parts[kind] + of * exponent
            split = (coefficient.x, coefficient.y) if self.is_complex else (coefficient, 0)
            group = groups[parts["exp"], parts["turn"]]
            group[:] = [g + sympy.Rational(c.numerator, c.denominator) * parts["power"] for g, c in zip(group, split, strict=True)]
        total = sympy.Integer(0)
        for (argument, angle), (real, imaginary) in groups.items():
            wave = sympy.factor(real) * sympy.cos(angle) - sympy.factor(imaginary) * sympy.sin(angle)
            total += wave * sympy.exp(sympy.factor_terms(argument))
        return total

    def coordinates(self, element: Element, atoms: _Atoms) -> dict[tuple[int, ...], Element]:
        """The coefficients, which no x enters, of the monomials in x. Refuses where x and the state do not separate."""
        has_x = []
        for (_, of), _ in self.roots.items():
            has_x.append(bool(of.free_symbols & atoms.varying))
            if has_x[-1] and of.free_symbols & atoms.moving:
                raise _RefusedError(f"{of} does not separate the axis from the state")
        has_x += [False] * (self.field.ngens - len(has_x))
        below = _grouped(element.denom, has_x)
        if len(below) > 1:
            raise _RefusedError("a denominator does not separate the axis from the state")
        [(shift, divisor)] = below.items()
        return {
            tuple(n - m for n, m in zip(powers, shift, strict=True)): self.field(part) / self.field(divisor)
            for powers, part in _grouped(element.numer, has_x).items()
        }
