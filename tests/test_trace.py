"""Tracing: inputs and outputs as pytrees, static arguments, cache keys, the user's names and lines, arrays that outlive a trace."""

from __future__ import annotations

import threading
from collections import namedtuple
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import partial

import numpy as np
import pytest

import gradc
from gradc import ir
from gradc.errors import DTypeError, TraceError
from gradc.interpret import evaluate
from gradc.ir import Value
from gradc.signature import signature_key, spec_of, static_names
from gradc.trace import trace, tracing

X = gradc.spec((4, 8))
Point = namedtuple("Point", ["x", "y"])


def named(graph):
    """The names of the graph's Values that are not inputs."""
    return [value.name for value in graph.values if value.name and value not in set(graph.inputs)]


def test_inputs_are_named_for_their_parameters():
    def f(params, x, *rest, scale, **options):
        return (
            params["layers"][0]["w"] * x
            + params["layers"][1]["w"]
            + rest[0]
            + rest[1][0]
            + scale
            + options["bias"]
            + params["p"].y
        )

    params = {"layers": [{"w": X}, {"w": X}], "p": Point(X, X)}
    graph = trace(f, (params, X, X, [X]), {"scale": X, "bias": X}).graph
    assert [v.name for v in graph.inputs] == [
        "params_layers_0_w", "params_layers_1_w", "params_p_x", "params_p_y", "x", "rest_0", "rest_1_0", "bias", "scale",
    ]  # fmt: skip
    graph.check()


def test_awkward_names():
    traced = trace(lambda d: d["class"] + d["a b"], ({"class": X, "a b": X},))
    assert [v.name for v in traced.graph.inputs] == ["d_a_b", "d_class"]
    assert traced.graph.title == "function"
    assert trace(partial(f_with_default, flag=False), (X, X)).graph.title == "f_with_default"
    assert [v.name for v in trace(lambda *class_: class_[0], ({"class": X}, X)).graph.inputs] == ["class__0_class", "class__1"]


def f_with_default(x, y, flag=True):
    return x + y if flag else x


def test_results_keep_their_structure():
    def f(x):
        total = gradc.sum(x)
        return {"loss": total, "parts": (x + 1, [x * 2, 3.5])}, Point(x, np.arange(3)), None

    traced = trace(f, (X,))
    arrays = evaluate(traced.graph, [np.ones((4, 8), np.float32)])
    results = traced.results(arrays)
    assert results[0]["loss"] == 32
    assert float(results[0]["parts"][1][1]) == 3.5
    assert isinstance(results[1], Point)
    assert results[1].y.tolist() == [0, 1, 2]
    assert results[2] is None
    assert traced.graph.output_names[:2] == ("loss", "parts")
    assert len(set(traced.graph.output_names)) == len(traced.graph.output_names)
    assert trace(lambda x: x, (X,)).graph.output_names == ("out",)
    assert trace(lambda x: None, (X,)).graph.outputs == ()
    with pytest.raises(TraceError, match=r"returned a str at loss of its result"):
        trace(lambda x: {"loss": "high"}, (X,))


def test_static_arguments():
    def f(x, count, *, mode="sum"):
        for _ in range(count):
            x = x * 2
        return gradc.sum(x) if mode == "sum" else x

    assert len(trace(f, (X, 3)).graph.inputs) == 1
    assert trace(f, (X, 1), {"mode": "none"}).graph.outputs[0].shape == (4, 8)

    def g(x, table):
        return x + table[0]

    assert len(trace(g, (X, (1, 2))).graph.inputs) == 1
    assert len(trace(g, (X, np.ones(2))).graph.inputs) == 2
    with pytest.raises(TraceError, match="static_argnames has 'tabel'"):
        trace(g, (X, (1, 2)), static_argnames="tabel")
    assert static_names(g, ["table"]).positions == {1}


def test_signature_key():
    key = lambda *args, **kwargs: signature_key(args, kwargs)[0]
    x = np.ones((2, 3), np.float32)
    assert key(x, 1) == key(x + 1, 1)
    assert hash(key(x, 1)) == hash(key(x + 1, 1))
    different = [
        (x, 1), (x, 2), (x, 1.0), (x, True), (x, 0.0), (x, -0.0), (x, "1"), (x, None), (x[:, :2], 1), (x.T, 1), (x.astype(np.float64), 1), ((x,), 1), ({"a": x}, 1),
        ({"b": x}, 1), (x, x), (gradc.spec((2, 3)), 1), (x, float("inf")),
    ]  # fmt: skip
    keys = [key(*arguments) for arguments in different]
    assert len(set(keys)) == len(keys)
    assert key(x[:, ::-1], 1) == key(x, 1)  # NumPy arrays are copied to where kernels run
    assert key(x, float("nan")) == key(x, float("nan"))
    assert key(x, flag=1) != key(x, 1)
    arrays = signature_key((x, {"b": x, "a": 3}), {"y": x})[1]
    assert len(arrays) == 3
    assert all(a is x for a in arrays)

    assert key(x, Decimal(1)) != key(x, Fraction(1))

    @dataclass(frozen=True)
    class Config:
        width: int

    assert key(x, Config(3)) == key(x, Config(3)) != key(x, Config(4))
    with pytest.raises(TraceError, match="positional argument 1 is a set, which is neither an array nor hashable"):
        key(x, {1, 2})
    with pytest.raises(TraceError, match=r"argument 'options' \(at names\) is a set"):
        key(x, options={"names": {1}})


