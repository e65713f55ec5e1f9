"""gradc.nn against torch.nn.functional where it is hardest: kinks, saturations, ties, subnormals, the largest numbers, ±inf, NaN, nothing.

Results and gradients agree at every point of the table in limits.py, or the point is named there with the convention it follows. PyTorch's
answer is what it gives in the dtype or in float64: some of its float32 kernels are off at ±inf. Where a result is NaN its
derivative is not compared, and where PyTorch's derivative of a number is NaN, ours may be a number.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from limits import TABLE, Row  # noqa: E402

import gradc  # noqa: E402
from gradc import conventions, nn  # noqa: E402

FIRST = list({row.name: row for row in reversed(TABLE)}.values())
SATURATING = (
    "binary_cross_entropy",
    "cross_entropy",
    "nll_loss",
    "softmax",
    "log_softmax",
    "kl_div",
    "normalize",
    "gelu",
    "softplus",
)
REFERENCE = ((torch.float64, "at once"), (torch.float64, "numpy"), (torch.float32, "numpy"), (torch.bfloat16, "numpy"))
RELATIVE = {torch.float64: 1e-8, torch.float32: 3e-5, torch.bfloat16: 1e-2}


def given(row, dtype):
    arguments = row.arguments(dtype)
    floating = [i for i, x in enumerate(arguments) if x.is_floating_point()]
    return arguments, floating if row.wrt is None else list(row.wrt)


def cotangent(out):
    """Between a half and one, so that nothing overflows that did not, and in few bits."""
    numbers = np.random.default_rng(out.numel()).integers(64, 128, tuple(out.shape)) / 128
    return torch.from_numpy(np.asarray(numbers)).to(out.dtype)


def on_the_tape(function, arguments, wrt):
    """The result of a function and the gradients of its arguments `wrt`."""
    leaves = [x.clone().requires_grad_(i in wrt) for i, x in enumerate(arguments)]
    out = function(*leaves)
    if not out.requires_grad:
        return [out, *(torch.zeros_like(arguments[i]) for i in wrt)]
    found = torch.autograd.grad(out, [leaves[i] for i in wrt], cotangent(out), allow_unused=True)
    return [out.detach(), *(torch.zeros_like(arguments[i]) if g is None else g for i, g in zip(wrt, found, strict=True))]


def at_once(function, arguments, wrt):
    """The same by `vjp` on NumPy arrays."""
    arrays = [x.numpy() for x in arguments]

    def inside(*floats):
        filled = dict(zip(wrt, floats, strict=True))
        return function(*(filled.get(i, x) for i, x in enumerate(arrays)))

    out, pull = gradc.vjp(inside, *(arrays[i] for i in wrt))
    gradients = pull(cotangent(torch.from_numpy(np.asarray(out))).numpy())
    return [torch.from_numpy(np.asarray(x)) for x in (out, *gradients)]


@cache
def ours(row, dtype, route):
    arguments, wrt = given(row, dtype)
    function = lambda *arrays: (row.ours or getattr(nn, row.name))(*arrays, **row.options)
    if route == "at once":
        return at_once(function, arguments, wrt)
    return on_the_tape(gradc.compile(function, backend=route), arguments, wrt)


@cache
def theirs(row, dtype):
    """As torch has it in the dtype, where it takes it, and in float64."""
    arguments, wrt = given(row, dtype)
    wide = [x.double() if x.is_floating_point() else x for x in arguments]
    function = lambda *arrays: row.theirs(*arrays, **row.options)
    exact = [x.to(dtype) for x in on_the_tape(function, wide, wrt)]
    return [on_the_tape(function, arguments, wrt), exact]


def close(got, want, dtype, noise):
    a, b = got.double(), want.double()
    info = torch.finfo(dtype)
    allowed = RELATIVE[dtype] * b.abs() + noise * info.eps + 4 * info.eps**2
    return (a == b) | (a.isnan() & b.isnan()) | ((a - b).abs() <= allowed)


def by_point(mask, count):
    """A mask over points from one over elements; of what belongs to all points, the same for each."""
    if mask.ndim and mask.shape[0] == count:
        return mask.reshape(count, -1).any(1)
    return mask.any().expand(count)


def differences(row, dtype, route):
    """The points at which a result or gradient is not PyTorch's, what it is there, and the arguments."""
    arguments, _ = given(row, dtype)
    count = 1 if row.whole else len(arguments[0])
    point = (lambda mask: mask.any().expand(1)) if row.whole else (lambda mask: by_point(mask, count))
    found = ours(row, dtype, route)
    expected = theirs(row, dtype)
    undefined = point(expected[0][0].isnan()) | point(expected[1][0].isnan())
    wrong = torch.zeros(count, dtype=torch.bool)
    for place, (got, *wants) in enumerate(zip(found, *expected, strict=True)):
        assert got.shape == wants[0].shape
        assert got.dtype == dtype
        good = torch.zeros(got.shape, dtype=torch.bool)
        for want in wants:
            good |= close(got, want, dtype, row.noise) | (want.isnan() if place else False)
        wrong |= point(~good) & ~(undefined if place else torch.zeros_like(undefined))
    return wrong, found, expected


def allowed(row, dtype, without=None):
    """The points at which the row may differ, for other reasons than one."""
    arguments, _ = given(row, dtype)
    wide = [x.double() if x.is_floating_point() else x for x in arguments]
    masks = [difference.at(*wide) for difference in row.differs if difference is not without]
    return torch.stack(masks).any(0) if masks else torch.zeros(1 if row.whole else len(arguments[0]), dtype=torch.bool)


def agrees(row, dtype, route):
    wrong, found, expected = differences(row, dtype, route)
    bad = wrong & ~allowed(row, dtype)
    if bad.any():
        at = 0 if row.whole else bad.nonzero()[0].item()
        pick = lambda x: x if row.whole or not x.ndim or len(x) != len(bad) else x[at]
        told = [[pick(x).tolist() for x in arrays] for arrays in (given(row, dtype)[0], found, *expected)]
        arguments, got, same, wide = told
        raise AssertionError(
            f"{int(bad.sum())} of {len(bad)} points of {row} differ, {dtype} {route}: at {arguments} {got}, torch {same} or {wide}"
        )


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_the_reference_agrees(row: Row):
    for dtype, route in REFERENCE:
        agrees(row, dtype, route)


@pytest.mark.triton
@pytest.mark.parametrize("row", [row for row in TABLE if row in FIRST or row.name in SATURATING], ids=str)
def test_kernels_agree(row: Row):
    agrees(row, torch.float32, "interpret")


@pytest.mark.triton
@pytest.mark.parametrize("row", [row for row in FIRST if row.name in SATURATING], ids=str)
def test_kernels_of_bfloat16_agree(row: Row):
    agrees(row, torch.bfloat16, "interpret")


def test_every_function_has_a_row():
    assert {row.name for row in TABLE} == set(nn.__all__)


def test_every_difference_is_a_convention_and_is_there():
    """What a row allows is written down for its function, with that reason; and some point of it does differ."""
    reasons = {(row.function, row.why) for row in conventions.CONVENTIONS}
    assert {(f"nn.{row.name}", difference.why) for row in TABLE for difference in row.differs} <= reasons


@pytest.mark.parametrize("row", [row for row in TABLE if row.differs], ids=str)
def test_nothing_is_allowed_in_vain(row: Row):
    for difference in row.differs:
        left = (differences(row, dtype, route)[0] & ~allowed(row, dtype, difference) for dtype, route in REFERENCE)
        assert any(mask.any() for mask in left), difference.why
