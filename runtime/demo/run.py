"""Runs the demo, a section a function, in the order they appear on the terminal; what they find goes into `Results`.

Exit status 1 means that a check failed; what cannot be done here (no torch, no triton) is left out, with the reason.
"""

from __future__ import annotations

import argparse
import inspect
import time
from pathlib import Path
from typing import Any

from gradc.codegen.printing.explain import size
from gradc.runtime.command.display import build_table, console_for, highlighted, table, verdict
from gradc.runtime.demo import checks, peer
from gradc.runtime.demo import digits as model
from gradc.runtime.demo.checks import Difference
from gradc.runtime.demo.data import Digits, load_digits
from gradc.runtime.demo.place import device_for, machine, missing, one_thread
from gradc.runtime.demo.results import Results, Timed, draw
from gradc.runtime.demo.training import Compiled, Learner, Training, fit, median_step_seconds
from gradc.runtime.lowered import Lowered

REQUIRED_ACCURACY = 0.97
ALLOWED = {"interpreted": 2e-5, "float32": 2e-5, "float64": 1e-12}  # beside the largest element of an array
REPEATS = 100
TARGET = "sm_90"


class Report:
    """What is printed: headings, lines and tables, with the checks that failed and what was left out kept for the end."""

    def __init__(self, console: Any):
        self.console = console
        self.failures: list[str] = []
        self.left_out: list[str] = []

    def heading(self, text: str) -> None:
        self.console.print(f"\n[bold cyan]── {text} {'─' * (90 - len(text))}[/bold cyan]", soft_wrap=True)

    def say(self, text: Any) -> None:
        self.console.print(text, highlight=False, soft_wrap=isinstance(text, str))

    def check(self, what: str, passed: bool) -> None:
        self.say(f"{verdict(passed)}  {what}")
        if not passed:
            self.failures.append(what)

    def leave_out(self, what: str, reason: str) -> None:
        self.say(f"[yellow]{what}: left out, {reason}[/yellow]")
        self.left_out.append(f"{what}: {reason}")


def run(options: argparse.Namespace) -> int:
    """The whole demo. Returns the exit status."""
    started = time.perf_counter()
    device, report = device_for(options.backend), Report(console_for())
    digits = load_digits(options.seed, options.images)
    epochs = options.epochs or model.EPOCHS
    show_program(report, digits)
    with one_thread():
        compile_seconds = first_step_seconds(digits, device)
        learner, training = train(report, digits, device, epochs, options.seed)
        if options.epochs is None and options.images is None:
            report.check("the accuracy on the test images is at least 97%", training.accuracies[-1] >= REQUIRED_ACCURACY)
        low, kernels = show_kernels(report, learner, digits)
        interpreted = check_kernels(report, low, kernels, learner, digits)
        autograd = check_gradients(report, digits, options.seed)
        learners = compare_times(report, digits, training, device, epochs, options.seed)
    report.say(f"Tracing and compiling the step took {compile_seconds:.1f} s more, once.")
    results = Results(
        machine(device), backend_name(device), compile_seconds, low.cost.launches, low.cost.bytes, low.cost.flops, kernels,
        interpreted, autograd, learners, report.left_out, report.failures, time.perf_counter() - started,
    )  # fmt: skip
    write(report, Path(options.output), low, results)
    return 1 if results.failures else 0


def backend_name(device: str | None) -> str:
    return "numpy" if device is None else "triton"


def first_batch(digits: Digits) -> tuple[Any, Any]:
    """A batch of digits to lower, check and time with."""
    return digits.images[: model.BATCH], digits.labels[: model.BATCH]


def show_program(report: Report, digits: Digits) -> None:
    """The program that is trained, as it stands in digits.py."""
    report.heading("The program")
    parts = (model.scores, model.loss, model.train_step.function)
    report.say(highlighted("\n\n".join(inspect.getsource(part).rstrip() for part in parts), "python"))
    layers = " → ".join(map(str, model.LAYERS))
    report.say(
        f"\nLayers {layers}; {len(digits.labels)} handwritten digits to learn from, {len(digits.test_labels)} to be tested on."
    )


def first_step_seconds(digits: Digits, device: str | None) -> float:
    """How long the first step takes, in which it is traced and compiled."""
    learner, began = Compiled(0, device), time.perf_counter()
    learner.step(*first_batch(digits))
    learner.wait()
    return time.perf_counter() - began


