"""The papers' networks: their sizes, their numbers of parameters, and files that say which network they hold."""

from functools import lru_cache

import numpy as np
import pytest

from npadv import Tensor, grad, nn
from npadv.files import save_arrays
from npadv.functional import cross_entropy


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# Networks -------------------------------------------------------------------------------------------------------------

# The sizes (H, W) that the comments in networks.py promise, as they change; and the parameters, counted by hand:
# (in * out + out) for each dense layer, (channels * taps * filters + filters) for each convolution.
NETWORKS = {
    "maxout_mlp": ([28], (784 * 1200 + 1200) + (240 * 1200 + 1200) + (240 * 10 + 10)),
    "maxout_convnet_mnist": (
        [28, 21, 10, 9, 4, 6, 3],
        (64 * 96 + 96) + (48 * 64 * 96 + 96) + (48 * 25 * 96 + 96) + (216 * 10 + 10),
    ),
    "maxout_convnet_cifar10": (
        [32, 33, 16, 15, 7, 9, 5],
        (3 * 64 * 192 + 192) + (96 * 64 * 384 + 384) + (192 * 25 * 384 + 384) + (4800 * 2500 + 2500) + (500 * 10 + 10),
    ),
    "relu_mlp": ([28], 2_395_210),
    "tanh_mlp": ([28], 2_395_210),
    "softmax_regression": ([28], 7_850),
    "syn_convnet": ([28, 32, 28, 9, 5, 2], (25 * 32 + 32) + (32 * 25 * 64 + 64) + (256 * 200 + 200) + (200 * 10 + 10)),
    "syn_convnet_bn": ([28, 32, 28, 9, 5, 2], 105_506),
    # VGG's convolutions have 14,714,688; each of 4,224 channels and 512 units a scale and a shift; 512-512-10.
    "syn_vgg": ([32, 16, 8, 4, 2, 1], 14_714_688 + 2 * (4224 + 512) + (512 * 512 + 512) + (512 * 10 + 10)),
    "small_maxout": ([28], (784 * 512 + 512) + (128 * 512 + 512) + (128 * 10 + 10)),
    "small_convnet": ([28, 24, 12, 8, 4], (25 * 16 + 16) + (16 * 25 * 32 + 32) + (512 * 10 + 10)),
}


@lru_cache(1)
def built(name):
    return nn.network(name, rng=np.random.default_rng(0))


def batch(name):
    shape = (3, 32, 32) if NETWORKS[name][0][0] == 32 else (1, 28, 28)
    return np.random.default_rng(1).random((2, *shape), np.float32)


def test_every_network_is_here():
    assert NETWORKS.keys() == nn.NETWORKS.keys()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_has_the_published_sizes_and_stays_in_float32(name):
    sizes, parameters = NETWORKS[name]
    model, rng = built(name), np.random.default_rng(2)
    assert sum(p.size for p in model.parameters()) == parameters

    x = y = Tensor(batch(name), requires_grad=True)
    seen = [x.shape[2]]
    for layer in model:
        y = layer(y, train=True, rng=rng)
        assert y.dtype == np.float32, layer
        if y.ndim == 4:
            assert y.shape[2] == y.shape[3]
            seen += [y.shape[2]] if y.shape[2] != seen[-1] else []
    assert seen == sizes
    assert y.shape == (2, 10)

    gradients = grad(cross_entropy(y, np.array([3, 7])), [x, *model.parameters()])
    assert all(g.dtype == np.float32 and np.isfinite(g).all() for g in gradients)
    assert all(array.dtype == np.float32 for array in model.state().values())


@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - {"syn_vgg", "maxout_convnet_cifar10"}))
def test_a_seed_fixes_a_network(name):
    first, same, other = (nn.network(name, rng=np.random.default_rng(seed)).state() for seed in (0, 0, 1))
    np.testing.assert_equal(first, same)
    assert any((first[key] != other[key]).any() for key in first)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_with_dropout_or_batch_norm_differ_in_training(name):
    model, x = built(name), batch(name)
    kinds = {type(layer) for layer in model}
    infer, one, same, other = model(x), *(model(x, train=True, rng=np.random.default_rng(i)) for i in (0, 0, 1))
    np.testing.assert_array_equal(one.data, same.data)
    assert (one.data != other.data).any() == (nn.Dropout in kinds)
    assert (one.data != infer.data).any() == bool(kinds & {nn.Dropout, nn.BatchNorm})


