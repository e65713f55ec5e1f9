"""Whatever users call things, the emitted program is the same one: arguments, functions, variables, keys and files."""

from __future__ import annotations

import ast
import subprocess
import sys

import numpy as np
import pytest
import torch
from kernels import check, tensor
from renaming import PLAIN, STRUCTURES, choices, free_words, same_program, words, wrong

import gradc
from gradc.codegen.printing import expressions, online
from gradc.codegen.printing.names import LONGEST, RESERVED, Names, identifier
from gradc.errors import Source, printable

TEXTS = (
    "", " ", "_", "__", "1", "1x", "-1", "x-y", "x.y", "x y", "a\nb", "\n", "\r", "\r\nimport os\r\n", "\x0c", "\x00", "a\x00b", "\x1b[31m",
    "\u2028", "\u2029import os", "\x85", "'", '"', '"""', "'''", '"""\nimport os\n"""', "\\", "\\n", "\\N{BULLET}", "\\u202e", "\u202e", "\u2066",
    "\ud800", "\udcff", "{x}", "{", "%s", "#", "x  # y", "[red]", "[/]", "]]>", "<b>", "None", "True", "False", "def", "class", "lambda", "async",
    "match", "case", "type", "self", "cls", "ctx", "device", "print", "tuple", "range", "float", "zip", "any", "id", "input", "object", "__init__",
    "__class__", "__name__", "__debug__", "mro", "é", "naïve", "Ω", "\u2126", "ﬁ", "fi", "ſ", "K", "\u212a", "变量", "😀", "a\u200db", "x_ptr",
    "x_1", "x_1_1", "x_acc", "x_start", "X_BLOCK", "ROW_BLOCK", "COLUMNS", "in_row", "dx", "d_x", "d_out", "out", "x" * 5000, "forward", "backward",
    "expect", "larger", "smaller", "multiplied", "start", "first", "gradients", "num_warps", "num_stages", "grid", "warmup", "tl", "triton",
)  # fmt: skip


DEAR = ("chunks", "attention", "random", "long rows", "extremes", "split")  # every word of these: `python tests/renaming.py`


@pytest.fixture(autouse=True)
def lines_of_any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the length of a name, expressions are broken up alike."""
    monkeypatch.setattr(expressions, "INLINE_LENGTH", 10**6)
    monkeypatch.setattr(online, "LONG", 10**6)


@pytest.mark.parametrize("title", STRUCTURES)
def test_every_word_of_a_module_may_be_the_users(title):
    structure = STRUCTURES[title]
    plain = structure.source(PLAIN)
    assert not free_words(plain) - RESERVED, "names of Python's or an import's that no other name may hide"
    some = list(choices(structure, words(plain)))[:: 9 if title in DEAR else 1]
    assert [found for names in some if (found := wrong(structure, plain, names))] == []


def test_the_comparison_sees_what_is_wrong():
    text = "def f(x, y):\n    in_x = x < y\n    return larger(in_x, x)\ndef larger(a, b):\n    return a\n"
    assert same_program('""\n' + text, '""\n' + text.replace("in_x", "mask").replace("x", "z")) == ""
    assert "two things" in same_program('""\n' + text, '""\n' + text.replace("in_x", "x"))
    assert "hides" in same_program('""\n' + text, '""\n' + text.replace("in_x", "larger"))
    assert same_program('""\n' + text, '""\n' + text.replace("<", ">")) != ""


def emitted(argument: str, other: str = "other") -> gradc.Lowered:
    """A program in which an argument, a key, the function and its file are called so."""
    text, made = (
        "def f(**arrays):\n    x, w = arrays.values()\n    return {key: gradc.sum(x * x * w, axis=-1)}\n",
        {"gradc": gradc, "key": argument},
    )
    exec(compile(text, f"{argument}.py".replace("\0", "\1"), "exec"), made)  # Python itself refuses NUL in a file's name
    made["f"].__name__ = argument
    return gradc.compile(made["f"]).lower(**{argument: gradc.spec((5, 7)), other: gradc.spec((5, 7))})


def test_any_text_may_be_the_name_of_anything():
    plain = {
        sorts_first: emitted(*(("aqzxk", "bqzxk") if sorts_first else ("bqzxk", "aqzxk"))) for sorts_first in (True, False)
    }
    texts = [text for text in TEXTS if text != "device"]  # an option of `lower`
    for text, other in zip(texts, (*texts[1:], texts[0]), strict=True):
        low = emitted(text, other)
        assert same_program(low.source, plain[text < other].source) == "", (text, other)
        compile(low.source.encode(), "<emitted>", "exec")
        for shown in (low.source, low.explain(), str(low.ir), str(low.backward_ir), repr(low), *map(repr, low.saved)):
            assert all(line.isprintable() for line in shown.split("\n")), (text, other)
        assert low.explain().count("\n") == plain[text < other].explain().count("\n")


@pytest.mark.parametrize("file", ["a\nimport os.py", "\udcff\u2028.py", "x" * 200 + ".py"])
def test_a_program_runs_whatever_its_file_is_called(file):
    made: dict = {}
    exec(compile("def f(x):\n    return x * 2 + 1\n", file, "exec"), made)
    for backend in ("numpy", "interpret"):  # the second is kept on disk, under a key of the program's text
        assert gradc.compile(backend=backend)(made["f"])(np.ones(3, np.float32)).tolist() == [3, 3, 3]


@pytest.mark.parametrize(
    "names",
    [
        ("in_column", "in_row"),
        ("row", "column"),
        ("pid", "ROW_BLOCK"),
        ("larger", "smaller"),
        ("out", "dout"),
        ("tl", "multiplied"),
    ],
)
def test_kernels_compute_the_same_under_names_of_their_own(names):
    text = "def f({0}, {1}):\n    {0} = {0} * {1}\n    return {0}, lib.{max}({0}, {axis}=0){values}\n"
    made: dict = {}
    exec(text.format(*names, max="max", axis="axis", values="").replace("lib", "gradc"), {"gradc": gradc}, made)
    exec(
        text.format(*names, max="amax", axis="dim", values="").replace("def f", "def g").replace("lib", "torch"),
        {"torch": torch},
        made,
    )
    check(made["f"], made["g"], tensor(5, 7), tensor(5, 7, seed=1))


def test_the_exported_module_keeps_the_arguments_of_the_user(tmp_path):
    def ctx(device, self, input, gradients):
        return {"forward": device * self + input @ gradients}

    specs = [gradc.spec(shape, "float32") for shape in ((3, 4), (4,), (3, 5), (5, 4))]
    path = gradc.compile(ctx).lower(*specs).export(tmp_path / "kernels.py")
    found = next(x for x in ast.parse(path.read_text()).body if isinstance(x, ast.FunctionDef) and x.name == "ctx")
    assert [argument.arg for argument in found.args.args] == ["device", "self", "input", "gradients"]


CALLS = """
import importlib, torch
for place, name in enumerate(names):
    x = torch.arange(12.0).reshape(3, 4).requires_grad_()
    out = getattr(importlib.import_module(f"kernels_{place}"), name)(x)
    out.sum().backward()
    assert torch.equal(out, x * x) and torch.equal(x.grad, 2 * x), name
