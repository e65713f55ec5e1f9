"""The benchmarks' figures hold, their kernels build and are right, and the timing works without a GPU.

Launches and bytes are gradc's own counts at the full shapes. Everything timing does but the CUDA calls runs here.
"""

from __future__ import annotations

import functools
import json
import math
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from rich.console import Console  # noqa: E402

from benchmarks import __main__ as command  # noqa: E402
from benchmarks import emission, gpu_table, peers, predict, run, timing  # noqa: E402
from benchmarks.peers import Contender, by_compile, by_gradc, written_in_torch  # noqa: E402
from benchmarks.timing import CudaTimer, HostTimer  # noqa: E402
from benchmarks.workloads import WORKLOADS, workload  # noqa: E402
from gradc.codegen.device import H200  # noqa: E402
from tests.kernels import LARGE_PRODUCTS, on  # noqa: E402
from tests.work import calls_of  # noqa: E402

NAMES = [row.name for row in WORKLOADS]

# Far below the goal, which would not show a regression: launches, megabytes.
BELOW_THE_GOAL = {
    "mlp2": (6, 335.57),
    "embedding_pos": (3, 189.93),
    "attention_naive": (3, 272.63),
    "linear_cross_entropy": (67, 8658.37),
    "moons_mlp": (1, 0.01),
}

# What costs launches for memory: values too large to store, computed chunk after chunk.
CHUNKED = ("linear_cross_entropy",)

# Python calls of one lowering: two million are about a second. `adamw` is above: its work grows with the cube of the parameters.
CALLS, MORE_CALLS = 2_600_000, {"adamw": 4_000_000, "moons_mlp": 3_500_000}

# What is still wrong with a built kernel. Delete a line when its test passes.
PROBLEMS: dict[str, str] = {}

SLOW = ("mlp2", "linear_cross_entropy", "attention_naive", "moons_mlp")


@functools.cache
def figures_of(name):
    return run.launches(workload(name))


def cases(names, slow=()):
    return [pytest.param(name, marks=[pytest.mark.slow] if name in slow else []) for name in names]


# Launches and bytes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_launches_and_bytes_are_at_or_below_the_goal(name):
    figures = figures_of(name)
    assert figures["reached"], {key: figures[key] for key in ("launches", "bytes", "saved_new_bytes", "goal")}


@pytest.mark.parametrize("name", BELOW_THE_GOAL)
def test_what_is_below_the_goal_stays_there(name):
    figures = figures_of(name)
    launches, megabytes = BELOW_THE_GOAL[name]
    assert figures["launches"] <= launches
    assert figures["bytes"] <= 1e6 * megabytes


@pytest.mark.parametrize("name", [name for name in NAMES if name not in CHUNKED])
def test_no_workload_is_above_inductor_in_launches(name):
    figures = figures_of(name)
    assert figures["launches"] <= figures["inductor"]["launches"]


@pytest.mark.parametrize("name", NAMES)
def test_lowering_takes_little_work(name):
    """The seconds it takes are in results/launches.json."""
    assert calls_of(lambda: workload(name).lower().source) < MORE_CALLS.get(name, CALLS)


def test_the_written_figures_are_those_of_this_program():
    written = json.loads((command.RESULTS / "launches.json").read_text())["workloads"]
    assert list(written) == NAMES, "run `make benchmarks`"
    for name, figures in written.items():
        now = figures_of(name)
        assert (figures["launches"], figures["bytes"]) == (now["launches"], now["bytes"]), f"{name}: run `make benchmarks`"


def test_emitting_takes_no_sympy():
    """But for a cascade that is met for the first time: the masked attention of the block."""
    found = run.emission(repeats=1)
    assert found.keys() == set(run.EMITTED)
    assert not any(found[name]["imports_sympy"] for name in ("rms_norm", "mlp12"))


def test_emitting_a_deep_network_takes_little_work():
    assert calls_of(emission.mlp12) < CALLS


# Built kernels ------------------------------------------------------------------------------------------------------


