"""Prints what was measured as tables, with rich. Nothing is measured here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

REACHED, MISSED, FAILED = "[green]✓[/]", "[red]✗[/]", "[red]failed[/]"

TIMES = [
    "forward",
    "of ceiling",
    "backward",
    "of ceiling",
    "graph, both",
    "host, both",
    "peak MB",
    "cold s",
    "warm s",
    "error",
    "",
]

Figures = Mapping[str, Any]


def launches(workloads: Mapping[str, Figures], console: Console) -> None:
    """Launches and megabytes beside Inductor's and the goal."""
    table = Table(
        title="Launches and megabytes, forward and backward; ✓ at or below the goal",
        caption="saved: kept for the backward beyond inputs and outputs",
    )
    table.add_column("workload")
    for heading in ("forward", "backward", "gradc", "saved", "Inductor", "saved", "goal", ""):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, figures in workloads.items():
        if "error" in figures:
            table.add_row(name, *[""] * 7, FAILED)
            continue
        ours, theirs, goal = figures, figures["inductor"], figures["goal"]
        table.add_row(
            name, *(pair(phase) for phase in (ours["forward"], ours["backward"], ours)), megabytes(ours["saved_new_bytes"]),
            pair(theirs), megabytes(theirs["saved_new_bytes"]), _limits(goal),
            REACHED if ours["reached"] else MISSED,
        )  # fmt: skip
    console.print(table)
    errors(workloads, console)


def _limits(goal: Mapping[str, Any]) -> str:
    """The goal's launches and megabytes, or what may be saved where that is all it limits."""
    if goal["launches"] is None:
        return f"saved {goal['saved_megabytes']:.2f}"
    return f"{goal['launches']} {goal['megabytes']:9.2f}"


def builds(workloads: Mapping[str, Figures], console: Console) -> None:
    """Each kernel's registers, spills and instructions."""
    table = Table(title="Kernels built for sm_90 at the full shapes")
    for heading in ("kernel", "registers", "spills", "shared", "128-bit loads", "128-bit stores", "HGMMA", "problems"):
        table.add_column(heading, justify="left" if heading in ("kernel", "problems") else "right")
    for name, figures in workloads.items():
        if "error" in figures:
            table.add_row(name, *[""] * 6, FAILED)
        for kernel in figures.get("binaries", ()):
            flags = [mark(kernel[key]) for key in ("loads_128", "stores_128", "hgmma")]
            counts = [str(kernel[key]) for key in ("registers", "spills", "shared_bytes")]
            table.add_row(kernel["name"], *counts, *flags, f"[red]{escape('; '.join(kernel['problems']))}[/]")
    console.print(table)
    errors(workloads, console)


def emission(programs: Mapping[str, Figures], console: Console) -> None:
    """Milliseconds from the decorator to the source."""
    table = Table("program", title="From the decorator to the source of forward and backward, ms: wall (processor)")
    for heading in ("import gradc", "load the compiler", "first", "best", "imports SymPy"):
        table.add_column(heading, justify="right")
    for name, figures in programs.items():
        if "error" in figures:
            table.add_row(name, *[""] * 4, FAILED)
            continue
        cells = [
            f"{1e3 * figures[key]['wall']:.0f} ({1e3 * figures[key]['processor']:.0f})"
            for key in ("import", "load", "first", "best")
        ]
        table.add_row(name, *cells, "yes" if figures["imports_sympy"] else "no")
    console.print(table)
    errors(programs, console)


def predictions(report: Figures, console: Console) -> None:
    """What the cost model expects of each row, in milliseconds, beside the least it can take."""
    table = Table(
        title=f"Predicted for {report['device']['name']}, nothing measured: launches and milliseconds",
        caption="floor: inputs and results moved once, or products at the rate of the matrix units, on an H200",
    )
    for heading in ("", "row", "forward", "floor", "backward", "floor", "both", "floor", "bound by"):
        table.add_column(heading, justify="left" if heading in ("row", "bound by") else "right", no_wrap=heading != "bound by")
    for row in report["rows"]:
        if "error" in row:
            table.add_row(str(row["number"]), row["name"], *[""] * 6, FAILED)
            continue
        cells = []
        for phase in ("forward", "backward"):
            cells.append(f"{row[phase]['launches']} {row[phase]['predicted_ms']:8.3f}" if phase in row else "")
            cells.append(floor_cell(row, phase))
        slowest = max(row["kernels"], key=lambda kernel: kernel["predicted_ms"])
        cells += [f"{row['predicted_ms']:.3f}", floor_cell(row, "in_all"), slowest["bound"]]
        table.add_row(str(row["number"]), row["name"], *cells)
    console.print(table)
    errors({row["name"]: row for row in report["rows"]}, console)


def floor_cell(row: Figures, phase: str) -> str:
    """A phase's floor; nothing where none is quoted."""
    return f"{row['floor_ms'][phase]:.3f}" if phase in row["floor_ms"] else ""


def times(report: Figures, console: Console) -> None:
    """Milliseconds on a GPU of every contender, and the fraction of the device's ceiling."""
    ceilings = report["ceilings"]
    table = Table(
        title=f"{report['device']}: milliseconds, cold L2, median",
        caption=f"ceilings of this run: {ceilings['bandwidth'] / 1e12:.2f} TB/s copying, {ceilings['matrix_rate'] / 1e12:.0f} TFLOP/s multiplying",
    )
    for heading in ("workload", "by", *TIMES):
        table.add_column(heading, justify="left" if heading in ("workload", "by") else "right")
    rows = [
        (name, by, figures)
        for name, row in report["workloads"].items()
        for by, figures in row.get("contenders", {"": row}).items()
    ]
    for name, by, figures in rows:
        table.add_row(name, by, *time_cells(figures))
    console.print(table)
    errors({f"{name} {by}": figures for name, by, figures in rows}, console)


def time_cells(figures: Figures) -> list[str]:
    """A contender's row."""
    if "error" in figures or "skipped" in figures:
        return [FAILED if "error" in figures else "no time left"]
    cells = []
    for phase in ("forward", "backward"):
        cells += [milliseconds(figures[phase]["kernel"]), f"{figures[phase]['fraction']:.0%}"] if phase in figures else ["", ""]
    whole = figures["step"]
    return [
        *cells, milliseconds(whole["graph"]), milliseconds(whole["wall"]), f"{whole['peak_bytes'] / 1e6:.0f}",
        f"{figures['compile']['cold']:.2f}", f"{figures['compile']['warm']:.2f}", *error_cells(figures),
    ]  # fmt: skip


def error_cells(figures: Figures) -> list[str]:
    """The error and whether it is small enough; nothing where results were not compared."""
    if figures["correct"] is None:
        return ["-", ""]
    return [f"{figures['error_worst']:.0e}", REACHED if figures["correct"] else MISSED]


def errors(rows: Mapping[str, Figures], console: Console) -> None:
    """What went wrong, in full, a line each."""
    for name, figures in rows.items():
        if "error" in figures:
            console.print(f"[red]{name}[/]: {escape(figures['error'])}")


def mark(flag: bool) -> str:
    return "yes" if flag else "-"


def pair(figures: Figures) -> str:
    return f"{figures['launches']} {figures['bytes'] / 1e6:9.2f}"


def megabytes(count: int) -> str:
    return f"{count / 1e6:.2f}"


def milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e3 * seconds:.3f}"
