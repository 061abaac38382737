"""Training that is interrupted and resumed: however often, the result is the same to the last bit."""

import json
import os
import signal
import threading

import numpy as np
import pytest
from training_cases import TRAIN, VALIDATION, adam, descent, fit_linear, linear_network, momentum, small_network, toy

from npadv.files import load_arrays, save_arrays
from npadv.train import EarlyStopping, classification_loss, fit

# Interrupted and resumed ----------------------------------------------------------------------------------------------

GENERATORS = {"PCG64": np.random.PCG64, "MT19937": np.random.MT19937, "SFC64": np.random.SFC64}
EPOCHS, STEPS = 3, 15  # of five steps each


class Run:
    """One training of the small network, from scratch or resumed; Ctrl-C comes in the given step or after the given epoch."""

    def __init__(self, path, generator="PCG64", optimizer=momentum):
        self.path, self.generator, self.optimizer = path, generator, optimizer

    def __call__(self, *, resume=False, epochs=EPOCHS, step=None, epoch=None):
        self.model, self.rng = small_network(), np.random.Generator(GENERATORS[self.generator](7))
        self.optimizer_used, steps = self.optimizer(self.model), 0

        def loss(model, x, y, *, rng):
            nonlocal steps
            steps += 1
            if steps == step:
                signal.raise_signal(signal.SIGINT)
            return classification_loss(model, x, y, rng=rng)

        def callback(training):
            if training.history[-1]["epoch"] == epoch:
                signal.raise_signal(signal.SIGINT)

        return fit(
            self.model, loss, TRAIN, optimizer=self.optimizer_used, epochs=epochs, rng=self.rng, batch_size=5,
            validation=VALIDATION, callbacks=[EarlyStopping(2, "train_loss"), callback], checkpoint=self.path, resume=resume,
        )  # fmt: skip

    def outcome(self, history):
        rows = [{key: value for key, value in row.items() if key != "seconds"} for row in history]
        return rows, self.model.state(), self.optimizer_used.state(), self.rng.bit_generator.state


@pytest.mark.parametrize("optimizer", [momentum, adam])
@pytest.mark.parametrize("generator", GENERATORS)
def test_a_run_stopped_at_any_step_and_resumed_is_the_same_to_the_bit(tmp_path, generator, optimizer):
    whole = Run(tmp_path / "whole.npz", generator, optimizer)
    expected = whole.outcome(whole())
    assert len(expected[0]) == EPOCHS
    for step in range(1, STEPS + 1):
        run = Run(tmp_path / f"{step}.npz", generator, optimizer)
        with pytest.raises(KeyboardInterrupt):
            run(step=step)
        assert run.optimizer_used.updates == step  # the running step was finished, and no other begun
        np.testing.assert_equal(run.outcome(run(resume=True)), expected)


def test_a_run_stopped_again_and_again_is_the_same_to_the_bit(tmp_path):
    whole, run = Run(tmp_path / "whole.npz"), Run(tmp_path / "run.npz")
    expected = whole.outcome(whole())
    for _ in range(STEPS):
        with pytest.raises(KeyboardInterrupt):
            run(resume=True, step=1)
    np.testing.assert_equal(run.outcome(run(resume=True)), expected)


@pytest.mark.parametrize("epoch", range(1, EPOCHS + 1))
def test_a_run_stopped_between_epochs_is_the_same_to_the_bit(tmp_path, epoch):
    whole, run = Run(tmp_path / "whole.npz"), Run(tmp_path / "run.npz")
    expected = whole.outcome(whole())
    with pytest.raises(KeyboardInterrupt):  # after the last epoch too: a Ctrl-C is never swallowed
        run(epoch=epoch)
    assert run.optimizer_used.updates == 5 * epoch
    np.testing.assert_equal(run.outcome(run(resume=True)), expected)


def test_a_finished_run_goes_on_for_more_epochs(tmp_path):
    whole, run = Run(tmp_path / "whole.npz"), Run(tmp_path / "run.npz")
    expected = whole.outcome(whole())
    run(epochs=1)
    np.testing.assert_equal(run.outcome(run(resume=True)), expected)
    np.testing.assert_equal(run.outcome(run(resume=True)), expected)  # and resumed once more, there is nothing to do


def test_resuming_without_a_checkpoint_begins_the_run(tmp_path):
    whole, run = Run(tmp_path / "whole.npz"), Run(tmp_path / "run.npz")
    np.testing.assert_equal(run.outcome(run(resume=True)), whole.outcome(whole()))


def test_the_seconds_of_an_interrupted_epoch_are_added_up(tmp_path):
    run = Run(tmp_path / "run.npz")
    with pytest.raises(KeyboardInterrupt):
        run(step=2)
    before = json.loads(load_arrays(run.path)["json"].item())["progress"]["seconds"]
    (row, *_) = run(resume=True)
    assert row["seconds"] > before > 0


# Ctrl-C ---------------------------------------------------------------------------------------------------------------


def test_a_second_ctrl_c_is_immediate(tmp_path):
    reached = []

    def loss(model, x, y, *, rng):
        signal.raise_signal(signal.SIGINT)
        reached.append("after the first")
        signal.raise_signal(signal.SIGINT)
        reached.append("after the second")

    with pytest.raises(KeyboardInterrupt):
        fit_linear(loss, checkpoint=tmp_path / "c.npz")
    assert reached == ["after the first"]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("end", ["returns", "is interrupted", "fails"])
