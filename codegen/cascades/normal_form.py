"""The normal form of expressions built from polynomials and exponentials: elements of a field of fractions.

`Atoms` puts symbols for what is neither; `Normal` holds expressions as exact elements, equal when the expressions are, and
writes elements back readably. SymPy is imported when they run; nothing here calls simplify or knows what a cascade is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from math import lcm
from typing import Any

Expression = Any  # a SymPy expression
Symbol = Any  # a SymPy symbol
Element = Any  # of a field of fractions


LARGEST_ROOT = 8
LARGEST_NUMBER = 1000  # above or below a fraction that stands as it is; others are floats, and as good as symbols


class Inexpressible(Exception):
    """Says why an expression has no normal form."""


class Atoms:
    """Symbols for what no moving symbol enters, as large as it comes, so that tanh(x·w + b) is one more varying symbol.

    Identities shown for the symbols hold for what they stand for. A selection whose condition is a symbol becomes a sum over
    an indicator. `restored` undoes both. Unless `grouped`, sums, products and numbers are
    looked into.
    """

    def __init__(self, varying: Iterable[Symbol], moving: Iterable[Symbol], grouped: bool = True):
        self.varying, self.moving, self.grouped = set(varying), frozenset(moving), grouped
        self.symbols: dict[Expression, Symbol] = {}

    def symbol(self, node: Expression) -> Symbol:
        import sympy

        if node not in self.symbols:
            self.symbols[node] = sympy.Dummy(f"atom{len(self.symbols)}")
            if self.varying & node.free_symbols:
                self.varying.add(self.symbols[node])
        return self.symbols[node]

    def abstract(self, node: Expression) -> Expression:
        """The expression in symbols. Raises Inexpressible where a power or a condition leaves no hope."""
        import sympy

        if node in (sympy.oo, -sympy.oo, sympy.zoo, sympy.nan):
            raise Inexpressible(f"{node} is no exact number")
        if node.is_Rational:
            return node if node.q <= LARGEST_NUMBER or not self.grouped else sympy.sign(node) * self.symbol(abs(node))
        if node.is_Symbol:
            return node
        if node.is_Add or node.is_Mul:
            return self._abstract_terms(node)
        if isinstance(node, sympy.exp):
            return sympy.exp(self.abstract(node.args[0]))
        if node.is_Pow:
            return self._abstract_power(*node.args)
        if self._rests(node):
            return self.symbol(node)
        if isinstance(node, sympy.Piecewise):
            return self._sum_of_branches(node)
        if isinstance(node, sympy.sinh | sympy.cosh):
            return self.abstract(node.rewrite(sympy.exp))
        return node.func(*map(self.abstract, node.args))

    def _rests(self, node: Expression) -> bool:
        return self.moving.isdisjoint(node.free_symbols)

    def _abstract_terms(self, node: Expression) -> Expression:
        resting = [part for part in node.args if self._rests(part) and part.free_symbols]
        if not self.grouped or len(resting) < 2:
            return node.func(*map(self.abstract, node.args))
        return node.func(self.symbol(node.func(*resting)), *(self.abstract(part) for part in node.args if part not in resting))

    def _abstract_power(self, base: Expression, exponent: Expression) -> Expression:
        import sympy

        is_whole, is_root = exponent.is_Integer and exponent > 0, exponent.is_Rational and exponent.q <= LARGEST_ROOT
        if isinstance(base, sympy.exp) and is_root:
            return sympy.exp(self.abstract(base.args[0]) * exponent)
        if is_root and (base.is_Symbol or is_whole or not self._rests(base)):
            return self.abstract(base) ** exponent
        if base.is_Rational and base > 0 and exponent.free_symbols:
            return sympy.exp(self.symbol(sympy.log(base)) * self.abstract(exponent))
        if self._rests(base**exponent):
            return self.symbol(base**exponent)
        raise Inexpressible(f"{base**exponent} is neither polynomial nor exponential")

    def _sum_of_branches(self, node: Expression) -> Expression:
        import sympy

        total, remaining = sympy.Integer(0), sympy.Integer(1)
        for branch, condition in node.args:
            if not self._rests(condition):
                raise Inexpressible(f"the condition {condition} depends on the state")
            holds = sympy.Integer(1) if condition == sympy.true else self.symbol(condition)
            total, remaining = total + remaining * holds * self.abstract(branch), remaining * (1 - holds)
        return total

    def restored(self, expression: Expression) -> Expression:
        """The expression in the symbols it came from; an indicator becomes a selection again, 2**x a power."""
        import sympy

        for condition, indicator in self.symbols.items():
            if isinstance(condition, sympy.logic.boolalg.Boolean) and expression.has(indicator):
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


class Normal:
    """A field of fractions that holds given expressions: polynomials in symbols and exponentials, over the rationals.

    Its generators are roots of symbols (and of what else stands alone), exponentials of monomials, and exp(i·monomial) for
    sines and cosines. Two expressions are equal when their elements are.
    """

    def __init__(self, expressions: Sequence[Expression], leading: Sequence[Symbol] = ()):
        """`leading` symbols come first where a factor's sign is free: x - d, not d - x."""
        import sympy
        from sympy.polys.fields import FracField

        symbols = set().union(*(e.free_symbols for e in expressions))
        places = {symbol: place for place, symbol in enumerate(leading)}
        self.roots: dict[tuple[str, Expression], int] = {}
        for symbol in sorted(symbols, key=lambda s: (places.get(s, len(places)), s.name, s.sort_key())):
            self.roots["power", symbol] = 1
        for expression in expressions:
            for kind, of, exponent in _leaves(expression):
                self.roots[kind, of] = lcm(self.roots.get((kind, of), 1), exponent.q)
        self.is_complex = any(kind == "turn" for kind, _ in self.roots)
        self.names = [
            of if kind == "power" and of.is_Symbol and root == 1 else sympy.Dummy() for (kind, of), root in self.roots.items()
        ]
        self.field = FracField(self.names or [sympy.Dummy()], sympy.QQ_I if self.is_complex else sympy.QQ, sympy.lex)
        self.generators = dict(zip(self.roots, self.field.gens, strict=False))

    def element(self, node: Expression) -> Element:
        import sympy

        if node.is_Rational:
            return self.field.ground_new(self.field.domain.from_sympy(node))
        if node.is_Add:
            return sum(map(self.element, node.args), self.field.zero)
        if node.is_Mul or (node.is_Pow and node.exp.is_Integer):
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
            for ((kind, of), root), name, power in zip(self.roots.items(), self.names, powers, strict=False):
                parts[kind] = parts[kind] * name**power if kind == "power" else parts[kind] + of * sympy.Rational(power, root)
            split = (coefficient.x, coefficient.y) if self.is_complex else (coefficient, 0)
            group = groups[parts["exp"], parts["turn"]]
            group[:] = [
                g + sympy.Rational(c.numerator, c.denominator) * parts["power"] for g, c in zip(group, split, strict=True)
            ]
        total = sympy.Integer(0)
        for (argument, angle), (real, imaginary) in groups.items():
            wave = self._factored(real) * sympy.cos(angle) - self._factored(imaginary) * sympy.sin(angle)
            total += wave * sympy.exp(sympy.factor_terms(argument))
        return total

    def _factored(self, polynomial: Expression) -> Expression:
        import sympy

        symbols = [name for name in self.names if name in polynomial.free_symbols]
        meanings = {
            name: of ** sympy.Rational(1, root)
            for name, ((_, of), root) in zip(self.names, self.roots.items(), strict=True)
            if name is not of and name in symbols
        }
        factored = sympy.factor(polynomial, *symbols) if symbols else polynomial
        return factored.xreplace(meanings) if meanings else factored

    def coordinates(self, element: Element, atoms: Atoms) -> dict[tuple[int, ...], Element]:
        """The coefficients, which no x enters, of the monomials in x. Refuses where x and the state do not separate."""
        has_x = []
        for (_, of), _ in self.roots.items():
            has_x.append(bool(of.free_symbols & atoms.varying))
            if has_x[-1] and of.free_symbols & atoms.moving:
                raise Inexpressible(f"{of} does not separate the axis from the state")
        has_x += [False] * (self.field.ngens - len(has_x))
        below = _grouped(element.denom, has_x)
        if len(below) > 1:
            raise Inexpressible("a denominator does not separate the axis from the state")
        [(shift, divisor)] = below.items()
        return {
            tuple(n - m for n, m in zip(powers, shift, strict=True)): self.field(part) / self.field(divisor)
            for powers, part in _grouped(element.numer, has_x).items()
        }

    def poles(self, element: Element) -> list[Expression]:
        """What a denominator is made of, but for exponentials standing as factors, which are never 0."""
        terms = [powers for powers, _ in element.denom.terms()]
        return [
            of
            for (kind, of), powers in zip(self.roots, zip(*terms, strict=True), strict=False)
            if any(powers) and (kind == "power" or len(set(powers)) > 1)
        ]


