"""The compiler knows no function by name: nothing in `codegen/` says what users call their models' parts."""

from __future__ import annotations

import re
from pathlib import Path

import gradc.codegen as codegen
from gradc import nn

FOLDER = Path(codegen.__file__).parent
PARTS = r"soft_?max|attention|logits?|loss(es)?|rms|(layer|batch|group)_?norm|norms?|entropy|embedding|dropout|flash|rope|gelu|silu|swiglu|vocabulary|adam|sgd"
GENERAL = {"linear", "normalize", "pad", "tanh", "threshold", "one_hot"}
"""Words of `gradc.nn` that mathematics and array languages had before: an index can be linear in a position."""


def named(text: str) -> list[str]:
    whole = "|".join(sorted(set(nn.__all__) - GENERAL))
    return [found.group() for found in re.finditer(rf"(?<![a-z])({whole}|{PARTS})(?![a-z])", text.lower())]


def test_the_search_finds_names():
    assert named("def softmax_rows(x):  # the LayerNorm of a loss") == ["softmax", "layernorm", "loss"]
    assert named("a normal form, linear in position; glossy") == []


def test_the_compiler_names_no_function_of_models():
    files = sorted(path for path in FOLDER.rglob("*") if path.suffix in {".py", ".json", ".md"})
    assert len(files) > 40
    assert {path.name: names for path in files if (names := named(path.read_text()))} == {}
