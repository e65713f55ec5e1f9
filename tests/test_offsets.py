"""Offsets, positions and program numbers past 2**31: arrays that are nearly all address space, read and written far out.

Memory that is never touched is never taken, so an array may be as long as it likes as long as few of its elements are read.
"""

from __future__ import annotations

import re

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from kernels import LARGE_PRODUCTS, force_loops, on, tensor  # noqa: E402

import gradc  # noqa: E402
from gradc.codegen.index import Axis  # noqa: E402
from gradc.codegen.plan import KernelAxis  # noqa: E402
from gradc.codegen.printing.names import Names  # noqa: E402
from gradc.codegen.printing.positions import Positions  # noqa: E402
from gradc.codegen.printing.scope import Scope  # noqa: E402
from gradc.runtime.workers import interpret  # noqa: E402

pytestmark = pytest.mark.triton

FAR = 2**29  # five such steps are further than 2**31


def spread(*shape, strides, dtype=torch.bfloat16):
    """Small whole numbers, which every dtype holds, lying far apart."""
    x = torch.empty_strided(shape, strides, dtype=dtype)
    return x.copy_(tensor(*shape, dtype=torch.int64, low=-4, high=5))


INDEX = torch.tensor([[4, 0, -1]] * 8, dtype=torch.int32)
POINTED = {
    "rows taken": (lambda x: gradc.take(x, INDEX.numpy()[0], axis=1) * 2, lambda x: x[:, INDEX[0].long()] * 2),
    "negative steps": (lambda x: x[:, ::-2] * 2, lambda x: x.flip(1)[:, ::2] * 2),
    "padded": (lambda x: gradc.pad(x, ((1, 1), (2, 2))) * 2, lambda x: torch.nn.functional.pad(x, (2, 2, 1, 1)) * 2),
    "joined": (lambda x: gradc.concat([x[:, 3:], x], axis=1) * 2, lambda x: torch.cat([x[:, 3:], x], 1) * 2),
    "reshaped": (lambda x: x.reshape((20, 2)) * 2, lambda x: x.reshape(20, 2) * 2),
    "running sum": (lambda x: gradc.cumsum(x, axis=1), lambda x: x.cumsum(1)),
    "product": (lambda x: x @ x.T, lambda x: (x.float() @ x.float().T).to(x.dtype)),
    "sum": (lambda x: gradc.sum(x, axis=1), lambda x: x.sum(1)),
}


@pytest.mark.parametrize("name", POINTED)
def test_arrays_that_reach_far(name):
    ours, theirs = POINTED[name]
    x = spread(8, 5, strides=(1, FAR + 7))
    assert torch.equal(on(LARGE_PRODUCTS, gradc.compile(ours, backend="interpret"))(x), theirs(x))


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64], ids=str)
def test_places_read_from_memory(dtype):
    """An index is as wide as its dtype; what it is multiplied by decides how wide it has to be."""
    x = spread(8, 5, strides=(1, FAR + 7))
    index = INDEX.to(dtype)
    got = gradc.compile(lambda x, i: gradc.take_along_axis(x, i, axis=1) * 2, backend="interpret")(x, index)
    assert torch.equal(got, x.gather(1, index.long() % 5) * 2)


