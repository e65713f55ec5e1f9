"""dtypes beside what NumPy, torch and Python call them: the same answer within a trace and outside."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest

import gradc
from gradc.errors import DTypeError
from gradc.types import DTYPES

torch = pytest.importorskip("torch")


def spellings(name):
    """Everything a program may call a dtype, of NumPy, torch and gradc."""
    scalar = getattr(ml_dtypes, name, None) or DTYPES[name].numpy.type
    return name, DTYPES[name], np.dtype(scalar), scalar, getattr(torch, name)


@pytest.mark.parametrize("name", DTYPES)
def test_a_dtype_equals_what_others_call_it_from_either_side(name):
    dtype = DTYPES[name]
    for other in DTYPES:
        for spelling in spellings(other):
            same = name == other
            assert (dtype == spelling, spelling == dtype, dtype in (spelling,)) == (same, same, same), spelling
            assert (dtype != spelling, spelling != dtype) == (not same, not same), spelling


@pytest.mark.parametrize("name", DTYPES)
def test_a_branch_on_a_dtype_is_the_same_traced_and_not(name):
    array = np.ones(2, DTYPES[name].numpy)
    questions = [
        lambda x: x.dtype == np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name),
        lambda x: x.dtype in (np.float32, np.int8, np.bool_),
        lambda x: np.dtype("float64") == x.dtype,
        lambda x: np.float16 != x.dtype,
        lambda x: x.dtype.name == "float32",
        lambda x: x.dtype == "int64",
        lambda x: np.issubdtype(x.dtype, np.integer),
        lambda x: x.dtype.itemsize,
        lambda x: np.zeros(1, x.dtype).dtype == x.dtype,
        lambda x: {np.float32: 1}.get(x.dtype, 0),
        *([lambda x: x.dtype.kind] if name != "bfloat16" else []),
    ]
    seen = []
    gradc.compile(lambda x: seen.extend(ask(x) for ask in questions) or x)(array)
    assert seen == [ask(array) for ask in questions]


@pytest.mark.parametrize("name", [name for name in DTYPES if not name.startswith("uint") or name == "uint8"])
def test_a_branch_on_torchs_dtypes_is_the_same_traced_and_not(name):
    tensor = torch.ones(2, dtype=getattr(torch, name))
    questions = [lambda x, other=other: x.dtype == getattr(torch, other) for other in DTYPES]
    questions.append(lambda x: x.dtype in (torch.float16, torch.bfloat16))
    seen = []
    gradc.compile(lambda x: seen.extend(ask(x) for ask in questions) or x)(tensor)
    assert seen == [ask(tensor) for ask in questions]


@pytest.mark.parametrize("name", DTYPES)
def test_a_hash_is_that_of_the_name(name):
    assert {name: 1}[DTYPES[name]] == 1
    assert DTYPES[name] in {name}
    assert {DTYPES[name]: 1}[name] == 1


@pytest.mark.parametrize("other", [None, 3, object(), "float99", np.complex64, np.generic, np.floating, str, torch.complex64])
def test_a_dtype_differs_from_what_is_none(other):
    assert not any(dtype == other for dtype in DTYPES.values())


@pytest.mark.parametrize(("dtype", "other"), list(itertools.product([gradc.float32, gradc.int8], [float, "i8", "u8", "f16"])))
def test_a_name_of_two_meanings_is_refused(dtype, other):
    """`float` and "i8" are float32 and int8 in gradc, float64 and int64 in NumPy: either answer takes a wrong branch."""
    with pytest.raises(DTypeError, match="dtype == other"):
        assert dtype == other


def test_none_is_no_dtype_where_one_is_asked_for():
    with pytest.raises(DTypeError, match="None is no dtype"):
        gradc.astype(np.ones(2), None)
