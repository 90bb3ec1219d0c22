"""What rank 0 does before the others, such as listing or fetching the data: they wait for it, and find it done."""

import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import torch

from act_engine.parallel import World

WORKER = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    import torch
    from act_engine.parallel import connect

    place = Path(sys.argv[1])
    world = connect(torch.device("cpu"), timeout=2.0)

    def fetch():
        if world.is_main:
            time.sleep(4)  # longer than a collective waits
            (place / "fetched").touch()
        return (place / "fetched").exists()

    print("found", world.main_first(fetch))

    def fail():
        if world.is_main:
            raise OSError("data.download: no network")
        print("never here")

    try:
        world.main_first(fail)
    except OSError as error:
        print(error)
    """
)


def test_the_others_wait_however_long_and_share_a_mistake(tmp_path: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-c", WORKER, str(tmp_path)]
    ranks = [subprocess.Popen(command, env={**world, "RANK": rank}, stdout=subprocess.PIPE, text=True) for rank in "01"]
    said = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert said == ["found True\ndata.download: no network\n", "found True\n"]
    assert ranks[1].returncode != 0


def test_alone_it_is_done_once():
    done = []
    assert World(0, 1, torch.device("cpu"), 1.0).main_first(lambda: done.append(1) or "data") == "data"
    assert done == [1]
