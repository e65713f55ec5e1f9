"""Jacobians and vmap against NumPy and numerical derivatives: trees, shapes, axes, every operation batched, errors."""

from __future__ import annotations

import numpy as np
import pytest

import gradc
from gradc import grad, hessian, jacfwd, jacrev
from gradc.check import numdiff
from gradc.errors import ShapeError, TraceError
from gradc.jacobians import vmap
from gradc.trace import trace

x3 = np.array([0.5, 1.0, 2.0])


def close(found, expected, tolerance=1e-12):
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def raised(kind, function, *args):
    with pytest.raises(kind) as caught:
        function(*args)
    assert "test_jacobians.py" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("jacobian", [jacrev, jacfwd])
def test_jacobians(jacobian):
    a = np.arange(6.0).reshape(2, 3)
    close(jacobian(lambda x: a @ x)(x3), a)
    close(jacobian(lambda x: x * x)(x3), np.diag(2 * x3))
    assert jacobian(lambda x: gradc.outer(x, x))(x3).shape == (3, 3, 3)
    close(jacobian(lambda x: gradc.sum(x**2))(x3), 2 * x3)
    close(jacobian(lambda x: x[:0])(x3), np.zeros((0, 3)))
    close(jacobian(lambda x: np.ones(2))(x3), np.zeros((2, 3)))
    first, second = jacobian(lambda x, y: x @ y, argnums=(0, 1))(a, x3)
    assert (first.shape, second.shape) == ((2, 2, 3), (2, 3))
    tree = jacobian(lambda p: {"s": p["u"] * p["v"], "t": gradc.sum(p["u"])})({"u": x3, "v": np.array(2.0)})
    close(tree["s"]["u"], 2 * np.eye(3))
    close(tree["s"]["v"], x3)
    close(tree["t"]["u"], np.ones(3))
    assert tree["t"]["v"] == 0
    rows, rest = jacobian(lambda x: (x * 3, x), has_aux=True)(x3)
    close(rows, 3 * np.eye(3))
    close(rest, x3)


def test_jacobians_are_one_graph_whatever_the_size():
    small, large = (
        len(trace(jacrev(lambda x: gradc.softmax(x @ x.T, axis=-1)), (np.ones((n, n)),)).graph.values) for n in (2, 6)
    )
    assert small == large


def test_jacobians_of_every_structural_operation():
    def f(x):
        index = np.array([[1, 0], [2, 2], [0, 1]])
        parts = [
            gradc.take_along_axis(x, index, axis=1)[::-1],
            gradc.cumsum(x, axis=0)[:, 1:],
            gradc.pad(x, ((0, 0), (1, 0)))[:, :2] * gradc.max(x, axis=1, keepdims=True),
            gradc.concat([x[:, :1], x[:1, :].T], axis=1),
            gradc.where(x > 0.9, gradc.prod(x), 2.0)[:, :2],
            gradc.broadcast_to(gradc.einsum("ij,kj->ik", x, x)[:, :1], (3, 2)),
        ]
        return gradc.stack(parts)

    x = np.random.default_rng(0).uniform(0.5, 1.5, (3, 3))
    expected = numdiff(f, x)
    for jacobian in (jacrev, jacfwd):
        close(jacobian(f)(x), expected, 1e-8)


def test_hessian():
    close(hessian(lambda x: gradc.prod(x))(x3), [[0, 2, 1], [2, 0, 0.5], [1, 0.5, 0]])
    xx, xy = hessian(lambda x, y: gradc.sum(x * x * y), argnums=(0, 1))(x3, x3)[0]
    close(xx, np.diag(2 * x3))
    close(xy, np.diag(2 * x3))


# vmap.


def test_vmap():
    a = np.arange(6.0).reshape(2, 3)
    close(vmap(lambda x: x * gradc.sum(x))(a), a * a.sum(1, keepdims=True))
    close(vmap(lambda x, y: x @ y, in_axes=(0, None))(a, x3), a @ x3)
    close(vmap(lambda x, y: x @ y, in_axes=(1, None))(a, np.ones(2)), a.sum(0))
    close(vmap(lambda x: x * 2, in_axes=1, out_axes=1)(a), a * 2)
    close(vmap(lambda x: np.ones(2))(a), np.ones((2, 2)))
    close(vmap(lambda t: t["x"] + t["y"], in_axes=({"x": 0, "y": None},))({"x": a, "y": x3}), a + x3)
    pair = vmap(lambda x: (x, gradc.sum(x)), out_axes=(1, 0))(a)
    close(pair[0], a.T)
    close(pair[1], a.sum(1))
    close(vmap(vmap(lambda x, y: x * y, in_axes=(None, 0)), in_axes=(0, None))(x3, x3), np.outer(x3, x3))
    close(vmap(lambda x, i: gradc.take(x, i, axis=0))(a, np.array([2, 0])), [2, 3])
    close(vmap(grad(lambda x: gradc.sum(gradc.sin(x))))(a), np.cos(a))
    close(grad(lambda w: gradc.sum(vmap(lambda x: gradc.tanh(x @ w))(a)))(x3), ((1 - np.tanh(a @ x3) ** 2)[:, None] * a).sum(0))


def test_vmap_errors():
    raised(ShapeError, vmap(lambda x, y: x), np.ones(2), np.ones(3))
    raised(ShapeError, vmap(lambda x: x, in_axes=None), np.ones(2))
    raised(ShapeError, vmap(lambda x: x, in_axes=3), np.ones(2))
    raised(TraceError, vmap(lambda x, y: x, in_axes=(0,)), np.ones(2), np.ones(2))
    raised(TraceError, vmap(lambda x: x, out_axes=None), np.ones(2))
