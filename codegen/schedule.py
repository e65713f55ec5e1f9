"""The kernels of a program, in launch order: stages are found, merged, and what partial results leave is scheduled again.

Kernels that leave partial results are fixed, the sums of their partials become new stages, and the rest goes another round.
Which stages share a kernel is decided in `merging.py`, the roles of its axes in `roles.py`; no operation is named here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from gradc.codegen.axes import AxisMap, Dim
from gradc.codegen.cascades.recipes import Recipes
from gradc.codegen.device import H200, Device
from gradc.codegen.merging import merged_plans
from gradc.codegen.nodes import NotSharedError
from gradc.codegen.outside import statistics_outside
from gradc.codegen.partials import partials, totals
from gradc.codegen.plan import Scheduled, Setting
from gradc.codegen.recomputed import MEMORY_WEIGHT, folded_in_two, recomputed_products, thin_products
from gradc.codegen.roles import plan
from gradc.codegen.small import limits, multiplications
from gradc.codegen.stages import Stage, State, find_stages
from gradc.codegen.together import together
from gradc.ir import Graph, Value
from gradc.leaves import Cast
from gradc.ops import Elementwise
from gradc.structure import Contract, Reduce


def schedule(
    graph: Graph, device: Device = H200, recipes: Recipes | None = None, operands: bool = False, chunk: bool = False
) -> list[Scheduled]:
    """The kernels of a prepared graph, in launch order: the fastest program where its products can be computed in several ways.

    Small ones do without the matrix unit, statistics of their operands are applied before or after. `recipes` say which sums
    may ride along in another's pass. With `operands`, what products are made of may be stored. Where the device may add up in
    memory, sums do so if the program is faster for it. What is launched for every `chunk` may write over what it reads, so
    its order is kept, and nothing is added to zeros.
    """
    in_order = replace(device, atomics=False)
    kernels = _fastest(graph, in_order, recipes, operands, chunk)
    if chunk or not device.atomics:
        return kernels
    return min(kernels, _fastest(graph, device, recipes, operands, chunk), key=partial(_time, device))


def _time(device: Device, kernels: list[Scheduled]) -> float:
    """Seconds of the kernels and of the fills before them."""
    return sum(kernel.plan.bounds.alone + len(kernel.zeroed) * device.launch_seconds for kernel in kernels)


def _fastest(graph: Graph, device: Device, recipes: Recipes | None, operands: bool, chunk: bool) -> list[Scheduled]:
    """The fastest of the programs that differ in how products are computed."""
    recomputed = recomputed_products(graph.outputs, device)
    wanted = tuple(value for value in dict.fromkeys(graph.outputs) if value.size)
    start = State(graph, wanted, frozenset(), {}, recomputed, recipes=recipes, apart=chunk)
    outside = statistics_outside(graph, recomputed)
    ways = [start, replace(start, overrides=outside)] if outside else [start]
    written = dict.fromkeys((frozenset[Value](), computed_operands(graph) if operands else frozenset()))
    states = [replace(way, small_product=limit, written=w) for way in ways for limit in limits(graph, device) for w in written]
    programs = [_lean(state, device) for state in states]
    if thin := _large(thin_products(graph.outputs, device), states[0].small_product):
        large = _large(recomputed, states[0].small_product)
        programs.append(_in_levels(replace(states[0], recomputed=thin | large), device))
    return min(programs, key=_seconds)


def _large(products: frozenset[Value], limit: int) -> frozenset[Value]:
    """The products that are large where those of up to `limit` multiplications are small."""
    return frozenset(value for value in products if isinstance(value.operation, Reduce) or multiplications(value) > limit)


def computed_operands(graph: Graph) -> frozenset[Value]:
    """What products of matrices multiply that is neither in memory nor itself a product or sum."""
    products = (value for value in graph.values if isinstance(value.operation, Contract))
    return frozenset(x for value in products for x in value.operands if isinstance(x.operation, Elementwise | Cast))


def _lean(state: State, device: Device) -> list[Scheduled]:
    """The kernels without large products in memory, unless that takes far longer."""
    kept = _in_levels(replace(state, recomputed=frozenset()), device)
    large = _large(state.recomputed, state.small_product)
    if not large:
        return kept
    lean = _in_levels(replace(state, recomputed=large), device)
    return lean if _seconds(lean) <= MEMORY_WEIGHT * _seconds(kept) else kept


def _seconds(kernels: list[Scheduled]) -> float:
    return sum(kernel.plan.seconds for kernel in kernels)


def _in_levels(state: State, device: Device) -> list[Scheduled]:
    """The kernels; where some are launched together, merged so that more can be if that is faster."""
    kernels = _scheduled(state, device)
    if not any(kernel.parts for kernel in kernels):
        return kernels
    level = _scheduled(replace(state, level=True), device)
    return min(kernels, level, key=lambda program: sum(kernel.plan.bounds.alone for kernel in program))


def _scheduled(state: State, device: Device) -> list[Scheduled]:
    """The kernels where the products to be recomputed do not lie in memory, as far as there is a role for every axis."""
    done: list[Scheduled] = []
    while True:
        state, axes, stages = _stages(state, done, device)
        kernels = [
            Scheduled(p, axes, partials(p, frozenset(state.graph.outputs)), apart)
            for p, apart in merged_plans(stages, state, done, device)
        ]
        fixed = [kernel for kernel in kernels if kernel.plan.partial]
        if not fixed:
            order = _launch_order([*done, *kernels])
            return order if state.apart else together(order, device)
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
        buffers = [array for partial in kernel.left.values() for array in partial.arrays if not kernel.plan.atomic]
        for buffer in buffers[1:]:
            if buffer.shape[0] != 1:
                yield (buffers[0], 0), (buffer, 0)


def _after(state: State, fixed: list[Scheduled]) -> State:
    """The program once the fixed kernels have run: their results are in memory, partial sums wait to be added up."""
    overrides, stored, needed = dict(state.overrides), set(state.stored), list(state.outputs)
    for kernel in fixed:
        needed += [value for value in kernel.reads if value.operands and value not in stored]
        if kernel.plan.atomic:
            overrides |= {left.heavy.value: left.sums[0] for value, left in kernel.left.items() if left.sums[0] is not value}
            stored |= {value for value, left in kernel.left.items() if left.sums[0] is value}
        else:
            overrides |= totals(kernel.left.values())
        stored |= {value for value in kernel.plan.stored if value not in kernel.left}
    wanted = tuple(value for value in dict.fromkeys(needed) if value not in stored)
    return replace(state, outputs=wanted, stored=frozenset(stored), overrides=overrides, recomputed=state.recomputed - stored)


def _launch_order(kernels: list[Scheduled]) -> list[Scheduled]:
    """Kernels after those that write what they read, otherwise in the order of the program."""
    writer = {value: kernel for kernel in kernels for value in kernel.writes}
    order: list[Scheduled] = []
    done: set[Scheduled] = set()

    waiting = [(kernel, False) for kernel in reversed(kernels)]
    while waiting:
        kernel, ready = waiting.pop()
        if ready:
            order.append(kernel)
        elif kernel not in done:
            done.add(kernel)
            waiting.append((kernel, True))
            before = sorted((value for value in kernel.reads if value in writer), key=lambda value: -value.number)
            waiting += [(writer[value], False) for value in before]
    return order
