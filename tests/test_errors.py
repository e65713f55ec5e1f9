"""What a user reads when something is wrong: their call, its shapes, their line with a caret, what to do, no frame of gradc."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
import traceback

import numpy as np
import pytest

import gradc
from gradc.errors import DTypeError, GradcError, ShapeError, TraceError, UnsupportedError, is_internal, user_source
from gradc.trace import trace

X, Y = gradc.spec((2, 3)), gradc.spec((4, 5))


def message(f, *arguments):
    with pytest.raises(GradcError) as info:
        trace(f, arguments)
    return str(info.value)


def test_the_whole_message():
    def f(x, y):
        return 1 + gradc.matmul(x * 2, y)

    text = message(f, X, Y)
    lines = text.splitlines()
    assert lines[0].startswith(
        "matmul(f32[2,3], f32[4,5]): the last dimension of the first, 3, is not the second last of the second, 4"
    )
    assert re.fullmatch(r"  .*test_errors\.py:\d+", lines[1])
    assert lines[2] == "    return 1 + gradc.matmul(x * 2, y)"
    assert lines[3] == "               ^^^^^^^^^^^^^^^^^^^^^^"
    assert "gradc.einsum" in lines[4]


def test_operators_show_themselves():
    assert message(lambda x, y: x + y, X, Y).startswith(
        "f32[2,3] + f32[4,5]: shapes (2, 3) and (4, 5) do not broadcast together"
    )
    assert message(lambda x, y: x @ y, X, Y).startswith("f32[2,3] @ f32[4,5]: ")
    assert message(lambda x, y: (x > 0) + (x < 1), X, Y).startswith("b1[2,3] + b1[2,3]: add takes numeric operands, got bool")
    assert message(lambda x, y: x[5], X, Y).startswith("f32[2,3][5]: index 5 is out of bounds for dimension 0 of shape (2, 3)")
    assert message(lambda x, y: x.sum(axis=2), X, Y).startswith("sum(f32[2,3], axis=2): axis 2 is out of range")
    assert message(lambda x, y: gradc.nn.layer_norm(x, 5), X, Y).startswith("layer_norm(f32[2,3], 5): normalized_shape (5,)")
    assert message(lambda x, y: gradc.softmax(x, axis=7), X, Y).startswith("softmax(f32[2,3], axis=7): ")


def test_values_are_not_known_while_tracing():
    def branch(x, y):
        if x.sum() > 0:
            return x
        return y

    text = message(branch, X, Y)
    assert "if x.sum() > 0:" in text
    assert "gradc.where" in text
    assert "gradc.cond" in text
    for f, advice in (
        (lambda x, y: float(x[0, 0]), "return it"),
        (lambda x, y: int(x[0, 0]), "static arguments"),
        (lambda x, y: range(x[0, 0]), "static arguments"),
        (lambda x, y: x[0, 0].item(), "static arguments"),
        (lambda x, y: gradc.sum(x, axis=y[0, 0]), "static arguments"),
        (lambda x, y: x.reshape(y[0, 0]), "static arguments"),
        (lambda x, y: gradc.zeros(y), "static arguments"),
        (lambda x, y: np.asarray(x), "functions of gradc"),
        (lambda x, y: np.linalg.norm(x), "function of gradc"),
        (lambda x, y: x.at[0].set("a"), "numpy.asarray"),
        (lambda x, y: x and y, "gradc.where"),
        (lambda x, y: 1 in x, "gradc.where"),
        (lambda x, y: sorted([x[0, 0], x[0, 1]]), "gradc.where"),
        (lambda x, y: len(x[0, 0]), "0-d"),
        (lambda x, y: list(x[0, 0]), "0-d"),
    ):
        assert advice in message(f, X, Y)


def test_assignment_says_at():
    def f(x, y):
        x[0] = 1
        return x

    text = message(f, X, Y)
    assert "x = x.at[index].set(value)" in text
    assert "    x[0] = 1\n    ^^^^" in text


def test_unknown_operands_are_left_to_python():
    with pytest.raises(TypeError, match="unsupported operand"):
        trace(lambda x: x + "a", (X,))
    with pytest.raises(TypeError, match="positional arguments"):
        trace(lambda x: gradc.exp(x, x), (X,))


def frames_of(error):
    return [frame.filename for frame in traceback.extract_tb(error.__traceback__)]


def test_no_frame_of_gradc_is_shown():
    with pytest.raises(ShapeError) as info:
        gradc.nn.cross_entropy(np.ones((2, 3)), np.ones((4,), np.int64))
    assert not any(is_internal(file) for file in frames_of(info.value))
    with pytest.raises(TraceError) as info:
        gradc.take(np.ones(3), "a")
    assert not any(is_internal(file) for file in frames_of(info.value))
    with pytest.raises(ShapeError, match="an axis is an integer, got 'rows'") as info:
        gradc.sum(np.ones(3), axis="rows")
    assert info.value.__context__ is not None  # gradc's own TypeError, which is not shown
    assert "During handling" not in "".join(traceback.format_exception(info.value))


def test_debugging_shows_every_frame(monkeypatch):
    monkeypatch.setenv("GRADC_DEBUG", "1")
    with pytest.raises(ShapeError) as info:
        gradc.matmul(np.ones(2), np.ones(3))
    assert any(is_internal(file) for file in frames_of(info.value))


def test_the_users_own_errors_pass_through():
    def f(x):
        try:
            return {}["missing"]
        except KeyError:
            return gradc.sum(x, axis=9)

    with pytest.raises(ShapeError) as info:
        trace(f, (X,))
    assert "During handling" in "".join(traceback.format_exception(info.value))  # the user's KeyError is theirs to see


def test_sources():
    source = user_source()
    assert source.text().strip() == "source = user_source()"
    assert source.pointed().endswith("    source = user_source()\n             ^^^^^^^^^^^^^")
    over_lines = trace(
        lambda x: gradc.sum(
            x,
            axis=0,
        ),
        (X,),
    ).graph.outputs[0]
    assert over_lines.source.pointed().splitlines()[1].strip() == "lambda x: gradc.sum("
    assert not is_internal(gradc.__file__.replace("gradc/__init__", "gradc_examples/model"))


def test_letters_before_the_caret():
    def f(x, y):
        return ("é∂", x + y)[1]

    lines = message(f, X, Y).splitlines()
    start = lines[2].index("x + y")
    assert lines[3].index("^") == start


def test_errors_are_ordinary_exceptions():
    assert issubclass(ShapeError, ValueError)
    assert issubclass(DTypeError, TypeError)
    assert issubclass(TraceError, TypeError)
    assert issubclass(UnsupportedError, NotImplementedError)
    error = ShapeError("a", advice="b")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)


def test_a_script_ends_at_its_own_line(tmp_path):
    script = tmp_path / "model.py"
    script.write_text("import numpy as np, gradc\nx = np.ones((2, 3))\ngradc.concat([x, x[:, :2]])\n")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.stderr.count('File "') == 1
    assert (
        "gradc.errors.ShapeError: concat([f64[2,3], f64[2,2]]): shapes (2, 3) and (2, 2) differ in another dimension than 0"
        in done.stderr
    )
