"""`gradc doctor`: what is installed, whether there is a GPU, what state the disk cache is in, and whether kernels build and run.

Each line is something tried, not assumed: a small function is compiled, interpreted and built for sm_90. Nothing is installed.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import numpy as np

import gradc
from gradc.codegen.printing.explain import size
from gradc.errors import GradcError
from gradc.runtime.cache import DiskCache
from gradc.runtime.command.display import console_for, table
from gradc.runtime.lowered import build_request
from gradc.runtime.workers import build, processors

NEEDED = ("numpy", "sympy", "optree", "ml_dtypes", "rich")
OPTIONAL = {"torch": (2, 11), "triton": (3, 6), "scikit-learn": (1, 5), "matplotlib": (3, 8)}
MARKS = {"ok": "[green]ok[/green]", "note": "[yellow]note[/yellow]", "failed": "[bold red]FAILED[/bold red]"}
TARGET = "sm_90"


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, what was found, and whether that is "ok", worth a "note", or "failed"."""

    what: str
    found: str
    mark: str = "ok"


def run(options: argparse.Namespace) -> int:
    """Prints the findings. Returns the exit status: 1 where something that should work does not."""
    from rich.markup import escape

    console = console_for()
    shown = table("", "", "found", "", numbers=())
    failed = False
    with console.status("looking"):
        for finding in findings():
            shown.add_row(finding.what, escape(finding.found), MARKS[finding.mark])
            failed |= finding.mark == "failed"
    console.print(shown)
    return 1 if failed else 0


def findings() -> Iterator[Finding]:
    """Everything looked at, in order."""
    yield Finding("machine", f"{platform.platform()}, {processors()} processors")
    yield Finding("Python", platform.python_version())
    yield Finding("gradc", version("gradc"))
    for name in NEEDED:
        yield package(name, None)
    for name, least in OPTIONAL.items():
        yield package(name, least)
    yield gpu()
    yield cache()
    yield tried("NumPy reference", lambda: softmax_difference("numpy"))
    if find_spec("torch") is None or find_spec("triton") is None:
        yield Finding("kernels", "not tried: pip install 'gradc[triton]'", "note")
        return
    yield tried("Triton's interpreter", lambda: softmax_difference("interpret"))
    yield tried(f"building for {TARGET}", built)


def package(name: str, least: tuple[int, int] | None) -> Finding:
    """The version of a package; one that may be absent has a least version that works."""
    try:
        found = version(name)
    except PackageNotFoundError:
        return Finding(name, "not installed", "failed" if least is None else "note")
    number = tuple(int(part) for part in found.split(".")[:2] if part.isdigit())
    if least is not None and number < least:
        return Finding(name, f"{found}, older than {'.'.join(map(str, least))}", "failed")
    return Finding(name, found)


def gpu() -> Finding:
    """The GPU that torch sees."""
    if find_spec("torch") is None:
        return Finding("GPU", "not looked for: torch is not installed", "note")
    import torch

    if not torch.cuda.is_available():
        return Finding("GPU", "none that torch sees: NumPy arrays and backend='interpret' work without", "note")
    properties = torch.cuda.get_device_properties(0)
    return Finding("GPU", f"{properties.name}, sm_{properties.major}{properties.minor}, {size(properties.total_memory)}")


def cache() -> Finding:
    """Whether the disk cache can be written to and read."""
    held = DiskCache()
    if held.put("doctor", {"note.txt": "written by gradc doctor\n"}) is None:
        return Finding("disk cache", f"{held.folder} cannot be used", "failed")
    shutil.rmtree(held.path("doctor"), ignore_errors=True)
    entries = held.entries()
    return Finding("disk cache", f"{held.folder}, {len(entries)} entries, {size(sum(entry.size for entry in entries))}")


def tried(what: str, attempt: Callable[[], str]) -> Finding:
    """What an attempt found, or how it failed."""
    start = time.perf_counter()
    try:
        found = attempt()
    except (GradcError, ImportError, OSError) as error:
        return Finding(what, str(error).strip().splitlines()[0], "failed")
    return Finding(what, f"{found} in {time.perf_counter() - start:.1f} s")


def softmax(x: np.ndarray) -> np.ndarray:
    """What is compiled to see whether compiling works."""
    return gradc.softmax(x, axis=-1)


def softmax_difference(backend: str) -> str:
    """Runs `softmax` compiled with a backend. Raises GradcError where the result is wrong."""
    x = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    want = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    difference = float(np.max(np.abs(gradc.compile(backend=backend)(softmax)(x) - want)))
    if not difference < 1e-6:
        raise GradcError(f"a softmax is wrong by {difference:.1e}")
    return f"a softmax is right to {difference:.0e}"


def built() -> str:
    """Builds the kernels of `softmax` and its gradient, afresh, without the user's disk cache."""
    low = gradc.compile(softmax).lower(gradc.spec((8, 128)))
    requests = [build_request(kernel, sequence.dtypes) for sequence in low.program.sequences for kernel in sequence.emitted]
    with tempfile.TemporaryDirectory(prefix="gradc-doctor-") as folder:
        binaries = build(low.source, requests, TARGET, cache=DiskCache(folder))
    registers = max(binary.registers for binary in binaries)
    return f"{len(binaries)} kernels of a softmax and its gradient, at most {registers} registers,"
