"""A whole emitted module: kernels, the functions that launch them, and the autograd wiring. Runs with torch and triton alone.

Everything here is text assembly; what the kernels are was decided before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gradc.codegen.emit import Emitted
from gradc.codegen.names import Names, identifier
from gradc.ir import Value
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
'''


@dataclass(frozen=True, eq=False)
class HostFunction:
    """One launch sequence: `inputs` in, `kernels` in order, `outputs` out."""

    name: str
    summary: str
    inputs: tuple[Value, ...]
    kernels: tuple[Emitted, ...]
    outputs: tuple[Value, ...]
    identifiers: dict[Value, str]


def buffer_identifiers(values: Sequence[Value]) -> dict[Value, str]:
    """A unique identifier for every array of a host function."""
    names = Names(("tl", "expect", "device"))
    return {value: names.fresh(value.name or value.operation.name) for value in dict.fromkeys(values)}


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
    parameters = ", ".join(inputs) or 'device="cuda"'
    lines = [f"def {function.name}({parameters}):", f'    """{function.summary}"""']
    for value in function.inputs:
        strides = (
            value.operation.strides
            if isinstance(value.operation, Input) and value.operation.strides is not None
            else row_major(value.shape)
        )
        name = identifiers[value]
        lines.append(f"    expect({name!r}, {name}, {value.shape}, torch.{dtypes[value].name}, {strides})")
    made = dict.fromkeys(
        [
            v
            for kernel in function.kernels
            for a in kernel.arguments
            if a.kind == "buffer" and (v := a.value) not in set(function.inputs)
        ]
        + [v for v in function.outputs if v not in set(function.inputs)]
    )
    if made and inputs:
        lines.append(f"    device = {inputs[0]}.device")
    lines += [f"    {identifiers[v]} = torch.empty({v.shape}, dtype=torch.{dtypes[v].name}, device=device)" for v in made]
    lines += [f"    {launch_text(kernel, identifiers)}" for kernel in function.kernels]
    results = ", ".join(identifiers[v] for v in function.outputs)
    return "\n".join([*lines, f"    return ({results}{',' if len(function.outputs) == 1 else ''})"])


def wiring_text(
    title: str,
    forward: HostFunction,
    backward: HostFunction,
    kept: Sequence[Value],
    gradients: Mapping[Value, int],
    results: int,
) -> str:
    """The pair as a function on PyTorch's autograd tape.

    `kept` are the arrays of the forward that the backward takes; `gradients` says which of its results belongs to an input;
    `results` is how many of the forward's outputs are the function's own.
    """
    names, inputs = forward.identifiers, forward.inputs
    own = output_identifiers(forward, results)
    outputs = [*own, *(names[value] for value in forward.outputs[results:])]
    floating = [name for name, value in zip(own, forward.outputs, strict=False) if value.dtype.is_floating]
    others = [name for name, value in zip(own, forward.outputs, strict=False) if not value.dtype.is_floating]
    incoming = [f"d_{name}" for name in own]
    arguments = ", ".join(names[value] for value in inputs)
    given = "".join(f", d_{name}.contiguous()" for name in floating)
    returned = ", ".join(f"gradients[{gradients[value]}]" if value in gradients else "None" for value in inputs)
    lines = [
        f"class {class_name(title)}(torch.autograd.Function):",
        f'    """{title} on PyTorch\'s autograd tape."""',
        "",
        "    @staticmethod",
        f"    def forward(ctx, {arguments}):",
        f"        {', '.join(outputs)}{',' if len(outputs) == 1 else ''} = forward({arguments})",
        f"        ctx.save_for_backward({', '.join(names[value] for value in kept)})",
        *([f"        ctx.mark_non_differentiable({', '.join(others)})"] if others else []),
        f"        return {', '.join(outputs[:results])}",
        "",
        "    @staticmethod",
        f"    def backward(ctx, {', '.join(incoming)}):",
        f"        gradients = backward(*ctx.saved_tensors{given})",
        f"        return {returned}",
        "",
        "",
        f"def {title}({arguments}):",
        f'    """{forward.summary.partition(",")[0]}, differentiable by torch."""',
        f"    return {class_name(title)}.apply({arguments})",
    ]
    return "\n".join(lines)


def output_identifiers(function: HostFunction, results: int) -> list[str]:
    """A name for each of the function's own outputs, distinct even where one array is returned twice."""
    taken = Names(tuple(function.identifiers.values()))
    seen: set[Value] = set()
    names = []
    for value in function.outputs[:results]:
        name = function.identifiers[value]
        names.append(taken.fresh(name) if value in seen else name)
        seen.add(value)
    return names


def class_name(title: str) -> str:
    """`rms_norm` as `RmsNorm`."""
    return "".join(part.capitalize() for part in title.split("_")) or "Function"


def launch_text(kernel: Emitted, identifiers: dict[Value, str]) -> str:
    """One launch: `kernel[(programs,)](arrays, sizes, CONSTANTS=..., num_warps=...)`."""
    arguments = [identifiers[a.value] if a.kind == "buffer" else f"{a.name}={a.value}" for a in kernel.arguments]
    options = [f"num_warps={kernel.warps}"] + ([f"num_stages={kernel.pipeline}"] if kernel.pipeline > 1 else [])
    return f"{kernel.name}[({kernel.programs},)]({', '.join([*arguments, *options])})"


__all__ = ["HostFunction", "buffer_identifiers", "host_text", "identifier", "module_text"]
