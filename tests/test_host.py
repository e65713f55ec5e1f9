"""Values too large to store, computed chunk after chunk in a loop of the host: against float64 PyTorch, and what memory it takes."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from typing import Any

import kernels
import pytest
import torch
from allocations import launches_and_peak
from kernels import LARGE_PRODUCTS, force_loops, on, outputs_and_gradients, tensor

import gradc
from gradc import types
from gradc.codegen import lower, products, recomputed, roles, schedule
from gradc.codegen.hosting import host, ways
from gradc.codegen.nodes import Running
from gradc.ir import Graph, apply
from gradc.leaves import Broadcast, make_input
from gradc.ops import TABLE


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Chunks as for arrays of gigabytes, at tiny sizes, and sums so long that no kernel computes them in passing.

    Plans are kept by program, so the disk cache is another one.
    """
    monkeypatch.setenv("GRADC_CACHE_DIR", str(tmp_path / "chunked"))
    monkeypatch.setattr(host, "SMALLEST", 0)
    monkeypatch.setattr(host, "SHARE", 0.25)
    monkeypatch.setattr(host, "DEARER", math.inf)
    monkeypatch.setattr(recomputed, "RESIDENT_DEPTH", 0)
    monkeypatch.setattr(recomputed, "RESIDENT_FOLD", 0)
    monkeypatch.setattr(products, "WHOLE_ROWS", 0)


