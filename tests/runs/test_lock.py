"""A run's folder has one owner, and files in it are whole or absent."""

import os
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch

from act_engine import train
from act_engine.parallel import connect
from act_engine.runs import lock as locks
from act_engine.runs.folder import check_run, write_text
from act_engine.runs.lock import LOCK, Lock, require_shared
from act_engine.training.checkpoint import export_weights

HOLD = "import sys, time; from pathlib import Path; from act_engine.runs.lock import Lock; "
HOLD += "lock = Lock(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"


def test_second_owner_is_refused_and_a_killed_one_is_not_waited_for(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=rf"--output: got .*process {holder.pid} on .*; allowed: "):
            Lock(tmp_path)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    assert (tmp_path / LOCK).exists()
    Lock(tmp_path).release()
    assert list(tmp_path.iterdir()) == []


def test_folder_that_is_not_shared(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE", 0.0)
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    mine, other = Lock(tmp_path / "here"), Lock(tmp_path / "there")
    require_shared(tmp_path / "here", mine.token)
    for folder in (tmp_path / "there", tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=r"--output: got .* does not share with rank 0"):
            require_shared(folder, mine.token)
    mine.release()
    other.release()


def test_processes_without_torchrun(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    with pytest.raises(ValueError, match=r"RANK: got none in 4 processes .* torchrun"):
        connect(torch.device("cpu"))


def test_leftovers_of_a_first_write_leave_the_folder_usable(tmp_path):
    from act_engine.config import Config

    (tmp_path / ".config.yaml.partial").write_text("data: {na")
    (tmp_path / LOCK).write_text("")
    check_run(tmp_path, Config())
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match="holds files, but no run"):
        check_run(tmp_path, Config())


@contextmanager
def handled(number, handler):
    """Whatever this process inherited for the signal, such as SIGHUP ignored under nohup."""
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@contextmanager
def full_disk():
    """Files of at most 100 bytes: a write beyond fails as it does on a full disk, with an OSError.

    For as short as can be: pytest's own output may go to a file too.
    """
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with handled(signal.SIGXFSZ, signal.SIG_IGN):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_full_disk_keeps_the_old_file_and_names_it(tmp_path):
    (tmp_path / "a.json").write_text("old")
    with full_disk(), pytest.raises(OSError, match=r"a\.json could not be written: .*File too large"):
        write_text(tmp_path / "a.json", "x" * 1000)
    with full_disk(), pytest.raises(OSError, match=r"a\.safetensors could not be written: "):
        export_weights(tmp_path / "a.safetensors", {"weight": torch.zeros(1000)})
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.json", "old")]


def test_weights_have_the_mode_of_other_files(tmp_path):
    before = os.umask(0o027)
    try:
        export_weights(tmp_path / "a.safetensors", {"weight": torch.zeros(2)})
    finally:
        os.umask(before)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o640


def train_with_a_signal(number, output, monkeypatch):
    """The exit code of three steps after each of which the process sends itself the signal."""
    from act_engine.training.runlog import RunLog

    advance = RunLog.advance

    def after_a_step(log):
        advance(log)
        os.kill(os.getpid(), number)

    monkeypatch.setattr(RunLog, "advance", after_a_step)
    words = ["--recipe", "digits", "--train.max_steps", "3", "--attack.steps", "1", "--evaluate.attack", "none"]
    return train.main([*words, "--output", str(output)])


def test_a_run_under_nohup_outlives_its_terminal(tmp_path, monkeypatch):
    with handled(signal.SIGHUP, signal.SIG_IGN):
        assert train_with_a_signal(signal.SIGHUP, tmp_path / "run", monkeypatch) == 0


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_schedulers_signals_checkpoint(number, tmp_path, monkeypatch):
    with handled(number, signal.SIG_DFL):
        assert train_with_a_signal(number, tmp_path / "run", monkeypatch) == 128 + number
    assert (tmp_path / "run/checkpoints/step-1/manifest.json").exists()
    assert not (tmp_path / "run" / LOCK).exists()
