"""Every operation differentiated in both modes and to second order, against numerical derivatives and against torch."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import gradc
from gradc import types
from gradc.autodiff import depending, jvp_graph, vjp_graph
from gradc.check import check_grads
from gradc.errors import VerificationError
from gradc.interpret import evaluate
from gradc.ir import Graph, apply, topological
from gradc.leaves import make_input
from gradc.structure import Gather, Keep, Pad, Reduce, ScatterAdd, StopGradient
from gradc.table import FLOAT, NUMBER, TABLE
from gradc.tangents import scale, selection
from gradc.trace import trace, tracing_scope

DIFFERENTIABLE = [row for row in TABLE.values() if row.takes in (FLOAT, NUMBER) and any(row.partials)]
rng = np.random.default_rng(7)


def inside_domain(row):
    """Operands in the row's domain, away from its kinks."""
    if row.domain == "x > 1":
        return [rng.uniform(1.5, 3, (3,)) for _ in row.partials]
    return [rng.uniform(0.2 + 0.3 * i, 0.4 + 0.3 * i, (3,)) for i in range(row.arity)]


@pytest.mark.parametrize("row", DIFFERENTIABLE, ids=lambda row: row.name)
def test_elementwise_function(row):
    check_grads(lambda *xs: row(*xs), inside_domain(row), order=2)


def matrix(*shape):
    return rng.uniform(0.3, 1.7, shape)


INDEX = np.array([[1, 0, 2, 1], [0, 0, 2, 3], [1, 1, 1, 0]])
CONDITION = np.array([[True, False, True, True]] * 3)
STRUCTURAL = {
    "reshape": (lambda x: gradc.reshape(x, (2, 6)) ** 2, matrix(3, 4)),
    "permute": (lambda x: gradc.permute_dims(x, (2, 0, 1)) ** 2, matrix(2, 3, 2)),
    "broadcast": (lambda x: gradc.broadcast_to(x, (3, 2, 4)) ** 2, matrix(2, 1)),
    "slice": (lambda x: x[1:, ::2] ** 2, matrix(3, 5)),
    "slice of nothing": (lambda x: gradc.sum(x[:, 2:2]) + gradc.sum(x**2), matrix(3, 5)),
    "pad": (lambda x: gradc.pad(x, ((1, 2), (0, 1))) ** 2, matrix(2, 3)),
    "pad between": (lambda x: apply(Pad((1,), (0,), (2,)), x) ** 2, matrix(4)),
    "flip": (lambda x: x[::-1, ::-1] * x, matrix(3, 4)),
    "concatenate": (lambda x, y: gradc.concat([x, y, x], axis=1) ** 2, matrix(2, 2), matrix(2, 3)),
    "stack": (lambda x, y: gradc.stack([x, x * y]), matrix(3), matrix(3)),
    "gather": (lambda x: gradc.take_along_axis(x, INDEX[:, :2], axis=1) ** 2, matrix(3, 4)),
    "gather repeated": (lambda x: gradc.take(x, np.array([0, 2, 2, -1]), axis=0) ** 2, matrix(3, 4)),
    "gather one row": (lambda x: apply(Gather(1), x, gradc.asarray(INDEX[:1])) ** 2, matrix(3, 4)),
    "scatter": (lambda x: apply(ScatterAdd(1, 5), x, gradc.asarray(INDEX)) ** 2, matrix(3, 4)),
    "sum": (lambda x: gradc.sum(x, axis=(0, 2)) ** 2, matrix(2, 3, 2)),
    "sum of all": (lambda x: gradc.sum(x) ** 2, matrix(2, 3)),
    "prod": (lambda x: gradc.prod(x, axis=1), matrix(2, 5)),
    "prod with zeros": (lambda x: gradc.prod(x, axis=0), np.array([[0.0, 2.0, 0.0], [1.5, 0.0, 0.0], [3.0, 1.0, 2.0]])),
    "max": (lambda x: gradc.max(x, axis=1) ** 2, matrix(3, 5)),
    "min": (lambda x: gradc.min(x) ** 2, matrix(3, 5)),
    "mean": (lambda x: gradc.mean(x, axis=-1) ** 2, matrix(3, 5)),
    "var": (lambda x: gradc.var(x, axis=-1, correction=1), matrix(3, 5)),
    "std": (lambda x: gradc.std(x, axis=-1), matrix(3, 5)),
    "cumulative sum": (lambda x: gradc.cumulative_sum(x, axis=1) ** 2, matrix(2, 4)),
    "where": (lambda x, y: gradc.where(CONDITION, x**2, y**3), matrix(3, 4), matrix(3, 4)),
    "clip": (lambda x: gradc.clip(x, 0.5, 1.0) ** 2, np.array([0.2, 0.7, 0.9, 1.5])),
    "matrix product": (lambda x, y: (x @ y) ** 2, matrix(3, 4), matrix(4, 2)),
    "batched product": (lambda x, y: x @ y, matrix(2, 3, 4), matrix(4, 2)),
    "vector product": (lambda x, y: x @ y, matrix(4), matrix(4)),
    "matrix times itself": (lambda x: x @ x @ x, matrix(3, 3)),
    "einsum": (lambda x, y: gradc.einsum("bij,bjk->bik", x, y), matrix(2, 3, 2), matrix(2, 2, 3)),
    "einsum trace": (lambda x: gradc.einsum("ij,ij->", x, x), matrix(3, 3)),
    "softmax": (lambda x: gradc.softmax(x, axis=-1), matrix(2, 4)),
    "log_softmax": (lambda x: gradc.log_softmax(x, axis=0), matrix(4, 2)),
    "logsumexp": (lambda x: gradc.logsumexp(x, axis=-1), matrix(2, 4)),
    "diagonal": (lambda x: gradc.diagonal(x) ** 2, matrix(3, 3)),
    "tril": (lambda x: gradc.tril(x) ** 2, matrix(3, 3)),
    "roll": (lambda x: gradc.roll(x, 1, axis=0) * x, matrix(3, 2)),
    "cast": (lambda x: x.astype("float64") ** 2, matrix(3)),
    "keep": (lambda x: apply(Keep(), x) ** 2, matrix(3)),
    "scalar": (lambda x: gradc.sin(x) * x, np.array(0.7)),
    "empty": (lambda x: gradc.sum(x * x), np.zeros((0, 3))),
}


