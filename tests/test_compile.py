"""The decorator: what goes in and comes out, when a program is made again, the disk cache, threads, and what errors say."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest

import gradc
from gradc.runtime import compile as compile_module
from gradc.runtime import logs
from gradc.runtime.cache import CacheWarning, DiskCache

X = np.arange(12, dtype=np.float32).reshape(3, 4)


@gradc.compile
def scaled(x, factor=2.0):
    """Scales an array."""
    return x * factor


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("GRADC_CACHE_DIR", str(tmp_path / "cache"))
    return DiskCache()


@pytest.fixture
def traces(monkeypatch):
    """The functions traced so far, a name for each time."""
    seen: list[str] = []
    trace = compile_module.trace

    def counted(function, *rest):
        seen.append(function.__name__)
        return trace(function, *rest)

    monkeypatch.setattr(compile_module, "trace", counted)
    return seen


# What goes in and comes out ------------------------------------------------------------------------------------------


def test_numpy_in_numpy_out():
    out = scaled(X)
    assert type(out) is np.ndarray
    np.testing.assert_array_equal(out, X * 2)


def test_the_decorated_function_keeps_its_face():
    assert scaled.__name__ == "scaled"
    assert scaled.__doc__ == "Scales an array."
    assert list(inspect.signature(scaled).parameters) == ["x", "factor"]
    assert scaled.__wrapped__(1.0, 3.0) == 3.0
    assert "scaled" in repr(scaled)


@pytest.mark.parametrize("backend", ["numpy", pytest.param("interpret", marks=pytest.mark.triton), "auto"])
def test_torch_in_torch_out(backend):
    torch = pytest.importorskip("torch")
    x = torch.arange(12.0).reshape(3, 4).requires_grad_()
    out = gradc.compile(backend=backend)(lambda x: gradc.sum(x * x))(x)
    assert isinstance(out, torch.Tensor)
    assert (out.shape, out.dtype, out.device) == ((), torch.float32, x.device)
    out.backward()
    assert torch.equal(x.grad, 2 * x.detach())


@pytest.mark.parametrize("backend", ["numpy", pytest.param("interpret", marks=pytest.mark.triton)])
def test_torch_without_a_tape(backend):
    torch = pytest.importorskip("torch")
    double = gradc.compile(backend=backend)(lambda x: x * 2)
    x = torch.ones(3, requires_grad=True)
    assert not double(x.detach()).requires_grad
    with torch.no_grad():
        assert not double(x).requires_grad
    assert double(x).requires_grad


class Pair(NamedTuple):
    left: object
    right: object


def test_trees_of_arrays():
    @gradc.compile
    def swapped(pair, params, *rest, scale):
        return Pair(pair.right, pair.left * scale), {"sum": params["a"] + params["b"][0]}, [*rest], None

    pair, sums, rest, nothing = swapped(Pair(X, X + 1), {"a": X, "b": [X, X]}, X, X, scale=3)
    assert isinstance(pair, Pair)
    assert nothing is None
    np.testing.assert_array_equal(pair.left, X + 1)
    np.testing.assert_array_equal(pair.right, X * 3)
    np.testing.assert_array_equal(sums["sum"], X + X)
    assert len(rest) == 2


@pytest.mark.parametrize("backend", ["numpy", pytest.param("interpret", marks=pytest.mark.triton)])
def test_results_never_share_memory_with_the_arguments(backend):
    x = X.copy()
    for out in gradc.compile(backend=backend)(lambda x: (x, x[1:], x.T, x.reshape((12,)), x + 0))(x):
        out[...] = 99
    np.testing.assert_array_equal(x, X)


@pytest.mark.parametrize("backend", ["numpy", pytest.param("interpret", marks=pytest.mark.triton)])
@pytest.mark.parametrize(
    "array",
    [
        X[::-1, ::-2],
        np.asfortranarray(X),
        np.broadcast_to(X[0], (5, 4)),
        X.astype(">f4"),
        np.float32(3),
        np.frombuffer(X.tobytes(), np.float32),
        np.zeros(5, [("a", "f4"), ("b", "i2")])["a"],
        X[:0],
    ],
    ids=["negative strides", "columns first", "stride 0", "foreign bytes", "scalar", "read-only", "field", "empty"],
)
def test_numpy_arrays_of_every_layout(array, backend):
    np.testing.assert_array_equal(gradc.compile(backend=backend)(lambda x: x * 2 + 1)(array), array * 2 + 1)


# Static arguments and closures ---------------------------------------------------------------------------------------


def test_python_numbers_are_static(traces):
    f = gradc.compile(lambda x, n: sum((x for _ in range(n)), 0 * x))
    np.testing.assert_array_equal(f(X, 3), 3 * X)
    np.testing.assert_array_equal(f(X, 2), 2 * X)
    f(X, 3)
    assert len(traces) == 2


def test_equal_numbers_of_other_types_are_other_programs():
    f = gradc.compile(lambda x, n: x * n)
    assert f(np.ones(3, np.int32), 2).dtype == np.int32
    assert f(np.ones(3, np.int32), 2.0).dtype == np.float32
    assert f(np.ones(3, np.int32), 2).dtype == np.int32
    zeros = gradc.compile(lambda x, n: 1 / (x * 0 + n))
    assert zeros(np.ones(1, np.float32), 0.0) == np.inf
    assert zeros(np.ones(1, np.float32), -0.0) != zeros(np.ones(1, np.float32), 1.0)


def test_named_static_arguments_may_hold_anything_hashable(traces):
    @dataclass(frozen=True)
    class Config:
        sizes: tuple[int, ...]

    @gradc.compile(static_argnames="config")
    def cut(x, config):
        return x[: config.sizes[0]]

    assert cut(X, Config((2, 3))).shape == (2, 4)
    assert cut(X, config=Config((1, 3))).shape == (1, 4)
    cut(X, Config((2, 3)))
    assert len(traces) == 2


def test_an_unhashable_static_argument_is_an_error():
    with pytest.raises(gradc.TraceError, match=r"is a set, which is neither an array nor hashable"):
        gradc.compile(lambda x, options: x)(X, {1, 2})
    with pytest.raises(gradc.TraceError, match="static_argnames has 'z'"):
        gradc.compile(static_argnames="z")(lambda x: x)


def test_a_changed_closure_is_another_program():
    factor = 2.0
    f = gradc.compile(lambda x: x * factor)
    np.testing.assert_array_equal(f(X), 2 * X)
    factor = 3.0
    np.testing.assert_array_equal(f(X), 3 * X)
    factor = 2.0
    np.testing.assert_array_equal(f(X), 2 * X)


GLOBAL = 2.0


def test_a_changed_global_is_another_program(monkeypatch):
    f = gradc.compile(lambda x: x * GLOBAL)
    np.testing.assert_array_equal(f(X), 2 * X)
    monkeypatch.setitem(globals(), "GLOBAL", 5.0)
    np.testing.assert_array_equal(f(X), 5 * X)


def test_a_changed_closure_of_a_helper_is_another_program():
    factor = 2.0

    def helper(x):
        return x * factor

    f = gradc.compile(lambda x: helper(x))
    np.testing.assert_array_equal(f(X), 2 * X)
    factor = 3.0
    np.testing.assert_array_equal(f(X), 3 * X)


def test_a_changed_global_of_a_helper_is_another_program(monkeypatch):
    f = gradc.compile(lambda x: times_global(x))
    np.testing.assert_array_equal(f(X), 2 * X)
    monkeypatch.setitem(globals(), "GLOBAL", 7.0)
    np.testing.assert_array_equal(f(X), 7 * X)


def times_global(x):
    return x * GLOBAL


def test_a_changed_attribute_is_another_program():
    class Settings:
        factor = 2.0

    settings = Settings()
    f = gradc.compile(lambda x: x * settings.factor)
    np.testing.assert_array_equal(f(X), 2 * X)
    settings.factor = 3.0
    np.testing.assert_array_equal(f(X), 3 * X)


@pytest.mark.parametrize("backend", ["numpy", pytest.param("interpret", marks=pytest.mark.triton)])
def test_the_contents_of_a_closed_over_array_are_read_at_each_call(backend, traces):
    weight = np.ones(4, np.float32)
    f = gradc.compile(backend=backend)(lambda x: x * weight)
    np.testing.assert_array_equal(f(X), X)
    weight *= 3
    np.testing.assert_array_equal(f(X), 3 * X)
    weight = np.full(4, 5, np.float32)
    np.testing.assert_array_equal(f(X), 5 * X)
    assert len(traces) == 2


@pytest.mark.parametrize("backend", ["numpy", pytest.param("interpret", marks=pytest.mark.triton)])
def test_closed_over_arrays_of_other_layouts(backend):
    weights = [np.asfortranarray(X), X[::-1, ::-1], np.broadcast_to(X[0], (3, 4))]
    for weight in weights:
        np.testing.assert_array_equal(gradc.compile(backend=backend)(lambda x: x * weight)(X), X * weight)  # noqa: B023


@pytest.mark.triton
def test_closed_over_tensors():
    torch = pytest.importorskip("torch")
    weight = torch.arange(12.0).reshape(4, 3).T
    x = torch.ones(3, 4, requires_grad=True)
    gradc.compile(backend="interpret")(lambda x: gradc.sum(gradc.exp(x) * weight))(x).backward()
    torch.testing.assert_close(x.grad, torch.e * weight)


class Model:
    def __init__(self, factor):
        self.factor = factor

    @gradc.compile
    def call(self, x):
        """Scales by the model's factor."""
        return x * self.factor

    @gradc.compile
    @staticmethod
    def twice(x):
        return x * 2


