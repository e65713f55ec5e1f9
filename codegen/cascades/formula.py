"""SymPy formulas as Triton text and as JSON trees: what the emitter prints and what the disk cache keeps.

A function's Triton spelling is its row's. Trees are rebuilt node by node from a fixed list of names; no text is evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from math import isfinite
from typing import Any

from gradc import types
from gradc.codegen.printing.scope import ATOM, BINDING
from gradc.ops import TABLE

Expression = Any  # a SymPy expression
Symbol = Any  # a SymPy symbol
Tree = list[Any]
Printed = tuple[str, int]  # a text, and how tightly it binds (`scope.py`)

ROWS = {"Abs": "abs", "Max": "maximum", "Min": "minimum", "ceiling": "ceil", "StrictGreaterThan": "greater", "StrictLessThan": "less",
        "GreaterThan": "greater_equal", "LessThan": "less_equal", "Equality": "equal", "Unequality": "not_equal",
        "And": "logical_and", "Or": "logical_or", "Xor": "logical_xor", "Not": "logical_not"}  # fmt: skip
LEAVES = ("Infinity", "NegativeInfinity", "Exp1", "Pi", "BooleanTrue", "BooleanFalse")
FUNCTIONS = frozenset({"exp", "log", "sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh",
                       "erf", "erfc", "floor", "sign", "Heaviside", "Piecewise", "ExprCondPair", "Add", "Mul", "Pow", *ROWS})  # fmt: skip
SUM, PRODUCT = BINDING["+"], BINDING["*"]
ENCLOSED = re.compile(r"[\w.]+\((?:.*[ (])?\{x\}[,)].*")  # a template that is a call with operands between its commas


def to_triton(expression: Expression, names: Mapping[Symbol, str]) -> str:
    """Triton text of a formula over float tensors. `names` are identifiers, calls or subscripts, one for each symbol.

    Raises KeyError for a symbol without a name and for a function without a row.
    """
    return _Triton(names).printed(expression)[0]


def to_text(*factors: Expression, names: Mapping[Symbol, str] | None = None) -> str:
    """A product of formulas, left as it is, as people write it: exp(m - m')·v². Symbols without another name keep theirs."""
    printer, shown = _Text(names or {}), [f for f in factors if f != 1] or [factors[0]]
    if len(shown) == 1:
        return printer.printed(shown[0])[0]
    signs, texts, _ = zip(
        *((False, printer.operand(f, PRODUCT), 0) if f.is_Add else printer.signed(f) for f in shown), strict=True
    )
    return "-" * (sum(signs) % 2) + "·".join(texts)


class _Triton:
    """Prints formulas; every method gives a text and how tightly it binds."""

    times = " * "
    over = " / "

    def __init__(self, names: Mapping[Symbol, str]):
        self.names = names

    def printed(self, node: Expression) -> Printed:
        import sympy

        if node.is_Symbol:
            return self.symbol(node), ATOM
        if node.is_Add:
            share, rest = _shared(node)
            if share != 1:
                return f"{self.printed(share)[0]}{self.times}{self.operand(rest)}", PRODUCT
            return self._sum(node), SUM
        if node.is_Mul or (node.is_Rational and node < 0):
            negative, text, binding = self.signed(node)
            return (f"-{text}", SUM) if negative else (text, binding)
        if node.is_Number or node.is_NumberSymbol:
            return self.number(node)
        if node.is_Pow:
            return self.power(node.base, node.exp)
        if isinstance(node, sympy.Piecewise):
            return self._selection(list(node.args)), ATOM
        return self.call(ROWS.get(type(node).__name__, type(node).__name__), node.args)

    def operand(self, node: Expression, binding: int = ATOM) -> str:
        text, bound = self.printed(node)
        return text if bound >= binding else f"({text})"

    def symbol(self, node: Symbol) -> str:
        return self.names[node]

    def number(self, node: Expression) -> Printed:
        value = float(node)
        return (repr(value) if isfinite(value) else f'float("{value}")'), ATOM

    def _sum(self, node: Expression) -> str:
        """Positive terms first: a - b rather than -b + a."""
        terms = sorted(map(self.signed, node.as_ordered_terms()), key=lambda term: term[0])
        first = f"-{terms[0][1]}" if terms[0][0] else terms[0][1]
        return first + "".join(f" {'-' if negative else '+'} {text}" for negative, text, _ in terms[1:])

    def signed(self, node: Expression) -> tuple[bool, str, int]:
        """Whether a term is negative, and the text of its magnitude, fit to stand after a minus; -2(a - b) is 2(b - a)."""
        coefficient, _ = node.as_coeff_mul()
        factors = [f for f in node.as_ordered_factors() if not f.is_Rational]
        for i, (share, rest) in enumerate(map(_shared, factors)):
            coefficient, factors[i] = coefficient * share, rest
        negative = bool(coefficient < 0)
        turned = next((i for i, f in enumerate(factors) if f.is_Add and negative and _is_difference(f)), None)
        if turned is not None:
            negative, factors[turned] = False, -factors[turned]
        below = [f for f in factors if f.is_Pow and f.exp.is_Rational and f.exp < 0]
        above = [f for f in factors if f not in below]
        if abs(coefficient) != 1 or not above:
            above.insert(0, abs(coefficient))
        if len(above) == 1 and not below:
            text, binding = self.printed(above[0])
            return negative, text if binding >= PRODUCT or not negative else f"({text})", binding
        text = self.times.join(self.operand(f, PRODUCT) for f in above)
        return negative, self.over.join([text, *(self.operand(1 / f) for f in below)]), PRODUCT

    def power(self, base: Expression, exponent: Expression) -> Printed:
        """A power with a whole or half exponent by products and roots, which are exact or nearly so."""
        if base == 2 and not exponent.is_Rational:
            return self.call("exp2", (exponent,))
        if not exponent.is_Rational or exponent.q > 2:
            return self.call("pow", (base, exponent))
        if exponent < 0:
            return f"1.0 / {self.operand(base**-exponent)}", PRODUCT
        factors = [self.operand(base)] * (exponent.p // exponent.q)
        if exponent.q == 2:
            factors.append(self.call("sqrt", (base,))[0])
        return self.times.join(factors), PRODUCT if len(factors) > 1 else ATOM

    def call(self, name: str, operands: Sequence[Expression]) -> Printed:
        """A function in its row's spelling; infix spellings (comparisons, logic) stand in parentheses."""
        row = TABLE[name]
        is_call = ENCLOSED.fullmatch(row.triton) is not None
        texts = [self.operand(x, 0 if is_call else ATOM) for x in operands]

        def spelled(*parts: str) -> str:
            text = row.spell(types.float32, *parts)
            return text if is_call else f"({text})"

        return (reduce(spelled, texts) if row.arity == 2 else spelled(*texts)), ATOM

    def _selection(self, branches: Sequence[tuple[Expression, Expression]]) -> str:
        (value, condition), *others = branches
        if not others:
            return self.printed(value)[0]
        return self.select(self.printed(condition)[0], self.printed(value)[0], self._selection(others))

    def select(self, condition: str, value: str, other: str) -> str:
        return TABLE["where"].spell(types.float32, condition, value, other)


class _Text(_Triton):
    """The same for readers."""

    times = "·"
    over = "/"

    def symbol(self, node: Symbol) -> str:
        return self.names.get(node, node.name)

    def number(self, node: Expression) -> Printed:
        if node.is_Rational and node.q > 1000:
            return repr(float(node)), ATOM
        return str(node), ATOM if node.is_Integer else PRODUCT

    def power(self, base: Expression, exponent: Expression) -> Printed:
        if exponent.is_Rational and exponent < 0:
            return f"1/{self.operand(base**-exponent)}", PRODUCT
        if exponent.is_Rational and exponent.q == 2 and exponent.p == 1:
            return f"√{self.operand(base)}", ATOM
        sign = {2: "²", 3: "³"}.get(exponent)
        return f"{self.operand(base)}{sign or f'^{self.operand(exponent)}'}", PRODUCT + 1

    def call(self, name: str, operands: Sequence[Expression]) -> Printed:
        texts = [self.printed(x)[0] for x in operands]
        infix = TABLE[name].triton.removeprefix("{x} ").removesuffix(" {y}") if name in TABLE else ""
        if infix in BINDING:
            return f" {infix} ".join(texts), BINDING["=="]
        return f"{name}({', '.join(texts)})", ATOM

    def select(self, condition: str, value: str, other: str) -> str:
        return f"where({condition}, {value}, {other})"


def _shared(node: Expression) -> tuple[Expression, Expression]:
    """A number that all terms of a sum share up to their signs, and the rest: 0.3·x - 0.3·d is 0.3·(x - d)."""
    import sympy

    share, rest = node.primitive() if node.is_Add else (sympy.Integer(1), node)
    is_plain = rest.is_Add and all(abs(term.as_coeff_Mul()[0]) == 1 for term in rest.args)
    return (share, rest) if is_plain else (sympy.Integer(1), node)


def _is_difference(node: Expression) -> bool:
    signs = {term.could_extract_minus_sign() for term in node.args}
    return len(signs) == 2


def to_tree(expression: Expression) -> Tree:
    """A formula as nested lists that JSON can hold; symbols keep their name and whether they are real or positive."""
    if expression.is_Symbol:
        return ["symbol", expression.name, "positive" if expression.is_positive else "real" if expression.is_real else ""]
    if expression.is_Rational:
        return ["rational", str(expression.p), str(expression.q)]
    return [type(expression).__name__, *map(to_tree, expression.args)]


def from_tree(tree: Tree, symbols: Iterable[Symbol] = ()) -> Expression:
    """The formula of a tree, in the given symbols where names agree. Raises ValueError for what `to_tree` never writes."""
    return _rebuilt(tree, {symbol.name: symbol for symbol in symbols})


def _rebuilt(tree: Tree, symbols: Mapping[str, Symbol]) -> Expression:
    import sympy

    kind, *parts = tree
    if kind == "symbol":
        name, known = parts
        return symbols.get(name) or sympy.Symbol(str(name), positive=known == "positive" or None, real=known == "real" or None)
    if kind == "rational":
        return sympy.Rational(int(parts[0]), int(parts[1]))
    if kind in LEAVES and not parts:
        return getattr(sympy.S, kind)
    if kind not in FUNCTIONS:
        raise ValueError(f"a formula has no {kind!r}")
    arguments = [_rebuilt(part, symbols) for part in parts]
    if kind == "ExprCondPair":
        return sympy.functions.elementary.piecewise.ExprCondPair(*arguments)
    return getattr(sympy, kind)(*arguments, evaluate=False)
