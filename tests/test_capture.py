"""Steps recorded as CUDA graphs: replayed, they are the steps they were recorded from, to the bit.

On the stand-in for CuPy, whose streams can capture, and with ``-m gpu`` on a GPU.
"""

import contextlib
import json
import shutil
import signal
import sys
import warnings

import fake_cupy
import numpy as np
import pytest

from npadv import capture, nn, ops
from npadv.autodiff import Tensor, grad
from npadv.backend import to_numpy
from npadv.cli import main
from npadv.data import Split
from npadv.defenses import adversarial_training
from npadv.fast import ENABLED
from npadv.functional import binary_cross_entropy, cross_entropy
from npadv.gan import GAN, Players, play
from npadv.nn.parameter import Parameter
from npadv.optim import SGD, Adam, ExponentialDecay, Linear, Optimizer
from npadv.train import EarlyStopping, classification_loss, fit, gradient_update

pytestmark = pytest.mark.skipif(not ENABLED, reason="NPADV_FAST=off: a graph cannot hold the matrix products of cuBLAS")
STAND_IN = pytest.param(
    "stand-in",
    marks=pytest.mark.skipif(shutil.which("g++") is None, reason="g++, which runs kernels, is not installed"),
)
NEVER = 10**9


@pytest.fixture(params=[STAND_IN, pytest.param("gpu", marks=pytest.mark.gpu)])
def cupy(request):
    """CuPy, or what stands in for it."""
    if request.param == "stand-in":
        with fake_cupy.installed():
            yield sys.modules["cupy"]
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("cupy", reason="CuPy is not installed")
        if not module.is_available():
            pytest.skip("no CUDA device")
    yield module


@pytest.fixture
def counts():
    with fake_cupy.installed() as counts:
        yield counts


def split(n=24):
    images = np.random.default_rng(0).random((n, 1, 8, 8), np.float32)
    return Split(images, (images[:, 0, :4].mean(axis=(1, 2)) > images[:, 0, 4:].mean(axis=(1, 2))).astype(np.int64))


def dense(rng):
    return nn.Sequential(
        nn.Flatten(), nn.Dropout(0.2), nn.Dense(64, 8, rng=rng), nn.ReLU(), nn.Dropout(0.5), nn.Dense(8, 2, rng=rng)
    )


def maxout(rng):
    return nn.Sequential(
        nn.Flatten(),
        nn.Dropout(0.2, rescale=False),
        nn.Maxout(64, 6, 3, rng=rng, max_norm=0.7),
        nn.Dropout(0.5),
        nn.Dense(6, 2, rng=rng, step_scale=0.5, max_norm=0.5),
    )


def convnet(rng):
    return nn.Sequential(
        nn.Standardize(0.5, 0.3),
        nn.BatchNorm(1, affine=False),
        nn.Conv2D(1, 4, 3, padding=1, rng=rng, max_norm=0.6),
        nn.BatchNorm(4),
        nn.ReLU(),
        nn.MaxPool2D(3, stride=2, ceil_mode=True),
        nn.Dropout(0.25),
        nn.MaxoutConv2D(4, 3, 2, 3, rng=rng),
        nn.AvgPool2D(2),
        nn.Flatten(),
        nn.Dense(3, 2, rng=rng),
    )


NETWORKS = {"dense": dense, "maxout": maxout, "convnet": convnet}
LOSSES = {
    "plain": classification_loss,
    "linf": adversarial_training(0.1),
    "l2": adversarial_training(0.5, norm="l2"),
    "l1": adversarial_training(0.5, norm="l1", alpha=0),
}
RULES = {
    "sgd": lambda p: SGD(p, 0.1),
    "decaying": lambda p: SGD(p, ExponentialDecay(0.1, 1.1)),
    "momentum": lambda p: SGD(p, ExponentialDecay(0.1, 1.1), momentum=Linear(0.5, 0.9, end=3), weight_decay=1e-2),
    "dampened": lambda p: SGD(p, 0.1, momentum=0.9, dampening=0.9),
    "nesterov": lambda p: SGD(p, 0.1, momentum=Linear(0.5, 0.9, end=3), nesterov=True),
    "adam": lambda p: Adam(p, ExponentialDecay(0.01, 1.1), weight_decay=1e-2),
}
COMBINATIONS = [(network, loss, "momentum") for network in NETWORKS for loss in LOSSES]
COMBINATIONS += [("maxout", "plain", rule) for rule in RULES if rule != "momentum"]


