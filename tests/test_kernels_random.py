"""Random small programs: emitted kernels against the same program written with torch in float64, forward and gradient.

A program is a list of instructions over a pool of arrays; each instruction is read once with gradc and once with torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from kernels import close, force_loops, outputs_and_gradients, tensor  # noqa: E402

import gradc  # noqa: E402

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
        return reduce(x, (axis, axis)[side], **keep) if side else reduce(x, axis=axis, **keep)
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
    compiled = gradc.compile(backend="interpret")(lambda *xs: interpreted(program, 0, *xs))
    got = outputs_and_gradients(compiled, arrays, wrt, cotangent)
    want = outputs_and_gradients(lambda *xs: interpreted(program, 1, *xs), [x.double() for x in arrays], wrt, cotangent)
    for what, found, expected in zip(("result", "gradient"), got, want, strict=True):
        for i, (a, b) in enumerate(zip(found, expected, strict=True)):
            close(a, b, f"{what} {i}", 256.0)


FEW = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@FEW
@given(steps(), shapes(), st.integers(0, 5))
def test_random_programs(program, sizes, seed):
    compare(program, sizes, seed)


@pytest.fixture
def looped(monkeypatch, tmp_path):
    force_loops(monkeypatch, tmp_path, live=4, tile=4)


@settings(FEW, max_examples=30)
@given(program=steps(), sizes=shapes(), seed=st.integers(6, 9))
def test_random_programs_with_loops_and_splits(looped, program, sizes, seed):
    compare([step for step in program if step.name != "running sum"], sizes, seed)
