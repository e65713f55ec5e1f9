"""Tables and code on the terminal, for every command. What is shown is computed elsewhere; rich is imported here, when used."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from gradc.codegen.printing.explain import size
from gradc.runtime.build import Binary
from gradc.runtime.lowered import Lowered

WIDE = 200  # columns where the output is no terminal: a table that is piped is not squeezed


def console_for(file: Any = None) -> Any:
    """Where a command prints: standard output, with colours where it is a terminal."""
    from rich.console import Console

    file = file or sys.stdout
    return Console(file=file, width=None if file.isatty() else WIDE)


def print_code(console: Any, text: str, language: str) -> None:
    """Text with its syntax in colour on a terminal, as it is elsewhere. Lines are never broken."""
    if not console.is_terminal:
        console.file.write(text if text.endswith("\n") else f"{text}\n")
        return
    console.print(highlighted(text, language), soft_wrap=True)


def highlighted(text: str, language: str) -> Any:
    """Text with its syntax in colour."""
    from rich.syntax import Syntax

    return Syntax("", language, background_color="default").highlight(text)


def table(title: str, *columns: str, numbers: Sequence[str] = ()) -> Any:
    """An empty table; the columns among `numbers` are set to the right."""
    from rich import box
    from rich.table import Table

    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    return made


def kernel_table(low: Lowered) -> Any:
    """The kernels in launch order."""
    made = table("Kernels", "kernel", "phase", "schedule", "reads", "writes", numbers=("reads", "writes"))
    for kernel in low.kernels:
        read, written = (sum(buffer.bytes for buffer in buffers) for buffers in (kernel.reads, kernel.writes))
        made.add_row(kernel.name, kernel.phase, kernel.schedule, size(read), size(written))
    return made


def saved_table(low: Lowered) -> Any:
    """What is kept for the backward."""
    made = table("Kept for the backward", "name", "shape", "dtype", "size", "why", numbers=("size",))
    for saved in low.saved:
        made.add_row(saved.name, str(list(saved.shape)), saved.dtype, size(saved.bytes), saved.why)
    return made


def cost_table(low: Lowered) -> Any:
    """Launches, bytes and flops by phase."""
    made = table("Cost", "", "launches", "moved", "flops", numbers=("launches", "moved", "flops"))
    for name, phase in (("forward", low.cost.forward), ("backward", low.cost.backward), ("both", low.cost)):
        made.add_row(name, str(phase.launches), size(phase.bytes), f"{phase.flops:.3g}")
    return made


def build_table(binaries: Sequence[Binary], target: str, seconds: float) -> Any:
    """What the compiler made of each kernel."""
    made = table(
        f"Built for {target} in {seconds:.1f} s",
        "kernel",
        "registers",
        "spills",
        "shared",
        numbers=("registers", "spills", "shared"),
    )
    for binary in binaries:
        spills = f"[red]{size(binary.spills)}[/red]" if binary.spills else "none"
        made.add_row(binary.name, str(binary.registers), spills, size(binary.shared_bytes) if binary.shared_bytes else "none")
    return made


def verdict(passed: bool) -> str:
    """How a check went, in colour."""
    return "[green]ok[/green]" if passed else "[bold red]FAILED[/bold red]"
