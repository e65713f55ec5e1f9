"""Prints what a GPU answered, with rich. Nothing is measured here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import tables
from benchmarks.tables import FAILED, MISSED, REACHED, milliseconds

Figures = Mapping[str, Any]


def everything(report: Figures, console: Console) -> None:
    """A table for each part that was run."""
    if "correct" in report:
        correct(report["correct"], console)
    if "times" in report:
        kernels(report["times"], console)
        tables.times({**report, "workloads": report["times"]}, console)
    if "host" in report:
        host(report["host"], console)


def correct(rows: Mapping[str, Figures], console: Console) -> None:
    """Errors against float64, and whether runs agree."""
    table = Table("function", title="Right on this device at real shapes; errors are fractions of the norm")
    for heading in ("worst error", "offset inputs", "repeated", "poisoned", ""):
        table.add_column(heading, justify="right")
    for name, row in rows.items():
        if "error" in row or "skipped" in row:
            table.add_row(name, *[""] * 4, FAILED if "error" in row else "no time left")
            continue
        agreed = ["same" if row[kind] else "[red]differs[/]" for kind in ("repeated", "poisoned")]
        table.add_row(
            name, f"{row['error_worst']:.1e}", f"{row['offset_error']:.1e}", *agreed, REACHED if row["correct"] else MISSED
        )
    console.print(table)
    tables.errors(rows, console)


def kernels(rows: Mapping[str, Figures], console: Console) -> None:
    """Every kernel's time beside its prediction."""
    table = Table("workload", "kernel", title="Kernel by kernel, milliseconds, cold L2")
    for heading in ("measured", "predicted", "ratio", "said to be bound by"):
        table.add_column(heading, justify="right")
    for name, row in rows.items():
        for kernel, found in row.get("kernels", {}).items():
            if not isinstance(found, Mapping) or not found["predicted"]:
                continue
            ratio = f"{found['measured'] / found['predicted']:.2f}"
            table.add_row(
                name, kernel, milliseconds(found["measured"]), milliseconds(found["predicted"]), ratio, found["bound"]
            )
    console.print(table)
    tables.errors({name: row["kernels"] for name, row in rows.items() if "kernels" in row}, console)


def host(rows: Mapping[str, Figures], console: Console) -> None:
    """Microseconds from the call to finished results."""
    table = Table("arrays", "by", title="The host's own time, microseconds")
    for heading in ("forward", "forward and backward"):
        table.add_column(heading, justify="right")
    for name, row in rows.items():
        for by, found in row.items():
            if isinstance(found, Mapping):
                table.add_row(name, by, f"{1e6 * found['forward']:.0f}", f"{1e6 * found['step']:.0f}")
    console.print(table)
    tables.errors(rows, console)
