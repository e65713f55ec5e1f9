"""The pipeline from a graph to emitted kernels, a pass a line: prepare, schedule, print. No GPU and no Triton needed.

`lower_graph` makes one launch sequence; `lower_pair` a forward and its backward with what is kept in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gradc.autodiff import vjp_graph
from gradc.codegen.cascades.recipes import KNOWN, Recipes
from gradc.codegen.cost import traffic
from gradc.codegen.device import H200, Device
from gradc.codegen.hosting.budget import Figures, by_default, within
from gradc.codegen.hosting.host import Memory, Section, memories_for, sections, too_large, too_large_to_keep
from gradc.codegen.hosting.ways import stored_bytes
from gradc.codegen.plan import Scheduled
from gradc.codegen.prepare import prepare
from gradc.codegen.printing.emit import Emitted, emit_kernel
from gradc.codegen.printing.explain import heading, size
from gradc.codegen.printing.module import HostFunction, Step, array_names, module_names, module_text, most_bytes, wiring_text
from gradc.codegen.printing.names import Names, identifier
from gradc.codegen.recomputed import joined_sums
from gradc.codegen.residuals import Partition, partition, read_through_outputs
from gradc.codegen.stages import storage_dtype
from gradc.ir import Graph, Value
from gradc.leaves import Literal, make_input
from gradc.normalise import normalise
from gradc.types import DType


@dataclass(frozen=True, eq=False)
class LaunchSequence:
    """One launch sequence: its graph, its kernels as planned and as printed, what its arrays are called and how they lie."""

    phase: str
    graph: Graph
    scheduled: tuple[Scheduled, ...]
    emitted: tuple[Emitted, ...]
    host: HostFunction
    identifiers: dict[Value, str]
    dtypes: dict[Value, DType]
    device: Device
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Program:
    """Everything emitted for a function: its launch sequences and the module's text."""

    sequences: tuple[LaunchSequence, ...]
    source: str


def lower_graph(graph: Graph, device: Device = H200, recipes: Recipes | None = KNOWN, budget: int | None = None) -> Program:
    """A program without a backward. `graph` is normalised; `budget` limits the bytes it takes beside arguments and results.

    Without `recipes` no sum rides along with what it depends on. Raises UnsupportedError for a budget that is too small.
    """
    prepared = prepare(normalise(with_literals(graph), "after"))  # nothing is differentiated any more

    def made(memory: Memory) -> Program:
        parts = sections(prepared, frozenset(), memory, device, recipes)
        title, names = _named(graph)
        forward = _sequence("forward", prepared, title, frozenset(), names, device, parts)
        return _program(title, (forward,), "")

    def figures(program: Program) -> Figures:
        return figures_of(program, len(graph.outputs))

    if budget is None:
        return by_default(memories_for(prepared), made, figures)
    return within(budget, _named(graph)[0], made, figures)


def lower_pair(
    graph: Graph, wrt: Sequence[int], device: Device = H200, recipes: Recipes | None = KNOWN, budget: int | None = None
) -> tuple[Program, Partition]:
    """A function and its gradient with respect to the inputs numbered `wrt`. `graph` is normalised; the rest as above."""

    def made(memory: Memory) -> tuple[Program, Partition]:
        return _pair(graph, wrt, device, recipes, memory)

    def figures(pair: tuple[Program, Partition]) -> Figures:
        return figures_of(pair[0], len(graph.outputs))

    if budget is None:
        return by_default(memories_for(prepare(with_literals(graph))), made, figures)
    return within(budget, _named(graph)[0], made, figures)


def _pair(
    graph: Graph, wrt: Sequence[int], device: Device, recipes: Recipes | None, memory: Memory
) -> tuple[Program, Partition]:
    """What is too large to store is computed again in the backward; where that would store it too, it is kept after all."""
    split = differentiate(graph, wrt, device, memory)
    parts = sections(split.backward, frozenset(), memory, device, recipes)
    if split.recomputes and any(too_large(part, memory) for part in parts):
        split = differentiate(graph, wrt, device)
        parts = sections(split.backward, frozenset(), memory, device, recipes)
    results = len(graph.outputs)
    title, names = _named(graph)
    kept = frozenset(split.forward.outputs[results:])
    first = sections(split.forward, kept, memory, device, recipes)
    forward = _sequence("forward", split.forward, title, kept, names, device, first)
    backward = _sequence("backward", split.backward, title, frozenset(), names, device, parts)
    again = ", ".join(f"{v.name or v.operation.name} ({size(stored_bytes(v))})" for v in split.recomputes)
    backward = replace(backward, notes=(f"made again, too large to keep: {again}",) if again else ())
    gradients = {split.forward.inputs[place]: i for i, place in enumerate(wrt)}
    residuals = [residual.value for residual in split.residuals]
    wiring = wiring_text(title, forward.host, backward.host, residuals, gradients, results, names)
    return _program(title, (forward, backward), wiring), split