def test_options_go_to_the_network(rng):
    assert nn.network("maxout_mlp", rng=rng, inputs=4, units=3, pieces=2)(np.ones((2, 1, 2, 2), np.float32)).shape == (
        2,
        10,
    )


def small(seed=0, **options):
    return nn.network("maxout_mlp", rng=np.random.default_rng(seed), inputs=4, units=np.int64(3), pieces=2, **options)


def test_a_file_says_which_network_it_holds(tmp_path):
    model = small(1)
    model.about = {**model.about, "data": "four pixels"}
    model.save(tmp_path / "w.npz")
    same = nn.load_network(tmp_path / "w.npz")
    np.testing.assert_equal(same.state(), model.state())
    assert [type(layer) for layer in same] == [type(layer) for layer in model]
    assert same.about == {
        "network": "maxout_mlp",
        "options": {"inputs": 4, "units": 3, "pieces": 2},
        "data": "four pixels",
    }
    same.save(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "w.npz").read_bytes()
    np.testing.assert_equal(small().load(tmp_path / "w.npz").state(), model.state())
    by_hand = nn.Sequential(*small())  # which says nothing of itself
    np.testing.assert_equal(by_hand.load(tmp_path / "w.npz").state(), model.state())
    assert by_hand.about == {}


def test_a_file_that_does_not_say_is_loaded_by_name(tmp_path):
    model = nn.network("softmax_regression", rng=np.random.default_rng(1))
    save_arrays(tmp_path / "w.npz", model.state())  # as all were before
    np.testing.assert_equal(
        nn.network("softmax_regression", rng=np.random.default_rng(0)).load(tmp_path / "w.npz").state(), model.state()
    )
    loaded = nn.load_network(tmp_path / "w.npz", "softmax_regression")
    np.testing.assert_equal(loaded.state(), model.state())
    assert loaded.about == {"network": "softmax_regression", "options": {}}
    with pytest.raises(ValueError, match=r"w\.npz: does not say which network it holds"):
        nn.load_network(tmp_path / "w.npz")
    with pytest.raises(ValueError, match=r"w\.npz: does not fit this model"):
        nn.load_network(tmp_path / "w.npz", "maxout_mlp")


def test_another_networks_file_is_refused(tmp_path):
    small().save(tmp_path / "w.npz")
    other = nn.network("relu_mlp", rng=np.random.default_rng(0), inputs=4, units=3)
    with pytest.raises(
        ValueError, match=r"w\.npz: was saved from a module of network 'maxout_mlp', this one has 'relu_mlp'"
    ):
        other.load(tmp_path / "w.npz")
    wider = nn.network("maxout_mlp", rng=np.random.default_rng(0), inputs=4, units=5, pieces=2)
    with pytest.raises(ValueError, match=r"w\.npz: was saved from a module of options .*'units': 3.* has .*'units': 5"):
        wider.load(tmp_path / "w.npz")
    with pytest.raises(ValueError, match=r"w\.npz: expected weights of 'relu_mlp', got those of 'maxout_mlp'"):
        nn.load_network(tmp_path / "w.npz", "relu_mlp")


def test_an_unknown_network_is_answered_with_the_nearest_name(rng):
    with pytest.raises(
        ValueError, match=r"network: expected one of maxout_mlp, .*, got 'maxout_mpl'; did you mean 'maxout_mlp'\?"
    ):
        nn.network("maxout_mpl", rng=rng)
    with pytest.raises(ValueError, match=r"got 'resnet'$"):
        nn.network("resnet", rng=rng)


def test_a_network_prints_its_layers_and_its_size(rng):
    text = repr(nn.network("softmax_regression", rng=rng))
    assert text == "Sequential(\n    Flatten(),\n    Dense(inputs=784, outputs=10),\n)  # 7,850 parameters"
