"""Programs of any length, each of one kind: a step done over and over, or very many equal parts.

A row is a name and a function from the number of steps to the program and the specs of its arguments.
"""

from collections.abc import Callable

import numpy as np

import gradc
from gradc.types import Spec

ROW = gradc.spec((8,), "float32")
SQUARE = gradc.spec((4, 4), "float32")
PLACES = gradc.spec((3,), "int32")

Program = tuple[Callable, list[Spec]]
PROGRAMS: dict[str, Callable[[int], Program]] = {}


def steps(*specs):
    """Files a function (state, step number, other arguments) -> state, repeated on the first argument."""

    def file(step):
        def program(n):
            def repeated(x, *others):
                state = x
                for i in range(n):
                    state = step(state, i, x, *others)
                return state

            return repeated, list(specs)

        PROGRAMS[step.__name__] = program
        return step

    return file


@steps(ROW)
def chain(h, i, x):
    return gradc.sin(h)


@steps(ROW)
def alternating(h, i, x):
    return gradc.exp(h * -0.5) if i % 2 else gradc.sqrt(gradc.abs(h) + 1.0)


@steps(ROW)
def residual(h, i, x):
    return h + gradc.tanh(h * 0.5)


@steps(ROW)
def terms(h, i, x):
    return h + gradc.exp(x * (0.5 / (i + 2)))


@steps(ROW)
def fibonacci(h, i, x):
    return gradc.cos(h) * 0.5 + gradc.sin(h)


@steps(ROW)
def selected(h, i, x):
    return gradc.where(x > 0.1 * i, h * 0.5, x)


@steps(ROW)
def selected_other(h, i, x):
    return gradc.where(x > 0.1 * i, x, gradc.sin(h))


@steps(ROW)
def selected_whole(h, i, x):
    return gradc.where(x > 0.1 * i, h, -x)


@steps(ROW)
def squared(h, i, x):
    return h * h


@steps(ROW)
def doubled(h, i, x):
    return h + h


@steps(ROW)
def divided(h, i, x):
    return x / (h + 1.5)


@steps(ROW)
def bounded(h, i, x):
    return gradc.maximum(h * 0.9, x + 0.1 * i)


@steps(ROW)
def cast(h, i, x):
    return gradc.astype(gradc.astype(gradc.sin(h), "float16"), "float32")


@steps(SQUARE, SQUARE)
def products(h, i, x, w):
    return gradc.tanh(h @ w)


@steps(SQUARE)
def centred(h, i, x):
    return h - gradc.mean(h, axis=-1, keepdims=True)


@steps(SQUARE)
def normed(h, i, x):
    return h * gradc.rsqrt(gradc.mean(h * h, axis=-1, keepdims=True) + 1e-6)


@steps(SQUARE)
def views(h, i, x):
    return gradc.flip(gradc.reshape(h.T, (2, 8)).reshape(8, 2).T.reshape(4, 4), axis=0)


@steps(SQUARE)
def sums_of_views(h, i, x):
    return h.T.reshape(2, 8).T.reshape(4, 4) + 0.5 * h


@steps(ROW)
def running(h, i, x):
    return gradc.cumulative_sum(h, axis=0) * 0.5


@steps(ROW)
def joined(h, i, x):
    return gradc.concat([h, h[:1]])[1:]


@steps(ROW)
def padded(h, i, x):
    return gradc.concat([gradc.sin(h[1:]), h[:1]])


@steps(gradc.spec((3,), "float32"), PLACES)
def gathered(h, i, x, places):
    return gradc.take(h, places, axis=0) + 0.5


@steps(ROW, PLACES)
def scattered(h, i, x, places):
    return h.at[places].add(gradc.sin(gradc.take(h, places, axis=0)))


def filed(program):
    PROGRAMS[program.__name__] = program
    return program


@filed
def arguments(n):
    """The sum of very many arrays."""

    def summed(*arrays):
        total = arrays[0]
        for x in arrays[1:]:
            total = total + x
        return total

    return summed, [ROW] * (n + 1)


@filed
def one_join(n):
    """The concatenation of very many arrays."""
    return lambda *arrays: gradc.concat([gradc.sin(x) for x in arrays]), [gradc.spec((2,), "float32")] * (n + 1)


@filed
def results(n):
    """Very many results of one argument."""
    return lambda x: tuple(gradc.sin(x * (0.01 * i + 1.0)) for i in range(n)), [ROW]


def arrays_for(specs):
    """Small numbers of the shapes, and places."""
    random = np.random.default_rng(0)
    made = []
    for spec in specs:
        numbers = random.uniform(0.1, 0.5, spec.shape) if spec.dtype.is_floating else random.integers(0, 3, spec.shape)
        made.append(numbers.astype(spec.dtype.name))
    return made
