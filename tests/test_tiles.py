"""Which tile a program has: groups of rows in large products, tiles along what shares an array, positions by one division."""

from __future__ import annotations

import functools
import re

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import kernels  # noqa: E402
from kernels import LARGE_PRODUCTS, tensor  # noqa: E402

import gradc  # noqa: E402
from examples.gallery import piece  # noqa: E402
from gradc.codegen.printing import positions  # noqa: E402

pytestmark = pytest.mark.triton
check = functools.partial(kernels.check, device=LARGE_PRODUCTS)


def lowered(function, *shapes, dtype="bfloat16", wrt=()):
    return gradc.compile(function).lower(*(gradc.spec(shape, dtype) for shape in shapes), wrt=wrt)


# Products -----------------------------------------------------------------------------------------------------------


def test_large_products_go_over_columns_a_few_rows_at_a_time():
    """Otherwise the programs in flight read all of the right operand for every row of tiles."""
    large = lowered(lambda x, w: x @ w, (8192, 4096), (4096, 16384)).kernels[0].source
    narrow = lowered(lambda x, w: x @ w, (8192, 4096), (4096, 512)).kernels[0].source
    assert "GROUP_ROWS" in large
    assert "GROUP_ROWS" not in narrow


@pytest.mark.parametrize("batch", [(), (3,), (2, 2)])
def test_every_tile_is_computed_once(batch, monkeypatch, tmp_path):
    """Five rows of tiles in groups of two: the last group is one row."""
    monkeypatch.setenv("GRADC_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(positions, "GROUP_ROWS", 2)
    function = lambda x, y: x @ y
    x, y = tensor(*batch, 5 * 64 - 3, 17), tensor(*batch, 17, 6 * 64 + 5, seed=1)
    source = lowered(function, x.shape, y.shape, dtype="float32").kernels[0].source
    assert "GROUP_ROWS" in source
    assert ("table" in source) == bool(batch)
    check(function, function, x, y, wrt=())


def test_what_follows_a_product_more_than_once_is_in_its_kernel():
    """gelu reads the product twice: it is in registers, not another array beside it."""
    gelu = lambda x, w, b: gradc.nn.gelu(x @ w + b)
    low = lowered(gelu, (8192, 4096), (4096, 16384), (16384,))
    assert len(low.kernels) == 1
    assert "row: grid 128" in low.kernels[0].schedule
    assert "column: grid 128" in low.kernels[0].schedule
    (binary,) = low.build("sm_90")
    assert binary.spills == 0
    assert "HGMMA" in binary.sass


# Elementwise --------------------------------------------------------------------------------------------------------


def scaled(x, table, shift):
    return x * gradc.exp(table) + shift


def test_a_tile_lies_along_what_shares_an_array():
    """Heads that need the same tables are tiled together, and the tables are read once for all of them."""
    (kernel,) = lowered(scaled, (1, 32, 2048, 128), (2048, 128), (2048, 128)).kernels
    axes = dict(part.split(": ") for part in kernel.schedule.split("   "))
    assert axes == {"row": "grid 8", "column": "grid 128"}
    (alone,) = lowered(scaled, *[(1, 32, 2048, 128)] * 3).kernels
    assert "at: grid 1024" in alone.schedule


def test_such_tiles_are_right():
    tables = tensor(37, 40, seed=1), tensor(37, 40, seed=2)
    check(scaled, lambda x, table, shift: x * table.exp() + shift, tensor(1, 5, 37, 40), *tables)


# Positions ----------------------------------------------------------------------------------------------------------


def test_a_step_within_one_round_divides_once():
    """Heads that share keys are gone over one after the other: where a step divides the queries it lies in one head."""
    row = piece("grouped_queries")
    keys = row.lower().kernels[-1].source
    assert "inner_start % rows + tl.arange(0, INNER_BLOCK)" in keys
    odd = gradc.compile(row.function).lower(
        *(gradc.spec((2, heads, 40, 16), "bfloat16") for heads in (4, 2, 2)), device=LARGE_PRODUCTS
    )
    assert re.search(r"inner_b = inner % \w+\n", odd.kernels[-1].source)
    for length in (32, 40):
        check(
            row.function,
            lambda q, k, v: attention(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)),
            *(tensor(1, heads, length, 16, seed=i) for i, heads in enumerate((4, 2, 2))),
            factor=32,
        )


def attention(q, k, v):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
