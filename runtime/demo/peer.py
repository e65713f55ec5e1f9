"""The same network, loss, optimizer and schedule in PyTorch eager mode: what gradc's gradients and times are held against.

Written as a PyTorch user would write it. torch is imported inside; no gradc function is used here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import optree

from gradc.runtime.demo import digits as model
from gradc.runtime.demo.place import wait_for


def network(params: Sequence[dict[str, np.ndarray]], dtype: str, device: str | None) -> Any:
    """Linear layers with rectifiers in between, holding the given parameters. (torch keeps weights transposed.)"""
    import torch

    layers: list[Any] = []
    for layer in params:
        linear = torch.nn.Linear(*layer["w"].shape, dtype=getattr(torch, dtype), device=device)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(layer["w"].T.copy()))
            linear.bias.copy_(torch.from_numpy(layer["b"]))
        layers += [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def loss(net: Any, images: Any, labels: Any) -> Any:
    """The loss of `digits.loss`."""
    import torch

    return torch.nn.functional.cross_entropy(net(images), labels.long(), label_smoothing=model.LABEL_SMOOTHING)


def gradients(params: Sequence[dict[str, np.ndarray]], images: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    """autograd's gradients in the order of optree's leaves of `params`, computed in the dtype of the images."""
    import torch

    net = network(params, images.dtype.name, None)
    loss(net, torch.from_numpy(images), torch.from_numpy(labels)).backward()
    linears = [layer for layer in net if isinstance(layer, torch.nn.Linear)]
    return optree.tree_leaves([{"w": layer.weight.grad.numpy().T, "b": layer.bias.grad.numpy()} for layer in linears])


class Eager:
    """PyTorch's learner: `torch.optim.AdamW` under a cosine schedule, float32."""

    def __init__(self, seed: int, device: str | None = None):
        import torch

        self.device = device
        self.net = network(model.initial_params(seed), "float32", device)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), model.LEARNING_RATE, weight_decay=model.WEIGHT_DECAY)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, model.EPOCHS * model.STEPS_PER_EPOCH)

    def placed(self, array: np.ndarray) -> Any:
        import torch

        return torch.from_numpy(array).to(self.device or "cpu")

    def step(self, images: np.ndarray, labels: np.ndarray) -> Any:
        value = loss(self.net, self.placed(images), self.placed(labels))
        self.optimizer.zero_grad()
        value.backward()
        self.optimizer.step()
        self.schedule.step()
        return value.detach()

    def accuracy(self, images: np.ndarray, labels: np.ndarray) -> float:
        import torch

        with torch.no_grad():
            right = self.net(self.placed(images)).argmax(-1) == self.placed(labels)
        return float(right.float().mean())

    def wait(self) -> None:
        wait_for(self.device)
