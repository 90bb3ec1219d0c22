"""A bar on a terminal, lines elsewhere, nothing when nothing is asked for."""

import fcntl
import os
import struct
import sys
import termios

import pytest

from act_engine import progress as module
from act_engine.progress import Bar, Lines, Progress, duration, progress


def test_a_terminal_gets_a_bar_and_anything_else_lines(monkeypatch, capsys):
    leader, follower = os.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    with open(follower, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        with progress("auto", 2, unit="image", what="evaluating") as shown:
            assert type(shown) is Bar
            shown.advance(2)
    assert b"evaluating: 100%" in os.read(leader, 4096)
    os.close(leader)
    with progress("auto", 2, unit="image", what="evaluating") as shown:
        assert type(shown) is Lines
        shown.advance(2)
    assert "\r" not in capsys.readouterr().err
    assert type(progress(False, 2, unit="image", what="evaluating")) is Progress
    assert type(progress("bar", 2, unit="image", what="evaluating", shown=False)) is Progress
    with pytest.raises(ValueError, match="progress: got 'dots'; allowed: auto, bar, lines, none"):
        progress("dots", 2, unit="image", what="evaluating")


def test_a_line_comes_after_an_interval_and_at_the_end(monkeypatch, capsys):
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    with progress("lines", 60, unit="image", what="evaluating") as shown:
        for _ in range(60):
            now += 0.5
            shown.advance()
    lines = [line.split("  ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        "evaluating 20/60 images  2 images/s  ETA 0:00:20",
        "evaluating 40/60 images  2 images/s  ETA 0:00:10",
        "evaluating 60/60 images  2 images/s  took 0:00:30",
    ]


def test_what_was_done_before_is_not_taken_for_speed(monkeypatch, capsys):
    now = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    with progress("lines", 100, unit="step", what="training", done=90, rated=False) as shown:
        for step in (91, 92):
            now += 10
            shown.advance()
            shown.show({"loss": f"{step}"})
    lines = [line.split("  ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["training 91/100 steps  loss 91  ETA 0:01:30", "training 92/100 steps  loss 92  ETA 0:01:20"]


def test_words_for_people_go_to_standard_output(capsys):
    for kind in ("lines", "none"):
        with progress(kind, 2, unit="step", what="training") as shown:
            shown.heading("what is run")
            shown.say("stopped")
        captured = capsys.readouterr()
        assert captured.out == "stopped\n"
        assert captured.err == ("what is run\n" if kind == "lines" else "")


def test_durations():
    shown = {None: "?", 0.4: "0:00:00", 59.6: "0:01:00", 3661: "1:01:01", 90000: "1 d 1:00:00"}
    assert {seconds: duration(seconds) for seconds in shown} == shown
