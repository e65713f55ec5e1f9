"""check_grads finds what is wrong and accepts what is right; numdiff differentiates by every scheme."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import gradc
from gradc.check import check_grads, numdiff
from gradc.errors import TraceError, UnsupportedError, VerificationError

point = np.array([[0.4, 1.3], [2.1, 0.7]])


def test_what_is_right_passes():
    check_grads(lambda x: gradc.exp(gradc.sin(x)), (point,), order=2)
    check_grads(lambda p: gradc.sum(p["w"] @ p["b"]), ({"w": point, "b": np.ones(2)},))
    check_grads(lambda x, n: x**n, (point, 3))
    check_grads(lambda x, i: gradc.take(x, i, axis=0), (point, np.array([1, 1, 0])))
    check_grads(lambda x: (x, gradc.argmax(x, axis=0), gradc.sum(x)), (point,))
    check_grads(lambda x: x * 2, (1.5,))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_arguments_are_taken_in_float64(dtype):
    check_grads(lambda x: gradc.tanh(x) / x, (point.astype(dtype),), rtol=1e-7)


def test_tolerances_follow_what_the_function_computes_in():
    check_grads(lambda x: gradc.sin(x.astype("float32")), (point,))
    check_grads(lambda x: gradc.sin(x.astype("bfloat16").astype("float32") * 1.0), (point,))


def test_torch_tensors():
    torch = pytest.importorskip("torch")
    check_grads(lambda x: gradc.sin(x), (torch.tensor(point),))


def test_large_arguments_are_sampled():
    check_grads(lambda x: gradc.sum(gradc.sin(x) * x), (np.linspace(0, 3, 20_000),))


def wrong_at_one_element(x):
    """Its derivative is right everywhere but at (1, 0), where half of it is hidden."""
    hidden = gradc.stop_gradient(x)
    place = np.array([[0.0, 0.0], [1.0, 0.0]])
    return gradc.sum(x * x * (1 - place) + x * hidden * place)


def test_the_first_element_that_differs_is_named():
    with pytest.raises(VerificationError) as caught:
        check_grads(wrong_at_one_element, (point,), modes=("rev",))
    text = str(caught.value)
    assert "argument x differs at index (1, 0)" in text
    assert "gradc gives 2.1," in text
    assert "numerical differentiation 4.2" in text
    with pytest.raises(
        VerificationError, match=r"forward-mode derivative of .*: the tangent of result 0 differs at index \(1,\)"
    ):
        check_grads(lambda x: gradc.stop_gradient(x) * gradc.asarray([0.0, 1.0]) + x, (point[0],), modes=("fwd",))


def test_a_wrong_second_derivative_is_found():
    def f(x):  # the slope is right, but made of a constant
        return gradc.sum(x * gradc.stop_gradient(x) * 2 - gradc.stop_gradient(x * x))

    check_grads(f, (point,), order=1)
    with pytest.raises(VerificationError, match="'"):
        check_grads(f, (point,), order=2)


def test_nan_agrees_only_with_nan():
    check_grads(lambda x: gradc.sqrt(x), (np.array([-1.0]),))
    with pytest.raises(VerificationError, match="numerical differentiation nan"):
        check_grads(lambda x: gradc.log(x), (np.array([-1.0]),))  # nan, though its slope 1/x is not


def test_wrong_arguments():
    with pytest.raises(TraceError, match="modes"):
        check_grads(gradc.sin, (point,), modes=("reverse",))
    with pytest.raises(TraceError, match="schemes"):
        numdiff(gradc.sin, point, scheme="middle")
    with pytest.raises(TraceError, match="one result"):
        numdiff(lambda x: (x, x), point)


@pytest.mark.parametrize(
    ("scheme", "auto", "given"),
    [("central", 1e-10, 1e-6), ("forward", 1e-7, 1e-3), ("backward", 1e-7, 1e-3), ("complex", 1e-14, 1e-14)],
)
def test_numdiff_schemes(scheme, auto, given):
    def f(x):
        return gradc.exp(x) * gradc.sin(x) / (1 + x * x)

    exact = gradc.jacfwd(f)(point)
    assert numdiff(f, point, scheme).shape == (2, 2, 2, 2)
    np.testing.assert_allclose(numdiff(f, point, scheme), exact, atol=auto)
    np.testing.assert_allclose(numdiff(f, point, scheme, step=1e-4 if scheme != "complex" else 1e-20), exact, atol=given)


def test_numdiff_shapes_and_one_sided_differences():
    assert numdiff(lambda x: gradc.sum(x), point).shape == (2, 2)
    assert numdiff(lambda x: x, 3.0).shape == ()
    assert numdiff(lambda x: x, np.zeros((0,))).shape == (0, 0)
    assert numdiff(gradc.abs, 0.0, "forward") == pytest.approx(1)
    assert numdiff(gradc.abs, 0.0, "backward") == pytest.approx(-1)
    assert numdiff(gradc.sin, np.float32(1.0)).dtype == np.float64


def test_complex_steps_refuse_what_is_not_analytic():
    assert numdiff(lambda x: gradc.where(x > 1, x * x, x), point, "complex")[1, 0, 1, 0] == pytest.approx(4.2)
    assert numdiff(lambda x: gradc.max(x, axis=1), point, "complex").sum() == pytest.approx(2)
    for function in (gradc.abs, gradc.erf, gradc.atan2):
        with pytest.raises(UnsupportedError, match="central"):
            numdiff(lambda x, f=function: f(x, 2.0) if f is gradc.atan2 else f(x), point, "complex")
