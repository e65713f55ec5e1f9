"""Worker processes: kernels built without a GPU, modules interpreted, and both modes in one session."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import textwrap

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from gradc.runtime import build as build_module  # noqa: E402
from gradc.runtime import wire, workers  # noqa: E402
from gradc.runtime.build import BuildRequest  # noqa: E402
from gradc.runtime.cache import DiskCache  # noqa: E402
from gradc.runtime.module import load_module  # noqa: E402
from gradc.runtime.policy import has_tensor_cores, has_vector_loads, has_vector_stores  # noqa: E402
from gradc.runtime.workers import WorkerError, build, interpret  # noqa: E402

pytestmark = pytest.mark.triton

SOURCE = '''
"""Hand-written kernels."""
import os

import torch
import triton
import triton.language as tl
from triton.language.extra import libdevice


@triton.jit
def add_kernel(x_ptr, y_ptr, out_ptr, x_stride, y_stride, size, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < size
    x = tl.load(x_ptr + at * x_stride, mask=mask, other=0.0)
    y = tl.load(y_ptr + at * y_stride, mask=mask, other=0.0)
    tl.store(out_ptr + at, x + libdevice.tanh(y), mask=mask)


@triton.jit
def dot_kernel(x_ptr, y_ptr, out_ptr, SIDE: tl.constexpr):
    row = tl.arange(0, SIDE)
    at = row[:, None] * SIDE + row[None, :]
    tl.store(out_ptr + at, tl.dot(tl.load(x_ptr + at), tl.load(y_ptr + at)))


@triton.jit
def spilling_kernel(x_ptr, out_ptr, ROWS: tl.constexpr, COLS: tl.constexpr):
    at = tl.arange(0, ROWS)[:, None] * COLS + tl.arange(0, COLS)[None, :]
    x = tl.load(x_ptr + at)
    tl.store(out_ptr + at, x / tl.sum(x, axis=1)[:, None] + tl.sum(x, axis=0)[None, :])


@triton.jit
def wrong_kernel(x_ptr, SIDE: tl.constexpr):
    tl.store(x_ptr, no_such_name)


def add(x, y):
    out = torch.empty(x.shape, dtype=x.dtype)
    size = x.numel()
    add_kernel[(triton.cdiv(size, 32),)](x, y, out, x.stride(-1), y.stride(-1), size, BLOCK=32)
    return out


def dot(x, y):
    out = torch.empty(x.shape)
    dot_kernel[(1,)](x, y, out, SIDE=x.shape[0])
    return out


def described(*arguments):
    shape = lambda x: (tuple(x.shape), tuple(x.stride()), str(x.dtype)) if hasattr(x, "stride") else x
    return tuple(map(shape, arguments)), arguments


def noisy(x):
    print("to Python's standard output")
    os.write(1, b"straight to descriptor 1\\n")
    return x + 1


def failing(x):
    raise ValueError("the reason")


def dying(x):
    os._exit(3)
'''

POINTERS = {"x_ptr": "*fp32", "y_ptr": "*fp32", "out_ptr": "*fp32"}
ADD = BuildRequest(
    "add_kernel",
    POINTERS | {"x_stride": "i32", "y_stride": "i32", "size": "i32"},
    {"BLOCK": 1024},
    divisible=("x_ptr", "y_ptr", "out_ptr", "size"),
)


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory):
    """A cold cache, for this process and the workers it starts."""
    patch = pytest.MonkeyPatch()
    patch.setenv("GRADC_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


def ones_stride(request: BuildRequest) -> BuildRequest:
    """The same kernel for contiguous arguments: a stride of 1 is a constant, so accesses can be wide."""
    signature = {name: kind for name, kind in request.signature.items() if "stride" not in name}
    constants = {**request.constants, "x_stride": 1, "y_stride": 1}
    return BuildRequest(request.kernel, signature, constants, request.divisible)


def test_build_reads_registers_and_machine_code():
    strided, contiguous = build(SOURCE, [ADD, ones_stride(ADD)])
    assert strided.name == contiguous.name == "add_kernel"
    assert ".visible .entry add_kernel" in strided.ptx
    assert 10 < strided.registers < 128
    assert strided.spills == strided.shared_bytes == 0
    assert not has_vector_loads(strided.sass)
    assert has_vector_loads(contiguous.sass)
    assert has_vector_stores(contiguous.sass)
    assert not has_tensor_cores(contiguous.sass)


def test_build_without_divisibility_has_narrow_loads():
    request = ones_stride(ADD)
    (binary,) = build(SOURCE, [BuildRequest(request.kernel, request.signature, request.constants)])
    assert not has_vector_loads(binary.sass)


def test_dot_runs_on_tensor_cores():
    signature = {"x_ptr": "*bf16", "y_ptr": "*bf16", "out_ptr": "*fp32"}
    (binary,) = build(SOURCE, [BuildRequest("dot_kernel", signature, {"SIDE": 64}, tuple(signature))])
    assert "HGMMA" in binary.sass
    assert has_tensor_cores(binary.sass)
    assert binary.shared_bytes == 2 * 64 * 64 * 2


def test_spills_are_counted():
    signature = {"x_ptr": "*fp32", "out_ptr": "*fp32"}
    sizes = {"ROWS": 64, "COLS": 128}
    requests = [BuildRequest("spilling_kernel", signature, sizes, num_warps=warps) for warps in (1, 8)]
    crowded, easy = build(SOURCE, requests)
    assert crowded.spills > 0
    assert crowded.registers == 255
    assert easy.spills == 0


def test_amd_target():
    (binary,) = build(SOURCE, [ADD], "gfx942")
    assert binary.ptx == ""
    assert "s_endpgm" in binary.sass
    assert binary.registers > 0


def test_built_kernels_are_cached(tmp_path, monkeypatch):
    cache = DiskCache(tmp_path / "cache")
    (cold,) = build(SOURCE, [ADD], cache=cache)
    monkeypatch.setattr(workers, "_asked", lambda *_: pytest.fail("asked a worker again"))
    (warm,) = build(SOURCE, [ADD], cache=cache)
    assert warm == cold


def test_build_needs_no_torch():
    """Importing torch takes seconds; what a build imports is the kernels alone, each on its own line."""
    kept = build_module._kernels_only(SOURCE)
    assert "import torch" not in kept
    assert "def dying" not in kept
    line = SOURCE.splitlines().index("def dot_kernel(x_ptr, y_ptr, out_ptr, SIDE: tl.constexpr):")
    assert kept.splitlines()[line] == SOURCE.splitlines()[line]
    assert kept.splitlines()[line - 1] == "@triton.jit"


def test_compiler_errors_name_the_line():
    with pytest.raises(WorkerError, match="no_such_name") as caught:
        build(SOURCE, [BuildRequest("wrong_kernel", {"x_ptr": "*fp32"}, {"SIDE": 16})])
    assert "building wrong_kernel for sm_90" in str(caught.value)


def test_incomplete_signatures_are_refused():
    with pytest.raises(WorkerError, match=r"missing \['out_ptr', 'SIDE'\], unknown \['extra'\]"):
        build(SOURCE, [BuildRequest("dot_kernel", {"x_ptr": "*fp32", "y_ptr": "*fp32", "extra": "i32"})])


def test_unknown_targets_are_refused():
    with pytest.raises(WorkerError, match="is not a target"):
        build(SOURCE, [ADD], "banana")


def test_interpret_masked_kernel():
    x, y = torch.randn(100), torch.randn(100)
    (result,) = interpret(SOURCE, "add", (x, y))
    torch.testing.assert_close(result, x + torch.tanh(y))


def test_interpret_strided_and_expanded():
    x, y = torch.randn(10, 100)[:, 3], torch.randn(1).expand(10)
    assert y.stride() == (0,)
    (result,) = interpret(SOURCE, "add", (x, y))
    torch.testing.assert_close(result, x + torch.tanh(y))


def test_interpret_bfloat16_dot():
    x, y = torch.randn(16, 16).bfloat16(), torch.randn(16, 16).bfloat16()
    (result,) = interpret(SOURCE, "dot", (x, y))
    torch.testing.assert_close(result, x.float() @ y.float(), atol=1e-5, rtol=1e-5)


LAYOUTS = {
    "contiguous": lambda: torch.randn(3, 4),
    "transposed": lambda: torch.randn(3, 4).T,
    "sliced": lambda: torch.randn(9, 8)[2::3, 1::2],
    "expanded": lambda: torch.randn(3, 1, 5).expand(3, 4, 5),
    "expanded scalar": lambda: torch.tensor(2.0).expand(4, 4),
    "scalar": lambda: torch.tensor(2.0),
    "overlapping": lambda: torch.arange(8.0).unfold(0, 4, 1),
    "empty": lambda: torch.empty(0, 3),
    "empty expanded": lambda: torch.empty(3, 0, 1).expand(3, 0, 7),
    "bfloat16": lambda: torch.tensor([1.5, float("nan"), -0.0, float("inf")]).bfloat16(),
    "float16": lambda: torch.randn(5).half().expand(2, 5),
    "bool": lambda: torch.tensor([True, False]),
    "int64": lambda: torch.tensor([2**62, -1]),
    "wide stride": lambda: torch.empty(1).as_strided((1, 1), (2**40, 1)),
    "needs gradient": lambda: torch.randn(3, requires_grad=True),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tensors_cross_as_they_are(layout):
    tensor = LAYOUTS[layout]()
    blobs = []
    code = wire.encoded(tensor, blobs)
    arrived = wire.decoded(code, blobs)
    assert (arrived.shape, arrived.stride(), arrived.dtype) == (tensor.shape, tensor.stride(), tensor.dtype)
    torch.testing.assert_close(arrived, tensor.detach(), equal_nan=True, rtol=0, atol=0)
    assert len(blobs[0]) <= tensor.numel() * tensor.element_size()


def test_an_expanded_axis_is_sent_once():
    blobs = []
    wire.encoded(torch.randn(1000, 1).expand(1000, 1000), blobs)
    assert len(blobs[0]) == 4000


def test_plain_values_cross_exactly():
    values = (1, 2**70, -0.0, float("inf"), 0.1, True, None, "text", (1, (2.5,)))
    arrived = wire.decoded(wire.encoded(values, []), [])
    assert repr(arrived) == repr(values)


def test_arguments_reach_the_worker_as_they_are():
    tensors = [make() for make in LAYOUTS.values()]
    descriptions, returned = interpret(SOURCE, "described", (*tensors, 3, None))
    assert descriptions[:-2] == tuple((tuple(x.shape), tuple(x.stride()), str(x.dtype)) for x in tensors)
    assert descriptions[-2:] == (3, None)
    for tensor, again in zip(tensors, returned, strict=False):
        torch.testing.assert_close(again, tensor.detach(), equal_nan=True, rtol=0, atol=0)


def test_what_cannot_be_sent_is_refused():
    with pytest.raises(TypeError, match="cannot send a object"):
        wire.encoded(object(), [])


def test_printing_does_not_disturb_the_replies():
    (result,) = interpret(SOURCE, "noisy", (torch.zeros(2),))
    assert result.tolist() == [1, 1]


def test_errors_come_back_with_their_traceback():
    with pytest.raises(WorkerError, match="ValueError: the reason") as caught:
        interpret(SOURCE, "failing", (torch.zeros(1),))
    assert 'raise ValueError("the reason")' in str(caught.value), "the emitted line is shown"


def test_a_dead_worker_is_replaced():
    with pytest.raises(WorkerError, match=r"died \(exit status 3\) while interpreting dying"):
        interpret(SOURCE, "dying", (torch.zeros(1),))
    (result,) = interpret(SOURCE, "noisy", (torch.zeros(1),))
    assert result.tolist() == [1]


def test_modules_are_loaded_once_and_lie_in_the_cache(tmp_path):
    cache = DiskCache(tmp_path / "cache")
    text = "def answer():\n    return 41 + 1\n"
    module = load_module(text, cache)
    assert module.answer() == 42
    assert load_module(text, cache) is module
    assert module.__file__.startswith(str(cache.folder))
    with open(module.__file__) as file:
        assert file.read() == text
    cache.clear()
    assert inspect.getsource(module.answer) == text, "tracebacks keep their lines when the cache is cleared"


def test_modules_load_without_a_cache(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="not using the cache"):
        module = load_module("def half():\n    return 1 / 2\n", DiskCache(tmp_path / "file" / "cache"))
    assert module.half() == 0.5


SESSION = """
import os, sys, torch
sys.path.insert(0, sys.argv[1])
from test_workers import ADD, SOURCE
from gradc.runtime import interpret as interpreter, workers
x, y = torch.randn(40), torch.randn(40)
for turn in range(2):
    (result,) = workers.interpret(SOURCE, "add", (x, y))
    torch.testing.assert_close(result, x + torch.tanh(y))
    (binary,) = workers.build(SOURCE, [ADD])
    assert "LDG" in binary.sass
waiting = workers._pool().waiting
assert interpreter.runs_here() == (len(waiting["interpret"]) == 0) == (os.environ.get("TRITON_INTERPRET") == "1")
print(*(worker.process.pid for kind in waiting.values() for worker in kind))
print(workers._pool().folder)
"""


@pytest.mark.parametrize("mode", ["1", None], ids=["interpreting", "compiling"])
def test_both_modes_in_one_session(mode, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"GRADC_CACHE_DIR": str(tmp_path)} | ({"TRITON_INTERPRET": mode} if mode else {})
    command = [sys.executable, "-c", textwrap.dedent(SESSION), os.path.dirname(__file__)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *pids, folder = done.stdout.split()
    assert len(pids) == (1 if mode else 2)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids), "workers end with their parent"
    assert not os.path.exists(folder)
