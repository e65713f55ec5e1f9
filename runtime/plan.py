"""What has to be known to run a traced function: the emitted text and which arrays its backward wants. Plain data.

A plan is small enough to lie in the disk cache as JSON beside the readable module, so that a warm start emits nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

from gradc.codegen.cascades.recipes import Recipes
from gradc.codegen.device import Device
from gradc.codegen.lower import Program, differentiate, lower_graph, lower_pair, with_literals
from gradc.codegen.residuals import Partition
from gradc.errors import PACKAGE_FOLDERS
from gradc.ir import Graph, Value
from gradc.runtime.cache import DiskCache, default_folder, digest

FORMAT = "1"


@dataclass(frozen=True)
class Plan:
    """`kept` says where each array the backward takes comes from: ("input", i) or ("result", i) of the forward's results."""

    source: str
    outputs: int
    kept: tuple[tuple[str, int], ...] = ()


def make_plan(
    graph: Graph, wrt: tuple[int, ...], cache: DiskCache, device: Device, budget: int | None = None
) -> tuple[Plan, bool]:
    """The plan for a normalised graph, differentiable with respect to the inputs `wrt`; and whether it was on disk.

    `budget` limits its memory, as in `lower_pair`.
    """
    inputs = repr([v.operation for v in graph.inputs])
    key = digest("plan", FORMAT, compiler_state(), str(graph), inputs, repr(wrt), repr(device), repr(budget))
    found = cache.get(key)
    if found is not None and {"module.py", "plan.json"} <= found.keys():
        content = json.loads(found["plan.json"])
        return Plan(found["module.py"], content["outputs"], tuple((kind, i) for kind, i in content["kept"])), True
    plan = _lowered(graph, wrt, device, budget)
    cache.put(key, {"module.py": plan.source, "plan.json": json.dumps({"outputs": plan.outputs, "kept": plan.kept})})
    return plan, False


@cache
def compiler_state() -> str:
    """What the compiler is: its version and its own files, so that an edited one does not find an older one's programs."""
    files = sorted(path for folder in PACKAGE_FOLDERS for kind in ("*.py", "*.json") for path in Path(folder).rglob(kind))
    return digest(version("gradc"), *(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files))


def _lowered(graph: Graph, wrt: tuple[int, ...], device: Device, budget: int | None) -> Plan:
    if not wrt:
        return Plan(lower_graph(graph, device, recipes_on_disk(), budget).source, len(graph.outputs))
    program, split = lower_pair(graph, wrt, device, recipes_on_disk(), budget)
    return Plan(program.source, len(graph.outputs), places(split))


def recipes_on_disk() -> Recipes:
    """The recipes for sums that ride along, kept between processes in the disk cache."""
    return _recipes_in(default_folder())


@cache
def _recipes_in(folder: Path) -> Recipes:
    return Recipes(DiskCache(folder), compiler_state())


def places(split: Partition) -> tuple[tuple[str, int], ...]:
    """Where each residual is found after the forward has run."""
    inputs = {value: i for i, value in enumerate(split.forward.inputs)}
    results = {value: i for i, value in enumerate(split.forward.outputs)}
    return tuple(("input", inputs[r.value]) if r.value in inputs else ("result", results[r.value]) for r in split.residuals)


__all__ = ["Plan", "Program", "Value", "differentiate", "make_plan", "places", "with_literals"]
