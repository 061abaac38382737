"""The folder of a run: tried before the work, and locked against a second run."""

import os
import subprocess
import sys
import threading

import pytest
from attack_commands import PLAIN, command

from npadv.commands import folder
from npadv.commands.folder import open_folder

pytest.importorskip("fcntl")

BUSY = "--out: another run is writing into {}; wait for its end, or choose another --out\n"


@pytest.mark.parametrize("kind", ["train", "attack", "evaluate", "demo"])
def test_a_second_run_into_a_folder_is_refused(run, weights, tmp_path, kind):
    words = {
        "train": ["train", "softmax_regression", "--data", "digits"],
        "attack": command("fgsm", weights, tmp_path)[:-2],
        "evaluate": ["evaluate", "--model", weights],
        "demo": ["demo"],
    }[kind]
    out = tmp_path / "a"
    with open_folder(out):
        assert run(*words, "--out", out) == (2, "", f"npadv {kind}: {BUSY.format(out)}")
    assert not out.exists()


def test_a_lock_ends_with_its_process_even_if_it_is_killed(run, weights, tmp_path):
    code = "import sys, time; from pathlib import Path; from npadv.commands.folder import open_folder\n"
    code += f"with open_folder(Path({str(tmp_path)!r})): print('locked', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert run(*command("fgsm", weights, tmp_path, PLAIN))[2] == f"npadv attack: {BUSY.format(tmp_path)}"
        process.kill()
        process.wait()
    assert os.listdir(tmp_path) == [".lock"]
    assert run(*command("fgsm", weights, tmp_path, PLAIN))[0] == 0
    assert sorted(os.listdir(tmp_path)) == ["examples.npz", "result.json"]


def test_of_many_that_open_a_folder_one_holds_it(tmp_path):
    held, most, errors = [], [], []

    def enter():
        for _ in range(200):
            try:
                with open_folder(tmp_path / "a"):
                    held.append(1)
                    most.append(len(held))
                    held.pop()
            except RuntimeError as error:
                errors.append(error)

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert len(most) + len(errors) == 800


def test_a_folder_that_stays_empty_is_removed_with_those_that_were_made(tmp_path):
    (tmp_path / "old").mkdir()
    with open_folder(tmp_path / "old" / "new" / "run"):
        assert (tmp_path / "old" / "new" / "run").is_dir()
    assert os.listdir(tmp_path / "old") == []
    with open_folder(tmp_path / "old"):
        pass
    assert (tmp_path / "old").is_dir()


def test_a_folder_that_cannot_be_written_to_is_refused_before_the_work(run, weights, tmp_path, monkeypatch):
    real = os.open

    def refusing(path, *args, **options):
        if str(path).endswith(".lock"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **options)

    monkeypatch.setattr(folder.os, "open", refusing)
    monkeypatch.setattr("npadv.commands.attack._attack_batches", None)  # never reached
    out = tmp_path / "new" / "a"
    code, _, err = run(*command("fgsm", weights, out, PLAIN))
    assert (code, err) == (2, f"npadv attack: --out: cannot write into {out}: Permission denied\n")
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(run, weights, tmp_path):
    (tmp_path / "a").mkdir(mode=0o500)
    code, _, err = run(*command("fgsm", weights, tmp_path / "a", PLAIN))
    assert (code, err) == (2, f"npadv attack: --out: cannot write into {tmp_path / 'a'}: Permission denied\n")


def test_a_folder_in_the_place_of_a_file_is_refused_before_the_work(run, weights, tmp_path):
    (tmp_path / "examples.png").mkdir()
    code, _, err = run(*command("fgsm", weights, tmp_path))
    assert (code, err) == (2, f"npadv attack: {tmp_path / 'examples.png'}: expected a file or nothing, got a folder\n")


def test_a_folder_below_a_file_is_refused(run, weights, tmp_path):
    (tmp_path / "file").write_text("precious")
    code, _, err = run(*command("fgsm", weights, tmp_path / "file" / "a", PLAIN))
    assert (code, err) == (2, f"npadv attack: --out: cannot write into {tmp_path / 'file' / 'a'}: Not a directory\n")
