"""`python -m benchmarks`: tables of what was measured, and JSON files of it. See README.md here for what the figures are."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import gpu_table, predict, run, tables
from benchmarks.workloads import WORKLOADS, Workload, workload

RESULTS = Path(__file__).parent / "results"
PIPED = 160  # columns where there is no terminal to ask
ABOUT = (
    "Made by `python -m benchmarks`{flags}; see benchmarks/README.md. Bytes count each array once per launch that touches it."
)
TIMES = "Made by `python -m benchmarks --time`; see benchmarks/README.md. Times are medians in seconds; kernel times have a cold L2."
PREDICTIONS = (
    "Predictions of the cost model, not measurements: made by `python -m benchmarks --predict`; see benchmarks/README.md. "
    "A floor is the least the phase can take on an H200."
)


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Launches and bytes of every workload, without a GPU."
    )
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help="only these; all of them by default")
    parser.add_argument("--build", action="store_true", help="also cross-compile every kernel for sm_90")
    parser.add_argument(
        "--json",
        type=Path,
        metavar="PATH",
        help="write everything there; results/launches.json by default if nothing is left out",
    )
    parser.add_argument(
        "--time", action="store_true", help="only time against PyTorch; needs a GPU, and is done anyway where there is one"
    )
    parser.add_argument(
        "--predict",
        metavar="DEVICE",
        nargs="?",
        const="H200",
        help="only what the cost model expects of the rows to be timed on a GPU",
    )
    parser.add_argument("--seconds", type=float, default=480, help="stop timing after so many seconds")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parsed(arguments)
    if options.predict:
        return predicted(options)
    try:
        chosen = [workload(name) for name in options.workloads] or list(WORKLOADS)
    except KeyError as unknown:
        print(f"there is no workload {unknown}; there are {', '.join(row.name for row in WORKLOADS)}", file=sys.stderr)
        return 2
    if options.time:
        return timed(chosen, options)
    status = counted(chosen, options)
    return max(status, timed(chosen, options)) if run.has_gpu() and not options.json else status


def counted(chosen: list[Workload], options: argparse.Namespace) -> int:
    """Launches, bytes and emission times, and builds if asked. Returns 1 where a workload failed."""
    console = Console() if sys.stdout.isatty() else Console(width=PIPED)
    figures = {row.name: run.attempted(run.launches, row) for row in chosen}
    tables.launches(figures, console)
    emission = run.emission()
    tables.emission(emission, console)
    report: dict[str, Any] = {"_about": ABOUT.format(flags=" --build" if options.build else ""), **run.circumstances()}
    if options.build:
        built = {row.name: run.attempted(run.build, row) for row in chosen}
        tables.builds(built, console)
        figures = {name: {**figures[name], "build": built[name]} for name in figures}
    report |= {"emission": emission, "workloads": figures}
    path = options.json or (None if options.workloads or options.build else RESULTS / "launches.json")
    if path is not None:
        write(report, path)
    return int(any("error" in row for row in figures.values()))


def predicted(options: argparse.Namespace) -> int:
    """The cost model's predictions for `gpu_table.py`. Returns 1 where a row cannot be lowered."""
    found = predict.predictions(gpu_table.ROWS, options.predict)
    tables.predictions(found, Console() if sys.stdout.isatty() else Console(width=PIPED))
    write({"_about": PREDICTIONS, **run.circumstances(), **found}, options.json or RESULTS / "predictions.json")
    return int(any("error" in row for row in found["rows"]))


def timed(chosen: list[Workload], options: argparse.Namespace) -> int:
    """Times on the GPU, written after every workload so that an interrupted run leaves what it had."""
    from benchmarks import timing

    path = options.json or RESULTS / "times.json"
    about = {"_about": TIMES, **run.circumstances()}
    with timing.fresh_caches():
        report = timing.on_gpu(chosen, options.seconds, lambda partial: write({**about, **partial}, path))
    tables.times(report, Console(width=PIPED))
    return int(any("error" in row for row in report["workloads"].values()))


def write(report: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(finite(report), indent=1) + "\n")


def finite(content: Any) -> Any:
    """The same with infinities and NaN as text, which JSON has no numbers for."""
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return str(content) if isinstance(content, float) and not math.isfinite(content) else content


if __name__ == "__main__":
    sys.exit(main())