def test_methods():
    small, large = Model(2.0), Model(10.0)
    np.testing.assert_array_equal(small.call(X), 2 * X)
    np.testing.assert_array_equal(large.call(X), 10 * X)
    np.testing.assert_array_equal(small.call(X), 2 * X)
    np.testing.assert_array_equal(Model.call(small, X), 2 * X)


def test_a_changed_attribute_of_self_is_another_program():
    model = Model(2.0)
    np.testing.assert_array_equal(model.call(X), 2 * X)
    model.factor = 3.0
    np.testing.assert_array_equal(model.call(X), 3 * X)


def test_compiled_functions_call_each_other(traces):
    inner = gradc.compile(lambda x: x * 2)
    outer = gradc.compile(lambda x: inner(x) + scaled(x, 3.0))
    np.testing.assert_array_equal(outer(X), 5 * X)
    assert len(traces) == 1


def test_transforms_inside_and_outside():
    cube = gradc.compile(lambda x: gradc.sum(x**3))
    np.testing.assert_allclose(gradc.grad(cube)(X), 3 * X**2)
    np.testing.assert_allclose(gradc.compile(gradc.grad(cube))(X), 3 * X**2)
    np.testing.assert_allclose(gradc.compile(gradc.grad(gradc.compile(lambda x: gradc.sum(gradc.grad(cube)(x)))))(X), 6 * X)


