"""`make gpu`: what a GPU is asked first, in order of worth and within a time limit, written down as it goes.

The ceilings of the device; whether every workload and gallery function is right there at real shapes; times, the kernels
whose prediction is most in doubt first and one by one, beside PyTorch's; the host's own time last. A part that fails, or for
which no time is left, is reported as such. On a machine without a GPU the same runs with the timer of the tests.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, TimeoutError
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import optree
import torch
from rich.console import Console

import gradc
from benchmarks import gpu_tables, peers, run, timing
from benchmarks.__main__ import PIPED, RESULTS, write
from benchmarks.doubtful import DOUBTFUL
from benchmarks.peers import Contender
from benchmarks.timing import Problem, Timer
from benchmarks.workloads import WORKLOADS, Workload, workload
from examples import in_torch
from examples.gallery import GALLERY, Piece
from gradc.runtime import module

ABOUT = "Made by `make gpu`; see benchmarks/README.md. Times are medians in seconds, with a cold L2 unless called wall."
PARTS = ("ceilings", "correct", "times", "host")
SHARES = {"correct": 0.45, "times": 0.9, "host": 1.0}  # the fraction of the time limit by which a part has ended
LONG = 1024  # sizes above it are halved where the exact results of a problem do not fit in memory
HALVINGS = 3
COMPILERS = 8  # processes that fill Triton's cache before anything is checked; each takes half a GB of the GPU
HOST_ROWS = (1, 64, 2048)


@dataclass
class Session:
    """One run: what is asked, of which device, until when, and what has been found. `save` is called after every finding."""

    timer: Timer
    backend: str
    seconds: float
    sizes_of: Callable[[Any], dict[str, int]] = lambda row: dict(row.full)
    save: Callable[[dict[str, Any]], None] = lambda report: None
    report: dict[str, Any] = field(default_factory=dict)
    start: float = field(init=False)

    def __post_init__(self) -> None:
        self.start = self.timer.now()

    def has_time(self, part: str) -> bool:
        return self.timer.now() - self.start < SHARES[part] * self.seconds

    def found(self, part: str, name: str, figures: dict[str, Any]) -> None:
        """Keeps a finding, and writes down all there is."""
        self.report.setdefault(part, {})[name] = figures
        self.report["seconds"] = round(self.timer.now() - self.start, 1)
        self.save(self.report)

    def each(self, part: str, rows: Sequence[Any], examine: Callable[[Session, Any], dict[str, Any]]) -> None:
        """Examines rows one after another while there is time."""
        for row in rows:
            figures = run.attempted(examine, self, row) if self.has_time(part) else {"skipped": "no time was left"}
            self.found(part, row.name, figures)
            self.timer.release()


# Correctness --------------------------------------------------------------------------------------------------------


def written_in_torch(row: Workload | Piece) -> Callable[..., Any]:
    return getattr(in_torch, row.name) if isinstance(row, Piece) else peers.written_in_torch(row)


def correct(session: Session, row: Workload | Piece) -> dict[str, Any]:
    """Forward and backward against float64; again with outputs poisoned, bit for bit; and from inputs that begin off their memory's start.

    Where the exact results do not fit in memory the long sizes are halved.
    """
    sizes = session.sizes_of(row)
    for _ in range(HALVINGS):
        try:
            return {"sizes": sizes, **_correct(session, row, sizes)}
        except torch.OutOfMemoryError:
            session.timer.release()
            sizes = {name: size // 2 if size > LONG else size for name, size in sizes.items()}
    raise torch.OutOfMemoryError(f"the exact results of {row.name} do not fit")


def _correct(session: Session, row: Workload | Piece, sizes: dict[str, int]) -> dict[str, Any]:
    with torch.device(session.timer.device):  # the peers make positions and masks of their own
        given = timing.problem(row, sizes, session.timer.device, written_in_torch(row))
    function = gradc.compile(backend=session.backend, memory_budget=getattr(row, "budget", None))(row.function)
    first = given.step(function)
    compared = timing.compared_with(given.expected, first)
    again = {}
    for name, arrange in (("repeated", _as_before), ("poisoned", poisoned)):
        with arrange():
            again[name] = _same_bits(first, given.step(function))
    shifted = replace(given, arguments=[off_start(x) for x in given.arguments])
    offset = timing.compared_with(given.expected, shifted.step(function))
    allowed = None if compared["correct"] and offset["correct"] else _errors_in_torch(session, given)
    right = all(again.values()) and (allowed is None or (_as_good(compared, allowed) and _as_good(offset, allowed)))
    return {**compared, **again, "offset_error": offset["error_worst"], "errors_in_torch": allowed, "correct": right}


def _errors_in_torch(session: Session, given: Problem) -> list[float]:
    """The errors of PyTorch's own kernels in the dtypes of the arguments: a long chain in 16 bits may exceed what one rounding allows."""
    with torch.device(session.timer.device):
        return timing.compared_with(given.expected, given.step(written_in_torch(given.workload)))["errors"]


