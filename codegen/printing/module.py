"""A whole emitted module: kernels, the functions that launch them, and the autograd wiring. Runs with torch and triton alone.

Everything here is text assembly; what the kernels are was decided before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gradc.codegen.hosting.chunks import View
from gradc.codegen.hosting.host import Section
from gradc.codegen.plan import HostLoop
from gradc.codegen.printing.emit import Emitted
from gradc.codegen.printing.expressions import Argument
from gradc.codegen.printing.names import Names, identifier
from gradc.ir import Graph, Value
from gradc.leaves import Input
from gradc.types import DType, row_major

HELPER_TEXT = {
    "larger": "tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)",
    "smaller": "tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)",
    "multiplied": "a * b",
}

EXPECT = '''def expect(name, array, shape, dtype, strides):
    """The kernels above were made for arrays laid out like this."""
    if tuple(array.shape) != shape or array.dtype != dtype:
        raise ValueError(f"{name}: expected {dtype} {shape}, got {array.dtype} {tuple(array.shape)}")
    if array.numel() and any(n > 1 and s != t for n, s, t in zip(shape, array.stride(), strides)):
        raise ValueError(f"{name}: expected strides {strides}, got {array.stride()}")
    if array.is_neg():
        raise ValueError(f"{name}: its elements wait for their sign; pass {name}.resolve_neg()")
'''


@dataclass(frozen=True, eq=False)
class Step:
    """Kernels launched one after another: once, or for every chunk of a loop that reads and writes `views` of arrays.

    `counters` are where the chunk starts and the first position that no chunk before has gone over.
    """

    kernels: tuple[Emitted, ...]
    loop: HostLoop | None = None
    views: tuple[View, ...] = ()
    counters: tuple[Value, ...] = ()


@dataclass(frozen=True, eq=False)
class HostFunction:
    """One launch sequence: `inputs` in, the kernels of `steps` in order, `outputs` out.

    Kernels add to those arrays that are `zeroed`.
    """

    name: str
    summary: str
    inputs: tuple[Value, ...]
    steps: tuple[Step, ...]
    outputs: tuple[Value, ...]
    arrays: Arrays
    zeroed: frozenset[Value] = frozenset()

    @property
    def identifiers(self) -> dict[Value, str]:
        return self.arrays.identifiers

    @property
    def home(self) -> dict[Value, Value]:
        return self.arrays.home

    @property
    def kernels(self) -> tuple[Emitted, ...]:
        return tuple(kernel for step in self.steps for kernel in step.kernels)


@dataclass(frozen=True, eq=False)
class Arrays:
    """What the arrays of a launch sequence are called, and the device they are on; `names` are all of the host function.

    `home` is the array that a Value of a step's program stands for, where it is another Value.
    """

    identifiers: dict[Value, str]
    home: dict[Value, Value]
    device: str
    names: Names


def module_names() -> Names:
    """The names of a module of which nothing is called as the user says: what every module may hold."""
    names = Names()
    for name in ("forward", "backward", "expect", *HELPER_TEXT):
        names.fresh(name)
    return names


def array_names(graph: Graph, sections: Sequence[Section], names: Names) -> Arrays:
    """A unique identifier for every array of a host function; Values that stand for the same array share it.

    The user's come first, then what the function itself needs.
    """
    found: dict[Value, str] = {}
    home: dict[Value, Value] = {}
    counters = {counter: counter.name or "start" for section in sections for counter in section.counters}

    def name(value: Value) -> str:
        if value not in found:
            found[value] = names.fresh(value.name or value.operation.name)
        return found[value]

    for value in (*graph.inputs, *graph.outputs):
        name(value)
    for section in sections:
        home |= section.aliases
        found |= {alias: name(array) for alias, array in section.aliases.items()}
        for view in section.views:
            home[view.part] = view.array
            found[view.part] = names.fresh(f"{name(view.array).rstrip('_')}_chunk")
        for kernel in section.kernels:
            for value in (*sorted(kernel.reads - counters.keys(), key=lambda v: v.number), *kernel.writes):
                name(value)
    called = {name: names.fresh(name) for name in dict.fromkeys(counters.values())}
    found |= {counter: called[name] for counter, name in counters.items()}
    return Arrays(found, home, names.fresh("device"), names)


def module_text(title: str, functions: Sequence[HostFunction], dtypes: dict[Value, DType], wiring: str = "") -> str:
    """The module: a docstring, imports, helpers, kernels in launch order, host functions, autograd wiring."""
    kernels = {kernel.name: kernel for function in functions for kernel in function.kernels}
    body = "\n\n\n".join(kernel.source for kernel in kernels.values())
    helpers = [_helper(name) for name in sorted({name for kernel in kernels.values() for name in kernel.helpers})]
    imports = ["import torch", "import triton", "import triton.language as tl"]
    if "libdevice." in body:
        imports.append("from triton.language.extra import libdevice")
    hosts = [host_text(function, dtypes) for function in functions]
    docstring = f'"""{title}\n\nMade by gradc. Edit freely: nothing here needs gradc.\n"""'
    parts = [docstring + "\n\n" + "\n".join(imports), *helpers, body, EXPECT.rstrip(), *hosts, wiring.rstrip()]
    return "\n\n\n".join(part for part in parts if part) + "\n"


def _helper(name: str) -> str:
    return f"@triton.jit\ndef {name}(a, b):\n    return {HELPER_TEXT[name]}"


def host_text(function: HostFunction, dtypes: dict[Value, DType]) -> str:
    """The text of a launch sequence."""
    identifiers = function.identifiers
    inputs = [identifiers[value] for value in function.inputs]
    device = function.arrays.device
    parameters = ", ".join(inputs) or f'{device}="cuda"'
    lines = [f"def {function.name}({parameters}):", f'    """{function.summary}"""']
    for value in function.inputs:
        strides = (
            value.operation.strides
            if isinstance(value.operation, Input) and value.operation.strides is not None
            else row_major(value.shape)
        )
        name = identifiers[value]
        lines.append(f"    expect({name!r}, {name}, {value.shape}, torch.{dtypes[value].name}, {strides})")
    if function.outputs and inputs and not set(function.outputs) <= set(function.inputs):
        lines.append(f"    {device} = {inputs[0]}.device")
    body = []
    for part in lifetimes(function):
        body += [f"    {_allocation(identifiers[v], v.shape, dtypes[v], v in function.zeroed, device)}" for v in part.made]
        body += step_lines(part.step, identifiers)
        gone = [*part.gone, *(view.part for view in _passed_views(function.steps) if view.array in set(part.gone))]
        body += [f"    del {', '.join(identifiers[value] for value in gone)}"] if gone else []
    if body:
        place = inputs[0] if inputs else f"torch.empty(0, device={device})"
        lines += [f"    with torch.cuda.device_of({place}):", *(f"    {line}" for line in body)]
    results = ", ".join(identifiers[v] for v in function.outputs)
    return "\n".join([*lines, f"    return ({results}{',' if len(function.outputs) == 1 else ''})"])


@dataclass(frozen=True, eq=False)
class Lifetime:
    """A step with the arrays that are allocated before it and those that are let go after it."""

    step: Step
    made: tuple[Value, ...]
    gone: tuple[Value, ...]


def lifetimes(function: HostFunction) -> Iterator[Lifetime]:
    """The steps of a launch sequence with the arrays that begin and end there."""
    known = dict.fromkeys(function.inputs)
    for step, later in zip(function.steps, _later(function), strict=True):
        touched = _touched(step, function.home)
        made = dict.fromkeys(value for value in (*touched, *(() if later else function.outputs)) if value not in known)
        known |= made
        gone = [value for value in touched if later and value not in later and value not in set(function.inputs)]
        yield Lifetime(step, tuple(made), tuple(gone))


def most_bytes(function: HostFunction, dtypes: Mapping[Value, DType], results: Sequence[Value]) -> int:
    """The most bytes that a launch sequence has allocated at once, without its `results`."""
    most = taken = 0
    given = set(results)
    for part in lifetimes(function):
        taken += sum(value.size * dtypes[value].itemsize for value in part.made if value not in given)
        most = max(most, taken)
        taken -= sum(value.size * dtypes[value].itemsize for value in part.gone if value not in given)
    return most


def _allocation(name: str, shape: tuple[int, ...], dtype: DType, zeroed: bool, device: str) -> str:
    return f"{name} = torch.{'zeros' if zeroed else 'empty'}({shape}, dtype=torch.{dtype.name}, device={device})"


def _touched(step: Step, home: Mapping[Value, Value]) -> dict[Value, None]:
    """The arrays a step reads or writes."""
    values = (a.value for kernel in step.kernels for a in kernel.arguments if a.kind == "buffer")
    return dict.fromkeys(home.get(value, value) for value in values)


def _later(function: HostFunction) -> list[dict[Value, None]]:
    """For every step, the arrays that are used after it; nothing for the last."""
    later: list[dict[Value, None]] = [{}]
    for step in reversed(function.steps[1:]):
        later.append(later[-1] | dict.fromkeys(function.outputs) | _touched(step, function.home))
    return later[::-1]


def _passed_views(steps: Sequence[Step]) -> list[View]:
    """The views that kernels are given."""
    passed = {a.value for step in steps for kernel in step.kernels for a in kernel.arguments if a.kind == "buffer"}
    return [view for step in steps for view in step.views if view.part in passed]


def step_lines(step: Step, identifiers: dict[Value, str]) -> list[str]:
    """The launches of a step; those of a loop with the views of their chunk."""
    launches = [f"    {launch_text(kernel, identifiers)}" for kernel in step.kernels]
    if step.loop is None:
        return launches
    size, chunk = step.loop.size, step.loop.chunk
    start, first = (identifiers[counter] for counter in step.counters)
    lines = [f"    for {first} in range(0, {size}, {chunk}):"]
    if not step.loop.divides:
        lines.append(f"        {start} = min({first}, {size - chunk})  # the last chunk goes over some positions again")
    lines += [f"        {_view_text(view, identifiers, step.loop, start, first)}" for view in _passed_views([step])]
    return lines + [f"    {line}" for line in launches]


def _view_text(view: View, identifiers: dict[Value, str], loop: HostLoop, start: str, first: str) -> str:
    array = identifiers[view.array]
    if view.run is None:
        place = f"{first} // {loop.chunk}"
    else:
        place = ":, " * view.run[0] + f"{start}:{start} + {loop.chunk}"
        array += f".flatten({view.run[0]}, {view.run[-1]})" if len(view.run) > 1 else ""
    return f"{identifiers[view.part]} = {array}[{place}]"


def wiring_text(
    title: str,
    forward: HostFunction,
    backward: HostFunction,
    kept: Sequence[Value],
    gradients: Mapping[Value, int],
    results: int,
    module: Names,
) -> str:
    """The pair as a function on PyTorch's autograd tape; its class is named in `module`.

    `kept` are the arrays of the forward that the backward takes; `gradients` says which of its results belongs to an input;
    `results` is how many of the forward's outputs are the function's own.
    """
    identifiers, inputs, fresh = forward.identifiers, forward.inputs, forward.arrays.names.fresh
    own = output_identifiers(forward, results)
    outputs = [*own, *(identifiers[value] for value in forward.outputs[results:])]
    floating = [name for name, value in zip(own, forward.outputs, strict=False) if value.dtype.is_floating]
    others = [name for name, value in zip(own, forward.outputs, strict=False) if not value.dtype.is_floating]
    incoming = {name: fresh(f"d_{name}") for name in own}
    context, gradient = fresh("ctx"), fresh("gradients")
    arguments = ", ".join(identifiers[value] for value in inputs)
    given = "".join(f", {incoming[name]}.contiguous().resolve_neg()" for name in floating)
    tape = module.fresh(class_name(title))
    returned = ", ".join(f"{gradient}[{gradients[value]}]" if value in gradients else "None" for value in inputs)
    lines = [
        f"class {tape}(torch.autograd.Function):",
        f'    """{title} on PyTorch\'s autograd tape."""',
        "",
        "    @staticmethod",
        f"    def forward({context}, {arguments}):",
        f"        {', '.join(outputs)}{',' if len(outputs) == 1 else ''} = forward({arguments})",
        f"        {context}.save_for_backward({', '.join(identifiers[value] for value in kept)})",
        *([f"        {context}.mark_non_differentiable({', '.join(others)})"] if others else []),
        f"        return {', '.join(outputs[:results])}",
        "",
        "    @staticmethod",
        f"    def backward({context}, {', '.join(incoming.values())}):",
        "        if torch.is_grad_enabled():",
        f'            raise RuntimeError("{title} cannot be differentiated twice: call backward without create_graph")',
        f"        {gradient} = backward(*{context}.saved_tensors{given})",
        f"        return {returned}",
        "",
        "",
        f"def {title}({arguments}):",
        f'    """{forward.summary.partition(",")[0]}, differentiable by torch."""',
        f"    return {tape}.apply({arguments})",
    ]
    return "\n".join(lines)