def train(network="maxout", loss="plain", rule="momentum", *, epochs=3, **options):
    """What a captured run of three batches an epoch leaves behind; the third is smaller."""
    model = NETWORKS[network](np.random.default_rng(1)).to("cuda")
    optimizer, rng = RULES[rule](model.parameters()), np.random.default_rng(2)
    loss = LOSSES.get(loss, loss)
    settings = {"epochs": epochs, "batch_size": 10, "validation": split(), "rng": rng, "capture": True} | options
    history = fit(model, loss, split(), optimizer=optimizer, **settings)
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in history]
    return rows, model.state(), optimizer.state(), rng.bit_generator.state


@contextlib.contextmanager
def without_graphs():
    """Take every step of a captured run as it comes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capture, "WARM_UP", NEVER)
        yield


# Replayed, and as they come -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("network", "loss", "rule"), COMBINATIONS)
def test_replayed_steps_are_the_steps_as_they_come_to_the_bit(cupy, network, loss, rule):
    with without_graphs():
        expected = train(network, loss, rule)
    before = fake_cupy.COUNTS["graphs"]
    np.testing.assert_equal(train(network, loss, rule), expected)
    if cupy.__version__.endswith("(a stand-in)"):
        assert before == 0
        assert fake_cupy.COUNTS["graphs"] == 9 - 2  # all steps but the first of each shape


@pytest.mark.parametrize(("network", "rule"), [*(("maxout", rule) for rule in RULES), ("convnet", "momentum")])
def test_captured_training_is_training(cupy, network, rule):
    """Without dropout, whose masks are others; the sums of cuBLAS and of the kernels have orders of their own."""

    def run(**options):
        model = NETWORKS[network](np.random.default_rng(1)).astype(np.float64)
        model = nn.Sequential(*(layer for layer in model if not isinstance(layer, nn.Dropout)))
        model.to("cuda" if options else "cpu")
        rng = np.random.default_rng(2)
        if not options:
            rng.integers(2**64, dtype=np.uint64)  # a captured run seeds its masks by it
        history = fit(
            model, LOSSES["linf"], split(), optimizer=RULES[rule](model.parameters()), epochs=3, batch_size=10, rng=rng,
            **options,
        )  # fmt: skip
        return [row["train_loss"] for row in history], model.state()

    losses, weights = run(capture=True)
    expected_losses, expected = run()
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-9)
    for name, tensor in expected.items():
        np.testing.assert_allclose(weights[name], tensor, rtol=1e-6, atol=1e-9)


def test_a_replay_neither_waits_nor_launches_nor_fetches(counts):
    model = maxout(np.random.default_rng(1)).to("cuda")
    optimizer = SGD(model.parameters(), 0.1, momentum=Linear(0.5, 0.9, end=3))
    masks = ops.DeviceRandom(3, model.parameters()[0].data)

    def step(x, y):
        loss = gradient_update(model, LOSSES["linf"], optimizer, x, y, rng=masks)
        masks.advance()
        return loss

    captured, data = capture.CapturedStep(step, masks.memory), split(10)
    versions = []
    for i in range(6):
        before = dict(counts)
        captured(data.images, data.labels)
        versions.append(model.parameters()[0]._version[0])
        if i >= 2:
            done = {name: counts[name] - before[name] for name in counts}
            uploads = 2 if i != 4 else 3  # batch and labels; the momentum of a new epoch
            assert done == {"waits": 0, "uploads": uploads, "downloads": 0, "compiled": 0, "launches": 0, "graphs": 1}
        optimizer.epoch = i // 3
    assert optimizer.updates == masks.steps == 6
    assert sorted(set(versions)) == versions  # a gradient of before is refused, replayed or not


def test_each_replay_draws_masks_of_its_own(cupy):
    ones = np.ones((4, 5), np.float32)
    p = Parameter(cupy.asarray(np.zeros((4, 5), np.float32)))
    masks, optimizer, layer = ops.DeviceRandom(7, p.data), SGD([p], 1.0), nn.Dropout(0.5)

    def step(x):
        loss = ops.sum(layer(x, train=True, rng=masks) * p) + ops.sum(layer(p, train=True, rng=masks))
        optimizer.step(grad(loss, [p]))
        masks.advance()
        return loss.data

    captured, before, moves = capture.CapturedStep(step, p.data), 0, []
    for _ in range(5):
        captured(ones)
        moves.append(before - to_numpy(p.data))
        before = to_numpy(p.data)
    host = ops.DeviceRandom(7, ones)
    for move in moves:
        np.testing.assert_array_equal(move, sum(ops.dropout(ones, rate=0.5, draw=host.draw()) for _ in range(2)))
        host.advance()
    assert len({move.tobytes() for move in moves}) == 5


def test_the_loss_of_a_step_outlives_the_next(cupy):
    p = Parameter(cupy.asarray(np.ones(3)))
    optimizer = SGD([p], 0.0)
    captured = capture.CapturedStep(lambda x: gradient_update(None, sum_of, optimizer, x, p, rng=None), p.data)
    losses = [captured(np.full(3, float(i))) for i in range(5)]
    assert [float(loss) for loss in losses] == [0, 3, 6, 9, 12]


def sum_of(model, x, p, *, rng):
    return ops.sum(p * x)


def test_two_updates_in_a_step_have_their_own_step_sizes(cupy):
    """As the players of a game have, or one of them that moves twice."""

    def run():
        p, q = (Parameter(cupy.asarray(np.ones(3))) for _ in "pq")
        first, second = SGD([p], ExponentialDecay(0.1, 2.0)), Adam([q], ExponentialDecay(0.1, 3.0))

        def step(x):
            for _ in range(2):
                first.step(grad(ops.sum(p * x), [p]))
            loss = ops.sum(q * p * x)
            second.step(grad(loss, [q]))
            return loss.data

        captured = capture.CapturedStep(step, p.data)
        losses = [float(captured(np.full(3, i + 1.0))) for i in range(4)]
        return losses, to_numpy(p.data), to_numpy(q.data), first.updates, second.updates

    with without_graphs():
        expected = run()
    np.testing.assert_equal(run(), expected)
    assert expected[3:] == (8, 4)
    moved = sum(0.1 * 2.0**-t * (t // 2 + 1) for t in range(8))
    np.testing.assert_allclose(expected[1], 1 - moved)


def test_what_a_callback_changes_is_obeyed(cupy):
    """A setting that the graph has as it was, and memory that it would look for where it no longer is."""

    def meddle(training):
        optimizer = training.optimizer
        if len(training.history) == 2:
            optimizer.weight_decay = 0.3
        elif len(training.history) == 3:
            optimizer.load_state({name: a * 0 if "velocity" in name else a for name, a in optimizer.state().items()})
        elif len(training.history) == 4:
            optimizer.step_size = 0.01
        elif len(training.history) == 5:
            optimizer.parameters[0].step_scale, optimizer.parameters[0].constraint = 0.1, None

    with without_graphs():
        expected, undisturbed = train(epochs=7, callbacks=[meddle]), train(epochs=7)
    np.testing.assert_equal(train(epochs=7, callbacks=[meddle]), expected)
    assert expected[0][1:3] != undisturbed[0][1:3]


def test_early_stopping_gets_its_best_weights_back(cupy):
    with without_graphs():
        expected = train(epochs=5, callbacks=[EarlyStopping(1, "train_loss")])
    np.testing.assert_equal(train(epochs=5, callbacks=[EarlyStopping(1, "train_loss")]), expected)


# Interrupted and resumed ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def interrupted_in(step):
    """Press Ctrl-C in the given call of a captured step."""
    calls, real = 0, capture.CapturedStep.__call__

    def call(self, *batch):
        nonlocal calls
        calls += 1
        if calls == step:
            signal.raise_signal(signal.SIGINT)
        return real(self, *batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capture.CapturedStep, "__call__", call)
        yield


def test_a_captured_run_stopped_at_any_step_and_resumed_is_the_same_to_the_bit(cupy, tmp_path):
    expected = train(checkpoint=tmp_path / "whole.npz")
    for step in range(1, 10):
        path = tmp_path / f"{step}.npz"
        with pytest.raises(KeyboardInterrupt), interrupted_in(step):
            train(checkpoint=path)
        np.testing.assert_equal(train(checkpoint=path, resume=True), expected)


def test_a_checkpoint_keeps_the_place_in_the_sequence_of_masks(cupy, tmp_path):
    train(epochs=2, checkpoint=tmp_path / "run.npz")
    with np.load(tmp_path / "run.npz") as file:
        seed = np.random.default_rng(2).integers(2**64, dtype=np.uint64)
        assert file["masks/state"].tolist() == [seed, 2 * 6]  # two layers, six steps


def test_a_captured_run_is_not_resumed_as_a_plain_one_nor_the_other_way(cupy, tmp_path):
    for written in (True, False):
        path = tmp_path / f"{written}.npz"
        train(epochs=1, checkpoint=path, capture=written)
        with pytest.raises(ValueError, match=f"was written with capture={written}, this run has {not written}"):
            train(checkpoint=path, capture=not written, resume=True)


def test_a_checkpoint_from_before_there_were_captured_runs_is_resumed(cupy, tmp_path):
    path = tmp_path / "run.npz"
    expected = train(capture=False)
    train(epochs=1, capture=False, checkpoint=path)
    with np.load(path) as file:
        arrays = dict(file)
    facts = json.loads(str(arrays["json"]))
    del facts["progress"]["capture"]
    np.savez(path, **{**arrays, "json": np.array(json.dumps(facts))})
    np.testing.assert_equal(train(capture=False, checkpoint=path, resume=True), expected)


# What cannot be recorded says so --------------------------------------------------------------------------------------


def test_on_the_cpu_there_is_nothing_to_capture():
    model = dense(np.random.default_rng(0))
    with pytest.raises(
        ValueError, match=r"capture: expected a model on a GPU, as after model.to\('cuda'\); got one on"
    ):
        fit(
            model, classification_loss, split(), optimizer=SGD(model.parameters(), 0.1), epochs=1, capture=True,
            rng=np.random.default_rng(0),
        )  # fmt: skip


class Halving(Optimizer):
    """A rule that somebody wrote."""

    def update(self, i, p, g, step_size):
        p *= 0.5


class Clipped(SGD):
    """A rule that somebody changed."""

    def update(self, i, p, g, step_size):
        super().update(i, p, g.clip(-1, 1), step_size)


def peeking(model, x, y, *, rng):
    loss = classification_loss(model, x, y, rng=rng)
    assert float(loss.data) >= 0
    return loss


def bringing(model, x, y, *, rng):
    return classification_loss(model, x * sys.modules["cupy"].asarray(np.ones(1, np.float32)), y, rng=rng)


def stacking(model, x, y, *, rng):
    return classification_loss(model, x @ x, y, rng=rng)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (peeking, "cannot be recorded as a CUDA graph: .*synchron"),
        pytest.param(bringing, "cannot be recorded as a CUDA graph: RuntimeError: asarray of host data", id="bringing"),
        (stacking, "cannot be recorded as a CUDA graph: NotImplementedError: .*cuBLAS"),
    ],
)
def test_a_step_that_cannot_be_recorded_is_named(counts, loss, message):
    with pytest.raises(RuntimeError, match=message):
        train(loss=loss)
    assert not any(stream.is_capturing() for stream in fake_cupy.STREAMS)
    train(epochs=1, capture=False)  # and the device is as good as before


def test_an_update_that_would_not_change_with_its_schedule_is_refused(counts):
    x = np.ones(3)
    p = Parameter(sys.modules["cupy"].asarray(x))

    def captured(update):
        step = capture.CapturedStep(update, p.data)
        return [step(x) for _ in range(2)]

    for rule, name in ((Halving([p], 0.1, 0.0), "Halving"), (Clipped([p], 0.1), "Clipped")):
        with pytest.raises(NotImplementedError, match=f"{name} defines update, and no update_on_device"):
            captured(lambda x, rule=rule: gradient_update(None, sum_of, rule, x, p, rng=None))
    with pytest.raises(RuntimeError, match=r"no optimizer of npadv.optim took a step"):
        captured(lambda x: ops.sum(p * x).data)
    with pytest.raises(TypeError, match="returns its loss as an array on the GPU, got float"):
        captured(lambda x: 0.0)


def test_a_game_that_draws_noise_is_told_what_it_cannot_draw(counts):
    rng = np.random.default_rng(0)
    generator = nn.Sequential(nn.Dense(3, 64, rng=rng), nn.Sigmoid(), nn.Reshape(1, 8, 8))
    gan = GAN(generator, nn.Sequential(nn.Flatten(), nn.Dense(64, 1, rng=rng)), 3).to("cuda")
    players = Players(generator=Adam(generator.parameters()), discriminator=Adam(gan.discriminator.parameters()))
    with pytest.raises(AttributeError, match="DeviceRandom has no standard_normal: a captured step can draw the masks"):
        play(gan, split(), players=players, epochs=1, rng=rng, capture=True)


HALVES = np.full((2, 3), 0.5)


@pytest.mark.parametrize(
    ("loss", "good", "bad", "message"),
    [
        (cross_entropy, np.array([0, 2]), np.array([0, 3]), "labels: expected classes 0..2, got values from 0 to 3"),
        (cross_entropy, np.array([0, 2]), np.array([-1, 0]), "labels: expected classes 0..2, got values from -1 to 0"),
        (cross_entropy, HALVES, -HALVES, "targets: expected finite, non-negative weights"),
        (binary_cross_entropy, HALVES, 3 * HALVES, "expected probabilities in"),
    ],
)
def test_targets_are_checked_before_a_replay_and_without_a_wait(counts, loss, good, bad, message):
    p = Parameter(sys.modules["cupy"].asarray(np.ones((2, 3))))
    optimizer = SGD([p], 0.1)
    captured = capture.CapturedStep(
        lambda t: gradient_update(None, lambda m, t, y, rng: loss(p, t), optimizer, t, None, rng=None), p.data
    )
    for step in range(4):
        waits = counts["waits"]
        captured(good)
        assert (counts["waits"] == waits) == (step > 0)  # from the second on, the check is the host's
        before = to_numpy(p.data).tolist()
        if step:
            with pytest.raises(ValueError, match=message):
                captured(bad)
        assert to_numpy(p.data).tolist() == before
    captured = capture.CapturedStep(captured.step, p.data)
    captured(good)
    with pytest.raises(ValueError, match=message):
        captured(bad)  # the batch that is recorded
    assert optimizer.updates == 5
    for _ in range(4):
        captured(good)
    assert optimizer.updates == 9


# Dropout from a state on the device -----------------------------------------------------------------------------------


def test_dropout_draws_from_a_random_state_on_the_device(cupy):
    x = np.random.default_rng(0).random((6, 7))
    for rate, rescale in ((0.5, True), (0.2, False)):
        layer, random, host = (
            nn.Dropout(rate, rescale=rescale),
            ops.DeviceRandom(5, cupy.asarray(x)),
            ops.DeviceRandom(5, x),
        )
        for _ in range(2):
            for _ in range(2):
                y = layer(cupy.asarray(x), train=True, rng=random)
                expected = ops.dropout(x, rate=rate, draw=host.draw(), rescale=rescale)
                np.testing.assert_array_equal(to_numpy(y), expected)
            random.advance()
            host.advance()


def test_the_gradient_of_dropout_is_through_the_same_mask_while_there_is_one():
    x, random = Tensor(np.ones(20), requires_grad=True), ops.DeviceRandom(5, np.zeros(1))
    y = nn.Dropout(0.5)(x, train=True, rng=random)
    np.testing.assert_array_equal(grad(y.sum(), x), y.data)
    random.advance()
    with pytest.raises(RuntimeError, match="the masks of step 0 are gone, step 1 has begun"):
        grad(y.sum(), x)


def test_a_random_state_is_saved_and_restored_and_refuses_another():
    random = ops.DeviceRandom(2**64 - 1, np.zeros(1))
    random.draw(), random.advance()
    other = ops.DeviceRandom(0, np.zeros(1))
    other.load_state(random.state())
    assert other.state()["state"].tolist() == [2**64 - 1, 1]
    with pytest.raises(ValueError, match="random state: expected seed and offset"):
        other.load_state({})
    with pytest.raises(ValueError, match=r"DeviceRandom\(seed\): expected an integer in \[0, 2\*\*64\), got -1"):
        ops.DeviceRandom(-1, np.zeros(1))


# The command line -----------------------------------------------------------------------------------------------------


def test_the_command_line_captures(counts, tmp_path, capsys):
    command = ["train", "softmax_regression", "--data", "digits", "--epochs", "2", "--device", "cuda", "--quiet"]
    assert main([*command, "--capture", "--out", str(tmp_path / "run")]) == 0
    assert "test error" in capsys.readouterr().out
    assert counts["graphs"] > 10
    assert json.loads((tmp_path / "run" / "result.json").read_text())["capture"] is True


def test_the_command_line_captures_on_a_gpu_only(tmp_path, capsys):
    assert main(["train", "softmax_regression", "--capture", "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == "npadv train: --capture: expected together with --device cuda\n"