def test_static_names_in_keys():
    def f(x, sizes, mode=None):
        return x

    static = static_names(f, ("sizes", "mode"))
    x = np.ones(2)
    one, arrays = signature_key((x, (1, 2)), {"mode": "a"}, static)
    assert len(arrays) == 1
    assert one == signature_key((x, (1, 2)), {"mode": "a"}, static)[0] != signature_key((x, (1, 3)), {"mode": "a"}, static)[0]
    with pytest.raises(TraceError, match="argument 'sizes' is a list"):
        signature_key((x, [1, 2]), {}, static)


def test_keys_of_tensors():
    torch = pytest.importorskip("torch")
    t = torch.ones(2, 3)
    assert signature_key((t,), {})[0] == signature_key((t + 1,), {})[0]
    assert signature_key((t,), {})[0] != signature_key((torch.ones(3, 2).T,), {})[0]
    assert signature_key((t,), {})[0] != signature_key((t.to(torch.bfloat16),), {})[0]
    assert spec_of(t.to(torch.bfloat16)) == gradc.spec((2, 3), "bfloat16")
    assert spec_of(torch.ones(3, 2).T) == gradc.spec((2, 3), strides=(1, 2))
    assert spec_of(np.ones((3, 2), np.float32).T) == gradc.spec((2, 3))
    assert spec_of(torch.ones(1, 3).expand(4, 3)).strides == (0, 1)
    assert isinstance(signature_key((torch.nn.Parameter(t),), {})[1][0], torch.Tensor)


def test_user_names():
    def helper(v):
        doubled = v * 2
        return doubled + 1

    def f(x, w):
        h = x * w
        a = helper(h + 1)
        b, c = a + 1, a - 1
        for _ in range(2):
            h = h + b
        p = gradc.softmax(h)
        _hidden = p * c
        (y := _hidden + 1)
        same = y
        return same * 3

    graph = trace(f, (X, X)).graph
    assert named(graph) == ["h", "doubled", "a", "b", "h", "h", "peak", "weight", "total", "p", "c", "y", "out"]
    text = str(graph)
    assert "h_1" in text
    assert "test_trace.py:" in text
    assert graph.output_names == ("out",)
    lines = {value.name: value.source.text().strip() for value in graph.values if value.name in ("a", "p", "weight", "doubled")}
    assert lines == {
        "doubled": "doubled = v * 2",
        "a": "return doubled + 1",
        "p": "p = gradc.softmax(h)",
        "weight": "p = gradc.softmax(h)",
    }


def test_names_in_a_loop_on_one_line():
    def f(x):
        for _ in range(3):
            x = x + 1
        return x * 2

    assert named(trace(f, (X,)).graph) == ["x", "x", "x", "out"]


def test_an_output_bound_to_a_name():
    def f(x):
        y = x + 1
        z = y * 2
        return z, y

    assert trace(f, (X,)).graph.output_names == ("z", "y")


def test_listeners_are_removed():
    before = list(ir.thread.listeners)
    trace(lambda x: x + 1, (X,))
    with pytest.raises(ZeroDivisionError):
        trace(lambda x: 1 / 0, (X,))
    assert ir.thread.listeners == before
    assert not tracing()


def test_a_trace_within_a_trace():
    inner = []

    def f(x):
        inner.append(trace(lambda y: y * 2, (X,)))
        return x + 1

    outer = trace(f, (X,))
    outer.graph.check()
    inner[0].graph.check()
    assert len(outer.graph.values) == 4


def test_threads_trace_apart():
    results = {}

    def work(number):
        def f(x):
            for _ in range(200):
                total = x * number
            return total

        results[number] = trace(f, (X,)).graph

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(graph.output_names == ("total",) for graph in results.values())
    assert not tracing()


def test_threads_do_not_share_the_line_they_work_for():
    """A derivative in one thread gives its line and note to no Value that another thread makes meanwhile."""
    base = trace(lambda x: x + 1, (X,)).graph.outputs[0]
    inside, done = threading.Event(), threading.Event()

    def other():
        with ir.on_behalf_of(base, "a note"):
            inside.set()
            done.wait()

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait()
    made = trace(lambda x: x * 2, (X,)).graph.outputs[0]
    done.set()
    thread.join()
    assert made.note == ""
    assert made.source != base.source


def test_arrays_of_another_trace_are_refused():
    kept = []

    def first(x):
        kept.append(x * 2)
        return x

    def second(x):
        return x + kept[0]

    with pytest.raises(TraceError, match=r"left in kept\[0\]"):
        trace(first, (X,))
    with pytest.raises(TraceError, match="array of another trace") as info:
        trace(second, (X,))
    assert "return x + kept[0]" in str(info.value)
    with pytest.raises(TraceError, match="another trace"):
        trace(lambda x: kept[0], (X,))


def test_refused_arrays():
    with pytest.raises(DTypeError, match="complex"):
        trace(lambda x: x, (np.ones(2, complex),))
    with pytest.raises(DTypeError, match="object"):
        trace(lambda x: x, (np.array([None]),))


def test_closures_are_literals():
    w = np.arange(8, dtype=np.float32)
    traced = trace(lambda x: x * w, (X,))
    x = np.ones((4, 8), np.float32)
    assert np.array_equal(evaluate(traced.graph, [x])[0], x * w)
    assert [v.operation.name for v in traced.graph.values].count("literal") == 1
    assert isinstance(traced.graph.outputs[0], Value)
