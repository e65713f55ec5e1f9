"""Kernels that share work though nobody wrote them so: independent stages of unlike shapes in one launch."""

from __future__ import annotations

import re

import numpy as np
import pytest
import sympy

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import gradc  # noqa: E402
from gradc import optim  # noqa: E402
from gradc.codegen.outside import statistics_outside  # noqa: E402
from gradc.codegen.printing.dispatch import same_text  # noqa: E402
from gradc.codegen.printing.expressions import Argument  # noqa: E402
from gradc.interpret import evaluate_symbolic  # noqa: E402
from gradc.ir import Graph  # noqa: E402
from gradc.runtime.compile import program_of  # noqa: E402
from tests.kernels import LARGE_PRODUCTS, check, close, force_loops, on, tensor  # noqa: E402

pytestmark = pytest.mark.triton

UNLIKE = [(5, 7), (11,), (3, 2, 9), (130,), (1,), (40, 3), (4096, 64), (17,), (2, 2), (64,)]
SMALL = [(5, 7), (11,), (3, 2, 9), (130,), (1,), (33, 65)]


def specs(shapes, dtype="float32"):
    return [gradc.spec(shape, dtype) for shape in shapes]


def adamw_step(params, grads, first, second):
    results = []
    for p, g, m, v in zip(params, grads, first, second, strict=True):
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g * g
        results.append((p * 0.99 - 0.001 * m / (gradc.sqrt(v) + 1e-8), m, v))
    return results


def clipped_step(params, grads, first, second):
    norm = gradc.sqrt(sum(gradc.sum(g * g) for g in grads))
    factor = gradc.where(norm > 1.0, 1.0 / norm, 1.0)
    return adamw_step(params, [g * factor for g in grads], first, second)


def statistics(xs):
    return [gradc.mean(x * x) for x in xs]


def state(shapes):
    return [[tensor(*s, seed=10 * k + i).abs() for i, s in enumerate(shapes)] for k in range(4)]


def test_an_update_of_arrays_of_unlike_shapes_is_one_launch():
    assert gradc.compile(adamw_step).lower(*[specs(UNLIKE)] * 4, wrt=()).cost.launches == 1


def test_clipping_by_the_global_norm_and_an_update_are_three_launches():
    assert gradc.compile(clipped_step).lower(*[specs(UNLIKE)] * 4, wrt=()).cost.launches <= 3


@pytest.mark.parametrize(("clipped", "launches"), [(False, 1), (True, 3)])
def test_a_step_of_an_optimizer_over_arrays_of_unlike_shapes(clipped, launches):
    optimizer = optim.chain(optim.clip_by_global_norm(1.0), optim.adamw(1e-3)) if clipped else optim.adamw(1e-3)
    params = [torch.ones(shape) for shape in UNLIKE]

    def step(params, grads, state):
        updates, state = optimizer.update(grads, state, params)
        return optim.apply_updates(params, updates), state

    low = gradc.compile(step).lower(params, params, optimizer.init(params), wrt=())
    assert low.cost.launches <= launches


def test_statistics_of_unlike_arrays_are_at_most_two_launches():
    assert gradc.compile(statistics).lower(specs([*UNLIKE, (700, 900), (12, 13)]), wrt=()).cost.launches <= 2


def test_no_part_waits_for_another(monkeypatch, tmp_path):
    force_loops(monkeypatch, tmp_path, live=256, tile=64)
    low = gradc.compile(clipped_step).lower(*[specs(SMALL)] * 4, wrt=())
    launches = [kernel.parts for kernel in low.program.sequences[0].scheduled if kernel.parts]
    assert len(launches) >= 2
    for parts in launches:
        written = {value for part in parts for value in part.writes}
        assert not any(written & part.reads for part in parts)