def figures_of(program: Program, results: int) -> Figures:
    """Seconds, and the most bytes at once beside arguments and results: what is kept for the backward is there until its end."""
    forward, *backward = program.sequences
    own = forward.graph.outputs[:results]
    kept = {value for value in forward.graph.outputs[results:] if value not in set(own)}
    held = sum(value.size * forward.dtypes[value].itemsize for value in kept)
    later = (held + most_bytes(s.host, s.dtypes, s.graph.outputs) for s in backward)
    kernels = (kernel for sequence in program.sequences for kernel in sequence.scheduled)
    seconds = sum(kernel.plan.bounds.alone * kernel.times for kernel in kernels)
    return Figures(max(most_bytes(forward.host, forward.dtypes, own), *later, 0), seconds)


def _named(graph: Graph) -> tuple[str, Names]:
    """What the function is called in its module, and all names of the module. Nothing in it calls the function."""
    names = module_names()
    return names.fresh(identifier(graph.title, "function"), referred=False), names


def _program(title: str, sequences: tuple[LaunchSequence, ...], wiring: str) -> Program:
    dtypes = {value: dtype for sequence in sequences for value, dtype in sequence.dtypes.items()}
    names, inputs = sequences[0].identifiers, sequences[0].graph.inputs
    arguments = ", ".join(f"{names[v]} {v.dtype.short}{list(v.shape)}" for v in inputs)
    headline = f"{title}({arguments}), {' and '.join(sequence.phase for sequence in sequences)}."
    return Program(sequences, module_text(headline, [sequence.host for sequence in sequences], dtypes, wiring))


def differentiate(graph: Graph, wrt: Sequence[int], device: Device = H200, memory: Memory | None = None) -> Partition:
    """The forward and backward graphs of a normalised graph, prepared for scheduling.

    Without a `memory` everything the backward needs is kept that is not cheap to compute again.
    """
    graph = prepare(with_literals(graph), to_differentiate=True)
    outputs = graph.outputs
    cotangents = [
        make_input(value.shape, value.dtype, f"d{name}") for value, name in zip(outputs, _output_names(graph), strict=True)
    ]
    chosen = [graph.inputs[i] for i in wrt]
    gradients = vjp_graph(outputs, chosen, cotangents)
    joint = Graph(
        (*chosen, *(v for v in graph.inputs if v not in set(chosen)), *cotangents),
        (*outputs, *gradients),
        graph.output_names,
        graph.title,
    )
    joint = prepare(normalise(joint, "after"))
    outputs = joint.outputs[: len(outputs)]
    gradients = read_through_outputs(outputs, joined_sums(joint.outputs[len(outputs) :], device))
    renamed = Graph((*chosen, *(v for v in graph.inputs if v not in set(chosen))), outputs, graph.output_names, graph.title)
    given = [c for c, v in zip(cotangents, outputs, strict=True) if v.dtype.is_floating]
    again = too_large_to_keep((*outputs, *gradients), memory) if memory else frozenset()
    split = partition(renamed, outputs, given, gradients, again, device)
    forward = Graph(graph.inputs, split.forward.outputs, split.forward.output_names, graph.title)
    return replace(split, forward=forward)


def with_literals(graph: Graph) -> Graph:
    """The arrays the function closed over as inputs after its own."""
    known = set(graph.inputs)
    literals = tuple(value for value in graph.values if isinstance(value.operation, Literal) and value not in known)
    return Graph((*graph.inputs, *literals), graph.outputs, graph.output_names, graph.title)


def _output_names(graph: Graph) -> list[str]:
    return [
        name or value.name or "out"
        for name, value in zip(graph.output_names or ("",) * len(graph.outputs), graph.outputs, strict=True)
    ]


def _sequence(
    phase: str,
    graph: Graph,
    title: str,
    statistics: frozenset[Value],
    names: Names,
    device: Device,
    parts: Sequence[Section],
) -> LaunchSequence:
    """`statistics` are the outputs kept for the backward alone, which lie in memory as computed; `parts` are its launches."""
    kernels = [kernel for section in parts for kernel in section.kernels]
    arrays = array_names(graph, parts, names.inside())
    identifiers, outputs = arrays.identifiers, frozenset(graph.outputs) - statistics
    dtypes = {value: storage_dtype(arrays.home.get(value, value), outputs) for value in identifiers}
    emitted = {}
    for kernel in kernels:
        made = [identifiers[arrays.home.get(value, value)] for value in kernel.writes]
        name = names.fresh(_kernel_name(title, phase, [] if kernel is kernels[0] else made))
        lines = heading(kernel, title, phase, identifiers, traffic(kernel, identifiers, dtypes))
        emitted[kernel] = emit_kernel(kernel, name, identifiers, dtypes, lines, names)
    count = sum(kernel.launches for kernel in kernels)
    summary = f"{title}, {phase}: {count} launch{'' if count == 1 else 'es'}."
    steps = tuple(Step(tuple(emitted[k] for k in s.kernels), s.loop, s.views, s.counters) for s in parts)
    zeroed = frozenset(arrays.home.get(value, value) for kernel in kernels for value in kernel.zeroed)
    host = HostFunction(phase, summary, graph.inputs, steps, graph.outputs, arrays, zeroed)
    return LaunchSequence(phase, graph, tuple(kernels), tuple(emitted.values()), host, identifiers, dtypes, device)


def _kernel_name(title: str, phase: str, made: list[str]) -> str:
    base = title if title.endswith(phase) else f"{title}_{phase}"
    return "_".join([base, *made[:3]])
