"""A condition on rows of data (which document a position belongs to) says from which tile to which a loop goes."""

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

pytestmark = pytest.mark.triton
check = functools.partial(kernels.check, device=LARGE_PRODUCTS)
LENGTH = 300  # ten tiles of 32, the last one overhanging


def within(q, k, v, mine, theirs):
    """Attention within documents; `mine` are those of the queries, `theirs` of the keys."""
    s = scores(q, k)
    return weights(library(q).where(mine[:, None] == theirs[None, :], s, -math.inf)) @ v


def within_and_causal(q, k, v, mine, theirs):
    lib = library(q)
    i, j = lib.arange(q.shape[-2])[:, None], lib.arange(k.shape[-2])[None, :]
    allowed = (mine[:, None] == theirs[None, :]) & (j <= i)
    return weights(lib.where(allowed, scores(q, k), -math.inf)) @ v


def until(q, k, v, mine, theirs):
    """Keys up to a length that each query has; no equality."""
    lib = library(q)
    s = scores(q, k)
    return weights(lib.where(lib.arange(k.shape[-2])[None, :] <= 20 * mine[:, None], s, -math.inf)) @ v


DOCUMENTS = {
    "sorted": torch.arange(LENGTH) // 65,
    "one": torch.zeros(LENGTH, dtype=torch.int64),
    "anyhow": torch.arange(LENGTH) * 7 % 5,
    "short": torch.arange(LENGTH) // 3,
}


def arrays(dtype=torch.float32):
    return [tensor(1, 1, LENGTH, 16, seed=seed, dtype=dtype) for seed in range(3)]


@pytest.mark.parametrize("documents", DOCUMENTS)
@pytest.mark.parametrize("function", [within, within_and_causal, until], ids=lambda f: f.__name__)
def test_right_forward_and_backward(function, documents):
    document = DOCUMENTS[documents]
    check(function, function, *arrays(), document, document, factor=64, wrt=(0, 1, 2))


def test_tiles_of_other_documents_are_not_read():
    q, k, v = arrays()
    document = torch.arange(LENGTH) // 75
    clean = on(LARGE_PRODUCTS, gradc.compile(within, backend="interpret"))(q, k, v, document, document)
    k[:, :, :32], v[:, :, :32] = math.nan, math.nan  # tiles of the first document alone
    got = on(LARGE_PRODUCTS, gradc.compile(within, backend="interpret"))(q, k, v, document, document)
    assert torch.isnan(got[:, :, :32]).all()
    assert torch.equal(got[:, :, 96:], clean[:, :, 96:]), "rows whose tile of 32 holds no row of the first document"


def test_rows_of_a_document_without_keys_are_nan_and_leave_the_others_alone():
    q, k, v = arrays()
    mine, theirs = torch.arange(LENGTH) // 64, torch.arange(LENGTH) // 64
    mine[128:192] = 99  # a whole tile of rows that no key belongs to
    mine[5] = 98
    got = on(LARGE_PRODUCTS, gradc.compile(within, backend="interpret"))(q, k, v, mine, theirs)
    exact = within(q.double(), k.double(), v.double(), mine, theirs)
    assert torch.isnan(exact[:, :, 128:192]).all()
    assert torch.allclose(got.double(), exact, atol=1e-5, equal_nan=True)


def test_what_the_loop_reaches_is_found_before_it():
    array, ids = gradc.spec((4, 16, 2048, 64), "bfloat16"), gradc.spec((2048,), "int64")
    low = gradc.compile(within).lower(array, array, array, ids, ids, wrt=(0, 1, 2), device=LARGE_PRODUCTS)
    for kernel in low.kernels:
        search, loop = kernel.source.split("\n    for ")[1:]
        assert "tl.dot" not in search
        assert "_from, " in loop
    assert low.explain().count("a short loop finds from which tile of inner to which") == 3
    mask = gradc.spec((2048, 2048), "bool")
    chosen = gradc.compile(lambda q, k, v, m: weights(gradc.where(m, q @ k.mT, -math.inf)) @ v).lower(array, array, array, mask)
    assert all(kernel.source.count("\n    for ") == 1 for kernel in chosen.kernels), "a mask of pairs would be read twice"
