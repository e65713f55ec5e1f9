"""What `f.lower(...)` gives: the program, its gradient, the kernels emitted for them, and what they cost. Nothing runs.

Everything here is read from what `codegen` decided; only `build` starts a compiler, in worker processes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NoReturn

from gradc.absent import missing
from gradc.codegen.cost import Buffer, Cost, PhaseCost, phase_cost, traffic
from gradc.codegen.device import H200, Device
from gradc.codegen.lower import LaunchSequence, Program
from gradc.codegen.plan import Scheduled
from gradc.codegen.printing.emit import Emitted
from gradc.codegen.printing.explain import schedule_line, size, story
from gradc.codegen.residuals import Partition
from gradc.errors import UnsupportedError, public, require
from gradc.ir import Graph
from gradc.runtime.build import Binary, BuildRequest
from gradc.runtime.workers import build as build_kernels
from gradc.types import DType

POINTERS = {"bool": "i1", "bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "float64": "fp64"}
ALIGNMENT = 16
TARGET = re.compile(r"sm_\d+a?|gfx[0-9a-f]+")


@dataclass(frozen=True)
class Kernel:
    """One emitted kernel: its text, its schedule in one line, and the buffers it moves (`bytes` each, and in all).

    `seconds` is what the cost model predicts, and `bound` what it says they go into.
    """

    name: str
    phase: str
    source: str
    schedule: str
    reads: tuple[Buffer, ...]
    writes: tuple[Buffer, ...]
    flops: int
    seconds: float
    bound: str

    @property
    def bytes(self) -> int:
        return sum(buffer.bytes for buffer in (*self.reads, *self.writes))


@dataclass(frozen=True)
class Saved:
    """A Value kept from the forward for the backward. `bytes` is its size; inputs and outputs are in memory anyway."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    why: str


@dataclass(frozen=True, eq=False, repr=False)
class Lowered:
    """A function lowered for given shapes: `ir` and `backward_ir`, the `kernels`, the module's `source`, `saved`, `cost`.

    `device` is what the schedules were made for.
    """

    ir: Graph
    program: Program
    partition: Partition | None
    device: Device = H200

    def __repr__(self) -> str:
        launches = self.cost.launches
        return f"<lowered {self.ir.title}: {launches} launch{'' if launches == 1 else 'es'}, {size(self.cost.bytes)}>"

    def __getattr__(self, name: str) -> NoReturn:
        raise missing("Lowered", name, dir(type(self)))

    @property
    def backward_ir(self) -> Graph | None:
        """The gradient as the backward computes it from what is kept; None when nothing is differentiated."""
        return self.partition.backward if self.partition else None

    @property
    def source(self) -> str:
        """The whole emitted module: runs alone with torch and triton, without gradc."""
        return self.program.source

    @cached_property
    def kernels(self) -> tuple[Kernel, ...]:
        """The emitted kernels in launch order, the forward's first."""
        return tuple(
            _kernel(sequence, *pair)
            for sequence in self.program.sequences
            for pair in zip(sequence.scheduled, sequence.emitted, strict=True)
        )

    @cached_property
    def saved(self) -> tuple[Saved, ...]:
        """The residuals kept for the backward, and why each is kept."""
        if self.partition is None:
            return ()
        names, dtypes = self.program.sequences[1].identifiers, self.program.sequences[1].dtypes
        return tuple(
            Saved(names[r.stand_in], r.value.shape, dtypes[r.stand_in].name, r.value.size * dtypes[r.stand_in].itemsize, r.why)
            for r in self.partition.residuals
        )

    @cached_property
    def cost(self) -> Cost:
        """Launches, bytes moved and flops of the forward and of the backward."""
        phases = [phase_cost(s.scheduled, s.identifiers, s.dtypes) for s in self.program.sequences]
        return Cost(phases[0], phases[1] if len(phases) > 1 else PhaseCost(0, 0, 0))

    def explain(self) -> str:
        """What was fused with what, what was not and why, and each kernel's schedule in one line."""
        return "\n".join(story(sequence) for sequence in self.program.sequences)

    @public
    def build(self, target: str = "sm_90") -> tuple[Binary, ...]:
        """Cross-compiles every kernel, in parallel processes; needs triton, no GPU.

        Raises UnsupportedError for a target that is none, and WorkerError if a kernel does not compile.
        """
        if not TARGET.fullmatch(target):
            raise UnsupportedError(f"{target!r} is not a target", advice="Use sm_80, sm_90, sm_100, gfx942 and the like.")
        require("torch", "triton", what="build")
        requests = [
            build_request(kernel, sequence.dtypes) for sequence in self.program.sequences for kernel in sequence.emitted
        ]
        return build_kernels(self.source, requests, target) if requests else ()

    def export(self, path: str | Path) -> Path:
        """Writes `source` to a file: forward, backward and the autograd wiring. Returns the path."""
        path = Path(path)
        path.write_text(self.source, encoding="utf-8")
        return path


def _kernel(sequence: LaunchSequence, scheduled: Scheduled, emitted: Emitted) -> Kernel:
    moved = traffic(scheduled, sequence.identifiers, sequence.dtypes)
    plan = scheduled.plan
    return Kernel(
        emitted.name,
        sequence.phase,
        emitted.source,
        schedule_line(scheduled),
        moved.reads,
        moved.writes,
        plan.flops * scheduled.times,
        plan.bounds.alone * scheduled.times,
        plan.bounds.largest,
    )


def build_request(kernel: Emitted, dtypes: dict) -> BuildRequest:
    """How a launch with 16-byte aligned arrays compiles the kernel."""
    signature, constants, divisible = {}, {}, []
    for argument in kernel.arguments:
        if argument.kind == "constexpr":
            signature[argument.name], constants[argument.name] = "constexpr", argument.value
        elif argument.kind == "counter":
            signature[argument.name] = "i32"
        else:
            signature[argument.name] = (
                f"*{pointer_name(dtypes[argument.value])}" if argument.kind == "buffer" else integer_name(argument.value)
            )
            if argument.kind == "buffer" or argument.value % ALIGNMENT == 0:
                divisible.append(argument.name)
    return BuildRequest(kernel.name, signature, constants, tuple(divisible), kernel.warps, kernel.pipeline)


def pointer_name(dtype: DType) -> str:
    """Triton's name of an element type."""
    return POINTERS.get(dtype.name) or f"{'u' if dtype.family == 'uint' else 'i'}{8 * dtype.itemsize}"


def integer_name(value: int) -> str:
    return "i32" if -(2**31) <= value < 2**31 else "i64"
