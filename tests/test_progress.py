"""Progress bars: on a terminal, and nowhere else."""

import io
import sys

import pytest

from npadv.progress import track


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def stderr(monkeypatch):
    def put(stream):
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return put


def test_a_terminal_sees_a_bar_that_is_gone_when_all_is_done(stderr):
    screen = stderr(Terminal())
    assert list(track(range(3), total=5, label="epoch 1", initial=2)) == [0, 1, 2]
    drawn = screen.getvalue()
    assert "epoch 1" in drawn
    assert "2/5" in drawn
    assert drawn.split("\r")[-2].strip() == ""  # cleared


@pytest.mark.parametrize(("stream", "show"), [(io.StringIO(), None), (Terminal(), False)])
def test_elsewhere_and_when_told_so_nothing_is_written(stderr, stream, show):
    stderr(stream)
    assert list(track("abc", total=3, label="x", show=show)) == ["a", "b", "c"]
    assert stream.getvalue() == ""


def test_without_tqdm_there_is_no_bar(stderr, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    screen = stderr(Terminal())
    assert list(track("abc", total=3, label="x")) == ["a", "b", "c"]
    assert screen.getvalue() == ""
