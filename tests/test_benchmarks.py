"""The benchmarks' own tests: all sides compute the same, and the clock, the workers and the verdicts do what they say."""

import doctest
import importlib
import json
import os
import statistics
import sys
import time
from dataclasses import dataclass

import numpy as np
import pytest

from benchmarks import __main__ as command_line
from benchmarks import compare, draw, figures, problems, table, timing, worker
from benchmarks.process import ROOT, MissingLibraryError, UnsupportedError, Worker, WorkerError, worker_environment
from benchmarks.timing import Contestant, Plan, race, was_disturbed
from benchmarks.workloads import SIDES, WORKLOADS, Bar, Entry, Workload, select

QUICK = Plan(rounds=3, budget=0.01, warmup=0.0, rest=0.0)
PEERS = ("torch_side", "jax_side", "autograd_side", "textbook")
NETWORKS = ("maxout", "convnet", "syn_convnet", "20-32-10")


def side(name):
    """Return a side's module, started; skip where its library is not installed."""
    pytest.importorskip(name.partition("_")[0] if name != "textbook" else "numpy")
    module = importlib.import_module(f"benchmarks.sides.{name}")
    module.start(threads=os.cpu_count())  # fewer would bind this process to fewer cores
    return module


# All sides compute the same -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", PEERS)
def test_a_side_finds_npadvs_loss_and_gradients(name, network):
    if (name, network) in {(peer, "syn_convnet") for peer in PEERS[1:]}:
        with pytest.raises(NotImplementedError):
            side(name).gradients(network, 6)
        return
    loss, gradients = side("npadv_side").gradients(network, 6)
    their_loss, theirs = side(name).gradients(network, 6)
    assert their_loss == pytest.approx(loss, rel=1e-5)
    assert [g.shape for g in theirs] == [g.shape for g in gradients]
    for ours, other in zip(gradients, theirs, strict=True):
        assert other.dtype == np.float32
        np.testing.assert_allclose(other, ours, rtol=0, atol=1e-4 * abs(ours).max())


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", PEERS)
def test_a_sides_steps_lose_what_npadvs_lose(name, network, monkeypatch):
    if name != "torch_side" and network == "syn_convnet":
        return  # which they refuse, as tested above
    initial = problems.weights
    # Large steps show in the losses; long weights give the maxout network's constraint something to do.
    monkeypatch.setattr(problems, "STEP_SIZE", 0.01)
    monkeypatch.setattr(
        problems, "weights", lambda network: [(1.6 if network == "maxout" else 1) * w for w in initial(network)]
    )
    ours, theirs = (s.train_step(network, 6, dropout=False) for s in (side("npadv_side"), side(name)))
    losses = np.array([[float(ours()), float(theirs())] for _ in range(4)])
    np.testing.assert_allclose(losses[:, 1], losses[:, 0], rtol=1e-4)
    assert abs(losses[-1, 0] / losses[0, 0] - 1) > 0.01


@pytest.mark.parametrize("network", ["20-32-10", "784-100-100-10"])
@pytest.mark.parametrize("name", PEERS)
def test_a_sides_input_gradient_is_npadvs(name, network):
    ours = side("npadv_side").input_gradient(network, 1)()
    assert np.array_equal(side("npadv_side").replayed_gradient(network, 1)(), ours)
    theirs = np.asarray(side(name).input_gradient(network, 1)())
    assert theirs.dtype == ours.dtype == np.float32
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-5 * abs(ours).max())


@pytest.mark.parametrize("name", ["npadv_side", *PEERS])
def test_dropout_is_on_while_training_is_timed(name):
    step = side(name).train_step("maxout", 50)
    without = side(name).train_step("maxout", 50, dropout=False)
    assert abs(float(step()) / float(without()) - 1) > 0.02


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("network", ["784-100-100-10", "convnet"])
@pytest.mark.parametrize(("task", "settings"), [("fgsm", {}), ("pgd", {"steps": 5})])
def test_torchs_attacks_are_as_successful_as_npadvs(task, settings, network, channels_last):
    torch_side = side("torch_side")
    torch_side.start(threads=1, channels_last=channels_last)  # side() sets the order back
    step = side("npadv_side").TASKS[task](network, 40, **settings)
    success, theirs = float(step()), float(torch_side.TASKS[task](network, 40, **settings)())
    assert theirs == pytest.approx(success, abs=1 / 40)
    assert success > 0.5


