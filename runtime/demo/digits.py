"""A network that reads handwritten digits, and one step of its training: a whole program in the language of gradc.

`train_step` is compiled as one piece: the loss, the gradient that gradc derives from it, and the AdamW update. Parameters
and optimizer state are ordinary lists and dicts of arrays. Nothing here loads, prints or measures anything.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

import gradc
from gradc import nn, optim

LAYERS = (64, 256, 128, 10)  # 8 x 8 pixels in, two hidden layers, a score for each of the ten digits
BATCH, EPOCHS, STEPS_PER_EPOCH = 64, 30, 22
LEARNING_RATE, WEIGHT_DECAY, LABEL_SMOOTHING = 2e-3, 0.1, 0.05

optimizer = optim.adamw(
    optim.cosine_decay_schedule(LEARNING_RATE, decay_steps=EPOCHS * STEPS_PER_EPOCH),
    weight_decay=WEIGHT_DECAY,
)


def scores(params: Any, images: Any) -> Any:
    """images (N, 64) give scores (N, 10); the largest names the digit."""
    *hidden, last = params
    x = images
    for layer in hidden:
        x = nn.relu(x @ layer["w"] + layer["b"])
    return x @ last["w"] + last["b"]


def loss(params: Any, images: Any, labels: Any) -> Any:
    """How surprised the network is by the labels (N,), on average."""
    return nn.cross_entropy(scores(params, images), labels, label_smoothing=LABEL_SMOOTHING)


@gradc.compile
def train_step(params: Any, state: Any, images: Any, labels: Any) -> Any:
    """One step of AdamW on a batch: the new parameters, the new optimizer state, and the loss before the step."""
    value, gradients = gradc.value_and_grad(loss)(params, images, labels)
    updates, state = optimizer.update(gradients, state, params)
    return optim.apply_updates(params, updates), state, value


@gradc.compile
def accuracy(params: Any, images: Any, labels: Any) -> Any:
    """The share of images whose largest score is their label's."""
    return gradc.mean(gradc.argmax(scores(params, images), axis=-1) == labels)


def initial_params(seed: int) -> list[dict[str, np.ndarray]]:
    """Random weights with variance 2 / inputs (He et al. 2015, https://arxiv.org/abs/1502.01852) and zero biases, float32."""
    random = np.random.default_rng(seed)
    return [
        {
            "w": (random.standard_normal((inputs, outputs)) * np.sqrt(2 / inputs)).astype(np.float32),
            "b": np.zeros(outputs, np.float32),
        }
        for inputs, outputs in itertools.pairwise(LAYERS)
    ]