@pytest.fixture
def sums_in_place(small_memory: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As few loops as possible, so that what the one cannot write by chunks is summed; in place, however small it is."""
    monkeypatch.setattr(host, "SHARE", 8)  # room for them beside a chunk
    monkeypatch.setattr(ways, "LARGEST_CHUNK", 512)
    monkeypatch.setattr(ways, "SMALL_SHARE", 2**40)
    monkeypatch.setattr(ways.Loop, "seconds", lambda loop, device: 1)
    monkeypatch.setattr(host, "COMPARED", 1)


def close_to(
    function: Callable, reference: Callable, *arrays: torch.Tensor, looped: tuple[str, ...] = ("forward", "backward")
) -> gradc.Lowered:
    """Checks the function, having made sure that its passes named `looped` loop on the host."""
    low = gradc.compile(function).lower(*arrays, device=LARGE_PRODUCTS)
    assert {kernel.phase for kernel in low.kernels if "host" in kernel.schedule} >= set(looped), low.explain()
    check(function, reference, *arrays)
    return low


pytestmark = pytest.mark.filterwarnings("error")
check = functools.partial(kernels.check, device=LARGE_PRODUCTS)
small = pytest.mark.usefixtures("small_memory")
in_place = pytest.mark.usefixtures("sums_in_place")
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
    monkeypatch.setattr(lower, "memories_for", lambda graph: (host.Memory(64, 64),))

    def attention(q, k, v):
        return gradc.softmax(q @ k.mT, axis=-1) @ v

    arrays = [tensor(2, 7, 8, seed=seed) for seed in range(3)]
    low = close_to(attention, lambda q, k, v: (q @ k.mT).softmax(-1) @ v, *arrays)
    strided = [kernel for kernel in low.kernels if "host" in kernel.schedule and "split" in kernel.schedule]
    assert strided, low.explain()
    assert "[:, start:start + " in low.source


@in_place
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rows", [ROWS, 24])
def test_sums_that_go_on_in_place(rows, dtype):
    """One product of a chunk is used for both gradients: the one that the chunks cut is written, the other one summed up."""

    def weighed(x, w, target):
        return (1000 * cross_entropy(x, w, target)).astype(x.dtype)

    def reference(x, w, target):
        return 1000 * torch.nn.functional.cross_entropy(x @ w.T, target)

    x, w = operands(rows, dtype=dtype)
    low = close_to(weighed, reference, x, w, tensor(rows, dtype=torch.int64, low=0, high=COLUMNS))
    assert sum("tl.dot" in kernel.source for kernel in low.kernels if kernel.phase == "backward") == 3
    assert ("_rest" in low.source) == (dtype == torch.bfloat16)
    assert ("_sum = torch.empty" in low.source) == (dtype == torch.float16)


@in_place
def test_a_sum_in_place_is_rounded_once():
    """Of bfloat16, the digits that rounding takes are kept from chunk to chunk: the sum is as if it were made in one go."""

    def exponentials(x, w):
        return gradc.sum(gradc.exp(x @ w.T), axis=-1)

    x, w = operands(40, 37, torch.bfloat16)
    assert "_rest" in gradc.compile(exponentials).lower(x, w, device=LARGE_PRODUCTS).source
    _, (dx, dw) = outputs_and_gradients(
        on(LARGE_PRODUCTS, gradc.compile(backend="interpret")(exponentials)),
        [x, w],
        (0, 1),
        lambda i, out: torch.ones_like(out),
    )
    scores = (x.double() @ w.double().T).exp().bfloat16().double()  # as a chunk holds them
    for got, exact in ((dx, scores @ w.double()), (dw, scores.T @ x.double())):
        assert ((got.double() - exact).abs() <= 1.02 * 2**-8 * exact.abs()).all()


@in_place
def test_a_sum_in_place_past_the_largest_number():
    """Infinity stays what it is: rounding takes nothing from it."""

    def doubled(x, w):
        return gradc.sum(gradc.exp(x @ w.T), axis=-1)

    x, w = operands(40, 37, torch.bfloat16)
    x[:, 0], w[:, 0] = 1e-3, 1.0
    x[3] = torch.tensor([200.0, 0.0, 0.0])
    _, (_, dw) = outputs_and_gradients(
        on(LARGE_PRODUCTS, gradc.compile(backend="interpret")(doubled)), [x, w], (0, 1), lambda i, out: torch.ones_like(out)
    )
    assert dw[:, 0].isposinf().all()


def kernels_beside_a_running_sum() -> list[schedule.Scheduled]:
    """The kernels of a sum in place over columns, and of a product with the same numbers over rows and columns."""
    numbers, x = make_input((64,), types.float32, "numbers"), make_input((4096, 64), types.float32, "x")
    before = apply(Running((64,), types.float32))
    scaled = TABLE["multiply"](x, apply(Broadcast(x.shape, (1,)), numbers))
    return schedule.schedule(Graph((numbers, x, before), (TABLE["add"](before, numbers), scaled)), chunk=True)


def test_no_two_programs_add_to_one_sum(monkeypatch):
    """What is repeated by every program may not be a sum in place: the second to run would read what the first has written."""
    assert len(kernels_beside_a_running_sum()) == 2
    monkeypatch.setattr(roles, "goes_on_once", lambda plan: True)
    assert len(kernels_beside_a_running_sum()) == 1


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
    low = gradc.compile(lambda x, w: gradc.max(x @ w.T, axis=-1)).lower(*operands(), device=LARGE_PRODUCTS)
    assert (ROWS, COLUMNS) in {saved.shape for saved in low.saved}
    check(lambda x, w: gradc.max(x @ w.T, axis=-1), lambda x, w: (x @ w.T).amax(-1), *operands())


@small
def test_what_has_no_axis_to_go_along_is_stored():
    """A running sum over all of the scores needs them all."""

    def running(x, w):
        return gradc.sum(gradc.cumsum(gradc.reshape(gradc.tanh(x @ w.T), (-1,))) ** 2)

    x, w = operands()
    assert "host" not in " ".join(
        kernel.schedule for kernel in gradc.compile(running).lower(x, w, device=LARGE_PRODUCTS).kernels
    )
    check(running, lambda x, w: (torch.tanh(x @ w.T).flatten().cumsum(0) ** 2).sum(), x, w, factor=64)


# At full size, where nothing is forced -------------------------------------------------------------------------------


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
    assert forward + backward <= 67
    product = 2 * 8192 * 32000 * 2048
    assert 5 * product <= low.cost.flops <= 5.3 * product


LARGE = (gradc.spec((8192, 2304), "bfloat16"), gradc.spec((256000, 2304), "bfloat16"), gradc.spec((8192,), "int64"))


@pytest.mark.slow
def test_one_product_for_both_gradients_where_a_sum_beside_the_chunks_fits():
    """Of a longer vocabulary the backward makes every chunk of the scores once: dw by chunks, dx as a sum in place."""
    low = gradc.compile(cross_entropy).lower(*LARGE)
    logits, product = 2 * 8192 * 256000, 2 * 8192 * 256000 * 2304
    _, peak = launches_and_peak(low, "backward", len(low.saved) + 1)
    assert peak - 2 * 2304 * (8192 + 256000) <= logits / 10
    assert 4 * product <= low.cost.flops <= 4.2 * product
    (summed,) = [kernel for kernel in low.kernels if "dx_rest" in {buffer.name for buffer in kernel.writes}]
    assert {binary.spills for binary in low.build("sm_90")} == {0}
    chunks = int(summed.schedule.split("host ")[1].split(" x ")[1].split()[0])
    assert {buffer.name: buffer.bytes for buffer in summed.writes}["dx"] == chunks * 2 * 8192 * 2304


def test_in_chunks_where_that_is_no_slower_than_to_store():
    """Scores of nearly twice what they are made from and give: storing them would spare the backward no product in seconds."""
    low = gradc.compile(cross_entropy).lower(
        *(gradc.spec(shape, "bfloat16") for shape in ((8192, 4096), (128256, 4096))), FULL[2]
    )
    logits, product = 2 * 8192 * 128256, 2 * 8192 * 128256 * 4096
    assert low.explain().count("no slower than to store it") == 2
    assert launches_and_peak(low, "backward", len(low.saved) + 1)[1] - 2 * 4096 * (8192 + 128256) <= logits / 10
    assert 4 * product <= low.cost.flops <= 4.2 * product


def test_what_is_said_of_a_loop():
    """What goes in chunks, how many, why, what storing it would take, and what is made again."""
    story = gradc.compile(cross_entropy).lower(*FULL).explain()
    said = "scores (524 MB) in 11 chunks of 768 positions, 49.2 MB at a time: more than twice what it is made from and gives"
    assert said in story
    assert "made again, too large to keep: scores (524 MB)" in story
    assert story.count("made again: scores") == 1
    seconds = re.findall(r"stored whole about ([\d.]+) ms, in chunks about ([\d.]+) ms", story)
    assert len(seconds) == 3
    assert all(float(stored) < float(chunked) for stored, chunked in seconds)
    low = gradc.compile(cross_entropy).lower(*FULL, memory_budget=LOGITS // 4)
    assert "dx is summed in place from chunk to chunk, beside it what rounding took from it" in low.explain()


def test_kernels_of_a_loop_build():
    """No spills, and the products use matrix units; a kernel that wants its position takes it as a number."""
    low = gradc.compile(cross_entropy).lower(*FULL)
    binaries = low.build("sm_90")
    assert [binary.name for binary in binaries if binary.spills] == []
    products = {kernel.name for kernel in low.kernels if "tl.dot" in kernel.source}
    assert len(products) == 5
    assert {binary.name for binary in binaries if "HGMMA" in binary.sass} == products
    assert any(", start" in kernel.source.partition("):")[0] for kernel in low.kernels)


def test_intermediates_of_ordinary_size_are_kept():
    """An activation a few times as large as what it is made from is not worth a second product."""

    def mlp(x, w1, w2):
        return gradc.nn.gelu(x @ w1) @ w2

    low = gradc.compile(mlp).lower(*(gradc.spec(shape, "bfloat16") for shape in ((65536, 2048), (2048, 8192), (8192, 2048))))
    assert "host" not in " ".join(kernel.schedule for kernel in low.kernels)