def test_texts_are_the_same_only_where_nothing_but_names_differs():
    names = [Argument("x_ptr", "buffer", None), Argument("size", "size", 3)]
    text = "def part(x_ptr, size):\n    a = tl.load(x_ptr)\n    tl.store(x_ptr, tl.exp(a) + size)"
    others = [Argument("w_ptr", "buffer", None), Argument("rows", "size", 4)]
    renamed = "def part(w_ptr, rows):\n    b = tl.load(w_ptr)  # line\n    tl.store(w_ptr, tl.exp(b) + rows)"
    assert same_text(text, names) == same_text(renamed, others)
    assert same_text(text, names) != same_text(text.replace("exp", "log"), names)
    assert same_text(text, names) != same_text(text.replace("+ size", "+ a"), names)


def test_parts_that_differ_in_names_alone_share_their_text():
    low = gradc.compile(adamw_step).lower(*[specs(UNLIKE)] * 4, wrt=())
    functions = re.findall(r"def (adamw_step_forward_\w+)\(", low.source)
    calls = re.findall(r"^        (adamw_step_forward_\w+)\(", low.source, re.MULTILINE)
    assert set(functions) == set(calls)
    assert len(functions) < len(calls) == len(UNLIKE)


@pytest.mark.parametrize("limits", [{}, {"live": 256, "tile": 64}])
def test_what_is_launched_together_is_right(limits, monkeypatch, tmp_path):
    if limits:
        force_loops(monkeypatch, tmp_path, **limits)
    low = gradc.compile(clipped_step).lower(*[specs(SMALL)] * 4, wrt=())
    assert bool(limits) == ("elif pid < " in low.source)
    arrays = state(SMALL)
    got = gradc.compile(backend="interpret")(clipped_step)(*arrays)
    params, grads, first, second = ([x.double() for x in group] for group in arrays)
    norm = torch.sqrt(sum((g * g).sum() for g in grads))
    factor = torch.where(norm > 1.0, 1.0 / norm, 1.0)
    for p, g, m, v, results in zip(params, grads, first, second, got, strict=True):
        m = 0.9 * m + 0.1 * g * factor
        v = 0.999 * v + 0.001 * (g * factor) ** 2
        for out, want in zip(results, (p * 0.99 - 0.001 * m / (torch.sqrt(v) + 1e-8), m, v), strict=True):
            close(out, want, "update")


# Statistics of a product's rows in its loop ------------------------------------------------------------------------------


def normalised_product(x, w, matrix):
    return (x * gradc.rsqrt(gradc.mean(x * x, axis=-1, keepdims=True) + 1e-6) * w) @ matrix


def normalised_product_in_torch(x, w, matrix):
    return (x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6) * w) @ matrix


def widened_product(x, w, matrix):
    wide = x.astype("float32")
    rounded = (wide * gradc.rsqrt(gradc.mean(wide * wide, axis=-1, keepdims=True) + 1e-6)).astype(x.dtype)
    return (w * rounded) @ matrix


def quotient_product(x, w, matrix):
    return gradc.tanh((w * x / gradc.sqrt(gradc.sum(x * x, axis=-1, keepdims=True) + 1e-6)) @ matrix)


def quotient_product_in_torch(x, w, matrix):
    return torch.tanh((w * x / torch.sqrt((x * x).sum(-1, keepdim=True) + 1e-6)) @ matrix)


PRODUCTS = [
    (normalised_product, normalised_product_in_torch),
    (widened_product, normalised_product_in_torch),
    (quotient_product, quotient_product_in_torch),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("function", "reference"), PRODUCTS)
def test_a_normalised_product_is_right(function, reference, dtype):
    arrays = [tensor(3, 25, 70, dtype=dtype), tensor(70, dtype=dtype, seed=1), tensor(70, 36, dtype=dtype, seed=2)]
    low = gradc.compile(function).lower(*map(spec_of, arrays), wrt=(), device=LARGE_PRODUCTS)
    assert low.cost.launches == 1
    assert "tl.dot" in low.source
    check(function, reference, *arrays, factor=64.0, device=LARGE_PRODUCTS)


