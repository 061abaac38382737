"""The table of the benchmarks' workloads, the rows that a comparison returns, and the bars of their ratios."""

import pytest
from benchmark_cases import QUICK, REFUSED, SLEEPING

from benchmarks import compare, table
from benchmarks.workloads import WORKLOADS, select

# The table ----------------------------------------------------------------------------------------------------------------


def test_the_keys_of_a_group_are_adjacent():
    """Otherwise the group's workers would start more than once."""
    groups = [workload.group for workload in WORKLOADS.values()]
    assert groups == sorted(groups, key=list(dict.fromkeys(groups)).index)


def test_every_aim_is_below_its_bar():
    assert all(bar.aim < bar.at_most for workload in WORKLOADS.values() for bar in workload.bars.values())


def test_every_bar_belongs_to_an_entry():
    for workload in WORKLOADS.values():
        assert workload.ours in workload.entries
        assert set(workload.bars) <= set(workload.entries) - {workload.ours}


def test_every_workload_has_a_bar_but_those_of_group_p():
    assert all(bool(workload.bars) == (workload.group != "p") for workload in WORKLOADS.values())


def test_select_takes_the_beginning_of_a_key():
    assert [w.key for w in select(["g1"])] == ["g1f", "g1i", "g1w"]
    assert len(select(["g"])) == 30


def test_select_without_keys_takes_all_groups():
    assert {w.group for w in select([])} == set("abcdefgh")
    assert {w.group for w in select([], peers=True)} == set("abcdefghp")


@pytest.mark.parametrize("key", ["c3", "", "z"])
def test_select_refuses_an_unknown_key(key):
    with pytest.raises(ValueError, match=r"--only: expected some of a, b, c1.* got"):
        select([key])


# Rows ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def rows(fake_worker):
    return list(compare.compare([SLEEPING, REFUSED], QUICK, lambda name: fake_worker(name), lambda text: None))


def test_a_row_holds_ratios_bars_and_rounds(rows):
    row = rows[0]
    assert row["ours"] == "ours"
    assert row["ratios"]["theirs"]["median"] == pytest.approx(1.0, abs=0.3)
    assert row["ratios"]["theirs"]["at_most"] == 0.4
    assert {name: len(times) for name, times in row["rounds"].items()} == {"ours": 3, "theirs": 3}


def test_a_row_of_an_unsupported_task_holds_the_reason(rows):
    assert rows[1] == {"key": "x2", "title": "refusing", "skipped": "ours: not here"}


def test_the_printed_table_shows_missed_bars_and_skipped_rows(rows):
    text = table.table(rows)
    assert "0.40 / 0.10  missed" in text
    assert "skipped: ours: not here" in text


# Bars ---------------------------------------------------------------------------------------------------------------------


def run_with(ratio, key="x1", at_most=1.0):
    return [{"key": key, "ratios": {"theirs": {"median": ratio, "at_most": at_most}, "free": {"median": 99.0}}}]


def test_a_bar_is_missed_by_more_than_fifteen_percent():
    assert compare.misses(run_with(1.14)) == set()
    assert compare.misses(run_with(1.16)) == {("x1", "theirs")}


def test_a_skipped_row_misses_nothing():
    assert compare.misses([{"key": "e", "skipped": "why"}]) == set()


@pytest.mark.parametrize(
    ("ratios", "failed"), [((2, 2, 1), True), ((2, 1, 2), True), ((1, 1, 2), False), ((1, 1, 1), False)]
)
def test_a_check_fails_after_two_misses_in_three_runs(ratios, failed):
    assert compare.repeated_misses(run_with(ratio) for ratio in ratios) == ([("x1", "theirs")] if failed else [])


def test_misses_of_different_ratios_are_counted_apart():
    assert compare.repeated_misses([run_with(2), run_with(2, key="x2"), run_with(1)]) == []


def memory_lines(**changes):
    base = {"peak": 2**28, "growth": 0, "faults_per_step": 0.0, "steps": 9}
    return table.extras({"memory": {"npadv": base | changes, "torch": base}})


def test_constant_memory_misses_no_bar():
    assert "missed" not in "".join(memory_lines())


def test_memory_must_not_grow_or_exceed_torchs():
    assert "missed: it grows  missed: peak above PyTorch's" in memory_lines(growth=2**21, peak=2**29)[0]
