"""The loop: it learns, it stops, and however often it is interrupted, its result is the same to the last bit."""

import gc
import json
import os
import signal
import threading

import numpy as np
import pytest

from npadv import Tensor, nn
from npadv.data import Split
from npadv.files import load_arrays, save_arrays
from npadv.functional import cross_entropy
from npadv.nn import BatchNorm, Dense, Dropout, Flatten, ReLU, Sequential
from npadv.optim import SGD, Adam, InverseDecay, Linear
from npadv.train import EarlyStopping, classification_loss, evaluate, fit, predict

# A toy: is the first of two pixels brighter than the second? -----------------------------------------------------------


def toy(n, seed=0):
    images = np.random.default_rng(seed).random((n, 1, 1, 2), np.float32)
    return Split(images, (images[:, 0, 0, 0] > images[:, 0, 0, 1]).astype(np.int64))


def small_network(seed=0):
    """Return a network with everything that has a memory or draws numbers."""
    rng = np.random.default_rng(seed)
    return Sequential(
        Flatten(), Dense(2, 8, rng=rng, max_norm=2.0), BatchNorm(8), ReLU(), Dropout(0.25), Dense(8, 2, rng=rng)
    )


def linear_network(seed=0):
    return Sequential(Flatten(), Dense(2, 2, rng=np.random.default_rng(seed)))


TRAIN, VALIDATION = toy(22), toy(30, seed=1)  # in batches of 5, the last has 2


def momentum(model):
    return SGD(model.parameters(), InverseDecay(0.3, 0.1), momentum=Linear(0.5, 0.9, end=3), weight_decay=1e-3)


def adam(model):
    return Adam(model.parameters(), 0.05)


def descent(model):
    return SGD(model.parameters(), 0.5)


# Learning -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [momentum, adam])
def test_it_learns(optimizer):
    model = small_network()
    history = fit(
        model, classification_loss, toy(400), optimizer=optimizer(model), epochs=15, rng=np.random.default_rng(0),
        batch_size=20, validation=VALIDATION,
    )  # fmt: skip
    assert history[-1]["validation_error"] <= 1 / 30
    assert history[-1]["train_loss"] < history[0]["train_loss"]


def test_one_epoch_is_the_steps_of_the_formula():
    model, by_hand = linear_network(), linear_network()
    fit(
        model,
        classification_loss,
        TRAIN,
        optimizer=descent(model),
        epochs=1,
        rng=np.random.default_rng(3),
        batch_size=5,
    )
    w, b = by_hand[1].weight.data, by_hand[1].bias.data
    order = np.random.default_rng(3).permutation(22)
    for some in (order[i : i + 5] for i in range(0, 22, 5)):
        x, y = TRAIN.images[some].reshape(-1, 2), np.eye(2, dtype=np.float32)[TRAIN.labels[some]]
        p = np.exp(x @ w + b)
        p /= p.sum(axis=1, keepdims=True)
        w -= 0.5 * x.T @ (p - y) / len(x)
        b -= 0.5 * (p - y).mean(axis=0)
    np.testing.assert_allclose(model[1].weight.data, w, rtol=1e-5)
    np.testing.assert_allclose(model[1].bias.data, b, rtol=1e-4)


def test_history_has_a_row_for_each_epoch():
    model, losses = linear_network(), []

    def loss(model, x, y, *, rng):
        losses.append((classification_loss(model, x, y, rng=rng), len(x)))
        return losses[-1][0]

    optimizer = SGD(model.parameters(), InverseDecay(0.5, 1.0))
    history = fit(
        model,
        loss,
        TRAIN,
        optimizer=optimizer,
        epochs=2,
        rng=np.random.default_rng(0),
        batch_size=5,
        validation=VALIDATION,
    )
    assert [row["epoch"] for row in history] == [1, 2]
    assert [row["step_size"] for row in history] == [0.5 / 6, 0.5 / 11]  # after 5 updates, after 10
    score = evaluate(model, VALIDATION)
    assert (history[1]["validation_loss"], history[1]["validation_error"]) == (score.loss, score.error)
    mean = sum(value.item() * n for value, n in losses[5:]) / 22  # each example counts the same
    assert history[1]["train_loss"] == pytest.approx(mean, rel=1e-15)
    assert all(row["seconds"] > 0 for row in history)


def test_without_a_validation_split_its_columns_are_empty():
    model = linear_network()
    (row,) = fit(model, classification_loss, TRAIN, optimizer=descent(model), epochs=1, rng=np.random.default_rng(0))
    assert row["validation_loss"] is row["validation_error"] is None


