"""The device a schedule is made for, as data. Figures are the vendor's or, where a comment says so, measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """Rates in bytes or operations per second, sizes in bytes."""

    name: str
    target: str
    processors: int
    bandwidth: float
    matrix_rate: float
    vector_rate: float
    launch_seconds: float
    registers: int = 65536  # 32-bit registers of one processor
    shared_bytes: int = 227 * 1024


# Bandwidth and matrix rate are measured: a device-to-device copy, and an 8192-cubed bfloat16 product.
H200 = Device("H200", "sm_90", 132, 4.3e12, 790e12, 60e12, 3e-6)
