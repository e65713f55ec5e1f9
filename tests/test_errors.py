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
    assert "static arguments" in text
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


def shown(call):
    """The error of a call, which shows no frame of gradc."""
    with pytest.raises(Exception) as info:  # noqa: PT011
        call()
    assert not any(is_internal(file) for file in frames_of(info.value)), traceback.format_exception(info.value)
    return info.value


def test_the_users_mistakes_inside_a_compiled_function():
    x = np.ones((3, 4))
    error = shown(lambda: gradc.compile(lambda x: gradc.sofmax(x))(x))
    assert isinstance(error, AttributeError)
    assert str(error) == "module 'gradc' has no attribute 'sofmax'. Did you mean 'softmax'?"
    error = shown(lambda: gradc.compile(lambda x: x.summ())(x))
    assert str(error) == "f64[3,4], an array that is being traced, has no attribute 'summ'. Did you mean 'sum'?"
    assert "axis: " in str(shown(lambda: gradc.compile(lambda x: gradc.sum(x, dim=-1))(x)))
    assert "missing a required argument: 'y'" in str(shown(lambda: gradc.compile(lambda x, y: x)(x)))
    assert isinstance(shown(lambda: gradc.compile(lambda x: x)(x, x)), TraceError)
    assert isinstance(shown(lambda: gradc.compile(lambda x: {}["missing"])(x)), KeyError)


def test_every_public_boundary_hides_frames():
    x = np.ones(3)
    for call in (
        lambda: gradc.compile(backend="cuda"),
        lambda: gradc.compile(static_argnames="eps")(lambda x: x),
        lambda: gradc.spec((3,), "bf17"),
        lambda: gradc.spec((3, -4)),
        lambda: gradc.grad(lambda x: x)(x),
        lambda: gradc.grad(gradc.sum)(np.ones(3, np.int32)),
        lambda: gradc.grad(gradc.sum, argnums=5)(x),
        lambda: gradc.jvp(gradc.sum, (x,), (np.ones(4),)),
        lambda: gradc.vmap(gradc.sum, 3)(x),
        lambda: gradc.compile(lambda x: x).lower(x, wrt=7),
    ):
        assert isinstance(shown(call), GradcError)


def test_what_compile_takes():
    with pytest.raises(TraceError, match=r"compile\(backend='triton'\)"):
        gradc.compile("triton")
    with pytest.raises(TraceError, match="a spec has no elements"):
        gradc.compile(lambda x: x)(X)
    with pytest.raises(TraceError, match=r"argument 'shape' is a list(.|\n)*Pass a tuple"):
        gradc.compile(static_argnames="shape")(lambda x, shape: x.reshape(shape))(np.ones(4), [2, 2])


def test_what_is_not_installed(monkeypatch):
    monkeypatch.setattr("gradc.errors.find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match=r"needs torch and triton(.|\n)*pip install 'gradc\[triton\]'"):
        gradc.compile(backend="interpret")(lambda x: x)(np.ones(3))
    with pytest.raises(UnsupportedError, match="build needs"):
        gradc.compile(lambda x: x * 2).lower(X).build()


def test_advice_fits_the_line():
    def loop(x, y):
        while x.sum() > 0:
            x = x - 1
        return x

    def chain(x, y):
        return 0 < x < 1

    def both(x, y):
        return (x > 0) and (y > 0)

    def largest(x, y):
        return max(x, 0.0)

    def branch(x, y):
        if x.sum() > 0 and y.sum() > 0:
            return x
        return y

    for f, advice in (
        (loop, "rounds of a loop"),
        (chain, "(0 < x) & (x < 1)"),
        (both, "Write `&`"),
        (largest, "gradc.maximum"),
        (branch, "gradc.where"),
    ):
        text = message(f, X, Y)
        assert advice in text
        assert text.startswith("the truth of b1[")
        assert text.count("the truth") == 1


def test_shape_errors_say_what_to_do():
    for f, advice in (
        (lambda x, y: x + y, "must be equal or 1"),
        (lambda x, y: x.reshape(5, -1), "-1 stands for"),
        (lambda x, y: gradc.concat([x, y]), "along `axis` may differ"),
        (lambda x, y: gradc.sum(x, axis=7), "Axes are -2..1"),
    ):
        assert advice in message(f, X, Y)