def test_the_seed_decides_the_order():
    def seen(seed):
        model, rows = linear_network(), []

        def loss(model, x, y, *, rng):
            rows.extend(x[:, 0, 0, 0].tolist())
            return classification_loss(model, x, y, rng=rng)

        fit(model, loss, TRAIN, optimizer=descent(model), epochs=2, rng=np.random.default_rng(seed), batch_size=5)
        return rows

    first, same, other = seen(0), seen(0), seen(1)
    assert first == same != other
    assert sorted(first[:22]) == sorted(first[22:]) == sorted(TRAIN.images[:, 0, 0, 0].tolist())  # each once an epoch
    assert first[:22] != first[22:]


def test_callbacks_are_called_after_each_epoch_and_can_stop():
    model, seen = linear_network(), []

    def callback(training):
        seen.append((len(training.history), training.optimizer.epoch, training.model is model))
        training.stop = len(seen) == 2

    history = fit(
        model, classification_loss, TRAIN, optimizer=descent(model), epochs=9, rng=np.random.default_rng(0),
        callbacks=[callback],
    )  # fmt: skip
    assert seen == [(1, 1, True), (2, 2, True)]
    assert len(history) == 2


# Early stopping -------------------------------------------------------------------------------------------------------


def errors_of(*errors):
    """Return a callback that writes the given validation errors into the history, and the weights it saw."""
    weights = []

    def callback(training):
        training.history[-1]["validation_error"] = errors[len(training.history) - 1]
        weights.append(training.model.state())

    return callback, weights


def test_early_stopping_waits_and_gives_the_best_weights_back():
    model = small_network()
    planted, weights = errors_of(0.5, 0.2, 0.3, 0.2, 0.1, 0.4, 0.3, 0.1, 0.0)
    stopping = EarlyStopping(3)
    history = fit(
        model, classification_loss, TRAIN, optimizer=momentum(model), epochs=9, rng=np.random.default_rng(0),
        callbacks=[planted, stopping],
    )  # fmt: skip
    assert len(history) == 8  # the best was epoch 5; equal is not better
    assert (stopping.best, stopping.best_epoch) == (0.1, 5)
    np.testing.assert_equal(model.state(), weights[4])


def test_early_stopping_gives_the_best_weights_back_at_the_last_epoch_too():
    model = small_network()
    planted, weights = errors_of(0.1, 0.2)
    fit(
        model, classification_loss, TRAIN, optimizer=momentum(model), epochs=2, rng=np.random.default_rng(0),
        callbacks=[planted, EarlyStopping(5)],
    )  # fmt: skip
    np.testing.assert_equal(model.state(), weights[0])


def test_early_stopping_does_not_undo_anothers_stop():
    def stop(training):
        training.stop = True

    model = linear_network()
    history = fit(
        model, classification_loss, TRAIN, optimizer=descent(model), epochs=5, rng=np.random.default_rng(0),
        validation=VALIDATION, callbacks=[stop, EarlyStopping(5)],
    )  # fmt: skip
    assert len(history) == 1


def test_early_stopping_needs_something_to_watch():
    model = linear_network()
    with pytest.raises(
        ValueError, match=r"EarlyStopping\(monitor\): the history has no 'validation_error'; give fit a vali"
    ):
        fit(
            model, classification_loss, TRAIN, optimizer=descent(model), epochs=2, rng=np.random.default_rng(0),
            callbacks=[EarlyStopping(1)],
        )  # fmt: skip
    with pytest.raises(ValueError, match=r"EarlyStopping\(patience\): expected at least 1, got 0"):
        EarlyStopping(0)


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


def interrupted_fit(loss, **options):
    model = linear_network()
    return fit(
        model, loss, TRAIN, optimizer=descent(model), epochs=2, rng=np.random.default_rng(0), batch_size=5, **options
    )


def test_a_second_ctrl_c_is_immediate(tmp_path):
    reached = []

    def loss(model, x, y, *, rng):
        signal.raise_signal(signal.SIGINT)
        reached.append("after the first")
        signal.raise_signal(signal.SIGINT)
        reached.append("after the second")

    with pytest.raises(KeyboardInterrupt):
        interrupted_fit(loss, checkpoint=tmp_path / "c.npz")
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
            interrupted_fit(loss)
        else:
            with pytest.raises(KeyboardInterrupt if end == "is interrupted" else ZeroDivisionError):
                interrupted_fit(loss)
        assert signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, previous)


def test_where_ctrl_c_is_ignored_it_stays_ignored():
    def loss(model, x, y, *, rng):
        signal.raise_signal(signal.SIGINT)
        return classification_loss(model, x, y, rng=rng)

    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert len(interrupted_fit(loss)) == 2
    finally:
        signal.signal(signal.SIGINT, previous)


