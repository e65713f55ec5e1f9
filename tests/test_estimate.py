"""What kernels are said to cost, and that schedules follow it: devices, parts of sums, rows that stay in the cache, shared work."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

import gradc
from gradc.codegen.device import DEVICES, H200, device_named
from gradc.codegen.estimate import MOST_THREADS
from gradc.codegen.plan import Bounds
from gradc.runtime import device as present

MEBIBYTE = 1 << 20


def lowered(function, *shapes, device=H200, wrt=(), dtype="float32"):
    return gradc.compile(function).lower(*(gradc.spec(shape, dtype) for shape in shapes), wrt=wrt, device=device)


def plans(low, phase=0):
    return [kernel.plan for kernel in low.program.sequences[phase].scheduled]


def parts_of(low, phase=0):
    return [axis.programs for plan in plans(low, phase) for axis in plan.axes if axis.role == "split"]


# Devices ------------------------------------------------------------------------------------------------------------


def test_devices_are_found_by_the_names_drivers_give_them():
    names = {
        "NVIDIA H100 80GB HBM3": "H100",
        "NVIDIA H200": "H200",
        "NVIDIA A100-SXM4-80GB": "A100",
        "NVIDIA GeForce RTX 4090": "RTX4090",
        "AMD Instinct MI300X": "MI300X",
        "rtx 5090": "RTX5090",
    }
    assert {name: device_named(name).name for name in names} == names


@pytest.mark.parametrize("name", ["A1000", "NVIDIA T4", "", "cuda"])
def test_a_device_without_figures_is_refused(name):
    with pytest.raises(gradc.UnsupportedError, match="no figures of a device"):
        device_named(name)


def test_the_figures_of_a_device_are_in_its_units():
    """A rate given in tera- instead of bytes, or a cache in bytes instead of mebibytes, shows."""
    for device in DEVICES.values():
        assert 5e11 < device.bandwidth < device.cache_bandwidth < 2e13
        assert device.double_rate < device.vector_rate < device.matrix_rate < 2e15
        assert 30 * MEBIBYTE < device.cache_bytes < 300 * MEBIBYTE
        assert device.warp in (32, 64)


def column_sum(x):
    return gradc.sum(x, axis=0)


def test_a_device_with_more_processors_shares_a_sum_out_over_more():
    small, large = (lowered(column_sum, (65536, 64), device=name) for name in ("H100", "MI300X"))
    assert DEVICES["MI300X"].processors > 2 * DEVICES["H100"].processors
    assert max(parts_of(large)) > max(parts_of(small))
    assert (small.device.name, large.device.name) == ("H100", "MI300X")


def test_a_program_has_no_more_threads_than_a_device_allows():
    for name in ("H200", "MI300X"):
        low = lowered(lambda x: gradc.exp(x - gradc.max(x, axis=1, keepdims=True)), (4096, 32768), device=name)
        assert all(plan.warps * DEVICES[name].warp <= MOST_THREADS for plan in plans(low))
        assert any(plan.warps * DEVICES[name].warp == MOST_THREADS for plan in plans(low))


def test_the_device_of_a_schedule_is_the_gpu_here(monkeypatch):
    """Unless told, and whatever a GPU is called; without a GPU it is the device of reference."""
    properties = SimpleNamespace(name="NVIDIA A100-SXM4-80GB", multi_processor_count=108, L2_cache_size=40 * MEBIBYTE)
    cuda = SimpleNamespace(is_available=lambda: True, current_device=lambda: 0, get_device_properties=lambda number: properties)
    monkeypatch.setitem(present.sys.modules, "torch", SimpleNamespace(cuda=cuda))
    present.figures_of.cache_clear()
    assert present.chosen_device(None).name == "A100"
    assert present.chosen_device("H100").name == "H100"
    present.figures_of.cache_clear()
    properties.name, properties.multi_processor_count = "NVIDIA Unheard-Of", 77
    unknown = present.chosen_device(None)
    assert (unknown.processors, unknown.cache_bytes, unknown.bandwidth) == (77, 40 * MEBIBYTE, H200.bandwidth)
    present.figures_of.cache_clear()
    cuda.is_available = lambda: False
    assert present.chosen_device(None) is H200


# Rows that stay in the cache ----------------------------------------------------------------------------------------


def centred(x, y):
    """Needs a row of both twice, and two rows of 25,000 do not fit in registers."""
    return (x - gradc.mean(x * y, axis=1, keepdims=True)) * y


def test_a_second_pass_over_rows_that_stay_in_the_cache_moves_nothing():
    rows, columns = 4096, 20000
    array = 4 * rows * columns
    assert 132 * 2 * 4 * columns < 25 * MEBIBYTE
    assert lowered(centred, (rows, columns), (rows, columns)).cost.bytes == pytest.approx(3 * array, rel=0.01)


def test_a_second_pass_over_longer_rows_moves_them_again():
    rows, columns = 512, 200_000
    array = 4 * rows * columns
    assert 132 * 2 * 4 * columns > 100 * MEBIBYTE
    assert lowered(centred, (rows, columns), (rows, columns)).cost.bytes == pytest.approx(5 * array, rel=0.01)


def test_a_smaller_cache_holds_no_rows():
    shapes, tiny = ((4096, 20000), (4096, 20000)), replace(H200, cache_mebibytes=10)
    assert lowered(centred, *shapes, device=tiny).cost.bytes > 1.5 * lowered(centred, *shapes).cost.bytes


# Parts of sums ------------------------------------------------------------------------------------------------------


def test_a_sum_over_many_rows_of_many_columns_leaves_few_parts():
    """Columns fill the programs, so that hardly any partial results are left: under a thousandth of what is read."""
    rows, columns = 65536, 1024
    low = lowered(column_sum, (rows, columns))
    assert low.cost.bytes < 1.001 * 4 * (rows * columns + columns)
    assert all(programs >= H200.processors * 7 // 8 for programs in map(programs_of, plans(low)[:1]))


def programs_of(plan):
    total = 1
    for axis in plan.axes:
        total *= axis.programs
    return total


def test_a_sum_that_rides_along_rows_keeps_the_processors_busy():
    """Whole rows are needed, so the parts are as many as fill the memory's pipe, not as many as fit."""

    def scaled(x, w):
        return x * gradc.rsqrt(gradc.mean(x * x, axis=1, keepdims=True)) * w

    (parts,) = set(parts_of(lowered(scaled, (8192, 4096), (4096,), wrt=(0, 1), dtype="bfloat16"), 1))
    assert H200.processors * 3 // 4 <= parts <= H200.processors


