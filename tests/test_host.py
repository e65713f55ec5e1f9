"""Values too large to store, computed chunk after chunk in a loop of the host: against float64 PyTorch, and what memory it takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from kernels import check, force_loops, tensor

import gradc
from gradc.codegen import host, lower, recomputed
from gradc.codegen.lower import lower_pair
from gradc.runtime.compile import program_of


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Chunks as for arrays of gigabytes, at tiny sizes, and products so deep that no kernel computes them in passing.

    Plans are kept by program, so the disk cache is another one.
    """
    monkeypatch.setenv("GRADC_CACHE_DIR", str(tmp_path / "chunked"))
    monkeypatch.setattr(host, "SMALLEST", 0)
    monkeypatch.setattr(host, "SHARE", 0.25)
    monkeypatch.setattr(recomputed, "RESIDENT_DEPTH", 0)
    monkeypatch.setattr(recomputed, "RESIDENT_FOLD", 0)


def close_to(
    function: Callable, reference: Callable, *arrays: torch.Tensor, looped: tuple[str, ...] = ("forward", "backward")
) -> gradc.Lowered:
    """Checks the function, having made sure that its passes named `looped` loop on the host."""
    low = gradc.compile(function).lower(*arrays)
    assert {kernel.phase for kernel in low.kernels if "host" in kernel.schedule} >= set(looped), low.explain()
    check(function, reference, *arrays)
    return low


pytestmark = pytest.mark.filterwarnings("error")
small = pytest.mark.usefixtures("small_memory")
ROWS, COLUMNS, WIDTH = 23, 31, 3  # primes: no chunk divides them
TARGET = tensor(ROWS, dtype=torch.int64, low=0, high=COLUMNS)


