"""SymPy proofs that derivatives are right: of a row of the table, of a structural rule, of a whole function's gradient.

A proof shows that gradc's derivative minus SymPy's derivative of the meaning is exactly 0 on smooth pieces, after looking
for a counterexample in 40-digit arithmetic. Nothing here runs on the path of an ordinary call, and no text is evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import optree

from gradc import types
from gradc.autodiff import jvp_graph, vjp_graph
from gradc.errors import UnsupportedError, VerificationError
from gradc.interpret import evaluate_symbolic
from gradc.ir import Graph, Value, apply
from gradc.leaves import make_input
from gradc.pieces import DIGITS, Expression, Point, generic_points, number, resolved, slope, smooth_pieces, vanishes, witnesses
from gradc.table import BITS, INTEGER, Elementwise, as_exact
from gradc.trace import tracing_scope
from gradc.types import Spec

Fixed = dict[Value, np.ndarray]
LARGEST = 48  # elements of the arguments and results in one proof; beyond, expressions outgrow SymPy


@dataclass(frozen=True)
class Proof:
    """What was shown: `claims` are sentences, `pieces` the number of smooth pieces they were shown on."""

    subject: str
    claims: tuple[str, ...]
    pieces: int

    def __str__(self) -> str:
        header = f"{self.subject}: proved on {self.pieces} smooth piece{'s' * (self.pieces != 1)}"
        return "\n".join([header, *(f"  {claim}" for claim in self.claims)])


def prove_row(row: Elementwise) -> Proof:
    """Proves each partial on every smooth piece of the row's domain, at witness points, and the convention at kinks.

    Raises VerificationError with a counterexample, or saying that no proof was found.
    """
    if row.gives == "bool" or row.takes in (INTEGER, BITS):
        if any(partial is not None for partial in row.partials):
            raise VerificationError(f"{row.name} gives no floating-point numbers, so it has no partial")
        return Proof(row.name, ("its result is discrete: no derivative",), 0)
    pieces = smooth_pieces(row.domain, row.arity)
    for operands, position in product(pieces, range(row.arity)):
        if not getattr(operands[position], "is_Boolean", False):
            _prove_partial(row, position, operands)
    for operands, slopes in row.kinks:
        _check_kink(row, operands, slopes)
    claims = (
        f"∂{row.name}/∂{'xyz'[i]} {'vanishes' if partial is None else 'is exact'}" for i, partial in enumerate(row.partials)
    )
    return Proof(row.name, (*claims, *(f"at {at} by convention {slopes}" for at, slopes in row.kinks)), len(pieces))


def _prove_partial(row: Elementwise, position: int, operands: tuple[Expression, ...]) -> None:
    import sympy

    variable = sympy.Dummy("t", real=True)
    meaning = row.symbolic(sympy, *operands[:position], variable, *operands[position + 1 :])
    subject = f"the partial of {row.name} with respect to {'xyz'[position]}"
    claimed = _partial(row, position, operands)
    for point in witnesses(set().union(*(x.free_symbols for x in operands))):
        at = operands[position].xreplace(point)
        _require_close(subject, point, number(claimed, point), _difference_quotient(meaning.xreplace(point), variable, at))
    _require_zero(subject, claimed - slope(meaning, variable).xreplace({variable: operands[position]}))


def _partial(row: Elementwise, position: int, operands: Sequence[Expression]) -> Expression:
    partial = row.partials[position]
    return as_exact(0 if partial is None else partial(*operands, row(*operands)))


def _difference_quotient(meaning: Expression, variable: Expression, at: Expression) -> Expression:
    """The derivative without SymPy's differentiation: a central difference of step 10⁻²⁰ in 80 digits."""
    import sympy

    step = sympy.Rational(1, 10**20)
    ahead, behind = (meaning.xreplace({variable: at + move}).evalf(2 * DIGITS) for move in (step, -step))
    return (ahead - behind) / (2 * step)