# When a program is made again ----------------------------------------------------------------------------------------


def test_one_program_per_shape_and_dtype(traces):
    f = gradc.compile(lambda x: x + 1)
    for x in (X, X + 5, X.astype(np.float64), X[:2], np.asfortranarray(X), X.copy()):
        np.testing.assert_array_equal(f(x), x + 1)
    assert len(traces) == 3


@pytest.mark.triton
def test_one_program_per_layout_of_a_tensor(traces):
    torch = pytest.importorskip("torch")
    f = gradc.compile(backend="interpret")(lambda x: x + 1)
    x = torch.from_numpy(X.copy())
    for y in (x, x + 5, x.T.contiguous().T, x[:1].expand(3, 4), x[:, ::2]):
        assert torch.equal(f(y), y + 1)
    assert len(traces) == 4


def test_the_log_says_why(monkeypatch, capsys, caplog):
    monkeypatch.setenv("GRADC_LOGS", "recompile")
    for name in ("_wanted", "wanted", "enabled"):
        if hasattr(getattr(logs, name, None), "cache_clear"):
            getattr(logs, name).cache_clear()
    f = gradc.compile(lambda x, n: x * n)
    f(X, 2)
    f(X[:2], 2)
    f(X[:2], 3)
    said = "".join(capsys.readouterr()) + caplog.text
    assert "made again" in said
    assert "(3, 4) float32 became (2, 4) float32" in said


