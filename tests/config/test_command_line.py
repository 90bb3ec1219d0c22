"""Whose line a user's mistake is, among several processes."""

import pytest
import torch.distributed as dist

from act_engine.config.command_line import user_errors


@pytest.fixture
def as_rank_1(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RANK", "1")


@pytest.fixture
def connected():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def fail() -> None:
    with pytest.raises(SystemExit, match="2"), user_errors():
        raise OSError("data.path: 0001.jpg: Input/output error")


def test_what_every_process_reads_is_told_by_rank_0_alone(as_rank_1, capsys: pytest.CaptureFixture[str]):
    fail()
    assert capsys.readouterr().err == ""


def test_what_one_process_meets_later_it_tells_itself(as_rank_1, connected, capsys: pytest.CaptureFixture[str]):
    fail()
    assert capsys.readouterr().err == "error: rank 1: data.path: 0001.jpg: Input/output error\n"