@pytest.mark.parametrize("part", ["forward", "input gradient", "weight gradient"])
def test_torchs_convolutions_are_npadvs(part):
    torch_side, torch = side("torch_side"), pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, w, g = (rng.normal(size=shape).astype(np.float32) for shape in ((4, 3, 9, 9), (5, 3, 4, 4), (4, 5, 8, 8)))
    ours = side("npadv_side").primitive(part, x, w, g, 1)()
    theirs = torch_side.primitive(part, *(torch.from_numpy(a) for a in (x, w, g)), 1)()
    np.testing.assert_allclose(theirs.numpy(), ours, rtol=0, atol=1e-5 * abs(ours).max())


def test_every_task_of_every_workload_exists_and_runs_small():
    small = {"batch": 2, "steps": 2}
    for workload in WORKLOADS.values():
        for entry in workload.entries.values():
            module = SIDES[entry.side].module.rpartition(".")[2]
            pytest.importorskip(module.partition("_")[0] if module != "textbook" else "numpy")
            assert entry.task in importlib.import_module(SIDES[entry.side].module).TASKS
        if workload.key in ("a", "c2", "d2", "f3", "f6", "g3i", "h"):
            for entry in workload.entries.values():
                settings = {name: small.get(name, value) for name, value in entry.settings.items()}
                side(SIDES[entry.side].module.rpartition(".")[2]).TASKS[entry.task](**settings)()


# The table ----------------------------------------------------------------------------------------------------------------


def test_keys_of_a_group_stand_together_so_that_its_workers_start_once():
    groups = [workload.group for workload in WORKLOADS.values()]
    assert groups == sorted(groups, key=list(dict.fromkeys(groups)).index)
    assert list(WORKLOADS) == list(dict.fromkeys(WORKLOADS))


def test_every_aim_is_below_its_bar_and_every_bar_has_its_contestant():
    for workload in WORKLOADS.values():
        assert workload.ours in workload.entries
        assert set(workload.bars) <= set(workload.entries) - {workload.ours}
        assert all(bar.aim < bar.at_most for bar in workload.bars.values())
        assert bool(workload.bars) == (workload.group != "p")


def test_selecting():
    assert [w.key for w in select(["g1"])] == ["g1f", "g1i", "g1w"]
    assert len(select(["g"])) == 30
    assert {w.group for w in select([])} == set("abcdefgh")
    assert {w.group for w in select([], peers=True)} == set("abcdefghp")
    for key in ("c3", "", "z"):
        with pytest.raises(ValueError, match=r"--only: expected some of a, b, c1.* got"):
            select([key])


# The clock ----------------------------------------------------------------------------------------------------------------


class Scripted:
    """A worker whose times are given, and who keeps a record of its turns."""

    def __init__(self, name, seconds, turns, cpu=0.0):
        self.name, self.seconds, self.turns, self.cpu = name, list(seconds), turns, cpu

    def ask(self, do, **fields):
        assert do == "time"
        self.turns.append(self.name)
        return {"seconds": self.seconds.pop(0), "cpu": self.cpu, "wall": 1.0, "outcome": 0.5}


def test_contestants_rotate_and_ratios_are_taken_within_a_round():
    turns, rests = [], []
    # The machine is ten times slower in the second round: medians of either side alone would not say 1/2.
    ours, theirs = Scripted("ours", [1.0, 10.0, 1.5], turns), Scripted("theirs", [2.0, 20.0, 3.0], turns)
    plan = Plan(rounds=3, rest=0.25)
    result = race(
        {"ours": Contestant(ours, "x"), "theirs": Contestant(theirs, "x")}, plan, busy=lambda: 0.0, sleep=rests.append
    )
    assert turns == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert rests == [0.25] * 6
    assert result.ratios("ours", "theirs") == [0.5, 0.5, 0.5]
    assert (result.repeated, result.disturbed) == (0, 0)


