"""Reads what the compiler made of a kernel and says where it breaks a declared policy about numbers.

The interpreter cannot show these: compiled `tl.maximum` drops a NaN unless told otherwise, and a float32 `tl.dot` is
TF32 unless told otherwise. This file only reads text; it compiles and runs nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Precision = Literal["ieee", "tf32x3", "tf32"]

APPROXIMATE = frozenset(
    {
        "ex2.approx",  # tl.exp and tl.exp2: 2 ulp
        "lg2.approx",  # inside libdevice's cbrt and asinh, refined there
        "rsqrt.approx",  # tl.rsqrt: 2 ulp
        "sqrt.approx",  # tl.sqrt: 1 ulp; tl.sqrt_rn is exact
        "rcp.approx",  # inside libdevice's tanh and tan: 1 ulp
        "div.full",  # the operator /: 2 ulp; tl.div_rn is exact
        "div.approx.ftz",  # inside libdevice's sinh, cosh and fmod, within its range
    }
)

EXTREMUM = re.compile(r"(?:max|min)\.(?P<mode>[A-Za-z0-9.]*?)(?P<dtype>f64|f32|f16x2|f16|bf16x2|bf16)$")
ROUGH = re.compile(r"(?P<operation>[a-z0-9]+)\.(?P<mode>approx|full)(?P<flush>\.ftz)?(?:\.\w+)+$")
INSTRUCTION = re.compile(r"^\s*(?:@!?%p\d+\s+)?(?P<opcode>[a-z][\w.]*)\s*(?P<operands>[^;]*);")
PLACE = re.compile(r"^\s*\.loc\s.*//\s*(?P<file>[^:\s]+):(?P<line>\d+):")
GLOBAL_ACCESS = re.compile(r"\b(LDG|STG|LD|ST)\.E(?P<modifiers>(?:\.\w+)*)")
TENSOR_CORES = re.compile(r"\b(HGMMA|HMMA|QGMMA|QMMA|IGMMA|IMMA|UTCHMMA|UTCQMMA|DMMA)\b")
NAN_CHECK = re.compile(r"setp\.nan\.f64\s+%\w+,\s*(?P<left>%\w+),\s*(?P<right>%\w+);")


@dataclass(frozen=True)
class Instruction:
    """One PTX instruction, with the line of the emitted module it came from, such as `kernels.py:12`."""

    opcode: str
    operands: str
    place: str


def check_ptx(
    ptx: str,
    *,
    float32_matrix: Precision = "ieee",
    drops_nan: bool = False,
    approximations: frozenset[str] = APPROXIMATE,
) -> list[str]:
    """The violations, one line each; an empty list is a kernel that keeps the policy.

    `float32_matrix` is how float32 operands of a matrix product may be multiplied. `drops_nan` says that some operation of
    the kernel declared a maximum or minimum that ignores NaN, so plain ones are allowed. `approximations` are the
    inexact instructions allowed.
    """
    found = list(instructions(ptx))
    problems = [*_rough(found, approximations), *_tf32(found, float32_matrix)]
    if not drops_nan:
        problems += _dropped_nans(found, ptx)
    return [f"{text} ({place}, {count} times)" for (text, place), count in Counter(problems).items()]


def instructions(ptx: str) -> Iterator[Instruction]:
    place = "an unknown line"
    for line in ptx.splitlines():
        if at := PLACE.match(line):
            place = f"{at['file']}:{at['line']}"
        elif instruction := INSTRUCTION.match(line):
            yield Instruction(instruction["opcode"], instruction["operands"], place)


def global_access_bits(sass: str) -> frozenset[int]:
    """The widths in bits of the machine code's loads from and stores to global memory."""
    return frozenset(width for _, width in _accesses(sass))


def has_vector_loads(sass: str) -> bool:
    """Whether it loads 16 bytes at a time."""
    return ("LDG", 128) in _accesses(sass)


def has_vector_stores(sass: str) -> bool:
    """Whether it stores 16 bytes at a time."""
    return ("STG", 128) in _accesses(sass)


def has_tensor_cores(sass: str) -> bool:
    """Whether it multiplies matrices on tensor cores."""
    return TENSOR_CORES.search(sass) is not None


def _accesses(sass: str) -> frozenset[tuple[str, int]]:
    return frozenset((match[1], _width(match["modifiers"])) for match in GLOBAL_ACCESS.finditer(sass))


def _width(modifiers: str) -> int:
    """`.U16` and `.S8` name a width; without one it is a 32-bit word."""
    widths = [int(number) for number in re.findall(r"\.[US]?(8|16|64|128|256)\b", modifiers)]
    return widths[0] if widths else 32


def _dropped_nans(found: list[Instruction], ptx: str) -> Iterator[tuple[str, str]]:
    """Maximum and minimum without `.NaN`. libdevice's own flush (`.ftz`) and come with its own NaN handling."""
    checked = {(match["left"], match["right"]) for match in NAN_CHECK.finditer(ptx)}
    for instruction in found:
        match = EXTREMUM.fullmatch(instruction.opcode)
        if match is None or "NaN" in match["mode"] or "ftz" in match["mode"]:
            continue
        if match["dtype"] == "f64" and _operands(instruction) in checked:
            continue
        yield f"{instruction.opcode} drops a NaN: use propagate_nan=tl.PropagateNan.ALL", instruction.place


def _operands(instruction: Instruction) -> tuple[str, str]:
    _, left, right = (operand.strip() for operand in instruction.operands.split(","))
    return left, right


def _rough(found: list[Instruction], approximations: frozenset[str]) -> Iterator[tuple[str, str]]:
    for instruction in found:
        match = ROUGH.fullmatch(instruction.opcode)
        if match is None:
            continue
        name = f"{match['operation']}.{match['mode']}"
        if name not in approximations and f"{name}{match['flush'] or ''}" not in approximations:
            yield f"{instruction.opcode} is not an approximation the policy allows", instruction.place


def _tf32(found: list[Instruction], allowed: Precision) -> Iterator[tuple[str, str]]:
    """A product in three parts (`tf32x3`) issues its tensor-core instructions in threes."""
    products = [item for item in found if "mma" in item.opcode and ".tf32" in item.opcode]
    broken = {"ieee": bool(products), "tf32x3": len(products) % 3 != 0, "tf32": False}[allowed]
    if broken:
        for item in products:
            yield f"a float32 matrix product runs in TF32 where {allowed} was declared: say input_precision", item.place