def test_what_the_log_says_of_changes():
    describe = compile_module.describe_change
    key = ("tree", ((3,), "float32", None), (int, 2))
    assert "backend numpy became interpret" in describe((key, "numpy", ()), (key, "interpret", ()))
    assert "closes over" in describe((key, "numpy", (1,)), (key, "numpy", (2,)))
    assert "structure" in describe((key, "numpy", ()), (("other", *key[1:]), "numpy", ()))
    assert "argument leaf 1" in describe((key, "numpy", ()), ((*key[:2], (int, 3)), "numpy", ()))


# Backends ------------------------------------------------------------------------------------------------------------


def test_unknown_backends_and_options():
    with pytest.raises(gradc.UnsupportedError, match="no backend 'cuda'"):
        gradc.compile(backend="cuda")
    for option in ({"tune": "full"}, {"dynamic": True}):
        with pytest.raises(gradc.UnsupportedError):
            gradc.compile(**option)


def test_the_environment_chooses_the_backend(monkeypatch):
    monkeypatch.setenv("GRADC_BACKEND", "numpy")
    assert compile_module.resolve_backend("auto", [X]) == "numpy"
    monkeypatch.setenv("GRADC_BACKEND", "interpret")
    assert compile_module.resolve_backend("auto", [X]) == "interpret"
    assert compile_module.resolve_backend("numpy", [X]) == "numpy"
    monkeypatch.setenv("GRADC_BACKEND", "nonsense")
    with pytest.raises(gradc.UnsupportedError, match="nonsense"):
        scaled(X)


def test_triton_needs_a_gpu():
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(gradc.UnsupportedError, match="GPU"):
        gradc.compile(backend="triton")(lambda x: x)(torch.ones(3))


@pytest.mark.triton
def test_backends_agree_and_keep_their_programs(traces):
    f = lambda x: gradc.softmax(x, axis=-1)
    got = [gradc.compile(backend=backend)(f)(X) for backend in ("numpy", "interpret")]
    np.testing.assert_allclose(got[0], got[1], rtol=1e-6)


# The disk cache --------------------------------------------------------------------------------------------------------


@pytest.mark.triton
def test_a_warm_start_emits_nothing(cache, monkeypatch):
    f = lambda x: gradc.tanh(x) * 2
    first = gradc.compile(backend="interpret")(f)(X)
    assert {"plan.json"} <= {name for entry in cache.entries() for name in cache.get(entry.key)}
    monkeypatch.setattr("gradc.runtime.plan.lower_graph", None)
    np.testing.assert_array_equal(gradc.compile(backend="interpret")(f)(X), first)
    with pytest.raises(TypeError):
        gradc.compile(backend="interpret")(lambda x: gradc.tanh(x) * 3)(X)


@pytest.mark.triton
def test_nearly_equal_programs_are_not_mixed_up(cache):
    numbers = [1.0, 1.0 + 2**-52, 0.0, float("inf"), float("nan"), 1e-300]
    for number in numbers:
        got = gradc.compile(backend="interpret")(lambda x: x * number)(np.ones(1))  # noqa: B023
        assert got.tobytes() == (np.ones(1) * number).tobytes() or np.isnan(number)
    for step in (1, 2):
        np.testing.assert_array_equal(gradc.compile(backend="interpret")(lambda x: x[::step])(X), X[::step])  # noqa: B023
        np.testing.assert_array_equal(gradc.compile(backend="interpret")(lambda x: gradc.roll(x, step))(X), np.roll(X, step))  # noqa: B023


def break_entries(cache: DiskCache, name: str, text: str) -> None:
    for entry in cache.entries():
        path = cache.path(entry.key) / name
        if path.exists():
            path.chmod(0o600)
            path.write_text(text)