def test_a_normalised_product_is_one_kernel_that_leaves_its_statistic():
    low = gradc.compile(normalised_product).lower(*specs([(4096, 2048), (2048,), (2048, 8192)], "bfloat16"))
    forward = [kernel for kernel in low.kernels if kernel.phase == "forward"]
    assert len(forward) == 1
    assert {buffer.name: buffer.bytes for buffer in forward[0].reads}["x"] == 2 * 4096 * 2048
    assert {buffer.shape for buffer in forward[0].writes} == {(4096, 8192), (4096,)}


def test_a_statistic_outside_is_not_rounded():
    """Of rows of very different sizes every element is off by the rounding of the result alone."""
    x = tensor(40, 64, dtype=torch.bfloat16) * torch.logspace(-6, 6, 40).to(torch.bfloat16)[:, None]
    w, matrix = torch.ones(64, dtype=torch.bfloat16), tensor(64, 48, dtype=torch.bfloat16, seed=2)
    got = on(LARGE_PRODUCTS, gradc.compile(backend="interpret")(widened_product))(x, w, matrix).double()
    want = normalised_product_in_torch(x.double(), w.double(), matrix.double())
    assert ((got - want).abs() <= 2.0**-8 * want.abs() + 1e-5).all()


def test_float16_may_not_hold_what_is_not_normalised_yet():
    x = (tensor(40, 64) * 2e3).to(torch.float16)
    w, matrix = (tensor(64, seed=1) * 100).to(torch.float16), (tensor(64, 48, seed=2) * 0.01).to(torch.float16)
    got = on(LARGE_PRODUCTS, gradc.compile(backend="interpret")(widened_product))(x, w, matrix)
    close(got, normalised_product_in_torch(x.double(), w.double(), matrix.double()), "product", factor=64.0)


def widened_quotient(x, w, matrix):
    wide = x.astype("float64")
    return (-(w * wide / gradc.sum(wide, -1, keepdims=True))).astype("float32") @ matrix


@pytest.mark.parametrize("function", [normalised_product, widened_product, widened_quotient])
def test_a_statistic_outside_a_product_is_proved(function):
    graph = traced(function, *specs([(2, 3), (3,), (3, 2)]))
    ((old, new),) = statistics_outside(graph, frozenset()).items()
    assert new.operation.name in ("multiply", "divide")
    arrays = [np.array(sympy.symbols(f"{v.name}:{v.size}", positive=True), object).reshape(v.shape) for v in graph.inputs]
    before, after = evaluate_symbolic(Graph(graph.inputs, (old, new)), arrays)
    assert all(sympy.simplify(a - b) == 0 for a, b in zip(before.flat, after.flat, strict=True))


def test_factors_that_vary_along_the_sum_stay():
    def times(x, w, matrix):
        return (x * gradc.rsqrt(gradc.mean(x * x, axis=0))) @ matrix

    def over(x, w, matrix):
        wide = x.astype("float64")
        return (wide / gradc.sum(wide, axis=0)).astype("float32") @ matrix

    for function in (times, over):
        assert statistics_outside(traced(function, *specs([(32, 48), (48,), (48, 40)])), frozenset()) == {}


# What products share a kernel with -------------------------------------------------------------------------------------------


def gated(x, w1, w3):
    return gradc.nn.silu(x @ w1) * (x @ w3)


def gated_in_torch(x, w1, w3):
    return torch.nn.functional.silu(x @ w1) * (x @ w3)


def projections(x, q, k, v):
    return x @ q, x @ k, x @ v


def router(x, w):
    return gradc.softmax(x @ w, axis=-1)


def normalised_after(x, w):
    y = x @ w
    return y * gradc.rsqrt(gradc.mean(y * y, axis=-1, keepdims=True) + 1e-6)


def normalised_after_in_torch(x, w):
    y = x @ w
    return y * torch.rsqrt((y * y).mean(-1, keepdim=True) + 1e-6)


