"""Values with the derivative of others, and numbers that must name something: in the reference, in graphs and in kernels."""

from __future__ import annotations

import numpy as np
import pytest

import gradc
from gradc import nn
from gradc.errors import ShapeError
from gradc.leaves import make_input
from gradc.markers import StraightThrough, Within, with_derivative_of
from gradc.normalise import normalise
from gradc.trace import trace

X = np.array([0.25, -1.5, 3.0])


def rounded(x):
    """round(x), differentiated as x³ is."""
    return with_derivative_of(gradc.round(x), x * x * x)


def test_a_value_has_the_derivatives_of_another():
    total = lambda x: gradc.sum(rounded(x))
    np.testing.assert_array_equal(gradc.compile(rounded)(X), np.round(X))
    np.testing.assert_allclose(gradc.grad(total)(X), 3 * X * X)
    np.testing.assert_allclose(gradc.jvp(rounded, (X,), (np.ones(3),))[1], 3 * X * X)
    np.testing.assert_allclose(gradc.grad(lambda x: gradc.sum(gradc.grad(total)(x)))(X), 6 * X)
    np.testing.assert_allclose(gradc.hessian(total)(X), np.diag(6 * X))
    np.testing.assert_allclose(gradc.vmap(gradc.grad(rounded))(X), 3 * X * X)
    np.testing.assert_allclose(gradc.compile(gradc.grad(total))(X), 3 * X * X)
    with pytest.raises(ShapeError, match="does not fit"):
        trace(lambda x: with_derivative_of(x, x[:2]), (X,))


def test_it_is_the_value_alone_where_nothing_is_left_to_differentiate():
    graph = trace(rounded, (X,)).graph
    assert any(isinstance(value.operation, StraightThrough) for value in normalise(graph, "before").values)
    assert [value.operation.name for value in normalise(graph, "after").values] == ["input", "round"]


LOOKUPS = {
    "cross_entropy": lambda index, x: nn.cross_entropy(x, index, reduction="none"),
    "cross_entropy, weighted": lambda index, x: nn.cross_entropy(x, index, x[0] * x[0], reduction="none"),
    "cross_entropy, smoothed": lambda index, x: nn.cross_entropy(x, index, label_smoothing=0.1),
    "nll_loss": lambda index, x: nn.nll_loss(x, index, reduction="none"),
    "embedding": lambda index, x: nn.embedding(index, x),
    "embedding, padded": lambda index, x: nn.embedding(index, x, 0),
    "one_hot": lambda index, x: nn.one_hot(index, 3),
}


@pytest.mark.parametrize("dtype", ["int64", "int32", "int8", "uint8"])
@pytest.mark.parametrize("name", LOOKUPS)
def test_a_number_that_names_nothing_is_an_error_on_the_reference(name, dtype):
    function, x = LOOKUPS[name], np.arange(9.0).reshape(3, 3)
    function(np.array([0, 2, 1], dtype), x)
    for bad in (3, 100) if dtype == "uint8" else (3, 100, -1, -3, -4, -101):
        index = np.array([0, bad, 1], dtype)
        for call in (function, gradc.compile(function), lambda index, x: gradc.vjp(lambda x: function(index, x) * x[0, 0], x)):
            with pytest.raises(ShapeError, match=f"(class|row) {bad} is out of bounds for 3") as caught:
                call(index, x)
            assert "test_markers.py" in str(caught.value)
            assert "numbered 0..2" in str(caught.value)


def test_what_is_ignored_need_not_be_a_class():
    x = np.arange(9.0).reshape(3, 3)
    for ignored in (-100, 255, 1):
        loss = nn.cross_entropy(x, np.array([0, ignored, 2]), ignore_index=ignored, reduction="none")
        assert np.array_equal(loss == 0, [False, True, False])
    with pytest.raises(ShapeError, match=r"class -100 [\s\S]* or 255 to be ignored"):
        nn.cross_entropy(x, np.array([0, -100, 2]), ignore_index=255)


@pytest.mark.triton
@pytest.mark.parametrize("name", LOOKUPS)
def test_a_number_that_names_nothing_gives_nan_in_a_kernel_and_in_its_derivative(name):
    torch = pytest.importorskip("torch")
    function = gradc.compile(backend="interpret")(LOOKUPS[name])
    for bad in (3, 100, -1, -3, -4, -101):
        x = torch.arange(9.0).reshape(3, 3).requires_grad_()
        out = function(torch.tensor([0, bad, 1]), x)
        if name == "one_hot":
            assert out.tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]
            continue
        if out.ndim:
            assert out.reshape(3, -1).isnan().all(1).tolist() == [False, True, False]
        else:
            assert out.isnan()
        (gradient,) = torch.autograd.grad(out.sum(), x)
        if not name.startswith("embedding"):  # a row that is not there has no place in a gradient
            assert gradient[1].isnan().any()
            assert name.endswith("weighted") or gradient[[0, 2]].isfinite().all()


@pytest.mark.triton
def test_an_index_is_counted_from_the_end_once():
    """-5 of four is out of bounds: it is not -5 + 4 + 4."""
    torch = pytest.importorskip("torch")
    x = torch.arange(8.0).reshape(4, 2).requires_grad_()
    for bad in (-5, -8, 4):
        index = torch.tensor([0, bad])
        with pytest.raises(ShapeError, match="out of bounds"):
            gradc.compile(lambda x, index: x[index], backend="numpy")(x, index)
        out = gradc.compile(lambda x, index: x[index], backend="interpret")(x, index)
        assert out.isnan().tolist() == [[False, False], [True, True]]
        (gradient,) = torch.autograd.grad(out.sum(), x)
        assert gradient.tolist() == [[1.0, 1.0], *[[0.0, 0.0]] * 3]
    assert gradc.compile(lambda x, index: x[index], backend="interpret")(x, torch.tensor([-4, -1]))[:, 0].tolist() == [0.0, 6.0]


def test_a_marker_says_what_it_is():
    index = make_input((3,), gradc.int64, "index")
    assert Within(5, "class", "5 classes", -100).parameters == "5 or -100"
    assert Within(5, "class", "5 classes").result(index) == ((3,), gradc.int64)
