"""Products inside reductions: never stored, computed again by each kernel that reads them, right at every shape and dtype.

The functions are plain mathematics; the reference is the same text run by PyTorch in float64.
"""

from __future__ import annotations

import functools
import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import kernels  # noqa: E402
from either import library, scores, weights  # noqa: E402
from kernels import LARGE_PRODUCTS, on, tensor  # noqa: E402

import gradc  # noqa: E402

check = functools.partial(kernels.check, device=LARGE_PRODUCTS)
FULL = {"batch": 4, "heads": 16, "length": 2048, "width": 64}


def plain(q, k, v):
    return weights(scores(q, k)) @ v


def causal(q, k, v):
    lib = library(q)
    masked = lib.arange(q.shape[-2])[:, None] >= lib.arange(k.shape[-2])[None, :]
    return weights(lib.where(masked, scores(q, k), -math.inf)) @ v


def sloped(q, k, v, slope):
    lib = library(q)
    distance = lib.arange(q.shape[-2])[:, None] - lib.arange(k.shape[-2])[None, :]
    return weights(scores(q, k) - slope[:, None, None] * distance) @ v


def biased(q, k, v, bias):
    return weights(scores(q, k) + bias) @ v


def at_distances(q, k, v, table):
    """A learned number for each distance up to 8, and one for all beyond."""
    lib = library(q)
    apart = lib.clip(lib.arange(k.shape[-2])[None, :] - lib.arange(q.shape[-2])[:, None], -8, 8) + 8
    bias = table[apart] if lib is torch else gradc.take(table, apart, axis=0)
    return weights(scores(q, k) + (bias.permute(2, 0, 1) if lib is torch else gradc.permute_dims(bias, (2, 0, 1)))) @ v


def scaled(q, k, v, temperature):
    return weights(scores(q, k) * temperature[:, None, None]) @ v


def selected(q, k, v, allowed):
    return weights(library(q).where(allowed, scores(q, k), -math.inf)) @ v


def logistic(q, k, v):
    return 1 / (1 + library(q).exp(-scores(q, k))) @ v


