"""What the cost model expects the rows of `gpu_table.py` to take on a GPU. Predictions, to be held against the first real run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from benchmarks.gpu_table import Row
from gradc.codegen.device import device_named


def predictions(rows: Sequence[Row], device: str = "H200") -> dict[str, Any]:
    """The device's figures, and a prediction for every row; one that cannot be lowered says why."""
    figures = device_named(device)
    return {
        "device": vars(figures),
        "rows": [{"number": row.number, "name": row.name, **attempted(row, device)} for row in rows],
    }


def attempted(row: Row, device: str) -> dict[str, Any]:
    """A row's prediction, or `{"error": ...}`."""
    try:
        return predicted(row, device)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def predicted(row: Row, device: str) -> dict[str, Any]:
    """Launches, bytes, flops and predicted milliseconds of each phase, beside the floor; what bounds each kernel."""
    start = time.process_time()
    low = row.lower(device)
    phases = {
        phase: {
            "launches": cost.launches,
            "bytes": cost.bytes,
            "flops": cost.flops,
            "predicted_ms": sum(kernel.seconds for kernel in low.kernels if kernel.phase == phase) * 1e3,
        }
        for phase, cost in (("forward", low.cost.forward), ("backward", low.cost.backward))
        if cost.launches
    }
    floors = {"forward": row.forward_floor, "backward": row.backward_floor, "in_all": row.floor_in_all}
    return {
        "arrays": [f"{array.dtype}{list(array.shape)}" for array in row.arrays],
        **phases,
        "predicted_ms": sum(phase["predicted_ms"] for phase in phases.values()),
        "floor_ms": {phase: floor for phase, floor in floors.items() if floor is not None},
        "kernels": [
            {"name": kernel.name, "schedule": kernel.schedule, "predicted_ms": kernel.seconds * 1e3, "bound": kernel.bound}
            for kernel in low.kernels
        ],
        "lower_seconds": round(time.process_time() - start, 3),
    }
