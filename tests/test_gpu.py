"""What `make gpu` does on a GPU, on the CPU: every part, what it finds wrong, and that it ends in time and writes what it has."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from rich.console import Console  # noqa: E402

import gradc  # noqa: E402
from benchmarks import gpu, gpu_tables, peers, timing  # noqa: E402
from benchmarks.__main__ import write  # noqa: E402
from benchmarks.doubtful import DOUBTFUL  # noqa: E402
from benchmarks.timing import HostTimer  # noqa: E402
from benchmarks.workloads import WORKLOADS, workload  # noqa: E402
from examples.gallery import GALLERY, piece  # noqa: E402

ROWS = (workload("rms_norm"), workload("adamw"), piece("sink"), piece("contrastive"))


def session(timer=None, seconds=1e9, save=lambda report: None):
    return gpu.Session(timer or HostTimer(), "numpy", seconds, lambda row: dict(row.small), save)


def examined(part, row, **options):
    this = session(**options)
    this.report["ceilings"] = {"bandwidth": 1e9, "matrix_rate": 1e12}
    this.each(part, [row], {"correct": gpu.correct, "times": gpu.timed}[part])
    return this.report[part][row.name]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path, sizes = tmp_path_factory.mktemp("gpu") / "gpu.json", []
    found = gpu.everything(
        session(save=lambda r: (write(r, path), sizes.append(path.stat().st_size))), rows=ROWS, doubtful=DOUBTFUL[:2]
    )
    assert sizes == sorted(sizes)
    assert len(sizes) == 1 + len(ROWS) + 2 + len(gpu.HOST_ROWS)
    return found, json.loads(path.read_text())


def test_every_part_finds_something_and_writes_it(report):
    found, written = report
    assert written["correct"].keys() == {row.name for row in ROWS}
    assert all(row["correct"] and row["repeated"] and row["poisoned"] for row in written["correct"].values()), written[
        "correct"
    ]
    assert found["times"]["matmul_bias_gelu"]["contenders"]["gradc"]["backward"]["kernel"] > 0
    assert set(written["times"]["matmul_bias_gelu"]["kernels"]) >= {"matmul_bias_gelu_forward"}
    assert written["host"]["rms_norm of 1 rows"]["eager"]["step"] > 0


def test_the_findings_are_printed(report, capsys):
    gpu_tables.everything({"device": "a GPU", **report[0]}, Console(width=200))
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("contrastive", "matmul_bias_gelu_forward", "rms_norm of 64 rows", "offset inputs"))


@pytest.mark.parametrize("row", [*WORKLOADS, *GALLERY, *DOUBTFUL], ids=lambda row: f"{type(row).__name__} {row.name}")
def test_every_row_can_be_asked(row):
    """Its function in PyTorch, its inputs, and the small shapes it is tried at."""
    arguments = peers.inputs(row, dict(row.small), "cpu")
    results = gpu.written_in_torch(row)(*arguments)
    assert results is not None


def test_a_wrong_result_is_found():
    def gelu(x):
        return 1.05 * gradc.nn.gelu(x)

    found = examined("correct", replace(workload("gelu"), function=gelu))
    assert not found["correct"]
    assert found["error_worst"] > 0.04
    assert max(found["errors_in_torch"]) < 0.01


def test_what_pytorch_does_no_better_is_not_called_wrong():
    """Five roundings in 16 bits: the gradient of a weight is off by more than one."""
    found = examined("correct", piece("qk_norm_rope"))
    assert found["error_worst"] > timing.TOLERANCE[torch.bfloat16]
    assert found["correct"]


def test_what_changes_from_run_to_run_is_found(monkeypatch):
    runs = iter(range(100))
    true = timing.Problem.step

    def step(given, function):
        found = true(given, function)
        return [x + 1e-4 * next(runs) for x in found]

    monkeypatch.setattr(timing.Problem, "step", step)
    found = examined("correct", workload("huber"))
    assert not found["repeated"]
    assert not found["correct"]


def test_poison_is_where_nothing_was_written():
    with gpu.poisoned():
        assert torch.empty(7).isnan().all()
    assert not torch.are_deterministic_algorithms_enabled()


def test_offset_inputs_begin_where_16_bytes_do_not():
    x = torch.arange(6.0).view(2, 3).requires_grad_()
    shifted = gpu.off_start(x)
    assert torch.equal(x, shifted)
    assert shifted.requires_grad
    assert shifted.data_ptr() % 16


def test_sizes_are_halved_where_the_exact_results_do_not_fit(monkeypatch):
    asked = []

    def correct(session, row, sizes):
        asked.append(sizes)
        if sizes["rows"] > 3000:
            raise torch.OutOfMemoryError("too large")
        return {"correct": True}

    monkeypatch.setattr(gpu, "_correct", correct)
    full = gpu.Session(HostTimer(), "numpy", 1e9)
    assert gpu.correct(full, workload("cross_entropy"))["sizes"] == {"rows": 2048, "columns": 8000}
    assert [sizes["rows"] for sizes in asked] == [8192, 4096, 2048]


def test_a_failure_is_told_and_stops_nothing():
    broken = SimpleNamespace(name="broken")
    this = session()
    this.each("correct", [broken, workload("huber")], gpu.correct)
    assert "AttributeError" in this.report["correct"]["broken"]["error"]
    assert this.report["correct"]["huber"]["correct"]


def test_it_ends_in_time():
    """A clock that moves a second each time it is read."""
    ticks = iter(range(10**6))
    this = session(HostTimer(lambda: float(next(ticks))), seconds=30)
    gpu.everything(this, rows=(*ROWS, *ROWS), doubtful=DOUBTFUL[:3])
    assert this.report["correct"]["rms_norm"].keys() != {"skipped"}
    assert this.report["times"][DOUBTFUL[2].name] == {"skipped": "no time was left"}


def test_it_can_begin_later():
    this = session()
    gpu.everything(this, "host", rows=ROWS, doubtful=DOUBTFUL)
    assert "ceilings" in this.report
    assert "host" in this.report
    assert "correct" not in this.report


def test_kernels_are_timed_one_by_one():
    launches, found = [], {}
    kernel = {(3,): lambda *arguments, **options: launches.append((arguments, options))}
    module = SimpleNamespace(f_forward=kernel, f_backward=kernel, helper=kernel)
    with gpu.watched([module], {"f_forward", "f_backward"}, HostTimer(), found):
        module.f_forward[(3,)](1, BLOCK=2)
        module.helper[(3,)](1)
    assert module.f_forward is kernel
    assert launches == [((1,), {"BLOCK": 2}), ((1,), {"BLOCK": 2}), ((1,), {})]
    assert len(found["f_forward"]) == 1
    assert found["f_backward"] == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys):
    assert gpu.main([]) == 2
    assert "no GPU" in capsys.readouterr().err