@pytest.mark.triton
@pytest.mark.parametrize("name", cases(NAMES, SLOW))
def test_full_shape_kernels_build_without_a_problem(name, request):
    """No spill, 16-byte accesses to large arrays, tensor cores for products of bfloat16, and a clean PTX policy."""
    if name in PROBLEMS:
        request.applymarker(pytest.mark.xfail(reason=PROBLEMS[name]))
    binaries = run.build(workload(name))["binaries"]
    assert {b["name"]: b["problems"] for b in binaries if b["problems"]} == {}


@pytest.mark.triton
def test_the_products_of_bfloat16_use_tensor_cores():
    """So the check above had products to look at."""
    kernels = {
        name: [run.is_product(kernel) for kernel in workload(name).lower().kernels] for name in ("mlp2", "attention_naive")
    }
    assert all(sum(found) >= 2 for found in kernels.values()), kernels


def test_problems_are_found():
    large = SimpleNamespace(bytes=run.LARGE, dtype="bfloat16")
    facts = {"spills": 8, "loads_128": False, "stores_128": False, "hgmma": False}
    copying = SimpleNamespace(source="tl.load(", reads=(large,), writes=(large,))
    multiplying = SimpleNamespace(source="tl.dot(", reads=(large,), writes=(large,))
    assert run.problems(copying, facts) == ["spills 8 bytes", "no 128-bit load", "no 128-bit store"]
    assert run.problems(multiplying, facts) == ["spills 8 bytes", "multiplies 16-bit matrices without HGMMA"]
    assert run.problems(copying, {"spills": 0, "loads_128": True, "stores_128": True}) == []


# Right results ------------------------------------------------------------------------------------------------------


@pytest.mark.triton
@pytest.mark.parametrize("name", NAMES)
def test_interpreted_kernels_are_right_at_small_odd_shapes(name):
    row = workload(name)
    device = H200 if row.small == row.full else LARGE_PRODUCTS  # small sizes stand for large ones
    found = timing.checked(timing.problem(row, row.small, "cpu"), on(device, by_gradc("interpret").make(row)))
    assert found["correct"], found


def test_a_wrong_result_is_called_wrong():
    row = workload("gelu")
    given = timing.problem(row, row.small, "cpu")
    assert timing.checked(given, written_in_torch(row))["correct"]
    assert not timing.checked(given, lambda x: 1.02 * written_in_torch(row)(x))["correct"]
    assert not timing.checked(given, lambda x: math.nan * x)["correct"]
    assert not timing.checked(given, lambda x: torch.tanh(x))["correct"]


# Timing -------------------------------------------------------------------------------------------------------------

CEILINGS = {"bandwidth": 1e9, "matrix_rate": 1e12}
EAGER = Contender("eager", written_in_torch)
REFERENCE = by_gradc("numpy")


def timed(names, contenders, timer=None, seconds=60.0, **options):
    rows = [workload(name) for name in names]
    report = {"device": "cpu", "ceilings": CEILINGS}
    return timing.all_compared(
        rows, contenders, timer or HostTimer(), report, seconds, sizes_of=lambda row: dict(row.small), **options
    )


@pytest.mark.triton
def test_every_figure_is_measured():
    with timing.fresh_caches():
        report = timed(["rms_norm", "adamw"], [by_gradc("interpret"), EAGER])
    for contender in report["workloads"]["rms_norm"]["contenders"].values():
        assert contender["correct"]
        assert contender["compile"]["cold"] > 0
        assert {"graph", "wall", "peak_bytes"} == set(contender["step"])
        for phase in ("forward", "backward"):
            assert contender[phase]["kernel"] > 0
            assert contender[phase]["fraction"] > 0
    assert "backward" not in report["workloads"]["adamw"]["contenders"]["eager"]


