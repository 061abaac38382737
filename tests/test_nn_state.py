"""The state of modules: its names and order, its copies, its files, and files that do not fit or are damaged."""

import io

import numpy as np
import pytest

from npadv import Tensor, grad
from npadv.files import save_arrays
from npadv.nn import (
    BatchNorm,
    Dense,
    Module,
    Parameter,
    ReLU,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# State ----------------------------------------------------------------------------------------------------------------


class Nested(Module):
    """Parameters in every place they are looked for, defined in no alphabetical order."""

    def __init__(self, rng):
        self.z = Dense(2, 3, rng=rng)
        self.branches = {"right": Dense(3, 1, rng=rng), "left": [ReLU(), BatchNorm(3)]}
        self.again = self.z
        self.a = Parameter(np.ones(2, np.float32))
        self.settings = (0.1, "text", None)


def test_parameters_come_in_order_of_definition_and_shared_ones_once(rng):
    module = Nested(rng)
    names = ["z.weight", "z.bias", "branches.right.weight", "branches.right.bias"]
    norm = ["branches.left.1.scale", "branches.left.1.shift"]
    averages = ["branches.left.1.running_mean", "branches.left.1.running_variance"]
    assert [name for name, _ in module.named_parameters()] == [*names, *norm, "a"]
    assert [name for name, _ in module.named_tensors()] == [*names, *norm, *averages, "a"]
    assert module.parameters()[0] is module.z.weight


def test_modules_that_hold_their_parents_and_lists_that_hold_themselves_are_walked_once(rng):
    parent, child = Nested(rng), Dense(2, 1, rng=rng)
    expected = [name for name, _ in parent.named_tensors()]
    parent.child, child.parent = child, parent
    parent.branches["self"] = parent.branches
    assert [name for name, _ in parent.named_tensors()] == [*expected, "child.weight", "child.bias"]
    assert [name for name, _ in child.named_tensors()][:3] == ["weight", "bias", "parent.z.weight"]
    assert len(child.parameters()) == len(parent.parameters())


def test_state_is_a_copy_and_goes_into_another_module(rng):
    first, second = Nested(rng), Nested(rng)
    state = first.state()
    second.load_state(state)
    np.testing.assert_equal(second.state(), state)
    state["a"][:] = 7
    np.testing.assert_array_equal(first.a.data, [1, 1])
    np.testing.assert_array_equal(second.a.data, [1, 1])


def test_save_and_load_keep_every_bit(rng, tmp_path):
    first, second = Nested(rng), Nested(rng)
    first.save(tmp_path / "weights")  # under exactly this name
    assert second.load(str(tmp_path / "weights")) is second
    np.testing.assert_equal(second.state(), first.state())
    with np.load(tmp_path / "weights", allow_pickle=False) as archive:  # anyone's NumPy can read it
        np.testing.assert_array_equal(archive["z.weight"], first.z.weight.data)


def test_loading_is_noticed_by_a_gradient_that_is_under_way(rng):
    layer = Dense(2, 1, rng=rng)
    x = Tensor(np.ones((1, 2), np.float32), requires_grad=True)
    y = layer(x)
    layer.load_state(layer.state())
    with pytest.raises(RuntimeError, match="changed in place"):
        grad(y, x)


def damaged(state):
    """Return the states that do not fit ``state``, each with what the message must say."""
    renamed = {name.replace("bias", "offset"): array for name, array in state.items()}
    return {
        "another architecture": (renamed, r"does not fit this model; missing \['bias'\], unknown \['offset'\]"),
        "another shape": (
            {**state, "weight": np.zeros((3, 2), np.float32)},
            r"weight: expected shape \(2, 3\) and float32, got \(3, 2\) and float32",
        ),
        "another dtype": (
            {**state, "bias": np.zeros(3)},
            r"bias: expected shape \(3,\) and float32, got \(3,\) and float64",
        ),
    }


@pytest.mark.parametrize("damage", ["another architecture", "another shape", "another dtype"])
def test_a_file_that_does_not_fit_is_refused_and_nothing_is_changed(rng, tmp_path, damage):
    layer = Dense(2, 3, rng=rng)
    before = layer.state()
    state, message = damaged({name: array + 1 for name, array in before.items()})[damage]
    save_arrays(tmp_path / "w.npz", state)
    with pytest.raises(ValueError, match=rf"w\.npz: {message}"):
        layer.load(tmp_path / "w.npz")
    np.testing.assert_equal(layer.state(), before)


def one_array():
    np.save(file := io.BytesIO(), np.zeros(3))
    return file.getvalue()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-60]), r"w\.npz: expected an .npz archive"),  # truncated
        (lambda path: path.write_bytes(b""), r"w\.npz: expected an .npz archive"),
        (lambda path: path.write_text("weights"), r"w\.npz: expected an .npz archive"),
        (lambda path: path.write_bytes(one_array()), r"w\.npz: expected an .npz archive"),  # one array alone
        (
            lambda path: np.savez(path, weight=np.zeros((2, 3), np.float32), bias=np.array([None] * 3)),
            r"w\.npz: bias: expected an .npz archive of arrays, could not read it \(holds Python objects",
        ),
        (
            lambda path: path.write_bytes(path.read_bytes().replace(np.float32(0.625).tobytes(), b"\1\2\3\4")),
            r"w\.npz: bias: .*CRC",
        ),
    ],
    ids=["truncated", "empty", "text", "npy", "object array", "a changed bit"],
)
def test_a_file_that_is_damaged_or_foreign_is_refused_and_nothing_is_changed(rng, tmp_path, damage, message):
    layer, path = Dense(2, 3, rng=rng), tmp_path / "w.npz"
    layer.bias.assign([0.625, 0, 0])
    layer.save(path)
    damage(path)
    before = layer.state()
    with pytest.raises(ValueError, match=message):
        layer.load(path)
    np.testing.assert_equal(layer.state(), before)


def test_a_file_that_is_not_there_is_not_found(rng, tmp_path):
    with pytest.raises(FileNotFoundError):
        Dense(2, 3, rng=rng).load(tmp_path / "w.npz")


def test_astype_converts_all_state(rng):
    module = Nested(rng).astype(np.float64)
    assert {array.dtype for array in module.state().values()} == {np.dtype(np.float64)}
    assert module.a.requires_grad
