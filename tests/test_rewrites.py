"""Every rewrite: it fires, it is proved on symbols, and in floats it is exact or does what its docstring says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sympy

from gradc import types
from gradc.interpret import evaluate, evaluate_symbolic
from gradc.ir import Graph, apply, on_behalf_of
from gradc.leaves import Broadcast, Reshape, cast, constant, make_input
from gradc.normalise import RULES
from gradc.rewrites import DERIVATIVE, EXACT, REWRITES
from gradc.structure import Concatenate, Contract, Flip, Pad, Permute, Reduce, ScatterAdd, Slice
from gradc.table import TABLE
from gradc.trace import tracing_scope

op = dict(TABLE)
X, Y, R, B, I = "x", "y", "r", "b", "i"  # two matrices, a row of numbers, a bool matrix, a column of indices
SHAPES = {X: ((2, 3), "float64"), Y: ((2, 3), "float64"), R: ((2,), "float64"), B: ((2, 3), "bool"), I: ((2, 1), "int64")}


def along(r, shape=(2, 3), axes=(0,)):
    return apply(Broadcast(shape, axes), r)


def of_rows(i, shape=(2, 3), axes=(0,)):
    """A condition on rows."""
    return along(op["equal"](apply(Reshape((2,)), i), 1), shape, axes)


def f32(x):
    return cast(x, types.float32)


def bf16(x):
    return cast(x, types.bfloat16)


def f16(x):
    return cast(x, types.float16)


def weight(x):
    """exp(x - max(x)) along the rows."""
    return op["exp"](x - along(total(x, 1, kind="max")))


def total(x, *axes, kind="sum"):
    return apply(Reduce(kind, axes), x)


def part(x, starts, stops, steps=(1, 1)):
    return apply(Slice(starts, stops, steps), x)


def pad(x, low, high):
    return apply(Pad(low, high, (0, 0)), x)


def contract(a, b, lhs, rhs, out):
    return apply(Contract(lhs, rhs, out), a, b)


def deviation(x):
    return x - along(total(x, 1) / 3.0)


def share(x):
    return x / along(total(x, 1))


def below_its_maximum(x, *axes):
    kept = tuple(axis for axis in range(2) if axis not in axes)
    return x - along(total(x, *axes, kind="max"), axes=kept)


# For every rule, Values it must rewrite. A rule for derivatives gets them with the note of one.
CASES = {
    "fold_constants": [lambda x: op["multiply"](constant(2.5, x.dtype), constant(-3, x.dtype))],
    "repeat_the_result": [
        lambda r: op["add"](along(r), along(r)),
        lambda r: op["multiply"](along(r, (2, 4, 3)), along(r, (2, 4, 3), (0,))),
        lambda r: cast(along(r), types.float32),
    ],
    "negate_negative": [lambda x: op["negative"](-x)],
    "negate_number": [lambda x: -(x * 3.0), lambda x: -(2.0 / x)],
    "negate_difference": [lambda x, y: -(x - y)],
    "sign_outside": [lambda x, y: (-x) * y, lambda x, y: x * (-y), lambda x, y: (-x) / (-y), lambda x, y: x / (-y)],
    "times_one": [lambda x: x * 1.0, lambda x: -1.0 * x],
    "over_one": [lambda x: x / 1.0, lambda x: x / -1.0, lambda x: 1.0 / x],
    "numbers_together": [
        lambda x: 2.0 * (3.0 * x),
        lambda x: 2.0 * (x / 4.0),
        lambda x, y: (2.0 * x) * y,
        lambda x, r: 3.0 * (along(r) * x),
    ],
    "numbers_under": [lambda x: (3.0 * x) / 2.0, lambda x: (x / 3.0) / 2.0, lambda x, y: (3.0 * x) / y],
    "times_reciprocal": [lambda x, y: x * op["reciprocal"](y), lambda x, y: op["reciprocal"](y) * x],
    "add_negative": [
        lambda x, y: x + (-y),
        lambda x, y: (-x) + y,
        lambda x, y: (-x) + (-y),
        lambda x, y: x + y * -2.0,
        lambda x, r: x + along(-r),
        lambda x, r: x + along(-r) * x,
        lambda b, x, y: x + op["where"](b, -y, 0.0),
    ],
    "subtract_negative": [lambda x, y: x - (-y), lambda x, y: (-x) - y, lambda x, y: x - y * -2.0],
    "add_zero": [lambda x: x + 0.0, lambda x: 0.0 + x, lambda x: x - 0.0, lambda x: 0.0 - x],
    "number_less_difference": [lambda x: 1.0 - (1.0 - x)],
    "double": [lambda x: x + x],
    "common_divisor": [lambda x, y, r: x / along(r) + y / along(r), lambda x, r: x / along(r) - along(r / r)],
    "common_factors": [lambda x, y: x * y - x * 2.0, lambda x, y: x * y + x, lambda x, y, r: (x * along(r)) * y - along(r) * x],
    "settled_selection": [
        lambda x, y: op["where"](constant(True, types.bool_, (2, 3)), x, y),
        lambda x, y: op["where"](constant(False, types.bool_, (2, 3)), x, y),
        lambda b, x: op["where"](b, x, x),
        lambda b, x, y: op["where"](b, op["where"](b, x, y), y),
        lambda b, x, y: op["where"](b, y, op["where"](b, y, x)),
    ],
    "function_of_chosen_numbers": [
        lambda b: op["greater"](op["where"](b, 1.0, 0.0), 0.5),
        lambda b: op["exp"](op["where"](b, 1.0, 0.0)),
    ],
    "condition_itself": [
        lambda b: op["where"](b, constant(True, types.bool_, (2, 3)), constant(False, types.bool_, (2, 3))),
        lambda b: op["where"](b, constant(False, types.bool_, (2, 3)), constant(True, types.bool_, (2, 3))),
    ],
    "condition_twice": [lambda b: op["logical_and"](b, b), lambda b: op["logical_or"](b, b)],
    "negated_condition": [lambda b, x, y: op["where"](op["logical_not"](b), x, y)],
    "small_power": [lambda x, n=n: op["pow"](x, n) for n in (0.0, 1.0, 2.0, 3.0, -1.0, 0.5, -0.5)],
    "square_as_product": [lambda x: op["square"](x)],
    "log_of_one_plus": [
        lambda x: op["log"](1.0 + x),
        lambda x: op["log"](op["exp"](x)),
        lambda x, y: op["log"](op["exp"](x) / y),
    ],
    "exp_minus_one": [lambda x: op["exp"](x) - 1.0],
    "exp_of_log": [
        lambda x, r: op["exp"](below_its_maximum(x, 1) - along(op["log"](r))),
        lambda x, r: op["exp"](below_its_maximum(x, 0, 1) - along(op["log"](r))),
    ],
    "merge_reshapes": [
        lambda x: apply(Reshape((3, 2)), apply(Reshape((6,)), x)),
        lambda x: apply(Reshape((2, 3)), x),
        lambda x: apply(Reshape((6,)), along(total(x, 0, 1), (2, 3), ())),
    ],
    "unit_dimensions": [
        lambda x: apply(Reshape((2, 1, 3)), x),
        lambda r: apply(Reshape((2,)), along(r, (2, 1))),
        lambda r: apply(Reshape((1, 2, 4)), along(r, (2, 1, 4))),
        lambda x: apply(Reshape((3,)), apply(Broadcast((1, 3), (0, 1)), part(x, (0, 0), (1, 3)))),
    ],
    "merge_permutes": [
        lambda x: apply(Permute((1, 0)), apply(Permute((1, 0)), x)),
        lambda r: apply(Permute((1, 0)), along(r, (2, 1))),
        lambda r: apply(Permute((2, 1, 0)), along(r, (2, 4, 3))),
        lambda x: apply(Permute((2, 0, 1)), apply(Broadcast((2, 3, 4), (0, 1)), x)),
    ],
    "merge_broadcasts": [lambda r: along(along(r), (4, 2, 3), (1, 2)), lambda x: along(x, (2, 3), (0, 1))],
    "slice_of_view": [
        lambda x: part(x, (0, 0), (2, 3)),
        lambda x: part(part(x, (0, 0), (2, 3), (1, 2)), (0, 1), (1, 2)),
        lambda r: part(along(r), (1, 0), (2, 2)),
    ],
    "slice_of_parts": [
        lambda x, y: part(apply(Concatenate(1), x, y), (0, 3), (2, 6)),
        lambda x: part(pad(x, (0, 2), (1, 0)), (0, 2), (2, 5)),
    ],
    "pad_by_nothing": [lambda x: pad(x, (0, 0), (0, 0))],
    "join_padded": [
        lambda x, y: pad(x, (0, 0), (0, 3)) + pad(y, (0, 3), (0, 0)),
        lambda x, y: pad(y, (0, 3), (0, 1)) + pad(x, (0, 0), (0, 4)),
        lambda x, y: (pad(x, (0, 1), (0, 2)) + pad(x, (0, 0), (0, 3))) + pad(y, (0, 3), (0, 0)),
    ],
    "flat_concatenation": [
        lambda x, y: apply(Concatenate(1), apply(Concatenate(1), x, y), x),
        lambda x: apply(Concatenate(0), x),
    ],
    "merge_flips": [lambda x: apply(Flip((0, 1)), apply(Flip((1,)), x)), lambda x: apply(Flip(()), x)],
    "merge_casts": [
        lambda b: cast(cast(b, types.int32), types.float64),
        lambda x: cast(constant(0.25, types.float64), types.float32),
        lambda i: cast(cast(cast(i, types.int32), types.float64), types.int32),
    ],
    "single_elements": [
        lambda r: total(along(r, (2, 1)), 1),
        lambda x: apply(Reduce("max", ()), x),
        lambda x: total(apply(Broadcast((2, 1, 3), (0, 2)), x), 1, 2),
    ],
    "merge_folds": [lambda x: total(total(x, 1), 0), lambda x: total(total(x, 0), 0, kind="sum")],
    "fold_of_permuted": [
        lambda x: total(apply(Permute((1, 0)), x), 0),
        lambda x: total(apply(Permute((2, 1, 0)), along(x, (2, 3, 2), (0, 1))), 1),
    ],
    "empty_sum": [lambda x: total(part(x, (0, 0), (2, 0)), 1)],
    "fold_of_repeated": [
        lambda r: total(along(r), 1),
        lambda r: total(along(r), 0, 1),
        lambda r: total(along(r), 1, kind="max"),
    ],
    "factors_leave_sum": [
        lambda x, r: total(x * along(r), 1),
        lambda x, y, r: total((x / along(r)) * y, 1),
        lambda x: total(-x, 0),
        lambda x, y, r: total((x * along(r)) / y, 1),
        lambda x, r: total(along(r) * deviation(x), 1),
        lambda x: total(share(x), 1),
        lambda x, r: total(share(x) * along(r), 1),
        lambda x, b, r: total(op["where"](b, x / along(r), 0.0), 1),
    ],
    "selection_leaves_sum": [
        lambda x, i: total(op["where"](of_rows(i), x, 0.0), 1),
        lambda x, i: total(op["where"](of_rows(i, axes=(1,), shape=(3, 2)), apply(Permute((1, 0)), x), 0.0), 0),
    ],
    "selection_leaves_contraction": [
        lambda x, y, i: contract(op["where"](of_rows(i), x, 0.0), y, (0, 2), (1, 2), (0, 1)),
        lambda x, y, i: contract(y, op["where"](of_rows(i), x, 0.0), (1, 2), (0, 2), (1, 0)),
    ],
    "split_sum": [
        lambda x, y, r: total(x * along(r) + y, 1),
        lambda x, y, r: total(x * along(r) - y / along(r), 1),
        lambda x, y, r: total(-(x * along(r)) - y, 1),
        lambda x, y, r: total(y * along(r) + along(r) * deviation(x), 1),
    ],
    "permuted_contraction": [lambda x, y: apply(Permute((1, 0)), contract(x, y, (0, 2), (1, 2), (0, 1)))],
    "contraction_of_permuted": [lambda x, y: contract(apply(Permute((1, 0)), x), y, (2, 0), (1, 2), (0, 1))],
    "contraction_of_repeated": [
        lambda x, r: contract(along(r), x, (0, 2), (1, 2), (0, 1)),
        lambda x, r: contract(x, along(r), (0, 2), (1, 2), (0, 1)),
        lambda x, r: contract(x, along(r, (2, 2, 3), (1,)), (0, 2), (3, 1, 2), (3, 0, 1)),
    ],
    "contraction_as_sum": [
        lambda x, r: contract(x, r, (0, 1), (0,), (1,)),
        lambda x, r: contract(r, x, (0,), (0, 1), (1, 0)),
        lambda x, r: contract(x, r, (0, 1), (2,), (2, 1, 0)),
        lambda r: contract(r, r, (0,), (0,), ()),
    ],
    "factors_leave_contraction": [
        lambda x, y, r: contract(x / along(r), y, (0, 2), (1, 2), (0, 1)),
        lambda x, y, r: contract(y, x / along(r), (1, 2), (0, 2), (1, 0)),
        lambda x, y: contract(x * 3.0, y, (0, 2), (1, 2), (0, 1)),
        lambda x, y: contract(-x, y, (0, 2), (1, 2), (0, 1)),
    ],
    "divisors_leave_rounded_contraction": [
        lambda x, y, r: contract(bf16(f32(x) / along(f32(r))), bf16(y), (0, 2), (1, 2), (0, 1)),
        lambda x, y, b, r: contract(
            bf16(y), bf16(op["where"](b, f32(x) / along(f32(r)), constant(0.0, types.float32, x.shape))), (1, 2), (0, 2), (1, 0)
        ),
        lambda x, y, r: contract(f16(weight(f32(x)) / along(f32(r))), f16(y), (0, 2), (1, 2), (0, 1)),
    ],
    "divisors_join_what_is_computed": [
        lambda x, y, r: contract(x / along(r), op["exp"](y), (0, 1), (0, 2), (1, 2)),
        lambda x, y, r: contract(op["exp"](y), x / along(r), (0, 2), (0, 1), (2, 1)),
    ],
    "scatter_of_one": [lambda r, i: apply(ScatterAdd(1, 4), along(r, (2, 1)), i)],
}
PUTS_BACK = {"deviation", "share"}  # what adds up to a number in a derivative
ALL = [(name, place) for name, cases in CASES.items() for place in range(len(cases))]


def built_case(name, place, dtype=None):
    """The inputs of a case and the Value that the rule is to rewrite, made as a derivative if the rule is for derivatives."""
    make = CASES[name][place]
    letters = [letter for letter in make.__code__.co_varnames[: make.__code__.co_argcount] if letter in SHAPES]
    inputs = [make_input(SHAPES[v][0], types.as_dtype(SHAPES[v][1]), v) for v in letters]
    with (
        tracing_scope(),
        on_behalf_of(inputs[0], "∂" if REWRITES[name].holds is DERIVATIVE or PUTS_BACK & {*make.__code__.co_names} else ""),
    ):
        return inputs, make(*inputs)


def applied(name, place):
    inputs, value = built_case(name, place)
    with on_behalf_of(value, value.note):
        new = REWRITES[name](value)
    assert new is not None, f"{name} does not apply to case {place}"
    return inputs, value, new


def symbols(inputs):
    arrays = []
    for value in inputs:
        if value.dtype.is_floating:
            names = [f"{value.name}{''.join(map(str, at))}" for at in np.ndindex(value.shape)]
            arrays.append(np.array([sympy.Symbol(name, positive=True) for name in names], object).reshape(value.shape))
        else:
            arrays.append(np.resize([1, 0, 0, 1, 1], value.shape).astype(value.dtype.numpy))
    return arrays


def is_zero(difference):
    return difference == 0 or sympy.simplify(difference) == 0


def numbers(value):
    """Elements as SymPy numbers: truth counts as 1 or 0."""
    return [int(bool(x)) if x in (True, False, sympy.true, sympy.false) else x for x in np.asarray(value, object).flat]


def test_every_rule_has_a_case():
    assert set(CASES) == set(REWRITES)
    assert all(rule.function.__doc__ for rule in REWRITES.values())


@pytest.mark.parametrize(("name", "place"), ALL)
def test_rule_is_proved_on_symbols(name, place):
    inputs, value, new = applied(name, place)
    assert (new.shape, new.dtype) == (value.shape, value.dtype)
    Graph(tuple(inputs), (value, new)).check()
    old_array, new_array = evaluate_symbolic(Graph(tuple(inputs), (value, new)), symbols(inputs))
    assert all(is_zero(a - b) for a, b in zip(numbers(old_array), numbers(new_array), strict=True))


SPECIAL = [0.0, -0.0, 1.0, -1.5, math.inf, -math.inf, math.nan, 1e300, 5e-324]


def special_arrays(inputs, seed):
    random = np.random.default_rng(seed)
    for value in inputs:
        if value.dtype.is_floating:
            yield random.choice(SPECIAL, value.shape)
        else:
            yield random.integers(0, 2, value.shape).astype(value.dtype.numpy)


@pytest.mark.parametrize(("name", "place"), [(name, place) for name, place in ALL if REWRITES[name].holds is EXACT])
def test_exact_rule_keeps_every_float(name, place):
    inputs, value, new = applied(name, place)
    graph = Graph(tuple(inputs), (value, new))
    for seed in range(30):
        old_array, new_array = evaluate(graph, list(special_arrays(inputs, seed)))
        np.testing.assert_array_equal(old_array, new_array)


@pytest.mark.parametrize(("name", "place"), ALL)
def test_rule_holds_on_ordinary_floats(name, place):
    inputs, value, new = applied(name, place)
    random = np.random.default_rng(0)
    arrays = [
        random.uniform(0.5, 2, v.shape) if v.dtype.is_floating else random.integers(0, 2, v.shape).astype(v.dtype.numpy)
        for v in inputs
    ]
    old_array, new_array = evaluate(Graph(tuple(inputs), (value, new)), arrays)
    close = {types.bfloat16: 2.0**-6, types.float16: 2.0**-9}.get(value.dtype, 1e-12)  # two roundings of two results
    np.testing.assert_allclose(old_array.astype(float), new_array.astype(float), rtol=close, atol=close)


def test_a_product_in_float16_waits_for_its_divisor_where_it_might_overflow():
    x, r = make_input((2, 3), types.float32), make_input((2,), types.float32)
    with tracing_scope():
        product = contract(f16(x / along(r)), f16(x), (0, 2), (1, 2), (0, 1))
    assert REWRITES["divisors_leave_rounded_contraction"](product) is None


def test_derivative_rules_leave_what_the_user_wrote():
    for name, place in ALL:
        if REWRITES[name].holds is DERIVATIVE:
            _, value = built_case(name, place)
            value.note = ""
            assert REWRITES[name](value) is None


@pytest.mark.parametrize(
    "x",
    [
        lambda x, y, r: x,
        lambda x, y, r: x - along(total(y, 1, kind="max")),
        lambda x, y, r: x - along(total(x, 1, kind="min")),
        lambda x, y, r: x[:, :2] - along(total(x[:, :2], 1, kind="max"), (2, 2), (1,)),
    ],
)
def test_an_exponential_that_may_overflow_stays_with_its_logarithm(x):
    """Not below its maximum, of another array, a minimum, the maximum of another row."""
    inputs = [make_input(shape, types.float64, name) for name, shape in (("x", (2, 3)), ("y", (2, 3)), ("r", (2,)))]
    with tracing_scope():
        power = x(*inputs)
        assert REWRITES["exp_of_log"](op["exp"](power - along(op["log"](inputs[2]), power.shape))) is None


def test_a_wrong_rule_is_not_proved(monkeypatch):
    wrong = lambda value: op["divide"](value.operands[0], 2.0)
    monkeypatch.setitem(REWRITES, "double", type(REWRITES["double"])(wrong, ("add",), EXACT))
    with pytest.raises(AssertionError):
        test_rule_is_proved_on_symbols("double", 0)


def floats_of(name, place, **arrays):
    inputs, value, new = applied(name, place)
    return evaluate(
        Graph(tuple(inputs), (value, new)), [np.broadcast_to(np.asarray(arrays[v.name], float), v.shape) for v in inputs]
    )


def test_what_real_rules_do_at_the_edges():
    inf, nan = math.inf, math.nan
    # A zero beside an infinite factor: the terms are nan, the factored sum is what is left.
    old, new = floats_of("factors_leave_sum", 0, x=[[0.0, 1.0, 1.0]] * 2, r=inf)
    assert np.isnan(old).all()
    assert np.array_equal(new, [inf, inf])
    # A row divided by 0 (softmax of a fully masked row) is nan or inf as before.
    old, new = floats_of("factors_leave_sum", 1, x=0.0, y=1.0, r=0.0)
    assert np.isnan(old).all()
    assert np.isnan(new).all()
    # nan in a row stays in that row.
    old, new = floats_of("factors_leave_sum", 0, x=[[nan, 1, 1], [1, 1, 1]], r=2.0)
    np.testing.assert_array_equal(old, new)
    # A row of -inf is nan as before, also where its exponentials add up to nothing.
    old, new = floats_of("exp_of_log", 0, x=[[-inf] * 3, [0.0, -inf, 1.0]], r=[0.0, 2.0])
    np.testing.assert_allclose(old, new, rtol=1e-15)
    # A common divisor at 0: nan, inf or both, never a finite number.
    old, new = floats_of("common_divisor", 0, x=1.0, y=-1.0, r=0.0)
    assert not np.isfinite(old).any()
    assert not np.isfinite(new).any()
    # x^0.5 at -0 and -inf is sqrt's.
    old, new = floats_of("small_power", 5, x=[[-0.0, -inf, 4.0]] * 2)
    assert np.signbit(new[0, 0])
    assert np.isnan(new[0, 1])
    # log(exp(x)/y) where exp underflows or overflows: finite now.
    old, new = floats_of("log_of_one_plus", 2, x=[[-800.0, 800.0, 0.0]] * 2, y=2.0)
    assert np.isinf(old[0, :2]).all()
    np.testing.assert_allclose(new[0], [-800 - math.log(2), 800 - math.log(2), -math.log(2)])
    # exp(x) - 1 and log(1 + x) keep small numbers.
    for name in ("exp_minus_one", "log_of_one_plus"):
        old, new = floats_of(name, 0, x=1e-20)
        assert not old.any()
        np.testing.assert_allclose(new, 1e-20)


def test_scatter_of_one_counts_negative_indices_from_the_end():
    old, new = floats_of("scatter_of_one", 0, r=[2.0, 3.0], i=[[-1], [1]])
    np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(new, [[0, 0, 0, 2], [0, 3, 0, 0]])


def test_rules_are_filed_under_operations_that_exist():
    known = set(TABLE) | {"elementwise", "cast", "reshape", "permute", "broadcast", "slice", "pad", "flip", "concatenate"}
    known |= {"contract", "scatter_add", "sum", "prod", "max", "min", "any", "all"}
    assert {name for name, rules in RULES.items() if rules} <= known
    assert {name for rule in REWRITES.values() for name in rule.operations} <= known
