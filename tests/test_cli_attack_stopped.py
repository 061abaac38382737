"""``npadv attack``, stopped and continued: Ctrl-C loses nothing, and no run overwrites another."""

import functools
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from attack_commands import PLAIN, command, read

from npadv.commands.registry import ATTACKS
from npadv.files import save_arrays
from npadv.nn import load_network


@pytest.fixture
def interrupt(monkeypatch):
    """Return a function that lets an attack's n-th batch be interrupted."""

    def interrupt(name, at):
        entry, calls = ATTACKS[name], []

        @functools.wraps(entry.attack)
        def attack(*args, **options):
            calls.append(1)
            if len(calls) == at:
                raise KeyboardInterrupt
            return entry.attack(*args, **options)

        monkeypatch.setitem(ATTACKS, name, replace(entry, attack=attack))

    return interrupt


@pytest.mark.parametrize("at", [2, 3])
def test_an_interrupted_run_is_continued_to_what_the_whole_one_is(run, interrupt, weights, tmp_path, at):
    assert run(*command("pgd", weights, tmp_path / "whole"))[0] == 0
    interrupt("pgd", at)
    part = tmp_path / "part"
    code, out, err = run(*command("pgd", weights, part))
    done = 5 * (at - 1)
    assert (code, out) == (130, "")
    assert err == f"npadv: interrupted; {done} of 12 examples are in {part}; the same command with --resume goes on\n"
    assert sorted(os.listdir(part)) == ["examples.npz", "result.json"]
    arrays, _, result = read(part)
    assert (result["complete"], result["attacked"], result["examples"]) == (False, done, 12)
    assert len(arrays["x_adv"]) == done

    assert run(*command("pgd", weights, part, "--resume"))[0] == 0
    assert sorted(os.listdir(part)) == ["examples.npz", "examples.png", "result.json"]
    (whole, settings, w), (resumed, its, r) = read(tmp_path / "whole"), read(part)
    assert settings == its
    assert whole.pop("seconds") != resumed.pop("seconds")
    np.testing.assert_equal(resumed, whole)
    assert {k: v for k, v in r.items() if k != "seconds"} == {k: v for k, v in w.items() if k != "seconds"}
    assert r["seconds"] > result["seconds"] > 0  # of both parts


def test_an_interrupt_while_the_picture_is_drawn_loses_nothing(run, weights, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("npadv.commands.attack_result.png", interrupted)
    assert run(*command("fgsm", weights, tmp_path))[0] == 130
    assert sorted(os.listdir(tmp_path)) == ["examples.npz", "result.json"]
    assert read(tmp_path)[2]["complete"] is True


def test_an_interrupt_before_the_first_batch_writes_nothing(run, interrupt, weights, tmp_path):
    interrupt("fgsm", 1)
    code, out, err = run(*command("fgsm", weights, tmp_path / "a"))
    assert (code, out) == (130, "")
    assert err == "npadv: interrupted; no example is finished\n"
    assert not (tmp_path / "a").exists()


def test_a_real_ctrl_c(run, weights, tmp_path):
    words = [
        "attack",
        "carlini_wagner",
        "--model",
        weights,
        "--examples",
        "200",
        "--batch",
        "2",
        "--out",
        tmp_path / "a",
    ]
    code = f"import sys; sys.stderr.isatty = lambda: True; from npadv.cli import main; sys.exit(main({[*map(str, words)]}))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        shown = b""
        while not re.search(rb"carlini_wagner: .* [1-9]\d*/100", shown):  # the bar: a batch is finished
            byte = process.stderr.read(1)
            assert byte, shown
            shown += byte
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    (done,) = re.findall(rb"npadv: interrupted; (\d+) of 200 examples are in", err)
    arrays, _, result = read(tmp_path / "a")
    assert len(arrays["x_adv"]) == result["attacked"] == int(done) > 0
    assert not result["complete"]


@pytest.mark.parametrize("kept", ["examples.npz", "result.json"])
def test_another_runs_results_are_not_overwritten_unless_told(run, weights, tmp_path, kept):
    (tmp_path / kept).write_text("precious")
    code, _, err = run(*command("fgsm", weights, tmp_path))
    assert code == 2
    assert err.startswith(f"npadv attack: {tmp_path / kept}: exists; choose another --out, ")
    assert os.listdir(tmp_path) == [kept]
    assert (tmp_path / kept).read_text() == "precious"
    assert run(*command("fgsm", weights, tmp_path, PLAIN, "--overwrite"))[0] == 0
    assert read(tmp_path)[2]["complete"]


def test_a_partial_run_leaves_no_picture_of_another(run, interrupt, weights, tmp_path):
    run(*command("fgsm", weights, tmp_path))
    interrupt("fgsm", 2)
    assert run(*command("fgsm", weights, tmp_path, "--overwrite", "--eps", "0.2"))[0] == 130
    assert sorted(os.listdir(tmp_path)) == ["examples.npz", "result.json"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--eps", "0.2"], "was written with eps 0.1, this run has 0.2"),
        (["--seed", "1"], "was written with seed 0, this run has 1"),
        (["--batch", "6"], "was written with batch 5, this run has 6"),
        (["--examples", "13"], "was written with examples 12, this run has 13"),
        (["--target", "next"], "was written with target None, this run has 'next'"),
    ],
)
def test_a_run_is_not_continued_as_another(run, interrupt, weights, tmp_path, more, message):
    interrupt("fgsm", 2)
    run(*command("fgsm", weights, tmp_path))
    before = (tmp_path / "examples.npz").read_bytes()
    code, _, err = run(*command("fgsm", weights, tmp_path, "--resume", *more))
    assert (code, err) == (2, f"npadv attack: {tmp_path / 'examples.npz'}: {message}\n")
    assert (tmp_path / "examples.npz").read_bytes() == before


def test_a_run_is_not_continued_with_other_weights(run, interrupt, weights, tmp_path):
    interrupt("fgsm", 2)
    run(*command("fgsm", weights, tmp_path / "a"))
    other = load_network(weights)
    other.parameters()[0].assign(2 * other.parameters()[0].data)
    other.save(tmp_path / "other.npz")
    code, _, err = run(*command("fgsm", tmp_path / "other.npz", tmp_path / "a", "--resume"))
    assert code == 2
    assert re.search("was written with weights_sha256 '[0-9a-f]{64}', this run has '[0-9a-f]{64}'", err)


def test_what_cannot_be_resumed(run, weights, tmp_path):
    assert run(*command("fgsm", weights, tmp_path, PLAIN, "--resume"))[0] == 0  # nothing was there
    done = f"{tmp_path} is complete: 12 examples are attacked, nothing is left to do\n"
    assert run(*command("fgsm", weights, tmp_path, PLAIN, "--resume")) == (0, done, "")
    code, _, err = run(*command("fgsm", weights, tmp_path, "--resume", "--overwrite"))
    assert (code, err) == (2, "npadv attack: --resume: expected without --overwrite, got both\n")
    for content in ({"x": np.zeros(3)}, {"settings": np.array("{}"), "seconds": np.array(1.0), "x": np.zeros(3)}):
        save_arrays(tmp_path / "examples.npz", content)
        code, _, err = run(*command("fgsm", weights, tmp_path, PLAIN, "--resume"))
        assert code == 2
        assert "examples.npz: expected the examples of npadv attack, got another .npz file" in err
