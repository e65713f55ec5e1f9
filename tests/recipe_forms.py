"""The forms that ordinary programs meet on long rows; `python tests/recipe_forms.py` rewrites `codegen/cascades/recipes.json`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from unittest import mock

import gradc
from gradc import nn, types
from gradc.codegen import roles
from gradc.codegen.cascades import recipes
from gradc.codegen.cascades.cascade import Refusal
from gradc.codegen.cascades.recipes import Recipe, Recipes
from gradc.codegen.lower import lower_graph, lower_pair
from gradc.runtime.compile import program_of

FILE = Path(recipes.__file__).with_name("recipes.json")


def entropy(x):
    return -gradc.sum(gradc.softmax(x) * gradc.log_softmax(x), axis=-1)


def shifted(x):
    """A sum of exponentials written out."""
    return gradc.log(gradc.sum(gradc.exp(x - gradc.max(x, axis=-1, keepdims=True)), axis=-1))


def divergence(x, y):
    """Of the distribution of one row of scores from that of another."""
    log_p, log_q = gradc.log_softmax(x), gradc.log_softmax(y)
    return gradc.sum(gradc.exp(log_p) * (log_p - log_q), axis=-1)


def standardised(x):
    return (x - gradc.mean(x, axis=-1, keepdims=True)) / gradc.std(x, axis=-1, keepdims=True)


def attention(q, k, v):
    return gradc.softmax(q @ k.mT * 0.125) @ v


def masked_attention(q, k, v):
    scores = q @ k.mT * 0.125
    seen = gradc.arange(scores.shape[-1]) <= gradc.expand_dims(gradc.arange(scores.shape[-2]), 1)
    return gradc.softmax(gradc.where(seen, scores, -float("inf"))) @ v


def cross_entropy(x, t):
    return nn.cross_entropy(x, t)


ROWS, WEIGHT, HEADS = ((6, 70),), ((6, 70), (70,), (70,)), ((2, 80, 16),) * 3
ORDINARY: list[tuple[Callable, tuple[tuple[int, ...], ...]]] = [
    (lambda x: gradc.softmax(x), ROWS),
    (lambda x: gradc.log_softmax(x), ROWS),
    (lambda x: gradc.logsumexp(x, axis=-1), ROWS),
    (lambda x: gradc.softmax(x / 0.7), ROWS),
    (lambda x: gradc.logsumexp(30 * gradc.tanh(x / 30), axis=-1), ROWS),
    (shifted, ROWS),
    (entropy, ROWS),
    (divergence, ROWS * 2),
    (lambda x: gradc.var(x, axis=-1), ROWS),
    (lambda x: gradc.std(x, axis=-1), ROWS),
    (standardised, ROWS),
    (lambda x, w, b: nn.layer_norm(x, (70,), w, b), WEIGHT),
    (lambda x, w: nn.rms_norm(x, (70,), w), WEIGHT[:2]),
    (lambda x, v: gradc.softmax(x) @ v, ((6, 70), (70, 20))),
    (attention, HEADS),
    (masked_attention, HEADS),
]


class Met(Recipes):
    """Recipes that remember which forms were asked for."""

    def __init__(self):
        super().__init__()
        self.forms: dict[str, Recipe | Refusal] = {}

    def of(self, form: str) -> Recipe | Refusal:
        self.forms[form] = recipes.derived(form)
        return self.forms[form]


def graphs():
    for function, shapes in ORDINARY:
        yield program_of(function, tuple(gradc.spec(shape, types.float32) for shape in shapes), {})[1]
    yield program_of(cross_entropy, (gradc.spec((6, 70), types.float32), gradc.spec((6,), types.int64)), {})[1]


def forms_met() -> dict[str, Recipe | Refusal]:
    """The forms of all ordinary programs and their gradients, with rows that are looped over."""
    met = Met()
    with mock.patch.multiple(roles, LIVE_ELEMENTS=16, ROW_TILE=16, REDUNDANT_WORK=16):
        for graph in graphs():
            lower_graph(graph, recipes=met)
            floating = [i for i, value in enumerate(graph.inputs) if value.dtype.is_floating]
            lower_pair(graph, floating, recipes=met)
    return met.forms


if __name__ == "__main__":
    FILE.write_text(recipes.to_file(forms_met()), encoding="utf-8")