@pytest.mark.parametrize("name", STRUCTURAL)
def test_structural_operation(name):
    function, *arrays = STRUCTURAL[name]
    check_grads(function, arrays, order=2)


def test_third_order():
    check_grads(lambda x: gradc.tanh(x) * gradc.exp(x), [matrix(2)], order=3)
    check_grads(lambda x: gradc.prod(gradc.sin(x)), [matrix(3)], order=3, modes=("rev",))


def test_the_derivative_has_the_shape_and_dtype_of_its_value():
    def mixed(x, w):
        return gradc.sum(x.astype("float32") @ w * 2.0)

    inputs = [make_input((2, 3), types.bfloat16, "x"), make_input((3, 4), types.float32, "w")]
    with tracing_scope():
        output = mixed(*inputs)
    gradients = vjp_graph([output], inputs, [make_input((), types.float32)])
    assert [(g.shape, g.dtype) for g in gradients] == [((2, 3), types.bfloat16), ((3, 4), types.float32)]


# torch's autograd as a second opinion.

torch_cases = {
    "norm": (
        lambda x, w: x / gradc.sqrt(gradc.mean(x * x, axis=-1, keepdims=True) + 1e-5) * w,
        lambda t, x, w: x / t.sqrt(t.mean(x * x, -1, keepdim=True) + 1e-5) * w,
        [(3, 5), (5,)],
    ),
    "attention": (
        lambda q, k, v: gradc.softmax(q @ k.mT / 2.0, axis=-1) @ v,
        lambda t, q, k, v: t.softmax(q @ k.mT / 2.0, -1) @ v,
        [(2, 3, 4), (2, 5, 4), (2, 5, 4)],
    ),
    "extrema": (
        lambda x: gradc.max(x, axis=0) * gradc.min(x, axis=1)[:3],
        lambda t, x: t.amax(x, 0) * t.amin(x, 1)[:3],
        [(3, 3)],
    ),
    "products": (lambda x: gradc.prod(x, axis=1), lambda t, x: t.prod(x, 1), [(3, 4)]),
    "gates": (
        lambda x, y: x * gradc.sigmoid(x) * gradc.tanh(y) + gradc.logaddexp(x, y),
        lambda t, x, y: x * t.sigmoid(x) * t.tanh(y) + t.logaddexp(x, y),
        [(4,), (4,)],
    ),
    "indexing": (
        lambda x: gradc.cumsum(gradc.take(x, np.array([2, 0, 2]), axis=0), axis=1),
        lambda t, x: t.cumsum(x[[2, 0, 2]], 1),
        [(3, 4)],
    ),
    "ties": (
        lambda x: gradc.max(gradc.round(x), axis=1) + gradc.max(gradc.sign(x) * x * 0 + x[:, :1] * x[:, :1], axis=1),
        lambda t, x: t.amax(t.round(x), 1) + t.amax(t.sign(x) * x * 0 + x[:, :1] * x[:, :1], 1),
        [(3, 4)],
    ),
}


