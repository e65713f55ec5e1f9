"""What a run of the demo found: plain data, its JSON, and the picture of its training. Nothing is computed or printed here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gradc.runtime.demo.checks import Difference
from gradc.runtime.demo.training import Training

COLOURS, STYLES = ("#1b6ca8", "#c8553d"), ("-", "--")


@dataclass(frozen=True)
class Timed:
    """How a learner fared: its name, its training, and the median duration of one step in seconds."""

    name: str
    training: Training
    step_seconds: float


@dataclass(frozen=True)
class Results:
    """Every figure of a run. Durations are in seconds, sizes in bytes; what was left out is None or empty, with the reason."""

    machine: Mapping[str, Any]
    backend: str
    compile_seconds: float
    launches: int
    bytes: int
    flops: int
    kernels: Sequence[Mapping[str, Any]]
    interpreted: Difference | None
    autograd: Mapping[str, Difference]
    learners: Sequence[Timed]
    left_out: Sequence[str]
    failures: Sequence[str]
    total_seconds: float

    def write(self, path: Path) -> None:
        """As JSON, each field by its name."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def draw(path: Path, learners: Sequence[Timed]) -> None:
    """The mean training loss and the test accuracy over the epochs, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for learner, colour, style in zip(learners, COLOURS, STYLES, strict=False):
        epochs = range(1, len(learner.training.losses) + 1)
        left.plot(epochs, learner.training.losses, style, color=colour, label=learner.name)
        right.plot(epochs, [100 * share for share in learner.training.accuracies], style, color=colour, label=learner.name)
    for axes, title in ((left, "training loss (of smoothed labels)"), (right, "accuracy on the test images, %")):
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("epoch")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
    right.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=130)
