"""The loop: it learns by the steps of the formula, calls its callbacks, and stops when something is wrong."""

import gc
import os

import numpy as np
import pytest
from training_cases import TRAIN, VALIDATION, adam, descent, fit_linear, linear_network, momentum, small_network, toy

from npadv import Tensor, nn
from npadv.optim import SGD, InverseDecay
from npadv.train import EarlyStopping, classification_loss, evaluate, fit, gradient_update, predict

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


def test_a_batch_may_be_a_single_example():
    model, by_hand = linear_network(), linear_network()
    optimizer, rng = descent(by_hand), np.random.default_rng(3)
    fit(
        model,
        classification_loss,
        TRAIN,
        optimizer=descent(model),
        epochs=1,
        rng=np.random.default_rng(3),
        batch_size=1,
    )
    for i in rng.permutation(22):
        gradient_update(by_hand, classification_loss, optimizer, TRAIN.images[[i]], TRAIN.labels[[i]], rng=rng)
    assert optimizer.updates == 22
    np.testing.assert_equal(model.state(), by_hand.state())


def test_the_loss_is_computed_in_training_mode():
    layer, model = Recording(), linear_network()
    model.layers.insert(1, layer)
    rng = np.random.default_rng(0)
    classification_loss(model, TRAIN.images, TRAIN.labels, rng=rng)
    fit(model, classification_loss, TRAIN, optimizer=descent(model), epochs=1, rng=rng, batch_size=11)
    assert layer.calls == [(True, rng)] * 3
    evaluate(model, TRAIN)
    predict(model, TRAIN.images)
    assert layer.calls[3:] == [(False, None)] * 2


class Recording(nn.Module):
    """A layer that does nothing but remember whether it was called in training, and with which generator."""

    def __init__(self):
        self.calls = []

    def forward(self, x, *, train, rng):
        self.calls.append((train, rng))
        return x


def test_dropout_in_a_trained_network_is_on():
    model = linear_network()
    model.layers.insert(1, nn.Dropout(1 - 1e-12))  # nothing is left, so the weights get no gradient
    before = model.state()
    fit(model, classification_loss, TRAIN, optimizer=descent(model), epochs=1, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(model.state()["layers.2.weight"], before["layers.2.weight"])
    assert (model.state()["layers.2.bias"] != before["layers.2.bias"]).any()


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


# What goes wrong ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run_and_is_not_saved(tmp_path, value):
    def loss(model, x, y, *, rng):
        return classification_loss(model, x, y, rng=rng) + value

    with pytest.raises(
        FloatingPointError, match=rf"fit: the training loss is {value} in epoch 1; try a smaller step size"
    ):
        fit_linear(loss, checkpoint=tmp_path / "c.npz")
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
