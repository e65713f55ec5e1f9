"""Times of the workloads on a GPU, gradc's beside PyTorch's, each checked against float64 in the same run.

What is device-specific is a Timer: `CudaTimer` here, and `HostTimer`, by which tests run everything else on the CPU. A
workload or contender that fails, or for which no time is left, is reported as such.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import optree
import torch

from benchmarks import peers, run
from benchmarks.peers import Contender
from benchmarks.workloads import Workload

Call = Callable[[], Any]
TOLERANCE = {torch.bfloat16: 1e-2, torch.float16: 2e-3, torch.float32: 1e-4}
CACHES = ("GRADC_CACHE_DIR", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")
SEED, COTANGENT_SEED = 0, 1


class Timer(Protocol):
    """A device. Times are medians in seconds, sizes in bytes."""

    device: str

    def now(self) -> float: ...
    def once(self, call: Call) -> float: ...
    def between(self, call: Call) -> float: ...
    def kernel(self, call: Call) -> float: ...
    def graph(self, call: Call) -> float | None: ...
    def wall(self, call: Call) -> float: ...
    def peak(self, call: Call) -> int: ...
    def release(self) -> None: ...


class HostTimer:
    """Times on the host, for tests. It captures no graphs and counts no memory."""

    device = "cpu"

    def __init__(self, clock: Callable[[], float] = time.perf_counter, repeats: int = 1):
        self.now, self.repeats = clock, repeats

    def once(self, call: Call) -> float:
        start = self.now()
        call()
        return self.now() - start

    def kernel(self, call: Call) -> float:
        return statistics.median(self.once(call) for _ in range(self.repeats))

    between = wall = kernel

    def graph(self, call: Call) -> float | None:
        return None

    def peak(self, call: Call) -> int:
        call()
        return 0

    def release(self) -> None:
        pass


class CudaTimer:
    """Times on the GPU with a cold L2: between runs a buffer larger than it is written."""

    device = "cuda"
    FLUSHED = 512 << 20  # bytes; the L2 of an H200 has 60 MB
    DELAY = 2_000_000  # clock cycles, a millisecond: the host queues a whole run meanwhile, so that its own time does not show
    WARMUPS, REPEATS, ENOUGH = 3, 30, 0.5

    def __init__(self) -> None:
        self.now = time.perf_counter
        self._flushed = torch.empty(self.FLUSHED, dtype=torch.uint8, device=self.device)

    def once(self, call: Call) -> float:
        """Host seconds of one call, finished."""
        torch.cuda.synchronize()
        start = self.now()
        call()
        torch.cuda.synchronize()
        return self.now() - start

    def kernel(self, call: Call) -> float:
        """Device seconds of a call, by events."""
        for _ in range(self.WARMUPS):
            call()
        return self.between(call)

    def between(self, call: Call) -> float:
        """Device seconds of what has run before, by events."""
        return self._repeated(lambda: self._between_events(call))

    def wall(self, call: Call) -> float:
        """Host seconds of a call that finds its data in the L2, until its results are there."""
        for _ in range(self.WARMUPS):
            call()
        return self._repeated(lambda: self.once(call))

    def graph(self, call: Call) -> float | None:
        """Device seconds of a call replayed from a CUDA graph; None where it cannot be captured."""
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(aside):
                for _ in range(self.WARMUPS):
                    call()
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                kept = call()  # the results live in the graph's memory
            seconds = self._repeated(lambda: self._between_events(graph.replay))
        except RuntimeError:
            torch.cuda.synchronize()
            return None
        del kept
        return seconds

    def peak(self, call: Call) -> int:
        """Bytes allocated at the worst moment of a call beyond what was before."""
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    def release(self) -> None:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()

    def _between_events(self, call: Call) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._flushed.zero_()
        torch.cuda._sleep(self.DELAY)
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1e3

    def _repeated(self, measure: Callable[[], float]) -> float:
        """The median of up to REPEATS measurements, fewer once they have taken ENOUGH seconds."""
        start = self.now()
        found: list[float] = []
        while len(found) < self.REPEATS and (len(found) < 5 or self.now() - start < self.ENOUGH):
            found.append(measure())
        return statistics.median(found)


# One workload -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """A workload with its arrays: arguments, the cotangents of its results, and the results and gradients in float64."""

    workload: Workload
    arguments: list[torch.Tensor]
    cotangents: list[torch.Tensor]
    expected: list[torch.Tensor]

    @property
    def leaves(self) -> list[torch.Tensor]:
        return [self.arguments[number] for number in self.workload.wrt]

    def forward(self, function: Callable[..., Any]) -> list[torch.Tensor]:
        return optree.tree_leaves(function(*self.arguments))

    def backward(self, results: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The gradients; may be asked for again."""
        return list(torch.autograd.grad(results, self.leaves, self.cotangents, retain_graph=True)) if self.workload.wrt else []

    def step(self, function: Callable[..., Any]) -> list[torch.Tensor]:
        """Results and gradients."""
        results = self.forward(function)
        return [*results, *self.backward(results)]