def test_a_disturbed_sample_is_taken_again_until_the_repeats_are_used_up():
    clock = iter([0.0, 9.0, 9.0, 9.2, 20.0, 30.0, 30.0, 40.0])  # disturbed, quiet; disturbed, disturbed
    sides = {"only": Contestant(Scripted("only", [1.0, 2.0, 3.0, 4.0], [], cpu=0.15), "x")}
    result = race(sides, Plan(rounds=2, repeats=2), busy=lambda: next(clock), sleep=lambda _: None)
    assert result.seconds["only"] == [2.0, 4.0]
    assert (result.repeated, result.disturbed) == (2, 1)


def test_what_disturbs():
    assert not was_disturbed(busy=2.0, own=1.99, wall=1.0)
    assert was_disturbed(busy=2.0, own=1.8, wall=1.0)


def test_a_system_that_does_not_tell_disturbs_nothing(tmp_path):
    assert timing.machine_busy(str(tmp_path / "none")) is None
    sides = {"only": Contestant(Scripted("only", [1.0], []), "x")}
    result = race(sides, Plan(rounds=1), busy=lambda: None, sleep=lambda _: None)
    assert (result.seconds["only"], result.disturbed) == ([1.0], 0)


def test_busy_time_is_all_but_idle_and_waiting(tmp_path):
    stat = tmp_path / "stat"
    stat.write_text("cpu  1 2 3 1000 2000 4 5 6 7 8\ncpu0 1 2 3 1000 2000 4 5 6 7 8\n")
    assert timing.machine_busy(str(stat)) == pytest.approx(21 / os.sysconf("SC_CLK_TCK"))


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"budget": 0.0}])
def test_a_plan_that_measures_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected more than 0"):
        Plan(**wrong)


def test_measure_warms_up_and_reports_the_median_iteration():
    durations = iter([0.05, 0.05, *[0.004, 0.002, 0.003] * 100])
    began = time.perf_counter()
    found = worker.measure(lambda: time.sleep(next(durations)), warmup=0.08, budget=0.03)
    assert 0.0025 < found["seconds"] < 0.004  # the slow first two are warm-up
    assert 3 <= found["iterations"] < 30
    assert 0.1 < found["wall"] <= time.perf_counter() - began
    assert found["cpu"] < found["wall"]


def test_measure_takes_three_iterations_of_what_exceeds_its_budget():
    calls = []
    assert worker.measure(lambda: calls.append(1), warmup=0.0, budget=1e-9)["iterations"] == 3
    assert len(calls) == 4


def test_measure_refuses_what_diverged():
    with pytest.raises(FloatingPointError, match="expected a finite number"):
        worker.measure(lambda: np.float32("nan"), warmup=0.0, budget=1e-9)
    assert worker.measure(lambda: np.array([1.0, 3.0]), warmup=0.0, budget=1e-9)["outcome"] == 2.0


# Workers ------------------------------------------------------------------------------------------------------------------

FAKE = """
import os, sys, time
print("a library's greeting, which is no answer")

def start(*, threads, slow=1.0, missing=None):
    global factor
    factor = slow
    if missing:
        __import__(missing)
    return {"fake": f"{threads} threads"}

def sleep(seconds):
    return lambda: time.sleep(factor * seconds)

def fail(message):
    raise ValueError(message)

def refuse():
    raise NotImplementedError("not here")

def crash():
    sys.stderr.write("a cry\\n"); sys.stderr.flush(); os._exit(7)

def hoard(size):
    kept = []
    return lambda: kept.append(bytearray(b"x" * size))

TASKS = {"sleep": sleep, "fail": fail, "refuse": refuse, "crash": crash, "hoard": hoard}
"""


