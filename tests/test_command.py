"""The command line: what each command prints, its exit status, and that a user's mistake is told in words, not a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import gradc
from gradc.errors import printable
from gradc.runtime.cache import DiskCache
from gradc.runtime.command import bench, check, doctor, main
from gradc.runtime.command.errors import CommandError
from gradc.runtime.command.target import Ranged, loaded_function

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = """
import gradc


@gradc.compile
def rms_norm(x, w, eps=1e-6):
    return x * gradc.rsqrt(gradc.mean(x * x, axis=-1, keepdims=True) + eps) * w


def linear(layers, x, *, scale=1.0):
    return gradc.sum((x @ layers[0]["w"] + layers[0]["b"]) * scale)


def half_differentiated(x):
    return x * gradc.stop_gradient(x)


def mismatched(x):
    return x @ gradc.ones((3, 7))


def divides_by_zero(x):
    return 1 / 0


def logarithm(x):
    return gradc.log(x)


NUMBER = 7
"""
RMS = ("--arg", "x=bf16[64,128]", "--arg", "w=bf16[128]")


@pytest.fixture
def program(tmp_path):
    """A file with functions to look at; `program("f")` is how the command line names one."""
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    return lambda name: f"{file}:{name}"


@pytest.fixture
def cache_folder(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("GRADC_CACHE_DIR", str(folder))
    return folder


def lowered(program, *shapes):
    return loaded_function(program("rms_norm")).lower(*(gradc.spec(shape, "bfloat16") for shape in shapes))


# inspect


def test_source_is_printed_as_it_is(program, capsys):
    assert main(["inspect", program("rms_norm"), *RMS, "--source"]) == 0
    assert capsys.readouterr().out == lowered(program, (64, 128), (128,)).source


def test_every_view_is_shown_by_default(program, capsys):
    assert main(["inspect", program("rms_norm"), *RMS]) == 0
    shown, low = capsys.readouterr().out, lowered(program, (64, 128), (128,))
    assert low.explain() in shown
    for text in (*(kernel.name for kernel in low.kernels), "Kept for the backward", "rsqrt", "Cost", "launches"):
        assert text in shown


def test_wrt_none_and_static(program, capsys):
    assert main(["inspect", program("rms_norm"), *RMS, "--wrt", "none", "--static", "eps=0.25", "--ir"]) == 0
    shown = capsys.readouterr().out
    assert "constant[0.25]" in shown
    assert "backward" not in shown


def test_nested_arguments_of_a_plain_function(program, capsys):
    arrays = [f"--arg=layers.0.{name}=f32[{shape}]" for name, shape in (("w", "5,4"), ("b", "4"))]
    assert main(["inspect", program("linear"), "--arg", "x=f32[6,5]", *arrays, "--ir"]) == 0
    assert "layers_0_w: f32[5,4]" in capsys.readouterr().out


def test_export(program, tmp_path, capsys):
    file = tmp_path / "kernels.py"
    assert main(["inspect", program("rms_norm"), *RMS, "--export", str(file)]) == 0
    assert file.read_text() == lowered(program, (64, 128), (128,)).source
    assert main(["inspect", program("rms_norm"), *RMS, "--export", str(tmp_path / "absent" / "kernels.py")]) == 1
    assert "No such file" in capsys.readouterr().err


@pytest.mark.parametrize("stem", ["[red]", "[bold]a b", "a\nimport os", "\udcff", "__main__", "1x", "\x1b[2J"])
def test_a_file_may_be_called_anything(stem, tmp_path, capsys):
    """Names are shown as they are, or escaped; nothing in them is read as a command to the terminal."""
    file, made = tmp_path / f"{stem}.py", tmp_path / f"{stem}.made.py"
    file.write_text(PROGRAM + "\ndef raises(x):\n    raise ValueError('\\x1b[2J')\n")
    for arguments, status, said in (
        (["inspect", f"{file}:linear", "--arg=x=f32[4]"], 1, "needs layers"),
        (["inspect", f"{file}:[red]none"], 1, "has no function"),
        (["inspect", f"{file}:mismatched", "--arg=x=f32[2,2]"], 1, "@ gradc.ones"),
        (["inspect", f"{file}:raises", "--arg=x=f32[2]"], 1, r"\x1b[2J"),
        (["inspect", f"{file}:logarithm", "--arg=x=f32[2]", f"--export={made}"], 0, f"wrote {printable(str(made))}"),
    ):
        assert main(arguments) == status
        shown = "".join(capsys.readouterr())
        assert said in shown
        assert all(line.isprintable() for line in shown.split("\n")), shown
    assert "logarithm" in made.read_text("utf-8")


@pytest.mark.triton
def test_build(program, capsys):
    pytest.importorskip("triton")
    assert main(["inspect", program("rms_norm"), *RMS, "--build", "sm_90"]) == 0
    shown = capsys.readouterr().out
    assert "Built for sm_90" in shown
    assert "rms_norm_backward" in shown


def test_building_without_triton(program, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    assert main(["inspect", program("rms_norm"), *RMS, "--build", "sm_90"]) == 1
    assert "gradc[triton]" in capsys.readouterr().err


def test_the_current_folder_is_searched_for_modules(tmp_path, monkeypatch, capsys):
    (tmp_path / "a_users_module.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert main(["inspect", "a_users_module:logarithm", "--arg", "x=f32[4]", "--cost"]) == 0
    assert "forward" in capsys.readouterr().out


# Mistakes


MISTAKES = [
    (("rms_nrm",), "It has rms_norm"),
    (("NUMBER",), "cannot be called"),
    (("rms_norm", "--arg", "x=f32[4]"), "needs w"),
    (("rms_norm", "--arg", "y=f32[4]"), "parameters are x, w, eps"),
    (("rms_norm", *RMS, "--wrt", "7"), "argument 7"),
    (("mismatched", "--arg", "x=f32[2,4]"), "return x @ gradc.ones((3, 7))\n           ^^^^"),
    (("divides_by_zero", "--arg", "x=f32[2]"), "ZeroDivisionError: division by zero"),
]


@pytest.mark.parametrize(("words", "told"), MISTAKES, ids=lambda value: value[0] if isinstance(value, tuple) else "")
def test_a_mistake_is_told_without_a_traceback(words, told, program, capsys):
    assert main(["inspect", program(words[0]), *words[1:]]) == 1
    error = capsys.readouterr().err
    assert error.startswith("gradc inspect: ")
    assert told in error
    assert "Traceback" not in error


def test_an_error_of_the_users_shows_their_line(program, capsys):
    main(["inspect", program("divides_by_zero"), "--arg", "x=f32[2]"])
    assert "program.py:" in capsys.readouterr().err


def test_a_bug_of_gradcs_is_said_to_be_one(program, capsys, monkeypatch):
    monkeypatch.setattr("gradc.runtime.command.inspection.show", None)
    assert main(["inspect", program("rms_norm"), *RMS]) == 1
    assert "This is a bug of gradc" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("function", "told"),
    [("no_such_module_:f", "no module"), ("nothing.py:f", "no file"), ("rms_norm", "names no function"), ("m:", "no function")],
)
def test_a_function_that_is_not_there(function, told, capsys):
    assert main(["inspect", function]) == 1
    assert told in capsys.readouterr().err


def test_a_file_that_does_not_parse(tmp_path, capsys):
    (tmp_path / "broken.py").write_text("def f(x):\n    return x +\n")
    assert main(["inspect", f"{tmp_path / 'broken.py'}:f", "--arg", "x=f32[2]"]) == 1
    error = capsys.readouterr().err
    assert "return x +" in error
    assert "bug of gradc" not in error


def test_debugging_shows_the_traceback(program, monkeypatch):
    monkeypatch.setenv("GRADC_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(["inspect", program("divides_by_zero"), "--arg", "x=f32[2]"])


@pytest.mark.parametrize("words", [[], ["nothing"], ["demo", "--epochs", "0"], ["inspect", "m:f", "--build", "sm90"]], ids=str)
def test_a_wrong_command_line(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "usage: gradc" in capsys.readouterr().err


# check


@pytest.mark.triton
def test_check_of_a_right_function(program, capsys):
    pytest.importorskip("triton")
    assert main(["check", program("rms_norm"), "--arg", "x=f32[3,8]", "--arg", "w=f32[8]"]) == 0
    shown = capsys.readouterr().out
    assert "gradient: ok" in shown
    for name in ("out", "dx", "dw"):
        assert name in shown


@pytest.mark.triton
def test_check_of_a_wrong_kernel(program, capsys, monkeypatch):
    pytest.importorskip("triton")
    reference = check.Executable.run

    def run(self, arrays):
        results = reference(self, arrays)
        return [result + 0.01 for result in results] if self.backend == "interpret" else results

    monkeypatch.setattr(check.Executable, "run", run)
    assert main(["check", program("logarithm"), "--arg", "x=f32[6]:0.5..2", "--wrt", "none"]) == 1
    assert "FAILED" in capsys.readouterr().out


def test_check_of_a_wrong_gradient(program, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    assert main(["check", program("half_differentiated"), "--arg", "x=f32[3]"]) == 1
    shown = capsys.readouterr().out
    assert "gradient: FAILED" in shown
    assert "argument x differs at index (0,)" in shown
    assert "left out" in shown


def test_check_takes_arguments_by_keyword_and_of_any_structure(program, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    arrays = ["--arg=x=f64[2,3]", "--arg=layers.0.w=f64[3,2]", "--arg=layers.0.b=f64[2]", "--arg=scale=f64[]"]
    assert main(["check", program("linear"), *arrays, "--order", "2"]) == 0
    assert "up to order 2" in capsys.readouterr().out


def test_random_inputs_lie_where_they_should():
    random = np.random.default_rng(0)
    floats = check.sample(Ranged(gradc.spec((500,), "bfloat16"), (0.5, 2.0)), random)
    assert floats.dtype.name == "bfloat16"
    assert floats.min() >= 0.5
    assert floats.max() <= 2
    assert set(check.sample(Ranged(gradc.spec((500,), "int32"), (-1, 2)), random)) == {-1, 0, 1, 2}
    assert set(check.sample(Ranged(gradc.spec((500,), "int64")), random)) == {0, 1}
    with pytest.raises(CommandError, match="small shapes"):
        check.sample(Ranged(gradc.spec((2**21,))), random)


def test_the_difference_of_two_arrays():
    inf, nan = np.inf, np.nan
    assert check.apart(np.array([1.0, 2.5]), np.array([1.0, 2.0])) == 0.25
    assert check.apart(np.array([inf, nan, 2.0]), np.array([inf, nan, 2.0])) == 0
    for got in ([nan, 2.0], [inf, 2.0], [1.0, -inf]):
        assert check.apart(np.array(got), np.array([1.0, 2.0])) == inf
    assert check.apart(np.array([1.0, 2.0]), np.array([nan, 2.0])) == inf
    assert check.apart(np.zeros(2), np.zeros(3)) == inf
    assert check.apart(np.zeros(0), np.zeros(0)) == 0


# cache, doctor, bench


def test_cache(cache_folder, capsys):
    assert main(["cache"]) == 0
    assert "0 entries" in capsys.readouterr().out
    DiskCache().put("a" * 40, {"module.py": '"""a_function(x f32[2]), forward.\n"""\n'})
    DiskCache().put("b" * 40, {"counts.json": "{}"})
    assert main(["cache"]) == 0
    shown = capsys.readouterr().out
    for text in ("2 entries", "aaaaaaaaaaaa", "a_function(x f32[2]), forward.", "a built kernel"):
        assert text in shown
    assert main(["cache", "path"]) == 0
    assert capsys.readouterr().out.strip() == str(cache_folder)
    assert main(["cache", "--clear"]) == 0
    assert "removed 2 of 2" in capsys.readouterr().out
    assert DiskCache().entries() == ()


def test_cache_lists_the_latest_unless_all_are_asked_for(cache_folder, capsys, monkeypatch):
    monkeypatch.setattr("gradc.runtime.command.cache.LATEST", 2)
    for number, key in enumerate("abc"):
        os.utime(DiskCache().put(key * 12, {"text.txt": key}), (number, number))
    main(["cache"])
    shown = capsys.readouterr().out
    assert "aaaa" not in shown
    assert "cccc" in shown
    main(["cache", "--all"])
    assert "aaaa" in capsys.readouterr().out


def test_a_damaged_entry_is_said_to_be_one(cache_folder, capsys):
    folder = DiskCache().put("a" * 12, {"module.py": "text"})
    (folder / "module.py").write_text("other text")
    with pytest.warns(match="checksum"):
        main(["cache"])
    assert "damaged" in capsys.readouterr().out


def test_doctor_without_torch(cache_folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for text in ("numpy", str(cache_folder), "a softmax is right", "pip install 'gradc[triton]'"):
        assert text in shown
    assert DiskCache().entries() == ()


@pytest.mark.triton
def test_doctor_builds_and_interprets(cache_folder, capsys):
    pytest.importorskip("triton")
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "kernels of a softmax" in shown
    assert shown.count("a softmax is right") == 2


def test_doctor_fails_where_something_is_broken(cache_folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(doctor.OPTIONAL, "scikit-learn", (99, 0))
    cache_folder.mkdir(mode=0o700)
    cache_folder.chmod(0o777)
    with pytest.warns(match="others may write"):
        assert main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "cannot be used" in shown
    assert "older than 99.0" in shown


def test_doctor_fails_where_results_are_wrong(monkeypatch):
    monkeypatch.setattr(doctor, "softmax", lambda x: gradc.softmax(x, axis=0))
    finding = doctor.tried("NumPy reference", lambda: doctor.softmax_difference("numpy"))
    assert finding.mark == "failed"
    assert "wrong by" in finding.found


def test_bench_runs_the_checkouts_benchmarks(capsys, monkeypatch):
    called = []
    monkeypatch.setattr(
        bench.subprocess, "run", lambda command, cwd: called.append((command, cwd)) or subprocess.CompletedProcess(command, 3)
    )
    assert main(["bench", "--build", "rms_norm"]) == 3
    assert called == [([sys.executable, "-m", "benchmarks", "--build", "rms_norm"], ROOT)]


def test_bench_outside_a_checkout_says_where_they_are(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench.gradc, "__file__", str(tmp_path / "gradc" / "__init__.py"))
    assert main(["bench"]) == 1
    assert "Clone the repository" in capsys.readouterr().err


# As a program


def test_the_entry_point_and_the_module_are_the_same_command(tmp_path):
    module, _, name = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["gradc"].partition(":")
    assert getattr(import_module(module), name) is main
    shown = subprocess.run(
        [sys.executable, "-m", "gradc", "--version"], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert shown.stdout.startswith("gradc ")


def test_a_reader_that_stops_reading_is_no_error(program, tmp_path):
    command = [sys.executable, "-m", "gradc", "inspect", program("rms_norm"), *RMS, "--source"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 0


def test_results_of_a_command_are_loaded_late():
    code = "import sys, json; import gradc.runtime.command; print(json.dumps([n for n in ('rich', 'torch', 'triton', 'sklearn') if n in sys.modules]))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(shown.stdout) == []