@pytest.mark.triton
@pytest.mark.parametrize(
    ("name", "text"),
    [("plan.json", "{"), ("module.py", "raise SystemExit"), ("kernels.py", "raise SystemExit"), ("manifest.json", "")],
)
def test_a_damaged_entry_is_made_again(cache, name, text):
    f = lambda x: gradc.tanh(x) * 2
    first = gradc.compile(backend="interpret")(f)(X)
    break_entries(cache, name, text)
    with pytest.warns(CacheWarning) if name != "kernels.py" else contextless():
        np.testing.assert_array_equal(gradc.compile(backend="interpret")(f)(X), first)
    with_plan = [cache.get(entry.key) for entry in cache.entries()]
    assert all(json.loads(files["plan.json"]) for files in with_plan if files and "plan.json" in files)


class contextless:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        return False


@pytest.mark.triton
def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GRADC_CACHE_DIR", str(tmp_path / "file" / "below"))
    with pytest.warns(CacheWarning):
        np.testing.assert_allclose(gradc.compile(backend="interpret")(lambda x: gradc.exp(x))(X), np.exp(X), rtol=1e-6)


# Threads ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numpy", pytest.param("interpret", marks=pytest.mark.triton)])
def test_threads_share_programs(backend, traces):
    f = gradc.compile(backend=backend)(lambda x, n: gradc.sum(x * n, axis=1))
    barrier = threading.Barrier(4)

    def work(i):
        barrier.wait()
        return [f(X + i, n) for n in (1, 2)]

    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(work, range(4)))
    for i, pair in enumerate(results):
        for n, got in zip((1, 2), pair, strict=True):
            np.testing.assert_allclose(got, ((X + i) * n).sum(1), rtol=1e-6)
    assert len(traces) == 2


# Looking inside --------------------------------------------------------------------------------------------------------


def norm(x, w):
    return x * gradc.rsqrt(gradc.mean(x * x, axis=-1, keepdims=True) + 1e-6) * w


def test_lower_takes_specs():
    low = gradc.compile(norm).lower(gradc.spec((64, 512), "bfloat16"), gradc.spec((512,), "bfloat16"))
    assert {kernel.phase for kernel in low.kernels} == {"forward", "backward"}
    assert low.cost.launches == len(low.kernels)
    assert low.cost.bytes == sum(kernel.bytes for kernel in low.kernels)
    assert all(kernel.name in low.source for kernel in low.kernels)
    assert "rsqrt" in str(low.ir)
    assert low.backward_ir is not None
    compile(low.source, "kernels.py", "exec")


def test_lower_without_a_gradient():
    low = gradc.compile(norm).lower(gradc.spec((64, 512)), gradc.spec((512,)), wrt=())
    assert low.backward_ir is None
    assert low.saved == ()
    assert {kernel.phase for kernel in low.kernels} == {"forward"}
    assert "def backward" not in low.source


def test_lower_differentiates_what_it_is_told():
    specs = gradc.spec((64, 512)), gradc.spec((512,))
    one, both = (gradc.compile(norm).lower(*specs, wrt=wrt) for wrt in ((1,), None))
    assert len(one.backward_ir.outputs) == 1
    assert one.backward_ir.outputs[0].shape == (512,)
    assert len(both.backward_ir.outputs) == 2
    with pytest.raises(gradc.TraceError, match="wrt names argument 2"):
        gradc.compile(norm).lower(*specs, wrt=(2,))


def test_lower_takes_arrays_and_static_arguments():
    low = scaled.lower(X, factor=3.0)
    assert low.ir.inputs[0].shape == (3, 4)
    assert "3.0" in low.source


@pytest.mark.parametrize("strides", [(2**30, 1), (1, 2**30), (2**30, 2**20)], ids=str)
def test_offsets_past_31_bits_are_computed_in_64(strides):
    """A virtual array: rows 2**30 elements apart, of which nothing is allocated."""
    low = gradc.compile(lambda x: x * 2).lower(gradc.spec((64, 64), "float32", strides=strides), wrt=())
    assert "int64" in low.source
    contiguous = gradc.compile(lambda x: x * 2).lower(gradc.spec((64, 64), "float32"), wrt=())
    assert "int64" not in contiguous.source


