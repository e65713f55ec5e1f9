"""Exports of the benchmarks and of the gallery, executed by ttsem: in bounds, without races, and right beside PyTorch in float64.

A few run with all tests; `make ttsem` runs every one of them, twice: at the tiles that its small sizes have, and in tiles so small that
there are several programs. Faults put into exported text are caught, with the kernel's line.
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from executed import KernelFault, entry, executing, module_of  # noqa: E402
from kernels import EPSILON, LARGE_PRODUCTS, force_loops, outputs_and_gradients, tensor  # noqa: E402

import gradc  # noqa: E402
from benchmarks import peers, timing  # noqa: E402
from benchmarks.workloads import WORKLOADS, workload  # noqa: E402
from examples import in_torch  # noqa: E402
from examples.gallery import GALLERY, piece  # noqa: E402
from gradc.codegen.device import H200  # noqa: E402

pytestmark = [pytest.mark.triton, pytest.mark.ttsem]

ALWAYS = {"rms_norm", "cross_entropy", "embedding_pos", "rope", "attention_naive", "mlp2", "soft_dtw_step"}
ONE_PROGRAM = {"moons_mlp"}  # a whole network, of which tiny tiles would make hundreds of kernels


def cases(rows):
    """Each at its sizes, and in small tiles; what does not always run is for `make ttsem`."""
    return [
        pytest.param(
            row.name, looped, id=f"{row.name}-{'looped' if looped else 'whole'}", marks=() if always else pytest.mark.whole
        )
        for row in rows
        for looped in (True, False)
        if not (looped and row.name in ONE_PROGRAM)
        for always in (row.name in ALWAYS and looped,)
    ]


def device_of(row):
    """Small sizes stand for large ones, except where they are the full ones."""
    return H200 if row.small == row.full else LARGE_PRODUCTS


def exported(row, name, tmp_path):
    specs = [gradc.spec(argument.dimensions(row.small), argument.dtype) for argument in row.arguments]
    low = gradc.compile(row.function).lower(*specs, wrt=row.wrt, device=device_of(row))
    return entry(module_of(low.source, tmp_path), name)


@pytest.mark.parametrize(("name", "looped"), cases(WORKLOADS))
def test_a_benchmark(name, looped, monkeypatch, tmp_path):
    if looped:
        force_loops(monkeypatch, tmp_path)
    row = workload(name)
    given = timing.problem(row, row.small, "cpu")
    function = exported(row, name, tmp_path)
    with executing() as session:
        found = timing.checked(given, function)
    assert found["correct"], found
    assert session.launches >= 1 + bool(row.wrt)


@pytest.mark.parametrize(("name", "looped"), cases(GALLERY))
def test_a_function_of_the_gallery(name, looped, monkeypatch, tmp_path):
    if looped:
        force_loops(monkeypatch, tmp_path)
    row = piece(name)
    function = exported(row, name, tmp_path)
    arrays = [x.detach() for x in peers.inputs(row, row.small, "cpu")]
    exact = [x.double() if x.is_floating_point() else x for x in arrays]
    dtypes = [x.dtype for x in arrays if x.is_floating_point()]
    cotangent = lambda i, out: tensor(*out.shape, dtype=dtypes[0], seed=100 + i).to(out.dtype)
    with executing():
        got = outputs_and_gradients(function, arrays, row.wrt, cotangent)
    want = outputs_and_gradients(getattr(in_torch, name), exact, row.wrt, cotangent)
    for kind, ours, theirs in zip(("result", "gradient"), got, want, strict=True):
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            error = (a.double() - b).norm() / b.norm()
            allowed = (8 if dtypes[0] == torch.float32 else 2) * EPSILON[dtypes[0]]
            assert error <= allowed, f"{kind} {i} is off by {error:.2e} of its norm, allowed {allowed:.2e}"


# Faults ---------------------------------------------------------------------------------------------------------------


def scaled(x, w):
    return gradc.exp(x) * w


def normalised(x, w):
    return x / gradc.sum(x, axis=1, keepdims=True) * w


def executed(function, before, after, tmp_path, monkeypatch, live=64):
    """A function of x[37, 5] and w[5] and its gradients, where the exported text has one fragment in place of another."""
    force_loops(monkeypatch, tmp_path, live=live, tile=16)
    low = gradc.compile(function).lower(gradc.spec((37, 5)), gradc.spec((5,)))
    assert before in low.source, low.source
    module = module_of(low.source.replace(before, after, 1), tmp_path)
    x, w = (tensor(*shape, seed=seed).requires_grad_() for seed, shape in enumerate(((37, 5), (5,))))
    with executing() as session:
        out = entry(module, function.__name__)(x, w)
        out.backward(torch.ones_like(out))
    want = outputs_and_gradients(
        {scaled: lambda x, w: x.exp() * w, normalised: lambda x, w: x / x.sum(1, keepdim=True) * w}[function],
        [x.detach().double(), w.detach().double()], (0, 1), lambda i, out: torch.ones_like(out),
    )  # fmt: skip
    return session, [out.detach(), x.grad, w.grad], [*want[0], *want[1]]


def agree(got, want):
    return all(torch.allclose(a.double(), b, rtol=1e-5, atol=1e-5) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("function", [scaled, normalised], ids=lambda f: f.__name__)
def test_without_a_fault_nothing_is_found(function, tmp_path, monkeypatch):
    session, got, want = executed(function, "import", "import", tmp_path, monkeypatch)
    assert session.launches >= 2
    assert agree(got, want)


MASKED = ", mask=in_row[:, None] & in_column[None, :]"
CAUGHT = {
    "a store without its mask": (scaled, "out, mask=in_column)", "out)", "oob_write", "out_ptr"),
    "a load without its mask": (scaled, "w_ptr + column, mask=in_column, other=0.0", "w_ptr + column", "oob_read", "w_ptr"),
    "a mask that lets one row more in": (scaled, "in_row = row < rows", "in_row = row <= rows", "oob_read", None),
    "an offset one too far": (scaled, "x_ptr + row * COLUMNS + column", "x_ptr + 1 + row * COLUMNS + column", "oob_read", "x_ptr"),
    "an offset one too low": (scaled, "x_ptr + row * COLUMNS + column", "x_ptr - 1 + row * COLUMNS + column", "oob_read", "x_ptr"),
    "programs that write one place": (scaled, "out_ptr + row * COLUMNS + column", "out_ptr + column", "race", "out_ptr"),
    "programs whose tiles overlap": (normalised, "tl.program_id(0) * ROW_BLOCK +", "tl.program_id(0) * (ROW_BLOCK - 1) +", None, None),
    "parts written over each other": (normalised, "dw_part_ptr + tl.program_id(0) * COLUMNS + column", "dw_part_ptr + column", "race", "dw_part_ptr"),
    "a program that reads what another writes": (normalised, "    sum_ = tl.sum(x, axis=1)", "    x += tl.load(out_ptr + column, mask=in_column, other=0.0)[None, :] == 7\n    sum_ = tl.sum(x, axis=1)", "race", "out_ptr"),
    "one tile too few": (normalised, "[(19,)](x", "[(18,)](x", None, None),
    "a result that is not written": (scaled, "    tl.store(dw_ptr + column, dw, mask=in_column)\n", "", None, None),
    "a sum that begins at one": (scaled, "tl.zeros([ROW_BLOCK, COLUMN_BLOCK], tl.float32)", "tl.full([ROW_BLOCK, COLUMN_BLOCK], 1.0, tl.float32)", None, None),
    "lanes outside that count": (normalised, "tl.sum(x, axis=1)", "tl.sum(x + 1, axis=1)", None, None),
}  # fmt: skip


@pytest.mark.parametrize("name", CAUGHT)
def test_a_fault_put_into_a_kernel_is_caught(name, tmp_path, monkeypatch):
    """By its kind, the array and the kernel's line; or by its values, where it stays in bounds and has one owner."""
    function, before, after, kind, buffer = CAUGHT[name]
    if kind is None:
        try:
            _, got, want = executed(function, before, after, tmp_path, monkeypatch)
        except KernelFault:
            return
        assert not agree(got, want)
        return
    with pytest.raises(KernelFault) as caught:
        executed(function, before, after, tmp_path, monkeypatch)
    fault = caught.value.fault
    assert fault.kind == kind, str(caught.value)
    assert buffer in (None, fault.buffer)
    assert fault.source_text.startswith(
        ("tl.store(", "tl.load(", "x = tl.load(", "w = tl.load(", "dout = tl.load(", "x += tl.load(")
    )
