"""`gradc inspect`: a function's program, kernels, schedules and cost on the terminal. Nothing of the function runs.

Text that may be piped into a file (`--source`, `--ir`) is printed as it is where the output is no terminal.
"""

from __future__ import annotations

import argparse
import time
from importlib.util import find_spec
from typing import Any

import optree

from gradc.errors import printable
from gradc.runtime.command.display import build_table, console_for, cost_table, kernel_table, print_code, saved_table
from gradc.runtime.command.errors import CommandError
from gradc.runtime.command.target import Ranged, target_of, wrt_of
from gradc.runtime.lowered import Lowered

DEFAULT_VIEWS = ("explain", "kernels", "saved", "cost")


def run(options: argparse.Namespace) -> int:
    """Lowers the function and shows what was asked for. Returns the exit status."""
    target = target_of(options.function, options.arrays, options.statics)
    args, kwargs = specs((target.args, target.kwargs))
    low = target.function.lower(*args, wrt=wrt_of(options.wrt), device=options.device, **kwargs)
    console = console_for()
    views = options.views or (() if options.build or options.export else DEFAULT_VIEWS)
    for number, view in enumerate(dict.fromkeys(views)):
        if number:
            console.print()
        show(console, low, view)
    if options.build:
        show_build(console, low, options.build)
    if options.export:
        console.print(f"wrote {printable(str(low.export(options.export)))}", highlight=False, markup=False)
    return 0


def specs(tree: Any) -> Any:
    """The arguments with a `gradc.spec` for each array."""
    return optree.tree_map(lambda leaf: leaf.spec if isinstance(leaf, Ranged) else leaf, tree)


def show(console: Any, low: Lowered, view: str) -> None:
    """One view of a lowered function."""
    match view:
        case "source":
            print_code(console, low.source, "python")
        case "ir":
            graphs = (low.ir,) if low.backward_ir is None else (low.ir, low.backward_ir)
            print_code(console, "\n\n".join(str(graph) for graph in graphs), "python")
        case "explain":
            console.print(low.explain(), highlight=False, markup=False)
        case "kernels":
            console.print(kernel_table(low))
        case "saved":
            console.print(saved_table(low))
        case "cost":
            console.print(cost_table(low))


def show_build(console: Any, low: Lowered, target: str) -> None:
    """Builds every kernel and says what the compiler made of it. Raises CommandError without triton."""
    if find_spec("triton") is None:
        raise CommandError("building kernels needs triton, which is not installed", "pip install 'gradc[triton]'")
    start = time.perf_counter()
    with console.status(f"building {len(low.kernels)} kernels for {target}"):
        binaries = low.build(target)
    console.print(build_table(binaries, target, time.perf_counter() - start))