def test_a_report_is_printed_and_written(tmp_path, capsys):
    report = timed(["huber"], [REFERENCE, EAGER])
    command.write(report, tmp_path / "times.json")
    assert json.loads((tmp_path / "times.json").read_text())["workloads"]["huber"]["contenders"]["gradc"]["correct"]
    command.tables.times(report, Console(width=200))
    assert "huber" in capsys.readouterr().out


def test_contenders_that_draw_other_numbers_are_timed_and_not_compared(capsys):
    report = timed(["residual_dropout_layer_norm"], [REFERENCE, EAGER])
    ours, theirs = report["workloads"]["residual_dropout_layer_norm"]["contenders"].values()
    assert ours["correct"]
    assert theirs["correct"] is theirs["error_worst"] is None
    assert theirs["backward"]["kernel"] > 0
    command.tables.times(report, Console(width=200))
    assert "residual_dropout" in capsys.readouterr().out


def test_what_fails_is_reported_and_stops_nothing(monkeypatch, capsys):
    def refuse(row):
        raise ValueError("not today")

    monkeypatch.setattr(peers, "gelu", lambda x: x.no_such_attribute)
    saved = []
    report = timed(
        ["gelu", "softmax"], [Contender("broken", refuse), EAGER], save=lambda found: saved.append(len(found["workloads"]))
    )
    assert "AttributeError" in report["workloads"]["gelu"]["error"]
    assert report["workloads"]["softmax"]["contenders"]["broken"] == {"error": "ValueError: not today"}
    assert report["workloads"]["softmax"]["contenders"]["eager"]["correct"]
    assert saved == [1, 2]
    command.tables.times(report, Console(width=200))
    assert "not today" in capsys.readouterr().out


def test_time_is_shared_out_and_no_more_is_taken():
    """A clock that moves a second each time it is read."""
    ticks = iter(range(10_000))
    report = timed(["gelu", "softmax"], [EAGER, REFERENCE], HostTimer(lambda: float(next(ticks))), seconds=10)
    for row in report["workloads"].values():
        assert row["contenders"]["eager"].get("correct") or row["contenders"]["eager"]["skipped"]
        assert row["contenders"]["gradc"] == {"skipped": "no time was left"}


def test_the_least_bytes_are_what_a_phase_is_given_and_makes():
    size = 8192 * 4096 * 2
    floors = timing.floors(workload("softmax"), {"rows": 8192, "columns": 4096})
    assert {phase: floor["bytes"] for phase, floor in floors.items()} == {"forward": 2 * size, "backward": 3 * size}


@pytest.mark.slow
def test_the_compiled_peer():
    """By torch.compile without its code generator, which wants a C++ compiler here."""
    report = timed(["rms_norm"], [by_compile("compiled", backend="aot_eager")])
    assert report["workloads"]["rms_norm"]["contenders"]["compiled"]["correct"]


class FakeCuda:
    """Stands in for `torch.cuda`: a clock of its own that a delay and a graph's replay move."""

    def __init__(self):
        self.clock, self.allocated, self.captures = 0.0, 100, True

    def Event(self, enable_timing):
        event = SimpleNamespace(at=None)
        event.record = lambda: (setattr(event, "at", self.clock), self.advance(1e-9))
        event.elapsed_time = lambda end: 1e3 * (end.at - event.at)
        return event

    def CUDAGraph(self):
        return SimpleNamespace(replay=lambda: self.advance(0.25))

    def Stream(self):
        return SimpleNamespace(wait_stream=lambda other: None)

    def stream(self, stream):
        return timing.contextmanager(lambda: iter([stream]))()

    def graph(self, graph):
        if not self.captures:
            raise RuntimeError("operation not permitted when stream is capturing")
        return self.stream(graph)

    def advance(self, seconds):
        self.clock += seconds

    current_stream = Stream

    def is_initialized(self):
        return False

    def synchronize(self): ...

    def empty_cache(self): ...

    def reset_peak_memory_stats(self): ...

    def _sleep(self, cycles):
        self.advance(1.0)

    def memory_allocated(self):
        return self.allocated

    def max_memory_allocated(self):
        return self.allocated + 40


