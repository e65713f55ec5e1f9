"""Random small programs: emitted kernels against the same program written with torch in float64, forward and gradient.

A program is a list of instructions over a pool of arrays; each instruction is read once with gradc and once with torch.
Compositions of views are drawn apart, since index arithmetic needs longer ones; their numbers are small integers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from kernels import LARGE_PRODUCTS, close, force_loops, on, outputs_and_gradients, tensor  # noqa: E402

import gradc  # noqa: E402
from gradc.codegen.device import H200  # noqa: E402

pytestmark = [pytest.mark.triton, pytest.mark.slow]

SIZES = (3, 5, 1, 4)


@dataclass(frozen=True)
class Step:
    """One instruction: a name, which of the arrays made so far it takes, and a number that settles its parameters."""

    name: str
    first: int
    second: int
    choice: int


UNARY: dict[str, tuple[Callable, Callable]] = {
    "tanh": (gradc.tanh, torch.tanh),
    "sigmoid": (gradc.sigmoid, torch.sigmoid),
    "exp of tanh": (lambda x: gradc.exp(gradc.tanh(x)), lambda x: torch.tanh(x).exp()),
    "square": (lambda x: x * x * 0.25, lambda x: x * x * 0.25),
    "negative": (lambda x: -x, lambda x: -x),
    "relu": (lambda x: gradc.maximum(x, 0.0), lambda x: torch.maximum(x, torch.zeros_like(x))),
    "where": (lambda x: gradc.where(x > 0.1, x, 0.5 * x), lambda x: torch.where(x > 0.1, x, 0.5 * x)),
    "softmax": (lambda x: gradc.softmax(x, axis=-1), lambda x: x.softmax(-1)),
    "centre": (lambda x: x - gradc.mean(x, axis=-1, keepdims=True), lambda x: x - x.mean(-1, keepdim=True)),
    "normalise": (lambda x: x * gradc.rsqrt(gradc.mean(x * x) + 0.1), lambda x: x * torch.rsqrt((x * x).mean() + 0.1)),
    "transpose": (lambda x: x.mT, lambda x: x.mT),
    "flip": (lambda x: gradc.flip(x, axis=-1), lambda x: x.flip(-1)),
    "roll": (lambda x: gradc.roll(x, 1, axis=0), lambda x: x.roll(1, 0)),
    "last rows": (lambda x: x[x.shape[0] // 2 :], lambda x: x[x.shape[0] // 2 :]),
    "every second": (lambda x: x[:, ::2], lambda x: x[:, ::2]),
    "backward": (lambda x: x[::-1], lambda x: x.flip(0)),
    "pad": (lambda x: gradc.pad(x, ((1, 0), (0, 2))), lambda x: torch.nn.functional.pad(x, (0, 2, 1, 0))),
    "reshape": (lambda x: x.reshape((x.shape[1], x.shape[0])), lambda x: x.reshape(x.shape[1], x.shape[0])),
    "flatten": (lambda x: x.reshape((1, x.shape[0] * x.shape[1])), lambda x: x.reshape(1, -1)),
    "rows": (lambda x: gradc.take(x, gradc.arange(4) % x.shape[0], axis=0), lambda x: x[torch.arange(4) % x.shape[0]]),
    "gram": (lambda x: x @ x.mT * 0.3, lambda x: x @ x.mT * 0.3),
    "running sum": (lambda x: gradc.cumsum(x, axis=1) * 0.5, lambda x: x.cumsum(1) * 0.5),
    "rounded": (lambda x: gradc.stop_gradient(x) * x, lambda x: x.detach() * x),
    "triangle": (lambda x: gradc.tril(x), lambda x: x.tril()),
    "corner": (
        lambda x: gradc.pad(gradc.mean(x, keepdims=True), ((2, 0), (0, 1))),
        lambda x: torch.nn.functional.pad(x.mean((0, 1), keepdim=True), (0, 1, 2, 0)),
    ),
    "added at places": (
        lambda x: gradc.zeros((3, x.shape[1])).at[np.arange(x.shape[0]) % 3].add(x),
        lambda x: x.new_zeros((3, x.shape[1])).index_add(0, torch.arange(x.shape[0]) % 3, x),
    ),
    "least share": (
        lambda x: gradc.min(gradc.softmax(x, axis=-1), axis=0, keepdims=True),
        lambda x: x.softmax(-1).amin(0, keepdim=True),
    ),
}
REDUCTIONS: dict[str, tuple[Callable, Callable]] = {
    "sum": (gradc.sum, torch.sum),
    "mean": (gradc.mean, torch.mean),
    "max": (gradc.max, torch.amax),
    "min": (gradc.min, torch.amin),
    "logsumexp": (gradc.logsumexp, torch.logsumexp),
}
BINARY: dict[str, tuple[Callable, Callable]] = {
    "add": (lambda x, y: x + y, lambda x, y: x + y),
    "subtract": (lambda x, y: x - 2 * y, lambda x, y: x - 2 * y),
    "multiply": (lambda x, y: x * y, lambda x, y: x * y),
    "divide": (lambda x, y: x / (1 + y * y), lambda x, y: x / (1 + y * y)),
    "select": (lambda x, y: gradc.where(x > y, x * y, y), lambda x, y: torch.where(x > y, x * y, y)),
    "hypot": (lambda x, y: gradc.sqrt(x * x + y * y + 0.5), lambda x, y: torch.sqrt(x * x + y * y + 0.5)),
}


def steps() -> Any:
    names = [*UNARY, *REDUCTIONS, *BINARY, *BINARY, "matmul", "matmul", "concat"]
    return st.lists(st.builds(Step, st.sampled_from(names), *[st.integers(0, 7)] * 3), min_size=1, max_size=7)


def interpreted(program: list[Step], side: int, *arrays: Any) -> Any:
    """The program on gradc's arrays (side 0) or torch's (side 1); every array is two-dimensional. Returns the last three."""
    pool = list(arrays)
    for step in program:
        x, y = pool[-1 - step.first % len(pool)], pool[-1 - step.second % len(pool)]
        made = applied(step, side, x, y)
        if made is not None and 0 < made.shape[0] * made.shape[1] <= 64:
            pool.append(made)
    return tuple(pool[max(len(arrays), len(pool) - 3) :]) or (pool[0] * 2,)


def applied(step: Step, side: int, x: Any, y: Any) -> Any:
    """The result of a step, or None where it does not fit its operands."""
    if step.name in UNARY:
        return UNARY[step.name][side](x)
    if step.name in REDUCTIONS:
        axis = ((0,), (1,), (0, 1))[step.choice % 3]
        reduce, keep = REDUCTIONS[step.name][side], {("keepdims", "keepdim")[side]: True}
        return reduce(x, axis, **keep)
    if step.name == "matmul":
        return x @ y * 0.5 if x.shape[1] == y.shape[0] else x @ y.mT * 0.5 if x.shape[1] == y.shape[1] else None
    if step.name == "concat":
        axis = step.choice % 2
        if x.shape[1 - axis] != y.shape[1 - axis]:
            return None
        return gradc.concat([x, y], axis=axis) if side == 0 else torch.cat([x, y], axis)
    fits = all(n == m or 1 in (n, m) for n, m in zip(x.shape, y.shape, strict=True))
    return BINARY[step.name][side](x, y) if fits else None


def shapes() -> Any:
    size = st.sampled_from(SIZES)
    return st.lists(st.tuples(size, size), min_size=1, max_size=3)


def compare(program: list[Step], sizes: list[tuple[int, int]], seed: int) -> None:
    arrays = [tensor(*shape, seed=seed + i) for i, shape in enumerate(sizes)]
    cotangent = lambda i, out: tensor(*out.shape, seed=50 + i).to(out.dtype)
    wrt = tuple(range(len(arrays)))
    compiled = on(
        (H200, LARGE_PRODUCTS)[seed % 2], gradc.compile(backend="interpret")(lambda *xs: interpreted(program, 0, *xs))
    )
    got = outputs_and_gradients(compiled, arrays, wrt, cotangent)
    want = outputs_and_gradients(lambda *xs: interpreted(program, 1, *xs), [x.double() for x in arrays], wrt, cotangent)
    for what, found, expected in zip(("result", "gradient"), got, want, strict=True):
        for i, (a, b) in enumerate(zip(found, expected, strict=True)):
            close(a, b, f"{what} {i}", 256.0)


# Views ------------------------------------------------------------------------------------------------------------------

VIEWS = (
    "reshape",
    "reshape",
    "flip",
    "permute",
    "slice",
    "slice",
    "pad",
    "join",
    "roll",
    "broadcast",
    "repeat",
    "tile",
    "take",
)
ENDS = ("nothing", "square", "sum", "max", "softmax", "running sum")


def viewed(steps: list[Step], end: Step, side: int, x: Any) -> Any:
    """The views of a program one after another, then something computed from them."""
    for step in steps:
        made = view(step, side, x) if x.ndim or step.name == "broadcast" else x.reshape((1,))
        x = made if 0 < prod(made.shape) <= 300 else x
    axis = end.choice % max(x.ndim, 1)
    if end.name == "nothing" or not x.ndim:
        return x * 1.0
    if end.name == "square":
        return x * x
    along: dict[str, tuple[Callable, Callable]] = {
        "sum": (gradc.sum, torch.sum),
        "max": (gradc.max, torch.amax),
        "softmax": (gradc.softmax, torch.softmax),
        "running sum": (gradc.cumsum, torch.cumsum),
    }
    return along[end.name][side](x, axis=axis)


def view(step: Step, side: int, x: Any) -> Any:
    """One view of `x`, its parameters settled by the numbers of the step."""
    axis, a, b = step.first % max(x.ndim, 1), step.second, step.choice
    size = x.shape[axis] if x.ndim else 1
    if step.name == "reshape":
        return x.reshape(split_shape(prod(x.shape), a, b))
    if step.name == "flip":
        return gradc.flip(x, axis=axis) if side == 0 else x.flip(axis)
    if step.name == "permute":
        order = tuple(np.random.default_rng(a).permutation(x.ndim).tolist())
        return gradc.permute_dims(x, order) if side == 0 else x.permute(order)
    if step.name == "slice":
        cut = slice(a % size, None, (1, 2, 3, -1, -2)[b % 5])
        picked = torch.arange(size).numpy()[cut].copy()
        return x[(slice(None),) * axis + (cut,)] if side == 0 else x.index_select(axis, torch.from_numpy(picked))
    if step.name == "pad":
        widths = [(a % 3, b % 3) if i == axis else (0, 0) for i in range(x.ndim)]
        return (
            gradc.pad(x, tuple(widths)) if side == 0 else torch.nn.functional.pad(x, [n for w in reversed(widths) for n in w])
        )
    if step.name == "join":
        return gradc.concat([x, 2 * x], axis=axis) if side == 0 else torch.cat([x, 2 * x], axis)
    if step.name == "roll":
        return gradc.roll(x, a - 3, axis=axis) if side == 0 else x.roll(a - 3, axis)
    if step.name == "broadcast":
        shape = (2 + a % 2, *x.shape)
        return gradc.broadcast_to(x, shape) if side == 0 else x.expand(shape)
    if step.name == "repeat":
        return gradc.repeat(x, 2 + a % 2, axis=axis) if side == 0 else x.repeat_interleave(2 + a % 2, axis)
    if step.name == "tile":
        times = tuple(2 + a % 2 if i == axis else 1 for i in range(x.ndim))
        return gradc.tile(x, times) if side == 0 else x.tile(*times)
    index = np.random.default_rng(a).integers(0, size, 1 + b % 4)
    return gradc.take(x, index, axis=axis) if side == 0 else x.index_select(axis, torch.from_numpy(index))


def split_shape(size: int, first: int, second: int) -> tuple[int, ...]:
    """Three factors of `size`, or two."""
    divisors = [d for d in range(1, size + 1) if size % d == 0]
    a = divisors[first % len(divisors)]
    divisors = [d for d in divisors if (size // a) % d == 0]
    b = divisors[second % len(divisors)]
    return (a, b, size // a // b) if b > 1 else (size // a, a)


def view_steps() -> Any:
    return st.lists(st.builds(Step, st.sampled_from(VIEWS), *[st.integers(0, 7)] * 3), min_size=1, max_size=5)


def compare_views(steps: list[Step], end: Step, shape: tuple[int, ...]) -> None:
    x = (torch.arange(prod(shape), dtype=torch.float32) * 5 % 17 - 8).reshape(shape) / 4
    cotangent = lambda i, out: (torch.arange(out.numel()) % 13 - 6).reshape(out.shape).to(out.dtype)
    compiled = on(
        (H200, LARGE_PRODUCTS)[len(steps) % 2], gradc.compile(backend="interpret")(lambda x: viewed(steps, end, 0, x))
    )
    got = outputs_and_gradients(compiled, [x], (0,), cotangent)
    want = outputs_and_gradients(lambda x: viewed(steps, end, 1, x), [x.double()], (0,), cotangent)
    close(got[0][0], want[0][0], "the result", 64.0)
    close(got[1][0], want[1][0], "the gradient", 64.0)


FEW = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@FEW
@given(steps(), shapes(), st.integers(0, 5))
def test_random_programs(program, sizes, seed):
    compare(program, sizes, seed)


ANY_END = st.builds(Step, st.sampled_from(ENDS), st.just(0), st.just(0), st.integers(0, 3))


@settings(FEW, max_examples=120)
@given(view_steps(), ANY_END, st.lists(st.sampled_from((1, 2, 3, 4, 5, 6, 8)), min_size=1, max_size=3).map(tuple))
def test_random_views(steps, end, shape):
    compare_views(steps, end, shape)


@pytest.fixture
def looped(monkeypatch, tmp_path):
    force_loops(monkeypatch, tmp_path, live=4, tile=4)


@settings(FEW, max_examples=30)
@given(program=steps(), sizes=shapes(), seed=st.integers(6, 9))
def test_random_programs_with_loops_and_splits(looped, program, sizes, seed):
    compare([step for step in program if step.name != "running sum"], sizes, seed)


@settings(FEW, max_examples=40)
@given(steps=view_steps(), end=ANY_END, shape=st.lists(st.sampled_from((2, 3, 8)), min_size=2, max_size=3).map(tuple))
def test_random_views_with_loops_and_splits(looped, steps, end, shape):
    if end.name != "running sum":
        compare_views(steps, end, shape)
