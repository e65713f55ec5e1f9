"""SymPy formulas as Triton text and as JSON trees: what the emitter prints and what the disk cache keeps.

A function's Triton spelling is its row's. Trees are rebuilt node by node from a fixed list of names; no text is evaluated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import Any

from gradc import types
from gradc.ops import TABLE

Expression = Any  # a SymPy expression
Symbol = Any  # a SymPy symbol
Tree = list[Any]

ROWS = {"Abs": "abs", "Max": "maximum", "Min": "minimum", "ceiling": "ceil", "StrictGreaterThan": "greater", "StrictLessThan": "less",
        "GreaterThan": "greater_equal", "LessThan": "less_equal", "Equality": "equal", "Unequality": "not_equal",
        "And": "logical_and", "Or": "logical_or", "Xor": "logical_xor", "Not": "logical_not"}  # fmt: skip
LEAVES = ("Infinity", "NegativeInfinity", "Exp1", "Pi", "BooleanTrue", "BooleanFalse")
FUNCTIONS = frozenset({"exp", "log", "sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh",
                       "erf", "erfc", "floor", "sign", "Heaviside", "Piecewise", "ExprCondPair", "Add", "Mul", "Pow", *ROWS})  # fmt: skip
SUM, PRODUCT, ATOM = 6, 7, 10  # how tightly text binds, as in `scope.py`


def to_triton(expression: Expression, names: Mapping[Symbol, str]) -> str:
    """Triton text of a formula over float tensors. `names` are identifiers, calls or subscripts, one for each symbol.

    Raises KeyError for a symbol or a function without a spelling.
    """
    return _printed(expression, names)[0]


def _printed(node: Expression, names: Mapping[Symbol, str]) -> tuple[str, int]:
    """The text and how tightly it binds."""
    import sympy

    if node.is_Symbol:
        return names[node], ATOM
    if node.is_Rational:
        return repr(float(node)), ATOM if node >= 0 else SUM
    if node in (sympy.oo, -sympy.oo):
        return f'float("{"-" * (node < 0)}inf")', ATOM
    if node.is_Number or node.is_NumberSymbol:
        return repr(float(node)), ATOM
    if node.is_Add:
        return _printed_sum(node, names), SUM
    if node.is_Mul:
        return _printed_product(node, names)
    if node.is_Pow:
        return _printed_power(node.base, node.exp, names)
    if isinstance(node, sympy.Piecewise):
        return _printed_selection(list(node.args), names), ATOM
    return _called(ROWS.get(type(node).__name__, type(node).__name__), names, node.args), ATOM


def _called(name: str, names: Mapping[Symbol, str], operands: Sequence[Expression]) -> str:
    """A function in its row's spelling; infix spellings (comparisons, logic) in parentheses."""
    row, texts = TABLE[name], [_operand(x, names, ATOM) for x in operands]

    def spelled(*parts: str) -> str:
        text = row.spell(types.float32, *parts)
        return text if text.startswith(("tl.", "libdevice.")) else f"({text})"

    return reduce(spelled, texts) if row.arity == 2 else spelled(*texts)


def _operand(node: Expression, names: Mapping[Symbol, str], binding: int) -> str:
    text, bound = _printed(node, names)
    return text if bound >= binding else f"({text})"


def _printed_sum(node: Expression, names: Mapping[Symbol, str]) -> str:
    """Positive terms first: a - b rather than -b + a."""
    terms = sorted(node.as_ordered_terms(), key=lambda term: term.could_extract_minus_sign())
    text = _operand(terms[0], names, SUM)
    for term in terms[1:]:
        negative = term.could_extract_minus_sign()
        text += f" - {_operand(-term, names, PRODUCT)}" if negative else f" + {_operand(term, names, SUM)}"
    return text


def _printed_product(node: Expression, names: Mapping[Symbol, str]) -> tuple[str, int]:
    """Factors of negative exponent below the line; -1 as a sign."""
    if node.could_extract_minus_sign() and node.as_coeff_Mul()[0] == -1:
        return f"-{_operand(-node, names, PRODUCT)}", SUM
    factors = node.as_ordered_factors()
    below = [f for f in factors if f.is_Pow and f.exp.is_Rational and f.exp < 0]
    above = [_operand(f, names, PRODUCT) for f in factors if f not in below]
    text = " * ".join(above) or "1.0"
    return " / ".join([text, *(_operand(1 / f, names, ATOM) for f in below)]), PRODUCT


def _printed_power(base: Expression, exponent: Expression, names: Mapping[Symbol, str]) -> tuple[str, int]:
    import sympy

    if base == 2 and not exponent.is_Rational:
        return _called("exp2", names, [exponent]), ATOM
    if exponent == -sympy.S.Half:
        return _called("rsqrt", names, [base]), ATOM
    if not (exponent.is_Rational and exponent.q <= 2):
        return _called("pow", names, [base, exponent]), ATOM
    if exponent < 0:
        return f"1.0 / {_operand(base**-exponent, names, ATOM)}", PRODUCT
    factors = [_operand(base, names, ATOM)] * (exponent.p // exponent.q)
    if exponent.q == 2:
        factors.append(_called("sqrt", names, [base]))
    return " * ".join(factors), PRODUCT if len(factors) > 1 else ATOM


def _printed_selection(branches: list[tuple[Expression, Expression]], names: Mapping[Symbol, str]) -> str:
    import sympy

    (value, condition), *others = branches
    if condition == sympy.true or not others:
        return _operand(value, names, ATOM)
    texts = _operand(condition, names, ATOM), _printed(value, names)[0]
    return TABLE["where"].spell(types.float32, *texts, _printed_selection(others, names))


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
        return symbols.get(name) or sympy.Symbol(name, **({known: True} if known else {}))
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