def problem(workload: Workload, sizes: dict[str, int], device: str, in_torch: Callable[..., Any] | None = None) -> Problem:
    """Random arguments and cotangents, and PyTorch's answer to them in float64; `in_torch` is the workload's function there."""
    arguments = peers.inputs(workload, sizes, device, SEED)
    doubled = [x.detach().double().requires_grad_(x.requires_grad) if x.is_floating_point() else x for x in arguments]
    results = optree.tree_leaves((in_torch or peers.written_in_torch(workload))(*doubled))
    generator = torch.Generator(device).manual_seed(COTANGENT_SEED)
    dtypes = [getattr(torch, value.dtype.name) for value in workload.lower(sizes).ir.outputs]
    cotangents = [torch.randn(y.shape, generator=generator, device=device).to(d) for y, d in zip(results, dtypes, strict=True)]
    exact = Problem(workload, doubled, [c.double() for c in cotangents], [])
    gradients = exact.backward(results)
    return Problem(workload, arguments, cotangents, [y.detach() for y in (*results, *gradients)])


def measured(given: Problem, contender: Contender, timer: Timer) -> dict[str, Any]:
    """Everything measured of one contender. Its results are checked before they are timed, unless it draws other numbers."""
    function = contender.make(given.workload)
    cold = timer.once(lambda: given.step(function))
    contender.forget()
    function = contender.make(given.workload)
    warm = timer.once(lambda: given.step(function))
    figures: dict[str, Any] = {"compile": {"cold": cold, "warm": warm}, **compared_with_exact(given, contender, function)}
    figures["step"] = {
        "graph": timer.graph(lambda: given.step(function)),
        "wall": timer.wall(lambda: given.step(function)),
        "peak_bytes": timer.peak(lambda: given.step(function)),
    }
    figures["forward"] = {
        "kernel": timer.kernel(lambda: given.forward(function)),
        "graph": timer.graph(lambda: given.forward(function)),
        "wall": timer.wall(lambda: given.forward(function)),
    }
    if given.workload.wrt:
        results = given.forward(function)
        figures["backward"] = {
            "kernel": timer.kernel(lambda: given.backward(results)),
            "wall": timer.wall(lambda: given.backward(results)),
        }
    return figures


def compared_with_exact(given: Problem, contender: Contender, function: Callable[..., Any]) -> dict[str, Any]:
    """The check of a contender's results; None where the exact ones hold other random numbers than PyTorch draws."""
    if given.workload.draws and contender.name != "gradc":
        return {"errors": [], "error_worst": None, "correct": None}
    return checked(given, function)


def checked(given: Problem, function: Callable[..., Any]) -> dict[str, Any]:
    """The check of a function's results and gradients."""
    return compared_with(given.expected, given.step(function))


def compared_with(expected: Sequence[torch.Tensor], got: Sequence[torch.Tensor]) -> dict[str, Any]:
    """‖got − exact‖ / ‖exact‖ of every result and gradient, the worst, and whether each is as small as its dtype allows."""
    errors = [relative_error(g, e) for g, e in zip(got, expected, strict=True)]
    allowed = [TOLERANCE.get(g.dtype, 0.0) for g in got]
    right = all(error <= limit for error, limit in zip(errors, allowed, strict=True))  # false for NaN
    return {"errors": errors, "allowed": allowed, "error_worst": max(errors), "correct": right}


def relative_error(got: torch.Tensor, exact: torch.Tensor) -> float:
    if got.shape != exact.shape:
        return float("inf")
    norm = exact.double().norm().item()
    return (got.detach().double() - exact.double()).norm().item() / (norm or 1.0)