def test_in_a_thread_no_handler_is_touched():
    before, seen, histories = signal.getsignal(signal.SIGINT), [], []

    def loss(model, x, y, *, rng):
        seen.append(signal.getsignal(signal.SIGINT))
        return classification_loss(model, x, y, rng=rng)

    thread = threading.Thread(target=lambda: histories.append(interrupted_fit(loss)))
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


# What goes wrong ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run_and_is_not_saved(tmp_path, value):
    def loss(model, x, y, *, rng):
        return classification_loss(model, x, y, rng=rng) + value

    with pytest.raises(
        FloatingPointError, match=rf"fit: the training loss is {value} in epoch 1; try a smaller step size"
    ):
        interrupted_fit(loss, checkpoint=tmp_path / "c.npz")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": -1}, r"fit\(epochs\): expected at least 0, got -1"),
        ({"rng": 0}, r"fit\(rng\): expected a numpy.random.Generator, got int"),
        ({"batch_size": 0}, r"fit\(batch_size, data\): expected at least 1 example each, got 0 and 22"),
        ({"batch_size": -5}, r"fit\(batch_size, data\): expected at least 1 example each, got -5 and 22"),
        ({"data": TRAIN[:0]}, r"fit\(batch_size, data\): expected at least 1 example each, got 100 and 0"),
    ],
)
def test_bad_arguments_are_named(options, message):
    model = linear_network()
    arguments = {"data": TRAIN, "optimizer": descent(model), "epochs": 1, "rng": np.random.default_rng(0), **options}
    with pytest.raises(ValueError, match=message):
        fit(model, classification_loss, **arguments)


def test_no_epochs_are_no_training():
    model = linear_network()
    assert (
        fit(model, classification_loss, TRAIN, optimizer=descent(model), epochs=0, rng=np.random.default_rng(0)) == []
    )
    np.testing.assert_equal(model.state(), linear_network().state())


def test_memory_does_not_grow_with_the_steps():
    """Each step's tape is gone before the next without the garbage collector: nothing in it refers to itself."""
    model, alive = small_network(), []

    def loss(model, x, y, *, rng):
        alive.append(sum(issubclass(type(thing), Tensor) for thing in gc.get_objects()))
        return classification_loss(model, x, y, rng=rng)

    gc.collect()
    gc.disable()
    try:
        fit(model, loss, TRAIN, optimizer=momentum(model), epochs=4, rng=np.random.default_rng(0), batch_size=5)
    finally:
        gc.enable()
    assert len(set(alive)) == 1


# Scores ---------------------------------------------------------------------------------------------------------------


def test_predict_returns_logits_in_inference_whatever_the_batch_size():
    model, images = small_network(), toy(23).images
    logits = predict(model, images)
    np.testing.assert_array_equal(logits, model(images).data)
    np.testing.assert_allclose(predict(model, images, batch_size=1), logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(predict(model, images, batch_size=7), logits, rtol=1e-5, atol=1e-6)
    assert logits.dtype == np.float32
    assert logits.shape == (23, 2)


def test_predict_takes_any_callable_and_leaves_no_record():
    recorded = []

    def model(x):
        y = nn.Parameter(np.ones(1)) * x
        recorded.append(y.requires_grad)
        return y

    np.testing.assert_array_equal(predict(model, np.eye(3), batch_size=2), np.eye(3))
    assert recorded == [False, False]


def test_evaluate_is_the_mean_over_examples_of_loss_and_error():
    split = Split(np.array([0.2, 0.9, 0.4]).reshape(3, 1, 1, 1), np.array([0, 1, 1]))

    def model(x):
        return np.concatenate([0.5 - x, x - 0.5], axis=1)[:, :, 0, 0]

    losses = [cross_entropy(model(split.images[i : i + 1]), split.labels[i : i + 1]) for i in range(3)]
    for size in (1, 2, 500):
        score = evaluate(model, split, batch_size=size)
        assert score.loss == pytest.approx(np.mean(losses), rel=1e-14)
        assert score.error == 1 / 3  # 0.4 is taken for class 0


def test_nothing_cannot_be_scored():
    with pytest.raises(ValueError, match=r"predict\(images\): expected at least one image, got an empty batch"):
        predict(linear_network(), TRAIN.images[:0])
    with pytest.raises(ValueError, match="split must hold at least one example"):
        evaluate(linear_network(), TRAIN[:0])


def test_evaluate_refuses_labels_the_model_has_no_class_for():
    with pytest.raises(ValueError, match=r"labels: expected classes 0\.\.1, got values from 5 to 5"):
        evaluate(linear_network(), Split(TRAIN.images[:1], np.array([5])))
