"""Choosing a schedule: how much work it is for a large program, that it is the same every time, and what it says of its choices."""

from __future__ import annotations

import itertools

import pytest

import gradc
from benchmarks import emission
from gradc.codegen.merging import Group, saved_then_earliest
from gradc.runtime.demo import digits
from tests.work import calls_of


def rms_norm(x, w):
    return x * gradc.rsqrt(gradc.mean(x * x, axis=-1, keepdims=True) + 1e-6) * w


def lowered(function, shapes, dtype="bfloat16", **options):
    return gradc.compile(function).lower(*(gradc.spec(shape, dtype) for shape in shapes), **options)


def test_a_transformer_block_is_scheduled_with_a_second_of_work():
    """Forward and backward: two norms, attention, a gated network of two layers. A processor makes two million calls in a second."""
    assert calls_of(emission.transformer_block) < 3_500_000
    low = lowered(emission.block, emission.BLOCK)
    assert low.cost.launches <= 19
    assert low.cost.bytes < 56e6


def test_the_schedule_is_the_same_every_time():
    """Whatever addresses the program's values have: ranks that disagreed would wait for each other for ever."""
    params = digits.initial_params(0)
    state = digits.optimizer.init(params)
    batch = (gradc.spec((digits.BATCH, 64)), gradc.spec((digits.BATCH,), "int64"))
    kept, sources = [], set()
    for number in range(3):
        kept += [object() for _ in range(997 * number)]
        sources.add(digits.train_step.lower(params, state, *batch, wrt=()).source)
    assert len(sources) == 1


def test_of_merges_that_save_as_much_the_earliest_is_made():
    """In whatever order they were offered, which is that of addresses."""
    first, second, third = (Group((), position, None) for position in range(3))
    offers = [((first, second), 1.0), ((first, third), 1.0), ((second, third), 1.0)]
    assert all(max(order, key=saved_then_earliest)[0] == (first, second) for order in itertools.permutations(offers))


# What is said of it ---------------------------------------------------------------------------------------------------


def test_every_kernel_has_a_line_with_its_time_and_what_bounds_it():
    low = lowered(rms_norm, [(8192, 4096), (4096,)])
    lines = low.explain().splitlines()
    for kernel in low.kernels:
        (line,) = (line for line in lines if line.strip().startswith(f"{kernel.name} "))
        assert kernel.schedule in line
        assert line.endswith({"memory": "bound by memory", "launch": "bound by launching"}[kernel.bound])
    assert [kernel.bound for kernel in low.kernels] == ["memory", "memory", "launch"]
    assert lines[0].startswith("forward: 1 launch, about ")
    assert lines[0].endswith(" on H200")


def test_predicted_seconds_are_those_of_the_bytes_at_the_rate_of_a_copy():
    """134 MB at 4.3 TB/s is 31 µs; the launch is 5; the backward's second launch counts once."""
    low = lowered(rms_norm, [(8192, 4096), (4096,)])
    assert low.kernels[0].seconds == pytest.approx(134.3e6 / 4.3e12 + 5e-6, rel=0.01)
    assert sum(kernel.seconds for kernel in low.kernels) == pytest.approx(low.cost.bytes / 4.3e12 + 3 * 5e-6, rel=0.02)


def centred(x, y):
    return (x - gradc.mean(x * y, axis=1, keepdims=True)) * y


@pytest.mark.parametrize(
    ("columns", "said"), [(1000, None), (20_000, "the later ones from the cache"), (200_000, "each from memory")]
)
def test_passes_over_a_row_are_told(columns, said):
    story = lowered(centred, [(4096, columns)] * 2, "float32", wrt=()).explain()
    assert ("2 passes" in story) is (said is not None)
    assert said is None or said in story


def test_no_reason_is_a_negative_time():
    """Kernels launched together may be apart from what they could share a kernel with, since others would wait for both."""
    params = digits.initial_params(0)
    batch = (gradc.spec((digits.BATCH, 64)), gradc.spec((digits.BATCH,), "int64"))
    story = digits.train_step.lower(params, digits.optimizer.init(params), *batch, wrt=()).explain()
    assert "not one kernel with" in story
    assert "would take -" not in story
