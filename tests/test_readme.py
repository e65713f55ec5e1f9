"""README.md: its blocks run, what is shown below them is what they print, its figures are those of today, its names and paths exist.

The figures file is compared with fresh counts too, so that a table cannot be both rendered and old.
"""

from __future__ import annotations

import json
import re
import shlex
from importlib import import_module

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

import gradc
from benchmarks import readme, run
from benchmarks.workloads import workload
from gradc.runtime.command import main, parser

pytestmark = pytest.mark.triton

TEXT = readme.README.read_text(encoding="utf-8")
FIGURES = json.loads(readme.LAUNCHES.read_text())
CODE = "\n".join(match["code"] for match in readme.PART.finditer(TEXT) if match["code"])
WORDS = readme.PART.sub("", TEXT)  # without python blocks and what is rendered
COMMANDS = [line.partition("#")[0] for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]


def test_every_block_runs_and_prints_what_stands_below_it(tmp_path):
    want, got = readme.rendered(TEXT, tmp_path, FIGURES).splitlines(), TEXT.splitlines()
    assert got == want, "run `make readme`, and read what changed"


def test_what_is_rendered_replaces_what_stood_there(tmp_path):
    page = "before\n```python\nprint(1 + 1)\n```\n<!-- prints -->\nold\n<!-- end -->\n<!-- launches -->\nold\n<!-- end -->\nafter\n"
    got = readme.rendered(page, tmp_path, {"workloads": {"softmax": FIGURES["workloads"]["softmax"]}})
    assert got.startswith(
        "before\n```python\nprint(1 + 1)\n```\n<!-- prints -->\n```text\n2\n```\n<!-- end -->\n<!-- launches -->\n|"
    )
    assert "| `softmax` | 2 | 2 | 671.1 | 671.1 | 0 | 0 |" in got
    assert got.endswith("<!-- end -->\nafter\n")
    assert "old" not in got


def test_a_block_that_fails_is_not_passed_over(tmp_path):
    with pytest.raises(ZeroDivisionError):
        readme.rendered("```python\n1 / 0\n```\n", tmp_path, FIGURES)


def test_nothing_is_said_of_where_the_page_was_made(tmp_path):
    page = "```python\nprint(__import__('pathlib').Path('x.py').resolve())\n```\n<!-- prints -->\n<!-- end -->\n"
    assert str(tmp_path) not in readme.rendered(page, tmp_path, FIGURES)


def test_where_inductor_needs_less_is_said():
    worse = {
        "a": {"launches": 3, "bytes": 5, "saved_new_bytes": 0, "inductor": {"launches": 2, "bytes": 5, "saved_new_bytes": 0}}
    }
    assert "in launches: `a`." in readme.exceptions({"workloads": worse})
    assert "nowhere" in readme.exceptions({"workloads": {}})


@pytest.mark.parametrize("name", FIGURES["workloads"])
def test_the_figures_are_those_of_today(name):
    fresh = run.launches(workload(name))
    kept = {key: FIGURES["workloads"][name].get(key) for key in ("launches", "bytes", "saved_new_bytes", "inductor")}
    assert kept == {key: fresh[key] for key in kept}, "run `make benchmarks` and `make readme`"


def test_paths_exist():
    links = {link for link in re.findall(r"\]\(([^)]+)\)", WORDS) if "://" not in link}
    assert len(links) > 10
    assert not [link for link in links if not (readme.ROOT / link.partition("#")[0]).exists()]
    files = set(re.findall(r"`((?:benchmarks|codegen|gradc|runtime|tests)/[\w/]+\.\w+)`", WORDS))
    assert not [file for file in files if not (readme.ROOT / file).exists()]


def test_names_exist():
    there = WORDS.partition("## What is not there yet")[0]
    names = {"grad", "value_and_grad", "vjp", "jvp", "linearize", "jacrev", "jacfwd", "hessian", "vmap", "stop_gradient"}
    assert all(f"`{name}`" in there for name in names)
    names |= set(re.findall(r"`gradc\.(\w+)", there))
    assert not [name for name in names if not hasattr(gradc, name)]
    errors = set(re.findall(r"`(\w+Error)`", WORDS))
    assert len(errors) == 6
    assert not [name for name in errors if not issubclass(getattr(gradc, name), gradc.GradcError)]


MISSING = ["sort", "topk", "scan", "cond", "while_loop", "checkpoint", "custom_vjp", "custom_jvp", "nn.conv2d", "nn.max_pool2d"]


@pytest.mark.parametrize("name", MISSING)
def test_what_is_said_to_be_missing_is(name):
    where, _, last = f"gradc.{name}".rpartition(".")
    assert not hasattr(import_module(where), last), f"gradc.{name} is there: take it off the README's list, and this one"


def test_commands_are_those_of_the_makefile():
    targets = set(re.findall(r"^(\w+):", (readme.ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {word for text in (*COMMANDS, *re.findall(r"`([^`\n]+)`", WORDS)) for word in re.findall(r"^make (\w+)", text)}
    assert {"demo", "test"} <= named <= targets


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("gradc ")])
def test_command_lines_are_understood(line, tmp_path, monkeypatch, capsys):
    """`inspect` is run; the others take seconds and have tests of their own."""
    arguments = shlex.split(line)[1:]
    parser().parse_args(arguments)
    if arguments[0] == "inspect":
        (tmp_path / "norm.py").write_text(CODE[: CODE.index("low = ")])
        monkeypatch.chdir(tmp_path)
        assert main(arguments) == 0
        assert "rms_norm_backward" in capsys.readouterr().out