@pytest.fixture
def fake(tmp_path):
    """Return a function that starts a worker over the fake side; all end with the test."""
    (tmp_path / "fake_side.py").write_text(FAKE)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    started = []

    def start(name="fake", **options):
        environment = {"PYTHONPATH": path}
        started.append(Worker.of(name, "fake_side", threads=2, options=options, environment=environment))
        return started[-1]

    yield start
    for process in started:
        process.close()


def program(code):
    """Return a worker that is any Python program."""
    return Worker("odd", [sys.executable, "-c", code], os.environ, limit=5.0)


def test_a_side_that_sleeps_twice_as_long_takes_twice_the_time(fake):
    sides = {"ours": Contestant(fake(), "x"), "theirs": Contestant(fake(slow=2.0), "x")}
    for contestant in sides.values():
        assert contestant.worker.ask("hello") == {"versions": {"fake": "2 threads"}}
        contestant.worker.ask("prepare", name="x", task="sleep", settings={"seconds": 0.005})
    rounds = race(sides, QUICK, busy=lambda: None)
    assert statistics.median(rounds.ratios("ours", "theirs")) == pytest.approx(0.5, abs=0.12)


def test_memory_sees_what_a_step_keeps(fake):
    process = fake()
    found = {}
    for task in ("hoard", "sleep"):
        process.ask(
            "prepare", name="x", task=task, settings={"hoard": {"size": 2**20}, "sleep": {"seconds": 0.0}}[task]
        )
        try:
            found[task] = process.ask("memory", name="x", settle=2, steps=8)
        except UnsupportedError as error:
            pytest.skip(str(error))
    assert 7 * 2**20 < found["hoard"]["growth"] < 12 * 2**20
    assert found["hoard"]["faults_per_step"] > 100
    assert found["hoard"]["peak"] > found["hoard"]["growth"]
    assert found["sleep"]["growth"] < 2**20
    assert found["sleep"]["faults_per_step"] < 50


def test_a_side_that_fails_or_refuses_says_so_and_lives_on(fake):
    process = fake()
    with pytest.raises(WorkerError, match="fake, asked to prepare x: ValueError: too bad"):
        process.ask("prepare", name="x", task="fail", settings={"message": "too bad"})
    with pytest.raises(UnsupportedError, match="fake: not here"):
        process.ask("prepare", name="x", task="refuse", settings={})
    with pytest.raises(WorkerError, match=r"task: expected one of sleep, fail, .* got 'jump'"):
        process.ask("prepare", name="x", task="jump", settings={})
    with pytest.raises(WorkerError, match="KeyError"):
        process.ask("time", name="x", warmup=0.0, budget=0.001)
    process.ask("prepare", name="x", task="sleep", settings={"seconds": 0.0})
    process.ask("drop", name="x")


def test_a_missing_library_is_one_sentence_that_names_the_extra(fake):
    with pytest.raises(MissingLibraryError) as error:
        fake(missing="no_such_library").ask("hello")
    assert str(error.value) == 'fake needs no_such_library, which is missing; run: pip install -e ".[bench]"'


def test_a_side_that_crashes_is_reported_with_its_last_words(fake):
    process = fake()
    with pytest.raises(WorkerError, match="fake, asked to prepare x: ended with exit code 7: a cry"):
        process.ask("prepare", name="x", task="crash", settings={})
    with pytest.raises(WorkerError, match="ended with exit code 7"):
        process.ask("hello")


@pytest.mark.parametrize("garbage", ["not JSON", "[1]", ""])
def test_a_side_that_talks_garbage_is_not_believed(garbage):
    with program(f"input(); print({garbage!r}, flush=True); input()") as odd:  # noqa: SIM117
        with pytest.raises(WorkerError, match="odd, asked to hello: expected a line of JSON, got"):
            odd.ask("hello")


def test_a_side_that_does_not_answer_is_given_up():
    with program("import time; time.sleep(60)") as odd:
        odd.limit = 0.2
        with pytest.raises(WorkerError, match=r"odd, asked to hello: no answer within 0.2 s"):
            odd.ask("hello")


