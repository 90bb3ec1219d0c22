"""How long a process waits for the others: as long as they get on, and no longer."""

import threading
import time

import pytest
import torch.distributed as dist

from act_engine.parallel.heartbeat import Heartbeat, Lost

PATIENCE = 0.5  # seconds, of which a beat is a fiftieth


@pytest.fixture
def pair():
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    beats = [Heartbeat(store, rank, 2, interval=PATIENCE / 50) for rank in (0, 1)]
    yield beats
    for beat in beats:
        beat.stop()


def in_thread(call):
    result = []
    thread = threading.Thread(target=lambda: result.append(call()))
    thread.start()
    return thread, result


@pytest.mark.parametrize("slow", [0, 1])
def test_a_slow_rank_that_gets_on_is_waited_for(pair, slow):
    waiting = pair[1 - slow]
    thread, result = in_thread(lambda: waiting.total([1, 10], PATIENCE, working=True))
    for _ in range(30):  # three times the patience
        time.sleep(PATIENCE / 10)
        pair[slow].progress += 1
    assert pair[slow].total([2, 20], PATIENCE, working=True) == [3, 30]
    thread.join()
    assert result == [[3, 30]]


@pytest.mark.parametrize("stuck", [0, 1])
def test_a_rank_that_lives_and_is_stuck_is_named(pair, stuck):
    with pytest.raises(Lost, match=rf"^no progress within 0.5 s from rank {stuck}$"):
        pair[1 - stuck].total([1], PATIENCE, working=True)


@pytest.mark.parametrize("working", [True, False])
@pytest.mark.parametrize("dead", [0, 1])
def test_a_dead_rank_is_named(pair, dead, working):
    pair[dead].stop()
    with pytest.raises(Lost, match=rf"^no sign of life from rank {dead}$"):
        pair[1 - dead].total([1], PATIENCE, working=working)


def test_work_without_progress_needs_signs_of_life_alone(pair):
    thread, result = in_thread(lambda: pair[1].total([1], PATIENCE, working=False))
    time.sleep(2 * PATIENCE)
    assert pair[0].total([2], PATIENCE, working=False) == [3]
    thread.join()
    assert result == [[3]]