def output_identifiers(function: HostFunction, results: int) -> list[str]:
    """A name for each of the function's own outputs, distinct even where one array is returned twice."""
    seen: set[Value] = set()
    names = []
    for value in function.outputs[:results]:
        name = function.identifiers[value]
        names.append(function.arrays.names.fresh(name) if value in seen else name)
        seen.add(value)
    return names


def class_name(title: str) -> str:
    """`scaled_rows` as `ScaledRows`."""
    return "".join(part.capitalize() for part in title.split("_")) or "Function"


def launch_text(kernel: Emitted, identifiers: dict[Value, str]) -> str:
    """One launch: `kernel[(programs,)](arrays, sizes, CONSTANTS=..., num_warps=...)`."""
    arguments = [
        identifiers[a.value] if a.kind == "buffer" else f"{a.name}={_number(a, identifiers)}" for a in kernel.arguments
    ]
    options = [f"num_warps={kernel.warps}"] + ([f"num_stages={kernel.pipeline}"] if kernel.pipeline > 1 else [])
    return f"{kernel.name}[({kernel.programs},)]({', '.join([*arguments, *options])})"


def _number(argument: Argument, identifiers: dict[Value, str]) -> str:
    return identifiers[argument.value] if argument.kind == "counter" else str(argument.value)


__all__ = ["HostFunction", "Step", "array_names", "host_text", "identifier", "module_text"]