def operands(rows: int = ROWS, columns: int = COLUMNS, dtype: Any = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    return tensor(rows, WIDTH, dtype=dtype), tensor(columns, WIDTH, seed=1, dtype=dtype)


def picked(scores: Any, target: Any) -> Any:
    return gradc.take_along_axis(scores, target[:, None], axis=-1)[:, 0]


def cross_entropy(x, w, target):
    scores = (x @ w.T).astype(gradc.float32)
    return gradc.mean(gradc.logsumexp(scores, axis=-1) - picked(scores, target))


@small
@pytest.mark.parametrize(("rows", "columns"), [(ROWS, COLUMNS), (24, 32), (64, 9), (9, 64)])
def test_linear_cross_entropy(rows, columns):
    x, w = operands(rows, columns)
    target = tensor(rows, dtype=torch.int64, low=0, high=columns)
    low = close_to(cross_entropy, lambda x, w, t: torch.nn.functional.cross_entropy(x @ w.T, t), x, w, target)
    assert {saved.shape for saved in low.saved} <= {x.shape, w.shape, (rows,)}


@small
def test_in_bfloat16():
    """The scores of a chunk are rounded where they are stored, so the loss is asked for as exact as they are."""

    def rounded(x, w, target):
        return cross_entropy(x, w, target).astype(gradc.bfloat16)

    close_to(rounded, lambda x, w, t: torch.nn.functional.cross_entropy(x @ w.T, t), *operands(dtype=torch.bfloat16), TARGET)


def capped_smoothed(x, w, target, cap=5.0, smoothing=0.1, weight=1e-2):
    scores = cap * gradc.tanh((x @ w.T) / cap)
    total = gradc.logsumexp(scores, axis=-1)
    nll = total - (1 - smoothing) * picked(scores, target) - smoothing * gradc.mean(scores, axis=-1)
    return gradc.mean(nll + weight * total * total)


@small
def test_softcap_z_loss_and_label_smoothing():
    def reference(x, w, target):
        scores = 5 * torch.tanh(x @ w.T / 5)
        loss = torch.nn.functional.cross_entropy(scores, target, label_smoothing=0.1)
        return loss + 1e-2 * (scores.logsumexp(-1) ** 2).mean()

    close_to(capped_smoothed, reference, *operands(), TARGET)


def jensen_shannon(x, w, y, v):
    p, q = gradc.log_softmax(x @ w.T, axis=-1), gradc.log_softmax(y @ v.T, axis=-1)
    middle = gradc.log((gradc.exp(p) + gradc.exp(q)) / 2)
    return gradc.mean(gradc.sum(gradc.exp(p) * (p - middle) + gradc.exp(q) * (q - middle), axis=-1)) / 2


@small
def test_linear_jensen_shannon():
    def reference(x, w, y, v):
        p, q = (x @ w.T).log_softmax(-1), (y @ v.T).log_softmax(-1)
        m = ((p.exp() + q.exp()) / 2).log()
        return ((p.exp() * (p - m) + q.exp() * (q - m)).sum(-1)).mean() / 2

    arrays = [tensor(n, WIDTH, seed=i) for i, n in enumerate((ROWS, COLUMNS, ROWS, COLUMNS))]
    close_to(jensen_shannon, reference, *arrays)


def info_nce(a, b, temperature=0.5):
    a = a / gradc.sqrt(gradc.sum(a * a, axis=-1, keepdims=True))
    b = b / gradc.sqrt(gradc.sum(b * b, axis=-1, keepdims=True))
    scores = a @ b.T / temperature
    matching = gradc.sum(a * b, axis=-1) / temperature
    return gradc.mean(gradc.logsumexp(scores, axis=1) + gradc.logsumexp(scores, axis=0) - 2 * matching) / 2


@small
def test_contrastive_in_both_directions():
    def reference(a, b):
        a, b = torch.nn.functional.normalize(a, dim=-1), torch.nn.functional.normalize(b, dim=-1)
        scores, same = a @ b.T / 0.5, torch.arange(len(a))
        cross = torch.nn.functional.cross_entropy
        return (cross(scores, same) + cross(scores.T, same)) / 2

    close_to(info_nce, reference, tensor(ROWS, WIDTH), tensor(ROWS, WIDTH, seed=1))


def log_density(x, y):
    """Log-sum-exp of squared pairwise distances: a kernel density estimate."""
    squares = gradc.sum((x[:, None, :] - y[None, :, :]) ** 2, axis=-1)
    return gradc.logsumexp(-squares / 2, axis=-1)


@small
def test_pairwise_distances(monkeypatch, tmp_path):
    force_loops(monkeypatch, tmp_path)  # or one kernel would hold all of them
    close_to(log_density, lambda x, y: (-(torch.cdist(x, y) ** 2) / 2).logsumexp(-1), *operands(), looped=("backward",))


@small
def test_distances_of_an_array_to_itself():
    """Both axes of the large Value are the same axis of the one argument: one is cut, the other is not."""

    def reference(x):
        return (-((x[:, None] - x) ** 2).sum(-1) / 2).logsumexp(-1).mean()

    close_to(lambda x: gradc.mean(log_density(x, x)), reference, tensor(ROWS, 2), looped=("backward",))


@small
def test_leading_axes_merged_by_a_reshape():
    """The chunks go along both leading axes as one, through the reshape and back."""

    def flat(x, w, target):
        scores = gradc.reshape(x @ w.T, (-1, COLUMNS))
        return gradc.mean(gradc.logsumexp(scores, axis=-1) - picked(scores, gradc.reshape(target, (-1,))))

    def reference(x, w, target):
        return torch.nn.functional.cross_entropy((x @ w.T).flatten(0, 1), target.flatten())

    target = tensor(2, 13, dtype=torch.int64, low=0, high=COLUMNS)
    close_to(flat, reference, tensor(2, 13, WIDTH), tensor(COLUMNS, WIDTH, seed=1), target)


@small
def test_an_owner_whose_chunks_are_not_contiguous():
    """The result has the axis of the chunks last: each writes, and its cotangent is read, with the strides of the whole."""

    def averaged(q, k, v):
        return gradc.einsum("nm,me->en", gradc.softmax(q @ k.T, axis=-1), v)

    q, k = operands()
    low = close_to(averaged, lambda q, k, v: ((q @ k.T).softmax(-1) @ v).T, q, k, tensor(COLUMNS, 2, seed=2))
    assert "[:, start:start + " in low.source


@small
def test_parts_of_a_sum_beside_chunks_that_are_not_contiguous(monkeypatch, tmp_path):
    """What the programs of a chunk's kernel leave for each other lies row by row, whatever it is written into in the end."""
    force_loops(monkeypatch, tmp_path)
    monkeypatch.setattr(host, "memory_for", lambda graph, budget=None: host.Memory(64, 64))
    monkeypatch.setattr(lower, "memory_for", host.memory_for)

    def attention(q, k, v):
        return gradc.softmax(q @ k.mT, axis=-1) @ v

    arrays = [tensor(2, 7, 8, seed=seed) for seed in range(3)]
    low = close_to(attention, lambda q, k, v: (q @ k.mT).softmax(-1) @ v, *arrays)
    strided = [kernel for kernel in low.kernels if "host" in kernel.schedule and "split" in kernel.schedule]
    assert strided, low.explain()
    assert "[:, start:start + " in low.source


@small
@pytest.mark.parametrize("rows", [ROWS, 24])
def test_sums_over_the_chunked_axis(rows):
    """Each chunk leaves its part of a sum; positions that the last chunk goes over again count once."""

    def scaled(x, w, scale):
        return gradc.sum(gradc.logsumexp(x @ w.T * scale, axis=-1)), gradc.sum(gradc.tanh(x @ w.T), axis=(0, 1))

    def reference(x, w, scale):
        return (x @ w.T * scale).logsumexp(-1).sum(), torch.tanh(x @ w.T).sum()

    low = close_to(scaled, reference, *operands(rows), torch.tensor(0.7))
    assert "_part[" in low.source


@small
def test_a_gradient_through_a_maximum():
    """Ties are found by equality, so the product is the one the forward used, kept for the backward."""
    low = gradc.compile(lambda x, w: gradc.max(x @ w.T, axis=-1)).lower(*operands())
    assert (ROWS, COLUMNS) in {saved.shape for saved in low.saved}
    check(lambda x, w: gradc.max(x @ w.T, axis=-1), lambda x, w: (x @ w.T).amax(-1), *operands())


@small
def test_what_has_no_axis_to_go_along_is_stored():
    """A running sum over all of the scores needs them all."""

    def running(x, w):
        return gradc.sum(gradc.cumsum(gradc.reshape(gradc.tanh(x @ w.T), (-1,))) ** 2)

    x, w = operands()
    assert "host" not in " ".join(kernel.schedule for kernel in gradc.compile(running).lower(x, w).kernels)
    check(running, lambda x, w: (torch.tanh(x @ w.T).flatten().cumsum(0) ** 2).sum(), x, w, factor=64)


# At full size, where nothing is forced -------------------------------------------------------------------------------


class Array:
    """Stands for an array of a host function: knows its bytes, and lives as long as it or a view of it is named."""

    live = peak = 0
    device = "none"

    def __init__(self, shape: tuple[int, ...] = (), dtype: Any = torch.bool, device: str = "none"):
        self.bytes = math.prod(shape) * dtype.itemsize
        Array.live += self.bytes
        Array.peak = max(Array.peak, Array.live)

    def __del__(self):
        Array.live -= self.bytes

    def flatten(self, first: int, last: int) -> Array:
        return self

    def __getitem__(self, place: Any) -> tuple[Array]:
        return (self,)


class Torch:
    """What a host function asks of torch."""

    empty = Array

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


class Launches:
    """Stands for a kernel, and counts."""

    count = 0

    def __getitem__(self, grid: tuple[int, ...]) -> Callable:
        Launches.count += 1
        return lambda *arrays, **sizes: None


def launches_and_peak(low: gradc.Lowered, function: str, inputs: int) -> tuple[int, int]:
    """How many launches a host function makes, and the most bytes it has allocated at once."""
    text = low.source[low.source.index(f"def {function}(") :].split("\n\n\n")[0]
    names = {kernel.name: Launches() for kernel in low.kernels}
    space = {"torch": Torch(), "expect": lambda *arguments: None, **names}
    Launches.count = Array.live = Array.peak = 0
    exec(text, space)
    space[function](*(Array() for _ in range(inputs)))
    return Launches.count, Array.peak


FULL = (gradc.spec((8192, 2048), "bfloat16"), gradc.spec((32000, 2048), "bfloat16"), gradc.spec((8192,), "int64"))
LOGITS = 2 * 8192 * 32000


def test_memory_and_launches_at_full_size():
    """Beyond arguments and results no more than a tenth of the logits, counted from what the host functions do."""
    low = gradc.compile(cross_entropy).lower(*FULL)
    saved = sum(saved.bytes for saved in low.saved if "an input" not in saved.why)
    forward, forward_peak = launches_and_peak(low, "forward", 3)
    backward, backward_peak = launches_and_peak(low, "backward", len(low.saved) + 1)
    results = 2 * 2048 * (8192 + 32000)
    assert saved < 1e6
    assert forward_peak <= LOGITS / 10
    assert backward_peak - results + saved <= LOGITS / 10
    assert (forward, backward) == (low.cost.forward.launches, low.cost.backward.launches)
    assert forward + backward <= 79
    product = 2 * 8192 * 32000 * 2048
    assert 5 * product <= low.cost.flops <= 5.3 * product


def test_kernels_of_a_loop_build():
    """No spills, and the products use matrix units; a kernel that wants its position takes it as a number."""
    low = gradc.compile(cross_entropy).lower(*FULL)
    binaries = low.build("sm_90")
    assert [binary.name for binary in binaries if binary.spills] == []
    products = {kernel.name for kernel in low.kernels if "tl.dot" in kernel.source}
    assert len(products) == 5
    assert {binary.name for binary in binaries if "HGMMA" in binary.sass} == products
    assert any(", start" in kernel.source.partition("):")[0] for kernel in low.kernels)


def test_a_budget_is_kept():
    """A smaller budget takes more chunks, a larger one none."""
    _, graph = program_of(cross_entropy, FULL, {})
    counts = {}
    for budget in (2 * LOGITS, 2**25, 2**24):
        program, _ = lower_pair(graph, (0, 1), budget=budget)
        counts[budget] = sum(kernel.times for sequence in program.sequences for kernel in sequence.scheduled)
        for sequence in program.sequences:
            made = {value for kernel in sequence.scheduled for value in kernel.writes} - set(sequence.host.home)
            assert sum(value.bytes for value in made - set(sequence.graph.outputs)) <= 2 * budget
    assert counts[2 * LOGITS] < 10 < counts[2**25] < counts[2**24]


def test_intermediates_of_ordinary_size_are_kept():
    """An activation a few times as large as what it is made from is not worth a second product."""

    def mlp(x, w1, w2):
        return gradc.nn.gelu(x @ w1) @ w2

    low = gradc.compile(mlp).lower(*(gradc.spec(shape, "bfloat16") for shape in ((65536, 2048), (2048, 8192), (8192, 2048))))
    assert "host" not in " ".join(kernel.schedule for kernel in low.kernels)
