"""What can be measured without a GPU: launches and bytes of every workload, what its kernels compile to, and how long emitting takes.

Everything is a plain dictionary, ready to be written as JSON. One workload that fails is reported, never fatal. Nothing here runs a kernel.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import gradc
from benchmarks.workloads import Workload
from gradc.runtime.build import Binary
from gradc.runtime.lowered import Kernel
from gradc.runtime.policy import check_ptx, has_tensor_cores, has_vector_loads, has_vector_stores

HERE = Path(__file__).parent
INDUCTOR: dict[str, Any] = json.loads((HERE / "inductor.json").read_text())["workloads"]
PACKAGES = ("gradc", "numpy", "torch", "triton")
EMITTED = ("rms_norm", "mlp12", "transformer_block")  # functions of emission.py
LARGE = 1_000_000  # bytes from which an array's accesses must be 16 bytes wide


def has_gpu() -> bool:
    """Whether torch is installed and finds a GPU."""
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()


def circumstances() -> dict[str, Any]:
    """When, from which commit and with which versions the figures were made."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": {"python": platform.python_version()} | {name: version_of(name) for name in PACKAGES},
    }


def version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def commit() -> str:
    """The commit checked out, with `+` where files differ from it; "unknown" outside a repository."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=+"], cwd=HERE, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return described.stdout.strip()


def attempted(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """The function's result, or `{"error": ...}` where it raises."""
    try:
        return function(*arguments)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


# Launches and bytes -------------------------------------------------------------------------------------------------


def launches(workload: Workload) -> dict[str, Any]:
    """Launches and bytes, forward and backward, beside Inductor's and the goal."""
    start = time.perf_counter()
    lowered = workload.lower()
    cost, saved = lowered.cost, saved_beyond_outputs(lowered)
    seconds = time.perf_counter() - start
    goal = workload.goal
    return {
        "arguments": {a.name: f"{a.dtype}{list(a.dimensions(workload.full))}" for a in workload.arguments},
        "forward": vars(cost.forward),
        "backward": vars(cost.backward),
        "launches": cost.launches,
        "bytes": cost.bytes,
        "saved_new_bytes": saved,
        "saved": {item.name: item.why for item in lowered.saved},
        "lower_seconds": round(seconds, 4),
        "goal": vars(goal),
        "reached": goal.reached(cost.launches, cost.bytes, saved),
        "kernels": [{"name": k.name, "phase": k.phase, "schedule": k.schedule, "bytes": k.bytes} for k in lowered.kernels],
        "inductor": inductor(workload),
    }


def inductor(workload: Workload) -> dict[str, int]:
    """What TorchInductor emits for it."""
    figures = INDUCTOR[workload.inductor or workload.name]
    return {name: figures[name] for name in ("launches", "bytes", "saved_new_bytes")}


def saved_beyond_outputs(lowered: gradc.Lowered) -> int:
    """Bytes of the residuals that are neither inputs nor outputs of the function: memory that the backward costs."""
    if lowered.partition is None:
        return 0
    made = set(lowered.partition.forward.outputs[len(lowered.ir.outputs) :])
    return sum(
        saved.bytes
        for saved, residual in zip(lowered.saved, lowered.partition.residuals, strict=True)
        if residual.value in made
    )


# Builds -------------------------------------------------------------------------------------------------------------


def build(workload: Workload, target: str = "sm_90") -> dict[str, Any]:
    """What each kernel compiles to at the full shapes, without a GPU, and what is wrong with it."""
    lowered = workload.lower()
    start = time.perf_counter()
    binaries = lowered.build(target)
    seconds = time.perf_counter() - start
    pairs = zip(lowered.kernels, binaries, strict=True)
    return {"build_seconds": round(seconds, 3), "binaries": [binary_facts(kernel, binary) for kernel, binary in pairs]}


def binary_facts(kernel: Kernel, binary: Binary) -> dict[str, Any]:
    """Registers, spills and instructions of a kernel; `problems` is empty where it keeps every promise."""
    facts = {
        "name": binary.name,
        "registers": binary.registers,
        "spills": binary.spills,
        "shared_bytes": binary.shared_bytes,
        "loads_128": has_vector_loads(binary.sass),
        "stores_128": has_vector_stores(binary.sass),
        "tensor_cores": has_tensor_cores(binary.sass),
        "hgmma": "HGMMA" in binary.sass,
    }
    return facts | {"problems": [*problems(kernel, facts), *check_ptx(binary.ptx)]}


def problems(kernel: Kernel, facts: dict[str, Any]) -> list[str]:
    """A spill; accesses of less than 16 bytes to a large array; a product of 16-bit matrices off the tensor cores."""
    found = [f"spills {facts['spills']} bytes"] if facts["spills"] else []
    if is_product(kernel):
        narrow = any(buffer.dtype in ("bfloat16", "float16") for buffer in kernel.reads)
        return found + (["multiplies 16-bit matrices without HGMMA"] if narrow and not facts["hgmma"] else [])
    if any(buffer.bytes >= LARGE for buffer in kernel.reads) and not facts["loads_128"]:
        found.append("no 128-bit load")
    if any(buffer.bytes >= LARGE for buffer in kernel.writes) and not facts["stores_128"]:
        found.append("no 128-bit store")
    return found


def is_product(kernel: Kernel) -> bool:
    """Whether it multiplies matrices."""
    return "tl.dot(" in kernel.source


# Emission -----------------------------------------------------------------------------------------------------------

EMISSION = """
import json, sys, time
import numpy
before = time.perf_counter(), time.process_time()
import gradc
imported = time.perf_counter() - before[0], time.process_time() - before[1]
from benchmarks import emission
times = [imported, emission.seconds(emission.load)] + [emission.seconds(emission.{name}) for _ in range({repeats})]
print(json.dumps({{"times": times, "sympy": "sympy" in sys.modules}}))
"""


def emission(names: Sequence[str] = EMITTED, repeats: int = 5) -> dict[str, Any]:
    """Seconds from the decorator to the source of forward and backward, in a fresh process for each program."""
    return {name: attempted(emission_of, name, repeats) for name in names}


def emission_of(name: str, repeats: int) -> dict[str, Any]:
    """Wall and processor seconds: that gradc adds to NumPy's import, to load the compiler, of the first emission, and of the best."""
    code = EMISSION.format(name=name, repeats=repeats)
    done = subprocess.run([sys.executable, "-c", code], cwd=HERE.parent, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    imported, load, first, *others = (
        {"wall": round(wall, 4), "processor": round(processor, 4)} for wall, processor in found["times"]
    )
    best = {key: min(time[key] for time in (first, *others)) for key in first}
    return {"import": imported, "load": load, "first": first, "best": best, "imports_sympy": found["sympy"]}