def test_the_handler_is_held_while_it_runs_and_given_back_however_it_ends(end):
    def mine(number, frame):
        raise AssertionError("not while fit runs")

    def loss(model, x, y, *, rng):
        assert signal.getsignal(signal.SIGINT) is not mine
        if end == "is interrupted":
            signal.raise_signal(signal.SIGINT)
        if end == "fails":
            raise ZeroDivisionError
        return classification_loss(model, x, y, rng=rng)

    previous = signal.signal(signal.SIGINT, mine)
    try:
        if end == "returns":
            fit_linear(loss)
        else:
            with pytest.raises(KeyboardInterrupt if end == "is interrupted" else ZeroDivisionError):
                fit_linear(loss)
        assert signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, previous)


def test_where_ctrl_c_is_ignored_it_stays_ignored():
    def loss(model, x, y, *, rng):
        signal.raise_signal(signal.SIGINT)
        return classification_loss(model, x, y, rng=rng)

    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert len(fit_linear(loss)) == 2
    finally:
        signal.signal(signal.SIGINT, previous)


def test_in_a_thread_no_handler_is_touched():
    before, seen, histories = signal.getsignal(signal.SIGINT), [], []

    def loss(model, x, y, *, rng):
        seen.append(signal.getsignal(signal.SIGINT))
        return classification_loss(model, x, y, rng=rng)

    thread = threading.Thread(target=lambda: histories.append(fit_linear(loss)))
    thread.start()
    thread.join()
    assert len(histories[0]) == 2
    assert set(seen) == {before}


# Checkpoints that do not fit ------------------------------------------------------------------------------------------


def test_an_existing_checkpoint_is_not_overwritten_unasked(tmp_path):
    run = Run(tmp_path / "run.npz")
    run(epochs=1)
    before = run.path.read_bytes()
    with pytest.raises(FileExistsError, match=r"run\.npz: exists; pass resume=True to continue that run, or remove it"):
        run()
    assert run.path.read_bytes() == before
    assert run.optimizer_used.updates == 0


def resumed(path, *, model=None, optimizer=momentum, data=TRAIN, batch_size=5, bits=np.random.PCG64, callbacks=()):
    """Try to resume a checkpoint of the small network; return all that must not have been changed when it fails."""
    model = small_network() if model is None else model
    used, rng = optimizer(model), np.random.Generator(bits(7))
    callbacks = [*callbacks]
    state = [model.state(), used.state(), rng.bit_generator.state]
    try:
        fit(
            model, classification_loss, data, optimizer=used, epochs=3, rng=rng, batch_size=batch_size, callbacks=callbacks,
            checkpoint=path, resume=True,
        )  # fmt: skip
    finally:
        np.testing.assert_equal([model.state(), used.state(), rng.bit_generator.state], state)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint in the middle of the second epoch."""
    run = Run(tmp_path_factory.mktemp("checkpoint") / "c.npz")
    with pytest.raises(KeyboardInterrupt):
        run(step=7)
    return run.path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 4}, "was written with batch_size=5, this run has 4"),
        ({"data": toy(21)}, "was written with examples=22, this run has 21"),
        ({"bits": np.random.MT19937}, "was written with the generator PCG64, this run has MT19937"),
        (
            {"model": linear_network()},
            r"does not fit this model; missing \['layers.1.bias', 'layers.1.weight'\]|does not fit",
        ),
        ({"model": small_network().astype(np.float64)}, r"layers\.1\.weight: expected .* float64, got .* float32"),
        ({"optimizer": adam}, "optimizer state: does not fit this optimizer and its parameters"),
        ({"optimizer": descent}, "optimizer state: does not fit this optimizer and its parameters"),
        ({"callbacks": [lambda training: None, EarlyStopping(2)]}, "EarlyStopping: the run was begun without it"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_checkpoint_of_another_run_is_refused_and_nothing_is_changed(checkpoint, options, message):
    before = checkpoint.read_bytes()
    with pytest.raises(ValueError, match=rf"c\.npz: .*({message})"):
        resumed(checkpoint, **options)
    assert checkpoint.read_bytes() == before


def rewritten(**changes):
    def damage(path):
        save_arrays(path, {**load_arrays(path), **changes})

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), r"expected an \.npz archive of arrays"),
        (lambda path: path.write_text("not a checkpoint"), r"expected an \.npz archive of arrays"),
        (
            lambda path: save_arrays(path, {"weights": np.ones(3)}),
            "expected a checkpoint of npadv, got another .npz file",
        ),
        (rewritten(json=np.array("{}")), "expected a checkpoint of npadv, got another .npz file"),
        (rewritten(json=np.array("[1, 2")), "expected a checkpoint of npadv, got another .npz file"),
        (rewritten(json=np.array("3")), "expected a checkpoint of npadv, got another .npz file"),
        (rewritten(json=np.array('{"format": 99}')), "expected a checkpoint of format 1, got 99"),
    ],
    ids=["truncated", "text", "foreign", "empty json", "broken json", "a number", "another format"],
)
def test_a_file_that_is_no_checkpoint_is_refused(checkpoint, tmp_path, damage, message):
    path = tmp_path / "d.npz"
    path.write_bytes(checkpoint.read_bytes())
    damage(path)
    with pytest.raises(ValueError, match=rf"d\.npz: {message}"):
        resumed(path)


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_crash_while_a_checkpoint_is_written_leaves_the_one_before(tmp_path, monkeypatch, function):
    whole, run = Run(tmp_path / "whole.npz"), Run(tmp_path / "run.npz")
    expected = whole.outcome(whole())
    real, calls = getattr(os, function), []

    def crashing(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise OSError("disk full")
        return real(*arguments)

    monkeypatch.setattr(os, function, crashing)
    with pytest.raises(OSError, match="disk full"):
        run()
    monkeypatch.undo()
    assert sorted(os.listdir(tmp_path)) == ["run.npz", "whole.npz"]
    np.testing.assert_equal(run.outcome(run(resume=True)), expected)  # from the end of the first epoch