def _check_kink(row: Elementwise, operands: tuple[float, ...], slopes: tuple[float, ...]) -> None:
    exact = [as_exact(x) for x in operands]
    found = tuple(_partial(row, position, exact) for position in range(row.arity))
    if any(as_exact(slope) != partial for slope, partial in zip(slopes, found, strict=True)):
        raise VerificationError(f"{row.name} at {operands}: the partials are {found}, the convention says {slopes}")


def prove_structure(operation: Any, operands: Sequence[tuple[int, ...] | np.ndarray]) -> Proof:
    """Proves a structural operation's forward and reverse rules against the Jacobian of its meaning.

    `operands` are shapes, filled with symbols, or integer arrays (indices). Raises VerificationError.
    """
    inputs = [_fixed_input(x) if isinstance(x, np.ndarray) else make_input(tuple(x), types.float64) for x in operands]
    fixed = {value: given for value, given in zip(inputs, operands, strict=True) if isinstance(given, np.ndarray)}
    value = apply(operation, *inputs)
    if not value.dtype.is_floating:
        return Proof(value.operation.name, ("its result is discrete: no derivative",), 0)
    return _prove_rules(value.operation.name, (value,), [x for x in inputs if x not in fixed], fixed, forward=True)


def prove(function: Callable[..., Any], *specs: Any) -> Proof:
    """Proves the gradient of a function at small shapes: every component equals SymPy's derivative of the function.

    `specs` are its arguments: `gradc.spec` for floating-point arrays (with the results, 48 elements at most), integer arrays
    as they are, anything else static. Raises VerificationError with the counterexample, UnsupportedError for larger shapes.
    """
    wrt: list[Value] = []
    fixed: Fixed = {}
    arguments = optree.tree_map(lambda spec: _argument(spec, wrt, fixed), specs, none_is_leaf=True)
    with tracing_scope():
        results = optree.tree_leaves(function(*arguments))
    outputs = tuple(x for x in results if isinstance(x, Value) and x.dtype.is_floating)
    return _prove_rules(f"the gradient of {getattr(function, '__name__', 'the function')}", outputs, wrt, fixed, forward=False)


def _argument(spec: Any, wrt: list[Value], fixed: Fixed) -> Any:
    if isinstance(spec, Spec):
        if not spec.dtype.is_floating:
            raise UnsupportedError(
                "a proof needs the numbers of an integer argument", advice="Pass the array instead of its spec."
            )
        wrt.append(make_input(spec.shape, spec.dtype))
        return wrt[-1]
    if isinstance(spec, np.ndarray):
        value = _fixed_input(spec)
        fixed[value] = spec
        return value
    return spec


def _fixed_input(array: np.ndarray) -> Value:
    return make_input(array.shape, types.as_dtype(array.dtype))


def _prove_rules(subject: str, outputs: tuple[Value, ...], wrt: Sequence[Value], fixed: Fixed, *, forward: bool) -> Proof:
    """On every piece met, c·(J·t) with J·t by SymPy from the meaning equals (c·J)·t by gradc's reverse rules, as forms in c and t.

    With `forward`, so does c·(J·t) by gradc's forward rules.
    """
    import sympy

    x, t, c = (_symbols(*named) for named in (("x", wrt), ("t", wrt), ("c", outputs)))
    if sum(array.size for array in (*x, *c)) > LARGEST:
        raise UnsupportedError(f"{subject} has more than {LARGEST} elements", advice="Prove it at smaller shapes.")
    step = sympy.Dummy("e", real=True)
    moved = [a + step * b for a, b in zip(x, t, strict=True)]
    meaning = evaluate_symbolic(Graph((*wrt, *fixed), outputs), [*moved, *fixed.values()])
    rules = {"reverse": _inner(_pulled_back(outputs, wrt, fixed, x, c), t)}
    if forward:
        rules["forward"] = _inner(_pushed_forward(outputs, wrt, fixed, x, t), c)
    met: dict[Expression, None] = {}
    for point in generic_points(
        set().union(*(array.item(i).free_symbols for array in (*x, *t, *c) for i in range(array.size)))
    ):
        here = {**point, step: sympy.Integer(0)}
        piece = resolved(_inner(meaning, c), here)
        if piece in met or not number(piece, here).is_real:
            continue
        met[piece] = None
        true = piece.diff(step).xreplace({step: sympy.Integer(0)})
        for mode, form in rules.items():
            _prove_form(f"{subject} ({mode} mode)", resolved(form, here), true, t, point)
    if not met:
        raise UnsupportedError(f"{subject}: the function is real at none of the points tried")
    return Proof(subject, tuple(f"{mode} mode is exact" for mode in rules), len(met))