@pytest.mark.parametrize("name", torch_cases)
def test_against_torch(name):
    torch = pytest.importorskip("torch")
    function, same, shapes = torch_cases[name]
    arrays = [rng.standard_normal(shape) for shape in shapes]
    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    expected = same(torch, *tensors)
    cotangent = rng.standard_normal(tuple(expected.shape))
    gradients = torch.autograd.grad(expected, tensors, torch.tensor(cotangent))
    found, pullback = gradc.vjp(function, *arrays)
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-12)
    for ours, theirs in zip(pullback(cotangent), gradients, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-10, atol=1e-12)


# Ties and kinks.


def test_ties_share_equally():
    x = np.array([[1.0, 3.0, 3.0, 3.0], [2.0, 2.0, 2.0, 2.0]])
    shares = gradc.grad(lambda x: gradc.sum(gradc.max(x, axis=1)))(x)
    np.testing.assert_allclose(shares, [[0, 1 / 3, 1 / 3, 1 / 3], [0.25] * 4])
    _, slope = gradc.jvp(lambda x: gradc.max(x, axis=1), (x,), (np.array([[9.0, 1, 2, 3], [1, 2, 3, 4]]),))
    np.testing.assert_allclose(slope, [2.0, 2.5])
    np.testing.assert_allclose(gradc.grad(lambda x: gradc.maximum(x, 1.0))(np.array(1.0)), 0.5)


def test_kinks_of_common_functions():
    at_zero = {
        gradc.abs: 0.0,
        lambda x: gradc.where(x > 0, x, 0.0): 0.0,
        lambda x: gradc.sqrt(x * x + 1): 0.0,
        lambda x: x**2: 0.0,
        lambda x: x**1: 1.0,
        lambda x: gradc.hypot(x, 0.0): 0.0,
    }
    for function, slope in at_zero.items():
        for zero in (0.0, -0.0):
            assert gradc.grad(function)(np.array(zero)) == slope
            assert np.isfinite(gradc.grad(gradc.grad(function))(np.array(zero)))


# Infinite and nan cotangents stay where they are.


def pulled(function, cotangent, *arrays):
    return gradc.vjp(function, *(np.asarray(a, float) for a in arrays))[1](np.asarray(cotangent, float))


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_bad_cotangents_do_not_leak_through_a_selection(bad):
    x, y = [1.0, -1.0, 2.0], [5.0, 6.0, 7.0]
    dx, dy = pulled(lambda x, y: gradc.where(x > 0, x, y), [bad, 1.0, 1.0], x, y)
    np.testing.assert_array_equal(dx, [bad, 0, 1])
    np.testing.assert_array_equal(dy, [0, 1, 0])
    dx, dy = pulled(gradc.maximum, [bad, bad, 1.0], x, y)
    np.testing.assert_array_equal(dx, [0, 0, 0])
    np.testing.assert_array_equal(dy, [bad, bad, 1])
    (dx,) = pulled(lambda x: gradc.max(x, axis=0), bad, x)
    np.testing.assert_array_equal(dx, [0, 0, bad])
    (dx,) = pulled(lambda x: gradc.clip(x, 0, 1.5), [1.0, bad, bad], x)
    np.testing.assert_array_equal(dx, [1, 0, 0])


