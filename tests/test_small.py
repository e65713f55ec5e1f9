"""Small products are summed like any other sum: results, one kernel for a small network, full precision, and the choice by cost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import gradc  # noqa: E402
from gradc.codegen.device import H200  # noqa: E402
from gradc.runtime.cache import DiskCache  # noqa: E402
from gradc.runtime.compile import program_of  # noqa: E402
from gradc.runtime.plan import make_plan  # noqa: E402
from gradc.runtime.policy import check_ptx  # noqa: E402
from tests.kernels import LARGE_PRODUCTS, check, tensor  # noqa: E402

pytestmark = pytest.mark.triton

NETWORK = [(21, 3), (3, 8), (8,), (8, 8), (8,), (8, 1)]


def network(x, w1, b1, w2, b2, w3):
    h = gradc.tanh(x @ w1 + b1)
    h = gradc.tanh(h @ w2 + b2)
    return (h @ w3)[:, 0]


def network_in_torch(x, w1, b1, w2, b2, w3):
    h = torch.tanh(x @ w1 + b1)
    return (torch.tanh(h @ w2 + b2) @ w3)[:, 0]


def step(x, *params):
    loss, grads = gradc.value_and_grad(lambda params: gradc.sum(network(x, *params) ** 2))(params)
    return loss, [p - 0.1 * g for p, g in zip(params, grads, strict=True)]


def specs(*shapes, dtype="float32"):
    return [gradc.spec(shape, dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_small_network(dtype):
    check(network, network_in_torch, *(tensor(*shape, dtype=dtype, seed=i) for i, shape in enumerate(NETWORK)), factor=64.0)


def test_forward_backward_and_update_of_a_small_network_are_one_kernel():
    low = gradc.compile(step).lower(*specs(*NETWORK), wrt=())
    assert low.cost.launches == 1
    assert "tl.dot(" not in low.source


def test_the_kernel_of_a_training_step_is_right():
    arrays = [tensor(*shape, seed=i) for i, shape in enumerate(NETWORK)]
    loss, updated = gradc.compile(backend="interpret")(step)(*arrays)
    exact = [array.double().requires_grad_() for array in arrays]
    want = (network_in_torch(*exact) ** 2).sum()
    slopes = torch.autograd.grad(want, exact[1:])
    torch.testing.assert_close(loss.double(), want.detach(), rtol=1e-5, atol=0)
    for got, before, slope in zip(updated, exact[1:], slopes, strict=True):
        torch.testing.assert_close(got.double(), before.detach() - 0.1 * slope, rtol=1e-5, atol=1e-5)


def test_operands_are_rounded_as_the_matrix_unit_would():
    """1 + 2⁻⁹ is 1 in bfloat16, so that the first row times the column is 0."""
    x, e = np.ones((2, 2)), np.array([[2.0**-9, 0], [0, 0.5]])
    arrays = [torch.from_numpy(a).to(torch.bfloat16) for a in (x, e, np.array([[1.0, 2.0], [-1.0, 3.0]]))]
    got = gradc.compile(backend="interpret")(lambda x, e, y: (x + e) @ y)(*arrays)
    np.testing.assert_array_equal(got.double().numpy(), [[0, 5], [-0.5, 6.5]])


@pytest.mark.parametrize("spelling", ["x @ w", "x @ w.T", "x.T @ w", "w @ x.T"])
def test_small_products_of_float32_are_not_rounded_to_tf32(spelling):
    """Triton takes some sums of products for a product of matrices, and then multiplies in TF32."""
    product = {
        "x @ w": lambda x, w: x @ w,
        "x @ w.T": lambda x, w: x @ w.T,
        "x.T @ w": lambda x, w: x.T @ w,
        "w @ x.T": lambda x, w: w @ x.T,
    }[spelling]
    shapes = [(16, 16), (16, 16)] if spelling != "x @ w" else [(64, 16), (16, 32)]
    low = gradc.compile(lambda x, w: gradc.tanh(product(gradc.tanh(x), w))).lower(*specs(*shapes))
    assert "tl.dot(" not in low.source
    assert [problem for binary in low.build("sm_90") for problem in check_ptx(binary.ptx)] == []


def test_large_products_use_the_matrix_unit():
    for side, small in ((32, True), (256, False)):
        surely, perhaps = H200.small_products
        assert (side**3 <= surely, side**3 > perhaps) == (small, not small)
        low = gradc.compile(lambda x, w: x @ w).lower(*specs((side, side), (side, side)))
        assert ("tl.dot(" in low.source) is not small


def test_products_in_between_are_weighed_by_the_launches_they_save():
    """Three layers in float32: with launches that cost nothing, the way that multiplies faster is taken."""
    shapes = [(64, 64), (64, 256), (256,), (256, 128), (128,), (128, 1)]
    dear, free = (
        gradc.compile(step).lower(*specs(*shapes), wrt=(), device=replace(H200, launch_seconds=seconds))
        for seconds in (5e-6, 0.0)
    )
    assert dear.cost.launches < free.cost.launches
    assert dear.cost.launches <= 5


def test_programs_of_devices_with_other_limits_are_kept_apart(tmp_path):
    """On disk, where a program is found by all that decides about it."""
    _, graph = program_of(lambda x, w: x @ w, (gradc.spec((32, 16)), gradc.spec((16, 32))), {})
    plans = [make_plan(graph, (), DiskCache(tmp_path), device) for device in (H200, LARGE_PRODUCTS, H200)]
    assert [cached for _, cached in plans] == [False, False, True]
    assert ["tl.dot(" in plan.source for plan, _ in plans] == [False, True, False]