def _symbols(letter: str, values: Sequence[Value]) -> list[np.ndarray]:
    """An array of distinct real symbols for each Value."""
    import sympy

    named = (
        [sympy.Symbol(f"{letter}{number}_{'_'.join(map(str, place))}", real=True) for place in np.ndindex(value.shape)]
        for number, value in enumerate(values)
    )
    return [np.array([*symbols, None], object)[:-1].reshape(value.shape) for symbols, value in zip(named, values, strict=True)]


def _pulled_back(outputs: Sequence[Value], wrt: Sequence[Value], fixed: Fixed, x: list, c: list) -> Sequence[np.ndarray]:
    """gradc's reverse mode: the cotangents of `wrt`, as expressions of x and c."""
    cotangents = [make_input(value.shape, value.dtype) for value in outputs]
    results = vjp_graph(outputs, wrt, cotangents)
    return evaluate_symbolic(Graph((*wrt, *fixed, *cotangents), tuple(results)), [*x, *fixed.values(), *c])


def _pushed_forward(outputs: Sequence[Value], wrt: Sequence[Value], fixed: Fixed, x: list, t: list) -> Sequence[np.ndarray]:
    """gradc's forward mode: the tangents of `outputs`, as expressions of x and t."""
    tangents = [make_input(value.shape, value.dtype) for value in wrt]
    results = jvp_graph(outputs, wrt, tangents)
    present = tuple(result for result in results if result is not None)
    arrays = iter(evaluate_symbolic(Graph((*wrt, *fixed, *tangents), present), [*x, *fixed.values(), *t]))
    return [
        np.zeros(output.shape, object) if result is None else next(arrays)
        for output, result in zip(outputs, results, strict=True)
    ]


def _inner(left: Iterable[np.ndarray], right: Iterable[np.ndarray]) -> Expression:
    """The sum of the products of corresponding elements."""
    import sympy

    return sympy.Add(*(a * b for u, v in zip(left, right, strict=True) for a, b in zip(u.ravel(), v.ravel(), strict=True)))


def _prove_form(subject: str, form: Expression, true: Expression, t: list[np.ndarray], point: Point) -> None:
    """Shows that two forms linear in `t` are equal, one coefficient at a time."""
    for symbol in (symbol for array in t for symbol in array.ravel()):
        component = f"{subject}, component {str(symbol).removeprefix('t')}"
        _require_close(component, point, number(form.diff(symbol), point), number(true.diff(symbol), point))
        _require_zero(component, (form - true).diff(symbol))


def _require_close(subject: str, point: Point, claimed: Expression, true: Expression) -> None:
    gap = abs(claimed - true)
    if not gap.is_finite or gap > 1e-18 * (1 + abs(claimed) + abs(true)):
        at = ", ".join(f"{symbol} = {value}" for symbol, value in point.items())
        raise VerificationError(f"{subject} is wrong at {at}: it is {claimed.n(12)}, the derivative is {true.n(12)}")


def _require_zero(subject: str, difference: Expression) -> None:
    if not vanishes(difference):
        raise VerificationError(f"{subject}: no counterexample and no proof was found; what is left is {str(difference)[:400]}")