def test_what_a_selection_guards_has_a_finite_derivative():
    """The derivative of where(x > 0, f(x), 0) where f is infinite is 0, not 0·inf = nan."""
    x = np.array([0.0, 4.0, -1.0])
    guarded = {
        lambda x: gradc.where(x > 0, gradc.log(x), 0.0): [0, 1 / 4, 0],
        lambda x: gradc.where(x > 0, gradc.sqrt(x), 0.0): [0, 1 / 4, 0],
        lambda x: gradc.where(x > 0, 1 / x, 0.0): [0, -1 / 16, 0],
        lambda x: gradc.where(x > 0, x * gradc.log(x) + gradc.log(x), 0.0): [0, math.log(4) + 1 + 1 / 4, 0],
        lambda x: gradc.where(x > 0, gradc.where(x < 9, gradc.log(x), 1.0), 0.0): [0, 1 / 4, 0],
    }
    for function, slopes in guarded.items():
        for derivative in (
            gradc.grad(lambda x, f=function: gradc.sum(f(x))),
            lambda x, f=function: gradc.jvp(f, (x,), (np.ones(3),))[1],
        ):
            np.testing.assert_allclose(derivative(x), slopes)
        assert np.isfinite(gradc.grad(lambda x, f=function: gradc.sum(gradc.grad(lambda x: gradc.sum(f(x)))(x)))(x)).all()


def test_masked_softmax_rows():
    mask = np.array([[True, False, True], [True, True, True]])
    dx = gradc.grad(lambda x: gradc.sum(gradc.softmax(gradc.where(mask, x, -gradc.inf), axis=-1)[:, 0]))(np.ones((2, 3)))
    assert np.isfinite(dx).all()
    assert dx[0, 1] == 0


# The walk itself.


def graph_of(function, *shapes):
    inputs = [make_input(shape, types.float64, name) for shape, name in zip(shapes, "xyz", strict=False)]
    with tracing_scope():
        return inputs, function(*inputs)


def test_nothing_is_made_for_what_does_not_matter():
    (x, _), output = graph_of(lambda x, y: gradc.sum(gradc.exp(y) * x), (3,), (3,))
    cotangent = make_input((), types.float64, "dy")
    (dx,) = vjp_graph([output], [x], [cotangent])
    assert names(topological([dx])) == ["broadcast", "exp", "multiply"]
    (zero,) = vjp_graph([output], [make_input((2,), types.float64)], [cotangent])
    assert names(topological([zero])) == ["broadcast", "constant"]
    assert vjp_graph([output], [x], [None])[0].operation.name == "broadcast"
    assert jvp_graph([output], [x], [None]) == [None]


def names(values):
    return sorted(value.operation.name for value in values if value.operation.name != "input")


def test_each_of_wrt_counts_as_independent():
    (x,), output = graph_of(lambda x: gradc.sin(x) * x, (3,))
    middle = output.operands[0]
    dx, dmiddle = vjp_graph([output], [x, middle], [make_input((3,), types.float64)])
    assert "cos" not in names(topological([dx]))
    assert names(topological([dmiddle])) == ["multiply"]


def test_the_walk_looks_no_further_than_the_variables():
    _, deep = graph_of(lambda x: x, (3,))
    with tracing_scope():
        for _ in range(50):
            deep = gradc.sin(deep)
        variable = make_input((3,), types.float64)
        output = deep * variable
    assert list(depending([output], [variable])) == [variable, output]


def test_stop_gradient_and_integers_pass_nothing():
    (x,), output = graph_of(lambda x: apply(StopGradient(), x) * gradc.astype(x, "int64").astype("float64"), (3,))
    assert set(depending([output], [x])) == {x}
    (dx,) = vjp_graph([output], [x], [make_input((3,), types.float64)])
    assert names(topological([dx])) == ["broadcast", "constant"]


def test_derivatives_are_named_and_say_what_they_are():
    (x, y), output = graph_of(lambda x, y: gradc.tanh(x @ y), (2, 3), (3,))
    output.operands[0].name, output.name = "product", "out"
    dx, dy = vjp_graph([output], [x, y], [make_input((2,), types.float64, "dout")])
    assert (dx.name, dy.name) == ("dx", "dy")
    assert (dx.note, dy.note) == ("∂/∂x", "∂/∂y")
    assert any(value.name == "dproduct" and value.note == "∂/∂product" for value in topological([dx]))
    assert all(value.note for value in topological([dx]) if value.number > output.number and value.operands)
    assert dx.source == output.operands[0].source
    (slope,) = jvp_graph([output], [x], [make_input((2, 3), types.float64, "x_dot")])
    assert slope.name == "out_dot"


