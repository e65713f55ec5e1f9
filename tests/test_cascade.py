"""Cascades: the probed table, exact proofs, quick refusals, and running sums repaired tile by tile."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import mpmath
import numpy as np
import pytest
import sympy
from sympy import exp, log, sin, sqrt, tanh

from gradc.codegen.cascades import cascade
from gradc.codegen.cascades.cascade import Cascade, Refusal, derive, from_json, question, to_json, to_triton, unproved
from gradc.codegen.cascades.formula import from_tree, to_text, to_tree
from gradc.codegen.cascades.normal_form import Inexpressible, is_zero
from gradc.ops import TABLE
from tests.work import calls_of

x, y, v, w, p, d, m, D, mu, nu, l, r, c, s = sympy.symbols("x y v w p d m D mu nu l r c s")
SWITCH = sympy.Piecewise((exp(x - d), y > 0), (0, True))

# body: (varying, states, constants, rank)
FOUND = {
    exp(x - d): ([x], [d], [], 1),
    exp(x - d) * v: ([x, v], [d], [], 1),
    x * v / sqrt(d): ([x, v], [d], [], 1),
    exp(c * tanh(x / c) - d): ([x], [d], [c], 1),
    (x - d) * exp(x - d): ([x], [d], [], 2),
    p * (y - D) * w: ([p, y, w], [D], [], 2),
    (x - d) ** 2: ([x], [d], [], 3),
    (x - d) ** 3: ([x], [d], [], 4),
    sin(x - d): ([x], [d], [], 2),
    # further: two states, constants, floats, selections, roots, what no state enters
    exp(x - m) * v / l: ([x, v], [m, l], [], 1), (x - mu) * (y - nu): ([x, y], [mu, nu], [], 4),
    (x - mu) / sqrt(r + c): ([x], [mu, r], [c], 2), exp(x - m) / l * (y - D) * s: ([x, y], [m, l, D], [s], 2),
    (x - mu) * r + v: ([x, v], [mu, r], [], 3), 2 ** (x - d): ([x], [d], [], 1), exp(s * x - s * d): ([x], [d], [s], 1),
    exp((x - d) / c): ([x], [d], [c], 1), exp(sympy.Float(0.3) * (x - d)) * v: ([x, v], [d], [], 1),
    SWITCH: ([x, y], [d], [], 1), exp(sympy.Piecewise((x * s, y > 0), (-sympy.oo, True)) - d): ([x, y], [d], [s], 1),
    (exp(x - d) - v) ** 2: ([x, v], [d], [], 3), (x - d) ** 2 * exp(x - d): ([x], [d], [], 3),
    sympy.cosh(x - d): ([x], [d], [], 2), exp(x - d) * sympy.cos(x - d): ([x], [d], [], 2),
    (x - log(d)) ** 2: ([x], [d], [], 3), (x - sqrt(d)) ** 2: ([x], [d], [], 3), (x - d) / (1 + x): ([x], [d], [], 2),
    (sympy.Max(x, 0) - d) ** 2: ([x], [d], [], 3), ((x + y * v) ** 3 - m) ** 3 * (1 + x + y): ([x, y, v], [m], [], 4),
    x * y: ([x, y], [d], [], 1), exp(-d) * x: ([x], [d], [], 1),
    sympy.Piecewise(((x - d) ** 2, y > 0), (v * d, True)): ([x, y, v], [d], [], 3),
}  # fmt: skip
REFUSED = {
    1 / (1 + exp(d - x)): "rank",
    exp(-((x - d) ** 2)): "rank",
    log(1 + x * d): "rank",
    sympy.Max(x - d, 0): "Max",
    sympy.Piecewise((x - d, x > d), (0, True)): "condition",
    sympy.erf(x - d): "rank",
    sympy.Abs(x - d): "neither polynomial nor exponential",
    (x - d) ** 4: "rank over 8 samples is 5",
    exp(x * d): "rank",
    x / (x + d): "rank",
    x**d: "neither polynomial nor exponential",
    sqrt(x * d): "separate",
    (x * d**2 + d * y) * (1 + exp(-d) * v): "pole",
    sympy.Integer(0): "zero",
    sympy.zoo: "no exact number",
    exp(exp(exp(exp(x) - d))): "neither polynomial nor exponential",
}  # fmt: skip
CASES = pytest.mark.parametrize("body", FOUND, ids=str)


def found(body):
    varying, states, constants, _ = FOUND[body]
    result = derive(body, varying, states, constants)
    assert isinstance(result, Cascade), result
    return result


@CASES
def test_rank(body):
    result = found(body)
    assert result.rank == FOUND[body][3] == len(result.basis) == len(result.transport) == len(result.combination)
    assert 1 <= len(result.proof) <= 3
    assert unproved(result) == ""


@CASES
def test_identities_hold_to_50_digits(body):
    result, draw = found(body), np.random.default_rng(5)
    with mpmath.workdps(60):
        for _ in range(3):
            names = sorted(body.free_symbols | set(result.states), key=str)
            point = {name: mpmath.mpf(int(draw.integers(1, 3000))) / 1009 for name in names}
            moved = [{state: mpmath.mpf(int(draw.integers(1, 3000))) / 997 for state in result.states} for _ in range(2)]
            before, after, third = (basis_at(result, {**point, **at}) for at in (*moved, point))
            onward = transport_at(result, moved[0], moved[1], point)
            assert difference(onward * before, after) < 1e-50
            assert (
                difference(transport_at(result, moved[1], point, point) * onward, transport_at(result, moved[0], point, point))
                < 1e-50
            )
            assert difference(transport_at(result, point, point, point), mpmath.eye(result.rank)) < 1e-50
            combined = mpmath.fsum(number(part, point) * b for part, b in zip(result.combination, third, strict=True))
            assert abs(combined - number(body, point)) < 1e-50 * (1 + abs(combined))


def number(expression, point):
    symbols = list(point)
    return mpmath.mpmathify(sympy.lambdify(symbols, expression, "mpmath")(*(point[name] for name in symbols)))


def basis_at(result, point):
    return mpmath.matrix([number(b, point) for b in result.basis])


def transport_at(result, old, new, point):
    states = zip(result.states, result.old, result.new, strict=True)
    at = {**point, **{name: value for state, o, n in states for name, value in ((o, old[state]), (n, new[state]))}}
    return mpmath.matrix([[number(entry, at) for entry in row] for row in result.transport])


def difference(a, b):
    return mpmath.mnorm(a - b, 1) / (1 + mpmath.mnorm(b, 1))


PROOFS = {
    exp(x - d): ("exp(x - d') = exp(d - d')·exp(x - d)   rank 1",),
    exp(x - d) * v: ("v·exp(x - d') = exp(d - d')·v·exp(x - d)   rank 1",),
    x * v / sqrt(d): ("v·x/√d = 1/√d·v·x", "no d in (v·x): nothing to repair   rank 1"),
    exp(c * tanh(x / c) - d): ("exp(c·tanh(x/c) - d') = exp(d - d')·exp(c·tanh(x/c) - d)   rank 1",),
    (x - d) * exp(x - d): (
        "(x - d')·exp(x - d') = exp(d - d')·(x - d)·exp(x - d) + (d - d')·exp(d - d')·exp(x - d)   rank 2",
        "B = ((x - d)·exp(x - d), exp(x - d)): T(d, d) = 1, T(e, f)·T(d, e) = T(d, f)",
    ),
    p * (y - D) * w: (
        "p·w·(y - D') = p·w·(y - D) + (D - D')·p·w   rank 2",
        "B = (p·w·(y - D), p·w): T(d, d) = 1, T(e, f)·T(d, e) = T(d, f)",
    ),
    (x - d) ** 2: (
        "(x - d')² = (x - d)² + 2·(d - d')·(x - d) + (d - d')²   rank 3",
        "B = ((x - d)², x - d, 1): T(d, d) = 1, T(e, f)·T(d, e) = T(d, f)",
    ),
    exp(sympy.Float(0.3) * (x - d)) * v: ("v·exp(0.3·(x - d')) = exp(0.3·(d - d'))·v·exp(0.3·(x - d))   rank 1",),
    2 ** (x - d): ("2^(x - d') = 2^(d - d')·2^(x - d)   rank 1",),
    SWITCH: ("where(y > 0, exp(x - d'), 0) = exp(d - d')·where(y > 0, exp(x - d), 0)   rank 1",),
}


@pytest.mark.parametrize("body", PROOFS, ids=str)
def test_proofs_are_readable(body):
    assert found(body).proof == PROOFS[body]


@pytest.mark.parametrize("body", REFUSED, ids=str)
def test_refusals_take_little_work(body):
    """A search over forms would take a hundred times as much."""
    cascade._remembered.cache_clear()
    assert calls_of(lambda: derive(body, [x, y, v], [d])) < 1_000_000
    result = derive(body, [x, y, v], [d])
    assert isinstance(result, Refusal)
    assert REFUSED[body] in result.reason


def test_simplify_is_never_called(monkeypatch):
    def simplify(*arguments, **options):
        raise AssertionError("simplify was called")

    monkeypatch.setattr(sympy, "simplify", simplify)
    monkeypatch.setattr(sys.modules["sympy.simplify.simplify"], "simplify", simplify)
    cascade._remembered.cache_clear()
    for body, (varying, states, constants, _) in list(FOUND.items())[:9]:
        assert isinstance(derive(body, varying, states, constants), Cascade)


def sabotaged(result, i, j, entry):
    rows = [list(row) for row in result.transport]
    rows[i][j] = entry
    return replace(result, transport=tuple(map(tuple, rows)))


def test_wrong_cascades_are_caught():
    square, softmax, wave = found((x - d) ** 2), found(exp(x - d)), found(sin(x - d))
    [o], [n] = square.old, square.new
    movement, group = "B(x; e) = T(d, e)·B(x; d)", "T(e, f)·T(d, e) = T(d, f)"
    assert movement in unproved(sabotaged(square, 0, 1, 2 * (n - o)))
    assert unproved(sabotaged(square, 0, 2, sympy.Integer(0))) == f"{movement}; {group}"
    assert movement in unproved(sabotaged(softmax, 0, 0, exp(n - o)))
    assert unproved(sabotaged(softmax, 0, 0, 1 + o - n)) == f"{movement}; {group}"
    assert "T(d, d) = 1" in unproved(sabotaged(softmax, 0, 0, 2 * exp(o - n)))
    assert movement in unproved(sabotaged(wave, 0, 1, -wave.transport[0][1]))
    assert unproved(replace(softmax, combination=(d,))) == "the body is the combination of the basis"
    assert unproved(replace(softmax, body=exp(x - 2 * d))) == "the body is the combination of the basis"
    almost = sympy.Rational(10**30 + 1, 10**30)
    assert movement in unproved(sabotaged(softmax, 0, 0, exp(almost * (o - n))))


def test_a_wrong_derivation_is_refused(monkeypatch):
    solved = cascade._solved
    monkeypatch.setattr(cascade, "_solved", lambda *system: [[2 * entry for entry in row] for row in solved(*system)])
    cascade._remembered.cache_clear()
    result = derive(exp(x - d), [x], [d])
    cascade._remembered.cache_clear()
    assert isinstance(result, Refusal)
    assert result.reason.startswith("not proved")


def random_body(draw, depth):
    if depth == 0:
        return (x, x, v, d, d, m, c, sympy.Rational(1, 2), sympy.Float(0.7))[draw.integers(9)]
    a, b = random_body(draw, depth - 1), random_body(draw, int(draw.integers(depth)))
    made = (a + b, a * b, a - b, exp(a - b), a / b, a**2, tanh(a), sympy.Max(a, 0), sympy.Piecewise((a, y > 0), (b, True)))
    return made[draw.choice(9, p=[0.2, 0.2, 0.2, 0.2, 0.04, 0.04, 0.04, 0.04, 0.04])]


def test_every_answer_is_proved_or_a_refusal():
    draw, answers = np.random.default_rng(3), []
    for depth in (1, 2, 2, 3, 3, 4) * 4:
        answers.append(derive(random_body(draw, depth), [x, y, v], [d, m], [c]))
        if isinstance(answers[-1], Cascade):
            assert unproved(answers[-1]) == ""
            assert from_json(to_json(answers[-1])) == answers[-1]
    assert {type(answer) for answer in answers} == {Cascade, Refusal}


@CASES
def test_json_round_trip(body):
    result = found(body)
    text = to_json(result)
    assert from_json(text) == result
    assert json.loads(text)["rank"] == result.rank


def test_json_holds_symbols_and_refusals():
    refusal = derive(exp(x * d), [x], [d])
    assert from_json(to_json(refusal)) == refusal
    a, b = sympy.Symbol("a", positive=True), sympy.Symbol("b", real=True)
    result = derive(exp(b - a) * x, [b, x], [a])
    assert from_json(to_json(result)) == result
    integer = sympy.Symbol("a", integer=True)
    assert integer in from_tree(to_tree(a + 1), [integer]).free_symbols
    for text in (
        "[]",
        "3",
        '{"rank": 1}',
        '{"rank": ["__import__", ["symbol", "os", ""]]}',
        '{"rank": ["rational", "1"]}',
        "{",
    ):
        with pytest.raises(ValueError, match=r"no cascade|no '__import__'|Expecting"):
            from_json(text)


def test_a_question_is_one_text_and_is_answered_once():
    assert question(exp(x - d), [x], [d]) == question(exp(x - d), (x,), (d,))
    assert len({question(exp(x - d), [x], [d]), question(exp(x - d), [d], [x]), question(exp(x - y), [x], [y])}) == 3
    assert derive(exp(x - d), [x], [d]) is derive(exp(x - d), (x,), (d,))
    with pytest.raises(ValueError, match="neither varying, nor a state, nor constant: d, y"):
        derive(x + y + d, [x], [])


def test_names_of_the_states_do_not_collide():
    taken = sympy.Symbol("d_old")
    result = derive(exp(taken - d), [taken], [d])
    assert result.old[0] != taken
    assert unproved(result) == ""


def test_what_no_state_enters_keeps_its_form():
    gate = (x * w + c) * TABLE["sigmoid"].symbolic(sympy, x)
    result = derive((gate - mu) ** 2 * v, [x, w, v], [mu], [c])
    assert result.basis == ((gate - mu) ** 2 * v, (gate - mu) * v, v)
    assert result.transport[0][2] == (result.old[0] - result.new[0]) ** 2


def test_normal_forms():
    assert is_zero((x + y) ** 3 - x**3 - 3 * x**2 * y - 3 * x * y**2 - y**3)
    assert is_zero(exp(x + y) * exp(-y / 2) - exp(x + y / 2))
    assert is_zero(sin(x + y) - sin(x) * sympy.cos(y) - sympy.cos(x) * sin(y))
    assert is_zero(1 / (x + 1) + 1 / (x - 1) - 2 * x / (x**2 - 1))
    assert is_zero(sqrt(x) ** 3 / x - sqrt(x))
    assert not is_zero(exp(x) - exp(x * sympy.Rational(10**9 + 1, 10**9)))
    with pytest.raises(Inexpressible, match="condition"):
        cascade.Atoms([x], [d]).abstract(sympy.Piecewise((x, d > 0), (0, True)))


# Printing

NUMPY = {
    "tl": SimpleNamespace(
        exp=np.exp, exp2=np.exp2, sqrt=np.sqrt, rsqrt=lambda x: 1 / np.sqrt(x), sin=np.sin, cos=np.cos, log=np.log,
        where=np.where, abs=np.abs, maximum=lambda x, y, propagate_nan: np.maximum(x, y), PropagateNan=SimpleNamespace(ALL=None),
    ),
    "libdevice": SimpleNamespace(tanh=np.tanh, pow=np.power),
}  # fmt: skip

TRITON = {
    exp(x - d): "tl.exp(x - d)",
    2 ** (x - d): "tl.exp2(x - d)",
    (x - d) ** 2: "(x - d) * (x - d)",
    -2 * (x - d) * v: "2.0 * v * (d - x)",
    v / sqrt(d): "v / tl.sqrt(d)",
    d ** sympy.Rational(3, 2): "d * tl.sqrt(d)",
    x / (y * (1 + v)): "x / y / (v + 1.0)",
    exp(x / 8 - d / 8): "tl.exp(0.125 * (x - d))",
    -x - y: "-x - y",
    -x * y: "-x * y",
    sympy.Rational(-1, 3): "-" + repr(1 / 3),
    x**d: "libdevice.pow(x, d)",
    tanh(x + 1): "libdevice.tanh(x + 1.0)",
    x - (y - v) * w - 3 * (1 + y): "w * (v - y) + x - 3.0 * y - 3.0",
    sympy.Max(x, y + 1, 0): None,
    SWITCH: "tl.where((y > 0.0), tl.exp(x - d), 0.0)",
    sympy.Piecewise((x, sympy.And(x > 0, y < v)), (-sympy.oo, True)): None,
    1 / (x + y) ** 2 - 1 / x: None,
    -((x - y) ** 3) / (x * y): None,
    sympy.pi * x + sympy.Abs(x - y): None,
}  # fmt: skip


@pytest.mark.parametrize("formula", TRITON, ids=str)
def test_triton_text(formula):
    symbols = (x, y, v, w, d)
    text = to_triton(formula, {symbol: symbol.name for symbol in symbols})
    assert TRITON[formula] in (None, text)
    point = dict(zip("xyvwd", np.random.default_rng(0).uniform(0.5, 3, (5, 20)), strict=True))
    expected = sympy.lambdify(symbols, formula, "numpy")(*point.values())
    np.testing.assert_allclose(eval(text, {**NUMPY, "float": float}, point), expected, rtol=1e-13)


def test_text_for_readers():
    assert to_text(-(x**2) / sqrt(d) + 3) == "3 - x²/√d"
    assert to_text(x - d, exp(x), names={d: "d'"}) == "(x - d')·exp(x)"
    assert to_text(-exp(x), y) == "-exp(x)·y"


# Running sums, tile by tile, as the emitter guards them


def streamed(result, columns, tiles, state_of):
    """Σ body over the tiles; `state_of(seen)` is the state after the columns seen so far."""
    values = {symbol.name: column for symbol, column in zip(result.varying, columns, strict=True)}
    sums, old = np.zeros(result.rank), np.full(len(result.states), np.nan)
    for tile in np.array_split(np.arange(len(columns[0])), tiles):
        new = np.asarray(state_of([column[: tile[-1] + 1] for column in columns]), dtype=float)
        names = {symbol.name: value for symbol, value in zip((*result.old, *result.new), (*old, *new), strict=True)}
        repair = [[evaluated(entry, names) for entry in row] for row in result.transport]
        sums = np.where(np.isfinite(old).all(), repair @ sums, 0)
        inside = {name: column[tile] for name, column in values.items()} | states_named(result, new)
        sums = sums + [np.sum(evaluated(b, inside) + np.zeros(len(tile))) for b in result.basis]
        old = new
    return np.sum(
        [evaluated(part, states_named(result, old)) * total for part, total in zip(result.combination, sums, strict=True)]
    )


def states_named(result, state):
    return {symbol.name: value for symbol, value in zip(result.states, state, strict=True)}


def evaluated(formula, values):
    return eval(to_triton(formula, {symbol: symbol.name for symbol in formula.free_symbols}), {**NUMPY}, values)


@np.errstate(all="ignore")
def test_running_sums_agree_with_whole_ones():
    draw = np.random.default_rng(1)
    a, b = draw.normal(0, 30, 40), draw.normal(size=40)
    top, mean = (lambda seen: [np.max(seen[0])]), (lambda seen: [np.mean(seen[0])])
    cases = [
        (exp(x - d) * v, [x, v], top, lambda top: np.exp(a - top) * b),
        ((x - d) * exp(x - d), [x], top, lambda top: (a - top) * np.exp(a - top)),
        ((x - d) ** 2, [x], mean, lambda mean: (a - mean) ** 2),
        ((x - d) ** 3 * v, [x, v], mean, lambda mean: (a - mean) ** 3 * b),
        (x * v / sqrt(d), [x, v], lambda seen: [np.sum(seen[0] ** 2)], lambda square: a * b / np.sqrt(square)),
    ]
    for body, varying, state_of, whole in cases:
        columns = [a, b][: len(varying)]
        expected = np.sum(whole(state_of(columns)[0]))
        for tiles in (1, 2, 7, 40):
            np.testing.assert_allclose(streamed(derive(body, varying, [d]), columns, tiles, state_of), expected, rtol=1e-10)


@np.errstate(all="ignore")
def test_masked_tiles_count_for_nothing_and_masked_rows_are_nan():
    result, top = derive(exp(x - d) * v, [x, v], [d]), (lambda seen: [np.max(seen[0])])
    a, b = np.array([-np.inf] * 4 + [1.0, 3.0, -np.inf, 2.0]), np.arange(8.0)
    np.testing.assert_allclose(streamed(result, [a, b], 4, top), np.sum(np.exp(a - 3) * b))
    assert np.isnan(streamed(result, [a[:4], b[:4]], 2, top))


def test_large_means_keep_their_digits():
    result, draw = derive((x - d) ** 2, [x], [d]), np.random.default_rng(2)
    a = 1e8 + draw.normal(size=1000)
    np.testing.assert_allclose(
        streamed(result, [a], 10, lambda seen: [np.mean(seen[0])]), np.sum((a - a.mean()) ** 2), rtol=1e-9
    )