def train(report: Report, digits: Digits, device: str | None, epochs: int, seed: int) -> tuple[Compiled, Training]:
    """Trains under a progress bar."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    report.heading(f"Training, with backend {backend_name(device)!r}")
    figures = TextColumn("loss {task.fields[loss]:.3f}   test accuracy {task.fields[accuracy]:.2%}")
    learner = Compiled(seed, device)
    with Progress("epoch", MofNCompleteColumn(), BarColumn(), figures, TimeElapsedColumn(), console=report.console) as progress:
        task = progress.add_task("", total=epochs, loss=float("nan"), accuracy=0.0)
        training = fit(
            learner, digits, epochs, seed, lambda loss, accuracy: progress.update(task, advance=1, loss=loss, accuracy=accuracy)
        )
    report.say(
        f"{training.steps} steps of {model.BATCH} digits in {training.seconds:.1f} s; test accuracy [bold]{training.accuracies[-1]:.2%}[/bold]"
    )
    return learner, training


def show_kernels(report: Report, learner: Compiled, digits: Digits) -> tuple[Lowered, list[dict[str, Any]]]:
    """The kernels of the training step, for the shapes that it was trained with: gradient and update included."""
    report.heading("The kernels of this training step")
    low = model.train_step.lower(learner.params, learner.state, *first_batch(digits), wrt=())
    shown = table("", "kernel", "schedule", "moves", numbers=("moves",))
    for kernel in low.kernels:
        shown.add_row(kernel.name, kernel.schedule, size(kernel.bytes))
    report.say(shown)
    cost = low.cost
    report.say(
        f"Loss, gradient and update: {cost.launches} launches, {size(cost.bytes)} moved, {cost.flops / 1e6:.3g} million operations."
    )
    report.say("The first of them, as it was emitted:\n")
    report.say(highlighted(low.kernels[0].source.strip(), "python"))
    return low, [{"name": k.name, "schedule": k.schedule, "bytes": k.bytes, "flops": k.flops} for k in low.kernels]


def check_kernels(
    report: Report, low: Lowered, kernels: list[dict[str, Any]], learner: Compiled, digits: Digits
) -> Difference | None:
    """The same kernels under Triton's interpreter on a batch of digits, and built for a GPU that need not be there.

    What the compiler says of each is added to `kernels`.
    """
    report.heading("These kernels, checked without a GPU")
    if reason := missing("torch", "triton"):
        report.leave_out("interpreting and building the kernels", reason)
        return None
    with report.console.status(f"interpreting {len(kernels)} kernels on the CPU"):
        params, state = checks.as_numpy((learner.params, learner.state))
        found = checks.interpreted_difference(params, state, *first_batch(digits))
    report.check(
        f"interpreted on a batch of digits, they agree with NumPy: {said(found)}", found.relative <= ALLOWED["interpreted"]
    )
    began = time.perf_counter()
    with report.console.status(f"building {len(kernels)} kernels for {TARGET}"):
        binaries = low.build(TARGET)
    for kernel, binary in zip(kernels, binaries, strict=True):
        kernel.update(registers=binary.registers, spills=binary.spills, shared_bytes=binary.shared_bytes)
    report.say(build_table(binaries, TARGET, time.perf_counter() - began))
    report.check(f"no kernel spills registers on {TARGET}", not any(binary.spills for binary in binaries))
    return found


def check_gradients(report: Report, digits: Digits, seed: int) -> dict[str, Difference]:
    """gradc's gradient against autograd's, in two precisions."""
    report.heading("Its gradient beside PyTorch's autograd")
    if reason := missing("torch"):
        report.leave_out("the comparison with autograd", reason)
        return {}
    params = model.initial_params(seed)
    found = {dtype: checks.autograd_difference(params, *first_batch(digits), dtype) for dtype in ("float64", "float32")}
    for dtype, difference in found.items():
        report.check(f"{dtype}: {said(difference)}", difference.relative <= ALLOWED[dtype])
    return found


def said(found: Difference) -> str:
    """A difference in words."""
    return f"largest difference {found.absolute:.1e}, {found.relative:.1e} of the largest element of {found.where}"


def compare_times(report: Report, digits: Digits, own: Training, device: str | None, epochs: int, seed: int) -> list[Timed]:
    """The same training in PyTorch eager mode, and the duration of one step of each, taking turns."""
    report.heading("Its time beside PyTorch eager")
    names = ["gradc, NumPy reference" if device is None else "gradc, Triton", f"PyTorch eager, {device or 'CPU'}"]
    trainings, learners = [own], list[Learner]([Compiled(seed, device)])
    if reason := missing("torch"):
        report.leave_out("the comparison with PyTorch", reason)
    else:
        with report.console.status("training the same network with PyTorch"):
            trainings.append(fit(peer.Eager(seed, device), digits, epochs, seed, lambda loss, accuracy: None))
        learners.append(peer.Eager(seed, device))
    durations = median_step_seconds(learners, digits, REPEATS)
    timed = [Timed(*each) for each in zip(names, trainings, durations, strict=False)]
    shown = table(
        "", "", "one step, median", "all steps", "test accuracy", numbers=("one step, median", "all steps", "test accuracy")
    )
    for one in timed:
        shown.add_row(
            one.name, f"{1e3 * one.step_seconds:.2f} ms", f"{one.training.seconds:.1f} s", f"{one.training.accuracies[-1]:.2%}"
        )
    report.say(shown)
    report.say(f"A step is forward, backward and update, in float32, on {model.BATCH} digits; one CPU thread each.")
    if device is None:
        report.say(
            "The NumPy backend is the reference that kernels are checked against; its times say nothing about the kernels on a GPU."
        )
    return timed


def write(report: Report, folder: Path, low: Lowered, results: Results) -> None:
    """The kernels, the figures and the picture as files."""
    report.heading(f"Files, after {results.total_seconds:.0f} s")
    folder.mkdir(parents=True, exist_ok=True)
    report.say(
        f"{low.export(folder / 'kernels.py')}  [dim]the training step as a module that needs torch and triton alone[/dim]"
    )
    if reason := missing("matplotlib"):
        report.leave_out("the picture of the training", reason)
    else:
        draw(folder / "training.png", results.learners)
        report.say(f"{folder / 'training.png'}  [dim]loss and accuracy over the epochs[/dim]")
    results.write(folder / "results.json")
    report.say(f"{folder / 'results.json'}  [dim]every figure above[/dim]")