def test_a_square_takes_its_cotangent_once():
    (x,), output = graph_of(lambda x: x * x + x, (3,))
    (dx,) = vjp_graph([output], [x], [make_input((3,), types.float64)])
    assert names(topological([dx])) == ["add", "add", "multiply", "multiply"]  # dy + (dy·x + dy·x)


def test_scale_pushes_a_cotangent_inside():
    (_, t), chosen = graph_of(lambda x, t: gradc.where(x > 0, 1.0, 0.0), (3,), (3,))
    pushed = scale(chosen, t, known=0)
    assert selection(pushed)[1] is t
    assert scale(chosen, t, known=chosen.number).operation.name == "multiply"  # what the user computed is only multiplied by
    assert scale(0, t, 0) is None
    assert scale(1, t, 0) is t
    assert scale(2.0, None, 0) is None


def test_long_programs_do_not_recur():
    def deep(x):
        for _ in range(3000):
            x = gradc.sin(x)
        return gradc.sum(x)

    assert np.isfinite(gradc.grad(deep)(np.ones(2))).all()


@pytest.mark.parametrize("mode", ["rev", "fwd"])
def test_a_wrong_rule_is_caught(mode):
    row = TABLE["tanh"]
    right = row.partials
    object.__setattr__(row, "partials", (lambda x, out: 1 - out,))
    try:
        with pytest.raises(VerificationError, match="gradc gives"):
            check_grads(gradc.tanh, [matrix(3)], modes=(mode,))
    finally:
        object.__setattr__(row, "partials", right)


def test_a_wrong_transpose_is_caught(monkeypatch):
    monkeypatch.setattr(
        Reduce, "transpose", lambda self, value, cotangent: (self.expand(cotangent * 2.0, value.operands[0].shape),)
    )
    with pytest.raises(VerificationError, match="reverse"):
        check_grads(lambda x: gradc.sum(x, axis=0), [matrix(2, 2)], modes=("rev",))


@pytest.mark.parametrize("seed", range(15))
def test_random_programs(seed):
    """Forward and reverse mode agree with each other and with differences, on programs that share and mix everything."""
    random = np.random.default_rng(seed)
    steps = [
        lambda a, b: gradc.sin(a) * b,
        lambda a, b: a @ b.T @ a * 0.1,
        lambda a, b: gradc.softmax(a + b, axis=0),
        lambda a, b: gradc.concat([a[:, 1:], b[:, :1]], axis=1),
        lambda a, b: gradc.max(a, axis=1, keepdims=True) * b,
        lambda a, b: gradc.where(a > b, a * b, b / 3),
        lambda a, b: gradc.cumsum(a[::-1], axis=0) - b,
        lambda a, b: gradc.mean(a, axis=0) + b,
    ]
    chosen = [steps[i] for i in random.integers(len(steps), size=6)]
    places = random.integers(1, 3, size=6)

    def program(x, y):
        values = [x, y]
        for step, back in zip(chosen, places, strict=True):
            values.append(step(values[-1], values[-back]))
        return values[-1]

    check_grads(program, [random.uniform(0.2, 1, (3, 3)), random.uniform(0.2, 1, (3, 3))])


def test_modes_agree_on_a_traced_graph():
    traced = trace(lambda x: gradc.logsumexp(gradc.tanh(x) @ gradc.tanh(x).T, axis=0), (matrix(3, 4),))
    (x,), (y,) = traced.graph.inputs, traced.graph.outputs
    tangent, cotangent = make_input(x.shape, x.dtype), make_input(y.shape, y.dtype)
    (slope,), (gradient,) = jvp_graph([y], [x], [tangent]), vjp_graph([y], [x], [cotangent])
    arrays = [matrix(3, 4), matrix(3, 4), matrix(3)]
    forward, reverse = evaluate(Graph((x, tangent, cotangent), (slope, gradient)), arrays)
    assert math.isclose(np.sum(forward * arrays[2]), np.sum(reverse * arrays[1]), rel_tol=1e-12)


def test_every_pair_of_modes_gives_the_same_second_derivative():
    def f(x):
        return gradc.sum(gradc.exp(x[:, None] * x) / (1 + x))

    x = matrix(3)
    found = [outer(inner(f))(x) for outer, inner in itertools.product((gradc.jacfwd, gradc.jacrev), repeat=2)]
    for other in found[1:]:
        np.testing.assert_allclose(found[0], other, rtol=1e-12)
