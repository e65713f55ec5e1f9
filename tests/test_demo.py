"""The demo: its program learns and agrees with PyTorch's, its checks fail when something is wrong, and its files are written."""

from __future__ import annotations

import json
import sys

import numpy as np
import optree
import pytest

import gradc
from gradc.runtime.command import main
from gradc.runtime.demo import checks, digits, run
from gradc.runtime.demo.checks import largest_difference
from gradc.runtime.demo.data import Digits, batches, load_digits
from gradc.runtime.demo.place import device_for, one_thread
from gradc.runtime.demo.training import Compiled, fit, median_step_seconds

pytest.importorskip("sklearn")


@pytest.fixture
def small(monkeypatch):
    """A small network on small batches, so that the interpreter has little to do."""
    monkeypatch.setattr(digits, "LAYERS", (64, 16, 10))
    monkeypatch.setattr(digits, "BATCH", 16)
    monkeypatch.setattr(run, "REPEATS", 3)


def trained(data, epochs):
    learner = Compiled(0)
    with one_thread():
        return fit(learner, data, epochs, 0, lambda loss, accuracy: None)


# The data


def test_the_digits_are_split_once():
    data = load_digits(0)
    assert len(data.labels) + len(data.test_labels) == 1797
    assert data.images.dtype == data.test_images.dtype == np.float32
    assert data.images.min() == 0
    assert data.images.max() == 1
    rows = {image.tobytes() for image in data.images} & {image.tobytes() for image in data.test_images}
    assert not rows
    assert len(load_digits(0, 100).labels) == 80


def test_batches_are_whole_shuffled_and_repeatable():
    data = Digits(np.arange(100, dtype=np.float32)[:, None], np.arange(100), np.zeros((0, 1)), np.zeros(0))
    once, again, other = (list(batches(data, 32, seed)) for seed in (1, 1, 2))
    assert [len(labels) for _, labels in once] == [32, 32, 32]
    seen = np.concatenate([labels for _, labels in once])
    assert len(set(seen)) == 96
    assert all(np.array_equal(images[:, 0], labels) for images, labels in once)
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(once, again, strict=True))
    assert not np.array_equal(once[0][1], other[0][1])


def test_every_epoch_has_another_order():
    class Recorder:
        def __init__(self):
            self.orders = []

        def step(self, images, labels):
            self.orders.append(tuple(labels))
            return 0.0

        def accuracy(self, images, labels):
            return 0.0

        def wait(self): ...

    recorder = Recorder()
    training = fit(recorder, load_digits(0, 200), 3, 0, lambda loss, accuracy: None)
    assert training.steps == len(recorder.orders) == 6
    assert len(set(recorder.orders)) == 6


# The program


def test_the_gradient_is_right():
    random = np.random.default_rng(0)
    params = [
        {"w": random.standard_normal((64, 3)), "b": random.standard_normal(3)},
        {"w": random.standard_normal((3, 10)), "b": np.zeros(10)},
    ]
    images, labels = load_digits(0, 5).images.astype(np.float64), load_digits(0, 5).labels
    gradc.check_grads(digits.loss, (params, images, labels))


def test_its_own_lines_are_shown_in_its_kernels(small):
    learner, data = Compiled(0), load_digits(0, 100)
    low = digits.train_step.lower(learner.params, learner.state, *run.first_batch(data), wrt=())
    assert "digits.py:" in low.source


