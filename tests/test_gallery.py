"""The gallery: every function right forward and backward, in as few kernels as by hand, no quadratic table, and its page true."""

from __future__ import annotations

import functools
import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from kernels import EPSILON, LARGE_PRODUCTS, on, outputs_and_gradients, tensor  # noqa: E402

import gradc  # noqa: E402
from benchmarks import peers, run  # noqa: E402
from examples import document, gallery, in_torch  # noqa: E402
from examples.gallery import GALLERY, piece  # noqa: E402

NAMES = [row.name for row in GALLERY]

# What the shapes of a row forbid. Rows of 4097 and 4098 numbers are read at one number beside another, where hardly any 16 bytes that
# a thread wants start at a multiple of 16. Four queries a group fill no HGMMA, which multiplies 64 rows: they wait for memory.
EXCEPTIONS = {
    "soft_dtw_step": {"no 128-bit load", "no 128-bit store"},
    "flash_decoding": {"multiplies 16-bit matrices without HGMMA"},
}


@functools.cache
def lowered(name):
    return piece(name).lower()


def tables(name):
    """The arrays that kernels write or the forward keeps which are as large as the table that need not be there."""
    row, low = piece(name), lowered(name)
    size = math.prod(row.full[word] for word in row.square) * row.full.get("heads", 1)
    given = {argument.name for argument in row.arguments} | {f"d{argument.name}" for argument in row.arguments}
    arrays = [*low.saved, *(buffer for kernel in low.kernels for buffer in kernel.writes)]
    return {array.name for array in arrays if row.square and math.prod(array.shape) >= size} - given


# Results --------------------------------------------------------------------------------------------------------------


@pytest.mark.triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_right_forward_and_backward(name, dtype):
    row = piece(name)
    arrays = [x.detach() for x in peers.inputs(row, row.small, "cpu")]
    arrays = [x.to(dtype) if x.is_floating_point() else x for x in arrays]
    exact = [x.double() if x.is_floating_point() else x for x in arrays]
    cotangent = lambda i, out: tensor(*out.shape, dtype=dtype, seed=100 + i).to(out.dtype)
    got = outputs_and_gradients(
        on(LARGE_PRODUCTS, gradc.compile(backend="interpret")(row.function)), arrays, row.wrt, cotangent
    )
    want = outputs_and_gradients(getattr(in_torch, name), exact, row.wrt, cotangent)
    for kind, ours, theirs in zip(("result", "gradient"), got, want, strict=True):
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            error = (a.double() - b).norm() / b.norm()
            allowed = (8 if dtype == torch.float32 else 2) * EPSILON[dtype]
            assert error <= allowed, f"{kind} {i} is off by {error:.2e} of its norm, allowed {allowed:.2e}"


def test_the_functions_use_nothing_made_for_them():
    """Arrays and operators only, and every function is tried at sizes that are no multiple of a tile."""
    functions = [*(row.function for row in GALLERY), *(helper for row in GALLERY for helper in document.helpers(row.function))]
    assert not any("nn" in function.__code__.co_names for function in functions)
    assert all(any(size % 16 for size in row.small.values()) for row in GALLERY)


# Kernels ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_as_few_kernels_as_by_hand(name):
    row, low = piece(name), lowered(name)
    assert document.kernels(low, "forward") <= row.forward
    assert document.kernels(low, "backward") <= row.backward
    assert row.budget or low.cost.launches == len(low.kernels)


@pytest.mark.parametrize("name", NAMES)
def test_no_table_is_written_or_kept(name):
    assert tables(name) == set()


@pytest.mark.triton
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_full_shape_kernels_build_without_a_problem(name):
    """No spill, 16-byte accesses to large arrays, tensor cores for products of bfloat16, and a clean PTX policy."""
    low = lowered(name)
    facts = [run.binary_facts(kernel, binary) for kernel, binary in zip(low.kernels, low.build("sm_90"), strict=True)]
    problems = {found["name"]: {*found["problems"]} - EXCEPTIONS.get(name, set()) for found in facts}
    assert {kernel: found for kernel, found in problems.items() if found} == {}


# Pages ------------------------------------------------------------------------------------------------------------------


def test_the_pages_are_what_the_command_writes():
    written = {path.name: path.read_text(encoding="utf-8") for path in document.PAGES.glob("*.md")}
    assert written == document.pages(), "run `make gallery`, and read what changed"


def test_a_page_shows_all_that_the_function_calls():
    text = document.page(piece("qk_norm_rope"), lowered("qk_norm_rope"))
    assert all(
        f"def {name}(" in text for name in ("qk_norm_rope", "causal", "softmax", "rotated", "rms", "scores", "positions")
    )
    assert "def alibi(" not in text
    assert all(kernel.source in text for kernel in lowered("qk_norm_rope").kernels)
    assert gallery.__file__ not in text
