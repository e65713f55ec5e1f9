"""The transforms as JAX defines them: argument order, trees, auxiliary results, errors; nesting in any order."""

from __future__ import annotations

import math

import numpy as np
import pytest

import gradc
from gradc import grad, jvp, linearize, stop_gradient, value_and_grad, vjp
from gradc.errors import DTypeError, ShapeError, TraceError
from gradc.ir import Value
from gradc.trace import trace
from gradc.transforms import run_traced

x3 = np.array([0.5, 1.0, 2.0])


def close(found, expected, tolerance=1e-12):
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


# grad and value_and_grad.


def test_grad_of_a_scalar_function():
    close(grad(lambda x: gradc.sum(gradc.sin(x)))(x3), np.cos(x3))
    value, gradient = value_and_grad(lambda x: gradc.sum(x * x))(x3)
    close(value, np.sum(x3**2))
    close(gradient, 2 * x3)
    assert gradient.dtype == np.float64


def test_python_numbers_are_float32_arrays():
    slope = grad(lambda x: x**3)(2.0)
    assert slope.dtype == np.float32
    assert slope == 12
    assert grad(lambda x: 1.0)(2.0) == 0


def test_argnums_and_keyword_arguments():
    def f(x, y, *, scale):
        return gradc.sum(x * y * y) * scale

    dx = grad(f)(x3, x3 + 1, scale=2.0)
    close(dx, 2 * (x3 + 1) ** 2)
    dy, again = grad(f, argnums=(1, 0))(x3, x3 + 1, scale=2.0)
    close(dy, 4 * x3 * (x3 + 1))
    close(again, dx)
    close(grad(f, argnums=-1)(x3, x3 + 1, scale=2.0), dy)
    (only,) = grad(f, argnums=(0,))(x3, x3 + 1, scale=2.0)
    close(only, dx)


def test_trees_of_arrays():
    def loss(parameters, data):
        (w, b), scale = parameters["layer"], parameters["scale"]
        return gradc.sum((data @ w + b) * scale), {"rows": data.shape[0]}

    parameters = {"layer": (np.ones((3, 2)), np.zeros(2)), "scale": np.array(2.0)}
    (value, rest), gradients = value_and_grad(loss, has_aux=True)(parameters, np.ones((4, 3)))
    assert value == 48
    assert rest["rows"] == 4
    close(gradients["layer"][0], np.full((3, 2), 8.0))
    close(gradients["layer"][1], [8.0, 8.0])
    assert gradients["scale"] == 24
    gradients, rest = grad(loss, has_aux=True)(parameters, np.ones((4, 3)))
    assert set(gradients) == {"layer", "scale"}
    assert rest["rows"] == 4


def test_the_wrapped_function_keeps_its_name():
    def energy(position):
        """The energy."""
        return gradc.sum(position)

    assert grad(energy).__name__ == "energy"
    assert grad(energy).__doc__ == "The energy."


def test_torch_in_torch_out():
    torch = pytest.importorskip("torch")
    gradient = grad(lambda x: gradc.sum(x**2))(torch.tensor([1.0, 2.0]))
    assert isinstance(gradient, torch.Tensor)
    assert gradient.tolist() == [2, 4]
    half = grad(lambda x: gradc.sum(x.astype("float32") ** 2))(torch.tensor([1.0, 2.0], dtype=torch.bfloat16))
    assert half.dtype == torch.bfloat16


def test_a_gradient_of_a_tensor_is_on_the_tape():
    torch = pytest.importorskip("torch")
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    gradient = grad(lambda x: gradc.sum(x**3))(x)
    assert gradient.tolist() == [3, 12]
    gradient.sum().backward()
    assert x.grad.tolist() == [6, 12]


# Errors.


def raised(kind, function, *args):
    with pytest.raises(kind) as caught:
        function(*args)
    assert "test_transforms.py" in str(caught.value)
    return str(caught.value)


