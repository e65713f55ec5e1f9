"""What derivatives read of the forward where they would sum a product again, with its numbers against float64."""

from __future__ import annotations

import functools

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import kernels  # noqa: E402
from either import library, scores  # noqa: E402
from kernels import LARGE_PRODUCTS, on, tensor  # noqa: E402

import gradc  # noqa: E402

pytestmark = pytest.mark.triton
check = functools.partial(kernels.check, device=LARGE_PRODUCTS)


def as_float32(x):
    return x.to(torch.promote_types(x.dtype, torch.float32)) if isinstance(x, torch.Tensor) else x.astype("float32")


def like(x, other):
    return x.to(other.dtype) if isinstance(x, torch.Tensor) else x.astype(other.dtype)


def softmax(s):
    return torch.softmax(s, -1) if library(s) is torch else gradc.softmax(s, axis=-1)


def plain(q, k, v):
    return softmax(scores(q, k)) @ v


def in_float32_and_back(q, k, v):
    """As model libraries write it: the weights in float32, rounded before they meet the values."""
    return like(softmax(as_float32(scores(q, k))), v) @ v


def by_log_sum_exp(q, k, v):
    s = scores(q, k)
    total = torch.logsumexp(s, -1, keepdim=True) if library(s) is torch else gradc.logsumexp(s, axis=-1, keepdims=True)
    return library(s).exp(s - total) @ v


def selected(q, k, v, kept):
    """What dropout does, with the mask given."""
    return library(q).where(kept, softmax(scores(q, k)) / 0.9, 0.0) @ v


def transposed(q, k, v):
    """The keys' heads beside the width: the output's axes stand in another order than the product's."""
    q, k, v = (x.permute(0, 2, 1, 3) if library(x) is torch else gradc.permute_dims(x, (0, 2, 1, 3)) for x in (q, k, v))
    out = plain(q, k, v)
    return out.permute(0, 2, 1, 3) if library(out) is torch else gradc.permute_dims(out, (0, 2, 1, 3))


def twice(q, k, v):
    """The weights are used by two products; each output has its own row sums."""
    p = softmax(scores(q, k))
    return p @ v, p @ (v * 2.0 + 1.0)


def of_something_else(q, k, v):
    """The derivative of the sum of squared weights has the same shape, and reads no output."""
    p = softmax(scores(q, k))
    return p @ v, (p * p).sum(-1)


def shifted(q, k, v):
    """No softmax at all: what is subtracted of a row is another function of the query, with a gradient of its own."""
    return library(q).exp(scores(q, k) - (q * q).sum(-1)[..., None]) @ v


FUNCTIONS = [plain, in_float32_and_back, by_log_sum_exp, shifted, selected, transposed, twice, of_something_else]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_right_forward_and_backward(function, dtype):
    arrays = [tensor(1, 2, 37, 16, seed=seed, dtype=dtype) for seed in range(3)]
    if function is selected:
        arrays.append(tensor(1, 2, 37, 37, seed=4, dtype=torch.bool))
    check(function, function, *arrays, factor=16 if dtype.itemsize == 2 else 64, wrt=(0, 1, 2))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("function", [plain, in_float32_and_back, transposed], ids=lambda f: f.__name__)
def test_the_keys_are_gone_over_once_by_each_kernel(function, dtype):
    shape = (4, 2048, 16, 64) if function is transposed else (4, 16, 2048, 64)
    array = gradc.spec(shape, dtype)
    low = gradc.compile(function).lower(array, array, array, device="H200")
    assert (low.cost.forward.launches, low.cost.backward.launches) == (1, 2)
    assert "passes" not in low.explain()
    assert low.cost.bytes < 292e6
    assert all(kernel.source.count("\n    for ") == 1 for kernel in low.kernels)


@pytest.mark.parametrize("function", [by_log_sum_exp, shifted], ids=lambda f: f.__name__)
def test_row_sums_of_the_backward_come_from_the_output(function):
    """Where no quotient shows it: the weights times their cotangents, summed over the keys, are the output times its own."""
    array = gradc.spec((4, 16, 2048, 64), "bfloat16")
    low = gradc.compile(function).lower(array, array, array, device="H200")
    backward = low.kernels[-2]
    assert "out" in {read.name for read in backward.reads}
    assert backward.source.count("\n    for ") == 1


def test_in_float32_the_output_is_that_of_rounded_weights():
    """Rounding before or after the division is as far off: both are within an epsilon of the weights of the exact result."""
    q, k, v = (tensor(1, 1, 64, 16, seed=seed, dtype=torch.bfloat16) for seed in range(3))
    exact = in_float32_and_back(q.double(), k.double(), v.double())
    ours = on(LARGE_PRODUCTS, gradc.compile(in_float32_and_back, backend="interpret"))(q, k, v)
    theirs = in_float32_and_back(q, k, v)
    error = [(x.double() - exact).abs().mean() for x in (ours, theirs)]
    assert error[0] <= error[1]
