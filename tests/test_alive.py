"""Tiles that wait in registers: what a schedule makes of them, and that no row function of any width spills."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from kernels import check, force_loops, tensor  # noqa: E402

import gradc  # noqa: E402
from benchmarks import run  # noqa: E402
from gradc import nn  # noqa: E402


def softmax(x):
    return gradc.softmax(x)


def rms_norm(x, w):
    return nn.rms_norm(x, x.shape[-1:], w)


def layer_norm(x, w, b):
    return nn.layer_norm(x, x.shape[-1:], w, b)


def lowered(function, rows, width, dtype, **options):
    x, w = gradc.spec((rows, width), dtype), gradc.spec((width,), dtype)
    more = {rms_norm: (w,), layer_norm: (w, w), nn.cross_entropy: (gradc.spec((rows,), "int64"),)}
    return gradc.compile(function).lower(x, *more.get(function, ()), **options)


def backward(low):
    return next(kernel for kernel in low.kernels if kernel.phase == "backward")


# Schedules ----------------------------------------------------------------------------------------------------------


def test_what_waits_for_a_sum_counts_in_full():
    """16-bit numbers are unpacked once: two rows of 32768 that are needed after their sum take all registers there are."""
    low = lowered(softmax, 8192, 32768, "bfloat16")
    forward, last = low.kernels
    assert "column: resident" in forward.schedule
    assert "column: loop" in last.schedule
    assert "column: resident" in backward(lowered(softmax, 8192, 16384, "bfloat16")).schedule


def test_what_rows_share_is_read_again_where_no_registers_are_left():
    """One tile carried, two waiting: a fourth would be spilled, and the cache has it."""
    load, loop = "w = tl.load(", " in range("
    for width, again in ((4096, False), (16384, True)):
        source = backward(lowered(rms_norm, 8192, width, "bfloat16")).source
        assert (source.index(load) > source.index(loop)) == again


def test_sums_of_a_row_are_taken_before_what_needs_them():
    """Otherwise what needs the first waits for the second, and a tile more does."""
    source = backward(lowered(layer_norm, 4096, 16384, "bfloat16")).source.split("@triton.jit")[1]
    assert source.count("= tl.sum(") == 2
    assert source.rindex("= tl.sum(") < source.index("dcentred")


def test_what_is_read_again_is_right(monkeypatch, tmp_path):
    force_loops(monkeypatch, tmp_path, live=5 * 64)
    reference = lambda x, w: torch.nn.functional.rms_norm(x, x.shape[-1:], w, 1e-6)
    function = lambda x, w: nn.rms_norm(x, x.shape[-1:], w, 1e-6)
    source = backward(lowered(rms_norm, 9, 60, "float32")).source
    assert source.index("w = tl.load(") > source.index(" in range(")
    check(function, reference, tensor(9, 60), tensor(60, seed=1))


def test_a_fold_with_statistics_of_its_rows_is_taken_row_by_row():
    """The programs carry one number, not a row of them; what has no statistics stays one fold."""
    entropy = lambda x: gradc.sum(gradc.softmax(x) * gradc.log_softmax(x))
    carried = gradc.compile(entropy).lower(gradc.spec((8192, 4096), "bfloat16"), wrt=()).kernels[0].source
    assert "_acc = tl.zeros([ROW_BLOCK], tl.float32)" in carried or "_acc = tl.zeros([], tl.float32)" in carried
    plain = gradc.compile(lambda x: gradc.sum(x * gradc.exp(x))).lower(gradc.spec((8192, 4096), "bfloat16"), wrt=())
    assert "at: split" in plain.kernels[0].schedule


def test_a_small_result_is_written_16_bytes_a_thread():
    """Four rows are folded into one: fewer threads than read them write it."""
    folded = gradc.compile(lambda x: gradc.sum(x, axis=0)).lower(gradc.spec((4, 2**21), "bfloat16"), wrt=())
    (kernel,), (binary,) = folded.kernels, folded.build("sm_90")
    assert run.binary_facts(kernel, binary)["problems"] == []


# Builds -------------------------------------------------------------------------------------------------------------

FUNCTIONS = (softmax, rms_norm, layer_norm, gradc.log_softmax, nn.cross_entropy)
WIDTHS = (64, 768, 1000, 2048, 4096, 8192, 12288, 16384, 32768, 50257, 65536, 131072)
DTYPES = ("bfloat16", "float32", "float16")

# A spill of one or two registers: the bytes of each thread. At 8192 and 50257 the assembler could have more registers, and prefers
# a third program on each processor.
MARGINS = {
    ("softmax", 8192, "float32"): 4,
    ("cross_entropy", 50257, "float32"): 8,
}


def sample():
    """Every function at every width in one dtype, each in turn."""
    for i, function in enumerate(FUNCTIONS):
        for j, width in enumerate(WIDTHS):
            yield function, width, DTYPES[(i + j) % len(DTYPES)]


@pytest.mark.triton
@pytest.mark.slow
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_no_row_function_spills(function):
    found = {}
    for chosen, width, dtype in sample():
        if chosen is function:
            binaries = lowered(function, 4096, width, dtype).build("sm_90")
            allowed = MARGINS.get((function.__name__, width, dtype), 0)
            found |= {(binary.name, width, dtype): binary.spills for binary in binaries if binary.spills > allowed}
    assert found == {}


@pytest.mark.triton
@pytest.mark.slow
@pytest.mark.parametrize(("name", "width", "dtype"), MARGINS)
def test_the_margins_are_what_is_spilled(name, width, dtype):
    function = next(function for function in FUNCTIONS if function.__name__ == name)
    spills = [binary.spills for binary in lowered(function, 4096, width, dtype).build("sm_90")]
    assert max(spills) == MARGINS[name, width, dtype]


@pytest.mark.triton
@pytest.mark.slow
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_row_functions_move_16_bytes_at_a_time(function):
    low = lowered(function, 4096, 4096, "bfloat16")
    facts = [run.binary_facts(kernel, binary) for kernel, binary in zip(low.kernels, low.build("sm_90"), strict=True)]
    assert {found["name"]: found["problems"] for found in facts if found["problems"]} == {}