# All of them --------------------------------------------------------------------------------------------------------


def floors(workload: Workload, sizes: dict[str, int]) -> dict[str, dict[str, int]]:
    """Least bytes of each phase (everything it is given and makes, once) and its flops, from the lowered program."""
    lowered = workload.lower(sizes)
    found = {}
    for sequence in lowered.program.sequences:
        cost = getattr(lowered.cost, sequence.phase)
        ends = dict.fromkeys((*sequence.graph.inputs, *sequence.graph.outputs))
        least = sum(value.size * sequence.dtypes[value].itemsize for value in ends)
        found[sequence.phase] = {"bytes": min(least, cost.bytes), "flops": cost.flops}
    return found


def with_fractions(
    figures: dict[str, Any], floor: dict[str, dict[str, int]], ceilings: dict[str, float], bound: str
) -> dict[str, Any]:
    """Adds to each phase the fraction of the device's copy bandwidth or matrix rate that it reaches."""
    for phase, least in floor.items():
        reached = least["bytes"] / ceilings["bandwidth"] if bound == "memory" else least["flops"] / ceilings["matrix_rate"]
        figures[phase]["fraction"] = reached / figures[phase]["kernel"]
    return figures


def compared(
    workload: Workload,
    sizes: dict[str, int],
    chosen: Sequence[Contender],
    timer: Timer,
    ceilings: dict[str, float],
    until: float,
) -> dict[str, Any]:
    """Every contender's figures for a workload."""
    floor = floors(workload, sizes)
    given = problem(workload, sizes, timer.device)
    found: dict[str, Any] = {}
    for contender in chosen:
        if timer.now() > until:
            found[contender.name] = {"skipped": "no time was left"}
            continue
        found[contender.name] = run.attempted(
            lambda c=contender: with_fractions(measured(given, c, timer), floor, ceilings, workload.bound)
        )
        timer.release()
    return {"sizes": dict(sizes), "least": floor, "contenders": found}


def all_compared(
    chosen: Sequence[Workload],
    contenders: Sequence[Contender],
    timer: Timer,
    report: dict[str, Any],
    seconds: float,
    save: Callable[[dict[str, Any]], None] = lambda report: None,
    sizes_of: Callable[[Workload], dict[str, int]] = lambda workload: dict(workload.full),
) -> dict[str, Any]:
    """The report with every workload's figures, saved after each. What is left of `seconds` is shared out evenly."""
    end = timer.now() + seconds
    workloads = report["workloads"] = {}
    for number, workload in enumerate(chosen):
        until = timer.now() + (end - timer.now()) / (len(chosen) - number)
        workloads[workload.name] = run.attempted(
            compared, workload, sizes_of(workload), contenders, timer, report["ceilings"], until
        )
        timer.release()
        save(report)
    return report


def on_gpu(chosen: Sequence[Workload], seconds: float, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """The whole comparison on the GPU of this machine. Raises SystemExit where there is none."""
    if not torch.cuda.is_available():
        raise SystemExit("timing needs a GPU, and torch finds none")
    timer = CudaTimer()
    report = {"device": torch.cuda.get_device_name(), "cuda": torch.version.cuda, "ceilings": ceilings(timer)}
    return all_compared(chosen, peers.contenders(), timer, report, seconds, save)


def ceilings(timer: Timer, megabytes: int = 4096, side: int = 8192) -> dict[str, float]:
    """Bytes per second of a copy within the device, and flops per second of a bfloat16 product of random matrices."""
    source = torch.randint(256, (megabytes << 20,), dtype=torch.uint8, device=timer.device)
    target = torch.empty_like(source)
    bandwidth = 2 * source.numel() / timer.kernel(lambda: target.copy_(source))
    a, b = (torch.randn(side, side, device=timer.device).to(torch.bfloat16) for _ in range(2))
    return {"bandwidth": bandwidth, "matrix_rate": 2 * side**3 / timer.kernel(lambda: a @ b)}


@contextmanager
def fresh_caches() -> Iterator[None]:
    """Empty disk caches for gradc, Triton and Inductor, so that a first compilation is a cold one."""
    before = {name: os.environ.get(name) for name in CACHES}
    with tempfile.TemporaryDirectory(prefix="gradc-benchmarks-") as folder:
        os.environ.update({name: os.path.join(folder, name.lower()) for name in CACHES})
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