def is_zero(expression: Expression) -> bool:
    """Whether the expression is shown to be 0, by its normal form."""
    return not Normal([expression]).element(expression)


def _grouped(polynomial: Any, chosen: Sequence[bool]) -> dict[tuple[int, ...], Any]:
    """The polynomial by its monomials in the chosen generators: their exponents, and what they are multiplied with."""
    groups: dict[tuple[int, ...], dict[tuple[int, ...], Any]] = defaultdict(dict)
    for powers, coefficient in polynomial.terms():
        inside, outside = (tuple(n if c == side else 0 for n, c in zip(powers, chosen, strict=True)) for side in (True, False))
        groups[inside][outside] = coefficient
    return {powers: polynomial.ring.from_dict(terms) for powers, terms in groups.items()}


def _leaves(node: Expression) -> Iterator[tuple[str, Expression, Expression]]:
    """The generators an expression needs: how each is meant, of what, and the exponent it stands with."""
    import sympy

    if node.is_Rational:
        return
    if node.is_Add or node.is_Mul:
        for part in node.args:
            yield from _leaves(part)
    elif node.is_Pow and node.exp.is_Integer:
        yield from _leaves(node.base)
    elif node.is_Pow and node.exp.is_Rational and node.exp.q <= LARGEST_ROOT:
        yield "power", node.base, node.exp
    elif isinstance(node, sympy.exp | sympy.sin | sympy.cos):
        for term in sympy.Add.make_args(sympy.expand(node.args[0])):
            exponent, monomial = term.as_coeff_Mul()
            if max(abs(exponent.p), exponent.q) > LARGEST_NUMBER:
                exponent, monomial = sympy.sign(exponent), monomial * abs(exponent)
            yield "exp" if isinstance(node, sympy.exp) else "turn", monomial, exponent
    else:
        yield "power", node, sympy.Integer(1)
