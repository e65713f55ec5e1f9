"""What the compiler made of kernels: each way of breaking the numerical policy is seen, and what keeps it is not."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

from gradc.runtime.build import Binary, BuildRequest
from gradc.runtime.policy import APPROXIMATE, check_ptx, global_access_bits, has_tensor_cores
from gradc.runtime.workers import build

pytestmark = pytest.mark.triton

HEADER = """
import triton
import triton.language as tl
from triton.language.extra import libdevice

"""

ELEMENTWISE = """
@triton.jit
def {name}(x_ptr, y_ptr, out_ptr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at)
    y = tl.load(y_ptr + at)
    tl.store(out_ptr + at, {formula})
"""

MATRIX = """
@triton.jit
def {name}(x_ptr, y_ptr, out_ptr, BLOCK: tl.constexpr):
    row = tl.arange(0, BLOCK)
    at = row[:, None] * BLOCK + row[None, :]
    out = tl.dot(tl.load(x_ptr + at), tl.load(y_ptr + at), input_precision="{name}")
    tl.store(out_ptr + at, out)
"""

ALL = "propagate_nan=tl.PropagateNan.ALL"
FORMULAS = {
    "plain_max": "tl.maximum(x, y)",
    "nan_max": f"tl.maximum(x, y, {ALL})",
    "plain_clamp": "tl.clamp(x, 0.0, 1.0)",
    "nan_clamp": f"tl.clamp(x, 0.0, 1.0, {ALL})",
    "reduced": "y + tl.max(x, axis=0)",
    "integers": "tl.maximum(x.to(tl.int32), y.to(tl.int32))",
    "angle": "libdevice.atan2(x, y)",
    "approximate": "tl.exp(x) + tl.exp2(y) + tl.rsqrt(x) + tl.sqrt(y) + x / y + libdevice.tanh(x) + libdevice.sinh(y)",
    "logarithm": "tl.log(x)",
}
PRECISIONS = ("ieee", "tf32", "tf32x3")
SOURCE = (
    HEADER
    + "".join(ELEMENTWISE.format(name=name, formula=formula) for name, formula in FORMULAS.items())
    + "".join(MATRIX.format(name=name) for name in PRECISIONS)
)


def request(name: str, dtype: str) -> BuildRequest:
    pointers = dict.fromkeys(("x_ptr", "y_ptr", "out_ptr"), f"*{dtype}")
    return BuildRequest(name, pointers, {"BLOCK": 32 if name in PRECISIONS else 256}, tuple(pointers))


CASES = (
    *((name, "fp32") for name in (*FORMULAS, *PRECISIONS)),
    *((name, dtype) for name in ("plain_max", "nan_max") for dtype in ("fp64", "fp16", "bf16")),
)


@pytest.fixture(scope="module")
def binaries(tmp_path_factory) -> dict[tuple[str, str], Binary]:
    patch = pytest.MonkeyPatch()
    patch.setenv("GRADC_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    built = build(SOURCE, [request(*case) for case in CASES])
    patch.undo()
    return dict(zip(CASES, built, strict=True))


@pytest.mark.parametrize("dtype", ["fp64", "fp32", "fp16", "bf16"])
def test_dropped_nan_is_caught(binaries, dtype):
    opcode = f"max.{dtype.replace('fp', 'f')}"
    problems = check_ptx(binaries["plain_max", dtype].ptx)
    assert len(problems) == 1
    assert re.match(rf"{opcode}(x2)? drops a NaN", problems[0])
    assert check_ptx(binaries["nan_max", dtype].ptx) == []


def test_violations_name_the_emitted_line(binaries):
    (problem,) = check_ptx(binaries["plain_max", "fp32"].ptx)
    line = 1 + SOURCE.splitlines().index("    tl.store(out_ptr + at, tl.maximum(x, y))")
    assert f"(kernels.py:{line}, " in problem


def test_clamp_and_reduction_are_caught(binaries):
    assert {problem.split()[0] for problem in check_ptx(binaries["plain_clamp", "fp32"].ptx)} == {"max.f32", "min.f32"}
    assert check_ptx(binaries["nan_clamp", "fp32"].ptx) == []
    assert any("max.f32 drops a NaN" in problem for problem in check_ptx(binaries["reduced", "fp32"].ptx))


def test_declared_dropping_is_allowed(binaries):
    assert check_ptx(binaries["plain_max", "fp32"].ptx, drops_nan=True) == []


@pytest.mark.parametrize("name", ["integers", "angle", "logarithm"])
def test_integers_and_libdevice_keep_the_policy(binaries, name):
    assert check_ptx(binaries[name, "fp32"].ptx) == []


@pytest.mark.parametrize(
    ("emitted", "declared", "kept"),
    [
        ("ieee", "ieee", True),
        ("tf32", "ieee", False),
        ("tf32x3", "ieee", False),
        ("tf32", "tf32x3", False),
        ("tf32x3", "tf32x3", True),
        ("ieee", "tf32x3", True),
        ("tf32", "tf32", True),
    ],
)
def test_matrix_precision(binaries, emitted, declared, kept):
    problems = check_ptx(binaries[emitted, "fp32"].ptx, float32_matrix=declared)
    assert (problems == []) is kept
    assert all("TF32" in problem for problem in problems)


def test_approximations_are_those_allowed(binaries):
    ptx = binaries["approximate", "fp32"].ptx
    assert check_ptx(ptx) == []
    for name in APPROXIMATE - {"lg2.approx"}:
        problems = check_ptx(ptx, approximations=APPROXIMATE - {name})
        assert problems, f"{name} is used, and seen when it is not allowed"
        assert all(problem.startswith(name) for problem in problems)


@pytest.mark.parametrize("opcode", ["tanh.approx.f32", "sin.approx.ftz.f32", "div.approx.f32", "tanh.approx.bf16x2"])
def test_rough_instructions_are_caught(opcode):
    assert check_ptx(f"\t@%p1 {opcode} %f1, %f2;\n") == [
        f"{opcode} is not an approximation the policy allows (an unknown line, 1 times)"
    ]


def test_machine_code_facts(binaries):
    assert has_tensor_cores(binaries["tf32", "fp32"].sass)
    assert not has_tensor_cores(binaries["ieee", "fp32"].sass)
    assert global_access_bits("LDG.E.128 R4 ; LDG.E.U16.CONSTANT R0 ; STG.E.64 [R2] ; STG.E [R2] ;") == {
        16,
        32,
        64,
        128,
    }