def test_a_sum_is_never_shared_out_among_one():
    for shape in ((8, 8192), (131072, 8), (64, 100_000), (1000, 1000), (7, 3)):
        assert 1 not in parts_of(lowered(column_sum, shape)), shape


# Arithmetic ---------------------------------------------------------------------------------------------------------


def test_what_stages_have_in_common_is_computed_once():
    def two_sums(x):
        shared = gradc.exp(gradc.exp(gradc.exp(x)))
        return gradc.sum(shared, axis=1), gradc.max(shared, axis=1)

    def one_sum(x):
        return gradc.sum(gradc.exp(gradc.exp(gradc.exp(x))), axis=1)

    both, one = lowered(two_sums, (512, 256)), lowered(one_sum, (512, 256))
    assert both.cost.launches == 1
    assert both.cost.flops - one.cost.flops == 512 * 256


def test_what_bounds_a_kernel_is_the_slowest_of_what_it_needs():
    bounds = Bounds(memory=3e-6, cache=1e-6, arithmetic=2e-6, rounds=1e-6, launch=2.5e-6)
    assert (bounds.seconds, bounds.largest) == (5.5e-6, "memory")
    assert replace(bounds, launch=4e-6).largest == "launch"
    assert replace(bounds, arithmetic=9e-6).largest == "arithmetic"
