"""What `lower` takes and what its result says of itself."""

from __future__ import annotations

import pytest

import gradc

X = gradc.spec((64, 512))


def test_wrt_is_a_number_or_numbers():
    f = gradc.compile(lambda x, w: x * w)
    assert len(f.lower(X, X, wrt=0).backward_ir.outputs) == 1
    assert len(f.lower(X, X, wrt=[0, 1]).backward_ir.outputs) == 2
    for wrt in (2, -1, "x", ("x",), 1.0):
        with pytest.raises(gradc.TraceError, match="wrt names argument"):
            f.lower(X, X, wrt=wrt)


def test_one_line_says_what_it_is():
    def squares(x):
        return gradc.sum(x * x, axis=1)

    assert repr(gradc.compile(squares).lower(X, wrt=())) == "<lowered squares: 1 launch, 131 kB>"


def test_a_target_that_is_none():
    with pytest.raises(gradc.UnsupportedError, match="'h200' is not a target"):
        gradc.compile(lambda x: x * 2).lower(X).build("h200")


def test_what_a_kernel_writes_is_not_computed_in_passing():
    def norm(x, w):
        return x * gradc.rsqrt(gradc.mean(x * x, axis=-1, keepdims=True) + 1e-6) * w

    story = gradc.compile(norm).lower(X, gradc.spec((512,))).explain()
    assert not any(line.strip() == "writes dw; computed in passing: dw" for line in story.splitlines())
