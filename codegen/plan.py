"""What a kernel will be: its axes with their roles, the stages it computes, and what it costs. Plain data.

Roles: `host` (the host runs chunk after chunk), `grid` (tiles across programs), `split` (each program takes every parts-th tile
and leaves partial results), `loop` (a sequential loop in the program) and `resident` (the whole extent in the tile). A loop in
steps of 1 whose `parts` are more than 1 goes through the steps that a search finds among so many at a time (`searches.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING

from gradc.codegen.device import Device
from gradc.codegen.index import Axis
from gradc.codegen.stages import Stage
from gradc.ir import Value

if TYPE_CHECKING:
    from gradc.codegen.axes import AxisMap
    from gradc.codegen.cascades.recipes import Recipes
    from gradc.codegen.partials import Partial


@dataclass(frozen=True)
class HostLoop:
    """An axis of `size` positions that the host goes along in chunks. The last chunk starts earlier where they do not divide it.

    `why` says what is made in chunks and for what.
    """

    size: int
    chunk: int
    why: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        return -(-self.size // self.chunk)

    @property
    def divides(self) -> bool:
        return self.size % self.chunk == 0


@dataclass(frozen=True)
class KernelAxis:
    """One or more axes iterated together (outermost first), with a role. `block` is the tile's extent along it; 1 is a scalar."""

    name: str
    axes: tuple[Axis, ...]
    role: str
    block: int
    parts: int = 1

    @cached_property
    def size(self) -> int:
        return prod(axis.size for axis in self.axes)

    @property
    def searches(self) -> bool:
        return self.role == "loop" and self.parts > 1

    @cached_property
    def tiles(self) -> int:
        return max(1, -(-self.size // self.block))

    @property
    def overhangs(self) -> bool:
        return self.size % self.block != 0 or self.size == 0

    @cached_property
    def programs(self) -> int:
        if self.role == "grid":
            return self.tiles
        return min(self.parts, self.tiles) if self.role == "split" else 1

    @cached_property
    def covers(self) -> frozenset[Axis]:
        return frozenset(self.axes)


def gone_along(axes: Sequence[KernelAxis]) -> KernelAxis | None:
    """The axis along which a program goes tile after tile: its loop, or else the axis that it shares with other programs."""
    return next((axis for role in ("loop", "split") for axis in axes if axis.role == role), None)


@dataclass(frozen=True)
class Bounds:
    """Seconds that each thing a kernel needs takes by itself; they overlap, but for launching.

    `rounds` is the time of a program's tiles one after another, however little each moves. `merging` is what a kernel of its own for
    its partial results costs: it counts when schedules are compared, and is that kernel's when time is predicted.
    """

    memory: float
    cache: float
    arithmetic: float
    rounds: float
    launch: float
    merging: float = 0.0

    @property
    def alone(self) -> float:
        """Seconds of the kernel itself."""
        return max(self.memory, self.cache, self.arithmetic, self.rounds) + self.launch

    @property
    def seconds(self) -> float:
        """Seconds of the kernel and of what it leaves to be done."""
        return self.alone + self.merging

    @property
    def largest(self) -> str:
        """What bounds the kernel."""
        return max(("launch", "memory", "cache", "arithmetic", "rounds"), key=lambda name: getattr(self, name))


@dataclass(frozen=True, eq=False)
class Plan:
    """A kernel to be: its stages, its axes in tile order, which stages leave partial results, and what it costs."""

    stages: tuple[Stage, ...]
    axes: tuple[KernelAxis, ...]
    partial: frozenset[Value]
    stored: Mapping[Value, None]  # an ordered set: Values compare element by element, so they are never looked up in a tuple
    warps: int
    pipeline: int
    reads: tuple[tuple[Value, int], ...]
    bounds: Bounds
    flops: int
    recipes: Recipes | None  # how sums ride along with what they depend on; without, they take another pass
    registers: int  # about how many one program takes
    passes: int  # along the looped axis
    parts: tuple[Plan, ...] = ()  # of the kernels launched together
    atomic: bool = False  # whether partial results are added up in memory at once
    rereads: bool = False  # what all rows of a program have in common, for each of them: no registers are left to keep it in

    @property
    def seconds(self) -> float:
        return self.bounds.seconds

    @property
    def is_product(self) -> bool:
        return any(node.kind == "dot" for stage in self.stages for node in stage.nodes)


@dataclass(frozen=True, eq=False)
class Scheduled:
    """A kernel to emit: its plan, the axis map its expressions are in, what its programs leave of each partial stage.

    `apart` says of kernels it shares data with why they are kernels of their own: (a Value they leave, the reason).
    `loop` is the host's loop that launches it for every chunk. `parts` are the kernels that it is made of where it is several
    launched together, one after another by program number.
    """

    plan: Plan
    axes: AxisMap
    left: Mapping[Value, Partial]
    apart: tuple[tuple[Value, str], ...] = ()
    loop: HostLoop | None = None
    parts: tuple[Scheduled, ...] = ()

    @property
    def times(self) -> int:
        """How often the host launches it."""
        return self.loop.count if self.loop else 1

    @property
    def reads(self) -> frozenset[Value]:
        return frozenset(buffer for buffer, _ in self.plan.reads)

    @property
    def zeroed(self) -> tuple[Value, ...]:
        """The arrays it adds to, which the host fills with zeros."""
        if self.parts:
            return tuple(value for part in self.parts for value in part.zeroed)
        added = (value for value in self.plan.stored if value in self.plan.partial and self.plan.atomic)
        return tuple(self.left[value].sums[0] for value in added)

    @property
    def launches(self) -> int:
        """What the device is given to do: the kernel, as often as it runs, and fills."""
        return self.times + len(self.zeroed)

    @property
    def writes(self) -> tuple[Value, ...]:
        arrays = (self.left[value].arrays if value in self.left else (value,) for value in self.plan.stored)
        return tuple(dict.fromkeys(array for group in arrays for array in group))


@dataclass(frozen=True, eq=False)
class Setting:
    """What a plan depends on besides its stages: the Values that must be stored, the program's outputs, the device, the recipes."""

    kept: frozenset[Value]
    outputs: frozenset[Value]
    device: Device
    recipes: Recipes | None
