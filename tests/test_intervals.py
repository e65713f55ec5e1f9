"""Intervals hold what the program computes: every row and every structural operation, on random operands within theirs."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest

import gradc
from gradc import types
from gradc.interpret import evaluate_values
from gradc.interval import ARGUMENT, Interval, image
from gradc.ir import topological
from gradc.leaves import make_input
from gradc.ranges import interval_of, may_be_zero
from gradc.table import BITS, BOOL, INTEGER, TABLE
from gradc.trace import tracing_scope

RANDOM = np.random.default_rng(0)
ENDS = (-inf, -3.0, -1.0, -0.5, 0.0, 0.25, 1.0, 2.0, 50.0, inf)
ROWS = [row for row in TABLE.values() if row.gives == "same" and row.takes not in (BOOL, BITS, INTEGER)]


def drawn(interval, count=200):
    """Numbers of an interval: its ends, those near 0, and others of every size."""
    low, high = (max(interval.low, -1e4), min(interval.high, 1e4)) if interval.finite else (interval.low, interval.high)
    numbers = np.concatenate(
        [RANDOM.uniform(max(low, -1e4), min(high, 1e4), count), RANDOM.normal(size=count), [low, high, 0.0, -0.0]]
    )
    return numbers[(numbers >= low) & (numbers <= high)]


def assert_holds(interval, numbers, what):
    numbers = np.asarray(numbers, np.float64)
    assert np.isfinite(numbers).all() or not interval.finite, f"{what}: {interval} has {numbers[~np.isfinite(numbers)][:3]}"
    numbers = numbers[~np.isnan(numbers)]
    inside = (numbers >= interval.low) & (numbers <= interval.high)
    close = np.isclose(numbers, interval.low, 1e-6, 0) | np.isclose(numbers, interval.high, 1e-6, 0)
    assert (inside | close).all(), f"{what}: {numbers[~(inside | close)][:3]} in {interval}"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_image_of_a_row_holds_its_values(row):
    spans = [Interval(low, high, finite) for low in ENDS for high in ENDS if low <= high for finite in (True, False)]
    spans = [span for span in spans if span.low < inf and span.high > -inf]
    for _ in range(150):
        operands = tuple(spans[i] for i in RANDOM.integers(len(spans), size=row.arity))
        if row.is_selection:
            operands = (Interval(0.0, 1.0, True), *operands[1:])
        found = image(row.numpy, operands, tuple(range(row.arity)), row.monotone, "float64")
        columns = [RANDOM.choice(drawn(span), 400) for span in operands]
        if row.is_selection:
            columns[0] = columns[0] > 0.5
        with np.errstate(all="ignore"):
            assert_holds(found, row.numpy(*columns), f"{row.name} of {operands}")


def test_an_operand_given_twice_is_one_number():
    assert image(np.multiply, (ARGUMENT,), (0, 0), True, "float32") == Interval(0.0, inf, True)
    assert image(np.subtract, (ARGUMENT,), (0, 0), True, "float32") == Interval(0.0, 0.0, True)


# What programs of a few lines are known to hold, beyond what a row says.
PROGRAMS = {
    "sum": lambda x: gradc.sum(gradc.abs(x), axis=1),
    "mean of squares": lambda x: gradc.mean(x * x, axis=1) + 1e-6,
    "rsqrt": lambda x: gradc.rsqrt(gradc.mean(x * x, axis=1) + 1e-6),
    "softmax": lambda x: gradc.softmax(x, axis=1),
    "log_softmax": lambda x: gradc.log_softmax(x, axis=(0, 1)),
    "softmin": lambda x: gradc.softmax(-x, axis=0),
    "normaliser": lambda x: gradc.sum(gradc.exp(x - gradc.max(x, axis=1, keepdims=True)), axis=1),
    "a sum over other axes than the maximum": lambda x: gradc.sum(gradc.exp(x - gradc.max(x, axis=1, keepdims=True)), axis=0),
    "gram": lambda x: gradc.sigmoid(x) @ gradc.sigmoid(x).T,
    "square of norms": lambda x: gradc.einsum("ij,ij->i", x, x),
    "pad": lambda x: gradc.pad(1 + gradc.exp(-(x * x)), ((1, 2), (0, 0))),
    "concat": lambda x: gradc.concat([gradc.tanh(x), gradc.sigmoid(x)]),
    "cumsum": lambda x: gradc.cumulative_sum(gradc.sigmoid(x), axis=1),
    "scatter": lambda x: gradc.zeros((5, 3)).at[np.array([0, 0, 1])].add(1 + gradc.abs(x[:3])),
    "gather": lambda x: gradc.take(gradc.sigmoid(x), np.array([0, 0, 1]), axis=1),
    "ramp": lambda x: gradc.arange(3) * gradc.sigmoid(x),
    "cast": lambda x: (x > 0).astype(gradc.float32) * 2 + gradc.arange(3).astype(gradc.float32),
    "prod": lambda x: gradc.prod(gradc.sigmoid(x), axis=0),
    "extrema": lambda x: gradc.max(gradc.tanh(x), axis=0) - gradc.min(gradc.tanh(x), axis=0),
    "where": lambda x: gradc.where(x > 0, gradc.tanh(x), 3.0),
    "flip": lambda x: gradc.flip(gradc.clip(x, -1, 2), axis=0)[::2].T.reshape(-1),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_value_of_a_program_lies_in_its_interval(name):
    x = make_input((4, 3), types.float32, "x")
    with tracing_scope():
        output = PROGRAMS[name](x)
    values = [value for value in topological([output]) if value.dtype.is_floating and value is not x]
    for scale in (0.0, 1e-3, 1.0, 30.0):
        given = (scale * RANDOM.normal(size=(4, 3))).astype(np.float32)
        results = evaluate_values(values, {x: given})
        for value in values:
            assert_holds(interval_of(value), results[value], repr(value))
    assert interval_of(output).finite


def test_what_is_known_is_tight_where_kernels_depend_on_it():
    x = make_input((4, 3), types.float32, "x")
    with tracing_scope():
        normaliser = PROGRAMS["normaliser"](x)
        elsewhere = PROGRAMS["a sum over other axes than the maximum"](x)
        rstd = PROGRAMS["rsqrt"](x)
        masked = gradc.where(x > 0, x, 0.0)
    assert interval_of(normaliser) == Interval(1.0, 3.0, True)
    assert (interval_of(elsewhere).low, may_be_zero(elsewhere)) == (0.0, True)
    assert interval_of(rstd).high == pytest.approx(1e3)
    assert not may_be_zero(normaliser)
    assert interval_of(masked).selected
    assert not interval_of(x).selected


def test_a_selection_is_seen_through_what_keeps_zeros_and_no_further():
    x = make_input((3, 3), types.float32, "x")
    with tracing_scope():
        masked = gradc.where(x > 0, x, 0.0)
        seen = [
            masked * x,
            -masked / 3,
            masked.T.reshape(9),
            gradc.sum(masked, axis=0),
            masked @ x,
            gradc.pad(x, ((1, 0), (0, 0))),
        ]
        gone = [masked + 1, masked + x, gradc.exp(masked), gradc.cos(masked), x * 3, x / (masked + 1)]
    assert all(interval_of(value).selected for value in seen)
    assert not any(interval_of(value).selected for value in gone)