def grouped(q, k, v):
    heads, shared = q.shape[1], k.shape[1]
    split = q.reshape(q.shape[0], shared, heads // shared, *q.shape[2:])
    return plain(split, k[:, :, None], v[:, :, None]).reshape(q.shape[0], heads, q.shape[2], v.shape[-1])


def kernel_density(x, y):
    squares = (x * x).sum(-1)[:, None] + (y * y).sum(-1)[None, :] - 2 * (x @ y.mT)
    return library(x).exp(-0.1 * squares).sum(-1)


def narrow_network(x, w1, w2):
    return library(x).tanh(x @ w1) @ w2


def heads(length=65, keys=None, width=16, values=None, batch=1, count=2, dtype=torch.float32):
    keys, values = keys or length, values or width
    shapes = ((length, width), (keys, width), (keys, values))
    return [tensor(batch, count, *shape, dtype=dtype, seed=i) for i, shape in enumerate(shapes)]


VARIANTS = {
    plain: lambda: heads(),
    causal: lambda: heads(),
    sloped: lambda: [*heads(), tensor(2, seed=3)],
    biased: lambda: [*heads(batch=2), tensor(2, 65, 65, seed=3)],
    at_distances: lambda: [*heads(length=33), tensor(17, 2, seed=3)],
    scaled: lambda: [*heads(batch=2), tensor(2, seed=3)],
    logistic: lambda: heads(),
    grouped: lambda: [tensor(2, 4, 65, 16), tensor(2, 2, 65, 16, seed=1), tensor(2, 2, 65, 16, seed=2)],
    kernel_density: lambda: [tensor(70, 16), tensor(90, 16, seed=1)],
    narrow_network: lambda: [tensor(300, 16), tensor(16, 400, seed=1), tensor(400, 24, seed=2)],
}


@pytest.mark.triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("function", VARIANTS, ids=lambda f: f.__name__)
def test_right_forward_and_backward(function, dtype):
    arrays = [x.to(dtype) for x in VARIANTS[function]()]
    # The gradient of a slope is 17, a sum of terms that add up to 5400 in magnitude: an error of 1.4e-4 is a fifth of an
    # epsilon of what is summed. (PyTorch's float32 is off by 5e-5.)
    exact = 256 if function is sloped else 64
    check(function, function, *arrays, factor=16 if dtype == torch.bfloat16 else exact)


SHAPES = [
    {"length": 1, "keys": 17}, {"length": 17, "keys": 1}, {"length": 17, "keys": 65}, {"width": 64, "length": 33}, {"width": 80, "length": 33},
    {"width": 128, "length": 20}, {"width": 256, "length": 20}, {"width": 80, "values": 24, "length": 33}, {"batch": 0, "length": 33}, {"count": 1, "length": 33},
]  # fmt: skip


@pytest.mark.triton
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_lengths_and_widths(shape, dtype):
    check(causal, causal, *heads(**shape, dtype=dtype), factor=16 if dtype == torch.float16 else 64)


@pytest.mark.triton
@pytest.mark.parametrize("layout", ["strided", "transposed", "expanded"])
def test_arrays_lie_anyhow(layout):
    check(plain, plain, *heads(33), layout=layout, cotangent_layout="transposed", factor=64)


@pytest.mark.triton
@pytest.mark.parametrize("shape", [(17, 3), (65, 16)], ids=str)
def test_what_a_sum_is_placed_in_is_not_summed_over(shape):
    """All of a product summed, in a corner of zeros: the axes of the result stand beside the summed ones, not among them."""
    check(
        lambda x: gradc.pad(gradc.mean(x @ x.mT, keepdims=True), ((2, 0), (0, 1))),
        lambda x: torch.nn.functional.pad((x @ x.mT).mean((0, 1), keepdim=True), (0, 1, 2, 0)),
        tensor(*shape),
        factor=64,
    )


@pytest.mark.triton
@pytest.mark.parametrize("rows", [33, 200])
def test_a_running_sum_of_products_is_not_cut_into_tiles(rows):
    """A program goes along all of it: the next tile of rows would begin again at zero."""
    arrays = tensor(rows, 4), tensor(4, 40, seed=1), tensor(rows, 4, seed=2), tensor(4, 40, seed=3)
    check(
        lambda a, b, c, d: gradc.cumsum(a @ b + c @ d, axis=0),
        lambda a, b, c, d: (a @ b + c @ d).cumsum(0),
        *arrays,
        factor=64,
    )

    def squared(x):
        sums = x.cumsum(0) if isinstance(x, torch.Tensor) else gradc.cumsum(x, axis=0)
        return sums @ (sums.mT @ sums[:, :4]) * 1e-3

    check(squared, squared, tensor(rows, 33), factor=64)


@pytest.mark.triton
def test_a_row_masked_throughout_is_nan_and_leaves_the_others_alone():
    allowed = tensor(1, 2, 65, 65, dtype=torch.bool, seed=4)
    allowed[:, :, 3] = False
    allowed[:, :, 7, 1:] = False
    q, k, v = heads()
    out = on(LARGE_PRODUCTS, gradc.compile(selected, backend="interpret"))(q, k, v, allowed)
    exact = selected(q.double(), k.double(), v.double(), allowed)
    assert torch.isnan(out[:, :, 3]).all()
    assert torch.allclose(out.double(), exact, atol=1e-5, equal_nan=True)


@pytest.mark.triton
def test_infinities_and_nans_are_those_of_the_formula():
    q, k, v = heads()
    q[0, 0, 5, 3] = math.nan
    k[0, 1, 9, :] = math.inf
    v[0, 0, 2, 2] = -math.inf
    out = on(LARGE_PRODUCTS, gradc.compile(plain, backend="interpret"))(q, k, v)
    exact = plain(q.double(), k.double(), v.double())
    assert torch.allclose(out.double(), exact, atol=1e-5, equal_nan=True)


# What the schedules are -----------------------------------------------------------------------------------------------


def lowered(function, *extra, **sizes):
    size = FULL | sizes
    array = gradc.spec((size["batch"], size["heads"], size["length"], size["width"]), size.get("dtype", "bfloat16"))
    return gradc.compile(function).lower(array, array, array, *extra)


QUADRATIC = FULL["length"] ** 2

LAUNCHES = [
    (plain, (), 3), (causal, (), 3), (logistic, (), 3), (grouped, (), 3), (sloped, (gradc.spec((16,), "float32"),), 4),
    (scaled, (gradc.spec((16,), "float32"),), 4), (biased, (gradc.spec((16, 1, 2048), "float32"),), 4),
]  # fmt: skip


@pytest.mark.parametrize(("function", "extra", "launches"), LAUNCHES, ids=lambda x: getattr(x, "__name__", ""))
def test_one_kernel_forward_two_or_three_backward_and_nothing_quadratic(function, extra, launches):
    low = lowered(function, *extra)
    assert low.cost.forward.launches == 1
    assert low.cost.launches <= launches
    arrays = [*low.saved, *(buffer for kernel in low.kernels for buffer in (*kernel.reads, *kernel.writes))]
    assert arrays
    assert all(math.prod(array.shape) < QUADRATIC * FULL["heads"] for array in arrays)


def test_what_is_read_from_a_small_table_is_read_again_and_by_one_loop():
    """Neither kept for the backward nor, in the forward's estimate, a reason to go over the keys twice."""
    low = lowered(at_distances, gradc.spec((17, 16), "bfloat16"))
    assert low.cost.forward.launches == 1
    assert {array.shape for array in low.saved} <= {(4, 16, 2048, 64), (4, 16, 2048), (17, 16)}
    forward = low.explain().split("backward:")[0]
    assert "passes" not in forward
    assert "contract rides along with max" in forward
    assert low.source.count("+ 17,") == len(low.kernels), "negative positions are wrapped once"


def test_the_owner_of_keys_and_values_is_one_kernel_and_that_of_queries_another():
    writes = [{buffer.name for buffer in kernel.writes} for kernel in lowered(plain).kernels]
    assert {"dk", "dv"} <= writes[2]
    assert "dq" in writes[1]


def test_a_gradient_as_large_as_the_scores_is_all_that_is():
    low = lowered(biased, gradc.spec((16, 2048, 2048), "bfloat16"))
    large = [buffer.name for kernel in low.kernels for buffer in kernel.writes if math.prod(buffer.shape) >= 16 * QUADRATIC]
    assert large == ["dbias"]


def test_scores_that_are_asked_for_are_stored():
    low = lowered(lambda q, k, v: (scores(q, k), plain(q, k, v)))
    assert any(math.prod(buffer.shape) >= QUADRATIC for kernel in low.kernels for buffer in kernel.writes)


def test_a_product_compared_with_its_own_maximum_is_kept():
    """Computed again it might differ in the last bit, and equal nothing."""

    def where_largest(x, y):
        s = x @ y.mT
        return gradc.sum(gradc.where(s == gradc.max(s, axis=-1, keepdims=True), s, 0.0), axis=-1)

    def largest(function):
        array = gradc.spec((4096, 64), "bfloat16")
        low = gradc.compile(function).lower(array, array, wrt=())
        return max(math.prod(buffer.shape) for kernel in low.kernels for buffer in kernel.writes)

    assert largest(where_largest) == 4096 * 4096
    assert largest(kernel_density) < 4096 * 64


@pytest.mark.triton
@pytest.mark.slow
@pytest.mark.parametrize("width", [16, 64, 80, 128, 256])
def test_no_spills_and_tensor_cores(width):
    for function in (plain, causal, sloped):
        low = lowered(function, *([gradc.spec((16,), "bfloat16")] if function is sloped else []), width=width)
        for kernel, binary in zip(low.kernels, low.build("sm_90"), strict=True):
            assert binary.spills == 0, (function.__name__, kernel.name)
            assert ("HGMMA" in binary.sass) == ("tl.dot" in kernel.source)


@pytest.mark.triton
@pytest.mark.slow
@pytest.mark.parametrize("width", [64, 128])
def test_no_spills_in_float32(width):
    assert all(binary.spills == 0 for binary in lowered(causal, width=width, dtype="float32").build("sm_90"))


@pytest.mark.triton
@pytest.mark.parametrize("function", [causal, biased, logistic], ids=lambda f: f.__name__)
def test_no_less_accurate_than_the_same_formula_in_pytorch_at_the_same_precision(function):
    """PyTorch in bfloat16 rounds every intermediate; a hand-written kernel only the operands of its second product."""
    arrays = [x.to(torch.bfloat16) for x in VARIANTS[function]()]
    cotangent = tensor(*arrays[0].shape, seed=9).to(torch.bfloat16)

    def results(run, dtype):
        leaves = [x.to(dtype).requires_grad_() for x in arrays]
        out = run(*leaves)
        return [out.detach(), *torch.autograd.grad(out, leaves, cotangent.to(dtype))]

    exact = results(function, torch.float64)
    ours, theirs = (
        results(on(LARGE_PRODUCTS, gradc.compile(function, backend="interpret")), torch.bfloat16),
        results(function, torch.bfloat16),
    )
    for got, peer, want in zip(ours, theirs, exact, strict=True):
        assert (got - want).norm() <= 1.05 * (peer - want).norm()