ROWS, DEPTH, WIDTH = 4096, 2048, 4096
LARGE = (ROWS, DEPTH), (DEPTH, WIDTH)
ONE_KERNEL = {
    "bias and activation": (lambda x, w, b: gradc.nn.gelu(x @ w + b), [*LARGE, (WIDTH,)]),
    "residual": (lambda x, w, r: r + x @ w, [*LARGE, (ROWS, WIDTH)]),
    "softcap": (lambda x, w: 30.0 * gradc.tanh((x @ w) / 30.0), LARGE),
    "activation before": (lambda x, w: (gradc.nn.relu(x) ** 2) @ w, LARGE),
    "gate before": (lambda x, y, w: (gradc.nn.silu(x) * y) @ w, [(ROWS, DEPTH), *LARGE]),
    "concatenated": (
        lambda x, y, w: gradc.concat([x, y], axis=1) @ w,
        [(ROWS, DEPTH // 2), (ROWS, DEPTH // 2), (DEPTH, WIDTH)],
    ),
    "sliced": (lambda x, w: x[:, : DEPTH // 2] @ w, [(ROWS, DEPTH), (DEPTH // 2, WIDTH)]),
    "two of one operand": (gated, [*LARGE, (DEPTH, WIDTH)]),
    "statistics of whole rows": (router, [(ROWS, DEPTH), (DEPTH, 64)]),
    "a norm of whole rows": (normalised_after, [(ROWS, DEPTH), (DEPTH, 128)]),
    "several too small alone": (projections, [(64, DEPTH), (DEPTH, WIDTH), (DEPTH, 512), (DEPTH, 512)]),
}


@pytest.mark.parametrize("name", ONE_KERNEL)
def test_what_is_one_kernel_with_a_product(name):
    function, shapes = ONE_KERNEL[name]
    low = gradc.compile(function).lower(*specs(shapes, "bfloat16"), wrt=())
    assert low.cost.launches == 1, low.explain()
    assert all(binary.spills == 0 for binary in low.build("sm_90"))


def test_two_products_of_one_operand_have_whole_tiles():
    low = gradc.compile(gated).lower(*specs([*LARGE, (DEPTH, WIDTH)], "bfloat16"), wrt=())
    assert low.kernels[0].schedule == "row: grid 128   inner: loop 64   column: grid 128"
    assert low.kernels[0].source.count("tl.load(x_ptr") == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_and_what_shares_its_kernel_are_right(dtype):
    x, w, other = tensor(37, 40, dtype=dtype), tensor(40, 24, dtype=dtype, seed=1), tensor(40, 24, dtype=dtype, seed=2)
    for function, reference, arrays in (
        (gated, gated_in_torch, (x, w, other)),
        (router, lambda x, w: torch.softmax(x @ w, -1), (x, w)),
        (normalised_after, normalised_after_in_torch, (x, w)),
    ):
        low = gradc.compile(function).lower(*map(spec_of, arrays), wrt=(), device=LARGE_PRODUCTS)
        assert low.cost.launches == 1
        assert low.source.count("tl.dot(") == len(arrays) - 1
        check(function, reference, *arrays, factor=64.0, device=LARGE_PRODUCTS)


def test_products_launched_together_are_right():
    arrays = tensor(20, 40), tensor(40, 24, seed=1), tensor(40, 17, seed=2), tensor(40, 33, seed=3)
    low = gradc.compile(projections).lower(*map(spec_of, arrays), wrt=(), device=LARGE_PRODUCTS)
    assert low.cost.launches == 1
    assert "elif pid < " in low.source
    check(projections, projections, *arrays, factor=64.0, device=LARGE_PRODUCTS)


def spec_of(array):
    return gradc.spec(tuple(array.shape), str(array.dtype).removeprefix("torch."))


def traced(function, *arguments):
    return program_of(function, arguments, {})[1]