def _as_good(compared: Mapping[str, Any], others: Sequence[float]) -> bool:
    """Whether every error is within its dtype's tolerance, or no larger than PyTorch's."""
    pairs = zip(compared["errors"], compared["allowed"], others, strict=True)
    return all(error <= max(allowed, other) for error, allowed, other in pairs)


def _same_bits(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> bool:
    """Whether two runs gave the same numbers; nan counts as itself."""
    return all(
        bool(torch.equal(torch.nan_to_num(a, 7.0), torch.nan_to_num(b, 7.0))) for a, b in zip(first, second, strict=True)
    )


@contextmanager
def _as_before() -> Iterator[None]:
    yield


@contextmanager
def poisoned() -> Iterator[None]:
    """Memory that is allocated and not filled holds nan, or the largest integer."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def off_start(x: torch.Tensor) -> torch.Tensor:
    """The same numbers one element further on in memory, as `x[1:]` gives them, where 16 bytes no longer begin."""
    memory = torch.empty(x.numel() + 1, dtype=x.dtype, device=x.device)
    shifted = memory[1:].view(x.shape)
    shifted.copy_(x.detach())
    return shifted.requires_grad_(x.requires_grad)


# Times --------------------------------------------------------------------------------------------------------------


def timed(session: Session, row: Workload) -> dict[str, Any]:
    """gradc's kernels one by one beside their prediction, then whole steps beside PyTorch's."""
    sizes = session.sizes_of(row)
    with torch.device(session.timer.device):
        given = timing.problem(row, sizes, session.timer.device, written_in_torch(row))
    floor = timing.floors(row, sizes)
    figures: dict[str, Any] = {"sizes": sizes, "kernels": run.attempted(by_kernel, session, given, sizes), "contenders": {}}
    for contender in contenders(session.backend):
        if not session.has_time("times"):
            figures["contenders"][contender.name] = {"skipped": "no time was left"}
            continue
        figures["contenders"][contender.name] = run.attempted(
            lambda c=contender: timing.with_fractions(
                timing.measured(given, c, session.timer), floor, session.report["ceilings"], row.bound
            )
        )
        session.timer.release()
    return figures


def contenders(backend: str) -> list[Contender]:
    """gradc, PyTorch as it is, and compiled; none where there is no GPU to compile for."""
    found = [peers.by_gradc(backend), Contender("eager", peers.written_in_torch)]
    return [*found, peers.by_compile("torch.compile")] if backend == "triton" else found


def by_kernel(session: Session, given: Problem, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Seconds of every emitted kernel of a step, each from a cold L2, beside what the cost model predicts for this device."""
    low = gradc.compile(given.workload.function).lower(*given.workload.specs(sizes), wrt=given.workload.wrt)
    function = gradc.compile(backend=session.backend)(given.workload.function)
    given.step(function)
    found: dict[str, list[float]] = {}
    with watched(list(module._MODULES.values()), {kernel.name for kernel in low.kernels}, session.timer, found):
        given.step(function)
    return {
        kernel.name: {
            "measured": sum(found.get(kernel.name, [])),
            "launches": len(found.get(kernel.name, [])),
            "predicted": kernel.seconds,
            "bound": kernel.bound,
        }
        for kernel in low.kernels
    }


@contextmanager
def watched(modules: Sequence[ModuleType], names: set[str], timer: Timer, found: dict[str, list[float]]) -> Iterator[None]:
    """Emitted modules whose kernels of these names are timed when they are launched."""
    before = [(m, name, getattr(m, name)) for m in modules for name in sorted(names) if hasattr(m, name)]
    for m, name, kernel in before:
        setattr(m, name, Watched(kernel, timer, found.setdefault(name, [])))
    try:
        yield
    finally:
        for m, name, kernel in before:
            setattr(m, name, kernel)


@dataclass
class Watched:
    """A kernel that is launched again and again until its time is known, whatever that makes of its results."""

    kernel: Any
    timer: Timer
    seconds: list[float]

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        launch = self.kernel[grid]

        def call(*arguments: Any, **options: Any) -> None:
            launch(*arguments, **options)
            self.seconds.append(self.timer.between(lambda: launch(*arguments, **options)))

        return call


# The host -----------------------------------------------------------------------------------------------------------


def host(session: Session, rows: int) -> dict[str, Any]:
    """Wall seconds of a call and of a step on arrays so small that the GPU waits for the host."""
    row = replace(workload("rms_norm"), full={"rows": rows, "columns": 4096})
    given = timing.problem(row, session.sizes_of(row), session.timer.device)
    figures = {}
    for contender in contenders(session.backend):
        function = contender.make(row)
        given.step(function)
        forward = session.timer.wall(lambda f=function: given.forward(f))
        figures[contender.name] = {"forward": forward, "step": session.timer.wall(lambda f=function: given.step(f))}
    return figures


@dataclass(frozen=True)
class HostRow:
    """A row of the host's part: RMSNorm of so many rows."""

    rows: int

    @property
    def name(self) -> str:
        return f"rms_norm of {self.rows} rows"


# All of it ----------------------------------------------------------------------------------------------------------


def compiled_ahead(names: Sequence[str], seconds: float) -> None:
    """Runs every problem once, in processes side by side, so that its kernels are found built. What fails there fails here too, and is told then."""
    with ProcessPoolExecutor(COMPILERS, multiprocessing.get_context("spawn")) as pool:
        waiting = [pool.submit(compile_one, name) for name in names]
        for future in waiting:
            try:
                future.result(timeout=seconds)
            except TimeoutError:
                break
            except Exception:
                continue
        pool.shutdown(wait=False, cancel_futures=True)


def compile_one(name: str) -> None:
    """One step of a problem at its full shapes."""
    row = next(row for row in (*WORKLOADS, *GALLERY, *DOUBTFUL) if f"{type(row).__name__} {row.name}" == name)
    arguments = peers.inputs(row, dict(row.full), "cuda")
    results = optree.tree_leaves(
        gradc.compile(backend="triton", memory_budget=getattr(row, "budget", None))(row.function)(*arguments)
    )
    if row.wrt:
        torch.autograd.grad(results, [arguments[i] for i in row.wrt], [torch.ones_like(y) for y in results])
    torch.cuda.synchronize()


def everything(
    session: Session,
    first: str = PARTS[0],
    rows: Sequence[Workload | Piece] = (*WORKLOADS, *GALLERY),
    doubtful: Sequence[Workload] = DOUBTFUL,
) -> dict[str, Any]:
    """All parts from `first` on. The ceilings are always measured: times are fractions of them."""
    wanted = PARTS[PARTS.index(first) :]
    on_gpu = session.timer.device == "cuda"
    session.report["ceilings"] = timing.ceilings(session.timer) if on_gpu else timing.ceilings(session.timer, 1, 16)
    session.save(session.report)
    if on_gpu:
        ahead = (*(rows if "correct" in wanted else ()), *(doubtful if "times" in wanted else ()))
        compiled_ahead([f"{type(row).__name__} {row.name}" for row in ahead], 0.25 * session.seconds)
    if "correct" in wanted:
        session.each("correct", rows, correct)
    if "times" in wanted:
        session.each("times", doubtful, timed)
    if "host" in wanted:
        session.each("host", [HostRow(rows) for rows in HOST_ROWS], lambda session, row: host(session, row.rows))
    return session.report


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description="What a GPU is asked first, in order of worth."
    )
    parser.add_argument("--from", dest="first", choices=PARTS, default=PARTS[0], help="leave out the parts before this one")
    parser.add_argument("--seconds", type=float, default=450, help="begin nothing more after so many seconds")
    parser.add_argument(
        "--json", type=Path, default=RESULTS / "gpu.json", metavar="PATH", help="where the findings are written"
    )
    parser.add_argument("--commit", help="the commit this tree is of, where there is no repository to ask")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Runs everything on the GPU here. Returns 1 where a result was wrong or a problem failed."""
    options = parsed(arguments)
    if not torch.cuda.is_available():
        print("there is no GPU: torch finds none", file=sys.stderr)
        return 2
    about = {"_about": ABOUT, **run.circumstances(), "device": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    about |= {"commit": options.commit} if options.commit else {}
    session = Session(timing.CudaTimer(), "triton", options.seconds, save=lambda found: write({**about, **found}, options.json))
    with timing.fresh_caches():
        report = everything(session, options.first)
    console = Console(width=PIPED)
    gpu_tables.everything(about | report, console)
    return int(any("error" in row or not row.get("correct", True) for row in report.get("correct", {}).values()))


if __name__ == "__main__":
    sys.exit(main())
