"""The devices a schedule can be made for, as data. Nothing here asks a machine what it has.

Processors, caches, clocks and rates are the vendors': NVIDIA's architecture papers and data sheets of A100 (2020), H100 (2022),
H200 (2023), Ada AD102 (2022) and Blackwell GB202 (2025), AMD's of MI300X (2023). A copy reaches about nine tenths of a memory's
rate and a long product about eight tenths of a matrix unit's (half for the MI300X), so that is what stands here where nothing was
measured. Matrix rates are those of 16-bit operands without sparsity, accumulating in float32.

`round_seconds` is what a program takes from the loads of one tile to the loads of the next when nothing else hinders it: the latency
of memory under load (about twice the 270 ns that Luo et al., "Benchmarking and Dissecting the Nvidia Hopper GPU
Architecture", 2024, measure on an idle H100), and a reduction across warps.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gradc.errors import UnsupportedError


@dataclass(frozen=True)
class Device:
    """Rates in bytes or operations per second, sizes in bytes. `warp` is the threads of one warp, `most_warps` a processor's.

    `atomics` is whether schedules may add floats up in memory, in whatever order programs come. `small_products` are two numbers of
    multiplications: products of up to so many surely do without the matrix unit, and perhaps do; see `small.py`.
    """

    name: str
    target: str
    processors: int
    bandwidth: float
    matrix_rate: float
    vector_rate: float
    double_rate: float
    cache_mebibytes: int
    cache_bandwidth: float
    launch_seconds: float = 5e-6
    round_seconds: float = 0.8e-6
    registers: int = 65536  # 32-bit registers of one processor
    shared_bytes: int = 227 * 1024
    warp: int = 32
    most_warps: int = 64
    atomics: bool = False
    small_products: tuple[int, int] = (1 << 15, 1 << 22)

    @property
    def cache_bytes(self) -> int:
        return self.cache_mebibytes << 20


# fmt: off
# Bandwidth and matrix rate of the H200 are measured: a device-to-device copy, and an 8192-cubed bfloat16 product.
DEVICES = {
    device.name: device
    for device in (
        Device("H200", "sm_90", 132, 4.3e12, 790e12, 60e12, 30e12, 50, 7e12),
        Device("H100", "sm_90", 132, 3.0e12, 790e12, 60e12, 30e12, 50, 7e12),
        Device("A100", "sm_80", 108, 1.8e12, 250e12, 17e12, 9e12, 40, 5e12, shared_bytes=163 * 1024),
        Device(
            "MI300X", "gfx942", 304, 4.3e12, 700e12, 130e12, 65e12, 256, 10e12,
            registers=131072, shared_bytes=64 * 1024, warp=64, most_warps=32,
        ),
        Device("RTX4090", "sm_89", 128, 0.9e12, 132e12, 74e12, 1.2e12, 72, 4e12, shared_bytes=99 * 1024, most_warps=48),
        Device("RTX5090", "sm_120", 170, 1.6e12, 168e12, 94e12, 1.5e12, 96, 6e12, shared_bytes=99 * 1024, most_warps=48),
    )
}
# fmt: on
H200 = DEVICES["H200"]


def device_named(name: str) -> Device:
    """The device of that name, however it is written ("NVIDIA H100 80GB HBM3", "rtx 4090"). Raises UnsupportedError."""
    for known, device in DEVICES.items():
        if re.search(re.sub(r"(?<=[A-Z])(?=\d)", " ?", known) + r"(?!\d)", name.upper()):
            return device
    raise UnsupportedError(f"gradc has no figures of a device {name!r}", advice=f"Use one of {', '.join(DEVICES)}.")
