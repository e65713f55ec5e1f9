"""Sums whose terms have one owner each (scattered additions): a search for a program's own terms, against PyTorch in float64."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from kernels import check, tensor  # noqa: E402

import gradc  # noqa: E402
from gradc.codegen import roles, searches  # noqa: E402
from gradc.codegen.plan import Bounds  # noqa: E402

pytestmark = pytest.mark.triton


@pytest.fixture(autouse=True)
def searching(monkeypatch, tmp_path):
    """Searches at tiny sizes too: few numbers at a time, and wherever there is one owner."""

    def preferred(stages, setting):
        plan = searches.search_plan(stages, setting)
        return plan and replace(plan, bounds=Bounds(0.0, 0.0, 0.0, 0.0, 0.0))

    monkeypatch.setenv("GRADC_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(searches, "SEARCHED", 16)
    monkeypatch.setattr(roles, "search_plan", preferred)
    monkeypatch.setattr(searches, "ENOUGH_PROGRAMS", 1)


def schedules(function, *specs, **options):
    return " ".join(kernel.schedule for kernel in gradc.compile(function).lower(*specs, **options).kernels)


def indices(*shape, size, seed=3):
    return tensor(*shape, dtype=torch.int64, low=-size, high=size, seed=seed)


SCATTERS = {
    "rows": ((37, 24), (50,)),
    "rows by a matrix": ((37, 24), (5, 11)),
    "rows wider than a tile": ((9, 1500), (13,)),
    "few owners": ((3, 40), (70,)),
    "two terms": ((19, 8), (2,)),
    "no row along memory": ((300,), (90,)),
    "cubes": ((11, 3, 20), (40,)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", SCATTERS)
def test_gathered_rows(name, dtype):
    table, shape = SCATTERS[name]
    index = indices(*shape, size=table[0])
    wrapped = index % table[0]
    short = {torch.float32: "float32", torch.bfloat16: "bfloat16"}[dtype]
    assert "search" in schedules(lambda t, i: gradc.take(t, i, axis=0), gradc.spec(table, short), gradc.spec(shape, "int64"))
    check(lambda t: gradc.take(t, index_of(index), axis=0), lambda t: t[wrapped], tensor(*table, dtype=dtype))


def index_of(index):
    return gradc.asarray(index.numpy())


def test_an_axis_in_the_middle_and_in_the_last_place():
    index = indices(21, size=13)
    check(lambda x: gradc.take(x, index_of(index), axis=1), lambda x: x[:, index % 13], tensor(3, 13, 10))
    check(lambda x: gradc.take(x, index_of(index), axis=2), lambda x: x[:, :, index % 13], tensor(3, 5, 13))


def test_work_on_the_result_rides_along():
    index = indices(40, size=17)
    check(
        lambda t: gradc.take(gradc.exp(t) * 0.5, index_of(index), axis=0),
        lambda t: (t.exp() * 0.5)[index % 17],
        tensor(17, 24),
    )


def test_infinities_and_nan_stay_with_their_owner():
    """Nothing is multiplied by zero: a NaN among the updates reaches one row."""
    index = torch.tensor([2, 5, 2, 7])
    updates = tensor(4, 8)
    updates[0, 0], updates[1] = torch.inf, torch.nan

    (got,) = torch.autograd.grad(
        gradc.compile(lambda t: gradc.take(t, index_of(index), axis=0), backend="interpret")(
            leaf := tensor(9, 8).requires_grad_()
        ),
        leaf,
        updates,
    )
    want = torch.zeros(9, 8).index_add_(0, index, updates)
    torch.testing.assert_close(got, want, equal_nan=True)


def test_indices_out_of_range_are_nobodys():
    index = torch.tensor([2, 50, -70, 3])
    (got,) = torch.autograd.grad(
        gradc.compile(lambda t, i: gradc.take(t, i, axis=0), backend="interpret")(leaf := tensor(9, 8).requires_grad_(), index),
        leaf,
        torch.ones(4, 8),
    )
    assert got[[2, 3]].eq(1).all()
    assert got.sum() == 16


def test_sums_that_have_no_owner_are_not_searched():
    """A condition on the summed number alone, or on two numbers read from memory, may hold of every term."""
    words, rows = gradc.spec((50,), "int64"), gradc.spec((50, 24), "float32")

    def like(index, label, x):
        return gradc.sum(gradc.where((index[None, :] == label[:, None])[..., None], x[None], 0), axis=1)

    assert "search" not in schedules(like, words, gradc.spec((30,), "int64"), rows, wrt=())

    def owned(index, x):
        owner = gradc.arange(30)
        return gradc.sum(gradc.where((index[None, :] == owner[:, None])[..., None], x[None], 0), axis=1)

    assert "search" in schedules(owned, words, rows, wrt=())

    def added(index, x):
        owner = gradc.arange(30)
        return gradc.sum(gradc.where((index[None, :] == owner[:, None])[..., None], x[None], 1), axis=1)

    assert "search" not in schedules(added, words, rows, wrt=())


def test_a_program_goes_through_its_own_terms_alone():
    """Terms of positions on either side of its tile are not found, which only the time it takes would tell."""
    low = gradc.compile(lambda t, i: gradc.take(t, i, axis=0)).lower(
        gradc.spec((640, 512), "float32"), gradc.spec((90,), "int64")
    )
    source = next(kernel.source for kernel in low.kernels if "search" in kernel.schedule)
    (line,) = (line for line in source.splitlines() if "found = tl.where((" in line)
    assert re.search(r">= (\w+)_start\) & \(\w+ < \1_start \+ \w+_BLOCK\)", line), line
    assert source.count("tl.load") == 3  # the numbers of a tile, the number of a term found, and the term


def test_a_large_table_is_searched_for_by_itself(monkeypatch):
    """Without the preference above: 2.7e11 comparisons against one look through the indices for every eight rows."""
    monkeypatch.undo()
    low = gradc.compile(lambda t, i: gradc.take(t, i, axis=0)).lower(
        gradc.spec((32000, 1024), "bfloat16"), gradc.spec((8192,), "int64")
    )
    (backward,) = (kernel for kernel in low.kernels if kernel.phase == "backward")
    assert "search" in backward.schedule
    assert backward.flops < 1e9
    few = gradc.compile(lambda t, i: gradc.take(t, i, axis=0)).lower(
        gradc.spec((4, 16), "float32"), gradc.spec((100000,), "int64")
    )
    assert not any("search" in kernel.schedule for kernel in few.kernels), "four rows with 25000 terms each, one after another"