def test_a_loop_that_reaches_far(monkeypatch, tmp_path):
    force_loops(monkeypatch, tmp_path, live=4, tile=4)
    x = spread(64, 60, strides=(1, FAR // 8))
    i = torch.arange(64)[:, None]
    got = gradc.compile(
        lambda x: gradc.sum(gradc.where(gradc.arange(60) <= gradc.arange(64)[:, None], x, 0), axis=1), backend="interpret"
    )(x)
    assert torch.equal(got, torch.where(torch.arange(60) <= i, x, 0).sum(1))


# Arrays of which all is used: only their last programs run, on the end of the array -----------------------------------

LENGTH = 5 * FAR


def last_programs(function, tail):
    """What the last two programs of a function of `LENGTH` bfloat16 numbers write, which are zero (fresh memory) up to `tail`."""
    source = gradc.compile(function).lower(gradc.spec((LENGTH,), "bfloat16"), wrt=()).source
    (programs,) = (int(found) for found in re.findall(r"function_forward\[\((\d+),\)\]", source))
    source = source.replace(f"[({programs},)]", "[(2,)]").replace("tl.program_id(0)", f"(tl.program_id(0) + {programs - 2})")
    source = source.replace(
        "    device = x.device", f"    device = x.device\n    x[-{tail.numel()}:] = torch.tensor({tail.tolist()})"
    )
    source = source.replace("def forward(x):", f"def forward(_):\n    x = torch.empty({LENGTH}, dtype=torch.bfloat16)")
    source = source.replace("return (out,)", f"return (out[-{tail.numel()}:].clone(),)")
    (out,) = interpret(source, "forward", [tail])
    return out


LATE = {
    "elementwise": (lambda x: x * 2, lambda x: x * 2),
    "backward": (lambda x: gradc.flip(x, axis=0) + x, lambda x: x),
    "rolled": (lambda x: gradc.where(gradc.roll(x, 2**31 + 5, axis=0) == 0, x, 7), lambda x: x),
    "padded": (lambda x: gradc.pad(x[: -(2**31 + 5)], ((2**31 + 5, 0),)) + x, lambda x: x),
    "of the position": (
        lambda x: x + (gradc.arange(LENGTH) >= LENGTH - 3).astype("bfloat16"),
        lambda x: x + (torch.arange(64) >= 61),
    ),
}


@pytest.mark.parametrize("name", LATE)
def test_the_last_programs_of_a_long_array(name):
    """The number of a program times its block goes past 2**31 before anything else does."""
    ours, theirs = LATE[name]
    tail = tensor(64, dtype=torch.int64, low=-4, high=5).to(torch.bfloat16)
    assert torch.equal(last_programs(ours, tail), theirs(tail).to(torch.bfloat16))


def launched(function, *specs):
    return gradc.compile(function).lower(*specs, wrt=()).source


def test_a_part_of_a_long_index_is_taken_in_64_bits():
    """Ten numbers repeated 2**29 times: no address is far, but the position it is the remainder of is."""
    source = launched(
        lambda x: gradc.max(gradc.broadcast_to(x, (FAR, 10)).reshape((10, FAR)), axis=1), gradc.spec((10,), "float32")
    )
    (row,) = re.findall(r"^    row = (.*)$", source[: source.index("% 10")], re.M)
    assert "int64" in row


@pytest.mark.parametrize(
    "function",
    [gradc.sum, lambda x: gradc.softmax(x, axis=1), lambda x: gradc.cumsum(x, axis=1)],
    ids=["sum", "normalised", "running sum"],
)
def test_loops_that_end_just_before_2_to_the_31(function):
    """Their counter goes past it once, to be found too large: in 32 bits it would be negative, and go on."""
    source = launched(function, gradc.spec((1, 2**31 - 100), "bfloat16"))
    headers = re.findall(r"in range\((.*?), (?:size|columns|at_size)\b", source)
    assert headers
    assert all("int64" in header for header in headers)


def test_long_loops_compile():
    low = gradc.compile(lambda x: gradc.cumsum(x, axis=1)).lower(gradc.spec((1, 2**31 - 100), "bfloat16"), wrt=())
    assert all(binary.spills == 0 for binary in low.build("sm_90"))


def test_partial_results_may_lie_far_apart():
    axis = KernelAxis("row", (Axis(0, 4096),), "split", 16, parts=200)
    positions = Positions((axis,), Names(), Scope(None, frozenset()), frozenset(), lambda node, scope: None)
    positions.place_programs(multiplies=False, given=False)
    assert "int64" in positions.part_text(axis, 2**24)
    assert "int64" not in positions.part_text(axis, 2**20)