def test_errors_say_what_to_do():
    assert "returned shape (3,)" in raised(ShapeError, grad(lambda x: x * 2), x3)
    assert "jacrev" in raised(ShapeError, grad(lambda x: x * 2), x3)
    assert "i64[3]" in raised(DTypeError, grad(lambda x: gradc.sum(x)), np.arange(3))
    raised(DTypeError, grad(lambda x: x), 3)
    raised(DTypeError, grad(lambda x: gradc.sum(gradc.astype(x, "int32"))), x3)
    assert "argnums" in raised(TraceError, grad(lambda x: gradc.sum(x), argnums=1), x3)
    assert "str" in raised(TraceError, grad(lambda x: 1.0), "text")
    assert "has_aux" in raised(TraceError, grad(lambda x: (gradc.sum(x), x)), x3)
    assert "pair" in raised(TraceError, grad(lambda x: gradc.sum(x), has_aux=True), x3)
    raised(TraceError, lambda: jvp(lambda x: x, x3, x3))


def test_cotangents_and_tangents_have_to_fit():
    _, pullback = vjp(lambda x: (x, gradc.sum(x)), x3)
    raised(TraceError, pullback, x3)
    raised(ShapeError, pullback, (x3[:2], 1.0))
    raised(DTypeError, pullback, (x3.astype(np.float32), 1.0))
    raised(ShapeError, lambda: jvp(lambda x: x, (x3,), (x3[:2],)))
    raised(DTypeError, lambda: jvp(lambda x: x, (x3,), (np.ones(3, int),)))
    raised(TraceError, lambda: jvp(lambda x: x, (x3,), (x3, x3)))
    raised(DTypeError, lambda: vjp(lambda x: x, np.arange(3)))


def test_a_branch_on_a_value_is_refused():
    raised(TraceError, grad(lambda x: x if x > 0 else -x), 1.0)


# vjp, jvp, linearize.


def test_vjp():
    (product, total), pullback = vjp(lambda x, y: (x * y, gradc.sum(x)), x3, x3 + 1)
    close(product, x3 * (x3 + 1))
    close(total, x3.sum())
    dx, dy = pullback((np.ones(3), 2.0))
    close(dx, x3 + 3)
    close(dy, x3)
    _, pullback, rest = vjp(lambda x: (x * 2, {"n": x.shape[0]}), x3, has_aux=True)
    assert rest["n"] == 3
    close(pullback(x3)[0], 2 * x3)


def test_jvp_and_linearize():
    out, slope = jvp(lambda x, y: x * y, (x3, 2 * x3), (np.ones(3), np.zeros(3)))
    close(out, 2 * x3**2)
    close(slope, 2 * x3)
    out, push = linearize(lambda x: gradc.sin(x), x3)
    for tangent in (x3, -x3):
        close(push(tangent), np.cos(x3) * tangent)
    out, slope, rest = jvp(lambda x: (x * x, x), (x3,), (np.ones(3),), has_aux=True)
    close(slope, 2 * x3)
    close(rest, x3)
    _, nothing = jvp(lambda x: np.ones(2), (x3,), (x3,))
    close(nothing, [0, 0])


def test_stop_gradient_of_a_tree():
    close(grad(lambda x: gradc.sum(stop_gradient({"a": x})["a"] * x))(x3), x3)


# Nesting.


def test_orders_of_derivative():
    f = lambda x: gradc.exp(2 * x)
    for order in range(1, 6):
        f = grad(f)
        close(f(np.array(0.5)), 2**order * math.e)


def test_perturbations_are_not_confused():
    close(grad(lambda x: x * grad(lambda y: x + y)(1.0))(np.array(1.0)), 1)
    close(grad(lambda x: x * grad(lambda y: x * y)(1.0))(np.array(1.5)), 3)
    close(grad(lambda x: grad(lambda y: grad(lambda z: x * y * z * z)(y))(x))(np.array(2.0)), 16)  # 8x
    inner = lambda x: jvp(lambda y: x * y, (1.0,), (1.0,))[1]
    close(jvp(lambda x: x * inner(x), (np.array(3.0),), (np.array(1.0),))[1], 6)


def test_an_inner_function_may_return_its_variable_and_the_outer_one():
    def f(x):
        (a, b), slopes = jvp(lambda y: (y * x, x * x), (x,), (1.0 * x,))
        return a + b + slopes[0] + slopes[1]

    close(grad(f)(np.array(3.0)), 18)  # x² + x² + x² + 0


def test_reverse_over_forward_over_reverse():
    def f(x):
        return gradc.sum(gradc.sin(x) * x)

    def along(x):
        return gradc.sum(jvp(grad(f), (x,), (x,))[1])

    hessian_times_x = 2 * np.cos(x3) - x3 * np.sin(x3)
    close(along(x3), np.sum(hessian_times_x * x3))
    close(grad(along)(x3), hessian_times_x + x3 * (-3 * np.sin(x3) - x3 * np.cos(x3)))


