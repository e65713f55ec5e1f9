"""Bytes, flops and launches of scheduled kernels, and how many bytes each array costs.

A kernel's traffic counts each array once per launch that touches it, and again for each further pass over a row that does
not fit on chip; an expanded input counts the elements it has in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gradc.codegen.estimate import touched
from gradc.codegen.hosting.chunks import HostCounter
from gradc.codegen.plan import Scheduled
from gradc.ir import Value
from gradc.types import DType


@dataclass(frozen=True)
class Buffer:
    """An array a kernel touches: `bytes` is what it moves."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int


@dataclass(frozen=True)
class Traffic:
    reads: tuple[Buffer, ...]
    writes: tuple[Buffer, ...]

    @property
    def bytes(self) -> int:
        return sum(buffer.bytes for buffer in (*self.reads, *self.writes))


@dataclass(frozen=True)
class PhaseCost:
    """What one launch sequence costs: launches on the device, bytes moved, floating-point operations."""

    launches: int
    bytes: int
    flops: int


@dataclass(frozen=True)
class Cost:
    """Forward and backward, and both together."""

    forward: PhaseCost
    backward: PhaseCost

    @property
    def launches(self) -> int:
        return self.forward.launches + self.backward.launches

    @property
    def bytes(self) -> int:
        return self.forward.bytes + self.backward.bytes

    @property
    def flops(self) -> int:
        return self.forward.flops + self.backward.flops


def traffic(kernel: Scheduled, identifiers: Mapping[Value, str], dtypes: Mapping[Value, DType]) -> Traffic:
    """What a kernel reads and writes, in all its launches."""
    arrays = [(v, times) for v, times in kernel.plan.reads if not isinstance(v.operation, HostCounter)]
    reads = tuple(_buffer(v, touched(v) * times * kernel.times, identifiers, dtypes) for v, times in arrays)
    return Traffic(reads, tuple(_buffer(v, v.size * kernel.times, identifiers, dtypes) for v in kernel.writes))


def _buffer(value: Value, elements: int, identifiers: Mapping[Value, str], dtypes: Mapping[Value, DType]) -> Buffer:
    dtype = dtypes[value]
    return Buffer(identifiers[value], value.shape, dtype.name, elements * dtype.itemsize)


def phase_cost(kernels: tuple[Scheduled, ...], identifiers: Mapping[Value, str], dtypes: Mapping[Value, DType]) -> PhaseCost:
    """The cost of a launch sequence."""
    filled = sum(_buffer(value, value.size, identifiers, dtypes).bytes for kernel in kernels for value in kernel.zeroed)
    moved = sum(traffic(kernel, identifiers, dtypes).bytes for kernel in kernels) + filled
    launches = sum(kernel.launches for kernel in kernels)
    return PhaseCost(launches, moved, sum(kernel.plan.flops * kernel.times for kernel in kernels))
