"""Functions and arguments as the command line names them: read as names, numbers and literals, and never evaluated."""

from __future__ import annotations

import pytest

import gradc
from gradc.runtime.command.errors import CommandError
from gradc.runtime.command.target import Ranged, bound, nested, parsed_array, parsed_static, wrt_of


@pytest.mark.parametrize(
    ("text", "path", "array"),
    [
        ("x=bf16[8192,4096]", ("x",), Ranged(gradc.spec((8192, 4096), "bfloat16"))),
        ("n=f32[]", ("n",), Ranged(gradc.spec((), "float32"))),
        ("labels=int32[ 4, ]:0..9", ("labels",), Ranged(gradc.spec((4,), "int32"), (0.0, 9.0))),
        ("params.0.w=f64[2,3]:-0.5..1e-2", ("params", "0", "w"), Ranged(gradc.spec((2, 3), "float64"), (-0.5, 0.01))),
    ],
)
def test_an_array_argument(text, path, array):
    assert parsed_array(text) == (path, array)


@pytest.mark.parametrize("text", ["x", "x=bf16", "x=bf16[a]", "x=bf16[-1]", "=f32[2]", "x=f32[2]:3", "x=f32[1,,2]", "0=f32[2]"])
def test_what_is_no_array_argument(text):
    with pytest.raises(CommandError, match=r"Write name=dtype\[shape\]"):
        parsed_array(text)


def test_an_unknown_dtype():
    with pytest.raises(gradc.DTypeError, match="float32"):
        parsed_array("x=f33[2]")


def test_static_arguments_are_literals_and_are_not_evaluated():
    assert parsed_static("eps=1e-5") == ("eps", 1e-5)
    assert parsed_static("shape=(2, 3)") == ("shape", (2, 3))
    assert parsed_static("mode=sum") == ("mode", "sum")
    assert parsed_static("x=__import__('os')") == ("x", "__import__('os')")
    with pytest.raises(CommandError, match="eps=1e-6"):
        parsed_static("eps")


def test_arrays_by_path_make_lists_and_dicts():
    a, b, c = (Ranged(gradc.spec((size,))) for size in (1, 2, 3))
    assert nested([(("p", "1"), b), (("p", "0", "w"), a), (("x",), c)]) == {"p": [{"w": a}, b], "x": c}
    assert nested([(("p", "1"), b), (("p", "2"), a)]) == {"p": {"1": b, "2": a}}
    for twice in ([(("x",), a), (("x",), b)], [(("x",), a), (("x", "w"), b)], [(("x", "w"), a), (("x",), b)]):
        with pytest.raises(CommandError):
            nested(twice)


def test_arguments_go_to_their_parameters_in_order():
    def function(x, w=None, *, scale=1.0): ...

    assert bound(function, "function", {"scale": 2, "w": 1, "x": 0}) == ((0, 1), {"scale": 2})
    assert bound(function, "function", {"x": 0}) == ((0,), {})
    with pytest.raises(CommandError, match="parameters are x, w, scale"):
        bound(function, "function", {"x": 0, "y": 1})
    with pytest.raises(CommandError, match="needs x"):
        bound(function, "function", {"w": 0})


def test_wrt():
    assert wrt_of(None) is None
    assert wrt_of("none") == ()
    assert wrt_of("0,2") == (0, 2)
    with pytest.raises(CommandError, match="0,2"):
        wrt_of("x")