def test_closing_ends_a_busy_worker_at_once(fake):
    process = fake()
    process.ask("hello")
    began = time.perf_counter()
    process.close()
    assert time.perf_counter() - began < 2
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


def test_a_worker_ends_when_its_input_does(fake):
    process = fake()
    process.ask("hello")
    process._process.stdin.close()
    assert process._process.wait(5) == 0


def test_workers_start_without_the_shells_tuning(monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    clean = worker_environment(3, {"MALLOC_TRIM_THRESHOLD_": "9"})
    assert "OPENBLAS_CORETYPE" not in clean
    assert clean["OMP_NUM_THREADS"] == clean["OPENBLAS_NUM_THREADS"] == clean["MKL_NUM_THREADS"] == "3"
    assert clean["MALLOC_TRIM_THRESHOLD_"] == "9"
    assert worker_environment(3, keep_tuning=True)["OPENBLAS_CORETYPE"] == "Haswell"


# Rows, bars and verdicts --------------------------------------------------------------------------------------------------

SLEEPS = {name: Entry(name, "sleep", {"seconds": 0.002}) for name in ("ours", "theirs")}
WORK = Workload("x1", "sleeping", SLEEPS, {"theirs": Bar(0.4, 0.1)}, ours="ours")
REFUSED = Workload("x2", "refusing", {"ours": Entry("ours", "refuse", {})}, {}, ours="ours")


def run_of(ratio, key="x1", at_most=1.0):
    return [{"key": key, "ratios": {"theirs": {"median": ratio, "at_most": at_most}, "free": {"median": 99.0}}}]


def test_a_row_holds_times_ratios_bars_and_rounds(fake):
    row, skipped = compare.compare([WORK, REFUSED], QUICK, lambda name: fake(name), lambda text: None)
    assert row["ours"] == "ours"
    assert row["ratios"]["theirs"]["median"] == pytest.approx(1.0, abs=0.3)
    assert row["ratios"]["theirs"]["at_most"] == 0.4
    assert {name: len(times) for name, times in row["rounds"].items()} == {"ours": 3, "theirs": 3}
    assert skipped == {"key": "x2", "title": "refusing", "skipped": "ours: not here"}
    text = table.table([row, skipped])
    assert "0.40 / 0.10  missed" in text
    assert "skipped: ours: not here" in text


def test_a_bar_is_missed_beyond_its_slack_only():
    assert compare.misses(run_of(1.14)) == set()
    assert compare.misses(run_of(1.16)) == {("x1", "theirs")}
    assert compare.misses([{"key": "e", "skipped": "why"}]) == set()


@pytest.mark.parametrize(
    ("ratios", "failed"), [((2, 2, 1), True), ((2, 1, 2), True), ((1, 1, 2), False), ((1, 1, 1), False)]
)
def test_a_check_fails_on_two_misses_of_three(ratios, failed):
    assert compare.repeated_misses(run_of(ratio) for ratio in ratios) == ([("x1", "theirs")] if failed else [])


def test_misses_of_different_ratios_do_not_add_up():
    runs = [run_of(2), run_of(2, key="x2"), run_of(1)]
    assert compare.repeated_misses(runs) == []


# The command line ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hasty(Plan):
    """A plan without pauses."""

    warmup: float = 0.0
    rest: float = 0.0
    repeats: int = 0


@pytest.fixture
def small_world(fake, monkeypatch, tmp_path):
    """Let the command line compare fakes, of which ours is slower by a factor, and write below a folder of the test."""
    monkeypatch.setattr(command_line, "RESULTS", tmp_path / "speed" / "cpu.json")
    monkeypatch.setattr(command_line, "select", lambda keys, peers=False: [WORK, REFUSED])
    monkeypatch.setattr(command_line, "versions", lambda sides, start: {"fake": "1"})
    slow = {"ours": 1.0, "theirs": 4.0}
    monkeypatch.setattr(
        command_line, "starter", lambda threads, keep_tuning=False: lambda name: fake(name, slow=slow[name])
    )
    monkeypatch.setattr(command_line, "Plan", Hasty)
    for name, nothing in {"memory": {}, "processes": {}, "scaling": []}.items():
        monkeypatch.setattr(command_line, name, lambda *a, _nothing=nothing, **k: _nothing)
    return slow, tmp_path / "speed" / "cpu.json"


QUICKLY = ["cpu", "--rounds", "2", "--budget", "0.01"]


def test_a_full_run_writes_what_it_prints(small_world, capsys):
    _, output = small_world
    assert command_line.main(QUICKLY) == 0
    results = json.loads(output.read_text("utf-8"))
    assert results["settings"]["threads"] == 2
    assert {"settings", "versions", "machine", "device", "rows", *command_line.EXTRAS} == set(results)
    ratio = results["rows"][0]["ratios"]["theirs"]["median"]
    assert ratio == pytest.approx(0.25, abs=0.15)
    assert f"{ratio:6.2f}" in capsys.readouterr().out
    assert json.loads(json.dumps(command_line.tidy(results))) == results


def test_a_part_of_it_is_printed_only(small_world, capsys):
    _, output = small_world
    assert command_line.main([*QUICKLY, "--only", "x1"]) == 0
    assert not output.exists()
    assert "sleeping" in capsys.readouterr().out


def test_a_check_says_what_failed_and_exits_with_1(small_world, capsys):
    slow, output = small_world
    assert command_line.main([*QUICKLY, "--check"]) == 0
    slow["ours"] = 8.0
    assert command_line.main([*QUICKLY, "--check"]) == 1
    assert "check: x1 against theirs: at most 0.40, got " in capsys.readouterr().out
    assert not output.exists()


def test_an_interrupt_keeps_the_finished_rows_and_leaves_no_worker(small_world, monkeypatch, capsys, fake):
    _, output = small_world
    output.parent.mkdir()
    output.write_text("a whole run")
    started = []
    start = command_line.starter(2)
    monkeypatch.setattr(
        command_line,
        "starter",
        lambda threads, keep_tuning=False: lambda name: started.append(start(name)) or started[-1],
    )

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(
        compare,
        "_run",
        lambda workload, *a: {"key": "x1", "skipped": "", "title": ""} if workload is WORK else interrupt(),
    )
    assert command_line.main(QUICKLY) == 130
    assert output.read_text() == "a whole run"
    partial = json.loads(output.with_suffix(".partial.json").read_text("utf-8"))
    assert [row["key"] for row in partial["rows"]] == ["x1"]
    assert started
    assert all(process._process.poll() is not None for process in started)
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "zz"], "--only: expected some of a, b, c1"),
        (["--rounds", "0"], "rounds: expected more than 0, got 0"),
        (["--threads", "0"], "--threads: expected at least 1, got 0"),
    ],
)
def test_a_wrong_argument_is_one_line(arguments, words, capsys):
    assert command_line.main(["cpu", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_without_a_library_nothing_is_measured(monkeypatch, capsys):
    def missing(sides, start):
        raise MissingLibraryError("torch needs torch, which is missing")

    monkeypatch.setattr(command_line, "versions", missing)
    assert command_line.main(["cpu", "--only", "a"]) == 2
    assert capsys.readouterr().err == "benchmarks: torch needs torch, which is missing\n"


# Beside the rows ----------------------------------------------------------------------------------------------------------


def test_the_law_of_a_series():
    work, fixed = np.array([1.0, 2, 4, 8, 16]), 3.0
    found = figures.law(work, fixed + 0.5 * work, first=2)
    assert found["from_linear"] == pytest.approx(0, abs=1e-3)
    assert 0.4 < found["exponent"] < 0.9
    assert figures.law(work, 0.1 * work**2, first=2)["exponent"] == pytest.approx(2)
    assert figures.law(work, 0.1 * work**2, first=2)["from_linear"] > 0.15


def test_a_commands_wall_time_and_its_failure():
    seconds, _ = figures.wall_time([sys.executable, "-c", "import time; time.sleep(0.2)"], dict(os.environ))
    assert 0.2 < seconds < 5
    with pytest.raises(ChildProcessError, match="ValueError: so it goes"):
        figures.wall_time([sys.executable, "-c", "raise ValueError('so it goes')"], dict(os.environ))


def test_without_mnist_its_epochs_are_skipped(monkeypatch):
    monkeypatch.setattr(figures, "mnist_folder", lambda: None)
    monkeypatch.setattr(figures, "wall_time", lambda command, environment: (2.0, False))
    found = figures.processes(2, lambda text: None, rounds=2)
    assert {name: found[name] for name in found if "demo" not in name} == dict.fromkeys(
        [f"{n} {s}" for n in ("maxout_mlp", "syn_convnet") for s in ("npadv", "torch")],
        "skipped: MNIST's files are in none of the folders that npadv looks in",
    )
    assert found["demo npadv"]["median"] == 2.0


def test_a_command_that_fails_or_was_disturbed_is_reported(monkeypatch):
    monkeypatch.setattr(figures, "mnist_folder", lambda: ROOT)
    commands = []

    def wall_time(command, environment):
        commands.append(command)
        if "maxout_mlp" in command:
            raise ChildProcessError("out of luck")
        return 1.0, "demo" in command

    monkeypatch.setattr(figures, "wall_time", wall_time)
    found = figures.processes(2, lambda text: None, rounds=1)
    assert found["maxout_mlp npadv"] == found["maxout_mlp torch"] == "failed: out of luck"
    assert found["syn_convnet torch"]["disturbed"] == 0
    assert found["demo npadv"]["disturbed"] == 1
    assert sum("demo" in command for command in commands) == 1 + figures.REPEATS


def test_scaling_races_both_sides_at_every_size(fake, monkeypatch):
    monkeypatch.setattr(figures, "BATCHES", (1, 2, 4))
    monkeypatch.setattr(figures, "WIDTHS", (1, 2))
    monkeypatch.setattr(figures, "DOMINATED", {"batch": 1, "width": 1})
    made = []

    class Sides:
        def __init__(self, name):
            self.name = name

        def __enter__(self):
            return self

        def __exit__(self, *_):
            made.append(self.name)

        def ask(self, do, **fields):
            if do == "prepare":
                self.work = fields["settings"]["batch"]
                return {}
            return {"seconds": self.work * (1.0 if self.name == "npadv" else 2.0), "cpu": 0.0, "wall": 1e9}

    series = figures.scaling(lambda threads: Sides, [1, 2], Plan(rounds=1, rest=0.0), lambda text: None)
    assert [(s["side"], s["threads"], s["grows"]) for s in series] == [
        (name, threads, grows) for threads in (1, 2) for grows in ("batch", "width") for name in ("npadv", "torch")
    ]
    assert series[1]["seconds"] == [2.0, 4.0, 8.0]
    assert series[1]["exponent"] == 1.0
    assert made.count("npadv") == made.count("torch") == 4


def test_memory_that_grows_or_exceeds_torchs_misses_its_bar():
    base = {"peak": 2**28, "growth": 0, "faults_per_step": 0.0, "steps": 9}
    results = {"memory": {"npadv": base, "torch": base}}
    assert "missed" not in "".join(table.extras(results))
    grown = {"memory": {"npadv": base | {"growth": 2**21, "peak": 2**29}, "torch": base}}
    assert "missed: it grows  missed: peak above PyTorch's" in table.extras(grown)[0]


# The picture --------------------------------------------------------------------------------------------------------------


def results_to_draw():
    ratio = {"median": 0.6, "low": 0.55, "high": 0.7, "at_most": 0.8, "aim": 0.6}
    rows = [
        {"key": key, "title": key, "ratios": {"torch": ratio, "torch tuned": ratio | {"median": 1.2}}}
        for key in ("a", "c1", "g1f", "g1i", "pa")
    ]
    law = {"exponent": 0.9, "from_linear": 0.05}
    series = [
        {
            "side": "npadv",
            "threads": threads,
            "grows": grows,
            "sizes": [16, 64, 256],
            "seconds": [0.001, 0.003, 0.01],
            **law,
        }
        for threads in (1, 2)
        for grows in ("batch", "width")
    ]
    facts = {"settings": {"threads": 2}, "machine": {"processor": "a processor"}, "versions": {"torch": "2"}}
    return {"rows": [*rows, {"key": "e", "title": "e", "skipped": "why"}], "scaling": series, **facts}


def test_convolutions_are_drawn_as_one_row_and_peers_not_at_all():
    rows = draw.drawn_rows(results_to_draw()["rows"])
    assert [row["key"] for row in rows] == ["a", "c1", "g"]
    assert rows[-1]["ratios"]["torch"]["median"] == pytest.approx(0.6)
    assert rows[-1]["ratios"]["torch tuned"]["points"] == [1.2, 1.2]


@pytest.mark.parametrize("with_scaling", [True, False])
def test_the_picture_is_900_pixels_wide_at_two_to_one(with_scaling, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    results = results_to_draw()
    if not with_scaling:
        del results["scaling"]
    path = tmp_path / "cpu.json"
    path.write_text(json.dumps(results), "utf-8")
    assert command_line.main(["draw", "--input", str(path)]) == 0
    data = path.with_suffix(".png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(data[16:20], "big") == 1800


def test_the_committed_results_are_of_a_whole_run_and_have_a_picture():
    results = json.loads(command_line.RESULTS.read_text("utf-8"))
    assert {w.key for w in select([])} <= {row["key"] for row in results["rows"]}
    assert {"settings", "versions", "machine", *command_line.EXTRAS} <= set(results)
    assert command_line.RESULTS.with_suffix(".png").exists()
    assert draw.drawn_rows(results["rows"])


def test_the_committed_results_are_those_the_readme_tells_of():
    results = json.loads(command_line.RESULTS.read_text("utf-8"))
    readme = " ".join((ROOT / "README.md").read_text("utf-8").split())
    for network in ("maxout_mlp", "syn_convnet"):
        ours, theirs = (results["processes"][f"{network} {side}"]["median"] for side in ("npadv", "torch"))
        assert f"{ours:.1f} s against {theirs:.1f}" in readme
    peaks = (round(results["memory"][side]["peak"] / (1 << 20), -1) for side in ("npadv", "torch"))
    assert "peaks at {:.0f} MiB where PyTorch takes {:.0f}".format(*peaks) in readme
    rows = {row["key"]: row for row in results["rows"]}
    times = [rows["pf1"]["seconds"][side]["median"] * 1e6 for side in ("recorded", "torch", "textbook", "npadv", "jax")]
    text = "npadv takes {:.0f} us, PyTorch {:.0f} and NumPy by hand, without a tape, {:.0f}."
    assert text.format(*times[:3]) in readme
    assert "`npadv.Replay` takes {:.0f} us, code that JAX compiled {:.0f};".format(*times[3:]) in readme
    times = [rows["pf3"]["seconds"][side]["median"] * 1e6 for side in ("npadv", "jax")]
    assert "784-1200-1200-10, {:.0f} us against {:.0f}.".format(*times) in readme
    slowest = max(row["ratios"]["torch"]["median"] for key, row in rows.items() if key.startswith("g"))
    assert f"up to {slowest:.1f} times as slow as oneDNN's" in readme


def test_nothing_to_draw_is_one_line(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    path = tmp_path / "cpu.json"
    path.write_text(json.dumps(results_to_draw() | {"rows": []}), "utf-8")
    assert command_line.main(["draw", "--input", str(path)]) == 2
    assert "expected results with at least one finished row" in capsys.readouterr().err


# Examples in docstrings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["__main__", "figures", "problems", "process", "table", "timing", "workloads"])
def test_docstring_examples(name):
    results = doctest.testmod(importlib.import_module(f"benchmarks.{name}"))
    assert results.attempted > 0
    assert results.failed == 0