@pytest.fixture
def cuda(monkeypatch):
    fake = FakeCuda()
    monkeypatch.setattr(timing.torch, "cuda", fake)
    monkeypatch.setattr(CudaTimer, "device", "cpu")
    monkeypatch.setattr(CudaTimer, "FLUSHED", 16)
    return fake


def test_the_cuda_timer_counts_only_what_runs_between_its_events(cuda):
    timer = CudaTimer()
    assert timer.kernel(lambda: cuda.advance(0.5)) == pytest.approx(0.5)
    assert timer.graph(lambda: cuda.advance(0.5)) == pytest.approx(0.25)
    assert timer.peak(lambda: None) == 40
    assert timer.wall(lambda: None) >= 0
    cuda.captures = False
    assert timer.graph(lambda: None) is None


def test_the_whole_comparison_on_a_fake_gpu(cuda):
    report = timed(["softmax"], [REFERENCE], CudaTimer())
    assert report["workloads"]["softmax"]["contenders"]["gradc"]["correct"]
    assert set(timing.ceilings(CudaTimer(), megabytes=1, side=16)) == set(CEILINGS)


# The command --------------------------------------------------------------------------------------------------------


def test_the_command_prints_and_writes(tmp_path, capsys):
    assert command.main(["softmax", "--json", str(tmp_path / "figures.json")]) == 0
    report = json.loads((tmp_path / "figures.json").read_text())
    assert list(report["workloads"]) == ["softmax"]
    assert {"date", "commit", "versions", "emission"} <= report.keys()
    assert "softmax" in capsys.readouterr().out


def test_the_command_says_what_there_is(capsys):
    assert command.main(["sofmax"]) == 2
    assert "logistic_regression" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_timing_without_a_gpu_is_refused():
    with pytest.raises(SystemExit, match="needs a GPU"):
        command.main(["softmax", "--time"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_timing_on_the_gpu(tmp_path):
    assert command.main(["rms_norm", "--time", "--seconds", "60", "--json", str(tmp_path / "times.json")]) == 0
    figures = json.loads((tmp_path / "times.json").read_text())["workloads"]["rms_norm"]["contenders"]
    assert figures["gradc"]["correct"]


def test_numbers_that_json_lacks_become_text():
    assert command.finite({"a": [math.inf, 1.5, None]}) == {"a": ["inf", 1.5, None]}


# Predictions --------------------------------------------------------------------------------------------------------


def test_predictions_are_printed_and_written_as_such(tmp_path, capsys):
    path = tmp_path / "predictions.json"
    assert command.main(["--predict", "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    assert "not measurements" in report["_about"]
    assert {"date", "commit", "versions", "device", "rows"} <= report.keys()
    assert report["device"]["name"] == "H200"
    assert {row["number"] for row in report["rows"]} == set(range(1, 27)) - {25}  # which is host time
    assert not any("error" in row for row in report["rows"])
    assert "nothing measured" in capsys.readouterr().out


def test_no_prediction_is_below_its_floor():
    """Nothing moves its inputs and results faster than a copy: a model that says so has forgotten some of them."""
    for row in predict.predictions(gpu_table.ROWS)["rows"]:
        for phase, floor in row["floor_ms"].items():
            said = row["predicted_ms"] if phase == "in_all" else row[phase]["predicted_ms"]
            assert said >= 0.97 * floor, (row["name"], phase, said, floor)


def test_predictions_follow_the_device():
    row = next(row for row in gpu_table.ROWS if row.name == "softmax")
    slow, fast = (predict.predicted(row, name)["predicted_ms"] for name in ("RTX4090", "H200"))
    assert slow / fast == pytest.approx(4.3 / 0.9, rel=0.05)


def test_a_row_that_cannot_be_lowered_says_why():
    row = gpu_table.Row(0, "wrong", lambda x: x.no_such_attribute, (gpu_table.single(3),), ())
    assert "AttributeError" in predict.attempted(row, "H200")["error"]
