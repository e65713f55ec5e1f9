"""Tiles that a mask leaves whole go through a loop of their own, without the mask; the numbers are the same."""

from __future__ import annotations

import functools
import math
import re

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import kernels  # noqa: E402
from either import library, scores, weights  # noqa: E402
from kernels import LARGE_PRODUCTS, on, tensor  # noqa: E402

import gradc  # noqa: E402
from gradc.codegen.printing import emit  # noqa: E402

pytestmark = pytest.mark.triton
check = functools.partial(kernels.check, device=LARGE_PRODUCTS)
COMPARED = re.compile(r"\] (>=|<=|<|>) ")  # two rows of positions


def attend(allowed):
    """Attention where `allowed(i, j, q)` says what query i sees of key j."""

    def function(q, k, v, *more):
        lib = library(q)
        i, j = lib.arange(q.shape[-2])[:, None], lib.arange(k.shape[-2])[None, :]
        s = scores(q, k)
        return weights(lib.where(allowed(lib, i, j, *more), s, -math.inf)) @ v

    return function


def added(q, k, v):
    lib = library(q)
    i, j = lib.arange(q.shape[-2])[:, None], lib.arange(k.shape[-2])[None, :]
    bias = lib.where(j <= i, 0.0, -math.inf)
    return weights(scores(q, k) + bias.to(q.dtype) if lib is torch else scores(q, k) + bias) @ v


def triangle(q, k, v):
    return library(q).tril(q @ k.mT) @ v


MASKS = {
    "causal": attend(lambda lib, i, j: i >= j),
    "causal, written the other way": attend(lambda lib, i, j: lib.logical_not(i < j)),
    "later keys": attend(lambda lib, i, j: j >= i),
    "from a distance": attend(lambda lib, i, j: i + 40 >= j),
    "not itself": attend(lambda lib, i, j: (i >= j + 3) | (j == 0)),
    "aligned at the end": attend(lambda lib, i, j: i + 90 >= j),
    "added": added,
    "triangle": triangle,
}
SIZES = {"same": (130, 130), "more keys": (70, 200), "more queries": (200, 70), "one": (1, 150)}


def arrays(queries: int, keys: int, dtype=torch.float32):
    return [
        tensor(1, 2, queries, 16, dtype=dtype),
        tensor(1, 2, keys, 16, seed=1, dtype=dtype),
        tensor(1, 2, keys, 16, seed=2, dtype=dtype),
    ]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("name", MASKS)
def test_right_forward_and_backward(name, sizes):
    q, k, v = arrays(*SIZES[sizes])
    wrt = (0, 1, 2) if name != "later keys" or sizes != "more queries" else ()
    if name == "not itself" and sizes == "one":
        wrt = (2,)
    check(MASKS[name], MASKS[name], q, k, v, factor=64, wrt=wrt)


def test_a_condition_on_data_beside_the_line_stays():
    same = attend(lambda lib, i, j, document: (i >= j) & (document[:, None] == document[None, :]))
    document = torch.arange(130) // 50
    check(same, same, *arrays(130, 130), document, factor=64, wrt=(0, 1, 2))
    low = lowered(same, gradc.spec((2048,), "int64"))
    assert loops(low) == (3, 3, 3), "one that finds how far it reaches, one without the line, one with it"


def lowered(function, *more):
    array = gradc.spec((4, 16, 2048, 64), "bfloat16")
    return gradc.compile(function).lower(array, array, array, *more, wrt=(0, 1, 2), device=LARGE_PRODUCTS)


def loops(low):
    return tuple(kernel.source.count("\n    for ") for kernel in low.kernels)


@pytest.mark.parametrize("name", ["causal", "causal, written the other way", "later keys", "from a distance", "added"])
def test_one_of_two_loops_is_without_the_mask(name):
    low = lowered(MASKS[name])
    assert loops(low) == (2, 2, 2)
    assert low.explain().count("with nothing masked go through a loop without the mask") == 3
    assert low.explain().count("skips the tiles of inner") == 3
    for kernel in low.kernels:
        masked = [bool(COMPARED.search(part)) for part in kernel.source.split("\n    for ")[1:]]
        assert sorted(masked) == [False, True], kernel.source


def test_nothing_is_cut_where_a_window_masks_both_ends():
    window = attend(lambda lib, i, j: (i >= j) & (i - j < 1024))
    assert loops(lowered(window)) == (1, 1, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bit_for_bit_what_one_loop_gives(dtype, monkeypatch, tmp_path):
    q, k, v = arrays(200, 200, dtype)
    got = on(LARGE_PRODUCTS, gradc.compile(MASKS["causal"], backend="interpret"))(q, k, v)
    monkeypatch.setenv("GRADC_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(emit, "whole_tiles", lambda *_: None)
    assert torch.equal(got, on(LARGE_PRODUCTS, gradc.compile(MASKS["causal"], backend="interpret"))(q, k, v))
