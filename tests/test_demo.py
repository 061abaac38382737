"""The demo, cut short: one epoch of everything."""

import contextlib
import io
import json
import os
import sys

import pytest

from npadv.cli import main
from npadv.commands import demo as module
from npadv.data import digits
from npadv.files import load_arrays
from npadv.nn import load_network
from npadv.train import evaluate

SHORT = module.Epochs(maxout=1, convnet=1, gan=1)


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setitem(module.EPOCHS, "digits", SHORT)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of one short run, and what it printed."""
    out, printed = tmp_path_factory.mktemp("demo") / "out", io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setitem(module.EPOCHS, "digits", SHORT)
        assert main(["demo", "--out", str(out), "--quiet", "--seed", "3"]) == 0
    return out, printed.getvalue()


def test_it_writes_a_page_its_numbers_and_the_networks(run):
    out, printed = run
    nets = ["convnet", "convnet-adversarial", "gan", "maxout", "maxout-adversarial"]
    assert sorted(os.listdir(out)) == sorted(["index.html", "results.json", *(f"{net}.npz" for net in nets)])
    page, results = (out / "index.html").read_text("utf-8"), json.loads((out / "results.json").read_text("utf-8"))
    assert page.count("<img") + page.count("<svg") == 5
    assert results["seed"] == 3
    for name, net in results["networks"].items():
        assert len(net["history"]) == 1
        assert net["accuracy_under_fgsm"][0] == pytest.approx(1 - net["test_error"])
        assert f"{name}  " in printed
        assert f"{net['test_error']:.1%}" in page


def test_the_saved_network_is_the_one_that_was_measured(run):
    out, _ = run
    net = load_network(out / "convnet.npz")
    assert net.about == {"network": "small_convnet", "options": {}, "data": "digits"}
    results = json.loads((out / "results.json").read_text("utf-8"))
    assert evaluate(net, digits().test).error == results["networks"]["convnet"]["test_error"]
    assert load_arrays(out / "gan.npz")


def test_the_saved_networks_can_be_attacked(run, tmp_path, capsys):
    for name in ("convnet", "maxout-adversarial"):
        words = ["attack", "fgsm", "--model", str(run[0] / f"{name}.npz"), "--eps", "0.1", "--examples", "20"]
        assert main([*words, "--no-picture", "--out", str(tmp_path / name)]) == 0
        assert f"on small_{name.partition('-')[0]} with 20 images of digits" in capsys.readouterr().out
    assert main(["attack", "fgsm", "--model", str(run[0] / "gan.npz"), "--eps", "0.1"]) == 2
    assert "gan.npz: does not say which network it holds" in capsys.readouterr().err


def test_an_interrupted_run_leaves_the_page_that_was_there(short, tmp_path, monkeypatch):
    page = tmp_path / "index.html"
    page.write_text("the one before")

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "train_gan", interrupted)
    assert main(["demo", "--out", str(tmp_path), "--quiet"]) == 130
    assert os.listdir(tmp_path) == ["index.html"]
    assert page.read_text() == "the one before"


def test_what_it_needs_is_asked_for_before_it_trains(short, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.setattr(module, "train_one", None)  # must not be reached
    assert main(["demo", "--out", str(tmp_path / "out"), "--quiet"]) == 2
    assert 'pip install "npadv[demo]"' in capsys.readouterr().err