def test_closures_over_arrays_and_values():
    weights = np.array([1.0, 2.0, 3.0])
    close(grad(lambda x: gradc.sum(x * weights))(x3), weights)
    close(grad(lambda w: gradc.sum(grad(lambda x: gradc.sum(x * x * w))(x3)))(weights), 2 * x3)


def test_inside_a_trace_they_build_values():
    def f(x):
        value, gradient = value_and_grad(lambda y: gradc.sum(y * y))(x)
        assert isinstance(value, Value)
        assert isinstance(gradient, Value)
        return gradient + value

    traced = trace(f, (x3,))
    assert {"gradient", "dx"} & {value.name for value in traced.graph.values}
    assert len(traced.graph.inputs) == 1


def test_training_step():
    """Gradient descent written with value_and_grad inside one traced function."""
    data = np.random.default_rng(0).standard_normal((20, 3))
    target = data @ np.array([1.0, -2.0, 0.5])

    def steps(w):
        loss = None
        for _ in range(30):
            loss, slope = value_and_grad(lambda w: gradc.mean((data @ w - target) ** 2))(w)
            w = w - 0.1 * slope
        return loss, w

    loss, w = run_traced(steps, (np.zeros(3),), {})
    assert loss < 0.5
    assert np.linalg.norm(w - [1, -2, 0.5]) < 0.6


# An array that the running trace does not trace, as an argument that is not differentiated or mapped.


def scaled(x, w):
    """Uses of `w` that NumPy would refuse, or compute once for all, were it not traced."""
    return x * w.at[0].set(3.0) + w.sum(axis=0, keepdims=True) * 2 + gradc.sum(w * w)


BESIDE = {
    "grad": lambda x, w: grad(lambda x, w: gradc.sum(scaled(x, w) ** 2))(x, w),
    "grad of a keyword": lambda x, w: grad(lambda x, w: gradc.sum(scaled(x, w) ** 2))(x, w=w),
    "value_and_grad": lambda x, w: value_and_grad(lambda x, w: gradc.sum(scaled(x, w) ** 2))(x, {"w": w}["w"])[0],
    "jvp": lambda x, w: jvp(lambda x: scaled(x, w * 1.0 if isinstance(w, Value) else gradc.asarray(w)), (x,), (x,))[1],
    "jvp of everything": lambda x, w: jvp(scaled, (x, w), (x, x))[1],
    "vjp": lambda x, w: vjp(scaled, x, w)[1](x)[1],
    "linearize": lambda x, w: linearize(scaled, w, x)[1](x, x),
    "jacrev": lambda x, w: gradc.jacrev(scaled)(x, w),
    "jacfwd": lambda x, w: gradc.jacfwd(scaled)(x, w),
    "hessian": lambda x, w: gradc.hessian(lambda x, w: gradc.sum(scaled(x, w) ** 3))(x, w),
    "vmap": lambda x, w: gradc.vmap(scaled, in_axes=(0, None))(x, w),
    "compile": lambda x, w: gradc.compile(scaled)(x, w),
    "compile of a keyword": lambda x, w: gradc.compile(scaled)(x, w=w),
    "compile of a closure": lambda x, w: gradc.compile(lambda w: scaled(x, w))(w),
    "grad of compile": lambda x, w: grad(lambda x: gradc.sum(gradc.compile(scaled)(x, w)))(x),
    "compile of grad": lambda x, w: gradc.compile(grad(lambda x, w: gradc.sum(scaled(x, w) ** 2)))(x, w),
}


@pytest.mark.parametrize("way", BESIDE)
def test_an_array_beside_the_traced_ones_is_read_as_one_of_them(way):
    w = np.array([0.25, -1.5, 2.0])
    compiled, traced = gradc.compile(lambda x: BESIDE[way](x, w)), gradc.compile(BESIDE[way])
    close(compiled(x3), traced(x3, w))
    w[1] = 4.0  # elements are read at each call
    close(compiled(x3), traced(x3, w))


def test_a_static_array_of_a_nested_function_stays_itself():
    inner = gradc.compile(lambda x, order: x[order.tolist()], static_argnames="order")
    for call in (lambda x: inner(x, np.array([2, 0])), lambda x: inner(x, order=np.array([2, 0]))):
        close(gradc.compile(call)(x3), x3[[2, 0]])