"""


def test_an_exported_module_runs_whatever_its_function_is_called(tmp_path):
    def square(ctx):
        return ctx * ctx

    names = []
    for place, title in enumerate(("tuple", "None", "F", "forward", "expect", "zip", "ValueError", "larger", "staticmethod")):
        square.__name__ = title
        path = gradc.compile(square).lower(gradc.spec((3, 4))).export(tmp_path / f"kernels_{place}.py")
        names.append([x.name for x in ast.parse(path.read_text("utf-8")).body if isinstance(x, ast.FunctionDef)][-1])
    environment = {"TRITON_INTERPRET": "1", "PATH": "", "PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", f"names = {names}\n{CALLS}"], cwd=tmp_path, env=environment, check=True)


def test_an_array_may_be_called_self_and_one_called_as_an_option_says_so():
    square = gradc.compile(lambda **given: next(iter(given.values())) ** 2)
    assert square(self=np.full(2, 3.0)).tolist() == [9, 9]
    assert "self_forward" not in square.lower(self=gradc.spec((2,))).source
    for option in ("wrt", "device", "deterministic", "memory_budget"):
        with pytest.raises(gradc.TraceError, match="by position"):
            square.lower(**{option: gradc.spec((2,))})


def test_names_are_given_once():
    module = Names()
    title, helper = module.fresh("loss", referred=False), module.fresh("helper")
    kernel = module.inside()
    assert [kernel.fresh(wish) for wish in ("x", "x", "x_1", "x", "loss", "helper")] == [
        "x",
        "x_1",
        "x_1_1",
        "x_2",
        "loss",
        "helper_1",
    ]
    assert [module.fresh(wish) for wish in (title, helper, "x_1")] == ["loss_1", "helper_2", "x_1_2"]
    assert module.inside().fresh("x") == "x"


@pytest.mark.parametrize("text", TEXTS)
def test_an_identifier_is_plain(text):
    name = identifier(text)
    assert name.isidentifier()
    assert name.isascii()
    assert name not in RESERVED
    assert len(name) <= LONGEST + len("value_") + 1


def test_what_is_not_printable_is_escaped():
    assert printable("a\nb\0\u2028\u202e\udcff\x1b[31m") == r"a\nb\x00\u2028\u202e\udcff\x1b[31m"
    assert printable("naïve 变量 😀 ∂/∂x") == "naïve 变量 😀 ∂/∂x"
    assert str(Source("folder/a\nimport os.py", 3)) == r"a\nimport os.py:3"


def test_errors_are_printable(tmp_path):
    def f(x):
        return {"a\nb\u2028": x, "c\x1b[2J": object()}

    with pytest.raises(gradc.TraceError) as info:
        gradc.compile(f)(np.ones(3))
    assert r"at c\x1b[2J of its result" in str(info.value)
    with pytest.raises(gradc.TraceError) as info:
        gradc.compile(lambda x: x["\n"])({"\n": np.ones(3), "\x00\u202e": bytearray(3)})
    assert r"(at \x00\u202e)" in str(info.value)
