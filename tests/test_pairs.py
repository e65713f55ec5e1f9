"""Sums over a short axis of two sets spread against each other (distances between points): computed again, never stored.

The functions are plain mathematics; the reference is the same text run by PyTorch in float64.
"""

from __future__ import annotations

import functools
import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import kernels  # noqa: E402
from either import library  # noqa: E402
from kernels import LARGE_PRODUCTS, force_loops, tensor  # noqa: E402

import gradc  # noqa: E402

pytestmark = pytest.mark.triton
check = functools.partial(kernels.check, device=LARGE_PRODUCTS)


def squares(x, y):
    difference = x[:, None, :] - y[None, :, :]
    return (difference * difference).sum(-1)


def gravity(x):
    difference = x[:, None, :] - x[None, :, :]
    squared = (difference * difference).sum(-1) + 1
    return (difference * (squared**-1.5)[..., None]).sum(1)


def potential(x, y):
    return (1 / library(x).sqrt(squares(x, y) + 0.1)).sum(-1)


def gaussian_matrix(x, y, b):
    return library(x).exp(-0.5 * squares(x, y)) @ b


def laplacian_matrix(x, y, b):
    return library(x).exp(-abs(x[:, None, :] - y[None, :, :]).sum(-1)) @ b


def mixture(x, centre, spread):
    z = (x[:, None, :] - centre) * library(x).exp(-spread)
    inner = -0.5 * (z * z).sum(-1) - spread.sum(-1)
    return torch.logsumexp(inner, 1) if library(x) is torch else gradc.logsumexp(inner, axis=1)


def soft_nearest(x, y):
    lib, far = library(x), -squares(x, y)
    e = lib.exp(far - (far.amax(-1, keepdim=True) if lib is torch else gradc.max(far, axis=-1, keepdims=True)))
    return e @ y / (e.sum(-1, keepdim=True) if lib is torch else gradc.sum(e, axis=-1, keepdims=True))


CASES = {
    "gravity": (gravity, "n d"),
    "potential": (potential, "n d", "m d"),
    "gaussian": (gaussian_matrix, "n d", "m d", "m c"),
    "laplacian": (laplacian_matrix, "n d", "m d", "m c"),
    "mixture": (mixture, "n d", "m d", "m d"),
    "nearest": (soft_nearest, "n d", "m d"),
}
LAUNCHES = {"gravity": (1, 1), "potential": (1, 1), "gaussian": (1, 1), "laplacian": (1, 1), "nearest": (1, 2)}


def shapes(name: str, **sizes: int) -> list[tuple[int, ...]]:
    return [tuple(sizes[letter] for letter in dims.split()) for dims in CASES[name][1:]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_right_forward_and_backward(name, dtype):
    arrays = [tensor(*shape, dtype=dtype) for shape in shapes(name, n=37, m=21, d=3, c=5)]
    check(CASES[name][0], CASES[name][0], *arrays)


@pytest.mark.parametrize("sizes", [{"n": 1, "m": 1}, {"n": 65, "m": 2}, {"n": 2, "m": 70}], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_odd_sizes_in_many_tiles(name, sizes, monkeypatch, tmp_path):
    force_loops(monkeypatch, tmp_path, live=256, tile=64)
    check(CASES[name][0], CASES[name][0], *(tensor(*shape) for shape in shapes(name, d=8, c=16, **sizes)))


def test_infinities_and_nans_are_those_of_the_formula():
    x, y, b = tensor(9, 3), tensor(7, 3), tensor(7, 4)
    x[0, 0], x[1, 1], y[2, 2] = math.inf, math.nan, -math.inf
    check(gaussian_matrix, gaussian_matrix, x, y, b, wrt=(2,))
    check(potential, potential, x, y, wrt=())


@pytest.mark.parametrize("name", LAUNCHES)
def test_nothing_as_large_as_all_pairs(name):
    specs = [gradc.spec(shape, "float32") for shape in shapes(name, n=4096, m=4100, d=3, c=16)]
    low = gradc.compile(CASES[name][0]).lower(*specs, device=LARGE_PRODUCTS)
    assert (low.cost.forward.launches, low.cost.backward.launches) == LAUNCHES[name]
    assert low.cost.bytes < 4e6


@pytest.mark.slow
@pytest.mark.parametrize("name", LAUNCHES)
def test_kernels_build_without_spills(name):
    specs = [gradc.spec(shape, "float32") for shape in shapes(name, n=4096, m=4100, d=3, c=16)]
    low = gradc.compile(CASES[name][0]).lower(*specs, device=LARGE_PRODUCTS)
    assert {binary.name: binary.spills for binary in low.build("sm_90") if binary.spills} == {}