def test_a_few_epochs_on_some_of_the_digits_teach_most_of_them():
    training = trained(load_digits(0, 500), 3)
    assert training.steps == 3 * (400 // digits.BATCH)
    assert training.losses[-1] < training.losses[0]
    assert training.accuracies[-1] > 0.8


@pytest.mark.slow
def test_the_whole_training_reaches_the_accuracy_required():
    training = trained(load_digits(0), digits.EPOCHS)
    assert training.accuracies[-1] >= run.REQUIRED_ACCURACY


def test_learners_take_turns_when_timed(small):
    data = load_digits(0, 50)
    durations = median_step_seconds([Compiled(0), Compiled(1)], data, 3)
    assert len(durations) == 2
    assert all(duration > 0 for duration in durations)


# Beside PyTorch


def test_gradients_agree_with_autograd():
    pytest.importorskip("torch")
    batch = run.first_batch(load_digits(0))
    for dtype in ("float64", "float32"):
        assert checks.autograd_difference(digits.initial_params(0), *batch, dtype).relative < run.ALLOWED[dtype]


def test_a_different_loss_is_found(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(digits, "LABEL_SMOOTHING", 0.051)
    monkeypatch.setattr(
        checks.peer.model, "loss", lambda p, x, y: gradc.nn.cross_entropy(digits.scores(p, x), y, label_smoothing=0.05)
    )
    found = checks.autograd_difference(digits.initial_params(0), *run.first_batch(load_digits(0)), "float64")
    assert found.relative > 1e-4


def test_steps_agree_with_pytorchs(small):
    torch = pytest.importorskip("torch")
    data = load_digits(0, 100)
    own, eager = Compiled(0), checks.peer.Eager(0)
    for batch in [*batches(data, 16, 0), *batches(data, 16, 1)]:
        assert float(own.step(*batch)) == pytest.approx(float(eager.step(*batch)), rel=1e-4)
    linears = [layer for layer in eager.net if isinstance(layer, torch.nn.Linear)]
    want = optree.tree_leaves([{"w": layer.weight.detach().numpy().T, "b": layer.bias.detach().numpy()} for layer in linears])
    for x, y in zip(optree.tree_leaves(own.params), want, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5)
    images = data.test_images, data.test_labels
    assert own.accuracy(*images) == pytest.approx(eager.accuracy(*images))


def test_a_learner_on_a_torch_device_takes_the_same_steps(small):
    pytest.importorskip("torch")
    data = load_digits(0, 100)
    here, there = Compiled(0), Compiled(0, "cpu")
    for batch in batches(data, 16, 0):
        assert float(here.step(*batch)) == float(there.step(*batch))
    assert type(optree.tree_leaves(there.params)[0]).__module__ == "torch"
    assert here.accuracy(data.test_images, data.test_labels) == there.accuracy(data.test_images, data.test_labels)


def test_the_largest_difference():
    want = {"a": np.array([1.0, 2.0]), "b": np.array([10.0])}
    found = largest_difference({"a": np.array([1.0, 2.5]), "b": np.array([11.0])}, want)
    assert (found.where, found.absolute, found.relative) == ("a", 0.5, 0.25)
    assert largest_difference({"a": np.array([1.0, np.nan]), "b": want["b"]}, want).relative == np.inf
    with pytest.raises(KeyError):
        largest_difference({"a": want["a"]}, want)


# The command


@pytest.mark.triton
def test_the_demo_shows_checks_and_writes_everything(small, tmp_path, capsys):
    pytest.importorskip("triton")
    output = tmp_path / "out"
    assert main(["demo", "--images", "100", "--epochs", "2", "--output", str(output)]) == 0
    shown = capsys.readouterr().out
    for text in ("def train_step", "launches", "agree with NumPy", "Built for sm_90", "float64", "PyTorch eager"):
        assert text in shown
    results = json.loads((output / "results.json").read_text())
    assert results["launches"] == len(results["kernels"]) > 0
    assert results["interpreted"]["relative"] < 1e-5
    assert {kernel["spills"] for kernel in results["kernels"]} == {0}
    assert set(results["autograd"]) == {"float64", "float32"}
    assert [len(learner["training"]["losses"]) for learner in results["learners"]] == [2, 2]
    assert results["failures"] == results["left_out"] == []
    assert (output / "training.png").read_bytes().startswith(b"\x89PNG")
    kernels = (output / "kernels.py").read_text()
    assert all(f"def {kernel['name']}(" in kernels for kernel in results["kernels"])


def test_without_torch_and_triton_the_reasons_are_printed(small, tmp_path, capsys, monkeypatch):
    for name in ("torch", "triton", "matplotlib"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["demo", "--images", "100", "--epochs", "1", "--output", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("left out") == 4
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results["left_out"]) == 4
    assert results["interpreted"] is None
    assert [learner["name"] for learner in results["learners"]] == ["gradc, NumPy reference"]
    assert not (tmp_path / "training.png").exists()


def test_a_failed_check_is_told_and_is_the_exit_status(small, tmp_path, capsys, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setitem(run.ALLOWED, "float32", 1e-30)
    assert main(["demo", "--images", "100", "--epochs", "1", "--output", str(tmp_path)]) == 1
    assert "FAILED  float32" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "results.json").read_text())["failures"]) == 1


def test_without_scikit_learn_it_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert main(["demo", "--output", str(tmp_path / "out")]) == 1
    assert "pip install scikit-learn" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_triton_is_not_chosen_without_a_gpu(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "triton", None)
    assert device_for("auto") is None
    assert main(["demo", "--backend", "triton"]) == 1
    assert "triton is not installed" in capsys.readouterr().err
