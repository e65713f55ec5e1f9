"""A few of PyTorch's operator samples, those with special values among them; `python -m tests.opinfo` runs all."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("torch")

from opinfo import CONVENTIONS, MARK, PAGE, UNNAMED, comparisons, convention, counterpart, operators

CHOSEN = ("logaddexp", "clamp", "where", "index_select")


@pytest.fixture(scope="module")
def chosen():
    return {op.name: op for op in operators() if op.name in CHOSEN and not op.variant_test_name}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CHOSEN)
def test_values_and_gradients_are_torchs_or_differ_by_a_named_convention(chosen, name):
    found = list(comparisons(chosen[name], counterpart(chosen[name])))
    assert len(found) > 5
    assert not [f"{c} [{c.sample}]" for c in found if convention(c) == UNNAMED]


def test_every_difference_on_the_page_is_a_convention():
    named = re.findall(r"^- (.*) \(\d+\)$", PAGE.read_text().partition(MARK)[2], re.MULTILINE)
    assert named
    assert set(named) <= set(CONVENTIONS.values())
