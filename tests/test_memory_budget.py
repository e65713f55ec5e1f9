"""A memory budget: what host functions allocate keeps to it, what is impossible is said, and the results are the same."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import torch
from allocations import launches_and_peak
from kernels import LARGE_PRODUCTS, check, tensor

import gradc

pytestmark = pytest.mark.filterwarnings("error")
TOKENS, WIDTH, WORDS = 8192, 2048, 32000
SPECS = (gradc.spec((TOKENS, WIDTH), "bfloat16"), gradc.spec((WORDS, WIDTH), "bfloat16"), gradc.spec((TOKENS,), "int64"))
LOGITS = 2 * TOKENS * WORDS
PRODUCT = 2 * TOKENS * WIDTH * WORDS


def cross_entropy(x, w, target):
    scores = (x @ w.T).astype(gradc.float32)
    return gradc.mean(gradc.logsumexp(scores, axis=-1) - gradc.take_along_axis(scores, target[:, None], axis=-1)[:, 0])


def with_gradients(x, w, target):
    return gradc.value_and_grad(cross_entropy, argnums=(0, 1))(x, w, target)


def products(low: gradc.Lowered) -> int:
    """How many products of all tokens with all words are made, in whatever parts."""
    return round(low.cost.flops / PRODUCT)


def taken(low: gradc.Lowered) -> int:
    """The most bytes beside arguments and results, measured by running the host functions."""
    inputs = len(low.program.sequences[0].graph.inputs)
    results = sum(value.size * value.dtype.itemsize for value in low.ir.outputs)
    forward = launches_and_peak(low, "forward", inputs)[1] - results - inputs
    if low.partition is None:
        return forward
    saved = sum(array.bytes for array in low.saved if "costs nothing" not in array.why)
    given = len(low.saved) + 1  # each of them counts as a byte
    gradients = sum(value.size * value.dtype.itemsize for value in low.partition.backward.outputs)
    return max(forward, saved + launches_and_peak(low, "backward", given)[1] - gradients - given)


@pytest.mark.parametrize("budget", [4 * LOGITS, LOGITS, LOGITS // 2, LOGITS // 4, LOGITS // 10, LOGITS // 64])
@pytest.mark.parametrize("function", [cross_entropy, with_gradients])
def test_a_budget_is_kept(function, budget):
    low = gradc.compile(function).lower(*SPECS, wrt=(0, 1) if function is cross_entropy else (), memory_budget=budget)
    assert 0 < taken(low) <= budget


@pytest.mark.parametrize(("function", "budget", "count"), [
    (cross_entropy, 2 * LOGITS, 3),  # the scores are stored
    (cross_entropy, LOGITS // 4, 4),  # the backward makes them again, once for both gradients
    (cross_entropy, LOGITS // 20, 5),  # once for each gradient: a sum of either takes more
    (with_gradients, 3 * LOGITS // 4, 3),  # every chunk is made once, for the loss and for both gradients
    (with_gradients, LOGITS // 20, 4),
])  # fmt: skip
def test_products_that_a_budget_leaves(function, budget, count):
    """The more there is the fewer products are made; dw, a quarter of the scores, is summed in place or goes by chunks."""
    low = gradc.compile(function).lower(*SPECS, wrt=(0, 1) if function is cross_entropy else (), memory_budget=budget)
    assert products(low) == count, low.explain()


def test_less_memory_takes_more_seconds():
    found = [gradc.compile(cross_entropy).lower(*SPECS, memory_budget=LOGITS >> halvings) for halvings in range(6)]
    seconds = [sum(kernel.seconds for kernel in low.kernels) for low in found]
    assert all(more <= 1.05 * less for more, less in itertools.pairwise(seconds)), seconds


def test_an_impossible_budget_says_the_least_that_is_possible():
    with pytest.raises(gradc.UnsupportedError, match="memory_budget is 5,000") as error:
        gradc.compile(cross_entropy).lower(*SPECS, memory_budget=5000)
    least = int(re.search(r"Allow memory_budget=(\d+)", str(error.value)).group(1))
    assert 5000 < least < LOGITS / 16
    assert taken(gradc.compile(cross_entropy).lower(*SPECS, memory_budget=least)) <= least


@pytest.mark.parametrize("budget", [0, -1, 0.5, "1 GB", True])
def test_what_is_no_number_of_bytes(budget):
    with pytest.raises(gradc.TraceError, match="memory_budget"):
        gradc.compile(memory_budget=budget)(cross_entropy)
    with pytest.raises(gradc.TraceError, match="memory_budget"):
        gradc.compile(cross_entropy).lower(*SPECS, memory_budget=budget)


def test_the_budget_of_the_decorator_is_that_of_its_programs():
    """`lower` shows what a call runs, unless it is asked for another one."""
    low = gradc.compile(memory_budget=LOGITS // 4)(cross_entropy).lower(*SPECS)
    assert (
        taken(low)
        <= LOGITS // 4
        < taken(gradc.compile(memory_budget=LOGITS // 4)(cross_entropy).lower(*SPECS, memory_budget=2 * LOGITS))
    )
    assert "to keep to memory_budget" in low.explain()
    assert "memory_budget" not in gradc.compile(cross_entropy).lower(*SPECS).explain()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("budget", [10**6, 1400, 1000])
def test_results_are_those_of_the_function(dtype, budget):
    """Where the scores do not fit the budget, chunks go through the kernels under autograd."""
    x, w = tensor(23, 3, dtype=dtype), tensor(31, 3, seed=1, dtype=dtype)
    target = tensor(23, dtype=torch.int64, low=0, high=31)

    def rounded(x: Any, w: Any, target: Any) -> Any:
        return (100 * cross_entropy(x, w, target)).astype(x.dtype)

    low = gradc.compile(rounded).lower(x, w, target, memory_budget=budget, device=LARGE_PRODUCTS)
    assert ("host" in " ".join(kernel.schedule for kernel in low.kernels)) == (budget < 10**6), low.explain()
    compiled = gradc.compile(backend="interpret", memory_budget=budget)(rounded)
    check(compiled, lambda x, w, t: 100 * torch.nn.functional.cross_entropy(x @ w.T, t), x, w, target, device=LARGE_PRODUCTS)


def test_where_nothing_can_be_chunked():
    """The program is what it is without a budget, or there is none."""

    def running(x, w):
        return gradc.sum(gradc.cumsum(gradc.reshape(gradc.tanh(x @ w.T), (-1,))) ** 2)

    specs = (gradc.spec((256, 64), "float32"), gradc.spec((256, 64), "float32"))
    low = gradc.compile(running).lower(*specs, wrt=(), device=LARGE_PRODUCTS)
    assert gradc.compile(running).lower(*specs, wrt=(), memory_budget=2**20, device=LARGE_PRODUCTS).source == low.source
    with pytest.raises(gradc.UnsupportedError, match=f"Allow memory_budget={taken(low)},"):
        gradc.compile(running).lower(*specs, wrt=(), memory_budget=2**16, device=LARGE_PRODUCTS)