@pytest.mark.parametrize(
    "function",
    [
        lambda x: gradc.sum(x, axis=0),
        lambda x: gradc.sum(x, axis=1),
        lambda x: x[1:] * 2,
        lambda x: gradc.softmax(x),
        lambda x: x @ x,
    ],
    ids=["columns", "rows", "slice", "softmax", "matmul"],
)
def test_offsets_of_large_arrays_in_every_kind_of_kernel(function):
    wide = gradc.compile(function).lower(gradc.spec((64, 64), "float32", strides=(2**30, 1)), wrt=())
    assert "int64" in wide.source
    assert "int64" not in gradc.compile(function).lower(gradc.spec((64, 64), "float32"), wrt=()).source


def test_large_contiguous_arrays_count_in_64_bits():
    assert "int64" in gradc.compile(lambda x: x * 2).lower(gradc.spec((2**16, 2**16))).source
    assert "int64" in gradc.compile(lambda x: x * 2).lower(gradc.spec((2**32,))).source


ALONE = """
import sys, torch
import kernels
out, *kept = kernels.forward(x := torch.arange(12.0).reshape(3, 4) / 7, w := torch.ones(4))
want = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6)
assert torch.allclose(out, want), (out, want)
assert not [name for name in sys.modules if name.startswith("gradc")]
print("ran", len(kept))
"""


@pytest.mark.triton
def test_the_exported_module_runs_without_gradc(tmp_path):
    pytest.importorskip("torch")
    low = gradc.compile(norm).lower(gradc.spec((3, 4)), gradc.spec((4,)))
    path = low.export(str(tmp_path / "kernels.py"))
    assert path.read_text() == low.source
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", ALONE], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ran")


# Errors ----------------------------------------------------------------------------------------------------------------


def message_of(function, *args) -> str:
    with pytest.raises(gradc.GradcError) as caught:
        gradc.compile(function)(*args)
    return str(caught.value)


def test_errors_show_the_users_line():
    def wrong(x):
        y = x * 2
        return gradc.matmul(y, y)  # this line

    said = message_of(wrong, X)
    assert "test_compile.py" in said
    assert "return gradc.matmul(y, y)  # this line" in said
    assert "^" in said
    assert "(3, 4)" in said or "4" in said


def test_branching_on_a_value_is_an_error_with_advice():
    def branches(x):
        if gradc.sum(x) > 0:
            return x
        return -x

    said = message_of(branches, X)
    assert "if gradc.sum(x) > 0:" in said
    assert "gradc.where" in said


def test_what_a_function_may_not_return():
    assert "returned" in message_of(lambda x: "text", X) or "return" in message_of(lambda x: "text", X)


def test_an_error_in_the_users_code_is_the_users_own():
    def broken(x):
        return x + {}["missing"]

    with pytest.raises(KeyError, match="missing"):
        gradc.compile(broken)(X)


def test_a_failed_call_leaves_nothing_behind():
    f = gradc.compile(lambda x: gradc.matmul(x, x))
    with pytest.raises(gradc.ShapeError):
        f(X)
    np.testing.assert_allclose(f(X[:, :3]), X[:, :3] @ X[:, :3])


def test_torch_gradients_twice_say_what_to_do():
    torch = pytest.importorskip("torch")
    x = torch.ones(3, requires_grad=True)
    out = gradc.compile(backend="numpy")(lambda x: gradc.sum(x**3))(x)
    with pytest.raises(gradc.UnsupportedError, match="create_graph"):
        torch.autograd.grad(out, x, create_graph=True)


def test_a_kernel_that_fails_names_its_own_line():
    """The text of emitted modules is known to tracebacks."""
    from gradc.runtime.module import load_module

    module = load_module(
        textwrap.dedent("""
        def forward():
            raise ValueError("inside")
    """)
    )
    with pytest.raises(ValueError, match="inside") as caught:
        module.forward()
    assert 'raise ValueError("inside")' in str(caught.traceback[-1])
