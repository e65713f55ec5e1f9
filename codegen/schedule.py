"""The kernels of a program, in launch order: stages are found, merged, and what partial results leave is scheduled again.

Kernels that leave partial results are fixed, the sums of their partials become new stages, and the rest goes another round.
Which stages share a kernel is decided in `merging.py`, the roles of its axes in `roles.py`; no operation is named here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from gradc.codegen.axes import AxisMap, Dim
from gradc.codegen.device import H200, Device
from gradc.codegen.merging import merged_plans
from gradc.codegen.nodes import NotSharedError
from gradc.codegen.partials import Partial, partials, totals
from gradc.codegen.plan import HostLoop, Plan, Setting
from gradc.codegen.recipes import Recipes
from gradc.codegen.recomputed import MEMORY_WEIGHT, folded_in_two, recomputed_products, thin_products
from gradc.codegen.roles import plan
from gradc.codegen.small import limits, multiplications
from gradc.codegen.stages import Stage, State, find_stages
from gradc.ir import Graph, Value
from gradc.leaves import Cast
from gradc.ops import Elementwise
from gradc.structure import Contract, Reduce


@dataclass(frozen=True, eq=False)
class Scheduled:
    """A kernel to emit: its plan, the axis map its expressions are in, what its programs leave of each partial stage.

    `apart` says of kernels it shares data with why they are kernels of their own: (a Value they leave, the reason).
    `loop` is the host's loop that launches it for every chunk.
    """

    plan: Plan
    axes: AxisMap
    left: Mapping[Value, Partial]
    apart: tuple[tuple[Value, str], ...] = ()
    loop: HostLoop | None = None

    @property
    def times(self) -> int:
        """How often the host launches it."""
        return self.loop.count if self.loop else 1

    @property
    def reads(self) -> frozenset[Value]:
        return frozenset(buffer for buffer, _ in self.plan.reads)

    @property
    def writes(self) -> tuple[Value, ...]:
        arrays = (self.left[value].arrays if value in self.left else (value,) for value in self.plan.stored)
        return tuple(dict.fromkeys(array for group in arrays for array in group))


def schedule(graph: Graph, device: Device = H200, recipes: Recipes | None = None, operands: bool = False) -> list[Scheduled]:
    """The kernels of a prepared graph, in launch order: the faster program where its small products can be computed in two ways.

    `recipes` say which sums may ride along in another's pass. With `operands`, what products are made of may be stored.
    """
    recomputed = recomputed_products(graph.outputs, device)
    written = dict.fromkeys((frozenset[Value](), computed_operands(graph) if operands else frozenset()))
    states = [
        State(graph, _wanted(graph), frozenset(), {}, recomputed, limit, recipes, w) for limit in limits(graph) for w in written
    ]
    programs = [_lean(state, device) for state in states]
    if thin := _large(thin_products(graph.outputs, device), states[0].small_product):
        large = _large(recomputed, states[0].small_product)
        programs.append(_scheduled(replace(states[0], recomputed=thin | large), device))
    return min(programs, key=_seconds)


def _large(products: frozenset[Value], limit: int) -> frozenset[Value]:
    """The products that are large where those of up to `limit` multiplications are small."""
    return frozenset(value for value in products if isinstance(value.operation, Reduce) or multiplications(value) > limit)


def _wanted(graph: Graph) -> tuple[Value, ...]:
    return tuple(value for value in dict.fromkeys(graph.outputs) if value.size)


def computed_operands(graph: Graph) -> frozenset[Value]:
    """What products of matrices multiply that is neither in memory nor itself a product or sum."""
    products = (value for value in graph.values if isinstance(value.operation, Contract))
    return frozenset(x for value in products for x in value.operands if isinstance(x.operation, Elementwise | Cast))


def _lean(state: State, device: Device) -> list[Scheduled]:
    """The kernels without large products in memory, unless that takes far longer."""
    kept = _scheduled(replace(state, recomputed=frozenset()), device)
    large = _large(state.recomputed, state.small_product)
    if not large:
        return kept
    lean = _scheduled(replace(state, recomputed=large), device)
    return lean if _seconds(lean) <= MEMORY_WEIGHT * _seconds(kept) else kept


def _seconds(kernels: list[Scheduled]) -> float:
    return sum(kernel.plan.seconds for kernel in kernels)


def _scheduled(state: State, device: Device) -> list[Scheduled]:
    """The kernels where the products `recomputed` do not lie in memory, as far as there is a role for every axis."""
    done: list[Scheduled] = []
    while True:
        state, axes, stages = _stages(state, done, device)
        kernels = [Scheduled(p, axes, partials(p), apart) for p, apart in merged_plans(stages, state, done, device)]
        fixed = [kernel for kernel in kernels if kernel.plan.partial]
        if not fixed:
            return _launch_order([*done, *kernels])
        done += fixed
        state = _after(state, fixed)


def _stages(state: State, done: list[Scheduled], device: Device) -> tuple[State, AxisMap, list[Stage]]:
    """The stages still to be computed.

    A reduction over more axes than one loop has is folded in two steps; products inside a stage that has no plan of its own
    even so are kept in memory after all.
    """
    while True:
        values = dict.fromkeys((*state.graph.values, *state.values()))
        axes = AxisMap(values, state.overrides, _tied_parts(done), state.recomputed, state.small_product)
        try:
            stages = find_stages(state, axes)
        except NotSharedError as needed:
            state = replace(state, recomputed=state.recomputed - {needed.value})
            continue
        stuck = [stage for stage in stages if (stage.nested or stage.folded) and not _fits(stage, state, device)]
        if not stuck:
            return state, axes, stages
        folded = {stage.heavy.value: folded_in_two(stage, axes) for stage in stuck if stage.heavy is not None}
        lost = {
            node.value for stage in stuck if stage.heavy is None or folded[stage.heavy.value] is None for node in stage.inner
        }
        steps = {value: steps for value, steps in folded.items() if steps is not None}
        state = replace(state, recomputed=state.recomputed - lost, overrides={**state.overrides, **steps})


def _fits(stage: Stage, state: State, device: Device) -> bool:
    setting = Setting(frozenset((stage.value,)), frozenset(state.graph.outputs), device, state.recipes)
    return plan([stage], setting) is not None


def _tied_parts(done: list[Scheduled]) -> Iterator[tuple[Dim, Dim]]:
    """Partial results of one kernel are merged along one axis: they have as many parts."""
    for kernel in done:
        buffers = [array for partial in kernel.left.values() for array in partial.arrays]
        for buffer in buffers[1:]:
            if buffer.shape[0] != 1:
                yield (buffers[0], 0), (buffer, 0)


def _after(state: State, fixed: list[Scheduled]) -> State:
    """The program once the fixed kernels have run: their results are in memory, partial sums wait to be added up."""
    overrides, stored, needed = dict(state.overrides), set(state.stored), list(state.outputs)
    for kernel in fixed:
        needed += [value for value in kernel.reads if value.operands and value not in stored]
        overrides |= totals(kernel.left.values())
        stored |= {value for value in kernel.plan.stored if value not in kernel.left}
    wanted = tuple(value for value in dict.fromkeys(needed) if value not in stored)
    return replace(state, outputs=wanted, stored=frozenset(stored), overrides=overrides, recomputed=state.recomputed - stored)


def _launch_order(kernels: list[Scheduled]) -> list[Scheduled]:
    """Kernels after those that write what they read, otherwise in the order of the program."""
    writer = {value: kernel for kernel in kernels for value in kernel.writes}
    order: list[Scheduled] = []
    done: set[Scheduled] = set()

    def visit(kernel: Scheduled) -> None:
        if kernel not in done:
            done.add(kernel)
            for value in sorted(kernel.reads, key=lambda v: v.number):
                if value in writer and writer[value] is not kernel:
                    visit(writer[value])
            order.append(kernel)

    for kernel in kernels:
        visit(kernel)
    return order
